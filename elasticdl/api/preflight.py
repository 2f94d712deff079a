"""Try a job's model on one minibatch, in a process of its own, before anything is launched.

A process of its own, so that TensorFlow and the model's module are never loaded into the caller's.
`preflight` is the caller's side; the other one is forked from the job's zygote, or is ``python -m
elasticdl.api.preflight``, which reads a request from standard input and writes the answer to
standard output: ``{"report": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
from typing import Any, BinaryIO

from elasticdl.data.filesystems import use_stores_of
from elasticdl.errors import ElasticDLError, JobError, UsageError, UserCodeError
from elasticdl.instance import child_environment, die_with_parent
from elasticdl.job_spec import JobSpec
from elasticdl.model.user_code import ModelCodeError

_LINES_OF_A_CRASH = 20
_DEADLINE_S = 900.0


def preflight(job_spec: JobSpec, zygote: socket.socket | None = None) -> dict[str, Any]:
    """Run the check of a job in another process (in this one when ``num_workers`` is 0).

    Args:
      job_spec: the job.
      zygote: to the job's `elasticdl.api.zygote`, if it has one.

    Returns:
      the fields of `elasticdl.worker.check.CheckReport`, and ``text``, the report for people.

    Raises:
      UsageError: the job cannot work, and why.
      UserCodeError: the model's code raised.
      JobError: the process died without saying why.
    """
    if job_spec.num_workers == 0:
        return _check(job_spec)
    request = json.dumps({"command": job_spec.command, **job_spec.to_options()}).encode() + b"\n"
    with tempfile.TemporaryFile() as errors:
        try:
            ended = None if zygote is None else _ask(zygote, request, errors)
            text, code = ended or _run(job_spec, request, errors)
        except (subprocess.TimeoutExpired, TimeoutError):
            raise JobError(
                f"the check of the model did not end within {_DEADLINE_S:.0f} s; "
                "try elasticdl check with --debug, or --num_workers=0 in a debugger"
            ) from None
        if code == 0:
            return _report(json.loads(text))
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()[-_LINES_OF_A_CRASH:]
    how = f"signal {-code}" if code < 0 else f"exit {code}"
    raise JobError("\n".join([f"the check of the model died ({how}); its last lines:", *lines]))


def _run(job_spec: JobSpec, request: bytes, errors: BinaryIO) -> tuple[bytes, int]:
    """Check in a process of its own; return what it answers and its exit code."""
    with tempfile.TemporaryDirectory(prefix="elasticdl-check-") as temporary:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            env={**child_environment(job_spec.keras), "TMPDIR": temporary},
            input=request,
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=_DEADLINE_S,
            check=False,
        )
    return ended.stdout, ended.returncode


def _ask(zygote: socket.socket, request: bytes, errors: BinaryIO) -> tuple[bytes, int] | None:
    """Have the zygote fork the check; return the same, or None where that has died."""
    zygote.settimeout(_DEADLINE_S)
    said = b""
    try:
        socket.send_fds(zygote, [request[:1]], [errors.fileno()])
        zygote.sendall(request[1:])
        while more := zygote.recv(1 << 16):
            said += more
    except ConnectionError:
        return None
    *answers, code = said.splitlines() or [b""]
    if not code.lstrip(b"-").isdigit():  # Whoever would have told how it ended has died.
        return None
    return b"".join(answers), int(code)


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

    use_stores_of(job_spec, patience_s=0)
    use_keras(job_spec.keras or "3")
    import_tensorflow(job_spec.worker_devices)

    from elasticdl.worker.check import check

    report = check(job_spec)
    return {**dataclasses.asdict(report), "text": report.text()}


def answer(request: bytes) -> bytes:
    """Do the check that a caller's process asks for; it is the first that this one computes."""
    result: dict[str, Any]
    try:
        options = json.loads(request)
        job_spec = JobSpec.of_options(options.pop("command"), options)
        result = {"report": _check(job_spec)}
    except ElasticDLError as error:
        described = {
            "is_users_code": isinstance(error, UserCodeError),
            "exit_code": error.exit_code,
            "message": str(error),
            "traceback_text": getattr(error, "traceback_text", ""),
        }
        result = {"error": described}
    return json.dumps(result, default=str).encode()


def _main() -> None:
    # What the user's code prints goes the way of errors; only the result goes to the caller.
    with os.fdopen(os.dup(1), "wb") as caller:
        os.dup2(2, 1)
        caller.write(answer(sys.stdin.buffer.read()))


if __name__ == "__main__":
    die_with_parent()
    _main()
    sys.stderr.flush()
    os._exit(0)  # TensorFlow's threads, maybe inside the user's function, are not waited for.
