"""Digests of minibatches, which tell whether the input function made the same ones again (R7)."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numba import njit, types, uint64

_WORD = 8


@njit(uint64(types.Array(uint64, 1, "C", readonly=True), uint64), nogil=True, cache=True)
def _fold(words, digest):
    """Fold words into a digest, in four chains, as one would wait for its multiplications."""
    prime = uint64(0x9E3779B97F4A7C15)
    shift = uint64(29)
    a = digest ^ uint64(len(words))
    b = a + prime
    c = b + prime
    d = c + prime
    whole = len(words) // 4 * 4
    for i in range(0, whole, 4):
        a = (a ^ words[i]) * prime
        a ^= a >> shift
        b = (b ^ words[i + 1]) * prime
        b ^= b >> shift
        c = (c ^ words[i + 2]) * prime
        c ^= c >> shift
        d = (d ^ words[i + 3]) * prime
        d ^= d >> shift
    for i in range(whole, len(words)):
        a = (a ^ words[i]) * prime
        a ^= a >> shift
    for chain in (b, c, d):
        a = (a ^ chain) * prime
        a ^= a >> shift
    return a


def minibatch_digest(of: Any, num_records: int, before: int) -> int:
    """Return the digest of a task's minibatches up to one, the same in every process.

    Args:
      of: what tells it from others: arrays and tensors, nested.
      num_records: how many records it is of.
      before: the digest of the minibatches before it; 0 for none.
    """
    digest = _fold(np.array([num_records], np.uint64), np.uint64(before))
    for array in _arrays(of):
        digest = _fold(_words(array), np.uint64(digest))
    return int(digest)


def _arrays(of: Any) -> Iterator[np.ndarray]:
    for one in tf.nest.flatten(of, expand_composites=True):
        array = np.asarray(one)
        if array.dtype != object:
            yield array
            continue
        texts = [bytes(text) for text in array.ravel().tolist()]
        yield np.array([len(text) for text in texts], np.int64)
        yield np.frombuffer(b"".join(texts), np.uint8)


def _words(array: np.ndarray) -> np.ndarray:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if len(data) % _WORD:
        padded = np.zeros(len(data) // _WORD + 2, np.uint64)
        padded.view(np.uint8)[: len(data)] = data
        padded[-1] = len(data)
        return padded
    return np.require(data, requirements="A").view(np.uint64)
