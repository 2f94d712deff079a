"""A disk that is full under the checkpoints for a while, and a job that does not mind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.api.events import events
from elasticdl.ps.manifest import committed, numbers_in, verify
from tests.job.real_jobs import wait_until

SIZE_BYTES = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; only root can mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(place)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            os.fsync(file.fileno())


@pytest.mark.skipif("CHAOS_SECS" not in os.environ, reason="a part of make chaos")
@pytest.mark.timeout(1800)
def test_checkpoints_fail_aloud_on_a_full_disk_training_goes_on_and_so_do_they_later(
    start, small_disk
):
    root = small_disk / "checkpoints"
    job = start(
        "--num_epochs=60",
        "--records_per_task=80",
        "--checkpoint_steps=100",
        "--keep_checkpoints=2",
        f"--checkpoint_dir={root}",
        records=2000,
    )
    wait_until("two checkpoints", lambda: len(committed(root)) == 2)
    fill(small_disk / "filler")
    before = committed(root)

    def failures() -> list[str]:
        return [one.text for one in events(str(job.directory)) if "failed" in one.kind]

    (failure, *_) = wait_until("a checkpoint to fail", failures)
    assert "No space left on device" in failure
    assert not verify(before[-1]), "what was committed stays"
    done = job.records_done()
    wait_until("training to go on", lambda: job.records_done() > done)
    (small_disk / "filler").unlink()
    after = max(numbers_in(root), default=0)
    wait_until(
        "checkpoints to go on", lambda: committed(root) and int(committed(root)[-1].name) > after
    )
    assert job.process.wait(900) == 0, job.terminal()
    job.assert_nothing_is_left()
    assert "No space left on device" in job.terminal()
    whole = committed(root)
    assert whole
    assert [verify(one) for one in whole] == [[]] * len(whole)
    audit = jobs.audit(str(job.directory))
    assert audit["applied_once"] == {"0": 60 * job.records, "1": 60 * job.records}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    assert json.loads((job.directory / "result.json").read_text())["state"] == "succeeded"
