"""Connections that are cut at any byte, half closed, silent or late; with real daemons behind."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from pyrbd import aio, rados
from pyrbd.msgr.types import EntityAddr
from tests.proxy import Fault, Proxy, redirected

RECORD = struct.Struct("<Q8x")
MIB = 1 << 20


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with redirected() as p:
        yield p


class Log:
    """Numbered records in one object: each acknowledged one must be there, each once, in order."""

    def __init__(self, oid: str) -> None:
        self.oid = oid
        self.sure: list[int] = []
        self.maybe: set[int] = set()
        self._next = 0

    def next(self) -> int:
        self._next += 1
        return self._next

    def check(self, ioctx: rados.Ioctx) -> None:
        data = ioctx.read(self.oid, 16 * MIB)
        there = [RECORD.unpack_from(data, at)[0] for at in range(0, len(data), RECORD.size)]
        assert len(data) % RECORD.size == 0
        assert there == sorted(set(there)), "out of order, or done twice"
        assert set(self.sure) <= set(there), "lost"
        assert set(there) <= set(self.sure) | self.maybe, "never written"


class Plan:
    """The connections to OSDs, or to monitors, one after the other."""

    def __init__(self, proxy: Proxy, osds: bool) -> None:
        self.fault = Fault()
        self.struck = 0
        self._osds = osds
        self._mons: set[int] = set()
        proxy.plan = self._next

    def of_monitors(self, handle: rados.Rados) -> None:
        self._mons = {a.port for m in handle.client.monmap.mons.values() for a in m.public_addrs.addrs}

    def _next(self, addr: EntityAddr) -> Fault:
        if (addr.port not in self._mons) is self._osds:
            fault, self.fault = self.fault, Fault()
            self.struck += fault != Fault()
            return fault
        return Fault()


def osd_of(ioctx: rados.Ioctx, oid: str) -> EntityAddr:
    osdmap = ioctx.rados.client.osdmap
    raw = osdmap.object_to_raw_hash(ioctx.get_pool_id(), oid, "", "")
    primary, _ = osdmap.pg_acting_primary(ioctx.get_pool_id(), osdmap.raw_hash_to_pg(ioctx.get_pool_id(), raw).seed)
    addr = osdmap.osd_addrs(primary).msgr2
    assert addr is not None
    return addr


@pytest.mark.timeout(240)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_connections_that_are_cut_at_any_byte(proxy: Proxy, conf: str, name: str, direction: str) -> None:
    """From the first byte of the banner on; three appends in flight each time."""
    rng = random.Random(direction)
    log = Log(name)
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        plan = Plan(proxy, osds=True)
        plan.of_monitors(cluster)
        for at in sorted({*range(0, 600, 12), *rng.sample(range(600, 4200), 60)}):
            plan.fault = Fault(cut_up=at) if direction == "up" else Fault(cut_down=at)
            proxy.reset_all()
            for _ in range(4):
                flight = []
                for _ in range(3):
                    n = log.next()
                    flight.append((n, ioctx.aio_append(log.oid, RECORD.pack(n))))
                for n, completion in flight:
                    completion.wait_for_complete()
                    assert completion.get_return_value() == 0
                    log.sure.append(n)
        assert plan.struck > 80
        log.check(ioctx)
        assert cluster.client.objecter.resends > 20


@pytest.mark.timeout(180)
def test_monitor_connections_that_are_cut(proxy: Proxy, conf: str, name: str) -> None:
    """The login is tried again, commands are asked again."""
    rng = random.Random(3)
    plan = Plan(proxy, osds=True)  # until the monitors are known, every connection is one to them
    for at in sorted({*range(0, 400, 25), *rng.sample(range(400, 3000), 15)}):
        kind = rng.choice(("cut_up", "cut_down"))
        plan.fault = Fault()
        setattr(plan.fault, kind, at)
        with rados.Rados(conffile=conf) as cluster:
            assert "rbd" in cluster.list_pools()
            proxy.reset_all()
            assert cluster.mon_command('{"prefix": "osd pool ls"}', b"", timeout=30)[0] == 0
    assert plan.struck > 20


@pytest.mark.timeout(240)
def test_big_transfers_that_are_cut(proxy: Proxy, conf: str, name: str) -> None:
    rng = random.Random(5)
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        plan = Plan(proxy, osds=True)
        plan.of_monitors(cluster)
        into = bytearray(4 * MIB)
        for i in range(30):
            data = rng.randbytes(4 * MIB)
            plan.fault = Fault(cut_up=rng.randrange(4 * MIB)) if i % 2 else Fault(half_close_up=rng.randrange(4 * MIB))
            proxy.reset_all()
            ioctx.write_full(name, data)
            plan.fault = Fault(cut_down=rng.randrange(4 * MIB)) if i % 3 else Fault(half_close_down=rng.randrange(MIB))
            proxy.reset_all()
            if i % 2:
                assert ioctx.read(name, 4 * MIB) == data
            else:
                assert ioctx.read_into(name, into) == 4 * MIB
                assert into == data
        assert plan.struck > 40
        ioctx.remove_object(name)


@pytest.mark.timeout(120)
def test_a_connection_that_falls_silent_is_noticed_in_time(proxy: Proxy, conf: str, name: str) -> None:
    """The daemon is well, but nothing comes through any more: nobody else would notice."""
    with rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "60"}) as cluster, cluster.open_ioctx("rbd") as ioctx:
        log = Log(name)
        for _ in range(3):
            n = log.next()
            ioctx.append(log.oid, RECORD.pack(n))
            log.sure.append(n)
        target = osd_of(ioctx, name)
        for pipe in proxy.pipes:
            if pipe.target == target:
                pipe.hold()
        begun = time.monotonic()
        n = log.next()
        ioctx.append(log.oid, RECORD.pack(n))
        log.sure.append(n)
        assert time.monotonic() - begun < 40
        log.check(ioctx)


@pytest.mark.timeout(120)
def test_a_handshake_that_falls_silent_is_tried_again(proxy: Proxy, conf: str, name: str) -> None:
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        plan = Plan(proxy, osds=True)
        plan.of_monitors(cluster)
        plan.fault = Fault(stall_down=100)
        begun = time.monotonic()
        ioctx.write_full(name, b"x")
        assert plan.struck == 1
        assert 10 < time.monotonic() - begun < 40
        assert ioctx.read(name) == b"x"


def test_answers_that_come_late_and_in_another_order(proxy: Proxy, conf: str, name: str) -> None:
    """One OSD's answers are held back while others' go on; order per object holds."""
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        every = [Log(f"{name}.{i}") for i in range(100)]
        target = osd_of(ioctx, every[0].oid)
        there = [log for log in every if osd_of(ioctx, log.oid) == target]
        logs = [*there[:6], *(log for log in every if log not in there)][:12]
        for log in logs:
            n = log.next()
            ioctx.append(log.oid, RECORD.pack(n))
            log.sure.append(n)
        held = [p for p in proxy.pipes if p.target == target]
        for pipe in held:
            pipe.hold()
        flight = []
        for _ in range(5):
            for log in logs:
                n = log.next()
                flight.append((log, n, ioctx.aio_append(log.oid, RECORD.pack(n))))
        elsewhere = [f for f in flight if osd_of(ioctx, f[0].oid) != target]
        assert 0 < len(elsewhere) < len(flight)
        for _, _, completion in elsewhere:
            completion.wait_for_complete()
        assert not any(c.is_complete() for log, _, c in flight if osd_of(ioctx, log.oid) == target)
        for pipe in held:
            pipe.hold(False)
        for log, n, completion in flight:
            completion.wait_for_complete()
            assert completion.get_return_value() == 0
            log.sure.append(n)
        for log in logs:
            log.check(ioctx)


def test_the_asyncio_door_when_connections_are_cut(proxy: Proxy, conf: str, name: str) -> None:
    rng = random.Random(9)
    log = Log(name)

    async def main() -> None:
        async with aio.Rados(conffile=conf) as cluster:
            ioctx = await cluster.open_ioctx("rbd")
            plan = Plan(proxy, osds=True)
            plan.of_monitors(cluster)  # type: ignore[arg-type]
            for at in (*range(0, 500, 25), *rng.sample(range(500, 4000), 20)):
                plan.fault = Fault(cut_down=at) if at % 2 else Fault(cut_up=at)
                proxy.reset_all()
                numbers = [log.next() for _ in range(6)]
                tasks = [asyncio.ensure_future(ioctx.append(name, RECORD.pack(n))) for n in numbers]
                cancelled = rng.choice(tasks)
                await asyncio.sleep(rng.random() * 0.002)
                cancelled.cancel()
                for n, result in zip(numbers, await asyncio.gather(*tasks, return_exceptions=True)):
                    if result == 0:
                        log.sure.append(n)
                    else:
                        assert isinstance(result, asyncio.CancelledError)
                        log.maybe.add(n)
            assert plan.struck > 30

    asyncio.run(main())
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        log.check(ioctx)


def test_nothing_is_left_after_shutdown_when_connections_were_cut(proxy: Proxy, conf: str, name: str) -> None:
    before = set(threading.enumerate())
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        for i in range(10):
            ioctx.write_full(f"{name}.{i}", b"x")
            proxy.reset_all()
    end = time.monotonic() + 5
    while time.monotonic() < end and (set(threading.enumerate()) - before or any(not p.closed for p in proxy.pipes)):
        time.sleep(0.02)
    assert not set(threading.enumerate()) - before
    assert all(p.closed for p in proxy.pipes)
