"""Serves a job's dashboard from a thread; the web framework is imported there."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from elasticdl.dashboard.source import Source

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 256
MOST_AT_A_TIME = 4
END_S = 2.0


class DashboardServer:
    """The dashboard of one job, until `stop`.

    Args:
      source: the job.
      listening: where; closed at the end. Others may hold it, too.
      host: of it, as it was given.
      may_begin: called first, in the server's thread: returns once it is time, or false for never.
    """

    def __init__(
        self,
        source: Source,
        listening: socket.socket,
        host: str,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._source = source
        self._listening = listening
        self._host = host
        self._may_begin = may_begin
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)

    def start(self) -> None:
        """Begin to serve, soon."""
        self._thread.start()

    def stop(self) -> None:
        """Tell all viewers how the job stands, and end with all connections and threads."""
        with self._lock:
            self._stopped.set()
            if self._server is not None:
                self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        try:
            if self._may_begin() and not self._stopped.is_set():
                self._serve()
        except Exception:  # A job does not depend on who looks at it.
            logger.exception("the dashboard is not served any more")

    def _serve(self) -> None:
        import uvicorn

        from elasticdl.dashboard.application import make_application
        from elasticdl.dashboard.connection import Connection
        from elasticdl.dashboard.feed import Feed

        threads = ThreadPoolExecutor(MOST_AT_A_TIME, thread_name_prefix="dashboard")

        async def in_thread(call: Callable[[], object]) -> object:
            return await asyncio.get_running_loop().run_in_executor(threads, call)

        feed = Feed(self._source, in_thread)  # type: ignore[arg-type]

        class Server(uvicorn.Server):
            """Ends its streams before it waits for them."""

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                await feed.end()
                await super().shutdown(sockets)

        config = uvicorn.Config(
            make_application(self._source, feed, in_thread, self._host),
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(END_S),
        )
        with self._lock:
            self._server = Server(config)
            self._server.should_exit = self._stopped.is_set()
        try:
            self._server.run(sockets=[self._listening])
        finally:
            threads.shutdown(cancel_futures=True)
