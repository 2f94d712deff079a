"""Try a job's model on one minibatch, in a process of its own, before anything is launched.

A process of its own, so that TensorFlow and the model's module are never loaded into the caller's.
`preflight` is the caller's side; ``python -m elasticdl.api.preflight JOB_FILE RESULT_FILE`` is the
other one. The result is a JSON file: ``{"report": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import elasticdl
from elasticdl.errors import ElasticDLError, JobError, UsageError, UserCodeError
from elasticdl.job_spec import JobSpec
from elasticdl.model.user_code import ModelCodeError

_LINES_OF_A_CRASH = 20


def preflight(job_spec: JobSpec) -> dict[str, Any]:
    """Run the check of a job in another process (in this one when ``num_workers`` is 0).

    Returns:
      the fields of `elasticdl.worker.check.CheckReport`, and ``text``, the report for people.

    Raises:
      UsageError: the job cannot work, and why.
      UserCodeError: the model's code raised.
      JobError: the process died without saying why.
    """
    if job_spec.num_workers == 0:
        return _check(job_spec)
    with tempfile.TemporaryDirectory(prefix="elasticdl-check-") as name:
        directory = Path(name)
        job_file = job_spec.save(directory)
        result_file = directory / "result.json"
        command = [sys.executable, "-P", "-m", __name__, str(job_file), str(result_file)]
        with (directory / "log").open("w+b") as log:
            ended = subprocess.run(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if result_file.exists():
                return _report(json.loads(result_file.read_text(encoding="utf-8")))
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()[-_LINES_OF_A_CRASH:]
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit {ended.returncode}"
    raise JobError("\n".join([f"the check of the model died ({how}); its last lines:", *lines]))


def _environment() -> dict[str, str]:
    """This process's environment, in which the package is found where it was found here."""
    home = str(Path(elasticdl.__file__).parents[1])
    paths = [home, os.environ.get("PYTHONPATH", "")]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def _report(result: dict[str, Any]) -> dict[str, Any]:
    error = result.get("error")
    if error is None:
        return result["report"]
    is_usage = error["exit_code"] == UsageError.exit_code
    if error["is_users_code"]:
        kind = ModelCodeError if is_usage else UserCodeError
        raise kind(error["message"], error["traceback_text"])
    raise (UsageError if is_usage else JobError)(error["message"])


def _check(job_spec: JobSpec) -> dict[str, Any]:
    from elasticdl.worker.check import check

    report = check(job_spec)
    return {**dataclasses.asdict(report), "text": report.text()}


def _main(job_file: str, result_file: str) -> None:
    result: dict[str, Any]
    try:
        result = {"report": _check(JobSpec.load(job_file))}
    except ElasticDLError as error:
        described = {
            "is_users_code": isinstance(error, UserCodeError),
            "exit_code": error.exit_code,
            "message": str(error),
            "traceback_text": getattr(error, "traceback_text", ""),
        }
        result = {"error": described}
    Path(result_file).write_text(json.dumps(result, default=str), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
