"""What clusters do to clients: OSDs that die, fall silent, come back elsewhere."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable

import pytest

from pyrbd import rados, rbd
from pyrbd.testing import Cluster

MIB = 1 << 20


class Workload:
    """Writes and reads back, and compares, until it is stopped."""

    def __init__(self, conf: str, name: str) -> None:
        self.done = 0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._conf, self._name = conf, name
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Workload:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the workload hangs"

    def _run(self) -> None:
        try:
            with (
                rados.Rados(conffile=self._conf) as cluster,
                cluster.open_ioctx("rbd") as io,
                rbd.Image(io, self._name) as image,
            ):
                while not self._stop.is_set():
                    i = self.done % 64
                    block = self.done.to_bytes(8, "little") * 512
                    image.write(block, i * MIB)
                    assert image.read(i * MIB, 4096) == block
                    self.done += 1
        except BaseException as e:
            self.error = e

    def progress(self, n: int, timeout: float = 60) -> None:
        """Waits until `n` more rounds have been done."""
        goal, end = self.done + n, time.monotonic() + timeout
        while self.done < goal:
            assert self.error is None, repr(self.error)
            assert time.monotonic() < end, f"{goal - self.done} of {n} rounds are missing"
            time.sleep(0.01)


@pytest.mark.timeout(180)
def test_acknowledged_writes_survive_dying_and_silent_osds(
    daemons: Cluster, conf: str, ioctx: rados.Ioctx, name: str, rbd_cli: Callable[..., bytes]
) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 20)
    with Workload(conf, name) as load:
        load.progress(200)
        daemons.kill("osd.0")
        load.progress(200)
        daemons.start("osd.0")
        daemons.wait_clean()
        load.progress(200)
        daemons.pause("osd.1")  # silent, not closed
        load.progress(200)
        daemons.resume("osd.1")
        daemons.wait_clean()
        load.progress(200)
        daemons.stop("osd.2")
        daemons.start("osd.2")
        load.progress(200)
    assert load.error is None
    daemons.wait_clean()
    exported = rbd_cli("export", "--no-progress", name, "-")
    for i in range(64):
        last = (load.done - 1 - i) // 64 * 64 + i
        assert exported[i * MIB : i * MIB + 4096] == last.to_bytes(8, "little") * 512


@pytest.mark.timeout(120)
def test_a_request_times_out_when_it_was_told_to(daemons: Cluster, conf: str, ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 20)
    patient = {"rados_osd_op_timeout": "0.5"}
    cluster = rados.Rados(conffile=conf, conf=patient)
    cluster.connect()
    with cluster.open_ioctx("rbd") as io, rbd.Image(io, name) as image:
        for i in range(64):
            image.write(b"x" * 10, i * MIB)
        daemons.pause("osd.0")
        try:
            slowest = 0.0
            timeouts = 0
            for i in range(64):
                start = time.monotonic()
                try:
                    image.read(i * MIB, 10)
                except rbd.Timeout as e:
                    timeouts += 1
                    assert "osd.0" in str(e)
                    slowest = max(slowest, time.monotonic() - start)
                if timeouts == 3:
                    break
            assert timeouts, "no object has its primary on osd.0"
            assert 0.5 <= slowest < 0.6
        finally:
            daemons.resume("osd.0")
        daemons.wait_clean()
        assert image.read(0, 10) == b"x" * 10
    cluster.shutdown()


@pytest.mark.timeout(120)
def test_the_monitor_comes_back(daemons: Cluster, conf: str) -> None:
    """Commands wait for it; I/O does not need it."""
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as io:
        io.write_full("mon", b"before")
        daemons.kill("mon.a")
        for _ in range(50):
            assert io.read("mon") == b"before"
        result, _, status = cluster.mon_command('{"prefix": "osd pool ls"}', b"", timeout=0.5)
        assert result == -errno.ETIMEDOUT and "no monitor answered" in status
        daemons.start("mon.a")
        result, out, _ = cluster.mon_command('{"prefix": "osd pool ls", "format": "json"}', b"", timeout=30)
        assert result == 0 and "rbd" in json.loads(out)
        io.remove_object("mon")
    daemons.wait_clean()


def test_flags_that_pause_the_cluster(conf: str, ioctx: rados.Ioctx, ceph_cli: Callable[..., bytes]) -> None:
    """A paused write waits, and is done when the pause ends."""
    ioctx.write_full("paused", b"before")
    ceph_cli("osd", "set", "pause")
    try:
        ioctx.rados.wait_for_latest_osdmap()
        thread = threading.Thread(target=ioctx.write_full, args=("paused", b"after"))
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    finally:
        ceph_cli("osd", "unset", "pause")
    thread.join(20)
    assert not thread.is_alive()
    assert ioctx.read("paused") == b"after"
    ioctx.remove_object("paused")


def test_groups_are_split_under_load(
    daemons: Cluster, conf: str, ioctx: rados.Ioctx, name: str, ceph_cli: Callable[..., bytes]
) -> None:
    """pg_num grows: objects move to new groups while they are written."""
    rbd.RBD().create(ioctx, name, 64 * MIB, 20)
    with Workload(conf, name) as load:
        load.progress(100)
        ceph_cli("osd", "pool", "set", "rbd", "pg_num", "32")
        ceph_cli("osd", "pool", "set", "rbd", "pgp_num", "32")
        load.progress(500)
    assert load.error is None
    daemons.wait_clean()


def test_a_notification_reaches_all_watchers(conf: str, ioctx: rados.Ioctx) -> None:
    ioctx.write_full("watched", b"")
    client = ioctx._client
    heard: list[bytes] = []

    async def work() -> tuple[list[tuple[int, int, bytes]], list[tuple[int, int]]]:
        from pyrbd.rados.watch import decode_acks

        watch = await ioctx._io.watch("watched", lambda notify_id, cookie, gid, payload: heard.append(payload) or b"ok")
        try:
            return decode_acks(await ioctx._io.notify("watched", b"hello"))
        finally:
            await watch.close()

    acks, missing = client.run(work())
    assert heard == [b"hello"] and not missing
    assert [(gid, answer) for gid, _, answer in acks] == [(client.global_id, b"ok")]
    ioctx.remove_object("watched")


@pytest.mark.timeout(120)
def test_a_watch_survives_the_death_of_its_osd(
    daemons: Cluster, ioctx: rados.Ioctx, name: str, rbd_cli: Callable[..., bytes], ceph_cli: Callable[..., bytes]
) -> None:
    """A change of the header is still noticed before the next write."""
    rbd.RBD().create(ioctx, name, 4 * MIB, 20)
    with rbd.Image(ioctx, name) as image:
        header = f"rbd_header.{image.id()}"
        primary = json.loads(ceph_cli("osd", "map", "rbd", header, "--format", "json"))["acting_primary"]
        image.write(b"old", 0)
        daemons.kill(f"osd.{primary}")
        image.write(b"old", 0)
        end = time.monotonic() + 40
        while "watcher=" not in rbd_cli("status", name).decode():
            assert time.monotonic() < end, "the watch was not registered again"
            time.sleep(0.2)
        rbd_cli("snap", "create", "--no-progress", f"{name}@s")
        image.write(b"new", 0)
        daemons.start(f"osd.{primary}")
    assert rbd_cli("export", "--no-progress", f"{name}@s", "-")[:3] == b"old"
    rbd_cli("snap", "rm", "--no-progress", f"{name}@s")
    daemons.wait_clean()


def test_objects_of_any_kind_of_name(ioctx: rados.Ioctx, rados_cli: Callable[..., bytes]) -> None:
    """Placement of real names: what we write, rados finds, and the other way round."""
    for key in ("a", "x" * 200, "with blank", "ümläut", "a%20b", "-dash"):
        ioctx.write_full(key, key.encode())
        assert rados_cli("-p", "rbd", "get", "--", key, "/dev/stdout") == key.encode()
        assert ioctx.read(key) == key.encode()
        ioctx.remove_object(key)
    for nspace in ("one", "two"):
        with ioctx.dup() as other:
            other.set_namespace(nspace)
            other.write_full("same", nspace.encode())
    for nspace in ("one", "two"):
        with ioctx.dup() as other:
            other.set_namespace(nspace)
            assert other.read("same") == nspace.encode()
            assert rados_cli("-p", "rbd", "-N", nspace, "get", "same", "/dev/stdout") == nspace.encode()
            other.remove_object("same")
