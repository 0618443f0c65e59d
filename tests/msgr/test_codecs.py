"""Encodings: round trips, bounds, and the crc of either library."""

from typing import Annotated

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd import crc32c
from pyrbd.denc import (
    Decoder,
    Encoder,
    MapOf,
    Since,
    Struct,
    Vector,
    blob,
    boolean,
    s8,
    s32,
    s64,
    string,
    u8,
    u16,
    u32,
    u64,
)
from pyrbd.errors import DecodeError, ProtocolError
from pyrbd.msgr import frames
from pyrbd.msgr.frames import BULK_SIZE, FrameReader, Tag, encode_frame
from pyrbd.msgr.osdop import MOSDOp, RawOp, Trace, encode_object, encode_request
from pyrbd.msgr.types import (
    EntityAddr,
    EntityAddrVec,
    EntityName,
    Eversion,
    HObject,
    ObjectLocator,
    OsdReqId,
    PgId,
    SpgId,
    Utime,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
S64 = st.integers(-(2**63), 2**63 - 1)
S32 = st.integers(-(2**31), 2**31 - 1)


class Inner(Struct, version=2, compat=1):
    a: u8
    b: Annotated[s64, Since(2)] = -7


class Outer(Struct):
    flag: boolean
    small: s8
    number: u16
    text: string
    raw: blob
    inner: Inner
    many: Annotated[tuple[int, ...], Vector(u32)]
    inners: Annotated[tuple[Inner, ...], Vector(Inner)]
    table: Annotated[dict[int, str], MapOf(s32, string)]
    last: u64


inners = st.builds(Inner, st.integers(0, 255), S64)
outers = st.builds(
    Outer,
    st.booleans(),
    st.integers(-128, 127),
    st.integers(0, 65535),
    st.text(),
    st.binary(),
    inners,
    st.lists(U32).map(tuple),
    st.lists(inners).map(tuple),
    st.dictionaries(S32, st.text()),
    U64,
)


@given(outers)
def test_declared_structs_round_trip(value: Outer) -> None:
    raw = value.to_bytes()
    assert Outer.from_bytes(raw) == value
    assert Outer.from_bytes(raw).to_bytes() == raw


@given(outers, st.data())
def test_truncation_is_a_decode_error(value: Outer, data: st.DataObject) -> None:
    raw = value.to_bytes()
    with pytest.raises(DecodeError):
        Outer.from_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_a_decode_error(raw: bytes) -> None:
    for cls in (Outer, EntityAddrVec, HObject, MOSDOp, SpgId, ObjectLocator):
        try:
            cls.decode(Decoder(raw))
        except DecodeError:
            pass


def test_versions() -> None:
    newer = bytes.fromhex("03010d000000050900000000000000ffffffff")
    assert Inner.from_bytes(newer) == Inner(5, 9), "what a newer encoder appended is skipped"
    older = bytes.fromhex("01010100000005")
    assert Inner.from_bytes(older) == Inner(5, -7), "what an older one did not know has its default"
    with pytest.raises(DecodeError, match="needs a decoder of version 3"):
        Inner.from_bytes(bytes.fromhex("03030100000005"))


def test_counts_are_bounded_before_anything_is_allocated() -> None:
    with pytest.raises(DecodeError, match="items announced"):
        Vector(u64).decode(Decoder(b"\xff\xff\xff\xff" + bytes(100)))
    with pytest.raises(DecodeError, match="truncated"):
        Decoder(b"\xff\xff\xff\xff").blob()


def test_values_do_not_change() -> None:
    value = Inner(1)
    with pytest.raises(AttributeError):
        value.a = 2  # type: ignore[misc]
    assert value.replace(a=2) == Inner(2) and value == Inner(1)
    with pytest.raises(TypeError):
        value.replace(nothing=1)
    with pytest.raises(TypeError):
        Inner()


# rows of (value, bytes as a 16.2 daemon or its client library writes them)
GOLDEN = [
    (Utime(1, 2), "0100000002000000"),
    (Eversion(7, 3), "070000000000000003000000"),
    (PgId(2, 0x1F), "0102000000000000001f000000ffffffff"),
    (SpgId(PgId(1, 5)), "01011200000001010000000000000005000000ffffffffff"),
    (EntityName(8, 4114), "081210000000000000"),
    (
        EntityAddr(2, 7, "127.0.0.1", 3300),
        "0101011c00000002000000070000001000000002000ce47f0000010000000000000000",
    ),
    (EntityAddrVec(()), "0200000000"),
    (
        ObjectLocator(3, -1, "", "ns"),
        "06031e0000000300000000000000ffffffff00000000020000006e73ffffffffffffffff",
    ),
    (OsdReqId(EntityName(0, 0), 0, 0), "020215000000000000000000000000000000000000000000000000"),
]


@pytest.mark.parametrize(("value", "hexed"), GOLDEN)
def test_golden_bytes(value: Struct, hexed: str) -> None:
    assert value.to_bytes().hex() == hexed
    assert type(value).from_bytes(bytes.fromhex(hexed)) == value


@given(U32, U32, st.ip_addresses(), st.integers(0, 65535))
def test_addresses_round_trip(kind: int, nonce: int, host: object, port: int) -> None:
    if "%" in str(host):
        return
    addr = EntityAddr(kind, nonce, str(host), port)
    assert EntityAddr.from_bytes(addr.to_bytes()) == addr
    vector = EntityAddrVec((addr, addr))
    assert EntityAddrVec.from_bytes(vector.to_bytes()) == vector


@given(
    S64,
    U32,
    st.integers(-1, 100),
    U32,
    U32,
    U32,
    st.binary(max_size=50),
    st.binary(max_size=9),
    st.lists(st.tuples(st.integers(0, 65535), U32, st.binary(min_size=28, max_size=28), U32), max_size=5),
    U64,
    st.lists(U64, max_size=4),
    S32,
)
def test_packed_requests_are_the_declared_ones(
    pool: int,
    seed: int,
    shard: int,
    raw_hash: int,
    epoch: int,
    flags: int,
    oid: bytes,
    nspace: bytes,
    ops: list[tuple[int, int, bytes, int]],
    snapid: int,
    snaps: list[int],
    attempt: int,
) -> None:
    raw_ops = tuple(RawOp(*o) for o in ops)
    packed = encode_request(
        pool,
        seed,
        shard,
        raw_hash,
        epoch,
        flags,
        (5, 6),
        encode_object(pool, oid, nspace),
        b"".join(o.to_bytes() for o in raw_ops),
        len(ops),
        snapid,
        9,
        snaps,
        attempt,
    )
    declared = MOSDOp.from_bytes(packed)
    assert declared == MOSDOp(
        SpgId(PgId(pool, seed), shard),
        raw_hash,
        epoch,
        flags,
        OsdReqId(EntityName(0, 0), 0, 0),
        Trace(),
        0,
        Utime(5, 6),
        ObjectLocator(pool, -1, "", nspace.decode("utf-8", "surrogateescape")),
        oid,
        raw_ops,
        snapid,
        9,
        tuple(snaps),
        attempt,
        declared.features,
    )
    assert declared.to_bytes() == packed


# ---------------------------------------------------------------- frames


@st.composite
def frame_lists(draw: st.DrawFn) -> list[list[bytes]]:
    sizes = st.sampled_from([0, 1, 41, 100, 5000])
    result = []
    for _ in range(draw(st.integers(1, 4))):
        front, middle = draw(sizes), draw(st.sampled_from([0, 0, 3]))
        data = draw(st.sampled_from([0, 1, 4096, 16384, BULK_SIZE - 1, BULK_SIZE, BULK_SIZE + 5, 300_000]))
        fill = draw(st.integers(1, 255))
        header = bytes(8) + draw(U64).to_bytes(8, "little") + bytes(25)
        result.append([header, bytes([fill]) * front, bytes([fill ^ 1]) * middle, bytes([fill ^ 2]) * data])
    return result


@settings(deadline=None, max_examples=60)
@given(frame_lists(), st.randoms(use_true_random=False), st.booleans())
def test_frames_survive_any_cut(messages: list[list[bytes]], rng: object, sunk: bool) -> None:
    stream = b"".join(bytes(b) for m in messages for b in encode_frame(Tag.MESSAGE, *m))
    places: list[bytearray] = []

    def sink(tid: int, length: int) -> memoryview:
        places.append(bytearray(length))
        return memoryview(places[-1])

    reader = FrameReader(sink) if sunk else FrameReader()
    reader.max_frame = frames.MAX_SEGMENT
    got: list[list[bytes]] = []
    at = 0
    while at < len(stream):
        view = reader.get_buffer()
        n = min(len(view), rng.choice([1, 13, 4096, 65536, 1 << 20]), len(stream) - at)  # type: ignore[attr-defined]
        view[:n] = stream[at : at + n]
        at += n
        reader.received(n)
        while (frame := reader.next_frame()) is not None:
            if frame.data is not None:
                data = frame.data
            else:  # in the sink, unless the frame has no such segment
                data = bytes(places.pop(0)) if len(frame.segments) > 1 else b""
            segments = [bytes(s) for s in frame.segments]
            got.append([*segments, *[b""] * (3 - len(segments)), data])
    assert got == messages


@given(st.binary(min_size=1, max_size=300), st.integers(0, 20000))
def test_the_short_way_to_a_message_frame_gives_the_same_bytes(front: bytes, n: int) -> None:
    header, data = bytes(range(41)), bytes([7]) * n
    short = frames.encode_message_frame(header, front, data)
    assert b"".join(map(bytes, short)) == b"".join(map(bytes, encode_frame(Tag.MESSAGE, header, front, b"", data)))


def test_crc_of_an_empty_segment_is_minus_one() -> None:
    """Writing 0 there makes an OSD close the connection without a word."""
    raw = b"".join(map(bytes, encode_frame(Tag.MESSAGE, bytes(41), b"front", b"", b"data")))
    assert raw[-13] == 0x0E
    assert raw[-8:-4] == b"\xff\xff\xff\xff"


def test_aborted_frames_are_dropped() -> None:
    first = bytearray(b"".join(map(bytes, encode_frame(Tag.MESSAGE, bytes(41), b"gave up"))))
    first[-13] = 0x01
    second = b"".join(map(bytes, encode_frame(Tag.MESSAGE, bytes(41), b"good")))
    reader = FrameReader()
    stream = bytes(first) + second
    reader.get_buffer()[: len(stream)] = stream
    reader.received(len(stream))
    frame = reader.next_frame()
    assert frame is not None and bytes(frame.segments[1]) == b"good"
    assert reader.next_frame() is None


@pytest.mark.parametrize("size", [1 << 20, 1 << 31, (1 << 32) - 1])
def test_an_announced_size_is_not_believed(size: int) -> None:
    reader = FrameReader()
    preamble = frames.encode_preamble(Tag.HELLO, [size])
    reader.get_buffer()[:32] = preamble
    reader.received(32)
    with pytest.raises(ProtocolError, match="bytes, more than"):
        reader.next_frame()
    assert len(reader._buf) == frames.BUFFER_SIZE


# ---------------------------------------------------------------- crc


@pytest.mark.parametrize("choice", list(crc32c.CHOICES))
def test_each_crc_library(choice: str) -> None:
    name, f = crc32c.load(choice)
    assert name == choice
    assert f(b"123456789", 0) == 0xE3069283, "the check value of CRC-32C"
    assert f(b"", 0) == 0
    for data in (b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4]):
        assert f(data, 0) == f(b"abc", 0)
    assert f(b"6789", f(b"12345", 0)) == 0xE3069283


def test_ceph_convention() -> None:
    """src/test/common/test_crc32c.cc."""
    assert crc32c.crc32c(b"foo bar baz", 0) == 4119623852
    assert crc32c.crc32c(b"whiz bang boom", 0) == 2360230088
    assert crc32c.crc32c(b"foo bar baz", 1234) == 881700046
    assert crc32c.crc32c(b"whiz bang boom", 5678) == 3743019208
    assert crc32c.crc32c(b"") == 0xFFFFFFFF


def test_a_missing_library_is_explained() -> None:
    with pytest.raises(KeyError):
        crc32c.load("none")


def test_encoder_appends() -> None:
    e = Encoder()
    mark = e.start(3, 1)
    e.u16(7)
    e.string("x")
    e.finish(mark)
    assert bytes(e).hex() == "03010700000007000100000078"
