"""The first process of a pod's container, with real children."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from elasticdl.api.pod import exit_code, keras_of, oom_kills

_PARENT = """
import os, sys
from elasticdl.api.pod import Parent, exit_code, run_again
command = [sys.executable, "-c", sys.argv[2]]
from elasticdl.instance import adopt_orphans
adopt_orphans()
parent = Parent()
run = run_again if sys.argv[1] == "master" else Parent.run
sys.exit(exit_code(run(parent, command, dict(os.environ))))
"""


def start(child: str, role: str = "worker") -> subprocess.Popen[str]:
    """Start a parent whose child runs this code."""
    command = [sys.executable, "-c", _PARENT, role, textwrap.dedent(child)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode


def wait_for(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("child", "code"),
    [
        ("import sys; sys.exit(7)", 7),
        ("pass", 0),
        ("import os; os.abort()", 128 + signal.SIGABRT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_a_container_ends_as_its_process_did(child: str, code: int) -> None:
    assert ended(start(child)) == code


def test_sigterm_reaches_the_process_which_may_take_its_time(tmp_path: Path) -> None:
    process = start(
        f"""
        import pathlib, signal, sys, time
        there = pathlib.Path({str(tmp_path)!r})
        def leave(*_):
            time.sleep(0.3)
            (there / "left").touch()
            sys.exit(3)
        signal.signal(signal.SIGTERM, leave)
        (there / "ready").touch()
        signal.pause()
        """
    )
    wait_for(lambda: (tmp_path / "ready").exists())
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 3
    assert (tmp_path / "left").exists()


def test_who_lost_its_own_parent_leaves_no_zombie(tmp_path: Path) -> None:
    process = start(
        f"""
        import pathlib, subprocess, sys
        # Ends at once; what it started outlives it, and ends as well.
        subprocess.run(["sh", "-c", "sleep 0.2 & echo $! > {tmp_path}/orphan"])
        pathlib.Path("{tmp_path}/ready").touch()
        sys.stdin.read()
        """
    )
    wait_for(lambda: (tmp_path / "ready").exists())
    orphan = int((tmp_path / "orphan").read_text())
    wait_for(lambda: not psutil.pid_exists(orphan))
    assert ended(process) == 0


def test_a_master_that_crashes_is_started_again_and_told_how_the_last_one_ended(
    tmp_path: Path,
) -> None:
    process = start(
        f"""
        import os, pathlib, sys
        told = pathlib.Path("{tmp_path}/told")
        lives = told.read_text().split() if told.exists() else []
        lives.append(os.environ.get("ELASTICDL_MASTER_ENDED", "first"))
        told.write_text(" ".join(lives))
        if len(lives) == 2:
            os.abort()
        sys.exit([5, None, 0][len(lives) - 1])
        """,
        role="master",
    )
    assert ended(process) == 0
    assert (tmp_path / "told").read_text().split() == ["first", "5", str(-signal.SIGABRT)]


def test_a_master_that_stepped_down_is_not_started_again_here(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    child = f"import sys; open({str(lives)!r}, 'a').write('x'); sys.exit(143)"
    assert ended(start(child, role="master")) == 143
    assert lives.read_text() == "x"


def test_a_master_that_was_told_to_go_is_not_started_again_here(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    child = f"import signal; open({str(lives)!r}, 'a').write('x'); signal.pause()"
    process = start(child, role="master")
    wait_for(lambda: lives.exists() and lives.read_text())
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 128 + signal.SIGTERM
    assert lives.read_text() == "x"


@pytest.mark.parametrize(
    "text",
    ["low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"],
)
def test_processes_that_had_no_memory_are_counted(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory").write_text(text)
    assert oom_kills([tmp_path / "none", tmp_path / "memory"]) == 2
    assert oom_kills([tmp_path / "none"]) == 0


def test_the_check_says_which_keras_where_the_job_does_not(tmp_path: Path) -> None:
    assert keras_of(tmp_path) is None
    (tmp_path / "job.yaml").write_text("command: train\nkeras: null\n")
    assert keras_of(tmp_path) is None
    (tmp_path / "checked.yaml").write_text("keras: legacy\n")
    assert keras_of(tmp_path) == "legacy"


def test_an_exit_code_says_which_signal() -> None:
    assert [exit_code(code) for code in (0, 1, 77, -9, -15)] == [0, 1, 77, 137, 143]
