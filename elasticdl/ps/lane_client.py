"""What a worker asks the partitions for a lane: the messages of sync mode, and their waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

from elasticdl.phases import PHASES, Phase
from elasticdl.proto import ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.client import (
    DEADLINE_S,
    Answer,
    ParameterClient,
    TaskRewound,
)
from elasticdl.ps.pulling import Lookup, Pulled
from elasticdl.rpc import DeadlinePassed, Frame, Placement, RpcUnavailable

logger = logging.getLogger(__name__)

CHECK_S = 0.5
FIRST_PAUSE_S = 0.002
LONGEST_PAUSE_S = 0.1
LONGEST_UNAVAILABLE_PAUSE_S = 1.0
TELL_S = 30.0
MOST_WAITED_S = 600.0

_EXPECTED = (
    ps_pb2.PS_OK,
    ps_pb2.PS_NOT_YET,
    ps_pb2.PS_NORMS_WANTED,
    ps_pb2.PS_PAST,
    ps_pb2.PS_FINISHED,
    ps_pb2.PS_OUT_OF_ORDER,
)


@dataclass(frozen=True)
class Past:
    """The minibatch is everywhere; `next` is the first of its task that may not be.

    closing: how the task was closed, where it was and its epoch is not over.
    """

    next: int
    closing: ps_pb2.TaskClosing | None


@dataclass(frozen=True)
class Finished:
    """The minibatch's step is beyond `max_steps`."""


class LaneClient:
    """The messages of lanes. Thread-safe: each lane's thread calls it for itself.

    Args:
      client: whose partitions.
    """

    def __init__(self, client: ParameterClient) -> None:
        self._client = client
        self._num_partitions = client.num_partitions
        self._pool = ThreadPoolExecutor(max(4, 2 * self._num_partitions), thread_name_prefix="push")

    def pull(self, lane: ps_pb2.LanePosition, k: int, lookup: Lookup) -> Pulled | Past | Finished:
        """Wait until minibatch k of the lane's task may be computed, and bring what it needs.

        Every partition must have acknowledged the minibatch before: this says so to them.

        Raises:
          TaskRewound: an earlier minibatch is missing somewhere.
          StaleCluster: a partition moved.
          DeadlinePassed: a partition, or another lane, was not heard of for long.
          GaveUp: the job is over.
        """
        dtype = self._client.wire_dtype
        header = ps_pb2.PullHeader(dense=True, lane=lane, k=k, dtype=dtype)
        requests = self._client.pull_requests(lookup, header)
        incoming = self._client.incoming(lookup, header)
        began_ns = perf_counter_ns()
        answers = self._ask_all("Pull", requests, incoming.placements)
        _count_wait(began_ns, answers)
        past = [reply for reply, _ in answers if reply.status == ps_pb2.PS_PAST]
        if past:
            closings = [reply.closing for reply in past if reply.HasField("closing")]
            return Past(max(reply.next for reply in past), closings[0] if closings else None)
        if any(reply.status == ps_pb2.PS_FINISHED for reply, _ in answers):
            return Finished()
        return self._client.pulled(incoming, answers)

    def push(
        self,
        header: ps_pb2.PushHeader,
        versions: Sequence[int],
        lookup: Lookup | None = None,
        row_gradients: Sequence[np.ndarray] = (),
        dense_gradients: np.ndarray | None = None,
    ) -> int:
        """Push a minibatch to all partitions; return the lowest that is wanted next.

        Args:
          versions: of each partition, what it was computed from.
          lookup: None where the minibatch is to be skipped.

        Raises:
          As `pull`.
        """

        def send(index: int) -> int:
            own = ps_pb2.PushHeader()
            own.CopyFrom(header)
            own.version = versions[index]
            wanted, in_order = self._client.push(index, own, lookup, row_gradients, dense_gradients)
            if not in_order:
                raise TaskRewound(
                    f"task {header.task}: partition {index} wants minibatch {wanted} first"
                )
            return wanted

        if self._num_partitions == 1:
            return send(0)
        calls = [self._pool.submit(send, index) for index in range(self._num_partitions)]
        pending = set(calls)
        while pending:
            done, pending = wait(pending, timeout=CHECK_S, return_when=FIRST_EXCEPTION)
            for call in done:
                call.result()
            self._client.check()
        return min(call.result() for call in calls)

    def fill(self, header: ps_pb2.PushHeader, index: int) -> None:
        """Let one partition count nothing as a minibatch that others have taken, and it has not.

        Raises:
          As `pull`.
        """
        _, in_order = self._client.push(index, header)
        if not in_order:
            raise TaskRewound(f"task {header.task}: partition {index} cannot take {header.k} now")

    def close_task(self, header: ps_pb2.PushHeader) -> None:
        """Close the lane's task everywhere, once the steps of all its minibatches have closed.

        Raises:
          As `pull`.
        """
        requests = []
        for index in range(self._num_partitions):
            own = ps_pb2.PushHeader()
            own.CopyFrom(header)
            requests.append(frames.pack(self._client.addressed(index, own)))
        self._ask_all("Push", requests, [None] * self._num_partitions)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False)

    # --------------------------------------------------------------------- waiting

    def _ask_all(
        self, method: str, requests: Sequence[Frame], placements: Sequence[Placement | None]
    ) -> list[Answer]:
        """Ask every partition until each gave an answer that will not change."""
        waits = [
            _Wait(self._client, index, method, request, placement)
            for index, (request, placement) in enumerate(zip(requests, placements, strict=True))
        ]
        while True:
            pending = {one.call: one for one in waits if one.call is not None}
            if pending:
                ready, _ = wait(pending, timeout=CHECK_S, return_when=FIRST_COMPLETED)
                for call in ready:
                    self._take(pending[call])
            if all(one.answer is not None for one in waits):
                return [one.answer for one in waits if one.answer is not None]
            self._client.check()
            now = time.monotonic()
            resting = [one for one in waits if one.answer is None and one.call is None]
            for one in resting:
                if one.send_at <= now:
                    one.send()
            if not any(one.call is not None for one in waits):
                time.sleep(max(0.0, min(one.send_at for one in resting) - time.monotonic()))

    def _take(self, one: _Wait) -> None:
        """Take a partition's reply."""
        status, version = one.receive()
        if status == ps_pb2.PS_NORMS_WANTED:
            self._exchange_norms(version)
        if one.answer is not None and status == ps_pb2.PS_OUT_OF_ORDER:
            raise TaskRewound(
                f"{self._client.name(one.index)} wants minibatch {one.answer[0].next} first"
            )

    def _exchange_norms(self, step: int) -> None:
        """Tell every partition the sums of squares over all; any number of workers may do it."""
        totals: np.ndarray | None = None
        for index, incarnation in enumerate(self._client.incarnations):
            request = ps_pb2.StepNormsRequest(incarnation=incarnation, step=step)
            reply = self._client.call(index, "GetStepNorms", request)
            if reply.status == ps_pb2.PS_NOT_YET:
                return
            if reply.status != ps_pb2.PS_OK:
                raise self._client.refusal(index, reply.status)
            if not reply.sums:  # The step closed long ago.
                return
            sums = np.array(reply.sums, np.float64)
            totals = sums if totals is None else totals + sums
        assert totals is not None
        for index, incarnation in enumerate(self._client.incarnations):
            told = ps_pb2.StepNorms(incarnation=incarnation, step=step, sums=totals)
            told_reply = self._client.call(index, "SetStepNorms", told)
            if told_reply.status != ps_pb2.PS_OK:
                raise self._client.refusal(index, told_reply.status, told_reply.message)


def _count_wait(began_ns: int, answers: Sequence[Answer]) -> None:
    """Count a pull: until its step was open everywhere it waited for other lanes."""
    now_ns = perf_counter_ns()
    opened_ns = max(began_ns, now_ns - min(reply.open_ns for reply, _ in answers))
    PHASES.add(Phase.BARRIER_WAIT, began_ns, opened_ns, is_on_path=True)
    PHASES.add(Phase.PULL_WAIT, opened_ns, now_ns, is_on_path=True)


class _Wait:
    """One partition that is asked until its answer is final: a call under way, or a rest."""

    def __init__(
        self,
        client: ParameterClient,
        index: int,
        method: str,
        request: Frame,
        placement: Placement | None,
    ) -> None:
        self.index = index
        self.answer: Answer | None = None
        self.call: Future[Frame] | None = None
        self.send_at = 0.0
        self._client = client
        self._method = method
        self._request = request
        self._placement = placement
        self._since = self._told = time.monotonic()
        self._unavailable_since: float | None = None
        self._version = -1
        self._sent = 0.0
        self._pause_s = FIRST_PAUSE_S
        self.send()

    def send(self) -> None:
        """Ask."""
        self._sent = time.monotonic()
        self.call = self._client.start(self.index, self._method, self._request, self._placement)

    def receive(self) -> tuple[int, int]:
        """Take the reply of a call that is done; return its status and version."""
        assert self.call is not None
        call, self.call = self.call, None
        try:
            reply, buffers = self._client.read(self.index, call.result(), _EXPECTED)
        except RpcUnavailable as error:
            self._rest_unavailable(error)
            return ps_pb2.PS_NOT_YET, self._version
        self._unavailable_since = None
        if reply.status in (ps_pb2.PS_NOT_YET, ps_pb2.PS_NORMS_WANTED):
            self._rest(reply)
        else:
            self.answer = reply, buffers
        return reply.status, reply.version

    def _rest(self, reply: ps_pb2.PsReply) -> None:
        now = time.monotonic()
        if reply.version != self._version:
            self._version = reply.version
            self._since = self._told = now
        waited_s = now - self._since
        what = reply.message or f"step {reply.version} waits for the norms of all partitions"
        if waited_s > MOST_WAITED_S:
            raise DeadlinePassed(f"{self._client.name(self.index)}: {what}, for {waited_s:.0f} s")
        if now - self._told > TELL_S:
            self._told = now
            logger.warning("%s: %s, for %.0f s", self._client.name(self.index), what, waited_s)
        # It may have waited there; if it was sent away at once, it comes back a little later.
        if now - self._sent > LONGEST_PAUSE_S or reply.status == ps_pb2.PS_NORMS_WANTED:
            self._pause_s = FIRST_PAUSE_S
        self.send_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _rest_unavailable(self, error: RpcUnavailable) -> None:
        now = time.monotonic()
        if self._unavailable_since is None:
            self._unavailable_since = now
        waited_s = now - self._unavailable_since
        if waited_s > DEADLINE_S:
            raise DeadlinePassed(
                f"{self._client.name(self.index)} did not answer {self._method} within "
                f"{waited_s:.1f} s: {error}"
            )
        self.send_at = now + min(max(0.02, waited_s), LONGEST_UNAVAILABLE_PAUSE_S)
