"""Where the bucket groups live, what partitions begin with, and when they are placed anew.

Pure: the coordinator writes down what is decided here, and carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable

from elasticdl.master.cluster_state import COMMITTED, CommittedCheckpoint, Restore
from elasticdl.master.instances import Instance, InstanceSpec
from elasticdl.master.journal import Entry
from elasticdl.master.story import Note
from elasticdl.master.wording import count_of
from elasticdl.ps.routing_table import RoutingTable

MOST_FIRST_FAILURES = 3
FIRST_PATIENCE_S = 600.0
"""For how long a store that is away is waited for before the job is one that cannot begin."""
ASKED = "rescale"
PLACED = "placed"
RESCALED = "rescaled"
NOT_RESCALED = "not_rescaled"
RESTORED = "restored"
DAMAGED = "checkpoint_damaged"
STANDBY = "standby"
"""Kinds of entries: another number of partitions is wanted; it is; and all of them are up; or it
was asked for too late. A partition has what it was told to restore. A checkpoint is damaged: an
older one takes its place. Copies of partitions are not kept any more, or again."""


def restored(spec: InstanceSpec, source: str, num_again: int) -> Note:
    """Say what a partition was restored from, and how many tasks it lacks."""
    text = f"{spec} was restored from {source}, {count_of(num_again, 'task')} again"
    body = {"index": spec.index, "incarnation": spec.incarnation}
    return Note(RESTORED, {**body, "source": source, "tasks_again": num_again}, text)


def damaged(number: int, why: str, instead: int) -> Note:
    """Say that a checkpoint cannot be restored, and which one is."""
    text = (
        f"checkpoint {number} cannot be restored ({why}): checkpoint {instead} takes its place, "
        "and what came after that is trained again"
    )
    return Note(DAMAGED, {"number": number, "reason": why, "instead": instead}, text)


def standby(is_kept: bool) -> Note:
    """Say whether partitions have others that keep copies of them."""
    text = (
        "parameter servers keep copies of each other again"
        if is_kept
        else "one parameter server has no other to keep a copy of it: if it is lost now, it is "
        "restored from the last checkpoint"
    )
    return Note(STANDBY, {"is_kept": is_kept}, text)


class Placement:
    """The routing table of one job, and the checkpoint that its partitions begin with.

    Args:
      num_groups: bucket groups.
      num_ps: partitions at the start.
      has_standby: each partition has another one keep a copy of it, where there is another.
      num_kept: committed checkpoints that are known of; older ones are forgotten.

    Attributes:
      routing: which partition hosts each bucket group.
      doubted: the last checkpoint, where a partition cannot restore it, until it is known why.
      wanted: so many partitions are to be there after the next checkpoint; None for as many as now.
    """

    def __init__(
        self, num_groups: int, num_ps: int, has_standby: bool = False, num_kept: int = 1
    ) -> None:
        self._has_standby = has_standby
        self._num_kept = num_kept
        self.routing = RoutingTable.initial(num_groups, num_ps)
        self.doubted: CommittedCheckpoint | None = None
        self.wanted: int | None = None
        # Those that are not damaged, as far as is known, in order.
        self._standing: list[CommittedCheckpoint] = []
        # The last one that was doubted and turned out to be whole.
        self._trusted = 0
        self._since: float | None = None
        self._failed_in_a_row = 0
        self._away_since: float | None = None

    def recover(self, entries: Iterable[Entry]) -> None:
        """Take what the journal tells of it into account."""
        for entry in entries:
            if entry.kind == COMMITTED:
                self.commit(CommittedCheckpoint.of_entry(entry.body))
            elif entry.kind == DAMAGED:
                self.fall_back(entry.body["instead"])
            elif entry.kind == ASKED:
                self.ask(entry.body["num_ps"])
            elif entry.kind == PLACED:
                self.place(entry.body["num_ps"], None)
            elif entry.kind == NOT_RESCALED:
                self.wanted = None

    @property
    def committed(self) -> CommittedCheckpoint | None:
        """The last checkpoint; None where there is none."""
        return self._standing[-1] if self._standing else None

    def commit(self, checkpoint: CommittedCheckpoint) -> None:
        """Partitions begin with this one from now on."""
        self._standing = [*self._standing, checkpoint][-self._num_kept :]
        self._failed_in_a_row, self._away_since = 0, None

    @property
    def standing(self) -> set[int]:
        """Numbers of those that are not damaged, as far as is known."""
        return {one.number for one in self._standing}

    def older(self) -> list[CommittedCheckpoint]:
        """Those before the last one that may take its place, newest first."""
        return self._standing[-2::-1]

    def doubt(self, number: int) -> bool:
        """A partition cannot restore a checkpoint; whether that is to be looked into."""
        last = self.committed
        if last is None or number != last.number or number == self._trusted:
            return False
        self.doubted = last
        return True

    def trust(self) -> None:
        """The one that was doubted is whole."""
        if self.doubted is not None:
            self._trusted, self.doubted = self.doubted.number, None

    def fall_back(self, number: int) -> None:
        """Partitions begin with this older one from now on; those after it are damaged."""
        self._standing = [one for one in self._standing if one.number <= number]
        self.doubted = None

    def failed(
        self, number: int, why: str, waits: str, is_loud: bool, away_at: float | None = None
    ) -> tuple[str, bool]:
        """Say that a checkpoint was given up, and whether the job is, that cannot write its first.

        Args:
          waits: why nothing goes on before one is committed; empty where all does.
          is_loud: it is worth a message, and counts; of others nothing is said.
          away_at: the clock's reading, where a store did not answer; it may soon.
        """
        if not is_loud:
            return "", False
        if away_at is None:
            self._failed_in_a_row, self._away_since = self._failed_in_a_row + 1, None
            is_final = self._failed_in_a_row >= MOST_FIRST_FAILURES
        else:
            self._away_since = away_at if self._away_since is None else self._away_since
            is_final = away_at - self._away_since >= FIRST_PATIENCE_S
        if self.committed is None and is_final:
            return f"the first checkpoint cannot be written: {why}", True
        stays = "" if self.committed is None else f"; checkpoint {self.committed.number} stays"
        goes_on = f"nothing goes on before the {waits} one" if waits else "training goes on"
        return f"checkpoint {number} failed: {why}{stays}, {goes_on}; it is tried again", False

    def restore(self, keeper: Instance | None = None) -> Restore | None:
        """What a parameter server that is not ready is to begin with; None: not known yet.

        Args:
          keeper: who may have a copy of its partition.
        """
        if self.doubted is not None:
            return None
        if self.committed is None:
            return Restore("", self.routing)
        return Restore(self.committed.path, self.routing, self.committed.number, keeper)

    def refuse(self, num_ps: int) -> str:
        """Why there cannot be so many partitions; empty where there can."""
        if not 1 <= num_ps <= self.routing.num_groups:
            return (
                f"num_ps={num_ps}: there are {self.routing.num_groups} bucket groups; "
                f"give 1 to {self.routing.num_groups}"
            )
        return ""

    def ask(self, num_ps: int) -> None:
        """So many are wanted from now on; those that there are may be wanted again."""
        self.wanted = None if num_ps == self.routing.num_partitions else num_ps

    def place(self, num_ps: int, now: float | None) -> list[Note]:
        """Deal the groups out to so many partitions, which begin with the last checkpoint.

        Returns:
          What is to be said of their copies.
        """
        had_others = self.routing.num_partitions > 1
        self.routing = self.routing.dealt_to(num_ps)
        self.wanted, self._since = None, now
        if not self._has_standby or had_others == (num_ps > 1):
            return []
        return [standby(is_kept=num_ps > 1)]

    def all_are_up(self, now: float) -> list[Note]:
        """Say for how long the partitions were away for another number of them, if it was that."""
        since, self._since = self._since, None
        if since is None:
            return []
        num_ps, paused_s = self.routing.num_partitions, now - since
        are_up = f"{count_of(num_ps, 'parameter server')} {'is' if num_ps == 1 else 'are'} up"
        text = f"{are_up}: training paused for {paused_s:.1f} s"
        return [Note(RESCALED, {"num_ps": num_ps, "pause_s": paused_s}, text)]

    def training_is_over(self) -> list[Note]:
        """Say that another number of partitions will not come about, if one is still wanted."""
        wanted, self.wanted = self.wanted, None
        if wanted is None:
            return []
        reason = "training was over before the checkpoint that it waited for"
        text = f"not rescaled to {count_of(wanted, 'parameter server')}: {reason}"
        return [Note(NOT_RESCALED, {"num_ps": wanted, "reason": reason}, text)]
