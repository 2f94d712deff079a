"""What goes over every stream of a dashboard: made once a second, the same for all viewers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from elasticdl.dashboard.source import Source, Values
from elasticdl.masking import masked

EVERY_S = 1.0
MOST_STREAMS = 64
MOST_BEHIND = 16
"""Of a stream that takes no more; it is ended then, and its viewer asks for all again."""

logger = logging.getLogger(__name__)

T = TypeVar("T")
InThread = Callable[[Callable[[], T]], Awaitable[T]]


class Feed:
    """The streams of one dashboard; for the thread of its event loop alone.

    Nothing is looked at while nobody looks. What cannot be told at a moment is left out then: a
    stream goes on without it. A state has all epochs when somebody has come since the one before,
    else only those that have changed since: there may be hundreds that are over.

    Args:
      source: the job.
      in_thread: calls in another thread what may take a while.
    """

    def __init__(self, source: Source, in_thread: InThread[bytes]) -> None:
        self._source = source
        self._in_thread = in_thread
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._pump: asyncio.Task[None] | None = None
        self._has_ended = False
        self._has_caught_up = False
        self._last_event = 0
        self._last_row = 0.0
        self._has_newcomer = False
        # By number, as the last state had them; None where it could not be told.
        self._epochs: dict[int, Values] | None = None
        # What could not be told last time, of which the log has the first error alone.
        self._untold: set[str] = set()

    @property
    def is_full(self) -> bool:
        """Whether there are as many streams as there may be."""
        return len(self._streams) >= MOST_STREAMS

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield what is new, each second."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_BEHIND)
        self._streams.add(queue)
        self._has_newcomer = True
        try:
            if self._pump is None and not self._has_ended:
                self._has_caught_up = False
                self._pump = asyncio.create_task(self._pump_forever())
            while (chunk := await queue.get()) is not None:
                yield chunk
        finally:
            self._streams.discard(queue)

    async def end(self) -> None:
        """Send everybody how the job stands now, and end all streams."""
        self._has_ended = True
        if self._pump is not None:
            self._pump.cancel()
        if self._streams:
            self._has_newcomer = True  # Nobody may have got what the pump was at.
            self._send(await self._next_chunk())
        for queue in self._streams:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    async def _pump_forever(self) -> None:
        while self._streams:
            self._send(await self._next_chunk())
            await asyncio.sleep(EVERY_S)
        self._pump = None

    async def _next_chunk(self) -> bytes:
        is_whole, self._has_newcomer = self._has_newcomer, False
        return await self._in_thread(lambda: self._chunk(is_whole))

    def _send(self, chunk: bytes) -> None:
        for queue in list(self._streams):
            if queue.full():
                self._streams.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(chunk)

    def _chunk(self, is_whole: bool) -> bytes:
        """What is new, with a state that has all epochs if that is wanted; never raises."""
        parts = [self._told("what happened before", self._catch_up)]
        if self._has_caught_up:
            parts.append(self._told("events", self._events))
            parts.append(self._told("history", self._history))
        known, self._epochs = None if is_whole else self._epochs, None
        parts.append(self._told("state", lambda: self._state(known)))
        return b"".join(parts)

    def _told(self, what: str, tell: Callable[[], bytes]) -> bytes:
        """What is told; nothing where that fails, as it may be that it can be told next time."""
        try:
            told = tell()
        except Exception:
            if what not in self._untold:
                logger.exception("%s cannot be told to who looks", what)
                self._untold.add(what)
            return b""
        self._untold.discard(what)
        return told

    def _catch_up(self) -> bytes:
        """What happened before a stream began is asked for apart."""
        if not self._has_caught_up:
            self._last_event = self._source.events(limit=0, newest=True)["last"]
            rows = self._source.history()["rows"]
            self._last_row = rows[-1][0] if rows else 0.0
            self._has_caught_up = True
        return b""

    def _state(self, known: dict[int, Values] | None) -> bytes:
        """The state, without the epochs that are known."""
        state = self._source.state()
        epochs = {one["epoch"]: one for one in state["progress"]["epochs"]}
        told = _event("state", state if known is None else _without(state, known))
        self._epochs = epochs
        return told

    def _events(self) -> bytes:
        events = self._source.events(after=self._last_event)
        if not events["events"]:
            return b""
        self._last_event = events["last"]
        return _event("events", events)

    def _history(self) -> bytes:
        history = self._source.history(after=self._last_row)
        at = [row[0] for row in history["rows"]]
        at += [one["at"] for one in history["evaluations"]]
        if not at:
            return b""
        self._last_row = max(at)
        return _event("history", history)


def _without(state: Values, known: dict[int, Values]) -> Values:
    """A state that has only the epochs that are not known; all, if one is no more."""
    progress = state["progress"]
    epochs = progress["epochs"]
    if not known.keys() <= {one["epoch"] for one in epochs}:
        return state
    rest = {name: value for name, value in progress.items() if name != "epochs"}
    rest["epochs_changed"] = [one for one in epochs if one != known.get(one["epoch"])]
    return {**state, "progress": rest}


def _event(name: str, values: Values) -> bytes:
    return f"event: {name}\ndata: {to_json(values)}\n\n".encode()


def to_json(values: Values) -> str:
    """JSON in one line, without what is nobody's to see."""
    return json.dumps(masked(values), separators=(",", ":"), allow_nan=False)
