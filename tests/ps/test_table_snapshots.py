"""Snapshots of a table: whole ones and increments are the table, and it trains on from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps import change_marks
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules
from elasticdl.ps.lifetimes import GroupSteps
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.routing import group_of
from elasticdl.ps.table_snapshot import Candidates, TableSnapshot

GROUPS = 4
DIM = 3
ADAGRAD = OptimizerConfig("adagrad", learning_rate=0.1)
RULES = [
    LifetimeRules(),
    LifetimeRules(max_rows=16),
    LifetimeRules(evict_after_steps=3),
    LifetimeRules(admission_count=2, evict_after_steps=4),
]

actions = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.lists(st.integers(-5, 30), max_size=9, unique=True)),
        st.tuples(st.just("push"), st.lists(st.integers(-5, 30), max_size=9, unique=True)),
        st.tuples(st.just("snapshot"), st.sampled_from(["whole", "increment", "abandoned"])),
        st.tuples(st.just("pin"), st.none()),
    ),
    max_size=40,
)


def new_table(rules: LifetimeRules) -> EmbeddingTable:
    initializer = RowInitializer("uniform", seed=3, a=-1.0, b=1.0)
    return EmbeddingTable("t", DIM, ADAGRAD, initializer, 1 << 40, rules, GROUPS, GROUPS)


def groups_of(ids: np.ndarray) -> np.ndarray:
    return group_of(ids, GROUPS).astype(np.int64)


def push(table: EmbeddingTable, ids: list[int], step: int) -> None:
    some = np.array(ids, np.int64)
    steps = GroupSteps(groups_of(some), np.full(GROUPS, step), np.ones(GROUPS, bool))
    gradients = np.full((len(some), DIM), 1.0 + step, np.float32)
    table.apply(some, gradients, 0.1, np.full(len(some), step), steps)


def everything(table: EmbeddingTable) -> dict[int, bytes]:
    ids, rows = table.page(0, table.end_row, with_slots=True)
    return {int(one): row.tobytes() for one, row in zip(ids, rows, strict=True)}


@dataclass
class Written:
    """A snapshot after it was read, page by page."""

    ids: np.ndarray
    values: np.ndarray
    last_updates: np.ndarray
    gone: np.ndarray
    candidates: Candidates | None
    base: int


def write(table: EmbeddingTable, snapshot: TableSnapshot, base: int, page: int) -> Written:
    pages = [
        table.read_snapshot(snapshot, first, page)
        for first in range(0, snapshot.num_positions, page)
    ]
    ids = np.concatenate([np.zeros(0, np.int64), *(one.ids for one in pages)])
    values = np.concatenate([np.zeros((0, 2 * DIM), np.float32), *(one.values for one in pages)])
    lasts = [one.last_updates for one in pages if one.last_updates is not None]
    last_updates = np.concatenate([np.zeros(0, np.int64), *lasts])
    if not lasts:
        last_updates = np.zeros(len(ids), np.int64)
    table.end_snapshot(snapshot)
    return Written(ids, values, last_updates, snapshot.gone(), snapshot.candidates, base)


def restored(rules: LifetimeRules, written: dict[int, Written], number: int) -> EmbeddingTable:
    table = new_table(rules)
    chain = [written[number]]
    while chain[0].base:
        chain.insert(0, written[chain[0].base])
    for one in chain:
        table.restore_without(one.gone)
        vectors = [one.values[:, :DIM], one.values[:, DIM:]]
        table.restore(one.ids, vectors, one.last_updates, groups_of(one.ids))
    table.end_restore()
    candidates = chain[-1].candidates
    if candidates is not None:
        table.restore_candidates(candidates, groups_of(candidates.ids))
    return table


@settings(max_examples=150, deadline=None)
@given(
    rules=st.sampled_from(RULES),
    actions=actions,
    after=st.lists(st.lists(st.integers(-5, 30), max_size=9, unique=True), max_size=8),
    page=st.integers(1, 9),
)
def test_what_is_restored_is_the_table_of_that_moment_and_trains_on_as_it_would_have(
    rules: LifetimeRules, actions: list[tuple[str, object]], after: list[list[int]], page: int
) -> None:
    table = new_table(rules)
    written: dict[int, Written] = {}
    moments: dict[int, dict[int, bytes]] = {}
    pushed_after: dict[int, list[tuple[list[int], int]]] = {}
    begun: tuple[int, int, TableSnapshot] | None = None
    number, step = 0, 0
    for what, argument in [*actions, *(("push", ids) for ids in after)]:
        if what == "push":
            step += 1
            push(table, argument, step)  # type: ignore[arg-type]
            for pushes in pushed_after.values():
                pushes.append((argument, step))  # type: ignore[arg-type]
        elif what == "pin":
            table.pin()
        else:
            if begun is not None:  # written only now: pushes went on meanwhile
                written[begun[0]] = write(table, begun[2], begun[1], page)
            number += 1
            base = max(written, default=0) if argument == "increment" else 0
            begun = number, base, table.begin_snapshot(number, base)
            if argument == "abandoned":
                begun = None
                continue
            moments[number], pushed_after[number] = everything(table), []
    if begun is not None:
        written[begun[0]] = write(table, begun[2], begun[1], page)
    for each in written:
        copy = restored(rules, written, each)
        assert everything(copy) == moments[each]
        for ids, at in pushed_after[each]:
            push(copy, ids, at)
        assert everything(copy) == everything(table)
        assert copy.num_candidates == table.num_candidates


def test_an_increment_holds_what_changed_and_what_went_and_nothing_else() -> None:
    table = new_table(LifetimeRules(max_rows=4 * GROUPS))
    push(table, [1, 2, 3], 1)
    table.begin_snapshot(1)
    push(table, [2], 2)
    second = write(table, table.begin_snapshot(2, base=1), 1, 10)
    assert second.ids.tolist() == [2]
    assert second.gone.tolist() == []
    push(table, list(range(10, 40)), 3)
    third = write(table, table.begin_snapshot(3, base=2), 2, 10)
    assert set(third.gone.tolist()) == {1, 2, 3} - set(everything(table))
    assert set(third.ids.tolist()) == set(everything(table)) - {1, 2, 3}


def test_what_changed_is_unknown_once_the_log_of_what_went_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(change_marks, "_SMALLEST_LOG", 50)
    table = new_table(LifetimeRules(evict_after_steps=1))
    assert not table.knows_changes_since(1), "no such snapshot was begun"
    table.begin_snapshot(1)
    for step in range(1, 20):
        push(table, list(range(10 * step, 10 * step + 10)), step)
    assert not table.knows_changes_since(1)
    table.begin_snapshot(2)
    push(table, [1, 2], 20)
    assert table.knows_changes_since(2)
