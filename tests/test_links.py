"""OSDs whose packets vanish: each is in a network namespace of its own, and its link is cut."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from pyrbd import rados, rbd
from pyrbd.testing import Cluster
from tests.conftest import own_cluster
from tests.test_faults import MIB, Workload


@pytest.fixture(scope="module")
def linked() -> Iterator[Cluster]:
    """Three OSDs, each in a namespace of its own."""
    with own_cluster(netns=True) as started:
        assert started.can.cut_link
        yield started


def until_osd(cluster: Cluster, number: int, up: bool) -> None:
    end = time.monotonic() + 40
    while True:
        osds = json.loads(cluster.tool("ceph", "osd", "dump", "--format", "json"))["osds"]
        if osds[number]["up"] == up:
            return
        assert time.monotonic() < end, f"osd.{number} is not {'up' if up else 'down'} in time"
        time.sleep(0.2)


@pytest.mark.timeout(180)
def test_a_cut_link_under_load_heals(linked: Cluster) -> None:
    """Nobody closes a connection: the write to a silent OSD waits until the map says that it is down."""
    conf = str(linked.conf)
    with rados.Rados(conffile=conf) as client, client.open_ioctx("rbd") as ioctx:
        rbd.RBD().create(ioctx, "image", 64 * MIB, 20)
    with Workload(conf, "image") as load:
        load.progress(100)
        for osd in (1, 0):
            linked.cut_link(f"osd.{osd}")
            until_osd(linked, osd, up=False)
            load.progress(200)
            linked.heal_link(f"osd.{osd}")
            until_osd(linked, osd, up=True)
            load.progress(100)
            linked.wait_clean()
    assert load.error is None
    assert load.done >= 700
    exported = linked.tool("rbd", "export", "--no-progress", "image", "-")
    for i in range(64):
        last = (load.done - 1 - i) // 64 * 64 + i
        assert exported[i * MIB : i * MIB + 4096] == last.to_bytes(8, "little") * 512
    assert linked.check_daemons() == []


@pytest.mark.timeout(120)
def test_a_cut_that_nobody_notices(linked: Cluster) -> None:
    """Shorter than the daemons' patience: what waited is done, by the same connections, with the same map."""
    with rados.Rados(conffile=str(linked.conf)) as client, client.open_ioctx("rbd") as ioctx:
        oid = next(f"o{i}" for i in range(100) if primary(linked, f"o{i}") == 2)
        ioctx.write_full(oid, b"before")
        epoch = client.client.osdmap.epoch
        linked.cut_link("osd.2")
        try:
            completion = ioctx.aio_write_full(oid, b"during")
            assert not waited(completion.is_complete, 1.0)
        finally:
            linked.heal_link("osd.2")
        assert waited(completion.is_complete, 10.0)
        assert completion.get_return_value() == 0 and ioctx.read(oid) == b"during"
        assert client.client.osdmap.epoch == epoch


def primary(cluster: Cluster, oid: str) -> int:
    placed: dict[str, int] = json.loads(cluster.tool("ceph", "osd", "map", "rbd", oid, "--format", "json"))
    return placed["acting_primary"]


def waited(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
