"""``elasticdl jobs dashboard`` and ``report``: a job's page."""

from __future__ import annotations

import json
from collections.abc import Sequence

from elasticdl.api.commands import Command
from elasticdl.api.commands.jobs import add_option, jobs_parser
from elasticdl.api.parser import whole_number

_DASHBOARD = "say where a running job's page is, or serve it here"
_REPORT = "write a job's whole story into one HTML file"


def _dashboard(words: Sequence[str]) -> None:
    examples = ["elasticdl jobs dashboard mnist-1"]
    parser = jobs_parser("dashboard", _DASHBOARD, "JOB [--port=N]", examples)
    add_option(parser, "port", "N", "where to serve it, unless the job does (default: any)")
    parsed = vars(parser.parse(words))
    port = whole_number(parsed, "port", most=65_535, example=8080) or 0

    from elasticdl.api.job_pages import show_dashboard

    def tell(url: str) -> None:
        print(
            json.dumps({"job": parsed["job"], "url": url}) if "json" in parsed else url, flush=True
        )

    show_dashboard(parsed["job"], port, tell)


def _report(words: Sequence[str]) -> None:
    examples = [
        "elasticdl jobs report mnist-1",
        "elasticdl jobs report mnist-1 --output=mnist.html",
    ]
    parser = jobs_parser("report", _REPORT, "JOB [--output=FILE]", examples)
    add_option(parser, "output", "FILE", "the file (default: JOB-report.html)")
    parsed = vars(parser.parse(words))

    from elasticdl.api.job_pages import report

    path = str(report(parsed["job"], parsed.get("output")))
    print(json.dumps({"job": parsed["job"], "output": path}) if "json" in parsed else path)


COMMANDS = [
    Command(("jobs", "dashboard"), _DASHBOARD, _dashboard),
    Command(("jobs", "report"), _REPORT, _report),
]
