"""Try a job's model on one minibatch, in a process of its own, before anything is launched.

A process of its own, so that TensorFlow and the model's module are never loaded into the caller's.
`preflight` is the caller's side; ``python -m elasticdl.api.preflight`` is the other one: it reads
options from standard input and writes ``{"report": …}`` or ``{"error": …}`` to standard output.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from elasticdl.errors import ElasticDLError, JobError, UsageError, UserCodeError
from elasticdl.instance import child_environment, die_with_parent
from elasticdl.job_spec import JobSpec
from elasticdl.model.user_code import ModelCodeError

_LINES_OF_A_CRASH = 20
_DEADLINE_S = 900.0


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
    request = {"command": job_spec.command, **job_spec.to_options()}
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            env=child_environment(job_spec.keras),
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise JobError(
            f"the check of the model did not end within {_DEADLINE_S:.0f} s; "
            "try elasticdl check with --debug, or --num_workers=0 in a debugger"
        ) from None
    if ended.returncode == 0:
        return _report(json.loads(ended.stdout))
    lines = ended.stderr.decode(errors="replace").splitlines()[-_LINES_OF_A_CRASH:]
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"exit {ended.returncode}"
    raise JobError("\n".join([f"the check of the model died ({how}); its last lines:", *lines]))


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
    from elasticdl.model.keras_choice import use_keras
    from elasticdl.worker.quiet_import import import_tensorflow

    use_keras(job_spec.keras or "3")
    import_tensorflow(job_spec.worker_devices)

    from elasticdl.worker.check import check

    report = check(job_spec)
    return {**dataclasses.asdict(report), "text": report.text()}


def _main() -> None:
    # What the user's code prints goes the way of errors; only the result goes to the caller.
    with os.fdopen(os.dup(1), "wb") as caller:
        os.dup2(2, 1)
        result: dict[str, Any]
        try:
            request = json.load(sys.stdin)
            result = {"report": _check(JobSpec.resolve(request.pop("command"), request))}
        except ElasticDLError as error:
            described = {
                "is_users_code": isinstance(error, UserCodeError),
                "exit_code": error.exit_code,
                "message": str(error),
                "traceback_text": getattr(error, "traceback_text", ""),
            }
            result = {"error": described}
        caller.write(json.dumps(result, default=str).encode())


if __name__ == "__main__":
    die_with_parent()
    _main()
    sys.stderr.flush()
    os._exit(0)  # TensorFlow's threads, maybe inside the user's function, are not waited for.
