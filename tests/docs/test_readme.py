"""The README's own words, run: what a newcomer copies from it works and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from elasticdl.api.command_line import COMMANDS
from tests.docs.pages import ROOT, make_shell, run_commands, write_files

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIVE_MINUTES = README.partition("## Your own model in five minutes\n")[2].partition("\n## ")[0]


@pytest.fixture
def here(tmp_path):
    """An empty directory."""
    directory = tmp_path / "here"
    directory.mkdir()
    return directory


@pytest.fixture
def shell(tmp_path, here):
    """Runs commands in it."""
    return make_shell(here, tmp_path / "bin", tmp_path / "home")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_your_own_model_in_five_minutes_works_as_written(shell, here):
    write_files(FIVE_MINUTES, here)
    assert run_commands(FIVE_MINUTES, shell) >= 6
    assert re.fullmatch(r"\[\[-?\d+\.\d+\]\]\n", shell("python use_it.py"))
    auc, lost, output = shell("python train_it.py").splitlines()[-1].split()
    assert float(auc) > 0.7
    assert lost == "0"
    assert output.endswith("liked_small")


def test_the_tutorial_works_as_written(shell, here):
    write_files(FIVE_MINUTES, here)
    shell("python make_csv.py")
    tutorial = page("tutorial.md")
    write_files(tutorial, here)
    assert run_commands(tutorial, shell) >= 7
    last = shell("python train_patiently.py").splitlines()[-1]
    assert re.fullmatch(r"\d+ epochs of 30", last)
    assert int(last.split()[0]) < 30


def test_migrating_from_model_fit_works_as_written(shell, here):
    migrating = page("migrating.md")
    write_files(migrating, here)
    assert run_commands(migrating, shell) == 3
    fitted = float(shell("python fit_it.py").split()[-1])
    measured = shell("elasticdl evaluate --trained_model=signs --data=train.recordio")
    accuracy = re.search(r"accuracy (\d\.\d+)", measured)
    assert accuracy is not None
    assert abs(float(accuracy[1]) - fitted) < 0.03


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
