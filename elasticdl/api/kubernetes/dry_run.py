"""What `--dry_run` prints: the objects with which a job of pods begins."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import yaml

from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.names import object_name
from elasticdl.master.cluster.kubernetes.objects import (
    LaunchedBy,
    Owner,
    check_pod,
    instance_pod,
    submission_objects,
)
from elasticdl.master.instances import InstanceSpec, Needs, Role

_NOTE = "# Holds the job's keys: whoever has read this may stop the job and read what it learned.\n"


def objects_of(spec: JobSpec) -> str:
    """The Job, the Secret and the Service of a job, as `kubectl apply -f` takes them.

    Raises:
      UsageError: there is no image, or no pod of the job could be made.
    """
    image = spec.image
    if not image and spec.trained_model is not None:
        from elasticdl.api.image.build import image_of_trained_model

        with suppress(UsageError):  # It may be where only pods can read it.
            image = image_of_trained_model(spec.trained_model) or ""
    if not image:
        raise UsageError(
            "--dry_run: builds no image; give one that is there, "
            "e.g. --image=registry.example.com/team/model:1 "
            "(elasticdl zoo build and elasticdl zoo push make one)"
        )
    spec = spec.model_copy(update={"image": image})
    try:
        from elasticdl.api.kubernetes.certificates import make_certificates
    except ImportError as error:
        raise UsageError(
            f"--dry_run: {error}; what jobs of pods need is installed by "
            "pip install 'elasticdl[kubernetes]'"
        ) from None
    objects = submission_objects(spec, spec.image, make_certificates(spec.job_name))
    check_instances(spec, spec.image)
    return _NOTE + yaml.dump_all(objects, Dumper=_PlainDumper, sort_keys=False)


def check_instances(spec: JobSpec, image: str) -> None:
    """Make a pod of each kind that the master will: what is wrong with them is said here.

    Raises:
      UsageError: one cannot be made.
    """
    owner = Owner(object_name(spec.job_name), "")
    by = LaunchedBy(owner, image, "", 1, "")
    check_pod(spec, 1, Needs(), by)
    for role in (Role.PS, Role.WORKER):
        instance_pod(spec, InstanceSpec(role, 0, 1), Needs(), by)


class _PlainDumper(yaml.SafeDumper):
    """Writes no references: people read this, and other programs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
