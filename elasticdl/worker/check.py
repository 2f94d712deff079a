"""One minibatch of real data through a model in this process, before anything is launched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.data.recordio import read_range
from elasticdl.data.shards import Shard, find_shards
from elasticdl.errors import UsageError, UserCodeError
from elasticdl.job_spec import JobSpec
from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.definitions import TableDefinition
from elasticdl.model.element_spec import ElementSpec, element_spec, tensor_names
from elasticdl.model.metrics import Metrics
from elasticdl.model.mode import Mode
from elasticdl.model.parameters import Parameters, TableRows
from elasticdl.model.source import ModelSource
from elasticdl.model.trained_model import load_parameters
from elasticdl.model.user_code import ModelCodeError, before_launch
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.worker.check_report import (
    CheckReport,
    TableReport,
    TensorReport,
    VariableReport,
)
from elasticdl.worker.pipeline import Minibatch, TaskPipeline
from elasticdl.worker.two_phase import TwoPhaseModel

_MODES = {"evaluate": Mode.EVALUATION, "predict": Mode.PREDICTION}
_FLOAT_BYTES = 4
_FEWEST_RECORDS = 256  # a user's filter may drop the first ones


def check(job_spec: JobSpec) -> CheckReport:
    """Try a job's model on the first minibatch of its data.

    Args:
      job_spec: of a train, check, evaluate or predict command.

    Raises:
      UsageError: whatever would fail the job; `ModelCodeError` with a traceback where the user's
        code raises.
    """
    with before_launch():
        mode = _MODES.get(job_spec.command, Mode.TRAINING)
        assert job_spec.data is not None
        shards = find_shards(job_spec.data, job_spec.max_chunk_bytes)
        source = ModelSource.of_job(job_spec)
        contract = load_contract(source, mode, {"job_name": job_spec.job_name})
        return _Check(job_spec, contract, mode, shards).report()


class _Check:
    """One run of the check."""

    def __init__(
        self, job_spec: JobSpec, contract: Contract, mode: Mode, shards: list[Shard]
    ) -> None:
        self._job_spec = job_spec
        self._contract = contract
        self._mode = mode
        self._shards = shards
        self._warnings: list[str] = []

    def report(self) -> CheckReport:
        """Do it."""
        contract, mode = self._contract, self._mode
        spec = element_spec(contract, mode)
        model = TwoPhaseModel(contract, spec.features, spec.labels, contract.source.seed)
        optimizer = model.optimizer_config() if mode is Mode.TRAINING else None
        minibatch = self._first_minibatch(model)
        distinct = [np.unique(ids, return_inverse=True) for ids in minibatch.ids]
        inverses = [inverse.astype(np.int32) for _, inverse in distinct]
        dense, rows = self._values(model, [ids for ids, _ in distinct])
        outputs = model.forward(minibatch.features, dense, rows, inverses)
        self._warn_of_broadcasting(outputs, minibatch.labels)
        loss = None
        if mode is Mode.TRAINING:
            loss = self._train_step(model, minibatch, outputs, dense, rows, inverses)
        metrics = {} if mode is Mode.PREDICTION else self._measure(minibatch, outputs)
        if self._job_spec.validation_data is not None:
            self._check_validation(spec)
        if model.local_variables:
            self._warnings.append(
                "variables that are not float32 stay in each worker and are not saved: "
                + ", ".join(model.local_variables)
            )
        return self._describe(spec, model, optimizer, minibatch, distinct, outputs, loss, metrics)

    def _first_minibatch(self, model: TwoPhaseModel) -> Minibatch:
        shard, size = self._shards[0], self._job_spec.minibatch_size
        count = min(max(size, _FEWEST_RECORDS), shard.num_records)
        records = read_range(shard.path, 0, count)
        self._check_ends(records)
        pipeline = TaskPipeline(self._contract, self._mode, size, model.collect, prefetch=0)
        pipeline.put(0, records)
        pipeline.close()
        try:
            first = next(pipeline)
        except UserCodeError as error:
            hint = ""
            if "Cannot batch tensors" in str(error):
                hint = (
                    "; records differ in shape: parse a feature of varying length with "
                    "tf.io.VarLenFeature, which gives a sparse tensor"
                )
            raise ModelCodeError(
                f"{error} (in the first {count} records of '{shard.path}'){hint}",
                error.traceback_text,
            ) from error
        if not isinstance(first, Minibatch):
            raise UsageError(
                f"create_dataset of '{self._contract.source.model_def}': yields nothing for the "
                f"first {count} records of '{shard.path}'; its filter may be too strict"
            )
        return first

    def _check_ends(self, records: list[bytes]) -> None:
        elements = self._contract.dataset(tf.data.Dataset.from_tensor_slices(records), self._mode)
        if elements.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise UsageError(
                f"create_dataset of '{self._contract.source.model_def}': never ends; remove its "
                "repeat(): --num_epochs says how often the data is read"
            )

    def _values(
        self, model: TwoPhaseModel, ids: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the dense vector and the rows of some ids: trained where there is a training."""
        tables = model.table_definitions
        if self._job_spec.trained_model is None:
            rows = [
                table.initializer.rows(each, table.dim)
                for table, each in zip(tables, ids, strict=True)
            ]
            return model.initial_dense(), rows
        trained = load_parameters(self._job_spec.trained_model)
        rows = [
            _trained_rows(table, trained, each) for table, each in zip(tables, ids, strict=True)
        ]
        return trained.flat(model.variables), rows

    def _train_step(
        self,
        model: TwoPhaseModel,
        minibatch: Minibatch,
        outputs: Any,
        dense: np.ndarray,
        rows: Sequence[np.ndarray],
        inverses: Sequence[np.ndarray],
    ) -> float:
        try:
            result = model.train_step(minibatch.features, minibatch.labels, dense, rows, inverses)
        except UserCodeError as error:
            raise ModelCodeError(
                f"{error} (outputs are {_nest_text(outputs)}, "
                f"labels {_nest_text(minibatch.labels)})",
                error.traceback_text,
            ) from error
        if not result.finite:
            what = "the loss" if not np.isfinite(result.loss) else "a gradient"
            self._warnings.append(
                f"{what} of the first minibatch is not finite (loss {result.loss}); "
                f"--on_nan={self._job_spec.on_nan} will "
                + ("stop the job" if self._job_spec.on_nan == "stop" else "skip such minibatches")
            )
        return result.loss

    def _measure(self, minibatch: Minibatch, outputs: Any) -> dict[str, float]:
        metrics = Metrics(self._contract, Mode.EVALUATION)
        states = metrics.measure(outputs, minibatch.labels, minibatch.num_records)
        metrics.check_mergeable(outputs, minibatch.labels, minibatch.num_records)
        return metrics.result(states)

    def _check_validation(self, training: ElementSpec) -> None:
        assert self._job_spec.validation_data is not None
        find_shards(
            self._job_spec.validation_data, self._job_spec.max_chunk_bytes, "validation_data"
        )
        evaluation = element_spec(self._contract, Mode.EVALUATION)
        if evaluation != training:
            raise UsageError(
                f"create_dataset of '{self._contract.source.model_def}': yields {evaluation} in "
                f"mode evaluation but {training} in training; the model "
                "needs the same structure in both"
            )

    def _warn_of_broadcasting(self, outputs: Any, labels: Any) -> None:
        if not (tf.is_tensor(outputs) and tf.is_tensor(labels)):
            return
        if {outputs.shape.rank, labels.shape.rank} == {1, 2} and (
            (outputs if outputs.shape.rank == 2 else labels).shape[1] == 1
        ):
            self._warnings.append(
                f"outputs are of shape {tuple(outputs.shape)} and labels of {tuple(labels.shape)}: "
                "subtracting them gives a matrix; reshape one, or use a Keras loss"
            )

    def _describe(
        self,
        spec: ElementSpec,
        model: TwoPhaseModel,
        optimizer: OptimizerConfig | None,
        minibatch: Minibatch,
        distinct: list[Any],
        outputs: Any,
        loss: float | None,
        metrics: dict[str, float],
    ) -> CheckReport:
        copies = _FLOAT_BYTES * (1 + (optimizer.num_slots if optimizer else 0))
        variables = [
            VariableReport(
                each.path,
                list(each.shape),
                each.trainable,
                each.num_elements * (copies if each.trainable else _FLOAT_BYTES),
            )
            for each in model.variables
        ]
        tables = [
            TableReport(
                table.name,
                table.dim,
                table.initializer.kind,
                table.dim * copies,
                len(inverse),
                len(ids),
            )
            for table, (ids, inverse) in zip(model.table_definitions, distinct, strict=True)
        ]
        return CheckReport(
            model_def=self._contract.source.model_def,
            mode=self._mode.value,
            num_files=len(self._shards),
            num_records=sum(shard.num_records for shard in self._shards),
            minibatch_records=minibatch.num_records,
            features=_tensors(spec.features, "features"),
            labels=_tensors(spec.labels, "labels"),
            outputs=_tensors(tf.nest.map_structure(tf.type_spec_from_value, outputs), "outputs"),
            variables=variables,
            dense_bytes=sum(each.num_bytes for each in variables),
            tables=tables,
            optimizer=None if optimizer is None else _optimizer_text(optimizer),
            loss=loss,
            metrics=metrics,
            warnings=self._warnings,
        )


def _trained_rows(table: TableDefinition, trained: Parameters, ids: np.ndarray) -> np.ndarray:
    rows = table.initializer.rows(ids, table.dim)
    stored = trained.tables.get(table.name, TableRows(np.zeros(0, np.int64), rows[:0]))
    _, of_ids, of_stored = np.intersect1d(ids, stored.ids, assume_unique=True, return_indices=True)
    rows[of_ids] = stored.rows[of_stored]
    return rows


def _tensors(nest: Any, name: str) -> list[TensorReport]:
    if nest is None:
        return []
    return [
        TensorReport(path, spec.dtype.name, _shape(spec), _kind(spec))
        for path, spec in zip(tensor_names(nest, name), tf.nest.flatten(nest), strict=True)
    ]


def _shape(spec: Any) -> list[int | None]:
    return [] if spec.shape.rank is None else spec.shape.as_list()


def _kind(spec: Any) -> str:
    if isinstance(spec, tf.SparseTensorSpec):
        return "sparse"
    return "ragged" if isinstance(spec, tf.RaggedTensorSpec) else "dense"


def _nest_text(nest: Any) -> str:
    specs = tf.nest.flatten(nest)
    return ", ".join(f"{each.dtype.name}{list(each.shape)}" for each in specs)


def _optimizer_text(config: OptimizerConfig) -> str:
    return ", ".join([config.name, f"learning_rate {config.learning_rate:g}", *config.slot_names])
