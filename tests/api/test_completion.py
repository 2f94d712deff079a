"""Completion, asked of real shells as a press of the tab key asks."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from elasticdl.api.command_line import COMMANDS, main
from elasticdl.api.completion import describe
from elasticdl.job_spec import options_of

PRESS = r"""
eval "$SCRIPT"
COMP_LINE="$1" COMP_POINT="${#1}" COMP_TYPE=9
%s
_elasticdl
printf '%%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(request):
    """The script of each shell, as the command prints it."""
    found = {}
    capture = request.getfixturevalue("capsys_of_module")
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        found[shell] = capture()
    return found


@pytest.fixture(scope="module")
def capsys_of_module():
    """Reads what was printed since the last time."""
    from _pytest.capture import SysCapture

    capture = SysCapture(1)
    capture.start()
    yield capture.snap
    capture.done()


@pytest.fixture
def home(tmp_path):
    """A home with two jobs, and a directory that is none."""
    for name in ("mnist-1", "mnist-2"):
        (tmp_path / "home" / "jobs" / name).mkdir(parents=True)
        (tmp_path / "home" / "jobs" / name / "job.yaml").touch()
    (tmp_path / "home" / "jobs" / "mnist-none").mkdir()
    (tmp_path / "data file.csv").touch()
    return tmp_path


def press_tab(scripts, home: Path, line: str, before: str = "") -> list[str]:
    """What bash offers after this line."""
    ended = subprocess.run(
        ["bash", "--norc", "-c", PRESS % before, "bash", line],
        env={**os.environ, "SCRIPT": scripts["bash"], "ELASTICDL_HOME": str(home / "home")},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout.split("\n")[:-1] if ended.stdout.strip() else []


def test_every_command_says_what_it_takes():
    for command in COMMANDS:
        known = describe(command)
        assert {"-h", "--help"} <= {name for one in known.options for name in one.names}
    trained = {name for one in describe(COMMANDS[0]).options for name in one.names}
    assert {f"--{name}" for name in options_of("train")} <= trained


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("elasticdl tr", ["train"]),
        ("elasticdl jobs s", ["scale", "status", "stop"]),
        ("elasticdl jobs logs ", ["mnist-1", "mnist-2"]),
        ("elasticdl jobs logs mnist-1 --fo", ["--follow"]),
        ("elasticdl checkpoints list mnist-2", ["mnist-2"]),
        ("elasticdl train --num_ep", ["--num_epochs="]),
        ("elasticdl train --log_level=W", ["WARNING"]),
        ("elasticdl train --quiet=", ["true", "false"]),
        ("elasticdl train --data=dat", ["data file.csv"]),
        ("elasticdl jobs logs mnist-1 --role=p", ["ps"]),
        ("elasticdl completion f", ["fish"]),
        ("elasticdl nosuch --", []),
    ],
)
def test_bash_completes(scripts, home, line, offered):
    assert press_tab(scripts, home, line) == offered


def test_bash_completes_commands_and_keeps_what_stands_before_the_value(scripts, home):
    offered = press_tab(scripts, home, "elasticdl ")
    assert offered == list(dict.fromkeys(command.words[0] for command in COMMANDS))
    line = "elasticdl train --log_level=W"
    whole = press_tab(scripts, home, line, "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}")
    assert whole == ["--log_level=WARNING"]


def test_an_interactive_bash_completes_at_the_tab_key(scripts, home):
    """What the tab key inserts, in a shell on a terminal."""
    import pty
    import select

    (home / "rc").write_text(f"PS1='> '\n{scripts['bash']}\nelasticdl() {{ echo \"ran:$*:\"; }}\n")
    control, terminal = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(home / "rc"), "-i"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "ELASTICDL_HOME": str(home / "home"), "TERM": "dumb"},
        cwd=home,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""

    def wait_for(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            assert select.select([control], [], [], 60)[0], shown
            shown += os.read(control, 4096)

    try:
        wait_for(b"> ")
        os.write(control, b"elasticdl jo\tau\tmnist-\t2 --js\t\n")
        wait_for(b"ran:jobs audit mnist-2 --json:")
        os.write(control, b"elasticdl train --log_l\tWARN\t --num_ep\t3\n")
        wait_for(b"ran:train --log_level=WARNING --num_epochs=3:")
    finally:
        process.kill()
        process.wait()
        os.close(control)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_the_script(scripts, home):
    stub = 'compdef() { :; }; compadd() { print -r -- "add:$*"; }; _files() { print files; }\n'
    stub += "compset() { [[ $1 == -P ]] && PREFIX=${PREFIX#*=}; }\n"
    ask = "words=(elasticdl jobs logs ''); CURRENT=4; PREFIX=''; _elasticdl"
    ask += '; print -r -- "jobs: $(__elasticdl_jobs)"; __elasticdl_values train --log_level'
    ended = subprocess.run(
        ["zsh", "-f", "-c", f"{stub}{scripts['zsh']}\n{ask}"],
        env={**os.environ, "ELASTICDL_HOME": str(home / "home")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    assert "add:-a found" in ended.stdout
    assert "jobs: mnist-1\nmnist-2" in ended.stdout
    assert "DEBUG INFO WARNING ERROR" in ended.stdout


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("elasticdl jobs lo", ["logs"]),
        ("elasticdl jobs logs mnist", ["mnist-1", "mnist-2"]),
        ("elasticdl train --log_level=W", ["--log_level=WARNING"]),
        ("elasticdl train --num_epo", ["--num_epochs"]),
    ],
)
def test_fish_completes(scripts, home, line, offered):
    command = f"{scripts['fish']}\ncomplete -C {shlex.quote(line)}"
    ended = subprocess.run(
        ["fish", "--no-config", "-c", command],
        env={**os.environ, "ELASTICDL_HOME": str(home / "home"), "HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    assert [one.partition("\t")[0] for one in ended.stdout.splitlines()] == offered
