"""`python -m elasticdl.api.pod_check`: checks a job's model where its pods run.

What a local job checks before anything is launched, with the image, the data and the memory that a
worker has. It tells the master what it found, in one call.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from typing import Any

from elasticdl.api.functions import limited
from elasticdl.api.preflight import answer
from elasticdl.api.validation import validate, with_columns
from elasticdl.data.filesystems import use_stores_of
from elasticdl.errors import ElasticDLError, UserCodeError
from elasticdl.instance import InstanceArguments, die_with_parent, parse_arguments, start_logging
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.objects import RESUMES_VARIABLE
from elasticdl.model.keras_choice import with_keras
from elasticdl.proto import check_pb2
from elasticdl.rpc import Client, GrpcTransport

logger = logging.getLogger(__name__)

RESOLVED = ("column_types", "keras", "max_steps")
DEADLINE_S = 900.0
"""How long the master may be away: as long as other instances wait for it."""


def check(job_spec: JobSpec, resumes: bool = False) -> dict[str, Any]:
    """Return the `report` and what was `resolved`, or the `error`, as `preflight.answer` has it.

    Args:
      resumes: what the job writes is there already, and is its own.
    """
    try:
        if resumes:
            use_stores_of(job_spec, patience_s=0)
        else:
            validate(job_spec)
        job_spec = with_keras(with_columns(job_spec))
    except ElasticDLError as error:
        return {
            "error": {
                "is_users_code": isinstance(error, UserCodeError),
                "exit_code": error.exit_code,
                "message": str(error),
                "traceback_text": getattr(error, "traceback_text", ""),
            }
        }
    request = {"command": job_spec.command, **job_spec.to_options()}
    found: dict[str, Any] = json.loads(answer(json.dumps(request).encode()))
    if "report" in found:
        job_spec = limited(job_spec, found["report"]["max_steps"])
        options = job_spec.to_options()
        found["resolved"] = {name: options[name] for name in RESOLVED if name in options}
    return found


def tell(arguments: InstanceArguments, found: dict[str, Any]) -> None:
    """Tell the master, however often that takes.

    Raises:
      DeadlinePassed: it is away.
    """
    credentials = dataclasses.replace(
        arguments.credentials, master_incarnation=arguments.master_incarnation
    )
    service = check_pb2.DESCRIPTOR.services_by_name["Check"]
    client = Client(service, GrpcTransport(arguments.master, credentials), "the master")
    request = check_pb2.CheckAnswer(number=arguments.incarnation, answer=json.dumps(found))
    try:
        client.call_until("Answer", request, DEADLINE_S)
    finally:
        client.close()


def main() -> int:
    """Entry point: 0 also where the model is wrong, as the master was told."""
    die_with_parent()
    arguments = parse_arguments("check")
    start_logging("check", arguments)
    tell(arguments, check(arguments.spec, RESUMES_VARIABLE in os.environ))
    return 0


if __name__ == "__main__":
    sys.exit(main())
