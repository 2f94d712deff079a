"""How large the clicks and their model are."""

from __future__ import annotations

NUM_NUMERIC = 13
NUM_FIELDS = 26
NUM_IDS = 1_000_000
DIM = 16
HIDDEN_UNITS = (256, 128)
