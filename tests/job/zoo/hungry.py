"""The clicks model, trained until a file is there, whose workers hold some memory besides."""

from __future__ import annotations

import numpy as np
import until_told


class Hungry(until_told.UntilTold):
    """`mib` of memory are held where it is trained, and not where it is tried or exported.

    A worker that exports has the definition twice.
    """

    def __init__(self, context, path="", mib=0):
        super().__init__(context, path)
        self.held = np.ones(mib << 20, np.uint8) if context["role"] == "worker" else None
