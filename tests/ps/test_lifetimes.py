"""Admission by count, eviction by age and by capacity: against a model that is a dictionary."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps import kernels
from elasticdl.ps.admission import Admission
from elasticdl.ps.embedding_table import EmbeddingTable, TableFullError
from elasticdl.ps.id_index import IdIndex
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules
from elasticdl.ps.lifetimes import GroupSteps
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.routing import group_of

GROUPS = 4
DIM = 2
RATE = 0.5
INITIALIZER = RowInitializer("uniform", seed=3, a=-1.0, b=1.0)
SGD = OptimizerConfig("sgd", learning_rate=RATE)


def new_table(rules: LifetimeRules, optimizer: OptimizerConfig = SGD) -> EmbeddingTable:
    return EmbeddingTable("t", DIM, optimizer, INITIALIZER, 1 << 40, rules, GROUPS, GROUPS)


class Groups:
    """How often each group was updated."""

    def __init__(self) -> None:
        self.iterations = np.zeros(GROUPS, np.int64)

    def steps(self, ids: np.ndarray, applied: np.ndarray | None = None) -> GroupSteps:
        applied = np.ones(GROUPS, bool) if applied is None else applied
        self.iterations = self.iterations + applied
        return GroupSteps(group_of(ids, GROUPS).astype(np.int64), self.iterations, applied)


def push(table: EmbeddingTable, groups: Groups, ids, gradient: float = 1.0, applied=None) -> None:
    ids = np.asarray(ids, np.int64)
    steps = groups.steps(ids, applied)
    gradients = np.full((len(ids), DIM), gradient, np.float32)
    table.apply(ids, gradients, RATE, steps.iterations[steps.groups], steps)


class Reference:
    """The rules, said as simply as can be: one group at a time, one id at a time."""

    def __init__(self, rules: LifetimeRules) -> None:
        self.rules = rules
        self.quota = rules.max_rows // GROUPS if rules.max_rows else 1 << 60
        self.rows: list[OrderedDict[int, list]] = [OrderedDict() for _ in range(GROUPS)]
        self.seen: list[dict[int, list]] = [{} for _ in range(GROUPS)]
        self.unadmitted = [0] * GROUPS
        self.evicted = [0] * GROUPS

    def push(self, ids: list[int], gradient: float, iterations, applied) -> None:
        for group in np.flatnonzero(applied):
            mine = sorted(i for i in ids if group_of(np.array([i]), GROUPS)[0] == group)
            self._push(int(group), mine, gradient, int(iterations[group]))

    def _push(self, group: int, ids: list[int], gradient: float, now: int) -> None:
        rows, seen = self.rows[group], self.seen[group]
        horizon = now - self.rules.evict_after_steps if self.rules.evict_after_steps else -1
        for each in [i for i in seen if i not in ids and seen[i][1] <= horizon]:
            del seen[each]
        wanted = []
        for each in ids:
            if each not in rows and self.rules.admission_count > 1:
                count = seen.pop(each, [0, 0])[0] + 1
                if count < self.rules.admission_count:
                    seen[each] = [count, now]
                    self.unadmitted[group] += 1
                    continue
            wanted.append(each)
        for each in [i for i in rows if i not in wanted and rows[i][1] <= horizon]:
            del rows[each]
            self.evicted[group] += 1
        kept = [i for i in wanted if i in rows]
        for each in [i for i in wanted if i not in rows]:
            if len(rows) >= self.quota:
                old = [i for i in rows if i not in kept]
                if not old:
                    self.unadmitted[group] += 1
                    continue
                del rows[min(old, key=lambda i: (rows[i][1], i))]
                self.evicted[group] += 1
            rows[each] = [INITIALIZER.rows(np.array([each]), DIM)[0], 0]
            kept.append(each)
        for each in kept:
            rows[each] = [rows[each][0] - np.float32(RATE) * np.float32(gradient), now]


RULES = st.builds(
    LifetimeRules,
    admission_count=st.integers(1, 3),
    max_rows=st.sampled_from([0, GROUPS, 2 * GROUPS, 5 * GROUPS]),
    evict_after_steps=st.integers(0, 4),
).filter(lambda rules: rules.are_any)
PUSHES = st.lists(
    st.tuples(
        st.lists(st.integers(-12, 12), unique=True, max_size=14),
        st.lists(st.booleans(), min_size=GROUPS, max_size=GROUPS),
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(rules=RULES, pushes=PUSHES, pinned_at=st.integers(0, 14))
def test_a_table_keeps_the_rows_a_dictionary_keeps(rules, pushes, pinned_at) -> None:
    table, groups, reference = new_table(rules), Groups(), Reference(rules)
    every = np.arange(-12, 13)
    pinned = None
    for number, (ids, applied_by) in enumerate(pushes):
        if number == pinned_at:
            table.pin()
            pinned = table.lookup(every)
        applied = np.array(applied_by)
        ids = np.array([i for i in ids if applied[group_of(np.array([i]), GROUPS)[0]]], np.int64)
        push(table, groups, ids, number + 1, applied)
        reference.push(ids.tolist(), number + 1, groups.iterations, applied)
        expected = {i: row[0] for rows in reference.rows for i, row in rows.items()}
        found, values = table.page(0, 1000)
        assert len(found) == len(table) == len(expected)
        for key, value in zip(found.tolist(), values, strict=True):
            np.testing.assert_allclose(value, expected[key], atol=1e-5)
        initial = INITIALIZER.rows(every, DIM)
        for key, value, start in zip(every.tolist(), table.lookup(every), initial, strict=True):
            np.testing.assert_allclose(value, expected.get(key, start), atol=1e-5)
        assert table.unadmitted.tolist() == reference.unadmitted
        assert table.evicted.tolist() == reference.evicted
        assert table.num_candidates == sum(map(len, reference.seen))
        if pinned is not None:
            np.testing.assert_array_equal(table.pinned_lookup(every), pinned)


@settings(max_examples=40, deadline=None)
@given(rules=RULES, pushes=PUSHES, order=st.randoms(use_true_random=False))
def test_the_order_of_ids_in_a_push_changes_nothing(rules, pushes, order) -> None:
    one, other, groups, same = new_table(rules), new_table(rules), Groups(), Groups()
    for ids, _ in pushes:
        push(one, groups, ids)
        order.shuffle(ids)
        push(other, same, ids)
    for table in (one, other):
        assert len(table) == len(one)
    sorted_pages = [
        (np.sort(ids), values[np.argsort(ids)])
        for ids, values in (one.page(0, 1000), other.page(0, 1000))
    ]
    np.testing.assert_array_equal(sorted_pages[0][0], sorted_pages[1][0])
    np.testing.assert_array_equal(sorted_pages[0][1], sorted_pages[1][1])


def test_a_pull_counts_for_nothing() -> None:
    table, groups = new_table(LifetimeRules(admission_count=2, evict_after_steps=3)), Groups()
    push(table, groups, [1])
    for _ in range(10):
        np.testing.assert_array_equal(
            table.lookup(np.array([1, 2])), INITIALIZER.rows(np.array([1, 2]), DIM)
        )
    assert (len(table), table.num_candidates) == (0, 1)
    push(table, groups, [1])
    assert (len(table), table.num_candidates) == (1, 0)


def test_an_evicted_id_starts_anew_with_initial_weights_and_slots() -> None:
    adagrad = OptimizerConfig("adagrad", learning_rate=RATE)
    table, groups = new_table(LifetimeRules(evict_after_steps=2), adagrad), Groups()
    push(table, groups, [5])
    once = table.page(0, 10, with_slots=True)[1].copy()
    push(table, groups, [5])
    for _ in range(2):
        assert len(table) == 1
        push(table, groups, [])
    assert len(table) == 0
    push(table, groups, [5])
    np.testing.assert_array_equal(table.page(0, 10, with_slots=True)[1], once)
    assert table.evicted.sum() == 1


def test_rows_of_evicted_ids_are_used_again() -> None:
    table, groups = new_table(LifetimeRules(max_rows=40 * GROUPS)), Groups()
    for start in range(0, 20_000, 100):
        push(table, groups, np.arange(start, start + 100))
    assert len(table) == 40 * GROUPS
    assert table.end_row < 2 * 40 * GROUPS + 100
    newest = np.sort(table.page(0, 1000)[0])
    assert newest.min() >= 20_000 - 400


def test_loaded_rows_live_by_the_same_rules_and_loading_again_changes_nothing() -> None:
    table, groups = new_table(LifetimeRules(max_rows=4 * GROUPS, evict_after_steps=2)), Groups()
    ids = np.arange(8)
    of_ids = group_of(ids, GROUPS).astype(np.int64)
    for _ in range(2):
        table.load(ids, np.ones((8, DIM), np.float32), groups=of_ids)
        assert len(table) == 8
    push(table, groups, [3])
    push(table, groups, [])
    assert table.page(0, 100)[0].tolist() == [3]
    too_many = np.arange(1000)
    with pytest.raises(TableFullError, match="share of max_rows"):
        table.load(
            too_many,
            np.ones((1000, DIM), np.float32),
            groups=group_of(too_many, GROUPS).astype(np.int64),
        )
    assert len(table) == 1


def test_what_waits_for_admission_is_bounded_and_the_oldest_is_forgotten() -> None:
    groups = Groups()
    admission = Admission(3, 0, GROUPS, quota=10)
    for start in range(0, 5000, 20):
        ids = np.arange(start, start + 20)
        admission.reserve(20)
        assert not admission.see(ids, groups.steps(ids)).any()
        assert len(admission) <= 10 * GROUPS
    for ids, admitted in ((np.arange(4980, 5000), 20), (np.arange(10), 0)):
        admission.reserve(20)
        assert not admission.see(ids, groups.steps(ids)).any()
        assert admission.see(ids, groups.steps(ids)).sum() == admitted
    assert admission.num_bytes < 1 << 18


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.lists(st.integers(-40, 40), max_size=30, unique=True)),
        max_size=20,
    ),
    st.integers(0, 2**64 - 1),
)
def test_the_index_forgets_ids_and_finds_all_others(changes, seed) -> None:
    index, reference = IdIndex(seed), dict[int, int]()
    row_ids = np.empty(10_000, np.int64)
    next_row = 0
    for adds, ids in changes:
        ids = np.array(ids, np.int64)
        if adds:
            index.reserve(len(reference) + len(ids))
            rows, next_row = index.insert(ids, next_row, row_ids)
            reference.update(zip(ids.tolist(), rows.tolist(), strict=True))
        else:
            index.remove(ids)
            for key in ids.tolist():
                reference.pop(key, None)
        every = np.arange(-45, 45)
        np.testing.assert_array_equal(
            index.find(every)[0], [reference.get(key, -1) for key in every.tolist()]
        )


def test_a_crowded_index_stays_whole_while_ids_come_and_go() -> None:
    index = IdIndex(seed=1)
    rng = np.random.default_rng(0)
    alive: dict[int, int] = {}
    index.reserve(int(kernels.SEGMENT_SLOTS * 0.75 / 2.5))
    row_ids = np.empty(1 << 20, np.int64)
    next_row = 0
    for _ in range(60):
        new = rng.integers(0, 1 << 62, 400)
        rows, next_row = index.insert(new, next_row, row_ids)
        alive.update(zip(new.tolist(), rows.tolist(), strict=True))
        gone = rng.choice(np.array(list(alive), np.int64), max(0, len(alive) - 2800), replace=False)
        index.remove(gone)
        for key in gone.tolist():
            del alive[key]
    keys = np.array(list(alive), np.int64)
    np.testing.assert_array_equal(index.find(keys)[0], list(alive.values()))
    assert index.find(gone)[1] == len(gone)
