"""Records `data/page-*.gz`, the maps of docs/placement.md: ``python tests/osdmap/record_page.py``.

Four hosts with two OSDs each. ``healthy``; ``moved``: an OSD is replaced by an exception and has to get the data
first; ``down``: an OSD has died; ``out``: and is given up.
"""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pyrbd import rados  # noqa: E402
from pyrbd.testing.commander import Commander, wait_clean  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402

DATA = Path(__file__).parent / "data"
PG = "3.9"  # of the object strawberry
HOSTS = {"ant": (0, 1), "bee": (2, 3), "cat": (4, 5), "dog": (6, 7)}


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        cluster = NativeCluster(Path(directory) / "c")
        # short logs, so that an OSD which comes to a group has to be filled instead of being told what is new
        cluster.up(
            osds=8,
            settings=[
                "osd/osd_min_pg_log_entries=1",
                "osd/osd_max_pg_log_entries=2",
                "osd/osd_pg_log_trim_min=1",
                "mgr/mgr/balancer/active=false",
            ],
        )
        try:
            record(cluster)
        finally:
            cluster.down()


def record(cluster: NativeCluster) -> None:
    ceph = Commander(cluster.conf)
    for host, osds in HOSTS.items():
        ceph.command("osd crush add-bucket", name=host, type="host")
        ceph.command("osd crush move", name=host, args=["root=default"])
        for osd in osds:
            weight = 2.0 if host == "dog" else 1.0
            ceph.command("osd crush set", id=osd, weight=weight, args=["root=default", f"host={host}"])
    ceph.command("osd crush rm", name=socket.gethostname().split(".")[0])
    ceph.command("osd crush rule create-replicated", name="spread", root="default", type="host")
    ceph.command("osd pool create", pool="fruit", pg_num=24, pgp_num=24, rule="spread", size=3)
    ceph.command("osd pool set", pool="fruit", var="pg_autoscale_mode", val="off")
    ceph.command("osd reweight", id=3, weight=0.5)
    ceph.command("osd primary-affinity", id=6, weight=0.25)
    wait_clean(ceph.command, 8, 60)
    save(cluster, "healthy")

    with rados.Rados(conffile=str(cluster.conf)) as handle, handle.open_ioctx("fruit") as ioctx:
        for _ in range(30):
            ioctx.write_full("strawberry", b"red")
    ceph.command("osd set", key="nobackfill")
    ceph.command("osd pg-upmap-items", pgid=PG, id=[2, 0])
    wait_for_temp(ceph)
    save(cluster, "moved")

    ceph.command("osd rm-pg-upmap-items", pgid=PG)
    ceph.command("osd unset", key="nobackfill")
    wait_clean(ceph.command, 8, 60)

    cluster.kill("osd.4")
    ceph.command("osd down", ids=["4"])
    save(cluster, "down")
    ceph.command("osd set", key="nobackfill")
    ceph.command("osd out", ids=["4"])
    wait_for_temp(ceph)
    save(cluster, "out")
    ceph.close()


def wait_for_temp(ceph: Commander) -> None:
    """Until other OSDs than those of up serve the group."""
    end = time.monotonic() + 30
    while not any(entry["pgid"] == PG for entry in ceph.command("osd dump")["pg_temp"]):
        if time.monotonic() > end:
            raise SystemExit("no pg_temp")
        time.sleep(0.05)


def save(cluster: NativeCluster, name: str) -> None:
    done = subprocess.run(["ceph", "-c", str(cluster.conf), "osd", "getmap"], capture_output=True, check=True)
    (DATA / f"page-{name}.gz").write_bytes(gzip.compress(done.stdout, mtime=0))


if __name__ == "__main__":
    main()
