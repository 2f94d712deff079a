"""The lanes of sync mode on one partition: what each wants next, what waits, when a step closes.

Pure: no thread, clock, network or arithmetic on gradients. Handling a message twice has the effect
of once. docs/decisions/sync-mode.md says why no version of the parameters is ever needed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from elasticdl.ps.progress import CLOSED

MAX_LANES = 1 << 16


class Answer(Enum):
    """What a message of a lane is answered with.

    GO: do it: serve the parameters, take the gradients, count the task as closed.
    WAIT: its step is not open yet; the same message will be answered differently later.
    PAST: it has been done. `Verdict.next` is the first that may still have to be computed.
    AHEAD: something that comes before it is missing; `Verdict.next` is wanted first.
    FINISHED: the step it belongs to is beyond `max_steps`.
    OLD: somebody who was granted a task of the lane later has been heard of.
    """

    GO = 0
    WAIT = 1
    PAST = 2
    AHEAD = 3
    FINISHED = 4
    OLD = 5


class LaneError(ValueError):
    """The message does not fit what the lanes are: sender or input function are wrong."""


@dataclass(frozen=True)
class Place:
    """Where a task stands: at a position of one of the lanes of an epoch; `last` ends its lane.

    And who speaks of it: `grant` is of the lease; `attempt` grows when the task begins anew, and
    `start` is its first minibatch: they are numbered on over all attempts.
    """

    epoch: int
    lane: int
    position: int
    num_lanes: int
    last: bool
    grant: int = 0
    attempt: int = 0
    start: int = 0


@dataclass(frozen=True)
class Reading:
    """Which attempt the minibatches taken last are of, its first, and the digest of all of its."""

    attempt: int = 0
    start: int = 0
    digest: int = 0


@dataclass(frozen=True)
class Closing:
    """How a task was closed.

    num_minibatches: how many it had, of all attempts. emitted_records: what those of the last were
    of. limited: `max_steps` ended it, not the end of its records. attempt, start: as of `Place`.
    """

    num_minibatches: int
    emitted_records: int
    limited: bool
    attempt: int = 0
    start: int = 0


@dataclass(frozen=True)
class Verdict:
    """An answer; `closing` where the task was closed in this epoch, `reading` where it is open."""

    answer: Answer
    next: int = 0
    closing: Closing | None = None
    reading: Reading = Reading()


@dataclass(frozen=True)
class LaneState:
    """A lane at the close of a step: tasks closed, the minibatch wanted next of the one after."""

    closings: tuple[Closing, ...]
    next: int
    has_ended: bool
    reading: Reading = Reading()


@dataclass(frozen=True)
class LanesState:
    """All lanes at the close of a step, as a snapshot has them: what waited is wanted again."""

    step: int
    epoch: int
    lanes: tuple[LaneState, ...]


def lowest(states: Sequence[LanesState]) -> LanesState:
    """Return where partitions that closed the same step begin again together.

    Of what they applied they know the same. One may have closed a task, or begun an epoch, that
    another has not yet; it is told again. Where one has a filler in the place of what another
    has, the task begins anew for all.

    Raises:
      ValueError: they did not close the same step, or have different lanes.
    """
    if len({state.step for state in states}) != 1:
        raise ValueError("the parts are of different steps")
    epoch = min(state.epoch for state in states)
    states = [state for state in states if state.epoch == epoch]
    if len({len(state.lanes) for state in states}) != 1:
        raise ValueError("the parts have different lanes")
    lanes = tuple(
        min(same, key=lambda lane: (len(lane.closings), lane.next, -lane.reading.attempt))
        for same in zip(*(state.lanes for state in states), strict=True)
    )
    return LanesState(states[0].step, epoch, lanes)


@dataclass
class _Lane:
    """One lane: tasks closed so far, the minibatch wanted next, and the one that waits, if any.

    reading: of what was taken of the open task. reading_at_close: likewise, when the last step
    closed, so without the one that waits. newest_grant: of those who were heard of.
    """

    closings: list[Closing] = field(default_factory=list)
    next: int = 0
    is_buffered: bool = False
    is_confirmed: bool = False
    has_ended: bool = False
    reading: Reading = Reading()
    reading_at_close: Reading = Reading()
    newest_grant: int = 0

    @property
    def position(self) -> int:
        return len(self.closings)

    @property
    def lowest_needed(self) -> int:
        """All minibatches below are known to be on every partition."""
        return self.next - 1 if self.is_buffered and not self.is_confirmed else self.next

    def hears(self, place: Place) -> bool:
        """Note the grant of a message; return whether none newer has been heard of."""
        self.newest_grant = max(self.newest_grant, place.grant)
        return place.grant == self.newest_grant


class Lanes:
    """All lanes of a partition. Not thread-safe.

    Args:
      max_steps: steps of training in all; None for no limit.

    Attributes:
      step: steps closed, all epochs.
      epoch: the one its lanes are of; −1 before the first.
    """

    def __init__(self, max_steps: int | None = None) -> None:
        self.step = 0
        self.epoch = -1
        self._max_steps = max_steps
        self._lanes: list[_Lane] = []

    # ---------------------------------------------------------------- what it knows

    @property
    def is_complete(self) -> bool:
        """Whether the open step has a confirmed minibatch of every live lane, and may close."""
        live = [lane for lane in self._lanes if not lane.has_ended]
        return bool(live) and all(lane.is_confirmed for lane in live)

    @property
    def awaited(self) -> list[int]:
        """The lanes that the open step still waits for."""
        return [
            number
            for number, lane in enumerate(self._lanes)
            if not lane.has_ended and not lane.is_confirmed
        ]

    @property
    def is_finished(self) -> bool:
        """Whether all steps that are wanted are closed."""
        return self._max_steps is not None and self.step >= self._max_steps

    def state(self) -> LanesState:
        """Return what a snapshot keeps: minibatches that wait for the open step are no part."""
        return LanesState(
            self.step,
            self.epoch,
            tuple(
                LaneState(
                    tuple(lane.closings),
                    lane.next - lane.is_buffered,
                    lane.has_ended,
                    lane.reading_at_close,
                )
                for lane in self._lanes
            ),
        )

    def restore(self, state: LanesState) -> None:
        """Begin again where a snapshot was."""
        self.step, self.epoch = state.step, state.epoch
        self._lanes = [
            _Lane(
                closings=list(lane.closings),
                next=lane.next,
                has_ended=lane.has_ended,
                reading=lane.reading,
                reading_at_close=lane.reading,
            )
            for lane in state.lanes
        ]

    def is_early(self, place: Place) -> bool:
        """Whether an earlier task of its lane is not closed yet."""
        self._check(place)
        if place.epoch != self.epoch:
            return place.epoch > self.epoch
        return place.position > self._lanes[place.lane].position

    def progress(self, place: Place) -> Verdict:
        """Say where a task stands; `PAST` where it is closed, `OLD` where it is somebody else's.

        Nothing of it changes any more but by whoever asks, or was granted it later.
        """
        self._check(place)
        if place.epoch < self.epoch:
            return Verdict(Answer.PAST, CLOSED)
        if not self._reaches(place):
            return Verdict(Answer.GO)
        lane = self._lanes[place.lane]
        if place.position < lane.position:
            return Verdict(Answer.PAST, CLOSED, lane.closings[place.position])
        if place.position > lane.position:
            return Verdict(Answer.GO)
        if not lane.hears(place):
            return Verdict(Answer.OLD)
        return Verdict(Answer.GO, lane.next, reading=lane.reading)

    # -------------------------------------------------------------------- messages

    def pull(self, place: Place, k: int) -> Verdict:
        """Somebody wants to compute minibatch k, and so says that every partition has k − 1."""
        lane, verdict = self._find(place)
        if lane is None:
            return verdict
        if k < lane.lowest_needed:
            return Verdict(Answer.PAST, lane.lowest_needed)
        if k > lane.next:
            return Verdict(Answer.AHEAD, lane.next)
        if not lane.is_buffered:
            return Verdict(Answer.FINISHED if self.is_finished else Answer.GO, k)
        if k < lane.next:  # Buffered and not confirmed: another partition may lack it.
            return Verdict(Answer.GO, k)
        lane.is_confirmed = True
        return Verdict(Answer.WAIT, k)

    def decide_push(self, place: Place, k: int) -> Verdict:
        """Say what a push of minibatch k means; on `GO`, `take` it.

        Before its attempt's first it fills the place of one that other partitions have taken.
        """
        lane, verdict = self._find(place)
        if lane is None:
            return Verdict(Answer.AHEAD) if verdict.answer is Answer.WAIT else verdict
        if k < lane.next:
            return Verdict(Answer.PAST, lane.next)
        if k > lane.next or lane.is_buffered or self.is_finished:
            return Verdict(Answer.AHEAD, lane.next)
        return Verdict(Answer.GO, k)

    def take(self, place: Place, digest: int = 0) -> None:
        """Note that the minibatch wanted next is buffered.

        Args:
          digest: of the minibatches of its attempt up to it.
        """
        lane = self._lanes[place.lane]
        assert not lane.is_buffered
        lane.is_buffered = True
        is_filler = lane.next < place.start
        lane.reading = Reading(place.attempt, place.start, 0 if is_filler else digest)
        lane.next += 1

    def close(self, place: Place, closing: Closing) -> Verdict:
        """The task has ended, and every partition has its last minibatch.

        `GO` is answered once: the task has just been closed.

        Raises:
          LaneError: more minibatches of the task than it is said to have were taken.
        """
        lane, verdict = self._find(place)
        if lane is None:
            return verdict
        if closing.num_minibatches < lane.next:
            raise LaneError(
                f"closed after {closing.num_minibatches} minibatches, but {lane.next} were taken"
            )
        if closing.num_minibatches > lane.next:
            return Verdict(Answer.AHEAD, lane.next)
        if lane.is_buffered:
            lane.is_confirmed = True
            return Verdict(Answer.WAIT)
        lane.closings.append(closing)
        lane.next = 0
        lane.reading = lane.reading_at_close = Reading()
        lane.has_ended = place.last
        return Verdict(Answer.GO, CLOSED, closing)

    def close_step(self) -> list[int]:
        """Close the open step, which is complete; return the lanes that are in it, in order."""
        assert self.is_complete
        numbers = [number for number, lane in enumerate(self._lanes) if lane.is_buffered]
        for number in numbers:
            lane = self._lanes[number]
            lane.is_buffered = lane.is_confirmed = False
            lane.reading_at_close = lane.reading
        self.step += 1
        return numbers

    # --------------------------------------------------------------------- finding

    def _find(self, place: Place) -> tuple[_Lane | None, Verdict]:
        """Return the lane, if the task is its open one; else what to answer."""
        self._check(place)
        if place.epoch < self.epoch:
            return None, Verdict(Answer.PAST, CLOSED)
        if not self._reaches(place):
            return None, Verdict(Answer.WAIT)
        lane = self._lanes[place.lane]
        if place.position < lane.position:
            return None, Verdict(Answer.PAST, CLOSED, lane.closings[place.position])
        if lane.has_ended:
            raise LaneError(f"lane {place.lane} of epoch {place.epoch} has no such task: it ended")
        if place.position > lane.position:
            return None, Verdict(Answer.WAIT)
        if not lane.hears(place):
            return None, Verdict(Answer.OLD)
        return lane, Verdict(Answer.GO)

    def _reaches(self, place: Place) -> bool:
        """Whether the lanes are of a task's epoch, or are now, as those of the one before ended."""
        if place.epoch == self.epoch + 1 and all(lane.has_ended for lane in self._lanes):
            self.epoch = place.epoch
            self._lanes = [_Lane() for _ in range(place.num_lanes)]
        return place.epoch == self.epoch

    def _check(self, place: Place) -> None:
        if (
            not 0 <= place.lane < place.num_lanes <= MAX_LANES
            or min(place.epoch, place.position, place.attempt, place.start) < 0
        ):
            raise LaneError(f"there is no {place}")
        if place.epoch == self.epoch and place.num_lanes != len(self._lanes):
            raise LaneError(
                f"epoch {self.epoch} has {len(self._lanes)} lanes, not {place.num_lanes}"
            )
