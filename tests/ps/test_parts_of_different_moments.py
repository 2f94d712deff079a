"""A partition that is made of parts of different moments applies each minibatch once in a group."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elasticdl.proto import ps_pb2
from tests.checkpoints import ask, commit, restore, wait_for_writers
from tests.partitions import DENSE, Servers

TASK = 9
IDS = np.arange(50, dtype=np.int64)


def train(servers: Servers, index: int) -> None:
    """Push both minibatches of the task, and its end, to one partition."""
    for k in range(2):
        header = ps_pb2.PushHeader(task=TASK, k=k, num_records=4, loss=1.0)
        lookup = servers.client.prepare([IDS])
        dense = np.ones(len(DENSE), np.float32)
        servers.client.push(index, header, lookup, [np.ones((len(IDS), 3), np.float32)], dense)
    header = ps_pb2.PushHeader(task=TASK, k=2, close=True, task_records=8, emitted_records=8)
    servers.client.push(index, header)


def test_what_one_part_has_closed_and_the_other_not_begun_is_applied_where_it_is_missing(
    tmp_path: Path,
) -> None:
    undisturbed = Servers(2)
    undisturbed.pull(IDS)
    ask(undisturbed.partitions[1], tmp_path, 1)  # Its moment is before the task, ...
    train(undisturbed, 0)
    ask(undisturbed.partitions[0], tmp_path, 1)  # ... and the other's after it.
    wait_for_writers()
    path = commit(undisturbed.partitions, tmp_path, 1)
    train(undisturbed, 1)

    restored = Servers(1, initialize=False)
    restored.partitions = restore(path, 1)
    restored.cluster.partitions[0].incarnation = restored.partitions[0].incarnation
    restored.client = restored.connect(restored.cluster)
    train(restored, 0)  # Granted again, as not all groups have closed it.

    for one, other in zip(restored.pull(IDS), undisturbed.pull(IDS), strict=True):
        np.testing.assert_array_equal(one, other)
    totals = restored.partitions[0].progress.totals
    assert set(totals.applied_records.tolist()) == {8}
    assert set(totals.closed_records.tolist()) == {8}
    assert set(totals.repeats_dropped.tolist()) == {0, 2}
