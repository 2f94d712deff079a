"""Memory that is put together to huge pages: faster, and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from elasticdl.ps import arena
from elasticdl.ps.arena import Arena
from elasticdl.ps.huge_pages import HUGE_BYTES, can_fold

DEADLINE_S = 60.0
needs_folding = pytest.mark.skipif(not can_fold(), reason="this system puts no pages together")


def told_of(address: int, what: str) -> str:
    """Return what the system tells of the mapping that an address is in; empty for nothing."""
    is_here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            start, _, end = first.partition("-")
            is_here = int(start, 16) <= address < int(end, 16)
        elif is_here and first == f"{what}:":
            return rest
    return ""


def huge_bytes(address: int) -> int:
    """Return the bytes of huge pages in the mapping that an address is in."""
    told = told_of(address, "AnonHugePages")
    return int(told.split()[0]) * 1024 if told else 0


@needs_folding
def test_what_is_filled_is_put_together_while_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_HUGE_FROM_BYTES", 4 * HUGE_BYTES)
    rows = Arena(np.int64, 1)
    count = 4 * HUGE_BYTES // 8
    expected = np.arange(count)
    rows.reserve(count)
    rows.rows[:count, 0] = expected
    deadline = time.monotonic() + DEADLINE_S
    while huge_bytes(rows.rows.ctypes.data) < 3 * HUGE_BYTES:
        assert time.monotonic() < deadline
        np.testing.assert_array_equal(rows.rows[:count, 0], expected)
    rows.reserve(4 * count)
    rows.rows[count : 2 * count, 0] = expected
    np.testing.assert_array_equal(rows.rows[: 2 * count, 0], np.tile(expected, 2))
    assert not rows.rows[2 * count : 4 * count].any()


@needs_folding
def test_what_is_empty_stays_empty() -> None:
    rows = Arena(np.int64, 1)
    rows.reserve(8 * HUGE_BYTES // 8)
    assert not rows.fold_next()
    rows.rows[: 2 * HUGE_BYTES // 8, 0] = 1
    while rows.fold_next():
        pass
    assert huge_bytes(rows.rows.ctypes.data) <= 3 * HUGE_BYTES


def test_what_is_short_lived_keeps_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena, "_HUGE_FROM_BYTES", HUGE_BYTES)
    monkeypatch.setattr(arena.FOLDER, "add", lambda memory: pytest.fail("it is to be folded"))
    rows = Arena(np.int64, 1, is_short_lived=True)
    rows.reserve(4 * HUGE_BYTES // 8)
    rows.rows[:] = 1
    flags = told_of(rows.rows.ctypes.data, "VmFlags").split()
    # Nor does a system that gives huge pages to everybody give it any.
    assert "nh" in flags or not can_fold()
    assert not huge_bytes(rows.rows.ctypes.data)


def grown(monkeypatch: pytest.MonkeyPatch, reach_bytes: int) -> tuple[Arena, set[int]]:
    """Return what was large from 4 MiB on and grew to 32, and where it was meanwhile."""
    monkeypatch.setattr(arena, "_HUGE_FROM_BYTES", 2 * HUGE_BYTES)
    monkeypatch.setattr(arena, "_REACH_BYTES", reach_bytes)
    rows, places = Arena(np.int64, 1), set()
    for huge_pages in (2, 4, 8, 16):
        count = huge_pages * HUGE_BYTES // 8
        rows.reserve(count)
        rows.rows[count // 2 : count, 0] = np.arange(count // 2, count)
        places.add(rows.rows.ctypes.data)
    np.testing.assert_array_equal(rows.rows[count // 4 : count, 0], np.arange(count // 4, count))
    return rows, places


def test_what_is_large_does_not_move_when_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, places = grown(monkeypatch, 1 << 30)
    assert len(places) == 1
    assert rows.rows.nbytes >= 1 << 30


def test_where_there_is_no_address_space_what_is_needed_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, _ = grown(monkeypatch, 1 << 62)
    assert rows.rows.nbytes == 16 * HUGE_BYTES
