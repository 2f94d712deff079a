"""Making every partition keep one moment: at once, or in sync mode all of them the same version."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from elasticdl.proto import ps_pb2
from elasticdl.ps.client import GaveUp, ParameterClient, PinGone
from elasticdl.rpc import DeadlinePassed

DEADLINE_S = 600.0
_PAUSE_S = 0.02
_STANDSTILL_S = 0.25
_MOST_AHEAD = 64
_QUESTION_BITS = 16


@dataclass(frozen=True)
class Ask:
    """What to ask all partitions next, see `PinRequest`; `done` once nothing is left to ask."""

    attempt: int
    action: ps_pb2.PinAction
    version: int = -1
    done: bool = False


class PinAgreement:
    """Finds a version that all partitions can pin, and seals it. Pure: replies in, questions out.

    Questions are numbered, so that a late copy of one is refused once a later one has come.

    The first question ends older attempts and says what they reached. If one has begun to seal,
    all partitions have pinned its version, which is then this one's too. Else a version is tried
    that no partition has passed, a later one where one has, and where training stands still the
    one it stands at. Only what all have pinned is sealed.
    """

    def __init__(self, grant: int) -> None:
        self.ask = Ask(grant << _QUESTION_BITS, ps_pb2.PIN_ASK)
        self._ahead = 0

    def answered(self, replies: Sequence[ps_pb2.PinReply], stands_still: bool) -> Ask:
        """Return what to ask next.

        Args:
          replies: to `ask`, of all partitions.
          stands_still: no partition's version has changed for a while.

        Raises:
          PinGone: what was agreed on is not there any more.
        """
        asked = self.ask
        sealed = {reply.pinned_version for reply in replies if reply.sealed}
        if asked.action == ps_pb2.PIN_SEAL:
            if any(reply.pinned_version != asked.version for reply in replies):
                raise PinGone("a partition lost a pin that was agreed on")
            self.ask = replace(asked, done=True)
        elif sealed:
            self._ask(ps_pb2.PIN_SEAL, sealed.pop())
        elif asked.action == ps_pb2.PIN_AT_VERSION and all(
            reply.pinned_version == asked.version for reply in replies
        ):
            self._ask(ps_pb2.PIN_SEAL, asked.version)
        else:
            self._ask(ps_pb2.PIN_AT_VERSION, self._choose(replies, stands_still))
        return self.ask

    def _ask(self, action: ps_pb2.PinAction, version: int) -> None:
        if (action, version) != (self.ask.action, self.ask.version):
            self.ask = Ask(self.ask.attempt + 1, action, version)

    def _choose(self, replies: Sequence[ps_pb2.PinReply], stands_still: bool) -> int:
        versions = [reply.version for reply in replies]
        farthest, are_equal = max(versions), min(versions) == max(versions)
        if self.ask.action == ps_pb2.PIN_ASK or (stands_still and are_equal):
            return farthest
        if any(reply.status == ps_pb2.PS_PIN_TOO_LATE for reply in replies):
            self._ahead = min(max(1, 2 * self._ahead), _MOST_AHEAD)
            return farthest + self._ahead
        return self.ask.version


def make_pin(
    client: ParameterClient, number: int, grant: int, is_sync: bool, leaving: threading.Event
) -> list[int]:
    """Let every partition keep what it holds, and return the versions of that.

    Args:
      number: of the pin.
      grant: of the lease to make it, higher than that of whoever tried before.
      is_sync: all partitions are to pin the same version.
      leaving: ends the wait.

    Raises:
      PinGone: a newer pin, or attempt, has come.
      GaveUp: this worker leaves.
      DeadlinePassed: the partitions did not come to one version.
    """
    if not is_sync:
        return [reply.pinned_version for reply in client.pin(number, grant)]
    agreement = PinAgreement(grant)
    versions: list[int] = []
    deadline = time.monotonic() + DEADLINE_S
    changed = time.monotonic()
    while True:
        before = agreement.ask
        replies = client.pin(number, before.attempt, before.action, before.version)
        if [reply.version for reply in replies] != versions:
            versions, changed = [reply.version for reply in replies], time.monotonic()
        ask = agreement.answered(replies, time.monotonic() - changed > _STANDSTILL_S)
        if ask.done:
            return [ask.version] * client.num_partitions
        if ask == before and leaving.wait(_PAUSE_S):
            raise GaveUp
        if time.monotonic() > deadline:
            raise DeadlinePassed(
                f"pin {number}: the partitions, at versions {versions}, did not all come to "
                f"version {ask.version} within {DEADLINE_S:.0f} s"
            )
