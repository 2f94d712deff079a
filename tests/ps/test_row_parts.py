"""Many rows at once: by several threads, and to the bit what one thread does."""

from __future__ import annotations

import contextlib
import gc
import os
import threading

import numpy as np
import pytest

from elasticdl.ps import row_parts
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.routing import group_of, positions_of
from elasticdl.ps.row_parts import LEAST_ROWS, PART_ROWS, in_parts

MANY = 3 * LEAST_ROWS + 17


def use_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(row_parts, "usable_cores", lambda: count)
    monkeypatch.setattr(row_parts, "free_cores", lambda: count)


@pytest.fixture(params=[1, 2, 5])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    use_cores(monkeypatch, request.param)
    return request.param


@pytest.mark.parametrize("num_rows", [0, 1, LEAST_ROWS - 1, LEAST_ROWS, MANY])
def test_each_row_is_in_one_part(num_rows: int, cores: int) -> None:
    seen = np.zeros(num_rows, np.int64)

    def see(part: slice) -> int:
        seen[part] += 1
        return part.stop - part.start

    assert sum(in_parts(num_rows, see)) == num_rows
    assert (seen == 1).all()


def test_many_rows_are_shared_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cores(monkeypatch, 2)
    both = threading.Barrier(2, timeout=30)

    def work(part: slice) -> int:
        if part.start < 2 * PART_ROWS:  # The first two: nobody ends one before both are begun.
            both.wait()
        return threading.get_ident()

    assert len(set(in_parts(MANY, work))) == 2


def test_an_error_ends_all_parts_before_it_is_raised(cores: int) -> None:
    running: set[int] = set()

    def work(part: slice) -> None:
        running.add(part.start)
        try:
            if part.start == 0:
                raise ValueError("the first part")
        finally:
            running.discard(part.start)

    with pytest.raises(ValueError, match="the first part"):
        in_parts(MANY, work)
    assert not running


def _table() -> EmbeddingTable:
    config = OptimizerConfig("adagrad")
    return EmbeddingTable("t", 4, config, RowInitializer("uniform", seed=7, a=-0.05, b=0.05))


def test_an_error_keeps_no_table_from_growing(
    cores: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    table = _table()
    ids = np.arange(MANY)
    table.reserve(ids)

    def fail(self: RowInitializer, ids: np.ndarray, dim: int) -> None:
        raise MemoryError("no room for initial rows")

    gc.disable()  # What only the collector frees stays too long.
    request.addfinalizer(gc.enable)
    with monkeypatch.context() as patched:
        patched.setattr(RowInitializer, "rows", fail)
        with contextlib.suppress(MemoryError):  # pytest.raises would keep the error.
            table.lookup(ids + MANY)
            pytest.fail("the lookup did not fail")
    table.reserve(np.arange(20 * MANY))
    assert len(table) == 20 * MANY


def test_where_there_are_no_further_threads_a_push_is_applied_by_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ids, ones = np.arange(MANY), np.ones(MANY, np.int64)
    gradients = np.random.default_rng(3).normal(size=(MANY, 4)).astype(np.float32)
    found = []
    for is_refused in (False, True):
        table = _table()
        with monkeypatch.context() as patched:
            patched.setattr(row_parts, "_HELPERS", row_parts._Helpers())
            use_cores(patched, 1)
            rows = table.prepare(ids)
            use_cores(patched, 4)
            if is_refused:
                patched.setattr(threading.Thread, "start", refuse)
            table.apply(ids, gradients, 0.1, ones, rows=rows)
            found.append(table.lookup(ids).tobytes())
    assert found[0] == found[1] != _table().lookup(ids).tobytes()


@pytest.mark.parametrize("num_groups", [64, 100])
def test_positions_are_those_of_the_groups(num_groups: int, cores: int) -> None:
    ids = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, MANY)
    positions = np.arange(num_groups)[::-1].copy()
    found, are_hosted = positions_of(ids, positions)
    np.testing.assert_array_equal(found, positions[group_of(ids, num_groups)])
    assert are_hosted
    positions[7] = -1
    assert not positions_of(ids, positions)[1]


def test_where_there_are_no_groups_nothing_is_hosted() -> None:
    nowhere = np.zeros(0, np.int64)
    assert not positions_of(np.arange(100), nowhere)[1]
    assert positions_of(nowhere, nowhere)[1]


def test_who_calls_works_alone_where_no_core_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cores(monkeypatch, 4)
    monkeypatch.setattr(row_parts, "free_cores", lambda: 0)
    assert in_parts(MANY, lambda part: part) == [slice(0, MANY)]


def test_free_cores_are_some_of_the_machine_s() -> None:
    assert 0 <= row_parts.free_cores() <= (os.cpu_count() or 1)


def _trained(num_cores: int, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return all that a table tells after some steps, a snapshot among them."""
    use_cores(monkeypatch, num_cores)
    config = OptimizerConfig("adam", weight_decay=0.01)
    table = EmbeddingTable("t", 5, config, RowInitializer("uniform", seed=7, a=-0.05, b=0.05))
    rng = np.random.default_rng(2)
    told = []
    for step in range(1, 5):
        ids = rng.choice(4 * MANY, MANY, replace=False).astype(np.int64) * 7919
        gradients = rng.normal(size=(MANY, 5)).astype(np.float32)
        rows = table.prepare(ids)
        table.apply(ids, gradients, 0.1, np.full(MANY, step), rows=rows)
        told += [table.lookup(ids + 7919), table.sent(ids, 1)]
        if step == 2:
            table.begin_snapshot(1)
    changed = table.begin_snapshot(2, base=1).changes
    assert changed is not None
    return [*told, changed.rows(), *table.page(0, table.end_row, with_slots=True)]


def test_a_table_is_the_same_to_the_bit_whatever_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, together = _trained(1, monkeypatch), _trained(3, monkeypatch)
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()
