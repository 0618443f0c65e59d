"""What was found by fuzzing, and bounds on what a peer may make us do or keep; no cluster is needed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyrbd.denc import Decoder, Encoder
from pyrbd.errors import ConfigError, DecodeError, ProtocolError
from pyrbd.image import cls_rbd, directory, header, namespaces, trash
from pyrbd.msgr import frames
from pyrbd.msgr.auth import AUTH_METHOD_NONE, Authenticator, AuthResult
from pyrbd.msgr.compression import LZ4, SNAPPY, ZLIB, ZSTD, codec
from pyrbd.msgr.connection import MAX_HANDSHAKE_FRAMES, AuthDone, AuthMore, Connection, Hello, State
from pyrbd.msgr.frames import MODE_CRC, FrameReader, Tag, encode_banner, encode_frame, encode_preamble
from pyrbd.msgr.messages import MonMap
from pyrbd.msgr.types import ENTITY_TYPE_OSD, EntityAddr, EntityName, HObject, PgListResponse, Utime
from pyrbd.osdmap import Incremental, OSDMap
from pyrbd.osdmap.addrs import addr_bytes
from pyrbd.osdmap.blocklist import Blocklist
from pyrbd.osdmap.crush import (
    BUCKET_TREE,
    CRUSH_ITEM_NONE,
    RULE_CHOOSE_FIRSTN,
    RULE_CHOOSELEAF_INDEP,
    RULE_EMIT,
    RULE_TAKE,
    Bucket,
    CrushMap,
    Rule,
    Step,
)
from pyrbd.rados import cls_lock, requests
from pyrbd.rados.commands import decode_json, inconsistent_pgs
from pyrbd.rados.config import Config, early_args, parse_conf
from pyrbd.rados.exceptions import Error, ObjectNotFound
from pyrbd.rados.io import IoContext
from pyrbd.rados.operations import OpOutput, OpReply
from tests.fuzz.material import epochs, sum_map

ADDR = EntityAddr(EntityAddr.TYPE_MSGR2, 1, "127.0.0.1", 6800)


def peak_of(fn: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        fn()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- frames and the handshake


class Patient(Authenticator):
    """Answers whatever it is asked."""

    method = AUTH_METHOD_NONE

    def request(self) -> bytes:
        return b""

    def reply_more(self, payload: Any) -> bytes:
        return bytes(100)

    def done(self, payload: Any) -> AuthResult:
        return AuthResult(b"", b"", {})  # type: ignore[arg-type]


def _frame(tag: int, payload: bytes) -> bytes:
    return b"".join(map(bytes, encode_frame(tag, payload)))


def test_a_handshake_has_an_end() -> None:
    """AUTH_REPLY_MORE for ever, as large as it may be: no memory, and no answers, for more than a few."""
    conn = Connection(ENTITY_TYPE_OSD, ADDR, Patient(), own_nonce=1)
    conn.receive_data(encode_banner() + _frame(Tag.HELLO, Hello(ENTITY_TYPE_OSD, ADDR).to_bytes()))
    more = _frame(Tag.AUTH_REPLY_MORE, AuthMore(bytes(frames.MAX_FRAME_HANDSHAKE - 100)).to_bytes())
    answered = 0

    def flood() -> None:
        nonlocal answered
        with pytest.raises(ProtocolError, match="end of the handshake"):
            while True:
                conn.receive_data(more)
                answered += len(conn.data_to_send())

    assert peak_of(flood) < 3 * MAX_HANDSHAKE_FRAMES * frames.MAX_FRAME_HANDSHAKE
    assert conn.state is State.CLOSED and answered <= MAX_HANDSHAKE_FRAMES + 2  # and what was said before


def test_a_global_id_that_cannot_be_one() -> None:
    conn = Connection(ENTITY_TYPE_OSD, ADDR, Patient(), own_nonce=1)
    conn.receive_data(encode_banner() + _frame(Tag.HELLO, Hello(ENTITY_TYPE_OSD, ADDR).to_bytes()))
    with pytest.raises(ProtocolError, match="global id"):
        conn.receive_data(_frame(Tag.AUTH_DONE, AuthDone(1 << 63, MODE_CRC, b"").to_bytes()))


def test_a_callers_buffer_is_for_those_whose_signature_was_checked() -> None:
    asked: list[int] = []
    conn = Connection(
        ENTITY_TYPE_OSD,
        ADDR,
        Patient(),
        own_nonce=1,
        sink=lambda tid, n: asked.append(tid),  # type: ignore[func-returns-value]
    )
    conn.receive_data(encode_banner() + _frame(Tag.HELLO, Hello(ENTITY_TYPE_OSD, ADDR).to_bytes()))
    conn.receive_data(_frame(Tag.AUTH_DONE, AuthDone(5, MODE_CRC, b"").to_bytes()))
    message = b"".join(map(bytes, encode_frame(Tag.MESSAGE, bytes(41), b"front", b"", bytes(frames.BULK_SIZE))))
    with pytest.raises(ProtocolError, match="not expected at signature"):
        conn.receive_data(message)
    assert not asked


def test_memory_for_data_comes_with_the_data() -> None:
    """256 MiB announced, the largest message that there may be, and not sent."""
    head = encode_preamble(Tag.MESSAGE, [frames.HEADER_SIZE, 5, 0, frames.MAX_SEGMENT - 100])
    first = encode_frame(Tag.MESSAGE, bytes(41), b"front", b"", b"x")[0]
    stream = head + bytes(first)[32 : 32 + 41 + 4 + 5] + bytes(1 << 20)

    def receive() -> None:
        reader = FrameReader()
        reader.max_frame = frames.MAX_SEGMENT
        at = 0
        while at < len(stream):
            view = reader.get_buffer()
            n = min(len(view), len(stream) - at)
            view[:n] = stream[at : at + n]
            at += n
            reader.received(n)
            assert reader.next_frame() is None
        assert reader.in_bulk

    assert peak_of(receive) < frames.BULK_ROOM + 4 * len(stream)


def test_a_long_message_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "BULK_ROOM", 100_000)
    data = bytes(range(256)) * 4000
    stream = b"".join(map(bytes, encode_frame(Tag.MESSAGE, bytes(41), b"front", b"", data))) * 2
    reader = FrameReader()
    reader.max_frame = frames.MAX_SEGMENT
    at, found = 0, 0
    while at < len(stream):
        view = reader.get_buffer()
        n = min(len(view), 70_001, len(stream) - at)
        view[:n] = stream[at : at + n]
        at += n
        reader.received(n)
        while (frame := reader.next_frame()) is not None:
            assert frame.data == data
            found += 1
    assert found == 2


@pytest.mark.parametrize("method", [ZLIB, ZSTD, LZ4, SNAPPY])
def test_what_a_compressed_frame_announces_is_not_believed(method: int) -> None:
    """256 MiB in a few bytes. And what compresses well is still read, up to the limit."""
    size, limit = frames.MAX_SEGMENT - 1, frames.MAX_SEGMENT
    algorithm = codec(method)
    good = algorithm.compress(bytes(1 << 20))
    assert algorithm.decompress(good, 1 << 20) == bytes(1 << 20)
    with pytest.raises(ProtocolError):
        algorithm.decompress(good, (1 << 20) - 1)
    varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21 & 0x7F])
    lies = {
        ZLIB: b"\0" + b"\xed\xc1" + bytes(20),
        ZSTD: size.to_bytes(4, "little") + good[4:],
        LZ4: (1).to_bytes(4, "little") + size.to_bytes(4, "little") + (20).to_bytes(4, "little") + bytes(20),
        SNAPPY: varint + bytes(20),
    }

    def read() -> None:
        with pytest.raises(ProtocolError, match="does not decompress"):
            algorithm.decompress(lies[method], limit)

    assert peak_of(read) < 16 << 20


# ---------------------------------------------------------------- maps


def _endless() -> CrushMap:
    m = CrushMap()
    m.max_devices = 4
    m.buckets[-1] = Bucket(-1, 1, 5, 0, 4, (0, 1, 2, 3), (0x10000,) * 4)
    m.rules[0] = Rule(1, (Step(RULE_TAKE, -1, 0), Step(RULE_CHOOSE_FIRSTN, 2**31 - 1, 0), Step(RULE_EMIT, 0, 0)))
    m.tunables = m.tunables._replace(choose_total_tries=2**32 - 1)
    return m


def test_a_rule_without_an_end_is_given_up() -> None:
    begun = time.monotonic()
    with pytest.raises(DecodeError, match="does not come to an end"):
        _endless().do_rule(0, 1, 5, [0x10000] * 4)
    assert time.monotonic() - begun < 20


def test_the_rule_of_a_very_large_cluster_is_none_of_these() -> None:
    """Ten thousand hosts in one root, twelve chunks: more than there is."""
    m = CrushMap()
    m.max_devices = 10_000
    hosts = tuple([-2 - i for i in range(10_000)])
    m.buckets[-1] = Bucket(-1, 2, 5, 0, 0, hosts, (0x10000,) * len(hosts))
    for i, host in enumerate(hosts):
        m.buckets[host] = Bucket(host, 1, 5, 0, 0x10000, (i,), (0x10000,))
    m.rules[0] = Rule(3, (Step(RULE_TAKE, -1, 0), Step(RULE_CHOOSELEAF_INDEP, 0, 1), Step(RULE_EMIT, 0, 0)))
    found = m.do_rule(0, 7, 12, [0x10000] * 10_000)
    assert len(set(found)) == 12 and CRUSH_ITEM_NONE not in found


def test_a_map_with_such_a_rule_places_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrbd.osdmap.mapper.MAX_DRAWS", 1000)
    m = OSDMap.decode_full(epochs()["first"])
    m._crush = _endless()
    pool_id, pool = next((i, p) for i, p in m.pools.items())
    m._crush.rules[pool.crush_rule] = m._crush.rules[0]
    m.osd_weight = (0,) * m.max_osd
    assert m.pg_to_up_acting(pool_id, 0) == ((), -1, (), -1)


def test_a_tree_bucket_whose_nodes_lead_beyond_its_items() -> None:
    m = CrushMap()
    m.max_devices = 4
    m.buckets[-1] = Bucket(-1, 1, BUCKET_TREE, 0, 3, (0, 1, 2), (), (0, 0, 0, 0, 9, 0, 0, 0xFFFFFFFF))
    m.rules[0] = Rule(1, (Step(RULE_TAKE, -1, 0), Step(RULE_CHOOSE_FIRSTN, 1, 0), Step(RULE_EMIT, 0, 0)))
    for x in range(50):
        assert set(m.do_rule(0, x, 1, [0x10000] * 4)) <= {0, 1, 2}


def _changed(data: bytes, change: Callable[[Incremental], None]) -> None:
    base = OSDMap.decode_full(epochs()["first"])
    inc = Incremental.decode(data)
    change(inc)
    base.apply(inc)


def test_incrementals_that_do_not_fit() -> None:
    first = epochs()["incrementals"][0]

    def more_osds(inc: Incremental) -> None:
        inc.new_max_osd = 2**31 - 1

    def other_epoch(inc: Incremental) -> None:
        inc.fullmap = epochs()["last"]

    for change in (more_osds, other_epoch):
        with pytest.raises(DecodeError):
            assert peak_of(lambda change=change: _changed(first, change)) < 10 << 20  # type: ignore[misc]


def test_affinities_for_other_osds_than_there_are() -> None:
    m = OSDMap.decode_full(epochs()["last"])
    assert m.primary_affinity and len(m.primary_affinity) == m.max_osd
    affinities = b"".join(a.to_bytes(4, "little") for a in m.primary_affinity)
    count = len(m.primary_affinity).to_bytes(4, "little")
    raw = epochs()["last"]
    at = raw.index(count + affinities)
    # one less of them; the bytes of the last are taken for the length of what follows
    with pytest.raises(DecodeError):
        OSDMap.decode_full(sum_map(raw[:at] + (m.max_osd - 1).to_bytes(4, "little") + raw[at + 4 :]))


def test_a_blocklisted_range_that_is_none() -> None:
    us = EntityAddr(2, 1, "10.0.0.1", 0)

    def ranges(*networks: tuple[str, int]) -> Blocklist:
        kind = EntityAddr.TYPE_ANY
        return Blocklist({}, {addr_bytes(EntityAddr(kind, bits, host, 0)): bytes(8) for host, bits in networks})

    bad = [("10.0.0.0", 33), ("10.0.0.0", 2**32 - 1), ("::", 129), ("", 8)]
    assert us not in ranges(*bad)
    assert us in ranges(*bad, ("10.0.0.0", 8))


def test_a_monitor_map_with_counts_beyond_its_bytes() -> None:
    with pytest.raises(DecodeError):
        MonMap.from_bytes(b"\x0a\x03\x20\x00\x00\x00" + b"\xff" * 32)


# ---------------------------------------------------------------- what classes and daemons answer


class Same:
    """An object class that gives the same page for ever."""

    pool_id = 1
    namespace = ""

    def __init__(self, page: bytes) -> None:
        self.page = page
        self.client = SimpleNamespace(config=Config(environ={}))
        self.asked = 0

    def with_namespace(self, name: str) -> Same:
        return self

    async def operate(self, oid: str, op: Any, **kwargs: Any) -> OpReply:
        self.asked += 1
        assert self.asked < 50, "asks for ever"
        return OpReply(0, tuple([OpOutput(0, self.page) for _ in op.ops]), 1)

    async def call(self, oid: str, cls: str, method: str, data: Any = b"", **kwargs: Any) -> bytes:
        return (await self.operate(oid, SimpleNamespace(ops=[0]))).ops[0].data


def _names(n: int, *more: bytes) -> bytes:
    e = Encoder()
    e.u32(n)
    for i in range(n):
        e.string(f"name{i:05}")
        for m in more:
            e.raw(m)
    return bytes(e.buf)


def test_listings_that_begin_again_and_again() -> None:
    spec = trash.TrashImageSpec(0, "x", Utime(), Utime()).to_bytes()
    for ask, page in (
        (trash.entries, _names(trash._PAGE, spec)),
        (namespaces.list_, _names(namespaces._PAGE)),
    ):
        with pytest.raises(DecodeError, match="does not go on"):
            asyncio.run(ask(Same(page)))  # type: ignore[operator]
    assert cls_rbd.listed_up_to("a", ["b", "\udcff", "c"]) == "\udcff"
    assert directory._LIST_PAGE


def test_a_header_that_names_snapshots_which_are_not_there() -> None:
    class Missing(Same):
        async def operate(self, oid: str, op: Any, **kwargs: Any) -> OpReply:
            self.asked += 1
            assert self.asked < 100, "asks for ever"
            if len(op.ops) == 4:
                raise ObjectNotFound("no such snapshot", 2)
            return OpReply(0, tuple([OpOutput(0, o) for o in outputs]), 1)

    u64 = lambda n: n.to_bytes(8, "little")  # noqa: E731
    outputs = [bytes([22]) + u64(1 << 30), u64(0) * 2, u64(4) + (1).to_bytes(4, "little") + u64(4), bytes(4), u64(0)]
    outputs += [b""] * 9
    with pytest.raises(DecodeError, match="snapshots that are not there"):
        asyncio.run(header.load(Missing(b""), "rbd_header.x", False, "x"))  # type: ignore[arg-type]


def test_a_header_of_format_1_of_another_size() -> None:
    class Header(Same):
        async def operate(self, oid: str, op: Any, **kwargs: Any) -> OpReply:
            return OpReply(0, (OpOutput(0, bytes(header.V1_HEADER.size + 1)), OpOutput(0, bytes(12))), 1)

    with pytest.raises(DecodeError, match="has 113 bytes"):
        asyncio.run(header.load(Header(b""), "x.rbd", True, "x"))  # type: ignore[arg-type]


def test_a_sparse_read_whose_extents_do_not_fit_its_data() -> None:
    e = Encoder()
    e.u32(1)
    e.u64(0)
    e.u64(100)
    e.blob(b"short")
    ioctx: Any = SimpleNamespace()
    with pytest.raises(DecodeError, match="sparse read"):
        requests.sparse_read(ioctx, "o", 100).finish(OpReply(0, (OpOutput(0, bytes(e.buf)),), 1))


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff", b"[1]", b'[{"pg": 1}]', b'{"pg_stats": 5}', b"null"])
def test_json_of_another_form(text: bytes) -> None:
    with pytest.raises(DecodeError, match="JSON"):
        inconsistent_pgs(text)
    assert decode_json(b'{"a": 1}', lambda found: found["a"]) == 1


def test_maps_with_structs_for_keys_are_encoded_in_their_order() -> None:
    who = [cls_lock.LockerId(EntityName(8, n), c) for n in (5, 4) for c in ("b", "a")]
    how = cls_lock.LockerInfo(Utime(), ADDR, "")
    info = cls_lock.LockInfo(dict.fromkeys(who, how), 1, "tag")
    assert list(cls_lock.LockInfo.decode(Decoder(info.to_bytes())).lockers) == who[::-1]


# ---------------------------------------------------------------- configuration


def test_options_that_name_each_other_many_times(tmp_path: Path) -> None:
    """Each is made of the next one two thousand times: the first would have 2000**6 bytes."""
    names = ["keyfile", "keyring", "log_file", "mon_host", "mon_host_override", "mon_dns_srv_name"]
    lines = [f"{a} = {f'${b}/' * 2000}" for a, b in itertools.pairwise(names)]
    conf = tmp_path / "ceph.conf"
    conf.write_text("\n".join(["[global]", *lines, f"{names[-1]} = {'x' * 2000}"]))
    config = Config(environ={})
    config.read_file(str(conf))
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="too long"):
        config.get(names[0])
    assert time.monotonic() - begun < 10
    assert len(config.get(names[-2]) or "") == 2001 * 2000


def test_arguments_with_a_quote_that_is_not_closed() -> None:
    with pytest.raises(ConfigError, match="No closing quotation"):
        early_args([], {"CEPH_ARGS": "--id 'a"})
    assert parse_conf("a = 1") == {"global": {"a": "1"}}


def test_a_listing_of_objects_that_stands_still() -> None:
    cursor = HObject("", "o", 0, 7, False, "", 1)
    page = PgListResponse(cursor, ()).to_bytes()
    client: Any = SimpleNamespace(osdmap=SimpleNamespace(epoch=1), op_timeout=0.0)
    answers = [page, page[:-1]]

    async def submit(op: Any) -> OpReply:
        return OpReply(0, (OpOutput(0, answers.pop(0)),), 1)

    client.objecter = SimpleNamespace(operation=lambda *a, **k: None, submit=submit)
    io = IoContext(client, 1)
    with pytest.raises(Error, match="does not go on"):
        asyncio.run(io.list_page(cursor))
    with pytest.raises(Error, match="truncated"):
        asyncio.run(io.list_page(HObject()))
