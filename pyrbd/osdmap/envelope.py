"""What full maps and incrementals share: an envelope around a section for clients, one for OSDs, and the crc of it all
(`src/osd/OSDMap.cc` "meta-encoding")."""

from __future__ import annotations

from typing import NamedTuple

from ..crc32c import MASK, standard_crc32c
from ..denc import Buffer, Decoder, Encoder
from ..errors import DecodeError
from .features import REQUIRED, have


class Opened(NamedTuple):
    """A map's sections, each with its version."""

    client: tuple[int, Decoder]
    osds: tuple[int, Decoder]
    crc: int | None
    rest: Decoder
    """What follows the crc."""


def open_map(data: Buffer, what: str, newest_client: int, newest_osds: int) -> Opened:
    """Opens the envelopes and checks the crc.

    Raises:
        DecodeError: damaged, truncated, or from before nautilus.
    """
    d = Decoder(data)
    struct_v, body = d.envelope(8, what)
    if struct_v < 7:
        raise DecodeError(f"{what}: version {struct_v} is older than any release that is supported")
    client = body.envelope(newest_client, what)
    osds = body.envelope(newest_osds, f"{what}, the section for OSDs")
    crc = None
    if struct_v >= 8:
        at = body.pos
        crc = body.u32()
        found = _crc(d.buf[:at], d.buf[body.pos : d.pos])
        if crc != found:
            raise DecodeError(f"{what}: crc {found:#010x}, {crc:#010x} expected", hint="a damaged map")
    return Opened(client, osds, crc, body)


def start_map(e: Encoder, features: int) -> int:
    """Begins an envelope; hand the result to :func:`finish_map`.

    Raises:
        ValueError: for features of releases before luminous.
    """
    if not have(features, REQUIRED):
        raise ValueError(f"maps for features {features:#x}, which are older than luminous, are not written")
    return e.start(8, 7)


def finish_map(e: Encoder, mark: int, tail: bytes = b"") -> int:
    """Ends it with the crc, which is returned, and with what follows that."""
    at = len(e.buf)
    e.u32(0)
    e.raw(tail)
    e.finish(mark)
    with memoryview(e.buf) as view:
        crc = _crc(view[:at], tail)
    e.buf[at : at + 4] = crc.to_bytes(4, "little")
    return crc


def _crc(front: Buffer, tail: Buffer) -> int:
    return standard_crc32c(tail, standard_crc32c(front, 0)) ^ MASK
