"""Loses, repeats and delays messages on purpose, to prove that nobody depends on luck.

`ELASTICDL_FAULTS="request_lost=0.05,reply_lost=0.05,duplicated=0.05,delayed=0.02,seed=7"` gives the
probability of each fault per call, in every process that inherits the variable.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, fields

from elasticdl.errors import UsageError
from elasticdl.rpc.errors import RpcUnavailable
from elasticdl.rpc.transport import Transport

VARIABLE = "ELASTICDL_FAULTS"
LONGEST_DELAY_S = 0.05


@dataclass(frozen=True)
class Faults:
    """Probability of each fault per call, and the seed of the schedule."""

    request_lost: float = 0.0
    reply_lost: float = 0.0
    duplicated: float = 0.0
    delayed: float = 0.0
    seed: int = 0

    @staticmethod
    def parse(text: str) -> Faults:
        """Read `name=value,…`; UsageError names what is wrong."""
        known = {field.name for field in fields(Faults)}
        values: dict[str, float] = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            if name not in known:
                raise UsageError(f"{VARIABLE} '{item}': unknown fault; one of {sorted(known)}")
            try:
                values[name] = float(value)
            except ValueError:
                raise UsageError(f"{VARIABLE} '{item}': not a number") from None
        seed = int(values.pop("seed", 0))
        return Faults(seed=seed, **values)


def faulty(transport: Transport) -> Transport:
    """`transport` itself, or with the faults the environment asks for."""
    text = os.environ.get(VARIABLE, "")
    return FaultyTransport(transport, Faults.parse(text)) if text else transport


class FaultyTransport:
    """A transport whose calls suffer `faults`, in an order fixed by seed and process id."""

    def __init__(self, inner: Transport, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        self._random = random.Random(hash((faults.seed, os.getpid())))
        self._lock = threading.Lock()

    def _draw(self) -> tuple[bool, bool, bool, float]:
        with self._lock:
            draw = self._random.random
            return (
                draw() < self._faults.request_lost,
                draw() < self._faults.reply_lost,
                draw() < self._faults.duplicated,
                draw() * LONGEST_DELAY_S if draw() < self._faults.delayed else 0.0,
            )

    def call(self, path: str, request: bytes, timeout_s: float) -> bytes:
        request_lost, reply_lost, duplicated, delay_s = self._draw()
        if delay_s:
            time.sleep(delay_s)
        if request_lost:
            raise RpcUnavailable(f"{path}: request lost by fault injection")
        reply = self._inner.call(path, request, timeout_s)
        if duplicated:
            reply = self._inner.call(path, request, timeout_s)
        if reply_lost:
            raise RpcUnavailable(f"{path}: reply lost by fault injection")
        return reply

    def start(self, path: str, request: bytes, timeout_s: float) -> Future[bytes]:
        outcome: Future[bytes] = Future()

        def run() -> None:
            try:
                outcome.set_result(self.call(path, request, timeout_s))
            except Exception as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name="faulty-call", daemon=True).start()
        return outcome

    def close(self) -> None:
        self._inner.close()
