"""What a client must live through, or fail of at once: full and deleted pools, a blocklist,
maps far behind, cache tiers, redirects, backoffs, lost watches."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.msgr.types import ObjectLocator
from pyrbd.osdmap.pool import FLAG_EIO
from pyrbd.rados import objecter
from pyrbd.testing import Cluster
from tests.conftest import own_cluster
from tests.proxy import Fault, redirected

MIB = 1 << 20
Ceph = Callable[..., Any]


def until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    """Waits for something to come true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def store() -> Iterator[Cluster]:
    """A cluster with bluestore OSDs, for erasure-coded pools with overwrites."""
    settings = (
        "osd/osd_max_markdown_count=100000",
        "osd/osd_backoff_on_peering=true",
        "mon/mon_min_osdmap_epochs=10",
        "mon/paxos_service_trim_min=5",
        "mon/mon_osd_cache_size=20",
    )
    with own_cluster(store="bluestore", settings=settings) as started:
        yield started


@pytest.fixture
def cluster(store: Cluster) -> Iterator[rados.Rados]:
    with rados.Rados(conffile=str(store.conf)) as handle:
        yield handle


@pytest.fixture
def ceph(cluster: rados.Rados) -> Ceph:
    """Commands of the monitors."""

    def command(prefix: str, **args: Any) -> Any:
        result, out, status = cluster.mon_command(json.dumps({"prefix": prefix, "format": "json", **args}), b"")
        assert result == 0, (prefix, result, status)
        return json.loads(out) if out.strip() else None

    return command


@pytest.fixture
def pool(cluster: rados.Rados, request: pytest.FixtureRequest) -> Iterator[rados.Ioctx]:
    """A pool of the test's own."""
    name = request.node.name[:60]
    cluster.create_pool(name)
    with cluster.open_ioctx(name) as ioctx:
        ioctx.application_enable("rbd")
        yield ioctx
    if cluster.pool_exists(name):
        cluster.delete_pool(name)


class Background:
    """Something in a thread, with its result."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.result: Any = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as e:
            self.error = e

    def waits(self, seconds: float = 0.5) -> bool:
        self._thread.join(seconds)
        return self._thread.is_alive()

    def join(self, timeout: float = 60) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.result


def test_writes_to_a_full_pool_wait_until_it_is_not(pool: rados.Ioctx, ceph: Ceph) -> None:
    pool.write_full("a", b"before" * 1000)
    client = pool.rados.client
    name = pool.get_pool_name()
    ceph("osd pool set-quota", pool=name, field="max_bytes", val="1")
    until(lambda: client.osdmap.pools[pool.get_pool_id()].is_full, "the pool is full")
    write = Background(lambda: pool.write_full("a", b"after"))
    assert write.waits()
    assert pool.read("a", 6) == b"before", "reads go on"
    pool.set_osdmap_full_try()
    with pytest.raises(rados.OSError) as e:
        pool.write_full("b", b"x")
    assert e.value.errno in (errno.EDQUOT, errno.ENOSPC)
    pool.unset_osdmap_full_try()
    short = rados.Rados(
        conffile=pool.rados.conf_get("conf") or str(pool.rados.conffile), conf={"rados_osd_op_timeout": "1"}
    )
    with short, short.open_ioctx(name) as other:
        until(lambda: other.rados.client.osdmap.pools[pool.get_pool_id()].is_full, "the other client sees it")
        with pytest.raises(rados.TimedOut, match="full or paused"):
            other.write_full("c", b"x")
    ceph("osd pool set-quota", pool=name, field="max_bytes", val="0")
    write.join()
    assert pool.read("a") == b"after"


def test_a_full_cluster(pool: rados.Ioctx, ceph: Ceph) -> None:
    pool.write_full("a", b"before")
    osdmap = pool.rados.client
    for i, what in enumerate(("nearfull", "backfillfull", "full")):
        ceph(f"osd set-{what}-ratio", ratio=0.00001 * (i + 1))
    try:
        until(lambda: osdmap.osdmap.flags & osdmap.osdmap.FULL or osdmap.osdmap.any_pool_full, "it is full")
        write = Background(lambda: pool.write_full("a", b"after"))
        assert write.waits()
    finally:
        for what, ratio in (("full", 0.95), ("backfillfull", 0.9), ("nearfull", 0.85)):
            ceph(f"osd set-{what}-ratio", ratio=ratio)
    write.join()
    assert pool.read("a") == b"after"


def test_operations_on_a_pool_that_is_deleted_fail(pool: rados.Ioctx, cluster: rados.Rados, store: Cluster) -> None:
    pool.write_full("a", b"x")
    with rados.Rados(conffile=str(store.conf)) as other, other.open_ioctx(pool.get_pool_name()) as theirs:

        def write_on() -> None:
            for i in range(100_000):
                theirs.write_full(f"{i % 50}", b"x" * 1000)

        work = Background(write_on)
        assert work.waits(0.3)
        cluster.delete_pool(pool.get_pool_name())
        with pytest.raises(rados.ObjectNotFound):
            work.join(20)
        with pytest.raises(rados.ObjectNotFound):
            theirs.read("a")
        with pytest.raises(rados.ObjectNotFound):
            theirs.get_stats()
        with pytest.raises(rados.ObjectNotFound):
            other.open_ioctx(theirs.name)


def test_a_blocklisted_client_fails_at_once_and_stays_failed(
    pool: rados.Ioctx, cluster: rados.Rados, ceph: Ceph, store: Cluster
) -> None:
    pool.write_full("a", b"x")
    victim = rados.Rados(conffile=str(store.conf))
    victim.connect()
    theirs = victim.open_ioctx(pool.get_pool_name())
    lost: list[tuple[int, int]] = []
    watch = theirs.watch("a", lambda *args: None, lambda *args: lost.append(args))
    address = victim.get_addrs().removeprefix("v2:")
    ceph("osd set", key="pause")  # so that something is in flight
    victim.wait_for_latest_osdmap()
    waiting = Background(lambda: theirs.write_full("a", b"never"))
    assert waiting.waits()
    cluster.blocklist_add(address)
    with pytest.raises(rados.ConnectionShutdown):
        waiting.join(10)
    ceph("osd unset", key="pause")
    begun = time.monotonic()
    for use in (lambda: theirs.read("a"), lambda: theirs.write("a", b"y"), lambda: theirs.notify("a")):
        with pytest.raises(rados.ConnectionShutdown):
            use()
    assert time.monotonic() - begun < 5
    until(lambda: lost == [(watch.get_id(), -errno.ESHUTDOWN)], "the owner of the watch is told")
    with pytest.raises(rados.ConnectionShutdown):
        watch.check()
    ceph("osd blocklist", blocklistop="rm", addr=address)
    victim.wait_for_latest_osdmap()
    with pytest.raises(rados.ConnectionShutdown):
        theirs.write("a", b"y")
    victim.shutdown()
    with rados.Rados(conffile=str(store.conf)) as again, again.open_ioctx(pool.get_pool_name()) as ioctx:
        assert ioctx.read("a") == b"x"


def test_whole_hosts_are_blocklisted_too(cluster: rados.Rados, ceph: Ceph) -> None:
    own = cluster.client._own_addr()
    assert own is not None
    assert own not in cluster.client.osdmap.blocklist
    cluster.blocklist_add("10.1.2.3:0/0", 60)
    cluster.blocklist_add("10.1.2.4:0/77", 60)
    listed = cluster.client.osdmap.blocklist
    assert own.replace(host="10.1.2.3") in listed
    assert own.replace(host="10.1.2.4") not in listed
    assert own.replace(host="10.1.2.4", port=0, nonce=77) in listed
    # the same, from a full map
    with rados.Rados(conffile=cluster.conffile if isinstance(cluster.conffile, str) else None) as other:
        assert other.client.osdmap.blocklist == listed


@pytest.mark.timeout(180)
def test_a_client_that_is_hundreds_of_epochs_behind(pool: rados.Ioctx, store: Cluster, ceph: Ceph) -> None:
    """The monitors have trimmed the maps between: it gets a full one and goes on."""
    with redirected() as proxy, rados.Rados(conffile=str(store.conf)) as behind:
        theirs = behind.open_ioctx(pool.get_pool_name())
        theirs.write_full("a", b"before")
        mons = {a.port for m in behind.client.monmap.mons.values() for a in m.public_addrs.addrs}
        proxy.plan = lambda addr: Fault(refuse=addr.port in mons)
        for pipe in proxy.pipes:
            if pipe.target.port in mons:
                pipe.reset()
        epoch = behind.client.osdmap.epoch
        for i in range(300):
            ceph("osd set" if i % 2 == 0 else "osd unset", key="noout")
        until(lambda: ceph("report")["osdmap_first_committed"] > epoch + 20, "the maps are trimmed", 100)
        assert behind.client.osdmap.epoch <= epoch + 2, "it should not have heard of any"
        write = Background(lambda: theirs.write_full("a", b"after"))
        proxy.plan = lambda addr: Fault()
        write.join()
        assert theirs.read("a") == b"after"
        behind.wait_for_latest_osdmap()
        assert behind.client.osdmap.epoch >= epoch + 300


def test_a_cache_tier_is_written_and_read_first(
    pool: rados.Ioctx, cluster: rados.Rados, store: Cluster, ceph: Ceph
) -> None:
    base, cache = pool.get_pool_name(), "cache-tier"
    pool.write_full("old", b"in the base")
    cluster.create_pool(cache)
    ceph("osd tier add", pool=base, tierpool=cache)
    ceph("osd tier cache-mode", pool=cache, mode="writeback")
    ceph("osd tier set-overlay", pool=base, overlaypool=cache)
    ceph("osd pool set", pool=cache, var="hit_set_type", val="bloom")
    cluster.wait_for_latest_osdmap()
    pool.write_full("new", b"in the cache")
    assert pool.read("new") == b"in the cache"
    assert pool.read("old") == b"in the base"
    with cluster.open_ioctx(cache) as direct:
        assert "new" in [o.key for o in direct.list_objects()]
    assert cluster.get_pool_base_tier(cluster.pool_lookup(cache) or 0) == pool.get_pool_id()
    theirs = store_tool(store, "-p", base, "get", "new", "-")
    assert theirs == b"in the cache"
    store_tool(store, "-p", cache, "cache-flush-evict-all")
    ceph("osd tier cache-mode", pool=cache, mode="proxy", yes_i_really_mean_it=True)
    ceph("osd tier remove-overlay", pool=base)
    ceph("osd tier remove", pool=base, tierpool=cache)
    cluster.wait_for_latest_osdmap()
    assert pool.read("new") == b"in the cache"
    cluster.delete_pool(cache)


def store_tool(store: Cluster, *args: str) -> bytes:

    return store.tool("rados", *args)


def test_a_redirect_is_followed(pool: rados.Ioctx, cluster: rados.Rados, monkeypatch: pytest.MonkeyPatch) -> None:
    """No OSD of today sends one; the first answer is made to look like one, all else is real."""
    cluster.create_pool("redirected")
    with cluster.open_ioctx("redirected") as elsewhere:
        elsewhere.write_full("there", b"found")
        target = elsewhere.get_pool_id()
        decode = objecter.decode_reply
        calls: list[int] = []

        def first_redirects(front: Any, version: int) -> Any:
            calls.append(1)
            reply = decode(front, version)
            return reply._replace(redirected=True) if len(calls) == 1 else reply

        monkeypatch.setattr(objecter, "decode_reply", first_redirects)
        monkeypatch.setattr(objecter, "decode_redirect", lambda front, version: (ObjectLocator(target), "there"))
        assert pool.read("here") == b"found"
        assert len(calls) == 2
    cluster.delete_pool("redirected")


def test_what_is_to_be_asked_again_is_asked_as_a_new_request(
    pool: rados.Ioctx, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAGAIN, by replies that are made to say so: each time under another tid."""
    decode = objecter.decode_reply
    left = [3]

    def again(front: Any, version: int) -> Any:
        reply = decode(front, version)
        left[0] -= 1
        return reply._replace(result=-errno.EAGAIN) if left[0] >= 0 else reply

    pool.write_full("a", b"x")
    monkeypatch.setattr(objecter, "decode_reply", again)
    assert pool.read("a") == b"x"
    assert left[0] == -1


@pytest.mark.timeout(120)
def test_backoffs_are_honoured(store: Cluster, pool: rados.Ioctx) -> None:
    """An OSD whose group is peering tells us to wait, and then to go on."""
    done = 0

    def work() -> None:
        nonlocal done
        while pool.rados.client.objecter.backoffs.count < 3 or done < 300:
            pool.append(f"{done % 40}", done.to_bytes(8, "little"))
            done += 1

    writer = Background(work)
    for osd in ("osd.0", "osd.1", "osd.2") * 3:
        if not writer.waits(0.1):
            break
        store.stop(osd)
        store.start(osd)
        store.wait_clean()
    writer.join()
    for i in range(40):
        data = pool.read(f"{i}", 1 << 20)
        numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
        assert numbers == list(range(i, done, 40))


def test_an_erasure_coded_data_pool(store: Cluster, cluster: rados.Rados, pool: rados.Ioctx, ceph: Ceph) -> None:
    ceph("osd erasure-code-profile set", name="two-one", profile=["k=2", "m=1", "crush-failure-domain=osd"])
    ceph("osd pool create", pool="ecdata", pg_num=8, pool_type="erasure", erasure_code_profile="two-one")
    cluster.wait_for_latest_osdmap()
    with cluster.open_ioctx("ecdata") as ec:
        ec.application_enable("rbd")
        assert ec.alignment() == 8192
        ec.append("log", bytes(8192))
        with pytest.raises(rados.OSError) as e:
            ec.write("log", b"x", 5)
        assert e.value.errno == errno.EOPNOTSUPP
        ceph("osd pool set", pool="ecdata", var="allow_ec_overwrites", val="true")
        cluster.wait_for_latest_osdmap()
        assert ec.alignment() is None
        until(lambda: _overwrites(ec), "the OSDs allow overwrites")
        ec.write("log", b"x", 5)
        assert ec.read("log", 10) == b"\0" * 5 + b"x" + b"\0" * 4
        with pytest.raises(rados.OSError) as e, rados.WriteOpCtx() as op:
            ec.set_omap(op, ("k",), (b"v",))
            ec.operate_write_op(op, "log")
        assert e.value.errno == errno.EOPNOTSUPP
    rbd.RBD().create(pool, "image", 8 * MIB, 20, features=1, data_pool="ecdata")
    with rbd.Image(pool, "image") as image:
        for i in range(64):
            image.write(bytes([i]) * 5000, i * 130_000)
        image.discard(0, MIB)
        expected = image.read(0, 8 * MIB)
        for osd in ("osd.0", "osd.2"):
            store.kill(osd)
            assert image.read(0, 8 * MIB) == expected
            image.write(b"degraded", 5 * MIB)
            expected = image.read(0, 8 * MIB)
            store.start(osd)
            store.wait_clean()
    assert store.tool("rbd", "export", "--no-progress", f"{pool.get_pool_name()}/image", "-") == expected
    rbd.RBD().remove(pool, "image")
    cluster.delete_pool("ecdata")


def test_memory_is_bounded_with_thousands_of_operations(pool: rados.Ioctx, store: Cluster, ceph: Ceph) -> None:
    """Who begins more than may be in flight is held up; all is done in the end, in order."""
    limits = {"objecter_inflight_ops": "40", "objecter_inflight_op_bytes": str(1 << 20)}
    with rados.Rados(conffile=str(store.conf), conf=limits) as small, small.open_ioctx(pool.get_pool_name()) as io:
        objecter_ = small.client.objecter
        most = [0, 0]

        def begin_many() -> list[rados.Completion]:
            completions = []
            for i in range(2000):
                completions.append(
                    io.aio_append("log", i.to_bytes(4, "little") * 16384 if i % 50 == 0 else i.to_bytes(4, "little"))
                )
                ops, size = objecter_.throttle.in_flight
                most[:] = max(most[0], ops), max(most[1], size)
            return completions

        ceph("osd set", key="pause")
        small.wait_for_latest_osdmap()
        begin = Background(begin_many)
        assert begin.waits(1), "two thousand operations were taken while forty may be in flight"
        assert objecter_.throttle.in_flight[0] <= 40
        ceph("osd unset", key="pause")
        for completion in begin.join():
            completion.wait_for_complete()
            assert completion.get_return_value() == 0
        assert most[0] <= 40 and most[1] <= (1 << 20) + 65536
        data = io.read("log", 8 * MIB)
        want = b"".join(i.to_bytes(4, "little") * (16384 if i % 50 == 0 else 1) for i in range(2000))
        assert data == want
        assert objecter_.throttle.in_flight == (0, 0)


def test_a_thousand_operations_in_flight(pool: rados.Ioctx) -> None:
    completions = [pool.aio_write_full(f"o{i}", i.to_bytes(4, "little") * 64) for i in range(1500)]
    for completion in completions:
        completion.wait_for_complete()
        assert completion.get_return_value() == 0
    got: dict[int, bytes | None] = {}
    for i in range(1500):
        pool.aio_read(f"o{i}", 1000, 0, lambda c, data, i=i: got.__setitem__(i, data))
    pool.aio_flush()
    until(lambda: len(got) == 1500, "all callbacks")
    assert got == {i: i.to_bytes(4, "little") * 64 for i in range(1500)}


def test_a_pool_that_fails_all_requests(pool: rados.Ioctx) -> None:
    """``osd pool set POOL eio true``, which 16.2 does not have: the map is changed here."""
    pool.write_full("a", b"x")
    there = pool.rados.client.objecter
    real = there.osdmap
    assert real is not None
    info = real.pools[pool.get_pool_id()]
    changed = real.replace(pools={**real.pools, pool.get_pool_id(): info.replace(flags=info.flags | FLAG_EIO)})
    there.osdmap = changed
    with pytest.raises(rados.IOError):
        pool.read("a")
    there.osdmap = real
    assert pool.read("a") == b"x"


@pytest.mark.parametrize("flag", ["PAUSERD", "PAUSEWR"])
def test_reads_and_writes_are_paused_each_alone(pool: rados.Ioctx, ceph: Ceph, flag: str) -> None:
    """The monitors set both flags or none: the map is changed here, and the next one ends it."""
    pool.write_full("a", b"before")
    there = pool.rados.client.objecter

    def read() -> bytes:
        return pool.read("a")

    def write() -> bytes:
        pool.write_full("a", b"after")
        return b"written"

    held, passing = (read, write) if flag == "PAUSERD" else (write, read)
    real = there.osdmap
    assert real is not None
    changed = real.replace(flags=real.flags | getattr(real, flag))
    with there.lock:
        there.osdmap = changed
    waiting = Background(held)
    assert Background(passing).join(10) in (b"before", b"written")
    assert waiting.waits()
    ceph("osd set", key="noout")  # with it come the flags as they are
    waiting.join(10)
    ceph("osd unset", key="noout")
    assert pool.read("a") == b"after"


def _overwrites(ioctx: rados.Ioctx) -> bool:
    try:
        ioctx.write("probe", b"x")
        ioctx.write("probe", b"x")
    except rados.OSError:
        return False
    return True
