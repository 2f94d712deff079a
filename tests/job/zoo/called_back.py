"""Models with Keras callbacks; `--params="kind='…'"` says which."""

from __future__ import annotations

import clicks
import keras

from elasticdl.callbacks import LearningRateScheduler, MaxStepsStopping


class Story(keras.callbacks.Callback):
    """Writes every hook's call to a file; sets the rate and stops where it is told to."""

    def __init__(self, path, stop_at=-1, raise_at=-1):
        super().__init__()
        self.path, self.stop_at, self.raise_at = path, stop_at, raise_at

    def note(self, *what):
        import os

        with open(self.path, "a") as file:
            print(os.getpid(), *what, file=file)

    def on_train_begin(self, logs=None):
        self.note("train_begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch_begin", epoch)

    def on_test_begin(self, logs=None):
        self.note("test_begin")

    def on_test_end(self, logs=None):
        self.note("test_end", *sorted(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch_end", epoch, *sorted(logs))
        if epoch == self.raise_at:
            raise KeyError("val_recall")
        if epoch == self.stop_at:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.note("train_end")


class CalledBack(clicks.Clicks):
    """Plain gradient descent, so that a run can be repeated by `model.fit`."""

    def __init__(self, context=None, kind="", path=""):
        super().__init__(context)
        self.kind, self.path = kind, path

    def create_model(self):
        number = keras.Input([1], name="number")
        hidden = keras.layers.Dense(8, activation="tanh")(number)
        return keras.Model({"number": number}, keras.layers.Dense(1)(hidden))

    def create_dataset(self, dataset, mode):
        elements = super().create_dataset(dataset, mode)

        def number_alone(features, *labels):
            return ({"number": features["number"]}, *labels)

        return elements.map(number_alone)

    def create_optimizer(self, lr=0.5):
        return keras.optimizers.SGD(lr)

    def create_metrics(self, mode, outputs, labels, predictions):
        accuracy = keras.metrics.BinaryAccuracy(threshold=0.0)
        accuracy.update_state(labels[:, None], outputs)
        return {"accuracy": accuracy}

    def create_callbacks(self):
        callbacks = keras.callbacks
        return {
            "": list,
            "early_stopping": lambda: [
                callbacks.EarlyStopping("val_loss", patience=1, min_delta=0.002)
            ],
            "best": lambda: [callbacks.ModelCheckpoint(self.path, save_best_only=True)],
            "plateau": lambda: [
                callbacks.ReduceLROnPlateau(factor=0.1, patience=1, min_delta=0.01)
            ],
            "scheduler": lambda: [
                callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
            ],
            "versions": lambda: [
                LearningRateScheduler(lambda version: 0.5 if version < 20 else 0.05),
                MaxStepsStopping(33),
            ],
            "story": lambda: [Story(self.path)],
            "stops": lambda: [Story(self.path, stop_at=1)],
            "raises": lambda: [Story(self.path, raise_at=0)],
        }[self.kind]()


class Worse(CalledBack):
    """Learns well for two epochs, and gets worse in the third."""

    def create_callbacks(self):
        rates = [0.1, 0.3, 60.0]
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
        return [*super().create_callbacks(), scheduler]
