"""Options under the heading Output: where the result goes."""

from __future__ import annotations

from pydantic import BaseModel

from elasticdl.options import option


class OutputOptions(BaseModel):
    """Where the result goes."""

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
