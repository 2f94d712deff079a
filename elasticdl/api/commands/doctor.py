"""``elasticdl doctor``: what works on this machine, and what to do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from elasticdl.api.commands import Command
from elasticdl.api.parser import Parser, add_switch

_SUMMARY = "say what of this machine works for jobs, and what to do about the rest"


def _doctor(words: Sequence[str]) -> None:
    examples = [
        "elasticdl doctor",
        "elasticdl doctor --quick --data='s3://bucket/clicks/*.recordio'",
        "elasticdl doctor --json",
    ]
    title = f"{_SUMMARY[0].upper()}{_SUMMARY[1:]}."
    parser = Parser("doctor", title, "[--quick] [--data=PATTERNS] [--json]", examples)
    add_switch(parser, "quick", "leave out TensorFlow's import, which takes seconds")
    parser.add_argument(
        "--data",
        metavar="PATTERNS",
        help="also list these files or object stores, as a job's --data, and read from them",
        default=argparse.SUPPRESS,
    )
    add_switch(parser, "json", "print it as one JSON object")
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    parsed = vars(parser.parse(words))

    from elasticdl.api.doctor import examine, works

    findings = examine(with_tensorflow="quick" not in parsed)
    if "data" in parsed:
        from elasticdl.api.doctor_data import look_at_data

        findings += look_at_data(parsed["data"])
    works_here = works(findings)
    if "json" in parsed:
        found = [one.to_json() for one in findings]
        print(json.dumps({"works": works_here, "findings": found}))
    else:
        width = max(len(one.name) for one in findings)
        for one in findings:
            print(f"{one.state:<7}  {one.name:<{width}}  {one.found}")
            if one.do and one.state != "ok":
                print(f"{'':<7}  {'':<{width}}  do: {one.do}")
        broken = dict.fromkeys(o.name for o in findings if o.state == "failed" and o.is_needed)
        print("local jobs work here" if works_here else f"jobs do not work: {', '.join(broken)}")
    raise SystemExit(0 if works_here else 1)


COMMANDS = [Command(("doctor",), _SUMMARY, _doctor)]
