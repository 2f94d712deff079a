"""One master, from its launch to the job's result."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master.audit import audit_job
from elasticdl.master.checkpoints import Checkpoints
from elasticdl.master.cluster.backend import Backend
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.event_file import DIRECTORY as TENSORBOARD
from elasticdl.master.event_file import EventFile
from elasticdl.master.history import History
from elasticdl.master.history_keeper import HistoryKeeper
from elasticdl.master.instances import Instance
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.job_figures import JobFigures
from elasticdl.master.job_files import RESULT_FILE, JobFiles, result_content
from elasticdl.master.job_view import partitions_of, workers_left
from elasticdl.master.journal import Journal, Mirror
from elasticdl.master.kept_files import KeptFiles
from elasticdl.master.plan import make_plan
from elasticdl.master.recovery import recover
from elasticdl.master.servicer import MasterServicer
from elasticdl.master.story import Outcome
from elasticdl.master.tasks import TaskKind
from elasticdl.master.tenure import LocalTenure, Tenure
from elasticdl.master.vitals import JobVitals, describe_partitions
from elasticdl.phases import Figures
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.checkpoint_audit import audits_of
from elasticdl.rpc import Client, Service, Transport

logger = logging.getLogger(__name__)

LEAVE_S = 10.0
TAKE_S = 10.0
AUDIT_S = 30.0


class Master:
    """The master of one job.

    Attributes:
      state: directory of the journal, and of what this master gives away.

    Args:
      spec: the job; its directory exists.
      backend: runs its instances.
      connect: makes a transport to a parameter server.
      incarnation: which master of the job this is.
      session: of the supervisor; one of another session has to launch everything anew.
      tenure: tells whether this is the job's one master; None where there cannot be another.
      state: directory of the journal, where that is not the job's.
      mirror: what outlives that directory.

    Raises:
      UsageError: the data cannot be read.
      JobError: the journal cannot be read or written.
    """

    def __init__(
        self,
        spec: JobSpec,
        backend: Backend,
        connect: Callable[[Instance], Transport],
        incarnation: int = 1,
        session: str = "",
        tenure: Tenure | None = None,
        state: str = "",
        mirror: Mirror | None = None,
    ) -> None:
        self._tenure = tenure or LocalTenure(incarnation)
        self._spec = spec
        self._backend = backend
        self._connect = connect
        self.state = state or spec.job_dir
        self._journal = Journal(
            self.state, mirror=mirror, wait_until_sure=self._tenure.wait_until_sure
        )
        recovered = recover(self.state)
        self._plan = recovered.plan if recovered else make_plan(spec)
        self.coordinator = Coordinator(
            spec,
            self._plan,
            backend,
            self._journal,
            incarnation,
            session,
            recovered,
            tenure=self._tenure,
        )
        self.began = next(self._journal.entries()).time
        self._checkpoints: Checkpoints | None = None
        if self._plan.checkpoints:
            self._checkpoints = Checkpoints(spec, self.coordinator, connect, self.state)
        self._kept = KeptFiles(self.state, spec.job_dir if state else "")
        self._kept.fetch(FIGURES_FILE)
        self.figures = JobFigures(
            Path(self.state) / FIGURES_FILE,
            incarnation,
            spec.consistency == "sync",
            on_saved=lambda: self._kept.copy_if_due(FIGURES_FILE),
        )
        self.vitals = JobVitals()
        self.history = History(self._journal)
        self._tensorboard = Path(self.state) / TENSORBOARD
        trains = TaskKind.TRAINING in self._plan.phases
        event_file = EventFile(self._tensorboard) if trains else None
        self.keeper = HistoryKeeper(
            self.coordinator, self.vitals, self.history, self.figures, incarnation, event_file
        )
        self._session = session
        self._files = JobFiles(spec, Path(self.state), self._journal, session)
        servicer = MasterServicer(
            self.coordinator, self.audit, self.figures, self.vitals, self._files
        )
        self.service = Service(master_pb2.DESCRIPTOR.services_by_name["Master"], servicer)

    def start(self) -> None:
        """Launch the job's instances that do not run; the service must be reachable already."""
        self.coordinator.start()
        self.keeper.start()
        if self._checkpoints is not None:
            self._checkpoints.start()

    def log_tail(self, role: str, index: int, incarnation: int | None, most_bytes: int) -> str:
        """The last lines of an instance's log, from where it runs; this may take seconds."""
        known = [
            one.spec
            for one in self.coordinator.look(lambda _, membership: membership.instances())
            if (one.spec.role.value, one.spec.index) == (role, index)
        ]
        if not known:
            return ""
        spec = dataclasses.replace(known[0], incarnation=incarnation or known[0].incarnation)
        return self._backend.log_tail(spec, most_bytes)

    def _partition_audits(self) -> list[ps_pb2.PartitionAudit]:
        """Ask every partition what its groups counted.

        Raises:
          JobError: one of them cannot be asked: an audit without it would prove nothing.
        """
        cluster = self.coordinator.cluster()
        if cluster is None:
            raise JobError("no audit: not all parameter servers are running")
        audits = []
        for instance in cluster.partitions:
            service = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
            client = Client(service, self._connect(instance), str(instance.spec))
            try:
                request = ps_pb2.AuditRequest(
                    incarnation=instance.spec.incarnation, with_figures=True
                )
                audit = client.call_until(
                    "GetAudit",
                    request,
                    AUDIT_S,
                    give_up=lambda: self.coordinator.cluster_version != cluster.version,
                )
            finally:
                client.close()
            if audit.status != ps_pb2.PS_OK:
                status = ps_pb2.PsStatus.Name(audit.status)
                raise JobError(f"no audit: {instance.spec} answers {status}")
            self.figures.note(instance.spec, Figures.of_message(audit.figures))
            audits.append(audit)
        return audits

    def _counted(self) -> list[ps_pb2.PartitionAudit]:
        """What the partitions counted; as the last checkpoint has it, if one died at the end.

        Raises:
          JobError: the job has not succeeded, and one of them cannot be asked.
        """
        try:
            return self._partition_audits()
        except JobError:
            outcome, last = self.coordinator.outcome, self.coordinator.committed
            if outcome is None or outcome.state != "succeeded" or last is None:
                raise
            logger.info("the audit is that of checkpoint %d", last.number)
            return audits_of(last.path)

    def audit(self) -> dict[str, Any]:
        """The audit as it stands: final only once the job has succeeded.

        Raises:
          JobError: a parameter server cannot be asked.
        """
        outcome, relaunches = self.coordinator.outcome, self.coordinator.relaunches
        return audit_job(
            self._plan,
            self.coordinator.story,
            self.coordinator.training_granted(),
            self._counted,
            relaunches,
            done=outcome is not None and outcome.state == "succeeded",
            tasks_restarted=self.coordinator.tasks_restarted,
        )

    def _history(self, partitions: list[ps_pb2.PartitionAudit]) -> list[dict[str, Any]]:
        """Per epoch: mean loss over the records applied once, and when its last task was done."""
        if not partitions:
            return []
        history, before = [], 0.0
        story = self.coordinator.story
        logs = {one.epoch: one.logs for one in story.evaluations}
        for one in partitions[0].epochs:
            at = self.coordinator.story.epoch_ended_at.get(
                one.epoch, self.coordinator.story.training_seconds
            )
            history.append(
                {
                    **logs.get(one.epoch, {}),
                    "epoch": one.epoch,
                    "loss": one.loss_sum / one.records if one.records else None,
                    "records": one.records,
                    "seconds": max(0.0, at - before),
                }
            )
            before = at
        return history

    def finish(self) -> Outcome:
        """Write down how the job ended, once `coordinator.ended` is set.

        Whoever keeps a copy of the job elsewhere has a moment to take the result.
        """
        outcome = self.coordinator.outcome
        assert outcome is not None
        partitions = describe_partitions(self.coordinator.look(partitions_of), self.vitals)
        audit: dict[str, Any] = {}
        history: list[dict[str, Any]] = []
        try:
            audit = self.audit()
            if TaskKind.TRAINING in self._plan.phases:
                history = self._history(self._counted())
        except Exception as error:  # A job that failed may have no partition left to ask.
            logger.warning("no audit: %s", error)
            if outcome.state == "succeeded":
                outcome.state, outcome.error = "failed", f"the audit could not be made: {error}"
        lost = audit.get("lost", 0) + audit.get("evaluation", {}).get("lost", 0)
        if outcome.state == "succeeded" and (lost or audit.get("tasks_not_closed")):
            outcome.state = "failed"
            outcome.error = f"the audit found {lost} records lost: {json.dumps(audit)}"
        seconds = self.coordinator.story.training_seconds
        trained = sum(epoch["records"] for epoch in history)
        result = {
            "session": self._session,
            "state": outcome.state,
            "error": outcome.error,
            "traceback": outcome.traceback,
            "metrics": outcome.metrics,
            "output": outcome.output,
            "audit": audit,
            "history": history,
            "evaluations": [dataclasses.asdict(one) for one in self.coordinator.story.evaluations],
            "seconds": time.time() - self.began,
            "training_seconds": seconds,
            "records_per_s": trained / seconds if seconds else 0.0,
            "figures": self.figures.describe()["total"],
            "partitions": partitions,
        }
        self.figures.save()
        self._kept.copy(FIGURES_FILE)
        try:
            self._journal.append("result", result)
        except JobError as error:
            logger.error("the result is not in the journal: %s", error)
        self.keeper.stop()
        self._give_events(outcome)
        content = result_content(result)
        self._kept.write(RESULT_FILE, content, self._tenure.wait_until_sure)
        self._files.wait_until_taken(TAKE_S)
        return outcome

    def _give_events(self, outcome: Outcome) -> None:
        """Put what TensorBoard reads beside the trained model; a job is no worse without it."""
        if not self._tensorboard.exists() or outcome.output is None or "://" in outcome.output:
            return
        try:
            shutil.copytree(
                self._tensorboard, Path(outcome.output) / TENSORBOARD, dirs_exist_ok=True
            )
        except OSError as error:
            logger.warning("no event files in %s: %s", outcome.output, error)

    def wait_for_workers(self) -> None:
        """Give the workers a moment to leave by themselves."""
        deadline = time.monotonic() + LEAVE_S
        while self.coordinator.look(workers_left) and time.monotonic() < deadline:
            time.sleep(0.02)

    def step_down(self) -> None:
        """Do nothing more, and let another master go on: the job is not over."""
        self.keeper.stop()
        if self._checkpoints is not None:
            self._checkpoints.close()
        self.coordinator.stop()
        self._backend.close()
        self._journal.close()
        self._tenure.release()

    def close(self) -> None:
        """Stop watching and close the journal."""
        self.keeper.stop()
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._backend.close()
        self._journal.close()
