"""The two passes of a minibatch through a model: collect its ids, then compute with their rows.

A model here is a pure function of what the parameter servers hold: the dense variables come in as
one flat vector and their gradients leave as one, the embedding rows likewise. Nothing of it is kept
between steps.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError, UserCodeError
from elasticdl.layers.lookup_context import CollectIds, FeedRows
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.building import (
    build_model,
    call_model,
    check_trainable,
    define_tables,
    define_variables,
    local_variables,
    pull_variables,
    warn_of_large_matrices,
)
from elasticdl.model.callback_plan import version_schedule
from elasticdl.model.contract import Contract
from elasticdl.model.contracts.class_weights import weigh_classes
from elasticdl.model.definitions import TableDefinition
from elasticdl.model.keras_api import (
    IS_LEGACY,
    Binding,
    Randomness,
    keras,
    tf_variable,
    variable_path,
)
from elasticdl.model.moving_averages import MovingAverages
from elasticdl.model.tracing import tracing
from elasticdl.model.user_code import one_line, user_code, user_traceback
from elasticdl.model.user_optimizer import UserOptimizer
from elasticdl.worker.clipping import clip_gradients, has_clipping
from elasticdl.worker.custom_loss import CustomLoss
from elasticdl.worker.custom_step import CustomStep, StepGradients, overridden_methods
from elasticdl.worker.id_checks import check_ids, check_owned
from elasticdl.worker.row_sums import RowGradients, sum_in_step
from elasticdl.worker.step_results import EvaluationResult, TrainResult
from elasticdl.worker.tensors import as_array, as_tensor
from elasticdl.worker.traced import TracedStep


class TwoPhaseModel:
    """A model split into what needs no parameters and what is a function of them.

    The functions are traced when they are first used, under a lock of the process; calls of traced
    functions are thread-safe.

    Args:
      contract: defines the model.
      features: nest of type specs of a minibatch's features.
      labels: nest of type specs of its labels, or None without labels.
      seed: of the initial values; equal in all processes of a job.
      sample_weights: nest of type specs of its sample weights, or None.
      clips: whether a step clips its gradients, if the optimizer says so; in sync mode the
        parameter servers clip their average.

    Attributes:
      model: the Keras model; its variables keep their initial values.
      table_definitions: the embedding tables, in the order of `collect`'s results.
      variables: the float32 variables, trainable ones first, in the order of the flat vector.
      warnings: what of the model may be meant so, but often is not.

    Raises:
      UsageError: the model cannot be split so; says why.
      UserCodeError: the user's code raises.
    """

    def __init__(
        self,
        contract: Contract,
        features: Any,
        labels: Any,
        seed: int,
        sample_weights: Any = None,
        clips: bool = True,
    ) -> None:
        self._contract = contract
        self._features = features
        self._labels = labels
        self._sample_weights = sample_weights
        self._clips = clips
        self.model = build_model(contract, features, seed)
        self._variables = pull_variables(self.model)
        averages = MovingAverages(self.model)
        self._initial_dense = self._flat_values() if IS_LEGACY else None
        self._randomness = Randomness(self.model)
        self._local: list[keras.Variable] = [
            variable
            for variable in local_variables(self.model)
            if not self._randomness.owns(variable)
        ]
        # A step of tf_keras assigns to the model's variables, so that there is one at a time.
        self._one_step = threading.Lock() if IS_LEGACY else nullcontext()
        threshold_bytes = contract.source.embedding_threshold_bytes
        self.warnings: list[str] = warn_of_large_matrices(self.model, threshold_bytes)
        with averages.counted():
            self._collect, self._tables, self._num_calls = self._trace_collect()
        self.variables = define_variables(self.model, self._variables, averages)
        self._num_trainable = sum(each.trainable for each in self.variables)
        self.table_definitions: list[TableDefinition] = define_tables(self._tables, seed)
        self._tracing_step = threading.Lock()
        self._train: TracedStep | None = None
        self._row_gradients: RowGradients | None = None
        self._forward: Callable[..., Any] | None = None
        # By the specs of the sample weights: those of an evaluation may be others.
        self._evaluate: dict[tuple[tf.TypeSpec, ...], Callable[..., Any]] = {}

    @property
    def num_dense(self) -> int:
        """Length of the flat vector of all variables."""
        return sum(variable.num_elements for variable in self.variables)

    @property
    def local_variables(self) -> list[str]:
        """Paths of the variables that stay in each worker, random seeds left out."""
        return [variable_path(variable) for variable in self._local]

    def initial_dense(self) -> np.ndarray:
        """Return the initial values of all variables, float32 ``[D]``."""
        return self._flat_values() if self._initial_dense is None else self._initial_dense.copy()

    def _flat_values(self) -> np.ndarray:
        values = [np.ravel(variable.numpy()) for variable in self._variables]
        return np.concatenate([*values, np.zeros(0, np.float32)]).astype(np.float32, copy=False)

    def given_rows(self) -> dict[str, np.ndarray]:
        """Return the tables that do not start from their initializer, float32 ``[n, dim]`` by name.

        Row i is that of id i. They are to be loaded before training.
        """
        given = {layer.table_name: layer.given_rows() for layer in self._tables}
        return {name: rows for name, rows in given.items() if rows is not None}

    def initial_rows(self, position: int, ids: np.ndarray) -> np.ndarray:
        """Return rows before training, float32 ``[n, dim]``, for ids int64 ``[n]`` of one table."""
        given = self._tables[position].given_rows()
        table = self.table_definitions[position]
        return table.initializer.rows(ids, table.dim) if given is None else given[ids]

    @cached_property
    def optimizer(self) -> UserOptimizer:
        """The user's optimizer, as the parameter servers apply it.

        Raises:
          UsageError: names what of it is not supported.
        """
        optimizer = self._contract.create_optimizer()
        schedule = version_schedule(self._contract)
        if schedule is not None:
            optimizer._learning_rate = lambda iterations: schedule(int(iterations))
        return UserOptimizer(optimizer)

    def undecayed(self) -> frozenset[str]:
        """Return the variables and tables that the optimizer's weight decay leaves out."""
        trainable = zip(self._variables, self.variables[: self._num_trainable], strict=False)
        return frozenset(
            [each.path for variable, each in trainable if not self.optimizer.decays(variable)]
            + [t.name for t in self.table_definitions if not self.optimizer.decays_table(t.name)]
        )

    def collect(self, features: Any) -> tuple[tf.Tensor, ...]:
        """Return the ids each table is asked for, int64 ``[n]``; fit for `tf.data.Dataset.map`.

        Of the model only what the ids are made of runs.
        """
        if self._collect is None:
            return ()
        return tuple(self._collect(*_flatten(features)))

    def train_step(
        self,
        features: Any,
        labels: Any,
        dense: np.ndarray,
        rows: Sequence[np.ndarray],
        inverses: Sequence[np.ndarray],
        step_seed: int = 0,
        sample_weights: Any = None,
    ) -> TrainResult:
        """Compute the loss and the gradients of one minibatch.

        Args:
          features: as the pipeline yields them.
          labels: likewise.
          dense: the variables' values, float32 ``[D]``.
          rows: distinct rows by table, float32 ``[u, dim]``.
          inverses: by table, which row each collected id has, int32 ``[n]``.
          step_seed: of the model's own randomness (dropout); the same gives the same.
          sample_weights: as the pipeline yields them.

        Raises:
          UserCodeError: the model or the loss raises, at tracing or on this data.
        """
        step = self.traced_step()
        with self._one_step, self._step_errors("the training step"):
            loss, finite, dense_gradients, *of_rows = step(
                [
                    *_flatten(features),
                    *_flatten(labels),
                    *_flatten(sample_weights),
                    *_to_tensors(dense, rows, inverses),
                ],
                step_seed,
            )
        assert self._row_gradients is not None
        row_gradients, are_finite = self._row_gradients.arrived(of_rows, [len(one) for one in rows])
        return TrainResult(
            float(loss._numpy()),
            bool(finite._numpy()) and are_finite,
            as_array(dense_gradients),
            row_gradients,
        )

    def traced_step(self) -> TracedStep:
        """Return the traced training step; traces it the first time.

        Raises:
          UsageError: the model cannot be trained; says why.
          UserCodeError: the model or the loss raises.
        """
        with self._tracing_step:
            if self._train is None:
                self._train = self._trace_train()
            return self._train

    def forward(
        self,
        features: Any,
        dense: np.ndarray,
        rows: Sequence[np.ndarray],
        inverses: Sequence[np.ndarray],
    ) -> Any:
        """Return the model's outputs for one minibatch, in inference mode.

        Raises:
          UserCodeError: the model raises.
        """
        return self._outputs_and_penalty(features, dense, rows, inverses)[0]

    def evaluation_step(
        self,
        features: Any,
        labels: Any,
        dense: np.ndarray,
        rows: Sequence[np.ndarray],
        inverses: Sequence[np.ndarray],
        sample_weights: Any = None,
    ) -> EvaluationResult:
        """Return what `forward` does, and what is to be measured beside it.

        Args:
          features, labels, dense, rows, inverses, sample_weights: as `train_step` takes them.

        Raises:
          UserCodeError: the model or its own loss raises.
        """
        if self._custom_loss is None:
            outputs, penalty = self._outputs_and_penalty(features, dense, rows, inverses)
            return EvaluationResult(outputs, penalty, None)
        weights = _minibatch_specs(sample_weights)
        specs = tuple(_flatten(weights))
        if specs not in self._evaluate:
            self._evaluate[specs] = self._trace_forward(self._custom_loss, self._labels, weights)
        with self._one_step, self._step_errors("the model"):
            outputs, loss = self._evaluate[specs](
                *_flatten(features),
                *_flatten(labels),
                *_flatten(sample_weights),
                *_to_tensors(dense, rows, inverses),
            )
        return EvaluationResult(outputs, tf.zeros([]), loss)

    def _outputs_and_penalty(
        self,
        features: Any,
        dense: np.ndarray,
        rows: Sequence[np.ndarray],
        inverses: Sequence[np.ndarray],
    ) -> tuple[Any, tf.Tensor]:
        if self._forward is None:
            self._forward = self._trace_forward()
        with self._one_step, self._step_errors("the model"):
            return self._forward(*_flatten(features), *_to_tensors(dense, rows, inverses))

    @cached_property
    def _custom_loss(self) -> CustomLoss | None:
        """What computes the loss of the model's own class, if it has one."""
        if "compute_loss" not in overridden_methods(self.model)[0]:
            return None
        return CustomLoss(self.model, self._contract)

    def _trace_collect(
        self,
    ) -> tuple[Callable[..., Any] | None, list[TableLayer], dict[str, int]]:
        """Trace the model noting ids, and keep of it only what the ids are made of."""
        context = CollectIds()
        specs = _flatten(self._features)

        def collect(*parts: tf.Tensor) -> tuple[tf.Tensor, ...]:
            context.enter_graph()
            call_model(self.model, self._pack(self._features, parts), training=False)
            by_layer: dict[int, list[tf.Tensor]] = {}
            for call in context.calls:
                by_layer.setdefault(id(call.layer), []).append(call.ids)
            return tuple(
                tf.identity(ids[0]) if len(ids) == 1 else tf.concat(ids, axis=0)
                for ids in by_layer.values()
            )

        with self._user_code("the model"), tracing(context):
            traced = tf.compat.v1.wrap_function(collect, specs)
        layers = list({id(call.layer): call.layer for call in context.calls}.values())
        num_calls = Counter(call.layer.table_name for call in context.calls)
        if not layers:
            return None, [], {}
        check_owned(self.model, layers)
        self.warnings += check_ids(context, traced.graph, self._variables)
        # TensorFlow would leave out most of the rest by itself, but not assertions, prints and what
        # they look at.
        return (
            traced.prune(traced.inputs[: len(specs)], traced.structured_outputs),
            layers,
            num_calls,
        )

    def _trace_train(self) -> TracedStep:
        if self._labels is None:
            raise UsageError(f"{self._contract.function('dataset')}: yields no labels to train on")
        check_trainable(self.model, self._variables[: self._num_trainable], self._tables)
        what = f"the training step of '{self._contract.source.model_def}'"
        custom = self._custom_step()
        optimizer = self.optimizer.config
        clips = self._clips and has_clipping(optimizer)

        def step(*parts: tf.Tensor) -> tuple[tf.Tensor, ...]:
            *inputs, step_seed = parts
            features, labels, weights, dense, rows, inverses = self._split(
                inputs, self._labels, self._sample_weights
            )
            if self._contract.class_weight is not None:
                weights = weigh_classes(self._contract.class_weight, labels, weights)
            values = self._unpack(dense)
            context = self._feed(rows, inverses)
            trained_rows = [
                table
                for each, table in zip(self.table_definitions, rows, strict=True)
                if not each.frozen
            ]
            binding = Binding(self._variables, values, self._randomness, step_seed)
            trainable = binding.sources[: self._num_trainable]
            data = (features, labels, weights)
            with tracing(context), binding.active():
                if custom is None:
                    found = self._gradients(data, trainable, trained_rows, rows)
                else:
                    found = custom.gradients(
                        data, trainable, trained_rows, lambda: self._row_penalties(rows)
                    )
                    of_trained = self._variables[: self._num_trainable]
                    custom.check_untouched([binding.current(x) for x in of_trained], trainable)
                context.check_all_called()
            loss, of_trainable, of_rows = found.loss, found.of_trainable, found.of_rows
            state = slice(self._num_trainable, None)
            changes = [
                binding.current(variable) - each.momentum * old
                for variable, each, old in zip(
                    self._variables[state], self.variables[state], values[state], strict=True
                )
            ]
            binding.keep(self._local)
            gradients_of_rows = iter(of_rows)
            of_rows = [
                table[:0]
                if each.frozen
                else sum_in_step(next(gradients_of_rows), table, always=clips)
                for each, table in zip(self.table_definitions, rows, strict=True)
            ]
            if clips:
                gradients = clip_gradients([*of_trainable, *of_rows], optimizer)
                of_trainable = gradients[: self._num_trainable]
                of_rows = gradients[self._num_trainable :]
            self._row_gradients, row_gradients = RowGradients.leaving(of_rows)
            flat = [tf.reshape(each, [-1]) for each in (*of_trainable, *changes)]
            dense_gradients = tf.concat([*flat, tf.zeros([0])], axis=0)
            finite = tf.math.is_finite(loss)
            summed = [each for each in of_rows if not isinstance(each, tf.IndexedSlices)]
            for each in (dense_gradients, *summed):
                finite &= tf.reduce_all(tf.math.is_finite(each))
            return (loss, finite, dense_gradients, *row_gradients)

        inputs = self._input_specs(self._labels, self._sample_weights)
        specs = [*inputs, tf.TensorSpec([], tf.int64)]
        traced = self._trace(step, specs, what)
        known = {id(tf_variable(each)) for each in self._variables}
        unknown = [each for each in traced.graph.trainable_variables if id(each) not in known]
        if unknown:
            raise UsageError(
                f"variable '{unknown[0].name}': the model uses it but does not own it, so it would "
                "not be trained; create it with self.add_weight(…) in a layer of the model"
            )
        return TracedStep(traced)

    def _gradients(
        self,
        data: tuple[Any, Any, Any],
        trainable: Sequence[Any],
        trained_rows: Sequence[tf.Tensor],
        rows: Sequence[tf.Tensor],
    ) -> StepGradients:
        """Compute the loss and its gradients as Keras's own training step does."""
        features, labels, weights = data
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            tape.watch(trained_rows)
            outputs = call_model(self.model, features, training=True)
            loss = self._scalar(self._contract.loss(outputs, labels, weights))
            penalties = [*self.model.losses, *self._row_penalties(rows)]
            loss = tf.add_n([loss, *(tf.cast(each, loss.dtype) for each in penalties)])
        of_trainable, of_rows = tape.gradient(
            loss, (trainable, trained_rows), unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return StepGradients(loss, of_trainable, of_rows)

    def _custom_step(self) -> CustomStep | None:
        """Return what runs the training step of the model's own class, if it has one."""
        steps, others = overridden_methods(self.model)
        for name in others:
            self.warnings.append(
                f"{name} of '{type(self.model).__name__}' is not used: outputs are those of call, "
                "and metrics those of the definition"
            )
        if not steps:
            return None
        with self._user_code("compiling the model"):
            trainable = self._variables[: self._num_trainable]
            return CustomStep(self.model, self._contract, trainable)

    def _row_penalties(self, rows: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return the regularization of the minibatch's distinct rows, by table that has one."""
        return [
            layer.embeddings_regularizer(table)
            for layer, table in zip(self._tables, rows, strict=True)
            if layer.embeddings_regularizer is not None
        ]

    def _trace_forward(
        self, custom_loss: CustomLoss | None = None, labels: Any = None, weights: Any = None
    ) -> Callable[..., Any]:
        """Trace the model in inference mode.

        Args:
          custom_loss: what computes its loss, which is returned in the place of the penalty.
          labels: type specs of what the loss takes, likewise `weights`.
        """

        def forward(*parts: tf.Tensor) -> Any:
            features, *given, dense, rows, inverses = self._split(parts, labels, weights)
            context = self._feed(rows, inverses)
            binding = Binding(self._variables, self._unpack(dense))
            with tracing(context), binding.active():
                outputs = call_model(self.model, features, training=False)
                if custom_loss is None:
                    penalties = [tf.cast(each, tf.float32) for each in self.model.losses]
                    loss = tf.add_n([tf.zeros([]), *penalties])
                else:
                    loss = custom_loss.of(features, given[0], outputs, given[1])
                context.check_all_called()
            return outputs, loss

        what = f"the model of '{self._contract.source.model_def}'"
        return self._trace(forward, self._input_specs(labels, weights), what)

    def _trace(self, function: Callable[..., Any], specs: list[Any], what: str) -> Any:
        with user_code(what):
            return tf.function(function, autograph=False).get_concrete_function(*specs)

    def _input_specs(self, labels: Any = None, weights: Any = None) -> list[Any]:
        tables = self.table_definitions
        return [
            *_flatten(self._features),
            *_flatten(labels),
            *_flatten(weights),
            tf.TensorSpec([self.num_dense], tf.float32),
            *(tf.TensorSpec([None, table.dim], tf.float32) for table in tables),
            *(tf.TensorSpec([None], tf.int32) for _ in tables),
        ]

    def _split(
        self, parts: Sequence[tf.Tensor], labels: Any = None, weights: Any = None
    ) -> tuple[Any, ...]:
        """Take apart what `_input_specs` put in a row.

        Returns:
          Features, labels, sample weights, dense, rows, inverses.
        """
        remaining = list(parts)

        def take(count: int) -> list[tf.Tensor]:
            taken = remaining[:count]
            del remaining[:count]
            return taken

        features, labels, weights = (
            None if specs is None else self._pack(specs, take(len(_flatten(specs))))
            for specs in (self._features, labels, weights)
        )
        (dense,) = take(1)
        rows = take(len(self.table_definitions))
        return features, labels, weights, dense, rows, remaining

    def _feed(self, rows: list[tf.Tensor], inverses: list[tf.Tensor]) -> FeedRows:
        names = [table.name for table in self.table_definitions]
        context = FeedRows(
            dict(zip(names, rows, strict=True)),
            dict(zip(names, inverses, strict=True)),
            self._num_calls,
        )
        context.enter_graph()
        return context

    def _unpack(self, dense: tf.Tensor) -> list[tf.Tensor]:
        """Cut the flat vector into the variables' values."""
        if not self.variables:
            return []
        parts = tf.split(dense, [variable.num_elements for variable in self.variables])
        return [
            tf.reshape(part, variable.shape)
            for part, variable in zip(parts, self.variables, strict=True)
        ]

    def _scalar(self, loss: Any) -> tf.Tensor:
        where = self._contract.function("loss")
        if not tf.is_tensor(loss) or not loss.dtype.is_floating:
            kind = loss.dtype.name + " tensor" if tf.is_tensor(loss) else type(loss).__name__
            raise UsageError(f"{where}: returns a {kind}; return a scalar float tensor")
        if loss.shape.rank != 0:
            raise UsageError(
                f"{where}: returns a tensor of shape {loss.shape}, not a scalar; "
                "reduce it, for example by tf.reduce_mean"
            )
        return tf.cast(loss, tf.float32)

    def _user_code(self, function: str) -> Any:
        return user_code(f"{function} of '{self._contract.source.model_def}'")

    @contextmanager
    def _step_errors(self, function: str) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            raise UserCodeError(
                f"{function} of '{self._contract.source.model_def}': {one_line(error)}",
                user_traceback(error),
            ) from error

    @staticmethod
    def _pack(specs: Any, parts: Sequence[tf.Tensor]) -> Any:
        return tf.nest.pack_sequence_as(specs, list(parts), expand_composites=True)


def _flatten(nest: Any) -> list[Any]:
    return [] if nest is None else tf.nest.flatten(nest, expand_composites=True)


def _minibatch_specs(nest: Any) -> Any:
    """Return the type specs of a minibatch's tensors, for any number of records."""
    if nest is None:
        return None
    return tf.nest.map_structure(
        lambda each: (
            tf.TensorSpec([None, *each.shape[1:]], each.dtype)
            if isinstance(each, tf.Tensor)
            else tf.type_spec_from_value(each)
        ),
        nest,
    )


def _to_tensors(
    dense: np.ndarray, rows: Sequence[np.ndarray], inverses: Sequence[np.ndarray]
) -> list[tf.Tensor]:
    return [as_tensor(each) for each in (dense, *rows, *inverses)]
