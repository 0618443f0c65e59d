"""Monitors and OSDs that break the protocol, at every step.

The connection is dropped and the log says why; what was asked is asked again, and done once, when the peer behaves;
nobody is asked in a busy loop; the client shuts down at once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import aio, rados
from pyrbd.crc32c import MASK, standard_crc32c
from pyrbd.msgr.frames import Tag, encode_preamble
from pyrbd.msgr.messages import MMonMap, MonMap, MOSDBackoff, MOSDMap, MWatchNotify
from pyrbd.msgr.osdop import MSG_OSD_OPREPLY
from pyrbd.msgr.types import EntityAddr, HObject, PgId, SpgId
from tests.fuzz.material import sum_frames
from tests.hostile.peer import FakeCluster, Leave, Mischief, Peer, fake_cluster, frame, honest

STEPS = ("banner", "hello", "done", "signature", "ident", "message")
HANDSHAKE = STEPS[:-1]
READY_TIMEOUT = 1


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    before = set(threading.enumerate())
    with fake_cluster() as fake:
        yield fake
    end = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before, "threads are left"


def settings(cluster: FakeCluster, **more: str) -> dict[str, str]:
    return {
        "mon_host": f"v2:{cluster.mon_addr.host}:{cluster.mon_addr.port}",
        "auth_client_required": "none",
        "ms_connection_ready_timeout": str(READY_TIMEOUT),
        **more,
    }


def some_time(times: int, at: str, what: Mischief, *, mon: bool = False) -> Mischief:
    """The first `times` connections to OSDs (or monitors) meet `what` at a step."""

    def mischief(peer: Peer, step: str, data: bytes) -> bytes:
        if peer.is_mon is mon and step == at and peer.number < times:
            return what(peer, step, data)
        return data

    return mischief


def use(cluster: FakeCluster, ioctx: rados.Ioctx, seconds: float = 15.0) -> float:
    """Writes and reads, which must be right; seconds that it took, `seconds` at most."""
    begun = time.monotonic()
    ioctx.append("object", b"record.")
    n = len(cluster.objects[b"object"])
    assert ioctx.read("object") == b"record." * (n // 7)
    assert [oid for oid, _ in cluster.applied].count(b"object") == n // 7, "done twice"
    took = time.monotonic() - begun
    assert took < seconds
    return took


def shut_down(handle: rados.Rados) -> None:
    begun = time.monotonic()
    handle.shutdown()
    assert time.monotonic() - begun < 1.0


# ---------------------------------------------------------------- what a peer may do


def leave(peer: Peer, step: str, data: bytes) -> bytes:
    raise Leave


def half(peer: Peer, step: str, data: bytes) -> bytes:
    peer.send(data[: len(data) // 2])
    raise Leave


def silence(peer: Peer, step: str, data: bytes) -> bytes:
    peer.until_gone()
    raise Leave


def dribble(peer: Peer, step: str, data: bytes) -> bytes:
    """A byte now and then, for ever."""
    return peer.dribble(data[:1] + bytes(10_000) if step == "banner" else encode_preamble(Tag.HELLO, [100_000]) + data)


def stop(peer: Peer, step: str, data: bytes) -> bytes:
    """Sends, and waits for what the client makes of it."""
    peer.send(data)
    peer.until_gone()
    raise Leave


def wrong_sum(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, data[:40] + bytes([data[40] ^ 1]) + data[41:])


def wrong_sum_of_preamble(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, data[:28] + bytes(4) + data[32:])


def unknown_tag(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, sum_frames(b"\x63" + data[1:]))


def four_gigabytes(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, encode_preamble(data[0], [0xFFFFFFFF]) + data[32:])


def five_segments(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, sum_frames(data[:1] + b"\x05" + data[2:]))


def second_hello(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, frame(Tag.HELLO, b"\x04\x01" + bytes(40)) + data)


def a_message_now(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, peer.framed(MSG_OSD_OPREPLY, 8, bytes(200), tid=1) + data)


def wrong_signature(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, frame(Tag.AUTH_SIGNATURE, b"\x01" * 32))


def keepalives_for_ever(peer: Peer, step: str, data: bytes) -> bytes:
    while True:
        peer.send(frame(Tag.KEEPALIVE2, bytes(8)))


def zeroes(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, bytes(1 << 20))


def late_status(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, data[:-13] + b"\x05" + data[-12:])


def replayed(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, data + data)


def out_of_order(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, sum_frames(data[:32] + struct.pack("<Q", 7) + data[40:]))


def answer_behind_damage(peer: Peer, step: str, data: bytes) -> bytes:
    """Speaks on after what ends a connection: nobody must listen."""
    bad = peer.framed(MSG_OSD_OPREPLY, 8, bytes(100), tid=999, seq=peer.seq)
    return stop(peer, step, bad[:40] + bytes([bad[40] ^ 1]) + bad[41:] + data)


def truncated_answer(peer: Peer, step: str, data: bytes) -> bytes:
    return stop(peer, step, sum_frames(_front_of(data, lambda front: front[:-40])))


def more_operations(peer: Peer, step: str, data: bytes) -> bytes:
    def change(front: bytes) -> bytes:
        at = 4 + int.from_bytes(front[:4], "little") + 17 + 8 + 4 + 12 + 4
        return front[:at] + b"\x00\x00\x00\x00" + front[at + 4 + 38 :]

    return stop(peer, step, _front_of(data, change))


def announced_more(peer: Peer, step: str, data: bytes) -> bytes:
    def change(front: bytes) -> bytes:
        at = 4 + int.from_bytes(front[:4], "little") + 17 + 8 + 4 + 12 + 4 + 4 + 34
        return front[:at] + b"\xff\xff\x00\x00" + front[at + 4 :]

    return stop(peer, step, _front_of(data, change))


def _front_of(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A message frame with another front."""
    lengths = [int.from_bytes(data[2 + 6 * i : 6 + 6 * i], "little") for i in range(4)]
    at = 32 + lengths[0] + 4
    header, front = data[32 : 32 + lengths[0]], data[at : at + lengths[1]]
    return frame(Tag.MESSAGE, header, change(front), b"", data[at + lengths[1] : at + lengths[1] + lengths[3]])


ANYWHERE = (leave, half, silence, zeroes)
IN_FRAMES = (wrong_sum, wrong_sum_of_preamble, unknown_tag, four_gigabytes, five_segments)
CASES: list[tuple[str, Mischief, str]] = [
    *[(step, leave, "closed the connection|reset") for step in STEPS],
    *[(step, half, "closed the connection|reset") for step in STEPS],
    *[(step, silence, "not ready within 0.3 s") for step in HANDSHAKE],
    *[(step, dribble, "not ready within 0.3 s|not a Ceph daemon") for step in HANDSHAKE],
    *[(step, zeroes, "unknown tag 0|not a Ceph daemon") for step in STEPS],
    *[(step, wrong_sum, "wrong crc of its first segment") for step in STEPS[1:]],
    *[(step, wrong_sum_of_preamble, "preamble with a wrong crc") for step in STEPS[1:]],
    *[(step, unknown_tag, "unknown tag 99") for step in STEPS[1:]],
    *[(step, four_gigabytes, "bytes, more than the|message header of") for step in STEPS[1:]],
    *[(step, five_segments, "5 segments|lengths for segments") for step in STEPS[1:]],
    *[(step, second_hello, "HELLO, not expected at") for step in STEPS[2:]],
    *[(step, a_message_now, "MESSAGE, not expected at") for step in HANDSHAKE[1:]],
    ("signature", wrong_signature, "wrong signature"),
    ("ident", keepalives_for_ever, "does not come to the end of the handshake"),
    ("message", late_status, "late status 0x5"),
    ("message", replayed, "repeated message 1"),
    ("message", out_of_order, "left messages out before message 7"),
    ("message", answer_behind_damage, "wrong crc of its first segment"),
    ("message", truncated_answer, "truncated"),
    ("message", more_operations, "operations or lengths that do not fit"),
    ("message", announced_more, "operations or lengths that do not fit"),
]


def _names(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("step", "what", "reason"), CASES, ids=lambda v: _names(v) or (v if v in STEPS else ""))
def test_an_osd_that_breaks_the_protocol(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture, step: str, what: Mischief, reason: str
) -> None:
    caplog.set_level(logging.INFO, "pyrbd")
    cluster.mischief = some_time(2, step, what)
    handle = rados.Rados(conf=settings(cluster))
    handle.connect()
    handle.client.driver.ready_timeout = 0.3
    with handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        use(cluster, ioctx, 1.0)
    assert cluster.count(mon=False) >= 3
    assert cluster.most_in_a_second(mon=False) <= 8
    lost = [r.getMessage() for r in caplog.records if "connection lost" in r.getMessage()]
    assert any(re.search(reason, text) for text in lost), lost
    shut_down(handle)


@pytest.mark.parametrize(
    ("step", "what"),
    [
        *[(step, what) for step in HANDSHAKE for what in (leave, half)],
        *[(step, what) for step in ("banner", "done") for what in (silence, dribble)],
        *[("done", what) for what in (wrong_signature, *IN_FRAMES)],
        ("banner", wrong_signature),
        ("monmap", wrong_sum),
        ("osdmap", half),
        ("osdmap", wrong_sum),
        ("osdmap", out_of_order),
        ("version", leave),
    ],
    ids=lambda v: _names(v) or v,
)
def test_a_monitor_that_breaks_the_protocol(cluster: FakeCluster, step: str, what: Mischief) -> None:
    cluster.mischief = some_time(1 if what in (silence, dribble) else 2, step, what, mon=True)
    handle = rados.Rados(conf=settings(cluster))
    if step == "banner" and what in (dribble, wrong_signature):
        with pytest.raises(rados.Error, match="not a Ceph daemon"):  # and no other is known
            handle.connect()
        return
    handle.connect(timeout=20)
    assert "rbd" in handle.list_pools()
    with handle.open_ioctx("rbd") as ioctx:
        handle.wait_for_latest_osdmap()
        use(cluster, ioctx, 2.0)
    assert cluster.most_in_a_second(mon=True) <= 6
    shut_down(handle)


# ---------------------------------------------------------------- no end of it


@pytest.mark.parametrize("what", [leave, wrong_sum, truncated_answer], ids=_names)
def test_an_osd_that_never_serves_us_is_asked_less_and_less(cluster: FakeCluster, what: Mischief) -> None:
    """It lets us in and breaks off at each answer: operations fail at their time, others go on elsewhere."""
    with rados.Rados(conf=settings(cluster, rados_osd_op_timeout="4")) as handle, handle.open_ioctx("rbd") as ioctx:
        victim = _primary(ioctx, "object")
        cluster.mischief = lambda peer, step, data: (
            what(peer, step, data) if step == "message" and peer.addr == victim else data
        )
        begun = time.monotonic()
        with pytest.raises(rados.TimedOut):
            ioctx.append("object", b"record.")
        assert 3.9 < time.monotonic() - begun < 6
        assert cluster.most_in_a_second(mon=False) <= 8
        last = cluster.count(mon=False, since=time.monotonic() - 2)
        assert last <= 4, "it should be asked less and less"
        elsewhere = next(f"o{i}" for i in range(99) if _primary(ioctx, f"o{i}") != victim)
        ioctx.write_full(elsewhere, b"x")
        assert ioctx.read(elsewhere) == b"x"
        cluster.mischief = honest
        assert len([1 for oid, _ in cluster.applied if oid == b"object"]) <= 1
        handle.client.op_timeout = 10
        ioctx.write_full("object", b"")
        assert ioctx.stat("object")[0] == 0


def _primary(ioctx: rados.Ioctx, oid: str) -> EntityAddr:
    osdmap = ioctx.rados.client.osdmap
    pool = ioctx.get_pool_id()
    seed = osdmap.raw_hash_to_pg(pool, osdmap.object_to_raw_hash(pool, oid)).seed
    return osdmap.osd_addrs(osdmap.pg_acting_primary(pool, seed)[0]).msgr2_addrs[0]


@pytest.mark.parametrize("step", ["done", "ident", "monmap"])
def test_a_monitor_that_never_serves_us_is_asked_less_and_less(cluster: FakeCluster, step: str) -> None:
    cluster.mischief = some_time(10**9, step, leave, mon=True)
    handle = rados.Rados(conf=settings(cluster))
    with pytest.raises(rados.TimedOut, match=r"closed the connection|silent|not tried"):
        handle.connect(timeout=4)
    assert cluster.most_in_a_second(mon=True) <= 6
    assert cluster.count(mon=True) <= 20


def test_a_monitor_that_lets_us_go_at_once(cluster: FakeCluster) -> None:
    """Connected once, then each monitor session ends as it begins: operations go on meanwhile."""
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        cluster.mischief = some_time(10**9, "monmap", leave, mon=True)
        cluster.say_to_all(mon=True, make=lambda peer: b"\xff" * 64)
        time.sleep(3)
        use(cluster, ioctx, 1.0)
        assert cluster.most_in_a_second(mon=True) <= 5
        cluster.mischief = honest
        assert handle.mon_command('{"prefix": "x"}', b"", timeout=15)[0] == 0


# ---------------------------------------------------------------- nonsense in well-formed messages


def test_answers_to_what_nobody_asked(cluster: FakeCluster) -> None:
    def mischief(peer: Peer, step: str, data: bytes) -> bytes:
        if step == "message" and not peer.is_mon:
            peer.seq -= 1  # the answer comes last
            nobody = [peer.framed(MSG_OSD_OPREPLY, 8, bytes(200), b"data", tid) for tid in (0, 2**64 - 1, 77)]
            unknown = peer.framed(4242, 1, b"who knows")
            peer.send(b"".join((*nobody, unknown)))
            peer.seq += 1
            data = sum_frames(data[:32] + struct.pack("<Q", peer.seq) + data[40:])
        return data

    cluster.mischief = mischief
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        for _ in range(3):
            use(cluster, ioctx, 1.0)
    assert cluster.count(mon=False) == 1


def test_backoffs_and_notifications_that_make_no_sense(cluster: FakeCluster) -> None:
    bound = HObject("", "x", 0, 7, False, "", 1).to_bytes()

    def nonsense(peer: Peer) -> bytes:
        groups = [SpgId(PgId(99, 5)), SpgId(PgId(-1, 2**32 - 1)), SpgId(PgId(1, 10**6), 3)]
        backoffs = [
            peer.message(MOSDBackoff(g, epoch, op, ident, bound, bound))
            for g in groups
            for op in (0, 1, 2, 3, 255)
            for epoch, ident in ((0, 0), (2**32 - 1, 2**64 - 1))
        ]
        notifies = [
            peer.message(MWatchNotify(1, op, cookie, 1, 5, b"\xff" * 9, -5, 3), data)
            for op in (0, 1, 2, 3, 200)
            for cookie in (0, 1, 2**64 - 1)
            for data in (b"", b"\xff" * 30)
        ]
        return b"".join((*backoffs, *notifies))

    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        assert cluster.say_to_all(mon=False, make=nonsense) == 1
        use(cluster, ioctx, 1.0)
    assert cluster.count(mon=False) == 1


def _epoch(handle: rados.Rados) -> int:
    return handle.client.osdmap.epoch


def _wait(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def test_maps_of_the_past_and_of_others(cluster: FakeCluster, caplog: pytest.LogCaptureFixture) -> None:
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        first = _epoch(handle)
        other = b"\xee" * 16
        mine, wrong = cluster.fsid, cluster.full_map(first + 1, other)
        maps = [
            MOSDMap(mine, {}, {first - 1: cluster.full_map(first - 1)}, 1, first - 1),  # older
            MOSDMap(other, {}, {first + 1: wrong}, 1, first + 1),  # of another cluster
            MOSDMap(mine, {}, {first + 1: wrong}, 1, first + 1),  # the same, but it does not say so
            MOSDMap(mine, {}, {first + 2: cluster.full_map(first - 5)}, 1, first + 2),  # not what it says
        ]
        for mon in (True, False):
            for message in maps:
                assert cluster.say_to_all(mon=mon, make=lambda peer, m=message: peer.message(m)) == 1  # type: ignore[misc]
        cluster.epoch = first + 3
        use(cluster, ioctx, 1.0)
        assert handle.mon_command('{"prefix": "x"}', b"")[0] == 0
        assert _epoch(handle) in (first, first + 3), "only the monitor's own map is believed"
        handle.wait_for_latest_osdmap()
        assert _epoch(handle) == first + 3
        use(cluster, ioctx, 1.0)
    text = caplog.text
    assert "of another cluster" in text and "it says that it is epoch" in text
    assert cluster.count(mon=True) == 1


def test_incremental_maps_that_cannot_be_decoded(cluster: FakeCluster, caplog: pytest.LogCaptureFixture) -> None:
    """A whole map is asked for, once, and not the same again and again."""
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        first = _epoch(handle)
        cluster.incrementals = {first + 1: b"\x08\x07\xff\xff\x00\x00 rubbish", first + 2: b""}
        cluster.epoch = first + 2
        del cluster.subscriptions[:]
        assert cluster.say_to_all(mon=True, make=lambda peer: peer.message(cluster.maps(first + 1))) == 1
        _wait(lambda: _epoch(handle) == first + 2)
        asked = [s["osdmap"] for s in cluster.subscriptions]
        assert asked.count(0) == 1 and len(asked) <= 2
        use(cluster, ioctx, 1.0)
    assert "cannot be decoded" in caplog.text


def test_no_map_can_be_decoded(cluster: FakeCluster) -> None:
    """Not the whole one either: the client goes on with what it has, and asks now and then."""
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        first = _epoch(handle)
        cluster.incrementals = {first + 1: b"rubbish"}
        cluster.full, whole = cluster.full[:40] + b"\xff" * 9 + cluster.full[49:], cluster.full
        cluster.epoch = first + 1
        del cluster.subscriptions[:]
        assert cluster.say_to_all(mon=True, make=lambda peer: peer.message(cluster.maps(first + 1))) == 1
        time.sleep(2)
        use(cluster, ioctx, 1.0)
        assert 1 <= len(cluster.subscriptions) <= 4
        cluster.full = whole
        _wait(lambda: _epoch(handle) == first + 1)


def test_a_monitor_that_sends_us_nowhere(cluster: FakeCluster) -> None:
    """Its map names monitors that are not there, and then it goes: the configured address is tried again."""
    nowhere = MonMap.from_bytes(cluster.monmap)
    assert list(nowhere.mons) == ["a"]
    raw = cluster.monmap
    port = cluster.mon_addr.port.to_bytes(2, "big")
    assert raw.count(port) >= 1
    elsewhere = raw.replace(port, (1).to_bytes(2, "big"))
    real = cluster.address_for
    from pyrbd.rados import session

    def address_for(addr: Any) -> tuple[str, int]:
        return ("127.0.0.1", 1) if addr.port == 1 else real(addr)

    setattr(session, "socket_address", address_for)  # noqa: B010
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        use(cluster, ioctx)
        peers = [p for p in cluster.peers if p.is_mon]
        assert cluster.say_to_all(mon=True, make=lambda peer: peer.message(MMonMap(elsewhere))) == 1
        _wait(lambda: handle.client.monmap.mons["a"].public_addrs.addrs[0].port == 1)
        for peer in peers:
            try:
                peer.sock.shutdown(2)
            except OSError:  # it has noticed already that this one is not in the map
                pass
        assert handle.mon_command('{"prefix": "x"}', b"", timeout=20)[0] == 0
        use(cluster, ioctx, 1.0)
    assert cluster.count(mon=True) == 2


def test_a_monitor_of_another_cluster(cluster: FakeCluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pyrbd")
    with rados.Rados(conf=settings(cluster)) as handle, handle.open_ioctx("rbd") as ioctx:
        other = cluster.monmap.replace(cluster.fsid, b"\xee" * 16)
        assert cluster.say_to_all(mon=True, make=lambda peer: peer.message(MMonMap(other))) == 1
        _wait(lambda: cluster.count(mon=True) == 2)
        assert handle.mon_command('{"prefix": "x"}', b"", timeout=10)[0] == 0
        use(cluster, ioctx, 1.0)
    assert "of another cluster" in caplog.text


# ---------------------------------------------------------------- the other door, and the end


@pytest.mark.parametrize(("step", "what"), [("done", dribble), ("message", half), ("message", announced_more)], ids=str)
def test_the_asyncio_door(cluster: FakeCluster, step: str, what: Mischief) -> None:
    cluster.mischief = some_time(2, step, what)

    async def main() -> None:
        async with aio.Rados(conf=settings(cluster)) as handle:
            ioctx = await handle.open_ioctx("rbd")
            begun = time.monotonic()
            await ioctx.write_full("object", b"data")
            assert await ioctx.read("object") == b"data"
            assert time.monotonic() - begun < 10
        assert cluster.most_in_a_second(mon=False) <= 8

    asyncio.run(main())
    assert len(cluster.applied) == 1


@pytest.mark.parametrize("step", [*HANDSHAKE, "message"])
def test_shutdown_while_a_peer_is_silent(cluster: FakeCluster, step: str) -> None:
    cluster.mischief = some_time(10**9, step, silence)
    handle = rados.Rados(conf=settings(cluster))
    handle.connect()
    ioctx = handle.open_ioctx("rbd")
    completion = ioctx.aio_write_full("object", b"x")
    _wait(lambda: cluster.count(mon=False) > 0)
    shut_down(handle)
    completion.wait_for_complete()
    assert completion.get_return_value() < 0


def test_a_frame_is_summed_as_the_helpers_say() -> None:
    """The cases above send what they mean to send."""
    good = frame(Tag.HELLO, b"payload")
    assert sum_frames(good) == good
    assert int.from_bytes(good[28:32], "little") == standard_crc32c(good[:28], MASK) ^ MASK
    assert sum_frames(b"\x63" + good[1:])[28:32] != good[28:32]
