"""Where a master is reached: its port is open while it is sure to be its job's one master."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from elasticdl.master.tenure import Tenure
from elasticdl.rpc import Server

logger = logging.getLogger(__name__)

LOOK_S = 0.5


class Door:
    """The server of a master, which goes and comes as the master is sure or not.

    Args:
      listen: makes the server, at an address.
      address: host:port; it is open when this returns.
      tenure: sure at first.

    Raises:
      OSError: nobody can listen there.
    """

    def __init__(self, listen: Callable[[str], Server], address: str, tenure: Tenure) -> None:
        self._listen = listen
        self._tenure = tenure
        self._closed = threading.Event()
        self._server: Server | None = listen(address)
        self._address = self._server.address
        self._thread = threading.Thread(target=self._watch, name="door", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it is open, when it is."""
        return self._address

    def close(self) -> None:
        """Close it for good."""
        self._closed.set()
        self._thread.join()
        self._shut(0.5)

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_S):
            is_sure = self._tenure.is_sure()
            if not is_sure and self._server is not None:
                logger.warning("another master may act: nobody is answered")
                self._shut(0.0)
            elif is_sure and self._server is None:
                try:
                    self._server = self._listen(self._address)
                except OSError as error:  # Tried again.
                    logger.warning("%s", error)

    def _shut(self, grace_s: float) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop(grace_s)
