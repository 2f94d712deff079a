"""What a parameter server keeps for another, whatever comes twice, late, or from another life."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.proto import ps_pb2
from elasticdl.ps import frames
from elasticdl.ps.copies import Copies
from elasticdl.rpc import Frame

KEEPER = 7
NAMES = ("a.arrow", "b.arrow")


def part_of(incarnation: int, number: int, base: int = 0) -> ps_pb2.CopyPart:
    return ps_pb2.CopyPart(
        keeper=KEEPER, partition=3, incarnation=incarnation, number=number, base=base
    )


def content(part: ps_pb2.CopyPart, name: str) -> bytes:
    return f"{part.incarnation}.{part.number} of {name}, ".encode() * 3


def entry(part: ps_pb2.CopyPart, **changed: Any) -> str:
    files = [
        {
            "name": name,
            "kind": "rows",
            "table": "t",
            "rows": 1,
            "bytes": len(content(part, name)),
            "sha256": "",
        }
        for name in NAMES
    ]
    described = {"partition": 3, "incarnation": part.incarnation, "number": part.number}
    described |= {"base": part.base, "version": 0, "groups": [], "closed": [], "files": files}
    return json.dumps(described | changed)


def messages(part: ps_pb2.CopyPart, chunk: int = 10) -> list[Any]:
    """What brings one part, in order."""
    found: list[Any] = []
    for name in NAMES:
        data = content(part, name)
        for offset in range(0, len(data), chunk):
            header = ps_pb2.WriteCopyHeader(part=part, file=name, offset=offset)
            block = np.frombuffer(data[offset : offset + chunk], np.uint8)
            found.append(frames.pack(header, [block]))
    found.append(
        ps_pb2.FinishCopyRequest(
            part=part, entry=entry(part), newest_checkpoint=10 * part.incarnation + part.number
        )
    )
    return found


def send(copies: Copies, message: Any) -> int:
    """Deliver a message; return the status of the answer."""
    if isinstance(message, Frame):
        return frames.unpack(copies.write_copy(message), ps_pb2.PsReply)[0].status
    return copies.finish_copy(message).status


def send_all(copies: Copies, part: ps_pb2.CopyPart) -> set[int]:
    return {send(copies, message) for message in messages(part)}


def kept(copies: Copies, life: int = 0) -> tuple[int, int, list[int]] | None:
    """Whose copy is there, beyond which checkpoint, and its parts; read back byte for byte."""
    request = ps_pb2.GetCopyRequest(keeper=KEEPER, partition=3, incarnation=life)
    reply = copies.get_copy(request)
    if reply.status != ps_pb2.PS_OK:
        assert reply.status == ps_pb2.PS_COPY_GONE
        return None
    numbers = []
    for text in reply.entries:
        described = json.loads(text)
        part = part_of(reply.incarnation, described["number"], described["base"])
        for name in NAMES:
            assert read(copies, part, name) == (ps_pb2.PS_OK, content(part, name))
        numbers.append(part.number)
    return reply.incarnation, reply.newest_checkpoint, numbers


def read(copies: Copies, part: ps_pb2.CopyPart, name: str) -> tuple[int, bytes]:
    header = ps_pb2.ReadCopyHeader(part=part, file=name, max_bytes=1 << 20)
    reply, buffers = frames.unpack(copies.read_copy(frames.pack(header)), ps_pb2.PsReply)
    return reply.status, bytes(buffers[0]) if buffers else b""


# One after the other, as two lives of a partition send them: (life, number, base, is finished).
LIVES = [
    (1, 1, 0, True),
    (1, 2, 1, True),
    (1, 3, 2, False),
    (1, 4, 2, True),
    (1, 5, 0, True),
    (2, 1, 0, False),
    (2, 2, 0, True),
    (2, 3, 2, True),
]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 30), repeated=st.floats(0, 0.5), latest=st.integers(1, 60))
def test_what_comes_twice_or_late_changes_nothing(seed: int, repeated: float, latest: int) -> None:
    chance = random.Random(seed)
    copies, undisturbed = Copies(KEEPER), Copies(KEEPER)
    late: list[tuple[int, Any]] = []
    at = 0
    for life, number, base, is_finished in LIVES:
        brought = messages(part_of(life, number, base))
        for message in brought if is_finished else brought[:-3]:
            at += 1
            assert send(copies, message) == ps_pb2.PS_OK == send(undisturbed, message)
            if chance.random() < repeated:
                late.append((at + chance.randint(0, latest), message))
            for due, one in [one for one in late if one[0] <= at]:
                late.remove((due, one))
                status = send(copies, one)
                assert status in (ps_pb2.PS_OK, ps_pb2.PS_COPY_GONE, ps_pb2.PS_COPY_WANTED_WHOLE)
        assert kept(copies) == kept(undisturbed)
    assert kept(copies) == (2, 23, [2, 3])


def test_a_copy_counts_only_when_it_is_finished_and_the_one_before_stays_until_then() -> None:
    copies = Copies(KEEPER)
    assert kept(copies) is None
    assert send_all(copies, part_of(1, 1)) == {ps_pb2.PS_OK}
    for message in messages(part_of(1, 2))[:-1]:
        assert send(copies, message) == ps_pb2.PS_OK
        assert kept(copies) == (1, 11, [1])
    assert send(copies, messages(part_of(1, 2))[-1]) == ps_pb2.PS_OK
    assert kept(copies) == (1, 12, [2])
    assert read(copies, part_of(1, 1), NAMES[0])[0] == ps_pb2.PS_COPY_GONE


def test_an_earlier_life_is_refused_once_a_later_one_has_sent_or_asked_for_anything() -> None:
    copies = Copies(KEEPER)
    assert send_all(copies, part_of(1, 1)) == {ps_pb2.PS_OK}
    assert send(copies, messages(part_of(1, 2, 1))[0]) == ps_pb2.PS_OK
    assert kept(copies, life=2) == (1, 11, [1]), "it may begin with what the first has left"
    for message in messages(part_of(1, 2, 1)) + messages(part_of(1, 3)):
        assert send(copies, message) == ps_pb2.PS_COPY_GONE
    assert kept(copies, life=1) == (1, 11, [1])
    assert send_all(copies, part_of(2, 1)) == {ps_pb2.PS_OK}
    other = Copies(KEEPER)
    assert send_all(other, part_of(1, 1)) == {ps_pb2.PS_OK}
    assert send(other, messages(part_of(2, 1))[0]) == ps_pb2.PS_OK
    assert send_all(other, part_of(1, 2, 1)) == {ps_pb2.PS_COPY_GONE}
    assert kept(other) == (1, 11, [1])


def test_what_builds_on_a_part_that_is_not_there_is_refused_and_a_whole_one_wanted() -> None:
    copies = Copies(KEEPER)
    wanted = {ps_pb2.PS_COPY_WANTED_WHOLE}
    assert send_all(copies, part_of(1, 2, 1)) == wanted
    assert send_all(copies, part_of(1, 3)) == {ps_pb2.PS_OK}
    assert send_all(copies, part_of(1, 4, 2)) == wanted
    assert send_all(copies, part_of(2, 4, 3)) == wanted, "the same number of another life"
    assert kept(copies) == (1, 13, [3])


def test_a_part_whose_files_are_not_all_there_does_not_count() -> None:
    part = part_of(1, 2, 1)
    whole = messages(part)
    for cut, changed in (
        (whole[1:], None),
        (whole[:-2] + whole[-1:], None),
        (whole, {"number": 3}),
        (whole, {"files": []}),
        (whole, {"closed": [-1]}),
    ):
        copies = Copies(KEEPER)
        assert send_all(copies, part_of(1, 1)) == {ps_pb2.PS_OK}
        *chunks, finish = cut
        statuses = [send(copies, message) for message in chunks]
        if changed is not None:
            finish = ps_pb2.FinishCopyRequest(part=part, entry=entry(part, **changed))
        assert ps_pb2.PS_INVALID in (*statuses, send(copies, finish))
        assert kept(copies) == (1, 11, [1])


@pytest.mark.parametrize("method", ["write", "finish", "get", "read"])
def test_who_is_another_incarnation_of_the_keeper_refuses(method: str) -> None:
    copies = Copies(KEEPER + 1)
    part = part_of(1, 1)
    if method == "write":
        status = send(copies, messages(part)[0])
    elif method == "finish":
        status = send(copies, messages(part)[-1])
    elif method == "read":
        status = read(copies, part, NAMES[0])[0]
    else:
        request = ps_pb2.GetCopyRequest(keeper=KEEPER, partition=3)
        status = copies.get_copy(request).status
    assert status == ps_pb2.PS_STALE_INCARNATION


@pytest.mark.parametrize("head", [b"no message at all", b"\xff" * 200])
def test_what_has_no_header_is_refused(head: bytes) -> None:
    copies = Copies(KEEPER)
    for answer in (copies.write_copy(Frame(head)), copies.read_copy(Frame(head))):
        assert frames.unpack(answer, ps_pb2.PsReply)[0].status == ps_pb2.PS_INVALID
