"""Check what a job needs from the file system, before anything is launched or written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from elasticdl.api.tensorboard import check_tensorboard
from elasticdl.data.columns import decide_columns
from elasticdl.data.filesystems import file_system, is_remote, use_stores_of
from elasticdl.data.readers import open_reader
from elasticdl.data.schema import Schema, parse_schema, texts_of
from elasticdl.data.separators import separator_hint
from elasticdl.data.shards import find_files, find_shards
from elasticdl.errors import DataError, UsageError
from elasticdl.job_spec import JOB_FILE, JobSpec
from elasticdl.model.custom_reader import has_custom_reader
from elasticdl.model.params import parse_params
from elasticdl.model.remote_output import check_can_put, check_remote_output
from elasticdl.model.resolver import check_name, module_file
from elasticdl.model.source import DEFINITION_FILE, ModelSource, read_definition

_FUNCTIONS_OF_ZOO = (
    "input_fn",
    "eval_metrics_fn",
    "callbacks",
    "prediction_outputs_processor",
    "custom_data_reader",
)


def validate(job_spec: JobSpec) -> None:
    """Check that a job's inputs are there and that its outputs can be written.

    Raises:
      UsageError: the first thing that is wrong, in one line.
    """
    check_tensorboard(job_spec)
    use_stores_of(job_spec, patience_s=0)
    try:
        _validate(job_spec)
    except OSError as error:
        raise UsageError(
            f"'{error.filename}': {error.strerror}; give a path that can be used"
        ) from None


def with_columns(job_spec: JobSpec) -> JobSpec:
    """Return a job whose `column_types` are all columns that it reads; none for records of bytes.

    The same then in every process: the master's, the workers' and the check's.

    Raises:
      UsageError: columns that are not there, or are of types that no tensor can have.
    """
    assert job_spec.data is not None
    if has_custom_reader(job_spec):
        return job_spec.model_copy(update={"column_types": ()})
    paths = find_files(job_spec.data)
    if job_spec.validation_data is not None:
        paths += find_files(job_spec.validation_data, "validation_data")
    trained: Schema = ()
    if job_spec.trained_model is not None:
        trained = ModelSource.of_trained_model(job_spec.trained_model).schema
    wanted = job_spec.columns
    if wanted:
        wanted += tuple(name for name in job_spec.keep_columns if name not in wanted)
    schema = decide_columns(paths, job_spec.max_chunk_bytes, wanted, job_spec.column_types, trained)
    return job_spec.model_copy(update={"column_types": texts_of(schema)})


def check_zoo(job_spec: JobSpec) -> None:
    """Check that the zoo is there, and has what the job names of it.

    Raises:
      UsageError: it has not.
    """
    if job_spec.model_zoo is not None:
        _check_directory("model_zoo", job_spec.model_zoo, "give the directory of the model's files")
    _check_names(ModelSource.of_job(job_spec))


def _validate(job_spec: JobSpec) -> None:
    if job_spec.model_zoo is not None:
        _check_directory("model_zoo", job_spec.model_zoo, "give the directory of the model's files")
    if job_spec.trained_model is not None:
        check_trained_model(job_spec.trained_model)
    if job_spec.warm_start is not None:
        from elasticdl.model.warm_start import check_warm_start

        check_warm_start(job_spec.warm_start)
    parse_params(job_spec.params)
    _check_names(ModelSource.of_job(job_spec))
    inputs: list[str] = []
    if not has_custom_reader(job_spec):
        inputs = _check_data("data", job_spec.data, job_spec.max_chunk_bytes)
        _check_data("validation_data", job_spec.validation_data, job_spec.max_chunk_bytes)
    _check_keep_columns(job_spec.keep_columns, inputs, job_spec.max_chunk_bytes)
    parse_schema(job_spec.column_types)
    if job_spec.output is not None:
        if job_spec.command == "train":
            _check_model_output(job_spec.output, job_spec.overwrite)
        else:
            _check_predictions_output(job_spec.output, job_spec.overwrite, inputs)
    if job_spec.command != "check":
        _check_job_dir(job_spec)
        if job_spec.output is not None:
            _check_apart(job_spec.output, job_spec.job_dir)
        if job_spec.checkpoint_dir is not None:
            _check_checkpoint_dir(job_spec.checkpoint_dir)


def _check_names(source: ModelSource) -> None:
    """Check that the model and the functions that options name are in the files of the zoo.

    A loss and an optimizer may be Keras's: the check of the model, which imports Keras, says more.
    """
    zoo = Path(source.model_zoo).resolve()
    check_name(zoo, source.model_def, modules=True)
    *parts, name = source.model_def.split(".")
    is_module = module_file(zoo, parts, name) is not None
    beside = source.model_def if is_module else ".".join(parts)
    for option in _FUNCTIONS_OF_ZOO:
        function = getattr(source, option)
        if function is not None:
            check_name(zoo, function if "." in function else f"{beside}.{function}", option)


def check_trained_model(path: str) -> None:
    """Check that a directory holds a trained model.

    Raises:
      UsageError: it does not.
    """
    if is_remote(path):
        read_definition(path)
        return
    _check_directory("trained_model", path, "give the directory that `train` wrote as --output")
    if not (Path(path) / DEFINITION_FILE).is_file():
        raise UsageError(
            f"trained_model '{path}': holds no {DEFINITION_FILE}; "
            "give the directory that `train` wrote as --output"
        )


def _check_data(option: str, patterns: str | None, max_chunk_bytes: int) -> list[str]:
    """Check that patterns name data files with records; return the files' paths."""
    if patterns is None:
        return []
    return [shard.path for shard in find_shards(patterns, max_chunk_bytes, option)]


def _check_keep_columns(names: Sequence[str], inputs: list[str], max_chunk_bytes: int) -> None:
    """Check that the first record has these columns; what is no Example is left to the check."""
    if not names or not inputs:
        return
    from elasticdl.data.example import decode

    reader = open_reader(inputs[0], max_chunk_bytes)
    columns = reader.names()
    if not reader.is_table:
        records = reader.read(0, 1)
        assert isinstance(records, list)
        try:
            columns = sorted(decode(records[0]))
        except DataError:
            return
    for name in names:
        if columns and name not in columns:
            raise UsageError(
                f"keep_columns '{name}': the first record of '{inputs[0]}' has no such column; "
                f"it has {', '.join(columns)}{separator_hint(columns)}"
            )


@contextmanager
def _saying(option: str, path: str) -> Iterator[None]:
    """Name the option in what a store says."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{option} '{path}': {error.strerror}") from error


def _check_directory(option: str, path: str, right: str) -> None:
    if is_remote(path):
        with _saying(option, path):
            files, root = file_system(path)
            is_there = bool(files.files(root))
        if not is_there:
            raise UsageError(f"{option} '{path}': no such directory, or an empty one; {right}")
        return
    directory = Path(path)
    if not os.path.exists(directory):
        raise UsageError(f"{option} '{path}': no such directory; {right}")
    if not directory.is_dir():
        raise UsageError(f"{option} '{path}': is a file, not a directory; {right}")


def _check_model_output(path: str, overwrite: bool) -> None:
    if is_remote(path):
        check_remote_output(path, overwrite)
        check_can_put("output", path)
        return
    output = Path(path)
    if os.path.exists(output) and not output.is_dir():
        raise UsageError(f"output '{output}': is a file; give a new or empty directory")
    if output.is_dir() and any(output.iterdir()):
        if not (output / DEFINITION_FILE).exists():
            raise UsageError(f"output '{output}': holds other files; give a new or empty directory")
        if not overwrite:
            raise UsageError(
                f"output '{output}': holds a trained model already; "
                "give another directory, or --overwrite to replace it"
            )
    _check_writable("output", output)


def _check_predictions_output(path: str, overwrite: bool, inputs: list[str]) -> None:
    from elasticdl.data.predictions import check_output

    check_output(path)
    files, whole = file_system(path)
    if not is_remote(path) and os.path.isdir(path):
        raise UsageError(f"output '{path}': is a directory; give a file")
    if whole in inputs:
        raise UsageError(f"output '{path}': is one of the data's files; give another file")
    with _saying("output", path):
        is_there = files.info(whole) is not None if is_remote(path) else os.path.exists(path)
    if is_there and not overwrite:
        raise UsageError(
            f"output '{path}': exists already; give another file, or --overwrite to replace it"
        )
    if is_remote(path):
        check_can_put("output", os.path.dirname(whole))
    else:
        _check_writable("output", Path(path))


def _check_job_dir(job_spec: JobSpec) -> None:
    if not is_remote(job_spec.job_dir):
        _check_local_job_dir(Path(job_spec.job_dir))
    elif job_spec.cluster == "local":
        raise UsageError(
            f"job_dir '{job_spec.job_dir}': a job of processes has it here; give a path"
        )
    else:
        _check_remote_directory("job_dir", job_spec.job_dir)


def _check_local_job_dir(job_dir: Path) -> None:
    if os.path.exists(job_dir / JOB_FILE):
        raise UsageError(
            f"job_dir '{job_dir}': holds a job already; give another --job_name or --job_dir"
        )
    if os.path.exists(job_dir) and not job_dir.is_dir():
        raise UsageError(f"job_dir '{job_dir}': is a file; give a new or empty directory")
    if job_dir.is_dir():
        found = next(job_dir.iterdir(), None)
        if found is not None:
            # A job replaces and deletes entries of its directory as if all were its own.
            raise UsageError(
                f"job_dir '{job_dir}': holds other files ('{found.name}'); "
                "give a new or empty directory"
            )
    _check_writable("job_dir", job_dir, entry=job_dir / JOB_FILE)


def _check_checkpoint_dir(checkpoint_dir: str) -> None:
    if is_remote(checkpoint_dir):
        _check_remote_directory("checkpoint_dir", checkpoint_dir)
        return
    root = Path(checkpoint_dir)
    if os.path.exists(root) and not root.is_dir():
        raise UsageError(f"checkpoint_dir '{root}': is a file; give a new or empty directory")
    if root.is_dir() and any(root.iterdir()):
        # A job removes its old checkpoints, and must not take another's for its own.
        raise UsageError(
            f"checkpoint_dir '{root}': holds other files; give a new or empty directory"
        )
    _check_writable("checkpoint_dir", root, entry=root / JOB_FILE)


def _check_remote_directory(option: str, root: str) -> None:
    try:
        files, path = file_system(root)
        found = files.files(path)
    except OSError as error:
        raise UsageError(f"{option} '{root}': {error.strerror}") from None
    if found:
        raise UsageError(f"{option} '{root}': holds other files; give a new or empty directory")
    check_can_put(option, root)


def _check_apart(output: str, job_dir: str) -> None:
    """Check that neither of output and job directory lies in the other."""
    if is_remote(output) != is_remote(job_dir):
        return
    if is_remote(output):
        output_path, job_path = (Path(file_system(one)[1]) for one in (output, job_dir))
    else:
        output_path, job_path = Path(os.path.realpath(output)), Path(os.path.realpath(job_dir))
    if output_path == job_path:
        problem = "is the job's directory as well"
    elif output_path.is_relative_to(job_path):
        problem = f"lies in the job's directory '{job_dir}'"
    elif job_path.is_relative_to(output_path):
        problem = f"the job's directory '{job_dir}' lies in it"
    else:
        return
    raise UsageError(
        f"output '{output}': {problem}; give an --output and a --job_dir that lie apart"
    )


def _check_writable(option: str, path: Path, entry: Path | None = None) -> None:
    """Check that a new entry (`path` itself by default) can be made, with a nameless file."""
    entry = entry or path
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)  # A name that is too long, for one.
    parent = next(directory for directory in entry.parents if os.path.exists(directory))
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} '{path}': cannot be written in '{parent}' ({error.strerror}); "
            "give a place that can"
        ) from None
