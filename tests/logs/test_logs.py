"""Logs of real processes: one line an event, nothing lost, no larger than they may be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from elasticdl.logs.files import KEPT, end_of_log, find_logs, log_path, piece
from elasticdl.logs.line import LogLine

INSTANCE = """
import logging, os, signal, sys, threading
from pathlib import Path
from elasticdl.logs.line import fields
from elasticdl.logs.writing import Rotation, start_log

path = Path(sys.argv[1])
start_log("worker", 1, 2, logging.INFO)
logger = logging.getLogger("elasticdl.worker.training")
rotation = Rotation(path, 20_000)
"""


def run(path: Path, code: str) -> int:
    """Run an instance with this log to its end; return how it ended."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as log:
        return subprocess.run(
            [sys.executable, "-u", "-c", INSTANCE + code, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        ).returncode


@pytest.fixture
def path(tmp_path):
    return log_path(tmp_path, "worker", 1, 2)


def test_an_event_is_one_line_with_time_instance_level_and_fields(path):
    run(
        path,
        'logger.info("task %d\\nbegins", 3, extra=fields(task=3, shard="a b", big="x" * 5000))',
    )
    (text,) = path.read_text().splitlines()
    written = json.loads(text)
    assert datetime.fromisoformat(written.pop("time")).tzinfo is not None
    assert written == {
        "role": "worker",
        "index": 1,
        "incarnation": 2,
        "level": "INFO",
        "event": "task 3\nbegins",
        "logger": "worker.training",
        "fields": {"task": 3, "shard": "a b"},
    }
    shown = str(LogLine.of_line(text))
    assert '  worker-1.2  INFO      task 3\nbegins  task=3 shard="a b"' in shown


def test_no_password_is_in_what_is_logged_nor_in_what_is_read_of_what_was_printed(path, tmp_path):
    code = """
address = "mysql://joe:s3cret@db/t"
logger.info("reading %s", address, extra=fields(data=address, api_key="s3cret"))
print("connected to", address)
try:
    raise OSError(f"{address}: no answer")
except OSError as error:
    logger.exception("failed")
"""
    run(path, code)
    logged = [line for line in path.read_text().splitlines() if line.startswith("{")]
    assert len(logged) == 2
    assert "s3cret" not in "".join(logged)
    assert json.loads(logged[0])["fields"] == {"data": "mysql://***@db/t", "api_key": "***"}
    (log,) = find_logs(tmp_path)
    lines = [str(line) for line in log.lines()]
    assert any("connected to mysql://***@db/t" in line for line in lines)
    assert "s3cret" not in "".join(lines)
    assert "s3cret" not in end_of_log(path)


def test_stacks_that_an_error_announces_are_told_with_it(path, tmp_path):
    code = """
import faulthandler
logger.error("this worker is ended. The stacks of all threads:")
faulthandler.dump_traceback()
logger.info("that is all")
"""
    run(path, code)
    (log,) = find_logs(tmp_path)
    error = log.first_error()
    assert error is not None
    assert error.event.endswith("The stacks of all threads:")
    assert 'File "<string>"' in error.traceback
    assert "that is all" not in error.traceback


def test_what_the_model_prints_stands_beside_events_even_on_their_line(path, tmp_path):
    run(
        path, 'print("loss is", end=" "); logger.info("x"); print(0.5); os.write(2, b"raw\\xff\\n")'
    )
    (log,) = find_logs(tmp_path)
    lines = list(log.lines())
    assert [(one.level, one.event) for one in lines] == [
        ("OUTPUT", "loss is "),
        ("INFO", "x"),
        ("OUTPUT", "0.5"),
        ("OUTPUT", "raw\ufffd"),
    ]
    assert {(one.role, one.index, one.incarnation) for one in lines} == {("worker", 1, 2)}
    assert lines[2].time == lines[1].time != ""


def test_a_log_is_set_aside_and_an_instance_that_is_killed_loses_nothing(path, tmp_path):
    code = """
looked = threading.Condition()

def print_all(first):
    for number in range(first, 2000, 2):
        sys.stdout.write(f"number {number} {'x' * 20}\\n")
        if number % 100 < 2:
            os.system(f"echo child {number}")
            with looked:
                looked.wait(20)  # However late it is looked, no more than so much is written.

all_of_them = [threading.Thread(target=print_all, args=(first,)) for first in (0, 1)]
for one in all_of_them:
    one.start()
while any(one.is_alive() for one in all_of_them):
    rotation.look()
    with looked:
        looked.notify_all()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(path, code) == -signal.SIGKILL
    (log,) = find_logs(tmp_path, role="worker", index=1)
    assert len(log.pieces()) > 2
    numbers = sorted(
        int(one.event.split()[1]) for one in log.lines() if one.event.startswith("number")
    )
    assert numbers == list(range(2000))
    assert sum(one.event.startswith("child") for one in log.lines()) == 40
    assert all(one.stat().st_size < 40_000 for one in log.pieces())


def test_only_some_pieces_are_kept_and_still_the_first_error(path, tmp_path):
    code = """
logger.info("begins")
logger.error("the first error", extra=fields(task=7))
for number in range(20_000):
    if number == 10_000:
        logger.error("another")
    print("line", number, flush=True)
    if number % 500 == 0:
        rotation.look()
"""
    assert run(path, code) == 0
    (log,) = find_logs(tmp_path)
    assert len(log.pieces()) == KEPT + 1
    assert not piece(path, KEPT + 1).exists()
    lines = list(log.lines())
    assert lines[-1].event == "line 19999"
    assert not any(one.event == "begins" for one in lines)
    first = log.first_error()
    assert first is not None
    assert (first.event, first.fields) == ("the first error", {"task": 7})
    assert "the first error  task=7" in end_of_log(path)
    assert end_of_log(path).endswith("line 19999")


@pytest.mark.parametrize(
    ("code", "event", "told"),
    [
        (
            "raise ValueError('bad\\nvalue')",
            "this process ends: ValueError('bad\\nvalue')",
            "line 12",
        ),
        (
            "import traceback\ntry:\n  1/0\nexcept ZeroDivisionError: traceback.print_exc()\n"
            "print('goes on')",
            "ZeroDivisionError: division by zero",
            "line 14",
        ),
        (
            "import faulthandler; faulthandler.enable(); faulthandler._sigsegv()",
            "Fatal Python error: Segmentation fault",
            "most recent call first",
        ),
        (
            "t = threading.Thread(target=lambda: {}['key'], name='reader'); t.start(); t.join()",
            "the thread 'reader' ends: KeyError('key')",
            "KeyError: 'key'",
        ),
    ],
)
def test_the_first_error_is_found_also_where_a_library_printed_it(
    path, tmp_path, code, event, told
):
    run(path, f"print('begins')\n{code}\n")
    (log,) = find_logs(tmp_path)
    first = log.first_error()
    assert first is not None
    assert first.event == event
    assert told in first.traceback
    assert "goes on" not in first.traceback


def test_a_log_without_an_error_has_none(path, tmp_path):
    run(path, "print('no Traceback here')\nlogger.warning('the master is not heard')")
    (log,) = find_logs(tmp_path)
    assert log.first_error() is None


def test_a_log_is_followed_while_it_is_set_aside(path, tmp_path):
    code = """
sys.stdin = open(0)
for number in range(3000):
    print("line", number)
    if number % 300 == 0:
        rotation.look()
print("no end", end="")
"""
    path.parent.mkdir()
    path.touch()
    (log,) = find_logs(tmp_path)
    follower = log.follower()
    with path.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", INSTANCE + code, str(path)], stdout=output, stderr=output
        )
    read: list[str] = []
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        read += [one.event for one in follower.read()]
    read += [one.event for one in [*follower.read(), *follower.rest()]]
    follower.close()
    assert len(log.pieces()) > 1
    assert read == [*(f"line {number}" for number in range(3000)), "no end"]


def test_the_end_of_a_log_reaches_into_older_pieces(path, tmp_path):
    run(path, "for n in range(10): print('old', n)")
    os.replace(path, piece(path, 1))
    run(path, "print('new')")
    (log,) = find_logs(tmp_path)
    assert [one.event for one in log.last_lines(40)] == [*(f"old {n}" for n in range(5, 10)), "new"]
    assert [one.event for one in log.last_lines(3)] == ["ew"]
    assert end_of_log(tmp_path / "logs" / "worker-9.1.log") == ""
