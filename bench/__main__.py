"""``python -m bench``: pyrbd and librbd side by side on one cluster, in alternating rounds.

Figures of a shared machine scatter; judge the ratios. librbd's side needs Debian's python3-rados and python3-rbd
under /usr/bin/python3, and is left out without them. Both have librbd's default configuration unless the row says
otherwise: the cache is in use, after a first flush.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import Rounds, show, write_chart, write_page  # noqa: E402
from bench.rows import GROUPS, ROWS, Row  # noqa: E402
from bench.sides import Client, Figure, Side, librbd, pyrbd  # noqa: E402
from pyrbd import rados, rbd  # noqa: E402
from pyrbd.testing.base import say  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402

SIZE = 128 << 20
PAGE = ROOT / "docs" / "performance.md"
CHART = ROOT / "docs" / "performance.svg"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="The cluster is that of CEPH_CONF (images of the benchmark's own are made and removed in its pool rbd), "
        f"else one is started. Groups: {', '.join(GROUPS)}; rows: {', '.join(ROWS)}.",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="per row and round (%(default)s)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="these rows, or groups of rows")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures of all rounds there")
    parser.add_argument("--from-json", metavar="FILE", type=Path, help="measure nothing: show these figures")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and {CHART.name}")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("OLD", "NEW"),
        type=Path,
        help="two source trees of pyrbd side by side, without librbd",
    )
    args = parser.parse_args()
    names = [n for word in args.only.split(",") if word for n in ([r.name for r in GROUPS.get(word, [])] or [word])]
    if unknown := set(names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}")
    clients = [pyrbd()]
    if args.compare:
        clients = [pyrbd(str(args.compare[1].resolve()), "new"), pyrbd(str(args.compare[0].resolve()), "old")]
    elif (theirs := librbd()) is not None:
        clients.append(theirs)
    else:
        say("python3-rbd is not installed: pyrbd alone")
    if args.from_json:
        rounds = load(args.from_json)
    else:
        rounds = measure([ROWS[n] for n in names or ROWS], clients, args.rounds, args.seconds)
    if args.json:
        args.json.write_text(json.dumps(rounds, indent=1))
    show(rounds, *(["new", "old"] if args.compare else []))
    if args.write:
        write_page(PAGE, rounds)
        write_chart(CHART, rounds)


def load(path: Path) -> Rounds:
    found = json.loads(path.read_text())
    return {n: {label: [Figure(*f) for f in r] for label, r in sides.items()} for n, sides in found.items()}


def measure(rows: list[Row], clients: list[Client], number: int, seconds: float) -> Rounds:
    """On the cluster of CEPH_CONF, or one of its own."""
    conf = os.environ.get("CEPH_CONF")
    if conf:
        return _with_image(conf, rows, clients, number, seconds)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        cluster = NativeCluster(Path(directory) / "c")
        cluster.up()
        try:
            return _with_image(str(cluster.conf), rows, clients, number, seconds)
        finally:
            cluster.down()


def _with_image(conf: str, rows: list[Row], clients: list[Client], number: int, seconds: float) -> Rounds:
    name = f"bench-{os.getpid()}"
    with rados.Rados(conffile=conf) as handle, handle.open_ioctx("rbd") as ioctx:
        rbd.RBD().create(ioctx, name, SIZE, features=rbd.RBD_FEATURE_LAYERING)
        try:
            with rbd.Image(ioctx, name) as image:
                image.write(os.urandom(SIZE), 0)
            rounds: Rounds = {}
            for options in dict.fromkeys(row.options for row in rows):
                chosen = [row for row in rows if row.options == options]
                rounds.update(_rounds(conf, name, options, chosen, clients, number, seconds))
            return {row.name: rounds[row.name] for row in rows}
        finally:
            rbd.RBD().remove(ioctx, name)


def _rounds(
    conf: str,
    image: str,
    options: tuple[str, ...],
    rows: list[Row],
    clients: list[Client],
    number: int,
    seconds: float,
) -> Rounds:
    sides = [Side(client, conf, options, image, SIZE) for client in clients]
    found: Rounds = {}
    for k in range(number):
        say(f"round {k + 1} of {number}{' with ' + ', '.join(options) if options else ''}")
        for row in rows:
            for side in sides if k % 2 == 0 else reversed(sides):
                call = row.theirs if row.theirs and side.client.backend == "librbd" else row.call
                figure = side.measure(call, seconds)
                found.setdefault(row.name, {}).setdefault(side.client.label, []).append(figure)
    for side in sides:
        side.close()
    return found


if __name__ == "__main__":
    main()
