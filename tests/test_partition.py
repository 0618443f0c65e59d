"""A network that drops packets: the client in a network namespace of its own, its link cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrbd.testing import Cluster
from tests.conftest import own_cluster

ROOT = Path(__file__).resolve().parents[1]

CLIENT = """
import os, sys, time
sys.path.insert(0, {root!r})
from pyrbd import rados
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # at once: two threads do
with rados.Rados(conffile={conf!r}) as cluster, cluster.open_ioctx("rbd") as ioctx:
    watch = ioctx.watch("watched", lambda *args: None, lambda *args: say("lost", *args))
    for n in range(100_000):
        begun = time.monotonic()
        ioctx.append(f"log.{{n % 20}}", n.to_bytes(8, "little"))
        took = time.monotonic() - begun
        say("slow" if took > 1 else "done", n, round(took, 2))
        if sys.stdin in __import__("select").select([sys.stdin], [], [], 0)[0]:
            break
    watch.close()
say("end")
"""


class Namespace:
    """A namespace with a link to here."""

    def __init__(self) -> None:
        number = os.getpid() % 200 + 20
        self.name = f"pyrbd{os.getpid()}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"
        self.link = f"pyr{os.getpid() % 100000}"

    def ip(self, *args: str) -> None:
        subprocess.run(["ip", *args], check=True, capture_output=True)

    def up(self) -> None:
        self.ip("netns", "add", self.name)
        self.ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        self.ip("addr", "add", f"{self.here}/24", "dev", self.link)
        self.ip("link", "set", self.link, "up")
        self.ip("-n", self.name, "addr", "add", f"{self.there}/24", "dev", "eth0")
        self.ip("-n", self.name, "link", "set", "eth0", "up")
        self.ip("-n", self.name, "link", "set", "lo", "up")

    def cut(self, cut: bool = True) -> None:
        self.ip("link", "set", self.link, "down" if cut else "up")

    def down(self) -> None:
        subprocess.run(["ip", "link", "del", self.link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the program ip")
    ns = Namespace()
    try:
        ns.up()
    except subprocess.CalledProcessError as e:
        ns.down()
        pytest.skip(f"this machine does not allow network namespaces: {e.stderr.decode().strip()}")
    yield ns
    ns.down()


@pytest.fixture
def reachable(namespace: Namespace) -> Iterator[Cluster]:
    with own_cluster(address=namespace.here, osds=2, settings=("global/osd_pool_default_size=2",)) as started:
        yield started


@pytest.mark.timeout(180)
def test_a_network_partition_heals(namespace: Namespace, reachable: Cluster) -> None:
    """Short enough for TCP to go on, and long enough for everybody to have given up."""
    rados_tool = reachable.argv("rados", "-p", "rbd")
    subprocess.run([*rados_tool, "create", "watched"], check=True)
    client = subprocess.Popen(
        [
            "ip",
            "netns",
            "exec",
            namespace.name,
            sys.executable,
            "-c",
            CLIENT.format(root=str(ROOT), conf=str(reachable.conf)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []

    def read(n: int) -> None:
        assert client.stdout is not None
        while n:
            line = client.stdout.readline()
            assert line, client.communicate()[1]
            lines.append(line.strip())
            n -= line.startswith(("done", "slow"))

    try:
        read(100)
        for seconds in (2, 26):
            namespace.cut()
            time.sleep(seconds)  # that is how long the network is away
            namespace.cut(False)
            read(300)
        out, err = client.communicate("\n", timeout=60)
    finally:
        client.kill()
    lines += out.splitlines()
    assert lines[-1] == "end" and "Traceback" not in err, err
    # a watch that did not live through it was told so
    assert ("lost" in err) == any(line.startswith("lost") for line in lines)
    slow = [line.split() for line in lines if line.startswith("slow")]
    assert slow, "the partition was not felt"
    assert all(float(took) < 60 for _, _, took in slow)
    count = sum(line.startswith(("done", "slow")) for line in lines)
    for i in range(20):
        data = subprocess.run([*rados_tool, "get", f"log.{i}", "-"], check=True, capture_output=True).stdout
        numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
        assert numbers == list(range(i, count, 20))
