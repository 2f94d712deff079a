"""A job's page: where it is while the job runs, served from its directory afterwards; one file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from elasticdl.api.job_backends import PLACE
from elasticdl.dashboard.address import open_dashboard, url_of
from elasticdl.dashboard.directory_source import DirectorySource
from elasticdl.dashboard.report import write_report
from elasticdl.dashboard.server import DashboardServer
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec


def show_dashboard(job: str, port: int, tell: Callable[[str], None]) -> None:
    """Say where a job's page is; where nobody else serves it here, do so until interrupted.

    Args:
      port: to serve it at; 0: any.
      tell: called with the URL.

    Raises:
      UsageError: there is no such job, or the port is taken.
      JobError: it runs without a page.
    """
    placed = PLACE.find(job)
    if not placed.is_running():
        serve_dashboard(job, port, tell)
        return
    if (url := placed.dashboard()) is not None:
        tell(url)
        return
    with placed.page(port) as url:
        if url is None:
            raise JobError(
                f"job '{job}': it serves no page (--dashboard=false, or it is about to start); "
                f"elasticdl jobs report {job} makes a file of it"
            )
        tell(url)
        threading.Event().wait()


def serve_dashboard(job: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page of a job that does not run, to this machine, until interrupted.

    Args:
      port: to listen on; 0: any.
      tell: called with the URL.

    Raises:
      UsageError: there is no such job, or the port is taken.
    """
    directory = PLACE.find(job).directory
    wanted = {"dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    spec = JobSpec.load(directory).model_copy(update=wanted)
    listening = open_dashboard(spec)
    assert listening is not None
    tell(url_of(listening, spec.dashboard_host))
    server = DashboardServer(DirectorySource(directory), listening, spec.dashboard_host)
    server.start()
    try:
        threading.Event().wait()
    finally:
        server.stop()


def report(job: str, output: str | None = None) -> Path:
    """Write a job's whole story into one HTML file; return where.

    Args:
      output: the file; `JOB-report.html` in the current directory if none is given.

    Raises:
      UsageError: there is no such job, or the file cannot be written.
    """
    directory = PLACE.find(job).directory
    path = Path(output or f"{directory.name}-report.html").absolute()
    write_report(DirectorySource(directory), path)
    return path
