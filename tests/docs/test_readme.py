"""The README's own words, run: what a newcomer copies from it works and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from elasticdl.api.command_line import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Your own model in five minutes\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
FILES = [
    (text.splitlines()[0].removeprefix("# "), text) for kind, text in BLOCKS if kind == "python"
]
# A job's processes take seconds to start: here it is one process, as with --num_workers=0.
IN_ONE_PROCESS = {"train", "predict"}


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    found = [re.match(r"((?:.*\\\n)*.*\n)([\s\S]*)", part) for part in parts]
    return [(match[1], match[2]) for match in found if match]


def masked(line: str) -> str:
    """A line of output without its numbers, which differ from run to run."""
    return re.sub(r"-?\d[\d,.]*(e-?\d+)?", "N", line).strip()


@pytest.fixture
def shell(tmp_path):
    """Runs commands in an empty directory, with this Python and this package on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    words = {"python": "", "elasticdl": "-m elasticdl.api"}
    for name, arguments in words.items():
        only = " | ".join(IN_ONE_PROCESS)
        script = f'exec "{sys.executable}" {arguments} "$@"'
        if name == "elasticdl":
            script = f'case "$1" in {only}) set -- "$@" --num_workers=0;; esac\n{script}'
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    directory = tmp_path / "here"
    directory.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ELASTICDL_HOME": str(tmp_path / "home"),
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

    run.directory = directory
    return run


def test_your_own_model_in_five_minutes_works_as_written(shell):
    for name, text in FILES:
        (shell.directory / name).parent.mkdir(exist_ok=True)
        (shell.directory / name).write_text(text)
    for kind, text in BLOCKS:
        for command, shown in commands(text) if kind == "console" else []:
            printed = {masked(line) for line in shell(command).splitlines()}
            for line in shown.splitlines():
                assert line == "..." or masked(line) in printed, f"{command}\nno line: {line}"
    assert re.fullmatch(r"\[\[-?\d+\.\d+\]\]\n", shell("python use_it.py"))
    auc, lost, output = shell("python train_it.py").splitlines()[-1].split()
    assert float(auc) > 0.7
    assert lost == "0"
    assert output.endswith("liked_small")


def test_the_table_of_commands_has_them_all():
    table = README.partition("## Commands\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `elasticdl ([a-z ]+?)(?: JOB)?` \|", table, re.MULTILINE)
    assert named == [command.name for command in COMMANDS]


@pytest.mark.parametrize("path", ["README.md", *map(str, sorted(Path(ROOT, "docs").rglob("*.md")))])
def test_links_lead_to_files_and_headings(path):
    page = ROOT / path
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert heading in slugs, f"{page.name}: {target}"
