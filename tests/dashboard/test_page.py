"""The page alone, in a real browser, on a sample of the values that a master serves."""

from __future__ import annotations

import time

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.dashboard.browser import Browser
from tests.dashboard.page_server import PageServer
from tests.dashboard.sample import HOSTILE, Sample
from tests.dashboard.schema import checked
from tests.dashboard.seeing import texts_seen, too_wide

IS_DRAWN = "return document.querySelectorAll('#charts .curve').length > 3"

ROLES = ("button", "combobox", "searchbox", "image", "region", "progressbar", "heading")
# What is read as its contents are, or only holds others together.
UNNAMED = {
    *("none", "generic", "StaticText", "InlineTextBox", "ListMarker", "paragraph", "list"),
    *("listitem", "banner", "main", "contentinfo", "table", "rowgroup", "row", "cell", "gridcell"),
    *("DescriptionList", "DescriptionListTerm", "term", "definition", "time", "status", "alert"),
    *("LabelText", "LayoutTable", "LayoutTableRow", "LayoutTableCell", "MenuListPopup", "code"),
    *("DescriptionListDetail", "SvgRoot", "Iframe", "Details", "DisclosureTriangle", "group"),
}


def see(browser: Browser, server: PageServer) -> None:
    browser.open(server.url)
    browser.until("the charts", lambda: browser.js(IS_DRAWN))


def test_the_first_lines_say_state_bottleneck_and_what_died_last(browser, server, sample):
    see(browser, server)
    assert browser.text("#verdict-text") == "Healthy: training, epoch 7 of 12, 23 min to go."
    lines = browser.text("#verdict-lines")
    assert "workers wait for input (61% of their time)" in lines
    assert "worker 1, incarnation 2: killed by SIGKILL" in lines
    assert "ago" in lines
    assert "incarnation 3 runs; 4 deaths in all" in lines
    top = browser.js("return document.querySelector('#verdict').getBoundingClientRect().bottom")
    assert top < 300, "it is seen without scrolling"


def test_of_those_that_died_one_that_is_not_replaced_yet_is_said_first(browser, server, sample):
    (ps,) = [
        one
        for one in sample.values["state"]["instances"]
        if (one["role"], one["index"]) == ("ps", 0)
    ]
    ps["state"] = "launching"
    see(browser, server)
    lines = browser.text("#verdict-lines")
    assert "PS 0, incarnation 1: " in lines
    assert "incarnation 2 is launching; 4 deaths in all" in lines


def test_what_is_wrong_is_said_first(browser, server, sample):
    state = sample.values["state"]
    state["health"] = [
        {"level": "warning", "text": "the disk is nearly full"},
        {"level": "error", "text": "worker 3 was launched 7 times in 5 minutes"},
    ]
    see(browser, server)
    assert browser.text("#verdict-text").startswith("Running, but not well: ")
    assert browser.find("#verdict").get_attribute("data-level") == "bad"
    assert "worker 3 was launched 7 times in 5 minutes" in browser.text("#health")
    assert "the disk is nearly full" in browser.text("#health")


def test_every_event_with_a_mark_stands_at_its_time_on_the_axis(browser, server, sample):
    see(browser, server)
    marked = [one for one in sample.values["events"]["events"] if one["mark"]]
    said = "\n".join(browser.labels(".mark"))
    for event in marked:
        if event["mark"] in ("death", "rescale", "master", "evaluation", "checkpoint"):
            assert event["text"].strip() in said, event
    place = """
      const box = document.querySelector('#charts svg').getBoundingClientRect();
      return [...document.querySelectorAll('.mark.death')].map((one) => {
        const mark = one.getBoundingClientRect();
        return mark.left + mark.width / 2 - box.left;
      });
    """
    began = sample.values["job"]["began"]
    spanned = time.time() - began
    width = browser.js("return document.querySelector('#charts').clientWidth") - 56
    deaths = [one["time"] - began for one in marked if one["mark"] == "death"]
    expected = [46 + width * at / spanned for at in deaths]
    assert browser.js(place) == pytest.approx(expected, abs=width * 6 / spanned + 2)


def test_pointing_at_a_mark_tells_the_event_and_a_place_of_the_axis_the_values(browser, server):
    see(browser, server)
    marks = browser.nodes(".mark.death")
    ActionChains(browser.driver).move_to_element(marks[0]).perform()
    tip = browser.until("the tip", lambda: browser.find("#mark-tip").text)
    assert "worker 1, incarnation 1: killed by SIGKILL" in tip
    latest = browser.text("#charts .value")
    charts = browser.find("#charts svg")
    ActionChains(browser.driver).move_to_element_with_offset(charts, -300, 0).perform()
    browser.until("the values of then", lambda: browser.count("#charts .cursor"))
    assert browser.text("#charts .value") != latest


def test_the_time_shown_can_be_narrowed(browser, server):
    see(browser, server)
    everything = browser.count(".mark.death")
    browser.find("[data-span='300']").click()
    browser.until("fewer marks", lambda: browser.count(".mark.death") < everything)
    assert browser.count(".mark.death") == 1, "that of 290 s ago"
    assert browser.find("[data-span='300']").get_attribute("aria-pressed") == "true"
    browser.find("[data-span='0']").click()
    browser.until("all again", lambda: browser.count(".mark.death") == everything)


def test_names_and_logs_of_enemies_are_text(browser, server, sample):
    sample.values["job"]["name"] = HOSTILE
    state = sample.values["state"]
    state["bottleneck"] = state["traceback"] = state["error"] = HOSTILE
    state["health"] = [{"level": "error", "text": HOSTILE}]
    state["instances"][5]["doing"] = state["instances"][5]["reason"] = HOSTILE
    state["metrics"] = {HOSTILE: 0.5}
    state["phases"][0]["phase"] = HOSTILE
    sample.values["history"]["evaluations"][0]["metrics"][HOSTILE] = 0.25
    see(browser, server)
    browser.find("#instance-rows tr:nth-child(6) button").click()
    browser.until("the log", lambda: HOSTILE in browser.text("#log-tail"))
    for place in ("#name", "#verdict", "#health", "#traceback", "#options", "#events", "#tiles"):
        assert HOSTILE in browser.text(place), place
    assert browser.js("return window.hacked") is None
    assert browser.count("img") == 0
    assert browser.complaints() == []


def test_a_log_opens_with_its_first_error_and_those_of_earlier_incarnations(browser, server):
    see(browser, server)
    browser.find("#instance-rows tr:nth-child(6) button").send_keys(Keys.ENTER)
    browser.until("the log", lambda: "step 399" in browser.text("#log-tail"))
    assert browser.text("#log-title") == "Log of worker 1"
    assert not browser.find("#log-error").is_displayed()
    is_at_end = "const t = document.querySelector('#log-tail'); return t.scrollTop > 0"
    assert browser.js(is_at_end), "the end of it is shown"
    browser.find("#log-incarnation [value='2']").click()
    browser.until("the error", lambda: "ValueError" in browser.find("#log-error").text)
    browser.press(Keys.ESCAPE)
    browser.until(
        "it is closed", lambda: not browser.js("return document.querySelector('#log').open")
    )
    focused = browser.driver.switch_to.active_element
    assert focused.text == "worker 1", "one goes on from where one was"


def test_everything_is_reached_by_keyboard(browser, server):
    see(browser, server)
    reached = []
    for _ in range(60):
        browser.press(Keys.TAB)
        focused = browser.driver.switch_to.active_element
        if focused.tag_name == "body":
            break
        ring = browser.js("return document.activeElement.matches(':focus-visible')")
        reached.append(
            (focused.tag_name, focused.get_attribute("id"), focused.accessible_name, ring)
        )
    names = [name for _, _, name, _ in reached]
    assert all(ring for *_, ring in reached), "what has the focus is seen"
    assert all(names), reached
    for wanted in ("Skip to the instances", "5 min", "all", "worker 1: open its log"):
        assert wanted in names
    ids = [name for _, name, _, _ in reached]
    assert {"events", "event-filter", "option-filter"} <= set(ids)
    assert sum(tag == "g" for tag, *_ in reached) == 1, "the marks are one stop"


def test_arrow_keys_go_from_mark_to_mark_and_enter_shows_the_event(browser, server):
    see(browser, server)
    browser.js("document.querySelector('.mark[tabindex=\"0\"]').focus()")
    browser.press(Keys.HOME)
    heard = []
    for _ in range(browser.count(".mark")):
        heard.append(browser.js("return document.activeElement.getAttribute('aria-label')"))
        if heard[-1].startswith("death"):
            break
        browser.press(Keys.ARROW_RIGHT)
    assert "worker 1, incarnation 1: killed by SIGKILL" in heard[-1]
    assert browser.find("#mark-tip").is_displayed()
    browser.press(Keys.ENTER)
    chosen = browser.until("the event", lambda: browser.text("#events .chosen"))
    assert "worker 1, incarnation 1: killed by SIGKILL" in chosen
    label = browser.js("return document.activeElement.getAttribute('aria-label')")
    browser.until(
        "more of the job", lambda: len(server.requests) and browser.text("#link-text") == "live"
    )
    assert label == heard[-1], "the focus stays while the page goes on"


def test_everything_has_a_name_for_screen_readers(browser, server):
    see(browser, server)
    heard = [one for one in browser.heard() if one["role"] not in UNNAMED]
    assert [one for one in heard if not one["name"]] == []
    names = {role: [one["name"] for one in heard if one["role"] == role] for role in ROLES}
    assert all(names.values()), names
    assert "Tasks of this epoch, in order: 9 done, 4 leased, 30 todo, 2 replayed" in names["image"]
    assert any(one.startswith("samples/s: now samples/s 3") for one in names["image"])
    assert "Partitions" in names["region"]
    assert browser.js("return document.documentElement.lang") == "en"
    assert browser.find("#progress-bar").get_attribute("aria-valuenow") == "52"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("health", ["healthy", "warned", "failing"])
def test_texts_have_the_contrast_of_wcag_aa(browser, server, sample, scheme, health):
    texts = {"healthy": [], "warned": ["warning"], "failing": ["error", "warning"]}[health]
    sample.values["state"]["health"] = [{"level": one, "text": "it is so"} for one in texts]
    sample.values["state"]["instances"][4]["state"] = "gone"
    sample.values["state"]["instances"][5]["state"] = "launching"
    browser.prefer("prefers-color-scheme", scheme)
    see(browser, server)
    seen = texts_seen(browser)
    assert len(seen) > 150
    ground = browser.js("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(16, 20, 24)") == (scheme == "dark"), ground
    faint = [one for one in seen if one["contrast"] < 4.5]
    assert faint == []


def test_on_a_phone_nothing_scrolls_sideways(browser, server, sample):
    browser.size(360, 740)
    sample.values["state"]["health"] = [{"level": "error", "text": "worker_" * 40}]
    see(browser, server)
    browser.js("for (const one of document.querySelectorAll('details')) one.open = true")
    assert too_wide(browser) == []
    browser.find("#instance-rows tr:nth-child(6) button").click()
    browser.until("the log", lambda: "step 399" in browser.text("#log-tail"))
    assert too_wide(browser) == []


def test_who_wants_no_motion_sees_none(browser, server):
    see(browser, server)
    beats = "return getComputedStyle(document.querySelector('.dot')).animationName"
    browser.until("it is live", lambda: browser.text("#link-text") == "live")
    assert browser.js(beats) == "beat"
    browser.prefer("prefers-reduced-motion", "reduce")
    assert browser.js(beats) == "none"


def test_nothing_is_asked_of_another_host_and_nothing_is_complained_of(browser, server):
    see(browser, server)
    browser.find("#instance-rows button").click()
    assert browser.hosts() == {f"127.0.0.1:{server.port}"}
    known = [one for one in browser.complaints() if "/api/logs/master/" not in one]
    assert known == [], "the sample has no log of the master"


def test_a_silent_master_is_seen_and_the_page_goes_on_when_it_is_back(browser, sample):
    first = PageServer(sample)
    see(browser, first)
    browser.until("it is live", lambda: browser.text("#link-text") == "live")
    first.close()
    silence = browser.find("#silence")
    browser.until("the silence", silence.is_displayed)
    assert "The master is not heard since" in silence.text
    assert browser.text("#link-text").startswith("not heard since")
    later = Sample()
    number = later.values["events"]["last"] + 1
    again = {"number": number, "time": time.time(), "kind": "master", "mark": "master"}
    again["text"] = "master, incarnation 3 goes on from the journal"
    later.values["events"]["events"].append(again)
    later.values["events"]["last"] = number
    checked("events", later.values["events"])
    later.values["state"]["instances"][0]["incarnation"] = 3
    second = PageServer(later, first.port)
    try:
        browser.until("it is live again", lambda: browser.text("#link-text") == "live")
        browser.until(
            "the new master", lambda: browser.text("#instance-rows td:nth-child(2)") == "3"
        )
        assert not silence.is_displayed()
        new = "incarnation 3 goes on from the journal"
        browser.until("its mark", lambda: new in browser.labels(".mark.master")[-1])
    finally:
        second.close()


def test_a_job_that_ended_is_not_said_to_be_silent(browser, sample):
    server = PageServer(sample)
    see(browser, server)
    ended = sample.values["state"]
    ended |= {"state": "failed", "error": "ValueError: bad\nmore", "traceback": "Traceback: bad"}
    browser.until("the end", lambda: browser.text("#verdict-text").startswith("Failed"))
    server.close()
    assert browser.text("#verdict-text") == "Failed: ValueError: bad"
    assert browser.find("#traceback").is_displayed()
    browser.until("the link", lambda: browser.text("#link-text").startswith("ended"))
    would_be = "return secondsSilent() > SILENT_AFTER_S + 1.5"
    browser.until("as long as a silence takes", lambda: browser.js(would_be))
    assert not browser.find("#silence").is_displayed()


def test_new_events_and_incarnations_appear_by_themselves(browser, server, sample):
    see(browser, server)
    browser.until("it is live", lambda: browser.text("#link-text") == "live")
    number = sample.values["events"]["last"] + 1
    death = {"number": number, "time": time.time(), "kind": "exited", "mark": "death"}
    death |= {"role": "worker", "index": 2, "incarnation": 1}
    death["text"] = "worker 2, incarnation 1: killed by SIGTERM"
    sample.values["events"] = {
        "events": [*sample.values["events"]["events"], death],
        "last": number,
    }
    sample.values["state"]["instances"][6] |= {"incarnation": 2, "state": "launching"}
    line = "worker 2, incarnation 1: killed by SIGTERM"
    browser.until("the death", lambda: line in browser.text("#verdict-lines"))
    # The state is a message of its own.
    launching = "incarnation 2 is launching"
    browser.until("the new one", lambda: launching in browser.text("#verdict-lines"))
    assert line in browser.text("#announcement"), "who cannot see hears it"
    assert line in browser.text("#events li")


EPOCHS = "return [...document.querySelectorAll('#epochs tr')].map((one) => one.textContent)"


def test_what_happens_between_reading_and_the_beginning_of_the_stream_is_seen(
    browser, server, sample
):
    history, events = sample.values["history"], sample.values["events"]
    late_row = [history["rows"][-1][0] + 1.0, *history["rows"][-1][1:]]
    late_event = {**events["events"][-1], "number": events["last"] + 1, "text": "in between"}

    def happen():
        time.sleep(2.0)  # The page has read all that there was.
        assert "/api/history" in server.requests
        history["rows"].append(late_row)
        events["events"].append(late_event)
        events["last"] += 1

    server.before_stream = happen
    see(browser, server)
    assert "in between" not in browser.text("#events")
    browser.until("the event", lambda: "in between" in browser.text("#events"))
    browser.until("the row", lambda: browser.js("return job.rows.at(-1)[0]") == late_row[0])


def test_epochs_are_put_together_of_states_that_have_some_also_after_a_new_master(browser, sample):
    first = PageServer(sample)
    first.changed = []
    see(browser, first)
    browser.until("it is live", lambda: browser.text("#link-text") == "live")
    before = browser.js(EPOCHS)
    assert len(before) == 12
    known = sample.values["state"]["progress"]["epochs"]
    first.changed = [known[6] | {"records_done": known[6]["records_expected"]}]
    browser.until("what changed", lambda: "450,000 of 450,000" in browser.js(EPOCHS)[6])
    assert [*browser.js(EPOCHS)[:6], *browser.js(EPOCHS)[7:]] == [*before[:6], *before[7:]]
    first.close()
    browser.until("the silence", browser.find("#silence").is_displayed)
    later = Sample()
    ended = later.values["state"]["progress"]["epochs"]
    ended[7]["records_done"] = ended[7]["records_expected"]  # Nobody has told of it meanwhile.
    second = PageServer(later, first.port)
    second.changed = []
    try:
        browser.until("the epoch", lambda: "450,000 of 450,000" in browser.js(EPOCHS)[7])
    finally:
        second.close()


def test_where_too_many_pages_listen_the_next_one_asks(browser, server, sample):
    server.has_room = False
    see(browser, server)
    sample.values["state"]["instances"][6] |= {"incarnation": 2}
    new = "return document.querySelector('#instance-rows tr:nth-child(7)').cells[1].textContent"
    browser.until("the new incarnation", lambda: browser.js(new) == "2")
    assert not browser.find("#silence").is_displayed()


def test_a_job_of_a_year_makes_a_page_of_bounded_size(browser, server, sample):
    began = time.time() - 365 * 86_400
    sample.values["job"]["began"] = began
    events = [
        {"number": n, "time": began + n * 3153.6, "kind": "checkpoint", "mark": "checkpoint"}
        | {"text": f"checkpoint {n}: on schedule"}
        for n in range(1, 10_001)
    ]
    sample.values["events"] = {"events": events, "last": 10_000}
    history = sample.values["history"]
    history["interval_s"] = 15_768.0
    history["rows"] = [[began + n * 15_768.0, *history["rows"][n % 700][1:]] for n in range(2000)]
    see(browser, server)
    browser.until("all events", lambda: "checkpoint 10000" in browser.text("#events"))
    assert 20 < browser.count(".mark") < 200
    assert browser.count("#events li") == 300
    ticks = browser.texts("#charts svg text")
    assert any(one.count("-") == 2 for one in ticks), "the axis has dates"
