"""An API that is in the other Keras only: the error says which flag."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.user_code import user_code
from tests.model_zoos import contract_of, general

LEGACY_ONLY = {
    "import tensorflow as tf; tf.keras.layers.DenseFeatures": "keras.layers.DenseFeatures",
    "import tensorflow as tf; tf.keras.optimizers.legacy.SGD(0.1)": "keras.optimizers.legacy",
    "import tensorflow as tf; tf.keras.layers.experimental.preprocessing": "layers.experimental",
    "import tensorflow as tf; tf.keras.experimental.LinearModel": "keras.experimental",
    "from tensorflow.keras.layers import DenseFeatures": "keras.layers.DenseFeatures",
}


@pytest.mark.parametrize("code", LEGACY_ONLY)
def test_what_only_tf_keras_has_names_the_flag(code: str) -> None:
    import elasticdl.model.keras_api  # noqa: F401

    with pytest.raises(UserCodeError) as raised, user_code("create_model"):
        exec(code, {})
    expected = f"{LEGACY_ONLY[code]} is in tf_keras only: add --keras=legacy"
    assert str(raised.value).endswith(expected)


def test_what_no_keras_has_names_none() -> None:
    import tensorflow as tf

    import elasticdl.model.keras_api  # noqa: F401

    with pytest.raises(UserCodeError) as raised, user_code("create_model"):
        tf.keras.layers.Nonsense()
    assert "--keras" not in str(raised.value)


IN_LEGACY = """
import elasticdl.model.keras_api
from elasticdl.model.user_code import user_code
for code in ("import tensorflow as tf; tf.keras.ops.add", "from tensorflow.keras import ops"):
    try:
        with user_code("create_model"):
            exec(code)
    except Exception as error:
        assert str(error).endswith("keras.ops is in Keras 3 only: add --keras=3"), str(error)
    else:
        raise AssertionError(code)
"""


def test_what_only_keras_3_has_names_the_flag() -> None:
    subprocess.run(
        [sys.executable, "-c", IN_LEGACY],
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
    )


def test_a_model_of_the_other_keras_names_the_flag(tmp_path: Path) -> None:
    contract = contract_of(
        tmp_path, general("import tf_keras\ndef create_model():\n    return tf_keras.Sequential()")
    )
    with pytest.raises(UsageError, match=r"it is of tf_keras: add --keras=legacy"):
        contract.create_model()
