import json
from pathlib import Path

import pytest

from benchmarks import quality
from benchmarks.quality import Comparison
from benchmarks.zoo import SIZES, workloads


def test_equal_models_are_the_same_and_unequal_ones_are_not():
    job = [0.90, 0.92, 0.91]
    assert Comparison("accuracy", job, [0.91, 0.90, 0.92], 1000).verdict == "same"
    assert Comparison("accuracy", job, [0.81, 0.80, 0.82], 1000).verdict == "better"
    assert Comparison("accuracy", job, [0.97, 0.98, 0.99], 1000).verdict == "worse"


def test_a_difference_counts_against_the_noise_of_both():
    quiet = Comparison("auc", [0.900, 0.901, 0.902], [0.910, 0.911, 0.912], 10_000)
    noisy = Comparison("auc", [0.88, 0.90, 0.92], [0.89, 0.91, 0.93], 10_000)
    assert quiet.difference == pytest.approx(noisy.difference)
    assert quiet.noise == pytest.approx(0.001)
    assert noisy.noise == pytest.approx(0.02)
    assert (quiet.verdict, noisy.verdict) == ("worse", "same")


def test_one_held_out_record_is_no_difference():
    flowers = Comparison("accuracy", [29 / 30] * 3, [28 / 30] * 3, 30)
    assert flowers.noise == 0
    assert flowers.verdict == "same"
    assert Comparison("accuracy", [29 / 30] * 3, [27 / 30] * 3, 30).verdict == "better"


def test_three_standard_errors_are_not_called_the_same_and_more_seeds_tell():
    # noise 0.01 and 3 seeds: a standard error of 0.00816, a limit of 0.0376
    assert Comparison("auc", [0.87, 0.88, 0.89], [0.89, 0.90, 0.91], 10_000).verdict == "same"
    assert Comparison("auc", [0.87, 0.88, 0.89], [0.90, 0.91, 0.92], 10_000).verdict == "unclear"
    six = Comparison("auc", [0.87, 0.88, 0.89] * 2, [0.90, 0.91, 0.92] * 2, 10_000)
    assert six.verdict == "worse"


def test_the_limit_is_students_99_percent_quantile():
    # scipy.stats.t.ppf(0.995, 4) = 4.6041, times 0.01 * sqrt(2 / 3)
    three = Comparison("auc", [0.89, 0.90, 0.91], [0.89, 0.90, 0.91], 1_000_000)
    assert three.limit == pytest.approx(4.604 * 0.01 * (2 / 3) ** 0.5)


@pytest.mark.parametrize("size", SIZES)
def test_every_model_of_the_zoo_is_compared(size):
    compared = {workload.model_def.partition(".")[0] for workload in workloads(size).values()}
    zoo = Path(__file__).parents[2] / "model_zoo"
    assert compared == {recipe.parent.name for recipe in zoo.glob("*/make_data.py")}


# Jobs of 120 flowers: nearly all their time is that of starting their processes.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("consistency", ["async", "sync"])
def test_a_job_on_two_workers_gets_what_model_fit_gets_on_iris(
    capsys, monkeypatch, tmp_path, consistency
):
    monkeypatch.setattr("benchmarks.workloads.DATA", tmp_path)
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    words = ["--only=iris", "--seeds=2", f"--consistency={consistency}", "--num_ps=1", "--json"]
    assert quality.main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["settings"] == {
        "size": "small",
        "seeds": 2,
        "num_workers": 2,
        "num_ps": 1,
        "consistencies": [consistency],
        "staleness": 1,
        "late": 0,
    }
    assert set(figures["models"]["iris"]) == {consistency}
    iris = figures["models"]["iris"][consistency]
    assert len(iris["job"]) == len(iris["fit"]) == 2
    assert min(*iris["job"], *iris["fit"]) >= 0.8
    assert iris["verdict"] != "worse"


def test_an_unknown_model_is_named(capsys):
    with pytest.raises(SystemExit):
        quality.main(["--only=iris,mnits"])
    assert "--only 'mnits': not one of iris, mnist" in capsys.readouterr().err
