"""What this machine knows of a job of pods: where its objects are, and what shows it to them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from elasticdl.errors import UsageError
from elasticdl.job_spec import elasticdl_home

FILE_NAME = "kubernetes.json"
PREFIX = "k8s:"
_NAMED = re.compile(r"k8s:(?P<namespace>[a-z0-9-]+)/(?P<name>[a-z0-9.-]+)")


@dataclass(frozen=True)
class Submitted:
    """Where a job's objects are.

    Attributes:
      context: of the kubeconfig; empty: the one that is current.
      namespace: of all of them.
      name: of the Job and the Secret, with which the others' names begin.
      uid: of the Job; empty while nobody knows.
      job_dir: where the job's pods keep its files.
    """

    context: str
    namespace: str
    name: str
    uid: str = ""
    job_dir: str = ""

    def save(self, directory: Path) -> None:
        """Write it into a job's directory; OSError where that cannot be done."""
        unfinished = directory / f".{FILE_NAME}.{os.getpid()}"
        unfinished.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        os.replace(unfinished, directory / FILE_NAME)

    @classmethod
    def load(cls, directory: Path) -> Submitted:
        """Read what a job's directory has.

        Raises:
          UsageError: it is not what was written there.
        """
        path = directory / FILE_NAME
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"'{path}': says not where the job is: {error}") from None


def is_submitted(directory: Path) -> bool:
    """Whether a job's directory is that of a job of pods."""
    return (directory / FILE_NAME).is_file()


def parse_name(job: str) -> tuple[str, str]:
    """Return namespace and name of `k8s:NAMESPACE/NAME`.

    Raises:
      UsageError: it has another form.
    """
    match = _NAMED.fullmatch(job)
    if match is None:
        raise UsageError(f"job '{job}': not {PREFIX}NAMESPACE/NAME, e.g. {PREFIX}training/mnist-1")
    return match["namespace"], match["name"]


def foreign_directory(namespace: str, name: str) -> Path:
    """Where what is known of somebody else's job is kept."""
    return elasticdl_home() / "clusters" / namespace / name
