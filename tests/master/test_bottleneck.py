"""What limits a job, from figures alone."""

from __future__ import annotations

import pytest

from elasticdl.master.bottleneck import busy_share, find_bottleneck, path_shares
from elasticdl.phases import Figures, Phase, Spent

MS = 1_000_000


def worker(steps: int = 100, wall_ms: int = 1000, **path_ms: int) -> Figures:
    phases = {
        Phase(name): Spent(steps if name == "step" else 1, ms * MS, ms * MS)
        for name, ms in path_ms.items()
    }
    return Figures(wall_ms * MS, 0.0, phases)


def server(busy_ms: int, wall_ms: int = 1000) -> Figures:
    half = Spent(1, busy_ms * MS // 2, 0)
    return Figures(wall_ms * MS, 0.0, {Phase.GATHER: half, Phase.APPLY: half})


IDLE, BUSY = server(100), server(900)

CASES = [
    pytest.param(
        [worker(step=900)],
        [IDLE],
        "step",
        "the step itself (100% of the workers’ time): add workers",
    ),
    pytest.param(
        [worker(step=400, pull_wait=500)],
        [IDLE, BUSY],
        "pull_wait",
        "workers wait for pulls (56% of their time); the busiest PS is at work 90% of the time: "
        "add a PS",
    ),
    pytest.param(
        [worker(step=400, pull_wait=500)],
        [IDLE],
        "pull_wait",
        "workers wait for pulls (56% of their time); the busiest PS is at work only 10% of the "
        "time, so it is the way there and back: larger minibatches, or a higher --staleness",
    ),
    pytest.param(
        [worker(step=400, push_wait=300, pull_wait=200)],
        [BUSY],
        "push_wait",
        "workers wait for pushes to be applied (56% of their time); the busiest PS is at work "
        "90% of the time: add a PS",
    ),
    pytest.param(
        [worker(step=100, parse=700, read=100)], [IDLE], "parse", "workers wait for input (89%"
    ),
    pytest.param(
        [worker(step=100, parse=100, read=700)], [IDLE], "read", "reading records takes longer"
    ),
    pytest.param([worker(step=100, lease=700)], [IDLE], "lease", "workers wait for tasks (88%"),
    pytest.param([worker(step=300, collect=700)], [IDLE], "collect", "ids to be prepared (70%"),
    # One worker reads slowly, three do not: they together train.
    pytest.param(
        [worker(step=100, parse=900)] + 3 * [worker(step=900, parse=100)],
        [IDLE],
        "step",
        "the step itself (70% of the workers’ time)",
    ),
    pytest.param(
        [worker(step=330, collect=300, pull_wait=220, parse=150)],
        [BUSY],
        "step",
        "nothing stands out of the workers’ time (step 33%, collect 30%, pull wait 22%): add "
        "workers",
    ),
    # A worker that has not begun says nothing of the others.
    pytest.param(
        [worker(step=900), worker(steps=0)], [IDLE], "step", "(100% of the workers’ time)"
    ),
]


@pytest.mark.parametrize(("workers", "servers", "phase", "text"), CASES)
def test_the_bottleneck_in_words(workers, servers, phase, text):
    found = find_bottleneck(workers, servers)
    assert found is not None
    assert found.phase is Phase(phase)
    assert text in found.text


def test_workers_of_sync_mode_that_wait_for_each_other_are_told_so():
    both = [worker(step=300, barrier_wait=600), worker(step=300, barrier_wait=600)]
    found = find_bottleneck(both, [IDLE], is_sync=True)
    assert found is not None
    assert found.phase is Phase.BARRIER_WAIT
    assert found.text.startswith("workers wait for each other (67% of their time)")
    found = find_bottleneck([worker(step=300, pull_wait=600)], [IDLE], is_sync=True)
    assert found is not None
    assert "--staleness" not in found.text


@pytest.mark.parametrize("workers", [[], [worker(steps=9, step=900)], [worker(steps=0)]])
def test_too_few_steps_say_nothing(workers):
    assert find_bottleneck(workers, [BUSY]) is None


def test_lanes_that_wait_side_by_side_share_the_time_that_is_no_step():
    # Four lanes in one second: steps one after the other take 600 ms, the lanes wait 3.4 s in all.
    shares = path_shares(worker(wall_ms=1000, step=600, barrier_wait=2550, pull_wait=850))
    assert shares[Phase.STEP] == pytest.approx(0.6)
    assert shares[Phase.BARRIER_WAIT] == pytest.approx(0.3)
    assert shares[Phase.PULL_WAIT] == pytest.approx(0.1)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_a_worker_that_trains_alone_waits_for_nobody_but_itself():
    lanes = worker(wall_ms=1000, step=400, barrier_wait=2000, push_wait=600)
    found = find_bottleneck([lanes, worker(steps=0)], [BUSY], is_sync=True)
    assert found is not None
    assert found.phase is Phase.PUSH_WAIT
    assert found.share == pytest.approx(0.6)


def test_shares_are_of_what_the_path_does_and_never_more_than_all():
    shares = path_shares(worker(wall_ms=1000, step=300, parse=100))
    assert shares[Phase.STEP] == pytest.approx(0.75)
    assert path_shares(worker(steps=0)) == {}
    steps_overlap = path_shares(worker(wall_ms=100, step=300, parse=100))
    assert sum(steps_overlap.values()) == pytest.approx(1.0)


def test_a_server_is_busy_with_pulls_and_pushes():
    assert busy_share(server(250)) == pytest.approx(0.25)
    assert busy_share(Figures()) == 0.0
