"""``python3 ci/thrash``: see :mod:`ci.thrash`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from ci.thrash import run, succeeded  # noqa: E402
from pyrbd.testing.base import ClusterError  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/thrash", description="Verified workloads on a cluster that is thrashed.")
    parser.add_argument("--seconds", type=float, default=180, help="how long faults go on (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="repeats an earlier run's faults")
    parser.add_argument("--fault", action="append", help="only this one, or these, and then at random")
    parser.add_argument("--scale", type=float, default=1.0, help="of the faults' length (%(default)s)")
    parser.add_argument("--dir", type=Path, help="the cluster's directory")
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else int(time.time())

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        report = run(args.seconds, seed, directory=args.dir, faults=args.fault, scale=args.scale, say=say)
    except ClusterError as e:
        say(f"error: {e}")
        return 2
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for key, value in report.items():
            if isinstance(value, dict):
                print(f"{key}:")
                for k, v in value.items():
                    print(f"  {k}: {v}")
            elif isinstance(value, list):
                print(f"{key}: {len(value)}")
                for line in value:
                    print(f"  {line}")
            else:
                print(f"{key}: {value}")
    return 0 if succeeded(report) else 1


if __name__ == "__main__":
    sys.exit(main())
