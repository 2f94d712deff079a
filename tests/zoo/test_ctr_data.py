import numpy as np
import pytest

from elasticdl.data import example, recordio
from model_zoo.ctr.make_data import HiddenModel, auc, generate


@pytest.fixture(scope="module")
def hidden():
    return HiddenModel(seed=3, largest_field=500)


def test_the_auc_is_the_share_of_pairs_ranked_right():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 20, 200) / 20, rng.integers(0, 2, 200)
    clicked, unclicked = scores[labels == 1], scores[labels == 0]
    right = (clicked[:, None] > unclicked).sum() + 0.5 * (clicked[:, None] == unclicked).sum()
    assert auc(scores, labels) == pytest.approx(right / (len(clicked) * len(unclicked)), abs=1e-12)


def test_labels_follow_the_hidden_model(hidden):
    records = hidden.draw(40_000, np.random.default_rng(0))
    assert records.label.mean() == pytest.approx(records.probability.mean(), abs=0.01)
    # The share of pairs ranked right, in expectation over the labels.
    p = np.sort(records.probability)
    below = np.cumsum(1 - p) - (1 - p)
    expected = (p * below).sum() / (p.sum() * (1 - p).sum() - (p * (1 - p)).sum())
    assert auc(records.probability, records.label) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_of_ids_matter_and_no_linear_model_learns_what_they_say(seed):
    hidden = HiddenModel(seed, largest_field=30)
    records = hidden.draw(40_000, np.random.default_rng(0))
    log_odds = np.log(records.probability / (1 - records.probability))
    assert (log_odds - records.additive).std() == pytest.approx(0.8, abs=0.1)
    columns = [np.log1p(records.numeric), np.ones((len(log_odds), 1), np.float32)]
    for ids in records.categorical.T:
        columns.append(ids[:, None] == np.unique(ids))
    linear = np.hstack(columns).astype(np.float32)
    fitted = linear @ np.linalg.lstsq(linear[:20_000], log_odds[:20_000], rcond=1e-5)[0]
    held_out = slice(20_000, None)
    best, additive, line = (
        auc(scores[held_out], records.label[held_out])
        for scores in (log_odds, records.additive, fitted)
    )
    assert additive == pytest.approx(line, abs=0.005)
    assert max(additive, line) <= best - 0.02


def test_an_id_belongs_to_one_field_and_uses_all_of_int64(hidden):
    ids = hidden.draw(5_000, np.random.default_rng(0)).categorical
    fields = [set(ids[:, field]) for field in range(ids.shape[1])]
    assert len(set().union(*fields)) == sum(map(len, fields))
    assert ids.min() < -(2**62)
    assert ids.max() > 2**62


def test_the_same_seed_gives_the_same_file(tmp_path, hidden):
    paths = [tmp_path / name for name in "abc"]
    reachable = [
        generate(path, 200, seed, hidden) for path, seed in zip(paths, (1, 1, 2), strict=True)
    ]
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b != c
    assert reachable[0] == reachable[1] != reachable[2]


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
