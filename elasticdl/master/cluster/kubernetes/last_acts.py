"""What a master does once the result is written: each act may be done again by the next one."""

from __future__ import annotations

import json
import logging
from typing import Any

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.client import Conflict, Json, KubeClient, NotFound
from elasticdl.master.cluster.kubernetes.names import (
    CHECK,
    COMPONENT_LABEL,
    INDEX_LABEL,
    PREFIX,
    object_name,
    result_name,
    selecting,
)
from elasticdl.master.cluster.kubernetes.objects import Owner, result_map
from elasticdl.master.instances import Role
from elasticdl.master.job_files import RESULT_FILE

logger = logging.getLogger(__name__)

STATE_ANNOTATION = f"{PREFIX}/state"
"""Of a Job: how it ended, as Jobs of stable APIs cannot fail without being started again."""
KEEP_ANNOTATION = f"{PREFIX}/keep-objects"
"""Of a Job: what is to be left of it, where that was not known when it was described."""
KEPT = ("none", "result", "pods", "all")
MOST_RESULT_BYTES = 900_000
_LARGE = ("figures", "partitions", "evaluations", "history")
LAUNCHED = (Role.WORKER.value, Role.PS.value, CHECK)


def clean_up(spec: JobSpec, client: KubeClient, keep: str = "none") -> None:
    """Delete the pods and services of a job's instances; pods that are kept end.

    Args:
      keep: one of `KEPT`.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    name = object_name(spec.job_name)
    for pod in client.list("Pod", selecting(name)).items:
        if pod["metadata"]["labels"].get(COMPONENT_LABEL) in LAUNCHED:
            (_end if keep in ("pods", "all") else _remove)(client, "Pod", pod)
    if keep != "all":
        for service in client.list("Service", selecting(name, Role.PS.value)).items:
            if INDEX_LABEL in service["metadata"]["labels"]:
                _remove(client, "Service", service)


def end_job(spec: JobSpec, client: KubeClient, owner: Owner, result: Json) -> None:
    """Say of the Job how it ended, keep what is to be kept, and delete the rest, it included.

    Args:
      result: how the job ended.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    annotation = {STATE_ANNOTATION: result.get("state", "failed")}
    try:
        job = client.patch("Job", owner.name, {"metadata": {"annotations": annotation}})
    except NotFound:
        return  # Somebody deletes it already, and with it all else.
    wanted = (job["metadata"].get("annotations") or {}).get(KEEP_ANNOTATION, "")
    keep = max(spec.keep_objects, wanted or "none", key=KEPT.index)
    if keep != "none":
        save_result(spec, client, result)
    clean_up(spec, client, keep)
    if keep in ("none", "result"):
        _remove(client, "Job", job)


def save_result(spec: JobSpec, client: KubeClient, result: Json) -> None:
    """Keep a result in a ConfigMap that belongs to nothing, so that it outlives the job.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    made = {**result_map(spec), "data": {RESULT_FILE: _text(result)}}
    try:
        client.create(made)
    except Conflict:
        found = client.get("ConfigMap", made["metadata"]["name"])
        client.replace({**found, "data": made["data"]})


def read_result(spec: JobSpec, client: KubeClient) -> Json | None:
    """Return the result that is kept in a ConfigMap; None where none is.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    try:
        found = client.get("ConfigMap", result_name(object_name(spec.job_name)))
    except NotFound:
        return None
    read: dict[str, Any] = json.loads(found["data"][RESULT_FILE])
    return read


def is_of_job(result: Json, uid: str) -> bool:
    """Whether a result is of this Job, and not of one before it that had its name.

    Args:
      uid: of the Job; empty where nobody knows.
    """
    session = str(result.get("session", ""))
    return not uid or not session or session.startswith(f"{uid}.")


def _text(result: Json) -> str:
    """A result as JSON; its longest parts are left out where an object would not hold them."""
    kept = dict(result)
    text = json.dumps(kept, indent=1)
    for name in _LARGE:
        if len(text.encode()) <= MOST_RESULT_BYTES:
            break
        kept.pop(name, None)
        text = json.dumps(kept, indent=1)
    return text


def _end(client: KubeClient, kind: str, pod: Json) -> None:
    """Have a pod end and stay: its deadline is over."""
    metadata = pod["metadata"]
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return
    try:
        client.patch(kind, metadata["name"], {"spec": {"activeDeadlineSeconds": 1}})
    except NotFound:
        logger.info("%s '%s' is gone", kind, metadata["name"])


def _remove(client: KubeClient, kind: str, found: Json) -> None:
    metadata = found["metadata"]
    try:
        client.delete(kind, metadata["name"], uid=metadata["uid"])
    except (NotFound, Conflict):
        logger.info("%s '%s' is gone", kind, metadata["name"])
