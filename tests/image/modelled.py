"""An open image together with what it should have: changed by us at random, and read by `rbd`."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pyrbd import rados
from pyrbd.image import flatten, resize, snapshots
from pyrbd.image.image import Image

T = TypeVar("T")
Run = Callable[..., bytes]
KIB, MIB = 1 << 10, 1 << 20

EVERYTHING = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"
FEATURES = ["layering", EVERYTHING]


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def opened(ioctx: rados.Ioctx, name: str, **more: Any) -> Iterator[Image]:
    """A core image."""
    run = ioctx._client.run
    image = run(Image.open(ioctx._io, name, **more))
    try:
        yield image
    finally:
        run(image.close())


class Modelled:
    """An open image, its contents now, and those of its snapshots."""

    def __init__(self, ioctx: rados.Ioctx, image: Image, rbd_cli: Run, content: bytes) -> None:
        self.ioctx = ioctx
        self.image = image
        self.rbd_cli = rbd_cli
        self.now = bytearray(content)
        self.snaps: dict[str, bytes] = {}

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return self.ioctx._client.run(coro)

    def write(self, offset: int, data: bytes) -> None:
        self.run(self.image.write(offset, memoryview(data)))
        self.now[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        self.run(self.image.write_zeroes(offset, length))
        self.now[offset : offset + length] = bytes(length)

    def resize(self, size: int) -> None:
        self.run(resize.resize(self.image, size))
        self.now = self.now[:size] + bytes(max(0, size - len(self.now)))

    def snap(self, name: str) -> None:
        self.run(snapshots.create(self.image, name))
        self.snaps[name] = bytes(self.now)

    def remove_snap(self, name: str) -> None:
        self.run(snapshots.remove(self.image, name))
        del self.snaps[name]

    def rollback(self, name: str) -> None:
        self.run(snapshots.rollback(self.image, name))
        self.now = bytearray(self.snaps[name])

    def flatten(self) -> None:
        self.run(flatten.flatten(self.image))

    def change(self, rng: random.Random, kinds: list[str]) -> str:
        """One random change."""
        kind = rng.choice(kinds)
        size, object_size = len(self.now), self.image.layout.object_size
        if kind in ("write", "zero") and size:
            offset = rng.randrange(size)
            length = rng.choice((1, 512, 4096, 65536, object_size, 3 * object_size))
            if rng.random() < 0.4:
                offset -= offset % object_size
            length = min(length, size - offset)
            if kind == "write":
                self.write(offset, rng.randbytes(length) if rng.random() < 0.9 else bytes(length))
            else:
                self.zero(offset, length)
        elif kind == "resize":
            period = self.image.layout.period
            self.resize(rng.choice((0, 1, rng.randrange(6 * MIB), rng.randrange(4) * period, 3 * MIB + 4096)))
        elif kind == "snap":
            self.snap(f"s{rng.getrandbits(30)}")
        elif kind in ("remove", "rollback") and self.snaps:
            chosen = rng.choice(sorted(self.snaps))
            (self.remove_snap if kind == "remove" else self.rollback)(chosen)
        elif kind == "flatten" and self.image.header.raw.parent_overlap is not None:
            self.flatten()
        return kind

    def check(self, what: object = "") -> None:
        """`rbd` reads the same, and finds nothing wrong with the object maps."""
        name = self.image.name
        if self.now:
            assert self.run(self.image.read(0, len(self.now) + 1)) == self.now, what
        exported = self.rbd_cli("export", "--no-progress", name, "-")
        assert digest(exported) == digest(self.now), (what, first_difference(exported, self.now))
        listed = json.loads(self.rbd_cli("snap", "ls", "--format", "json", name))
        assert {s["name"]: s["size"] for s in listed} == {k: len(v) for k, v in self.snaps.items()}, what
        for snap, content in self.snaps.items():
            exported = self.rbd_cli("export", "--no-progress", f"{name}@{snap}", "-")
            assert digest(exported) == digest(content), (what, snap, first_difference(exported, content))
        check_object_maps(self.rbd_cli, name, list(self.snaps))


def first_difference(a: bytes | bytearray, b: bytes | bytearray) -> object:
    if len(a) != len(b):
        return len(a), len(b)
    return next((hex(i) for i in range(len(a)) if a[i] != b[i]), None)


def check_object_maps(rbd_cli: Run, name: str, snaps: list[str]) -> None:
    """`rbd` compares the object maps with the objects."""
    info = json.loads(rbd_cli("info", "--format", "json", name))
    if "object-map" not in info.get("features", ()):
        return
    for spec in (name, *[f"{name}@{s}" for s in snaps]):
        flags = json.loads(rbd_cli("info", "--format", "json", spec))["flags"]
        assert not flags, (spec, flags)
        rbd_cli("object-map", "check", "--no-progress", spec)
        flags = json.loads(rbd_cli("info", "--format", "json", spec))["flags"]
        assert not flags, (spec, flags)


def purge(rbd_cli: Run, *names: str) -> None:
    """Removes images and their snapshots with `rbd`, children first."""
    for name in names:
        for snap in json.loads(rbd_cli("snap", "ls", "--format", "json", name, check=False) or b"[]"):
            rbd_cli("snap", "unprotect", f"{name}@{snap['name']}", check=False)
        rbd_cli("snap", "purge", "--no-progress", name, check=False)
        rbd_cli("rm", "--no-progress", name, check=False)
