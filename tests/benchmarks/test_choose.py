import re

import numpy as np
import pytest

from benchmarks import choose
from benchmarks.workloads import Workload
from benchmarks.zoo import prepare, workloads
from elasticdl.data import example, recordio
from model_zoo.two_tower import make_data as two_tower


@pytest.fixture(autouse=True)
def directories(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.workloads.DATA", tmp_path)
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))


def read(directory):
    paths = sorted(directory.glob("*.recordio"))
    return [record for path in paths for record in recordio.Scanner(path)]


def test_a_tenth_of_the_training_records_is_held_out_and_no_test_record_is_read():
    iris = workloads("small")["iris"]
    trained_on = read(prepare(iris, "small") / "train")
    data = choose.hold_out(iris, "small")
    kept, held_out = read(data / "train"), read(data / "test")
    assert (len(kept), len(held_out)) == (108, 12)
    assert sorted(kept + held_out) == sorted(trained_on)


def test_held_out_interactions_are_ranked_among_others_of_the_kept_ones():
    made = Workload(
        "two_tower.TwoTowerSpec", lambda output: two_tower.make(output, 500), 128, 1, "recall_at_10"
    )
    data = choose.hold_out(made, "small")
    kept = [example.decode(record)["items"] for record in read(data / "train")]
    held_out = [example.decode(record)["items"] for record in read(data / "test")]
    assert {items.shape for items in kept} == {(1,)}
    assert {items.shape for items in held_out} == {(1 + two_tower.NUM_OTHERS,)}
    assert all(items[0] not in items[1:] for items in held_out)
    assert np.isin([items[1:] for items in held_out], np.concatenate(kept)).all()


@pytest.mark.timeout(600)
def test_every_candidate_has_its_line(capsys):
    choose.main(["iris", "--params=learning_rate=0.01", "--params=", "--num_epochs=1", "--seeds=2"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "iris.IrisSpec: accuracy on 10% of the training data"
    number = r"\d\.\d{4}, noise \d\.\d{4}: 1 epochs, "
    assert re.fullmatch(number + re.escape("learning_rate=0.01"), lines[0])
    assert re.fullmatch(number + "as it is", lines[1])
