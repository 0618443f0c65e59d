"""``python -m bench.secure``: what encryption costs, ours and librbd's.

The same workloads in crc and in secure mode (`ms_client_mode`), each by pyrbd and by librbd with
its cache off, in alternating rounds on one cluster. Beside each rate is the CPU time of the client for
one call, in µs: it does not suffer from what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.__main__ import SIZE, WORKLOADS, Side  # noqa: E402
from pyrbd import rados, rbd  # noqa: E402
from pyrbd.testing.base import say  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402
from pyrbd.testing.programs import SYSTEM_PYTHON  # noqa: E402

CHOSEN = [
    "read_4k",
    "read_4k_16_threads",
    "read_4k_16_aio",
    "write_4k",
    "write_4k_16_threads",
    "read_4m",
    "write_4m",
    "read_128m",
    "write_128m",
    "connect",
]
COLUMNS = [("pyrbd", "crc"), ("librbd", "crc"), ("pyrbd", "secure"), ("librbd", "secure")]

Figures = dict[str, dict[tuple[str, str], tuple[float, float]]]
"""workload -> side -> medians: rate, CPU µs per call"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.secure", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="per workload and round (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        conf = os.environ.get("CEPH_CONF")
        cluster = None
        if not conf:
            cluster = NativeCluster(Path(directory) / "c")
            cluster.up()
            conf = str(cluster.conf)
        try:
            figures = run(conf, args.rounds, args.seconds)
        finally:
            if cluster is not None:
                cluster.down()
    show(figures)


def run(conf: str, rounds: int, seconds: float) -> Figures:
    name = f"bench-{os.getpid()}"
    with rados.Rados(conffile=conf) as handle, handle.open_ioctx("rbd") as ioctx:
        rbd.RBD().create(ioctx, name, SIZE)
        try:
            with rbd.Image(ioctx, name) as image:
                image.write(os.urandom(SIZE), 0)
            return measure(conf, name, rounds, seconds)
        finally:
            rbd.RBD().remove(ioctx, name)


def measure(conf: str, name: str, rounds: int, seconds: float) -> Figures:
    pythons = {"pyrbd": sys.executable, "librbd": SYSTEM_PYTHON}
    sides = {
        (backend, mode): Side(
            f"{backend} {mode}", pythons[backend], backend, conf, "rbd_cache=false", f"ms_client_mode={mode}"
        )
        for backend, mode in COLUMNS
    }
    found: dict[str, dict[tuple[str, str], list[list[float]]]] = {w: {c: [] for c in COLUMNS} for w in CHOSEN}
    for side in sides.values():
        side.call("setup", name, SIZE)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for workload in CHOSEN:
            for column in COLUMNS if number % 2 == 0 else COLUMNS[::-1]:
                found[workload][column].append(sides[column].call(workload, seconds))
    for side in sides.values():
        side.close()
    return {
        workload: {c: (statistics.median(r for r, _ in f), statistics.median(u for _, u in f)) for c, f in by.items()}
        for workload, by in found.items()
    }


def show(figures: Figures) -> None:
    print(f"{'':48}" + "".join(f"{' '.join(c):>22}" for c in COLUMNS) + "   pyrbd/librbd     secure/crc")
    print(f"{'':48}" + " " * 88 + "   crc   secure     pyrbd  librbd")
    for workload, of in figures.items():
        text, unit = WORKLOADS[workload]
        cells = [
            f"{1000 / rate:,.2f} ms" if unit == "ms" else f"{rate:,.0f} {unit} ({cpu:,.0f})"
            for rate, cpu in of.values()
        ]
        ours, theirs, ours_secure, theirs_secure = (of[c][0] for c in COLUMNS)
        print(
            f"{text:48}" + "".join(f"{cell:>22}" for cell in cells),
            f"  {ours / theirs:.2f}  {ours_secure / theirs_secure:.2f}       "
            f"{ours_secure / ours:.2f}   {theirs_secure / theirs:.2f}",
        )


if __name__ == "__main__":
    main()
