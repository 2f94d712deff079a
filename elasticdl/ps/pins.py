"""Which moment of a partition is pinned, or is to be: one at a time, the newest."""

from __future__ import annotations

from collections.abc import Callable

from elasticdl.proto import ps_pb2

NOT_PINNED = -1


class Pins:
    """The pin of one partition. Not thread-safe: the partition's lock holds.

    A pin is known by its number; a newer one takes the place of an older one, which never comes
    back. Where partitions are to pin the same version, whoever makes the pin may have to try
    several; an attempt ends those below it. A sealed pin is never changed, so that of two who make
    one pin the second finds what the first has agreed on.

    Args:
      take: keeps what the partition holds now, in the place of what was kept before.
      drop: lets it go.
    """

    def __init__(self, take: Callable[[], None], drop: Callable[[], None]) -> None:
        self._take = take
        self._drop = drop
        self._number = 0
        self._attempt = 0
        self._awaited: int | None = None
        self._pinned = NOT_PINNED
        self._sealed = False
        self._is_over = True

    def is_pinned(self, number: int) -> bool:
        """Whether this pin's image is there."""
        return number == self._number and self._pinned != NOT_PINNED

    @property
    def version(self) -> int:
        """The version that is pinned."""
        return self._pinned

    def pin(self, request: ps_pb2.PinRequest, version: int) -> ps_pb2.PinReply:
        """Pin what is there now, or once a version is reached; see the messages.

        Args:
          version: of the partition now.
        """
        if request.number > self._number:
            self._begin(request.number)
        is_newest = request.number == self._number and not self._is_over
        if not is_newest or request.attempt < self._attempt:
            return self._reply(version, ps_pb2.PS_PIN_GONE)
        self._attempt = request.attempt
        if self._sealed or request.action == ps_pb2.PIN_ASK:
            return self._reply(version)
        if request.action == ps_pb2.PIN_NOW:
            self._pin_now(version)
            self._sealed = True
            return self._reply(version)
        if request.version == self._pinned:
            self._sealed = request.action == ps_pb2.PIN_SEAL
            return self._reply(version)
        if request.version < version or request.action == ps_pb2.PIN_SEAL:
            return self._reply(version, ps_pb2.PS_PIN_TOO_LATE)
        if self._pinned != NOT_PINNED:
            self._drop()
            self._pinned = NOT_PINNED
        self._awaited = request.version
        self.reached(version)
        if self._pinned == NOT_PINNED:
            return self._reply(version, ps_pb2.PS_NOT_YET)
        return self._reply(version)

    def unpin(self, number: int) -> None:
        """Let this pin go, and those before it."""
        if number >= self._number:
            self._begin(number)
            self._is_over = True

    def reached(self, version: int) -> None:
        """The partition holds this version; called at each, before anything more is changed."""
        if self._awaited is not None and version >= self._awaited:
            assert version == self._awaited, "a version was not told"
            self._pin_now(version)

    def _begin(self, number: int) -> None:
        if self._pinned != NOT_PINNED:
            self._drop()
        self._number, self._attempt = number, 0
        self._awaited, self._pinned = None, NOT_PINNED
        self._sealed = self._is_over = False

    def _pin_now(self, version: int) -> None:
        self._take()
        self._pinned, self._awaited = version, None

    def _reply(self, version: int, status: ps_pb2.PsStatus = ps_pb2.PS_OK) -> ps_pb2.PinReply:
        return ps_pb2.PinReply(
            status=status, version=version, pinned_version=self._pinned, sealed=self._sealed
        )
