"""Which instances were launched and what of them was told: makes events of lists and watches.

Pure. A list is the truth, a watch a hint: the same events come, once each and in order, whatever a
watch left out or said twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted, InstanceWaits
from elasticdl.master.cluster.kubernetes.names import instance_of
from elasticdl.master.cluster.kubernetes.pod_state import Json, classify, end_of
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec

PodEvent = InstanceStarted | InstanceWaits | InstanceEnded

STUCK_S = 30.0
"""How long after its grace a pod may still be there: whoever should end it is gone."""


@dataclass
class _Known:
    """An instance that was launched.

    created: when it was known that its pod had been created, or might have been; None before.
    doubt: what was answered, if it only might have been.
    pod: as it was last seen. terminating: when it was first listed as being deleted.
    """

    created: float | None = None
    doubt: str = ""
    pod: Json | None = None
    told: PodEvent | None = None
    terminating: float | None = None
    ended: bool = False


def _no_events(pod: Json) -> Sequence[Json]:
    return ()


class PodTable:
    """The pods of a job's instances. Not thread-safe; times are of one clock of the caller's.

    Args:
      events_of: core/v1 Events of a pod, asked for where they say why it waits or has ended.
    """

    def __init__(self, events_of: Callable[[Json], Sequence[Json]] = _no_events) -> None:
        self._events_of = events_of
        self._known: dict[InstanceSpec, _Known] = {}
        self._strangers: dict[str, InstanceSpec] = {}

    def launching(self, spec: InstanceSpec) -> None:
        """Note that its pod's creation is about to be asked for: it is none that strays."""
        self._known.setdefault(spec, _Known())

    def expect(self, spec: InstanceSpec, now: float, doubt: str = "") -> None:
        """Note that its creation was answered, or that no answer came: the next list decides.

        Args:
          doubt: what was heard in place of an answer.
        """
        known = self._known.setdefault(spec, _Known())
        if known.created is None:
            known.created, known.doubt = now, doubt

    def adopt(self, specs: Iterable[InstanceSpec]) -> None:
        """Note what a former master launched, all at once and before the first list."""
        for spec in specs:
            self.expect(spec, float("-inf"))

    def strays(self) -> list[str]:
        """The pods of the last list that run and are nobody's.

        They were created late: for another master, or when it was told that they never were.
        """
        known = self._known
        return [
            name for name, spec in self._strangers.items() if spec not in known or known[spec].ended
        ]

    def pod_of(self, spec: InstanceSpec) -> Json | None:
        """Return an instance's pod as it was last seen; None where it never was."""
        known = self._known.get(spec)
        return None if known is None else known.pod

    def listed(self, pods: Iterable[Json], asked_at: float) -> list[PodEvent]:
        """Take a list that is complete; return what is new.

        Args:
          asked_at: when it was asked for, a moment before which it cannot be.
        """
        found = {}
        self._strangers = {}
        for pod in pods:
            spec = instance_of(pod["metadata"].get("labels") or {})
            if spec is None:
                continue
            known = self._known.get(spec)
            if known is not None and not known.ended:
                found[spec] = pod
            elif _runs_on(pod) and not (known is not None and _is_it(known, pod)):
                self._strangers[pod["metadata"]["name"]] = spec
        told = []
        for spec, known in self._known.items():
            if known.ended:
                continue
            if spec in found:
                told += self._seen(spec, known, found[spec])
                told += self._stuck(spec, known, asked_at)
            elif known.created is not None and known.created < asked_at:
                told += self._gone(spec, known, known.pod)
        return told

    def changed(self, change: Json) -> list[PodEvent]:
        """Take one change of a watch, which has a type and an object; return what is new."""
        pod = change["object"]
        spec = instance_of(pod["metadata"].get("labels") or {})
        if spec is None or spec not in self._known or self._known[spec].ended:
            return []
        known = self._known[spec]
        if change["type"] == "DELETED":
            return [] if _is_another(known, pod) else self._gone(spec, known, pod)
        if change["type"] in ("ADDED", "MODIFIED"):
            return self._seen(spec, known, pod)
        return []

    def _seen(self, spec: InstanceSpec, known: _Known, pod: Json) -> list[PodEvent]:
        if _is_another(known, pod):
            return self._gone(spec, known, known.pod)  # What was launched is gone.
        known.pod = pod
        event = classify(pod)
        if isinstance(event, InstanceEnded | InstanceWaits):
            event = classify(pod, self._events_of(pod))
        if event is None or event == known.told:
            return []
        if isinstance(known.told, InstanceStarted) and not isinstance(event, InstanceEnded):
            return []  # A pod does not wait again.
        known.told, known.ended = event, isinstance(event, InstanceEnded)
        return [event]

    def _gone(self, spec: InstanceSpec, known: _Known, pod: Json | None) -> list[PodEvent]:
        if pod is None:
            why = f": {known.doubt}" if known.doubt else ""
            end = End(Cause.DELETED, message=f"its pod is not there{why}")
        else:
            known.pod = pod
            end = end_of(pod, self._events_of(pod))
        return self._end(spec, known, end)

    def _stuck(self, spec: InstanceSpec, known: _Known, now: float) -> list[PodEvent]:
        """End what is still being deleted long after its grace: nobody is there to end it."""
        metadata = known.pod["metadata"] if known.pod is not None else {}
        if known.ended or not metadata.get("deletionTimestamp"):
            return []
        if known.terminating is None:
            known.terminating = now
        grace_s = float(metadata.get("deletionGracePeriodSeconds") or 0)
        if now - known.terminating <= grace_s + STUCK_S:
            return []
        why = f"its pod was still there {STUCK_S:.0f} s after its grace"
        return self._end(spec, known, End(Cause.NODE_LOST, message=why))

    def _end(self, spec: InstanceSpec, known: _Known, end: End) -> list[PodEvent]:
        known.told, known.ended = InstanceEnded(spec, end), True
        return [known.told]


def _runs_on(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _is_it(known: _Known, pod: Json) -> bool:
    """Is it the pod that was seen of what was launched?"""
    return known.pod is not None and not _is_another(known, pod)


def _is_another(known: _Known, pod: Json) -> bool:
    """Is it a pod of the same name that somebody made in place of the one that was launched?"""
    return known.pod is not None and known.pod["metadata"].get("uid") != pod["metadata"].get("uid")
