"""What the clients of an image tell each other, and the acknowledgements of a notification."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.denc import Decoder
from pyrbd.image import notify
from pyrbd.rados.watch import decode_acks
from tests.fuzz.material import Chunks
from tests.fuzz.structs import again


def one(data: bytes) -> None:
    c = Chunks(data)
    way = c.byte() % 3
    if way == 0:
        payload = notify.decode_message(c.rest())
        if not isinstance(payload, notify.Unknown):
            assert notify.decode_message(notify.encode_message(payload)) == payload
    elif way == 1:
        acks, missing = decode_acks(c.rest())
        assert 16 * (len(acks) + len(missing)) <= len(data)
    else:
        again(notify.ResponseMessage.decode(Decoder(c.rest())))


def seeds() -> Iterator[bytes]:
    request = notify.AsyncRequestId(notify.ClientId(4, 5), 6)
    for number, cls in notify.PAYLOADS.items():
        body = number.to_bytes(4, "little") + b"".join(
            f.type.min_size * b"\1" if f.type.min_size else b"" for f in cls.wire_fields
        )
        for version in (1, 7):
            yield b"\0" + bytes([version, 1]) + len(body).to_bytes(4, "little") + body
    yield b"\0" + notify.encode_message(notify.SnapCreate("s", notify._USER, request, 1))
    yield b"\0" + notify.encode_message(notify.MetadataUpdate("k", "v", request))
    yield b"\0" + notify.encode_message(notify.AsyncProgress(request, 1, 2))
    yield b"\0" + notify.encode_message(notify.Resize(1 << 30, request, True))
    ack = (1).to_bytes(4, "little") + bytes(16) + (3).to_bytes(4, "little") + b"abc"
    yield b"\1" + ack + (1).to_bytes(4, "little") + bytes(16)
    yield b"\2" + notify.ResponseMessage(-16).to_bytes()
