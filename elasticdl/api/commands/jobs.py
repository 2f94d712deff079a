"""``elasticdl jobs``: look at jobs and change them while they run. JOB is a name or a directory."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from elasticdl.api.commands import Command
from elasticdl.api.commands.job import show_result
from elasticdl.api.parser import Parser, add_switch, whole_number
from elasticdl.api.progress import status_line
from elasticdl.api.result import audit_line
from elasticdl.api.stopping import stopping_at_once
from elasticdl.api.table import table_lines
from elasticdl.dashboard.finite import finite
from elasticdl.errors import UsageError
from elasticdl.job_spec import option_value
from elasticdl.logs.line import LogLine

_AUDIT = "say what became of every record of a job"
_SCALE = "change how many workers, or parameter servers, a running job has"
_LIST = "list the jobs of this machine"
_STATUS = "say where a job stands, and what limits its speed"
_STOP = "stop a running job"
_RESUME = "go on with a job that was stopped, failed or lost"
_EVENTS = "tell what happened to a job: deaths, leases, checkpoints, decisions"
_LOGS = "show what a job's instances logged and printed, by time"
_WAIT = "wait until a job has ended"

_ROLES = ("master", "ps", "worker", "check", "supervisor", "spares")
_ENDS = {"succeeded": 0}
"""Exit codes of `jobs wait`; 1 for every other end."""


def jobs_parser(
    name: str,
    summary: str,
    usage: str,
    examples: Sequence[str],
    json_is: str = "print it as one JSON object",
) -> Parser:
    """The parser of one of these commands: JOB, where the usage has it, and what all take."""
    title = f"{summary[0].upper()}{summary[1:]}."
    parser = Parser(f"jobs {name}", title, f"{usage} [--json]".lstrip(), examples)
    if "JOB" in usage:
        parser.add_argument("job", metavar="JOB", help="a job's name or its directory")
    add_switch(parser, "json", json_is)
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    add_switch(parser, "debug", "show this package's own traceback when something fails")
    return parser


def add_option(parser: Parser, name: str, metavar: str, description: str) -> None:
    """Add an option that has a value."""
    parser.add_argument(f"--{name}", metavar=metavar, help=description, default=argparse.SUPPRESS)


def _audit(words: Sequence[str]) -> None:
    parser = jobs_parser("audit", _AUDIT, "JOB", ["elasticdl jobs audit mnist-1"])
    parsed = parser.parse(words)

    from elasticdl.api import jobs

    account = jobs.audit(parsed.job)
    print(json.dumps(account) if _wants_json(parsed) else audit_line(account))


def _scale(words: Sequence[str]) -> None:
    usage = "JOB [--num_workers=N] [--num_ps=N]"
    parser = jobs_parser("scale", _SCALE, usage, ["elasticdl jobs scale mnist-1 --num_workers=4"])
    for name in ("num_workers", "num_ps"):
        add_option(parser, name, "N", "how many it should have")
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
    if "json" in parsed:
        print(json.dumps({"job": parsed["job"], **numbers}))
        return
    words_of = {"num_workers": "worker", "num_ps": "parameter server"}
    wanted = [f"{n} {words_of[name]}{'' if n == 1 else 's'}" for name, n in numbers.items()]
    print(f"{parsed['job']}: {' and '.join(wanted)} wanted")


def _list(words: Sequence[str]) -> None:
    parser = jobs_parser("list", _LIST, "", ["elasticdl jobs list"], "print them as a JSON list")
    parsed = parser.parse(words)

    from elasticdl.api import jobs

    found = jobs.list_jobs()
    if _wants_json(parsed):
        print(json.dumps(found))
        return
    for line in table_lines([_listed(one) for one in found]) if found else ["no jobs"]:
        print(line)


def _listed(one: Mapping[str, Any]) -> dict[str, Any]:
    """A job of `jobs.list_jobs`, as the table has it."""
    began = datetime.fromtimestamp(one["began"]).astimezone().isoformat(" ", "seconds")
    done, expected = one["records_done"], one["records_expected"]
    progress = None if done is None else f"{done:,} records"
    if progress and expected:
        progress = f"{done:,} of {expected:,} records ({100 * done // expected} %)"
    row = {name: one[name] for name in ("name", "state", "command")}
    return {**row, "began": began, "progress": progress}


def _status(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs status mnist-1", "elasticdl jobs status mnist-1 --json"]
    parser = jobs_parser("status", _STATUS, "JOB", examples)
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
    from elasticdl.api.launcher import status_of
    from elasticdl.api.profile import bottleneck_line, minibatch_line, phase_rows

    if found["state"] == "running":
        lines = [f"{found['name']}: {status_line(status_of(found))}"]
        columns = ("role", "index", "incarnation", "state", "pid", "doing")
        rows = [{name: one[name] for name in columns} for one in found["instances"]]
        lines += table_lines(rows) if rows else []
    else:
        error = found["error"].splitlines()
        lines = [f"{found['name']}: {found['state']}{f': {error[0]}' if error else ''}"]
    # The error itself stands in the first line.
    health = [one for one in found["health"] if one["text"] not in lines[0]]
    lines += [f"{one['level']}: {one['text']}" for one in health]
    # What it does now, unless it has not done enough of it to tell.
    times = found["recent"] if found["recent"].get("bottleneck") else found["total"]
    lines += filter(None, [minibatch_line(times), bottleneck_line(times)])
    rows = phase_rows(times)
    return lines + (table_lines(rows) if rows else [])


def _stop(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs stop mnist-1", "elasticdl jobs stop k8s:training/mnist-1 --now"]
    parser = jobs_parser("stop", _STOP, "JOB [--now]", examples)
    add_switch(parser, "now", "of a job of pods: delete it at once, without asking its master")
    parsed = parser.parse(words)

    from elasticdl.api import jobs

    jobs.stop(parsed.job, **({"now": True} if "now" in parsed else {}))
    if _wants_json(parsed):
        print(json.dumps({"job": parsed.job, "state": "stopping"}))
    else:
        print(f"{parsed.job}: stopped")


def _wait(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs wait mnist-1", "elasticdl jobs wait mnist-1 --timeout=3600"]
    usage = "JOB [--timeout=SECONDS]"
    parser = jobs_parser("wait", _WAIT, usage, examples, "print its result as one JSON object")
    add_option(parser, "timeout", "SECONDS", "for how long; exit code 124 if it goes on then")
    parsed = parser.parse(words)
    timeout_s = whole_number(vars(parsed), "timeout")

    from elasticdl.api import jobs

    found = jobs.wait(parsed.job, timeout_s)
    if _wants_json(parsed):
        print(json.dumps(finite(found)))
    else:
        error = str(found.get("error", "")).splitlines()
        print(f"{found['name']}: {found['state']}{f': {error[0]}' if error else ''}")
    raise SystemExit(_ENDS.get(found["state"], 1))


def _logs(words: Sequence[str]) -> None:
    examples = [
        "elasticdl jobs logs mnist-1 -f",
        "elasticdl jobs logs mnist-1 --role=ps --index=0 --lines=100",
        "elasticdl jobs logs mnist-1 --errors",
    ]
    usage = "JOB [-f] [--role=ROLE] [--index=N] [--lines=N] [--errors]"
    parser = jobs_parser("logs", _LOGS, usage, examples, "print each line as one JSON object")
    parser.add_argument(
        *("-f", "--follow"),
        nargs=0,
        const=True,
        default=argparse.SUPPRESS,
        help="go on with what is added, until the job has ended",
    )
    add_option(parser, "role", "ROLE", "of these instances alone: master, ps or worker")
    add_option(parser, "index", "N", "of the instance with this index alone, in all its lives")
    add_option(parser, "lines", "N", "begin with the last N lines")
    add_switch(parser, "errors", "only the first error of each instance, the first of all first")
    parsed = vars(parser.parse(words))
    role = parsed.get("role")
    if role not in (None, *_ROLES):
        close = difflib.get_close_matches(role, _ROLES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_ROLES)}"
        raise UsageError(f"--role='{role}': no such role; {hint}")
    which = (parsed["job"], role, whole_number(parsed, "index"))
    last = whole_number(parsed, "lines", 1)

    from elasticdl.api import job_logs

    lines: Iterable[LogLine]
    if "errors" in parsed:
        lines = job_logs.first_errors(*which)
    elif "follow" in parsed:
        lines = job_logs.follow_logs(*which, last)
    else:
        lines = job_logs.log_lines(*which, last)
    for line in lines:
        told = json.dumps(line.to_json(), ensure_ascii=False) if "json" in parsed else line
        print(told, flush="follow" in parsed)


def _resume(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs resume mnist-1"]
    json_is = "print the result as JSON on stdout, and nothing else there"
    parsed = jobs_parser("resume", _RESUME, "JOB", examples, json_is).parse(words)

    with stopping_at_once("elasticdl jobs resume"):
        from elasticdl.api.functions import resume_job

    shown = {"print_json": True} if _wants_json(parsed) else {}
    show_result(*resume_job(parsed.job, **shown))


def _events(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs events mnist-1", "elasticdl jobs events mnist-1 --json"]
    json_is = "print each as one JSON object on a line"
    parsed = jobs_parser("events", _EVENTS, "JOB", examples, json_is).parse(words)

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
    Command(("jobs", "logs"), _LOGS, _logs),
    Command(("jobs", "events"), _EVENTS, _events),
    Command(("jobs", "wait"), _WAIT, _wait),
    Command(("jobs", "stop"), _STOP, _stop),
    Command(("jobs", "resume"), _RESUME, _resume),
]
