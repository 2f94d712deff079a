"""What tests of whole jobs share."""

from __future__ import annotations

import pytest

from tests.job.clicks_data import write_clicks
from tests.job.real_jobs import RECORDS, Job


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts jobs on small data; kills what a failing test leaves."""
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    started: list[Job] = []

    def start_one(*options: str, records: int = RECORDS, **environment: str) -> Job:
        data = write_clicks(tmp_path / "data", records)
        place = tmp_path / f"job-{len(started)}"
        place.mkdir()
        started.append(Job(place, data, records, *options, **environment))
        return started[-1]

    yield start_one
    for job in started:
        job.kill_everything()
        job.log.close()
