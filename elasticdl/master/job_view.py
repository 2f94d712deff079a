"""What people are shown of a job."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from elasticdl.master.instances import Instance, InstanceSpec, Role, State
from elasticdl.master.ledger import Ledger
from elasticdl.master.membership import Membership
from elasticdl.master.tasks import JobPlan, TaskKind

MESSAGES_KEPT = 200


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment, for people to look at.

    records_repeated: done again so far, after losses. tasks_to_repeat, records_to_repeat: that are
    still to be done again.
    """

    state: str
    phase: str
    epoch: int
    records_done: int
    records_expected: int
    records_repeated: int
    tasks_to_repeat: int
    records_to_repeat: int
    loss: float | None
    target_workers: int
    tasks_todo: int
    tasks_leased: int
    tasks_done: int
    instances: list[Instance]

    @classmethod
    def of(
        cls, state: str, ledger: Ledger, membership: Membership, losses: Sequence[float]
    ) -> Snapshot:
        """Describe a job in this state; `losses` are the recent ones of its workers."""
        plan = ledger.plan
        tasks_to_repeat, records_to_repeat = ledger.to_repeat
        return cls(
            state=state,
            phase=_doing(ledger),
            epoch=ledger.epoch,
            records_done=ledger.records_done(plan.main_kind),
            records_expected=expected_of(plan),
            records_repeated=ledger.records_repeated,
            tasks_to_repeat=tasks_to_repeat,
            records_to_repeat=records_to_repeat,
            loss=sum(losses) / len(losses) if losses else None,
            target_workers=membership.num_workers,
            tasks_todo=ledger.num_todo,
            tasks_leased=ledger.num_leased,
            tasks_done=ledger.num_done,
            instances=membership.instances(),
        )


def expected_of(plan: JobPlan) -> int:
    """The records that a job is to count, over all epochs."""
    expected = sum(shard.num_records for shard in plan.shards) * plan.num_epochs
    if plan.max_steps is None:
        return expected
    return min(expected, plan.max_steps * plan.minibatch_size * max(1, plan.lanes))


def partitions_of(_: Ledger, membership: Membership) -> list[InstanceSpec]:
    """The present parameter servers, by index."""
    return [one.spec for one in membership.instances() if one.spec.role is Role.PS]


def workers_left(_: Ledger, membership: Membership) -> list[InstanceSpec]:
    """Workers whose process has not ended yet."""
    return [
        instance.spec
        for instance in membership.instances()
        if instance.spec.role is Role.WORKER and instance.state is not State.GONE
    ]


def learning_rate(ledger: Ledger, _: Membership) -> float | None:
    """The one in force, as far as callbacks and the optimizer make it one number."""
    return ledger.rounds.decisions.current_rate(ledger.epoch)


def _doing(ledger: Ledger) -> str:
    """The phase in a word; an epoch's end may have it evaluate instead of train."""
    phase = ledger.phase
    if phase is TaskKind.TRAINING and ledger.is_between_epochs:
        phase = TaskKind.EVALUATION
    return phase.name.lower() if phase is not None else "done"


class Messages:
    """The last messages of a job, numbered. Not thread-safe.

    Args:
      first_number: they are numbered above this.
    """

    def __init__(self, first_number: int) -> None:
        self._number = first_number
        self._kept: deque[tuple[int, str]] = deque(maxlen=MESSAGES_KEPT)

    def add(self, text: str) -> None:
        """Add one."""
        self._number += 1
        self._kept.append((self._number, text))

    def after(self, number: int) -> list[tuple[int, str]]:
        """Return those after a number, oldest first."""
        return [one for one in self._kept if one[0] > number]
