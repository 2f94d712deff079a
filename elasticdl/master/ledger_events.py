"""What the ledger is told (events) and what it decides (actions)."""

from __future__ import annotations

from dataclasses import dataclass

from elasticdl.master.decisions import Decision
from elasticdl.master.replays import Intervals
from elasticdl.master.rounds import Round
from elasticdl.master.tasks import Task, TaskKind

RETRY_S = 0.1

# ---------------------------------------------------------------------- events


@dataclass(frozen=True)
class Event:
    """Something the ledger must know of; `incarnation` tells a worker from its replacement."""


@dataclass(frozen=True)
class LeaseRequested(Event):
    """`request` counts up in one worker; repeating one brings the same answer."""

    worker: int
    incarnation: int
    request: int


@dataclass(frozen=True)
class LeasesHeld(Event):
    """The worker lives and works on these grants; only these are extended."""

    worker: int
    incarnation: int
    grants: tuple[int, ...]


@dataclass(frozen=True)
class TaskCompleted(Event):
    """All partitions, at these incarnations, have closed the task; `result` is what it produced.

    limited: in sync mode, its step was beyond max_steps before its records ended.
    """

    task: int
    partition_incarnations: tuple[int, ...] = ()
    num_minibatches: int = 0
    result: str = ""
    limited: bool = False


@dataclass(frozen=True)
class TaskFailed(Event):
    """The user's code raised; `fatal` where trying again is pointless."""

    grant: int
    message: str
    traceback: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class TaskDiffers(Event):
    """The input function made other minibatches of a task than those applied in this attempt."""

    task: int
    attempt: int


TaskReport = TaskCompleted | TaskFailed | TaskDiffers
"""How it went with a task, as a worker says."""


@dataclass(frozen=True)
class GrantsReturned(Event):
    """A worker gives leases back unharmed: it leaves, or its partition moved."""

    grants: tuple[int, ...]


@dataclass(frozen=True)
class WorkerLost(Event):
    """The worker is gone: preempted, killed, silent. This never counts against a task."""

    worker: int
    incarnation: int
    reason: str = ""


@dataclass(frozen=True)
class PartitionStarted(Event):
    """A parameter server serves; completions must name this incarnation from now on (R3).

    closed: tasks that are closed in all groups it was restored with; None where it begins empty.
    """

    index: int
    incarnation: int
    closed: Intervals | None = None


@dataclass(frozen=True)
class PartitionLost(Event):
    """A parameter server is gone, and its pins with it; no completion is valid until it is back."""

    index: int


@dataclass(frozen=True)
class PartitionsPlaced(Event):
    """From now on there are so many partitions, all of which are still to start."""

    num_partitions: int


@dataclass(frozen=True)
class CheckpointCommitted(Event):
    """A checkpoint is there, with these tasks closed in all its groups.

    No partition was lost between its beginning and this.
    """

    number: int
    closed: Intervals


@dataclass(frozen=True)
class FellBack(Event):
    """Async mode: partitions begin with this older checkpoint; those after it are damaged."""

    number: int
    closed: Intervals


@dataclass(frozen=True)
class RolledBack(Event):
    """Sync mode: the ledger is a checkpoint's again; ids of before are not given out twice."""

    next_id: int
    next_grant: int


@dataclass(frozen=True)
class MasterStarted(Event):
    """Another master goes on; grants that the one before gave, and did not write down, are apart.

    resumed: all instances are gone, and what failed is tried again.
    """

    incarnation: int
    resumed: bool = False


@dataclass(frozen=True)
class Tick(Event):
    """Time passes: leases that nobody extended end.

    expired: their grants, as `Ledger.late_grants` tells; None to find them.
    """

    expired: tuple[int, ...] | None = None


# --------------------------------------------------------------------- actions


@dataclass(frozen=True)
class Action:
    """Something the ledger decided, to be carried out or written down by others."""


@dataclass(frozen=True)
class Straggler:
    """Why a task has a second lease: `worker` held it for `held_s`, its peers take `usual_s`."""

    worker: int
    held_s: float
    usual_s: float


@dataclass(frozen=True)
class Grant(Action):
    """Answer to LeaseRequested: work on this task under this grant.

    straggler: who works on it as well; None for nobody.
    """

    task: Task
    grant: int
    repeated: bool = False
    straggler: Straggler | None = None


@dataclass(frozen=True)
class Wait(Action):
    """Answer to LeaseRequested: nothing to do right now, ask again.

    repeated: the request was answered before.
    """

    retry_after_s: float = RETRY_S
    repeated: bool = False


@dataclass(frozen=True)
class NoMoreTasks(Action):
    """Answer to LeaseRequested: the job is over, leave."""


@dataclass(frozen=True)
class TasksDefined(Action):
    """New tasks exist; the journal must hold them before any of them is granted."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class TaskDone(Action):
    """A task is closed everywhere, or its result is here."""

    task: Task
    result: str = ""


@dataclass(frozen=True)
class Requeued(Action):
    """A granted task has no worker any more; it is granted again before new ones."""

    task: Task
    reason: str


@dataclass(frozen=True)
class TaskRestarted(Action):
    """A task begins anew under its next attempt; `is_first`: no task of the job did before."""

    task: Task
    is_first: bool


@dataclass(frozen=True)
class EpochEnded(Action):
    """Every training task of the epoch is done."""

    epoch: int


@dataclass(frozen=True)
class PhaseEnded(Action):
    """Every task of the phase is done."""

    kind: TaskKind


@dataclass(frozen=True)
class RoundBegan(Action):
    """A round of evaluation, or of the user's callbacks, comes before further training tasks.

    again: why the one under way is dropped and begins anew as this one; empty where none is.
    """

    round: Round
    again: str = ""


@dataclass(frozen=True)
class Evaluated(Action):
    """A round has its numbers."""

    round: Round


@dataclass(frozen=True)
class Decided(Action):
    """Callbacks decided: the end of training, a learning rate, a model to keep."""

    decision: Decision
    epoch: int
    steps: int


@dataclass(frozen=True)
class CheckpointWanted(Action):
    """Nothing goes on before a checkpoint of what there is now: `initial` or `final`."""

    reason: str


@dataclass(frozen=True)
class JobDone(Action):
    """Every task of every phase is done."""


@dataclass(frozen=True)
class JobFailed(Action):
    """A task failed too often, or fatally."""

    message: str
    traceback: str = ""
