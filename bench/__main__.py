"""``python -m bench``: pyrbd and librbd side by side on one cluster, in alternating rounds.

Figures of a shared machine scatter; judge the ratios. librbd's side needs Debian's
python3-rados and python3-rbd under /usr/bin/python3, and is left out without them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pyrbd import rados, rbd  # noqa: E402
from pyrbd.testing.base import say  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402
from pyrbd.testing.programs import SYSTEM_PYTHON  # noqa: E402

WORKER = Path(__file__).parent / "worker.py"
SIZE = 128 << 20

WORKLOADS = {
    # name: (what the figure is, unit: a rate, or ms for the time of one)
    "bare_read_4k": ("4 KiB read of an object, no image layer", "op/s"),
    "read_4k": ("4 KiB random read, depth 1", "op/s"),
    "read_4k_16_threads": ("4 KiB random read, 16 threads", "op/s"),
    "read_4k_16_aio": ("4 KiB random read, 16 asyncio tasks / aio_read", "op/s"),
    "write_4k": ("4 KiB random write, depth 1", "op/s"),
    "write_4k_16_threads": ("4 KiB random write, 16 threads", "op/s"),
    "read_4m": ("4 MiB sequential read", "MiB/s"),
    "write_4m": ("4 MiB sequential write", "MiB/s"),
    "read_128m": ("128 MiB read in one call", "MiB/s"),
    "write_128m": ("128 MiB write in one call", "MiB/s"),
    "connect": ("connect and shut down", "ms"),
    "open": ("open and close an image", "ms"),
    "remove": ("remove an image of 64 objects", "ms"),
}
PROCESSES = {
    # name: (what the figure is, the program)
    "import": ("import the modules (process, less a bare one)", "import {0}rados, {0}rbd"),
    "whole": (
        "whole process: import, connect, open, 4 KiB read",
        """
import {0}rados as rados, {0}rbd as rbd, sys
with rados.Rados(conffile=sys.argv[1]) as cluster, cluster.open_ioctx("rbd") as ioctx:
    with rbd.Image(ioctx, sys.argv[2], read_only=True) as image:
        assert len(image.read(0, 4096)) == 4096
""",
    ),
}

Figures = dict[str, dict[str, list[list[float]]]]
"""workload -> side -> a figure of each round: [rate, CPU µs per call]; for `layer` µs, see the worker"""


class Side:
    """One column of the table: a worker in a process of its own."""

    def __init__(self, label: str, python: str, backend: str, conf: str, *options: str) -> None:
        self.label, self.python, self.backend = label, python, backend
        self._process = subprocess.Popen(
            [python, str(WORKER), backend, conf, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self.label} died")
        return json.loads(line)

    def call(self, *words: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        return self._answer()

    def process(self, name: str, conf: str, image: str) -> list[float]:
        """The figure of a whole process."""
        prefix = "pyrbd." if self.backend == "pyrbd" else ""
        program = PROCESSES[name][1].format(prefix)
        base = self._seconds_of("pass") if name == "import" else 0.0
        return [1 / max(self._seconds_of(program, conf, image) - base, 1e-4), 0.0]

    def _seconds_of(self, *program: str) -> float:
        env = dict(os.environ, PYTHONPATH=str(ROOT)) if self.backend == "pyrbd" else None
        start = time.perf_counter()
        subprocess.run([self.python, "-c", *program], check=True, env=env)
        return time.perf_counter() - start

    def close(self) -> None:
        self.call("close")
        self._process.communicate(timeout=30)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="The cluster is that of CEPH_CONF (images of the benchmark's own are made and removed in its "
        f"pool rbd), else one is started. Workloads: {', '.join([*WORKLOADS, *PROCESSES, 'layer'])}.",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="per workload and round (%(default)s)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="these workloads")
    parser.add_argument("--json", metavar="FILE", help="write the figures of all rounds there")
    args = parser.parse_args()
    wanted = args.only.split(",") if args.only else [*WORKLOADS, *PROCESSES, "layer"]
    if unknown := set(wanted) - {*WORKLOADS, *PROCESSES, "layer"}:
        parser.error(
            f"no workload {', '.join(sorted(unknown))}: there are {', '.join([*WORKLOADS, *PROCESSES])}, layer"
        )
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        conf = os.environ.get("CEPH_CONF")
        cluster = None
        if not conf:
            cluster = NativeCluster(Path(directory) / "c")
            cluster.up()
            conf = str(cluster.conf)
        try:
            figures = run(conf, wanted, args.rounds, args.seconds)
        finally:
            if cluster is not None:
                cluster.down()
    show(figures)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


def run(conf: str, wanted: list[str], rounds: int, seconds: float) -> Figures:
    name = f"bench-{os.getpid()}"
    with rados.Rados(conffile=conf) as handle, handle.open_ioctx("rbd") as ioctx:
        rbd.RBD().create(ioctx, name, SIZE)
        try:
            with rbd.Image(ioctx, name) as image:
                image.write(os.urandom(SIZE), 0)
            return measure(conf, name, wanted, rounds, seconds)
        finally:
            rbd.RBD().remove(ioctx, name)


def measure(conf: str, name: str, wanted: list[str], rounds: int, seconds: float) -> Figures:
    sides = [Side("pyrbd", sys.executable, "pyrbd", conf)]
    try:
        if subprocess.run([SYSTEM_PYTHON, "-c", "import rados, rbd"], capture_output=True, check=False).returncode:
            raise FileNotFoundError
        sides.append(Side("librbd, cache off", SYSTEM_PYTHON, "librbd", conf, "rbd_cache=false"))
        sides.append(Side("librbd, cache", SYSTEM_PYTHON, "librbd", conf))
    except FileNotFoundError:
        say("python3-rbd is not installed: pyrbd alone")
    for side in sides:
        side.call("setup", name, SIZE)
    figures: Figures = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for workload in wanted:
            for side in sides if number % 2 == 0 else reversed(sides):
                if workload in WORKLOADS or workload == "layer":
                    figure = side.call(workload, seconds)
                elif side.label == "librbd, cache off":
                    continue  # the cache makes no difference to a process
                else:
                    figure = side.process(workload, conf, name)
                figures.setdefault(workload, {}).setdefault(side.label, []).append(figure)
    for side in sides:
        side.close()
    return figures


def show(figures: Figures) -> None:
    """A table of medians; the ratio says how many times as fast as librbd pyrbd is."""
    seen = {label for sides in figures.values() for label in sides}
    labels = sorted(seen, key=["pyrbd", "librbd, cache off", "librbd, cache"].index)
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} processors; in brackets: the client's CPU per call")
    print(f"\n{'medians':48}" + "".join(f"{label:>24}" for label in labels) + "   pyrbd is so many times as fast")
    for name, sides in figures.items():
        if name == "layer":
            continue
        text, unit = WORKLOADS.get(name) or (PROCESSES[name][0], "ms")
        row, rates = "", []
        for label in labels:
            if label not in sides:
                row += f"{'':>24}"
                continue
            rate = statistics.median(r for r, _ in sides[label])
            cpu = statistics.median(c for _, c in sides[label])
            rates.append(rate)
            cell = f"{1000 / rate:,.2f} ms" if unit == "ms" else f"{rate:,.0f} {unit}"
            row += f"{cell + (f' ({human(cpu)})' if cpu else ''):>24}"
        print(f"{text:48}{row}   " + "  ".join(f"{rates[0] / r:.2f}" for r in rates[1:]))
    for label, rounds in figures.get("layer", {}).items():
        if label != "librbd, cache":  # it reads from its cache
            bare, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
            print(f"\nimage layer of {label}: {whole - bare:+.1f} µs on a bare request of {bare:.1f} µs", end="")
    print(
        "\n\nA write of pyrbd, and of librbd with its cache off, returns when all replicas have it; with librbd's"
        "\ncache, which writes back here, it may return earlier."
    )


def human(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs" if microseconds < 10000 else f"{microseconds / 1000:,.0f} ms"


if __name__ == "__main__":
    main()
