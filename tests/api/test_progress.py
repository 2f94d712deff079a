"""What a person sees while a job runs and when it has ended."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from elasticdl.api.commands.job import resolve, result_lines
from elasticdl.api.live_view import (
    MOST_EVENTS,
    OTHER_LINES,
    LastEvents,
    happened,
    instances,
    kept,
    trend,
)
from elasticdl.api.progress import PlainProgress, open_progress, status_line
from elasticdl.api.result import JobResult, JobStatus, audit_line
from elasticdl.dashboard.events import JobEvent
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.exits import End
from elasticdl.master.membership_events import Registered
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import Masters

RUNNING = JobStatus(
    state="training",
    epoch=2,
    num_epochs=3,
    records_done=27_136,
    records_expected=45_000,
    loss=0.21344,
    records_per_s=1234.5,
    workers=2,
    num_workers=2,
    ps=2,
)

AUDIT = {
    "records_expected": 45_000,
    "applied_once": {0: 45_000, 1: 45_000},
    "repeats_dropped": 128,
    "filtered": 0,
    "skipped": 0,
    "lost": 0,
    "tasks": 12,
    "groups": 64,
    "relaunches": 1,
}


def test_a_status_line_says_where_the_job_stands() -> None:
    assert status_line(RUNNING) == (
        "training, epoch 2 of 3: 27,136 of 45,000 records (60 %), 1,234 records/s, loss 0.2134, "
        "2 workers, 2 PS, 14 s left"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 1}, "1 of 2 workers"),
        ({"workers": 1, "num_workers": 1}, "1 worker,"),
        ({"workers": 0}, "0 of 2 workers"),
        ({"records_per_s": 10.0}, "29 min 46 s left"),
        ({"records_per_s": 1.0}, "4 h 57 min left"),
        ({"records_per_s": 10.0, "records_to_repeat": 600}, "30 min 46 s left"),
        ({"records_to_repeat": 1200}, ", 1,200 to train again, "),
        ({"num_epochs": 1, "epoch": 1}, "training: "),
    ],
)
def test_a_status_line_says_what_is_missing(changes: dict[str, object], said: str) -> None:
    assert said in status_line(replace(RUNNING, **changes))  # type: ignore[arg-type]


def test_a_job_that_has_not_begun_has_no_speed_loss_or_time_left() -> None:
    line = status_line(JobStatus(state="starting", records_expected=10))
    assert line == "starting: 0 of 10 records (0 %)"


def test_plain_progress_prints_every_few_seconds_and_at_each_message() -> None:
    stream, time = io.StringIO(), [0.0]
    progress = PlainProgress(stream, clock=lambda: time[0])
    lost = replace(RUNNING, message="worker 1 was lost; its task is leased again")
    progress.show(JobStatus(state="starting"))
    assert stream.getvalue() == ""
    for time[0] in (0.0, 1.0, 4.9):
        progress.show(RUNNING)
    assert stream.getvalue().count("\n") == 1
    progress.show(lost)
    progress.show(lost)
    assert stream.getvalue().endswith("worker 1 was lost; its task is leased again\n")
    assert stream.getvalue().count("\n") == 2
    time[0] = 5.0
    progress.show(replace(lost, evaluation={"accuracy": 0.95}))
    assert "evaluation: accuracy 0.9500\n" in stream.getvalue()
    assert stream.getvalue().count("\n") == 4
    progress.show(RUNNING)
    progress.show(lost)
    assert stream.getvalue().count("was lost") == 2


def test_progress_goes_to_stderr_when_json_goes_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_progress(JobSpec(print_json=True)) as show:
        show(RUNNING)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "27,136 of 45,000" in printed.err


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(JobSpec(quiet=True)) as show:
        show(replace(RUNNING, message="news"))
    assert capsys.readouterr() == ("", "")


def on_a_terminal(code: str, columns: int = 100, lines: int = 24) -> str:
    """What a program draws on a real terminal, its last view included."""
    control, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        while select.select([control], [], [], 60)[0]:
            try:
                piece = os.read(control, 4096)
            except OSError:  # the other side has closed
                break
            shown += piece
        assert process.wait() == 0
    os.close(control)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_gets_a_live_view_and_the_messages_above_it(columns: int) -> None:
    code = """
from dataclasses import replace
from tests.api.test_progress import RUNNING, JobSpec, open_progress
instances = (
    ("master", 0, 1, "running"), ("worker", 0, 1, "running"), ("worker", 1, 2, "launching"),
    ("ps", 0, 1, "running"), ("ps", 1, 1, "running"),
)
status = replace(RUNNING, instances=instances, dashboard="http://127.0.0.1:8080/")
with open_progress(JobSpec()) as show:
    show(replace(RUNNING, records_expected=0, state="starting"))
    show(status)
    show(replace(status, message="worker 1 was lost [at once]"))
    show(replace(status, loss=0.1))
"""
    shown = on_a_terminal(code, columns)
    assert re.search(r"\d\d:\d\d:\d\d worker 1 was lost \[at once\]\r\n", shown)
    assert "training, epoch 2 of 3" in shown
    assert "27,136 of 45,000 (60 %)" in shown
    last = shown.rpartition("training, epoch 2 of 3")[2]
    told = " ".join(last.split())
    assert "1,234 records/s, loss 0.1000, 2 workers, 2 PS, 14 s left" in told
    assert "loss █▁" in told
    assert re.search(r"workers +1 running, 1 \(life 2\) launching", last)
    assert re.search(r"parameter servers +2 running", last)
    assert re.search(r"dashboard +http://127.0.0.1:8080/", last)


def test_what_happened_last_stays_in_the_view(tmp_path) -> None:
    masters = Masters(tmp_path)
    master = masters.next()
    master.register(Registered(PS, "here:1", 1))
    master.register(Registered(WORKER, "", 2))
    for number in range(1, 9):
        master.scale(number)
    masters.backend.tell(InstanceEnded(WORKER, End.of_exit_code(-9)))
    masters.kill()
    code = f"""
from dataclasses import replace
from tests.api.test_progress import RUNNING, JobSpec, open_progress
with open_progress(JobSpec(job_dir={str(tmp_path)!r})) as show:
    show(RUNNING)
    show(replace(RUNNING, message="worker 0 was lost"))
    show(replace(RUNNING, loss=0.1))
"""
    last = on_a_terminal(code).rpartition("training, epoch 2 of 3")[2]
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last).splitlines()]
    said = [line for line in lines if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(said) == MOST_EVENTS
    assert re.search(r" death +worker 0, incarnation 1: killed by SIGKILL$", said[-1])
    assert all(re.search(r" rescale +\d workers are wanted$", line) for line in said[:-1])
    low = on_a_terminal(code, lines=OTHER_LINES + 2).rpartition("training, epoch 2 of 3")[2]
    assert len(re.findall(r"\d\d:\d\d:\d\d ", low)) == 2, "a low terminal has fewer"
    assert re.search(r":\d\d death +worker 0, inc.*…\r", on_a_terminal(code, columns=40))


def happening(number: int, mark: str | None, text: str = "") -> JobEvent:
    return JobEvent(number, 0.0, "kind", text, {}, mark)


def test_a_death_stays_in_the_view_while_checkpoints_and_evaluations_come() -> None:
    latest: list[JobEvent] = []
    marks = ["join", "death", "join", *["checkpoint", "evaluation", None] * 50]
    for number, mark in enumerate(marks):
        latest = kept(latest, happening(number, mark))
    assert [one.mark for one in latest] == ["join", "death", "join", "checkpoint", "evaluation"]
    assert [one.number for one in latest] == [0, 1, 2, 150, 151], "of each the latest"
    for number in range(200, 210):
        latest = kept(latest, happening(number, "death"))
    assert [one.number for one in latest] == [205, 206, 207, 208, 209]


def test_a_line_says_the_kind_of_event_once() -> None:
    said = [happening(1, "checkpoint", "checkpoint 2 at step 9"), happening(2, "death", "worker 0")]
    assert [re.sub(r"^\S+ ", "", line.plain) for line in happened(said)] == [
        "checkpoint 2 at step 9",
        "death      worker 0",
    ]


def test_a_job_that_has_no_journal_so_far_has_no_events(tmp_path) -> None:
    assert LastEvents(tmp_path).look() == []


def test_of_many_instances_those_that_do_not_run_are_named() -> None:
    many = [("worker", n, 1, "running") for n in range(90)]
    many += [("worker", n, 2, "launching") for n in range(90, 100)]
    told = instances(replace(RUNNING, instances=many), "worker")
    assert told is not None
    assert told.plain.startswith("90 running, 90 (life 2) launching, 91 ")
    assert told.plain.endswith(", 4 more")
    assert instances(RUNNING, "worker") is None


def test_the_loss_is_drawn_also_where_it_is_no_number() -> None:
    assert trend([4.0, 3.0, float("nan"), 1.0]) == "█▆ ▁"
    assert trend([1.0, 1.0]) == "▁▁"
    assert trend([float("inf")]) == ""


def test_the_audit_is_one_line() -> None:
    assert audit_line(AUDIT) == (
        "audit: 45,000 records expected, 45,000 applied once on each of 2 partitions, "
        "0 filtered, 0 skipped, 128 repeats dropped, 0 lost"
    )


def test_the_audit_line_shows_partitions_that_differ() -> None:
    # Partition indices are strings once the audit has been JSON.
    line = audit_line({**AUDIT, "applied_once": {"0": 45_000, "10": 44_000, "9": 45_000}})
    assert "applied once: 45,000 on partition 0, 45,000 on partition 9, 44,000 on partition 10" in (
        line
    )


def test_the_audit_line_of_a_job_that_applies_nothing_counts_records() -> None:
    assert "500 counted once" in audit_line(
        {**AUDIT, "applied_once": {}, "records_expected": 500, "repeats_dropped": 0}
    )


def trained(**changes: object) -> JobResult:
    result = JobResult(
        job_name="mnist-1",
        job_dir="/jobs/mnist-1",
        metrics={"accuracy": 0.97204, "loss": 0.1},
        audit=AUDIT,
        output=f"{os.getcwd()}/output",
    )
    return replace(result, **changes)  # type: ignore[arg-type]


TRAIN = ["--model_zoo=zoo", "--model_def=a.B", "--data=a.recordio", "--output=output"]


def test_training_ends_with_metrics_audit_path_and_next_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/elasticdl"])
    words = [*TRAIN, "--validation_data=test 1.recordio,/data/*.recordio"]
    assert result_lines(resolve("train", words), trained()) == [
        "on validation data: accuracy 0.9720, loss 0.1000",
        audit_line(AUDIT),
        "trained model: output",
        "next: elasticdl predict --trained_model=output "
        "--data='test 1.recordio,/data/*.recordio' --output=predictions.csv",
    ]


def test_the_next_command_of_a_job_of_pods_is_one_of_pods(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/elasticdl"])
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path))
    volume = "claim_name=data,mount_path=/data"
    words = [*TRAIN[:2], "--data=/data/*.recordio", "--output=/data/it/model", "--job_name=m-1"]
    words += ["--cluster=kubernetes", "--namespace=training", f"--volume={volume}"]
    spec = resolve("train", words)
    image = f"registry/m@sha256:{64 * '0'}"
    spec.model_copy(update={"image": image}).save(tmp_path / "jobs" / "m-1")
    result = trained(output="/data/it/model")
    predict = (
        "predict --trained_model=/data/it/model --data='/data/*.recordio' "
        f"--output=/data/it/predictions.csv --image={image}"
    )
    place = f"--cluster=kubernetes --namespace=training --volume={volume}"
    assert (
        result_lines(spec, result)[-1] == f"next: elasticdl {predict.replace(' ', f' {place} ', 1)}"
    )

    # What this machine's configuration says need not be said again.
    config = tmp_path / "elasticdl" / "config.yaml"
    config.parent.mkdir()
    config.write_text(f"cluster: kubernetes\nnamespace: training\nvolume: ['{volume}']\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert result_lines(spec, result)[-1] == f"next: elasticdl {predict}"


def test_training_without_validation_data_ends_with_the_training_loss() -> None:
    result = trained(metrics={}, history=[{"epoch": 1, "loss": 0.5}])
    assert result_lines(resolve("train", TRAIN), result)[0] == "loss 0.5000 (training, last epoch)"


def test_a_result_is_valid_json_even_with_a_loss_that_is_not_a_number() -> None:
    result = trained(metrics={"loss": float("nan")}, history=[{"loss": float("inf")}])
    read = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert read["metrics"] == {"loss": None}
    assert read["audit"]["applied_once"] == {"0": 45_000, "1": 45_000}


def test_the_next_command_keeps_a_uri_and_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/elasticdl"])
    words = [*TRAIN[:2], "--data=mysql://joe:s3cret@db.example/t", "--output=output"]
    assert (
        "--data='mysql://***@db.example/t'" in result_lines(resolve("train", words), trained())[-1]
    )
