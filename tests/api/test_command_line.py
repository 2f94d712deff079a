"""The command line: commands, flags, help, errors and exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from elasticdl.api import command_line, functions
from elasticdl.api.command_line import COMMANDS, main
from elasticdl.api.commands import Command
from elasticdl.api.commands.job import resolve
from elasticdl.errors import JobError, UserCodeError
from elasticdl.job_spec import JobSpec, options_of

JOB_COMMANDS = ("train", "evaluate", "predict", "check")


def errors_of(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; return what it printed on stderr."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err.rstrip("\n")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_shows_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name} " in shown
        assert command.summary in shown


def test_a_group_alone_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    assert "jobs audit" in shown
    assert "data convert" not in shown


@pytest.mark.parametrize("name", JOB_COMMANDS)
def test_help_shows_every_option_once_with_its_default(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    for one in options_of(name).values():
        assert len(re.findall(rf"\n  --{one.name}\b", shown)) == 1
        assert f"\n{one.group}:" in shown
    assert "(default: 64)" in shown
    assert "(required)" in shown
    assert "Examples:" in shown
    assert "traceback" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.words, "--help"]) == 0
    assert f"Usage: elasticdl {command.name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["tarin"], "elasticdl: error: 'tarin': no such command; did you mean elasticdl train?"),
        (["jobs", "aduit"], "'jobs aduit': no such command; did you mean elasticdl jobs audit?"),
        (["xyzzy"], "'xyzzy': no such command; elasticdl --help lists them"),
        (["train"], "elasticdl train: error: `train` needs --model_zoo, --model_def, --data"),
        (["train", "--num_epohcs=3"], "--num_epohcs: no such option of `train`; did you mean"),
        (["train", "--num_ep=3"], "--num_ep: no such option of `train`; did you mean --num_epochs"),
        (["train", "--num_epochs=abc"], "needs --model_zoo"),
        (["train", "--num_epochs"], "--num_epochs: has no value; give --num_epochs=N"),
        (["train", "--seed=1", "--seed=2"], "--seed: given twice"),
        (["train", "--data=a", "b.recordio"], "'b.recordio': unexpected; options start with --"),
        (["evaluate", "--num_epochs=3"], "`evaluate` does not take it (`train` does)"),
        (["train", "-x"], "error: -x: no such option of `train`"),
        (
            ["train", "--no-shuffle"],
            "--no-shuffle: no such option of `train`; did you mean --shuffle=false?",
        ),
        (["jobs", "audit"], "`jobs audit` needs JOB"),
        (
            ["jobs", "audit", "--jsn", "a"],
            "--jsn: no such option of `jobs audit`; did you mean --json",
        ),
        (["jobs", "scale", "a"], "`jobs scale` needs --num_workers"),
        (["jobs", "scale", "a", "--num_workers=x"], "--num_workers='x': not a whole number"),
        (
            ["jobs", "logs", "a", f"--lines={'9' * 20}"],
            "not a whole number from 1 to 1000000000; e.g.",
        ),
        (["jobs", "wait", "a", f"--timeout={'9' * 400}"], f"--timeout='{'9' * 40}…': not a whole"),
        (["jobs", "logs", "a", f"--index={'9' * 5000}"], "not a whole number from 0 to"),
        (["jobs", "logs", "a", "--lines=0"], "--lines='0': not a whole number from 1"),
        (
            ["data", "convert", "a", "--output=b", f"--num_shards={'9' * 5000}"],
            "not a whole number",
        ),
        (
            ["jobs", "dashboard", "a", "--port=99999999"],
            "--port='99999999': not a whole number from",
        ),
        (["data", "convert", "a.csv"], "needs --output"),
        (["data", "convert", "a.csv", "--output=a", "--num_shards=x"], "--num_shards='x'"),
        (["data", "convert", "a.csv", "--output=a", "--column_types=x"], "--column_types='x'"),
        (["data", "inspect"], "`data inspect` needs FILE"),
        (["data", "inspect", "/none.recordio"], "'/none.recordio': no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in errors_of(words, capsys)


def _raising(error: BaseException) -> Command:
    def run(words: Sequence[str]) -> None:
        raise error

    return Command(("fail",), "fail", run)


@pytest.mark.parametrize(
    ("error", "exit_code", "shown"),
    [
        (JobError("disk full"), 1, "elasticdl fail: error: disk full\n"),
        (UserCodeError("loss raised", "Traceback: mine\n"), 1, None),
        (KeyboardInterrupt(), 130, "elasticdl fail: stopped\n"),
        (SystemExit(143), 143, "elasticdl fail: stopped\n"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException,
    exit_code: int,
    shown: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_line, "COMMANDS", [_raising(error)])
    assert main(["fail"]) == exit_code
    expected = "Traceback: mine\nelasticdl fail: error: loss raised\n" if shown is None else shown
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("switch", ["shuffle", "overwrite", "quiet"])
def test_every_switch_may_stand_alone_or_have_a_value(switch: str) -> None:
    words = ["--model_zoo=zoo", "--model_def=a.B", "--data=a", "--output=o"]
    for typed, value in ((switch, True), (f"{switch}=true", True), (f"{switch}=false", False)):
        assert getattr(resolve("train", [*words, f"--{typed}"]), switch) is value


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["elasticdl.api.commands", "elasticdl.api.functions"])
def test_a_stop_in_the_middle_of_an_import_is_one_line(
    number: int, exit_code: int, where: str
) -> None:
    code = f"""
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
real = builtins.__import__
def importing(name, *rest):
    if name == {where!r}:
        os.kill(os.getpid(), {int(number)})
    return real(name, *rest)
builtins.__import__ = importing
sys.argv = ["elasticdl", "evaluate", "--trained_model=none", "--data=none"]
from elasticdl.api.command_line import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.stderr == "elasticdl evaluate: stopped\n"
    assert ended.returncode == exit_code


@pytest.mark.parametrize("launched", [True, False])
def test_a_stopped_job_says_where_it_is(
    launched: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(job_spec: JobSpec) -> None:
        if launched:
            job_spec.save()
        raise KeyboardInterrupt

    monkeypatch.setattr(functions, "validate", interrupted)
    words = ["--trained_model=a", "--data=a", "--job_name=mine", f"--job_dir={tmp_path}/job"]
    assert main(["evaluate", *words]) == 130
    there = f"job mine is in {tmp_path}/job; elasticdl jobs resume {tmp_path}/job goes on with it"
    what = there if launched else "nothing was launched"
    assert capsys.readouterr().err == f"elasticdl evaluate: stopped; {what}\n"


def test_debug_shows_our_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "COMMANDS", [_raising(JobError("disk full"))])
    assert main(["fail", "--debug"]) == 1
    assert "test_command_line.py" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["train", "--help"], ["--version"]])
def test_a_reader_that_goes_away_is_met_with_silence(words: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "elasticdl.api", *words]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert ended.stderr == b""
    assert ended.returncode in (0, 141)


def run_python(code: str) -> str:
    """Run code in a fresh interpreter; return what it printed."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_the_package_is_cheap() -> None:
    code = """
import sys, time
start = time.process_time()
import elasticdl
print(time.process_time() - start)
heavy = {"tensorflow", "keras", "numba", "grpc", "numpy", "pyarrow", "pydantic", "rich"}
print(sorted(heavy & set(sys.modules)))
print(sorted(set(elasticdl.__all__) - set(dir(elasticdl))))
"""
    seconds, heavy, hidden = run_python(code).splitlines()
    assert float(seconds) < 0.3
    assert heavy == "[]"
    assert hidden == "[]"


def test_the_command_line_starts_without_tensorflow_numba_or_grpc() -> None:
    code = """
import sys
from elasticdl.api.command_line import main
sys.stdout, out = __import__("io").StringIO(), sys.stdout
main(["train", "--help"])
print(sorted({"tensorflow", "keras", "numba", "grpc", "rich"} & set(sys.modules)), file=out)
"""
    assert run_python(code).strip() == "[]"


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"elasticdl {project['version']}\n"


def test_a_name_the_package_lacks_is_an_attribute_error() -> None:
    import elasticdl

    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        elasticdl.trian  # noqa: B018


def test_files_are_converted_and_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("id,price\n1,2.5\n2,3.5\n")
    output = tmp_path / "a.recordio"
    assert main(["data", "convert", f"{tmp_path}/a.csv", f"--output={output}"]) == 0
    assert "2 records" in capsys.readouterr().out
    assert main(["data", "inspect", str(output), "--json"]) == 0
    assert '"num_records": 2' in capsys.readouterr().out
    assert main(["data", "convert", f"{tmp_path}/a.csv", f"--output={output}"]) == 2
    assert main(["data", "convert", f"{tmp_path}/a.csv", f"--output={output}", "--overwrite"]) == 0
