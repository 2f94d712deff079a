"""Credentials of the roles of a job, with certificates of its own authority."""

from __future__ import annotations

import datetime
import tempfile
from functools import cache
from pathlib import Path

from elasticdl.api.kubernetes.certificates import make_certificates, write_credentials
from elasticdl.credentials import Credentials

JOB = "mnist-1"


@cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()  # Goes with this process.


@cache
def _secret(job: str, days_ago: int) -> dict[str, bytes]:
    now = datetime.datetime.now(datetime.UTC)
    return make_certificates(job, now - datetime.timedelta(days=days_ago))


@cache
def certified(role: str, job: str = JOB, days_ago: int = 0) -> Credentials:
    """Return what a role of a job has; the job was submitted so long ago."""
    directory = Path(_home().name) / f"{job}-{role}-{days_ago}"
    directory.mkdir()
    write_credentials(_secret(job, days_ago), role, directory)
    return Credentials.of_directory(directory)
