"""What the recipes that generate data promise about it."""

import re

import numpy as np
import pytest

from elasticdl.data import example, recordio
from model_zoo.cifar10 import make_data as cifar10
from model_zoo.text import make_data as text
from model_zoo.two_tower import make_data as two_tower


def read(directory):
    paths = sorted(directory.glob("*.recordio"))
    return [example.decode(record) for path in paths for record in recordio.Scanner(path)]


def praise(review):
    """Read a review by the grammar, without the recipe's help."""
    balance = 0
    for clause in re.split(r" (?:and|but|while|although|;|,) ", review):
        words = clause.split()
        balance += (words[-1] in text.WORDS["good"]) != any(w in text.WORDS["not"] for w in words)
        balance -= (words[-1] in text.WORDS["bad"]) != any(w in text.WORDS["not"] for w in words)
    return int(balance > 0)


def test_a_review_says_what_its_label_says_but_for_the_wrong_labels():
    texts, labels = text.draw(4_000, np.random.default_rng(0))
    right = np.mean([praise(review) == label for review, label in zip(texts, labels, strict=True)])
    assert right == pytest.approx(1 - text.WRONG_LABELS, abs=0.01)
    assert labels.mean() == pytest.approx(0.5, abs=0.05)
    assert len({len(review.split()) for review in texts}) > 10


def test_no_single_word_tells_whether_a_review_is_praise():
    texts, labels = text.draw(4_000, np.random.default_rng(0))
    for word in (*text.WORDS["good"], *text.WORDS["bad"], *text.WORDS["not"]):
        having = labels[[word in review.split() for review in texts]]
        assert having.mean() == pytest.approx(0.5, abs=0.12), word


def test_shapes_are_small_images_of_ten_classes(tmp_path):
    cifar10.make_shapes(tmp_path, 50)
    records = read(tmp_path / "train")
    assert len(records) == 50
    assert len(read(tmp_path / "test")) == 10
    assert {len(one["image"][0]) for one in records} == {32 * 32 * 3}
    images, labels = cifar10.draw(300, np.random.default_rng(0))
    assert set(labels) == set(range(10))
    # A class is the shape, not the colour: mean colours of the classes are alike.
    colours = np.array([images[labels == label].mean() for label in range(10)])
    assert colours.std() < 0.25 * colours.mean()


def test_what_cannot_be_downloaded_is_said_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cifar10, "URL", (tmp_path / "nothing.tar.gz").as_uri())
    words = ["make_data", f"--output={tmp_path / 'data'}", "--num_images=20"]
    monkeypatch.setattr("sys.argv", words)
    cifar10.main()
    shown = capsys.readouterr().out
    assert "CIFAR-10 cannot be downloaded" in shown
    assert "drawing shapes instead" in shown
    assert "this is not CIFAR-10" in shown
    assert len(read(tmp_path / "data" / "train")) == 20
    monkeypatch.setattr("sys.argv", [*words, "--source=cifar10"])
    with pytest.raises(SystemExit, match="CIFAR-10 cannot be downloaded"):
        cifar10.main()


def test_held_out_interactions_come_with_99_other_items(tmp_path):
    best = two_tower.make(tmp_path, num_records=2_000)
    train, test = read(tmp_path / "train"), read(tmp_path / "test")
    assert {len(one["items"]) for one in train} == {1}
    assert {len(one["items"]) for one in test} == {100}
    assert (len(train), len(test)) == (2_000, 200)
    assert all(one["items"][0] not in one["items"][1:] for one in test)
    assert 0.5 < best < 1


def test_the_hidden_model_ranks_items_better_than_their_popularity_does():
    hidden = two_tower.HiddenModel(seed=3)
    drawn = hidden.draw(3_000, two_tower.NUM_OTHERS, np.random.default_rng(0))
    counts = np.bincount(drawn.items[:, 0], minlength=len(hidden.items))[drawn.items]
    popular = ((counts[:, 1:] >= counts[:, :1]).sum(axis=1) < 10).mean()
    assert hidden.best_recall(drawn) > 3 * popular
