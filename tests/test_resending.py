"""Requests that wait to be sent again: in order, for no longer than they must, and each of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pyrbd import rados
from pyrbd.msgr.messages import BACKOFF_OP_BLOCK, BACKOFF_OP_UNBLOCK, MOSDBackoff
from pyrbd.msgr.types import HObject, PgId, SpgId
from pyrbd.rados.session import Session, State
from tests.proxy import Proxy, redirected


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with redirected() as p:
        yield p


@pytest.fixture
def mine(conf: str) -> Iterator[rados.Ioctx]:
    """The pool ``rbd`` of a client of the test's own."""
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        yield ioctx


def place(ioctx: rados.Ioctx, oid: str) -> tuple[int, int]:
    """(group's seed, primary) of an object."""
    osdmap, pool = ioctx.rados.client.osdmap, ioctx.get_pool_id()
    seed = osdmap.raw_hash_to_pg(pool, osdmap.object_to_raw_hash(pool, oid, "", "")).seed
    return seed, osdmap.pg_acting_primary(pool, seed)[0]


def backoff(ioctx: rados.Ioctx, seed: int, op: int, ident: int) -> MOSDBackoff:
    pgid = SpgId(PgId(ioctx.get_pool_id(), seed), -1)
    return MOSDBackoff(pgid, 1, op, ident, HObject().to_bytes(), HObject(max=True).to_bytes())


def test_a_backoff_ends_with_its_connection(proxy: Proxy, mine: rados.Ioctx, name: str) -> None:
    """What it held back is sent on the next one, though no map comes. (The OSD's word is made up.)"""
    mine.append(name, b"a")
    objecter = mine.rados.client.objecter
    seed, osd = place(mine, name)
    session = objecter._sessions[osd]
    objecter._on_backoff(session, backoff(mine, seed, BACKOFF_OP_UNBLOCK, 7))  # of which we never heard
    objecter._on_backoff(session, backoff(mine, seed, BACKOFF_OP_BLOCK, 8))
    objecter._on_backoff(session, backoff(mine, seed, BACKOFF_OP_BLOCK, 9))
    completion = mine.aio_append(name, b"b")
    objecter._on_backoff(session, backoff(mine, seed, BACKOFF_OP_UNBLOCK, 8))
    time.sleep(0.3)
    assert not completion.is_complete(), "one of the two backoffs is still there"
    proxy.reset_all()
    later = mine.aio_append(name, b"c")
    for c in (completion, later):
        c.wait_for_complete_and_cb()
    assert mine.read(name) == b"abc"


def test_a_backoff_of_a_group_that_was_merged_away_is_forgotten(mine: rados.Ioctx, name: str) -> None:
    """The OSD drops it with the group, without a word; the group may come again with a later split."""
    pool = f"merged-{name}"
    mine.rados.create_pool(pool)
    with mine.rados.open_ioctx(pool) as io:
        client = mine.rados.client
        pg_num = client.osdmap.pools[io.get_pool_id()].pg_num
        oid = next(oid for oid in map(str, range(1000)) if place(io, oid)[0] == pg_num - 1)
        io.write_full(oid, b"before")
        seed, osd = place(io, oid)
        client.objecter._on_backoff(client.objecter._sessions[osd], backoff(io, seed, BACKOFF_OP_BLOCK, 1 << 40))
        waiting = io.aio_write_full(oid, b"after")
        for var, n in (("pg_num", pg_num - 1), ("pg_num", pg_num), ("pgp_num", pg_num)):
            command = {"prefix": "osd pool set", "pool": pool, "var": var, "val": str(n)}
            assert mine.rados.mon_command(json.dumps(command), b"")[0] == 0
            end = time.monotonic() + 60
            while getattr(client.osdmap.pools[io.get_pool_id()], var) != n:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert place(io, oid) == (seed, osd)
        waiting.wait_for_complete()
        later = io.aio_write_full(oid, b"later")
        end = time.monotonic() + 30
        while not later.is_complete():
            assert time.monotonic() < end, "it waits for a backoff that has ended with its group"
            time.sleep(0.05)
        assert io.read(oid) == b"later"
    mine.rados.delete_pool(pool)


def test_no_request_overtakes_one_that_waits_for_the_same_object(mine: rados.Ioctx, name: str) -> None:
    """The pause before an OSD is tried again is over, and its timer has not run yet."""
    mine.append(name, b"")
    objecter = mine.rados.client.objecter
    _, osd = place(mine, name)
    session = objecter._sessions[osd]
    objecter._retry_at[osd] = time.monotonic() + 2
    session.abort(OSError("for the test"))
    while osd in objecter._sessions:
        time.sleep(0.001)
    first = [mine.aio_append(name, bytes([i])) for i in range(5)]
    assert osd not in objecter._sessions
    objecter._retry_at.clear()
    second = [mine.aio_append(name, bytes([i])) for i in range(5, 10)]
    for completion in (*first, *second):
        completion.wait_for_complete()
        assert completion.get_return_value() == 0
    assert mine.read(name) == bytes(range(10))


def test_many_requests_that_wait_for_an_osd_need_one_timer(mine: rados.Ioctx, name: str) -> None:
    """With one each, every one would begin as many anew: two OSDs that are gone were enough."""
    objecter, driver = mine.rados.client.objecter, mine.rados.client.driver
    for i in range(20):
        mine.write_full(f"{name}.{i}", b"x")
    before = len(driver._timers)
    for osd, session in list(objecter._sessions.items()):
        objecter._retry_at[osd] = time.monotonic() + 1 + 0.1 * osd
        session.abort(OSError("for the test"))
    most = 0
    completions = [mine.aio_write_full(f"{name}.{i % 20}", b"y") for i in range(900)]
    while not all(c.is_complete() for c in completions):
        most = max(most, len(driver._timers) - before)
        time.sleep(0.01)
    assert most < 20
    for i in range(20):
        mine.remove_object(f"{name}.{i}")


def test_a_deadline_is_kept_on_a_busy_connection(mine: rados.Ioctx, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leads hears the others' answers all the time, and has its own time all the same."""
    client = mine.rados.client
    mine.write_full(name, b"x")
    session = client.objecter._sessions[place(mine, name)[1]]
    op = mine._io.submit_read(name, 0, 1)
    op.deadline = time.monotonic() + 0.2
    monkeypatch.setattr(Session, "pump", lambda self, wait: not time.sleep(0.001))
    waiter = threading.Thread(target=client.driver.wait, args=(op,))
    waiter.start()
    waiter.join(10)
    monkeypatch.undo()
    assert op.done and isinstance(op.error, rados.TimedOut)
    assert session.state is State.READY


@pytest.mark.timeout(120)
def test_a_peer_that_takes_no_bytes_any_more_is_given_up(
    proxy: Proxy, mine: rados.Ioctx, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be sent does not fit into the socket; the kernel would try for a quarter of an hour."""
    monkeypatch.setattr("pyrbd.rados.objecter.PING_INTERVAL", 0.5)
    monkeypatch.setattr("pyrbd.rados.objecter.PING_TIMEOUT", 2.0)
    mine.write_full(name, b"x")
    _, osd = place(mine, name)
    target = mine.rados.client.objecter._sessions[osd].conn.target
    for pipe in proxy.pipes:
        if pipe.target == target:
            pipe.choke()
    data = bytes(range(256)) * (1 << 16)
    mine.write_full(name, data)
    assert mine.read(name, len(data)) == data


def test_a_watch_hears_at_once_after_a_new_interval_with_the_same_primary(
    mine: rados.Ioctx, name: str, ceph_cli: Callable[..., bytes]
) -> None:
    """The OSD forgets the connections of watches then; the next notification must not wait for a ping."""
    pool = f"interval-{name}"
    mine.rados.create_pool(pool)
    heard: list[bytes] = []
    with mine.rados.open_ioctx(pool) as io:
        io.write_full("watched", b"")
        primary = place(io, "watched")[1]

        def callback(notify_id: int, notifier: int, cookie: int, data: bytes) -> None:
            heard.append(data)

        with io.watch("watched", callback) as watch:
            for i, size in enumerate((2, 3, 2, 3)):
                ceph_cli("osd", "pool", "set", pool, "size", str(size))
                io.rados.wait_for_latest_osdmap()
                assert place(io, "watched")[1] == primary
                io.write_full("watched", b"active again")
                begun = time.monotonic()
                assert io.notify("watched", f"{i}", timeout_ms=30_000)
                assert time.monotonic() - begun < 3.0
                watch.check()
    assert sorted(set(heard)) == [b"0", b"1", b"2", b"3"]
    mine.rados.delete_pool(pool)
