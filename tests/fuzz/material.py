"""Real bytes for targets to begin with: recorded connections and maps, cut into what they consist of."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pyrbd.crc32c import MASK, standard_crc32c
from pyrbd.denc import Decoder
from pyrbd.errors import DecodeError
from pyrbd.msgr import crypto, frames
from pyrbd.msgr.cephx import CephxAuthorizer, CephxMonAuthenticator, Ticket
from pyrbd.msgr.connection import Connection
from pyrbd.msgr.crypto import CryptoKey
from pyrbd.msgr.frames import (
    BANNER_SIZE,
    EPILOGUE_SIZE,
    MAX_SEGMENT,
    MAX_SEGMENTS,
    PREAMBLE_SIZE,
    FrameReader,
    MessageHeader,
    Tag,
    decode_message_header,
)
from pyrbd.msgr.types import ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr
from pyrbd.osdmap import mapper

TESTS = Path(__file__).resolve().parents[1]


@cache
def sessions() -> Any:
    """See `tests/msgr/record.py`."""
    return json.loads(gzip.decompress((TESTS / "msgr" / "data" / "sessions.json.gz").read_bytes()))


@cache
def epochs() -> Any:
    """See `tests/osdmap/record.py`: a full map, and the incrementals that follow it."""
    found = json.loads(gzip.decompress((TESTS / "osdmap" / "data" / "epochs.gz").read_bytes()))
    return {
        "first": bytes.fromhex(found["first"]),
        "incrementals": [bytes.fromhex(i) for i in found["incrementals"]],
        "last": bytes.fromhex(found["last"]),
    }


def received(which: str) -> bytes:
    """All that a daemon, "mon" or "osd", sent."""
    return b"".join(bytes.fromhex(data) for d, data in sessions()[which]["log"] if d == "rx")


@contextmanager
def fixed_random() -> Iterator[None]:
    """What is random on our side is as it was when the connections were recorded."""
    before = crypto.random_bytes
    crypto.random_bytes = lambda n: (int(sessions()["random"]).to_bytes(8, "little") * (n // 8 + 1))[:n]
    try:
        yield
    finally:
        crypto.random_bytes = before


def client(which: str) -> Connection:
    """The connection that got these bytes, at its begin; under :func:`fixed_random`."""
    record = sessions()
    addr = EntityAddr.from_bytes(bytes.fromhex(record[which]["addr"]))
    if which == "mon":
        key = CryptoKey.from_bytes(bytes.fromhex(record["key"]))
        return Connection(ENTITY_TYPE_MON, addr, CephxMonAuthenticator("admin", key), own_nonce=77)
    global_id = record["mon"]["global_id"]
    return Connection(ENTITY_TYPE_OSD, addr, CephxAuthorizer(ticket(), global_id), own_nonce=77, global_id=global_id)


def ticket() -> Ticket:
    """The recorded one for OSDs."""
    service, session_key, blob = sessions()["osd"]["ticket"]
    return Ticket(service, CryptoKey.from_bytes(bytes.fromhex(session_key)), bytes.fromhex(blob), 3600, 0)


@cache
def frames_of(which: str) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    """The frames that a daemon sent after its banner: (tag, segments)."""
    reader = FrameReader()
    reader.max_frame = MAX_SEGMENT
    found = []
    rest = received(which)[BANNER_SIZE:]
    while rest:
        view = reader.get_buffer()
        n = min(len(view), len(rest))
        view[:n] = rest[:n]
        rest = rest[n:]
        reader.received(n)
        while (frame := reader.next_frame()) is not None:
            segments = [bytes(s) for s in frame.segments]
            found.append((frame.tag, (*segments, frame.data) if frame.data else tuple(segments)))
    return tuple(found)


@cache
def messages_of(which: str) -> tuple[tuple[MessageHeader, bytes, bytes], ...]:
    """The messages among them: (header, front, data)."""
    found = []
    for tag, segments in frames_of(which):
        if tag == Tag.MESSAGE:
            parts = [*segments, b"", b"", b""]
            found.append((decode_message_header(parts[0]), parts[1], parts[3]))
    return tuple(found)


@contextmanager
def small_buffers() -> Iterator[None]:
    """Sizes with which short inputs come everywhere in :class:`FrameReader`."""
    sizes = {"BUFFER_SIZE": 2048, "BULK_SIZE": 1024, "BULK_CHUNK": 256, "BULK_ROOM": 1280}
    before = {name: getattr(frames, name) for name in sizes}
    vars(frames).update(sizes)
    try:
        yield
    finally:
        vars(frames).update(before)


@contextmanager
def few_draws() -> Iterator[None]:
    """CRUSH rules without an end are given up soon."""
    before = mapper.MAX_DRAWS
    mapper.MAX_DRAWS = 1 << 14
    try:
        yield
    finally:
        mapper.MAX_DRAWS = before


def sum_frames(data: bytes) -> bytes:
    """`data`, taken for a stream of frames in crc mode, with right sums: so that what is behind them is reached."""
    raw = bytearray(data)
    at = 0
    while at + PREAMBLE_SIZE <= len(raw):
        raw[at + 28 : at + 32] = (standard_crc32c(raw[at : at + 28], MASK) ^ MASK).to_bytes(4, "little")
        n = raw[at + 1]
        lengths = [int.from_bytes(raw[at + 2 + 6 * i : at + 6 + 6 * i], "little") for i in range(MAX_SEGMENTS)]
        at += PREAMBLE_SIZE
        end = at + lengths[0]
        if not 1 <= n <= MAX_SEGMENTS or end > len(raw):
            break
        if lengths[0]:
            raw[end : end + 4] = (standard_crc32c(raw[at:end], 0) ^ MASK).to_bytes(4, "little")
            end += 4
        at = end
        if n == 1:
            continue
        crcs = []
        for length in lengths[1:]:
            crcs.append(standard_crc32c(raw[at : at + length], 0) ^ MASK)
            at += length
        if at + EPILOGUE_SIZE > len(raw):
            break
        for i, crc in enumerate(crcs):
            raw[at + 1 + 4 * i : at + 5 + 4 * i] = crc.to_bytes(4, "little")
        at += EPILOGUE_SIZE
    return bytes(raw)


def sum_map(data: bytes) -> bytes:
    """`data`, taken for an encoded osdmap or incremental, with a right sum."""
    d = Decoder(data)
    try:
        d.envelope(255, "map")
        d = Decoder(data, 6)
        d.envelope(255, "client")
        d.envelope(255, "osd")
    except DecodeError:
        return data
    at = d.pos
    if at + 4 > len(data):
        return data
    end = 6 + int.from_bytes(data[2:6], "little")
    crc = standard_crc32c(data[at + 4 : end], standard_crc32c(data[:at], 0)) ^ MASK
    return data[:at] + crc.to_bytes(4, "little") + data[at + 4 :]


class Chunks:
    """An input as a series of choices and of blobs, each with its length before it: what a mutation of one does
    not shift the others."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def byte(self) -> int:
        """The next byte; 0 at the end."""
        if self.at >= len(self.data):
            return 0
        self.at += 1
        return self.data[self.at - 1]

    def blob(self) -> bytes:
        """The next blob: u16 length (or what is left) and bytes."""
        n = self.byte() | self.byte() << 8
        found = self.data[self.at : self.at + n]
        self.at += len(found)
        return found

    def rest(self) -> bytes:
        found, self.at = self.data[self.at :], len(self.data)
        return found

    @staticmethod
    def of(*parts: int | bytes) -> bytes:
        """The input that gives these."""
        return b"".join(bytes([p]) if isinstance(p, int) else len(p).to_bytes(2, "little") + p for p in parts)
