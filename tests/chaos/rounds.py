"""Rounds of chaos: a job is disturbed all the way, and held to what an undisturbed one gives."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from elasticdl.api import jobs
from elasticdl.api.supervisor import FILE_NAME
from elasticdl.master.journal import read_journal
from elasticdl.master.placement import PLACED, RESCALED
from tests.chaos.disturber import Disturber, processes
from tests.chaos.schedule import draw
from tests.job.real_jobs import Job

RECORDS = 2000
NUM_EPOCHS = 4
NUM_PS = 2
# Of the metric auc, on data it has learned: what two undisturbed async jobs differ by, and more.
AUC_NOISE = 0.02
# Also under a load that makes everything ten times slower.
DEADLINE_S = 900.0
OPTIONS = (
    f"--num_epochs={NUM_EPOCHS}",
    f"--num_ps={NUM_PS}",
    "--records_per_task=80",
    "--evaluation_epochs=2",
    "--lease_s=10",
    "--checkpoint_steps=200",
)
MODES = {
    "async": (),
    "sync": ("--consistency=sync", "--grads_to_wait=4", "--worker_threads=1"),
}


def weights_of(output: Path) -> dict[str, np.ndarray]:
    """The parameters of a trained model."""
    with np.load(output / "params.npz") as archive:
        return {name: archive[name] for name in archive.files}


@dataclass
class Rounds:
    """Rounds of one seed.

    Args:
      start: starts a job from its options.
      data: pattern of the records.
      seed: every round is drawn from it and the round's number.
      roles: whose processes are disturbed.
      standby_every: so many jobs of async mode, in a row, of which one has --ps_standby=1.

    Attributes:
      counts: how often what was done to whom, over all rounds.
    """

    start: Callable[..., Job]
    data: str
    seed: int
    roles: Sequence[str]
    standby_every: int = 2
    counts: Counter[str] = field(default_factory=Counter)
    _undisturbed: dict[str, Job] = field(default_factory=dict)

    def _start(self, mode: str, *options: str, **environment: str) -> Job:
        given = (*OPTIONS, *MODES[mode], f"--validation_data={self.data}", *options)
        return self.start(*given, records=RECORDS, **environment)

    def undisturbed(self, mode: str) -> Job:
        """The job that nobody disturbs, run in one process, once for each mode."""
        if mode not in self._undisturbed:
            job = self._start(mode, "--num_workers=0")
            assert job.process.wait(DEADLINE_S) == 0, job.terminal()
            self._undisturbed[mode] = job
        return self._undisturbed[mode]

    def play(
        self,
        number: int,
        mode: str,
        disturbances: int,
        mean_pause_s: float,
        from_training: bool = False,
    ) -> None:
        """Run a job, disturb it, and check everything.

        Args:
          from_training: nobody is disturbed before; otherwise from the first process on.

        Raises:
          AssertionError: with the seed, and what was done to whom.
        """
        undisturbed = self.undisturbed(mode)
        chance = random.Random(f"{self.seed}/{number}")
        schedule = draw(chance, self.roles, mean_pause_s, disturbances)
        faults = (
            "request_lost=0.01,reply_lost=0.01,in_flight=0.01,duplicated=0.01,delayed=0.01,"
            "cut_every_s=45,cut_s=4"
        )
        spares = ("--warm_spares=1",) if "spare" in self.roles else ()
        has_standby = mode == "async" and number // 2 % self.standby_every == 0
        standby = ("--ps_standby=1",) if has_standby else ()
        job = self._start(
            mode, *spares, *standby, ELASTICDL_FAULTS=f"{faults},seed={self.seed + number}"
        )

        def may_begin() -> bool:
            if from_training:
                return job.process.poll() is None and job.records_done() > 0
            return bool(processes(job.directory))

        disturber = Disturber(job.directory, schedule, may_begin)
        disturber.start()
        try:
            code = job.process.wait(DEADLINE_S)
            resumed = 0
            while code != 0 and resumed < disturber.counts["supervisor killed"]:
                resumed += 1
                job.resume()
                code = job.process.wait(DEADLINE_S)
            disturber.close()
            assert code == 0, f"exit code {code}"
            check_ended(job)
            check_counted(job)
            check_learned(job, undisturbed, exactly=mode == "sync")
        except BaseException as error:
            disturber.close()
            played = "\n".join(["", *disturber.notes])
            raise AssertionError(
                f"CHAOS_SEED={self.seed}, round {number} ({mode}, mean pause {mean_pause_s:g} s), "
                f"job in {job.directory}: {error}\nwas to happen: "
                f"{', '.join(map(str, schedule))}\nhappened:{played}\n"
                f"the terminal:\n{job.terminal()[-4000:]}"
            ) from error
        self.counts += disturber.counts
        self.counts["ps rescaled"] += len(list(read_journal(job.directory, RESCALED)))


def check_ended(job: Job) -> None:
    """Nothing is left of a job but its directory, its model and whole checkpoints."""
    job.assert_nothing_is_left()
    description = json.loads((job.directory / FILE_NAME).read_text())
    for name in ("address", "master_address"):
        host, _, port = description[name].rpartition(":")
        with socket.socket() as one:
            assert one.connect_ex((host, int(port))) != 0, f"somebody listens on {name} still"


def check_counted(job: Job) -> None:
    """Every record of every epoch was applied once by every group, and evaluated once."""
    audit = jobs.audit(str(job.directory))
    expected = NUM_EPOCHS * job.records
    assert audit["records_expected"] == expected
    placed = [NUM_PS, *(one.body["num_ps"] for one in read_journal(job.directory, PLACED))]
    assert audit["applied_once"] == {str(index): expected for index in range(placed[-1])}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    assert audit["repeated"] == audit["tasks_at_least_once"] == 0
    assert audit["filtered"] == audit["skipped"] == audit["evaluation"]["lost"] == 0
    result = json.loads((job.directory / "result.json").read_text())
    assert [epoch["records"] for epoch in result["history"]] == NUM_EPOCHS * [job.records]


def check_learned(job: Job, undisturbed: Job, exactly: bool) -> None:
    """The model is as good as the undisturbed job's; in sync mode it is the same."""
    if exactly:
        expected, actual = weights_of(undisturbed.output), weights_of(job.output)
        assert expected.keys() == actual.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(actual[name], values, err_msg=name)
        return
    results = [
        json.loads((one.directory / "result.json").read_text()) for one in (job, undisturbed)
    ]
    found, usual = (result["metrics"]["auc"] for result in results)
    assert found == pytest.approx(usual, abs=AUC_NOISE)
