"""What is done to the cluster, and how it is healed."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from ci.thrash import victims
from pyrbd import rados
from pyrbd.testing.base import ClusterError
from pyrbd.testing.commander import Commander
from pyrbd.testing.native import NativeCluster
from tests.proxy import Fault, Proxy

REPLICATED = "rep"
ERASURE = "ec"
PROFILE = "thrash"


class Thrasher:
    """One fault at a time, each with its healing; connections are cut all the while.

    Args:
        proxy: through which the workloads' connections go.
    """

    def __init__(self, cluster: NativeCluster, proxy: Proxy, seed: int, scale: float = 1.0) -> None:
        self._cluster = cluster
        self._proxy = proxy
        self._random = random.Random(seed)
        self._scale = scale
        self._commander: Commander | None = None
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        """What the workloads' clients had in their maps meanwhile: how often it was looked and there."""
        self.problems: list[str] = []
        """What the clients saw that are made for a fault."""
        self.clients: list[rados.Rados] = []
        """Those of the workloads."""
        self._osds = [n for n in cluster.daemons if n.startswith("osd.")]
        self._mons = [n for n in cluster.daemons if n.startswith("mon.")]
        proxy.plan = self._plan
        self.faults: dict[str, Callable[[], None]] = {
            "osd killed": self.kill,
            "osd stopped and resumed": self.pause,
            "osd restarted": self.restart,
            "osds below min_size": self.below_min_size,
            "osd laggy": self.laggy,
            "osd out and in": self.out_in,
            "osd marked down": self.mark_down,
            "primary affinity changed": self.affinity,
            "upmap": self.upmap,
            "primary_temp": self.primary_temp,
            "pool's size changed": self.size,
            "placement groups split": self.split,
            "placement groups merged": self.merge,
            "reads and writes paused": self.flag_pause,
            "pool full": self.pool_full,
            "cluster full": self.cluster_full,
            "pool deleted and made anew": self.pool_deleted,
            "client blocklisted": self.blocklist,
            "hundreds of epochs": self.epochs,
            "maps trimmed": self.trimmed,
            "monitor restarted": self.monitor,
            "leading monitor stopped and resumed": self.leader,
            "quorum lost": self.quorum,
            "connections cut": self.cut,
            "answers held back": self.hold,
        }

    # ------------------------------------------------------------ means

    def command(self, prefix: str, **args: object) -> object:
        """A command; a monitor that has gone is asked again on another connection."""
        for attempt in range(5):
            try:
                if self._commander is None:
                    self._commander = Commander(self._cluster.conf)
                return self._commander.command(prefix, **args)
            except ClusterError as e:
                if "lost the monitor" not in str(e) and "cannot connect" not in str(e):
                    raise
                self.close()
                if attempt == 4:
                    raise
        return None

    def close(self) -> None:
        if self._commander is not None:
            self._commander.close()
            self._commander = None

    def _wait(self, seconds: float) -> None:
        """Gives the workloads time under the fault: it is what the fault is for."""
        end = time.monotonic() + seconds * self._scale
        while True:
            self._look()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, 0.05))

    def _look(self) -> None:
        for client in self.clients:
            osdmap = client.client.osdmap
            self.seen["pg_temp"] += bool(osdmap.pg_temp)
            self.seen["primary_temp"] += bool(osdmap.primary_temp)
            self.seen["full"] += osdmap.any_pool_full or bool(osdmap.flags & osdmap.FULL)
            self.seen["paused"] += bool(osdmap.flags & (osdmap.PAUSERD | osdmap.PAUSEWR))

    def _plan(self, _addr: object) -> Fault:
        """One connection of four does not live long."""
        if self._random.random() < 0.75:
            return Fault(delay=self._random.choice((0, 0, 0, 0.002)))
        at = int(2 ** self._random.uniform(8, 22))
        fault = Fault()
        setattr(fault, self._random.choice(("cut_up", "cut_down", "half_close_up", "half_close_down")), at)
        return fault

    def strike(self, name: str | None = None) -> str:
        """Does one fault, and heals it."""
        name = name or self._random.choice(list(self.faults))
        self.faults[name]()
        self.counts[name] += 1
        return name

    def heal(self) -> None:
        """Makes the cluster whole, whatever was going on."""
        self._proxy.plan = lambda _addr: Fault()
        for name in self._cluster.daemons:
            if self._cluster.pid(name) is None:
                self._cluster.start(name)
            else:
                self._cluster.resume(name)
        for flag in ("pause", "noup", "noout"):
            self.command("osd unset", key=flag)
        self._not_full()
        for pool in (REPLICATED, ERASURE):
            self.command("osd pool set-quota", pool=pool, field="max_bytes", val="0")
        for osd in self._osds:
            self.command("osd in", ids=[osd.removeprefix("osd.")])
            self.command("osd primary-affinity", id=int(osd[4:]), weight=1.0)
        self.close()
        for pipe in self._proxy.pipes:
            if pipe.down.held:
                pipe.hold(False)
            if pipe.up.held:
                pipe.hold_up(False)

    def _osd(self) -> str:
        return self._random.choice(self._osds)

    def _group(self) -> tuple[str, list[int]]:
        """One of the placement groups of the workloads' pools, and where it is."""
        osdmap = self.clients[0].client.osdmap
        wanted = self._random.choice((REPLICATED, ERASURE))
        pool = next(n for n, name in osdmap.pool_names.items() if name == wanted)
        seed = self._random.randrange(osdmap.pools[pool].pg_num)
        up = osdmap.pg_to_up_acting(pool, seed)[0]
        return f"{pool}.{seed:x}", [o for o in up if 0 <= o < len(self._osds)]

    def _up(self, osd: str, up: bool, timeout: float = 30) -> None:
        """Waits until the map says so."""
        end = time.monotonic() + timeout
        number = int(osd.removeprefix("osd."))
        while time.monotonic() < end:
            dump = self.command("osd dump")
            assert isinstance(dump, dict)
            if any(o["osd"] == number and bool(o["up"]) == up for o in dump["osds"]):
                return
            time.sleep(0.1)

    # ------------------------------------------------------------ faults

    def kill(self) -> None:
        osd = self._osd()
        self._cluster.kill(osd)
        self._wait(self._random.uniform(0.5, 6))
        self._cluster.start(osd)
        self._up(osd, True)

    def pause(self) -> None:
        """Silent, not closed; longer than the others' patience or shorter."""
        osd = self._osd()
        self._cluster.pause(osd)
        self._wait(self._random.choice((1, 3, 8)))
        self._cluster.resume(osd)
        self._up(osd, True)

    def restart(self) -> None:
        osd = self._osd()
        self._cluster.stop(osd)
        self._cluster.start(osd)
        self._up(osd, True)

    def below_min_size(self) -> None:
        """Two at once: groups with two of their three places there have too few."""
        osds = self._random.sample(self._osds, 2)
        for osd in osds:
            self._cluster.kill(osd)
        self._wait(self._random.uniform(1, 5))
        for osd in osds:
            self._cluster.start(osd)
        for osd in osds:
            self._up(osd, True)

    def laggy(self) -> None:
        """Answers late, in bursts, and is never down."""
        osd = self._osd()
        for _ in range(12):
            self._cluster.pause(osd)
            time.sleep(0.3)
            self._cluster.resume(osd)
            self._wait(0.2)

    def out_in(self) -> None:
        """Its data moves away and back: pg_temp while that lasts."""
        osd = self._osd().removeprefix("osd.")
        self.command("osd out", ids=[osd])
        self._wait(3)
        self.command("osd in", ids=[osd])
        self._wait(1)

    def mark_down(self) -> None:
        osd = self._osd()
        self.command("osd down", ids=[osd.removeprefix("osd.")])
        self._wait(1)
        self._up(osd, True)

    def affinity(self) -> None:
        osd = self._osd()
        self.command("osd primary-affinity", id=int(osd[4:]), weight=0.0)
        self._wait(2)
        self.command("osd primary-affinity", id=int(osd[4:]), weight=1.0)

    def upmap(self) -> None:
        """A place of some groups is given to another OSD: backfilled there, under pg_temp."""
        moved = []
        for _ in range(4):
            group, up = self._group()
            others = [o for o in range(len(self._osds)) if o not in up]
            if up and others:
                try:
                    self.command("osd pg-upmap-items", pgid=group, id=[up[0], self._random.choice(others)])
                except ClusterError:
                    continue  # merged meanwhile
                moved.append(group)
        self._wait(4)
        for group in moved:
            self.command("osd rm-pg-upmap-items", pgid=group)
        self._wait(2)

    def primary_temp(self) -> None:
        group, up = self._group()
        if len(up) > 1:
            self.command("osd primary-temp", pgid=group, id=up[1])
            self._wait(2)
            try:
                self.command("osd rm-primary-temp", pgid=group)
            except ClusterError:  # before squid
                self.command("osd primary-temp", pgid=group, id=-1)

    def size(self) -> None:
        """New intervals, most of them with the same primary."""
        for size in ("2", "3"):
            self.command("osd pool set", pool=REPLICATED, var="size", val=size)
            self._wait(2)

    def _pg_num(self, pool: str, n: int) -> None:
        self.command("osd pool set", pool=pool, var="pg_num", val=str(n))
        self.command("osd pool set", pool=pool, var="pgp_num", val=str(n))
        self._wait(4)

    def split(self) -> None:
        self._pg_num(self._random.choice((REPLICATED, ERASURE)), self._random.choice((13, 16, 24)))

    def merge(self) -> None:
        self._pg_num(self._random.choice((REPLICATED, ERASURE)), self._random.choice((4, 7)))

    def flag_pause(self) -> None:
        self.command("osd set", key="pause")
        self._wait(2)
        self.command("osd unset", key="pause")

    def pool_full(self) -> None:
        pool = self._random.choice((REPLICATED, ERASURE))
        self.command("osd pool set-quota", pool=pool, field="max_bytes", val="1")
        self._wait(5)
        self.command("osd pool set-quota", pool=pool, field="max_bytes", val="0")
        self._wait(2)

    def cluster_full(self) -> None:
        for i, what in enumerate(("nearfull", "backfillfull", "full")):
            self.command(f"osd set-{what}-ratio", ratio=0.00001 * (i + 1))
        self._wait(4)
        self._not_full()
        self._wait(2)

    def _not_full(self) -> None:
        for what, ratio in (("full", 0.95), ("backfillfull", 0.9), ("nearfull", 0.85)):
            self.command(f"osd set-{what}-ratio", ratio=ratio)
        # an OSD that is marked down while the map calls it full does not come back (tentacle)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            dump = self.command("osd dump")
            assert isinstance(dump, dict)
            if not any(s.endswith("full") for o in dump["osds"] for s in o["state"]):
                return
            time.sleep(0.2)

    def pool_deleted(self) -> None:
        self.problems += victims.pool_deleted(self._cluster.conf, self.command, "doomed")

    def blocklist(self) -> None:
        self.problems += victims.blocklisted(self._cluster.conf, self.command, self._proxy, REPLICATED, "fenced")

    def trimmed(self) -> None:
        """No client hears of any map until the monitors have dropped the one that follows its own."""
        try:
            self._cluster.wait_clean(20)  # maps are kept as long as a group may need them
        except ClusterError:
            pass
        ours = max(c.client.osdmap.epoch for c in self.clients)
        plan, self._proxy.plan = self._proxy.plan, lambda _addr: Fault(refuse=True)
        self._proxy.reset_all()
        try:
            for _ in range(25):
                self.command("osd set", key="noout")
                self.command("osd unset", key="noout")
            end = time.monotonic() + 15
            while time.monotonic() < end:
                report = self.command("report")
                assert isinstance(report, dict)
                if report["osdmap_first_committed"] > ours + 1:
                    self.seen["trimmed"] += 1
                    break
                time.sleep(0.2)
        finally:
            self._proxy.plan = plan
        self._wait(2)

    def epochs(self) -> None:
        for _ in range(int(150 * self._scale) + 1):
            self.command("osd set", key="noout")
            self.command("osd unset", key="noout")

    def monitor(self) -> None:
        mon = self._random.choice(self._mons)
        self._cluster.kill(mon)
        self._wait(2)
        self._cluster.start(mon)

    def leader(self) -> None:
        status = self.command("quorum_status")
        assert isinstance(status, dict)
        mon = f"mon.{status['quorum_leader_name']}"
        self.close()
        self._cluster.pause(mon)
        self._wait(8)
        self._cluster.resume(mon)
        self._wait(1)

    def quorum(self) -> None:
        """All monitors but one: no map, no command, until they are back."""
        self.close()
        lost = self._mons[1:]
        for mon in lost:
            self._cluster.kill(mon)
        self._wait(4)
        for mon in lost:
            self._cluster.start(mon)
        self._wait(2)

    def cut(self) -> None:
        for _ in range(5):
            self.counts["connections"] += self._proxy.reset_all()
            self._wait(0.3)

    def hold(self) -> None:
        """Answers of one OSD come after later ones of others."""
        alive = [p for p in self._proxy.pipes if not p.closed]
        held = self._random.sample(alive, min(3, len(alive)))
        for pipe in held:
            pipe.hold()
        self._wait(0.5)
        for pipe in held:
            pipe.hold(False)
