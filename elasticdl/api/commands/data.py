"""``elasticdl data``: bring data files into other formats, and look into them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence

from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch, whole_number
from elasticdl.errors import UsageError

_CONVERT = "bring data files into another format, or into other pieces"
_INSPECT = "show what data files are made of, and their first record"
_STATS = "describe the values of each column of data files"
_FORMATS = "RecordIO, TFRecord, Parquet, CSV, Arrow"


_TABLE_OPTIONS = (
    ("column_types", "PAIRS", "types of columns, NAME=int64|float32|bool|bytes, commas between"),
    ("delimiter", "C", "CSV: what stands between values (default: a comma)"),
)


def _parser(name: str, summary: str, usage: str, examples: Sequence[str]) -> Parser:
    parser = Parser(f"data {name}", f"{summary[0].upper()}{summary[1:]}.", usage, examples)
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "json", "print the summary as JSON")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    return parser


def _convert(words: Sequence[str]) -> None:
    parser = _parser(
        "convert",
        _CONVERT,
        "INPUT... --output=FILE [OPTIONS]",
        [
            "elasticdl data convert train.csv --output=train.recordio",
            "elasticdl data convert images.npz --output=images.recordio --num_shards=4",
            "elasticdl data convert 'part-*.csv' --output=all.recordio \\",
            "      --column_types=id=bytes,price=float32",
            "elasticdl data convert 'train/*.recordio' --output=train.parquet",
        ],
    )
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help=f"{_FORMATS} or NumPy files, patterns"
    )
    for name, metavar, description in (
        ("output", "FILE", "file to write, of any of these formats but NumPy (required)"),
        ("compressor", "NAME", "RecordIO: none, snappy or gzip (default: snappy)"),
        ("num_shards", "N", "write this many files of equal size"),
        ("records_per_file", "N", "write files of this many records"),
        *_TABLE_OPTIONS,
    ):
        parser.add_argument(
            f"--{name}", metavar=metavar, help=description, default=argparse.SUPPRESS
        )
    add_switch(parser, "overwrite", "replace files that exist")
    given = vars(parser.parse(words))

    from elasticdl.data.convert import convert

    given.pop("debug", None)
    as_json = given.pop("json", False)
    if "output" not in given:
        raise UsageError("`data convert` needs --output; e.g. --output=train.recordio")
    for name in ("num_shards", "records_per_file"):
        if name in given:
            given[name] = whole_number(given, name, 1, example=4)
    if "column_types" in given:
        given["column_types"] = _column_types(given["column_types"])
    summary = convert(**given)
    print(json.dumps(dataclasses.asdict(summary)) if as_json else summary)


def _column_types(text: str) -> Mapping[str, str]:
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(name.strip() and kind.strip() for name, _, kind in pairs):
        raise UsageError(
            f"--column_types='{text}': not NAME=TYPE pairs with commas between; "
            "e.g. --column_types=id=bytes,price=float32"
        )
    return {name.strip(): kind.strip() for name, _, kind in pairs}


def _inspect(words: Sequence[str]) -> None:
    parser = _parser(
        "inspect",
        _INSPECT,
        "FILE... [--verify] [--json]",
        [
            "elasticdl data inspect train.recordio",
            "elasticdl data inspect 'data/*.recordio' --json",
        ],
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help=f"{_FORMATS} files, patterns")
    add_switch(parser, "verify", "read all of it and check its sums")
    parsed = parser.parse(words)

    from elasticdl.data.inspect import inspect
    from elasticdl.data.shards import find_files

    paths = [path for pattern in parsed.files for path in find_files(pattern, "file")]
    summaries = [inspect(path, verify=getattr(parsed, "verify", False)) for path in paths]
    if getattr(parsed, "json", False):
        print(json.dumps([summary.as_dict() for summary in summaries]))
    else:
        print("\n".join(map(str, summaries)))


def _stats(words: Sequence[str]) -> None:
    parser = _parser(
        "stats",
        _STATS,
        "INPUT... [--json]",
        [
            "elasticdl data stats train.csv",
            "elasticdl data stats 'data/*.recordio' --json",
        ],
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help=f"{_FORMATS} files, patterns")
    for name, metavar, description in _TABLE_OPTIONS:
        parser.add_argument(
            f"--{name}", metavar=metavar, help=description, default=argparse.SUPPRESS
        )
    given = vars(parser.parse(words))

    from elasticdl.data.statistics import describe_data

    given.pop("debug", None)
    as_json = given.pop("json", False)
    if "column_types" in given:
        given["column_types"] = _column_types(given["column_types"])
    found = describe_data(**given)
    print(json.dumps(found.as_dict()) if as_json else found)


COMMANDS = [
    Command(("data", "convert"), _CONVERT, _convert),
    Command(("data", "inspect"), _INSPECT, _inspect),
    Command(("data", "stats"), _STATS, _stats),
]
