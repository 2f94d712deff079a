"""Tests of this directory are run by tests/legacy/test_with_tf_keras.py, in a process of theirs."""

from elasticdl.model.keras_api import IS_LEGACY

collect_ignore_glob = [] if IS_LEGACY else ["test_*.py"]
