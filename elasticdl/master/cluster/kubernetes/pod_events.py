"""The Events of a pod, which say who deleted it and why it waits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from elasticdl.master.cluster.kubernetes.client import Json, KubeClient, KubeError
from elasticdl.master.cluster.kubernetes.pod_state import is_event_of

logger = logging.getLogger(__name__)

_DELETIONS = ("Preempted", "Preempting", "TaintManagerEviction")


def events_of(client: KubeClient, pod: Mapping[str, Any]) -> list[Json]:
    """Read a pod's core/v1 Events; none where the apiserver does not answer."""
    name = pod["metadata"]["name"]
    try:
        found = client.list("Event", fields={"involvedObject.name": name}).items
    except KubeError as error:
        logger.info("no Events of pod '%s': %s", name, error)
        return []
    return [event for event in found if is_event_of(event, pod)]


def deletion_events(client: KubeClient) -> list[Json]:
    """Read the core/v1 Events that say who deleted pods, of all; none that is not answered."""
    found = []
    for reason in _DELETIONS:
        try:
            found += client.list("Event", fields={"reason": reason}).items
        except KubeError as error:
            logger.info("no Events of reason %s: %s", reason, error)
    return found
