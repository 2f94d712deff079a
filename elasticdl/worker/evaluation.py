"""Evaluates leased tasks, and turns the states of all of them into numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from elasticdl.model import metric_states
from elasticdl.model.metrics import Metrics
from elasticdl.phases import PHASES, Phase
from elasticdl.proto import master_pb2
from elasticdl.worker.leases import HeldTask
from elasticdl.worker.pipeline import TaskEnd
from elasticdl.worker.records import TaskRecords
from elasticdl.worker.stream import MinibatchStream, Prepared
from elasticdl.worker.two_phase import TwoPhaseModel
from elasticdl.worker.watchdog import WATCHDOG


class Evaluator:
    """Measures tasks on one worker. Used by one thread.

    Args:
      model: the model, split in two phases.
      metrics: what to measure.
      stream: minibatches with their parameters; owned by the evaluator.
      training_loss: asks the partitions for the mean training loss of an epoch, None where nothing
        of it was trained.
      read: reads records of a shard, from one to another, in their order.
    """

    def __init__(
        self,
        model: TwoPhaseModel,
        metrics: Metrics,
        stream: MinibatchStream,
        training_loss: Callable[[int], float | None],
        read: Callable[[str, int, int], TaskRecords],
    ) -> None:
        self._model = model
        self._metrics = metrics
        self._stream = stream
        self._training_loss = training_loss
        self._read = read

    def evaluate(self, held: HeldTask) -> dict[str, Any]:
        """Return a task's metric states, of how many records they are, and where those are.

        Raises:
          UserCodeError: the model's code raised.
        """
        task = held.task
        states, num_records = self._measure(task, held.records)
        return {
            "states": metric_states.to_json(states),
            "records": num_records,
            "range": [task.shard, task.start, task.end],
        }

    def _measure(
        self, task: master_pb2.Task, records: TaskRecords
    ) -> tuple[metric_states.MetricStates, int]:
        self._stream.put(task.id, records, 0, None, task.pin)
        states: metric_states.MetricStates = {}
        while not isinstance(item := self._stream.next(), TaskEnd):
            states = metric_states.merge(states, self._measure_minibatch(item))
        return states, item.num_records

    def _measure_minibatch(self, item: Prepared) -> metric_states.MetricStates:
        with PHASES.on_path(Phase.PULL_WAIT):
            pulled = item.pull.result()
        assert pulled.dense is not None
        minibatch = item.minibatch
        what = f"evaluating minibatch {minibatch.k} of task {minibatch.task_id}"
        with WATCHDOG.watching(what), PHASES.step("evaluate"):
            found = self._model.evaluation_step(
                minibatch.features,
                minibatch.labels,
                pulled.dense,
                pulled.rows,
                item.lookup.inverses,
                minibatch.sample_weights,
            )
        return self._metrics.measure(
            found.outputs,
            minibatch.labels,
            minibatch.num_records,
            found.penalty,
            minibatch.sample_weights,
            found.loss,
        )

    def summarize(self, task: master_pb2.Task) -> dict[str, Any]:
        """Return the numbers of one evaluation, from the results of all its tasks.

        The task's payload has the ``results`` of its EVALUATION tasks and, in a training, its
        ``epoch``. ``metrics`` are by name; ``logs`` are what Keras's callbacks call the same, and
        the training's loss in that epoch.
        """
        payload = json.loads(task.payload)
        metrics = self._merged(task, [json.loads(one) for one in payload["results"]])
        logs = {}
        epoch = payload.get("epoch")
        loss = None if epoch is None else self._training_loss(epoch)
        if loss is not None:
            logs["loss"] = loss
        logs |= {f"val_{name}": value for name, value in metrics.items()}
        return {"metrics": metrics, "logs": logs}

    def _merged(self, task: master_pb2.Task, results: list[Any]) -> dict[str, float]:
        results = [result for result in results if result["records"]]
        if not results:
            return {}
        # A worker that measured nothing yet does not know the metrics: it measures a task again.
        shard, start, end = results[0]["range"]
        self._measure(task, self._read(shard, start, end))
        states: metric_states.MetricStates = {}
        for result in results:
            states = metric_states.merge(states, metric_states.from_json(result["states"]))
        return self._metrics.result(states)

    def close(self) -> None:
        """End the threads."""
        self._stream.close()
