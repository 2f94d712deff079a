"""Workers of a machine share its GPUs."""

from __future__ import annotations

import pytest

from elasticdl.worker.devices import gpu_of_worker


@pytest.mark.parametrize(
    ("choice", "num_gpus", "expected"),
    [
        ("auto", 0, [None, None, None, None, None]),
        ("auto", 1, [0, 0, 0, 0, 0]),
        ("auto", 2, [0, 1, 0, 1, 0]),
        ("auto", 8, [0, 1, 2, 3, 4]),
        ("cpu", 8, [None, None, None, None, None]),
    ],
)
def test_workers_take_turns(choice: str, num_gpus: int, expected: list[int | None]) -> None:
    assert [gpu_of_worker(choice, index, num_gpus) for index in range(5)] == expected
