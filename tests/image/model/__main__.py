"""``python -m tests.image.model``: see :mod:`tests.image.model`."""

from __future__ import annotations

import argparse
import ast
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from pyrbd.testing.native import NativeCluster

from .engine import Engine, Mismatch, prepare, wipe
from .run import play, run, shrink


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.image.model", description=sys.modules[__package__].__doc__)
    parser.add_argument("--seed", type=int, help="of the first sequence; the others follow")
    parser.add_argument("--seconds", type=float, default=60, help="how long (%(default)s)")
    parser.add_argument("--steps", type=int, default=120, help="of one sequence (%(default)s)")
    parser.add_argument("--roles", default="pyrbd,librbd", help="the two clients (%(default)s)")
    parser.add_argument("--conf", help="of a running cluster that can have erasure-coded data pools")
    parser.add_argument("--without", default="", help="kinds of steps that are left out")
    parser.add_argument("--replay", type=Path, help="a file with the steps of a run")
    parser.add_argument(
        "--shrink", type=int, default=0, metavar="N", help="try so often to leave out steps of a failure"
    )
    parser.add_argument("--keep-going", action="store_true", help="with the next seed after a failure")
    parser.add_argument("--verbose", action="store_true", help="print each step")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else int(time.time())
    cluster = None
    conf = args.conf or os.environ.get("CEPH_CONF")
    if conf is None:
        cluster = NativeCluster(Path(tempfile.mkdtemp(prefix="pyrbd-model-", dir="/tmp")) / "c")
        cluster.up(store="bluestore", settings=("osd/osd_max_markdown_count=100000",))
        conf = str(cluster.conf)
    failures = 0
    try:
        prepare(conf)
        roles = tuple(args.roles.split(","))
        end = time.monotonic() + args.seconds
        say = (lambda text: print(text, flush=True)) if args.verbose else (lambda text: None)
        total = 0
        while True:
            wipe(conf)
            engine = Engine(conf, roles, say)
            steps: list = []
            begun = time.monotonic()
            try:
                if args.replay:
                    steps = ast.literal_eval(args.replay.read_text())
                    play(engine, steps)
                else:
                    run(engine, random.Random(seed), args.steps, steps, set(args.without.split(",")))
                engine.finish()
                total += len(steps)
                print(engine.times())
                print(f"seed {seed}: {len(steps)} steps in {time.monotonic() - begun:.1f} s", flush=True)
            except (Mismatch, AssertionError) as e:
                failures += 1
                engine.abandon()
                print(f"seed {seed}, step {len(steps)}:\n{e}")
                if not isinstance(e, Mismatch):
                    traceback.print_exc()
                if args.shrink:
                    steps = shrink(conf, roles, steps, args.shrink, str(e))
                file = Path(tempfile.gettempdir()) / f"model-{seed}.steps"
                file.write_text("[\n" + "".join(f"  {step!r},\n" for step in steps) + "]\n")
                print(
                    "the steps:\n" + "".join(f"  {step!r:.300}\n" for step in steps[-40:]), f"all of them are in {file}"
                )
                if not args.keep_going:
                    break
            seed += 1
            if args.replay or time.monotonic() > end:
                break
        print(f"{total} steps, {failures} failures")
    finally:
        if cluster is not None:
            cluster.down()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
