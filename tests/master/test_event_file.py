"""Files of events: TensorBoard, or any reader of TFRecord, finds the numbers."""

from __future__ import annotations

import math

import pytest

from elasticdl.data.readers.tfrecord import TFRecordReader
from elasticdl.master.event_file import EventFile
from elasticdl.proto import event_pb2


def test_every_record_is_whole_with_its_checksums_and_numbers(tmp_path):
    events = EventFile(tmp_path / "events")
    events.add(1000.5, 7, {"loss": 0.25, "learning_rate": None, "bad": math.nan})
    events.add(1001.5, 9, {"loss": 0.125, "evaluation/auc": 0.75})
    events.add(1002.5, 9, {"loss": None})
    (path,) = (tmp_path / "events").iterdir()
    assert path.name.startswith("events.out.tfevents.0000001000.")
    reader = TFRecordReader(str(path), 1 << 20)
    found = [event_pb2.Event.FromString(bytes(one)) for one in reader.read(0, 3)]
    assert found[0].file_version == "brain.Event:2"
    values = [
        (one.wall_time, one.step, {value.tag: value.simple_value for value in one.summary.value})
        for one in found[1:]
    ]
    assert values == [
        (1000.5, 7, {"loss": 0.25}),
        (1001.5, 9, {"loss": 0.125, "evaluation/auc": 0.75}),
    ]


def test_tensorboard_itself_reads_what_two_masters_wrote(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    for began in (1000.0, 2000.0):
        events = EventFile(tmp_path)
        for second in range(3):
            events.add(began + second, int(began) + second, {"loss": began + second})
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [one.value for one in found.Scalars("loss")] == [1000, 1001, 1002, 2000, 2001, 2002]
