"""``ci/fuzz [--seconds N] [TARGET...]``: fuzzes what reads bytes, guided by coverage.

Each target has a process of its own, with limits for time and memory. What breaks it is put into
``tests/fuzz/crashes/TARGET``, where the ordinary tests find it, and is the exit status 1. With ``--keep`` the inputs
that reach more than those in ``tests/fuzz/corpus/TARGET`` are added there, and what they make superfluous goes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import harness

ROOT = harness.HERE.parents[1]
STATUS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)")


def atheris(name: str, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.harness", name, *args],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def fuzz(name: str, seconds: float, keep: bool, most: int) -> bool:
    """Runs a target; True when nothing broke."""
    corpus, crashes = harness.CORPUS / name, harness.CRASHES / name
    with tempfile.TemporaryDirectory(prefix="pyrbd-fuzz-") as directory:
        work, found, best = Path(directory, "work"), Path(directory, "crash"), Path(directory, "best")
        for d in (work, found, best):
            d.mkdir()
        harness.write_seeds(name, harness.load(name).seeds(), work)
        for path in harness.kept(name):
            shutil.copy(path, work / path.name)
        limits = (
            f"-max_len={harness.MAX_LENGTH}",
            f"-timeout={harness.SECONDS_PER_INPUT}",
            f"-rss_limit_mb={harness.RSS_LIMIT_MB}",
        )
        run = (f"-max_total_time={max(1, int(seconds))}", f"-artifact_prefix={found}/", "-print_final_stats=1")
        begun = time.monotonic()
        done = atheris(name, str(work), *run, *limits)
        took = time.monotonic() - begun
        broken = [p for p in found.iterdir() if p.is_file()]
        for path in broken:
            crashes.mkdir(parents=True, exist_ok=True)
            shutil.move(path, crashes / path.name)
        if keep:
            again = Path(directory, "again")
            again.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fuzz.harness {name} "$@"\n')
            again.chmod(0o755)
            merged = atheris(name, "-merge=1", str(best), str(work), *limits, PYRBD_FUZZ_SELF=str(again))
            chosen = sorted(best.iterdir(), key=lambda p: p.stat().st_size)[:most]
            if merged.returncode or not chosen:
                print(f"the corpus of {name} stays: the merge failed\n{merged.stdout[-2000:]}", flush=True)
            else:
                shutil.rmtree(corpus, ignore_errors=True)
                corpus.mkdir(parents=True)
                for path in chosen:
                    shutil.copy(path, corpus / path.name)
    status = STATUS.findall(done.stdout)
    runs, edges, features, inputs = status[-1] if status else ("0", "0", "0", "0")
    print(
        f"{name:10} {runs:>9} executions in {took:5.0f} s, {edges} edges, {features} features, {inputs} inputs"
        f"{'' if done.returncode == 0 else ': BROKEN'}",
        flush=True,
    )
    if done.returncode:
        print(done.stdout[-4000:], flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/fuzz", description="Fuzzes what reads bytes.")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="adds what reaches more to the corpus in the tree")
    parser.add_argument("--most", type=int, default=300, help="inputs that are kept of a target (%(default)s)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(harness.names()))
    args = parser.parse_args()
    unknown = set(args.targets) - set(harness.names())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    broken = [n for n in args.targets or harness.names() if not fuzz(n, args.seconds, args.keep, args.most)]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
