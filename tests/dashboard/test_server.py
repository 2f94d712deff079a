"""Who is answered by a dashboard, and what is left of it at its end."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from elasticdl.dashboard.address import is_own_name, open_dashboard, url_of
from elasticdl.dashboard.directory_source import DirectorySource
from elasticdl.dashboard.feed import MOST_STREAMS
from elasticdl.dashboard.server import MOST_CONNECTIONS, DashboardServer
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master.membership_events import Registered
from tests.dashboard.schema import checked
from tests.dashboard.test_sources import PLAN
from tests.master.test_coordinator import PS, WORKER
from tests.master.test_recovery import Masters


@pytest.fixture
def masters(tmp_path) -> Iterator[Masters]:
    spec = JobSpec(command="train", job_name="mine", job_dir=str(tmp_path), model_def="a.B")
    spec = spec.model_copy(update={"model_zoo": "zoo", "data": "data", "output": "output"})
    spec.save(tmp_path)
    masters = Masters(tmp_path, PLAN)
    masters.next()
    yield masters
    masters.kill()


class Served:
    """A dashboard of a job's directory."""

    def __init__(self, masters: Masters) -> None:
        spec = masters.spec
        listening = open_dashboard(spec)
        assert listening is not None
        self.url = url_of(listening, spec.dashboard_host)
        self.port = listening.getsockname()[1]
        source = DirectorySource(spec.job_dir)
        self.server = DashboardServer(source, listening, spec.dashboard_host)
        self.server.start()

    def ask(
        self, path: str, method: str = "GET", host: str | None = None
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {} if host is None else {"Host": host}
        connection.request(method, path, headers=headers)
        return connection.getresponse()

    def json(self, path: str):
        answer = self.ask(path)
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())


@pytest.fixture
def served(masters) -> Iterator[Served]:
    one = Served(masters)
    yield one
    one.server.stop()


def test_every_value_is_there_in_its_documented_form(served):
    assert urlsplit(served.url).hostname == "127.0.0.1"
    checked("job", served.json("/api/job"))
    checked("state", served.json("/api/state"))
    checked("history", served.json("/api/history"))
    assert checked("events", served.json("/api/events?after=0&limit=3"))["events"]
    checked("log", served.json("/api/logs/worker/0?incarnation=1&bytes=100"))
    page = served.ask("/")
    assert page.getheader("Content-Type", "").startswith("text/html")
    policy = page.getheader("Content-Security-Policy", "")
    assert "default-src 'none'" in policy
    assert b"<script" in page.read()
    for name in ("dashboard.js", "charts.js", "dashboard.css"):
        assert served.ask(f"/{name}").status == 200


def test_nothing_is_changed_and_no_foreign_page_gets_in(served):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert served.ask("/api/state", method).status == 405
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", ""):
        assert served.ask("/api/state", host=host).status == 403, host
    for host in ("localhost", f"localhost:{served.port}", "127.0.0.1", "[::1]:8000"):
        assert served.ask("/api/state", host=host).status == 200, host


def test_wrong_questions_are_answered_with_what_was_wrong(served):
    for path in ("/api/events?after=-1", "/api/events?limit=x", "/api/events?after=" + "9" * 40):
        answer = served.ask(path)
        assert answer.status == 400
        assert b"not a number" in answer.read()
    for path in ("/api/logs/cook/0", "/api/logs/worker/x", "/api/nothing", "/../pyproject.toml"):
        assert served.ask(path).status == 404
    nobody = served.ask("/api/logs/worker/99")
    assert (nobody.status, nobody.read()) == (404, b"no worker 99")
    for path in ("/api/logs/worker/..%2f..%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd"):
        assert served.ask(path).status == 404


def next_event(stream: http.client.HTTPResponse) -> tuple[str, dict]:
    kind = stream.readline().decode().removeprefix("event: ").strip()
    values = json.loads(stream.readline().decode().removeprefix("data: "))
    assert stream.readline() == b"\n"
    return kind, values


def test_a_stream_has_the_state_each_second_and_what_is_new(served, masters):
    stream = served.ask("/api/stream")
    assert stream.getheader("Content-Type", "").startswith("text/event-stream")
    kind, first = next_event(stream)
    assert kind == "state"
    checked("state", first)
    masters.coordinator.scale(2)
    while (found := next_event(stream))[0] != "events":
        pass
    (event,) = [one for one in found[1]["events"] if one["kind"] == "scaled"]
    assert event["mark"] == "rescale"
    assert next_event(stream)[1]["workers_wanted"] == 2
    masters.kill()
    served.server.stop()
    last = None
    while line := stream.readline():
        last = line if line.startswith(b"data: ") else last
    assert last is not None
    assert json.loads(last.decode().removeprefix("data: "))["state"] == "lost", "the end is told"


def next_progress(stream: http.client.HTTPResponse) -> dict:
    while (found := next_event(stream))[0] != "state":
        pass
    return found[1]["progress"]


def test_a_state_has_all_epochs_for_who_comes_and_then_those_that_change(served, masters):
    def train(number: int) -> None:
        task = master.lease(WORKER, number).task
        master.report(ledger_events.TaskCompleted(task.id, (1,), 1))

    master = masters.coordinator
    master.register(Registered(PS, "here:1", 1))
    master.register(Registered(WORKER, "", 2))
    for number in range(4):
        train(number)
    stream = served.ask("/api/stream")
    assert [one["epoch"] for one in next_progress(stream)["epochs"]] == [1, 2]
    assert next_progress(stream)["epochs_changed"] == []
    train(4)
    while not (changed := next_progress(stream)["epochs_changed"]):
        pass
    assert [(one["epoch"], one["records_done"]) for one in changed] == [(2, 10)]
    later = served.ask("/api/stream")
    while "epochs" not in (progress := next_progress(later)):
        pass
    assert progress["epochs"] == served.json("/api/state")["progress"]["epochs"]
    served.server.stop()
    last = {}
    while line := stream.readline():
        if line.startswith(b"data: "):
            last = json.loads(line.decode().removeprefix("data: "))
    assert [one["epoch"] for one in last["progress"]["epochs"]] == [1, 2], "the end is whole"


def test_a_stream_goes_on_when_what_failed_can_be_told_again(served, masters, tmp_path):
    damaged = tmp_path / "result.json"
    stream = served.ask("/api/stream")
    assert stream.readline() == b"event: state\n"
    damaged.write_text("[]")  # No state can be made of it.
    assert served.ask("/api/state").status == 500
    masters.coordinator.scale(2)
    while stream.readline() != b"event: events\n":
        pass
    later = served.ask("/api/stream")
    damaged.unlink()
    assert later.readline() == b"event: state\n"
    while b'"workers_wanted":2' not in stream.readline():
        pass


def test_who_comes_while_nothing_can_be_told_is_told_from_then_on(served, tmp_path):
    damaged = tmp_path / "result.json"
    damaged.write_text("[]")
    stream = served.ask("/api/stream")
    assert served.ask("/api/state").status == 500
    damaged.unlink()
    assert stream.readline() == b"event: state\n"


def test_pages_that_are_too_many_are_refused_and_come_in_when_others_go(served):
    streams = [served.ask("/api/stream") for _ in range(MOST_STREAMS)]
    assert {one.status for one in streams} == {200}
    assert served.ask("/api/stream").status == 503
    assert served.ask("/api/state").status == 200
    for one in streams:
        one.close()


def test_connections_that_ask_for_nothing_are_closed_and_others_are_answered(served):
    silent = []
    for told in (b"", b"GET /api/job HTTP/1.1\r\n", b"") * (MOST_CONNECTIONS // 3 + 1):
        one = socket.create_connection(("127.0.0.1", served.port), 60)
        one.sendall(told)
        silent.append(one)
    kept = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for one in silent:
        assert one.recv(100) == b""
        one.close()
    kept.request("GET", "/api/job")
    first = kept.getresponse()
    assert (first.status, bool(first.read())) == (200, True)
    kept.sock.sendall(b"GET /api/job HTTP/1.1\r\nHost: localhost\r\n")  # Never all of it.
    assert kept.sock.recv(100) == b""
    kept.close()
    with served.ask("/api/stream") as stream:
        stream.readline()
        with socket.create_connection(("127.0.0.1", served.port), 60) as later:
            assert later.recv(100) == b""
        assert [stream.readline() for _ in range(30)], "who is answered is not silent"
        assert stream.readline()


def test_nothing_is_left_of_a_server_that_has_ended(masters):
    before = set(threading.enumerate())
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        one = Served(masters)
        stream = one.ask("/api/stream")
        assert stream.readline()
        one.server.stop()
        stream.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one.port), 1)
    assert set(threading.enumerate()) <= before
    assert len(os.listdir("/proc/self/fd")) <= files + 1


def test_a_server_that_never_began_ends(masters):
    listening = open_dashboard(masters.spec)
    assert listening is not None
    source = DirectorySource(masters.spec.job_dir)
    DashboardServer(source, listening, "127.0.0.1").stop()
    server = DashboardServer(source, listening, "127.0.0.1", may_begin=lambda: False)
    server.start()
    server.stop()


def test_who_asks_too_early_is_answered_when_it_begins(masters):
    listening = open_dashboard(masters.spec)
    assert listening is not None
    with socket.create_connection(listening.getsockname()) as early:
        early.sendall(b"GET /api/job HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        source = DirectorySource(masters.spec.job_dir)
        server = DashboardServer(source, listening, "127.0.0.1")
        server.start()
        early.settimeout(60)
        assert early.recv(100).startswith(b"HTTP/1.1 200")
        server.stop()


def test_a_port_that_is_taken_is_said_before_anything_is_launched(masters):
    listening = open_dashboard(masters.spec)
    assert listening is not None
    port = listening.getsockname()[1]
    taken = masters.spec.model_copy(update={"dashboard_port": port})
    with pytest.raises(UsageError, match=f"dashboard at 127.0.0.1:{port}: .*--dashboard_port"):
        open_dashboard(taken)
    listening.close()
    away = masters.spec.model_copy(update={"dashboard_host": "192.0.2.1"})
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        open_dashboard(away)
    assert open_dashboard(masters.spec.model_copy(update={"dashboard": False})) is None


def test_names_that_a_dashboard_listens_as():
    assert is_own_name("localhost:1", "127.0.0.1")
    assert is_own_name("192.168.0.7:80", "0.0.0.0")
    assert is_own_name(f"{socket.gethostname()}:80", "0.0.0.0")
    assert is_own_name("trainer.example", "trainer.example")
    assert not is_own_name(socket.gethostname(), "127.0.0.1") or socket.gethostname() == "localhost"
    for wrong in ("", "a:b:c", "evil.example:", "[localhost]", "127.0.0.1.evil.example"):
        assert not is_own_name(wrong, "0.0.0.0"), wrong
