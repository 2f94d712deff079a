"""Predicts leased tasks into parts, and joins the parts in input order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.data.example import decode
from elasticdl.data.predictions import PredictionWriter, merge_parts
from elasticdl.data.schema import arrays_of, schema_of
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.phases import PHASES, Phase
from elasticdl.proto import master_pb2
from elasticdl.worker.leases import HeldTask
from elasticdl.worker.pipeline import TaskEnd
from elasticdl.worker.records import TableRecords, TaskRecords
from elasticdl.worker.stream import MinibatchStream
from elasticdl.worker.two_phase import TwoPhaseModel
from elasticdl.worker.watchdog import WATCHDOG

PREDICTION = "prediction"


class Predictor:
    """Predicts tasks on one worker. Used by one thread.

    Args:
      spec: the job.
      model: the model, split in two phases.
      stream: minibatches with their parameters; owned by the predictor.
      process: given the outputs of every minibatch, at least once: a task that is predicted again,
        after its worker was lost, is processed again.
    """

    def __init__(
        self,
        spec: JobSpec,
        model: TwoPhaseModel,
        stream: MinibatchStream,
        process: Callable[[Any], None] | None = None,
    ) -> None:
        self._process = process
        self._spec = spec
        self._model = model
        self._stream = stream

    def predict(self, held: HeldTask) -> dict[str, Any]:
        """Write a task's predictions to a part; a task predicted twice has one part.

        Raises:
          UserCodeError: the model's code raised.
          UsageError: a column to keep is not there.
        """
        self._stream.put(held.task.id, held.records, 0, None)
        parts: list[dict[str, Any]] = []
        while not isinstance(item := self._stream.next(), TaskEnd):
            with PHASES.on_path(Phase.PULL_WAIT):
                pulled = item.pull.result()
            assert pulled.dense is not None
            what = f"predicting minibatch {item.minibatch.k} of {held.task.id}"
            with WATCHDOG.watching(what), PHASES.step("predict"):
                outputs = self._model.forward(
                    item.minibatch.features, pulled.dense, pulled.rows, item.lookup.inverses
                )
                if self._process is not None:
                    self._process(outputs)
            kept = _feature_columns(item.minibatch.features, self._spec.keep_columns)
            predicted = output_columns(outputs)
            _check_rows(predicted, item.minibatch.num_records)
            clash = sorted(set(kept) & set(predicted))
            if clash:
                raise UsageError(
                    f"keep_columns '{clash[0]}': is also the name of an output; rename the output"
                )
            parts.append({**kept, **predicted})
        columns = {name: _join([part[name] for part in parts]) for name in (parts or [{}])[0]}
        self._add_record_columns(columns, held)
        path = os.path.join(self._spec.parts_root, f"part-{held.task.id:08d}.arrow")
        with PredictionWriter(path) as writer:
            if columns:
                writer.write(columns)
        return {"part": path, "task": held.task.id, "records": item.num_records}

    def _add_record_columns(self, columns: dict[str, Any], held: HeldTask) -> None:
        """Keep columns that the input function dropped, from the records themselves."""
        missing = [name for name in self._spec.keep_columns if name not in columns]
        if not missing or not columns:
            return
        num_rows = len(next(iter(columns.values())))
        if num_rows != len(held.records):
            raise UsageError(
                f"keep_columns '{missing[0]}': not a feature, and the input function does not keep "
                "every record, so it cannot be taken from the records; make it a feature"
            )
        columns.update(_record_columns(held.records, missing))
        ordered = {name: columns.pop(name) for name in self._spec.keep_columns if name in columns}
        outputs = dict(columns)
        columns.clear()
        columns.update(ordered, **outputs)

    def close(self) -> None:
        """End the threads."""
        self._stream.close()


def merge(spec: JobSpec, task: master_pb2.Task) -> dict[str, Any]:
    """Join the parts, whose places are the task's payload, to the job's output."""
    assert spec.output is not None
    results = sorted((json.loads(one) for one in json.loads(task.payload)), key=lambda r: r["task"])
    num_rows = merge_parts([result["part"] for result in results], spec.output)
    return {"output": spec.output, "rows": num_rows}


def output_columns(outputs: Any) -> dict[str, np.ndarray]:
    """Name a model's outputs: a dict's by its keys, one alone `prediction`, others numbered."""
    if isinstance(outputs, Mapping):
        return {str(name): np.asarray(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return {f"{PREDICTION}_{i}": np.asarray(value) for i, value in enumerate(outputs)}
    return {PREDICTION: np.asarray(outputs)}


def _record_columns(records: TaskRecords, names: Sequence[str]) -> dict[str, Any]:
    """Return columns of a task's records, one value a row."""
    if isinstance(records, TableRecords):
        return {name: _table_values(records, name) for name in names}
    examples = [decode(record) for record in records]
    for name in names:
        if any(name not in example for example in examples):
            known = ", ".join(sorted(examples[0]))
            raise UsageError(
                f"keep_columns '{name}': records have no such column; they have {known}"
            )
    return {name: [example[name] for example in examples] for name in names}


def _table_values(records: TableRecords, name: str) -> Any:
    (column,) = schema_of(records.table.select([name]).schema, "the data")
    values, *splits = arrays_of(records.table, (column,), "the data")
    if splits:
        return np.split(values, splits[0][1:-1])
    return values.tolist() if values.dtype == object and values.ndim == 1 else values


def _check_rows(predicted: Mapping[str, np.ndarray], num_records: int) -> None:
    for name, values in predicted.items():
        if values.ndim == 0 or len(values) != num_records:
            raise UsageError(
                f"output '{name}': of shape {list(values.shape)} for a minibatch of {num_records} "
                "records; a model's outputs need one row per record (does it squeeze or reduce?)"
            )


def _feature_columns(features: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(features, Mapping):
        return {}
    return {name: _values(features[name]) for name in names if name in features}


def _values(feature: Any) -> Any:
    if isinstance(feature, tf.RaggedTensor):
        return [np.asarray(row) for row in feature]
    if isinstance(feature, tf.SparseTensor):
        return _values(tf.RaggedTensor.from_sparse(feature))
    if feature.dtype == tf.bfloat16:  # a type that files of tables do not have
        feature = tf.cast(feature, tf.float32)
    values = feature.numpy()
    return values.tolist() if values.dtype == object and values.ndim == 1 else values


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], list):
        return [value for part in parts for value in part]
    return np.concatenate(parts)
