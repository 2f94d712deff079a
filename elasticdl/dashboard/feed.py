"""What goes over every stream of a dashboard: made once a second, the same for all viewers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from elasticdl.dashboard.source import Source, Values

EVERY_S = 1.0
MOST_STREAMS = 64
MOST_BEHIND = 16
"""Of a stream that takes no more; it is ended then, and its viewer asks for all again."""

T = TypeVar("T")
InThread = Callable[[Callable[[], T]], Awaitable[T]]


class Feed:
    """The streams of one dashboard; for the thread of its event loop alone.

    Nothing is looked at while nobody looks.

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
        self._last_event = 0
        self._last_row = 0.0

    @property
    def is_full(self) -> bool:
        """Whether there are as many streams as there may be."""
        return len(self._streams) >= MOST_STREAMS

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield what is new, each second."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_BEHIND)
        self._streams.add(queue)
        try:
            if self._pump is None and not self._has_ended:
                await self._in_thread(self._catch_up)
                self._pump = self._pump or asyncio.create_task(self._pump_forever())
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
            self._send(await self._in_thread(self._chunk))
        for queue in self._streams:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)

    async def _pump_forever(self) -> None:
        while self._streams:
            self._send(await self._in_thread(self._chunk))
            await asyncio.sleep(EVERY_S)
        self._pump = None

    def _send(self, chunk: bytes) -> None:
        for queue in list(self._streams):
            if queue.full():
                self._streams.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(chunk)

    def _catch_up(self) -> bytes:
        """What happened before a stream began is asked for apart."""
        self._last_event = self._source.events(limit=0)["last"]
        rows = self._source.history()["rows"]
        self._last_row = rows[-1][0] if rows else 0.0
        return b""

    def _chunk(self) -> bytes:
        parts = []
        events = self._source.events(after=self._last_event)
        if events["events"]:
            self._last_event = events["last"]
            parts.append(_event("events", events))
        history = self._source.history(after=self._last_row)
        if history["rows"] or history["evaluations"]:
            at = [row[0] for row in history["rows"]]
            at += [one["at"] for one in history["evaluations"]]
            self._last_row = max(at)
            parts.append(_event("history", history))
        parts.append(_event("state", self._source.state()))
        return b"".join(parts)


def _event(name: str, values: Values) -> bytes:
    return f"event: {name}\ndata: {to_json(values)}\n\n".encode()


def to_json(values: Values) -> str:
    """JSON in one line."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False)
