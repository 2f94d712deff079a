"""Routing: groups of ids, and ids deduplicated by partition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps.routing import deduplicate, group_of
from elasticdl.ps.routing_table import RoutingTable

id_lists = st.lists(
    st.one_of(st.integers(-5, 20), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=200
).map(lambda values: np.array(values, np.int64))
routing_tables = st.tuples(st.integers(1, 70), st.integers(1, 8)).map(
    lambda sizes: RoutingTable.initial(max(sizes), sizes[1])
)


def check(ids: np.ndarray, table: RoutingTable) -> None:
    unique, inverse, offsets = deduplicate(ids, table.partition_of_group)
    assert [part.dtype.name for part in (unique, inverse, offsets)] == ["int64", "int32", "int64"]
    np.testing.assert_array_equal(unique[inverse], ids)
    np.testing.assert_array_equal(np.sort(unique), np.unique(ids))
    assert len(offsets) == table.num_partitions + 1
    assert (offsets[0], offsets[-1]) == (0, len(unique))
    partitions = table.partition_of_group[group_of(unique, table.num_groups)]
    np.testing.assert_array_equal(
        partitions, np.repeat(np.arange(table.num_partitions), np.diff(offsets))
    )


@settings(max_examples=50, deadline=None)
@given(ids=id_lists, table=routing_tables)
def test_deduplicated_ids_are_all_ids_once_sorted_by_partition(
    ids: np.ndarray, table: RoutingTable
) -> None:
    check(ids, table)


@pytest.mark.parametrize("count", [0, 1, 16, 17, 100_000])
@pytest.mark.parametrize("num_partitions", [1, 3])
def test_any_number_of_ids_is_deduplicated(count: int, num_partitions: int) -> None:
    rng = np.random.default_rng(count)
    table = RoutingTable.initial(64, num_partitions)
    check(rng.integers(0, max(1, count // 3), count), table)
    check(rng.integers(-(1 << 63), 1 << 63, count), table)


def test_ids_are_in_the_order_of_their_first_occurrence_within_a_partition() -> None:
    unique, inverse, offsets = deduplicate(np.array([7, -1, 7, 0, -1]), np.zeros(64, np.int32))
    assert unique.tolist() == [7, -1, 0]
    assert inverse.tolist() == [0, 1, 0, 2, 1]
    assert offsets.tolist() == [0, 3]


@settings(max_examples=20, deadline=None)
@given(num_groups=st.integers(1, 500))
def test_groups_are_in_range_and_even(num_groups: int) -> None:
    groups = group_of(np.arange(-5000, 5000), num_groups)
    counts = np.bincount(groups, minlength=num_groups)
    assert len(counts) == num_groups
    expected = 10_000 / num_groups
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected) + 1


def test_the_group_of_an_id_never_changes() -> None:
    # Groups are written into checkpoints: these values are part of the format.
    ids = np.array([0, 1, -1, 1 << 62, -(1 << 63)])
    assert group_of(ids, 64).tolist() == [47, 1, 32, 43, 27]


@settings(max_examples=30, deadline=None)
@given(num_groups=st.integers(1, 300), data=st.data())
def test_the_initial_table_gives_every_partition_its_share(
    num_groups: int, data: st.DataObject
) -> None:
    num_partitions = data.draw(st.integers(1, num_groups))
    table = RoutingTable.initial(num_groups, num_partitions)
    assert (table.version, table.num_groups, table.num_partitions) == (
        0,
        num_groups,
        num_partitions,
    )
    held = [table.groups_of(partition) for partition in range(num_partitions)]
    assert sorted(np.concatenate(held).tolist()) == list(range(num_groups))
    sizes = [len(groups) for groups in held]
    assert max(sizes) - min(sizes) <= 1


def test_a_routing_table_cannot_be_changed() -> None:
    groups = np.array([0, 1], np.int32)
    table = RoutingTable(1, groups)
    groups[0] = 1
    assert table.partition_of_group.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        table.partition_of_group[0] = 1


def test_what_cannot_be_routed_is_refused() -> None:
    for groups in (np.zeros(0, np.int32), np.array([-1], np.int32), np.zeros(2, np.int64)):
        with pytest.raises(ValueError, match="partition_of_group"):
            RoutingTable(0, groups)
        with pytest.raises(ValueError, match="partition_of_group"):
            deduplicate(np.arange(3), groups)
    for sizes in ((2, 3), (2, 0)):
        with pytest.raises(ValueError, match="partitions for"):
            RoutingTable.initial(*sizes)
    with pytest.raises(ValueError, match="ids"):
        deduplicate(np.zeros(3), np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="num_groups"):
        group_of(np.arange(3), 0)
