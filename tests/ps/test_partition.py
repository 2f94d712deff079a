"""A partition: frames in, frames out; refusals change nothing; its values are the optimizer's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.errors import JobError
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.client import GaveUp, StaleCluster, TaskDiffers, TaskRewound
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.progress import CLOSED
from elasticdl.ps.push_queue import PushQueue
from elasticdl.ps.routing import group_of
from elasticdl.rpc import Frame
from tests.partitions import DENSE, IDS, MODEL, Servers


def test_what_was_pushed_is_pulled():
    servers = Servers()
    dense, rows = servers.pull(IDS)
    np.testing.assert_array_equal(dense, DENSE)
    assert (np.abs(rows) <= 1).all()
    np.testing.assert_array_equal(rows[0], rows[3])
    assert servers.push(0, IDS, 1.0, 2.0) == [(1, True)] * 3
    new_dense, new_rows = servers.pull(IDS)
    np.testing.assert_allclose(new_rows, rows - 0.5, rtol=1e-6)
    np.testing.assert_allclose(new_dense[:280], DENSE[:280] - 1.0, rtol=1e-6)
    np.testing.assert_allclose(new_dense[280:], DENSE[280:] + 2.0, err_msg="state is added to")


def test_a_pull_never_changes_state():
    servers = Servers()
    first = servers.pull(IDS)
    second = servers.pull(IDS)
    np.testing.assert_array_equal(first[1], second[1])
    assert sum(len(one._tables[0]) for one in servers.partitions) == 0


def test_every_handler_called_twice_has_the_effect_of_once():
    servers = Servers()
    servers.client.initialize(DENSE + 1.0)
    np.testing.assert_array_equal(servers.pull(IDS)[0], DENSE)
    servers.push(0, IDS, 1.0, 1.0)
    once = servers.pull(IDS)
    assert servers.push(0, IDS, 1.0, 1.0) == [(1, True)] * 3
    twice = servers.pull(IDS)
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_array_equal(once[1], twice[1])
    for _ in range(2):
        close = ps_pb2.PushHeader(task=9, k=1, close=True, task_records=4, emitted_records=4)
        assert servers.client.push(0, close) == (CLOSED, True)
    audit = servers.partitions[0].get_audit(ps_pb2.AuditRequest(incarnation=1))
    assert set(audit.applied_records) == {4}
    assert set(audit.closed_records) == {4}
    assert audit.closed_tasks == 1


def test_a_push_out_of_order_is_answered_with_what_is_wanted():
    servers = Servers()
    before = servers.pull(IDS)
    assert servers.push(2, IDS, 1.0, 1.0) == [(0, False)] * 3
    np.testing.assert_array_equal(servers.pull(IDS)[1], before[1])


def test_a_task_that_closes_before_what_was_applied_must_begin_anew():
    servers = Servers()
    servers.push(0, IDS, 1.0, 1.0)
    servers.push(1, IDS, 1.0, 1.0)
    close = ps_pb2.PushHeader(task=9, k=1, close=True, task_records=8, emitted_records=4)
    with pytest.raises(TaskDiffers) as differs:
        servers.client.push(0, close)
    assert (differs.value.task, differs.value.attempt) == (9, 0)


def test_a_push_that_does_not_go_on_with_what_was_applied_changes_nothing():
    servers = Servers()
    first = {"task": 9, "num_records": 4, "loss": 1.0}
    skip = ps_pb2.PushHeader(k=0, skip=True, digest_after=7, **first)
    assert servers.client.push(0, skip) == (1, True)
    with pytest.raises(TaskDiffers):
        servers.client.push(
            0, ps_pb2.PushHeader(k=1, skip=True, digest_before=8, digest_after=9, **first)
        )
    again = ps_pb2.PushHeader(k=0, skip=True, digest_after=8, attempt=1, **first)
    assert servers.client.next_minibatch(9, 0) == 0, "the other partitions have nothing of it"
    assert servers.client.push(0, again) == (1, True)
    with pytest.raises(TaskRewound, match="begun anew"):
        servers.client.push(
            0, ps_pb2.PushHeader(k=1, skip=True, digest_before=7, digest_after=9, **first)
        )
    audit = servers.partitions[0].get_audit(ps_pb2.AuditRequest(incarnation=1))
    assert set(audit.skipped_records) == {4}


def test_a_model_beyond_all_bounds_is_refused_at_once():
    variable = ps_pb2.VariableDefinition(name="huge", shape=[1 << 20, 1 << 20], trainable=True)
    routing = ps_pb2.Routing(partition_of_group=[0] * 64)
    model = ps_pb2.ModelDefinition(variables=[variable], optimizer=MODEL.optimizer)
    header = ps_pb2.InitializeHeader(incarnation=1, routing=routing, model=model)
    frame = frames.pack(header, [np.zeros(1, np.float32)])
    reply, _ = frames.unpack(Partition(0, 1).initialize(frame), ps_pb2.PsReply)
    assert reply.status == ps_pb2.PS_INVALID


def test_another_incarnation_or_routing_is_refused_whole():
    servers = Servers()
    before = servers.pull(IDS)
    for change in ("incarnation", "routing"):
        cluster = master_pb2.Cluster()
        cluster.CopyFrom(servers.cluster)
        if change == "incarnation":
            cluster.partitions[0].incarnation = 2
        else:
            cluster.routing.version += 1
        stale = servers.connect(cluster)
        lookup = stale.prepare([IDS])
        with pytest.raises(StaleCluster):
            stale.start_pull(lookup).result()
        header = ps_pb2.PushHeader(task=9, k=0, num_records=4)
        rows = np.ones((len(lookup.unique[0]), 3), np.float32)
        with pytest.raises(StaleCluster):
            stale.push(0, header, lookup, [rows], np.ones(287, np.float32))
    np.testing.assert_array_equal(servers.pull(IDS)[1], before[1])
    assert servers.client.next_minibatch(9) == 0


def header_and_buffers(servers: Servers, index: int = 0) -> tuple[ps_pb2.PushHeader, list]:
    header = ps_pb2.PushHeader(incarnation=1, task=9, k=0, num_records=4)
    ids = np.arange(100, dtype=np.int64)
    ids = ids[np.isin(group_of(ids, 64) % 3, [index])]
    dense = np.ones(servers.partitions[index]._dense.size, np.float32)
    return header, [ids, np.ones((len(ids), 3), np.float32), dense]


@pytest.mark.parametrize("wrong", ["rows", "dense", "ids", "missing", "foreign", "extra"])
def test_a_push_that_does_not_fit_changes_nothing(wrong):
    servers = Servers()
    header, buffers = header_and_buffers(servers)
    if wrong == "rows":
        buffers[1] = buffers[1][1:]
    elif wrong == "dense":
        buffers[2] = buffers[2][1:]
    elif wrong == "ids":
        buffers[0] = buffers[0].astype(np.int8)[:-1]
    elif wrong == "missing":
        buffers = buffers[:2]
    elif wrong == "extra":
        buffers = [*buffers, buffers[0]]
    else:
        buffers[0] = header_and_buffers(servers, 1)[1][0][: len(buffers[0])]
        buffers[1] = buffers[1][: len(buffers[0])]
    before = servers.pull(IDS)
    reply, _ = frames.unpack(
        servers.partitions[0].push(frames.pack(header, buffers)), ps_pb2.PsReply
    )
    assert reply.status == ps_pb2.PS_INVALID
    assert reply.message
    np.testing.assert_array_equal(servers.pull(IDS)[0], before[0])
    assert servers.client.next_minibatch(9) == 0
    assert len(servers.partitions[0]._tables[0]) == 0


def test_a_partition_that_is_not_initialized_says_so():
    partition = Partition(0, 1)
    reply, _ = frames.unpack(
        partition.pull(frames.pack(ps_pb2.PullHeader(incarnation=1))), ps_pb2.PsReply
    )
    assert reply.status == ps_pb2.PS_NOT_INITIALIZED
    assert partition.get_audit(ps_pb2.AuditRequest(incarnation=1)).status != ps_pb2.PS_OK


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), flip=st.integers(0, 10_000))
def test_bytes_from_elsewhere_are_refused_never_trusted(data, flip):
    servers = Servers()
    frame = frames.pack(*header_and_buffers(servers)).delivered()
    head = bytearray(frame.head)
    head[flip % len(head)] ^= 1 + flip % 255
    cut = [one[: flip % (1 + one.nbytes)] for one in frame.buffers]
    for hostile in (
        Frame(data),
        Frame(bytes(head), frame.buffers),
        Frame(frame.head[: flip % len(head)], frame.buffers),
        Frame(frame.head, cut),
        Frame(frame.head, [*frame.buffers, memoryview(data)]),
    ):
        for method in (*("push", "pull", "initialize", "load_rows", "export_rows", "set_rates"),):
            reply, _ = frames.unpack(
                getattr(servers.partitions[0], method)(hostile), ps_pb2.PsReply
            )
            assert reply.status in ps_pb2.PsStatus.values()


def test_rows_move_out_and_in_again():
    servers = Servers()
    ids = np.unique(np.random.default_rng(0).integers(-(2**60), 2**60, 5000))
    rows = np.random.default_rng(1).normal(size=(len(ids), 3)).astype(np.float32)
    servers.client.load_rows("rows", ids, rows)
    exported_ids, exported_rows = servers.client.export_rows(0)
    np.testing.assert_array_equal(exported_ids, ids)
    np.testing.assert_array_equal(exported_rows, rows)
    np.testing.assert_array_equal(servers.pull(ids)[1], rows)


def test_pushes_are_acknowledged_in_order_by_all_partitions():
    servers = Servers()
    pushes = PushQueue(servers.client)
    sent: list[tuple[int, int]] = []
    for number in range(20):
        pushes.put(lambda index, number=number: sent.append((index, number)))
    pushes.wait(20)
    for index in range(3):
        assert [number for where, number in sent if where == index] == list(range(20))
    pushes.close()
    with pytest.raises(GaveUp):
        pushes.wait(21)


def test_an_error_of_a_push_reaches_whoever_waits():
    pushes = PushQueue(Servers().client)

    def fail(index: int) -> None:
        raise ValueError("refused")

    pushes.put(fail)
    with pytest.raises(ValueError, match="refused"):
        pushes.wait(1)
    pushes.close()


def model_with(optimizer: OptimizerConfig, **fields) -> ps_pb2.ModelDefinition:
    model = ps_pb2.ModelDefinition()
    model.CopyFrom(MODEL)
    model.MergeFrom(ps_pb2.ModelDefinition(optimizer=optimizer.to_json(), **fields))
    return model


def schedule(block: int) -> np.ndarray:
    """Step n has the rate 2**-14 * (n + 1), which float32 holds exactly."""
    return ((np.arange(1000) + 1000 * block + 1) * 2.0**-14).astype(np.float32)


SCHEDULED = model_with(OptimizerConfig("sgd", learning_rate=9.0, schedule="Growing"))


def test_update_n_has_the_schedules_rate_of_step_n_minus_1_on_every_partition():
    servers = Servers(model=SCHEDULED, rates=schedule)
    for k in range(1005):
        assert servers.push(k, IDS, -1.0, -1.0) == [(k + 1, True)] * 3
    dense, rows = servers.pull(IDS)
    total = sum(schedule(0).tolist()) + sum(schedule(1)[:5].tolist())
    np.testing.assert_allclose(dense[:1], DENSE[:1] + total, rtol=1e-6)
    np.testing.assert_allclose(dense[:280] - DENSE[:280], total, rtol=1e-3)
    fresh = Servers(model=SCHEDULED).pull(IDS)[1]
    np.testing.assert_allclose(rows - fresh, total, rtol=1e-5)


def test_a_push_that_lacks_rates_changes_nothing_and_is_sent_again_with_them():
    asked: list[int] = []

    def rates(block: int) -> np.ndarray:
        assert servers.client.next_minibatch(9) == 0
        np.testing.assert_array_equal(servers.pull(IDS)[0][:280], before)
        asked.append(block)
        return schedule(block)

    servers = Servers(model=SCHEDULED, rates=rates, num_partitions=1)
    before = servers.pull(IDS)[0][:280].copy()
    assert servers.push(0, IDS, 1.0, 1.0) == [(1, True)]
    servers.push(1, IDS, 1.0, 1.0)
    assert asked == [0]
    audit = servers.partitions[0].get_audit(ps_pb2.AuditRequest(incarnation=1))
    assert set(audit.applied_minibatches) == {2}
    assert set(audit.repeats_dropped) == {0}


def test_rates_sent_twice_have_the_effect_of_once():
    servers = Servers(model=SCHEDULED, rates=schedule, num_partitions=1)
    for rates in (schedule(0), schedule(0) * 2):
        header = ps_pb2.SetRatesHeader(incarnation=1, block=0)
        reply, _ = frames.unpack(
            servers.partitions[0].set_rates(frames.pack(header, [rates])), ps_pb2.PsReply
        )
        assert reply.status == ps_pb2.PS_OK
    servers.push(0, IDS, -1.0, -1.0)
    assert servers.pull(IDS)[0][0] == 2.0**-14


@pytest.mark.parametrize("rates", [schedule(0)[1:], schedule(0) * np.float32(np.inf)])
def test_rates_that_are_none_are_refused(rates):
    servers = Servers(model=SCHEDULED, num_partitions=1)
    frame = frames.pack(ps_pb2.SetRatesHeader(incarnation=1, block=0), [rates])
    reply, _ = frames.unpack(servers.partitions[0].set_rates(frame), ps_pb2.PsReply)
    assert reply.status == ps_pb2.PS_INVALID
    with pytest.raises(JobError, match="wants learning rates"):
        servers.push(0, IDS, 1.0, 1.0)


def test_groups_at_other_iterations_have_their_own_rates():
    """As after one group was restored and the others were not."""
    servers = Servers(model=SCHEDULED, rates=schedule, num_partitions=1)
    partition = servers.partitions[0]
    behind = 0  # the group of the whole kernel
    partition.progress.iterations[:] = 2047
    partition.progress.iterations[behind] = 1
    ids = np.arange(200, dtype=np.int64)
    before_dense, before_rows = servers.pull(ids)
    servers.push(0, ids, -1.0, -1.0)
    dense, rows = servers.pull(ids)
    expected = np.where(group_of(ids, 64) == behind, 2 * 2.0**-14, 2048 * 2.0**-14)
    np.testing.assert_allclose((rows - before_rows)[:, 0], expected, rtol=1e-2)
    changes = set(np.round((dense - before_dense)[:280] * 2**14).astype(int))
    assert changes == {2}
    assert partition.progress.iterations.tolist() == [2] + [2048] * 63


def test_the_rate_that_callbacks_decided_for_the_task_comes_before_the_schedule():
    servers = Servers(model=SCHEDULED)  # nobody can compute rates here, and nobody has to
    before = servers.pull(IDS)[0]
    servers.push(0, IDS, 1.0, 1.0, learning_rate=0.25)
    np.testing.assert_allclose(servers.pull(IDS)[0][:280], before[:280] - 0.25, rtol=1e-6)


def test_a_decided_rate_of_0_changes_nothing_and_counts():
    servers = Servers(num_partitions=1)
    before = servers.pull(IDS)[0]
    servers.push(0, IDS, 1.0, 1.0, learning_rate=0.0)
    np.testing.assert_array_equal(servers.pull(IDS)[0][:280], before[:280])
    assert servers.pull(IDS)[0].shape == before.shape
    assert int(servers.partitions[0].progress.totals.applied_minibatches.min()) == 1


def test_a_learning_rate_that_is_not_finite_is_refused():
    servers = Servers(num_partitions=1)
    with pytest.raises(JobError, match="learning rate is inf"):
        servers.push(0, IDS, 1.0, 1.0, learning_rate=float("inf"))


def pushed_by_two_workers(aware: bool) -> tuple[np.ndarray, ps_pb2.PartitionAudit]:
    """Three pushes computed from version 0, and one from version 3."""
    servers = Servers(
        model=model_with(OptimizerConfig("sgd", 0.5), staleness_aware_learning_rate=aware),
        num_partitions=1,
    )
    for task in range(3):
        servers.push(0, IDS, 1.0, 1.0, task=task, version=0)
    servers.push(1, IDS, 1.0, 1.0, task=2, version=3)
    audit = servers.partitions[0].get_audit(ps_pb2.AuditRequest(incarnation=1))
    return servers.pull(IDS)[0][:280] - DENSE[:280], audit


def test_staleness_divides_the_rate_where_it_is_asked_for():
    """Staleness is what was applied since the version a push was computed from: 0, 1, 2, 0."""
    np.testing.assert_allclose(pushed_by_two_workers(aware=False)[0], -0.5 * 4, rtol=1e-4)
    np.testing.assert_allclose(pushed_by_two_workers(aware=True)[0], -0.5 * 3.5, rtol=1e-4)


def test_staleness_changes_no_account():
    assert pushed_by_two_workers(aware=True)[1] == pushed_by_two_workers(aware=False)[1]


def test_weight_decay_spares_model_state_and_what_is_excluded():
    model = model_with(OptimizerConfig("sgd", 0.5, weight_decay=0.5))
    model.variables.append(
        ps_pb2.VariableDefinition(
            name="bias", shape=[3], trainable=True, excluded_from_weight_decay=True
        )
    )
    model.tables.append(model.tables[0])
    model.tables[1].name = "spared"
    model.tables[1].excluded_from_weight_decay = True
    servers = Servers(model=model, initialize=False)
    dense = np.ones(290, np.float32)
    servers.client.initialize(dense)
    ids = [IDS[:2], IDS[:2]]
    lookup = servers.client.prepare(ids)
    before = servers.client.start_pull(lookup).result().rows
    nothing = [np.zeros((2, 3), np.float32)] * 2
    for index in range(3):
        header = ps_pb2.PushHeader(task=9, k=0, num_records=4)
        servers.client.push(index, header, lookup, nothing, np.zeros(290, np.float32))
    after = servers.client.start_pull(lookup).result()
    np.testing.assert_array_equal(after.dense[:280], 0.75)
    np.testing.assert_array_equal(after.dense[280:], 1.0)
    np.testing.assert_allclose(after.rows[0], before[0] * 0.75, rtol=1e-6)
    np.testing.assert_array_equal(after.rows[1], before[1])


def test_a_heartbeat_tells_what_a_partition_holds_and_was_asked_for():
    servers = Servers(num_partitions=1)
    (partition,) = servers.partitions
    assert partition.counts().pulls == 0
    assert not partition.counts().HasField("learning_rate")
    servers.pull(IDS)
    servers.pull(IDS)
    for k in range(3):
        servers.push(k, IDS, 1.0, 2.0)
    servers.push(2, IDS, 1.0, 2.0)
    counts = partition.counts()
    assert (counts.pulls, counts.pushes) == (2, 4)
    assert counts.rows == len(set(IDS.tolist()))
    assert counts.num_bytes > 4 * len(DENSE)
    assert counts.sent_bytes == 2 * (4 * len(DENSE) + 4 * 3 * counts.rows)
    assert counts.received_bytes > 0
    assert sum(counts.staleness) == 3, "what is dropped as a repeat is not applied"
    assert list(counts.staleness) == [1, 1, 1], "all were computed from the first version"
    assert counts.learning_rate == 0.5
    assert partition.doing() == "serves"
    assert Partition(0, 1).counts() is None
