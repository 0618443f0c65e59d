"""Secure mode between our writer and our reader, each in either role: any frame, cut anywhere,
damaged anywhere, and the counters of nonces at their ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd.errors import AuthError, ProtocolError
from pyrbd.msgr.frames import (
    BULK_SIZE,
    HEADER_SIZE,
    LATE_STATUS_ABORTED,
    MAX_SEGMENT,
    Frame,
    FrameReader,
    MessageHeader,
    Tag,
    encode_preamble,
)
from pyrbd.msgr.secure import (
    _EPILOGUE,
    PIECE_A_SIZE,
    STREAM_SIZE,
    Keys,
    Nonces,
    SecureReader,
    SecureWriter,
)

SECRET = bytes(range(64))
CLIENT = Keys.from_secret(SECRET)
SERVER = CLIENT.crossed()

lengths = st.one_of(
    st.integers(0, 100),
    st.sampled_from([15, 16, 17, 47, 48, 49, 4096, BULK_SIZE - 1, BULK_SIZE, BULK_SIZE + 1, STREAM_SIZE + 5]),
)
segment = st.builds(lambda n, seed: random.Random(seed).randbytes(n), lengths, st.integers(0, 3))


def reader(keys: Keys = CLIENT, sink: object = None) -> SecureReader:
    before = FrameReader() if sink is None else FrameReader(sink)  # type: ignore[arg-type]
    before.max_frame = MAX_SEGMENT
    return SecureReader(keys, before)


def flat(buffers: list[object]) -> bytes:
    return b"".join(map(bytes, buffers))  # type: ignore[arg-type]


def feed(r: SecureReader, raw: bytes, cut: int) -> list[Frame]:
    frames = []
    view = memoryview(raw)
    while len(view):
        into = r.get_buffer()
        n = min(cut, len(into), len(view))
        into[:n] = view[:n]
        view = view[n:]
        r.received(n)
        while (frame := r.next_frame()) is not None:
            frames.append(frame._replace(segments=tuple(memoryview(bytes(s)) for s in frame.segments)))
    return frames


def contents(frame: Frame) -> list[bytes]:
    parts = [bytes(s) for s in frame.segments] + ([frame.data] if frame.data else [])
    while len(parts) > 1 and not parts[-1]:
        parts.pop()
    return parts  # type: ignore[return-value]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(int(Tag.KEEPALIVE2)), st.lists(segment, min_size=1, max_size=1)),
            st.tuples(
                st.just(int(Tag.MESSAGE)),
                st.builds(lambda rest: [bytes(HEADER_SIZE), *rest], st.lists(segment, min_size=0, max_size=3)),
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1, 15, 16, 97, 1000, 1 << 20]),
    st.booleans(),
)
def test_round_trip(messages: list[tuple[int, list[bytes]]], cut: int, from_server: bool) -> None:
    writer = SecureWriter(SERVER if from_server else CLIENT)
    raw = b"".join(flat(writer.encode_frame(tag, *segments)) for tag, segments in messages)
    if cut == 1 and len(raw) > 100_000:
        cut = 977
    frames = feed(reader(CLIENT if from_server else SERVER), raw, cut)
    assert [f.tag for f in frames] == [tag for tag, _ in messages]
    for frame, (_, segments) in zip(frames, messages):
        while len(segments) > 1 and not segments[-1]:
            segments = segments[:-1]
        assert contents(frame) == segments


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), segment)
def test_messages_in_a_hurry_are_the_same_frames(front: bytes, data: bytes) -> None:
    header = MessageHeader(1, 2, 42, 127, 8, 0, 0, 0, 1, 3, 0).to_bytes()
    slow = SecureWriter(CLIENT).encode_frame(Tag.MESSAGE, header, front, b"", data)
    assert flat(SecureWriter(CLIENT).encode_message_frame(header, front, data)) == flat(slow)


@pytest.mark.parametrize("size", [0, 5, 5000, BULK_SIZE + 77])
def test_every_damaged_byte_ends_the_connection(size: int) -> None:
    writer = SecureWriter(CLIENT)
    raw = flat(writer.encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), b"front", b"", b"d" * size))
    end = flat(writer.encode_frame(Tag.KEEPALIVE2, bytes(8)))
    assert len(feed(reader(SERVER), raw + end, 1 << 20)) == 2
    rng = random.Random(size)
    for at in {*range(min(len(raw), 400)), *range(max(0, len(raw) - 100), len(raw)), rng.randrange(len(raw))}:
        damaged = bytearray(raw + end)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ProtocolError, match="does not decrypt"):
            feed(reader(SERVER), bytes(damaged), 1 << 20)


def test_large_frames_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a `cryptography` that is too old for them; it gives the same bytes."""
    data = random.Random(8).randbytes(300_000)
    streamed = flat(SecureWriter(CLIENT).encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), b"front", b"", data))
    monkeypatch.setattr("pyrbd.msgr.secure.has_streams", lambda: False)
    assert flat(SecureWriter(CLIENT).encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), b"front", b"", data)) == streamed
    (frame,) = feed(reader(SERVER), streamed, 5000)
    assert frame.data == data


def test_pieces_of_two_frames_do_not_go_together() -> None:
    """The head of one message with the body of another of the same shape."""
    writer = SecureWriter(CLIENT)
    one, two = (flat(writer.encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), text)) for text in (b"one", b"two"))
    for raw in (
        one[:PIECE_A_SIZE] + two[PIECE_A_SIZE:],
        two,
        one + one,
        one + two[PIECE_A_SIZE:] + bytes(PIECE_A_SIZE),
    ):
        with pytest.raises(ProtocolError, match="does not decrypt"):
            feed(reader(SERVER), raw, 1 << 20)


def test_the_other_direction_has_other_nonces() -> None:
    raw = flat(SecureWriter(CLIENT).encode_frame(Tag.KEEPALIVE2, bytes(8)))
    with pytest.raises(ProtocolError, match="does not decrypt"):
        feed(reader(CLIENT), raw, 1 << 20)


def test_lengths_are_bounded_before_anything_is_allocated() -> None:
    """Whoever has the keys is still not believed."""
    writer = SecureWriter(CLIENT)
    preamble = encode_preamble(Tag.MESSAGE, [HEADER_SIZE, 1, 0, 0xFFFFFFF0])
    raw = writer._encrypt(writer._nonce(), preamble + bytes(48), None)
    with pytest.raises(ProtocolError, match="more than the"):
        feed(reader(SERVER), raw, 1 << 20)


@pytest.mark.parametrize("size", [10, BULK_SIZE + 1])
@pytest.mark.parametrize(("status", "dropped"), [(LATE_STATUS_ABORTED, True), (0x3, False)])
def test_late_status(size: int, status: int, dropped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SecureWriter(CLIENT)
    monkeypatch.setattr("pyrbd.msgr.secure._EPILOGUE", bytes([status]).ljust(16, b"\0"))
    given_up = flat(writer.encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), b"front", b"", bytes(size)))
    monkeypatch.setattr("pyrbd.msgr.secure._EPILOGUE", _EPILOGUE)
    good = flat(writer.encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), b"good"))
    if dropped:
        (frame,) = feed(reader(SERVER), given_up + good, 1 << 20)
        assert contents(frame)[1] == b"good"
    else:
        with pytest.raises(ProtocolError, match="late status"):
            feed(reader(SERVER), given_up + good, 1 << 20)


def test_a_sink_of_another_size_is_not_used() -> None:
    raw = flat(SecureWriter(CLIENT).encode_frame(Tag.MESSAGE, bytes(HEADER_SIZE), b"f", b"", b"x" * BULK_SIZE))
    into = bytearray(5)
    (frame,) = feed(reader(SERVER, lambda tid, length: memoryview(into)), raw, 4096)
    assert frame.data == b"x" * BULK_SIZE and into == bytes(5)


def test_nonces_count_up_come_round_and_are_never_used_twice() -> None:
    nonces = Nonces(b"abcd" + b"\xfe" + b"\xff" * 7)
    assert nonces.take() == b"abcd\xfe" + b"\xff" * 7
    assert nonces.take() == b"abcd" + b"\xff" * 8
    assert nonces.take() == b"abcd" + bytes(8)
    nonces._next = nonces._end - 1
    assert nonces.take() == b"abcd\xfd" + b"\xff" * 7
    for _ in range(2):
        with pytest.raises(ProtocolError, match="nonces"):
            nonces.take()


def test_a_writer_without_nonces_refuses() -> None:
    writer = SecureWriter(CLIENT)
    nonces = writer._nonce.__self__  # type: ignore[attr-defined]
    nonces._next = nonces._end - 1
    with pytest.raises(ProtocolError, match="nonces"):
        writer.encode_message_frame(bytes(HEADER_SIZE), b"front", b"")


def test_a_short_connection_secret_is_refused() -> None:
    with pytest.raises(AuthError, match="39 bytes"):
        Keys.from_secret(bytes(39))


def test_keys_are_not_shown() -> None:
    assert repr(CLIENT) == "<Keys>"
    assert SECRET[:16].hex() not in repr(reader().__dict__) + repr(SecureWriter(CLIENT).__dict__)
