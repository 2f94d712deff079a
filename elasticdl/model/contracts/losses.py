"""The forms in which people give a loss, and what each makes of a minibatch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.calling import (
    call_with_outputs_and_labels,
    kind_of,
    named_parameters,
    needs_no_arguments,
)
from elasticdl.model.contracts.loss_names import is_crossentropy, loss_named, nearest_loss
from elasticdl.model.contracts.outputs import output_names, part
from elasticdl.model.contracts.ranks import as_fit_gives, kind_of_labels, same_rank

_WEIGHTS = ("sample_weight", "sample_weights", "weights")


@dataclass(frozen=True)
class LossForm:
    """How a definition's loss is called.

    Attributes:
      label: what messages call it.
      as_keras: labels come first where a function's names do not say, and what it returns for
        each record is reduced to its mean; otherwise outputs come first and it returns a scalar.
      model_outputs: the names of a functional model's outputs.
      loss_weights: by output, as `keras.Model.compile` takes them.
      is_compiled: the loss is what the model was compiled with, so a function is of one output.
    """

    label: str
    as_keras: bool
    model_outputs: Sequence[str] = ()
    loss_weights: Any = None
    is_compiled: bool = False


def compute_loss(value: Any, outputs: Any, labels: Any, sample_weights: Any, form: LossForm) -> Any:
    """Return the loss of a minibatch as `model.fit` computes it.

    Args:
      value: a function of outputs and labels; an object, class or name of Keras's losses; a dict
        or list of those by output; a function of nothing that returns one of them.
      outputs: what the model returned.
      labels: the minibatch's.
      sample_weights: one per record, or None.
      form: how to call it.

    Raises:
      UsageError: there is no such loss, or it cannot take what is given.
    """
    from elasticdl.model.keras_api import keras

    if inspect.isfunction(value) and needs_no_arguments(value):
        value = value()
    names = output_names(outputs, form.model_outputs)
    if isinstance(value, Mapping | list | tuple):
        if names:
            return _by_output(value, outputs, labels, sample_weights, names, form)
        value, labels = _of_only_output(value, labels, form)
        return compute_loss(value, outputs, labels, sample_weights, form)
    if isinstance(value, str):
        if names:
            same = dict.fromkeys(names, value)
            return _by_output(same, outputs, labels, sample_weights, names, form)
        value = _by_name(value, outputs, labels, form)
    elif inspect.isclass(value) and issubclass(value, keras.losses.Loss):
        value = value()
    is_loss = isinstance(value, keras.losses.Loss)
    if not is_loss and not _is_kerass(value) and not (form.is_compiled and callable(value)):
        if form.loss_weights is not None and form.as_keras:
            raise UsageError(
                f"{form.label}: is one function, which loss_weights do not reach; give a dict of "
                "losses by output, or weigh them in the function and rename loss_weights"
            )
        return _of_function(value, outputs, labels, sample_weights, form)
    if names:
        same = dict.fromkeys(names, value)
        return _by_output(same, outputs, labels, sample_weights, names, form)
    if is_loss:
        loss = value(*as_fit_gives(labels, outputs), sample_weights)
    else:
        loss = _reduced(value)(labels, outputs, sample_weights)
    factor = _only_factor(form)
    return loss if factor is None else loss * factor


def _of_only_output(losses: Any, labels: Any, form: LossForm) -> tuple[Any, Any]:
    """Return the loss of a model's one output, and its labels."""
    if len(losses) != 1:
        raise UsageError(
            f"{form.label}: is {len(losses)} losses, but the model has one output; give one loss"
        )
    if not isinstance(losses, Mapping):
        return losses[0], labels
    ((name, only),) = losses.items()
    return only, labels[name] if isinstance(labels, Mapping) and name in labels else labels


def _by_output(
    losses: Any,
    outputs: Any,
    labels: Any,
    sample_weights: Any,
    names: Sequence[str],
    form: LossForm,
) -> Any:
    """Return the weighted sum of the losses that outputs have; a loss of None is none."""
    if isinstance(outputs, Mapping):
        names = sorted(names)  # the order in which Keras gives lists to a dict's outputs
    unknown = [str(name) for name in losses if name not in names]
    if isinstance(losses, Mapping) and unknown:
        raise UsageError(
            f"{form.label}: has a loss for '{unknown[0]}', which is no output of the model; its "
            f"outputs are {', '.join(map(repr, names))}"
        )
    _check_names(form.loss_weights, names, f"{form.label}: loss_weights")
    _check_names(sample_weights, names, "sample weights")
    total: Any = None
    for name in names:
        if isinstance(losses, Mapping) and name not in losses:
            continue
        one = part(losses, name, names, form.label)
        if one is None:
            continue
        of_output = compute_loss(
            one,
            part(outputs, name, names, "the model's outputs"),
            part(labels, name, names, "labels"),
            _weights_of(sample_weights, name, names),
            LossForm(
                f"{form.label} for output '{name}'", as_keras=True, is_compiled=form.is_compiled
            ),
        )
        factor = _factor(form.loss_weights, name, names)
        of_output = of_output if factor is None else of_output * factor
        total = of_output if total is None else total + of_output
    if total is None:
        raise UsageError(f"{form.label}: has no loss for any output; give at least one")
    return total


def _check_names(by_output: Any, names: Sequence[str], what: str) -> None:
    """Raise UsageError where a dict by output has something for what is no output."""
    if not isinstance(by_output, Mapping):
        return
    unknown = [name for name in by_output if name not in names]
    if unknown:
        raise UsageError(
            f"{what}: '{unknown[0]}' is no output of the model; its outputs are "
            f"{', '.join(map(repr, names))}"
        )


def _weights_of(sample_weights: Any, name: str, names: Sequence[str]) -> Any:
    """Return an output's sample weights: its own, or those that all outputs share."""
    if isinstance(sample_weights, Mapping):
        return sample_weights.get(name)
    if isinstance(sample_weights, list | tuple):
        return part(sample_weights, name, names, "sample weights")
    return sample_weights


def _factor(loss_weights: Any, name: str, names: Sequence[str]) -> Any:
    if loss_weights is None:
        return None
    if isinstance(loss_weights, Mapping):
        return loss_weights.get(name)
    return part(loss_weights, name, names, "loss_weights")


def _only_factor(form: LossForm) -> Any:
    """Return what the loss of a model's one output is multiplied by."""
    given = form.loss_weights
    if not isinstance(given, Mapping | list | tuple):
        return given
    if isinstance(given, Mapping) and form.model_outputs:
        _check_names(given, form.model_outputs, f"{form.label}: loss_weights")
    if len(given) != 1:
        raise UsageError(
            f"{form.label}: loss_weights are {len(given)}, but the model has one output; give one"
        )
    (factor,) = given.values() if isinstance(given, Mapping) else given
    return factor


def _by_name(name: str, outputs: Any, labels: Any, form: LossForm) -> Any:
    if is_crossentropy(name):
        return loss_named(f"{kind_of_labels(outputs, labels)}_crossentropy")
    found = loss_named(name)
    if found is None:
        near = nearest_loss(name)
        hint = f"did you mean '{near}'?" if near else "give one such as 'mse' or 'hinge'"
        raise UsageError(f"{form.label}: Keras has no loss '{name}'; {hint}")
    return found


def _is_kerass(value: Any) -> bool:
    """Whether a function is one of Keras's own losses."""
    module = getattr(value, "__module__", None) or ""
    return inspect.isfunction(value) and module.partition(".")[0] in ("keras", "tf_keras")


def _reduced(function: Callable[..., Any]) -> Any:
    """Return the Keras loss that reduces what a function gives for each record."""
    from elasticdl.model.keras_api import keras

    class OfFunction(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return function(*same_rank(y_true, y_pred))

    return OfFunction()


def _of_function(
    function: Any, outputs: Any, labels: Any, sample_weights: Any, form: LossForm
) -> Any:
    if not callable(function):
        raise UsageError(
            f"{form.label}: is {kind_of(function)}; give a function of labels and predictions"
        )
    taken = [each.name for each in named_parameters(function)[2:] if each.name in _WEIGHTS]
    further = {taken[0]: sample_weights} if taken else {}
    loss = call_with_outputs_and_labels(function, outputs, labels, form.as_keras, **further)
    rank = getattr(getattr(loss, "shape", None), "rank", None)
    if taken or not form.as_keras or not rank:
        if sample_weights is not None and not taken:
            each = " or return a loss for each record," if form.as_keras else ""
            raise UsageError(
                f"{form.label}: does not take the sample weights of the data; give it a third "
                f"parameter sample_weights,{each} or use an object of keras.losses"
            )
        return loss
    return _reduced(lambda _, values: values)(loss, loss, sample_weights)
