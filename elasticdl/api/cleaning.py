"""Removes what the processes of a job that has ended left half done."""

from __future__ import annotations

import logging
import os
import shutil

from elasticdl.data.atomic_file import remove_temporary
from elasticdl.job_spec import JobSpec
from elasticdl.model.trained_model import remove_partial as remove_partial_model
from elasticdl.ps.manifest import remove_partial
from elasticdl.ps.part_files import is_remote

logger = logging.getLogger(__name__)

TEMPORARY = "tmp"
"""For what goes with the job's processes, below its directory."""


def clean_up(spec: JobSpec) -> None:
    """Remove what an ended job's processes left half done; its logs, journal and result stay."""
    for directory in (os.path.join(spec.job_dir, TEMPORARY), spec.parts_root):
        shutil.rmtree(directory, ignore_errors=True)
    if spec.command == "train":
        _remove_partial_checkpoints(spec)
    if spec.output is not None and spec.command == "train":
        remove_partial_model(spec.output, spec.job_name)
    elif spec.output is not None:
        remove_temporary(spec.output)


def _remove_partial_checkpoints(spec: JobSpec) -> None:
    if not is_remote(spec.checkpoint_root):
        remove_partial(spec.checkpoint_root)
        return
    from elasticdl.data.filesystems import use_stores_of

    use_stores_of(spec, patience_s=0)
    try:
        remove_partial(spec.checkpoint_root)
    except OSError as error:  # Nothing is a checkpoint without its manifest.
        logger.warning("'%s': %s", spec.checkpoint_root, error.strerror or error)
