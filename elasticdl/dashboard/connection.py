"""One connection to a dashboard: it is closed where nothing is asked for."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

ASK_S = 5.0


class Connection(H11Protocol):
    """As uvicorn's, which waits for a first request, and for the rest of any, for ever.

    There are only so many connections, and where those wait that ask for nothing, nobody else is
    answered.
    """

    _timer: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer = self.loop.call_later(ASK_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if not is_answering and cycle is self._answered:
            self.transport.close()
            return
        self._answered = cycle
        self._timer = self.loop.call_later(ASK_S, self._close_if_silent)
