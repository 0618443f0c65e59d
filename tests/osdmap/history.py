"""A random history of a real monitor: whatever an operator may do to a map. What the monitor wrote then, its
incrementals and some of its full maps, is in `data/history-*.gz` for four releases
(``python -m tests.osdmap.history RELEASE``).
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pyrbd import rados
from pyrbd.msgr.messages import MOSDMap

DATA = Path(__file__).parent / "data"
OSDS = 4


class History(NamedTuple):
    """Full maps and incrementals, by epoch."""

    full: dict[int, bytes]
    incrementals: dict[int, bytes]

    @classmethod
    def load(cls, release: str) -> History:
        raw = json.loads(gzip.decompress((DATA / f"history-{release}.gz").read_bytes()))
        full, incrementals = ({int(e): base64.b85decode(data) for e, data in part.items()} for part in raw)
        return cls(full, incrementals)

    def save(self, release: str) -> None:
        parts = [{e: base64.b85encode(data).decode() for e, data in part.items()} for part in self]
        (DATA / f"history-{release}.gz").write_bytes(gzip.compress(json.dumps(parts).encode(), mtime=0))


class Operator:
    """Does one thing after the other to a cluster, and writes down what maps come of it."""

    def __init__(self, handle: rados.Rados, seed: int, careful: bool = False) -> None:
        """careful: without what OSDs do not always survive."""
        careless = ("do_temporary", "do_tier") if careful else ()
        self.handle = handle
        self.rng = random.Random(seed)
        self.actions: list[Callable[[str, int], object]] = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_") and name not in careless
        ]
        self.pools = ["rbd"]
        self.new: list[int] = []
        self.step = 0
        self.incrementals: dict[int, bytes] = {}
        mon = handle.client.mon
        follow = mon._on_map  # type: ignore[union-attr]

        def watch(message: MOSDMap) -> None:
            self.incrementals.update(message.incremental_maps)
            follow(message)

        mon._on_map = watch  # type: ignore[union-attr]

    def command(self, prefix: str, **args: Any) -> Any:
        """The output, or None if it was refused: not all that is tried fits."""
        words = json.dumps({"prefix": prefix, "format": "json", **args})
        result, output, _ = self.handle.mon_command(words, b"", timeout=60)
        return None if result else output

    @property
    def epoch(self) -> int:
        self.handle.wait_for_latest_osdmap()
        osdmap = self.handle.client.osdmap
        return osdmap.epoch

    def full(self, epoch: int) -> bytes:
        data: bytes = self.command("osd getmap", epoch=epoch)
        return data

    def group(self, pool: str) -> str:
        number = self.handle.client.osdmap.pool_ids.get(pool, 1)
        return f"{number}.{self.rng.randrange(4):x}"

    def act(self) -> None:
        self.step += 1
        self.rng.choice(self.actions)(self.rng.choice(self.pools), self.rng.randrange(OSDS))

    # what can be done, to a pool or to an OSD

    def do_create_pool(self, pool: str, osd: int) -> None:
        name = f"p{self.step}"
        if self.command("osd pool create", pool=name, pg_num=self.rng.choice([4, 8, 12]), pgp_num=4) is not None:
            self.pools.append(name)

    def do_create_erasure_coded(self, pool: str, osd: int) -> None:
        name = f"e{self.step}"
        self.command("osd erasure-code-profile set", name=name, profile=["k=2", "m=1", "crush-failure-domain=osd"])
        made = self.command(
            "osd pool create", pool=name, pool_type="erasure", pg_num=4, pgp_num=4, erasure_code_profile=name
        )
        if made is not None:
            self.pools.append(name)
            self.command("osd pool set", pool=name, var="allow_ec_overwrites", val="true")

    def do_remove_profile(self, pool: str, osd: int) -> None:
        self.command("osd erasure-code-profile rm", name=f"e{self.rng.randrange(self.step)}")

    def do_delete_pool(self, pool: str, osd: int) -> None:
        if len(self.pools) > 2 and pool != "rbd":
            args = {"pool": pool, "pool2": pool, "yes_i_really_really_mean_it": True}
            if self.command("osd pool delete", **args) is not None:
                self.pools.remove(pool)

    def do_rename_pool(self, pool: str, osd: int) -> None:
        if pool != "rbd" and self.command("osd pool rename", srcpool=pool, destpool=pool + "r") is not None:
            self.pools[self.pools.index(pool)] = pool + "r"

    def do_quota(self, pool: str, osd: int) -> None:
        field = self.rng.choice(["max_bytes", "max_objects"])
        self.command("osd pool set-quota", pool=pool, field=field, val=str(self.rng.randrange(10**6)))

    def do_set_flag(self, pool: str, osd: int) -> None:
        var = self.rng.choice(["nodelete", "hashpspool", "noscrub", "bulk", "nopgchange", "eio"])
        self.command("osd pool set", pool=pool, var=var, val=self.rng.choice("01"), yes_i_really_mean_it=True)

    def do_set_option(self, pool: str, osd: int) -> None:
        var, value = self.rng.choice(
            [
                ("compression_mode", "force"),
                ("target_size_ratio", "0.3"),
                ("pg_autoscale_bias", "1.5"),
                ("scrub_min_interval", "2"),
                ("target_size_bytes", "100000"),
                ("recovery_priority", "2"),
                ("csum_min_block", "4096"),
                ("fast_read", "1"),
            ]
        )
        self.command("osd pool set", pool=pool, var=var, val=value)

    def do_application(self, pool: str, osd: int) -> None:
        app = self.rng.choice(["rbd", "rgw"])
        self.command("osd pool application enable", pool=pool, app=app, yes_i_really_mean_it=True)
        self.command("osd pool application set", pool=pool, app=app, key="k", value=str(self.step))

    def do_pool_snapshot(self, pool: str, osd: int) -> None:
        self.command("osd pool mksnap", pool=pool, snap=f"s{self.step}")

    def do_remove_pool_snapshot(self, pool: str, osd: int) -> None:
        self.command("osd pool rmsnap", pool=pool, snap=f"s{self.rng.randrange(self.step)}")

    def do_self_managed_snapshots(self, pool: str, osd: int) -> None:
        try:
            with self.handle.open_ioctx(pool) as ioctx:
                first = ioctx.create_self_managed_snap()
                ioctx.create_self_managed_snap()
                ioctx.remove_self_managed_snap(first)
        except rados.Error:
            pass  # the pool has snapshots of the other kind, or was renamed

    def do_tier(self, pool: str, osd: int) -> None:
        cache = self.rng.choice(self.pools)
        if cache == pool:
            return
        self.command("osd tier add", pool=pool, tierpool=cache, force_nonempty="--force-nonempty")
        mode = self.rng.choice(["writeback", "readproxy"])
        self.command("osd tier cache-mode", pool=cache, mode=mode, yes_i_really_mean_it=True)
        self.command("osd tier set-overlay", pool=pool, overlaypool=cache)
        for var, value in (("hit_set_type", "bloom"), ("hit_set_count", "3"), ("target_max_bytes", "12345")):
            self.command("osd pool set", pool=cache, var=var, val=value)

    def do_remove_tier(self, pool: str, osd: int) -> None:
        self.command("osd tier remove-overlay", pool=pool)
        for cache in self.pools:
            self.command("osd tier remove", pool=pool, tierpool=cache)

    def do_out_or_in(self, pool: str, osd: int) -> None:
        self.command(self.rng.choice(["osd out", "osd in"]), ids=[str(osd)])

    def do_reweight(self, pool: str, osd: int) -> None:
        self.command("osd reweight", id=osd, weight=round(self.rng.random(), 3))

    def do_down(self, pool: str, osd: int) -> None:
        self.command("osd down", ids=[str(osd)])
        self.command("osd lost", id=osd, yes_i_really_mean_it=True)

    def do_primary_affinity(self, pool: str, osd: int) -> None:
        self.command("osd primary-affinity", id=osd, weight=round(self.rng.random(), 2))

    def do_new_osd(self, pool: str, osd: int) -> None:
        made = self.command("osd new", uuid=str(uuid.UUID(int=self.rng.getrandbits(128))))
        if made:
            self.new.append(json.loads(made)["osdid"])

    def do_destroy_osd(self, pool: str, osd: int) -> None:
        if self.new:
            self.command("osd destroy-actual", id=self.rng.choice(self.new), yes_i_really_mean_it=True)

    def do_purge_osd(self, pool: str, osd: int) -> None:
        if self.new:
            self.command("osd purge-actual", id=self.new.pop(), yes_i_really_mean_it=True)

    def do_max_osd(self, pool: str, osd: int) -> None:
        self.command("osd setmaxosd", newmax=self.rng.randrange(8, 14))

    def do_flags_of_osds(self, pool: str, osd: int) -> None:
        who = self.rng.choice([f"osd.{osd}", "default", "ssd", "hdd"])
        command = self.rng.choice(["osd set-group", "osd unset-group"])
        self.command(command, flags=self.rng.choice(["noout", "noup,nodown"]), who=[who])

    def do_flags(self, pool: str, osd: int) -> None:
        key = self.rng.choice(["noout", "norebalance", "nobackfill", "noscrub", "nosnaptrim", "noautoscale"])
        self.command(self.rng.choice(["osd set", "osd unset"]), key=key)

    def do_ratio(self, pool: str, osd: int) -> None:
        which = self.rng.choice(["nearfull", "full", "backfillfull"])
        self.command(f"osd set-{which}-ratio", ratio=self.rng.choice([0.8, 0.85, 0.91]))

    def do_temporary(self, pool: str, osd: int) -> None:
        self.command("osd pg-temp", pgid=self.group(pool), id=self.rng.sample(range(OSDS), 3))
        self.command("osd primary-temp", pgid=self.group(pool), id=osd)

    def do_upmap(self, pool: str, osd: int) -> None:
        self.command("osd pg-upmap-items", pgid=self.group(pool), id=self.rng.sample(range(OSDS), 2))
        self.command("osd pg-upmap", pgid=self.group(pool), id=self.rng.sample(range(OSDS), 3))
        self.command("osd pg-upmap-primary", pgid=self.group(pool), id=osd)

    def do_remove_upmap(self, pool: str, osd: int) -> None:
        self.command("osd rm-pg-upmap-items", pgid=self.group(pool))
        self.command("osd rm-pg-upmap", pgid=self.group(pool))

    def do_blocklist(self, pool: str, osd: int) -> None:
        host = self.rng.choice([f"10.0.0.{self.rng.randrange(4)}", f"[fd00::{self.rng.randrange(9)}]"])
        addr = f"{host}:{self.rng.choice([0, 7, 9])}/{self.rng.randrange(3)}"
        op = self.rng.choice(["add", "add", "rm"])
        if self.command("osd blocklist", blocklistop=op, addr=addr) is None:
            self.command("osd blacklist", blacklistop=op, addr=addr)

    def do_blocklist_network(self, pool: str, osd: int) -> None:
        network = self.rng.choice(["10.1.0.0/16", "10.2.0.0/16", "fd00::/64"])
        op = self.rng.choice(["add", "add", "rm"])
        self.command("osd blocklist", range="range", blocklistop=op, addr=network)

    def do_crush_weight(self, pool: str, osd: int) -> None:
        self.command("osd crush reweight", name=f"osd.{osd}", weight=round(self.rng.random() * 2, 3))

    def do_crush_bucket(self, pool: str, osd: int) -> None:
        self.command("osd crush add-bucket", name=f"b{self.step}", type=self.rng.choice(["host", "rack"]))

    def do_device_class(self, pool: str, osd: int) -> None:
        self.command("osd crush rm-device-class", ids=[str(osd)])
        self.command("osd crush set-device-class", ids=[str(osd)], **{"class": self.rng.choice(["ssd", "hdd"])})

    def do_tunables(self, pool: str, osd: int) -> None:
        self.command("osd crush tunables", profile=self.rng.choice(["hammer", "jewel", "optimal", "firefly"]))


def happen(handle: rados.Rados, steps: int, seed: int, careful: bool = False) -> History:
    """Lets so many things happen; every fifth full map is kept."""
    operator = Operator(handle, seed, careful)
    operator.command("osd set-require-min-compat-client", version="luminous")
    first = operator.epoch
    full = {first: operator.full(first)}
    for i in range(steps):
        operator.act()
        if i % 5 == 4:
            epoch = operator.epoch
            full[epoch] = operator.full(epoch)
    last = operator.epoch
    full[last] = operator.full(last)
    return History(full, {e: inc for e, inc in operator.incrementals.items() if first < e <= last})


def main(release: str, seed: int = 1) -> None:
    from pyrbd.msgr.features import FEATURE_NAMES
    from pyrbd.rados import client as rados_client
    from pyrbd.rados.monclient import features_for_commands
    from pyrbd.testing.native import NativeCluster

    # the monitors write maps anew for who does not know what is in them
    newest = FEATURE_NAMES["SERVER_TENTACLE"] | FEATURE_NAMES["CRUSH_MSR"]
    rados_client.features_for_commands = lambda: features_for_commands() | newest  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        cluster = NativeCluster(Path(directory) / "c")
        cluster.up(osds=OSDS, release=release)
        try:
            with rados.Rados(conffile=str(cluster.conf)) as handle:
                happen(handle, 100, seed).save(release)
        finally:
            cluster.down()


if __name__ == "__main__":
    main(sys.argv[1])
