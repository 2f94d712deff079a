"""``elasticdl jobs``: look at jobs and change them while they run. JOB is a name or a directory."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from elasticdl.api.commands import Command
from elasticdl.api.commands.job import show_result
from elasticdl.api.parser import Parser, add_switch
from elasticdl.api.progress import status_line
from elasticdl.api.result import JobStatus, audit_line, finite
from elasticdl.api.stopping import stopping_at_once
from elasticdl.api.table import table_lines
from elasticdl.errors import UsageError
from elasticdl.job_spec import option_value

_AUDIT = "say what became of every record of a job"
_SCALE = "change how many workers, or parameter servers, a running job has"
_LIST = "list the jobs of this machine"
_STATUS = "say where a job stands, and what limits its speed"
_STOP = "stop a running job"
_RESUME = "go on with a job that was stopped, failed or lost"
_EVENTS = "tell what happened to a job: deaths, leases, checkpoints, decisions"


def _parser(name: str, summary: str, usage: str, examples: Sequence[str]) -> Parser:
    parser = Parser(f"jobs {name}", f"{summary[0].upper()}{summary[1:]}.", usage, examples)
    if "JOB" in usage:
        parser.add_argument("job", metavar="JOB", help="a job's name or its directory")
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    return parser


def _audit(words: Sequence[str]) -> None:
    parser = _parser("audit", _AUDIT, "JOB [--json]", ["elasticdl jobs audit mnist-1"])
    add_switch(parser, "json", "print it as JSON")
    parsed = parser.parse(words)

    from elasticdl.api import jobs

    account = jobs.audit(parsed.job)
    print(json.dumps(account) if _wants_json(parsed) else audit_line(account))


def _scale(words: Sequence[str]) -> None:
    usage = "JOB [--num_workers=N] [--num_ps=N]"
    parser = _parser("scale", _SCALE, usage, ["elasticdl jobs scale mnist-1 --num_workers=4"])
    for name in ("num_workers", "num_ps"):
        parser.add_argument(
            f"--{name}", metavar="N", default=argparse.SUPPRESS, help="how many it should have"
        )
    parsed = vars(parser.parse(words))
    numbers = {
        name: option_value(name, parsed[name], "--")
        for name in ("num_workers", "num_ps")
        if name in parsed
    }
    if not numbers:
        raise UsageError(
            "`jobs scale` needs --num_workers or --num_ps; see elasticdl jobs scale --help"
        )

    from elasticdl.api import jobs

    jobs.scale(parsed["job"], **numbers)
    words_of = {"num_workers": "worker", "num_ps": "parameter server"}
    wanted = [f"{n} {words_of[name]}{'' if n == 1 else 's'}" for name, n in numbers.items()]
    print(f"{parsed['job']}: {' and '.join(wanted)} wanted")


def _list(words: Sequence[str]) -> None:
    parser = _parser("list", _LIST, "[--json]", ["elasticdl jobs list"])
    add_switch(parser, "json", "print them as JSON")
    parsed = parser.parse(words)

    from elasticdl.api import jobs

    found = jobs.list_jobs()
    if _wants_json(parsed):
        print(json.dumps(found))
        return
    for line in table_lines(found) if found else ["no jobs"]:
        print(line)


def _status(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs status mnist-1", "elasticdl jobs status mnist-1 --json"]
    parser = _parser("status", _STATUS, "JOB [--json]", examples)
    add_switch(parser, "json", "print it as JSON")
    parsed = parser.parse(words)

    from elasticdl.api import jobs

    found = jobs.status(parsed.job)
    if _wants_json(parsed):
        print(json.dumps(finite(found)))
        return
    for line in status_lines(found):
        print(line)


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """Say what `jobs.status` returns: where the job stands, its instances, where the time goes."""
    from elasticdl.api.profile import bottleneck_line, minibatch_line, phase_rows

    progress = found.get("progress")
    if progress is None:
        error = str(found.get("error", "")).splitlines()
        lines = [f"{found['name']}: {found['state']}{f': {error[0]}' if error else ''}"]
    else:
        lines = [f"{found['name']}: {status_line(JobStatus(**progress))}"]
        lines += table_lines(found["instances"]) if found["instances"] else []
    # What it does now, unless it has not done enough of it to tell.
    times = found["recent"] if found["recent"].get("bottleneck") else found["total"]
    lines += filter(None, [minibatch_line(times), bottleneck_line(times)])
    rows = phase_rows(times)
    return lines + (table_lines(rows) if rows else [])


def _stop(words: Sequence[str]) -> None:
    parsed = _parser("stop", _STOP, "JOB", ["elasticdl jobs stop mnist-1"]).parse(words)

    from elasticdl.api import jobs

    jobs.stop(parsed.job)
    print(f"{parsed.job}: stopped")


def _resume(words: Sequence[str]) -> None:
    parsed = _parser("resume", _RESUME, "JOB", ["elasticdl jobs resume mnist-1"]).parse(words)

    with stopping_at_once("elasticdl jobs resume"):
        from elasticdl.api.functions import resume_job

    show_result(*resume_job(parsed.job))


def _events(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs events mnist-1", "elasticdl jobs events mnist-1 --json"]
    parser = _parser("events", _EVENTS, "JOB [--json]", examples)
    add_switch(parser, "json", "print each as one JSON object on a line")
    parsed = parser.parse(words)

    from elasticdl.api.events import events

    for event in events(parsed.job):
        print(json.dumps(finite(event.to_json())) if _wants_json(parsed) else event)


def _wants_json(parsed: argparse.Namespace) -> bool:
    return getattr(parsed, "json", False)


COMMANDS = [
    Command(("jobs", "list"), _LIST, _list),
    Command(("jobs", "audit"), _AUDIT, _audit),
    Command(("jobs", "scale"), _SCALE, _scale),
    Command(("jobs", "status"), _STATUS, _status),
    Command(("jobs", "stop"), _STOP, _stop),
    Command(("jobs", "resume"), _RESUME, _resume),
    Command(("jobs", "events"), _EVENTS, _events),
]
