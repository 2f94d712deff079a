"""One noun, one file: one that has to be scrolled through to find a place is two."""

from __future__ import annotations

from pathlib import Path

MOST_LINES = 600
ROOT = Path(__file__).parents[2]


def test_no_file_of_the_package_is_longer_than_the_limit():
    generated = ("_pb2", "_pb2_grpc")
    written = [
        path for path in (ROOT / "elasticdl").rglob("*.py") if not path.stem.endswith(generated)
    ]
    assert len(written) > 100, "the package is somewhere else"
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in written}
    too_long = {
        str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > MOST_LINES
    }
    assert too_long == {}, f"more than {MOST_LINES} lines: split them by what they are about"
