"""Options under the heading Job: what a job is called, and where its files are."""

from __future__ import annotations

from pydantic import BaseModel

from elasticdl.job_options.commands import JOB
from elasticdl.options import option

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class JobOptions(BaseModel):
    """What a job is called, and where its files are."""

    job_name: str = option(
        "",
        "name of the job (default: from the model and the time)",
        group="Job",
        commands=JOB,
        metavar="NAME",
        example="mnist-1",
        also=("name",),
        pattern=_NAME,
    )

    job_dir: str = option(
        "",
        "directory, of pods also a URI, of the job's journal, checkpoints and logs "
        "(default: $ELASTICDL_HOME/jobs/NAME, ~/.elasticdl if unset)",
        group="Job",
        commands=JOB,
        metavar="DIR",
        example="jobs/mnist-1",
        form="path",
        min_length=1,
    )
