"""The options of jobs: each is declared here, once, and nowhere else."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from elasticdl.options import option

Command = Literal["train", "evaluate", "predict", "check"]
COMMANDS: tuple[str, ...] = get_args(Command)

_TRAIN = ("train", "check")
_JOB = ("train", "evaluate", "predict")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_CALL = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(.*\))?$"
_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class JobOptions(BaseModel):
    """What a train, evaluate, predict or check run can be told; frozen."""

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
    warm_start: str | None = option(
        None,
        "checkpoint or trained model of the same model, to begin with its weights; the "
        "optimizer's slots are not taken over",
        group="Model",
        commands=_TRAIN,
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
        also=("get_model_steps",),
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
        also=("use_async",),
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
    task_timeout: float = option(
        600.0,
        "seconds that model code may take for one minibatch, or to read one task, before its "
        "worker is replaced; 0: any time",
        group="Reliability",
        commands=_JOB,
        metavar="SECONDS",
        example="600",
        also=("stuck_timeout",),
        ge=0,
        le=86_400,
    )
    warm_spares: int = option(
        0,
        "idle processes that have TensorFlow imported, to replace lost workers seconds sooner",
        group="Reliability",
        commands=_JOB,
        metavar="N",
        example="1",
        also=("spares", "standby_workers", "spare_workers"),
        ge=0,
        le=1024,
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

    checkpoint_steps: int = option(
        0,
        "take a checkpoint after every N steps of training; 0: not by steps",
        group="Reliability",
        commands=("train",),
        metavar="N",
        example="1000",
        also=("save_checkpoints_steps",),
        ge=0,
        le=1_000_000_000,
    )
    checkpoint_secs: float = option(
        600.0,
        "take a checkpoint every so many seconds; 0: not by time",
        group="Reliability",
        commands=("train",),
        metavar="SECONDS",
        example="600",
        also=("save_checkpoints_secs", "checkpoint_interval"),
        ge=0,
        le=1e9,
    )
    checkpoint_dir: str | None = option(
        None,
        "new or empty directory for the checkpoints (default: checkpoints, in the job's directory)",
        group="Reliability",
        commands=("train",),
        metavar="DIR",
        example="checkpoints",
        form="path",
        also=("checkpoint_path", "checkpoint"),
        min_length=1,
    )
    keep_checkpoints: int = option(
        3,
        "checkpoints to keep; older ones are removed when a newer one is committed",
        group="Reliability",
        commands=("train",),
        metavar="N",
        example="3",
        also=("keep_checkpoint_max", "max_to_keep"),
        ge=1,
        le=1_000_000,
    )

    ps_standby: int = option(
        0,
        "1: each parameter server keeps a copy of another one in its memory, from which that is "
        "restored with little to train again; async mode, --num_ps=2 or more",
        group="Reliability",
        commands=("train",),
        metavar="0|1",
        example="1",
        also=("standby",),
        ge=0,
        le=1,
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
