"""A job's first instances import while its model is checked, and do nothing until it is there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from elasticdl.api.launcher import JobProcess
from elasticdl.cores import usable_cores
from elasticdl.job_spec import JobSpec
from tests.job.real_jobs import wait_until


def early_instances(job_dir: Path) -> dict[str, psutil.Process]:
    """Those of a job, by role and index; and what workers are forked from."""
    found = {}
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if f"--job_dir={job_dir} " not in line:
            continue
        if line.endswith("--early"):
            role = re.search(r"-m elasticdl\.(\w+) ", line)[1]
            found[f"{role}-{re.search('--index=([0-9]+)', line)[1]}"] = process
        elif "-m elasticdl.api.zygote " in line:
            found["zygote"] = process
    return found


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    return JobSpec(command="train", job_dir=str(tmp_path / "job"), num_ps=1, num_workers=1)


def test_instances_import_in_turn_and_nothing_is_written_or_left_where_no_job_comes(spec):
    process = JobProcess(spec, early=True)
    try:
        seen = wait_until(
            "all three instances",
            lambda: len(found := early_instances(Path(spec.job_dir))) == 3 and found,
        )
        assert sorted(seen) == ["master-0", "ps-0", "zygote"]
        assert seen["zygote"].create_time() <= seen["master-0"].create_time()
        if usable_cores() <= 2:  # One at a time.
            assert seen["master-0"].create_time() < seen["ps-0"].create_time()
        assert not Path(spec.job_dir).exists()
    finally:
        assert process.end() == "exit code 0"
    assert early_instances(Path(spec.job_dir)) == {}
    assert not Path(spec.job_dir).exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_early_instances_end_with_a_launcher_that_is_killed_during_the_check(tmp_path, how):
    job_dir = tmp_path / "job"
    code = (
        "import time; from elasticdl.api.launcher import JobProcess; "
        "from elasticdl.job_spec import JobSpec; "
        f"JobProcess(JobSpec(command='train', job_dir={str(job_dir)!r}), early=True); "
        "time.sleep(600)"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    launcher = subprocess.Popen([sys.executable, "-c", code], env=environment)
    wait_until("an early instance", lambda: "master-0" in early_instances(job_dir))
    assert list(temporary.iterdir())
    os.kill(launcher.pid, how)
    launcher.wait()
    wait_until("the end of all", lambda: not early_instances(job_dir), deadline_s=30)
    wait_until("no file to be left", lambda: not list(temporary.iterdir()), deadline_s=30)
