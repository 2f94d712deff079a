"""The user's own Keras callbacks, run in one worker: hooks in their order, decisions out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from elasticdl.errors import UserCodeError
from elasticdl.job_spec import JobSpec
from elasticdl.model.building import build_model, pull_variables
from elasticdl.model.callback_plan import constant_rate
from elasticdl.model.contract import Contract
from elasticdl.model.user_code import user_code
from elasticdl.worker.check import callbacks_of
from elasticdl.worker.two_phase import TwoPhaseModel

_VALIDATION = "val_"


class CallbackError(UserCodeError):
    """A callback raised, or did what cannot be kept. The job fails: trying again is no help."""


def describe_callbacks(spec: JobSpec, contract: Contract, model: TwoPhaseModel) -> dict[str, Any]:
    """Return what the master is to know of a training's callbacks, as JSON can hold it.

    Raises:
      UsageError: a callback cannot be kept.
      UserCodeError: the user's code raises.
    """
    plan = callbacks_of(spec, contract, model)
    rate = constant_rate(contract.create_optimizer())
    return {
        "callbacks": plan.configs,
        "learning_rate": None if plan.version_schedule is not None else rate,
        "epoch_rates": plan.epoch_rates,
        "user_callbacks": bool(plan.users),
    }


class CallbackHost:
    """Runs the hooks of some callbacks in this process. Used by one thread.

    `self.model` is a Keras model of the job's definition. Before every hook it holds the dense
    values that are given; its optimizer has the current learning rate. Assigning that rate and
    setting `stop_training` are decisions; weights cannot be set.

    Args:
      contract: defines the model, and its optimizer.
      features: nest of type specs of a minibatch's features.
      seed: of the model's initial values.
      callbacks: whose hooks are run.
      num_epochs: of the job.
    """

    def __init__(
        self,
        contract: Contract,
        features: Any,
        seed: int,
        callbacks: Sequence[Any],
        num_epochs: int,
    ) -> None:
        self._callbacks = list(callbacks)
        self._optimizer = contract.create_optimizer()
        self._rate_is_number = constant_rate(self._optimizer) is not None
        self._model = build_model(contract, features, seed)
        self._model.optimizer = self._optimizer
        self._variables = pull_variables(self._model)
        self._began = False
        for callback in self._callbacks:
            with _callback_code(callback, "set_model"):
                callback.set_params({"verbose": 0, "epochs": num_epochs, "steps": None})
                callback.set_model(self._model)

    def run(
        self,
        events: Sequence[Mapping[str, Any]],
        learning_rate: float | None,
        dense: np.ndarray,
        version: int,
    ) -> dict[str, Any]:
        """Call the hooks of some events, in order, and return what they decided.

        A host that is new, because the one before was lost, begins with `on_train_begin`.

        Args:
          events: each its name, as ``epoch_end``, and what the hook is given.
          learning_rate: the current one; None where a schedule decides.
          dense: values of the model's variables, float32 ``[D]``.
          version: updates there were; a schedule's rate is that of this one.

        Returns:
          ``stop``, and ``learning_rate``: None unless a callback changed it.

        Raises:
          CallbackError: a callback raised, or changed the model's weights.
        """
        self._assign(dense)
        self._model.stop_training = False
        before = self._set_rate(learning_rate, version)
        if not self._began and events[0]["event"] != "train_begin":
            self._call("on_train_begin", {})
        self._began = True
        for event in events:
            self._run_event(event)
        self._check_weights(dense)
        after = self._rate()
        if not 0 <= after < math.inf:
            raise CallbackError(
                f"callbacks: one set the learning rate to {after:g}; a rate is a finite number ≥ 0",
                "",
            )
        return {
            "stop": bool(self._model.stop_training),
            "learning_rate": after if after != before else None,
        }

    def _run_event(self, event: Mapping[str, Any]) -> None:
        name = str(event["event"]).replace("evaluation", "test")
        logs = dict(event.get("logs") or {})
        if name == "test_end":  # Keras gives it names without what they have at an epoch's end
            logs = {
                key.removeprefix(_VALIDATION): value
                for key, value in logs.items()
                if key.startswith(_VALIDATION)
            }
        if name.startswith("epoch"):
            self._call(f"on_{name}", int(event["epoch"]), logs)
        else:
            self._call(f"on_{name}", logs)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            with _callback_code(callback, hook):
                getattr(callback, hook)(*arguments)

    # ------------------------------------------------------------------- the model

    def _assign(self, dense: np.ndarray) -> None:
        for variable, value in zip(self._variables, self._parts(dense), strict=True):
            variable.assign(value)

    def _parts(self, dense: np.ndarray) -> list[np.ndarray]:
        sizes = [int(np.prod(variable.shape)) for variable in self._variables]
        parts = np.split(dense, np.cumsum(sizes)[:-1]) if sizes else []
        return [
            part.reshape(variable.shape)
            for part, variable in zip(parts, self._variables, strict=True)
        ]

    def _check_weights(self, dense: np.ndarray) -> None:
        """Raise where a hook changed weights: nobody else would ever see it."""
        for variable, value in zip(self._variables, self._parts(dense), strict=True):
            if not np.array_equal(np.asarray(variable), value, equal_nan=True):
                names = ", ".join(type(callback).__name__ for callback in self._callbacks)
                raise CallbackError(
                    f"callbacks ({names}): one changed the model's variable '{variable.name}'; "
                    "weights are on the parameter servers and change by training alone: set "
                    "self.model.stop_training or self.model.optimizer.learning_rate",
                    "",
                )

    def _set_rate(self, learning_rate: float | None, version: int) -> float:
        if self._rate_is_number and learning_rate is not None:
            self._optimizer.learning_rate = learning_rate
        self._optimizer.iterations.assign(version)
        return self._rate()

    def _rate(self) -> float:
        rate = self._optimizer.learning_rate
        return float(rate(self._optimizer.iterations) if callable(rate) else rate)


@contextmanager
def _callback_code(callback: Any, hook: str) -> Iterator[None]:
    """Turn what a hook raises into `CallbackError`."""
    try:
        with user_code(f"{hook} of callback '{type(callback).__name__}'"):
            yield
    except UserCodeError as error:
        raise CallbackError(str(error), error.traceback_text) from error
