"""The trained model: a directory that is enough by itself to predict, serve or go on training.

trained_model.pb  what it is: `TrainedModel`
params.npz        dense variables and embedding rows
saved_model/      for serving by TensorFlow without this package
schema.json       names, types and shapes of inputs and outputs
model_zoo/        a copy of the zoo: its code and what small files lie beside it
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import elasticdl
from elasticdl.data.filesystems import is_remote
from elasticdl.data.local_copies import local_directory, local_file
from elasticdl.errors import JobError, UsageError, UserCodeError
from elasticdl.model.keras_choice import use_keras
from elasticdl.model.parameters import Parameters
from elasticdl.model.remote_output import check_remote_output, put_model
from elasticdl.model.source import DEFINITION_FILE, ZOO_COPY, ModelSource, read_definition
from elasticdl.proto.trained_model_pb2 import TrainedModel

if TYPE_CHECKING:
    import keras

    from elasticdl.layers.table_layer import FixedTable

PARAMETERS_FILE = "params.npz"
SAVED_MODEL = "saved_model"
SCHEMA_FILE = "schema.json"
_NOT_CODE = {"__pycache__", "node_modules", "site-packages", "venv"}
_DATA = {
    *(".recordio", ".tfrecord", ".tfrecords", ".npz", ".npy", ".parquet", ".arrow", ".h5"),
    *(".hdf5", ".keras", ".ckpt", ".pt", ".zip", ".gz", ".tar", ".pyc"),
}
_MAX_FILE_BYTES = 1 << 20
_MAX_COPY_BYTES = 50 << 20
_MAX_TRIED_DENSE_BYTES = 256 << 20


def check_output(path: str, overwrite: bool, job_name: str = "") -> None:
    """Say whether a trained model can be written there; a job may replace what it wrote itself.

    Raises:
      UsageError: something is there that must not be replaced, or the place is not writable.
    """
    if is_remote(path):
        check_remote_output(path, overwrite, job_name)
        return
    output = Path(path)
    if output.exists() and not output.is_dir():
        raise UsageError(f"output '{path}': is a file; give a directory")
    if output.is_dir() and any(output.iterdir()):
        if not (output / DEFINITION_FILE).exists():
            raise UsageError(
                f"output '{path}': holds files that are not a trained model; give an empty "
                "directory"
            )
        if not overwrite and (not job_name or read_definition(path).job_name != job_name):
            raise UsageError(
                f"output '{path}': holds a trained model already; "
                "give another directory, or --overwrite"
            )
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"output '{path}': '{parent}' is not writable; give another directory")


def write_trained_model(
    path: str,
    source: ModelSource,
    parameters: Parameters,
    overwrite: bool = False,
    job_name: str = "",
) -> None:
    """Write a trained model; at no moment is there half of one.

    Args:
      path: the directory to make.
      source: the definition it was trained with; its zoo is copied.
      parameters: the trained values.
      overwrite: replace a trained model that is there.
      job_name: of the job that writes it; what it has written already is replaced in any case.

    Raises:
      UsageError: see `check_output`.
      JobError: the parameters are not those of the model.
    """
    from elasticdl.model.serving import export_saved_model
    from elasticdl.model.user_code import user_code

    with _new_directory(path, overwrite, job_name) as partial:
        copy_zoo(Path(source.model_zoo).resolve(), partial / ZOO_COPY)
        parameters.save(partial / PARAMETERS_FILE)
        model, features, tables = _restore(
            source, parameters, {"role": "export", "job_name": job_name}
        )
        with user_code(f"exporting the model of '{source.model_def}'"):
            schema = export_saved_model(
                str(partial / SAVED_MODEL), model, features, list(tables.values())
            )
        (partial / SCHEMA_FILE).write_text(json.dumps(schema, indent=2) + "\n")
        (partial / DEFINITION_FILE).write_bytes(
            _definition(source, parameters, job_name).SerializeToString()
        )


def copy_trained_model(path: str, copy: str, overwrite: bool = False, job_name: str = "") -> None:
    """Make a copy of a trained model; at no moment is there half of one.

    Args:
      path: the directory to copy.
      copy: the directory to make.
      overwrite: replace a trained model that is there.
      job_name: of the job that copies; what it has written already is replaced in any case.

    Raises:
      UsageError: see `check_output`, or there is no trained model at `path`.
    """
    read_definition(path)
    with _new_directory(copy, overwrite, job_name) as partial:
        shutil.copytree(local_directory(path), partial, dirs_exist_ok=True)


@contextmanager
def _new_directory(path: str, overwrite: bool, job_name: str) -> Iterator[Path]:
    """Yield a directory to be filled; where the block ends well, put it at `path`, at once."""
    check_output(path, overwrite, job_name)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="elasticdl-") as directory:
            yield Path(directory)
            put_model(directory, path, job_name)
        return
    output = Path(path).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(output, job_name)
    try:
        partial.mkdir()
        yield partial
        _replace(partial, output, job_name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def try_export(source: ModelSource, parameters: Parameters) -> None:
    """Do what writing a trained model does with the user's code, and keep nothing of it.

    Args:
      source: the definition to be trained.
      parameters: of the untrained model.

    Raises:
      UsageError: the trained model could not be written, or not be served.
      UserCodeError: the user's code raises in mode prediction.
    """
    from elasticdl.model.serving import export_saved_model
    from elasticdl.model.user_code import user_code

    try:
        model, features, tables = _restore(source, parameters, {"role": "check"})
    except JobError as error:
        if isinstance(error, UserCodeError):
            raise
        raise UsageError(
            f"the model of '{source.model_def}': differs between modes training and prediction "
            f"({error})"
        ) from error
    if sum(value.nbytes for value in parameters.dense.values()) > _MAX_TRIED_DENSE_BYTES:
        return  # would take long
    with (
        tempfile.TemporaryDirectory(prefix="elasticdl-") as directory,
        user_code(f"exporting the model of '{source.model_def}'"),
    ):
        export_saved_model(f"{directory}/{SAVED_MODEL}", model, features, list(tables.values()))


def load_parameters(path: str) -> Parameters:
    """Read the values of the trained model in a directory.

    Raises:
      UsageError: there is no trained model, or it is damaged.
    """
    definition = read_definition(path)
    name = Path(definition.params_filename).name
    try:
        file = Path(local_file(os.path.join(path, name)))
    except OSError as error:
        raise UsageError(f"trained_model '{path}': its {name}: {error.strerror}") from error
    return Parameters.load(file, [table.name for table in definition.tables])


def load_model(path: str) -> keras.Model:
    """Load a trained model as a Keras model that answers by itself.

    Its embedding layers hold their trained rows; an id that was never trained has its initial row.
    Keras's own embeddings that were tables are plain ones again, with their whole matrix.
    The code is the trained model's own copy, wherever it was trained.

    Args:
      path: the directory that training wrote.

    Raises:
      UsageError: there is no trained model, or it is damaged, or this process has the other Keras.
    """
    source = ModelSource.of_trained_model(path)
    use_keras(source.keras)

    from elasticdl.layers.matrix_table import KEEP_ALL

    source = replace(source, embedding_threshold_bytes=KEEP_ALL)
    model, _, _ = _restore(source, load_parameters(path), {"role": "load_model"})
    return model


def _restore(
    source: ModelSource, parameters: Parameters, context: Mapping[str, Any]
) -> tuple[keras.Model, Any, dict[str, FixedTable]]:
    """Build a model of trained values; return it, the specs of its features, and its tables."""
    import numpy as np

    from elasticdl.layers.table_layer import FixedTable
    from elasticdl.model.building import (
        build_model,
        define_tables,
        define_variables,
        fold_matrices,
        pull_variables,
        table_layers,
    )
    from elasticdl.model.contract import load_contract
    from elasticdl.model.element_spec import element_spec
    from elasticdl.model.mode import Mode

    contract = load_contract(source, Mode.PREDICTION, context)
    features = element_spec(contract, Mode.PREDICTION).features
    model = build_model(contract, features, source.seed)
    variables = pull_variables(model)
    definitions = define_variables(model, variables)
    parameters = fold_matrices(parameters, model, variables, definitions, source.seed)
    parameters.flat(definitions)  # every one is there, in its shape
    for variable, definition in zip(variables, definitions, strict=True):
        variable.assign(parameters.dense[definition.path])
    layers = table_layers(model)
    tables = {}
    for layer, table in zip(layers, define_tables(layers, source.seed), strict=True):
        trained = parameters.tables.get(table.name)
        ids = np.zeros(0, np.int64) if trained is None else trained.ids
        rows = np.zeros((0, table.dim), np.float32) if trained is None else trained.rows
        tables[table.name] = FixedTable(ids, rows, table.initializer)
        layer.attach(tables[table.name])
    return model, features, tables


def _definition(source: ModelSource, parameters: Parameters, job_name: str) -> TrainedModel:
    return TrainedModel(
        docker_commit_id=source.image,
        model_def=source.model_def,
        model_def_params=source.params,
        params_filename=PARAMETERS_FILE,
        input_function=source.input_fn or "",
        loss=source.loss or "",
        optimizer=source.optimizer or "",
        eval_metrics_fn=source.eval_metrics_fn or "",
        prediction_outputs_processor=source.prediction_outputs_processor or "",
        custom_data_reader=source.custom_data_reader or "",
        seed=source.seed,
        columns=source.columns,
        keras=source.keras,
        elasticdl_version=elasticdl.__version__,
        job_name=job_name,
        zoo_origin=source.zoo_origin,
        zoo_commit=source.zoo_commit,
        embedding_threshold_bytes=source.embedding_threshold_bytes,
        tables=[
            TrainedModel.Table(name=name, dim=table.rows.shape[1], num_rows=len(table.ids))
            for name, table in parameters.tables.items()
        ],
    )


def copy_zoo(zoo: Path, target: Path) -> list[Path]:
    """Copy the zoo's Python files and the small files beside them, such as vocabularies.

    Left out are environments, caches, hidden files, data files and trained models. Code comes
    first, should the rest not fit.

    Returns:
      what was left out for its size alone.
    """
    target.mkdir()
    others: list[Path] = []
    num_bytes = 0
    for file in zoo_files(zoo):
        if file.suffix == ".py":
            _copy_file(zoo, file, target)
        else:
            others.append(file)
    too_large = []
    for file in others:
        size = file.stat().st_size
        if size <= _MAX_FILE_BYTES and num_bytes + size <= _MAX_COPY_BYTES:
            num_bytes += size
            _copy_file(zoo, file, target)
        else:
            too_large.append(file)
    return too_large


def zoo_files(zoo: Path) -> Iterator[Path]:
    """Yield a zoo's files that belong to its models, whatever their size."""
    for folder, folders, files in os.walk(zoo):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in _NOT_CODE
            and not (here / name / "pyvenv.cfg").exists()
            and not (here / name / DEFINITION_FILE).exists()
        )
        for name in sorted(files):
            file = here / name
            is_shown = not name.startswith(".") and file.suffix.lower() not in _DATA
            if name.endswith(".py") or (is_shown and file.is_file()):
                yield file


def _copy_file(zoo: Path, file: Path, target: Path) -> None:
    copy = target / file.relative_to(zoo)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, copy)


def _beside(output: Path, job_name: str) -> Path:
    return output.parent / f".{output.name}.{job_name}.{uuid.uuid4().hex[:8]}.partial"


def remove_partial(path: str, job_name: str) -> None:
    """Remove what a job's lost workers left half written beside its output."""
    if is_remote(path):
        return  # It is in the output's own place, and the next one who writes there replaces it.
    output = Path(path).absolute()
    for one in output.parent.glob(f".{glob.escape(output.name)}.{glob.escape(job_name)}.*.partial"):
        shutil.rmtree(one, ignore_errors=True)


def _replace(new: Path, output: Path, job_name: str) -> None:
    """Put a directory in the place of another, which is there until then."""
    if not output.exists():
        new.rename(output)
        return
    old = _beside(output, job_name)
    output.rename(old)
    try:
        new.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
