"""Where a model's definition comes from: the options of a job, or a trained model."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from elasticdl.data.filesystems import file_system, is_remote
from elasticdl.data.local_copies import local_directory
from elasticdl.data.schema import Schema, parse_schema
from elasticdl.errors import UsageError
from elasticdl.model.zoo_sources import zoo_of
from elasticdl.proto.trained_model_pb2 import TrainedModel

if TYPE_CHECKING:
    from elasticdl.job_spec import JobSpec

DEFINITION_FILE = "trained_model.pb"
ZOO_COPY = "model_zoo"


@dataclass(frozen=True)
class ModelSource:
    """What names a model's code and its parameters, as the user wrote them.

    Attributes:
      seed: of the initial values; a trained table's unseen ids need it too.
      columns: names and types of what the input function is given, as `elasticdl.data.schema`
        writes them; none where it is given records that are bytes.
      keras: "3" or "legacy", the Keras its code is for.
      embedding_threshold_bytes: from which size on a Keras embedding is a table; −1: none is.
      zoo_origin: the repository that the zoo was fetched from, and zoo_commit: which commit of it;
        empty where it is a directory.
      image: that the job's pods run; empty where it has none.
    """

    model_zoo: str
    model_def: str
    params: str = ""
    input_fn: str | None = None
    loss: str | None = None
    optimizer: str | None = None
    eval_metrics_fn: str | None = None
    callbacks: str | None = None
    prediction_outputs_processor: str | None = None
    custom_data_reader: str | None = None
    class_weight: str | None = None
    seed: int = 0
    embedding_threshold_bytes: int = 2 << 20
    columns: tuple[str, ...] = ()
    zoo_origin: str = ""
    zoo_commit: str = ""
    image: str = ""

    @property
    def schema(self) -> Schema:
        """The columns of the input, parsed."""
        return parse_schema(self.columns)

    keras: str = "3"

    @classmethod
    def of_job(cls, job_spec: JobSpec) -> ModelSource:
        """Return the source a job names: its trained model where it has one, else its zoo."""
        given = {
            name: value
            for name in ("eval_metrics_fn", "prediction_outputs_processor", "custom_data_reader")
            if (value := getattr(job_spec, name)) is not None
        }
        if job_spec.trained_model is not None:
            trained = cls.of_trained_model(job_spec.trained_model)
            return replace(trained, columns=job_spec.column_types, **given)
        if job_spec.model_zoo is None or job_spec.model_def is None:
            raise UsageError(
                "model_def: not given; give --model_zoo and --model_def, or --trained_model"
            )
        directory = zoo_directory(job_spec.model_zoo)
        zoo = zoo_of(Path(directory))
        return cls(
            model_zoo=directory,
            zoo_origin=zoo.origin,
            zoo_commit=zoo.commit,
            image=job_spec.image,
            model_def=job_spec.model_def,
            params=job_spec.params,
            input_fn=job_spec.input_fn,
            loss=job_spec.loss,
            optimizer=job_spec.optimizer,
            callbacks=job_spec.callbacks,
            class_weight=job_spec.class_weight,
            **given,
            seed=job_spec.seed,
            columns=job_spec.column_types,
            keras=job_spec.keras or "3",
            embedding_threshold_bytes=job_spec.embedding_threshold_bytes,
        )

    @classmethod
    def of_trained_model(cls, path: str) -> ModelSource:
        """Return the source that a trained model carries: its own copy of the zoo."""
        definition = read_definition(path)
        try:
            zoo = local_directory(os.path.join(path, ZOO_COPY))
        except OSError as error:
            raise UsageError(f"trained_model '{path}': {error.strerror}") from error
        if not os.path.isdir(zoo):
            raise UsageError(
                f"trained_model '{path}': its {ZOO_COPY}/ is missing, the code it was trained "
                "with; copy the whole directory, or train again"
            )
        return cls(
            model_zoo=zoo,
            model_def=definition.model_def,
            params=definition.model_def_params,
            input_fn=definition.input_function or None,
            loss=definition.loss or None,
            optimizer=definition.optimizer or None,
            eval_metrics_fn=definition.eval_metrics_fn or None,
            prediction_outputs_processor=definition.prediction_outputs_processor or None,
            custom_data_reader=definition.custom_data_reader or None,
            seed=definition.seed,
            columns=tuple(definition.columns),
            keras=definition.keras or "3",
            zoo_origin=definition.zoo_origin,
            zoo_commit=definition.zoo_commit,
            image=definition.docker_commit_id,
            embedding_threshold_bytes=(
                definition.embedding_threshold_bytes
                if definition.HasField("embedding_threshold_bytes")
                else -1
            ),
        )


def zoo_directory(model_zoo: str) -> str:
    """Return the local directory of a zoo: of objects a copy of now.

    Raises:
      UsageError: the store does not say.
    """
    try:
        return local_directory(model_zoo)
    except OSError as error:
        raise UsageError(f"model_zoo '{model_zoo}': {error.strerror}") from error


def read_definition(path: str) -> TrainedModel:
    """Read the `TrainedModel` message of a trained model's directory.

    Raises:
      UsageError: there is no such directory, or it holds no trained model.
    """
    if not is_remote(path) and not os.path.isdir(path):
        kind = "is a file" if os.path.exists(path) else "does not exist"
        raise UsageError(
            f"trained_model '{path}': {kind}; give the directory that `elasticdl train` wrote"
        )
    content = _definition_bytes(path)
    if content is None:
        raise UsageError(
            f"trained_model '{path}': has no {DEFINITION_FILE}; "
            "give the directory that `elasticdl train` wrote"
        )
    try:
        definition = TrainedModel.FromString(content)
    except DecodeError as error:
        raise UsageError(
            f"trained_model '{path}': {DEFINITION_FILE} is damaged ({error}); train again"
        ) from None
    if not definition.model_def:
        raise UsageError(f"trained_model '{path}': {DEFINITION_FILE} is empty; train again")
    return definition


def _definition_bytes(path: str) -> bytes | None:
    try:
        files, file = file_system(os.path.join(path, DEFINITION_FILE))
        if files.info(file) is not None:
            return files.read(file)
        files.files(os.path.dirname(file))  # Says so where there is no such bucket.
        return None
    except OSError as error:
        raise UsageError(f"trained_model '{path}': {error.strerror}") from error
