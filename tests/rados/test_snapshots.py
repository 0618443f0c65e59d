"""Snapshots of pools and self-managed ones, against librados; listing over splits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.msgr.types import HObject
from pyrbd.testing import Cluster
from tests.proxy import redirected


@pytest.fixture
def pool(handle: rados.Rados, request: pytest.FixtureRequest) -> Iterator[rados.Ioctx]:
    name = f"pool-{request.node.name[:50]}"
    handle.create_pool(name)
    with handle.open_ioctx(name) as ioctx:
        yield ioctx
    handle.delete_pool(name)


def test_snapshots_of_a_pool(pool: rados.Ioctx, librados: Callable[[str], Any]) -> None:
    name = pool.get_pool_name()
    pool.write_full("a", b"first")
    pool.create_snap("one")
    pool.write_full("a", b"second")
    pool.create_snap("two")
    pool.remove_object("a")
    with pytest.raises(rados.ObjectExists):
        pool.create_snap("two")
    snaps = list(pool.list_snaps())
    assert [s.name for s in snaps] == ["one", "two"]
    assert pool.lookup_snap("two").snap_id == snaps[1].snap_id
    assert abs((snaps[0].get_timestamp() - datetime.now()).total_seconds()) < 60
    theirs = librados(
        f"io = cluster.open_ioctx({name!r})\n"
        "result = [[s.name, s.snap_id, s.get_timestamp().timestamp()] for s in io.list_snaps()]"
    )
    assert theirs == [[s.name, s.snap_id, s.get_timestamp().timestamp()] for s in snaps]
    for snap, content in zip(snaps, (b"first", b"second")):
        pool.set_read(snap.snap_id)
        assert pool.read("a") == content
        with pytest.raises(rados.OSError) as e:
            pool.write("a", b"x")
        assert e.value.errno == 30
    pool.set_read(rados.LIBRADOS_SNAP_HEAD)
    with pytest.raises(rados.ObjectNotFound):
        pool.read("a")
    pool.snap_rollback("a", "one")
    assert pool.read("a") == b"first"
    seq, clones = pool.list_object_snaps("a")
    assert seq == snaps[1].snap_id
    assert clones[-1].id == rados.LIBRADOS_SNAP_HEAD
    pool.remove_snap("one")
    assert [s.name for s in pool.list_snaps()] == ["two"]
    with pytest.raises(rados.ObjectNotFound):
        pool.remove_snap("one")
    with pytest.raises(rados.ObjectNotFound):
        pool.lookup_snap("one")
    with pytest.raises(rados.InvalidArgumentError):
        pool.create_self_managed_snap()  # a pool has the one kind or the other


def test_self_managed_snapshots(pool: rados.Ioctx, librados: Callable[[str], Any]) -> None:
    name = pool.get_pool_name()
    pool.write_full("a", b"head 0" * 1000)
    ids: list[int] = []
    for i in range(1, 4):
        ids.append(pool.create_self_managed_snap())
        pool.set_self_managed_snap_write(ids)
        pool.write("a", f"head {i}".encode())
    for i, snap in enumerate(ids):
        pool.set_read(snap)
        assert pool.read("a", 6) == f"head {i}".encode()
    pool.set_read(rados.LIBRADOS_SNAP_HEAD)
    seq, clones = pool.list_object_snaps("a")
    assert seq == ids[-1]
    assert [c.snaps for c in clones] == [(ids[0],), (ids[1],), (ids[2],), ()]
    assert clones[0].overlap == ((6, 5994),) and clones[0].size == 6000
    assert librados(
        f"io = cluster.open_ioctx({name!r})\nresult = []\n"
        f"for s in {ids}:\n    io.set_read(s)\n    result.append(io.read('a', 6).decode())"
    ) == ["head 0", "head 1", "head 2"]
    pool.rollback_self_managed_snap("a", ids[1])
    assert pool.read("a", 6) == b"head 1"
    pool.remove_self_managed_snap(ids[1])
    with pytest.raises(rados.InvalidArgumentError):
        pool.create_snap("a pool snapshot")
    # what a write context without the snapshots does not preserve
    pool.set_self_managed_snap_write([])
    pool.write_full("b", b"1")
    last = pool.create_self_managed_snap()
    pool.write_full("b", b"2")
    pool.set_read(last)
    assert pool.read("b") == b"2"


@pytest.mark.timeout(150)
@pytest.mark.pyrbd_needs("configure")
def test_listing_while_groups_split_and_merge(
    cluster: Cluster, pool: rados.Ioctx, ceph_cli: Callable[..., bytes]
) -> None:
    """Each object that stays is listed once, whatever happens to the groups meanwhile."""
    expected = {f"object {i}" for i in range(1200)}
    completions = [pool.aio_write_full(key, b"x") for key in sorted(expected)]
    for completion in completions:
        completion.wait_for_complete()
    assert sorted(o.key for o in pool.list_objects()) == sorted(expected)
    name = pool.get_pool_name()
    stop = threading.Event()
    rounds: list[int] = []
    wrong: list[Any] = []

    def lister() -> None:
        while not stop.is_set():
            keys = []
            for o in pool.list_objects():
                keys.append(o.key)
                if len(keys) % 100 == 0:
                    time.sleep(0.02)
            if sorted(keys) != sorted(expected):
                wrong.append((len(keys), len(set(keys)), sorted(expected - set(keys))[:3]))
            rounds.append(len(keys))

    threads = [threading.Thread(target=lister, daemon=True) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        for n in (32, 13, 8):
            set_pg_num(ceph_cli, name, n)
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert not any(t.is_alive() for t in threads), "a listing hangs"
    assert len(rounds) > 5 and not wrong
    cluster.wait_clean()


def set_pg_num(ceph_cli: Callable[..., bytes], pool: str, n: int) -> None:
    """Splits or merges the groups of a pool, and waits until the map says so."""
    ceph_cli("osd", "pool", "set", pool, "pg_num", str(n))
    ceph_cli("osd", "pool", "set", pool, "pgp_num", str(n))
    end = time.monotonic() + 40
    while time.monotonic() < end:
        dump = json.loads(ceph_cli("osd", "dump", "--format", "json"))
        if next(p for p in dump["pools"] if p["pool_name"] == pool)["pg_num"] == n:
            return
        time.sleep(0.2)
    raise AssertionError(f"pg_num does not become {n}")


@pytest.mark.timeout(150)
@pytest.mark.pyrbd_needs("configure")
def test_a_listing_whose_group_is_merged_away_meanwhile(
    cluster: Cluster, pool: rados.Ioctx, conf: str, ceph_cli: Callable[..., bytes]
) -> None:
    """The request is on its way when its group ends: it goes to the one that has the objects now."""
    name = pool.get_pool_name()
    for i in range(300):
        pool.write_full(f"object {i}", b"x")
    set_pg_num(ceph_cli, name, 16)
    with redirected() as proxy, rados.Rados(conffile=conf) as other, other.open_ioctx(name) as theirs:
        client, io = other.client, theirs._io
        pages, cursor = [], HObject()
        while not cursor.max:
            page = client.run(io.list_page(cursor))
            pages.append((cursor, page))
            cursor = page.handle
        assert len(pages) == 16
        for p in proxy.pipes:
            p.hold()
        # of the groups 8 to 15, which there will be no more
        begun = [
            (page, client.spawn(io.list_page(cursor)))
            for cursor, page in pages
            if client.osdmap.raw_hash_to_pg(io.pool_id, cursor.hash).seed >= 8
        ]
        assert len(begun) == 8 and not any(c.done for _, c in begun)
        for p in proxy.pipes:
            if any(p.target in m.public_addrs.addrs for m in client.monmap.mons.values()):
                p.hold(False)  # only the OSDs are slow to answer
        set_pg_num(ceph_cli, name, 8)
        end = time.monotonic() + 30
        while client.osdmap.pools[io.pool_id].pg_num != 8:
            assert time.monotonic() < end
            time.sleep(0.05)
        for p in proxy.pipes:
            p.hold(False)
        for page, completion in begun:
            client.attend(completion)
            # the merged group has objects of others too, after these
            theirs_now = completion.result().entries
            assert theirs_now[: len(page.entries)] == page.entries
    cluster.wait_clean()


def test_all_namespaces_are_listed_as_librados_does(pool: rados.Ioctx, librados: Callable[[str], Any]) -> None:
    for nspace in ("", "one", "two"):
        pool.set_namespace(nspace)
        for i in range(30):
            pool.write_full(f"{nspace}.{i}", b"")
    for nspace in ("", "two", rados.LIBRADOS_ALL_NSPACES):
        pool.set_namespace(nspace)
        ours = [[o.nspace, o.key] for o in pool.list_objects()]
        theirs = librados(
            f"io = cluster.open_ioctx({pool.get_pool_name()!r})\nio.set_namespace({nspace!r})\n"
            "result = [[o.nspace, o.key] for o in io.list_objects()]"
        )
        assert ours == theirs, "the same objects in the same order"


def test_a_listing_goes_on_from_a_position(pool: rados.Ioctx) -> None:
    """Also in namespaces, with locators, and beside the objects of which the position is."""
    for nspace in ("", "one"):
        pool.set_namespace(nspace)
        for i in range(100):
            pool.write_full(f"{i}", b"")
        pool.set_locator_key("key")  # all of one hash
        for i in range(20):
            pool.write_full(f"with key {i}", b"")
        pool.set_locator_key("")
    pool.set_namespace(rados.LIBRADOS_ALL_NSPACES)
    begin = pool.list_objects()
    listed: list[tuple[str, str]] = []
    positions: list[int] = []
    while (position := begin.get_pg_hash_position()) is not None:
        for o in begin:
            positions.append(position)
            listed.append((o.nspace, o.key))
            break
        else:
            break
    assert len(set(listed)) == 240
    for at in (0, 1, 100, 239):
        again = pool.list_objects()
        again.seek(positions[at])
        rest = [(o.nspace, o.key) for o in again]
        assert rest == listed[positions.index(positions[at]) :]
        assert again.get_pg_hash_position() is None
    with pytest.raises(rados.InvalidArgumentError):
        begin.seek(-1)
