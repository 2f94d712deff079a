from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.wire.__main__ import DIRECTIONS, SIZES, SMALL_BYTES, Figures, parse


def test_the_short_form_measures_every_carrier_both_ways(tmp_path):
    report = tmp_path / "wire.json"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.wire", "--check", f"--json={report}"],
        check=True,
        timeout=240,
    )
    document = json.loads(report.read_text())
    assert set(document["results"]) == set(parse([]).kinds)
    for of_kind in document["results"].values():
        for direction in DIRECTIONS:
            of_direction = of_kind[direction]
            assert list(of_direction) == [str(size) for size in (SMALL_BYTES, *SIZES[:2])]
            for figures in of_direction.values():
                assert figures["gb_per_s"] > 0
                assert figures["client_cpu_us_per_mib"] > 0
                assert figures["of_tcp"] > 0
    assert document["results"]["tcp"]["pull"][str(SIZES[1])]["of_tcp"] == 1


def test_an_unknown_carrier_is_named(capsys):
    with pytest.raises(SystemExit):
        parse(["--only=tcp,pigeon"])
    assert "there is no 'pigeon'" in capsys.readouterr().err


def test_figures_are_per_mib_and_per_second():
    described = Figures(seconds=0.5, client_cpu=0.25, server_cpu=0.125).described(2 << 20)
    assert described["us"] == 500_000
    assert described["gb_per_s"] == pytest.approx(2 * 1.048576e-3 / 0.5)
    assert described["client_cpu_us_per_mib"] == 125_000
    assert described["server_cpu_us_per_mib"] == 62_500
