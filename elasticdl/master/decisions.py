"""What follows from an evaluation: stop, lower the learning rate, keep the best model.

Pure functions of the sequence of logs. They decide as the Keras callbacks of these kinds do, an
evaluation standing for an epoch of `model.fit`.

References:
  keras.callbacks.EarlyStopping, ReduceLROnPlateau, ModelCheckpoint(save_best_only=True).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elasticdl.errors import JobError

Logs = Mapping[str, float]


@dataclass(frozen=True)
class Decision:
    """What one callback wants: `kind` is 'stop', 'learning_rate' or 'best' (`value`: a path)."""

    kind: str
    reason: str
    value: float | str | None = None


class _Monitor:
    """Watches one number of the logs and knows what is better."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.name: str = config["monitor"]
        self._sign = 1.0 if config["mode"] == "max" else -1.0
        self._min_delta = abs(float(config.get("min_delta", 0.0)))

    def value(self, logs: Logs) -> float | None:
        """The number, if these logs have it."""
        return logs.get(self.name)

    def is_better(self, value: float, reference: float | None) -> bool:
        """Whether a value beats another by more than min_delta; anything beats None."""
        if reference is None:
            return True
        return self._sign * (value - reference) > self._min_delta


class EarlyStopping:
    """Stops when the number monitored has not improved for `patience` evaluations."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._monitor = _Monitor(config)
        self._patience = int(config.get("patience", 0))
        self._baseline = config.get("baseline")
        self._start = int(config.get("start_from_epoch", 0))
        self._path = config.get("best_path") if config.get("restore_best_weights") else None
        self._wait = 0
        self._best: float | None = None
        self._has_best_weights = False

    def decide(self, number: int, logs: Logs) -> list[Decision]:
        """Take evaluation `number`, from 0, into account."""
        name, current = self._monitor.name, self._monitor.value(logs)
        if current is None or number < self._start:
            return []
        decisions = []
        keeps = self._path is not None and not self._has_best_weights
        self._wait += 1
        if self._monitor.is_better(current, self._best):
            self._best = current
            keeps = self._path is not None
            if self._baseline is None or self._monitor.is_better(current, self._baseline):
                self._wait = 0
        elif self._wait >= self._patience and number > 0:
            reason = f"{name} has not improved for {self._wait} evaluations"
            decisions.append(Decision("stop", reason))
        if keeps:
            self._has_best_weights = True
            decisions.append(Decision("best", f"best {name} so far: {current:.6g}", self._path))
        return decisions


class ReduceOnPlateau:
    """Multiplies the learning rate by `factor` when the number monitored stands still."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._monitor = _Monitor(config)
        self._factor = float(config.get("factor", 0.1))
        self._patience = int(config.get("patience", 10))
        self._cooldown = int(config.get("cooldown", 0))
        self._min_rate = float(config.get("min_lr", 0.0))
        self._wait = 0
        self._cooling = 0
        self._best: float | None = None

    def decide(self, learning_rate: float | None, logs: Logs) -> list[Decision]:
        """Take an evaluation at this learning rate into account."""
        current = self._monitor.value(logs)
        if current is None or learning_rate is None:
            return []
        if self._cooling > 0:
            self._cooling -= 1
            self._wait = 0
        if self._monitor.is_better(current, self._best):
            self._best = current
            self._wait = 0
            return []
        if self._cooling > 0:
            return []
        self._wait += 1
        if self._wait < self._patience or learning_rate <= self._min_rate:
            return []
        reason = f"{self._monitor.name} has not improved for {self._wait} evaluations"
        self._cooling, self._wait = self._cooldown, 0
        return [
            Decision("learning_rate", reason, max(learning_rate * self._factor, self._min_rate))
        ]


class BestModel:
    """Keeps the model of the best evaluation at a path."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._monitor = _Monitor(config)
        self._path = str(config["path"])
        self._best: float | None = config.get("initial_value_threshold")

    def decide(self, logs: Logs) -> list[Decision]:
        """Take an evaluation into account."""
        name, current = self._monitor.name, self._monitor.value(logs)
        if current is None or not self._monitor.is_better(current, self._best):
            return []
        self._best = current
        return [Decision("best", f"best {name} so far: {current:.6g}", self._path)]


@dataclass
class Decisions:
    """The state of all callbacks that the master decides for.

    Attributes:
      user_callbacks: whether a worker has callbacks of the user's own to run.
      learning_rate: decided last; None while it is the optimizer's own.
      initial_learning_rate: of the optimizer; None where it is a schedule.
      epoch_rates: learning rate of each epoch, or None.
      restores: path of the model that the job's end restores, or None.
    """

    user_callbacks: bool = False
    learning_rate: float | None = None
    initial_learning_rate: float | None = None
    epoch_rates: Sequence[float] | None = None
    restores: str | None = None
    _stopping: list[EarlyStopping] = field(default_factory=list)
    _plateaus: list[ReduceOnPlateau] = field(default_factory=list)
    _best: list[BestModel] = field(default_factory=list)
    _num_evaluations: int = 0
    _rate_decided_in: int = -1

    @classmethod
    def of_initialize(cls, result: str, best_path: str) -> Decisions:
        """Read what a worker reported with INITIALIZE.

        Args:
          result: JSON; empty for none.
          best_path: where a model to be restored is kept.

        Raises:
          JobError: a kind of callback that is not known.
        """
        report = json.loads(result) if result else {}
        decisions = cls(
            user_callbacks=bool(report.get("user_callbacks")),
            initial_learning_rate=report.get("learning_rate"),
            epoch_rates=report.get("epoch_rates"),
        )
        makers: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "early_stopping": lambda one: decisions._stopping.append(EarlyStopping(one)),
            "reduce_lr_on_plateau": lambda one: decisions._plateaus.append(ReduceOnPlateau(one)),
            "best_model": lambda one: decisions._best.append(BestModel(one)),
        }
        for number, config in enumerate(report.get("callbacks", [])):
            make = makers.get(config["kind"])
            if make is None:
                raise JobError(f"callback '{config['kind']}': the master does not know this kind")
            if config.get("restore_best_weights"):
                path = f"{best_path}-{number}" if number else best_path
                config = {**config, "best_path": path}
                decisions.restores = path
            make(config)
        return decisions

    @property
    def any(self) -> bool:
        """Whether anything waits for logs."""
        return bool(self.user_callbacks or self._stopping or self._plateaus or self._best)

    @property
    def keeps_best(self) -> bool:
        """Whether a model may have to be kept after an evaluation."""
        return bool(self._best or self.restores)

    def decide_rate(self, learning_rate: float, epoch: int) -> None:
        """Note a rate decided in an epoch; a table by epoch holds again from the next one on."""
        self.learning_rate = learning_rate
        self._rate_decided_in = epoch

    def rate_of(self, epoch: int) -> float | None:
        """The learning rate decided for tasks of an epoch granted now; None: the optimizer's."""
        if self.epoch_rates and epoch > self._rate_decided_in:
            return self.epoch_rates[min(epoch, len(self.epoch_rates) - 1)]
        return self.learning_rate

    def current_rate(self, epoch: int) -> float | None:
        """The learning rate in force, as far as it is one number."""
        rate = self.rate_of(epoch)
        return self.initial_learning_rate if rate is None else rate

    def decide(self, epoch: int, logs: Logs) -> list[Decision]:
        """Take an evaluation's logs into account; the rate is noted here, the rest is for others.

        Returns:
          In this order: models to keep, a new rate, the end of training.
        """
        number, self._num_evaluations = self._num_evaluations, self._num_evaluations + 1
        decisions = [one for best in self._best for one in best.decide(logs)]
        for stopping in self._stopping:
            decisions += stopping.decide(number, logs)
        for plateau in self._plateaus:
            for decision in plateau.decide(self.current_rate(epoch), logs):
                assert isinstance(decision.value, float)
                self.decide_rate(decision.value, epoch)
                decisions.append(decision)
        order = ["best", "learning_rate", "stop"]
        return sorted(decisions, key=lambda one: order.index(one.kind))
