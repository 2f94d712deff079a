"""What becomes of a model's Keras callbacks: decisions of the master, or hooks run by a worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from elasticdl.callbacks import LearningRateScheduler, MaxStepsStopping, SavedModelExporter
from elasticdl.errors import UsageError
from elasticdl.model.contract import Contract
from elasticdl.model.keras_api import IS_LEGACY, keras
from elasticdl.model.user_code import user_code
from elasticdl.model.user_optimizer import learning_rate_schedule

HOOKS = (
    *("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end"),
    *("on_test_begin", "on_test_end"),
)
_NEVER_CALLED = (
    *("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"),
    *("on_test_batch_begin", "on_test_batch_end", "on_predict_begin", "on_predict_end"),
    *("on_predict_batch_begin", "on_predict_batch_end"),
)
_DECIDED = (
    *("EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint", "LearningRateScheduler"),
    "TerminateOnNaN",
)
# Left out with a warning: what the job does instead.
_LEFT_OUT = {
    "BackupAndRestore": "a lost worker does not end a job, and loses nothing trained",
    "BackupAndRestoreExperimental": "a lost worker does not end a job",
    "BaseLogger": "the logs of epochs are means over their records already",
    "History": "the job's result has the history",
    "ProgbarLogger": "the job shows its progress itself",
    "TensorBoard": "it would log each worker's minibatches; CSVLogger logs epochs and evaluations",
}
_REFUSED = {
    "OrbaxCheckpoint": "use ModelCheckpoint(save_best_only=True)",
    "SwapEMAWeights": "moving averages of weights (use_ema) are not kept; leave it out",
    "UpdateEmbeddingCallback": "use elasticdl.layers.Embedding, whose tables grow by themselves",
}
_OURS = (LearningRateScheduler, MaxStepsStopping, SavedModelExporter)
_SUFFIXES = (".weights.h5", ".keras", ".h5", ".tf")


@dataclass(frozen=True)
class Measured:
    """What callbacks may monitor.

    Attributes:
      directions: of the evaluation's metrics by name: ``min``, ``max``, or empty if not known.
      validates: whether there are validation data.
    """

    directions: Mapping[str, str]
    validates: bool

    @property
    def names(self) -> list[str]:
        """Names as they are in logs."""
        return ["loss", *(f"val_{name}" for name in self.directions if self.validates)]


@dataclass
class CallbackPlan:
    """What becomes of a model's callbacks.

    Attributes:
      configs: of those the master decides for, as JSON can hold them.
      epoch_rates: the learning rate of each epoch, where a LearningRateScheduler decides it.
      version_schedule: the learning rate by updates so far, where the model has one.
      max_steps: where a MaxStepsStopping says so.
      users: those whose hooks are run, in their order.
      warnings: what may be meant so, but often is not.
    """

    configs: list[dict[str, Any]] = field(default_factory=list)
    epoch_rates: list[float] | None = None
    version_schedule: Callable[[int], float] | None = None
    max_steps: int | None = None
    users: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def plan_callbacks(
    contract: Contract, num_epochs: int, measured: Callable[[], Measured]
) -> CallbackPlan:
    """Read the callbacks of a model.

    Args:
      contract: makes them.
      num_epochs: of the training.
      measured: says what can be monitored; called only if a callback monitors something.

    Raises:
      UsageError: one cannot be kept in a job of several processes; says which, and what to do.
      UserCodeError: the user's code raises.
    """
    return _Reader(contract, num_epochs, measured).plan(contract.callbacks())


def version_schedule(contract: Contract) -> Callable[[int], float] | None:
    """Return the learning rate by updates so far that a model's callbacks decide, if they do.

    Every worker needs it, so every worker makes the callbacks: whether one of them is such a
    scheduler cannot be told before they are made.

    Raises:
      UserCodeError: the user's code raises.
    """
    found = [each for each in contract.callbacks() if isinstance(each, LearningRateScheduler)]
    return found[-1].schedule if found else None


def user_callbacks(contract: Contract) -> list[Any]:
    """Make a model's callbacks and return those whose hooks are run; as `plan_callbacks` has them.

    Raises:
      UserCodeError: the user's code raises.
    """
    others = {*_DECIDED, *_LEFT_OUT}
    return [
        callback
        for callback in contract.callbacks()
        if not isinstance(callback, _OURS) and _built_in_name(callback) not in others
    ]


class _Reader:
    def __init__(
        self, contract: Contract, num_epochs: int, measured: Callable[[], Measured]
    ) -> None:
        self._contract = contract
        self._num_epochs = num_epochs
        self._measured = measured
        self._plan = CallbackPlan()

    def plan(self, callbacks: Sequence[Any]) -> CallbackPlan:
        readers: dict[str, Callable[[Any], None]] = {
            "EarlyStopping": self._early_stopping,
            "ReduceLROnPlateau": self._reduce_on_plateau,
            "ModelCheckpoint": self._model_checkpoint,
            "LearningRateScheduler": self._learning_rate_scheduler,
            "TerminateOnNaN": lambda callback: None,  # --on_nan=stop is the default
        }
        for callback in callbacks:
            if isinstance(callback, SavedModelExporter):
                continue
            name = _built_in_name(callback)
            if isinstance(callback, MaxStepsStopping):
                limits = [callback.max_steps, self._plan.max_steps or callback.max_steps]
                self._plan.max_steps = min(limits)
            elif isinstance(callback, LearningRateScheduler):
                self._only_rate("LearningRateScheduler")
                self._plan.version_schedule = callback.schedule
            elif name in _REFUSED:
                raise self._error(name, f"is not supported; {_REFUSED[name]}")
            elif name in _LEFT_OUT:
                self._plan.warnings.append(f"callback {name} is left out: {_LEFT_OUT[name]}")
            elif name in readers:
                readers[name](callback)
            else:
                self._user_callback(callback)
        return self._plan

    # ------------------------------------------------------------- decided by the master

    def _early_stopping(self, callback: Any) -> None:
        self._plan.configs.append(
            {
                "kind": "early_stopping",
                "monitor": callback.monitor,
                "min_delta": abs(float(callback.min_delta)),
                "patience": int(callback.patience),
                "mode": self._mode(callback),
                "baseline": None if callback.baseline is None else float(callback.baseline),
                "start_from_epoch": int(callback.start_from_epoch),
                "restore_best_weights": bool(callback.restore_best_weights),
            }
        )

    def _reduce_on_plateau(self, callback: Any) -> None:
        self._needs_number("ReduceLROnPlateau")
        self._plan.configs.append(
            {
                "kind": "reduce_lr_on_plateau",
                "monitor": callback.monitor,
                "factor": float(callback.factor),
                "patience": int(callback.patience),
                "min_delta": abs(float(callback.min_delta)),
                "mode": self._mode(callback),
                "cooldown": int(callback.cooldown),
                "min_lr": float(callback.min_lr),
            }
        )

    def _model_checkpoint(self, callback: Any) -> None:
        if not callback.save_best_only:
            self._plan.warnings.append(
                "callback ModelCheckpoint is left out: the trained model is written to --output; "
                "ModelCheckpoint(save_best_only=True) keeps the best one as well"
            )
            return
        if callback.save_freq != "epoch":
            raise self._error(
                "ModelCheckpoint",
                f"has save_freq={callback.save_freq!r}; the best model is decided at evaluations: "
                "leave it out, and give --evaluation_steps",
            )
        path = str(callback.filepath)
        if "{" in path:
            raise self._error(
                "ModelCheckpoint",
                f"has filepath='{path}'; give one without {{…}}: a better model takes the place "
                "of the one before",
            )
        for suffix in _SUFFIXES:
            if path.endswith(suffix):
                path = path.removesuffix(suffix)
                self._plan.warnings.append(
                    f"callback ModelCheckpoint keeps the best trained model in directory '{path}'; "
                    f"elasticdl.load_model('{path}') reads it"
                )
                break
        path = os.path.abspath(path)
        if any(config.get("path") == path for config in self._plan.configs):
            raise self._error("ModelCheckpoint", f"keeps two models at '{path}'; give each its own")
        best = callback.best
        self._plan.configs.append(
            {
                "kind": "best_model",
                "monitor": callback.monitor,
                "mode": self._mode(callback),
                "path": path,
                "initial_value_threshold": None if best is None or np.isinf(best) else float(best),
            }
        )

    def _learning_rate_scheduler(self, callback: Any) -> None:
        self._only_rate("LearningRateScheduler")
        rate = self._needs_number("LearningRateScheduler")
        rates = []
        with user_code(f"the schedule of LearningRateScheduler, {self._label}"):
            for epoch in range(self._num_epochs):
                try:
                    rate = callback.schedule(epoch, rate)
                except TypeError:  # Keras also takes schedules of the epoch alone
                    rate = callback.schedule(epoch)
                if not isinstance(rate, float | np.floating):
                    raise self._error(
                        "LearningRateScheduler",
                        f"gives {rate!r} for epoch {epoch}; its schedule must return a float",
                    )
                rate = float(np.float32(rate))
                rates.append(rate)
        bad = [epoch for epoch, each in enumerate(rates) if not 0 <= each < float("inf")]
        if bad:
            raise self._error(
                "LearningRateScheduler",
                f"gives {rates[bad[0]]} for epoch {bad[0]}; a learning rate is a finite number ≥ 0",
            )
        self._plan.epoch_rates = rates

    def _only_rate(self, name: str) -> None:
        if self._plan.epoch_rates is not None or self._plan.version_schedule is not None:
            raise self._error(name, "is there twice; give one")

    def _needs_number(self, name: str) -> float:
        rate = constant_rate(self._contract.create_optimizer())
        if rate is None or self._plan.version_schedule is not None:
            raise self._error(
                name,
                "sets the learning rate, but that is a schedule; give the optimizer a number",
            )
        return rate

    # ------------------------------------------------------------------- monitors

    def _mode(self, callback: Any) -> str:
        """Return whether a callback's monitor is to be small or large, as Keras decides it."""
        name, monitor = type(callback).__name__, callback.monitor
        measured = self._measured()
        if monitor not in measured.names:
            what = ", ".join(measured.names)
            if monitor.startswith("val_") and not measured.validates:
                raise self._error(
                    name,
                    f"monitors '{monitor}', but there are no validation data; "
                    f"give --validation_data, or monitor {what}",
                )
            raise self._error(
                name, f"monitors '{monitor}', which is not measured; measured are {what}"
            )
        mode = getattr(callback, "mode", "auto")
        if mode in ("min", "max"):
            return str(mode)
        operation = callback.monitor_op
        if operation in (np.greater, np.less):  # tf_keras has decided by the name already
            return "max" if operation is np.greater else "min"
        if IS_LEGACY:  # ReduceLROnPlateau has its own rule there
            return "max" if "acc" in monitor else "min"
        direction = "min" if monitor == "loss" else measured.directions[_metric(monitor)]
        if not direction:
            raise self._error(
                name,
                f"monitors '{monitor}', which may be meant to be small or large; give mode='min' "
                "or mode='max'",
            )
        return direction

    # ------------------------------------------------------------- run by a worker

    def _user_callback(self, callback: Any) -> None:
        name = type(callback).__name__
        base = next(
            (
                each.__name__
                for each in type(callback).__mro__
                if _is_keras_class(each) and each.__name__ in (*_DECIDED, *_LEFT_OUT, *_REFUSED)
            ),
            None,
        )
        saves = base in ("ModelCheckpoint", *_LEFT_OUT, *_REFUSED)
        if saves or (base == "EarlyStopping" and callback.restore_best_weights):
            raise self._error(
                name,
                f"changes what keras.callbacks.{base} does, which would save or restore one "
                "worker's model; derive it from keras.callbacks.Callback, or use "
                f"{base} as it is",
            )
        for hook in _NEVER_CALLED:
            if _overrides(callback, hook, keras.callbacks.Callback):
                raise self._error(
                    name,
                    f"overrides {hook}, but there is no place that sees every minibatch; use "
                    "on_epoch_end, or on_test_end with --evaluation_steps",
                )
        if base in _DECIDED and callback.__dict__.get("monitor"):
            self._mode(callback)
        self._plan.users.append(callback)

    @property
    def _label(self) -> str:
        return self._contract.function("callbacks")

    def _error(self, name: str, what: str) -> UsageError:
        return UsageError(f"{self._label}: {name} {what}")


def constant_rate(optimizer: Any) -> float | None:
    """Return an optimizer's learning rate, None where it is a schedule."""
    if learning_rate_schedule(optimizer) is not None:
        return None
    return float(np.asarray(optimizer.learning_rate))


def _built_in_name(callback: Any) -> str:
    """Return the name of the Keras class whose hooks a callback runs; empty if it has its own."""
    for each in type(callback).__mro__:
        if _is_keras_class(each):
            changed = any(_overrides(callback, hook, each) for hook in (*HOOKS, *_NEVER_CALLED))
            return "" if changed else str(each.__name__)
    return ""


def _is_keras_class(kind: type) -> bool:
    return kind.__module__.split(".")[0] in ("keras", "tf_keras")


def _overrides(callback: Any, hook: str, base: type) -> bool:
    """Whether a hook is another than the base class's, on the class or set on the object."""
    if hook in vars(callback):
        return True
    return getattr(type(callback), hook, None) is not getattr(base, hook, None)


def _metric(monitor: str) -> str:
    return monitor.removeprefix("val_")
