"""Imports TensorFlow without what its C++ part writes before it can be told not to."""

from __future__ import annotations

import os
import sys


def import_tensorflow(devices: str) -> None:
    """Import TensorFlow and Keras; what C++ writes to standard error meanwhile is dropped.

    Args:
      devices: what to compute on, as the option ``worker_devices`` says.
    """
    if "elasticdl.model.keras_api" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow as tf

        import elasticdl.model.keras_api  # noqa: F401
        from elasticdl.worker.devices import use_device

        use_device(devices, index=0)
        tf.constant(0)  # The device's start has something to say as well.
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
