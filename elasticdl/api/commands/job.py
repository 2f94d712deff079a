"""``elasticdl train``, ``evaluate``, ``predict`` and ``check``."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from elasticdl.api.commands import Command
from elasticdl.api.parser import job_parser
from elasticdl.api.result import JobResult, audit_line, metrics_line
from elasticdl.api.stopping import stopping_at_once
from elasticdl.api.temporary import own_temporary_directory
from elasticdl.dashboard.finite import finite
from elasticdl.errors import Detached, ElasticDLError
from elasticdl.job_spec import OPTIONS, JobSpec, jobs_home, machine_value
from elasticdl.masking import masked

_OF_BUILDING = ("docker_image_repository", "base_image")
SUMMARIES = {
    "train": "train a model on parameter servers and workers",
    "evaluate": "measure a trained model on data",
    "predict": "write a trained model's predictions for data",
    "check": "try a model on one minibatch, in one process, before a job",
}

_ZOO = "--model_zoo=model_zoo --model_def=mnist.MnistElasticDLSpec"
EXAMPLES = {
    "train": (
        f"elasticdl train {_ZOO} --data='data/train-*.recordio' --output=output",
        "elasticdl train --config=job.yaml --num_epochs=3 --num_workers=4 --output=output",
        f"elasticdl train {_ZOO} --data='data/*.recordio' --output=output \\",
        '      --params="hidden_units=[10, 100], learning_rate=0.01"',
    ),
    "evaluate": (
        "elasticdl evaluate --trained_model=output --data='data/test-*.recordio'",
        "elasticdl evaluate --trained_model=output --data=data/test.recordio --json",
    ),
    "predict": (
        "elasticdl predict --trained_model=output --data=data/new.recordio "
        "--output=predictions.csv",
        "elasticdl predict --trained_model=output --data='data/*.recordio' \\",
        "      --output=predictions.parquet --keep_columns=id",
    ),
    "check": (f"elasticdl check {_ZOO} --data='data/train-*.recordio'",),
}


def resolve(command: str, words: Sequence[str]) -> JobSpec:
    """Make the spec of a job from the words after its command."""
    summary = SUMMARIES[command]
    parser = job_parser(command, f"{summary[0].upper()}{summary[1:]}.", EXAMPLES[command])
    return JobSpec.resolve(command, vars(parser.parse(words)), "--")


def _run_job(command: str, words: Sequence[str]) -> None:
    job_spec = resolve(command, words)
    if job_spec.dry_run:
        from elasticdl.api.kubernetes.dry_run import objects_of

        print(objects_of(job_spec), end="")
        return

    with stopping_at_once(f"elasticdl {command}"):
        from elasticdl.api.functions import run_job

    with _place_for_files(job_spec), telling_failure(job_spec.json_events):
        result = run_job(job_spec)
    show_result(job_spec, result)


def _place_for_files(job_spec: JobSpec) -> AbstractContextManager[None]:
    """The place of temporary files of a job that is run in this process, if it is."""
    return nullcontext() if job_spec.num_workers else own_temporary_directory()


@contextmanager
def telling_failure(json_events: bool) -> Iterator[None]:
    """Print the last object of `--json_events` for a job that ends with an exception."""
    try:
        yield
    except (ElasticDLError, KeyboardInterrupt, SystemExit) as error:
        if json_events:
            told = {"state": "detached" if isinstance(error, Detached) else "stopped"}
            if isinstance(error, ElasticDLError):
                told = {"state": "failed", "error": str(error)}
            _print_result(told)
        raise


def _print_result(told: Mapping[str, Any]) -> None:
    values = masked(finite({"time": time.time(), "kind": "result", **told}))
    print(json.dumps(values), flush=True)


def show_result(job_spec: JobSpec, result: JobResult) -> None:
    """Print how a job ended, as the job's options want it."""
    if job_spec.json_events:
        _print_result({"state": "succeeded", **result.to_json()})
    elif job_spec.print_json:
        print(json.dumps(result.to_json()))
    else:
        for line in result_lines(job_spec, result):
            print(line)


def result_lines(job_spec: JobSpec, result: JobResult) -> list[str]:
    """Say how a job ended: its metrics, its audit, its output, and what to type next."""
    from elasticdl.api.profile import TABLE_FILE, TRACE_FILE, bottleneck_line, profile_of

    lines = []
    if result.metrics:
        what = "on validation data: " if job_spec.command == "train" else ""
        lines.append(f"{what}{metrics_line(result.metrics)}")
    elif result.history and result.history[-1].get("loss") is not None:
        lines.append(f"loss {result.history[-1]['loss']:.4f} (training, last epoch)")
    if result.audit:
        lines.append(audit_line(result.audit))
    if line := bottleneck_line(result.figures):
        lines.append(line)
    if job_spec.profile:
        profile = _shown_path(str(profile_of(result.job_dir)))
        lines.append(f"profile: {profile}: {TABLE_FILE}, and {TRACE_FILE} for chrome://tracing")
    if job_spec.command == "train" and result.output:
        lines.append(f"trained model: {_shown_path(result.output)}")
        lines.append(f"next: {_predict_command(job_spec, result.output)}")
    elif result.output:
        lines.append(f"predictions: {_shown_path(result.output)}")
    return lines


def _predict_command(job_spec: JobSpec, trained_model: str) -> str:
    """What makes predictions with the model, where the job's own instances ran."""
    patterns = (job_spec.validation_data or job_spec.data or "").split(",")
    options = {
        "trained_model": _shown_path(trained_model),
        "data": masked(",".join(_shown_path(pattern) for pattern in patterns)),
        "output": "predictions.csv",
    }
    if job_spec.cluster == "kubernetes":
        options["output"] = f"{os.path.dirname(trained_model)}/predictions.csv"
        if "://" not in trained_model and not os.path.exists(trained_model):
            # Only pods can read in which image it was trained.
            options["image"] = JobSpec.load(jobs_home() / job_spec.job_name).image or ""
    given = [*_place_options(job_spec), *options.items()]
    flags = [f"--{name}={shlex.quote(value)}" for name, value in given]
    return " ".join([program(), "predict", *flags])


def _place_options(job_spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Where the job ran, as far as another command would not take that for granted."""
    for name, one in OPTIONS.items():
        value = getattr(job_spec, name) if one.of_machine else None
        if not one.of_machine or name in _OF_BUILDING or value == machine_value(name):
            continue
        if name == "cluster" or value != one.default:
            given = value if isinstance(value, tuple) else (value,)
            yield from ((name, str(each)) for each in given)


def program() -> str:
    """How this program was started, to be typed again."""
    if Path(sys.argv[0]).absolute() == Path(__file__).parents[1] / "__main__.py":
        return f"{_shown_path(sys.executable)} -m elasticdl.api"
    return "elasticdl"


def _shown_path(path: str) -> str:
    """The path from here, where it lies below the current directory; a URI as it is."""
    if "://" in path:
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _check(words: Sequence[str]) -> None:
    job_spec = resolve("check", words)

    from elasticdl.api.preflight import preflight
    from elasticdl.api.validation import validate, with_columns
    from elasticdl.model.keras_choice import with_keras
    from elasticdl.model.zoo_sources import with_zoo

    job_spec = with_zoo(job_spec)
    validate(job_spec)
    with _place_for_files(job_spec):
        report = preflight(with_keras(with_columns(job_spec)))
    text = report.pop("text")
    if job_spec.print_json:
        print(json.dumps(finite(report)))
    elif not job_spec.quiet:
        print(text)


def _command(name: str) -> Command:
    run = _check if name == "check" else lambda words: _run_job(name, words)
    return Command((name,), SUMMARIES[name], run)


COMMANDS = [_command(name) for name in SUMMARIES]
