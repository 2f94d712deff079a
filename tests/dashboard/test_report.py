"""The report: one file with the same page, opened from the disk of who got it by mail."""

from __future__ import annotations

import re

import pytest
from selenium.webdriver.common.keys import Keys

from elasticdl.dashboard.report import PAGE, write_report
from elasticdl.errors import UsageError
from tests.dashboard.sample import HOSTILE, Sample
from tests.dashboard.seeing import texts_seen, too_wide


class SampleSource:
    """The sample, as a job's directory would tell it."""

    def __init__(self, sample: Sample) -> None:
        self.values, self.logs = sample.values, sample.logs

    def job(self):
        return self.values["job"]

    def state(self):
        return self.values["state"]

    def history(self):
        return self.values["history"]

    def events(self, newest):
        assert newest, "of a long job's events the end is told"
        return self.values["events"]

    def log(self, role, index, incarnation, num_bytes):
        empty = {"path": "", "tail": "", "first_error": None}
        return self.logs.get(f"{role}/{index}/{incarnation}", empty)


@pytest.fixture
def path(tmp_path, sample):
    state = sample.values["state"]
    state |= {"state": "failed", "error": HOSTILE, "traceback": HOSTILE, "loss": float("nan")}
    written = tmp_path / "report.html"
    write_report(SampleSource(sample), written)
    return written


def test_a_report_shows_what_the_page_shows_and_asks_for_nothing(browser, path, sample):
    browser.open(path.as_uri())
    browser.until("the charts", lambda: browser.count("#charts .curve") > 3)
    assert browser.count(".mark.death") == 4
    assert browser.text("#verdict-text").startswith("Failed: ")
    assert "killed by SIGKILL" in browser.text("#verdict-lines")
    assert browser.text("#link-text") == "report"
    assert len(browser.texts("#instance-rows tr")) == 8
    assert browser.text("#tiles").count("–") == 1, "a loss that is no number is none"
    browser.find("#instance-rows tr:nth-child(6) button").send_keys(Keys.ENTER)
    browser.until("the log", lambda: "step 399" in browser.text("#log-tail"))
    browser.find("#log-incarnation [value='2']").click()
    browser.until("the error", lambda: "ValueError" in browser.find("#log-error").text)
    assert browser.hosts() == set()
    asked = {one for one in browser.requested() if not one.startswith(("data:", "about:"))}
    assert asked == {path.as_uri()}


def test_hostile_texts_do_not_run_and_end_no_element(browser, path):
    browser.open(path.as_uri())
    browser.until("the charts", lambda: browser.count("#charts .curve") > 3)
    assert HOSTILE in browser.text("#traceback")
    assert browser.js("return window.hacked") is None
    assert browser.count("img") == 0
    assert browser.complaints() == []


def test_its_policy_lets_no_other_script_run(browser, path, tmp_path):
    changed = tmp_path / "changed.html"
    html = path.read_text("utf-8").replace("</body>", "<script>window.hacked=1</script></body>")
    changed.write_text(html, "utf-8")
    browser.open(changed.as_uri())
    browser.until("the charts", lambda: browser.count("#charts .curve") > 3)
    assert browser.js("return window.hacked") is None
    assert any("Content Security Policy" in one for one in browser.complaints())


def test_it_is_readable_on_a_phone_in_the_dark(browser, path):
    browser.size(360, 740)
    browser.prefer("prefers-color-scheme", "dark")
    browser.open(path.as_uri())
    browser.until("the charts", lambda: browser.count("#charts .curve") > 3)
    assert too_wide(browser) == []
    assert [one for one in texts_seen(browser) if one["contrast"] < 4.5] == []


def test_the_page_names_no_other_host_and_ends_no_script():
    for file in PAGE.iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.", text), file.name
        if file.suffix == ".js":
            assert "</script" not in text
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
            )
        if file.suffix == ".html":
            assert not re.search(r"<script>|<style|style=|\son[a-z]+=", text), "nothing inline"


def test_a_report_that_cannot_be_written_says_so_in_one_line(tmp_path, sample):
    with pytest.raises(UsageError, match="it is a directory"):
        write_report(SampleSource(sample), tmp_path)
