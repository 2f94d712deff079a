"""Says in words what limits a job's speed, from what its instances spent their time on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elasticdl.phases import Figures, Phase

MOST_STEPS_OF_CHANCE = 10
"""Fewer steps say nothing."""
DOMINANT = 0.4
"""The share of the workers' time from which on one thing is what limits a job."""
BUSY = 0.5
"""The share of its time from which on a parameter server has enough to do."""

_PATH = (
    Phase.STEP,
    Phase.PARSE,
    Phase.READ,
    Phase.LEASE,
    Phase.COLLECT,
    Phase.PULL_WAIT,
    Phase.PUSH_WAIT,
    Phase.BARRIER_WAIT,
)
# Those of which the largest together is named first, then the largest of it.
_TOGETHER = (
    (Phase.STEP,),
    (Phase.PARSE, Phase.READ),
    (Phase.LEASE,),
    (Phase.COLLECT,),
    (Phase.PULL_WAIT, Phase.PUSH_WAIT),
    (Phase.BARRIER_WAIT,),
)


@dataclass(frozen=True)
class Bottleneck:
    """What most of the workers' time goes into.

    share: of the time of training, 0 to 1; of all that belongs together, such as waits for pulls
    and for pushes. text: what it is, and what would help.
    """

    phase: Phase
    share: float
    text: str

    def __str__(self) -> str:
        return self.text


def path_shares(figures: Figures, is_alone: bool = False) -> dict[Phase, float]:
    """Return which share of one worker's time each phase of the path has; empty before any step.

    In sync mode a worker's lanes wait side by side, and while another one computes: the time that
    is no step is divided in proportion to what they wait for.

    Args:
      is_alone: no other worker trains, so that its lanes wait for each other only because of what
        they do themselves.
    """
    path_ns = {phase: figures.of(phase).path_ns for phase in _PATH}
    if is_alone:
        path_ns[Phase.BARRIER_WAIT] = 0
    step_ns = path_ns[Phase.STEP]
    waits_ns = sum(path_ns.values()) - step_ns
    total_ns = step_ns + waits_ns
    if step_ns <= 0:
        return {}
    scale = 1.0
    if total_ns > figures.wall_ns > 0:
        total_ns = max(figures.wall_ns, step_ns)
        scale = (total_ns - step_ns) / waits_ns if waits_ns else 1.0
    return {
        phase: (ns if phase is Phase.STEP else ns * scale) / total_ns
        for phase, ns in path_ns.items()
    }


def shares_of(workers: Sequence[Figures]) -> dict[Phase, float]:
    """Return the mean of the shares of all workers that have trained; empty where none has."""
    trained = [one for one in workers if one.of(Phase.STEP).path_ns > 0]
    each = [path_shares(one, len(trained) == 1) for one in trained]
    return {phase: sum(one[phase] for one in each) / len(each) for phase in _PATH if each}


def busy_share(server: Figures) -> float:
    """Return for which share of its time a parameter server answers pulls and applies pushes."""
    busy_ns = server.of(Phase.GATHER).ns + server.of(Phase.APPLY).ns
    return min(1.0, busy_ns / server.wall_ns) if server.wall_ns > 0 else 0.0


def find_bottleneck(
    workers: Sequence[Figures], servers: Sequence[Figures], is_sync: bool = False
) -> Bottleneck | None:
    """Say what limits a job; None while too few steps were done to tell.

    Args:
      workers: of the same span of time, each.
      servers: likewise.
      is_sync: whether workers wait for each other.
    """
    if sum(one.of(Phase.STEP).count for one in workers) < MOST_STEPS_OF_CHANCE:
        return None
    shares = shares_of(workers)
    if not shares:
        return None
    together = max(_TOGETHER, key=lambda some: sum(shares[phase] for phase in some))
    phase = max(together, key=lambda one: shares[one])
    share = sum(shares[one] for one in together)
    if share < DOMINANT:
        first = sorted(_PATH, key=lambda one: -shares[one])[:3]
        parts = ", ".join(f"{one} {shares[one]:.0%}" for one in first)
        text = f"nothing stands out of the workers’ time ({parts}): add workers"
        return Bottleneck(phase, share, text)
    busiest = max((busy_share(one) for one in servers), default=0.0)
    return Bottleneck(phase, share, _text(phase, share, busiest, is_sync))


def _text(phase: Phase, share: float, busiest: float, is_sync: bool) -> str:
    of_time = f"({share:.0%} of their time)"
    if phase is Phase.STEP:
        return f"the step itself {of_time.replace('their', 'the workers’')}: add workers"
    if phase in (Phase.PULL_WAIT, Phase.PUSH_WAIT):
        what = "pulls" if phase is Phase.PULL_WAIT else "pushes to be applied"
        if busiest >= BUSY:
            advice = f"the busiest PS is at work {busiest:.0%} of the time: add a PS"
        else:
            stale = "" if is_sync else ", or a higher --staleness"
            advice = (
                f"the busiest PS is at work only {busiest:.0%} of the time, so it is the way there "
                f"and back: larger minibatches{stale}"
            )
        return f"workers wait for {what} {of_time}; {advice}"
    return f"workers wait for {_WAITS[phase].format(of_time=of_time)}"


_WAITS = {
    Phase.PARSE: (
        "input {of_time}: the input function (dataset) takes longer than a step; make it do less a "
        "record, or add workers"
    ),
    Phase.READ: (
        "input {of_time}: reading records takes longer than training on them; use faster storage, "
        "or add workers"
    ),
    Phase.LEASE: (
        "tasks {of_time}: there are fewer tasks than workers have time for; run fewer workers, or "
        "cut tasks smaller with --records_per_task"
    ),
    Phase.COLLECT: (
        "ids to be prepared {of_time}: deduplicating them and asking for their rows takes longer "
        "than a step; add workers"
    ),
    Phase.BARRIER_WAIT: (
        "each other {of_time}: every step waits for the slowest worker; give all workers the same "
        "processors, or use --consistency=async"
    ),
}
