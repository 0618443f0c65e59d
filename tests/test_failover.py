"""Monitors that die, fall silent or lose the quorum, and commands meanwhile."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.testing import Cluster, NativeCluster
from tests.conftest import own_cluster

SECONDS = float(os.environ.get("PYRBD_FAILOVER_SECONDS", "15"))
"""How long monitors are killed; a minute or an hour when it is asked for."""

pytestmark = pytest.mark.timeout(SECONDS + 150)


def quorum(cluster: rados.Rados) -> list[str]:
    cmd = json.dumps({"prefix": "quorum_status", "format": "json"})
    result, out, status = cluster.mon_command(cmd, b"", timeout=60)
    assert result == 0, status
    names: list[str] = json.loads(out)["quorum_names"]
    return names


@pytest.fixture(autouse=True)
def all_of_them_again(monitors: Cluster) -> Iterator[None]:
    """Every test begins with a quorum of three."""
    yield
    for name in ("mon.a", "mon.b", "mon.c"):
        if monitors.pid(name) is None:
            monitors.start(name)
    with rados.Rados(conffile=str(monitors.conf)) as cluster:
        end = time.monotonic() + 60
        while len(quorum(cluster)) < 3:
            assert time.monotonic() < end, "not all monitors came back"
            time.sleep(0.1)


class Load:
    """Threads that do something again and again; the first exception is the test's."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.longest = 0.0
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def _repeat(self, name: str, fn: Any) -> None:
        try:
            while not self._stop.is_set():
                begun = time.monotonic()
                fn()
                self.counts[name] = self.counts.get(name, 0) + 1
                self.longest = max(self.longest, time.monotonic() - begun)
        except BaseException as e:
            self._errors.append(e)

    @contextmanager
    def running(self, **jobs: Any) -> Iterator[None]:
        threads = [threading.Thread(target=self._repeat, args=job) for job in jobs.items()]
        for t in threads:
            t.start()
        try:
            yield
        finally:
            self._stop.set()
            for t in threads:
                t.join(90)
        if self._errors:
            raise self._errors[0]
        assert not any(t.is_alive() for t in threads)


def test_monitors_are_killed_one_after_the_other(monitors: Cluster) -> None:
    """Not one operation or command fails: I/O, commands of monitors and of the mgr, maps, pools, new clients."""
    conf = str(monitors.conf)
    load = Load()
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        identity = cluster.get_instance_id()
        for name in ("image", "snapshotted"):
            rbd.RBD().create(ioctx, name, 8 << 20)
        image = rbd.Image(ioctx, "image")
        written = bytearray(1 << 20)

        def io() -> None:
            offset, data = random.randrange(0, len(written) - 4096), os.urandom(4096)
            image.write(data, offset)
            written[offset : offset + 4096] = data
            assert image.read(offset, 4096) == data

        def command() -> None:
            result, out, status = cluster.mon_command('{"prefix": "osd pool ls", "format": "json"}', b"")
            assert result == 0 and "rbd" in json.loads(out), status

        def change() -> None:
            result, _, status = cluster.mon_command('{"prefix": "config-key set", "key": "k", "val": "v"}', b"")
            assert result == 0, status

        def snapshot() -> None:
            with rbd.Image(ioctx, "snapshotted") as other:
                other.create_snap("s")
                other.remove_snap("s")

        def mgr() -> None:
            assert cluster.mgr_command('{"prefix": "pg stat"}', b"")[0] == 0

        def maps() -> None:
            cluster.wait_for_latest_osdmap()
            cluster.get_cluster_stats()

        def newcomer() -> None:
            with rados.Rados(conffile=conf) as other:
                assert other.list_pools()

        killed = 0
        jobs = {f.__name__: f for f in (io, command, change, snapshot, mgr, maps, newcomer)}
        with load.running(**jobs):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                victim = random.choice(["mon.a", "mon.b", "mon.c"])
                monitors.kill(victim)
                killed += 1
                time.sleep(random.uniform(0.5, 2.0))
                monitors.start(victim)
                while len(quorum(cluster)) < 3:
                    time.sleep(0.05)
        assert image.read(0, len(written)) == bytes(written)
        image.close()
        rbd.RBD().remove(ioctx, "image")
        assert cluster.get_instance_id() == identity, "a client keeps its global id"
    print(f"{killed} monitors killed; {load.counts}; the longest took {load.longest:.1f} s")
    assert killed >= 2 and set(load.counts) == set(jobs)


def test_a_command_waits_for_the_quorum(monitors: Cluster) -> None:
    """The monitor that is left lets us in, and answers nothing until there is a quorum again."""
    with rados.Rados(conffile=str(monitors.conf)) as cluster, cluster.open_ioctx("rbd") as ioctx:
        monitors.kill("mon.a")
        monitors.kill("mon.b")
        end = time.monotonic() + 30  # until its lease is over, it answers
        while json.loads(cluster.ping_monitor("c"))["mon_status"]["state"] in ("leader", "peon"):
            assert time.monotonic() < end
        answers: list[Any] = []
        asker = threading.Thread(target=lambda: answers.append(cluster.mon_command('{"prefix": "osd pool ls"}', b"")))
        asker.start()
        begun = time.monotonic()
        assert cluster.mon_command('{"prefix": "osd pool ls"}', b"", timeout=1.5)[0] == -110
        assert 1.5 <= time.monotonic() - begun < 1.6
        ioctx.write_full("object", b"I/O goes on")
        assert json.loads(cluster.ping_monitor("c"))["mon_status"]["name"] == "c"
        # it cannot give a new client a number, though; librados' pings have none
        begun = time.monotonic()
        with pytest.raises(rados.TimedOut):
            rados.Rados(conffile=str(monitors.conf), conf={"mon_client_ping_timeout": "1"}).ping_monitor("c")
        assert 1 <= time.monotonic() - begun < 1.1
        assert not answers
        monitors.start("mon.a")
        asker.join(60)
        assert answers and answers[0][0] == 0
    monitors.start("mon.b")


def test_a_monitor_outside_of_the_quorum_is_left(monitors: Cluster) -> None:
    """It is alive, and cannot be of use: commands get through by the others."""
    with rados.Rados(conffile=str(monitors.conf)) as cluster:
        mon = cluster.client.mon
        assert mon is not None and mon._session is not None
        ours = mon._session.name
        others = [m for m in ("mon.a", "mon.b", "mon.c") if m != ours]
        for name in others:
            monitors.kill(name)
        time.sleep(0.5)  # ours is alone for a while
        asked = threading.Thread(target=lambda: cluster.mon_command('{"prefix": "osd pool ls"}', b"", timeout=60))
        asked.start()
        monitors.pause(ours)
        for name in others:
            monitors.start(name)
        monitors.resume(ours)
        asked.join(60)
        assert not asked.is_alive()
        assert len(quorum(cluster)) >= 2


def test_a_command_for_a_silent_monitor_fails_in_time(monitors: Cluster) -> None:
    options = {"mon_client_hunt_interval": "0.5", "mon_client_directed_command_retry": "1"}
    with rados.Rados(conffile=str(monitors.conf), conf=options) as cluster:
        monitors.pause("mon.b")
        try:
            begun = time.monotonic()
            result, _, status = cluster.mon_command('{"prefix": "version"}', b"", target="b")
            assert (result, status) == (-6, "mon.b does not answer") and time.monotonic() - begun < 30
            cluster.conf_set("rados_mon_op_timeout", "0.7")
            begun = time.monotonic()
            with pytest.raises(rados.TimedOut):
                cluster.ping_monitor("b")
            assert 0.7 <= time.monotonic() - begun < 0.8
        finally:
            monitors.resume("mon.b")
        with pytest.raises(rados.ObjectNotFound):
            cluster.ping_monitor("nobody")
        cluster.conf_set("mon_client_hunt_interval", "3")
        cluster.conf_set("rados_mon_op_timeout", "0")
        assert cluster.mon_command('{"prefix": "version"}', b"", target=1)[0] == 0
    with pytest.raises(rados.ObjectNotFound):
        rados.Rados(conffile=str(monitors.conf)).ping_monitor("nobody")


@pytest.mark.parametrize("seconds", [0.4, 1.3])
def test_the_time_of_commands_is_kept(monitors: Cluster, seconds: float) -> None:
    """By the option, which may be changed at any time, and by the argument."""
    with rados.Rados(conffile=str(monitors.conf)) as cluster:
        cluster.conf_set("rados_mon_op_timeout", str(seconds))
        for name in ("mon.a", "mon.b", "mon.c"):
            monitors.pause(name)
        try:
            for call in (
                lambda: cluster.mon_command('{"prefix": "osd pool ls"}', b"")[0] == -110,
                lambda: cluster.get_cluster_stats(),
                lambda: cluster.wait_for_latest_osdmap(),
                lambda: cluster.create_pool("x"),
            ):
                begun = time.monotonic()
                try:
                    assert call()
                except rados.TimedOut as e:
                    assert e.errno == 110
                assert seconds <= time.monotonic() - begun < seconds + 0.1
        finally:
            for name in ("mon.a", "mon.b", "mon.c"):
                monitors.resume(name)


def test_a_frozen_mgr_is_replaced_in_the_middle_of_a_command() -> None:
    """The standby gets the command when the monitors say that it is the active one."""
    with own_cluster(osds=1) as native, rados.Rados(conffile=str(native.conf)) as cluster:
        if not isinstance(native, NativeCluster):
            pytest.skip("a second mgr is added to a cluster of plain processes only")
        cmd = '{"prefix": "pg stat"}'
        assert cluster.mgr_command(cmd, b"", timeout=60)[0] == 0
        caps = ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"]
        key = json.dumps({"prefix": "auth get-or-create", "entity": "mgr.y", "caps": caps})
        result, keyring, status = cluster.mon_command(key, b"", timeout=60)
        assert result == 0, status
        (native.dir / "mgr.y").mkdir()
        with open(native.dir / "keyring", "ab") as f:
            f.write(keyring)
        native._finish([native._spawn("mgr.y")])
        native.state["daemons"].append("mgr.y")
        end = time.monotonic() + 60
        while b'"y"' not in cluster.mon_command('{"prefix": "mgr dump"}', b"", timeout=60)[1]:
            assert time.monotonic() < end
            time.sleep(0.1)
        native.pause("mgr.x")
        try:
            answers: list[Any] = []
            asker = threading.Thread(target=lambda: answers.append(cluster.mgr_command(cmd, b"", timeout=60)))
            asker.start()
            asker.join(0.3)
            assert asker.is_alive()
            begun = time.monotonic()
            assert cluster.mon_command('{"prefix": "mgr fail", "who": "x"}', b"", timeout=60)[0] == 0
            asker.join(60)
            assert answers and answers[0][0] == 0, answers
            assert time.monotonic() - begun < 9, "before the silence of the old one could have been noticed"
        finally:
            native.kill("mgr.x")
            native.state["daemons"].remove("mgr.x")
