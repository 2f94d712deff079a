"""How a partition says no: a status in the reply, and nothing changed."""

from __future__ import annotations

from elasticdl.proto import ps_pb2
from elasticdl.refusals import REFUSALS, Reason


class Refused(Exception):
    """The request is answered with this reply, and nothing was changed."""

    def __init__(
        self,
        status: ps_pb2.PsStatus,
        message: str = "",
        next_wanted: int = 0,
        version: int = 0,
        closing: ps_pb2.TaskClosing | None = None,
        wanted_block: int = 0,
    ) -> None:
        super().__init__(message)
        if status == ps_pb2.PS_STALE_INCARNATION:
            REFUSALS.note(Reason.STALE_INCARNATION)
        self.reply = ps_pb2.PsReply(
            status=status,
            message=message,
            next=next_wanted,
            version=version,
            closing=closing,
            wanted_block=wanted_block,
        )
