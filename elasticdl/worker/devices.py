"""Which device a worker computes on: workers of one machine take turns at its GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CPU = "cpu"


def gpu_of_worker(choice: str, index: int, num_gpus: int) -> int | None:
    """Return the GPU that a worker uses, or None for the CPU.

    Args:
      choice: "auto" or "cpu".
      index: of the worker; workers beyond the number of GPUs share them.
      num_gpus: of the machine.
    """
    return None if choice == CPU or num_gpus == 0 else index % num_gpus


def use_device(choice: str, index: int) -> str:
    """Let TensorFlow see one GPU or none, and take its memory only as it is needed.

    To be called before TensorFlow has computed anything; afterwards it changes nothing. The input
    pipeline and the pass that collects ids run on the CPU in any case.

    Returns:
      What people call the device: "CPU", or "GPU 1 of 2".
    """
    import tensorflow as tf

    gpus: Sequence[Any] = tf.config.list_physical_devices("GPU")
    chosen = gpu_of_worker(choice, index, len(gpus))
    try:
        tf.config.set_visible_devices([] if chosen is None else [gpus[chosen]], "GPU")
        if chosen is not None:
            tf.config.experimental.set_memory_growth(gpus[chosen], True)
    except RuntimeError:  # it has computed something: in a process of the user's own
        chosen = 0 if tf.config.list_logical_devices("GPU") else None
    return "CPU" if chosen is None else f"GPU {chosen + 1} of {len(gpus)}"
