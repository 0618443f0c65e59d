"""The monitors of a cluster change while a client is connected: it follows."""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.testing.native import NativeCluster
from tests.conftest import own_cluster

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def growing() -> Iterator[NativeCluster]:
    """A cluster with one monitor, to which others come."""
    with own_cluster(osds=1) as cluster:
        yield cluster


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
    return port


def command(cluster: rados.Rados, prefix: str, **arguments: Any) -> Any:
    """Runs a command of the monitors; its output."""
    cmd = json.dumps({"prefix": prefix, "format": "json", **arguments})
    result, out, status = cluster.mon_command(cmd, b"", timeout=60)
    assert result == 0, status
    return json.loads(out) if out else None


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def names(cluster: rados.Rados) -> list[str]:
    return sorted(cluster.client.monmap.mons)


class Membership:
    """Adds monitors to a cluster, and takes them away."""

    def __init__(self, native: NativeCluster, directory: Path) -> None:
        self.native = native
        self.directory = directory

    def add(self, client: rados.Rados, name: str) -> None:
        """As an operator does: a data directory from the monitors' map and keys, then a daemon that joins."""
        native = self.native
        monmap, conf = self.directory / f"{name}.monmap", native.conf
        cmd = json.dumps({"prefix": "mon getmap"})
        monmap.write_bytes(client.mon_command(cmd, b"", timeout=60)[1])
        addr = f"[v2:127.0.0.1:{free_port()}]"
        section = f"[mon.{name}]\npublic_addrv = {addr}\n"
        conf.write_text(conf.read_text() + section)
        (native.dir / f"mon.{name}").mkdir()
        keyring = str(native.dir / "mkfs.keyring")
        native._finish([native._spawn(f"mon.{name}", "--mkfs", "--monmap", str(monmap), "--keyring", keyring)])
        native._finish([native._spawn(f"mon.{name}", "--public-addrv", addr)])
        native.state["daemons"].append(f"mon.{name}")
        until(lambda: name in command(client, "quorum_status")["quorum_names"])

    def remove(self, client: rados.Rados, name: str) -> None:
        """The daemon ends by itself when it hears of it, and is not started again. It may crash as it ends (16.2
        does, now and then): that is no matter of ours, so its report goes."""
        native, daemon = self.native, f"mon.{name}"
        command(client, "mon rm", name=name)
        native.state["daemons"].remove(daemon)
        until(lambda: name not in names(client))
        until(lambda: native.pid(daemon) is None)
        for meta in (native.dir / "crash").glob("*/meta"):
            if json.loads(meta.read_text())["entity_name"] == daemon:
                shutil.rmtree(meta.parent)


def test_all_monitors_are_replaced_while_we_are_connected(growing: NativeCluster, tmp_path: Path) -> None:
    """In the end none is left that the configuration names, and the client still works; it did not reconnect
    as another one."""
    text = growing.conf.read_text()
    old = tmp_path / "ceph.conf"
    old.write_text(text)
    with rados.Rados(conffile=str(old)) as cluster, cluster.open_ioctx("rbd") as ioctx:
        identity = cluster.get_instance_id()
        members = Membership(growing, tmp_path)
        for name in ("b", "c"):
            members.add(cluster, name)
            until(lambda name=name: name in names(cluster))  # type: ignore[misc]
        members.remove(cluster, "a")
        assert names(cluster) == ["b", "c"]
        ioctx.write_full("object", b"without a")
        assert command(cluster, "quorum_status")["quorum_names"] == ["b", "c"]
        members.add(cluster, "d")
        for name in ("b", "c"):
            members.remove(cluster, name)
        assert names(cluster) == ["d"]
        assert command(cluster, "quorum_status")["quorum_names"] == ["d"]
        assert ioctx.read("object") == b"without a"
        growing.kill("mon.d")
        growing.start("mon.d")
        assert command(cluster, "quorum_status")["quorum_names"] == ["d"]
        assert cluster.get_instance_id() == identity
        monmap = cluster.client.monmap
        assert monmap.ranks == ("d",) and monmap.persistent_features and monmap.epoch > 5
        fsid = re.search(r"fsid = (\S+)", text)
        assert fsid is not None and cluster.get_fsid() == fsid[1]
        # so that the cluster's own tools find it
        addr = monmap.mons["d"].public_addrs
        growing.conf.write_text(re.sub(r"mon_host = .*", f"mon_host = {addr}", growing.conf.read_text()))


def test_priorities_and_weights(growing: NativeCluster, tmp_path: Path) -> None:
    """A monitor of a lower priority is asked before others; they are asked when it is not there."""
    with rados.Rados(conffile=str(growing.conf)) as cluster:
        Membership(growing, tmp_path).add(cluster, "b")
        Membership(growing, tmp_path).add(cluster, "c")
        for name in ("a", "c"):
            command(cluster, "mon set-weight", name=name, weight=10)
        monmap = cluster.client.monmap
        until(lambda: cluster.client.monmap.mons["c"].weight == 10)
        assert (monmap.mons["b"].weight, monmap.mons["b"].priority) == (0, 0)
