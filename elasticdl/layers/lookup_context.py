"""Where an embedding layer's rows come from while a model is being traced.

A minibatch takes two passes through the same model. The first (`CollectIds`) notes which ids every
layer asks for; the rows are then pulled; the second (`FeedRows`) computes with them. Outside
of these passes a layer looks its ids up in the table it holds itself.

The active context is per thread: TensorFlow traces a function in the thread that asks for it.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tensorflow as tf

from elasticdl.errors import UsageError

if TYPE_CHECKING:
    from elasticdl.layers.table_layer import TableLayer

_active = threading.local()


class LookupContext(ABC):
    """Answers the lookups of every embedding layer called while it is active.

    Attributes:
      error: the first error of ours raised inside; what Keras and AutoGraph make of an exception
        on its way out hides the message, so that whoever traces raises this one.
      checks_ids: whether a layer with a bounded range of ids is to check them.
    """

    checks_ids = True

    def __init__(self) -> None:
        self.error: UsageError | None = None

    @abstractmethod
    def rows(self, layer: TableLayer, ids: tf.Tensor) -> tf.Tensor:
        """Return float32 ``[n, layer.output_dim]`` for int64 ids ``[n]``."""

    def fail(self, error: UsageError) -> UsageError:
        """Keep the first error and return it, to be raised."""
        self.error = self.error or error
        return error

    @contextmanager
    def active(self) -> Iterator[None]:
        """Answer the lookups of this thread inside the block."""
        outer = current_context()
        _active.context = self
        try:
            yield
        finally:
            _active.context = outer


def current_context() -> LookupContext | None:
    """Return the context active in this thread, or None."""
    return getattr(_active, "context", None)


class HeldTables(LookupContext):
    """Answers from the table each layer holds, as outside of any context.

    It makes a difference to nested functions only: while it is active they are traced anew.
    """

    def rows(self, layer: TableLayer, ids: tf.Tensor) -> tf.Tensor:
        return layer.held_rows(ids)


class BuildOnly(LookupContext):
    """Gives zeros: the model runs only to create its variables."""

    def rows(self, layer: TableLayer, ids: tf.Tensor) -> tf.Tensor:
        return _zeros(layer, ids)


@dataclass(frozen=True)
class CollectedIds:
    """The ids of one call of one layer, and the zeros it was answered with."""

    layer: TableLayer
    ids: tf.Tensor
    answer: tf.Tensor


class _Traced(LookupContext):
    """A context that belongs to one graph, in which every lookup must be made."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: tf.Graph | None = None

    def enter_graph(self) -> None:
        """Take the graph being traced now as the only one lookups may come from."""
        self.graph = tf.compat.v1.get_default_graph()

    def _check_graph(self, layer: TableLayer) -> None:
        if tf.compat.v1.get_default_graph() is not self.graph:
            raise self.fail(
                UsageError(
                    f"layer '{layer.name}': called under tf.cond, tf.while_loop, tf.map_fn or a "
                    "Python `if`/`for` over tensors; its ids must be known before the step: "
                    "look them up outside and use the result inside"
                )
            )


class CollectIds(_Traced):
    """Notes the ids of every call and answers zeros.

    Attributes:
      calls: the calls, in the order in which the model makes them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[CollectedIds] = []

    def rows(self, layer: TableLayer, ids: tf.Tensor) -> tf.Tensor:
        self._check_graph(layer)
        answer = tf.identity(_zeros(layer, ids))
        self.calls.append(CollectedIds(layer, ids, answer))
        return answer


class FeedRows(_Traced):
    """Answers with the rows that were pulled; the ids were checked when they were collected.

    Args:
      rows: the distinct rows of a minibatch by table name, float32 ``[u, dim]``.
      inverses: by table name, where each id's row is, int32 ``[n]``; the calls of a layer one
        after the other.
      num_calls: how often `CollectIds` saw each table looked up.
    """

    checks_ids = False

    def __init__(
        self,
        rows: Mapping[str, tf.Tensor],
        inverses: Mapping[str, tf.Tensor],
        num_calls: Mapping[str, int],
    ) -> None:
        super().__init__()
        self._rows = rows
        self._inverses = inverses
        self._num_calls = num_calls
        self._calls_made: Counter[str] = Counter()
        self._next: dict[str, tf.Tensor] = {}

    def rows(self, layer: TableLayer, ids: tf.Tensor) -> tf.Tensor:
        self._check_graph(layer)
        name = layer.table_name
        self._calls_made[name] += 1
        if self._calls_made[name] > self._num_calls.get(name, 0):
            raise self.fail(self._differs(name))
        inverse = self._inverses[name]
        if self._num_calls[name] > 1:
            start = self._next.get(name, tf.constant(0))
            self._next[name] = start + tf.size(ids)
            inverse = inverse[start : self._next[name]]
        return tf.gather(self._rows[name], inverse)

    def check_all_called(self) -> None:
        """Raise UsageError unless every layer was called as often as ids were collected for it."""
        for name, expected in self._num_calls.items():
            if self._calls_made[name] != expected:
                raise self.fail(self._differs(name))

    def _differs(self, name: str) -> UsageError:
        return UsageError(
            f"layer '{name}': called {self._num_calls.get(name, 0)} times while ids are collected "
            f"(training=False) but {self._calls_made[name]} times in the step; "
            "call it the same way in both"
        )


def _zeros(layer: TableLayer, ids: tf.Tensor) -> tf.Tensor:
    return tf.zeros([tf.size(ids), layer.output_dim], tf.float32)
