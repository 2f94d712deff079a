"""Benchmarks of figures: each runs in its quick form, and says whether its targets are met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import checkpoint, kernels, leases, recordio
from benchmarks.figures import Figure, number_text


def test_a_figure_says_whether_it_is_what_it_has_to_be() -> None:
    assert Figure("speed", 3.0, at_least=3.0).is_met
    assert not Figure("speed", 2.9, at_least=3.0).is_met
    assert not Figure("pause", 51.0, "ms", at_most=50.0).is_met
    assert Figure("pause", 51.0, "ms").is_met
    assert Figure("pause", 51.0, "ms", at_most=50.0).as_dict()["less_is_better"]
    assert [number_text(value) for value in (0.123, 12.34, 12345.6)] == ["0.12", "12.3", "12,346"]


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (recordio.main, {"worker / tf.data, none", "worker / tf.data, gzip", "raw scan with CRC"}),
        (checkpoint.main, {"checkpoint / one process writes", "longest stall of a step"}),
        (kernels.main, {"find, of memory", "adam, of memory", "longest pause"}),
    ],
    ids=["recordio", "checkpoint", "kernels"],
)
def test_a_benchmark_prints_and_writes_its_figures(
    main: Callable[[list[str]], int],
    expected: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--quick", "--json=output/figures.json"]) == 0
    result = json.loads((tmp_path / "output" / "figures.json").read_text())
    assert expected <= set(result["figures"])
    assert all(each["value"] > 0 for name, each in result["figures"].items() if "stall" not in name)
    assert {"cpu", "cores", "versions"} <= set(result["machine"])
    shown = capsys.readouterr().out
    assert "target" in shown
    assert all(name in shown for name in expected)


def test_a_master_answers_workers_through_grpc_with_its_journal_on(tmp_path: Path) -> None:
    found = leases.measure(rounds=1, workers=20, mirror=str(tmp_path / "mirror"))
    figures = {each.name: each for each in found}
    assert figures["with a mirror"].value > 0
    assert figures["entries a put"].value >= 1
    assert figures["leases through gRPC, journal on disk"].value > 0
    assert figures["leases through gRPC, journal on disk"].at_least == 3000
    assert figures["without a journal"].value > 0
