"""The image of a table: what it held at one moment, whatever happens to it afterwards."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.table_image import TableImage

DIM = 5
EVERY_ID = np.arange(-12, 30, dtype=np.int64)

ids_lists = st.lists(st.integers(-10, 20), max_size=12, unique=True)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), ids_lists),
        st.tuples(st.just("load"), ids_lists),
        st.tuples(st.just("pin"), st.booleans()),
        st.tuples(st.just("unpin"), st.none()),
    ),
    max_size=30,
)


def new_table(dim: int = DIM, optimizer: str = "adagrad") -> EmbeddingTable:
    initializer = RowInitializer("uniform", seed=7, a=-0.05, b=0.05)
    return EmbeddingTable("t", dim, OptimizerConfig(optimizer, learning_rate=0.1), initializer)


def everything(table: EmbeddingTable) -> dict[int, bytes]:
    """Each row with its slots, by id."""
    ids, rows = table.page(0, len(table), with_slots=True)
    return {int(one): row.tobytes() for one, row in zip(ids, rows, strict=True)}


def pinned_pages(
    table: EmbeddingTable, page_rows: int, with_slots: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    pages, first_row = [], 0
    while first_row >= 0:
        ids, rows, first_row = table.pinned_page(first_row, page_rows, with_slots)
        pages.append((ids, rows))
    return pages


def push(table: EmbeddingTable, ids: Sequence[int], gradient: float) -> None:
    gradients = np.full((len(ids), table.dim), gradient, np.float32)
    table.apply(np.array(ids, np.int64), gradients, 0.1, np.ones(len(ids), np.int64))


@settings(max_examples=150, deadline=None)
@given(actions=actions, page_rows=st.integers(1, 9))
def test_an_image_is_what_the_table_was_at_the_pin(
    actions: list[tuple[str, object]], page_rows: int
) -> None:
    table = new_table()
    expected: tuple[np.ndarray, dict[int, bytes], bool] | None = None
    for number, (what, argument) in enumerate(actions):
        if what == "push":
            push(table, argument, 1.0 + number)  # type: ignore[arg-type]
        elif what == "load":
            ids = np.array(argument, np.int64)
            table.load(ids, np.full((len(ids), DIM), float(number), np.float32))
        elif what == "pin":
            table.pin(with_slots=bool(argument))
            expected = (table.lookup(EVERY_ID), everything(table), bool(argument))
        else:
            table.unpin()
            expected = None
        if expected is not None:
            lookup, rows, with_slots = expected
            np.testing.assert_array_equal(table.pinned_lookup(EVERY_ID), lookup)
            pages = pinned_pages(table, page_rows, with_slots)
            columns = slice(None, None if with_slots else 4 * DIM)
            found = {
                int(one): row.tobytes()
                for ids, values in pages
                for one, row in zip(ids, values, strict=True)
            }
            assert found == {one: row[columns] for one, row in rows.items()}
            assert sum(len(ids) for ids, _ in pages) == len(rows)


def test_a_pin_changes_nothing_of_the_training() -> None:
    pinned, free = new_table(optimizer="adam"), new_table(optimizer="adam")
    rng = np.random.default_rng(3)
    for step in range(30):
        if step % 7 == 3:
            pinned.pin()
        ids = rng.choice(200, 40, replace=False).tolist()
        push(pinned, ids, 0.1 * step)
        push(free, ids, 0.1 * step)
    assert everything(pinned) == everything(free)


def test_slots_that_a_pin_does_not_keep_cannot_be_read_from_it() -> None:
    table = new_table()
    push(table, [1, 2], 1.0)
    table.pin()
    with pytest.raises(ValueError, match="does not hold the optimizer's slots"):
        table.pinned_page(0, 10, with_slots=True)


def test_an_image_outlives_the_growth_of_its_table() -> None:
    table = new_table(dim=24)
    before = np.arange(50_000)
    push(table, before, 1.0)  # type: ignore[arg-type]
    expected = table.lookup(before)
    table.pin()
    for start in range(0, 400_000, 50_000):
        push(table, np.arange(start, start + 50_000), 2.0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(table.pinned_lookup(before), expected)
    new = np.arange(60_000, 60_100)
    np.testing.assert_array_equal(table.pinned_lookup(new), table.initializer.rows(new, 24))
    assert sum(len(ids) for ids, _ in pinned_pages(table, 4096, False)) == 50_000


def test_memory_of_an_image_is_that_of_changed_rows_and_goes_with_it() -> None:
    table = new_table(dim=64)
    push(table, np.arange(10_000), 1.0)  # type: ignore[arg-type]
    before = table.num_bytes
    table.pin()
    push(table, np.arange(100), 1.0)  # type: ignore[arg-type]
    push(table, np.arange(100), 1.0)  # type: ignore[arg-type]
    assert table.num_bytes - before == 100 * (64 * 4 + 8) + 10_000 * 8
    table.unpin()
    assert table.num_bytes == before


# ------------------------------------------------------- rows that change their owner


class MovingRows:
    """Rows that ids are removed from and come back to, as eviction does it: swap or reuse.

    The storage of one table by hand, so that the image alone is tested.
    """

    def __init__(self, reuse: bool) -> None:
        self.reuse = reuse
        self.storage = np.zeros((64, 2), np.float32)
        self.row_ids = np.zeros((64, 1), np.int64)
        self.rows: dict[int, int] = {}
        self.free: list[int] = []
        self.num_rows = 0
        self.image: TableImage | None = None

    def pin(self) -> None:
        self.image = TableImage(self.num_rows, 2, np.array(self.free, np.int64))

    def set(self, one: int, value: float) -> None:
        if one not in self.rows:
            if self.free:
                self.rows[one] = self.free.pop()
            else:
                self.rows[one] = self.num_rows
                self.num_rows += 1
        row = self.rows[one]
        if self.image is not None:
            self.image.save(np.array([row]), self.storage, self.row_ids)
        self.storage[row] = value
        self.row_ids[row] = one

    def remove(self, one: int) -> None:
        row, last = self.rows.pop(one), self.num_rows - 1
        touched = [row] if self.reuse or row == last else [row, last]
        if self.image is not None:
            self.image.displace(np.array(touched), self.storage, self.row_ids)
        if self.reuse:
            self.free.append(row)
            return
        if row != last:
            self.storage[row], self.row_ids[row] = self.storage[last], self.row_ids[last]
            self.rows[int(self.row_ids[row, 0])] = row
        self.num_rows -= 1

    def image_of(self, ids: np.ndarray) -> dict[int, float]:
        assert self.image is not None
        values = np.zeros((len(ids), 2), np.float32)
        rows = np.array([self.rows.get(int(one), -1) for one in ids], np.int64)
        missing = set(self.image.lookup(ids, rows, self.storage, values).tolist())
        return {
            int(one): float(values[position, 0])
            for position, one in enumerate(ids)
            if position not in missing
        }


@settings(max_examples=200, deadline=None)
@given(
    reuse=st.booleans(),
    before=st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=20),
    after=st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=40),
)
def test_removed_and_moved_rows_survive_in_the_image(
    reuse: bool, before: list[tuple[bool, int]], after: list[tuple[bool, int]]
) -> None:
    rows = MovingRows(reuse)
    model: dict[int, float] = {}

    def act(number: int, removes: bool, one: int) -> None:
        if not removes:
            rows.set(one, float(number))
            model[one] = float(number)
        elif one in rows.rows:
            rows.remove(one)
            del model[one]

    for number, (removes, one) in enumerate(before):
        act(number, removes, one)
    rows.pin()
    expected = dict(model)
    assert rows.image is not None
    for number, (removes, one) in enumerate(after):
        act(100 + number, removes, one)
        assert rows.image_of(np.arange(12)) == expected
        ids, values, following = rows.image.page(0, 64, 2, rows.storage, rows.row_ids)
        assert following == -1
        assert dict(zip(ids.tolist(), values[:, 0].tolist(), strict=True)) == expected
        assert len(ids) == len(expected)


def test_readers_of_an_image_see_no_push_that_goes_on_beside_them() -> None:
    table, lock = new_table(dim=16), threading.Lock()
    ids = np.arange(2_000)
    push(table, ids, 1.0)  # type: ignore[arg-type]
    expected = table.lookup(ids)
    table.pin()
    failures: list[str] = []
    stopped = threading.Event()

    def read() -> None:
        rng = np.random.default_rng(0)
        while not stopped.is_set():
            some = rng.choice(2_500, 300)
            with lock:
                values = table.pinned_lookup(some)
            known = some < 2_000
            if not np.array_equal(values[known], expected[some[known]]):
                failures.append("a pushed value was read from the image")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(1)
    for _ in range(150):
        with lock:
            push(table, rng.choice(2_500, 400, replace=False), 0.5)  # type: ignore[arg-type]
    stopped.set()
    for reader in readers:
        reader.join()
    assert failures == []
