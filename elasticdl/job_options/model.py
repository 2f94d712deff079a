"""Options under the heading Model: which model, and what is used instead of its own parts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from elasticdl.job_options.commands import COMMANDS, TRAIN
from elasticdl.options import option

_CALL = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(.*\))?$"
_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class ModelOptions(BaseModel):
    """Which model, and what is used instead of its own parts."""

    model_zoo: str | None = option(
        None,
        "directory of the Python files that define models, or the address of a git repository: "
        "https://, ssh:// or file://, with a branch, tag or commit after @",
        group="Model",
        commands=TRAIN,
        metavar="DIR|URL[@REF]",
        example="model_zoo",
        required_by=TRAIN,
        form="path",
        min_length=1,
    )

    model_def: str | None = option(
        None,
        "the model: a module of the model zoo, or module.Name of a class or function in it",
        group="Model",
        commands=TRAIN,
        metavar="MODULE.NAME",
        example="mnist.MnistElasticDLSpec",
        required_by=TRAIN,
        also=("model", "model_class"),
        pattern=_FUNCTION,
    )

    params: str = option(
        "",
        "name=value pairs for the model's constructor; learning_rate for its optimizer",
        group="Model",
        commands=TRAIN,
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

    warm_start: str | None = option(
        None,
        "checkpoint or trained model of the same model, to begin with its weights; the "
        "optimizer's slots are not taken over",
        group="Model",
        commands=TRAIN,
        metavar="DIR",
        example="output",
        form="path",
        also=("checkpoint", "init_checkpoint", "pretrained", "resume_from"),
        min_length=1,
    )

    input_fn: str | None = option(
        None,
        "input function to use instead of the model's own",
        group="Model",
        commands=TRAIN,
        metavar="MODULE.NAME",
        example="inputs.augmented",
        also=("dataset_fn", "feed"),
        pattern=_FUNCTION,
    )

    loss: str | None = option(
        None,
        "loss to use instead of the model's own: a function of the model zoo, or one of Keras",
        group="Model",
        commands=TRAIN,
        metavar="FUNCTION",
        example="losses.focal",
        also=("loss_fn",),
        pattern=_CALL,
    )

    optimizer: str | None = option(
        None,
        "optimizer to use instead of the model's own: one of Keras, or a function making it",
        group="Model",
        commands=TRAIN,
        metavar="FUNCTION",
        example="Adam(learning_rate=0.001)",
        pattern=_CALL,
    )

    eval_metrics_fn: str | None = option(
        None,
        "function returning the metrics to measure instead of the model's own",
        group="Model",
        commands=(*TRAIN, "evaluate"),
        metavar="MODULE.NAME",
        example="metrics.by_country",
        also=("metrics", "metrics_fn"),
        pattern=_FUNCTION,
    )

    callbacks: str | None = option(
        None,
        "function returning the Keras callbacks to use instead of the model's own",
        group="Model",
        commands=TRAIN,
        metavar="MODULE.NAME",
        example="stopping.callbacks",
        pattern=_FUNCTION,
    )

    prediction_outputs_processor: str | None = option(
        None,
        "class whose process(predictions, worker_id) is given the outputs of each minibatch",
        group="Model",
        commands=(*TRAIN, "predict"),
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

    embedding_threshold_bytes: int = option(
        2 << 20,
        "from which size on a keras.layers.Embedding moves to the parameter servers; 0 moves all, "
        "-1 none",
        group="Model",
        commands=TRAIN,
        metavar="BYTES",
        example="1048576",
        ge=-1,
        le=1 << 60,
    )
