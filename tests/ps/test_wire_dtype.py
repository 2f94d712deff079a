"""Weights and gradients as bfloat16 on the wire: rounded as IEEE 754 says, float32 at both ends."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from elasticdl.proto import ps_pb2
from elasticdl.ps import bfloat16, frames
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.rpc import DirectTransport
from tests.partitions import IDS, Servers

HALF = ps_pb2.WIRE_BFLOAT16
FINE = np.linspace(-3, 3, 287).astype(np.float32)
"""Values that bfloat16 does not have."""


def rounded(values: np.ndarray) -> np.ndarray:
    """As another implementation rounds."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return bool((left.view(np.uint32) == right.view(np.uint32)).all())


@pytest.mark.parametrize("lower", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_every_upper_half_is_rounded_as_elsewhere(lower):
    """All signs, exponents and fractions: subnormals, ties, infinities, NaNs."""
    values = ((np.arange(1 << 16, dtype=np.uint32) << 16) | lower).view(np.float32)
    assert same_bits(bfloat16.widened(bfloat16.narrow(values)), rounded(values))


@given(arrays.arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32)))
def test_any_values_are_rounded_as_elsewhere_and_rounding_again_changes_nothing(values):
    once = bfloat16.widened(bfloat16.narrow(values))
    assert same_bits(once, rounded(values))
    assert same_bits(bfloat16.widened(bfloat16.narrow(once)), once)


def test_tensorflow_rounds_alike():
    import tensorflow as tf

    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    expected = tf.cast(tf.cast(values, tf.bfloat16), tf.float32).numpy()
    assert same_bits(bfloat16.widened(bfloat16.narrow(values)), expected)


def test_pieces_are_narrowed_side_by_side():
    pieces = [FINE[3:8], FINE[:0], FINE[100:250]]
    np.testing.assert_array_equal(bfloat16.narrow(*pieces), bfloat16.narrow(np.concatenate(pieces)))


def test_rows_that_are_there_and_rows_that_are_not_are_looked_up_alike():
    table = EmbeddingTable("t", 5, OptimizerConfig("adam"), RowInitializer("uniform", 1, -1.0, 1.0))
    table.reserve(np.arange(0, 1000, 3))
    ids = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(
        bfloat16.widened(table.sent(ids, HALF)), rounded(table.lookup(ids))
    )
    assert len(table) == 334, "a pull creates nothing"


def test_what_is_trained_travels_rounded_and_model_state_as_it_is():
    servers = Servers(initialize=False, wire_dtype=HALF)
    servers.client.initialize(FINE)
    exact, exact_rows = servers.pull(IDS, exact=True)
    np.testing.assert_array_equal(exact, FINE)
    dense, rows = servers.pull(IDS)
    np.testing.assert_array_equal(dense[:280], rounded(FINE[:280]))
    assert (dense[:280] != FINE[:280]).any()
    np.testing.assert_array_equal(dense[280:], FINE[280:], err_msg="the moving mean")
    np.testing.assert_array_equal(rows, rounded(exact_rows))

    servers.push(0, IDS, 0.1, 0.3)
    after, after_rows = servers.pull(IDS, exact=True)
    tenth, three_tenths = rounded(np.float32([0.1, 0.3]))
    half = np.float32(0.5)
    np.testing.assert_array_equal(after[:280], FINE[:280] - half * three_tenths)
    np.testing.assert_array_equal(after[280:], FINE[280:] + np.float32(0.3))
    np.testing.assert_array_equal(after_rows, exact_rows - half * tenth)


def test_changes_that_bfloat16_would_not_show_add_up():
    servers = Servers(initialize=False, wire_dtype=HALF)
    servers.client.initialize(np.ones(287, np.float32))
    for k in range(64):
        servers.push(k, IDS, 0.0, 2.0**-12)
    np.testing.assert_array_equal(servers.pull(IDS, exact=True)[0][:280], 1 - 64 * 0.5 * 2.0**-12)


def test_what_is_pinned_travels_as_it_is():
    servers = Servers(initialize=False, wire_dtype=HALF)
    servers.client.initialize(FINE)
    exact = servers.pull(IDS, exact=True)
    servers.client.pin(1)
    servers.push(0, IDS, 1.0, 1.0)
    pinned = servers.pull(IDS, pin=1)
    np.testing.assert_array_equal(pinned[0], exact[0])
    np.testing.assert_array_equal(pinned[1], exact[1])


def test_a_push_that_comes_twice_counts_once():
    servers = Servers(wire_dtype=HALF)
    servers.push(0, IDS, 0.1, 0.3)
    once = servers.pull(IDS, exact=True)
    assert servers.push(0, IDS, 0.1, 0.3) == [(1, True)] * 3
    for before, after in zip(once, servers.pull(IDS, exact=True), strict=True):
        np.testing.assert_array_equal(before, after)


def test_half_the_bytes_of_what_is_trained_travel(monkeypatch):
    """Both ways, over all partitions: ids and model state are as long as ever."""
    moved: dict[str, int] = {}
    call = DirectTransport.call

    def counted(self, path, request, timeout_s, placement=None):
        reply = self._service.call(path, request.delivered())
        for way, frame in (("sent", request), ("received", reply)):
            key = f"{path.rpartition('/')[2]} {way}"
            moved[key] = moved.get(key, 0) + sum(frame.lengths)
        return reply.delivered(placement)

    found = {}
    for dtype in (ps_pb2.WIRE_FLOAT32, HALF):
        servers = Servers(wire_dtype=dtype)
        moved.clear()
        monkeypatch.setattr(DirectTransport, "call", counted)
        servers.pull(IDS)
        servers.push(0, IDS, 1.0, 1.0)
        monkeypatch.setattr(DirectTransport, "call", call)
        found[dtype] = dict(moved)
    ids, rows, trained, state = 5 * 8, 5 * 3 * 4, 280 * 4, 7 * 4
    assert found[ps_pb2.WIRE_FLOAT32]["Pull received"] == rows + trained + state
    assert found[HALF]["Pull received"] == (rows + trained) // 2 + state
    assert found[ps_pb2.WIRE_FLOAT32]["Push sent"] == ids + rows + trained + state
    assert found[HALF]["Push sent"] == ids + (rows + trained) // 2 + state


@pytest.mark.parametrize(
    ("dtype", "lengths", "message"),
    [
        (7, (0, 0, 574), "unknown type 7"),
        (1, (0, 0, 574), "buffers"),
        (1, (0, 0, 560, 27), "no float32 array"),
        (1, (0, 0, 559, 28), "no bfloat16 array"),
        (1, (0, 0, 558, 28), "279 values of trained variables and 7 of others"),
        (1, (8, 8, 560, 28), "no bfloat16 array of 3 columns"),
        (1, (8, 12, 560, 28), "1 ids, 2 gradient rows"),
    ],
)
def test_what_does_not_fit_is_refused_whole(dtype, lengths, message):
    servers = Servers(num_partitions=1, wire_dtype=HALF)
    before = servers.pull(IDS, exact=True)
    header = servers.client.addressed(0, ps_pb2.PushHeader(task=9, k=0, num_records=4))
    header.ParseFromString(header.SerializeToString() + bytes([19 << 3 & 0x7F | 0x80, 1, dtype]))
    assert header.dtype == dtype
    frame = frames.pack(header, [np.zeros(length, np.uint8) for length in lengths])
    reply, _ = frames.unpack(servers.partitions[0].push(frame.delivered()), ps_pb2.PsReply)
    assert (reply.status, message in reply.message) == (ps_pb2.PS_INVALID, True), reply.message
    for old, new in zip(before, servers.pull(IDS, exact=True), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_pull_of_an_unknown_type_is_refused():
    servers = Servers(num_partitions=1)
    lookup = servers.client.prepare([IDS])
    header = ps_pb2.PullHeader(dense=True)
    header.ParseFromString(bytes([6 << 3, 7]))
    (request,) = servers.client.pull_requests(lookup, header)
    reply, _ = frames.unpack(servers.partitions[0].pull(request), ps_pb2.PsReply)
    assert reply.status == ps_pb2.PS_INVALID
    assert "unknown type 7" in reply.message
