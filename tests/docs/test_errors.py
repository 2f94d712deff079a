"""The index of errors has the messages that the code has."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


def text_of(node: ast.expr) -> str | None:
    """A string of the source with `…` for what is filled in; None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (each.value if isinstance(each, ast.Constant) else "…" for each in node.values)
        return "".join(map(str, parts))
    return None


def messages() -> list[str]:
    """Every string in the package."""
    found = []
    for path in (ROOT / "elasticdl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = text_of(node) if isinstance(node, ast.expr) else None
            if text:
                found.append(text)
    return found


MESSAGES = messages()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_of_the_pages_begins_with_its_header(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    is_code = False
    for number, line in enumerate(lines):
        is_code ^= line.lstrip().startswith("```")
        if not is_code and line.startswith("|") and not (number and lines[number - 1].strip()):
            below = lines[number + 1] if number + 1 < len(lines) else ""
            assert re.fullmatch(r"[|\s:-]+", below), f"line {number + 1}: {line}"


def test_the_index_is_read():
    assert len(LISTED) > 50


@pytest.mark.parametrize("listed", LISTED)
def test_a_listed_message_is_one_of_the_code(listed):
    parts = [re.escape(part) for part in re.split("…+", listed) if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(message) for message in MESSAGES), listed
