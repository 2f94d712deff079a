"""Loses, repeats, delays and reorders messages on purpose, to prove that nobody depends on luck.

`ELASTICDL_FAULTS="request_lost=0.05,reply_lost=0.05,in_flight=0.05,duplicated=0.05,delayed=0.02,
seed=7"` gives the probability of each fault per call, in every process that inherits the variable:

request_lost: the other side never sees it. reply_lost: it does, but the caller does not hear so.
in_flight: the caller gives up, goes on with other calls, and only then the request arrives.
duplicated: it arrives twice in a row. delayed: it arrives late, and the caller waits.

`cut_every_s=60,cut_s=5` cuts each connection at Poisson times, 60 s apart on average, for 5 s on
average: nothing that is sent over it arrives meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial

from elasticdl.errors import UsageError
from elasticdl.rpc.errors import RpcError, RpcUnavailable
from elasticdl.rpc.frame import Frame, Placement
from elasticdl.rpc.transport import Transport, settle

VARIABLE = "ELASTICDL_FAULTS"
LONGEST_DELAY_S = 0.05
# Calls of the same client that a request in flight may be behind.
MOST_CALLS_BEHIND = 8


@dataclass(frozen=True)
class Faults:
    """Probability of each fault per call, the means of cuts, and the seed of the schedule."""

    request_lost: float = 0.0
    reply_lost: float = 0.0
    in_flight: float = 0.0
    duplicated: float = 0.0
    delayed: float = 0.0
    cut_every_s: float = 0.0
    cut_s: float = 5.0
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


class Cuts:
    """When a connection is cut: from a time drawn, for a while drawn, again and again.

    Args:
      every_s: seconds between cuts, on average; 0: never.
      mean_s: how long a cut is, on average.
      now: the connection's first moment.
    """

    def __init__(self, every_s: float, mean_s: float, chance: random.Random, now: float) -> None:
        self._every_s = every_s
        self._mean_s = mean_s
        self._random = chance
        self._begins = self._ends = now

    def is_cut(self, now: float) -> bool:
        """Whether it is cut at `now`, which never goes back."""
        if not self._every_s:
            return False
        while now >= self._ends:
            self._begins = self._ends + self._random.expovariate(1 / self._every_s)
            self._ends = self._begins + self._random.expovariate(1 / self._mean_s)
        return now >= self._begins


@dataclass
class _InFlight:
    """A request that arrives after `calls` more calls."""

    path: str
    request: Frame
    timeout_s: float
    calls: int


class FaultyTransport:
    """A transport whose calls suffer `faults`, in an order fixed by seed and process id."""

    def __init__(self, inner: Transport, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults
        seed = hash((faults.seed, os.getpid()))
        self._random = random.Random(seed)
        self._cuts = Cuts(
            faults.cut_every_s, faults.cut_s, random.Random(seed + 1), time.monotonic()
        )
        self._lock = threading.Lock()
        self._in_flight: list[_InFlight] = []

    def _draw(self) -> tuple[bool, bool, bool, bool, float]:
        with self._lock:
            draw = self._random.random
            return (
                draw() < self._faults.request_lost,
                draw() < self._faults.reply_lost,
                draw() < self._faults.in_flight,
                draw() < self._faults.duplicated,
                draw() * LONGEST_DELAY_S if draw() < self._faults.delayed else 0.0,
            )

    def _is_cut(self) -> bool:
        with self._lock:
            return self._cuts.is_cut(time.monotonic())

    def _put_in_flight(self, path: str, request: Frame, timeout_s: float) -> None:
        with self._lock:
            calls = self._random.randint(1, MOST_CALLS_BEHIND)
            self._in_flight.append(_InFlight(path, request, timeout_s, calls))

    def _let_arrive(self) -> None:
        """A call went ahead of what is in flight: what is far enough behind arrives now."""
        with self._lock:
            for one in self._in_flight:
                one.calls -= 1
            arriving = [one for one in self._in_flight if one.calls <= 0]
            self._in_flight = [one for one in self._in_flight if one.calls > 0]
        for one in arriving:
            threading.Thread(
                target=self._arrive, args=(one,), name="in-flight", daemon=True
            ).start()

    def _arrive(self, late: _InFlight) -> None:
        with contextlib.suppress(RpcError):  # Nobody hears the reply.
            self._inner.call(late.path, late.request, late.timeout_s)

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        request_lost, reply_lost, in_flight, duplicated, delay_s = self._draw()
        if delay_s:
            time.sleep(delay_s)
        if request_lost or self._is_cut():
            raise RpcUnavailable(f"{path}: request lost by fault injection")
        if in_flight:
            self._put_in_flight(path, request.delivered(), timeout_s)
            raise RpcUnavailable(f"{path}: request in flight by fault injection")
        try:
            reply = self._inner.call(path, request, timeout_s, placement)
            if duplicated:
                reply = self._inner.call(path, request, timeout_s, placement)
            if reply_lost or self._is_cut():
                raise RpcUnavailable(f"{path}: reply lost by fault injection")
            return reply
        finally:
            self._let_arrive()

    def start(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Future[Frame]:
        outcome: Future[Frame] = Future()
        call = partial(self.call, path, request, timeout_s, placement)
        threading.Thread(
            target=settle, args=(outcome, call), name="faulty-call", daemon=True
        ).start()
        return outcome

    def close(self) -> None:
        self._inner.close()
