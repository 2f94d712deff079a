"""How often a master looks for garbage."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Look for garbage after so many more new objects than Python does by itself.

    What a master makes is the ledger, which stays, and requests, which go without being looked for:
    a tenth of its time went into finding nothing.
    """
    gc.set_threshold(20_000, 20, 20)
