"""Initial rows: the distributions, and that they depend on seed, id and column alone."""

from __future__ import annotations

import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.ps import kernels
from elasticdl.ps.initializers import RowInitializer

MASK = (1 << 64) - 1
KINDS = [
    RowInitializer("zeros"),
    RowInitializer("constant", a=0.25),
    RowInitializer("uniform", seed=3, a=-0.05, b=0.1),
    RowInitializer("normal", seed=3, a=1.0, b=2.0),
    RowInitializer("truncated_normal", seed=3, a=1.0, b=2.0),
]
any_id = st.integers(-(1 << 63), (1 << 63) - 1)


def splitmix64(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def reference_element(initializer: RowInitializer, key: int, column: int) -> float:
    row_hash = splitmix64((key & MASK) ^ splitmix64(initializer.seed & MASK))
    u = ((splitmix64((row_hash + column) & MASK) >> 11) + 0.5) * 2.0**-53
    a, b, normal = initializer.a, initializer.b, NormalDist()
    if initializer.kind == "uniform":
        return a + (b - a) * u
    if initializer.kind == "normal":
        return a + b * normal.inv_cdf(u)
    if initializer.kind == "truncated_normal":
        tail = normal.cdf(-2)
        return a + b * normal.inv_cdf(tail + u * (1 - 2 * tail))
    return a


@pytest.mark.parametrize("initializer", KINDS, ids=lambda item: item.kind)
@settings(max_examples=30, deadline=None)
@given(ids=st.lists(any_id, min_size=1, max_size=5), dim=st.integers(1, 6))
def test_rows_are_what_the_formula_says(
    initializer: RowInitializer, ids: list[int], dim: int
) -> None:
    expected = [[reference_element(initializer, key, j) for j in range(dim)] for key in ids]
    rows = initializer.rows(np.array(ids, np.int64), dim)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.array(expected, np.float32), rtol=1e-7, atol=0)


def test_splitmix64_is_the_published_one() -> None:
    # The generator's first outputs from state 1234567, as its author's C code prints them.
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    states = [(1234567 + i * 0x9E3779B97F4A7C15) & MASK for i in range(3)]
    assert [splitmix64(state) for state in states] == outputs
    groups = np.empty(3, np.int32)
    ids = np.array(states, np.uint64).view(np.int64)
    kernels.hash_to_groups(ids, np.uint64(1009), groups)
    assert groups.tolist() == [output % 1009 for output in outputs]


@pytest.mark.parametrize("initializer", KINDS, ids=lambda item: item.kind)
def test_rows_do_not_depend_on_neighbours_or_on_the_process(initializer: RowInitializer) -> None:
    ids = np.array([5, -7, 1 << 62, 0, 5])
    rows = initializer.rows(ids, 8)
    np.testing.assert_array_equal(initializer.rows(ids[::-1], 3), rows[::-1, :3])
    np.testing.assert_array_equal(rows[0], rows[4])
    code = (
        "import numpy as np; from elasticdl.ps.initializers import RowInitializer\n"
        f"print({initializer!r}.rows(np.array({ids.tolist()}), 8).tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == rows.tobytes().hex()


def test_seeds_give_other_rows() -> None:
    ids = np.arange(50)
    kinds = [RowInitializer("uniform", seed, 0, 1).rows(ids, 4) for seed in (0, 1, -1, 1 << 63)]
    for i in range(len(kinds)):
        for j in range(i):
            assert (kinds[i] != kinds[j]).all()


def test_uniform_values_are_uniform() -> None:
    values = RowInitializer("uniform", seed=1, a=-2, b=3).rows(np.arange(20_000), 10).ravel()
    assert values.min() >= -2
    assert values.max() <= 3
    counts, _ = np.histogram(values, bins=50, range=(-2, 3))
    chi_square = ((counts - len(values) / 50) ** 2 / (len(values) / 50)).sum()
    assert chi_square < 49 + 5 * np.sqrt(2 * 49)
    by_column = values.reshape(-1, 10)
    correlation = np.corrcoef(by_column.T) - np.eye(10)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(by_column))


@pytest.mark.parametrize("kind", ["normal", "truncated_normal"])
def test_normal_values_are_normal(kind: str) -> None:
    values = RowInitializer(kind, seed=1, a=1, b=0.5).rows(np.arange(20_000), 10).ravel()
    scaled = np.sort((values.astype(float) - 1) / 0.5)
    tail = NormalDist().cdf(-2) if kind == "truncated_normal" else 0.0
    cumulative = np.array([NormalDist().cdf(x) for x in scaled[::20]])
    expected = (cumulative - tail) / (1 - 2 * tail)
    observed = np.arange(len(scaled))[::20] / len(scaled)
    assert np.abs(expected - observed).max() < 1.95 / np.sqrt(len(scaled))  # Kolmogorov, 0.1 %
    if kind == "truncated_normal":
        assert np.abs(scaled).max() <= 2 + 1e-6
    else:
        assert np.abs(scaled).max() > 3


def test_ndtri_is_the_inverse_of_the_normal_distribution() -> None:
    points = np.concatenate(
        [
            np.linspace(1e-6, 1 - 1e-6, 999),
            10.0 ** -np.arange(1, 300, 7),
            1 - 2.0 ** -np.arange(2, 53),
        ]
    )
    for p in points.tolist():
        expected = NormalDist().inv_cdf(p)
        assert kernels.ndtri(p) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    for p, x in [(0.5, 0.0), (0.975, 1.959963984540054), (0.1, -1.2815515655446004)]:
        assert kernels.ndtri(p) == pytest.approx(x, rel=1e-12, abs=1e-12)


def test_no_rows_and_wrong_ids() -> None:
    for initializer in KINDS:
        assert initializer.rows(np.zeros(0, np.int64), 3).shape == (0, 3)
    with pytest.raises(ValueError, match="ids"):
        KINDS[2].rows(np.zeros(2, np.int32), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "glorot"}, "initializer 'glorot': unknown; known: zeros, "),
        ({"kind": "normal", "b": float("nan")}, "must be finite"),
        ({"kind": "uniform", "a": float("-inf")}, "must be finite"),
    ],
)
def test_an_initializer_that_makes_no_sense_is_refused(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RowInitializer(**arguments)  # type: ignore[arg-type]
