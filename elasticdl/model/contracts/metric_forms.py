"""The forms in which people give metrics: functions, Keras's own, names, and nests by output."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.model.contracts.calling import call_with_outputs_and_labels, kind_of
from elasticdl.model.contracts.outputs import output_names, part
from elasticdl.model.contracts.ranks import (
    as_columns,
    as_fit_gives,
    kind_of_labels,
    same_rank,
)

_CROSSENTROPIES = ("crossentropy", "ce")
_ACCURACIES = ("accuracy", "acc")


class MetricForms:
    """Turns what a definition gives into tensors and Keras metrics by name.

    Keras metrics that are made here, from a class or a name, are kept. Not thread-safe.

    Args:
      label: what messages call the definition's function.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._made: dict[str, Any] = {}

    def values(
        self,
        given: Any,
        outputs: Any,
        labels: Any,
        model_outputs: Sequence[str],
        is_compiled: bool = False,
    ) -> dict[str, Any]:
        """Return scalar tensors and Keras metrics by name.

        Functions are called and averaged over the records; Keras metrics by output, and those made
        here, are updated. Tensors, and metrics for all outputs, are as they were given.

        Args:
          given: a dict by name, nested by output's name; or a list.
          outputs: what the model returned.
          labels: the minibatch's.
          model_outputs: the names of a functional model's outputs.
          is_compiled: they are what the model was compiled with: each is of one output.

        Raises:
          UsageError: something is no metric, or names no output.
        """
        if given is None:
            return {}
        names = output_names(outputs, model_outputs)
        if is_compiled:
            given = self._of_compiled(given, names, outputs, model_outputs)
        if isinstance(given, list | tuple):
            if len(given) == len(names) and any(isinstance(each, list | tuple) for each in given):
                given = dict(zip(names, given, strict=True))
            else:
                given = _named(given)
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UsageError(
                f"{self._label}: returns {kind_of(given)}; return a dict of tensors, functions of "
                "(labels, predictions) or Keras metrics by name"
            )
        found: dict[str, Any] = {}
        for name, metric in given.items():
            if metric is None:
                continue
            if not isinstance(metric, Mapping | list | tuple) and name not in names:
                found[name] = self._value(name, metric, outputs, labels)
                continue
            inner = metric if isinstance(metric, Mapping | list | tuple) else [metric]
            if not isinstance(inner, Mapping):
                inner = _named(inner)
            of_output, of_labels = outputs, labels
            if names:
                of_output = (
                    part(outputs, name, names, f"{self._label}: outputs")
                    if (name in names)
                    else self._no_output(name, names)
                )
                if isinstance(labels, Mapping | list | tuple):  # else all outputs have the same
                    of_labels = part(labels, name, names, "labels")
            for inner_name, each in inner.items():
                full = f"{name}_{inner_name}"
                found[full] = self._value(full, each, of_output, of_labels, is_part=True)
        return found

    def _of_compiled(
        self, given: Any, names: Sequence[str], outputs: Any, model_outputs: Sequence[str]
    ) -> dict[str, Any]:
        """Return the metrics of `compile` by name, or of several outputs by output and name."""
        from elasticdl.model.keras_api import IS_LEGACY

        if not isinstance(given, Mapping | list | tuple):
            given = [given]
        if not names:
            values = given.values() if isinstance(given, Mapping) else given
            lists = [each if isinstance(each, list | tuple) else [each] for each in values]
            return _named([metric for each in lists for metric in each])
        if isinstance(given, Mapping):
            for name in given:
                if name not in names:
                    self._no_output(name, names)
            return dict(given)
        if IS_LEGACY and not any(isinstance(each, list | tuple) for each in given):
            return {name: self._copied(given, name) for name in names}
        if len(given) != len(names):
            raise UsageError(
                f"{self._label}: are {len(given)}, but the model has {len(names)} outputs; give a "
                f"list for each, or a dict by the outputs' names: {', '.join(map(repr, names))}"
            )
        ordered = list(names)
        if isinstance(outputs, Mapping):
            ordered = sorted(names) if set(model_outputs) != set(names) else list(model_outputs)
        return dict(zip(ordered, given, strict=True))

    def _copied(self, metrics: Sequence[Any], output: str) -> list[Any]:
        """Return metrics for one output of several, of which each has an object of its own."""
        from elasticdl.model.keras_api import keras

        own = []
        for index, metric in enumerate(metrics):
            if isinstance(metric, keras.metrics.Metric):
                key = f"{output}/{index}"
                if key not in self._made:
                    self._made[key] = type(metric).from_config(metric.get_config())
                metric = self._made[key]
            own.append(metric)
        return own

    def _value(
        self, name: str, metric: Any, outputs: Any, labels: Any, is_part: bool = False
    ) -> Any:
        import tensorflow as tf

        from elasticdl.model.keras_api import keras

        is_kept = isinstance(metric, keras.metrics.Metric)
        if isinstance(metric, str) or inspect.isclass(metric):
            key = f"{name}/{metric}"
            if key not in self._made:
                self._made[key] = self._make(metric, outputs, labels)
            metric = self._made[key]
        if isinstance(metric, keras.metrics.Metric):
            if is_part or not is_kept:
                metric.update_state(*as_columns(*as_fit_gives(labels, outputs)))
            return metric
        if not callable(metric):
            return metric
        if (getattr(metric, "__module__", "") or "").partition(".")[0] in ("keras", "tf_keras"):
            labels, outputs = as_columns(*same_rank(labels, outputs))
        value = call_with_outputs_and_labels(metric, outputs, labels, labels_first=True)
        if not tf.is_tensor(value) and not hasattr(value, "shape"):
            return value
        value = tf.convert_to_tensor(value)
        if not value.dtype.is_floating:
            value = tf.cast(value, tf.float32)
        return tf.reduce_mean(value)

    def _make(self, metric: Any, outputs: Any, labels: Any) -> Any:
        """Return the metric, or the function, that a class or a name means."""
        from elasticdl.model.keras_api import keras

        if inspect.isclass(metric):
            if not issubclass(metric, keras.metrics.Metric):
                raise UsageError(
                    f"{self._label}: {kind_of(metric)} is no metric; give one of keras.metrics"
                )
            return metric()
        name = metric.lower()
        if name in _ACCURACIES or name in _CROSSENTROPIES:
            kind = kind_of_labels(outputs, labels)
            ending = "accuracy" if name in _ACCURACIES else "crossentropy"
            return keras.metrics.get(f"{kind}_{ending}")
        try:
            found = keras.metrics.get(metric)
        except ValueError:
            found = metric
        if isinstance(found, str):  # What tf_keras gives for a name it does not know.
            raise UsageError(
                f"{self._label}: Keras has no metric '{metric}'; give one such as 'accuracy', "
                "'mae' or 'AUC'"
            )
        return found() if inspect.isclass(found) else found

    def _no_output(self, name: str, names: Sequence[str]) -> Any:
        raise UsageError(
            f"{self._label}: has metrics for '{name}', which is no output of the model; its "
            f"outputs are {', '.join(map(repr, names))}"
        )


def _name_of(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    name = getattr(metric, "name", None) or getattr(metric, "__name__", None)
    return str(name) if name else type(metric).__name__


def _named(metrics: Sequence[Any]) -> dict[str, Any]:
    """Return metrics by their names; of those with one name, all but the first get a number."""
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for metric in metrics:
        if metric is None:
            continue
        name = _name_of(metric)
        number = counts[name]
        counts[name] += 1
        found[f"{name}_{number}" if number else name] = metric
    return found
