"""Trains the lanes that a worker holds, side by side: sync mode's worker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from elasticdl.heartbeat import NotAMember
from elasticdl.job_spec import JobSpec
from elasticdl.ps.client import GaveUp, ParameterClient, StaleCluster, TaskRewound
from elasticdl.ps.lane_client import LaneClient
from elasticdl.ps.pulling import Pulled
from elasticdl.rpc import DeadlinePassed, RpcError
from elasticdl.worker.failures import tell_failure
from elasticdl.worker.lane import Connection, Lane
from elasticdl.worker.leases import HeldTask, Leases
from elasticdl.worker.pipeline import TaskPipeline
from elasticdl.worker.step_results import TrainResult
from elasticdl.worker.stream import MinibatchStream, Prepared
from elasticdl.worker.training import smoothed, train_minibatch
from elasticdl.worker.two_phase import TwoPhaseModel

logger = logging.getLogger(__name__)

JOIN_S = 30.0


class SynchronousTrainer:
    """One thread for each lane that is held, one training step at a time. Thread-safe.

    Streams of lanes that have ended are used again: their pipelines are traced once.

    Args:
      spec: the job.
      model: the model, split in two phases.
      connect: makes a client of the parameter servers, that gives up when told so.
      make_pipeline: makes a training pipeline.
      leases: where tasks of lanes come from and completions go.
      leaving: set when the worker is to leave after the minibatch under way.
    """

    def __init__(
        self,
        spec: JobSpec,
        model: TwoPhaseModel,
        connect: Callable[[Callable[[], bool]], ParameterClient],
        make_pipeline: Callable[[], TaskPipeline],
        leases: Leases,
        leaving: threading.Event,
    ) -> None:
        self.loss: float | None = None
        self._spec = spec
        self._model = model
        self._connect = connect
        self._make_pipeline = make_pipeline
        self._leases = leases
        self._leaving = leaving
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._computing = threading.Lock()
        self._connection: Connection | None = None
        self._stale: list[Connection] = []
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._free: list[MinibatchStream] = []
        self._thread = threading.Thread(target=self._take_all, name="lanes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the lanes: after the minibatch under way, where they have not ended by themselves."""
        self._closed.set()
        self._thread.join(JOIN_S)
        with self._lock:
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.join(JOIN_S)
        for stream in self._free:
            stream.close()
        for connection in [*self._stale, *filter(None, [self._connection])]:
            connection.close()

    def _is_over(self) -> bool:
        return self._closed.is_set() or self._leaving.is_set()

    # ----------------------------------------------------------------- taking tasks

    def _take_all(self) -> None:
        while (held := self._leases.next_of_lanes()) is not None:
            try:
                self._take(held)
            except GaveUp:
                return
            except (RpcError, NotAMember) as error:
                self._leases.stop(error)
                return
            except Exception as error:
                if tell_failure(self._leases, held, error):
                    self._leases.give_back([held.grant])

    def _take(self, held: HeldTask) -> None:
        key = (held.task.epoch, held.task.lane.lane)
        with self._lock:
            lane = self._lanes.get(key)
        if lane is not None and self._hand_over(held, lane):
            return
        connection, stream = self._stream()
        lane = Lane(connection, stream, self._leases, self._step, self._lane_ended)
        with self._lock:
            self._lanes[key] = lane
        try:
            self._hand_over(held, lane)
        except BaseException as error:
            self._lane_ended(lane, is_clean=isinstance(error, TaskRewound), is_stale=False)
            raise

    def _hand_over(self, held: HeldTask, lane: Lane) -> bool:
        # What the master granted before it went back to a checkpoint, it may have forgotten.
        if held.cluster_version < lane.connection.client.cluster_version:
            raise TaskRewound("it was granted before parameter servers came, went or moved")
        try:
            return lane.take(held)
        except (StaleCluster, DeadlinePassed):
            self._forget_connection(lane.connection)
            raise

    def _connected(self) -> Connection:
        with self._lock:
            connection = self._connection
        if connection is None:
            client = self._connect(self._is_over)
            connection = Connection(client, LaneClient(client))
            with self._lock:
                self._connection = connection
        return connection

    def _stream(self) -> tuple[Connection, MinibatchStream]:
        """A stream, and the connection for whose partitions it prepares what it reads."""
        with self._lock:
            if self._free and self._connection is not None:
                return self._connection, self._free.pop()
        pipeline = self._make_pipeline()  # Traced while a lost parameter server is restored.
        try:
            connection = self._connected()
        except BaseException:
            pipeline.close()
            pipeline.release()
            raise
        return connection, MinibatchStream(pipeline, connection.client, pulls=False)

    # ------------------------------------------------------------- asked by the lanes

    def _step(self, held: HeldTask, item: Prepared, pulled: Pulled) -> TrainResult:
        with self._computing:
            if self._is_over():
                raise GaveUp
            result = train_minibatch(self._spec, self._model, held.task, item, pulled)
            self.loss = smoothed(self.loss, result)
            return result

    def _lane_ended(self, lane: Lane, is_clean: bool, is_stale: bool) -> None:
        if is_stale:
            self._forget_connection(lane.connection)
        with self._lock:
            for key in [key for key, one in self._lanes.items() if one is lane]:
                del self._lanes[key]
            is_current = lane.connection is self._connection
            keeps = is_clean and is_current and not self._closed.is_set()
            if keeps:
                self._free.append(lane.stream)
        if not keeps:
            lane.stream.close()

    def _forget_connection(self, connection: Connection | None) -> None:
        """Ask for the parameter servers anew; lanes that use these now end by themselves."""
        with self._lock:
            if connection is not None and connection is self._connection:
                self._stale.append(connection)
                self._connection = None
                streams, self._free = self._free, []
            else:
                streams = []
        for stream in streams:  # They prepare what they read for the partitions of before.
            stream.close()
