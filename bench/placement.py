"""``python -m bench.placement``: all placement groups of a map of 5000 OSDs and 65536 groups, beside
`osdmaptool --test-map-pgs-dump`, in alternating rounds; and single lookups.

The tool's time is that of its process, with reading the map and writing the lines. Ours is shown as that of the mapping
in a program that has read the map (`OSDMap.map_pgs`), with numpy and without, and as that of the whole command
(`pyrbd osdmap dump-pgs`).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pyrbd.osdmap import OSDMap, bulk  # noqa: E402
from pyrbd.osdmap.hash import ceph_str_hash  # noqa: E402

OSDS, PER_HOST, PER_RACK, GROUPS = 5000, 20, 10, 65536


def tool(*args: object) -> None:
    subprocess.run([str(a) for a in args], check=True, capture_output=True)


def make_map(directory: Path) -> Path:
    """Racks of hosts of OSDs, straw2, three replicas on different hosts; every eighth OSD is reweighted or out."""
    path, crush = directory / "map", directory / "crush"
    tool("osdmaptool", "--createsimple", OSDS, path, "--with-default-pool", "--pg-bits", 4)
    layers = ["host", "straw2", PER_HOST, "rack", "straw2", PER_RACK, "root", "straw2", 0]
    tool("crushtool", "-o", crush, "--build", "--num_osds", OSDS, *layers)
    tool("osdmaptool", path, "--import-crush", crush, "--mark-up-in")
    m = OSDMap.decode_full(path.read_bytes())
    weights = [(0x10000, 0x8000, 0)[i % 16 // 8 + (i % 16 == 0)] if i % 8 == 0 else 0x10000 for i in range(OSDS)]
    (pool,) = m.pools
    info = m.pools[pool].replace(pg_num=GROUPS, pgp_num=GROUPS, pg_num_target=GROUPS, pgp_num_target=GROUPS)
    path.write_bytes(m.replace(pools={pool: info.replace(pg_num_pending=GROUPS)}, osd_weight=weights).encode())
    return path


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as directory:
        path = make_map(Path(directory))
        m = OSDMap.decode_full(path.read_bytes())
        (pool,) = m.pools
        vector = bulk.vector_mapper
        dump = [sys.executable, "-m", "pyrbd", "osdmap", "dump-pgs", str(path)]

        def integers() -> None:
            bulk.vector_mapper = lambda *args: None
            try:
                list(m.map_pgs(pool))
            finally:
                bulk.vector_mapper = vector

        ways: dict[str, Callable[[], object]] = {
            "osdmaptool --test-map-pgs-dump": lambda: tool("osdmaptool", path, "--test-map-pgs-dump"),
            "OSDMap.map_pgs, numpy": lambda: list(m.map_pgs(pool)),
            "OSDMap.map_pgs, without numpy": integers,
            "pyrbd osdmap dump-pgs, numpy": lambda: subprocess.run(dump, check=True, capture_output=True, cwd=ROOT),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                times[name].append(seconds(run))
        base = statistics.median(times["osdmaptool --test-map-pgs-dump"])
        print(f"{OSDS} OSDs, {GROUPS} groups of 3, medians of {rounds} rounds")
        for name, values in times.items():
            median = statistics.median(values)
            print(f"{name:34} {median:7.3f} s   {median / base:6.2f} times the tool's")
        lookups(m, pool)


def lookups(m: OSDMap, pool: int) -> None:
    """From an object's name to its acting set."""
    name = b"rbd_data.1234567890ab.0000000000000000"

    def lookup() -> None:
        m.pg_acting_primary(pool, m.raw_hash_to_pg(pool, m.object_to_raw_hash(pool, name)).seed)

    def anew() -> None:
        ceph_str_hash.cache_clear()
        lookup()

    for what, run in (("known name", lookup), ("new name, known group", anew)):
        run()
        best = min(timeit.repeat(run, number=5000, repeat=5)) / 5000
        print(f"one lookup, {what:24} {best * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
