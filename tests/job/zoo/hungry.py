"""The clicks model, trained until a file is there, whose workers hold some memory besides."""

from __future__ import annotations

import sys

import numpy as np
import until_told


class Hungry(until_told.UntilTold):
    """`mib` of memory are held where it is trained, and not where it is only tried."""

    def __init__(self, context=None, path="", mib=0):
        super().__init__(context, path)
        spec = sys.modules["__main__"].__spec__
        is_worker = spec is not None and spec.name.startswith("elasticdl.worker")
        self.held = np.ones(mib << 20, np.uint8) if is_worker else None
