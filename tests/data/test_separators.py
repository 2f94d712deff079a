"""A CSV file without commas between its values says so, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from elasticdl.api.command_line import main
from elasticdl.data.columns import decide_columns
from elasticdl.data.convert import convert
from elasticdl.data.inspect import inspect
from elasticdl.errors import UsageError

SEPARATORS = [(";", "--delimiter=';'"), ("\t", r"--delimiter=$'\t'")]


def csv_file(directory: Path, separator: str) -> Path:
    path = directory / "a.csv"
    path.write_text("".join(separator.join(row) + "\n" for row in (("x", "y"), ("1", "2"))))
    return path


@pytest.mark.parametrize(("separator", "shown"), SEPARATORS)
def test_inspect_hints_at_a_separator_that_is_no_comma(tmp_path, separator, shown):
    (line,) = str(inspect(csv_file(tmp_path, separator))).splitlines()[-1:]
    assert line.startswith(f"  hint: the only column is {separator.join('xy')!r}")
    assert shown in line


def test_inspect_has_no_hint_where_there_are_commas(tmp_path):
    (tmp_path / "a.csv").write_text('"a;b",c\n1,2\n')
    (tmp_path / "b.csv").write_text("x\n1;2\n")
    for name in ("a.csv", "b.csv"):
        assert "  hint: " not in str(inspect(tmp_path / name))


@pytest.mark.parametrize(("separator", "shown"), SEPARATORS)
def test_a_missing_column_is_told_with_the_separator(tmp_path, separator, shown):
    path = str(csv_file(tmp_path, separator))
    for options in ({"wanted": ["y"]}, {"given": ["y=int64"]}):
        with pytest.raises(UsageError, match=r"'y': no such column; .*the only column is") as told:
            decide_columns([path], 1 << 20, **options)
        assert shown in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="the only column is"):
        convert(path, tmp_path / "b.parquet", column_types={"y": "int64"})


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_the_hint_tells_to_do_is_right(tmp_path, separator):
    output = tmp_path / "new.csv"
    words = [str(csv_file(tmp_path, separator)), f"--delimiter={separator}", f"--output={output}"]
    assert main(["data", "convert", *words]) == 0
    assert set(inspect(output).features or {}) == {"x", "y"}
