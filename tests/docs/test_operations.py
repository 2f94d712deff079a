"""What the pages for operators tell people to type and to look at is there."""

from __future__ import annotations

import re
import shlex

import pytest

from elasticdl.api.command_line import COMMANDS, find_command
from elasticdl.api.completion import describe
from tests.docs.pages import ROOT

PAGES = sorted((ROOT / "docs" / "operations").glob("*.md"))
TROUBLES = (ROOT / "docs" / "operations" / "troubles.md").read_text(encoding="utf-8")


def commands_in(text: str) -> list[list[str]]:
    """The words of each command of this program that a page names, between backquotes or typed."""
    named = re.findall(r"`(elasticdl [^`\n]+)`", text)
    named += re.findall(r"^\$ (elasticdl .*)$", text, re.MULTILINE)
    return [shlex.split(re.split(r" [|>#] |\)\"", one)[0])[1:] for one in named]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_with_every_option_of_it(page):
    found = commands_in(page.read_text(encoding="utf-8"))
    assert found or page.name not in ("README.md", "troubles.md")
    for words in found:
        command, rest = find_command(words)
        assert command is not None, words
        taken = {name for one in describe(command).options for name in one.names}
        given = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert given <= taken, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_is_one(page):
    text = page.read_text(encoding="utf-8")
    options = [one for command in COMMANDS for one in describe(command).options]
    known = {name.lstrip("-") for one in options for name in one.names}
    for name in re.findall(r"`--(\w+)[=`]", text):
        assert name in known, name


def test_every_metric_is_one():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "elasticdl").rglob("*.py"))
    named = set(re.findall(r"`elasticdl_(\w+)`", TROUBLES))
    assert len(named) > 3
    for name in named:
        assert re.search(rf'["_]{re.sub("_total$", "", name)}(_total)?"', code), name


def test_each_trouble_has_its_place_and_what_to_look_at():
    titles = re.findall(r"^## (.*)$", TROUBLES, re.MULTILINE)
    assert titles == [
        "The job is slow",
        "A PS keeps dying",
        "The job does not end",
        "Quality is worse than on one machine",
    ]
    for part in re.split(r"^## ", TROUBLES, flags=re.MULTILINE)[1:]:
        assert "| look at | what it says | what to do |" in part
        assert "elasticdl jobs" in part
