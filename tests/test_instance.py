"""What an instance is told, how many cores it finds, and how it ends without a master."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from elasticdl import cores
from elasticdl.credentials import Credentials
from elasticdl.heartbeat import ORPHAN_S
from elasticdl.instance import ORPHAN_EXIT_CODE, parse_arguments
from elasticdl.job_spec import CHECKED_FILE, JOB_FILE, JobSpec
from elasticdl.master.cluster.local import to_message
from elasticdl.master.exits import describe_exit, is_crash
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.proto import master_pb2
from elasticdl.rpc import Server, Service
from elasticdl.worker.__main__ import share_of_threads

MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]
PS = InstanceSpec(Role.PS, 0, 1)
DEADLINE_S = 60.0

IMPATIENT = """
import sys
from elasticdl import heartbeat
heartbeat.ORPHAN_S = 1.5  # In place of a quarter of an hour.
from elasticdl.ps.__main__ import main
sys.exit(main())
"""


def describe(directory: Path, num_workers: int, model_def: str = "none.None") -> None:
    spec = JobSpec(
        command="train",
        model_zoo=str(directory),
        model_def=model_def,
        data="data.csv",
        output="output",
        num_workers=num_workers,
    )
    (directory / JOB_FILE).write_text(spec.to_yaml())


# ------------------------------------------------------------------ what it is told


def test_what_describes_a_job_need_not_be_where_it_writes(tmp_path):
    described, secret, state = tmp_path / "described", tmp_path / "secret", tmp_path / "state"
    for directory in (described, secret, state):
        directory.mkdir()
    describe(described, num_workers=3, model_def="a.B")
    (described / CHECKED_FILE).write_text("model_def: c.D\n")
    (secret / "token").write_text("secret\n")
    told = parse_arguments(
        "worker",
        [
            f"--description={described}",
            f"--credentials={secret}",
            f"--job_dir={state}",
            "--session=three",
        ],
    )
    assert told.spec.job_dir == str(state)
    assert told.spec.num_workers == 3
    assert told.spec.model_def == "c.D", "what a check resolved holds over the description"
    assert (told.credentials.token, told.credentials.session) == ("secret", "three")


def test_one_directory_may_be_all_of_them(tmp_path):
    describe(tmp_path, num_workers=2)
    (tmp_path / "token").write_text("secret")
    told = parse_arguments("ps", [f"--job_dir={tmp_path}"])
    assert (told.spec.job_dir, told.spec.num_workers) == (str(tmp_path), 2)
    assert told.credentials.token == "secret"


# ------------------------------------------------------------------ its cores


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_container_is_read_of_both_versions_of_control_groups(
    tmp_path, files, quota
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("quota", "asked_for", "usable"),
    [
        (0.2, None, 1),
        (3.9, None, 3),
        (None, None, 8),
        (99.0, None, 8),
        (None, "2", 2),
        (1.5, "2", 1),
        (None, "99", 8),
        (None, "0", 8),  # It asked for none.
    ],
)
def test_a_process_keeps_no_more_cores_busy_than_its_container_has_and_asked_for(
    monkeypatch, quota, asked_for, usable
):
    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.delenv(cores.VARIABLE, raising=False)
    if asked_for is not None:
        monkeypatch.setenv(cores.VARIABLE, asked_for)
    assert cores.usable_cores() == usable


def test_workers_of_a_machine_share_its_cores_and_a_pod_has_those_it_asked_for(monkeypatch):
    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    monkeypatch.delenv(cores.VARIABLE, raising=False)
    local = JobSpec(command="train", job_dir="job", num_workers=4)
    assert share_of_threads(local) == 2
    assert share_of_threads(local.model_copy(update={"worker_threads": 5})) == 5
    monkeypatch.setenv(cores.VARIABLE, "3")
    assert share_of_threads(local.model_copy(update={"cluster": "kubernetes"})) == 3


# ------------------------------------------------------------------ without a master


class Registry:
    """A master that knows a parameter server, and says whether the job is finished."""

    def __init__(self) -> None:
        self.registered, self.beaten = threading.Event(), threading.Event()
        self.is_finished = False

    def register(self, request: master_pb2.RegisterRequest) -> master_pb2.RegisterReply:
        assert request.instance == to_message(PS)
        self.registered.set()
        restore = None if request.ready else master_pb2.Restore()
        return master_pb2.RegisterReply(accepted=True, restore=restore)

    def heartbeat(self, request: master_pb2.HeartbeatRequest) -> master_pb2.HeartbeatReply:
        self.beaten.set()
        return master_pb2.HeartbeatReply(accepted=True, job_finished=self.is_finished)

    def __getattr__(self, name):
        return lambda request: master_pb2.Ack(accepted=True)


class Impatient:
    """A parameter server, as a process, that waits for a master for a second and a half."""

    def __init__(self, job_dir: Path, master: Registry | None) -> None:
        describe(job_dir, num_workers=1)
        (job_dir / "token").write_text("secret")
        services = [Service(MASTER, master or Registry())]
        self.master = Server(services, Credentials.of_directory(job_dir))
        if master is None:
            self.master.stop()
        arguments = [f"--job_dir={job_dir}", f"--master={self.master.address}"]
        with (job_dir / "ps.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", IMPATIENT, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.master.stop()


@pytest.fixture
def launched(tmp_path) -> Iterator[list[Impatient]]:
    made: list[Impatient] = []
    yield made
    for one in made:
        one.close()


def test_an_instance_that_never_finds_a_master_is_an_orphan(tmp_path, launched):
    launched.append(Impatient(tmp_path, None))
    assert launched[0].process.wait(DEADLINE_S) == ORPHAN_EXIT_CODE


@pytest.mark.parametrize("is_finished", [False, True])
def test_an_instance_whose_master_does_not_come_back_is_an_orphan(tmp_path, launched, is_finished):
    master = Registry()
    master.is_finished = is_finished
    launched.append(Impatient(tmp_path, master))
    assert master.registered.wait(DEADLINE_S)
    assert master.beaten.wait(DEADLINE_S)
    assert launched[0].process.poll() is None, "it is not, as long as one answers"
    launched[0].master.stop()
    assert launched[0].process.wait(DEADLINE_S) == ORPHAN_EXIT_CODE


def test_an_orphan_is_no_crash():
    assert not is_crash(ORPHAN_EXIT_CODE)
    assert "no master" in describe_exit(ORPHAN_EXIT_CODE)
    assert ORPHAN_S > 300.0, "the longest pause after which a container is started again"
