"""What the backend tells of instances: written down once, and handed to the membership."""

from __future__ import annotations

from collections.abc import Iterable

from elasticdl.master import membership_events
from elasticdl.master.cluster.backend import (
    BackendEvent,
    InstanceEnded,
    InstanceStarted,
    InstanceWaits,
)
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.membership import Membership
from elasticdl.master.recovery import WAITS, body_of
from elasticdl.master.story import Note


class BackendEvents:
    """Knows what of the backend's events is new; those of before come again to each master.

    Args:
      membership: of whose instances they tell.
      told: starts and ends that are written down.
    """

    def __init__(
        self, membership: Membership, told: Iterable[tuple[str, InstanceSpec]] = ()
    ) -> None:
        self._membership = membership
        self._told = set(told)

    def take(self, event: BackendEvent) -> tuple[list[Note], membership_events.Event | None]:
        """Return what is to be written down of an event, and what the membership is to hear."""
        match event:
            case InstanceWaits():
                return self._waits(event)
            case InstanceStarted():
                return self._started(event)
            case InstanceEnded():
                return self._ended(event)

    def _is_new(self, kind: str, spec: InstanceSpec) -> bool:
        is_new = (kind, spec) not in self._told
        self._told.add((kind, spec))
        return is_new

    def _waits(self, event: InstanceWaits) -> tuple[list[Note], membership_events.Event | None]:
        spec, notes = event.spec, []
        heard = membership_events.Waiting(spec, event.why, event.is_error, event.for_room)
        # What it waits for is told again and again, in other words: once will do.
        kind = f"{WAITS} in vain" if event.is_error else WAITS
        if self._membership.can_wait(spec) and self._is_new(kind, spec):
            body = {**body_of(spec), "reason": event.why, "is_error": event.is_error}
            notes.append(Note(WAITS, body, f"{spec} waits: {event.why}"))
        return notes, heard

    def _started(self, event: InstanceStarted) -> tuple[list[Note], membership_events.Event | None]:
        if not self._is_new("started", event.spec):
            return [], None
        where = {"where": event.where} if event.where else {}
        note = Note("started", {**body_of(event.spec), "pid": event.pid, **where})
        return [note], membership_events.Started(event.spec, event.where)

    def _ended(self, event: InstanceEnded) -> tuple[list[Note], membership_events.Event | None]:
        spec = event.spec
        if not self._is_new("exited", spec):
            return [], None
        why = self._membership.why_stopped(spec)
        reason = f"stopped, as {why}" if why else event.end.describe()
        is_master = spec.role is Role.MASTER
        text = f"the master was lost ({reason}); another one goes on" if is_master else ""
        note = Note("exited", {**body_of(spec), "reason": reason}, text)
        return [note], membership_events.Ended(spec, event.end)


def launched(action: membership_events.Launch) -> Note:
    """What is written down of an instance that the backend will be asked for."""
    body = {**body_of(action.spec), "reason": action.reason}
    if action.needs.memory_factor != 1:
        body["memory_factor"] = action.needs.memory_factor
    has_more = f" with {action.memory} of memory" if action.memory else ""
    text = f"{action.spec} is relaunched{has_more}" if action.replaces else ""
    return Note("launch", body, text)
