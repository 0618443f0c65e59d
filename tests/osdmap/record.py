"""Records `data/*.gz` from Ceph's own tools and daemons: ``python tests/osdmap/record.py``."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pyrbd import rados  # noqa: E402
from pyrbd.msgr.messages import MOSDMap  # noqa: E402
from pyrbd.testing.commander import Commander  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402

DATA = Path(__file__).parent / "data"


def save(name: str, data: bytes) -> None:
    (DATA / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        cluster = NativeCluster(Path(directory) / "c")
        cluster.up(osds=5)
        try:
            record(cluster, Path(directory))
        finally:
            cluster.down()


def record(cluster: NativeCluster, directory: Path) -> None:
    ceph = Commander(cluster.conf)
    seen: dict[int, bytes] = {}
    with rados.Rados(conffile=str(cluster.conf)) as handle:
        objecter = handle.client.objecter
        first = objecter.osdmap.epoch  # type: ignore[union-attr]
        original = objecter.handle_map

        def watch(message: MOSDMap) -> None:
            seen.update(message.incremental_maps)
            original(message)

        handle.client.mon._on_map = watch  # type: ignore[union-attr]
        maps = {first: getmap(cluster, first)}
        ceph.command("osd pool create", pool="second", pg_num=24, pgp_num=24)
        ceph.command("osd reweight", id=1, weight=0.6)
        ceph.command("osd primary-affinity", id=2, weight=0.3)
        for pg in ("1.3", "1.5"):
            osds = ceph.command("pg map", pgid=pg)["up"]
            target = next(o for o in range(5) if o not in osds)
            ceph.command("osd pg-upmap-items", pgid=pg, id=[osds[-1], target])
        ceph.command("osd pg-temp", pgid="1.7", id=[0, 1, 3])
        ceph.command("osd pool rename", srcpool="second", destpool="renamed")
        ceph.command("osd out", ids=["4"])
        cluster.kill("osd.3")
        ceph.command("osd down", ids=["3"])
        handle.wait_for_latest_osdmap()
        last = objecter.osdmap.epoch  # type: ignore[union-attr]
        maps[last] = getmap(cluster, last)
    epochs = {
        "first": maps[first].hex(),
        "incrementals": [seen[e].hex() for e in range(first + 1, last + 1)],
        "last": maps[last].hex(),
    }
    save("epochs", json.dumps(epochs).encode())
    save("map", maps[last])
    path = directory / "map"
    path.write_bytes(maps[last])
    out = subprocess.run(
        ["osdmaptool", str(path), "--test-map-pgs-dump-all"], capture_output=True, text=True, check=True
    )
    answers = []
    for line in out.stdout.splitlines():
        found = re.match(r"(\d+)\.([0-9a-f]+) raw .* up \(\[(.*)\], p(-?\d+)\) acting \(\[(.*)\], p(-?\d+)\)", line)
        if found:
            up, acting = ([int(x) for x in found[i].split(",") if x] for i in (3, 5))
            answers.append([int(found[1]), int(found[2], 16), up, int(found[4]), acting, int(found[6])])
    save("answers", json.dumps(answers).encode())
    ceph.close()


def getmap(cluster: NativeCluster, epoch: int) -> bytes:
    done = subprocess.run(
        ["ceph", "-c", str(cluster.conf), "osd", "getmap", str(epoch)], capture_output=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    main()
