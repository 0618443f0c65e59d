"""The columns of the table: what must work in every way of being connected."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pyrbd import rados, rbd
from pyrbd.errors import ProtocolError
from pyrbd.msgr.connection import Connection
from pyrbd.msgr.frames import MODE_CRC, MODE_SECURE
from pyrbd.msgr.types import ENTITY_TYPE_OSD
from pyrbd.testing.native import NativeCluster

KIB, MIB = 1024, 1024 * 1024
ROTATIONS = 2
"""How often tickets are renewed, and shown to OSDs, in the last check."""


class Way(NamedTuple):
    """How a client is connected."""

    name: str
    """The client's, without ``client.``."""
    key: str
    """The type of its key."""
    secrets: str
    """The type of the secrets that tickets are made with."""
    mode: str
    compression: str | None
    """What it asks OSDs for."""

    @property
    def prefix(self) -> str:
        """What the names of this way's objects and images begin with."""
        return "-".join(str(field) for field in self)


@contextmanager
def connected(cluster: NativeCluster, way: Way) -> Iterator[rados.Rados]:
    """A client that accepts this way and no other."""
    conf = {
        "rados_osd_op_timeout": "60",
        "rados_mon_op_timeout": "60",
        "ms_client_mode": way.mode,
        "ms_mon_client_mode": way.mode,
        "ms_osd_compress_mode": "force" if way.compression else "none",
        "ms_osd_compression_algorithm": way.compression or "snappy",
        "ms_compress_secure": "true",
    }
    if way.name != "admin":
        conf["keyring"] = str(cluster.dir / f"client.{way.name}.keyring")
    with rados.Rados(conffile=str(cluster.conf), rados_id=way.name, conf=conf) as client:
        yield client


def connections(client: rados.Rados) -> tuple[Connection, list[Connection]]:
    """To the monitor, and to OSDs."""
    core = client.client
    mon = core.mon._session if core.mon is not None else None
    assert mon is not None, "the monitor's connection was lost"
    return mon.conn, [session.conn for session in list(core.objecter._sessions.values())]


def login(cluster: NativeCluster, way: Way) -> None:
    """The cluster lets us in, in the mode that was asked for, and says what `ceph` says."""
    with connected(cluster, way) as client:
        assert client.get_fsid() == json.loads(cluster.tool("ceph", "fsid", "--format", "json"))["fsid"]
        result, out, _ = client.mon_command(json.dumps({"prefix": "osd tree", "format": "json"}), b"")
        assert result == 0 and json.loads(out)["nodes"]
        mon, _ = connections(client)
        _check_mode(mon, way)
        assert client.client.mon is not None
        tickets = client.client.mon.tickets.held.values()
        types = {"aes": 1, "aes256k": 2}
        # of client's key and service's secret, the weaker one decides
        expected = min(types[way.key], types[way.secrets])
        assert {t.session_key.type for t in tickets if t.service_id == ENTITY_TYPE_OSD} == {expected}


def _check_mode(conn: Connection, way: Way) -> None:
    assert conn.mode == {"crc": MODE_CRC, "secure": MODE_SECURE}[way.mode], f"{conn} is in mode {conn.mode}"
    # OSDs agree to compress with each other only, in all releases so far (CompressorRegistry::get_mode)
    assert conn.compression == 0, f"{conn} is compressed: documentation and this check have to change"


def objects(cluster: NativeCluster, way: Way) -> None:
    """Objects of all sizes are what `rados` reads, and the reverse; each OSD is talked to in the mode asked for."""
    rng = random.Random(way.prefix)
    with connected(cluster, way) as client, client.open_ioctx("rbd") as io:
        sizes = [0, 1, 15, 16, 17, 4095, 4096, 65537, 4 * MIB, 4 * MIB + 3]
        contents = {
            f"{way.prefix}-{n}": (rng.randbytes(n) if n % 2 else b"compressible " * (n // 13 + 1))[:n] for n in sizes
        }
        for name, data in contents.items():
            io.write_full(name, data)
        for name, data in contents.items():
            assert io.read(name, len(data) + 1) == data
        by_us, by_rados = f"{way.prefix}-{65537}", f"{way.prefix}-r"
        assert cluster.tool("rados", "-p", "rbd", "get", by_us, "-") == contents[by_us]
        cluster.tool("rados", "-p", "rbd", "put", by_rados, "-", stdin=contents[by_us])
        assert io.read(by_rados, MIB) == contents[by_us]
        many = [io.aio_write_full(f"{way.prefix}-m{i}", b"%d" % i * 1000) for i in range(64)]
        for completion in many:
            completion.wait_for_complete()
            assert completion.get_return_value() == 0
        assert io.read(f"{way.prefix}-m63") == b"63" * 1000
        _, osds = connections(client)
        assert len(osds) == 3
        for conn in osds:
            _check_mode(conn, way)
        for name in [*contents, by_rados, *(f"{way.prefix}-m{i}" for i in range(64))]:
            io.remove_object(name)


def images(cluster: NativeCluster, way: Way) -> None:
    """An image with snapshot and clone, as `rbd` sees it, and one of `rbd`'s."""
    rng = random.Random(way.prefix)
    name, child, theirs = (f"{way.prefix}-{kind}" for kind in ("image", "child", "theirs"))

    def tool(*args: str, stdin: bytes | None = None) -> bytes:
        return cluster.tool("rbd", *args, stdin=stdin)

    def md5(data: bytes) -> str:
        return hashlib.md5(data).hexdigest()

    with connected(cluster, way) as client, client.open_ioctx("rbd") as io:
        r = rbd.RBD()
        r.create(io, name, 24 * MIB, order=20, old_format=False, features=61)
        with rbd.Image(io, name) as image:
            first = rng.randbytes(5 * MIB + 100)
            image.write(first, 3 * MIB - 7)
            image.create_snap("s")
            image.protect_snap("s")
            image.write(b"later", 4 * MIB)
            image.discard(20 * MIB, MIB)
            extents: list[tuple[int, int, bool]] = []
            image.diff_iterate(0, image.size(), "s", lambda *extent: extents.append(extent))
            assert any(offset <= 4 * MIB < offset + length for offset, length, _ in extents)
            content = image.read(0, image.size())
        assert md5(tool("export", "--no-progress", name, "-")) == md5(content)
        assert len(json.loads(tool("snap", "ls", "--format", "json", name))) == 1
        r.clone(io, name, "s", io, child, features=61)
        with rbd.Image(io, child) as clone:
            clone.write(b"of the clone", 6 * MIB - 3)
            content = clone.read(0, clone.size())
            assert content[3 * MIB - 7 : 5 * MIB] == first[: 2 * MIB + 7]
        assert md5(tool("export", "--no-progress", child, "-")) == md5(content)
        with rbd.Image(io, child) as clone:
            clone.flatten()
        assert "parent" not in json.loads(tool("info", "--format", "json", child))
        for image_name in (name, child):
            tool("object-map", "check", "--no-progress", image_name)
            assert not json.loads(tool("info", "--format", "json", image_name))["flags"]
        data = rng.randbytes(2 * MIB + 5)
        tool("import", "--no-progress", "-", theirs, stdin=data)
        with rbd.Image(io, theirs) as image:
            assert image.read(0, image.size()) == data
        r.remove(io, child)
        with rbd.Image(io, name) as image:
            image.unprotect_snap("s")
            image.remove_snap("s")
        r.remove(io, name)
        tool("rm", "--no-progress", theirs)
        assert not {name, child, theirs} & set(r.list(io))


def rotation(cluster: NativeCluster, way: Way) -> None:
    """Tickets are renewed while the monitors' secrets rotate, OSDs take the new ones, and nothing fails meanwhile."""
    with connected(cluster, way) as client, client.open_ioctx("rbd") as io:
        mon = client.client.mon
        assert mon is not None
        name, rounds, seen = f"{way.prefix}-rotation", 0, {mon.tickets.held[ENTITY_TYPE_OSD].secret_id}
        logins, end = mon.tickets.logins, time.monotonic() + 90
        while len(seen) <= ROTATIONS:
            assert time.monotonic() < end, f"tickets of {seen} only"
            block = b"%16d" % rounds
            io.write_full(name, block)
            assert io.read(name, 16) == block
            rounds += 1
            secret_id = mon.tickets.held[ENTITY_TYPE_OSD].secret_id
            if secret_id not in seen:
                seen.add(secret_id)
                for session in list(client.client.objecter._sessions.values()):
                    session.abort(ProtocolError("another connection, with the new ticket"))
        assert io.read(name, 16) == block
        assert mon.tickets.logins == logins, "it logged in again"
        io.remove_object(name)


CHECKS: dict[str, Callable[[NativeCluster, Way], None]] = {
    "login": login,
    "objects": objects,
    "images": images,
    "rotation": rotation,
}
