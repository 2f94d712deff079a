"""The one description of a job: every option is declared here, once.

Flags of the command line, keyword arguments of ``elasticdl.train``, keys of a ``--config`` file and
what instances receive are all read from `JobSpec`. Values may arrive as strings (flags) or as
Python values (keywords, YAML); strings are parsed once, literally, and never evaluated.
"""

from __future__ import annotations

import ast
import difflib
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from elasticdl.errors import UsageError

Command = Literal["train", "evaluate", "predict", "check"]
COMMANDS: tuple[str, ...] = get_args(Command)
JOB_FILE = "job.yaml"
GROUPS = ("Model", "Data", "Training", "Cluster", "Reliability", "Output", "Job", "Display")

_TRAIN = ("train", "check")
_JOB = ("train", "evaluate", "predict")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


def option(
    default: Any,
    description: str,
    *,
    group: str,
    commands: tuple[str, ...],
    metavar: str,
    example: str,
    required_by: tuple[str, ...] = (),
    form: Literal["value", "path", "patterns"] = "value",
    also: tuple[str, ...] = (),
    **constraints: Any,
) -> Any:
    """Declare one option of a job.

    Args:
      default: the value when nobody gives one.
      description: one line for the help.
      group: the heading it stands under in the help, one of `GROUPS`.
      commands: the commands that take it.
      metavar: what stands for the value in the help.
      example: a right value, as typed.
      required_by: the commands that cannot do without it.
      form: ``path`` and ``patterns`` (file patterns, comma separated) are made absolute.
      also: names people try for it; an unknown option of such a name is pointed here.
      constraints: bounds for pydantic (``ge``, ``gt``, ``le``, ``pattern``, ``min_length``, …).
    """
    return Field(
        default,
        description=description,
        json_schema_extra={
            "group": group,
            "commands": list(commands),
            "metavar": metavar,
            "example": example,
            "required_by": list(required_by),
            "form": form,
            "also": list(also),
        },
        **constraints,
    )


class JobSpec(BaseModel):
    """One train, evaluate, predict or check run, described wholly; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    command: Command = "train"

    model_zoo: str | None = option(
        None,
        "directory of the Python files that define models",
        group="Model",
        commands=_TRAIN,
        metavar="DIR",
        example="model_zoo",
        required_by=_TRAIN,
        form="path",
        min_length=1,
    )
    model_def: str | None = option(
        None,
        "the model: module.Name of a class or function in the model zoo",
        group="Model",
        commands=_TRAIN,
        metavar="MODULE.NAME",
        example="mnist.MnistElasticDLSpec",
        required_by=_TRAIN,
        also=("model", "model_class"),
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
    )
    params: str = option(
        "",
        "name=value pairs for the model's constructor; learning_rate for its optimizer",
        group="Model",
        commands=_TRAIN,
        metavar="PAIRS",
        example="hidden_units=[10, 100], learning_rate=0.01",
        also=("learning_rate", "lr", "model_params"),
    )
    trained_model: str | None = option(
        None,
        "directory of a trained model, as `train` writes it",
        group="Model",
        commands=("evaluate", "predict"),
        metavar="DIR",
        example="output",
        required_by=("evaluate", "predict"),
        form="path",
        also=("model", "model_dir", "saved_model"),
        min_length=1,
    )
    input_fn: str | None = option(
        None,
        "input function to use instead of the model's own",
        group="Model",
        commands=_TRAIN,
        metavar="MODULE.NAME",
        example="inputs.augmented",
        also=("dataset_fn", "feed"),
        pattern=_FUNCTION,
    )
    loss: str | None = option(
        None,
        "loss function to use instead of the model's own",
        group="Model",
        commands=_TRAIN,
        metavar="MODULE.NAME",
        example="losses.focal",
        pattern=_FUNCTION,
    )
    optimizer: str | None = option(
        None,
        "function making the optimizer to use instead of the model's own",
        group="Model",
        commands=_TRAIN,
        metavar="MODULE.NAME",
        example="optimizers.adam",
        pattern=_FUNCTION,
    )

    data: str | None = option(
        None,
        "RecordIO files: a path or pattern, or several with commas between",
        group="Data",
        commands=COMMANDS,
        metavar="PATTERN",
        example="data/train-*.recordio",
        required_by=COMMANDS,
        form="patterns",
        also=("training_data", "input", "dataset"),
        min_length=1,
    )
    validation_data: str | None = option(
        None,
        "RecordIO files to evaluate on after each epoch",
        group="Data",
        commands=("train",),
        metavar="PATTERN",
        example="data/test-*.recordio",
        form="patterns",
        also=("evaluation_data", "test_data"),
        min_length=1,
    )
    minibatch_size: int = option(
        64,
        "records in one minibatch",
        group="Data",
        commands=COMMANDS,
        metavar="N",
        example="64",
        also=("batch_size",),
        ge=1,
        le=1 << 24,
    )
    shuffle: bool = option(
        True,
        "permute the records of each task and the order of tasks, by --seed",
        group="Data",
        commands=("train",),
        metavar="true|false",
        example="false",
    )
    records_per_task: int | None = option(
        None,
        "records leased to a worker at a time (default: a second of work or more)",
        group="Data",
        commands=_JOB,
        metavar="N",
        example="4096",
        also=("num_minibatches_per_task", "task_size"),
        ge=1,
        le=1 << 40,
    )
    keep_columns: tuple[str, ...] = option(
        (),
        "input columns to copy beside the predictions, with commas between",
        group="Data",
        commands=("predict",),
        metavar="NAMES",
        example="id,label",
    )
    max_chunk_bytes: int = option(
        256 << 20,
        "largest RecordIO chunk, uncompressed, that a reader accepts",
        group="Data",
        commands=COMMANDS,
        metavar="BYTES",
        example=str(256 << 20),
        ge=1 << 10,
        le=1 << 40,
    )

    num_epochs: int = option(
        1,
        "times to go over the data",
        group="Training",
        commands=("train",),
        metavar="N",
        example="3",
        also=("epochs", "epoch"),
        ge=1,
        le=1_000_000,
    )
    max_steps: int | None = option(
        None,
        "stop after this many minibatches, exactly",
        group="Training",
        commands=("train",),
        metavar="N",
        example="1000",
        also=("steps", "num_steps"),
        ge=1,
        le=1 << 60,
    )
    staleness: int = option(
        1,
        "how many of a worker's own pushes may be under way when it pulls",
        group="Training",
        commands=("train",),
        metavar="N",
        example="1",
        ge=0,
        le=64,
    )
    on_nan: Literal["stop", "skip"] = option(
        "stop",
        "when a loss or gradient is not finite: stop the job, or skip the minibatch and count it",
        group="Training",
        commands=_TRAIN,
        metavar="stop|skip",
        example="stop",
    )
    seed: int = option(
        0,
        "seed of the initial weights and of the shuffling",
        group="Training",
        commands=_TRAIN,
        metavar="N",
        example="1",
        also=("random_seed",),
        ge=0,
        lt=1 << 63,
    )

    num_workers: int = option(
        2,
        "worker processes; 0 runs the whole job in this process, for a debugger",
        group="Cluster",
        commands=_JOB,
        metavar="N",
        example="2",
        also=("workers",),
        ge=0,
        le=10_000,
    )
    num_ps: int = option(
        1,
        "parameter servers",
        group="Cluster",
        commands=_JOB,
        metavar="N",
        example="2",
        also=("ps", "num_ps_pods", "num_parameter_servers"),
        ge=1,
        le=1024,
    )
    num_bucket_groups: int = option(
        64,
        "shares the parameters are cut into, fixed for the job; at least --num_ps",
        group="Cluster",
        commands=_JOB,
        metavar="N",
        example="64",
        ge=64,
        le=65_536,
    )
    worker_threads: int = option(
        0,
        "threads of each worker's TensorFlow; 0 shares out the machine's cores",
        group="Cluster",
        commands=_JOB,
        metavar="N",
        example="2",
        ge=0,
        le=1024,
    )

    max_task_failures: int = option(
        3,
        "times the model's code may raise on one task before the job fails",
        group="Reliability",
        commands=_JOB,
        metavar="N",
        example="3",
        also=("max_retries", "retries"),
        ge=1,
        le=1000,
    )
    lease_s: float = option(
        30.0,
        "seconds without a sign of life after which a worker's task is leased to another",
        group="Reliability",
        commands=_JOB,
        metavar="SECONDS",
        example="30",
        also=("lease", "timeout"),
        ge=1,
        le=86_400,
    )

    output: str | None = option(
        None,
        "where the result goes: a directory for the trained model (train), "
        "a .recordio, .parquet or .csv file (predict)",
        group="Output",
        commands=("train", "predict"),
        metavar="PATH",
        example="output",
        required_by=("train", "predict"),
        form="path",
        also=("output_dir", "out", "model_output"),
        min_length=1,
    )
    overwrite: bool = option(
        False,
        "replace what the output holds already",
        group="Output",
        commands=("train", "predict"),
        metavar="true|false",
        example="true",
        also=("force",),
    )

    job_name: str = option(
        "",
        "name of the job (default: from the model and the time)",
        group="Job",
        commands=_JOB,
        metavar="NAME",
        example="mnist-1",
        also=("name",),
        pattern=_NAME,
    )
    job_dir: str = option(
        "",
        "directory of the job's journal, checkpoints and logs "
        "(default: $ELASTICDL_HOME/jobs/NAME, ~/.elasticdl if unset)",
        group="Job",
        commands=_JOB,
        metavar="DIR",
        example="jobs/mnist-1",
        form="path",
        min_length=1,
    )

    print_json: bool = option(
        False,
        "print the result as JSON on stdout, and nothing else there",
        group="Display",
        commands=COMMANDS,
        metavar="true|false",
        example="true",
        alias="json",
    )
    quiet: bool = option(
        False,
        "show no progress",
        group="Display",
        commands=COMMANDS,
        metavar="true|false",
        example="true",
        also=("silent",),
    )
    debug: bool = option(
        False,
        "show this package's own traceback when something fails",
        group="Display",
        commands=COMMANDS,
        metavar="true|false",
        example="true",
        also=("traceback", "verbose"),
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = option(
        "INFO",
        "least important lines that go to the instances' logs",
        group="Display",
        commands=_JOB,
        metavar="LEVEL",
        example="INFO",
    )

    @classmethod
    def resolve(cls, command: str, options: Mapping[str, Any], prefix: str = "") -> JobSpec:
        """Make the spec of a job from what a person gave.

        Options named in the file ``options["config"]`` hold unless `options` has them too. None
        means "not given". Paths are made absolute; the job gets a name and a directory.

        Args:
          command: one of `COMMANDS`.
          options: values by option name, as strings or Python values.
          prefix: what stands before an option's name where the person gave it (``--`` or nothing).

        Raises:
          UsageError: an unknown option, a wrong value, or required options that are missing.
        """
        given: dict[str, _Given] = {}
        if options.get("config") is not None:
            file = str(options["config"])
            given = {k: _Given(v, f"{file}: ") for k, v in _read_config(file, command).items()}
        for name, value in options.items():
            if name != "config" and value is not None:
                given[name] = _Given(value, prefix)
        by_name = options_of(command)
        for name, item in given.items():
            if name not in by_name:
                raise UsageError(unknown_option(name, command, item.prefix))
        missing = [n for n, o in by_name.items() if command in o.required_by and n not in given]
        if missing:
            raise UsageError(_missing_options(missing, by_name, command, prefix))

        values = {n: _plain(by_name[n], item) for n, item in given.items()}
        values["command"] = command
        spec = cls._validated(values, given, by_name)
        spec._check_together({n: item.prefix for n, item in given.items()}, prefix)
        return spec._placed()

    @classmethod
    def _validated(
        cls, values: dict[str, Any], given: Mapping[str, _Given], by_name: Mapping[str, Option]
    ) -> JobSpec:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "command"
            if name not in given:
                raise UsageError(f"{name} {first.get('input')!r}: {first['msg']}") from None
            raise UsageError(
                wrong_value(by_name[name], given[name].value, given[name].prefix, first["type"])
            ) from None

    def _check_together(self, prefixes: Mapping[str, str], prefix: str) -> None:
        """Check what one option says against another."""
        if self.num_ps > self.num_bucket_groups:
            raise UsageError(
                f"{prefixes.get('num_ps', prefix)}num_ps={self.num_ps}: more parameter servers "
                f"than bucket groups ({self.num_bucket_groups}); give "
                f"{prefix}num_bucket_groups={self.num_ps} or more"
            )

    def _placed(self) -> JobSpec:
        """This spec with absolute paths, a job name and a job directory."""
        changes: dict[str, Any] = {}
        for name, one in OPTIONS.items():
            value = getattr(self, one.field)
            if value and one.form == "path":
                changes[one.field] = absolute_path(value)
            elif value and one.form == "patterns":
                parts = [part.strip() for part in value.split(",")]
                changes[name] = ",".join(absolute_path(part) for part in parts if part)
        job_name = self.job_name or self._new_name()
        changes["job_name"] = job_name
        changes.setdefault("job_dir", str(jobs_home() / job_name))
        return self.model_copy(update=changes)

    def _new_name(self) -> str:
        if self.model_def is not None:
            subject = self.model_def.split(".")[0]
        else:
            subject = f"{self.command}-{Path(self.trained_model or 'model').name}"
        kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in subject.lower())
        subject = kept.strip("-")[:32].strip("-") or "job"
        return f"{subject}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"

    def to_options(self) -> dict[str, Any]:
        """The options that this spec's command takes, without those left at None."""
        taken = options_of(self.command)
        values = {name: getattr(self, one.field) for name, one in taken.items()}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None and name != "job_dir"
        }

    def save(self, job_dir: str | Path | None = None) -> Path:
        """Write ``job.yaml`` into the job's directory (made if needed); return its path.

        The file does not say where the directory is, so that a job may be moved.
        """
        import yaml

        directory = Path(job_dir if job_dir is not None else self.job_dir)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / JOB_FILE
        temporary = path.with_name(f".{JOB_FILE}.{os.getpid()}")
        text = yaml.safe_dump({"command": self.command, **self.to_options()}, sort_keys=False)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
        return path

    @classmethod
    def load(cls, job_dir: str | Path) -> JobSpec:
        """Read the spec saved in a job's directory (or a job file); its directory is the job's."""
        path = Path(job_dir)
        if path.is_dir():
            path /= JOB_FILE
        content = _read_yaml(str(path))
        command = str(content.pop("command", None))
        if command not in COMMANDS:
            raise UsageError(f"{path}: command {command!r}; it should be one of {_or(COMMANDS)}")
        return cls.resolve(command, {**content, "job_dir": str(path.parent)}, f"{path}: ")


@dataclass(frozen=True)
class Option:
    """How one option of `JobSpec` is declared; what flags, help and errors are made from."""

    name: str
    field: str
    info: FieldInfo
    group: str
    commands: tuple[str, ...]
    metavar: str
    example: str
    required_by: tuple[str, ...]
    form: str
    also: tuple[str, ...]

    @property
    def description(self) -> str:
        return self.info.description or ""

    @property
    def default(self) -> Any:
        return self.info.default

    @property
    def types(self) -> tuple[Any, ...]:
        """The types a value may have, None left out (``int | None`` gives ``(int,)``)."""
        annotation = self.info.annotation
        members = get_args(annotation)
        if type(None) in members:
            return tuple(member for member in members if member is not type(None))
        return (annotation,)

    @property
    def is_flag(self) -> bool:
        """Is it a yes-or-no option?"""
        return self.types == (bool,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values it takes, where there is such a list."""
        (kind,) = self.types
        members = get_args(kind)
        return members if members and all(isinstance(m, str) for m in members) else ()

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Least and greatest value, both included."""
        low = high = None
        for rule in self.info.metadata:
            low = getattr(rule, "ge", low)
            high = getattr(rule, "le", high)
            if getattr(rule, "lt", None) is not None:
                high = rule.lt - 1
        return low, high


def _declared() -> dict[str, Option]:
    found = {}
    for field, info in JobSpec.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict):
            declared = {k: tuple(v) if isinstance(v, list) else v for k, v in extra.items()}
            name = info.alias or field
            found[name] = Option(name=name, field=field, info=info, **declared)  # type: ignore[arg-type]
    return found


OPTIONS: Mapping[str, Option] = _declared()


def options_of(command: str) -> dict[str, Option]:
    """The options that a command takes, by name, in the order of declaration."""
    return {name: one for name, one in OPTIONS.items() if command in one.commands}


@dataclass(frozen=True)
class _Given:
    value: Any
    prefix: str


def _plain(one: Option, given: _Given) -> Any:
    """Bring a given value to the form that the field's type understands."""
    value = given.value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    (kind,) = one.types
    if one.name == "params" and isinstance(value, Mapping):
        return params_text(value, given.prefix)
    if one.name == "keep_columns" and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if one.form == "patterns" and isinstance(value, list | tuple):
        return ",".join(os.fspath(part) for part in value)
    if isinstance(value, bool) and kind in (int, float):
        raise UsageError(wrong_value(one, value, given.prefix, "bool"))
    if isinstance(value, str):
        value = value.strip()
        if one.choices and one.name == "log_level":
            value = value.upper()
    return value


def params_text(params: Mapping[str, Any], prefix: str = "") -> str:
    """Write a dict of model parameters as the text form of ``--params``.

    Raises:
      UsageError: a name is no identifier, or a value is no Python literal.
    """
    pairs = []
    for name, value in params.items():
        try:
            is_literal = ast.literal_eval(repr(value)) == value
        except (ValueError, SyntaxError, TypeError):
            is_literal = False
        if not (isinstance(name, str) and name.isidentifier()):
            raise UsageError(f"{prefix}params: {name!r} is not a name; give names of parameters")
        if not is_literal:
            raise UsageError(
                f"{prefix}params: {name}={_shown(value)} is a {type(value).__name__}; "
                "give numbers, strings, booleans, None, lists, tuples or dicts of them"
            )
        pairs.append(f"{name}={value!r}")
    return ", ".join(pairs)


def absolute_path(path: str) -> str:
    """Make a path or pattern absolute, ``~`` expanded; URIs stay as they are."""
    if "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(f"job file '{path}': {reason}; give a YAML file of options") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UsageError(
            f"job file '{path}': {where}{problem}; give lines such as num_epochs: 3"
        ) from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(
            f"job file '{path}': not a mapping of options; give lines such as num_epochs: 3"
        )
    return content


def _read_config(path: str, command: str) -> dict[str, Any]:
    content = _read_yaml(absolute_path(path))
    meant_for = content.pop("command", command)
    if meant_for != command and {meant_for, command} != {"train", "check"}:
        raise UsageError(
            f"config '{path}': describes a job of `{meant_for}`, not of `{command}`; "
            f"use it with elasticdl {meant_for}"
        )
    if command == "check":
        taken = options_of("train")
        content = {k: v for k, v in content.items() if k in options_of("check") or k not in taken}
    return {name: value for name, value in content.items() if value is not None}


def unknown_option(name: str, command: str, prefix: str) -> str:
    """Say in one line that a command does not take an option, and which one may be meant."""
    taken = options_of(command)
    if name in OPTIONS:
        others = _or([f"`{c}`" for c in COMMANDS if c in OPTIONS[name].commands])
        what = f"{prefix}{name}: `{command}` does not take it ({others} does)"
    else:
        what = f"{prefix}{name}: no such option of `{command}`"
    meant = nearest_option(name, command)
    if meant is None:
        return f"{what}; see elasticdl {command} --help"
    return f"{what}; did you mean {prefix}{meant}, e.g. {_example(taken[meant], prefix)}?"


def nearest_option(name: str, command: str) -> str | None:
    """The option of a command that someone who typed `name` most likely meant."""
    taken = options_of(command)
    spelled = name.replace("-", "_").lower()
    for one in taken.values():
        if spelled == one.name or spelled in one.also:
            return one.name
    close = difflib.get_close_matches(spelled, [n for n in taken if n != name], n=1, cutoff=0.6)
    return close[0] if close else None


def wrong_value(one: Option, value: Any, prefix: str, error_type: str) -> str:
    """Say in one line what is wrong with an option's value and what would be right.

    Args:
      one: the option.
      value: what was given.
      prefix: what stands before its name (``--``, nothing, or a file).
      error_type: pydantic's name of the error.
    """
    low, high = one.bounds
    (kind,) = one.types
    if one.choices:
        problem, right = "no such choice", f"give {_or(one.choices)}"
    elif kind is bool:
        problem, right = "neither true nor false", "give true or false"
    elif kind in (int, float):
        noun = "whole number" if kind is int else "number"
        if error_type in ("greater_than_equal", "greater_than"):
            problem = "too small"
        elif error_type in ("less_than_equal", "less_than"):
            problem = "too large"
        else:
            problem = f"not a {noun}"
        limits = "" if low is None else f" ≥ {low:g}" if low < 1e6 else f" ≥ {low}"
        if problem == "too large":
            limits = f" ≤ {high}"
        right = f"give one{limits}"
    elif error_type == "string_pattern_mismatch" and one.metavar == "MODULE.NAME":
        problem, right = "not a module and a name with a dot between", "give MODULE.NAME"
    elif error_type == "string_pattern_mismatch":
        problem = "not a name"
        right = (
            "give letters, digits, '.', '_' and '-', at most 128, starting with a letter or digit"
        )
    elif value in ("", [], ()):
        problem, right = "empty", f"give {one.metavar}"
    else:
        problem, right = f"a {type(value).__name__}, not a text", f"give {one.metavar}"
    name = f"{prefix}{one.name}"
    return f"{name}={_shown(value)}: {problem}; {right}, e.g. {_example(one, prefix)}"


def _missing_options(
    missing: list[str], by_name: Mapping[str, Option], command: str, prefix: str
) -> str:
    names = ", ".join(prefix + name for name in missing)
    examples = " ".join(_example(by_name[name], prefix) for name in missing)
    return f"`{command}` needs {names}; e.g. {examples}"


def _example(one: Option, prefix: str) -> str:
    quote = any(c in one.example for c in " *[")
    if prefix == "--":
        return f"--{one.name}='{one.example}'" if quote else f"--{one.name}={one.example}"
    if prefix:
        return f"{one.name}: {one.example}"
    (kind,) = one.types
    if kind in (int, float):
        return f"{one.name}={one.example}"
    if kind is bool:
        return f"{one.name}={one.example.capitalize()}"
    return f"{one.name}={one.example!r}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _or(words: tuple[str, ...] | list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def jobs_home() -> Path:
    """The directory of this person's jobs: $ELASTICDL_HOME/jobs, else ~/.elasticdl/jobs."""
    home = os.environ.get("ELASTICDL_HOME") or "~/.elasticdl"
    return Path(absolute_path(home)) / "jobs"


def resolve_job_dir(job: str) -> Path:
    """Find a job's directory by the job's name or by the directory itself.

    Raises:
      UsageError: there is no such job; names the nearest known one.
    """
    for directory in (jobs_home() / job, Path(absolute_path(job))):
        if job and (directory / JOB_FILE).is_file():
            return directory
    home = jobs_home()
    known = sorted(path.parent.name for path in home.glob(f"*/{JOB_FILE}"))
    close = difflib.get_close_matches(job, known, n=1, cutoff=0.4)
    hint = f"did you mean '{close[0]}'?" if close else "elasticdl jobs list shows them"
    raise UsageError(f"job '{job}': no such job in {home} and no such directory; {hint}")
