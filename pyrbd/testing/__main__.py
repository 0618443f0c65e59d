"""``python3 -m pyrbd.testing up|down|status|conf|tool [--dir DIR]``: a cluster to play with."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence

from .base import Cluster, ClusterError, say
from .conf import ALGORITHMS
from .external import ExternalCluster
from .native import NativeCluster
from .programs import environment
from .releases import RELEASES, ReleasePrograms


def _parser(directory: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Start and stop a Ceph cluster for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--provider", choices=["native", "external"], default="native")
    common.add_argument("--dir", default=directory, help="the native cluster's directory (%(default)s)")
    up = commands.add_parser("up", parents=[common], help="start a cluster")
    up.add_argument("--release", help=f"{', '.join(RELEASES)}; otherwise the distribution's Ceph")
    up.add_argument("--osds", type=int, default=3)
    up.add_argument("--mons", type=int, default=1)
    up.add_argument("--address", help="where the daemons listen (127.0.0.1)")
    up.add_argument("--store", choices=["memstore", "bluestore"])
    up.add_argument("--msgr", choices=["v2", "both"], default="v2")
    up.add_argument("--cipher", choices=["aes", "aes256k", "both"], help="the type of keys")
    up.add_argument("--service-cipher", choices=["aes", "aes256k"], help="the type of tickets' secrets")
    mode = up.add_mutually_exclusive_group()
    mode.add_argument("--secure", dest="modes", action="store_const", const="secure", help="encrypted connections only")
    mode.add_argument("--crc", dest="modes", action="store_const", const="crc", help="no encrypted connections")
    up.add_argument("--compress", dest="compression", choices=ALGORITHMS, help="compress connections to OSDs")
    up.add_argument("--ec", action="store_true", help="with an erasure-coded pool, ecdata")
    up.add_argument("--netns", action="store_true", help="each OSD in a network namespace of its own (root)")
    up.add_argument("--set", action="append", default=[], metavar="[SECTION/]KEY=VALUE", dest="settings")
    for name, what in (
        ("down", "stop it and remove its directory"),
        ("status", "what runs, as JSON"),
        ("conf", "print the path of its ceph.conf"),
    ):
        commands.add_parser(name, parents=[common], help=what)
    tool = commands.add_parser("tool", parents=[common], help="run Ceph's own rbd, rados, ceph on it")
    tool.add_argument("program")
    tool.add_argument("arguments", nargs=argparse.REMAINDER)
    for name in ("cut", "heal"):
        link = commands.add_parser(name, parents=[common], help=f"{name} the link of an OSD that has a namespace")
        link.add_argument("name", metavar="osd.N")
    install = commands.add_parser("install", help="download a release, so that `up` need not")
    install.add_argument("release")
    return parser


def _run(args: argparse.Namespace) -> None:
    if args.command == "install":
        ReleasePrograms(args.release).prepare()
        return
    cluster: Cluster = ExternalCluster() if args.provider == "external" else NativeCluster(args.dir)
    if args.command == "up" and isinstance(cluster, NativeCluster):
        cluster.address = args.address or cluster.address
        options = {k: v for k, v in vars(args).items() if k not in ("command", "provider", "dir", "address")}
        took = cluster.up(**options)
        say(f"up in {took:.1f} s; export CEPH_CONF={cluster.conf}")
    elif args.command == "down":
        cluster.down()
    elif args.command == "conf":
        print(cluster.conf)
    elif args.command == "status":
        print(json.dumps(cluster.status(), indent=2))
    elif args.command == "tool":
        command = cluster.argv(args.program, *args.arguments)
        os.execvpe(command[0], command, environment())
    elif args.command in ("cut", "heal"):
        if not isinstance(cluster, NativeCluster):
            raise ClusterError("links are cut of native clusters only")
        (cluster.cut_link if args.command == "cut" else cluster.heal_link)(args.name)


def main(argv: Sequence[str] | None = None, *, directory: str = ".cluster") -> int:
    """The command; gives the exit status."""
    args = _parser(directory).parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `up` takes down what it has started
    try:
        _run(args)
    except ClusterError as e:
        say(f"error: {e}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
