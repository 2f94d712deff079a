"""What an instance spends its time on, phase by phase: counted always, traced with --profile.

The path of a minibatch is what its training does and waits for, one after the other; what is done
beside it, by other threads, costs nothing until the path waits for it. So there are two figures:
how long a phase took wherever it ran, and for how long the path waited for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter_ns
from types import TracebackType
from typing import Protocol

from elasticdl.proto import figures_pb2


class Phase(Enum):
    """What an instance of a role is at.

    Of a worker: `lease`, it asks for a task; `read`, it reads a task's records; `parse`, the input
    function makes a minibatch of them; `collect`, ids are deduplicated, ordered by partition and
    asked for; `trace`, a step is made ready and done for the first time; `pull_wait`, parameters
    are on their way; `step`; `push_wait`, pushes are not acknowledged as far as --staleness wants;
    `barrier_wait`, in sync mode, other lanes' gradients are missing; `push`, gradients are on their
    way. Of a parameter server: `gather`, it answers a pull; `apply`, it updates its parameters;
    `checkpoint`, it writes its part. Of the master: `grant`, it answers a worker that asks for a
    task; `journal`, it writes down what happened.
    """

    role: str
    position: int

    LEASE = ("lease", "worker")
    READ = ("read", "worker")
    PARSE = ("parse", "worker")
    COLLECT = ("collect", "worker")
    TRACE = ("trace", "worker")
    PULL_WAIT = ("pull_wait", "worker")
    STEP = ("step", "worker")
    PUSH_WAIT = ("push_wait", "worker")
    BARRIER_WAIT = ("barrier_wait", "worker")
    PUSH = ("push", "worker")
    GATHER = ("gather", "ps")
    APPLY = ("apply", "ps")
    CHECKPOINT = ("checkpoint", "ps")
    GRANT = ("grant", "master")
    JOURNAL = ("journal", "master")

    def __new__(cls, text: str, role: str) -> Phase:
        one = object.__new__(cls)
        one._value_ = text
        one.role = role
        one.position = len(cls.__members__)
        return one

    def __str__(self) -> str:
        return str(self.value).replace("_", " ")


NUM_PHASES = len(Phase)


@dataclass(frozen=True)
class Spent:
    """How often something was done, for how long, and for how long the path waited for it."""

    count: int = 0
    ns: int = 0
    path_ns: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.count + other.count, self.ns + other.ns, self.path_ns + other.path_ns)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.count - other.count, self.ns - other.ns, self.path_ns - other.path_ns)


@dataclass(frozen=True)
class Figures:
    """What an instance counted: see figures.proto; phases that never were are left out."""

    wall_ns: int = 0
    cpu_s: float = 0.0
    phases: Mapping[Phase, Spent] = field(default_factory=dict)

    def of(self, phase: Phase) -> Spent:
        """What was spent on a phase."""
        return self.phases.get(phase, Spent())

    def __add__(self, other: Figures) -> Figures:
        phases = {one: self.of(one) + other.of(one) for one in {**self.phases, **other.phases}}
        return Figures(self.wall_ns + other.wall_ns, self.cpu_s + other.cpu_s, phases)

    def __sub__(self, other: Figures) -> Figures:
        phases = {one: self.of(one) - other.of(one) for one in self.phases}
        return Figures(self.wall_ns - other.wall_ns, self.cpu_s - other.cpu_s, phases)

    def to_message(self) -> figures_pb2.Figures:
        """As they are sent."""
        return figures_pb2.Figures(
            wall_ns=self.wall_ns,
            cpu_s=self.cpu_s,
            phases=[
                figures_pb2.PhaseFigures(
                    phase=phase.value, count=one.count, ns=one.ns, path_ns=one.path_ns
                )
                for phase, one in self.phases.items()
            ],
        )

    @classmethod
    def of_message(cls, message: figures_pb2.Figures) -> Figures:
        """As they came; phases of another version of this package are left out."""
        known = {phase.value: phase for phase in Phase}
        phases = {
            known[one.phase]: Spent(one.count, one.ns, one.path_ns)
            for one in message.phases
            if one.phase in known
        }
        return cls(message.wall_ns, message.cpu_s, phases)


class Trace(Protocol):
    """Takes down what was done, and when, by `perf_counter_ns`."""

    def add(self, name: str, category: str, began_ns: int, ended_ns: int) -> None:
        """Take down what this thread did."""
        ...

    def close(self) -> None:
        """Nothing will follow."""
        ...


class Phases:
    """Counts what this process spends its time on. Thread-safe.

    Attributes:
      leasing: what the thread does that leases tasks and reads their records.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trace: Trace | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all: another job begins in this process, and nobody counts now."""
        self.leasing = Track(self)
        self._counts = [0] * NUM_PHASES
        self._ns = [0] * NUM_PHASES
        self._path_ns = [0] * NUM_PHASES
        self._stepped: set[str] = set()
        self._created_ns = perf_counter_ns()
        # Of the path: 0 before the first step is done.
        self._began_ns = self._ended_ns = 0

    # ------------------------------------------------------------------- counting

    def measure(self, phase: Phase) -> Measurement:
        """Count the block as a phase beside the path."""
        return Measurement(self, phase, False)

    def on_path(self, phase: Phase) -> Measurement:
        """Count the block as a phase of the path."""
        return Measurement(self, phase, True)

    def step(self, kind: str) -> Measurement:
        """Count the block as a step; the first one of a kind, which is traced, as that."""
        if kind in self._stepped:
            return Measurement(self, Phase.STEP, True)
        return _First(self, kind)

    def add(self, phase: Phase, began_ns: int, ended_ns: int, is_on_path: bool = False) -> None:
        """Count one more."""
        position, ns = phase.position, ended_ns - began_ns
        with self._lock:
            self._counts[position] += 1
            self._ns[position] += ns
            if is_on_path and self._began_ns:
                self._path_ns[position] += ns
                self._ended_ns = ended_ns
        if self._trace is not None:
            self._trace.add(phase.value, phase.role, began_ns, ended_ns)

    def stepped(self, kind: str, now_ns: int) -> None:
        """The first step of a kind is done."""
        with self._lock:
            self._stepped.add(kind)
            if not self._began_ns:
                self._began_ns = self._ended_ns = now_ns

    def waited(self, began_ns: int, ended_ns: int, blamed: Mapping[Phase, int]) -> None:
        """The path has waited; `blamed` says for what, and adds up to it."""
        with self._lock:
            if not self._began_ns:
                return
            for phase, ns in blamed.items():
                self._path_ns[phase.position] += ns
            self._ended_ns = ended_ns
        if self._trace is not None and blamed:
            most = max(blamed, key=blamed.__getitem__)
            self._trace.add(f"waits for {most}", "wait", began_ns, ended_ns)

    def waiting_for_task(self) -> TaskWait:
        """The path waits for a task from now on."""
        return TaskWait(self)

    def waiting_for_minibatch(self, preparing: Track, starving: Track) -> MinibatchWait:
        """Count the block as the path's wait for a minibatch.

        Args:
          preparing: what the thread does that prepares it.
          starving: counts as `read` while the input pipeline has no task.
        """
        return MinibatchWait(self, preparing, starving)

    def figures(self, role: str) -> Figures:
        """What was counted of a role's phases so far."""
        with self._lock:
            wall_ns = self._ended_ns - self._began_ns
            phases = {
                phase: Spent(self._counts[i], self._ns[i], self._path_ns[i])
                for i, phase in enumerate(Phase)
                if phase.role == role and (self._counts[i] or self._path_ns[i])
            }
        if role != "worker":
            wall_ns = perf_counter_ns() - self._created_ns
        return Figures(wall_ns, time.process_time(), phases)

    # -------------------------------------------------------------------- tracing

    def trace_to(self, trace: Trace) -> None:
        """Write what is counted from now on into a trace, too."""
        self._trace = trace

    def close(self) -> None:
        """End the trace, if there is one."""
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.close()


class Measurement:
    """A block that is counted as a phase, also where it raises."""

    __slots__ = ("_began_ns", "_is_on_path", "_phase", "_phases")

    def __init__(self, phases: Phases, phase: Phase, is_on_path: bool) -> None:
        self._phases = phases
        self._phase = phase
        self._is_on_path = is_on_path

    def __enter__(self) -> None:
        self._began_ns = perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._phases.add(self._phase, self._began_ns, perf_counter_ns(), self._is_on_path)


class _First(Measurement):
    """The first step of a kind: the path begins with its end."""

    __slots__ = ("_kind",)

    def __init__(self, phases: Phases, kind: str) -> None:
        super().__init__(phases, Phase.TRACE, False)
        self._kind = kind

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            self._phases.stepped(self._kind, perf_counter_ns())


class Track:
    """What one thread does now, and did so far, for whoever waits for it.

    `measure` is for that thread alone; `spent` may be called from any.

    Args:
      phases: where it is counted, too; None for nowhere.
    """

    def __init__(self, phases: Phases | None) -> None:
        self.phases = phases
        self._lock = threading.Lock()
        self._ns = [0] * NUM_PHASES
        self._doing: tuple[int, int] | None = None

    def measure(self, phase: Phase, idle: Track | None = None) -> TrackMeasurement:
        """Count the block as a phase.

        Args:
          idle: another thread, which the block waits for; while that one is at something, which
            can only be waiting for work, this is not counted as work either.
        """
        return TrackMeasurement(self, phase, idle)

    def began(self, phase: Phase, now_ns: int) -> None:
        """The thread is at a phase from now on."""
        with self._lock:
            self._doing = phase.position, now_ns

    def ended(self, now_ns: int) -> None:
        """The thread is at nothing from now on."""
        with self._lock:
            assert self._doing is not None
            position, began_ns = self._doing
            self._ns[position] += now_ns - began_ns
            self._doing = None

    def spent(self, now_ns: int) -> list[int]:
        """By the position of the phase, how long the thread was at it, up to now."""
        with self._lock:
            ns = list(self._ns)
            if self._doing is not None:
                position, began_ns = self._doing
                ns[position] += max(0, now_ns - began_ns)
            return ns


class TrackMeasurement:
    """A block that a track's thread counts as a phase."""

    __slots__ = ("_began_ns", "_idle", "_idle_ns", "_phase", "_track")

    def __init__(self, track: Track, phase: Phase, idle: Track | None) -> None:
        self._track = track
        self._phase = phase
        self._idle = idle

    def __enter__(self) -> None:
        self._began_ns = perf_counter_ns()
        if self._idle is not None:
            self._idle_ns = sum(self._idle.spent(self._began_ns))
        self._track.began(self._phase, self._began_ns)

    def __exit__(self, *error: object) -> None:
        now_ns = perf_counter_ns()
        self._track.ended(now_ns)
        if self._track.phases is None:
            return
        idle_ns = sum(self._idle.spent(now_ns)) - self._idle_ns if self._idle is not None else 0
        began_ns = min(now_ns, self._began_ns + idle_ns)
        self._track.phases.add(self._phase, began_ns, now_ns)


class TaskWait:
    """The path's wait for a task; counted once it is over, if the task is one of the path."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._began_ns = perf_counter_ns()
        self._before = phases.leasing.spent(self._began_ns)

    def is_over(self) -> None:
        """The task is there."""
        now_ns = perf_counter_ns()
        elapsed_ns = now_ns - self._began_ns
        read_ns = min(elapsed_ns, _since(self._before, self._phases.leasing, now_ns, Phase.READ))
        blamed = {Phase.LEASE: elapsed_ns - read_ns, Phase.READ: read_ns}
        self._phases.waited(self._began_ns, now_ns, blamed)


class MinibatchWait:
    """A block that the path waits in for a minibatch that other threads prepare."""

    __slots__ = ("_before", "_began_ns", "_phases", "_preparing", "_starving")

    def __init__(self, phases: Phases, preparing: Track, starving: Track) -> None:
        self._phases = phases
        self._preparing = preparing
        self._starving = starving

    def __enter__(self) -> None:
        self._began_ns = now_ns = perf_counter_ns()
        self._before = [one.spent(now_ns) for one in self._tracks()]

    def __exit__(self, *error: object) -> None:
        now_ns = perf_counter_ns()
        preparing, starving, leasing = (
            _differences(before, track.spent(now_ns))
            for before, track in zip(self._before, self._tracks(), strict=True)
        )
        blamed = blame(now_ns - self._began_ns, preparing, sum(starving), leasing)
        self._phases.waited(self._began_ns, now_ns, blamed)

    def _tracks(self) -> tuple[Track, Track, Track]:
        return self._preparing, self._starving, self._phases.leasing


def blame(
    elapsed_ns: int, preparing: list[int], starving_ns: int, leasing: list[int]
) -> dict[Phase, int]:
    """Say what a wait for a minibatch was spent on.

    Args:
      elapsed_ns: the wait.
      preparing: of it, by the position of a phase, what the thread that prepares minibatches did.
      starving_ns: of it, how long the input pipeline had no task.
      leasing: as `preparing`, of the thread that leases tasks and reads their records.

    Returns:
      What adds up to the wait. What no thread owns up to is for the preparing of ids.
    """
    blamed, left = {}, elapsed_ns
    for phase in Phase:
        ns = min(left, preparing[phase.position])
        if ns:
            blamed[phase] = ns
            left -= ns
    starving_ns = min(starving_ns, blamed.get(Phase.PARSE, 0))
    if starving_ns:
        read_ns = min(starving_ns, leasing[Phase.READ.position])
        blamed[Phase.PARSE] -= starving_ns
        blamed[Phase.READ] = read_ns
        blamed[Phase.LEASE] = starving_ns - read_ns
    blamed[Phase.COLLECT] = blamed.get(Phase.COLLECT, 0) + left
    return {phase: ns for phase, ns in blamed.items() if ns}


def _differences(before: Iterable[int], after: Iterable[int]) -> list[int]:
    return [b - a for a, b in zip(before, after, strict=True)]


def _since(before: list[int], track: Track, now_ns: int, phase: Phase) -> int:
    return track.spent(now_ns)[phase.position] - before[phase.position]


PHASES = Phases()
"""What this process counts."""
