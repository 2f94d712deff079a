"""Train, evaluate and predict, as functions of a script or a notebook.

No ``if __name__ == "__main__"`` is needed: a job's processes never import the caller's script.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elasticdl.api.job_backends import PLACE
from elasticdl.api.launcher import early_process, launch
from elasticdl.api.preflight import preflight
from elasticdl.api.progress import open_progress
from elasticdl.api.result import JobResult, JobStatus
from elasticdl.api.validation import validate, with_columns
from elasticdl.errors import Detached, JobError, UsageError, UserCodeError
from elasticdl.job_spec import JOB_FILE, JobSpec, jobs_home, options_of
from elasticdl.model.keras_choice import with_keras
from elasticdl.model.zoo_sources import is_repository, with_zoo


def train(**options: Any) -> JobResult:
    """Train a model on parameter servers and workers; write the trained model."""
    return run_job(JobSpec.resolve("train", options))


def evaluate(**options: Any) -> JobResult:
    """Measure a trained model on data."""
    return run_job(JobSpec.resolve("evaluate", options))


def predict(**options: Any) -> JobResult:
    """Write a trained model's predictions for data, in the data's order."""
    return run_job(JobSpec.resolve("predict", options))


def run_job(job_spec: JobSpec) -> JobResult:
    """Check a job, launch it, show its progress, and wait until it has ended.

    Raises:
      UsageError: it cannot work; nothing was launched.
      UserCodeError: the model's code raised.
      JobError: it was launched and could not be finished.
      KeyboardInterrupt: Ctrl-C was pressed; its note says what there is.
    """
    if job_spec.cluster == "kubernetes":
        return _run_pods(job_spec)
    try:
        job_spec = _with_zoo(job_spec)
        validate(job_spec)
        job_spec = with_columns(job_spec)
        job_spec = with_keras(job_spec)
        with open_progress(job_spec) as show:
            show(JobStatus(state="checking the model", message=f"job {job_spec.job_name}"))
            with early_process(job_spec) as process:
                if process is not None and process.dashboard is not None:
                    told = f"dashboard: {process.dashboard}"
                    show(JobStatus(state="checking the model", message=told))
                report = preflight(job_spec, None if process is None else process.zygote)
                for warning in report["warnings"]:
                    show(JobStatus(state="checking the model", message=f"warning: {warning}"))
                job_spec = limited(job_spec, report["max_steps"])
                return launch(job_spec, show, process, report["declared_shards"])
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note(_what_is_there(job_spec) or "nothing was launched")
        raise
    except JobError as error:
        _add_how_to_go_on(error, job_spec)
        raise


def _run_pods(job_spec: JobSpec) -> JobResult:
    """Launch a job of pods, and stay with it to its end."""
    try:
        from elasticdl.api.kubernetes import following
    except ImportError as error:
        raise UsageError(
            f"cluster=kubernetes: {error}; what jobs of pods need is installed by "
            "pip install 'elasticdl[kubernetes]'"
        ) from None
    here = job_spec.model_copy(update={"job_dir": str(jobs_home() / job_spec.job_name)})
    try:
        with open_progress(here) as show:
            return following.launch(job_spec, show)
    except Detached:
        raise
    except KeyboardInterrupt as stop:
        stop.add_note("nothing was launched")
        raise
    except JobError as error:
        _add_how_to_go_on(error, here)
        raise


def resume_job(job: str, **shown: Any) -> tuple[JobSpec, JobResult]:
    """Go on with a job that was stopped, failed or lost, from its journal and last checkpoint.

    Args:
      shown: display options that are others than the job's own.

    Raises:
      UsageError: there is no such job, it still runs, or it has succeeded; nothing was launched.
      UserCodeError, JobError, KeyboardInterrupt: as `run_job`.
    """
    placed = PLACE.find(job)
    job_spec = JobSpec.load(placed.directory).model_copy(update=shown)
    try:
        with open_progress(job_spec) as show:
            return job_spec, placed.resume(job_spec, show)
    except Detached:
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        stop.add_note(_what_is_there(job_spec))
        raise
    except JobError as error:
        _add_how_to_go_on(error, job_spec)
        raise


def _add_how_to_go_on(error: JobError, job_spec: JobSpec) -> None:
    """Note on a job's failure how it goes on, unless the model's code would only raise again."""
    if not isinstance(error, UserCodeError) and (there := _what_is_there(job_spec)):
        error.add_note(there)


def _what_is_there(job_spec: JobSpec) -> str:
    """Say where a job is and how it goes on; empty where it was not launched."""
    if not (Path(job_spec.job_dir) / JOB_FILE).exists():
        return ""
    there = f"job {job_spec.job_name} is in {job_spec.job_dir}"
    return f"{there}; elasticdl jobs resume {job_spec.known_as} goes on with it"


def _with_zoo(job_spec: JobSpec) -> JobSpec:
    """Return a job whose zoo is here, and say so while it is fetched."""
    zoo = job_spec.model_zoo
    if zoo is None or not is_repository(zoo):
        return job_spec
    with open_progress(job_spec) as show:
        show(JobStatus(state="fetching the model zoo", message=f"fetching {zoo}"))
        return with_zoo(job_spec)


def limited(job_spec: JobSpec, max_steps: int | None) -> JobSpec:
    """Return a job that ends after the steps its model's callbacks allow, if they say so."""
    if max_steps is None:
        return job_spec
    limits = [each for each in (job_spec.max_steps, max_steps) if each is not None]
    return job_spec.model_copy(update={"max_steps": min(limits)})


def _describe(function: Callable[..., JobResult]) -> None:
    """Give a function the signature and docstring that `JobSpec` declares for its command."""
    taken = options_of(function.__name__)
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if function.__name__ in one.required_by
            else one.default,
        )
        for one in taken.values()
    ]
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*parameters, config], return_annotation=JobResult
    )
    lines = [f"  {one.name}: {one.description}." for one in taken.values()]
    lines.append("  config: YAML file of options; arguments given here hold instead of its own.")
    function.__doc__ = "\n".join([f"{function.__doc__}", "", "Args:", *lines])


for _function in (train, evaluate, predict):
    _describe(_function)
