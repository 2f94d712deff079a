"""``elasticdl checkpoints``: what was saved of a job. DIR: a checkpoint, several, or a job."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch
from elasticdl.api.table import table_lines
from elasticdl.errors import JobError

_LIST = "list the checkpoints of a job"
_INSPECT = "show what a checkpoint consists of"
_VERIFY = "read checkpoints and check that they are whole"


def _parse(name: str, summary: str, words: Sequence[str]) -> argparse.Namespace:
    examples = [
        f"elasticdl checkpoints {name} mnist-1",
        f"elasticdl checkpoints {name} ~/.elasticdl/jobs/mnist-1/checkpoints/0000000012 --json",
    ]
    title = f"{summary[0].upper()}{summary[1:]}."
    parser = Parser(f"checkpoints {name}", title, "DIR [--json]", examples)
    parser.add_argument(
        "place", metavar="DIR", help="a job, a directory of checkpoints, or a checkpoint"
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "json", "print it as JSON")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    return parser.parse(words)


def _list(words: Sequence[str]) -> None:
    parsed = _parse("list", _LIST, words)

    from elasticdl.api.checkpoints import list_checkpoints

    rows = list_checkpoints(parsed.place)
    if _wants_json(parsed):
        print(json.dumps(rows))
        return
    for line in table_lines(rows):
        print(line)


def _inspect(words: Sequence[str]) -> None:
    parsed = _parse("inspect", _INSPECT, words)

    from elasticdl.api.checkpoints import inspect_checkpoint

    found = inspect_checkpoint(parsed.place)
    if _wants_json(parsed):
        print(json.dumps(found))
        return
    files, rows = found.pop("files"), found.pop("rows")
    for name, value in found.items():
        text = f"{value:,}" if isinstance(value, int) and name != "number" else value
        text = ", ".join(value) or "nothing" if isinstance(value, list) else text
        print(f"{name.replace('_', ' ')}: {text}")
    for name, count in rows.items():
        print(f"rows of {name}: {count:,}")
    for line in table_lines([{k: v for k, v in one.items() if k != "sha256"} for one in files]):
        print(line)


def _verify(words: Sequence[str]) -> None:
    parsed = _parse("verify", _VERIFY, words)

    from elasticdl.api.checkpoints import verify_checkpoints

    found = verify_checkpoints(parsed.place)
    damaged = [one for one in found if one["problems"]]
    if _wants_json(parsed):
        print(json.dumps(found))
    else:
        for one in found:
            for line in one["problems"] or [f"{one['directory']}: whole"]:
                print(line)
    if damaged:
        raise JobError(f"{len(damaged)} of {len(found)} checkpoints are damaged")


def _wants_json(parsed: argparse.Namespace) -> bool:
    return getattr(parsed, "json", False)


COMMANDS = [
    Command(("checkpoints", "list"), _LIST, _list),
    Command(("checkpoints", "inspect"), _INSPECT, _inspect),
    Command(("checkpoints", "verify"), _VERIFY, _verify),
]
