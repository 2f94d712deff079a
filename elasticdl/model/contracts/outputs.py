"""Models of several outputs: which label, loss and metric belongs to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elasticdl.errors import UsageError


def output_names(outputs: Any, model_names: Sequence[str]) -> list[str]:
    """Return the names of a model's outputs; of one alone, none.

    Args:
      outputs: what the model returned.
      model_names: what a functional model calls its outputs; may be empty.
    """
    if isinstance(outputs, Mapping):
        return [str(name) for name in outputs]
    if not isinstance(outputs, list | tuple):
        return []
    if len(model_names) == len(outputs):
        return list(model_names)
    return [f"output_{index}" for index in range(1, len(outputs) + 1)]


def part(nest: Any, name: str, names: Sequence[str], what: str) -> Any:
    """Return what a dict, or a sequence in the order of the outputs, has for one output.

    Args:
      nest: outputs, labels, weights, or the losses given for them.
      name: the output's.
      names: of all outputs.
      what: names the nest in messages.

    Raises:
      UsageError: it has nothing for that output.
    """
    if isinstance(nest, Mapping):
        if name in nest:
            return nest[name]
        raise UsageError(
            f"{what}: nothing for output '{name}' among {', '.join(map(repr, nest)) or 'nothing'}; "
            f"name it as the outputs: {', '.join(map(repr, names))}"
        )
    if isinstance(nest, list | tuple) and len(nest) == len(names):
        return nest[list(names).index(name)]
    size = f"are {len(nest)}" if isinstance(nest, list | tuple) else "are one"
    raise UsageError(
        f"{what}: {size}, but the model has {len(names)} outputs; give a dict by the outputs' "
        f"names: {', '.join(map(repr, names))}"
    )
