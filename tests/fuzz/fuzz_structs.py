"""Each declared struct: any bytes are a value, or a DecodeError; a value survives encoding."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.denc import Decoder
from tests.fuzz.material import Chunks
from tests.fuzz.structs import again, all_structs


def one(data: bytes) -> None:
    c = Chunks(data)
    structs = all_structs()
    cls = structs[(c.byte() | c.byte() << 8) % len(structs)]
    again(cls.decode(Decoder(c.rest())))


def seeds() -> Iterator[bytes]:
    for i in range(len(all_structs())):
        head = i.to_bytes(2, "little")
        yield head + bytes(64)
        yield head + bytes.fromhex("0101") + (58).to_bytes(4, "little") + bytes(58)
        yield head + bytes([1, 0, 0, 0]) * 24
