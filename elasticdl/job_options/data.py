"""Options under the heading Data: which records, and how they are read."""

from __future__ import annotations

from pydantic import BaseModel

from elasticdl.job_options.commands import COMMANDS, JOB, TRAIN
from elasticdl.options import option

_URL = r"^https?://[^/@?#\s]+/?$"


class DataOptions(BaseModel):
    """Which records, and how they are read."""

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
        commands=TRAIN,
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
        commands=JOB,
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

    s3_endpoint: str = option(
        "",
        "where the objects of s3:// are, if not at Amazon (default: AWS_ENDPOINT_URL)",
        group="Data",
        commands=COMMANDS,
        metavar="URL",
        example="https://minio.example.com:9000",
        of_machine=True,
        pattern=_URL,
    )

    gcs_endpoint: str = option(
        "",
        "where the objects of gs:// are, if not at Google (default: STORAGE_EMULATOR_HOST)",
        group="Data",
        commands=COMMANDS,
        metavar="URL",
        example="http://127.0.0.1:4443",
        of_machine=True,
        pattern=_URL,
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
