import json
import sys

import pytest

from benchmarks import scheduler
from benchmarks.simulated_cluster import Settings, SimulatedCluster

SMALL = Settings(
    workers=30,
    partitions=4,
    records=400_000,
    records_per_task=1024,
    deaths_per_hour=40.0,
    ps_deaths_per_hour=30.0,
    checkpoint_s=5.0,
    storms=2,
    repeated_share=0.05,
)


def test_a_job_under_storms_of_preemption_ends_with_every_record_counted_once():
    cluster = SimulatedCluster(SMALL)
    cluster.run()
    assert {"cut off", "one by one", "in storms", "parameter servers"} <= set(cluster.deaths)
    assert cluster.num_checkpoints > 2
    assert cluster.membership.relaunches >= sum(cluster.deaths.values()) / 2
    assert cluster.granted_records > SMALL.records  # Tasks changed hands.


def test_the_same_seed_is_the_same_story():
    first, second = SimulatedCluster(SMALL), SimulatedCluster(SMALL)
    first.run()
    second.run()
    assert (first.now, first.deaths, first.events) == (second.now, second.deaths, second.events)


def test_a_minibatch_that_is_applied_twice_is_found():
    class Forgetful(SimulatedCluster):
        def _apply(self, work, upto):
            self._reached.pop(work.task.id, None)  # The groups forget what they have.
            super()._apply(work, upto)

    with pytest.raises(AssertionError, match="lost or applied twice"):
        Forgetful(SMALL).run()


def test_the_command_prints_and_writes_its_figures(capsys, monkeypatch, tmp_path):
    output = tmp_path / "figures" / "scheduler.json"
    sizes = ["--workers=20", "--partitions=2", "--records=300000", "--storms=1"]
    sizes += ["--lease_rounds=1", "--lease_workers=20"]
    monkeypatch.setattr(sys, "argv", ["scheduler", *sizes, f"--json={output}"])
    scheduler.main()
    shown = capsys.readouterr().out
    assert "0 records lost" in shown
    figures = json.loads(output.read_text())
    assert figures["settings"]["workers"] == 20
    assert figures["events_per_s"] > 0
    assert figures["costs"]["ledger LeaseRequested"]["count"] > 0
