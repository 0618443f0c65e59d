"""Faults that are the end of a client or a pool: each makes its own, and says what was wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from ci.thrash.workloads import MAGIC, RECORD
from pyrbd import rados
from pyrbd.testing.base import ClusterError
from tests.proxy import Proxy

PATIENCE = 90.0
"""Seconds that something may take that nothing holds up for ever."""
Command = Callable[..., object]


def pool_deleted(conf: Path, command: Command, name: str) -> list[str]:
    """Deletes a pool under a workload and makes it anew: every operation of before ends with
    ObjectNotFound, or was acknowledged before; none hangs, none comes to the new pool."""
    wrong: list[str] = []
    with rados.Rados(conffile=str(conf)) as handle:
        command("osd pool create", pool=name, pg_num=8, pgp_num=8)
        handle.wait_for_latest_osdmap()
        old = handle.open_ioctx(name)
        old.write_full("old", b"of the old pool")
        ends: list[str] = []

        def work(number: int) -> None:
            n = 0
            while True:
                try:
                    flight = [old.aio_append(f"{number}.{i}", RECORD.pack(MAGIC, n)) for i in range(4)]
                    results = []
                    for completion in flight:
                        completion.wait_for_complete()
                        results.append(completion.get_return_value())
                    old.read("old")
                except rados.ObjectNotFound:
                    ends.append("gone")
                    return
                except rados.Error as e:
                    ends.append(repr(e))
                    return
                if bad := [r for r in results if r not in (0, -2)]:
                    ends.append(f"answers {bad}")
                    return
                n += 1

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        command("osd pool delete", pool=name, pool2=name, yes_i_really_really_mean_it=True)
        command("osd pool create", pool=name, pg_num=8, pgp_num=8)
        end = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                wrong.append(f"an operation on pool {name} hangs since it was deleted")
        wrong += [f"pool {name} was deleted: {e}" for e in ends if e != "gone"]
        handle.wait_for_latest_osdmap()
        with handle.open_ioctx(name) as new:
            if new.get_pool_id() == old.get_pool_id():
                wrong.append(f"pool {name}: the new one has the old one's number")
            if there := [o.key for o in new.list_objects()]:
                wrong.append(f"pool {name}: {there[:5]} are in the new one")
            new.write_full("new", b"of the new pool")
            try:
                old.read("new")
                wrong.append(f"pool {name}: what was opened before reads from the new one")
            except rados.ObjectNotFound:
                pass
        command("osd pool delete", pool=name, pool2=name, yes_i_really_really_mean_it=True)
    return wrong


def _blocklist(command: Command, what: str, address: str) -> None:
    try:
        command("osd blocklist", blocklistop=what, addr=address)
    except ClusterError:  # before pacific
        command("osd blacklist", blacklistop=what, addr=address)


def blocklisted(conf: Path, command: Command, proxy: Proxy, pool: str, oid: str) -> list[str]:
    """Blocklists a client whose write is still on its way: it fails at once, and stays failed, and
    the write is not done when it arrives."""
    wrong: list[str] = []
    victim = rados.Rados(conffile=str(conf))
    begun = len(proxy.pipes)
    victim.connect()
    try:
        mons = {a.port for m in victim.client.monmap.mons.values() for a in m.public_addrs.addrs}
        theirs = victim.open_ioctx(pool)
        theirs.write_full(oid, b"before")
        # of this client or another one that was just connecting anew: the latter only waits a while
        held = [p for p in proxy.pipes[begun:] if p.target.port not in mons and not p.closed]
        for pipe in held:
            pipe.hold_up()
        ends: list[BaseException | None] = []

        def write() -> None:
            try:
                theirs.write_full(oid, b"after")
                ends.append(None)
            except BaseException as e:
                ends.append(e)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        time.sleep(0.2)
        address = victim.get_addrs().removeprefix("v2:")
        _blocklist(command, "add", address)
        writer.join(PATIENCE)
        acknowledged = ends == [None]  # by a connection that was made meanwhile, before the cluster knew
        if not ends:
            wrong.append("the write of a client that was blocklisted hangs")
        elif not acknowledged and not isinstance(ends[0], rados.ConnectionShutdown):
            wrong.append(f"the write of a client that was blocklisted: {ends[0]!r}")
        with rados.Rados(conffile=str(conf)) as other, other.open_ioctx(pool) as ioctx:
            other.wait_for_latest_osdmap()
            want = ioctx.read(oid)
            if want != (b"after" if acknowledged else b"before"):
                wrong.append(f"{oid} is {want!r} though the write was fenced off")
            for pipe in held:
                pipe.hold_up(False)
            time.sleep(0.3)
            if ioctx.read(oid) != want:
                wrong.append(f"{oid}: a write of a client that was blocklisted came after the fence")
        _blocklist(command, "rm", address)
        for again in (lambda: theirs.write_full(oid, b"later"), lambda: theirs.read(oid)):
            tried = time.monotonic()
            try:
                again()
                wrong.append("a client that was blocklisted goes on")
            except rados.ConnectionShutdown:
                if time.monotonic() - tried > 30:
                    wrong.append("a client that was blocklisted does not fail at once")
    finally:
        for pipe in proxy.pipes[begun:]:
            pipe.hold_up(False)
        victim.shutdown()
    return wrong
