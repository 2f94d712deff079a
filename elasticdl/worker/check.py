"""One minibatch of real data through a model in this process, before anything is launched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.data.shards import Shard
from elasticdl.errors import ElasticDLError, UsageError, UserCodeError
from elasticdl.job_spec import JobSpec
from elasticdl.model.callback_plan import CallbackPlan, Measured, plan_callbacks
from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.definitions import TableDefinition
from elasticdl.model.element_spec import ElementSpec, element_spec, tensor_names
from elasticdl.model.metrics import Metrics
from elasticdl.model.mode import Mode
from elasticdl.model.parameters import Parameters, TableRows
from elasticdl.model.records_input import array_specs, records_dataset
from elasticdl.model.source import ModelSource
from elasticdl.model.trained_model import check_output, load_parameters, try_export
from elasticdl.model.user_code import ModelCodeError, before_launch
from elasticdl.model.warm_start import check_same, open_warm_start
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.worker.check_report import (
    CheckReport,
    TableReport,
    TensorReport,
    VariableReport,
)
from elasticdl.worker.devices import use_device
from elasticdl.worker.pipeline import Minibatch, TaskPipeline
from elasticdl.worker.records import RecordSources, TableRecords, TaskRecords
from elasticdl.worker.two_phase import TwoPhaseModel

_MODES = {"evaluate": Mode.EVALUATION, "predict": Mode.PREDICTION}
_FLOAT_BYTES = 4
# A user's filter may drop the first records of a file, or all of it.
_GROWTH = 4
_MOST_RECORDS_AT_ONCE = 4096
_MOST_RECORDS_OF_FILE = 65_536
_MOST_FILES = 16
_MOST_COMPARED = 64  # records whose losses are computed one by one


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
        source = ModelSource.of_job(job_spec)
        context = {"job_name": job_spec.job_name, "role": "check"}
        contract = load_contract(source, mode, context)
        return _Check(job_spec, contract, mode).report()


def callbacks_of(job_spec: JobSpec, contract: Contract, model: TwoPhaseModel) -> CallbackPlan:
    """Read a training's callbacks; measures a minibatch where one needs to know of metrics.

    Raises:
      UsageError: a callback cannot be kept.
      UserCodeError: the user's code raises.
    """
    one = _Check(job_spec, contract, Mode.TRAINING)
    return plan_callbacks(contract, job_spec.num_epochs, lambda: one.measured(model))


class _Check:
    """One run of the check."""

    def __init__(self, job_spec: JobSpec, contract: Contract, mode: Mode) -> None:
        self._job_spec = job_spec
        self._contract = contract
        self._mode = mode
        self._sources = RecordSources(job_spec, contract)
        self._warnings: list[str] = []

    @cached_property
    def _shards(self) -> list[Shard]:
        assert self._job_spec.data is not None
        return self._sources.find("data", self._job_spec.data)

    def report(self) -> CheckReport:
        """Do it."""
        contract, mode = self._contract, self._mode
        spec = element_spec(contract, mode)
        model = TwoPhaseModel(
            contract, spec.features, spec.labels, contract.source.seed, spec.sample_weights
        )
        optimizer = model.optimizer.config if mode is Mode.TRAINING else None
        self._check_rules(model)
        if self._job_spec.warm_start is not None:
            path = self._job_spec.warm_start
            check_same(path, open_warm_start(path), model.table_definitions, model.variables)
        minibatch = self._first_minibatch(model, mode, self._shards)
        distinct = _distinct(minibatch)
        inverses = [inverse for _, inverse in distinct]
        dense, rows = self._values(model, [ids for ids, _ in distinct])
        outputs = model.forward(minibatch.features, dense, rows, inverses)
        loss = None
        if mode is Mode.TRAINING:
            loss = self._train_step(model, minibatch, outputs, dense, rows, inverses)
        metrics: dict[str, float] = {}
        if mode is not Mode.PREDICTION:
            metrics = self._measure(model, minibatch, dense, rows, inverses)
        if self._job_spec.validation_data is not None:
            self._check_validation(spec, model)
        callbacks = CallbackPlan()
        if mode is Mode.TRAINING:
            self._check_prediction(spec, model)
            callbacks = self._check_callbacks(model)
        if mode is not Mode.PREDICTION:
            self._warn_of_broadcasting(outputs, minibatch.labels)
        self._warnings += model.warnings
        if model.local_variables:
            self._warnings.append(
                "variables that are not float32 stay in each worker and are not saved: "
                + ", ".join(model.local_variables)
            )
        report = self._describe(spec, model, optimizer, minibatch, distinct, outputs, loss, metrics)
        return replace(
            report,
            device=use_device(self._job_spec.worker_devices, index=0),
            max_steps=callbacks.max_steps,
            callbacks=[
                *(str(config["kind"]).replace("_", " ") for config in callbacks.configs),
                *(type(each).__name__ for each in callbacks.users),
            ],
        )

    def _check_rules(self, model: TwoPhaseModel) -> None:
        groups = self._job_spec.num_bucket_groups
        for table in model.table_definitions:
            if 0 < table.rules.max_rows < groups:
                raise UsageError(
                    f"layer '{table.name}': max_rows {table.rules.max_rows} is less than a row for "
                    f"each of {groups} bucket groups; give {groups} or more"
                )

    def _first_minibatch(
        self, model: TwoPhaseModel, mode: Mode, shards: Sequence[Shard]
    ) -> Minibatch:
        """Return the first minibatch of the first file that gives one.

        It may be of fewer records than asked for, where the user's function drops some.
        """
        tried = 0
        for shard in shards[:_MOST_FILES]:
            best: Minibatch | None = None
            for records in self._first_records(shard):
                if tried == 0:
                    self._check_ends(records, mode)
                tried += len(records)
                found = self._minibatch_of(model, mode, shard, records)
                if found is not None and (best is None or found.num_records > best.num_records):
                    best = found
                if best is not None and (
                    best.num_records >= self._job_spec.minibatch_size
                    or len(records) >= _GROWTH * self._job_spec.minibatch_size
                ):
                    break
            if best is not None:
                return best
        raise UsageError(
            f"{self._function}: yields nothing for the {tried} records tried, from "
            f"'{shards[0].path}' on, in mode {mode.value}; its filter may be too strict"
        )

    def _first_records(self, shard: Shard) -> Iterator[TaskRecords]:
        """Yield the records of a file in growing parts, as long as more are asked for."""
        start, count = 0, self._job_spec.minibatch_size
        while start < min(shard.num_records, _MOST_RECORDS_OF_FILE):
            count = min(count, shard.num_records - start)
            first = shard.start + start
            yield self._sources.read(shard.path, first, first + count, None)
            start += count
            most = max(_MOST_RECORDS_AT_ONCE, self._job_spec.minibatch_size)
            count = min(count * _GROWTH, most)

    def _minibatch_of(
        self, model: TwoPhaseModel, mode: Mode, shard: Shard, records: TaskRecords
    ) -> Minibatch | None:
        size = self._job_spec.minibatch_size
        pipeline = TaskPipeline(self._contract, mode, size, model.collect, prefetch=0)
        pipeline.put(0, records, max_minibatches=1)
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
                f"{error} (in the first records of '{shard.path}'){hint}",
                error.traceback_text,
            ) from error
        finally:
            # A function of the user's that still runs would hold up the end of this process.
            pipeline.release()
        return first if isinstance(first, Minibatch) else None

    def _check_ends(self, records: TaskRecords, mode: Mode) -> None:
        schema = self._contract.source.schema
        arrays = records.arrays if isinstance(records, TableRecords) else [records]
        given = [
            tf.constant(array, spec.dtype)
            for array, spec in zip(arrays, array_specs(schema), strict=True)
        ]
        dataset = records_dataset(given, schema, self._job_spec.minibatch_size)
        elements = self._contract.dataset(dataset, mode)
        if elements.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise UsageError(
                f"{self._function}: never ends; remove its repeat(): --num_epochs says how often "
                "the data is read"
            )

    @property
    def _function(self) -> str:
        return self._contract.function("dataset")

    def _values(
        self, model: TwoPhaseModel, ids: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the dense vector and the rows of some ids: trained where there is a training."""
        tables = model.table_definitions
        if self._job_spec.trained_model is None:
            rows = [model.initial_rows(position, each) for position, each in enumerate(ids)]
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
            result = model.train_step(
                minibatch.features,
                minibatch.labels,
                dense,
                rows,
                inverses,
                sample_weights=minibatch.sample_weights,
            )
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

    def _measure(
        self,
        model: TwoPhaseModel,
        minibatch: Minibatch,
        dense: np.ndarray,
        rows: Sequence[np.ndarray],
        inverses: Sequence[np.ndarray],
    ) -> dict[str, float]:
        metrics = Metrics(self._contract, Mode.EVALUATION)
        labels, weights = minibatch.labels, minibatch.sample_weights
        found = model.evaluation_step(minibatch.features, labels, dense, rows, inverses, weights)
        num_records = minibatch.num_records
        states = metrics.measure(
            found.outputs, labels, num_records, found.penalty, weights, found.loss
        )
        metrics.check_mergeable(found.outputs, labels, num_records, weights, found.loss)
        return metrics.result(states)

    def _check_validation(self, training: ElementSpec, model: TwoPhaseModel) -> None:
        """Measure the first minibatch of the validation data."""
        evaluation = element_spec(self._contract, Mode.EVALUATION)
        if evaluation[:2] != training[:2]:
            raise UsageError(
                f"{self._function}: yields {evaluation} in mode evaluation but {training} in "
                "training; the model needs the same structure in both"
            )
        self._measure_first(model, self._validation_shards())

    def _measure_first(self, model: TwoPhaseModel, shards: list[Shard]) -> dict[str, str]:
        """Measure the first minibatch of some data; return the metrics' directions."""
        minibatch = self._first_minibatch(model, Mode.EVALUATION, shards)
        distinct = _distinct(minibatch)
        dense, rows = self._values(model, [ids for ids, _ in distinct])
        inverses = [inverse for _, inverse in distinct]
        labels, weights = minibatch.labels, minibatch.sample_weights
        found = model.evaluation_step(minibatch.features, labels, dense, rows, inverses, weights)
        metrics = Metrics(self._contract, Mode.EVALUATION)
        return metrics.directions(
            metrics.measure(
                found.outputs,
                labels,
                minibatch.num_records,
                found.penalty,
                weights,
                found.loss,
            )
        )

    def measured(self, model: TwoPhaseModel) -> Measured:
        """Say what callbacks may monitor, from the first minibatch of the validation data."""
        if self._job_spec.validation_data is None:
            return Measured({}, validates=False)
        return Measured(self._measure_first(model, self._validation_shards()), validates=True)

    def _validation_shards(self) -> list[Shard]:
        assert self._job_spec.validation_data is not None
        return self._sources.find("validation_data", self._job_spec.validation_data)

    def _check_callbacks(self, model: TwoPhaseModel) -> CallbackPlan:
        """Read the callbacks, and construct what those of the user's own are run in."""
        plan = plan_callbacks(
            self._contract, self._job_spec.num_epochs, lambda: self.measured(model)
        )
        for config in plan.configs:
            if config["kind"] == "best_model":
                check_output(config["path"], self._job_spec.overwrite, self._job_spec.job_name)
        self._warnings += plan.warnings
        return plan

    def _check_prediction(self, training: ElementSpec, model: TwoPhaseModel) -> None:
        """Try what comes after the training: the input of predictions, and the export."""
        found = element_spec(self._contract, Mode.PREDICTION)
        if found.features != training.features:
            parts = (found.features, found.labels, found.sample_weights)
            if tuple(each for each in parts if each is not None) == training.features:
                raise UsageError(
                    f"{self._function}: yields its features as a tuple in mode prediction, which "
                    "is read as (features, labels); yield a tuple of it alone: return ((a, b),)"
                )
            raise UsageError(
                f"{self._function}: yields features {found.features} in mode prediction but "
                f"{training.features} in training; the model needs the same features in both"
            )
        # One row each: an empty table is looked up in another way.
        tables = {
            each.name: TableRows(np.zeros(1, np.int64), np.zeros((1, each.dim), np.float32))
            for each in model.table_definitions
        }
        parameters = Parameters.of_flat(model.variables, model.initial_dense(), tables)
        try_export(self._contract.source, parameters)

    def _warn_of_broadcasting(self, outputs: Any, labels: Any) -> None:
        """Warn of a loss that subtracts [n, 1] from [n].

        It changes where labels are reshaped, and is no mean or sum of the records' own losses: a
        single record makes no matrix.
        """
        if not (tf.is_tensor(outputs) and tf.is_tensor(labels)):
            return
        if outputs.shape == labels.shape or {outputs.shape.rank, labels.shape.rank} != {1, 2}:
            return
        if outputs.shape.num_elements() != labels.shape.num_elements():
            return
        outputs, labels = outputs[:_MOST_COMPARED], labels[:_MOST_COMPARED]
        count = outputs.shape[0]
        try:
            as_is = float(self._contract.loss(outputs, labels))
            reshaped = float(self._contract.loss(outputs, tf.reshape(labels, outputs.shape)))
            total = sum(
                float(self._contract.loss(outputs[index : index + 1], labels[index : index + 1]))
                for index in range(count)
            )
        except ElasticDLError:
            return  # the loss wants them as they are
        good = (reshaped, total, total / count)
        if not any(np.isclose(as_is, each, rtol=1e-3, equal_nan=True) for each in good):
            self._warnings.append(
                f"outputs are of shape {tuple(outputs.shape)} and labels of {tuple(labels.shape)}: "
                "the loss makes a matrix of them; reshape one, or use a Keras loss"
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
                table.dim * (_FLOAT_BYTES if table.frozen else copies),
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
            declared_shards=self._sources.declared,
        )


def _distinct(minibatch: Minibatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return by table the distinct ids, and which of them each id is."""
    pairs = [np.unique(ids, return_inverse=True) for ids in minibatch.ids]
    return [(ids, inverse.astype(np.int32)) for ids, inverse in pairs]


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
    rate = f"learning_rate {config.schedule or f'{config.learning_rate:g}'}"
    return ", ".join([config.name, rate, *config.slot_names])
