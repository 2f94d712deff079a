"""Follows the pods of a job: a list is the truth, a watch a hint of what changed since."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from elasticdl.master.cluster.kubernetes.client import Json, KubeClient, KubeError, Watch

logger = logging.getLogger(__name__)

WATCH_S = 30.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
STEADY_S = 1.0
"""A watch that lasted so long is followed by a list at once."""


class Reflector:
    """Lists the pods that have some labels, watches them for a while, and lists them again.

    All of it in one thread, one after the other: no change is handed on that is older than the last
    list. What the watch leaves out, the next list tells.

    Args:
      labels: of the pods.
      on_list: takes all there are, and when they were asked for, by `time.monotonic`.
      on_change: takes one change of a watch.
      watch_s: for how long to watch between two lists.
    """

    def __init__(
        self,
        client: KubeClient,
        labels: Mapping[str, str],
        on_list: Callable[[list[Json], float], None],
        on_change: Callable[[Json], None],
        watch_s: float = WATCH_S,
    ) -> None:
        self._client = client
        self._labels = dict(labels)
        self._on_list = on_list
        self._on_change = on_change
        self._watch_s = watch_s
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._is_wanted = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reflector", daemon=True)

    def start(self) -> None:
        """Begin with a list."""
        self._thread.start()

    def list_now(self) -> None:
        """End the watch, so that a list comes soon."""
        with self._lock:
            watch = self._watch
            self._is_wanted = self._is_wanted or watch is not None
        if watch is not None:
            watch.close()

    def close(self) -> None:
        """Ask no more; from any other thread, and after it nothing is handed on."""
        self._closed.set()
        self.list_now()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._closed.wait(pause_s):
            why, began, self._is_wanted = "", float("inf"), False
            try:
                version = self._list()
                began = time.monotonic()
                self._follow(version)
            except KubeError as error:
                why = str(error)
            if self._is_wanted or time.monotonic() - began >= STEADY_S:
                pause_s = 0.0
                if why:
                    logger.info("the pods are listed anew: %s", why)
                continue
            pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause_s))
            why = why or "the watch ended at once"
            logger.warning("the pods are not known for %.1f s: %s", pause_s, why)

    def _list(self) -> str:
        asked_at = time.monotonic()
        listed = self._client.list("Pod", self._labels)
        if not self._closed.is_set():
            self._on_list(listed.items, asked_at)
        return listed.resource_version

    def _follow(self, version: str) -> None:
        watch = self._client.watch("Pod", version, self._labels, self._watch_s)
        with self._lock:
            self._watch = watch
        if self._closed.is_set():
            watch.close()
        try:
            for change in watch:
                if self._closed.is_set():
                    return
                self._on_change(change)
        finally:
            with self._lock:
                self._watch = None
