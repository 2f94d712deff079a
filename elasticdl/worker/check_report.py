"""What the check before a launch found out about a model, for people and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TensorReport:
    """A tensor of the input or output: its name, type and shape, None for what varies."""

    name: str
    dtype: str
    shape: list[int | None]
    kind: str = "dense"


@dataclass(frozen=True)
class VariableReport:
    """A variable of the parameter servers; bytes count the optimizer's slots."""

    path: str
    shape: list[int]
    trainable: bool
    num_bytes: int


@dataclass(frozen=True)
class TableReport:
    """An embedding table; bytes of one row count the optimizer's slots."""

    name: str
    dim: int
    initializer: str
    row_bytes: int
    ids_in_minibatch: int
    distinct_in_minibatch: int


@dataclass(frozen=True)
class CheckReport:
    """What a model is and what one minibatch of it gave.

    Attributes:
      num_records: of all data files.
      num_files: how many there are.
      minibatch_records: records in the minibatch that was tried.
      loss: None where there are no labels.
      metrics: by name, over that minibatch, of the untrained (or the trained) model.
      warnings: what may be meant so, but often is not.
      device: what a worker computes on.
      callbacks: what they are for the job.
      max_steps: where a callback sets it.
      declared_shards: by option, (name, number of records, start) of the user's own reader.
    """

    model_def: str
    mode: str
    num_files: int
    num_records: int
    minibatch_records: int
    features: list[TensorReport]
    labels: list[TensorReport]
    outputs: list[TensorReport]
    variables: list[VariableReport]
    dense_bytes: int
    tables: list[TableReport]
    optimizer: str | None
    loss: float | None
    metrics: dict[str, float]
    warnings: list[str]
    device: str = "CPU"
    callbacks: list[str] = field(default_factory=list)
    max_steps: int | None = None
    declared_shards: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)

    def text(self) -> str:
        """Return the report for people."""
        lines = [
            f"model      {self.model_def} ({self.mode})",
            f"data       {self.num_records:,} records in {self.num_files} "
            f"file{'s' if self.num_files != 1 else ''}; tried {self.minibatch_records}",
        ]
        for title, tensors in (
            ("features", self.features),
            ("labels", self.labels),
            ("outputs", self.outputs),
        ):
            lines += _column(title, [_tensor_text(each) for each in tensors])
        lines += _column("variables", [_variable_text(each) for each in self.variables])
        if self.variables:
            lines.append(f"{'':10} {_bytes_text(self.dense_bytes)} on the parameter servers")
        lines += _column("tables", [_table_text(each) for each in self.tables])
        lines.append(f"device     {self.device}")
        if self.optimizer is not None:
            lines.append(f"optimizer  {self.optimizer}")
        if self.loss is not None:
            lines.append(f"loss       {self.loss:.6g}")
        metrics = [f"{name} {value:.6g}" for name, value in self.metrics.items() if name != "loss"]
        lines += _column("metrics", metrics)
        lines += _column("callbacks", [", ".join(self.callbacks)] if self.callbacks else [])
        lines += _column("warning", self.warnings)
        return "\n".join(lines)


def _tensor_text(tensor: TensorReport) -> str:
    kind = "" if tensor.kind == "dense" else f" {tensor.kind}"
    return f"{tensor.name}: {tensor.dtype} {_dims(tensor.shape)}{kind}"


def _variable_text(variable: VariableReport) -> str:
    state = "" if variable.trainable else ", state"
    dims = _dims(list(variable.shape))
    return f"{variable.path}: {dims}, {_bytes_text(variable.num_bytes)}{state}"


def _table_text(table: TableReport) -> str:
    return (
        f"{table.name}: {table.dim} wide, {table.initializer}, {table.row_bytes} bytes a row; "
        f"{table.distinct_in_minibatch} distinct of {table.ids_in_minibatch} ids in the minibatch"
    )


def _dims(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if each is None else str(each) for each in shape) + "]"


def _bytes_text(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _column(title: str, rows: Sequence[str]) -> list[str]:
    return [f"{title if index == 0 else '':10} {row}" for index, row in enumerate(rows)]
