"""Sync mode on one partition: gradients wait here until their step closes, and so do those who ask.

`Lanes` decides; this keeps the gradients, averages and counts them, and lets requests wait. Every
method is called with the partition's lock held, which a wait gives up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol

import numpy as np

from elasticdl.phases import PHASES, Phase
from elasticdl.proto import ps_pb2
from elasticdl.ps.averaging import Gradients, average
from elasticdl.ps.lanes import Answer, Closing, LaneError, Lanes, Place, Verdict
from elasticdl.ps.learning_rates import decided_rate
from elasticdl.ps.norm_exchange import Known, NormExchange
from elasticdl.ps.progress import Progress
from elasticdl.ps.refusal import Refused
from elasticdl.refusals import REFUSALS, Reason

LANES_NAMED = 5


class Updates(Protocol):
    """What a step does to the parameters."""

    def prepare(self, gradients: Gradients, totals: np.ndarray | None) -> Gradients:
        """Clip, and make room for all rows; may raise MemoryError, and then nothing is changed."""
        ...

    def sums_of_squares(self, gradients: Gradients | None) -> np.ndarray | None:
        """What has to be known of all partitions before clipping; None where nothing has to be.

        Without gradients zeros: the other partitions wait for these sums all the same.
        """
        ...

    def apply(self, gradients: Gradients, learning_rate: float | None) -> None:
        """Apply what was prepared; a learning rate of None leaves it to the optimizer."""
        ...

    def closed(self, version: int) -> None:
        """The partition holds this version now."""
        ...


@dataclass(frozen=True)
class _Buffered:
    """A minibatch that waits for its step; gradients are None where they were not finite."""

    header: ps_pb2.PushHeader
    gradients: Gradients | None


@dataclass(frozen=True)
class _Average:
    """What a complete step will apply; gradients are None where no minibatch's were finite."""

    gradients: Gradients | None
    learning_rate: float | None


class SynchronousSteps:
    """The open step of a partition.

    Args:
      max_steps: steps of training in all; None for no limit.
      progress: counts minibatches as their steps close.
      updates: applies a step.
      changed: the partition's lock, and where requests wait.
      longest_wait_s: a request that waits longer is answered PS_NOT_YET.
      most_waiting: requests that may wait at a time; others are answered PS_NOT_YET at once, so
        that pushes always find a free thread.
    """

    def __init__(
        self,
        max_steps: int | None,
        progress: Progress,
        updates: Updates,
        changed: threading.Condition,
        longest_wait_s: float,
        most_waiting: int,
    ) -> None:
        self.lanes = Lanes(max_steps)
        self._progress = progress
        self._updates = updates
        self._changed = changed
        self._longest_wait_s = longest_wait_s
        self._most_waiting = most_waiting
        self._num_waiting = 0
        self._buffers: dict[int, _Buffered] = {}
        self._average: _Average | None = None
        self._norms = NormExchange()
        self._opened_ns = perf_counter_ns()

    @property
    def version(self) -> int:
        """Steps closed."""
        return self.lanes.step

    @property
    def open_ns(self) -> int:
        """For how long the open step is open."""
        return perf_counter_ns() - self._opened_ns

    # -------------------------------------------------------------------- messages

    def pull(self, lane: ps_pb2.LanePosition, k: int) -> None:
        """Return when minibatch k may be computed from what the partition holds now.

        Raises:
          Refused: it need not, or not yet.
        """
        self._wait_for(lambda: self.lanes.pull(_place(lane), k))

    def push(self, header: ps_pb2.PushHeader, read: Callable[[], Gradients]) -> int:
        """Keep a minibatch's gradients for its step; return the minibatch wanted next.

        Args:
          read: makes the gradients of the request; called only if they are wanted.

        Raises:
          Refused: an earlier minibatch is missing.
        """
        place = _place(header.lane)
        verdict = self.lanes.decide_push(place, header.k)
        if verdict.answer is Answer.PAST:
            self._progress.totals.repeats_dropped += 1
            REFUSALS.note(Reason.REPLAYED)
            return verdict.next
        if verdict.answer is not Answer.GO:
            raise _refusal(verdict)
        if header.version != self.version:
            raise LaneError(f"computed from version {header.version}; step {self.version} is open")
        buffered = _Buffered(header, None if header.skip else read())
        self.lanes.take(place, header.digest_after)
        self._buffers[place.lane] = buffered
        return header.k + 1

    def close(self, header: ps_pb2.PushHeader) -> None:
        """Close a task, once the step of its last minibatch has closed.

        Raises:
          Refused: not yet, or minibatches are missing.
        """
        attempt, start = header.lane.attempt, header.lane.start
        closing = Closing(header.k, header.emitted_records, header.limited, attempt, start)

        def ask() -> Verdict:
            verdict = self.lanes.close(_place(header.lane), closing)
            if verdict.answer is Answer.GO:
                decision = self._progress.decide(header.task, header.k - start, attempt)
                self._progress.close(
                    decision,
                    header.task,
                    header.task_records,
                    header.emitted_records,
                    header.limited,
                )
                self._changed.notify_all()  # Somebody may wait to begin the task after it.
            return verdict

        self._wait_for(ask, past_is_done=True)

    def task_progress(self, lane: ps_pb2.LanePosition) -> ps_pb2.TaskProgressReply:
        """Which minibatch of a task is wanted next, or how it was closed."""
        place = _place(lane)
        verdict = self.lanes.progress(place)
        reading = verdict.reading
        if verdict.answer is Answer.OLD:
            return ps_pb2.TaskProgressReply(status=ps_pb2.PS_OLD_ATTEMPT)
        return ps_pb2.TaskProgressReply(
            next=verdict.next,
            closing=_closing(verdict),
            early=self.lanes.is_early(place),
            attempt=reading.attempt,
            start=reading.start,
            digest=reading.digest,
            version=self.version,
        )

    def get_norms(self, step: int) -> ps_pb2.StepNorms:
        """This partition's sums of squares of a step."""
        known, sums = self._norms.ask(step)
        if known is Known.NOT_YET:
            return ps_pb2.StepNorms(status=ps_pb2.PS_NOT_YET)
        # Of a step long closed nobody needs them: whoever asks finds out when it asks for more.
        return ps_pb2.StepNorms(step=step, sums=sums if sums is not None else [])

    def set_norms(self, step: int, totals: Sequence[float]) -> None:
        """Close the step that waits for these totals, if it does."""
        array = np.array(totals, np.float64)
        if self._norms.accepts(step, array):
            self._close_step(array)

    # --------------------------------------------------------------------- waiting

    def _wait_for(self, ask: Callable[[], Verdict], past_is_done: bool = False) -> None:
        """Ask until the answer is GO; raise Refused for any other that will not change soon."""
        deadline = time.monotonic() + self._longest_wait_s
        while True:
            verdict = ask()
            closed = self._close_if_complete()
            if verdict.answer is Answer.GO or (past_is_done and verdict.answer is Answer.PAST):
                return
            if verdict.answer is not Answer.WAIT:
                raise _refusal(verdict)
            if closed:
                continue
            if self._norms.is_waiting:
                raise Refused(ps_pb2.PS_NORMS_WANTED, version=self.version)
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._num_waiting >= self._most_waiting:
                raise Refused(ps_pb2.PS_NOT_YET, self._what_is_awaited(), version=self.version)
            self._num_waiting += 1
            try:
                self._changed.wait(left_s)
            finally:
                self._num_waiting -= 1

    def _what_is_awaited(self) -> str:
        lanes = self.lanes.awaited
        named = ", ".join(map(str, lanes[:LANES_NAMED]))
        rest = f" and {len(lanes) - LANES_NAMED} more" if len(lanes) > LANES_NAMED else ""
        return f"step {self.version} waits for lane{'s' if len(lanes) > 1 else ''} {named}{rest}"

    # --------------------------------------------------------------------- closing

    def _close_if_complete(self) -> bool:
        """Close the open step if every live lane is there, and no totals have to come first."""
        if not self.lanes.is_complete or self._norms.is_waiting:
            return False
        if self._average is None:
            self._average = self._make_average()
        sums = self._updates.sums_of_squares(self._average.gradients)
        if sums is None:
            self._close_step(None)
            return True
        self._norms.offer(self.version, sums)
        self._changed.notify_all()
        return False

    def _make_average(self) -> _Average:
        in_order = [self._buffers[lane] for lane in sorted(self._buffers)]
        finite = [one for one in in_order if one.gradients is not None]
        if not finite:
            return _Average(None, None)
        gradients = average(
            [one.gradients for one in finite if one.gradients is not None],
            [one.header.num_records for one in finite],
        )
        return _Average(gradients, decided_rate(in_order[0].header))

    def _close_step(self, totals: np.ndarray | None) -> None:
        with PHASES.measure(Phase.APPLY):
            self._apply_step(totals)
        self._opened_ns = perf_counter_ns()

    def _apply_step(self, totals: np.ndarray | None) -> None:
        assert self._average is not None
        gradients = self._average.gradients
        if gradients is not None:
            gradients = self._updates.prepare(gradients, totals)
        # Nothing fails from here on: parameters, lanes and progress change together.
        for lane in self.lanes.close_step():
            self._count(self._buffers.pop(lane).header)
        if gradients is not None:
            self._updates.apply(gradients, self._average.learning_rate)
        self._average = None
        self._norms.close()
        self._changed.notify_all()
        self._updates.closed(self.version)

    def _count(self, header: ps_pb2.PushHeader) -> None:
        position = header.lane
        if header.k < position.start:
            return  # It filled the place of a minibatch that is trained again.
        attempt = position.attempt
        decision = self._progress.decide(header.task, header.k - position.start, attempt)
        if header.skip:
            self._progress.skip(decision, header.task, header.num_records)
        else:
            self._progress.advance(
                decision, header.task, header.epoch, header.num_records, header.loss
            )


def _place(lane: ps_pb2.LanePosition) -> Place:
    return Place(
        lane.epoch,
        lane.lane,
        lane.position,
        lane.num_lanes,
        lane.last,
        lane.grant,
        lane.attempt,
        lane.start,
    )


def _closing(verdict: Verdict) -> ps_pb2.TaskClosing | None:
    closing = verdict.closing
    if closing is None:
        return None
    return ps_pb2.TaskClosing(
        num_minibatches=closing.num_minibatches,
        emitted_records=closing.emitted_records,
        limited=closing.limited,
        attempt=closing.attempt,
        start=closing.start,
    )


def _refusal(verdict: Verdict) -> Refused:
    if verdict.answer is Answer.FINISHED:
        return Refused(ps_pb2.PS_FINISHED)
    if verdict.answer is Answer.OLD:
        return Refused(ps_pb2.PS_OLD_ATTEMPT, "the lane was granted to another worker")
    status = ps_pb2.PS_PAST if verdict.answer is Answer.PAST else ps_pb2.PS_OUT_OF_ORDER
    return Refused(status, next_wanted=verdict.next, closing=_closing(verdict))
