"""What the ids that a model looks up in its tables may be made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.layers.lookup_context import CollectedIds, CollectIds
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.building import table_layers
from elasticdl.model.keras_api import keras, tf_variable, variable_path
from elasticdl.worker.graph_paths import ancestors, narrowed_through


def check_owned(model: keras.Model, layers: Sequence[TableLayer]) -> None:
    """Raise UsageError where a layer was called that Keras does not know as the model's."""
    owned = {id(layer) for layer in table_layers(model)}
    for layer in layers:
        if id(layer) not in owned:
            raise UsageError(
                f"layer '{layer.name}': the model calls it but does not own it, so that its "
                "rows would not be in the trained model; call it on a keras.Input, or make it "
                "an attribute of the model or of a Keras layer: not inside a "
                "keras.layers.Lambda or a tf.Module"
            )


def check_ids(context: CollectIds, graph: Any, variables: Sequence[keras.Variable]) -> list[str]:
    """Raise UsageError where ids depend on something that is trained, or are rounded.

    Args:
      context: has the ids of every call.
      graph: where they were made.
      variables: of the model, that are trained or kept.

    Returns:
      Warnings.
    """
    warnings = []
    handles = {id(inner): outer for outer, inner in graph.captures}
    trained = {id(tf_variable(each).handle): each for each in variables}
    answers = {id(call.answer.op): call.layer.name for call in context.calls}
    for call in context.calls:
        warnings += _check_precision(call)
        for operation in ancestors(call.ids):
            if id(operation) in answers:
                raise UsageError(
                    f"layer '{call.layer.name}': its ids depend on the result of embedding "
                    f"layer '{answers[id(operation)]}'; ids must depend on the inputs only"
                )
            for tensor in operation.outputs:
                variable = trained.get(id(handles.get(id(tensor))))
                if variable is not None:
                    raise UsageError(
                        f"layer '{call.layer.name}': its ids depend on variable "
                        f"'{variable_path(variable)}', which is trained; ids must depend on "
                        "the inputs only"
                    )
    return warnings


def _check_precision(call: CollectedIds) -> list[str]:
    """Raise or warn where integer ids went through a type that does not hold them all."""
    narrow = narrowed_through(call.ids)
    name = call.layer.name
    if narrow is None:
        return []
    if narrow.is_floating:
        rounded = (
            f"layer '{name}': its ids are integers in the data but went through {narrow.name}, "
            "which rounds large ones; give the model's input the type of the data: "
            "keras.Input(…, dtype='int64')"
        )
        if not call.layer.casts_ids:
            raise UsageError(rounded)
        return [rounded]
    return [
        f"layer '{name}': its ids are int64 in the data but {narrow.name} on their way, "
        "which holds them up to 2,147,483,647; use int64 throughout, such as "
        "keras.Input(…, dtype='int64')"
    ]
