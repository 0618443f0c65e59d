"""A short tour of pyrbd on a real cluster: ``python examples/tour.py /path/to/ceph.conf``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyrbd
import pyrbd.rados as rados
import pyrbd.rbd as rbd

MIB = 1 << 20


@contextmanager
def step(text: str) -> Iterator[list[str]]:
    """Prints what was done, what came out of it and how long it took."""
    notes: list[str] = []
    start = time.perf_counter()
    yield notes
    took = (time.perf_counter() - start) * 1000
    print(f"  {text:<44} {took:8.1f} ms   {'; '.join(notes)}")


def main(conf: str) -> None:
    print(f"\npyrbd {pyrbd.__version__}, Python {sys.version.split()[0]}: no librados, no librbd\n")
    cluster = rados.Rados(conffile=conf)
    with step("connect to the cluster") as note:
        cluster.connect(timeout=10)
        note.append(f"fsid {cluster.get_fsid()}")
    ioctx = cluster.open_ioctx("rbd")
    images = rbd.RBD()
    data = os.urandom(24 * MIB)
    with step("create an image of 1 GiB") as note:
        images.create(ioctx, "tour", 1024 * MIB)
        note.append("objects of 4 MiB, feature layering")
    with rbd.Image(ioctx, "tour") as image:
        with step("write 24 MiB at an odd offset") as note:
            image.write(data, 3 * MIB + 777)
            note.append("on all replicas")
        with step("read them back") as note:
            same = image.read(3 * MIB + 777, len(data)) == data
            note.append("the same bytes" if same else "DIFFERENT BYTES")
        with step("read where nothing was written") as note:
            note.append("zeroes" if not any(image.read(900 * MIB, 4096)) else "NOT ZERO")
        with step("4 KiB reads, 1000 of them, one at a time") as note:
            start = time.perf_counter()
            for i in range(1000):
                image.read(4 * MIB + i * 4096, 4096)
            note.append(f"{(time.perf_counter() - start) * 1000:.0f} µs each")
        with step("checksum of the first 64 MiB") as note:
            ours = hashlib.sha256(image.read(0, 64 * MIB)).hexdigest()
            note.append(f"sha256 {ours[:16]}…")
        with step("shrink it to 64 MiB") as note:
            image.resize(64 * MIB)
            note.append(f"{image.size() // MIB} MiB, {image.stat()['num_objs']} objects")
    if shutil.which("rbd"):
        with step("what Ceph's own rbd exports") as note:
            command = ["rbd", "-c", conf, "export", "--no-progress", "rbd/tour", "-"]
            theirs = hashlib.sha256(subprocess.run(command, check=True, capture_output=True).stdout).hexdigest()
            note.append("the same checksum" if theirs == ours else "ANOTHER CHECKSUM")
    with step("rename it, list the pool") as note:
        images.rename(ioctx, "tour", "tour-renamed")
        note.append(f"images: {', '.join(images.list(ioctx))}")
    with step("remove it") as note:
        images.remove(ioctx, "tour-renamed")
        note.append(f"images: {', '.join(images.list(ioctx)) or 'none'}")
    with step("disconnect"):
        ioctx.close()
        cluster.shutdown()
    print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
