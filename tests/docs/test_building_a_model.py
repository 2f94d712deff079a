"""The examples of docs/building_a_model.md, run as they stand."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from elasticdl.api.command_line import main

PAGE = (Path(__file__).parents[2] / "docs" / "building_a_model.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FILES = {
    match[1]: text
    for kind, text in BLOCKS
    if kind == "python" and (match := re.match(r"# (\S+\.py)\n", text))
}
COMMANDS = [
    line.removeprefix("$ ")
    for kind, text in BLOCKS
    if kind == "console"
    for line in text.splitlines()
    if line.startswith("$ elasticdl check ")
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and the data that the first of them writes."""
    path = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        runpy.run_path("films.py")
    return path


def test_the_page_has_an_example_of_every_way() -> None:
    models = {re.search(r"--model_def=(\w+)", command)[1] for command in COMMANDS}  # type: ignore[index]
    assert models == {"model_class", "functions", "own_step", "called_back"}
    assert {f"zoo/{name}.py" for name in models} <= set(FILES)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_does_what_it_says(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, command: str
) -> None:
    monkeypatch.chdir(directory)
    code = main(shlex.split(command)[1:])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "accuracy" in printed.out
