"""Who is master of a job: one at a time, by a ConfigMap that is changed by compare-and-swap.

`docs/decisions/kubernetes.md` says why it is safe, and what it relies on: durations on one's own
clock, and no clock of anybody else's.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from elasticdl.errors import JobError
from elasticdl.master.cluster.kubernetes.client import (
    Conflict,
    KubeClient,
    KubeError,
    NotAsked,
    NotFound,
    Unanswered,
)
from elasticdl.master.cluster.kubernetes.pod_events import events_of
from elasticdl.master.cluster.kubernetes.pod_state import end_of, has_ended, last_end
from elasticdl.master.exits import Cause, End

logger = logging.getLogger(__name__)

MOST_CRASHES = 5
MOST_DEATHS = 25
REFUSED_S = 60.0
"""How long to ask again for what is refused: an apiserver that has just started refuses all."""
_AGAIN_S = 1.0
_RELEASES = 3
_YES = "yes"
_NEW = "for a master of which the journal tells"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

Json = dict[str, Any]


@dataclass(frozen=True)
class Pace:
    """Durations of a claim, in seconds.

    sure: for how long after a renewal was sent nobody else acts, which has to be less than `wait`:
    for how long somebody else waits first.
    """

    renew: float = 5.0
    sure: float = 20.0
    wait: float = 30.0


PACE = Pace()


class Replaced(JobError):
    """Another pod is the job's master, or is about to be: this process has to end."""


def seconds() -> float:
    """A clock that goes on while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


class Claim:
    """One master's claim to be the job's. Thread-safe.

    It is held from `begin` on, and may be relied on from `wait` on, while it `is_sure`.

    Args:
      made: the ConfigMap as it is created: its kind, name, labels and owner.
      pod: the name of this master's own pod.
      uid: of that pod.
      on_lost: called once, from another thread, when it is found that another pod is master.
    """

    def __init__(
        self,
        client: KubeClient,
        made: Mapping[str, Any],
        pod: str,
        uid: str,
        on_lost: Callable[[], None] = lambda: None,
        pace: Pace = PACE,
    ) -> None:
        self._client = client
        self._made = made
        self._name = made["metadata"]["name"]
        self._pod = pod
        self._uid = uid
        self._on_lost = on_lost
        self._pace = pace
        self._process = secrets.token_hex(8)
        self._changed = threading.Condition()
        self._putting = threading.Lock()
        self._held: Json = {}
        self._data: dict[str, str] = {}
        self._former: tuple[int, End] | None = None
        self._renewed = float("-inf")
        self._may_act = False
        self._is_lost = False
        self._closed = threading.Event()
        self._renewing = threading.Thread(target=self._renew_forever, name="claim", daemon=True)

    @property
    def incarnation(self) -> int:
        """Which master of the job this is; final once `wait` has returned."""
        return int(self._data["incarnation"])

    @property
    def former(self) -> tuple[int, End] | None:
        """Which master had the claim before, and how it ended; None where that is not known."""
        return self._former

    def begin(self, ended: End | None = None) -> str:
        """Take the claim from whoever has it, and count how the master before ended.

        Args:
          ended: how, where the own process's parent knows it; else the own pod may say it.

        Returns:
          why the job fails, as too many masters have ended; empty: it does not.

        Raises:
          Replaced: this pod is not there any more, or is about to be deleted.
          KubeError: the apiserver refuses.
        """
        while not self._held:
            self._ask(lambda: self._take(self._own_pod(), ended))
        self._renewing.start()
        crashes, deaths = int(self._data["crashes"]), int(self._data["deaths"])
        if crashes < MOST_CRASHES and deaths < MOST_DEATHS:
            return ""
        how = self._data["ended"] or "nothing is known of its end"
        return f"the master ended {deaths} times, with no task done in between; the last: {how}"

    def wait(self, last_incarnation: Callable[[], int]) -> None:
        """Wait until no former master can act any more.

        Args:
          last_incarnation: reads that of the last master that wrote into the journal; 0: none.

        Raises:
          Replaced: another master took the claim.
          JobError: of what reads the journal.
        """
        last = last_incarnation()
        with self._changed:
            waits = bool(self._data["waits"]) and (self._data["waits"] != _NEW or last > 0)
            if waits:
                logger.info("the master before this one may live: %.0f s for it", self._pace.wait)
                self._changed.wait_for(self._is_over, self._pace.wait)
        if waits:
            last = last_incarnation()  # The former one may have begun to write just then.
        with self._changed:
            self._data["waits"] = ""
            self._data["incarnation"] = str(max(self.incarnation, last + 1))
        while not self._is_over() and not self._renew():
            self._closed.wait(_AGAIN_S)
        with self._changed:
            self._may_act = True
        self.wait_until_sure()
        logger.info("this is master %d of the job", self.incarnation)

    def is_sure(self) -> bool:
        """Is nobody else master at this moment?"""
        with self._changed:
            return self._is_sure()

    def wait_until_sure(self) -> None:
        """Return at a moment at which nobody else is master.

        Raises:
          Replaced: somebody else is, or it was given back.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over() or self._is_sure())
            if self._is_over():
                raise Replaced("another pod is the job's master")

    def task_done(self) -> None:
        """Forget how masters before this one ended: the job goes on."""
        with self._changed:
            if self._data["deaths"] != "0":
                self._data |= {"deaths": "0", "crashes": "0", "ended": ""}

    def release(self) -> None:
        """Give it back: nothing leaves this process any more, and the next one need not wait."""
        self._stop()
        with self._changed:
            self._may_act = False
            self._data["released"] = _YES
        for _ in range(_RELEASES if self._held else 0):
            if self._is_lost or self._renew():
                return

    def close(self) -> None:
        """Renew it no more; the next master waits, as it cannot know of this one's end."""
        self._stop()
        with self._changed:
            self._may_act = False

    def _stop(self) -> None:
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
        if self._renewing.is_alive():
            self._renewing.join()

    def _is_over(self) -> bool:
        return self._is_lost or self._closed.is_set()

    def _is_sure(self) -> bool:
        return self._may_act and not self._is_lost and seconds() - self._renewed < self._pace.sure

    def _own_pod(self) -> Json:
        try:
            own = self._client.get("Pod", self._pod)
        except NotFound:
            own = {"metadata": {}}
        metadata = own["metadata"]
        if metadata.get("uid") != self._uid or metadata.get("deletionTimestamp"):
            raise Replaced("this master's pod was deleted; another one is made")
        return own

    def _take(self, own: Json, ended: End | None) -> None:
        """Write this pod's name into the claim, unless it changes just then."""
        try:
            found, write = self._client.get("ConfigMap", self._name), self._client.replace
        except NotFound:
            found, write = {**self._made}, self._client.create
        before = found.get("data") or {}
        if before.get("process") == self._process:  # It was written, and the answer was lost.
            self._held, self._data = found, before
            return
        ended = self._end_before(before, own) if before and ended is None else ended
        data = {**self._next(before, ended), "renewed": _now()}
        asked = seconds()
        try:
            held = write({**found, "data": data})
        except Conflict:
            return
        self._held, self._data, self._renewed = held, data, asked
        how = (ended or self._why_it_goes(before)) if before else None
        self._former = (int(before["incarnation"]), how) if how is not None else None

    def _next(self, before: Mapping[str, str], ended: End | None) -> dict[str, str]:
        """What the claim says once this pod has taken it."""
        data = {"pod": self._pod, "uid": self._uid, "process": self._process, "released": ""}
        if not before:  # Whether anybody was here before is for the journal to say.
            more = {"deaths": "0", "crashes": "0", "ended": ""}
            return {**data, **more, "incarnation": "1", "waits": _NEW}
        is_over = before["uid"] == self._uid or before["released"] or ended is not None
        return {
            **data,
            "incarnation": str(int(before["incarnation"]) + 1),
            "waits": "" if is_over and not before["waits"] else before["waits"] or _YES,
            "deaths": str(int(before["deaths"]) + 1),
            "crashes": str(int(before["crashes"]) + (ended is not None and _is_own_doing(ended))),
            "ended": _said(ended),
        }

    def _end_before(self, before: Mapping[str, str], own: Json) -> End | None:
        """How the master before ended; None where it is not seen to have."""
        if before["uid"] == self._uid:
            return last_end(own)
        pod = self._pod_of(before)
        if pod is None or not has_ended(pod):  # One that is not there is no proof: it may live.
            return None
        return end_of(pod, events_of(self._client, pod))

    def _why_it_goes(self, before: Mapping[str, str]) -> End | None:
        """Why a master is followed that is not seen to have ended; None where nothing tells it."""
        try:
            pod = self._pod_of(before)
        except KubeError as error:
            logger.info("nothing is known of the master before this one: %s", error)
            return None
        if pod is None:
            return End(Cause.DELETED, message="its pod is not there")
        has_failed = (pod.get("status") or {}).get("phase") == "Failed"
        is_going = has_failed or "deletionTimestamp" in pod["metadata"]
        return end_of(pod, events_of(self._client, pod)) if is_going else None

    def _pod_of(self, before: Mapping[str, str]) -> Json | None:
        """The pod of whoever had the claim; None where it is gone."""
        try:
            pod = self._client.get("Pod", before["pod"])
        except NotFound:
            return None
        return pod if pod["metadata"]["uid"] == before["uid"] else None

    def _renew_forever(self) -> None:
        pause_s = self._pace.renew
        while not self._closed.wait(pause_s) and not self._is_lost:
            pause_s = self._pace.renew if self._renew() else _AGAIN_S

    def _renew(self) -> bool:
        """Write the claim again; return whether that was answered."""
        with self._putting:
            with self._changed:
                data = {**self._data, "renewed": _now()}
            asked = seconds()
            try:
                held = self._client.replace({**self._held, "data": data}, self._pace.sure / 2)
            except (Conflict, NotFound):
                return self._look_again()
            except KubeError as error:
                logger.warning("the claim to be master is not renewed: %s", error)
                return False
            with self._changed:
                self._held, self._renewed = held, asked
                self._changed.notify_all()
            return True

    def _look_again(self) -> bool:
        """Find out who changed the claim: an answer that was lost, or another master."""
        try:
            found = self._client.get("ConfigMap", self._name)
            is_own = (found.get("data") or {}).get("process") == self._process
        except NotFound:
            is_own = False
        except KubeError as error:
            logger.warning("the claim to be master is not renewed: %s", error)
            return False
        if is_own:
            self._held = found
            return False
        with self._changed:
            self._is_lost = True
            self._changed.notify_all()
        logger.error("another pod is the job's master")
        threading.Thread(target=self._on_lost, name="claim-lost", daemon=True).start()
        return True

    def _ask(self, what: Callable[[], Any]) -> Any:
        """Ask again for as long as nobody answers: who is no master has nothing else to do."""
        refused_at = None
        while True:
            try:
                return what()
            except NotFound:
                raise
            except KubeError as error:
                if isinstance(error, NotAsked | Unanswered):
                    refused_at = None
                else:
                    refused_at = refused_at or seconds()
                    if seconds() - refused_at > REFUSED_S:
                        raise
                logger.warning("the claim to be master cannot be taken: %s", error)
            time.sleep(_AGAIN_S)


def _is_own_doing(end: End) -> bool:
    return end.is_crash or end.cause is Cause.OUT_OF_MEMORY


def _said(end: End | None) -> str:
    if end is None:
        return ""
    if end.cause is Cause.OUT_OF_MEMORY:
        return f"{end.describe()}; --master_resource_limit gives it more"
    return end.describe()


def _now() -> str:
    """For people: nobody compares clocks of others."""
    return datetime.now(UTC).isoformat(timespec="seconds")
