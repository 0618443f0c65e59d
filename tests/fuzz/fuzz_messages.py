"""The fronts of all messages that a client may get, and replies to operations."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.denc import Decoder
from pyrbd.msgr.messages import Message, MMonMap, MonMap
from pyrbd.msgr.osdop import MSG_OSD_OPREPLY, MOSDOpReply, decode_redirect, decode_reply
from tests.fuzz.material import Chunks, messages_of
from tests.fuzz.structs import again

KINDS = (MSG_OSD_OPREPLY, *sorted(Message.registry))


def one(data: bytes) -> None:
    c = Chunks(data)
    kind, version = KINDS[c.byte() % len(KINDS)], c.byte()
    front = c.rest()
    if kind == MSG_OSD_OPREPLY:
        reply = decode_reply(memoryview(front), 6 + version % 4)
        assert len(reply.ops) <= len(front)
        if reply.redirected:
            decode_redirect(memoryview(front), 8)
        elif version % 4 == 2:
            again(MOSDOpReply.decode(Decoder(front)))
        return
    value = Message.registry[kind].decode_front(front, version)
    if isinstance(value, MMonMap):
        MonMap.from_bytes(value.monmap)


def seeds() -> Iterator[bytes]:
    for which in ("mon", "osd"):
        for header, front, _ in messages_of(which):
            if header.type in KINDS and len(front) < 4000:
                version = 2 if header.type == MSG_OSD_OPREPLY else header.version
                yield bytes([KINDS.index(header.type), version]) + front
    for i in range(len(KINDS)):
        for version in (0, 1, 9):
            yield bytes([i, version]) + bytes(100)
