"""A long run of verified workloads while a cluster is thrashed.

``python3 ci/thrash --seconds 180 --seed 7`` starts a cluster of its own, runs the workloads
of :mod:`ci.thrash.workloads` while :mod:`ci.thrash.faults` does what clusters do, heals
everything, reads all back, and reports. Nothing may be lost, wrong, done twice, or hang.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ci.thrash.faults import ERASURE, PROFILE, REPLICATED, Thrasher
from ci.thrash.features import BigTransfers, Lister, Locker, Snapshots, VersionChain, Watcher
from ci.thrash.workloads import Appender, AsyncioAppender, ImageWriter, Overwriter, Workload
from pyrbd import rados
from pyrbd.testing.commander import Commander
from pyrbd.testing.native import NativeCluster
from tests.proxy import redirected

HANG = 150.0
"""Seconds after which an operation is said to hang: longer than any fault and its healing."""


def make_cluster(directory: Path) -> NativeCluster:
    """Three monitors, four OSDs that have erasure-coded pools with overwrites."""
    cluster = NativeCluster(directory)
    settings = (
        "osd/osd_max_markdown_count=100000",
        "osd/osd_backoff_on_peering=true",
        "osd/osd_backoff_on_degraded=true",
        "mon/mon_max_pg_per_osd=2000",
        "mon/mon_min_osdmap_epochs=10",
        "mon/paxos_service_trim_min=5",
        "mon/mon_osd_cache_size=20",
        "mon/mon_tick_interval=1",
    )
    cluster.up(osds=4, mons=3, store="bluestore", settings=settings, timeout=180)
    commander = Commander(cluster.conf)
    try:
        commander.command(
            "osd erasure-code-profile set", name=PROFILE, profile=["k=2", "m=1", "crush-failure-domain=osd"]
        )
        commander.command("osd pool create", pool=REPLICATED, pg_num=8, pgp_num=8)
        commander.command(
            "osd pool create", pool=ERASURE, pg_num=8, pgp_num=8, pool_type="erasure", erasure_code_profile=PROFILE
        )
        commander.command("osd pool set", pool=ERASURE, var="min_size", val="2")
        commander.command("osd pool set", pool=ERASURE, var="allow_ec_overwrites", val="true")
        for pool in (REPLICATED, ERASURE):
            commander.command("osd pool application enable", pool=pool, app="rbd")
    finally:
        commander.close()
    return cluster


def run(
    seconds: float,
    seed: int,
    *,
    directory: Path | None = None,
    faults: Iterable[str] | None = None,
    scale: float = 1.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Thrashes for about so many seconds; gives the report.

    Args:
        faults: the names of some, in this order and then at random; None for all, each once
            and then at random.
        scale: how long the faults last, against what they do by themselves.
    """
    where = directory or Path(tempfile.mkdtemp(prefix="pyrbd-thrash-", dir="/tmp")) / "c"
    say(f"seed {seed}; cluster in {where}")
    cluster = make_cluster(where)
    conf = str(cluster.conf)
    keep = True
    try:
        with redirected() as proxy:
            handles = [rados.Rados(conffile=conf) for _ in range(2)]
            for handle in handles:
                handle.connect()
            first, second = handles
            workloads: list[Workload] = [
                Appender("appender", seed, first.open_ioctx(REPLICATED), 8, True),
                Appender("ec-appender", seed, first.open_ioctx(ERASURE), 8, False),
                Overwriter("overwriter", seed, first.open_ioctx(REPLICATED), 24),
                Overwriter("ec-overwriter", seed, second.open_ioctx(ERASURE), 24),
                ImageWriter("image", seed, second.open_ioctx(REPLICATED)),
                ImageWriter("ec-image", seed, second.open_ioctx(REPLICATED), ERASURE),
                ImageWriter("locked-image", seed, second.open_ioctx(REPLICATED), features=61),
                AsyncioAppender("asyncio", seed, conf, REPLICATED, 8),
                Lister("lister", seed, first.open_ioctx(REPLICATED), 200),
                VersionChain("versions", seed, first.open_ioctx(REPLICATED), 6),
                Locker("locker", seed, second.open_ioctx(REPLICATED)),
                Snapshots("snapshots", seed, first.open_ioctx(REPLICATED), second.open_ioctx(REPLICATED)),
                Snapshots("ec-snapshots", seed, second.open_ioctx(ERASURE), first.open_ioctx(ERASURE)),
                BigTransfers("big", seed, first.open_ioctx(REPLICATED), 2),
                BigTransfers("ec-big", seed, second.open_ioctx(ERASURE), 2),
                watcher := Watcher("watcher", seed, second.open_ioctx(REPLICATED), first.open_ioctx(REPLICATED)),
                *(Overwriter(f"crowd-{i}", seed, first.open_ioctx(REPLICATED), 2) for i in range(4)),
            ]
            thrasher = Thrasher(cluster, proxy, seed, scale)
            thrasher.clients = handles
            order = list(faults or thrasher.faults)
            if faults is None:
                random.Random(seed).shuffle(order)
            for workload in workloads:
                workload.start()
            begun = time.monotonic()
            hung: list[str] = []
            while time.monotonic() - begun < seconds and not hung:
                name = thrasher.strike(order.pop(0) if order else None)
                done = sum(w.found.operations for w in workloads)
                waiting = max(workloads, key=lambda w: w.stuck_for)
                say(
                    f"{time.monotonic() - begun:6.1f} s  {name}; {done} operations"
                    + (f"; {waiting.name} waits for {waiting.stuck_for:.0f} s" if waiting.stuck_for > 5 else "")
                )
                hung = [w.name for w in workloads if w.stuck_for > HANG]
            took = time.monotonic() - begun
            say("healing")
            thrasher.heal()
            cluster.wait_clean(180)
            for workload in workloads:
                workload.stop()
            for workload in workloads:
                workload.join(HANG)
            say("reading back")
            resends = sum(h.client.objecter.resends for h in handles)
            backoffs = sum(h.client.objecter.backoffs.count for h in handles)
            for workload in workloads:
                if not workload.found.failed:
                    workload.verify()
            _ask_the_cpp_tool(conf, workloads)
            for handle in handles:
                handle.shutdown()
            found = [w.found for w in workloads]
            report = {
                "seed": seed,
                "seconds": round(took, 1),
                "operations": sum(f.operations for f in found),
                "cancelled": sum(f.cancelled for f in found),
                "unknown": sum(f.unknown for f in found),
                "faults": dict(sorted(thrasher.counts.items())),
                "seen in maps": dict(sorted(thrasher.seen.items())),
                "watches lost": watcher.losses,
                "notifications unanswered": watcher.unanswered,
                "connections": len(proxy.pipes),
                "resends": resends,
                "backoffs": backoffs,
                "slowest": {w.name: round(w.found.slowest, 1) for w in workloads},
                "lost": [x for f in found for x in f.lost],
                "wrong": [x for f in found for x in f.wrong],
                "duplicated": [x for f in found for x in f.duplicated],
                "failed": [x for f in found for x in f.failed] + [f"{name} hangs" for name in hung] + thrasher.problems,
            }
        report["daemons"] = cluster.check_daemons()
        keep = not succeeded(report)
        return report
    finally:
        if keep:
            say(f"the daemons' logs are in {where / 'log'}")
            cluster.stop_daemons()
        else:
            cluster.down()


def succeeded(report: dict[str, Any]) -> bool:
    return not any(report[k] for k in ("unknown", "lost", "wrong", "duplicated", "failed", "daemons"))


def _ask_the_cpp_tool(conf: str, workloads: list[Workload]) -> None:
    """A sample of what we read back, read by Ceph's own tool."""
    for workload in workloads:
        if isinstance(workload, Appender):
            pool = workload._io.get_pool_name()
            for oid, log in list(workload._logs.items())[:2]:
                if log:
                    theirs = subprocess.run(
                        ["rados", "-c", conf, "-p", pool, "get", oid, "-"], capture_output=True, check=False
                    ).stdout
                    workload.check_log(f"{oid} by the C++ tool", theirs, log)
