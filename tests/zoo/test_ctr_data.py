import numpy as np
import pytest

from elasticdl.data import example, recordio
from model_zoo.ctr.make_data import HiddenModel, best_auc, generate


@pytest.fixture(scope="module")
def hidden():
    return HiddenModel(seed=3, largest_field=500)


def test_the_best_auc_is_the_expected_share_of_pairs_ranked_right():
    p = np.array([0.9, 0.2, 0.2, 0.6])
    right = total = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:  # i clicked, j not
                chance = p[i] * (1 - p[j])
                right += chance * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
                total += chance
    assert best_auc(p) == pytest.approx(right / total, abs=1e-12)
    assert best_auc(np.array([0.0, 1.0, 0.0])) == 1.0


def test_labels_follow_the_hidden_model(hidden):
    records = hidden.draw(40_000, np.random.default_rng(0))
    assert records.label.mean() == pytest.approx(records.probability.mean(), abs=0.01)
    order = np.argsort(records.probability)
    ranks = np.empty(len(order))
    ranks[order] = np.arange(len(order))
    clicked = records.label == 1
    observed = ranks[clicked].mean() - (clicked.sum() - 1) / 2
    observed /= (~clicked).sum()
    assert observed == pytest.approx(best_auc(records.probability), abs=0.01)


def test_an_id_belongs_to_one_field_and_uses_all_of_int64(hidden):
    ids = hidden.draw(5_000, np.random.default_rng(0)).categorical
    fields = [set(ids[:, field]) for field in range(ids.shape[1])]
    assert len(set().union(*fields)) == sum(map(len, fields))
    assert ids.min() < -(2**62)
    assert ids.max() > 2**62


def test_the_same_seed_gives_the_same_file(tmp_path, hidden):
    paths = [tmp_path / name for name in "abc"]
    aucs = [generate(path, 200, seed, hidden) for path, seed in zip(paths, (1, 1, 2), strict=True)]
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b != c
    assert aucs[0] == aucs[1] != aucs[2]


def test_a_record_is_an_example_of_numbers_ids_and_a_label(tmp_path, hidden):
    generate(tmp_path / "data", 10, 0, hidden)
    records = list(recordio.Scanner(tmp_path / "data"))
    assert len(records) == 10
    features = example.decode(records[0])
    assert {name: (len(v), v.dtype) for name, v in features.items()} == {
        "numeric": (13, np.float32),
        "categorical": (26, np.int64),
        "label": (1, np.int64),
    }
