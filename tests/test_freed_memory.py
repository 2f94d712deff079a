"""Buffers of minibatches are not fresh pages each time."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import resource, sys
import numpy as np
from elasticdl.freed_memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    parts = [np.ones(150_000, np.float32) for _ in range(3)]
    data = b"".join(part.data.cast("B") for part in parts)
    del parts, data
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

AFTER_A_GENERATOR = """
import resource, sys
import numpy as np
from elasticdl.freed_memory import go_on_keeping, keep_freed_memory

assert keep_freed_memory()
import tensorflow as tf

dataset = tf.data.Dataset.from_generator(
    lambda: iter(range(3)), output_signature=tf.TensorSpec([], tf.int64)
)
assert len(list(dataset)) == 3
if sys.argv[1] == "kept":
    go_on_keeping()
for round in range(20):
    if round == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [np.ones(150_000, np.float32) for _ in range(80)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, program: str = PROGRAM, **environment: str) -> int:
    """Page faults of 200 rounds of 3.6 MB of buffers, or of what another program does."""
    said = subprocess.run(
        [sys.executable, "-c", program, how],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    return int(said)


def test_buffers_are_the_same_pages_again():
    # All pages of one round are 880; those of 200 rounds are 176,000.
    assert faults("kept") < 20 * 880


def test_they_are_after_tensorflow_has_set_the_threshold_for_generators():
    # All pages of one round are 11,700.
    assert faults("kept", AFTER_A_GENERATOR) < 11_700


def test_what_the_environment_says_wins():
    program = "from elasticdl.freed_memory import keep_freed_memory; print(keep_freed_memory())"
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MALLOC_ARENA_MAX": "2", "MALLOC_TOP_PAD_": "0"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert said == "False\n"
