"""A model that takes its time in one worker, for tests of what happens meanwhile."""

from __future__ import annotations

import time
from pathlib import Path

import clicks


class SlowToBuild(clicks.Clicks):
    """Builds in worker 1 for minutes; writes the file `sign` when it begins to."""

    def __init__(self, context=None, sign="", **params):
        super().__init__(context, **params)
        self.sign = sign

    def create_model(self):
        if self.context["role"] == "worker" and self.context["index"] == 1:
            Path(self.sign).touch()
            time.sleep(240)
        return super().create_model()
