"""What `--dry_run` prints: the objects with which a job of pods begins."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import yaml

from elasticdl.api.image.build import built_as, image_of_trained_model
from elasticdl.api.kubernetes.pods_checked import jobs_of_pods
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.masking import masked
from elasticdl.master.cluster.kubernetes.objects import submission_objects

_NOTE = "# Holds the job's keys: whoever has read this may stop the job and read what it learned.\n"
_OPEN = "# Opens the job's page, which has no login, to whoever reaches the cluster.\n"
_UNBUILT = """\
# No image is built for this: without --dry_run one is, of {what} upon
# {base}, and pushed as {image}; its digest stands in the pods then.
# elasticdl zoo build and elasticdl zoo push make one that can be given as --image.
"""


def objects_of(spec: JobSpec) -> str:
    """The Job, the Secret and the Service of a job, as `kubectl apply -f` takes them.

    Raises:
      UsageError: there is no image and none could be built, or no pod of the job could be made.
    """
    image, note = _image_of(spec)
    try:
        from elasticdl.api.kubernetes.certificates import make_certificates
    except ImportError as error:
        raise UsageError(
            f"--dry_run: {error}; what jobs of pods need is installed by "
            "pip install 'elasticdl[kubernetes]'"
        ) from None
    objects = submission_objects(spec, image, make_certificates(spec.job_name))
    jobs_of_pods(spec, image)
    if spec.dashboard_service != "none":
        note += _OPEN
    return _NOTE + note + yaml.dump_all(objects, Dumper=_PlainDumper, sort_keys=False)


def _image_of(spec: JobSpec) -> tuple[str, str]:
    """What image the pods would run, and a comment where it is not built so far."""
    if spec.image:
        return spec.image, ""
    what = f"the zoo {spec.model_zoo}"
    if spec.trained_model is not None:
        with suppress(UsageError):  # It may be where only pods can read it.
            if found := image_of_trained_model(spec.trained_model):
                return found, ""
        what = f"the copy of a zoo in {spec.trained_model}"
    image = built_as(spec)
    return image, _UNBUILT.format(image=image, what=masked(what), base=spec.base_image)


class _PlainDumper(yaml.SafeDumper):
    """Writes no references: people read this, and other programs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
