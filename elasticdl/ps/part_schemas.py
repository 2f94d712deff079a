"""The columns of a part's files, Arrow IPC: what any tool that opens them finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from elasticdl.ps.progress import TOTALS

if TYPE_CHECKING:
    import pyarrow as pa

OPEN_COUNTS = ("next", "attempt", "records", "skipped")
"""Of a group's open tasks, a column each; and the digest."""


def rows_schema(dim: int, slot_names: Sequence[str], do_age: bool) -> pa.Schema:
    """A table's rows: weights, slots by their names and, where rows age, the last update."""
    import pyarrow as pa

    vectors = pa.list_(_required("item", pa.float32()), dim)
    columns = [("id", pa.int64()), ("group", pa.int32()), ("weights", vectors)]
    columns += [(name, vectors) for name in slot_names]
    return _schema([*columns, ("last_update", pa.int64())] if do_age else columns)


def gone_schema() -> pa.Schema:
    """Ids whose rows went since the base; some may be back, among the rows."""
    import pyarrow as pa

    return _schema([("id", pa.int64())])


def candidates_schema() -> pa.Schema:
    """Ids that are counted and have no row yet."""
    import pyarrow as pa

    whole = pa.int64()
    return _schema([("id", whole), ("group", pa.int32()), ("seen", whole), ("last_update", whole)])


def dense_schema(slot_names: Sequence[str]) -> pa.Schema:
    """Slices of dense variables, each from an offset on."""
    import pyarrow as pa

    numbers = pa.list_(_required("item", pa.float32()))
    columns = [("variable", pa.string()), ("offset", pa.int64()), ("group", pa.int32())]
    return _schema([*columns, *((name, numbers) for name in ("weights", *slot_names))])


def progress_schema() -> pa.Schema:
    """Where each bucket group stands.

    `closed` are bounds of half-open intervals of tasks; `open_tasks` and the other columns of open
    tasks are in one order; `unadmitted` and `evicted` are by table.
    """
    import pyarrow as pa

    wholes = pa.list_(_required("item", pa.int64()))
    sums = pa.list_(_required("item", pa.float64()))
    return _schema(
        [
            ("group", pa.int32()),
            ("iterations", pa.int64()),
            *((name, pa.int64()) for name in TOTALS),
            ("closed", wholes),
            ("open_tasks", wholes),
            *((f"open_{name}", wholes) for name in OPEN_COUNTS),
            ("open_digest", pa.list_(_required("item", pa.uint64()))),
            ("epochs", wholes),
            ("epoch_records", wholes),
            ("epoch_losses", sums),
            ("unadmitted", wholes),
            ("evicted", wholes),
        ]
    )


def lanes_schema() -> pa.Schema:
    """Sync mode: the lanes of the epoch; how each of a lane's tasks was closed, in order.

    `attempt`, `start` and `digest` are of what was taken of the open task.

    `step` and `epoch` are in the schema's metadata.
    """
    import pyarrow as pa

    wholes = pa.list_(_required("item", pa.int64()))
    return _schema(
        [
            ("lane", pa.int32()),
            ("next", pa.int64()),
            ("has_ended", pa.bool_()),
            ("attempt", pa.int64()),
            ("start", pa.int64()),
            ("digest", pa.uint64()),
            ("closed_minibatches", wholes),
            ("closed_records", wholes),
            ("closed_limited", pa.list_(_required("item", pa.bool_()))),
            ("closed_attempt", wholes),
            ("closed_start", wholes),
        ]
    )


def _required(name: str, kind: pa.DataType) -> pa.Field:
    import pyarrow as pa

    return pa.field(name, kind, nullable=False)


def _schema(columns: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([_required(name, kind) for name, kind in columns])
