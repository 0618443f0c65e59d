"""A connection as a client, from any state of a handshake that was true so far."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.errors import PyrbdError
from pyrbd.msgr.auth import NoneAuthenticator
from pyrbd.msgr.connection import AuthDone, Connection, Hello, Message, Ready, ServerIdent, State
from pyrbd.msgr.features import FEATURES_SUPPORTED
from pyrbd.msgr.frames import BANNER_SIZE, MODE_CRC, Tag, encode_banner, encode_frame
from pyrbd.msgr.types import ENTITY_TYPE_OSD, EntityAddr, EntityAddrVec
from tests.fuzz.material import Chunks, client, fixed_random, frames_of, received, small_buffers, sum_frames

ADDR = EntityAddr(EntityAddr.TYPE_MSGR2, 1, "127.0.0.1", 6800)


def _frame(tag: int, payload: bytes) -> bytes:
    return b"".join(map(bytes, encode_frame(tag, payload)))


NONE_STEPS = (
    encode_banner(),
    _frame(Tag.HELLO, Hello(ENTITY_TYPE_OSD, ADDR).to_bytes()),
    _frame(Tag.AUTH_DONE, AuthDone(5, MODE_CRC, b"").to_bytes()),
    _frame(Tag.AUTH_SIGNATURE, bytes(32)),
    _frame(
        Tag.SERVER_IDENT,
        ServerIdent(EntityAddrVec((ADDR,)), 3, 1, FEATURES_SUPPORTED, 0, 1, 0).to_bytes(),
    ),
)


def _start(kind: int, steps: int) -> Connection:
    """A connection that has gone `steps` steps of a good handshake."""
    if kind == 0:
        conn = Connection(ENTITY_TYPE_OSD, ADDR, NoneAuthenticator("admin", 5, mon=False), own_nonce=7)
        good = NONE_STEPS
    else:
        which = "mon" if kind == 1 else "osd"
        conn = client(which)
        good = (received(which)[:BANNER_SIZE], *[_frame(tag, parts[0]) for tag, parts in frames_of(which)[:6]])
    for step in good[: min(steps, len(good) - 1 if kind else len(good))]:
        conn.receive_data(step)
    return conn


def one(data: bytes) -> None:
    c = Chunks(data)
    kind, steps, way = c.byte() % 3, c.byte() % 8, c.byte()
    with fixed_random(), small_buffers():
        try:
            conn = _start(kind, steps)
        except PyrbdError as e:
            raise AssertionError(f"the good part of the handshake failed: {e}") from e
        came = 0
        try:
            while c and came < 1 << 20:
                if way & 1:  # whole frames with any tag
                    tag, segments = c.byte(), [c.blob() for _ in range(1 + (way >> 1) % 4)]
                    piece = sum_frames(b"".join(map(bytes, encode_frame(tag, *segments))))
                elif way & 2:
                    piece = sum_frames(c.rest())
                else:
                    piece = c.rest()
                came += len(piece)
                for event in conn.receive_data(piece):
                    assert isinstance(event, Message | Ready) or event is not None
                conn.data_to_send()
        except PyrbdError:
            assert conn.state is State.CLOSED
            raise
        assert conn.state is not State.CLOSED


def seeds() -> Iterator[bytes]:
    for steps, step in enumerate(NONE_STEPS):
        yield bytes([0, steps, 2]) + step
        if steps:
            yield Chunks.of(0, steps, 1, step[0], step[32:-4])
    yield bytes([0, 5, 2]) + _frame(Tag.KEEPALIVE2, bytes(8)) + _frame(Tag.ACK, bytes(8))
    for kind, which in ((1, "mon"), (2, "osd")):
        for steps in range(6):
            yield bytes([kind, steps, 2]) + b"".join(
                _frame(t, p[0]) for t, p in frames_of(which)[steps - 1 : steps + 1]
            )
    message = b"".join(
        map(bytes, encode_frame(Tag.MESSAGE, (1).to_bytes(8, "little") + bytes(33), b"front", b"", b"d"))
    )
    yield bytes([0, 5, 2]) + message
    yield Chunks.of(0, 5, 1 | 6, int(Tag.MESSAGE), (1).to_bytes(8, "little") + bytes(33), b"front", b"", b"data")
