"""What a page shows, run: its files written, its commands called, their output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A job's processes take seconds to start: here it is one process, as with --num_workers=0.
IN_ONE_PROCESS = {"train", "predict", "evaluate"}

Shell = Callable[[str], str]


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page, as (language, text), in their order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    found = [re.match(r"((?:.*\\\n)*.*\n)([\s\S]*)", part) for part in parts]
    return [(match[1], match[2]) for match in found if match]


def masked(line: str) -> str:
    """A line of output without its numbers, which differ from run to run."""
    return re.sub(r"-?\d[\d,.]*(e-?\d+)?", "N", line).strip()


def write_files(page: str, directory: Path) -> list[str]:
    """Write the page's Python files, whose first line is their name; return the names."""
    names = []
    for kind, text in blocks(page):
        name = text.splitlines()[0].removeprefix("# ")
        if kind == "python" and name.endswith(".py"):
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
            names.append(name)
    return names


def run_commands(page: str, shell: Shell) -> int:
    """Run the page's commands; every line shown is one of those printed, numbers aside."""
    count = 0
    for kind, text in blocks(page):
        for command, shown in commands(text) if kind == "console" else []:
            count += 1
            printed = {masked(line) for line in shell(command).splitlines()}
            for line in shown.splitlines():
                assert line == "..." or masked(line) in printed, f"{command}\nno line: {line}"
    return count


def make_shell(directory: Path, programs: Path, home: Path) -> Shell:
    """Return what runs a command in a directory, with this Python and this package on the path."""
    programs.mkdir()
    for name, arguments in {"python": "", "elasticdl": "-m elasticdl.api"}.items():
        only = " | ".join(sorted(IN_ONE_PROCESS))
        script = f'exec "{sys.executable}" {arguments} "$@"'
        if name == "elasticdl":
            script = f'case "$1" in {only}) set -- "$@" --num_workers=0;; esac\n{script}'
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ELASTICDL_HOME": str(home),
    }

    def run(command: str) -> str:
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    return run
