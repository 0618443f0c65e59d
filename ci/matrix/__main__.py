"""``python3 ci/matrix``: see :mod:`ci.matrix`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from ci.matrix import FORCED, SETTINGS, ClusterError, run, table  # noqa: E402

DOCUMENT = ROOT / "docs/compatibility.md"
BEGIN, END = "<!-- made by ci/matrix -->", "<!-- end of what ci/matrix makes -->"


def write(text: str) -> None:
    """Puts the table into its place in the document."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{DOCUMENT} has no place for the table: {BEGIN} ... {END}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/matrix", description="What works with which release of Ceph.")
    parser.add_argument("--release", action="append", help="only this one, or these")
    parser.add_argument("--full", action="store_true", help="also clusters that allow only one mode")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    args = parser.parse_args()
    rows = []
    try:
        for setting in (*SETTINGS, *(FORCED if args.full else ())):
            if not args.release or setting.release in args.release:
                rows += run(setting, lambda text: print(text, file=sys.stderr, flush=True))
    except ClusterError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    text = table(rows)
    print(text)
    if args.write:
        write(text)
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
