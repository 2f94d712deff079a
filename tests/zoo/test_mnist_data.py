import numpy as np
import pytest

from elasticdl.data import example, recordio

make_data = pytest.importorskip("model_zoo.mnist.make_data", reason="the zoo extra is missing")


def test_a_tenth_of_each_digit_is_held_out():
    labels = np.repeat(np.arange(10), 500)
    train, test = make_data.split(labels)
    assert sorted([*train, *test]) == list(range(5000))
    assert np.bincount(labels[test]).tolist() == [50] * 10


def test_images_and_labels_stay_together_over_shards(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (23, 784)).astype(np.float32)
    labels = np.arange(23) % 10
    make_data.write(tmp_path, images, labels, num_shards=4)
    paths = sorted(tmp_path.glob("*.recordio"))
    assert len(paths) == 4
    read = [example.decode(record) for path in paths for record in recordio.Scanner(path)]
    np.testing.assert_array_equal([one["image"] for one in read], images)
    np.testing.assert_array_equal([one["label"][0] for one in read], labels)
