"""Three monitors: one that dies or falls silent is not the client's end."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrbd import rados
from pyrbd.testing import Cluster

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def all_of_them_again(monitors: Cluster) -> Iterator[None]:
    """Every test begins with a quorum of three."""
    yield
    with rados.Rados(conffile=str(monitors.conf)) as cluster:
        end = time.monotonic() + 60
        while len(command(cluster, "quorum_status")["quorum_names"]) < 3:
            assert time.monotonic() < end, "not all monitors came back"
            time.sleep(0.1)


def command(cluster: rados.Rados, prefix: str) -> dict[str, list[str]]:
    result, out, status = cluster.mon_command(json.dumps({"prefix": prefix, "format": "json"}), b"", timeout=60)
    assert result == 0, status
    answer: dict[str, list[str]] = json.loads(out)
    return answer


def monitor_of(cluster: rados.Rados) -> str:
    """The name of the monitor that the client talks to."""
    mon = cluster.client.mon
    assert mon is not None and mon._session is not None and mon.monmap is not None
    target = mon._session.conn.target
    return next(f"mon.{name}" for name, m in mon.monmap.mons.items() if target in m.public_addrs.msgr2_addrs)


def test_commands_and_maps_go_on_at_another_monitor_when_ours_dies(monitors: Cluster) -> None:
    with rados.Rados(conffile=str(monitors.conf)) as cluster, cluster.open_ioctx("rbd") as ioctx:
        identity = cluster.get_instance_id()
        ioctx.write_full("object", b"before")
        ours = monitor_of(cluster)
        monitors.kill(ours)
        try:
            assert ioctx.read("object") == b"before"
            assert command(cluster, "quorum_status")["quorum_names"]
            assert monitor_of(cluster) != ours
            assert cluster.get_instance_id() == identity, "a client keeps its global id"
            cluster.create_pool("made-without-it")
            with cluster.open_ioctx("made-without-it") as other:
                other.write_full("object", b"new")
            cluster.delete_pool("made-without-it")
        finally:
            monitors.start(ours)


def test_a_silent_monitor_does_not_hinder_connecting(monitors: Cluster) -> None:
    monitors.pause("mon.c")
    try:
        for _ in range(5):
            cluster = rados.Rados(conffile=str(monitors.conf))
            cluster.connect(timeout=15)  # the others may have to elect first
            assert monitor_of(cluster) != "mon.c"
            cluster.shutdown()
    finally:
        monitors.resume("mon.c")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_connections_to_the_slower_monitors_are_closed(monitors: Cluster) -> None:
    """Three are tried at a time; the shutdown may come before the last answer."""

    def once() -> None:
        with rados.Rados(conffile=str(monitors.conf)):
            pass

    once()
    gc.disable()  # it would close them
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(150):
            once()
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


IMPATIENT = {"mon_client_ping_interval": "0.5", "mon_client_ping_timeout": "2"}


def test_a_monitor_that_falls_silent_is_left(monitors: Cluster) -> None:
    with rados.Rados(conffile=str(monitors.conf), conf=IMPATIENT) as cluster:
        ours = monitor_of(cluster)
        monitors.pause(ours)
        try:
            assert command(cluster, "quorum_status")["quorum_names"]
            assert monitor_of(cluster) != ours
        finally:
            monitors.resume(ours)


def test_one_monitor_in_mon_host_is_enough_to_know_all(monitors: Cluster, tmp_path: Path) -> None:
    text = monitors.conf.read_text()
    line = next(line for line in text.splitlines() if line.startswith("mon_host"))
    last = line.rpartition("[")[2].rstrip("]")
    conf = tmp_path / "ceph.conf"
    conf.write_text(text.replace(line, f"mon_host = [{last}]"))
    with rados.Rados(conffile=str(conf)) as cluster:
        assert monitor_of(cluster) == "mon.c"
        monitors.kill("mon.c")
        try:
            assert command(cluster, "quorum_status")["quorum_names"]
        finally:
            monitors.start("mon.c")
