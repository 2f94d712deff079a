"""The benchmark of a job's start: what it reads from a job's files."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.start import IMPORT, MILESTONES, milestones, show
from elasticdl.job_spec import JOB_FILE
from elasticdl.master.journal import Journal


def test_milestones_are_the_first_of_each_and_the_last_parameter_server(tmp_path: Path):
    (tmp_path / JOB_FILE).touch()
    os.utime(tmp_path / JOB_FILE, (5.0, 5.0))
    journal = Journal(tmp_path)
    journal.append("job", {})
    for index in range(2):
        journal.append("registered", {"role": "ps", "index": index})
        journal.append("registered", {"role": "worker", "index": index})
    for kind in ("INITIALIZE", "TRAINING", "TRAINING"):
        journal.append("granted", {"kind": kind})
        journal.append("done", {"kind": kind})
    entries = list(journal.entries())
    journal.close()
    found = milestones(tmp_path)
    assert list(found) == list(MILESTONES)
    wanted = [5.0, *(entries[index].time for index in (0, 3, 6, 7, 8))]
    assert list(found.values()) == wanted


def test_the_table_tells_the_start_in_imports(capsys):
    run = {IMPORT: 4.0, f"{IMPORT}_cpu": 4.5, "job_cpu": 10.0, **dict.fromkeys(MILESTONES, 6.0)}
    settings = {"model": "mnist", "num_workers": 2, "num_ps": 2, "runs": 1, "max_steps": 8}
    machine = {"cpu": "a processor", "cores": 2}
    result = {"machine": machine, "settings": settings, "medians": run, "runs": [run]}
    show({**result, "start_in_imports": 1.5})
    shown = capsys.readouterr().out
    assert "first step / import: 1.5" in shown
    assert all(text in shown for text in MILESTONES.values())
