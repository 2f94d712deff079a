"""Whole jobs on the test cluster: submitted, watched from outside, and looked at afterwards."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from elasticdl.api.kubernetes.submission import leftovers
from elasticdl.dashboard.events import JobEvent, JobEvents
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.names import instance_of, selecting
from elasticdl.master.instances import InstanceSpec
from elasticdl.master.journal import read_journal
from elasticdl.master.recovery import spec_of
from tests.cluster.api import Namespace
from tests.job.clicks_data import ZOO, write_clicks
from tests.kubernetes.objects import client
from tests.kubernetes.real_jobs import pod_options, submit

NAME = "clicks"
RECORDS = 400
START_S = 300.0
END_S = 600.0
MANY = 100_000
_LOOK_S = 0.5


class PodJob:
    """A job of pods that was submitted, with a submitter's rights.

    Args:
      namespace: where it is submitted.
      directory: that every node sees; for its data, its directory and its model.
      options: beside or in place of those of every such job; None: not given.
    """

    def __init__(
        self, namespace: Namespace, directory: Path, command: str = "train", **options: Any
    ) -> None:
        self.directory = directory / "job"
        self.output = directory / "model"
        given = pod_options(
            directory,
            **{
                "job_name": NAME,
                "namespace": namespace.name,
                "num_workers": "2",
                "num_ps": "1",
                "minibatch_size": "8",
                **options,
            },
        )
        given = {name: value for name, value in given.items() if value is not None}
        self.spec = JobSpec.resolve(command, given)
        self.submitter = client(namespace.submitter, namespace)
        self.uid = submit(self.spec, self.submitter)

    def close(self) -> None:
        self.submitter.close()

    # ------------------------------------------------------------------ pods

    def pods(self, component: str = "") -> list[dict[str, Any]]:
        """Those that are not being deleted."""
        found = self.submitter.list("Pod", selecting(NAME, component)).items
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def leftovers(self) -> list[str]:
        """All there is of it in the cluster: `Kind name`."""
        return leftovers(self.submitter, self.spec.job_name)

    def running(self, component: str) -> list[dict[str, Any]]:
        return [one for one in self.pods(component) if one["status"].get("phase") == "Running"]

    def delete(self, pods: Iterable[dict[str, Any]], grace_s: int | None = None) -> None:
        for pod in pods:
            self.submitter.delete("Pod", pod["metadata"]["name"], grace_s)

    # --------------------------------------------------------------- journal

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The bodies of a kind; none before there is a journal."""
        try:
            return [one.body for one in read_journal(self.directory, kind)]
        except JobError:
            return []

    def events(self) -> list[JobEvent]:
        return list(JobEvents(self.directory).read(with_tasks=False))

    def ends(self) -> dict[InstanceSpec, str]:
        """Why instances ended that did."""
        told = [one.body for one in self.events() if one.kind == "exited"]
        return {spec_of(body): body["reason"] for body in told}

    def has_joined(self, who: InstanceSpec) -> bool:
        """Whether an instance was ready to train."""
        return who in [spec_of(one) for one in self.entries("registered") if one["ready"]]

    def masters(self) -> list[int]:
        """Incarnations of the masters, in order."""
        return [one["incarnation"] for one in self.entries("master")]

    def tasks_done(self) -> int:
        return len(self.entries("done"))

    def wait_until_it_trains(self, more: int = 2, deadline_s: float = START_S) -> None:
        """Wait until so many more tasks are done than now."""
        before = self.tasks_done()
        self.wait_for(lambda: self.tasks_done() >= before + more, "more tasks done", deadline_s)

    def wait_for(self, is_so: Callable[[], object], what: str, deadline_s: float = START_S) -> None:
        """Wait until something is so, while the job has not ended."""
        end = time.monotonic() + deadline_s
        while not is_so():
            assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}; {self.told()}"
            if (result := self.result()) is not None:
                raise AssertionError(f"it has ended before: {what}: {result['error']}")
            time.sleep(_LOOK_S)

    def told(self) -> str:
        """The last of what happened, for whoever looks at a failed test."""
        try:
            return "\n" + "\n".join(str(one) for one in self.events()[-30:])
        except JobError as error:
            return str(error)

    # ------------------------------------------------------------------- end

    def result(self) -> dict[str, Any] | None:
        path = self.directory / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def wait_for_result(self) -> dict[str, Any]:
        end = time.monotonic() + END_S
        while (result := self.result()) is None:
            assert time.monotonic() < end, f"no result within {END_S:.0f} s; {self.told()}"
            time.sleep(_LOOK_S)
        return result


class WholeJob(PodJob):
    """A job of the clicks model that trains until it is told to end.

    Args:
      params: of the model, besides.
    """

    def __init__(
        self, namespace: Namespace, directory: Path, params: str = "", **options: Any
    ) -> None:
        self._told = directory / "end"
        given = {
            "model_def": "until_told.UntilTold",
            "params": ", ".join(filter(None, [f"path={str(self._told)!r}", params])),
            "num_epochs": str(MANY),
            "records_per_task": "100",
            **options,
        }
        super().__init__(namespace, directory, **{**training(directory, RECORDS), **given})

    def tell_to_end(self) -> None:
        """Have it end with the epoch that it trains."""
        self._told.touch()

    def end_exactly(self) -> dict[str, Any]:
        """Have it end, and see that each record counted once, of whole epochs."""
        self.tell_to_end()
        result = self.wait_for_result()
        expected = result["audit"].get("records_expected", 0)
        assert_exact(result, expected)
        assert expected > 0
        assert expected % RECORDS == 0
        assert (self.output / "trained_model.pb").exists()
        return result


def training(directory: Path, records: int) -> dict[str, Any]:
    """Options of `train`: what is trained, on how much, and where the model goes."""
    return {
        "model_zoo": ZOO,
        "model_def": "clicks.Clicks",
        "data": write_clicks(directory / "data", records),
        "output": str(directory / "model"),
    }


def assert_exact(result: dict[str, Any], records: int) -> None:
    """See that it succeeded, and that each record counted once."""
    assert result["state"] == "succeeded", result["error"]
    audit = result["audit"]
    assert audit["records_expected"] == records
    assert audit["applied_once"] == {"0": records}
    assert audit["lost"] == audit["tasks_not_closed"] == 0


def instance(pod: dict[str, Any]) -> InstanceSpec:
    """The instance that a pod is."""
    found = instance_of(pod["metadata"]["labels"])
    assert found is not None
    return found


def next_of(who: InstanceSpec) -> InstanceSpec:
    """Who replaces an instance."""
    return dataclasses.replace(who, incarnation=who.incarnation + 1)


def node_of(pod: dict[str, Any]) -> str:
    return str(pod["spec"]["nodeName"])
