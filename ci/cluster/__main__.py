"""``python3 ci/cluster up|down|status|conf [--dir DIR]``: see :mod:`ci.cluster`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from ci.cluster import Cluster, ClusterError, ExternalCluster, NativeCluster, say  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/cluster", description="Start and stop a Ceph cluster for tests.")
    parser.add_argument("command", choices=["up", "down", "status", "conf"])
    parser.add_argument("--provider", choices=["native", "external"], default="native")
    parser.add_argument("--dir", default=str(ROOT / ".cluster"), help="the native cluster's directory (%(default)s)")
    parser.add_argument("--osds", type=int, default=3)
    parser.add_argument("--mons", type=int, default=1)
    parser.add_argument("--store", choices=["memstore", "bluestore"], default="memstore")
    parser.add_argument("--msgr", choices=["v2", "both"], default="v2")
    parser.add_argument("--set", action="append", default=[], metavar="[SECTION/]KEY=VALUE", dest="settings")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `up` takes down what it has started
    try:
        cluster: Cluster = ExternalCluster() if args.provider == "external" else NativeCluster(args.dir)
        if args.command == "up":
            if isinstance(cluster, NativeCluster):
                took = cluster.up(
                    osds=args.osds, mons=args.mons, store=args.store, msgr=args.msgr, settings=args.settings
                )
                say(f"up in {took:.1f} s; export CEPH_CONF={cluster.conf}")
        elif args.command == "down":
            cluster.down()
        elif args.command == "conf":
            print(cluster.conf)
        else:
            print(json.dumps(cluster.status(), indent=2))
    except ClusterError as e:
        say(f"error: {e}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
