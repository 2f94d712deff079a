from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.data import example, recordio
from elasticdl.errors import DataError, UsageError

FILES = Path(__file__).parent / "files"

FLOATS = st.floats(width=32, allow_nan=False)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FEATURES = st.dictionaries(
    st.text(max_size=8),
    st.one_of(
        st.lists(st.binary(max_size=20), min_size=1),
        st.lists(FLOATS).map(lambda values: np.array(values, np.float32)),
        st.lists(INTEGERS).map(lambda values: np.array(values, np.int64)),
    ),
    max_size=5,
)


def assert_same(decoded, features):
    assert list(decoded) == sorted(features)
    for name, value in features.items():
        if isinstance(value, list):
            assert decoded[name] == value
        else:
            assert decoded[name].dtype == value.dtype
            np.testing.assert_array_equal(decoded[name], value)


@settings(deadline=None)
@given(FEATURES)
def test_what_was_encoded_is_decoded(features):
    assert_same(example.decode(example.encode(features)), features)


def test_values_of_every_kind_become_one_of_the_three():
    encoded = example.encode(
        {
            "bytes": b"a\0",
            "str": "ü",
            "bool": True,
            "int": 7,
            "float": 0.5,
            "list": [1, 2],
            "words": ["a", b"b\0"],
            "image": np.arange(6, dtype=np.uint8).reshape(2, 3),
            "half": np.float16(1.5),
            "flags": np.array([True, False]),
            "objects": np.array([b"x", "y"], object),
            "uint64": np.uint64(2**63 - 1),
            "empty": np.zeros(0, np.float32),
        }
    )
    decoded = {
        name: value if isinstance(value, list) else (str(value.dtype), value.tolist())
        for name, value in example.decode(encoded).items()
    }
    assert decoded == {
        "bytes": [b"a\0"],
        "str": ["ü".encode()],
        "bool": ("int64", [1]),
        "int": ("int64", [7]),
        "float": ("float32", [0.5]),
        "list": ("int64", [1, 2]),
        "words": [b"a", b"b\0"],
        "image": ("int64", [0, 1, 2, 3, 4, 5]),
        "half": ("float32", [1.5]),
        "flags": ("int64", [1, 0]),
        "objects": [b"x", b"y"],
        "uint64": ("int64", [2**63 - 1]),
        "empty": ("float32", []),
    }


def test_the_same_features_give_the_same_bytes():
    assert example.encode({"a": 1, "b": 2.0}) == example.encode({"b": 2.0, "a": 1})


def test_values_an_example_cannot_hold_are_named():
    for value in (2**63, np.uint64(2**63), 1j, None, [b"a", 1], np.array([1, "a"], object)):
        with pytest.raises(UsageError, match="feature 'x': "):
            example.encode({"x": value})


def test_what_is_no_example_is_an_error():
    with pytest.raises(DataError, match="not a serialized"):
        example.decode(b"\xff\xff\xff")


def test_iris_is_decoded():
    rows = [example.decode(record) for record in recordio.Scanner(FILES / "iris.recordio")]
    assert len(rows) == 150
    assert len({tuple(row) for row in rows}) == 1


def test_bytes_are_those_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    encoded = example.encode({"f": [0.5, 1.5], "i": [-1, 2**40], "b": [b"x", b""]})
    theirs = tf.train.Example(
        features=tf.train.Features(
            feature={
                "f": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 1.5])),
                "i": tf.train.Feature(int64_list=tf.train.Int64List(value=[-1, 2**40])),
                "b": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x", b""])),
            }
        )
    )
    assert encoded == theirs.SerializeToString(deterministic=True)
    parsed = tf.io.parse_single_example(encoded, {"f": tf.io.FixedLenFeature([2], tf.float32)})
    assert parsed["f"].numpy().tolist() == [0.5, 1.5]
