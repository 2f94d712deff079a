"""The structure of a model's input, known without reading any data."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from elasticdl.errors import UsageError
from elasticdl.model.contract import Contract
from elasticdl.model.mode import Mode
from elasticdl.model.records_input import minibatches, no_records


class ElementSpec(NamedTuple):
    """Type specs of a minibatch, the number of records open (None).

    Attributes:
      features: a nest of specs, as the model receives it.
      labels: a nest of specs, or None where the dataset has none.
    """

    features: Any
    labels: Any


def split_element(element: Any) -> tuple[Any, Any]:
    """Return (features, labels) of what a dataset yields; labels are None where absent."""
    if isinstance(element, tuple):
        if len(element) == 1:
            return element[0], None
        if len(element) == 2:
            return element
        raise UsageError(
            f"create_dataset: yields tuples of {len(element)}; yield (features, labels), "
            "features alone when there are no labels"
        )
    return element, None


def element_spec(contract: Contract, mode: Mode) -> ElementSpec:
    """Trace the user's input function once, over no records, and return what its minibatches are.

    Raises:
      UsageError: an element is not (features, labels), or labels are missing where needed.
      UserCodeError: the function raises.
    """
    schema = contract.source.schema
    where = contract.function("dataset")
    elements = contract.dataset(no_records(schema), mode)
    features, labels = split_element(minibatches(elements, schema, 1, where).element_spec)
    if labels is None and mode is not Mode.PREDICTION:
        raise UsageError(
            f"{where}: yields no labels in mode {mode.value}; yield (features, labels)"
        )
    return ElementSpec(features, labels)


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
