"""The comparison of elastic jobs with fixed ones: its schedule, its table, a short form of it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from benchmarks import elastic_quality
from benchmarks.elastic_quality import Run, Settings, draw_changes, table, verdict

SETTINGS = Settings("deepfm", 1000, 10_000, 1, 3, 2, 4, 2, 256, 6, ("async", "sync"))


def run(auc: float, killed: int = 0) -> Run:
    return Run(auc, killed, 0, killed, 1000, 10.0, [])


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_is_of_its_seed_and_has_workers_join_leave_and_die_within_bounds(seed):
    changes = draw_changes(seed, SETTINGS)
    assert changes == draw_changes(seed, SETTINGS) != draw_changes(seed + 1, SETTINGS)
    assert [one.share for one in changes] == sorted(one.share for one in changes)
    assert changes[0].share > 0
    assert changes[-1].share < 1
    numbers = [one.num_workers for one in changes if one.num_workers is not None]
    assert len(changes) - len(numbers) == 3, "kills"
    assert numbers[0] == 4
    assert set(numbers) <= {2, 3, 4}
    assert min(numbers) < 4, "somebody leaves"
    assert all(a != b for a, b in itertools.pairwise(numbers))


def test_means_within_a_thousandth_are_equal_and_others_are_held_against_the_seeds_noise():
    usual = [0.800, 0.802, 0.804]
    assert verdict([0.8005, 0.8025, 0.8045], usual, 10_000) == "equal within 0.001"
    assert verdict([0.798, 0.801, 0.800], usual, 10_000).startswith("within the noise of seeds")
    assert verdict([0.700, 0.702, 0.704], usual, 10_000).startswith("worse")
    assert verdict([0.70], [0.71], 10_000).endswith("one seed shows no noise")


def test_the_table_has_a_line_for_each_way_and_mode_with_all_seeds():
    ways = {
        "fixed 2": [run(0.800), run(0.802), run(0.804)],
        "fixed 4": [run(0.8005), run(0.8025), run(0.8045)],
        "elastic 2 to 4": [run(0.800, 3), run(0.802, 2), run(0.804, 1)],
    }
    head, rule, *lines = table(SETTINGS, {"async": ways, "sync": ways}).splitlines()
    assert cells(head)[:5] == ["mode", "workers", "seed 0", "seed 1", "seed 2"]
    assert {len(cells(line)) for line in (head, rule, *lines)} == {13}
    assert [tuple(cells(line)[:2]) for line in lines] == [
        (mode, way) for mode in ("async", "sync") for way in ways
    ]
    assert cells(lines[2])[2:] == [
        *("0.8000", "0.8020", "0.8040", "0.8020", "0.0020", "+0.0000"),
        *("6", "0", "6", "3,000", "equal within 0.001"),
    ]
    one_seed = replace(SETTINGS, seeds=1)
    alone = {way: runs[:1] for way, runs in ways.items()}
    assert "0.0020" not in table(one_seed, {"sync": alone})


# Three jobs, nearly all of whose time is that of starting processes.
@pytest.mark.timeout(900)
def test_in_sync_mode_an_elastic_job_gets_the_auc_of_fixed_ones_and_counts_every_record_once(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("benchmarks.workloads.DATA", tmp_path)
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    words = ["--records=4000", "--test_records=1000", "--epochs=4", "--seeds=1", "--changes=4"]
    words += ["--least=1", "--most=2", "--consistency=sync", f"--json={tmp_path}/figures.json"]
    assert elastic_quality.main(words) == 0
    printed = capsys.readouterr()
    assert "[3/3] sync, elastic 1 to 2, seed 0: auc " in printed.err
    lines = [line for line in printed.out.splitlines() if line.startswith("| sync")]
    assert [cells(line)[1] for line in lines] == ["fixed 1", "fixed 2", "elastic 1 to 2"]
    figures = json.loads((tmp_path / "figures.json").read_text())
    runs = {way: one for way, (one,) in figures["runs"]["sync"].items()}
    assert {one["records"] for one in runs.values()} == {4 * 4000}
    assert len({one["auc"] for one in runs.values()}) == 1
    assert runs["elastic 1 to 2"]["joined"] > 0
    assert runs["elastic 1 to 2"]["story"]
    assert figures["verdicts"]["sync"]["elastic 1 to 2"] == "equal within 0.001"
