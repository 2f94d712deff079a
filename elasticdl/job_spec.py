"""The one description of a job: every option is declared here, once.

Flags of the command line, keyword arguments of ``elasticdl.train``, keys of a ``--config`` file and
what instances receive are all read from `JobSpec`. Values may arrive as strings (flags) or as
Python values (keywords, YAML); strings are parsed once, literally, and never evaluated.
"""

from __future__ import annotations

import difflib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from elasticdl.errors import UsageError
from elasticdl.option_rules import check_rules
from elasticdl.options import (
    Option,
    missing_options,
    one_of,
    option,
    plain_value,
    unknown_option,
    wrong_value,
)

Command = Literal["train", "evaluate", "predict", "check"]
COMMANDS: tuple[str, ...] = get_args(Command)
JOB_FILE = "job.yaml"

_TRAIN = ("train", "check")
_JOB = ("train", "evaluate", "predict")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_CALL = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(.*\))?$"
_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class JobSpec(BaseModel):
    """One train, evaluate, predict or check run, described wholly; frozen."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )

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
        "the model: a module of the model zoo, or module.Name of a class or function in it",
        group="Model",
        commands=_TRAIN,
        metavar="MODULE.NAME",
        example="mnist.MnistElasticDLSpec",
        required_by=_TRAIN,
        also=("model", "model_class"),
        pattern=_FUNCTION,
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
        "loss to use instead of the model's own: a function of the model zoo, or one of Keras",
        group="Model",
        commands=_TRAIN,
        metavar="FUNCTION",
        example="losses.focal",
        also=("loss_fn",),
        pattern=_CALL,
    )
    optimizer: str | None = option(
        None,
        "optimizer to use instead of the model's own: one of Keras, or a function making it",
        group="Model",
        commands=_TRAIN,
        metavar="FUNCTION",
        example="Adam(learning_rate=0.001)",
        pattern=_CALL,
    )
    eval_metrics_fn: str | None = option(
        None,
        "function returning the metrics to measure instead of the model's own",
        group="Model",
        commands=(*_TRAIN, "evaluate"),
        metavar="MODULE.NAME",
        example="metrics.by_country",
        also=("metrics", "metrics_fn"),
        pattern=_FUNCTION,
    )
    callbacks: str | None = option(
        None,
        "function returning the Keras callbacks to use instead of the model's own",
        group="Model",
        commands=_TRAIN,
        metavar="MODULE.NAME",
        example="stopping.callbacks",
        pattern=_FUNCTION,
    )
    prediction_outputs_processor: str | None = option(
        None,
        "class whose process(predictions, worker_id) is given the outputs of each minibatch",
        group="Model",
        commands=(*_TRAIN, "predict"),
        metavar="MODULE.NAME",
        example="tables.Writer",
        pattern=_FUNCTION,
    )
    custom_data_reader: str | None = option(
        None,
        "function making a reader of the data, to use instead of those for known formats",
        group="Model",
        commands=COMMANDS,
        metavar="MODULE.NAME",
        example="readers.of_table",
        pattern=_FUNCTION,
    )

    keras: Literal["3", "legacy"] | None = option(
        None,
        "Keras 3, or tf_keras (default: tf_keras where the model's code or its requirements.txt "
        "needs it; a trained model's own)",
        group="Model",
        commands=COMMANDS,
        metavar="3|legacy",
        example="legacy",
        also=("tf_keras", "legacy_keras", "keras_version"),
    )

    data: str | None = option(
        None,
        "RecordIO, TFRecord, Parquet, CSV or Arrow files: paths or patterns, with commas between",
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
        "held-out files like those of --data; evaluated after epochs and at the end of training",
        group="Data",
        commands=_TRAIN,
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
    columns: tuple[str, ...] = option(
        (),
        "columns to read of files that have columns, with commas between (default: all)",
        group="Data",
        commands=COMMANDS,
        metavar="NAMES",
        example="id,price,label",
    )
    column_types: tuple[str, ...] = option(
        (),
        "types of columns in place of the files' own: int64, float32, bool or bytes",
        group="Data",
        commands=COMMANDS,
        metavar="NAME=TYPE,…",
        example="id=bytes,price=float32",
    )
    max_chunk_bytes: int = option(
        256 << 20,
        "largest chunk or row group, uncompressed, that a reader accepts and keeps in memory",
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
    embedding_threshold_bytes: int = option(
        2 << 20,
        "from which size on a keras.layers.Embedding moves to the parameter servers; 0 moves all, "
        "-1 none",
        group="Model",
        commands=_TRAIN,
        metavar="BYTES",
        example="1048576",
        ge=-1,
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
    staleness_aware_learning_rate: bool = option(
        False,
        "divide the learning rate of a push by the minibatches applied since its pull",
        group="Training",
        commands=("train",),
        metavar="true|false",
        example="true",
        also=("lr_staleness_modulation",),
    )
    consistency: Literal["async", "sync"] = option(
        "async",
        "async: each minibatch is applied when it is pushed; sync: --grads_to_wait of them as one",
        group="Training",
        commands=_TRAIN,
        metavar="async|sync",
        example="sync",
    )
    grads_to_wait: int | None = option(
        None,
        "minibatches that make a step in sync mode (default: --num_workers at launch)",
        group="Training",
        commands=_TRAIN,
        metavar="G",
        example="2",
        ge=1,
        le=10_000,
    )
    evaluation_epochs: int | None = option(
        None,
        "evaluate on --validation_data after every N epochs, 0 for not "
        "(default: 1, or 0 where --evaluation_steps or --evaluation_secs are given)",
        group="Evaluation",
        commands=("train",),
        metavar="N",
        example="1",
        also=("validation_freq",),
        ge=0,
        le=1_000_000,
    )
    evaluation_steps: int = option(
        0,
        "evaluate on --validation_data after every N steps; 0: not by steps",
        group="Evaluation",
        commands=("train",),
        metavar="N",
        example="1000",
        ge=0,
        le=1 << 60,
    )
    evaluation_secs: float = option(
        0.0,
        "evaluate on --validation_data every so many seconds; 0: not by time",
        group="Evaluation",
        commands=("train",),
        metavar="SECONDS",
        example="60",
        also=("evaluation_throttle_secs",),
        ge=0,
        le=1e9,
    )
    on_nan: Literal["stop", "skip"] = option(
        "stop",
        "when a loss or gradient is not finite: stop the job, or skip the minibatch and count it",
        group="Training",
        commands=_TRAIN,
        metavar="stop|skip",
        example="stop",
    )
    class_weight: str | None = option(
        None,
        "how much records count in the loss of training, by class",
        group="Training",
        commands=_TRAIN,
        metavar="DICT",
        example="{0: 1.0, 1: 3.0}",
        also=("class_weights",),
        min_length=1,
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
    worker_devices: Literal["auto", "cpu"] = option(
        "auto",
        "what workers compute on: auto takes turns at the machine's GPUs, where it has any; cpu",
        group="Cluster",
        commands=COMMANDS,
        metavar="auto|cpu",
        example="cpu",
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
        example_of={"predict": "predictions.csv"},
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
        given: dict[str, tuple[Any, str]] = {}
        if options.get("config") is not None:
            file = str(options["config"])
            given = {name: (v, f"{file}: ") for name, v in _read_config(file, command).items()}
        for name, value in options.items():
            if name != "config" and value is not None:
                given[name] = (value, prefix)
        taken = options_of(command)
        for name, (_, origin) in given.items():
            if name not in taken:
                raise UsageError(unknown_option(name, command, OPTIONS, origin))
        missing = [n for n, one in taken.items() if command in one.required_by and n not in given]
        if missing:
            raise UsageError(missing_options(missing, command, taken, prefix))

        values = {name: option_value(name, *given[name]) for name in given}
        spec = cls.model_validate({"command": command, **values})
        check_rules(
            spec.model_dump(),
            lambda name: f"{given.get(name, ('', prefix))[1]}{name}",
        )
        return spec._placed()

    def _placed(self) -> JobSpec:
        """This spec with absolute paths, a job name and a job directory."""
        changes: dict[str, Any] = {}
        for one in OPTIONS.values():
            value = getattr(self, one.field)
            if value and one.form == "path":
                changes[one.field] = absolute_path(value)
            elif value and one.form == "patterns":
                parts = [value] if os.path.exists(value) else value.split(",")
                changes[one.field] = ",".join(absolute_path(p.strip()) for p in parts if p.strip())
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
            if name != "job_dir" and value is not None and (value != "" or name == "params")
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
            raise UsageError(f"{path}: command {command!r}; it should be one of {one_of(COMMANDS)}")
        spec = cls.resolve(command, content, f"{path}: ")
        return spec.model_copy(update={"job_dir": absolute_path(str(path.parent))})


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


def option_value(name: str, value: Any, prefix: str = "") -> Any:
    """Parse the value of one option, given as a string or as a Python value.

    Raises:
      UsageError: it is wrong; the line says what would be right.
    """
    one = OPTIONS[name]
    try:
        spec = JobSpec.model_validate({name: plain_value(one, value, prefix)})
    except ValidationError as error:
        raise UsageError(wrong_value(one, value, prefix, error.errors()[0]["type"])) from None
    return getattr(spec, one.field)


def absolute_path(path: str) -> str:
    """Make a path or pattern absolute, ``~`` expanded; URIs stay as they are."""
    if "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(f"job file '{path}': {reason}; give a YAML file of options") from None
    try:
        content = _load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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


def _load_yaml(text: str) -> Any:
    """Parse YAML as `yaml.safe_load` does, but refuse keys given twice instead of keeping one."""
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if (key.tag, str(key.value)) in seen:
                    problem = f"'{key.value}' is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, str(key.value)))
            return super().construct_mapping(node, deep)

    return yaml.load(text, StrictLoader)


def _read_config(path: str, command: str) -> dict[str, Any]:
    content = _read_yaml(absolute_path(path))
    meant_for = content.pop("command", command)
    if meant_for not in COMMANDS:
        raise UsageError(
            f"config '{path}': command {meant_for!r}; it should be one of {one_of(COMMANDS)}"
        )
    if meant_for != command and {meant_for, command} != {"train", "check"}:
        raise UsageError(
            f"config '{path}': describes a job of `{meant_for}`, not of `{command}`; "
            f"use it with elasticdl {meant_for}"
        )
    if command == "check":
        taken = options_of("train")
        content = {k: v for k, v in content.items() if k in options_of("check") or k not in taken}
    return {name: value for name, value in content.items() if value is not None}


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
