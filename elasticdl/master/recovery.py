"""What a master that was relaunched finds in the journal of the one before it.

docs/decisions/recovery.md tells the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.master import membership_events
from elasticdl.master.cluster_state import COMMITTED
from elasticdl.master.instances import InstanceSpec, Needs, Role
from elasticdl.master.journal import FILE_NAME, Entry, read_journal
from elasticdl.master.membership import Membership
from elasticdl.master.placement import ASKED, DAMAGED, NOT_RESCALED, PLACED
from elasticdl.master.plan import plan_of
from elasticdl.master.recorded_ledger import MASTER, RecordedLedger, fold
from elasticdl.master.story import Outcome
from elasticdl.master.tasks import JobPlan

PLAN = "plan"
"""Kind of the entry that says what the job is to do."""
WAITS = "waits"
"""Kind of the entry that says that an instance cannot start yet, and why."""
RESUMED = "the job was resumed"


@dataclass
class Recovered:
    """A job as its journal left it.

    incarnation: of the master that wrote last. session: of the supervisor that it belonged to.
    began: when the job was launched, in seconds since the epoch. outcome: None while it runs.
    instances: entries that tell of instances, in order. told: starts and ends that are written
    down, which the supervisor will tell of again. placement: entries that tell of checkpoints and
    of where the groups live, in order.
    """

    plan: JobPlan
    recorded: RecordedLedger
    incarnation: int
    session: str
    began: float
    outcome: Outcome | None
    instances: list[Entry]
    told: set[tuple[str, InstanceSpec]]
    placement: list[Entry]

    def restore(self, membership: Membership, now: float) -> None:
        """Have a membership know the instances of before."""
        for entry in self.instances:
            body = entry.body
            if entry.kind == "scaled":
                membership.num_workers = body["num_workers"]
            elif entry.kind == "launch":
                needs = Needs(body.get("memory_factor", 1.0))
                membership.was_launched(spec_of(body), now, needs)
            elif entry.kind == "started":
                started = membership_events.Started(spec_of(body), body.get("where", ""))
                membership.handle(started, now)
            elif entry.kind == "registered":
                closed = body["closed"]
                event = membership_events.Registered(
                    spec_of(body),
                    body["address"],
                    body["pid"],
                    body["ready"],
                    None if closed is None else tuple((start, end) for start, end in closed),
                )
                membership.handle(event, now)
            elif entry.kind == PLACED:
                membership.were_placed(body["num_ps"])
            elif entry.kind == MASTER:
                if body["resumed"]:
                    membership.all_were_lost(RESUMED)
            else:
                membership.was_lost(spec_of(body), body["reason"])

    @property
    def given_up(self) -> list[InstanceSpec]:
        """Instances that a master before gave up, and may not have had time to stop."""
        gone = [spec_of(one.body) for one in self.instances if one.kind == "gone"]
        return [spec for spec in gone if ("exited", spec) not in self.told]


def body_of(spec: InstanceSpec) -> dict[str, Any]:
    """How an entry tells of an instance."""
    return {"role": spec.role.value, "index": spec.index, "incarnation": spec.incarnation}


def spec_of(body: dict[str, Any]) -> InstanceSpec:
    """The instance that an entry tells of."""
    return InstanceSpec(Role(body["role"]), body["index"], body["incarnation"])


def last_incarnation(job_dir: str | Path) -> int:
    """Incarnation of the last master that wrote into a job's journal; 0 for none.

    Raises:
      JobError: the journal cannot be read.
    """
    if not (Path(job_dir) / FILE_NAME).exists():
        return 0
    return max((one.body["incarnation"] for one in read_journal(job_dir, MASTER)), default=0)


def last_session(job_dir: str | Path) -> str:
    """Session of the last master that wrote into a job's journal; empty for none.

    Raises:
      JobError: the journal cannot be read.
    """
    if not (Path(job_dir) / FILE_NAME).exists():
        return ""
    sessions = [str(one.body["session"]) for one in read_journal(job_dir, MASTER)]
    return sessions[-1] if sessions else ""


def recover(job_dir: str | Path) -> Recovered | None:
    """Read a job's journal; None where its first master did not get to write what the job is.

    Raises:
      JobError: the journal cannot be read, or does not fit this version of the package.
    """
    return recovered_from(list(read_journal(job_dir)), str(job_dir))


def recovered_from(entries: Sequence[Entry], job_dir: str) -> Recovered | None:
    """Make of a journal's entries what `recover` returns of the journal of `job_dir`."""
    plan = next((plan_of(entry.body) for entry in entries if entry.kind == PLAN), None)
    if plan is None:
        return None
    masters = [entry.body for entry in entries if entry.kind == MASTER]
    try:
        recorded = fold(plan, entries)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise JobError(
            f"journal of '{job_dir}': does not fit this version of elasticdl "
            f"({type(error).__name__}: {error}); go on with the version that wrote it"
        ) from error
    return Recovered(
        plan,
        recorded,
        max(body["incarnation"] for body in masters),
        masters[-1]["session"],
        entries[0].time,
        _outcome(entries, recorded),
        [one for one in entries if one.kind in _OF_INSTANCES],
        {(one.kind, spec_of(one.body)) for one in entries if one.kind in ("started", "exited")},
        [one for one in entries if one.kind in _OF_PLACEMENT],
    )


_OF_PLACEMENT = (COMMITTED, DAMAGED, ASKED, PLACED, NOT_RESCALED)
_OF_INSTANCES = (MASTER, "launch", "started", "registered", "exited", "gone", "scaled", PLACED)


def _outcome(entries: Iterable[Entry], recorded: RecordedLedger) -> Outcome | None:
    """How the job ended, if that is the last that was written of it."""
    outcome = None
    for entry in entries:
        if entry.kind == MASTER and entry.body["resumed"]:
            outcome = None
        elif entry.kind == "ended":
            body = entry.body
            outcome = Outcome(body["state"], body["error"], body["traceback"])
    if outcome is not None and outcome.state == "succeeded":
        return recorded.story.succeeded()
    return outcome
