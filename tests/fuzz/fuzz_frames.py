"""The stream of frames after a handshake, cut anywhere, with data that goes to a sink or not."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.msgr import frames
from pyrbd.msgr.compression import LZ4, ZLIB, ZSTD, codec
from pyrbd.msgr.frames import FrameReader
from tests.fuzz.material import Chunks, received, small_buffers, sum_frames

METHODS = (0, ZLIB, ZSTD, LZ4)
STEPS = (1, 13, 31, 32, 33, 500, 1 << 16)


def one(data: bytes) -> None:
    with small_buffers():
        _read(Chunks(data))


def _read(c: Chunks) -> None:
    options = c.byte()
    stream = c.rest()
    if options & 1:
        stream = sum_frames(stream)
    sink = (lambda tid, length: memoryview(bytearray(length)) if length < 1 << 13 else None) if options & 2 else None
    reader = FrameReader(sink) if sink is not None else FrameReader()
    reader.max_frame = frames.MAX_SEGMENT if options & 4 else frames.MAX_FRAME_HANDSHAKE
    if options >> 6:
        reader.max_frame = 1 << 16
        reader.decompress = codec(METHODS[options >> 6]).decompress
    step = STEPS[(options >> 3 & 7) % len(STEPS)]
    at = 0
    try:
        while at < len(stream):
            view = reader.get_buffer()
            n = min(len(view), step, len(stream) - at)
            assert n > 0, "no room to receive into"
            view[:n] = stream[at : at + n]
            at += n
            reader.received(n)
            while (frame := reader.next_frame()) is not None:
                assert 1 <= len(frame.segments) <= 3
                size = sum(map(len, frame.segments)) + len(frame.data or b"")
                assert size <= reader.max_frame, "more than is accepted, perhaps once it was decompressed"
    finally:
        assert len(reader._buf) <= 2 * (at + frames.BUFFER_SIZE), "memory for what has not come"


def seeds() -> Iterator[bytes]:
    for which in ("mon", "osd"):
        stream = received(which)[frames.BANNER_SIZE :]
        for options in (1 | 4, 1 | 2 | 4, 1 | 4 | 4 << 3):
            yield bytes([options]) + stream[:3500]
        yield bytes([5]) + stream[-3500:]
    big = b"".join(map(bytes, frames.encode_frame(17, bytes(41), b"front", b"", bytes(1500))))
    for options in (1 | 4, 1 | 2 | 4):
        for step in (0, 4, 6):
            yield bytes([options | step << 3]) + big * 2
    for i, method in enumerate(METHODS):
        if method:
            plain = (bytes(41), b"front" * 50, b"", bytes(3000))
            packed = [codec(method).compress(segment) if segment else b"" for segment in plain]
            raw = b"".join(map(bytes, frames.encode_frame(17, *packed, flags=frames.FLAG_COMPRESSED)))
            yield bytes([1 | i << 6]) + raw * 2
    aborted = bytearray(b"".join(map(bytes, frames.encode_frame(17, bytes(41), b"front", b"m", b"data"))))
    aborted[-13] = 1
    yield bytes([1 | 4]) + aborted * 2
