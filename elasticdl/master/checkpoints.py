"""Takes a job's checkpoints: asks the partitions, writes the manifest, has the commit journaled.

docs/decisions/recovery.md tells the whole. What fails on the way gives that checkpoint up, and
nothing else: what was committed before stays, and training goes on.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master.checkpoint_schedule import (
    Appointment,
    CheckpointSchedule,
    Verdict,
    bases,
    judge,
    parts_of,
    size_of,
    why_failed,
)
from elasticdl.master.cluster_state import BEGUN, CheckpointMoment, CommittedCheckpoint
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.fallback import settle_doubt
from elasticdl.master.instances import Instance
from elasticdl.master.journal import read_journal
from elasticdl.master.story import Outcome
from elasticdl.proto import ps_pb2
from elasticdl.ps.manifest import (
    Manifest,
    begin,
    chain_of,
    closed_in_all,
    directory_of,
    numbers_in,
    read_manifest,
    remove,
    remove_partial,
    write_manifest,
)
from elasticdl.rpc import Client, RpcUnavailable, Transport

logger = logging.getLogger(__name__)

CHECK_S = 0.2
FIRST_PAUSE_S = 0.005
LONGEST_PAUSE_S = 0.25
CALL_S = 10.0
STOP_S = 10.0
AWAY_PAUSE_S = 5.0
LONGEST_AWAY_PAUSE_S = 30.0
_GONE = ps_pb2.SnapshotReply(status=ps_pb2.PS_STALE_INCARNATION)
_UNHEARD = ps_pb2.SnapshotReply(status=ps_pb2.PS_NOT_YET, version=-1)


class Checkpoints:
    """The checkpoints of one job, one at a time, in a thread of their own.

    Args:
      spec: the job.
      coordinator: knows when one is wanted, and journals the commit.
      connect: makes a transport to a parameter server.
      state: directory of the journal, where that is not the job's.
    """

    def __init__(
        self,
        spec: JobSpec,
        coordinator: Coordinator,
        connect: Callable[[Instance], Transport],
        state: str = "",
    ) -> None:
        self._spec = spec
        self._state = state or spec.job_dir
        self._root = spec.checkpoint_root
        self._coordinator = coordinator
        self._connect = connect
        self._is_sync = coordinator.plan.lanes > 0
        self._schedule = CheckpointSchedule(
            spec.checkpoint_steps, spec.checkpoint_secs, coordinator.clock
        )
        self._appointment = Appointment()
        self._number = 0
        self._last: Manifest | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def start(self) -> None:
        """Begin to take checkpoints; the coordinator knows of those that were committed before."""
        self._thread.start()

    def close(self) -> None:
        """Take no more; what is half written is removed."""
        self._stopped.set()
        self._coordinator.checkpoint_wanted.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)
        if not self._coordinator.tenure.is_sure():  # It may be another master's.
            return
        with contextlib.suppress(OSError):  # Nothing is whole without its manifest.
            remove_partial(self._root)

    # ------------------------------------------------------------------ its thread

    def _run(self) -> None:
        wanted = self._coordinator.checkpoint_wanted
        self._begin_until_there()
        while not self._stopped.is_set() and self._coordinator.outcome is None:
            try:
                if settle_doubt(self._coordinator, self._root):
                    self._last = None  # The next one builds on nothing.
                self._take_if_due()
            except ConnectionError as error:  # While it is settled what can be restored.
                logger.warning("checkpoints cannot be read: %s; tried again", error.strerror)
                self._stopped.wait(AWAY_PAUSE_S)
            except Exception as error:
                logger.exception("a checkpoint could not be taken")
                self._coordinator.checkpoint_failed(self._number, str(error))
                self._schedule.ended(False, self._coordinator.clock)
            wanted.wait(CHECK_S)
            wanted.clear()

    def _begin_until_there(self) -> None:
        """Begin; where the store is away, say so, and try again for as long as the job goes on."""
        pause_s = AWAY_PAUSE_S
        while not self._stopped.is_set() and self._coordinator.outcome is None:
            try:
                self._begin()
                return
            except ConnectionError as error:
                text = error.strerror or str(error)
                self._coordinator.checkpoint_failed(self._number + 1, text, is_away=True)
            except (JobError, OSError) as error:
                message = f"checkpoint_dir '{self._root}': cannot be used: {error}"
                self._coordinator.end(Outcome("failed", message))
            self._stopped.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_AWAY_PAUSE_S)

    def _begin(self) -> None:
        """Find where a master before this one left off; what it did not journal is not there."""
        journaled = [one.body["number"] for one in read_journal(self._state, BEGUN)]
        self._number = max(journaled, default=0)
        self._number = max([self._number, *numbers_in(self._root)])
        last = self._coordinator.committed
        kept = 0 if last is None else last.number
        self._coordinator.tenure.wait_until_sure()
        try:
            remove(self._root, [number for number in numbers_in(self._root) if number > kept])
            remove_partial(self._root)
        except ConnectionError as error:  # They go with what is old.
            logger.warning("checkpoints are not removed: %s", error)
        if last is not None:
            try:
                self._last = read_manifest(last.path)
            except (JobError, ConnectionError) as error:  # Who has to restore it finds out as well.
                logger.warning("the next checkpoint builds on nothing: %s", error)

    def _take_if_due(self) -> None:
        coordinator = self._coordinator
        wanted, steps = coordinator.checkpoint_state()
        reason = self._schedule.due(wanted, steps, coordinator.clock)
        while reason and not self._stopped.is_set():
            moment = coordinator.begin_checkpoint(self._number + 1)
            if moment is None:  # A partition is away.
                return
            self._number += 1
            self._schedule.began(steps, coordinator.clock)
            verdict = self._take(reason, moment)
            if verdict is not Verdict.AGAIN:
                self._schedule.ended(verdict is Verdict.WRITTEN, coordinator.clock)
                return

    def _take(self, reason: str, moment: CheckpointMoment) -> Verdict:
        """Take a checkpoint, if all goes well."""
        if reason in ("initial", "final"):  # Nothing is trained meanwhile.
            self._appointment.now_or_never()
        began, number = time.monotonic(), self._number
        clients = [
            Client(
                ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"],
                self._connect(one),
                str(one.spec),
            )
            for one in moment.cluster.partitions
        ]
        verdict = Verdict.FAILED
        try:
            directory = begin(self._root, number)
            verdict, replies = self._snapshot_all(moment, directory, clients)
            if verdict is Verdict.FAILED and any(one.store_is_away for one in replies):
                raise ConnectionError(why_failed(replies))
            if verdict is Verdict.FAILED:
                raise JobError(why_failed(replies))
            if verdict is Verdict.WRITTEN:
                manifest = self._manifest(moment, replies)
                self._coordinator.tenure.wait_until_sure()
                write_manifest(self._root, manifest)
                seconds = time.monotonic() - began
                if not self._commit(reason, moment, manifest, seconds):
                    verdict = Verdict.LOST
        except (JobError, OSError) as error:
            verdict = Verdict.FAILED
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            is_away = isinstance(error, ConnectionError)
            self._coordinator.checkpoint_failed(number, text, is_away=is_away)
        finally:
            for client in clients:
                client.close()
            if verdict is not Verdict.WRITTEN:
                with contextlib.suppress(OSError):  # It is no checkpoint, whatever it is.
                    self._remove([number])
        why = {
            Verdict.LOST: "a parameter server was lost meanwhile",
            Verdict.AGAIN: "its step had passed on a parameter server, or was not reached; another "
            "one is begun",
        }.get(verdict)
        if why is not None and not self._stopped.is_set():
            self._coordinator.checkpoint_failed(number, why, is_loud=False)
        return verdict

    def _is_over(self, moment: CheckpointMoment) -> bool:
        return (
            self._stopped.is_set()
            or self._coordinator.outcome is not None
            or self._coordinator.cluster_version != moment.cluster.version
        )

    # ------------------------------------------------------------------ the partitions

    def _snapshot_all(
        self, moment: CheckpointMoment, directory: str, clients: Sequence[Client]
    ) -> tuple[Verdict, list[ps_pb2.SnapshotReply]]:
        """Ask every partition until all have written their parts, or something is in the way."""
        requests = self._requests(moment, directory, clients)
        if requests is None:
            return Verdict.LOST, []
        replies = [_UNHEARD] * len(clients)
        pause_s = FIRST_PAUSE_S
        while True:
            for index, client in enumerate(clients):
                if replies[index].state != ps_pb2.SnapshotReply.WRITTEN:
                    replies[index] = _ask(client, requests[index])
            verdict = judge(replies)
            if verdict is Verdict.AGAIN:
                self._appointment.missed()
            if verdict is not Verdict.WAIT:
                return verdict, replies
            if self._is_over(moment):
                return Verdict.LOST, replies
            if self._waits_in_vain(replies):
                self._appointment.now_or_never()
                return Verdict.AGAIN, replies
            self._stopped.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _requests(
        self, moment: CheckpointMoment, directory: str, clients: Sequence[Client]
    ) -> list[ps_pb2.SnapshotRequest] | None:
        """What to ask each partition; None where one cannot be asked."""
        partitions = moment.cluster.partitions
        incarnations = [one.spec.incarnation for one in partitions]
        sizes = self._chain_sizes()
        since = bases(incarnations, self._last.parts if self._last else [], sizes)
        requests = [
            ps_pb2.SnapshotRequest(
                incarnation=incarnation,
                number=self._number,
                directory=directory,
                base=base,
            )
            for incarnation, base in zip(incarnations, since, strict=True)
        ]
        if self._is_sync:
            versions = self._versions(moment, clients)
            if versions is None:
                return None
            at_version = self._appointment.choose(versions)
            for request in requests:
                request.at_version = at_version
        return requests

    def _versions(self, moment: CheckpointMoment, clients: Sequence[Client]) -> list[int] | None:
        versions = []
        for one, client in zip(moment.cluster.partitions, clients, strict=True):
            request = ps_pb2.SnapshotRequest(incarnation=one.spec.incarnation, ask=True)
            while (reply := _ask(client, request)) is _UNHEARD:
                if self._is_over(moment) or self._stopped.wait(FIRST_PAUSE_S):
                    return None
            if reply.status != ps_pb2.PS_OK:
                return None
            versions.append(reply.version)
        return versions

    def _waits_in_vain(self, replies: Sequence[ps_pb2.SnapshotReply]) -> bool:
        """Whether the version that was named is not reached because nothing moves."""
        waiting = [reply for reply in replies if reply.status == ps_pb2.PS_NOT_YET]
        if not self._is_sync or not waiting or any(reply.version < 0 for reply in replies):
            return False
        return self._appointment.stands_still([one.version for one in replies], time.monotonic())

    def _chain_sizes(self) -> list[dict[int, int]]:
        """Of the checkpoints that the last one builds on: bytes of each partition's part.

        Where one of them is damaged, as far as names and sizes tell, nothing is built on them.
        """
        if self._last is None:
            return []
        try:
            manifests = [
                read_manifest(directory_of(self._root, number)) for number in self._last.chain
            ]
        except JobError as error:
            logger.warning("checkpoint %d builds on nothing: %s", self._number, error)
            self._last = None
            return []
        return [
            {part["partition"]: size_of(part) for part in manifest.parts} for manifest in manifests
        ]

    # ------------------------------------------------------------------ the commit

    def _manifest(
        self, moment: CheckpointMoment, replies: Sequence[ps_pb2.SnapshotReply]
    ) -> Manifest:
        parts = parts_of(replies)
        routing = moment.cluster.routing
        model = replies[0].model.SerializeToString(deterministic=True)
        return Manifest(
            number=self._number,
            chain=chain_of(self._root, self._number, parts),
            entry=moment.entry,
            job_name=self._spec.job_name,
            steps=max(part["version"] for part in parts),
            time=time.time(),
            routing=[int(one) for one in routing.partition_of_group],
            routing_version=routing.version,
            model=base64.b64encode(model).decode(),
            parts=parts,
            tasks=moment.tasks,
        )

    def _commit(
        self, reason: str, moment: CheckpointMoment, manifest: Manifest, seconds: float
    ) -> bool:
        """Have the commit journaled; False if a partition was lost before it could be."""
        checkpoint = CommittedCheckpoint(
            number=manifest.number,
            path=directory_of(self._root, manifest.number),
            entry=manifest.entry,
            steps=manifest.steps,
            closed=closed_in_all(manifest.parts),
            reason=reason,
            num_bytes=sum(size_of(part) for part in manifest.parts),
            seconds=round(seconds, 3),
        )
        if not self._coordinator.commit_checkpoint(checkpoint, moment.cluster.version):
            return False
        self._last = manifest
        try:
            self._remove_old()
        except OSError as error:  # The commit stands.
            logger.warning("older checkpoints could not be removed: %s", error)
        return True

    def _remove_old(self) -> None:
        """Remove what is beyond --keep_checkpoints, was damaged, and no kept one builds on.

        Where a kept one cannot be read, what it builds on is not known: nothing older is removed,
        which may be all that is left to go on from.
        """
        numbers = numbers_in(self._root)
        standing = self._coordinator.placement.standing
        kept = [number for number in numbers if number in standing][-self._spec.keep_checkpoints :]
        needed = set(kept)
        for number in kept:
            try:
                needed.update(read_manifest(directory_of(self._root, number)).chain)
            except JobError as error:
                logger.warning("checkpoints before %d are kept: %s", number, error)
                needed.update(one for one in numbers if one < number)
        self._remove([number for number in numbers if number not in needed])

    def _remove(self, numbers: Sequence[int]) -> None:
        """Remove checkpoints; where another master may act they are left to that one."""
        if self._coordinator.tenure.is_sure():
            remove(self._root, numbers)


def _ask(client: Client, request: ps_pb2.SnapshotRequest) -> ps_pb2.SnapshotReply:
    """Ask one partition once; `_UNHEARD` where no reply came."""
    try:
        reply: ps_pb2.SnapshotReply = client.call("Snapshot", request, CALL_S)
    except RpcUnavailable:
        return _UNHEARD
    return reply
