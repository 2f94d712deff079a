"""The structure of a model's input, known without reading any data."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.contract import Contract
from elasticdl.model.mode import Mode
from elasticdl.model.records_input import minibatches, no_records


class ElementSpec(NamedTuple):
    """Type specs of a minibatch, the number of records open (None).

    Attributes:
      features: a nest of specs, as the model receives it.
      labels: a nest of specs, or None where the dataset has none.
      sample_weights: likewise.
    """

    features: Any
    labels: Any
    sample_weights: Any = None


def split_element(element: Any, where: str = "the input function") -> ElementSpec:
    """Return features, labels and sample weights of what a dataset yields; None for the absent.

    Args:
      element: as the dataset yields it.
      where: names the dataset's function in messages.
    """
    if not isinstance(element, tuple):
        return ElementSpec(element, None)
    if len(element) > 3:
        raise UsageError(
            f"{where}: yields tuples of {len(element)}; yield (features, labels) or "
            "(features, labels, sample_weights), features alone when there are no labels"
        )
    features, labels, sample_weights = (*element, None, None)[:3]
    return ElementSpec(features, labels, sample_weights)


def element_spec(contract: Contract, mode: Mode) -> ElementSpec:
    """Trace the user's input function once, over no records, and return what its minibatches are.

    Raises:
      UsageError: an element is not (features, labels), or labels are missing where needed.
      UserCodeError: the function raises.
    """
    schema = contract.source.schema
    where = contract.function("dataset")
    elements = contract.dataset(no_records(schema), mode)
    found = split_element(minibatches(elements, schema, 1, where).element_spec, where)
    if found.labels is None and mode is not Mode.PREDICTION:
        raise UsageError(
            f"{where}: yields no labels in mode {mode.value}; yield (features, labels)"
        )
    weights = [] if found.sample_weights is None else tf.nest.flatten(found.sample_weights)
    for each in weights:
        dtype = each.dtype if isinstance(each, tf.TensorSpec) else tf.string
        if not (dtype.is_floating or dtype.is_integer):
            raise UsageError(
                f"{where}: yields {each} as sample weights; yield one number for each record"
            )
    return found


def tensor_names(nest: Any, alone: str) -> list[str]:
    """Return a name for every tensor of a nest, in the order of its flattening.

    A dict gives its keys; a sequence numbers; a tensor by itself is called `alone`. The names are
    those of a SavedModel's inputs and outputs and of the columns of predictions.
    """
    names: list[str] = []

    def walk(part: Any, path: tuple[str, ...]) -> None:
        if isinstance(part, dict):
            for key in sorted(part):
                walk(part[key], (*path, str(key)))
        elif isinstance(part, list | tuple):
            for index, each in enumerate(part):
                walk(each, (*(path or (alone,)), str(index)))
        else:
            names.append(re.sub(r"\W", "_", "_".join(path)) or alone)

    walk(nest, ())
    return names
