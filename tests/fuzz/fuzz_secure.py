"""Frames in secure mode: of a peer that has the keys, and says anything with them; and of one that has not."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pyrbd.crc32c import MASK, standard_crc32c
from pyrbd.msgr import frames
from pyrbd.msgr.frames import FrameReader, Tag, encode_preamble
from pyrbd.msgr.secure import BLOCK, INLINE_SIZE, Keys, Nonces, SecureReader
from tests.fuzz.material import Chunks, messages_of, small_buffers

KEYS = Keys.from_secret(bytes(range(64)))
STEPS = (1, 17, 96, 1 << 16)


def _pieces(c: Chunks) -> Iterator[bytes]:
    """Plaintexts of pieces, padded to blocks; the first of a frame with a preamble that is summed right."""
    while c:
        piece = c.blob()
        if c.byte() & 1:
            piece = piece[:28].ljust(28, b"\0") + b"\0\0\0\0" + piece[32:].ljust(INLINE_SIZE, b"\0")[:INLINE_SIZE]
            piece = piece[:28] + (standard_crc32c(piece[:28], MASK) ^ MASK).to_bytes(4, "little") + piece[32:]
        yield piece + bytes(-len(piece) % BLOCK)


def one(data: bytes) -> None:
    with small_buffers():
        _read(Chunks(data))


def _read(c: Chunks) -> None:
    options = c.byte()
    nonce, encrypt = Nonces(KEYS.rx_nonce).take, AESGCM(KEYS.key).encrypt
    stream = c.rest() if options & 1 else b"".join(encrypt(nonce(), piece, None) for piece in _pieces(c))
    reader = SecureReader(KEYS, FrameReader())
    reader.max_frame = frames.MAX_SEGMENT
    if options & 2:
        reader.sink = lambda tid, length: memoryview(bytearray(length)) if length < 1 << 13 else None
    step, at = STEPS[(options >> 2) % len(STEPS)], 0
    while at < len(stream):
        view = reader.get_buffer()
        n = min(len(view), step, len(stream) - at)
        assert n > 0, "no room to receive into"
        view[:n] = stream[at : at + n]
        at += n
        reader.received(n)
        while (frame := reader.next_frame()) is not None:
            assert 1 <= len(frame.segments) <= 3


def _frame(tag: int, *segments: bytes) -> tuple[int | bytes, ...]:
    """The pieces of a frame, as the input has them."""
    first = segments[0]
    parts: list[int | bytes] = [encode_preamble(tag, [len(s) for s in segments]) + first[:INLINE_SIZE], 1]
    if len(first) > INLINE_SIZE:
        parts += [first[INLINE_SIZE:], 0]
    if len(segments) > 1:
        rest = b"".join(s + bytes(-len(s) % BLOCK) for s in segments[1:])
        parts += [rest + b"\x0e".ljust(16, b"\0"), 0]
    return tuple(parts)


def seeds() -> Iterator[bytes]:
    yield Chunks.of(0, *_frame(Tag.KEEPALIVE2, bytes(8)), *_frame(Tag.HELLO, bytes(70)))
    for options in (0, 2, 8, 12):
        yield Chunks.of(options, *_frame(Tag.MESSAGE, bytes(41), b"front", b"middle", bytes(100)))
        yield Chunks.of(
            options, *_frame(Tag.MESSAGE, bytes(41), b"front", b"", bytes(1500)), *_frame(Tag.ACK, bytes(8))
        )
    for header, front, body in messages_of("osd")[:3]:
        yield Chunks.of(0, *_frame(Tag.MESSAGE, header.to_bytes(), front, b"", body[:600] or b"x"))
    yield b"\1" + bytes(200)
