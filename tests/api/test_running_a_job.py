"""From the options to the result: validate, try the model, launch, show how it ended."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import elasticdl
from elasticdl.api import functions
from elasticdl.api.command_line import main
from elasticdl.api.launcher import JobProcess, create_job_dir, launch
from elasticdl.api.preflight import preflight
from elasticdl.api.progress import OnStatus
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.data.recordio import Writer
from elasticdl.errors import JobError, UsageError, UserCodeError
from elasticdl.job_spec import JobSpec
from elasticdl.model.user_code import ModelCodeError

AUDIT = {
    "records_expected": 1,
    "applied_once": {0: 1},
    "repeats_dropped": 0,
    "filtered": 0,
    "skipped": 0,
    "lost": 0,
}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a train command that passes validation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "a.py").write_text("class B: pass\n")
    with Writer(tmp_path / "data.recordio") as writer:
        writer.write(b"record")
    options = {"model_zoo": "zoo", "model_def": "a.B", "data": "data.recordio", "output": "out"}
    return ["train", *(f"--{name}={value}" for name, value in options.items())]


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a launcher and a check that tell what was called in place of the real ones."""
    told: list[str] = []

    def check(job_spec: JobSpec, zygote: socket.socket | None) -> dict[str, object]:
        told.append("preflight")
        shapes = "outputs are of shape (64, 1)"
        return {"warnings": [shapes], "max_steps": 20, "declared_shards": {}}

    def launch(
        job_spec: JobSpec, on_status: OnStatus, process: JobProcess, declared_shards: object
    ) -> JobResult:
        assert not process.has_ended()
        told.append(f"launch for {job_spec.max_steps} steps")
        on_status(JobStatus(state="training", message="worker 1 was lost"))
        return JobResult(
            job_name=job_spec.job_name,
            job_dir=job_spec.job_dir,
            metrics={"accuracy": 0.97},
            audit=AUDIT,
            output=job_spec.output,
        )

    monkeypatch.setattr(functions, "preflight", check)
    monkeypatch.setattr(functions, "launch", launch)
    return told


def test_a_model_is_tried_before_the_job_is_launched(
    words: list[str], story: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert story == ["preflight", "launch for 20 steps"]
    printed = capsys.readouterr().out.splitlines()
    assert "warning: outputs are of shape (64, 1)" in printed
    assert "worker 1 was lost" in printed
    at = {line.partition(":")[0]: number for number, line in enumerate(printed)}
    assert at["dashboard"] < at["warning"], "it is told while the model is checked"
    assert printed[-4] == "on validation data: accuracy 0.9700"
    assert printed[-3].startswith("audit: 1 records expected")
    assert printed[-2] == "trained model: out"
    assert printed[-1].startswith("next: elasticdl predict --trained_model=out")


def test_json_is_all_that_stdout_gets(
    words: list[str], story: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["metrics"] == {"accuracy": 0.97}
    assert "worker 1 was lost" in printed.err


def test_nothing_is_launched_where_something_is_wrong(
    words: list[str], story: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--validation_data=none"]) == 2
    wrong = ["--model_def=a.C" if word == "--model_def=a.B" else word for word in words]
    assert main(wrong) == 2
    printed = capsys.readouterr()
    assert printed.out == "", "no job and no dashboard are told of"
    assert len(printed.err.splitlines()) == 2
    assert story == []
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "out").exists()


def test_functions_take_what_flags_take(words: list[str], story: list[str], tmp_path: Path) -> None:
    result = elasticdl.train(
        model_zoo=tmp_path / "zoo",
        model_def="a.B",
        data=["data.recordio"],
        output="out",
        params={"units": [1, 2]},
        num_epochs=2,
        quiet=True,
    )
    assert isinstance(result, JobResult)
    assert result.metrics == {"accuracy": 0.97}
    assert result.output == f"{tmp_path}/out"
    with pytest.raises(UsageError, match=r"num_epohcs: no such option .* did you mean num_epochs"):
        elasticdl.train(num_epohcs=3)


def test_functions_show_their_options() -> None:
    assert "num_epochs: times to go over the data." in (elasticdl.train.__doc__ or "")
    assert "num_epochs" not in (elasticdl.predict.__doc__ or "")


@pytest.fixture
def check_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the checking process another `elasticdl.worker.check`: this body of its `check`.

    TensorFlow, which takes seconds, is imported on demand only.
    """

    def install(body: str, with_tensorflow: bool = False) -> None:
        code = f"""
import dataclasses, os, sys, types
from elasticdl.errors import JobError, UsageError, UserCodeError
from elasticdl.model.user_code import ModelCodeError

@dataclasses.dataclass
class CheckReport:
    loss: float

    def text(self):
        return "a report"

def check(job_spec):
{textwrap.indent(body, "    ")}

module = types.ModuleType("elasticdl.worker.check")
module.check = check
sys.modules[module.__name__] = module
if not {with_tensorflow}:
    for name in ("devices", "quiet_import", "watchdog", "worker"):
        module = types.ModuleType("elasticdl.worker." + name)
        module.import_tensorflow = lambda devices: None
        sys.modules[module.__name__] = module
"""
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def job_spec(words: list[str]) -> JobSpec:
    given = (word.removeprefix("--").split("=", 1) for word in words[1:])
    return JobSpec.resolve("train", dict(given))


def test_preflight_returns_the_report_and_keeps_stdout_clean(
    words: list[str],
    check_is: Callable[[str], None],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    body = "print('noise'); return CheckReport(loss=float(job_spec.num_epochs))"
    check_is(body, with_tensorflow=True)
    assert preflight(job_spec([*words, "--num_epochs=3"])) == {"loss": 3.0, "text": "a report"}
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "home").exists()


def test_check_prints_the_report(
    words: list[str], check_is: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    check_is("return CheckReport(loss=float('nan'))")
    words = ["check", *(word for word in words[1:] if not word.startswith("--output"))]
    assert main(words) == 0
    assert capsys.readouterr().out == "a report\n"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"loss": None}


@pytest.fixture(params=["forked", "started"])
def ask(
    request: pytest.FixtureRequest, words: list[str]
) -> Iterator[Callable[[], dict[str, object]]]:
    """Has the check of a job run by a process that is forked, or started for it alone."""
    spec = job_spec(words)
    if request.param == "started":
        yield lambda: preflight(spec)
        return

    processes: list[JobProcess] = []

    def forked() -> dict[str, object]:
        processes.append(JobProcess(spec, early=True))
        return preflight(spec, processes[-1].zygote)

    yield forked
    for process in processes:
        assert process.end() == "exit code 0"
    assert list(Path(tempfile.gettempdir()).glob("elasticdl-*")) == []


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("raise UsageError('labels of a wrong shape')", UsageError, "labels of a wrong shape"),
        ("raise JobError('out of memory')", JobError, "out of memory"),
        ("raise UserCodeError('loss raised', 'Traceback')", UserCodeError, "loss raised"),
        ("raise ModelCodeError('loss raised', 'Traceback')", ModelCodeError, "loss raised"),
        ("raise ZeroDivisionError('a bug')", JobError, "(?s)exit 1.*ZeroDivisionError: a bug"),
        ("os.kill(os.getpid(), 9)", JobError, "signal 9"),
    ],
)
def test_what_the_check_finds_is_raised_here(
    ask: Callable[[], object], check_is: Callable[[str], None], body: str, kind: type, said: str
) -> None:
    check_is(body)
    with pytest.raises(kind, match=said) as caught:
        ask()
    assert type(caught.value) is kind
    assert getattr(caught.value, "traceback_text", "Traceback") == "Traceback"


def test_a_modules_name_beside_the_script_hides_nothing(
    words: list[str],
    check_is: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_is("import random; return CheckReport(loss=random.random())")
    (tmp_path / "random.py").write_text("raise RuntimeError('not the random you meant')")
    os.rename(tmp_path / "sitecustomize.py", tmp_path / "zoo" / "sitecustomize.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "zoo"))
    assert 0 <= preflight(job_spec(words))["loss"] < 1


def test_a_script_without_a_main_guard_runs_once(
    words: list[str], check_is: Callable[[str], None], tmp_path: Path
) -> None:
    check_is("raise UsageError('checked')")
    (tmp_path / "script.py").write_text(
        "import elasticdl\nprint('begins')\n"
        "try:\n"
        "    elasticdl.train(model_zoo='zoo', model_def='a.B', data='data.recordio', output='o')\n"
        "except elasticdl.errors.UsageError as error:\n"
        "    print(error)\n"
    )
    home = str(Path(elasticdl.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{home}"}
    ended = subprocess.run(
        [sys.executable, "script.py"], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.count("begins") == 1
    assert ended.stdout.endswith("checked\n")


def test_a_failed_job_says_how_it_goes_on_unless_its_model_would_only_fail_again(
    words, story, monkeypatch, capsys
):
    for error, is_told in (
        (JobError("the supervisor was lost (killed by SIGKILL)"), True),
        (UserCodeError("ValueError: bad"), False),
    ):

        def fail(job_spec: JobSpec, *rest: object, error: JobError = error) -> JobResult:
            Path(job_spec.job_dir).mkdir(parents=True)
            job_spec.save(Path(job_spec.job_dir))
            raise error

        monkeypatch.setattr(functions, "launch", fail)
        assert main([*words, f"--job_name=told-{is_told}"]) == 1
        shown = capsys.readouterr().err
        assert str(error) in shown
        assert ("elasticdl jobs resume told-True goes on with it" in shown) == is_told


@pytest.mark.parametrize("is_there", [False, True])
def test_a_disk_without_room_for_a_job_is_one_line_and_nothing_of_the_job_is_left(
    words: list[str], tmp_path: Path, is_there: bool
) -> None:
    spec = job_spec([*words, f"--job_dir={tmp_path / 'job'}"])
    if is_there:
        (tmp_path / "job").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"job directory '.*/job': File too large; give one"):
            create_job_dir(spec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "job").exists() == is_there
    assert list(tmp_path.glob("job/*")) == []
    create_job_dir(spec)


def test_a_file_that_is_called_as_one_of_the_jobs_is_kept(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "job").write_text("mine")
    spec = job_spec([*words, f"--job_dir={tmp_path}"])
    with pytest.raises(UsageError, match="File exists; give one"):
        create_job_dir(spec)
    assert (tmp_path / "job").read_text() == "mine"
    assert not (tmp_path / "token").exists()


def test_a_lost_job_whose_result_cannot_be_written_is_told_in_one_line(
    words: list[str], tmp_path: Path
) -> None:
    spec = job_spec([*words, f"--job_dir={tmp_path / 'job'}", "--dashboard=false"])
    process = JobProcess(spec)
    os.kill(process._process.pid, signal.SIGKILL)
    (tmp_path / "job" / "result.tmp").mkdir(parents=True)  # Where the result is written first.
    with pytest.raises(JobError, match=r"was lost \(.*; result.json cannot be written: Is a dir"):
        launch(spec, lambda status: None, process)
