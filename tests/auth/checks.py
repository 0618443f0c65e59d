"""What is to work with any cluster, key and mode: to log in, to do I/O, to go on over new tickets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from pyrbd import rados
from pyrbd.msgr.types import ENTITY_TYPE_AUTH, ENTITY_TYPE_OSD
from pyrbd.rados.tickets import Tickets


class KeyTypes(NamedTuple):
    """The types of what is used, 1 for aes, 2 for aes256k: of the session with the monitor, of that with OSDs."""

    monitor: int
    osd: int


def tickets_of(cluster: rados.Rados) -> Tickets:
    assert cluster.client.mon is not None
    return cluster.client.mon.tickets


def key_types(cluster: rados.Rados) -> KeyTypes:
    held = tickets_of(cluster).held
    return KeyTypes(held[ENTITY_TYPE_AUTH].session_key.type, held[ENTITY_TYPE_OSD].session_key.type)


def connect_anew(cluster: rados.Rados) -> None:
    """All connections to OSDs end; the next ones show the tickets that are held now."""
    for session in list(cluster.client.objecter._sessions.values()):
        session.abort(rados.OSError("cut by the test"))


@contextmanager
def login(conf: str, name: str = "client.admin", options: Mapping[str, str] = {}) -> Iterator[rados.Rados]:
    cluster = rados.Rados(conffile=conf, name=name, conf=dict(options))
    cluster.connect(timeout=30)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def io(cluster: rados.Rados) -> None:
    """Talks to OSDs, the mgr and a named monitor."""
    with cluster.open_ioctx("rbd") as ioctx:
        for n in range(20):
            ioctx.write_full(f"checked-{n}", b"%d" % n * 5000)
        for n in range(20):
            assert ioctx.read(f"checked-{n}", 1 << 20) == b"%d" % n * 5000
            ioctx.remove_object(f"checked-{n}")
    assert cluster.osd_command(0, json.dumps({"prefix": "version"}), b"")[0] == 0
    assert cluster.mgr_command(json.dumps({"prefix": "osd df"}), b"")[0] == 0
    mons = json.loads(cluster.mon_command(json.dumps({"prefix": "mon dump", "format": "json"}), b"")[1])["mons"]
    assert json.loads(cluster.ping_monitor(mons[0]["name"]))


def rotation(cluster: rados.Rados, rotated: Callable[[], bool], timeout: float = 60) -> None:
    """Verified I/O until `rotated`, with new connections now and then. The cluster's tickets have to be
    short-lived, or its secrets be thrown away by `rotated`."""
    end = time.monotonic() + timeout
    identity = cluster.get_instance_id()
    n = 0
    with cluster.open_ioctx("rbd") as ioctx:
        while not rotated():
            assert time.monotonic() < end, "no new tickets came"
            ioctx.write_full("rotation", b"%d" % n)
            assert ioctx.read("rotation") == b"%d" % n
            n += 1
            if n % 500 == 0:
                connect_anew(cluster)
        connect_anew(cluster)
        ioctx.write_full("rotation", b"last")
        assert ioctx.read("rotation") == b"last"
        ioctx.remove_object("rotation")
    assert cluster.get_instance_id() == identity


def renewed(cluster: rados.Rados, times: int) -> Callable[[], bool]:
    """For :func:`rotation`: so many renewals on the session that is there."""
    tickets = tickets_of(cluster)
    goal = tickets.renewals + times
    return lambda: tickets.renewals >= goal
