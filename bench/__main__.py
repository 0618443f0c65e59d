"""``python -m bench``: pyrbd and librbd side by side on one cluster, in alternating rounds.

Figures of a shared machine scatter; judge the ratios. librbd's side needs Debian's
python3-rados and python3-rbd under /usr/bin/python3, and is left out without them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ci.cluster import NativeCluster  # noqa: E402
from pyrbd import rados, rbd  # noqa: E402

WORKER = Path(__file__).parent / "worker.py"
IMAGE, SIZE = "bench", 128 << 20

WORKLOADS = {
    # name: (what the figure is, unit)
    "bare_read_4k": ("one object read of 4 KiB, no image layer", "op/s"),
    "read_4k": ("4 KiB random read, depth 1", "op/s"),
    "read_4k_16_threads": ("4 KiB random read, 16 threads", "op/s"),
    "read_4k_16_aio": ("4 KiB random read, 16 in flight (aio / asyncio)", "op/s"),
    "write_4k": ("4 KiB random write, depth 1", "op/s"),
    "write_4k_16_threads": ("4 KiB random write, 16 threads", "op/s"),
    "read_4m": ("4 MiB sequential read", "MiB/s"),
    "write_4m": ("4 MiB sequential write", "MiB/s"),
    "read_128m": ("128 MiB read in one call", "MiB/s"),
    "write_128m": ("128 MiB write in one call", "MiB/s"),
    "connect": ("connect and shut down", "/s"),
    "open": ("open and close an image", "/s"),
    "remove": ("remove an image of 64 objects", "/s"),
}
PROCESSES = {"import": "import the modules (process, less a bare one)", "whole": "whole process: first 4 KiB read"}


class Worker:
    """One side, in a process of its own."""

    def __init__(self, python: str, backend: str, conf: str, cache: str) -> None:
        self.label = backend if backend == "pyrbd" else f"librbd, {cache}"
        self._process = subprocess.Popen(
            [python, str(WORKER), "serve", backend, conf, cache],
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

    def close(self) -> None:
        self.call("close")
        self._process.wait(30)


def seconds_of(command: list[str]) -> float:
    # with bytecode, as an installed package has it
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=env)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="per workload and round")
    parser.add_argument("--only", default="", help="names of workloads, separated by commas")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args()
    wanted = [w for w in args.only.split(",") if w] or [*WORKLOADS, *PROCESSES]
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        conf = os.environ.get("CEPH_CONF")
        cluster = None
        if not conf:
            cluster = NativeCluster(Path(directory) / "c")
            cluster.up()
            conf = str(cluster.conf)
        try:
            run(conf, wanted, args)
        finally:
            if cluster is not None:
                cluster.down()


def run(conf: str, wanted: list[str], args: argparse.Namespace) -> None:
    with rados.Rados(conffile=conf) as handle, handle.open_ioctx("rbd") as ioctx:
        if IMAGE not in rbd.RBD().list(ioctx):
            rbd.RBD().create(ioctx, IMAGE, SIZE)
        with rbd.Image(ioctx, IMAGE) as image:
            image.write(os.urandom(SIZE), 0)
    system = "/usr/bin/python3"
    have = subprocess.run([system, "-c", "import rados, rbd"], capture_output=True, check=False).returncode == 0
    workers = [Worker(sys.executable, "pyrbd", conf, "nocache")]
    if have:
        workers += [Worker(system, "librbd", conf, "cache off"), Worker(system, "librbd", conf, "cache")]
    else:
        print("python3-rbd is not installed: pyrbd alone")
    for w in workers:
        w.call("setup", IMAGE, SIZE)
    figures: dict[str, dict[str, list[list[float]]]] = {}
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        for name in (w for w in wanted if w in WORKLOADS):
            for w in workers if number % 2 == 0 else reversed(workers):
                figures.setdefault(name, {}).setdefault(w.label, []).append(w.call(name, args.seconds))
        for name in (w for w in wanted if w in PROCESSES):
            for python, backend in [(sys.executable, "pyrbd"), *([(system, "librbd")] if have else [])]:
                base = seconds_of([python, "-c", "pass"]) if name == "import" else 0.0
                took = seconds_of([python, str(WORKER), name, backend, conf, IMAGE]) - base
                label = backend if backend == "pyrbd" else "librbd, cache"
                figures.setdefault(name, {}).setdefault(label, []).append([1 / max(took, 1e-4), 0.0])
    for w in workers:
        w.close()
    show(figures, [w.label for w in workers])
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


def show(figures: dict[str, dict[str, list[list[float]]]], labels: list[str]) -> None:
    """A table of medians; the ratio is pyrbd's figure to librbd's, more is faster."""
    print(f"\n{'median (CPU µs per call)':52}" + "".join(f"{label:>24}" for label in labels) + "   ratios")
    for name, sides in figures.items():
        text, unit = WORKLOADS.get(name, (PROCESSES.get(name, name), "/s"))
        row, rates = "", []
        for label in labels:
            if label not in sides:
                row += f"{'-':>24}"
                continue
            rate = statistics.median(r for r, _ in sides[label])
            cpu = statistics.median(c for _, c in sides[label])
            rates.append(rate)
            row += f"{f'{rate:,.4g} {unit} ({cpu:,.0f})' if cpu else f'{1000 / rate:,.1f} ms':>24}"
        ratios = "  ".join(f"{rates[0] / r:.2f}" for r in rates[1:])
        print(f"{text:52}{row}   {ratios}")
    if {"bare_read_4k", "read_4k"} <= figures.keys():
        bare, image = (statistics.median(1e6 / r for r, _ in figures[w]["pyrbd"]) for w in ("bare_read_4k", "read_4k"))
        print(f"\npyrbd's image layer: {image - bare:+.1f} µs on a bare request of {bare:.1f} µs")
    print("\npyrbd has no cache: its writes return when all replicas have them, as librbd's with its cache off.")


if __name__ == "__main__":
    main()
