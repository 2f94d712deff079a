"""The page on a job that runs, loses a worker, a parameter server and its master, and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request

import pytest

from elasticdl.api import jobs
from elasticdl.dashboard.directory_source import DirectorySource
from elasticdl.dashboard.report import write_report
from tests.dashboard.browser import Browser
from tests.dashboard.schema import checked
from tests.dashboard.seeing import texts_seen, too_wide
from tests.job.conftest import start  # noqa: F401, a fixture
from tests.job.real_jobs import Job, wait_until
from tests.job.test_master_restart import kill_the_master

pytestmark = pytest.mark.timeout(600)
FIRST_ROW = "return job.rows.length && job.rows[0][0]"


def address_of(job: Job) -> str:
    """Where `train` has said that the page is."""
    found = wait_until(
        "the address", lambda: re.search(r"http://127\.0\.0\.1:\d+/", job.terminal())
    )
    return found.group()


def values_of(address: str, path: str) -> dict:
    with urllib.request.urlopen(f"{address}api/{path}", timeout=30) as reply:
        return json.loads(reply.read())


def row_of(browser: Browser, name: str) -> list[str]:
    """The cells of an instance's row: its name, incarnation, state and so on."""
    script = """
      const rows = [...document.querySelectorAll('#instance-rows tr')];
      const row = rows.find((one) => one.cells[0].textContent === arguments[0]);
      return row ? [...row.cells].map((one) => one.textContent) : [];
    """
    return browser.js(script, name)


def is_up(browser: Browser, name: str, incarnation: int) -> bool:
    return row_of(browser, name)[1:3] == [str(incarnation), "running"]


def kill(job: Job, role: str, index: int) -> None:
    running = wait_until(
        f"{role} {index}", lambda: [i for i in job.running(role) if i.instance.index == index]
    )
    os.kill(running[0].pid, signal.SIGKILL)


def marks(browser: Browser, kind: str) -> str:
    return "\n".join(browser.labels(f".mark.{kind}"))


def test_the_page_tells_deaths_and_a_masters_restart_as_they_happen(start, browser, tmp_path):  # noqa: F811
    job = start(
        "--model_def=regularized.Regularized",
        f"--validation_data={tmp_path}/data/*.recordio",
        "--num_epochs=10000",
        "--evaluation_epochs=1",
        "--checkpoint_secs=3",
        records=1000,
    )
    address = address_of(job)
    browser.open(address)
    browser.until("training", lambda: "training, epoch" in browser.text("#verdict-text"), 120.0)
    browser.until("curves", lambda: browser.count("#charts .curve") > 3, 120.0)
    browser.until("a checkpoint", lambda: marks(browser, "checkpoint"), 60.0)
    browser.until("an evaluation", lambda: marks(browser, "evaluation"), 60.0)
    assert len(row_of(browser, "worker 0")) == 8
    browser.until("2 workers", lambda: is_up(browser, "worker 1", 1), 60.0)
    assert "worker 1" not in marks(browser, "death")

    kill(job, "worker", 1)
    death = "worker 1, incarnation 1: killed by SIGKILL"
    browser.until("its death", lambda: death in marks(browser, "death"))
    browser.until("the new one", lambda: is_up(browser, "worker 1", 2), 120.0)
    browser.until("its mark", lambda: "worker 1, incarnation 2" in marks(browser, "join"))
    assert death in browser.text("#verdict-lines")

    kill(job, "ps", 0)
    lost = "0, incarnation 1: killed by SIGKILL"
    browser.until("the server's death", lambda: lost in marks(browser, "death"))
    browser.until("the new server", lambda: is_up(browser, "PS 0", 2), 120.0)
    browser.until("its mark", lambda: "0, incarnation 2" in marks(browser, "join"))
    browser.until("the verdict", lambda: lost in browser.text("#verdict-lines"))

    browser.find("#instance-rows button[aria-label^='worker 1']").click()
    browser.until("the log", lambda: "worker-1.2.log" in browser.text("#log-path"))
    browser.until("its end", lambda: len(browser.text("#log-tail")) > 40)
    browser.find("#log-close").click()

    first_row = browser.js(FIRST_ROW)
    kill_the_master(job)
    browser.until("the next master", lambda: is_up(browser, "master", 2), 60.0)
    goes_on = "master, incarnation 2 goes on from the journal"
    browser.until("its mark", lambda: goes_on in marks(browser, "master"))
    browser.until("it is live", lambda: browser.text("#link-text") == "live", 60.0)
    assert browser.js(FIRST_ROW) == first_row, "what was before is still there"
    assert death in marks(browser, "death")
    browser.until("training", lambda: "training, epoch" in browser.text("#verdict-text"), 60.0)

    checked("job", values_of(address, "job"))
    state = checked("state", values_of(address, "state"))
    checked("history", values_of(address, "history"))
    events = checked("events", values_of(address, "events?after=0&limit=10000"))
    checked("log", values_of(address, "logs/worker/0?incarnation=1&bytes=4096"))
    died = {(e["role"], e["index"]) for e in events["events"] if e["mark"] == "death"}
    assert died == {("worker", 1), ("ps", 0), ("master", 0)}
    assert "master, incarnation 1: killed by SIGKILL" in browser.text("#verdict-lines")
    assert {one["incarnation"] for one in state["instances"] if one["role"] == "master"} == {2}
    assert [one for one in texts_seen(browser) if one["contrast"] < 4.5] == []
    browser.size(360, 740)
    browser.until("the phone's width", lambda: browser.js("return charts.drawnWidth") < 360)
    assert too_wide(browser) == []
    host = address.removeprefix("http://").strip("/")
    assert browser.hosts() == {host}
    refused = ("net::ERR", "Failed to load resource")
    assert [one for one in browser.complaints() if not any(x in one for x in refused)] == []

    browser.size(1280, 900)
    jobs.stop(str(job.directory))
    job.process.wait(120)
    job.assert_nothing_is_left()
    report = tmp_path / "report.html"
    write_report(DirectorySource(job.directory), report)
    browser.open(report.as_uri())
    browser.until("the report", lambda: browser.count("#charts .curve") > 3)
    assert browser.text("#verdict-text").startswith("Stopped")
    assert death in marks(browser, "death")
    assert lost in marks(browser, "death")
    assert goes_on in marks(browser, "master")
    assert browser.js(FIRST_ROW) == pytest.approx(first_row, abs=0.01)
