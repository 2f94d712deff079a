import numpy as np

from elasticdl.data import example, recordio
from model_zoo import recipe


def test_the_same_share_of_each_label_is_held_out():
    labels = np.repeat(np.arange(10), 500)
    train, test = recipe.hold_out(labels, 0.1)
    assert sorted([*train, *test]) == list(range(5000))
    assert np.bincount(labels[test]).tolist() == [50] * 10


def test_a_split_depends_on_its_seed_alone():
    labels = np.arange(100) % 3
    first, again, other = (recipe.hold_out(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_the_values_of_a_row_stay_together_over_shards(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (23, 784)).astype(np.float32)
    labels = np.arange(23) % 10
    recipe.write(tmp_path, {"image": images, "label": labels}, num_shards=4)
    paths = sorted(tmp_path.glob("*.recordio"))
    assert len(paths) == 4
    read = [example.decode(record) for path in paths for record in recordio.Scanner(path)]
    np.testing.assert_array_equal([one["image"] for one in read], images)
    np.testing.assert_array_equal([one["label"][0] for one in read], labels)
