"""Submits a job of pods, and removes one with all that belongs to it.

The Job is created first, without a pod, so that the others can belong to it, and is let go last:
whoever dies in between leaves what the deletion of one Job takes along.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from elasticdl.api.kubernetes.certificates import make_certificates, write_credentials
from elasticdl.api.kubernetes.record import PREFIX, Submitted
from elasticdl.credentials import credential_items
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JOB_FILE, JobSpec
from elasticdl.master.cluster.kubernetes.client import (
    Conflict,
    Forbidden,
    KubeClient,
    KubeError,
    NotAsked,
    NotFound,
    Unanswered,
)
from elasticdl.master.cluster.kubernetes.last_acts import KEEP_ANNOTATION
from elasticdl.master.cluster.kubernetes.names import PREFIX as LABELS
from elasticdl.master.cluster.kubernetes.names import RESUMES_ANNOTATION, object_name, selecting
from elasticdl.master.cluster.kubernetes.objects import (
    Owner,
    described,
    job_secret,
    master_job,
    services,
)
from elasticdl.rpc.roles import CLIENT

Json = dict[str, Any]
_Answer = TypeVar("_Answer")

SUBMISSION_ANNOTATION = f"{LABELS}/submission"
"""Of a Job: a number of one's own, by which a creation is known whose answer was lost."""
KINDS = ("Job", "Pod", "Service", "Secret", "ConfigMap")
"""What a job consists of; the Job first, as it would make its pod again."""
AGAIN_S = 30.0
"""For how long an apiserver is asked again that does not answer."""
GONE_S = 120.0
_PAUSE_S = 0.5


def submit(
    spec: JobSpec, image: str, directory: Path, client: KubeClient, again: bool = False
) -> Submitted:
    """Create the objects of a job, and a directory in which this machine knows of it.

    Args:
      spec: the job, validated; its `job_dir` is that of the pods.
      image: what the pods run.
      directory: is made.
      client: of the namespace.
      again: the directory is there, of a job of this name that is not there any more.

    Raises:
      UsageError: there is such a job already; nothing was changed.
      KubeError: the apiserver refuses, or is away.

    After any exception nothing is left of the job, as far as the apiserver can be asked.
    """
    name = object_name(spec.job_name)
    submitted = Submitted(client.context, client.namespace, name, job_dir=spec.job_dir)
    secret = make_certificates(spec.job_name)
    with contextlib.ExitStack() as undo:
        if not again:
            _make_directory(directory, undo)
        _describe(directory, spec, image, secret)
        submitted.save(directory)
        number = secrets.token_hex(8)
        undo.callback(_undo, client, submitted, number)
        made = _placed(master_job(spec, image, parallelism=0), client.namespace)
        made["metadata"]["annotations"][SUBMISSION_ANNOTATION] = number
        # Whoever follows the job fetches its result there; a laptop may sleep meanwhile.
        made["metadata"]["annotations"][KEEP_ANNOTATION] = "result"
        if again:
            made["metadata"]["annotations"][RESUMES_ANNOTATION] = "true"
        job = _create(client, made, number)
        submitted = dataclasses.replace(submitted, uid=job["metadata"]["uid"])
        submitted.save(directory)
        owner = Owner(name, submitted.uid)
        for each in (job_secret(spec, image, secret, owner), *services(spec, owner)):
            _create(client, _placed(each, client.namespace))
        _again(lambda: client.patch("Job", name, {"spec": {"parallelism": 1}}))
        undo.pop_all()
    return submitted


def remove(client: KubeClient, submitted: Submitted, wait_s: float = GONE_S) -> int:
    """Delete a job, and all that has its label; return how many objects there were.

    Raises:
      KubeError: the apiserver refuses, or is away.
      JobError: some are still there after `wait_s`.
    """
    found = _again(lambda: _objects_of(client, submitted.name))
    removed = len(found)
    ends = time.monotonic() + wait_s
    while found:
        for kind, one in found:
            if not one["metadata"].get("deletionTimestamp"):
                _delete(client, kind, one["metadata"])
        found = _again(lambda: _objects_of(client, submitted.name))
        if found and time.monotonic() > ends:
            names = ", ".join(f"{kind} {one['metadata']['name']}" for kind, one in found)
            raise JobError(
                f"job '{submitted.name}': still there after {wait_s:.0f} s: {names}; "
                "--now deletes pods by force, where a node is lost"
            )
        if found:
            time.sleep(_PAUSE_S)
    return removed


def remove_at_once(client: KubeClient, submitted: Submitted) -> int:
    """As `remove`, without any grace of the pods: also those of nodes that are lost."""
    _delete_job(client, submitted.name)
    for pod in _again(lambda: client.list("Pod", selecting(submitted.name))).items:
        _delete(client, "Pod", pod["metadata"], grace_s=0)
    return remove(client, submitted)


def leftovers(client: KubeClient, name: str) -> list[str]:
    """What there is of a job, as `Kind name`, whatever it belongs to.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    return [f"{kind} {one['metadata']['name']}" for kind, one in _objects_of(client, name)]


def lasting(client: KubeClient, name: str) -> list[str]:
    """What there is of a job that nobody has begun to delete; as `leftovers`."""
    return [
        f"{kind} {one['metadata']['name']}"
        for kind, one in _objects_of(client, name)
        if not one["metadata"].get("deletionTimestamp")
    ]


def check_free(directory: Path) -> None:
    """Raise UsageError where a directory holds a job already."""
    if (directory / JOB_FILE).exists():
        raise UsageError(
            f"job directory '{directory}': holds a job already; give another --job_name"
        )


def check_submittable(client: KubeClient, job_name: str, for_s: float = AGAIN_S) -> None:
    """Ask the apiserver for a job of a name, before minutes go by in which its image is made.

    Args:
      for_s: for how long it is asked again while it does not answer.

    Raises:
      UsageError: there is one, or whoever asks may not know.
      KubeError: the apiserver refuses, or is away.
    """
    name = object_name(job_name)
    try:
        _again(lambda: client.get("Job", name), for_s)
    except NotFound:
        return
    except Forbidden as error:
        raise _not_allowed(error) from None
    raise _taken(client, "Job", name, name)


def _make_directory(directory: Path, undo: contextlib.ExitStack) -> None:
    check_free(directory)
    try:
        directory.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"job directory '{directory}': {error.strerror}") from None
    undo.callback(shutil.rmtree, directory, ignore_errors=True)


def _describe(directory: Path, spec: JobSpec, image: str, secret: dict[str, bytes]) -> None:
    """Write what describes the job, its description last, and what shows this machine to it."""
    try:
        for name in credential_items(CLIENT).values():
            (directory / name).unlink(missing_ok=True)
        write_credentials(secret, CLIENT, directory)
        for name, content in reversed(described(spec, image).items()):
            path = directory / name
            path.touch(mode=0o600)
            path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"job directory '{directory}': {error.strerror}") from None


def _create(client: KubeClient, made: Json, number: str = "") -> Json:
    """Create an object, also where the answer is lost.

    Args:
      number: of this submission, which only a Job has; what belongs to a Job is this one's.
    """
    kind, metadata = made["kind"], made["metadata"]
    try:
        return _again(lambda: client.create(made))
    except Conflict:
        found = client.get(kind, metadata["name"])
        there = found["metadata"]
        if number and (there.get("annotations") or {}).get(SUBMISSION_ANNOTATION) == number:
            return found
        if not number and there.get("ownerReferences") == metadata["ownerReferences"]:
            return found
        raise _taken(client, kind, metadata["name"], metadata["labels"][f"{LABELS}/job"]) from None
    except Forbidden as error:
        raise _not_allowed(error) from None


def _taken(client: KubeClient, kind: str, name: str, job: str) -> UsageError:
    return UsageError(
        f"{kind} '{name}' is in namespace {client.namespace} already; give another --job_name, or "
        f"elasticdl jobs stop {PREFIX}{client.namespace}/{job} removes it"
    )


def _not_allowed(error: Forbidden) -> UsageError:
    return UsageError(
        f"{error}; elasticdl kubernetes rbac prints what whoever submits jobs has to be allowed"
    )


def _undo(client: KubeClient, submitted: Submitted, number: str) -> None:
    """Remove what was created, unless it is somebody else's."""
    with contextlib.suppress(KubeError, JobError):
        try:
            job = client.get("Job", submitted.name)
        except NotFound:
            return
        if (job["metadata"].get("annotations") or {}).get(SUBMISSION_ANNOTATION) == number:
            remove(client, submitted, wait_s=10.0)


def _placed(made: Json, namespace: str) -> Json:
    return {**made, "metadata": {**made["metadata"], "namespace": namespace}}


def _objects_of(client: KubeClient, name: str) -> list[tuple[str, Json]]:
    return [(kind, one) for kind in KINDS for one in client.list(kind, selecting(name)).items]


def _delete_job(client: KubeClient, name: str) -> None:
    with contextlib.suppress(NotFound):
        _again(lambda: client.delete("Job", name))


def _delete(client: KubeClient, kind: str, metadata: Json, grace_s: int | None = None) -> None:
    with contextlib.suppress(NotFound, Conflict):
        _again(lambda: client.delete(kind, metadata["name"], grace_s, uid=metadata["uid"]))


def _again(what: Callable[[], _Answer], for_s: float = AGAIN_S) -> _Answer:
    """Ask again while nobody answers; what is asked for may be done twice."""
    ends = time.monotonic() + for_s
    while True:
        try:
            return what()
        except (NotAsked, Unanswered):
            if time.monotonic() > ends:
                raise
        time.sleep(_PAUSE_S)
