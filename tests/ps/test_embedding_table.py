"""Embedding tables and what they stand on: the arena and the id index."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps import kernels
from elasticdl.ps.arena import Arena
from elasticdl.ps.embedding_table import EmbeddingTable, TableFullError
from elasticdl.ps.id_index import IdIndex
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig

INT64 = np.iinfo(np.int64)
ODD_IDS = np.array([0, -1, 1, INT64.min, INT64.max, INT64.min + 1, -(1 << 32), 1 << 32], np.int64)
any_ids = st.lists(
    st.one_of(st.integers(-3, 3), st.integers(INT64.min, INT64.max)), max_size=60
).map(lambda values: np.array(values, np.int64))


def new_table(optimizer: str = "adagrad", dim: int = 4, max_rows: int = 1 << 40) -> EmbeddingTable:
    initializer = RowInitializer("uniform", seed=7, a=-0.05, b=0.05)
    return EmbeddingTable("t", dim, OptimizerConfig(optimizer), initializer, max_rows)


def ones(count: int) -> np.ndarray:
    return np.ones(count, np.int64)


def test_a_lookup_never_changes_the_table() -> None:
    table = new_table()
    table.reserve(np.arange(10))
    before = (len(table), table.num_bytes, table.page(0, 100, with_slots=True))
    first = table.lookup(np.arange(-50, 50))
    np.testing.assert_array_equal(table.lookup(np.arange(-50, 50)), first)
    assert (len(table), table.num_bytes) == before[:2]
    np.testing.assert_array_equal(table.page(0, 100, with_slots=True)[1], before[2][1])


@settings(max_examples=40, deadline=None)
@given(ids=any_ids, dim=st.integers(1, 20))
def test_unseen_and_untouched_rows_are_the_initializer_s(ids: np.ndarray, dim: int) -> None:
    table = new_table(dim=dim)
    expected = table.initializer.rows(ids, dim)
    np.testing.assert_array_equal(table.lookup(ids), expected)
    table.reserve(ids[: len(ids) // 2])
    np.testing.assert_array_equal(table.lookup(ids), expected)
    assert len(table) == len(set(ids[: len(ids) // 2].tolist()))


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_every_int64_is_an_id(optimizer: str) -> None:
    table = new_table(optimizer)
    gradients = np.arange(len(ODD_IDS) * 4, dtype=np.float32).reshape(-1, 4)
    expected = table.lookup(ODD_IDS)
    assert len({row.tobytes() for row in expected}) == len(ODD_IDS)
    table.apply(ODD_IDS, gradients, 0.1, ones(len(ODD_IDS)))
    assert len(table) == len(ODD_IDS)
    after = table.lookup(ODD_IDS)
    changed = (after != expected).any(axis=1)
    assert changed.all()
    for position in range(len(ODD_IDS)):  # one by one, in another order
        np.testing.assert_array_equal(
            table.lookup(ODD_IDS[::-1])[len(ODD_IDS) - 1 - position], after[position]
        )
    np.testing.assert_array_equal(table.page(0, 100)[0], ODD_IDS)


def test_rows_survive_growth_through_many_reallocations() -> None:
    table = new_table(dim=24)
    rng = np.random.default_rng(1)
    ids = rng.choice(1 << 40, 300_000, replace=False).astype(np.int64) - (1 << 39)
    capacities = set()
    for start in range(0, len(ids), 7_777):
        part = ids[start : start + 7_777]
        table.apply(part, np.ones((len(part), 24), np.float32), 1.0, ones(len(part)))
        capacities.add(len(table._storage.rows))
    assert len(capacities) >= 5
    assert len(table) == len(ids)
    step = np.float32(1) / np.sqrt(np.float32(1.1) + np.float32(1e-7))
    np.testing.assert_allclose(
        table.lookup(ids), table.initializer.rows(ids, 24) - step, rtol=0, atol=1e-6
    )
    page_ids, rows = table.page(0, len(ids), with_slots=True)
    np.testing.assert_array_equal(page_ids, ids)
    np.testing.assert_allclose(rows[:, 24:], 1.1, rtol=1e-6)


def test_reserving_creates_rows_once_and_repeats_share_one() -> None:
    table = new_table()
    rows = table.reserve(np.array([5, 6, 5, 7, 6]))
    np.testing.assert_array_equal(rows, [0, 1, 0, 2, 1])
    np.testing.assert_array_equal(table.reserve(np.array([7, 8, 5])), [2, 3, 0])
    assert len(table) == 4


def test_an_update_touches_only_its_rows() -> None:
    table = new_table("adam")
    table.reserve(np.arange(100))
    others = np.delete(np.arange(100), [3, 50])
    before = table.page(0, 100, with_slots=True)[1]
    table.apply(np.array([50, 3]), np.ones((2, 4), np.float32), 0.1, ones(2))
    after = table.page(0, 100, with_slots=True)[1]
    np.testing.assert_array_equal(after[others], before[others])
    assert (after[[3, 50]] != before[[3, 50]]).all()


@settings(max_examples=20, deadline=None)
@given(ids=any_ids, page_rows=st.integers(1, 70), with_slots=st.booleans())
def test_pages_loaded_into_another_table_make_the_same_table(
    ids: np.ndarray, page_rows: int, with_slots: bool
) -> None:
    ids = np.unique(ids)
    table, copy = new_table("adam"), new_table("adam")
    table.apply(ids, np.ones((len(ids), 4), np.float32), 0.1, ones(len(ids)))
    for page_ids, values in table.pages(page_rows, with_slots):
        assert 0 < len(page_ids) <= page_rows
        copy.load(page_ids, values[:, :4], values[:, 4:] if with_slots else None)
    assert len(copy) == len(table)
    for one, other in zip(table.pages(1000, with_slots), copy.pages(1000, with_slots), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_loading_without_slots_starts_them_anew() -> None:
    table = new_table()
    table.apply(np.array([1]), np.ones((1, 4), np.float32), 0.1, ones(1))
    table.load(np.array([1, 2]), np.full((2, 4), 3, np.float32))
    np.testing.assert_array_equal(
        table.page(0, 2, with_slots=True)[1],
        np.repeat(np.array([[3, 0.1], [3, 0.1]], np.float32), 4, axis=1),
    )


def test_a_page_is_a_copy() -> None:
    table = new_table()
    table.reserve(np.arange(3))
    _, page = table.page(0, 3)
    page[:] = 9
    assert (table.lookup(np.arange(3)) != 9).all()
    assert [len(part) for part in table.page(2, 5)] == [1, 1]
    assert [len(part) for part in table.page(7, 5)] == [0, 0]
    with pytest.raises(ValueError, match="negative"):
        table.page(-1, 5)


def test_a_full_table_refuses_new_rows_before_anything_changes() -> None:
    table = new_table(max_rows=3)
    table.reserve(np.array([1, 2]))
    with pytest.raises(TableFullError, match="table 't': 2 rows and 2 new ones; max_rows is 3"):
        table.apply(np.array([1, 3, 4]), np.ones((3, 4), np.float32), 0.1, ones(3))
    assert len(table) == 2
    np.testing.assert_array_equal(
        table.lookup(np.array([1, 3])), table.initializer.rows(np.array([1, 3]), 4)
    )
    np.testing.assert_array_equal(table.reserve(np.array([9, 9, 1, 9])), [2, 2, 0, 2])
    with pytest.raises(MemoryError):
        table.load(np.array([4]), np.ones((1, 4), np.float32))
    assert len(table) == 3


@pytest.mark.parametrize(
    ("ids", "gradients", "iterations"),
    [
        (np.arange(3, dtype=np.int32), np.ones((3, 4), np.float32), ones(3)),
        (np.arange(4).reshape(2, 2), np.ones((3, 4), np.float32), ones(3)),
        (np.arange(3), np.ones((2, 4), np.float32), ones(3)),
        (np.arange(3), np.ones((3, 5), np.float32), ones(3)),
        (np.arange(3), np.ones((3, 4)), ones(3)),
        (np.arange(3), np.ones(12, np.float32), ones(3)),
        (np.arange(3), np.ones((3, 4), np.float32), ones(2)),
        (np.arange(3), np.ones((3, 4), np.float32), np.ones(3, np.int32)),
        (np.arange(3).astype(">i8"), np.ones((3, 4), np.float32), ones(3)),
    ],
)
def test_an_update_that_does_not_fit_is_refused_before_anything_changes(
    ids: np.ndarray, gradients: np.ndarray, iterations: np.ndarray
) -> None:
    table = new_table()
    with pytest.raises(ValueError, match="must be"):
        table.apply(ids, gradients, 0.1, iterations)
    assert len(table) == 0
    with pytest.raises(ValueError, match="must be"):
        table.load(np.arange(3), np.ones((3, 4), np.float32), np.ones((3, 5), np.float32))
    assert len(table) == 0


def test_memory_is_that_of_the_rows_there_are() -> None:
    table = new_table(dim=16)
    empty = table.num_bytes
    assert empty < 1 << 17
    table.reserve(np.arange(100_000))
    rows_bytes = 100_000 * (16 * 2 * 4 + 8)
    index_bytes = table.num_bytes - rows_bytes
    assert 16 * 100_000 < index_bytes < 50 * 100_000


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_taken_from_the_system_is_what_the_table_says() -> None:
    def resident_bytes() -> int:
        gc.collect()
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Rss"))

    table = new_table(dim=16)
    ids = np.arange(600_000)
    before = resident_bytes()
    for start in range(0, len(ids), 20_000):
        table.reserve(ids[start : start + 20_000])
    assert resident_bytes() - before < 1.15 * table.num_bytes


def test_an_arena_grows_and_keeps_its_rows() -> None:
    arena = Arena(np.int64, 3)
    count = 1000
    arena.reserve(count)
    arena.rows[:count] = np.arange(count)[:, None]
    for target in (count, 10**5, 10**6, 3 * 10**6):
        arena.reserve(target)
        assert len(arena.rows) >= target
        np.testing.assert_array_equal(arena.rows[:count, 2], np.arange(count))
        assert not arena.rows[count : count + 1000].any()


def test_a_view_held_while_an_arena_grows_is_an_error_not_a_dangling_pointer() -> None:
    arena = Arena(np.int64, 1)
    view = arena.rows[:2]
    view[:] = 5
    with pytest.raises(BufferError):
        arena.reserve(10**7)
    assert len(arena.rows) < 10**7
    np.testing.assert_array_equal(arena.rows[:2], view)
    del view
    arena.reserve(10**7)
    np.testing.assert_array_equal(arena.rows[:2], [[5], [5]])


def test_no_room_is_a_memory_error_and_changes_nothing() -> None:
    arena = Arena(np.float32, 4)
    arena.rows[0] = 1
    for num_rows in (1 << 50, 1 << 62):
        with pytest.raises(MemoryError, match="no room"):
            arena.reserve(num_rows)
    np.testing.assert_array_equal(arena.rows[0], np.ones(4))


def test_where_memory_cannot_be_remapped_an_arena_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRemap:
        def __init__(self, mapped: object) -> None:
            self.mapped = mapped

        def resize(self, _: int) -> None:
            raise SystemError("mmap: resizing not available--no mremap()")

        def __len__(self) -> int:
            return len(self.mapped)  # type: ignore[arg-type]

        def __getitem__(self, key: slice) -> bytes:
            return self.mapped[key]  # type: ignore[index]

    arena = Arena(np.int64, 2)
    arena.rows[:] = 3
    count = len(arena.rows)
    arena._map = NoRemap(arena._map)  # type: ignore[assignment]
    arena.reserve(count + 1)
    assert len(arena.rows) > count
    assert (arena.rows[:count] == 3).all()
    assert not arena.rows[count:].any()


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(any_ids, max_size=8), seed=st.integers(0, 2**64 - 1))
def test_the_index_is_a_dictionary(batches: list[np.ndarray], seed: int) -> None:
    index, reference = IdIndex(seed), dict[int, int]()
    row_ids = np.empty(1000, np.int64)
    for ids in batches:
        found, num_missing = index.find(ids)
        expected = [reference.get(key, -1) for key in ids.tolist()]
        np.testing.assert_array_equal(found, np.array(expected, np.int64))
        assert num_missing == expected.count(-1)
        index.reserve(len(reference) + len(ids))
        rows, next_row = index.insert(ids, len(reference), row_ids)
        for key in ids.tolist():
            reference.setdefault(key, len(reference))
        assert next_row == len(reference)
        np.testing.assert_array_equal(rows, np.array([reference[k] for k in ids.tolist()], int))
    np.testing.assert_array_equal(row_ids[: len(reference)], np.array(list(reference), int))


@pytest.mark.parametrize("fill", [0.35, 0.79])
def test_whoever_is_left_when_others_are_removed_is_found_in_full_cache_lines_too(
    fill: float,
) -> None:
    index, rng = IdIndex(seed=7), np.random.default_rng(0)
    index.reserve(1000)  # One segment, which is then filled further than it would be.
    ids = np.append(rng.integers(-(1 << 62), 1 << 62, int(fill * 4096)), 0)
    rows, _ = index.insert(ids, 0, np.empty(len(ids), np.int64))
    unknown = rng.integers(-(1 << 62), 1 << 62, 1000)
    for _ in range(20):
        found, num_missing = index.find(np.concatenate([ids, unknown]))
        np.testing.assert_array_equal(found, np.append(rows, np.full(len(unknown), -1)))
        assert num_missing == len(unknown)
        gone = rng.random(len(ids)) < 0.1
        index.remove(ids[gone])
        unknown = np.append(unknown, ids[gone])
        ids, rows = ids[~gone], rows[~gone]


def test_ids_fitted_to_the_index_s_seed_are_found_too() -> None:
    def invert_splitmix64(values: np.ndarray) -> np.ndarray:
        def unshift(x: np.ndarray, bits: int) -> np.ndarray:
            result = x
            for _ in range(64 // bits + 1):
                result = x ^ (result >> np.uint64(bits))
            return result

        x = unshift(values, 31) * np.uint64(pow(0x94D049BB133111EB, -1, 1 << 64))
        x = unshift(x, 27) * np.uint64(pow(0xBF58476D1CE4E5B9, -1, 1 << 64))
        return unshift(x, 30) - np.uint64(0x9E3779B97F4A7C15)

    count = kernels.SEGMENT_SLOTS + 500
    hashes = np.arange(count, dtype=np.uint64) << np.uint64(4)  # all in the first segment of 16
    ids = (invert_splitmix64(hashes) ^ np.uint64(42)).view(np.int64)
    index = IdIndex(seed=42)
    index.reserve(count)
    rows, next_row = index.insert(ids, 0, np.empty(count, np.int64))
    assert next_row == count
    np.testing.assert_array_equal(rows, np.arange(count))
    np.testing.assert_array_equal(index.find(ids)[0], np.arange(count))
    assert index.find(np.arange(100))[1] == 100
