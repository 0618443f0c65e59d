"""Ceph's tools of a release: they make maps of ours, and say where every placement group is."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.crush import BUCKET_TREE, CRUSH_ITEM_NONE, Bucket, CrushMap
from pyrbd.testing.programs import Programs, environment
from pyrbd.testing.releases import ReleasePrograms

from .cluster import random_cluster
from .crush import Author, CrushText, legacy_choose_args

_SET = rb"\(\[([^\]]*)\], p(-?\d+)\)"
LINE = re.compile(rb"(\d+)\.([0-9a-f]+) raw %s up %s acting %s" % (_SET, _SET, _SET))

MSR = 19
"""The first release with rules of this kind."""

Sets = tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...], int]
"""raw, up and acting with their primaries."""


class ToolFailed(Exception):
    """What a tool of Ceph did not do."""


class Answer(NamedTuple):
    map: bytes
    """As the tool encoded it."""
    groups: dict[tuple[int, int], Sets]
    crush: bytes = b""
    """The CRUSH map that the tool was given, of which it writes what it understood."""


class Oracle:
    """osdmaptool and crushtool."""

    def __init__(self, directory: Path, release: str | None = None) -> None:
        """release: one that is unpacked in the cache; by default the tools in the PATH."""
        self.directory = directory
        self.programs: Programs = ReleasePrograms(release) if release else Programs()
        self.major = self.programs.software().major if release else installed()
        self.bases: dict[int, OSDMap] = {}

    def tool(self, *args: object) -> bytes:
        program, *rest = [str(a) for a in args]
        done = subprocess.run(
            self.programs.argv(program, *rest), capture_output=True, env=environment(), check=False, timeout=60
        )
        if done.returncode:
            raise ToolFailed(f"{program} {' '.join(rest)}: {done.returncode}\n{done.stderr.decode(errors='replace')}")
        return done.stdout

    def base(self, osds: int) -> OSDMap:
        """A new map of this release with so many OSDs and a pool."""
        if osds not in self.bases:
            f = self.directory / "base"
            self.tool("osdmaptool", "--createsimple", osds, f, "--with-default-pool", "--clobber")
            self.bases[osds] = OSDMap.decode_full(f.read_bytes())
        return self.bases[osds]

    def compile(self, crush: CrushText) -> Path:
        text, out = self.directory / "crush.txt", self.directory / "crush"
        text.write_text(crush.text)
        out.unlink(missing_ok=True)
        self.tool("crushtool", "-c", text, "-o", out)
        return out

    def play(self, seed: int, msr: bool = False) -> Answer:
        """The random map of a seed, and where its groups are.

        Raises:
            ToolFailed: a tool refused it, or broke.
        """
        rng = random.Random(seed)
        numbers = sorted(rng.sample(range(1, 9), rng.randint(1, 3)))
        crush = Author(rng, numbers, msr=msr).write()
        compiled = self.compile(crush)
        base = self.base(max(1, crush.devices + rng.choice([0, 0, 0, 3])))
        data = compiled.read_bytes()
        buckets = CrushMap.decode(data).buckets
        if any(undefined(bucket) for bucket in buckets.values()):
            raise ToolFailed("crushtool: a tree bucket with nodes that were not set")
        if rng.random() < 0.1 and "choose_args" not in crush.text:
            items = {b.id: b.items for b in buckets.values()}
            data = legacy_choose_args(rng, data, items, numbers, 8 if self.major >= MSR else 0)
            compiled.write_bytes(data)
        base = base.replace(crush_data=data)
        m = random_cluster(rng, base, crush.rules, numbers, self.major)
        return self.ask(m.encode(), compiled)

    def ask(self, data: bytes, crush: Path) -> Answer:
        """What the tool makes of a map, encoded anew, and its placements."""
        f = self.directory / "map"
        f.write_bytes(data)
        text = self.tool("osdmaptool", f, "--import-crush", crush, "--test-map-pgs-dump-all")
        return Answer(f.read_bytes(), parse(text), crush.read_bytes())


def undefined(bucket: Bucket) -> bool:
    """Whether crushtool left memory as it was in what it wrote: trees that grow, as those of device classes do. Ceph
    looks beyond their items then."""
    nodes = bucket.extra
    if bucket.alg != BUCKET_TREE or not bucket.items:
        return False
    halves = ((n, (n & -n) >> 1) for n in range(2, len(nodes), 2))
    return any(nodes[1::2][len(bucket.items) :]) or any(nodes[n] != nodes[n - h] + nodes[n + h] for n, h in halves)


def installed() -> int:
    """The major version of the tool in the PATH; 0 if there is none."""
    if shutil.which("osdmaptool") is None or shutil.which("crushtool") is None:
        return 0
    found = re.match(rb"ceph version (\d+)", subprocess.run(["osdmaptool", "--version"], capture_output=True).stdout)
    return int(found[1]) if found else 0


def parse(text: bytes) -> dict[tuple[int, int], Sets]:
    groups = {}
    for found in LINE.finditer(text):
        pool, seed, *sets = found.groups()
        raw, raw_primary, up, up_primary, acting, primary = sets
        groups[int(pool), int(seed, 16)] = (
            osds(raw),
            int(raw_primary),
            osds(up),
            int(up_primary),
            osds(acting),
            int(primary),
        )
    return groups


def osds(text: bytes) -> tuple[int, ...]:
    return tuple(CRUSH_ITEM_NONE if x == b"NONE" else int(x) for x in text.split(b",") if x)


def differences(answer: Answer) -> list[str]:
    """Where pyrbd puts a group elsewhere, a line each; and whether it writes the map as the tool does."""
    m = OSDMap.decode_full(answer.map)
    out = []
    if sorted(answer.groups) != [(p, seed) for p in sorted(m.pools) for seed in range(m.pools[p].pg_num)]:
        out.append(f"groups: Ceph has {len(answer.groups)}")
    maps = [m]
    if answer.crush not in (b"", m.crush_data):
        maps.append(m.replace(crush_data=answer.crush))
    for each in maps:
        for (pool, seed), want in answer.groups.items():
            got = (*each.pg_to_raw_osds(pool, seed), *each.pg_to_up_acting(pool, seed))
            if got != want:
                out.append(f"{pool}.{seed:x}: Ceph {want}, pyrbd {got}")
        for pool in each.pools:
            for seed, raw, *mapped in each.map_pgs(pool):
                want = answer.groups[pool, seed]
                if (raw, *mapped) != (want[0], *want[2:]):
                    out.append(f"{pool}.{seed:x}: Ceph {want}, all at once {raw} {mapped}")
    if m.encode() != answer.map or m.replace().encode() != answer.map:
        out.append("pyrbd encodes the map differently")
    return out


def things(answer: Answer) -> set[str]:
    """What is in a map and plays a role."""
    m = OSDMap.decode_full(answer.map)
    crush = m.crush
    out = {f"bucket {b.alg}" for b in crush.buckets.values() if b.items}
    args = [crush.choose_args_for(p) or {} for p in m.pools]
    t = crush.tunables
    out |= {
        name
        for name, there in {
            "choose_args of all pools": -1 in crush.choose_args,
            "choose_args of a pool": any(p in crush.choose_args for p in m.pools),
            "weight-sets of several positions": any(len(b.weight_sets) > 1 for a in args for b in a.values()),
            "ids": any(b.ids for a in args for b in a.values()),
            "shadow trees": bool(crush.class_buckets),
            "legacy tries": t.choose_local_tries > 0,
            "fallback tries": t.choose_local_fallback_tries > 0,
            "affinity": bool(m.primary_affinity),
            "choose_args of the wrong size": answer.crush not in (b"", m.crush_data),
        }.items()
        if there
    }
    names = ("pg_upmap", "pg_upmap_items", "pg_upmap_primaries", "pg_temp", "primary_temp")
    out |= {name for name in names if getattr(m, name)}
    for pool in m.pools.values():
        out |= {f"step {s.op}" for s in crush.rules[pool.crush_rule].steps} if pool.crush_rule in crush.rules else set()
        out.add("linux" if pool.object_hash == 1 else "rjenkins")
        out.add("erasure" if pool.is_erasure else "replicated")
        if not pool.flags & 1:
            out.add("without hashpspool")
        if pool.pgp_num < pool.pg_num:
            out.add("pgp_num")
        if pool.allows_ecoptimizations:
            out.add("optimized")
    for raw, _, up, _, acting, _ in answer.groups.values():
        if CRUSH_ITEM_NONE in raw:
            out.add("holes")
        if acting != up:
            out.add("temporary")
    return out
