"""A short tour of pyrbd on a real cluster: ``python examples/tour.py /path/to/ceph.conf``.

It makes an image of its own in the pool ``rbd``, and removes it. Every step is checked.
"""

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
    """Prints what was done, how long it took and what came out of it."""
    notes: list[str] = []
    start = time.perf_counter()
    yield notes
    took = (time.perf_counter() - start) * 1000
    print(f"  {text:<44} {took:8.1f} ms   {'; '.join(notes)}", flush=True)


def check(good: bool, wrong: str) -> None:
    if not good:
        raise SystemExit(f"the tour has failed: {wrong}")


def tour(ioctx: rados.Ioctx, conf: str, name: str) -> None:
    images = rbd.RBD()
    data = os.urandom(24 * MIB)
    offset = 3 * MIB + 777
    with step("create an image of 1 GiB") as note:
        images.create(ioctx, name, 1024 * MIB)
        note.append("feature layering")
    with rbd.Image(ioctx, name) as image:
        with step("ask for its info") as note:
            info = image.stat()
            note.append(f"{info['num_objs']} objects of {info['obj_size'] // MIB} MiB, {info['block_name_prefix']}.*")
        with step("write 24 MiB of noise at an odd offset") as note:
            image.write(data, offset)
            note.append("on all replicas")
        with step("read them back") as note:
            back = image.read(offset, len(data))
            check(hashlib.sha256(back).digest() == hashlib.sha256(data).digest(), "other bytes came back")
            note.append(f"the same bytes, sha256 {hashlib.sha256(back).hexdigest()[:16]}…")
        with step("read where nothing was written") as note:
            check(not any(image.read(900 * MIB, 4096)), "there is something where nothing was written")
            note.append("zeroes")
        with step("1000 reads of 4 KiB, one at a time") as note:
            start = time.perf_counter()
            for i in range(1000):
                image.read(4 * MIB + i * 4096, 4096)
            note.append(f"{(time.perf_counter() - start) * 1000:.0f} µs each")
        with step("discard 8 MiB in the middle") as note:
            image.discard(8 * MIB, 8 * MIB)
            check(not any(image.read(8 * MIB, 8 * MIB)), "the discarded range is not zero")
            note.append("they read as zeroes")
        with step("shrink it to 64 MiB") as note:
            image.resize(64 * MIB)
            note.append(f"{image.size() // MIB} MiB, {image.stat()['num_objs']} objects")
        with step("checksum of all of it") as note:
            ours = hashlib.sha256(image.read(0, image.size())).hexdigest()
            expected = bytearray(64 * MIB)
            expected[offset : offset + len(data)] = data
            expected[8 * MIB : 16 * MIB] = bytes(8 * MIB)
            check(ours == hashlib.sha256(expected).hexdigest(), "the image is not what was written")
            note.append(f"sha256 {ours[:16]}…, as it should be")
    if shutil.which("rbd"):
        with step("the checksum of what Ceph's own rbd exports") as note:
            command = ["rbd", "-c", conf, "export", "--no-progress", f"rbd/{name}", "-"]
            theirs = hashlib.sha256(subprocess.run(command, check=True, capture_output=True).stdout).hexdigest()
            check(theirs == ours, f"rbd export has the checksum {theirs}")
            note.append(f"sha256 {theirs[:16]}…, the same")
    with step("rename it, list the pool") as note:
        images.rename(ioctx, name, f"{name}-renamed")
        found = images.list(ioctx)
        check(f"{name}-renamed" in found and name not in found, "the new name is not in the list")
        note.append(f"images: {', '.join(found)}")
    with step("remove it") as note:
        images.remove(ioctx, f"{name}-renamed")
        found = images.list(ioctx)
        check(f"{name}-renamed" not in found, "it is still there")
        note.append(f"images: {', '.join(found) or 'none'}")


def main(conf: str) -> None:
    print(f"\npyrbd {pyrbd.__version__}, Python {sys.version.split()[0]}: no librados, no librbd\n")
    begun = time.perf_counter()
    cluster = rados.Rados(conffile=conf)
    with step("connect to the cluster") as note:
        cluster.connect(timeout=10)
        note.append(f"fsid {cluster.get_fsid()}")
    name = f"tour-{os.getpid()}"
    try:
        with cluster.open_ioctx("rbd") as ioctx:
            try:
                tour(ioctx, conf, name)
            except BaseException:
                for left in {name, f"{name}-renamed"} & set(rbd.RBD().list(ioctx)):
                    rbd.RBD().remove(ioctx, left)
                raise
    finally:
        cluster.shutdown()
    print(f"\n  all of it in {time.perf_counter() - begun:.1f} s\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
