"""The suite of benchmarks: one file of figures, pictures of it, and what moved between two."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, suite
from benchmarks.figures import Figure

PEERS = {
    "contestants": {
        "ours_async_1": {"samples_per_s": 50_000.0, "cpu_seconds_per_million": {"worker": 17.0}},
        "fit": {"samples_per_s": 20_000.0, "cpu_seconds_per_million": {"fit": 50.0}},
    },
    "ratios": [{"text": "async / Keras 3 fit", "median": 2.5, "target": 3.5}],
}


def result() -> dict[str, Any]:
    pause = Figure("longest pause", 20.0, "ms", at_most=50.0)
    return {
        "machine": {"cpu": "Some CPU(R) 7", "cores": 2},
        "benchmarks": {
            "peers": {"figures": suite.figures_of(PEERS)},
            "kernels": {"figures": suite.figures_of({"figures": {pause.name: pause.as_dict()}})},
        },
    }


def test_figures_of_peers_are_speeds_processor_time_and_ratios_with_their_targets() -> None:
    found = suite.figures_of(PEERS)
    assert found["ours_async_1"]["value"] == 50_000
    assert found["ours_async_1, worker"]["less_is_better"]
    assert found["async / Keras 3 fit"]["at_least"] == 3.5
    assert not found["async / Keras 3 fit"]["is_met"]


def test_pictures_show_every_speed_and_every_target() -> None:
    drawn = suite.pictures(result())
    assert set(drawn) == {"peers.svg", "targets.svg"}
    bars = {
        name: [one for one in ElementTree.fromstring(text).iter() if one.get("class") == "bar"]
        for name, text in drawn.items()
    }
    assert [len(bars["peers.svg"]), len(bars["targets.svg"])] == [2, 2]
    ours, fit = (float(one.attrib["width"]) for one in bars["peers.svg"])
    assert ours == pytest.approx(2.5 * fit, rel=0.01)


def test_what_became_worse_is_named_first_and_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = result(), copy.deepcopy(result())
    figures = after["benchmarks"]["kernels"]["figures"]["longest pause"]
    figures.update(value=60.0, is_met=False)
    after["benchmarks"]["peers"]["figures"]["fit"]["value"] = 40_000.0
    worst, *_, best = compare.moves(before, after)
    assert (worst.name, worst.is_lost) == ("kernels: longest pause", True)
    assert worst.gain == pytest.approx(1 / 3)
    assert (best.name, best.gain) == ("peers: fit", 2.0)
    paths = []
    for name, each in (("before", before), ("after", after)):
        paths.append(str(tmp_path / name))
        Path(paths[-1]).write_text(json.dumps(each))
    assert compare.main(paths) == 1
    assert compare.main([paths[0], paths[0]]) == 0
    shown = capsys.readouterr().out
    assert "target lost" in shown
    assert "2 of 6 figures moved" in shown


def test_between_different_machines_only_ratios_are_compared() -> None:
    other = copy.deepcopy(result())
    other["machine"]["cpu"] = "Another"
    assert [move.name for move in compare.moves(result(), other)] == ["peers: async / Keras 3 fit"]


def test_the_suite_runs_benchmarks_and_writes_one_file(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    words = ["--quick", "--only=kernels", f"--output={output}", f"--pictures={tmp_path}"]
    assert suite.main(words) == 0
    found = json.loads(output.read_text())
    assert "longest pause" in found["benchmarks"]["kernels"]["figures"]
    assert (tmp_path / "targets.svg").exists()
    assert suite.file_name("AMD EPYC(TM) 7B13") == "AMD-EPYC-7B13"
