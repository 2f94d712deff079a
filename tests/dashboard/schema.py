"""The values of docs/decisions/watching.md, checked strictly: nothing missing, nothing unknown."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(ge=0)]
Mark = Literal["death", "join", "checkpoint", "evaluation", "rescale", "master"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Job(Strict):
    name: str
    directory: str
    command: str
    began: Positive
    version: str
    options: dict[str, Any]


class Epoch(Strict):
    epoch: Annotated[int, Field(ge=1)]
    records_done: Count
    records_expected: Count
    seconds: Positive | None
    seconds_left: Positive | None


class Progress(Strict):
    epoch: Count
    num_epochs: Count
    records_done: Count
    records_expected: Count
    records_to_repeat: Count
    records_per_s: Positive
    seconds_left: Positive | None
    epochs: list[Epoch]


class PhaseShare(Strict):
    role: str
    phase: str
    share: Positive
    ms: Positive | None


class Health(Strict):
    level: Literal["error", "warning"]
    text: str


class Instance(Strict):
    role: Literal["master", "ps", "worker"]
    index: Count
    incarnation: Count
    state: str
    pid: int | None
    age_s: Positive | None
    cpu: Positive | None
    memory_bytes: Count | None
    doing: str
    heard_s: Positive | None
    reason: str
    log: str
    relaunches: Count


class Tasks(Strict):
    todo: Count
    leased: Count
    done: Count
    to_repeat: Count
    replayed: Count
    strip: Annotated[
        list[
            Annotated[
                tuple[Literal["todo", "leased", "done", "replayed"], Annotated[int, Field(ge=1)]],
                Field(strict=False),
            ]
        ],
        Field(max_length=1000),
    ]


class Partition(Strict):
    index: Count
    incarnation: Count
    rows: Count
    bytes: Count
    pulls_per_s: Positive
    pushes_per_s: Positive
    bytes_per_s: Positive
    staleness: list[Count]


class State(Strict):
    at: Positive
    state: Literal["running", "succeeded", "failed", "stopped", "lost"]
    phase: str
    error: str
    traceback: str
    progress: Progress
    loss: FiniteFloat | None
    learning_rate: FiniteFloat | None
    metrics: dict[str, FiniteFloat]
    training_seconds: Positive
    output: str | None
    bottleneck: str | None
    phases: list[PhaseShare]
    health: list[Health]
    workers_wanted: Count
    ps_wanted: Count
    instances: list[Instance]
    tasks: Tasks
    partitions: list[Partition]
    imbalance: Positive | None
    audit: dict[str, Any] | None


class Evaluation(Strict):
    at: Positive
    epoch: Count
    steps: Count
    metrics: dict[str, FiniteFloat]


class History(Strict):
    interval_s: Positive
    columns: list[str]
    rows: list[list[FiniteFloat | None]]
    evaluations: list[Evaluation]


class Event(BaseModel):
    """Entries have fields of their own beside these."""

    model_config = ConfigDict(extra="allow", strict=True)
    number: Count
    time: Positive
    kind: str
    text: str
    mark: Mark | None


class Events(Strict):
    events: list[Event]
    last: Count


class Log(Strict):
    path: str
    tail: str
    first_error: str | None


SCHEMAS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind)
    for name, kind in (
        ("job", Job),
        ("state", State),
        ("history", History),
        ("events", Events),
        ("log", Log),
    )
}
COLUMNS = [
    "at",
    "epoch",
    "records_done",
    "records_per_s",
    "loss",
    "learning_rate",
    "workers",
    "ps",
    "cpu",
    "memory_bytes",
]


def checked(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as they are; raise where they are not what the document says."""
    SCHEMAS[name].validate_json(json.dumps(values, allow_nan=False))
    if name == "history":
        assert values["columns"] == COLUMNS
        assert all(len(row) == len(COLUMNS) for row in values["rows"])
    return values
