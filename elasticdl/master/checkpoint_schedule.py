"""When a checkpoint is due, and how all partitions come to one. Pure, as the ledger is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from elasticdl.proto import ps_pb2

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MOST_AHEAD = 64
STANDSTILL_S = 0.25
LONGEST_CHAIN = 8


class CheckpointSchedule:
    """When the next checkpoint is to be begun.

    Args:
      steps: after every so many steps of training; 0: not by steps.
      secs: every so many seconds; 0: not by time.
      now: the clock's reading at the start, in seconds.
    """

    def __init__(self, steps: int, secs: float, now: float) -> None:
        self._every_steps = steps
        self._every_secs = secs
        self._began = now
        self._began_steps = 0
        self._not_before = now
        self._pause_s = FIRST_PAUSE_S

    def due(self, wanted: str, steps: int, now: float) -> str:
        """Why one is due; empty where none is.

        Args:
          wanted: why nothing goes on without one; empty where all does.
          steps: of training, done so far.
        """
        if now < self._not_before:
            return ""
        if wanted:
            return wanted
        if steps <= self._began_steps:
            return ""
        if (
            self._every_steps
            and steps // self._every_steps > self._began_steps // self._every_steps
        ):
            return "steps"
        if self._every_secs and now - self._began >= self._every_secs:
            return "secs"
        return ""

    def began(self, steps: int, now: float) -> None:
        """One is begun; by steps and by time the next is due so long after it, whatever becomes."""
        self._began, self._began_steps = now, steps

    def ended(self, is_committed: bool, now: float) -> None:
        """It is committed; or it is given up, and if it is waited for it is tried again later."""
        self._pause_s = FIRST_PAUSE_S if is_committed else min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._not_before = now if is_committed else now + self._pause_s / 2


class Verdict(Enum):
    """What follows from the partitions' replies.

    WAIT: ask again. AGAIN: begin anew, under a new number. WRITTEN: all parts are there. LOST: a
    partition is not what it was. FAILED: one of them says why in its reply's `message`.
    """

    WAIT = 0
    AGAIN = 1
    WRITTEN = 2
    LOST = 3
    FAILED = 4


_LOST = (
    ps_pb2.PS_STALE_INCARNATION,
    ps_pb2.PS_STALE_ROUTING,
    ps_pb2.PS_NOT_INITIALIZED,
)


def judge(replies: Sequence[ps_pb2.SnapshotReply]) -> Verdict:
    """Return what follows from the replies of all partitions to `Snapshot`."""
    statuses = {reply.status for reply in replies}
    if statuses & {*_LOST}:
        return Verdict.LOST
    if statuses & {ps_pb2.PS_PIN_TOO_LATE, ps_pb2.PS_SNAPSHOT_GONE}:
        return Verdict.AGAIN
    if statuses - {ps_pb2.PS_OK, ps_pb2.PS_NOT_YET}:
        return Verdict.FAILED
    if any(reply.state == ps_pb2.SnapshotReply.FAILED for reply in replies):
        return Verdict.FAILED
    is_written = all(
        reply.status == ps_pb2.PS_OK and reply.state == ps_pb2.SnapshotReply.WRITTEN
        for reply in replies
    )
    return Verdict.WRITTEN if is_written else Verdict.WAIT


def why_failed(replies: Sequence[ps_pb2.SnapshotReply]) -> str:
    """Return what the partition that failed says of it."""
    for reply in replies:
        if reply.message and reply.status != ps_pb2.PS_NOT_YET:
            return reply.message
    names = {ps_pb2.PsStatus.Name(reply.status) for reply in replies}
    return f"the parameter servers answer {', '.join(sorted(names))}"


@dataclass
class Appointment:
    """Sync mode: the version at which all partitions are to be snapshotted.

    A little ahead of the farthest, farther after each that was missed; where nothing moves, the
    version they are all at.
    """

    ahead: int = 0
    versions: tuple[int, ...] = ()
    changed: float = field(default=0.0)

    def choose(self, versions: Sequence[int]) -> int:
        """Return the version to name to partitions that are at these."""
        return max(versions) + self.ahead

    def missed(self) -> None:
        """Some partition had passed it."""
        self.ahead = min(max(1, 2 * self.ahead), MOST_AHEAD)

    def stands_still(self, versions: Sequence[int], now: float) -> bool:
        """Whether all partitions have been at one version for a while, short of what was named."""
        if tuple(versions) != self.versions:
            self.versions, self.changed = tuple(versions), now
        return len(set(versions)) == 1 and now - self.changed > STANDSTILL_S

    def now_or_never(self) -> None:
        """Nothing moves: name the version that is there."""
        self.ahead = 0


def bases(
    incarnations: Sequence[int], parts: Sequence[dict[str, Any]], chain: Sequence[dict[int, int]]
) -> list[int]:
    """Return for each partition the snapshot to write only the changes since; 0: write everything.

    Args:
      incarnations: of the partitions now.
      parts: of the last committed checkpoint.
      chain: bytes of each partition's part in the checkpoints that one builds on, oldest first,
        itself last.
    """
    sizes = [[one[index] for one in chain if index in one] for index in range(len(incarnations))]
    is_long = len(chain) >= LONGEST_CHAIN
    before = {part["partition"]: part for part in parts}
    found = []
    for index, incarnation in enumerate(incarnations):
        part, own = before.get(index), sizes[index]
        is_same = part is not None and part["incarnation"] == incarnation
        is_heavy = len(own) > 1 and sum(own[1:]) > own[0]
        found.append(part["number"] if part and is_same and not is_long and not is_heavy else 0)
    return found


def parts_of(replies: Sequence[ps_pb2.SnapshotReply]) -> list[dict[str, Any]]:
    """Return the manifest's entries of parts that are written."""
    return [json.loads(reply.part) for reply in replies]


def size_of(part: dict[str, Any]) -> int:
    """Return the bytes of a part's files."""
    return sum(one["bytes"] for one in part["files"])
