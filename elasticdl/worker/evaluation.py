"""Evaluates leased tasks, and turns the states of all of them into numbers."""

from __future__ import annotations

import json
from typing import Any

from elasticdl.model import metric_states
from elasticdl.model.metrics import Metrics
from elasticdl.proto import master_pb2
from elasticdl.worker.leases import HeldTask
from elasticdl.worker.pipeline import TaskEnd
from elasticdl.worker.records import read_task_records
from elasticdl.worker.stream import MinibatchStream, Prepared
from elasticdl.worker.two_phase import TwoPhaseModel

# Enough of them to make the metrics known to a worker that measured none itself.
SAMPLE_RECORDS = 8


class Evaluator:
    """Measures tasks on one worker. Used by one thread.

    Args:
      model: the model, split in two phases.
      metrics: what to measure.
      stream: minibatches with their parameters; owned by the evaluator.
      max_chunk_bytes: the largest RecordIO chunk accepted.
    """

    def __init__(
        self, model: TwoPhaseModel, metrics: Metrics, stream: MinibatchStream, max_chunk_bytes: int
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._stream = stream
        self._max_chunk_bytes = max_chunk_bytes

    def evaluate(self, held: HeldTask) -> dict[str, Any]:
        """Return a task's metric states, and where records are that others can measure again.

        Raises:
          UserCodeError: the model's code raised.
        """
        states = self._measure(held.task.id, held.records)
        sample = [
            held.task.shard,
            held.task.start,
            min(held.task.end, held.task.start + SAMPLE_RECORDS),
        ]
        return {"states": metric_states.to_json(states), "sample": sample}

    def _measure(self, task: int, records: list[bytes]) -> metric_states.MetricStates:
        self._stream.put(task, records, 0, None)
        states: metric_states.MetricStates = {}
        while not isinstance(item := self._stream.next(), TaskEnd):
            states = metric_states.merge(states, self._measure_minibatch(item))
        return states

    def _measure_minibatch(self, item: Prepared) -> metric_states.MetricStates:
        pulled = item.pull.result()
        assert pulled.dense is not None
        minibatch = item.minibatch
        outputs = self._model.forward(
            minibatch.features, pulled.dense, pulled.rows, item.lookup.inverses
        )
        return self._metrics.measure(outputs, minibatch.labels, minibatch.num_records)

    def summarize(self, task: master_pb2.Task) -> dict[str, Any]:
        """Return the metrics over all evaluation tasks, whose results are the task's payload."""
        results = [json.loads(one) for one in json.loads(task.payload)]
        if not results:
            return {"metrics": {}}
        shard, start, end = results[0]["sample"]
        self._measure(task.id, read_task_records(shard, start, end, None, self._max_chunk_bytes))
        states: metric_states.MetricStates = {}
        for result in results:
            states = metric_states.merge(states, metric_states.from_json(result["states"]))
        return {"metrics": self._metrics.result(states)}

    def close(self) -> None:
        """End the threads."""
        self._stream.close()
