"""etcd and kube-apiserver alone, on this machine's loopback interface; needs no root."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.api import SUBMITTER, Api, Namespace
from tests.cluster.control_plane import ControlPlane, Place

# Nobody is there to make what these wait for.
_WITHOUT = "--disable-admission-plugins=ServiceAccount"


class ApiOnly:
    """An apiserver whose objects nobody acts on: no pod starts, nothing that is owned goes.

    Start it from the thread that lives on: its processes end with that thread, so that none is
    left by tests that are killed.

    Args:
      directory: for keys, state and logs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.plane = ControlPlane(
            directory, Place.on_loopback(("setpriv", "--pdeathsig", "KILL", "--"))
        )
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """How an administrator calls it."""
        assert self._api is not None, "it was not started"
        return self._api

    def start(self) -> None:
        """Start both, and wait until they are ready: about 5 s."""
        self.plane.write_secrets()
        self._api = self.plane.api()
        self.plane.start_etcd()
        self._start_apiserver()

    def restart(self, away_s: float = 0) -> None:
        """Kill the apiserver, and start it again after a while: watches from before are gone."""
        self.plane.apiserver.kill()
        time.sleep(away_s)
        self._start_apiserver()

    def stop(self) -> None:
        self.plane.stop()

    def new_namespace(self) -> Namespace:
        return self.api.new_namespace(self.directory, self.plane.token(SUBMITTER))

    def _start_apiserver(self) -> None:
        self.plane.start_apiserver("--endpoint-reconciler-type=none", _WITHOUT)
        self.plane.wait_until_ready(self.api)
