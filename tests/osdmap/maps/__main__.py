"""Plays random maps, and stops at the first that pyrbd and Ceph place differently."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from pyrbd.testing.releases import RELEASES

from .oracle import Oracle, ToolFailed, differences


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.osdmap.maps", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first map")
    parser.add_argument("--count", type=int, default=1000, help="how many maps")
    parser.add_argument("--release", choices=list(RELEASES), help="whose tools; by default those that are installed")
    parser.add_argument("--msr", action="store_true", help="with rules of this kind; of tentacle")
    parser.add_argument("--keep", type=Path, help="where to put a map that is placed differently")
    parser.add_argument("--go-on", action="store_true", help="also after a difference")
    args = parser.parse_args()
    started = time.monotonic()
    groups = failed = bad = 0
    release = f" --release {args.release}" * bool(args.release) + " --msr" * args.msr
    with tempfile.TemporaryDirectory() as directory:
        oracle = Oracle(Path(directory), args.release)
        for seed in range(args.seed, args.seed + args.count):
            try:
                answer = oracle.play(seed, args.msr)
            except ToolFailed as e:
                failed += 1
                print(f"seed {seed}: {e}".splitlines()[0])
                continue
            groups += len(answer.groups)
            found = differences(answer)
            if found:
                bad += 1
                print(f"seed {seed}: {len(found)} differences", *found[:8], sep="\n  ")
                print(f"again: python -m tests.osdmap.maps --seed {seed} --count 1{release}")
                if args.keep:
                    args.keep.write_bytes(answer.map)
                    args.keep.with_suffix(".txt").write_bytes((oracle.directory / "crush.txt").read_bytes())
                if not args.go_on:
                    return 1
    seconds = time.monotonic() - started
    print(f"{args.count} maps, {groups} groups, {seconds:.0f} s; {failed} refused by a tool, {bad} placed differently")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
