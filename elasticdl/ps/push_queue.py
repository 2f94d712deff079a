"""Sends pushes in order, one queue and thread per partition, and tells what was acknowledged."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from elasticdl.ps.client import GaveUp, ParameterClient
from elasticdl.rpc import DeadlinePassed

# Sends one push to a partition and says whether it was in order.
Send = Callable[[int], None]


class PushQueue:
    """Pushes of one worker, numbered by position from 0. Thread-safe.

    Each partition receives them in order; a minibatch's gradients are sent to the partitions side
    by side. An error in a send is kept and raised by the next `wait` or `put`.

    Args:
      client: whose partitions.
      most: pushes that may wait; `put` blocks beyond.
      deadline_s: how long `wait` and `put` wait at most.
    """

    def __init__(self, client: ParameterClient, most: int = 8, deadline_s: float = 180.0) -> None:
        self._deadline_s = deadline_s
        self._changed = threading.Condition()
        self._acknowledged = [0] * client.num_partitions
        self._error: BaseException | None = None
        self._closed = False
        self._queues: list[queue.Queue[Send | None]] = [
            queue.Queue(most) for _ in range(client.num_partitions)
        ]
        self._threads = [
            threading.Thread(
                target=self._send_all, args=(index,), name=f"push-{index}", daemon=True
            )
            for index in range(client.num_partitions)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, send: Send) -> None:
        """Add a push; `send(partition)` is called once for each partition, in its thread."""
        for one in self._queues:
            self._put_in(one, send)

    def _put_in(self, one: queue.Queue[Send | None], send: Send) -> None:
        deadline = time.monotonic() + self._deadline_s
        while True:
            self._raise_error()
            try:
                one.put(send, timeout=0.5)
                return
            except queue.Full:
                if time.monotonic() > deadline:
                    raise DeadlinePassed(
                        f"pushes were not acknowledged within {self._deadline_s:.0f} s"
                    ) from None

    def wait(self, count: int) -> None:
        """Wait until the first `count` pushes are acknowledged by all partitions.

        Raises:
          DeadlinePassed: they were not in time.
          GaveUp: the queue was closed.
          Exception: what a send raised.
        """
        deadline = time.monotonic() + self._deadline_s
        with self._changed:
            while min(self._acknowledged) < count:
                self._raise_error()
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise DeadlinePassed(
                        f"push {count} was not acknowledged by all partitions within "
                        f"{self._deadline_s:.0f} s"
                    )
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise GaveUp

    def _send_all(self, index: int) -> None:
        while True:
            send = self._queues[index].get()
            if send is None or self._error is not None:
                return
            try:
                send(index)
            except BaseException as error:
                with self._changed:
                    self._error = self._error or error
                    self._changed.notify_all()
                return
            with self._changed:
                self._acknowledged[index] += 1
                self._changed.notify_all()

    def close(self) -> None:
        """Send what is queued, unless an error came before, and end threads and waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for one, thread in zip(self._queues, self._threads, strict=True):
            while thread.is_alive():
                try:
                    one.put(None, timeout=0.1)
                    break
                except queue.Full:
                    continue
        for thread in self._threads:
            thread.join(self._deadline_s)
