"""What the objects of a job are called, and the labels by which they are found."""

from __future__ import annotations

import hashlib
import re

import elasticdl
from elasticdl.master.instances import InstanceSpec, Role

MOST_CHARACTERS = 40
"""Of a job's objects' common name: the longest that is made of it has to stay below 63."""
CHECK = "check"
"""The component of the pod that tries the model before others are launched."""
PREFIX = "elasticdl.org"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
INDEX_LABEL = f"{PREFIX}/index"
INCARNATION_LABEL = f"{PREFIX}/incarnation"
RESUMES_ANNOTATION = f"{PREFIX}/resumes"
"""Of a Job: it goes on with what is in its directory."""
SESSION_ANNOTATION = f"{PREFIX}/session"
"""Of a pod that a master launched: which life of the job it belongs to."""
_HASH_CHARACTERS = 8


def object_name(job_name: str) -> str:
    """The job's name as an object may be called, with a hash at the end where it was changed.

    >>> object_name("mnist-1")
    'mnist-1'
    """
    kept = re.sub(r"[^a-z0-9]+", "-", job_name.lower()).strip("-")
    if kept == job_name and len(kept) <= MOST_CHARACTERS and kept[0].isalpha():
        return kept
    if not kept[:1].isalpha():  # A service's name begins with a letter.
        kept = f"job-{kept}".rstrip("-")
    digest = hashlib.sha256(job_name.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{kept[: MOST_CHARACTERS - _HASH_CHARACTERS - 1].rstrip('-')}-{digest}"


def pod_name(name: str, who: InstanceSpec) -> str:
    """The pod of an instance: each incarnation has its own."""
    return f"{name}-{who.role.value}-{who.index}-{who.incarnation}"


def check_pod_name(name: str, number: int) -> str:
    """The pod of the master's `number`-th check of the model."""
    return f"{name}-{CHECK}-0-{number}"


def master_service_name(name: str) -> str:
    """The service at which a job's master is."""
    return f"{name}-master"


def dashboard_service_name(name: str) -> str:
    """The service that opens a job's page, if one does."""
    return f"{name}-dashboard"


def partition_service_name(name: str, index: int) -> str:
    """The service at which the parameter server of an index is, whatever its incarnation."""
    return f"{name}-ps-{index}"


def claim_name(name: str) -> str:
    """The ConfigMap that says who is master."""
    return f"{name}-claim"


def checked_name(name: str) -> str:
    """The ConfigMap of what the check resolved."""
    return f"{name}-checked"


def result_name(name: str) -> str:
    """The ConfigMap in which a job's result is kept, if it is."""
    return f"{name}-result"


def selecting(name: str, component: str = "") -> dict[str, str]:
    """The labels that all objects of a job have, or those of a component."""
    labels = {"app.kubernetes.io/name": "elasticdl", INSTANCE_LABEL: name}
    return {**labels, COMPONENT_LABEL: component} if component else labels


def labels(name: str, component: str) -> dict[str, str]:
    """The labels of an object of a job."""
    version = re.sub(r"[^A-Za-z0-9._-]", "-", elasticdl.__version__)[:63].strip("-._")
    return {
        **selecting(name, component),
        "app.kubernetes.io/version": version,
        "app.kubernetes.io/managed-by": "elasticdl",
        f"{PREFIX}/job": name,
    }


def instance_labels(name: str, who: InstanceSpec) -> dict[str, str]:
    """The labels of an instance's pod."""
    return {
        **labels(name, who.role.value),
        INDEX_LABEL: str(who.index),
        INCARNATION_LABEL: str(who.incarnation),
    }


def instance_of(labels: dict[str, str]) -> InstanceSpec | None:
    """The instance whose pod has these labels; None where it is no instance's."""
    try:
        return InstanceSpec(
            Role(labels[COMPONENT_LABEL]), int(labels[INDEX_LABEL]), int(labels[INCARNATION_LABEL])
        )
    except (KeyError, ValueError):
        return None
