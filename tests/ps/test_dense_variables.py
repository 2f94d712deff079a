"""Dense slices: how they are planned, and how they are updated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps.dense_variables import DenseSlices, SliceDefinition, plan_slices
from elasticdl.ps.optimizers import OptimizerConfig, apply_dense

variable_lists = st.lists(st.tuples(st.integers(0, 5000), st.booleans()), max_size=15).map(
    lambda items: [(f"v{i}", size, trainable) for i, (size, trainable) in enumerate(items)]
)
ADAM = OptimizerConfig("adam", learning_rate=0.1)
LAYOUT = [
    SliceDefinition("a", 0, 3, 0, True),
    SliceDefinition("b", 0, 2, 0, True),
    SliceDefinition("moving_mean", 0, 2, 0, False),
    SliceDefinition("a", 3, 4, 2, True),
    SliceDefinition("c", 0, 1, 5, True),
]
GROUP_OF_ELEMENT = np.array([0] * 7 + [2] * 4 + [5])
TRAINABLE = np.array([True] * 5 + [False] * 2 + [True] * 5)


@settings(max_examples=60, deadline=None)
@given(
    variables=variable_lists, num_groups=st.integers(1, 20), max_slice_bytes=st.integers(4, 9000)
)
def test_planned_slices_cover_every_element_once_and_are_even(
    variables: list[tuple[str, int, bool]], num_groups: int, max_slice_bytes: int
) -> None:
    slices = plan_slices(variables, num_groups, max_slice_bytes)
    assert slices == plan_slices(list(variables), num_groups, max_slice_bytes)
    positions = {name: position for position, (name, _, _) in enumerate(variables)}
    keys = [(item.group, positions[item.variable], item.offset) for item in slices]
    assert keys == sorted(keys)
    for name, size, trainable in variables:
        own = sorted((s for s in slices if s.variable == name), key=lambda s: s.offset)
        assert [s.offset for s in own] == [sum(t.length for t in own[:i]) for i in range(len(own))]
        assert sum(s.length for s in own) == size
        assert all(s.trainable == trainable for s in own)
    longest = max((s.length for s in slices), default=0)
    assert 4 * longest <= max_slice_bytes
    loads = np.bincount([s.group for s in slices], [s.length for s in slices], num_groups)
    assert len(loads) == num_groups
    assert loads.max() - loads.min() <= longest  # each slice went to the lightest group


def test_a_plan_that_makes_no_sense_is_refused() -> None:
    for arguments in (
        ([("a", 1, True), ("a", 2, True)], 4),
        ([("a", -1, True)], 4),
        ([("a", 1, True)], 0),
        ([("a", 1, True)], 4, 3),
    ):
        with pytest.raises(ValueError, match=r"variable|groups"):
            plan_slices(*arguments)


def new_slices() -> DenseSlices:
    slices = DenseSlices(LAYOUT, ADAM)
    slices.load(np.arange(12, dtype=np.float32))
    return slices


@settings(max_examples=40, deadline=None)
@given(
    rounds=st.lists(
        st.tuples(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 2**32 - 1)),
        max_size=5,
    )
)
def test_each_group_is_updated_as_if_it_were_alone(rounds: list[tuple[list[bool], int]]) -> None:
    slices = new_slices()
    iterations = np.zeros(6, np.int64)
    alone = {
        group: (slices.values()[group == GROUP_OF_ELEMENT], np.zeros((2, count), np.float32))
        for group, count in ((0, 7), (2, 4), (5, 1))
    }
    for mask, seed in rounds:
        apply_mask = np.array(mask)
        iterations += apply_mask
        gradients = np.random.default_rng(seed).normal(size=12).astype(np.float32)
        slices.apply(gradients, 0.1, iterations, apply_mask)
        for group, (weights, slots) in alone.items():
            if not apply_mask[group]:
                continue
            own = gradients[group == GROUP_OF_ELEMENT]
            count = int(TRAINABLE[group == GROUP_OF_ELEMENT].sum())
            state = weights[count:] + own[count:]
            apply_dense(
                ADAM,
                weights[:count],
                slots[:, :count],
                own[:count],
                0.1,
                int(iterations[group]),
            )
            weights[count:] = state
    for group, (weights, slots) in alone.items():
        own = group == GROUP_OF_ELEMENT
        np.testing.assert_array_equal(slices.values()[own], weights)
        np.testing.assert_array_equal(slices.slots()[:, own], slots)


@given(st.integers(1, 5), st.booleans())
def test_an_update_of_all_groups_at_once_is_that_of_each(rounds: int, decays: bool) -> None:
    optimizer = OptimizerConfig(name="adam", weight_decay=0.01 if decays else 0.0)
    layout = plan_slices([("a", 7, True), ("b", 5, True), ("mean", 6, False)], 4)
    one, other = (DenseSlices(layout, optimizer, {"b"}) for _ in range(2))
    rng = np.random.default_rng(rounds)
    for iteration in range(1, rounds + 1):
        gradients = rng.normal(size=one.size).astype(np.float32)
        one.apply_all(gradients, 0.1, iteration)
        for group in range(4):
            other.apply(gradients, 0.1, np.full(4, iteration, np.int64), np.arange(4) == group)
    np.testing.assert_array_equal(one.values(), other.values())
    np.testing.assert_array_equal(one.slots(), other.slots())


def test_model_state_takes_the_change_whatever_the_learning_rate() -> None:
    slices = new_slices()
    slices.apply(np.full(12, 0.5, np.float32), 0.0, np.ones(6, np.int64), np.ones(6, bool))
    np.testing.assert_array_equal(slices.values()[5:7], [5.5, 6.5])
    np.testing.assert_array_equal(slices.values()[:5], np.arange(5))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), momentum=st.sampled_from([0.5, 0.9, 0.99]))
def test_a_moving_average_stays_between_what_it_was_made_of_however_late_pushes_come(
    data: st.DataObject, momentum: float
) -> None:
    layout = [
        SliceDefinition("weights", 0, 2, 0, True),
        SliceDefinition("moving_variance", 0, 1, 0, False),
        SliceDefinition("total", 0, 1, 0, False),
    ]
    momenta = {"moving_variance": momentum}
    slices = DenseSlices(layout, OptimizerConfig("sgd", 0.1), momenta=momenta)
    slices.load(np.array([0, 0, 1, 0], np.float32))
    seen = [1.0]
    pulled: list[np.ndarray] = []
    for _ in range(data.draw(st.integers(1, 60))):
        pulled += [slices.values()] * data.draw(st.integers(0, 3))
        if not pulled:
            continue
        # A worker that stood still pushes what it computed with values of long ago.
        old = pulled.pop(data.draw(st.integers(0, len(pulled) - 1)))
        variance = data.draw(st.floats(2.0**-20, 2.0, width=32))
        seen.append(variance)
        new = np.float32(momentum) * old[2] + np.float32(1 - momentum) * np.float32(variance)
        gradients = np.array([0, 0, new - np.float32(momentum) * old[2], 1], np.float32)
        if data.draw(st.booleans()):
            slices.apply(gradients, 0.1, np.ones(1, np.int64), np.ones(1, bool))
        else:
            slices.apply_all(gradients, 0.1, 1)
        _, _, average, total = slices.values()
        assert min(seen) - 1e-6 <= average <= max(seen) + 1e-6
        assert total == len(seen) - 1


def test_values_and_slots_are_copies_that_load_gives_back() -> None:
    slices = new_slices()
    slices.apply(np.ones(12, np.float32), 0.1, np.ones(6, np.int64), np.ones(6, bool))
    values, slots = slices.values(), slices.slots()
    other = DenseSlices(LAYOUT, ADAM)
    other.load(values, slots)
    values[:], slots[:] = 0, 0
    np.testing.assert_array_equal(other.values(), slices.values())
    np.testing.assert_array_equal(other.slots(), slices.slots())
    assert slices.values().any()
    other.load(slices.values())
    assert not other.slots().any()


def test_a_partition_without_dense_slices_is_fine() -> None:
    slices = DenseSlices([], ADAM)
    slices.load(np.zeros(0, np.float32))
    slices.apply(np.zeros(0, np.float32), 0.1, np.ones(6, np.int64), np.ones(6, bool))
    assert (slices.size, slices.num_bytes, len(slices.values())) == (0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"gradients": np.ones(11, np.float32)},
        {"gradients": np.ones(12)},
        {"iterations": np.ones(6, np.int32)},
        {"iterations": np.ones(5, np.int64), "apply_mask": np.ones(5, bool)},
        {"apply_mask": np.ones(5, bool)},
        {"apply_mask": np.ones(6, np.int64)},
    ],
)
def test_an_update_that_does_not_fit_is_refused_before_anything_changes(
    change: dict[str, np.ndarray],
) -> None:
    slices = new_slices()
    arguments: dict[str, np.ndarray] = {
        "gradients": np.ones(12, np.float32),
        "iterations": np.ones(6, np.int64),
        "apply_mask": np.ones(6, bool),
    }
    arguments |= change
    with pytest.raises(ValueError, match=next(iter(change))):
        slices.apply(learning_rate=0.1, **arguments)
    with pytest.raises(ValueError, match="values"):
        slices.load(np.zeros(11, np.float32))
    with pytest.raises(ValueError, match="slots"):
        slices.load(np.zeros(12, np.float32), np.zeros((1, 12), np.float32))
    np.testing.assert_array_equal(slices.values(), np.arange(12))
    assert not slices.slots().any()
