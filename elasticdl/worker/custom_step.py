"""Training steps that a model class defines itself, as far as they only compute gradients.

`train_step` runs as the user wrote it while the step is traced. Its variables are tensors of the
step: what it asks a gradient tape for is asked for those, and for the embedding rows beside them.
What it gives to the optimizer is what the parameter servers apply. So everything it does between
data and gradients keeps its meaning; what it would do to variables by itself has none here and is
an error.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.contract import Contract
from elasticdl.model.keras_api import IS_LEGACY, keras, variable_path
from elasticdl.worker.custom_loss import definition_losses, replaced

_OWN_STEPS = ("train_step", "compute_loss")
_OWN_OTHERS = ("test_step", "predict_step")


@dataclass(frozen=True)
class StepGradients:
    """What a training step of the user's gives: the loss, and gradients in the given order."""

    loss: tf.Tensor
    of_trainable: list[Any]
    of_rows: list[Any]


@dataclass
class _Captured:
    """What a step asked gradient tapes for, and what it gave to optimizers.

    Attributes:
      gradients: by call of a tape: the target, the gradients returned, those of the rows.
      applied: by call of an optimizer: pairs of gradient and variable.
    """

    gradients: list[tuple[Any, list[Any], list[Any]]] = field(default_factory=list)
    applied: list[list[tuple[Any, Any]]] = field(default_factory=list)


def overridden_methods(model: keras.Model) -> tuple[list[str], list[str]]:
    """Return which methods of training a model's class has of its own, and which of the rest."""

    def own(names: Sequence[str]) -> list[str]:
        return [
            name for name in names if _method(type(model), name) is not _method(keras.Model, name)
        ]

    return own(_OWN_STEPS), own(_OWN_OTHERS)


class CustomStep:
    """Runs a model's own train_step for its gradients. Used while a function is traced.

    Args:
      model: of a class that overrides train_step or compute_loss; compiled here if it is not.
      contract: gives what `compute_loss` computes, and the optimizer.
      trainable: the model's trainable variables.
    """

    def __init__(
        self, model: keras.Model, contract: Contract, trainable: Sequence[keras.Variable]
    ) -> None:
        self._model = model
        self._contract = contract
        self._trainable = list(trainable)
        self._name = f"train_step of '{contract.source.model_def}'"
        if getattr(model, "optimizer", None) is None:
            keras.Model.compile(model, optimizer=contract.create_optimizer())

    def gradients(
        self,
        data: tuple[Any, Any, Any],
        sources: Sequence[Any],
        rows: Sequence[tf.Tensor],
        row_penalties: Callable[[], list[tf.Tensor]],
    ) -> StepGradients:
        """Run the step and return its gradients.

        Args:
          data: features, labels and sample weights of a minibatch; None for what is not there.
          sources: what stands for each trainable variable.
          rows: of the embedding tables that are trained.
          row_penalties: computes the regularization of rows, which `compute_loss` adds.

        Raises:
          UsageError: the step does more than to compute gradients; says what.
        """
        graph = tf.compat.v1.get_default_graph()
        given = data if data[2] is not None else data[:2]
        captured = _Captured()
        with (
            definition_losses(self._model, self._contract, row_penalties, self._name) as computed,
            self._intercepted(captured, sources, rows),
        ):
            self._model.train_step(given)
        if row_penalties() and not computed.has_penalties:
            raise self._error(
                "does not add the regularization of the embedding rows to its loss; use "
                "self.compute_loss(…)"
            )
        return self._checked(captured, graph, rows)

    def check_untouched(self, current: Sequence[Any], sources: Sequence[Any]) -> None:
        """Raise UsageError where the step assigned to a trainable variable.

        Args:
          current: the trainable variables' values after the step.
          sources: what stood for them.
        """
        if IS_LEGACY:
            # The values of the step are assigned too, once.
            num_assigned = _assignments(tf.compat.v1.get_default_graph())
            changed = [each for each in self._trainable if num_assigned[id(each.handle)] > 1]
        else:
            pairs = zip(self._trainable, current, sources, strict=True)
            changed = [variable for variable, now, before in pairs if now is not before]
        if changed:
            raise self._error(
                f"assigns to variable '{variable_path(changed[0])}', which the optimizer trains; "
                "give its gradient to the optimizer instead"
            )

    def _checked(
        self, captured: _Captured, graph: tf.Graph, rows: Sequence[tf.Tensor]
    ) -> StepGradients:
        if len(captured.applied) != 1:
            times = len(captured.applied)
            what = f"gives gradients to optimizers {times} times"
            raise self._error(
                f"{what if times else 'gives no gradients to an optimizer'}; a step is one update "
                "by one optimizer: call self.optimizer.apply(gradients, self.trainable_variables) "
                "once"
            )
        if not captured.gradients:
            raise self._error(
                "asks no tape for gradients of the trainable variables; use tf.GradientTape and "
                "tape.gradient(loss, self.trainable_variables)"
            )
        (pairs,) = captured.applied
        places = {id(variable): index for index, variable in enumerate(self._trainable)}
        of_trainable: list[Any] = [None] * len(self._trainable)
        for gradient, variable in pairs:
            if id(variable) not in places:
                name = getattr(variable, "path", getattr(variable, "name", variable))
                raise self._error(f"applies a gradient to '{name}', which the model does not own")
            tensor = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
            if tf.is_tensor(tensor) and getattr(tensor, "graph", graph) is not graph:
                raise self._error(
                    "applies gradients under a condition or in a loop; an update is of every step"
                )
            of_trainable[places[id(variable)]] = gradient
        given = {id(each) for each in of_trainable if each is not None}
        unchanged = [call for call in captured.gradients if given <= {id(each) for each in call[1]}]
        if rows and not unchanged:
            raise self._error(
                "changes gradients on their way to the optimizer, which would not reach the rows "
                "of the embedding tables; give it what one tape.gradient(…) returns, and clip by "
                "the optimizer's clipnorm, clipvalue or global_clipnorm"
            )
        target, _, of_rows = (unchanged or captured.gradients)[-1]
        loss = tf.cast(tf.reduce_mean(tf.add_n(tf.nest.flatten(target))), tf.float32)
        return StepGradients(
            loss,
            [
                tf.zeros(variable.shape) if gradient is None else gradient
                for gradient, variable in zip(of_trainable, self._trainable, strict=True)
            ],
            [
                tf.zeros_like(table) if gradient is None else gradient
                for gradient, table in zip(of_rows, rows, strict=True)
            ],
        )

    @contextmanager
    def _intercepted(
        self,
        captured: _Captured,
        sources: Sequence[Any],
        rows: Sequence[tf.Tensor],
    ) -> Iterator[None]:
        """Let this thread's tapes, and optimizers, do what they do here."""
        thread = threading.get_ident()
        model = self._model
        stands_for = {
            id(variable): source for variable, source in zip(self._trainable, sources, strict=True)
        }

        def here() -> bool:
            return threading.get_ident() == thread

        enter, gradient = tf.GradientTape.__enter__, tf.GradientTape.gradient

        def entered(tape: tf.GradientTape) -> tf.GradientTape:
            entered_tape = enter(tape)
            if here():
                tape.watch([*sources, *rows])
            return entered_tape

        def gradient_with_rows(
            tape: tf.GradientTape, target: Any, of: Any, *args: Any, **kwargs: Any
        ) -> Any:
            flat = tf.nest.flatten(of)
            if not here() or not any(id(each) in stands_for for each in flat):
                return gradient(tape, target, of, *args, **kwargs)
            wanted = [stands_for.get(id(each), each) for each in flat]
            found = gradient(tape, target, [*wanted, *rows], *args, **kwargs)
            of_flat, of_rows = found[: len(flat)], found[len(flat) :]
            captured.gradients.append((target, of_flat, of_rows))
            return tf.nest.pack_sequence_as(of, of_flat)

        def apply(optimizer: Any, gradients: Any, variables: Any = None, **kwargs: Any) -> None:
            variables = model.trainable_variables if variables is None else variables
            captured.applied.append(list(zip(gradients, variables, strict=True)))

        def apply_gradients(optimizer: Any, pairs: Any, *args: Any, **kwargs: Any) -> None:
            captured.applied.append(list(pairs))

        def refuse_iterations(optimizer: Any) -> Any:
            raise self._error(
                "reads optimizer.iterations, which are counted on the parameter servers; use a "
                "schedule as the learning rate"
            )

        with ExitStack() as patches:
            for owner, name, value in [
                (tf.GradientTape, "__enter__", entered),
                (tf.GradientTape, "gradient", gradient_with_rows),
                *((each, "apply", apply) for each in _optimizers("apply")),
                *(
                    (each, "apply_gradients", apply_gradients)
                    for each in _optimizers("apply_gradients")
                ),
                *(
                    (each, "iterations", property(refuse_iterations))
                    for each in _optimizers("iterations")
                ),
            ]:
                patches.enter_context(replaced(owner, name, value))
            yield

    def _error(self, what: str) -> UsageError:
        return UsageError(f"{self._name}: {what}")


def _assignments(graph: Any) -> Counter[int]:
    """Count the operations of a function's graph that assign to variables, by id of the handle."""
    outer = {id(inner): id(handle) for handle, inner in graph.captures}
    assigning = [each for each in graph.get_operations() if each.type.startswith("Assign")]
    return Counter(outer.get(id(each.inputs[0]), 0) for each in assigning)


def _method(owner: type, name: str) -> Any:
    return getattr(owner, name, None)


def _optimizers(name: str) -> list[type]:
    """Return Keras's optimizer class, and those derived from it that define a method anew."""
    bases: list[type] = [keras.optimizers.Optimizer]
    if IS_LEGACY:
        bases.append(keras.optimizers.legacy.Optimizer)
    found: list[type] = [base for base in bases if hasattr(base, name)]
    waiting = list(found)
    while waiting:
        subclasses: list[type] = waiting.pop().__subclasses__()
        found += [each for each in subclasses if name in vars(each) and each not in found]
        waiting += subclasses
    return found
