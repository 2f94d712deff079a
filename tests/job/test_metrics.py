"""A real Prometheus scrapes a real job: its alerts and Grafana queries find what they ask for."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.job.real_jobs import Job, wait_until

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
ALERTS = OPERATIONS / "alerts.yml"
GONE = "ElasticDLJobIsGone"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")

pytestmark = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="needs Prometheus: apt-get install prometheus"
)


def promtool(*words: str, stdin: bytes | None = None) -> str:
    done = subprocess.run([str(PROMTOOL), *words], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


class Prometheus:
    """One that scrapes some addresses each second."""

    def __init__(self, directory: Path, targets: list[str]) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": "elasticdl", "static_configs": [{"targets": targets}]},
                {
                    "job_name": "elasticdl-instances",
                    "http_sd_configs": [
                        {"url": f"http://{one}/api/targets", "refresh_interval": "1s"}
                        for one in targets
                    ],
                },
            ],
        }
        path = directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        promtool("check", "config", str(path))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = (directory / "prometheus.log").open("w+")
        self.process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={path}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address={self.address}",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def ask(self, path: str, **values: str) -> Any:
        query = urllib.parse.urlencode(values)
        try:
            with urllib.request.urlopen(f"http://{self.address}/{path}?{query}", timeout=30) as got:
                return json.load(got)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None  # It begins.
            raise AssertionError(f"{values}: {error.read().decode()}") from None
        except OSError:
            return None  # It begins.

    def query(self, expression: str) -> list[dict[str, Any]]:
        found = self.ask("api/v1/query", query=expression)
        return found["result"] if found is not None else []

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


@pytest.fixture
def job(start) -> Job:
    return start("--num_epochs=1000", "--metrics")


@pytest.fixture
def url(job: Job) -> str:
    printed = wait_until("the URL", lambda: re.search(r"dashboard: (http://\S+)", job.terminal()))
    wait_until("the training", lambda: job.records_done() > 1000)
    return printed[1]


@pytest.fixture
def prometheus(url: str, tmp_path: Path) -> Iterator[Prometheus]:
    one = Prometheus(tmp_path, [urlsplit(url).netloc])
    yield one
    one.end()


def grafana_queries() -> list[str]:
    described = json.loads((OPERATIONS / "grafana.json").read_text())
    found = [target["expr"] for panel in described["panels"] for target in panel["targets"]]
    found += [one["expr"] for one in described["annotations"]["list"]]
    assert len(found) > 15
    return [one.replace("$job", ".*") for one in found]


def test_what_the_documents_ask_for_is_there(url: str, prometheus: Prometheus) -> None:
    with urllib.request.urlopen(f"{url}metrics", timeout=60) as answer:
        text = answer.read()
    complaints = promtool("check", "metrics", stdin=text)
    assert not complaints, complaints
    promtool("check", "rules", str(ALERTS))
    wait_until("two scrapes", lambda: prometheus.query("count_over_time(elasticdl_epoch[1m]) > 3"))
    (sample,) = prometheus.query("elasticdl_records_total")
    assert float(sample["value"][1]) > 1000
    may_be_empty = {one for one in grafana_queries() if "evaluation" in one or '"death"' in one}
    for query in grafana_queries():
        if query in may_be_empty:
            prometheus.query(query)
        else:
            wait_until(query, lambda query=query: prometheus.query(query), 30.0)
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    for rule in rules:
        metrics = set(re.findall(r"elasticdl_\w+", rule["expr"]))
        for metric in metrics:
            assert prometheus.query(metric), f"{rule['alert']}: no metric {metric}"
        prometheus.query(rule["expr"])
    for role, count in (("worker", 2), ("ps", 2)):
        query = f'count(elasticdl_own_cpu_seconds_total{{role="{role}"}}) == {count}'
        wait_until(f"each {role} by itself", lambda query=query: prometheus.query(query), 30.0)
    groups = wait_until("rules", lambda: prometheus.ask("api/v1/rules"))["groups"]
    wait_until(
        "evaluations",
        lambda: all(
            one["health"] == "ok" for one in prometheus.ask("api/v1/rules")["groups"][0]["rules"]
        ),
        30.0,
    )
    assert [one["name"] for one in groups[0]["rules"]] == [one["alert"] for one in rules]
    firing = [one["labels"]["alertname"] for one in prometheus.ask("api/v1/alerts")["alerts"]]
    assert not {"ElasticDLJobIsGone", "ElasticDLMasterDoesNotAnswer"} & set(firing)


def test_a_job_that_is_not_there_any_more_is_alerted_of(job: Job, prometheus: Prometheus) -> None:
    def alerts() -> dict[str, str]:
        found = prometheus.ask("api/v1/alerts") or {"alerts": []}
        gone = [one for one in found["alerts"] if one["labels"]["alertname"] == GONE]
        return {one["labels"]["job_name"]: one["state"] for one in gone}

    running = 'elasticdl_job_state{state="running"} == 1'
    (sample,) = wait_until("a scrape", lambda: prometheus.query(running))
    name = sample["metric"]["job_name"]
    assert alerts() == {}
    job.process.terminate()
    job.process.wait(120)
    wait_until("the alert", lambda: name in alerts(), 90.0)
    wait_until("that it fires", lambda: alerts().get(name) == "firing", 90.0)
