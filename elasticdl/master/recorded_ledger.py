"""The ledger together with what the journal must have so that another master finds it again.

Pure: events go in, actions and notes come out. What the notes of an event say is written before
anything of its actions leaves the process; then the ledger is the fold of the journal's events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from elasticdl.master.journal import Entry
from elasticdl.master.ledger import Ledger
from elasticdl.master.ledger_events import (
    Action,
    Event,
    Grant,
    LeaseRequested,
    LeasesHeld,
    PartitionStarted,
    RolledBack,
    Tick,
)
from elasticdl.master.story import Note, Story, leased_twice
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.master.wording import count_of

EVENT = "event"
ROLLED_BACK = "rolled_back"
MASTER = "master"
"""Kinds of entries: an event; `entry` is the last one that counts, of those before this; another
master, of which supervisor, goes on."""

_EVENTS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__subclasses__()}
_FIELDS = {kind: [one.name for one in dataclasses.fields(kind)] for kind in _EVENTS.values()}


def event_body(event: Event, now: float) -> dict[str, Any]:
    """The journal's form of an event at the clock's reading `now`."""
    fields = {name: getattr(event, name) for name in _FIELDS[type(event)]}
    return {"type": type(event).__name__, **fields, "now": now}


def event_of(body: dict[str, Any]) -> tuple[Event, float]:
    """The event of a journal's entry, and the clock's reading."""
    fields = {name: _tuples(value) for name, value in body.items()}
    kind, now = fields.pop("type"), fields.pop("now")
    return _EVENTS[kind](**fields), now


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


class RecordedLedger:
    """A ledger, and the story of what it decided.

    Args:
      plan: what the job is to do.

    Attributes:
      clock: when the last event was, in seconds.
      first_notes: what the journal begins with.
    """

    def __init__(self, plan: JobPlan) -> None:
        self.ledger = Ledger(plan)
        self.story = Story()
        self.clock = 0.0
        self.first_notes = self._notes(self.ledger.first_actions, 0.0)

    def handle(self, event: Event, now: float) -> tuple[list[Action], list[Note]]:
        """Let the ledger handle an event; no notes: nothing has changed that is to be kept."""
        if isinstance(event, Tick):
            event = Tick(self.ledger.late_grants(now))
        before = self._marks(event)
        actions = self.ledger.handle(event, now)
        if not self._has_changed(event, actions, before):
            return actions, []
        self.clock = now
        notes = [_of_worker(note, event) for note in self._notes(actions, now)]
        return actions, [Note(EVENT, event_body(event, now)), *_with_counts(notes, event)]

    def replay(self, event: Event, now: float) -> list[Action]:
        """Let the ledger handle an event that is in the journal."""
        actions = self.ledger.handle(event, now)
        self.clock = now
        self._notes(actions, now)
        return actions

    def _notes(self, actions: Iterable[Action], now: float) -> list[Note]:
        restores = self.ledger.rounds.decisions.restores
        notes = [self.story.take(action, now, restores) for action in actions]
        return [note for note in notes if note is not None]

    def _marks(self, event: Event) -> tuple[int, bool]:
        """What events without actions may change all the same."""
        known = not isinstance(event, LeaseRequested) or self.ledger.knows(
            event.worker, event.incarnation
        )
        return self.ledger.num_tasks, known

    def _has_changed(self, event: Event, actions: list[Action], before: tuple[int, bool]) -> bool:
        if isinstance(event, LeasesHeld):
            return False
        if isinstance(event, LeaseRequested):
            *others, answer = actions
            return bool(others) or _is_new(answer) or before != self._marks(event)
        if isinstance(event, Tick):
            # The end of one of a task's two leases is followed by no action.
            return bool(event.expired or actions) or before != self._marks(event)
        return True


def _is_new(answer: Action) -> bool:
    return isinstance(answer, Grant) and not answer.repeated


def _of_worker(note: Note, event: Event) -> Note:
    """Add to a grant's note who got it."""
    if note.kind != "granted" or not isinstance(event, LeaseRequested):
        return note
    who = {"worker": event.worker, "incarnation": event.incarnation}
    body = {**note.body, **who}
    return Note(note.kind, body, leased_twice(body) if "straggler" in body else "")


def _with_counts(notes: list[Note], event: Event) -> list[Note]:
    """Say of tasks that are leased again how many they are, once for each reason.

    What restored a partition, or went back to a checkpoint, is told by who had that done.
    """
    is_restored = isinstance(event, PartitionStarted) and event.closed is not None
    if is_restored or isinstance(event, RolledBack):
        return notes
    tasks: dict[str, list[int]] = {}
    for note in notes:
        if note.kind == "requeued":
            tasks.setdefault(note.body["reason"], []).append(note.body["task"])
    told = []
    for note in notes:
        if note.kind == "requeued" and (of_reason := tasks.pop(note.body["reason"], None)):
            is_one = len(of_reason) == 1
            which = f"task {of_reason[0]}" if is_one else count_of(len(of_reason), "task")
            text = f"{which} will be leased again: {note.body['reason']}"
            note = dataclasses.replace(note, text=text)
        told.append(note)
    return told


def starts_anew(plan: JobPlan) -> bool:
    """Whether a job of this plan that is resumed has nothing to go on from.

    Of a prediction, what its tasks wrote is removed when the job ends.
    """
    return TaskKind.PREDICTION in plan.phases


def fold(plan: JobPlan, entries: Iterable[Entry], last: int | None = None) -> RecordedLedger:
    """Return the ledger of a job as its journal's events left it.

    Args:
      plan: the job's plan, as the journal has it.
      entries: the journal, in order.
      last: number of the last entry that counts; None for all of them.
    """
    events: list[Entry] = []
    for entry in entries:
        if last is not None and entry.number > last:
            break
        if entry.kind == EVENT:
            events.append(entry)
        elif entry.kind == MASTER and entry.body["resumed"] and starts_anew(plan):
            events.clear()
        elif entry.kind == ROLLED_BACK:
            events = [one for one in events if one.number <= entry.body["entry"]]
    folded = RecordedLedger(plan)
    for entry in events:
        folded.replay(*event_of(entry.body))
    return folded
