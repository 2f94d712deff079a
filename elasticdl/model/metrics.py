"""Measuring a model's metrics, minibatch by minibatch, as states that merge."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.contract import Contract
from elasticdl.model.contracts.ranks import as_columns, as_fit_gives
from elasticdl.model.keras_api import fresh_names, keras, recorded_updates
from elasticdl.model.metric_states import MetricState, MetricStates, means, merge
from elasticdl.model.mode import Mode
from elasticdl.model.user_code import user_code

_TOLERANCE = 1e-3  # between float32 sums over a minibatch and over its halves


class Metrics:
    """The metrics of a model: what its definition names, and ``loss``.

    Scalar tensors are means over a minibatch and are weighted by its records. A Keras metric may be
    made anew for every minibatch or be kept by the user; either way each minibatch is measured from
    its initial state. Not thread-safe.

    Args:
      contract: defines the metrics.
      mode: given to create_metrics.
    """

    def __init__(self, contract: Contract, mode: Mode) -> None:
        self._contract = contract
        self._mode = mode
        self._name = contract.function("metrics")
        self._metrics: dict[str, keras.metrics.Metric] = {}
        self._compiled: Any = None
        self._adds_loss = False

    def measure(
        self,
        outputs: Any,
        labels: Any,
        num_records: int,
        penalty: Any = 0.0,
        sample_weights: Any = None,
        loss: Any = None,
    ) -> dict[str, MetricState]:
        """Return the states over one minibatch.

        Args:
          outputs: what the model returned.
          labels: the minibatch's.
          num_records: how many records it is of.
          penalty: what the model adds to the loss: regularization.
          sample_weights: the minibatch's, which the loss takes.
          loss: what the model's own class computes, all added; None where the definition's loss is
            the model's.

        Raises:
          UsageError: a value is neither a scalar tensor nor a Keras metric.
          UserCodeError: create_metrics or a metric raises.
        """
        if self._compiled is not None:
            with user_code(self._name):
                values = self._compiled(outputs, labels, sample_weights, loss)
            updated: dict[int, keras.metrics.Metric] = {}
        else:
            with user_code(self._name), recorded_updates() as updated:
                values = self._values(outputs, labels, sample_weights, loss)
            if not updated and not any(_is_keras(value) for value in values.values()):
                self._compiled = tf.function(self._values, autograph=False, reduce_retracing=True)
        if self._adds_loss and loss is None:
            values = {**values, "loss": tf.cast(values["loss"], tf.float32) + penalty}
        states = {
            name: self._keras_state(name, value, outputs, labels, id(value) in updated)
            if _is_keras(value)
            else self._mean_state(name, value, num_records)
            for name, value in values.items()
        }
        for metric in updated.values():
            metric.reset_state()  # those too of which only the result was returned
        return states

    def result(self, states: MetricStates) -> dict[str, float]:
        """Return the metrics' values over all records that were merged into the states."""
        results = means(states)
        for name, state in states.items():
            if state.kind != "keras":
                continue
            metric = self._metrics[name]
            metric.reset_state()
            for variable, value in zip(metric.variables, state.arrays, strict=True):
                variable.assign(value.astype(tf.as_dtype(variable.dtype).as_numpy_dtype))
            results.update(_flat(name, metric.result()))
            metric.reset_state()
        return results

    def directions(self, states: MetricStates) -> dict[str, str]:
        """Return whether each result is to be ``min`` or ``max``; empty where nobody knows.

        Keras's metrics know it of themselves; of others the name tells, as it does in tf_keras.
        """
        found = {}
        for name, state in states.items():
            known = getattr(self._metrics.get(name), "_direction", None)
            for each in self.result({name: state}):
                if known is not None:
                    found[each] = "max" if known == "up" else "min"
                elif each == "loss":
                    found[each] = "min"
                else:
                    found[each] = "max" if each.endswith(("acc", "accuracy", "auc")) else ""
        return found

    def check_mergeable(
        self,
        outputs: Any,
        labels: Any,
        num_records: int,
        sample_weights: Any = None,
        loss: Any = None,
    ) -> None:
        """Compare the states over a minibatch with the sum of those over its halves.

        A loss that the definition does not name as a metric is not compared: it may sum, or relate
        the records of a minibatch, and is weighted by records all the same.

        Raises:
          UsageError: names a metric whose states do not add up.
        """
        if num_records < 2 or any(
            isinstance(each, tf.SparseTensor) for each in tf.nest.flatten((outputs, labels))
        ):
            return
        half = num_records // 2
        first, second = (
            self.measure(
                _records(outputs, part),
                _records(labels, part),
                size,
                sample_weights=_records(sample_weights, part),
                loss=loss,
            )
            for part, size in ((slice(half), half), (slice(half, None), num_records - half))
        )
        whole = self.measure(outputs, labels, num_records, sample_weights=sample_weights, loss=loss)
        for name, state in merge(first, second).items():
            if name == "loss" and self._adds_loss:
                continue
            for merged, measured in zip(state.arrays, whole[name].arrays, strict=True):
                if not np.allclose(
                    merged, measured, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
                ):
                    what = (
                        "tensor is not a mean over records"
                        if state.kind == "mean"
                        else ("Keras metric's state is not a sum over records")
                    )
                    if state.kind == "keras" and _is_vector(outputs):
                        raise UsageError(
                            f"{self._name}: metric '{name}': outputs are of shape (n,), which "
                            "Keras's metrics take for one record; update it with columns: "
                            "metric.update_state(tf.reshape(labels, [-1, 1]), "
                            "tf.reshape(outputs, [-1, 1])), or return it without an update"
                        )
                    raise UsageError(
                        f"{self._name}: metric '{name}': the {what}, so several workers cannot "
                        "measure it together; return a Keras metric that sums, such as "
                        "keras.metrics.Mean or keras.metrics.AUC"
                    )

    def _values(self, outputs: Any, labels: Any, sample_weights: Any, loss: Any) -> dict[str, Any]:
        with fresh_names():  # a metric without a name of its own has the same one every time
            values = self._contract.metrics(self._mode, outputs, labels, outputs)
        has_loss = loss is not None or self._contract.has_loss
        self._adds_loss = "loss" not in values and has_loss
        if self._adds_loss:
            if loss is None:
                loss = self._contract.loss(outputs, labels, sample_weights)
            values = {"loss": loss, **values}
        for name, value in values.items():
            if not _is_keras(value) and np.shape(value) != ():
                raise UsageError(
                    f"{self._name}: metric '{name}' is of shape {tuple(np.shape(value))}; return a "
                    "scalar tensor or a Keras metric"
                )
        return values

    def _mean_state(self, name: str, value: Any, num_records: int) -> MetricState:
        records = np.float64(num_records)
        try:
            return MetricState(
                "mean", (np.asarray(np.float64(value) * records), np.asarray(records))
            )
        except (TypeError, ValueError):
            raise UsageError(
                f"{self._name}: metric '{name}' is a {type(value).__name__}; return a scalar "
                "tensor or a Keras metric"
            ) from None

    def _keras_state(
        self,
        name: str,
        metric: keras.metrics.Metric,
        outputs: Any,
        labels: Any,
        is_updated: bool,
    ) -> MetricState:
        """Return the metric's state over this minibatch alone, and reset it for the next."""
        self._metrics[name] = metric
        if not is_updated:
            with user_code(f"metric '{name}' of '{self._contract.source.model_def}'"):
                metric.update_state(*as_columns(*as_fit_gives(labels, outputs)))
        state = _variables(metric)
        metric.reset_state()
        return MetricState("keras", state)


def _is_keras(value: Any) -> bool:
    return isinstance(value, keras.metrics.Metric)


def _variables(metric: keras.metrics.Metric) -> tuple[np.ndarray, ...]:
    return tuple(variable.numpy().astype(np.float64) for variable in metric.variables)


def _is_vector(outputs: Any) -> bool:
    return tf.is_tensor(outputs) and outputs.shape.rank == 1


def _records(nest: Any, part: slice) -> Any:
    if nest is None:
        return None
    return tf.nest.map_structure(lambda each: each[part], nest)


def _flat(name: str, result: Any) -> dict[str, float]:
    """Return a metric's result as named numbers: those of several in one are name_0, name_1, …"""
    if isinstance(result, dict):
        return {
            key: value
            for inner, each in result.items()
            for key, value in _flat(f"{name}_{inner}", each).items()
        }
    values = np.asarray(result, np.float64)
    if values.size == 1:  # Of one class, F1Score's is a vector all the same.
        return {name: float(values.item())}
    return {f"{name}_{index}": float(value) for index, value in enumerate(values.ravel())}
