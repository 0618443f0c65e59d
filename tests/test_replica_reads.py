"""Reads that need not go to the primary: BALANCE_READS and LOCALIZE_READS."""

from __future__ import annotations

import errno
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.rados import objecter, requests
from pyrbd.testing import Cluster
from tests.conftest import own_cluster

BALANCE = rados.LIBRADOS_OPERATION_BALANCE_READS
LOCALIZE = rados.LIBRADOS_OPERATION_LOCALIZE_READS
_numbers = itertools.count()
ALL = {"osd.0", "osd.1", "osd.2"}


@pytest.fixture(scope="module")
def store() -> Iterator[Cluster]:
    """Three OSDs, each in a host of its own."""
    with own_cluster(store="bluestore", settings=("osd/osd_max_markdown_count=100000",)) as started:
        with rados.Rados(conffile=str(started.conf)) as handle:
            for osd in range(3):
                command = {
                    "prefix": "osd crush set",
                    "id": osd,
                    "weight": 1.0,
                    "args": ["root=default", f"host=h{osd}"],
                }
                assert handle.mon_command(json.dumps(command), b"")[0] == 0
        started.wait_clean()
        yield started


def client(store: Cluster, **conf: str) -> rados.Rados:
    return rados.Rados(conffile=str(store.conf), conf=conf)


def read_by(ioctx: rados.Ioctx, oid: str, flags: int = 0) -> tuple[bytes, str]:
    """What the object has, and who said so."""
    request = requests.read(ioctx, oid, 100)
    pending: Any = ioctx.submit(request, flags=flags)
    ioctx._client.wait(pending)
    assert pending.session is not None
    return ioctx.outcome(request, pending), pending.session.name


def fill(ioctx: rados.Ioctx, oid: str) -> None:
    """Writes to the group of an object. A replica answers for the object only when it has heard
    that the last write of it is complete, which it hears with later writes."""
    with ioctx.dup() as beside:
        beside.set_locator_key(oid)
        for _ in range(3):
            beside.write_full(f"filler {next(_numbers)}", b"x")


def answers(ioctx: rados.Ioctx, oid: str, flags: int, osds: set[str]) -> bool:
    """Whether all of these OSDs, and no others but the primary meanwhile, come to answer."""
    seen: set[str] = set()
    for _ in range(30):
        fill(ioctx, oid)
        for _ in range(20):
            data, osd = read_by(ioctx, oid, flags)
            assert data == b"content" and osd in {*osds, primary_of(ioctx, oid)}
            seen.add(osd)
        if osds <= seen:
            return True
    return False


def primary_of(ioctx: rados.Ioctx, oid: str) -> str:
    osdmap = ioctx.rados.client.osdmap
    pool = ioctx.get_pool_id()
    pg = osdmap.raw_hash_to_pg(pool, osdmap.object_to_raw_hash(pool, oid))
    return f"osd.{osdmap.pg_acting_primary(pool, pg.seed)[0]}"


def test_reads_are_spread_over_the_replicas(store: Cluster) -> None:
    with client(store) as handle, handle.open_ioctx("rbd") as ioctx:
        ioctx.write_full("spread", b"content")
        assert answers(ioctx, "spread", objecter.FLAG_BALANCE_READS, ALL)
        assert {read_by(ioctx, "spread")[1] for _ in range(20)} == {primary_of(ioctx, "spread")}
        for flags in (BALANCE, LOCALIZE):
            with rados.ReadOpCtx() as op:
                found, _ = ioctx.get_omap_vals(op, "", "", 10)
                ioctx.operate_read_op(op, "spread", flags)
                assert list(found) == []
    with client(store, rados_replica_read_policy="balance") as handle, handle.open_ioctx("rbd") as ioctx:
        assert answers(ioctx, "spread", 0, ALL)
        assert ioctx.read("spread") == b"content"


def test_the_nearest_replica_is_read(store: Cluster) -> None:
    for osd in range(3):
        with client(store, crush_location=f"root=default host=h{osd}") as handle, handle.open_ioctx("rbd") as ioctx:
            for i in range(5):
                ioctx.write_full(f"near {i}", b"content")
                assert answers(ioctx, f"near {i}", objecter.FLAG_LOCALIZE_READS, {f"osd.{osd}"})
    with client(store, crush_location="root=default;host=elsewhere") as handle, handle.open_ioctx("rbd") as ioctx:
        for i in range(5):  # all are as far as the others
            assert read_by(ioctx, f"near {i}", objecter.FLAG_LOCALIZE_READS)[1] == primary_of(ioctx, f"near {i}")


def test_what_only_the_primary_does_goes_there(store: Cluster) -> None:
    """A class method may write, which a replica would pass over in silence."""
    with client(store, rados_replica_read_policy="balance") as handle, handle.open_ioctx("rbd") as ioctx:
        ioctx.write_full("only", b"x")
        for i in range(10):
            ioctx.lock_exclusive("only", "lock", f"{i}")
            ioctx.unlock("only", "lock", f"{i}")
            ioctx.execute("only", "hello", "say_hello", b"")
        with ioctx.watch("only", lambda *_: b"heard"):
            for _ in range(5):
                assert ioctx.notify("only")
        assert any(o.key == "only" for o in ioctx.list_objects())


@pytest.mark.timeout(180)
def test_reads_of_replicas_are_never_behind_an_acknowledged_write(
    store: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that does not know yet says EAGAIN and the primary is asked; also while OSDs die."""
    decode = objecter.decode_reply
    again = [0]

    def counting(front: Any, version: int) -> Any:
        reply = decode(front, version)
        again[0] += reply.result == -errno.EAGAIN
        return reply

    monkeypatch.setattr(objecter, "decode_reply", counting)
    begun = [0] * 4
    sure = [0] * 4
    stop = threading.Event()
    wrong: list[Any] = []
    read = [0]

    with client(store) as handle, handle.open_ioctx("rbd") as ioctx:
        for i in range(4):
            ioctx.write_full(f"counter {i}", (0).to_bytes(8, "little"))

        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    while not stop.is_set():
                        work()
                except Exception as e:
                    wrong.append(e)

            return run

        def write() -> None:
            for i in range(4):
                begun[i] += 1
                ioctx.write_full(f"counter {i}", begun[i].to_bytes(8, "little"))
                sure[i] = begun[i]

        def check() -> None:
            for i in range(4):
                least = sure[i]
                data, _ = read_by(ioctx, f"counter {i}", objecter.FLAG_BALANCE_READS)
                if not least <= int.from_bytes(data, "little") <= begun[i]:
                    wrong.append((i, least, data, begun[i]))
                read[0] += 1

        threads = [threading.Thread(target=guarded(work), daemon=True) for work in (write, check, check, check)]
        for t in threads:
            t.start()
        try:
            for osd in ("osd.0", "osd.1", "osd.2"):
                before = read[0]
                store.kill(osd)
                time.sleep(1)  # under the fault: it is what the fault is for
                store.start(osd)
                store.wait_clean()
                end = time.monotonic() + 60
                while read[0] < before + 200:
                    assert time.monotonic() < end and not wrong, (wrong, "reads do not go on")
                    time.sleep(0.05)
        finally:
            stop.set()
            for t in threads:
                t.join(60)
        assert not any(t.is_alive() for t in threads) and not wrong
        assert again[0], "no replica was asked for what it did not know yet"
