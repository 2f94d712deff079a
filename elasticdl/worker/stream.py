"""Minibatches with their parameters on the way: reads, deduplicates and pulls ahead of the step.

Dense variables that were pulled serve several minibatches where that is allowed: all that are
measured with one image of the parameters, and in training as many as the staleness leaves room for.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from elasticdl.phases import PHASES, Phase, Track
from elasticdl.ps.client import ParameterClient
from elasticdl.ps.pulling import Lookup, PendingPull, Pulled
from elasticdl.worker.pipeline import Minibatch, TaskEnd, TaskPipeline
from elasticdl.worker.records import TaskRecords

_CHECK_S = 0.5
_LONGEST_USE_S = 1.0


@dataclass(frozen=True)
class Prepared:
    """A minibatch, its deduplicated ids, and the pull of its parameters under way."""

    minibatch: Minibatch
    lookup: Lookup
    pull: PendingPull


Item = Prepared | TaskEnd


@dataclass(frozen=True)
class DenseUse:
    """How long dense variables that were pulled are used.

    Attributes:
      minibatches: in a row, that one pull serves; the wait before it is that of the last of them.
      seconds: no minibatch that comes later than that takes it.
    """

    minibatches: float
    seconds: float = math.inf

    @classmethod
    def within(cls, staleness: int) -> DenseUse:
        """Return what a staleness leaves room for while pulls still go on beside steps.

        With one of 2, every second minibatch pulls once all pushes but the last are acknowledged;
        the next one, which takes the same, then has seen all but its last two.
        """
        return cls(1 + staleness // 2, _LONGEST_USE_S)

    @classmethod
    def forever(cls) -> DenseUse:
        """Return that of parameters that do not change."""
        return cls(math.inf)


@dataclass(frozen=True)
class _DensePull:
    """The last pull of dense variables.

    pin: of which image; last: position of the last minibatch that it may serve; until: likewise, a
    time of `time.monotonic`.
    """

    pull: PendingPull
    pin: int
    last: float
    until: float

    def serves(self, position: int, pin: int) -> bool:
        return pin == self.pin and position <= self.last and time.monotonic() <= self.until


class MinibatchStream:
    """What a task pipeline yields, with pulls started; items are numbered by position from 0.

    Args:
      pipeline: yields minibatches of the tasks put in; owned by the stream from now on.
      client: where to pull from.
      before_pull: called with an item's position before its pull leaves; may wait.
      most_ahead: items that may be ready before they are asked for.
      dense_use: how long dense variables that were pulled are used.
      pulls: whether to pull at all; without, whoever takes an item pulls.
    """

    def __init__(
        self,
        pipeline: TaskPipeline,
        client: ParameterClient,
        before_pull: Callable[[int], None] = lambda position: None,
        most_ahead: int = 2,
        dense_use: DenseUse | None = None,
        pulls: bool = True,
    ) -> None:
        self._pipeline = pipeline
        self._client = client
        self._before_pull = before_pull
        self._pulls = pulls
        self._dense_use = dense_use or DenseUse(1)
        self._dense: _DensePull | None = None
        self._items: queue.Queue[Item | BaseException] = queue.Queue(max(1, most_ahead))
        self._pins: dict[int, int] = {}
        self._closed = threading.Event()
        self._preparing = Track(PHASES)
        self._thread = threading.Thread(target=self._prepare_all, name="stream", daemon=True)
        self._thread.start()

    def put(
        self,
        task: int,
        records: TaskRecords,
        first_minibatch: int,
        max_minibatches: int | None,
        pin: int = 0,
    ) -> None:
        """Add a task; its items come after those of the tasks before.

        Args:
          task: its id.
          records: in the order they are to be read.
          first_minibatch: those before are not wanted.
          max_minibatches: how many are wanted at most.
          pin: whose parameters are pulled; 0 for the current ones.
        """
        self._pins[task] = pin
        self._pipeline.put(task, records, first_minibatch, max_minibatches)

    def next(self) -> Item:
        """Wait for the next item.

        Raises:
          UserCodeError: the input function raised.
          Exception: what `before_pull` or a pull raised.
        """
        try:
            item = self._items.get_nowait()
        except queue.Empty:
            with PHASES.waiting_for_minibatch(self._preparing, self._pipeline.starving):
                item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """End pipeline and thread; items not taken are dropped."""
        self._closed.set()
        self._pipeline.close()
        self._thread.join(30.0)
        self._pipeline.release()

    def _prepare_all(self) -> None:
        try:
            for position in itertools.count():
                with self._preparing.measure(Phase.PARSE, self._pipeline.starving):
                    element = next(self._pipeline, None)
                if element is None:
                    return
                if isinstance(element, TaskEnd):
                    self._pins.pop(element.task_id, None)
                    self._dense = None  # It is large, and a next task may be long in coming.
                    self._hand_over(element)
                    continue
                pin = self._pins.get(element.task_id, 0)
                with self._preparing.measure(Phase.COLLECT):
                    lookup = self._client.prepare(element.ids)
                pull = self._pull(position, lookup, pin)
                self._hand_over(Prepared(element, lookup, pull))
        except _Closed:
            pass
        except BaseException as error:
            with contextlib.suppress(_Closed):
                self._hand_over(error)

    def _pull(self, position: int, lookup: Lookup, pin: int) -> PendingPull:
        if not self._pulls:
            return PendingPull(_no_pull)
        dense, use = self._dense, self._dense_use
        if dense is not None and dense.serves(position, pin):
            self._client.check()  # No answer of a partition tells that it is another one now.
            return self._pull_rows(position, lookup, dense)
        last = position + use.minibatches - 1
        with self._preparing.measure(Phase.PUSH_WAIT):
            self._before_pull(position if math.isinf(last) else int(last))
        with self._preparing.measure(Phase.COLLECT):
            pull = self._client.start_pull(lookup, pin=pin)
        self._dense = _DensePull(pull, pin, last, time.monotonic() + use.seconds)
        return pull

    def _pull_rows(self, position: int, lookup: Lookup, dense: _DensePull) -> PendingPull:
        """Pull a minibatch's rows, if it has any, for dense variables that were pulled before."""
        if not lookup.unique:
            return dense.pull
        with self._preparing.measure(Phase.PUSH_WAIT):
            self._before_pull(position)
        with self._preparing.measure(Phase.COLLECT):
            rows = self._client.start_pull(lookup, dense=False, pin=dense.pin)
        return PendingPull(lambda: rows.result().with_dense_of(dense.pull.result()))

    def _hand_over(self, item: Item | BaseException) -> None:
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=_CHECK_S)
                return
            except queue.Full:
                continue
        raise _Closed


def _no_pull() -> Pulled:
    raise AssertionError("the stream does not pull")


class _Closed(Exception):
    """The stream was closed while an item waited to be taken."""
