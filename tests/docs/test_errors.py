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


def test_the_index_is_read():
    assert len(LISTED) > 50


@pytest.mark.parametrize("listed", LISTED)
def test_a_listed_message_is_one_of_the_code(listed):
    parts = [re.escape(part) for part in re.split("…+", listed) if part.strip()]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(message) for message in MESSAGES), listed
