"""A whole job whose parameter servers keep copies of each other, and are killed."""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise

import pytest

from elasticdl.api import jobs
from elasticdl.api.events import JobEvent, events
from elasticdl.credentials import Credentials
from elasticdl.master.journal import read_journal
from elasticdl.proto import ps_pb2
from elasticdl.ps.manifest import read_manifest
from elasticdl.rpc import Client, RpcError, StreamTransport
from tests.job.real_jobs import Job, wait_until

EPOCHS = 8


def tasks_in(bounds: list[int]) -> int:
    """How many tasks are in half-open intervals."""
    return sum(end - start for start, end in list(pairwise(bounds))[::2])


def tasks_done(job: Job) -> int:
    return sum(one.body["kind"] == "TRAINING" for one in read_journal(job.directory, "done"))


def tasks_copied(job: Job, partition: int = 0) -> int:
    """How many tasks are closed in the copy of the present life of a partition."""
    registered = [one.body for one in read_journal(job.directory, "registered")]
    found = {one["index"]: one for one in registered if one["role"] == "ps" and one["ready"]}
    if len(found) < 2:
        return 0
    keeper = 1 - partition
    transport = StreamTransport(found[keeper]["address"], Credentials.of_directory(job.directory))
    client = Client(ps_pb2.DESCRIPTOR.services_by_name["Standby"], transport, "the keeper")
    lives = [found[index]["incarnation"] for index in range(2)]
    request = ps_pb2.GetCopyRequest(
        keeper=lives[keeper], partition=partition, incarnation=lives[partition]
    )
    try:
        reply = client.call("GetCopy", request, 5.0)
    except RpcError:
        return 0
    finally:
        client.close()
    if reply.status != ps_pb2.PS_OK or reply.incarnation != lives[partition]:
        return 0
    return tasks_in(json.loads(reply.entries[-1])["closed"])


def restored(job: Job) -> list[JobEvent]:
    return [one for one in events(str(job.directory)) if one.kind == "restored"]


def kill(job: Job, *indices: int) -> None:
    """Kill parameter servers, the one right after the other."""

    def there() -> list[int]:
        pids = {one.instance.index: one.pid for one in job.running("ps")}
        return [pids[index] for index in indices if len(pids) == 2]

    for pid in wait_until("both parameter servers", there):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_a_lost_parameter_server_is_restored_from_its_copy_and_two_from_the_checkpoint(start):
    job = start(
        f"--num_epochs={EPOCHS}",
        "--records_per_task=80",
        "--ps_standby=1",
        "--checkpoint_secs=0",
    )
    copied = 0

    def is_followed() -> bool:
        nonlocal copied
        copied = tasks_copied(job)
        return copied >= 30 and copied >= 0.75 * tasks_done(job)

    wait_until("training", lambda: job.records_done() > 0)
    wait_until("a copy that follows", is_followed)
    kill(job, 0)
    (event,) = wait_until("its replacement", lambda: restored(job))
    assert event.text.startswith(
        "parameter server 0 was restored from its copy on parameter server 1, "
    )
    done = [one.number for one in read_journal(job.directory, "done")]
    before = sum(number < event.number for number in done) - 1  # INITIALIZE
    again = event.body["tasks_again"]
    assert again <= before - copied, "only what was done since the copy"
    assert again < before / 2
    wait_until("a copy of the next life", lambda: tasks_copied(job) > before)
    wait_until("a copy of the other, which has a new keeper", lambda: tasks_copied(job, 1) > before)
    kill(job, 0, 1)
    both = wait_until("both", lambda: restored(job)[2:] and restored(job)[1:])
    assert [one.text.split(",")[0] for one in both] == [
        f"parameter server {one.body['index']} was restored from checkpoint 1" for one in both
    ]
    assert sum(one.body["tasks_again"] for one in both) >= before
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    expected = EPOCHS * job.records
    assert audit["records_expected"] == expected
    assert audit["applied_once"] == {"0": expected, "1": expected}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    assert audit["relaunches"] == 3, "no worker had to be replaced"
    (initial, last) = read_journal(job.directory, "checkpoint")
    assert (initial.body["reason"], last.body["reason"]) == ("initial", "final")
    assert len(read_manifest(job.directory / "checkpoints" / "0000000002").parts) == 2
