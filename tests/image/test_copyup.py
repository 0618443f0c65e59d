"""Writing to clones: the parent's data is copied up, once, and shows nowhere else; `rbd` is asked for each result."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from pyrbd import rados, rbd
from pyrbd.image.io import data_extents

MIB = 1 << 20
Run = Callable[..., bytes]


def _change(image: rbd.Image, model: bytearray, rng: random.Random, object_size: int) -> None:
    """One random change, to the image and to what it should be."""
    size = len(model)
    offset = rng.randrange(size)
    length = rng.choice((1, 512, 4096, 65536, object_size, 3 * object_size))
    if rng.random() < 0.5:  # whole objects are another path than parts of one
        offset -= offset % object_size
    length = min(length, size - offset)
    if rng.random() < 0.6:
        data = rng.randbytes(length) if rng.random() < 0.8 else bytes(length)
        image.write(data, offset)
        model[offset : offset + length] = data
    else:
        image.write_zeroes(offset, length)
        model[offset : offset + length] = bytes(length)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "layout",
    [
        (),
        ("--object-size", "64K", "--stripe-unit", "64K", "--stripe-count", "1"),
        ("--object-size", "1M", "--stripe-unit", "64K", "--stripe-count", "3"),
    ],
    ids=["same", "smaller", "striped"],
)
def test_random_changes_of_clones(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, layout: tuple[str, ...], seed: int
) -> None:
    rng = random.Random(f"{seed}{layout}")
    size = 4 * MIB + 12345
    data = bytearray(rng.randbytes(size))
    data[MIB : 2 * MIB + 100] = bytes(MIB + 100)
    rbd_cli(
        "import", "--no-progress", "--image-feature", "layering", "--object-size", "256K", "-", name, stdin=bytes(data)
    )
    child = name + "-child"
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    rbd_cli("clone", "--image-feature", "layering", *(layout or ("--object-size", "256K")), f"{name}@s", child)
    object_size = 64 << 10 if "64K" in layout[:2] else MIB if layout else 256 << 10
    rbd_cli("resize", "--no-progress", "--size", "6M", child)
    model = data + bytes(6 * MIB - size)
    kept: dict[str, bytes] = {}
    try:
        with rbd.Image(ioctx, child) as image:
            for step in range(24):
                _change(image, model, rng, object_size)
                at = rng.randrange(len(model))
                assert image.read(at, 100000) == model[at : at + 100000]
                if seed % 2 and step % 8 == 7:
                    rbd_cli("snap", "create", "--no-progress", f"{child}@{step}")
                    kept[str(step)] = bytes(model)
            assert image.read(0, len(model)) == model
        assert rbd_cli("export", "--no-progress", child, "-") == model
        for snap, content in kept.items():
            assert rbd_cli("export", "--no-progress", f"{child}@{snap}", "-") == content
            with rbd.Image(ioctx, child, snapshot=snap) as old:
                assert old.read(0, len(content)) == content
        assert rbd_cli("export", "--no-progress", f"{name}@s", "-") == data
    finally:
        for snap in kept:
            rbd_cli("snap", "rm", "--no-progress", f"{child}@{snap}")
        rbd_cli("rm", "--no-progress", child)
        rbd_cli("snap", "unprotect", f"{name}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s")


def test_compare_and_write_on_a_clone(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    data = os.urandom(MIB)
    rbd_cli("import", "--no-progress", "--image-feature", "layering", "-", name, stdin=data)
    child = name + "-child"
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    rbd_cli("clone", "--image-feature", "layering", f"{name}@s", child)
    try:
        with rbd.Image(ioctx, child) as image:
            core, client = image._core, image._client
            wrong = bytes([data[600] ^ 1])
            with pytest.raises(rbd.OSError) as caught:
                client.run(core.compare_and_write(512, memoryview(data[512:600] + wrong), memoryview(b"n" * 89)))
            assert caught.value.errno == 84
            assert getattr(caught.value, "offset") == 600  # noqa: B009
            assert client.run(core.compare_and_write(512, memoryview(data[512:600]), memoryview(b"n" * 88))) == 88
        assert rbd_cli("export", "--no-progress", child, "-") == data[:512] + b"n" * 88 + data[600:]
    finally:
        rbd_cli("rm", "--no-progress", child)
        rbd_cli("snap", "unprotect", f"{name}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s")


def test_what_is_not_zero() -> None:
    view = memoryview(bytearray(3 * MIB + 5))
    assert data_extents(view) == []
    view[5000] = 1
    view[3 * MIB] = 1
    assert data_extents(view) == [(4096, 4096), (3 * MIB, 5)]
    view[8192] = 1
    assert data_extents(view) == [(4096, 8192), (3 * MIB, 5)]


def test_images_of_format_1(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd_cli("create", "--image-format", "1", "--order", "20", "--size", "5M", name, env={"RBD_FORCE_ALLOW_V1": "1"})
    try:
        data = os.urandom(2 * MIB)
        with rbd.Image(ioctx, name) as image:
            assert (image.size(), image.stat()["order"], image.old_format()) == (5 * MIB, 20, True)
            image.write(data, MIB // 2)
            rbd_cli("snap", "create", "--no-progress", f"{name}@old")
            image.write(b"x" * 100, MIB)
            assert [s["name"] for s in image.list_snaps()] == ["old"]
        content = bytes(MIB // 2) + data + bytes(5 * MIB // 2)
        with rbd.Image(ioctx, name, snapshot="old") as old:
            assert old.read(0, 5 * MIB) == content
        assert rbd_cli("export", "--no-progress", f"{name}@old", "-") == content
        assert rbd_cli("export", "--no-progress", name, "-") == content[:MIB] + b"x" * 100 + content[MIB + 100 :]
    finally:
        rbd_cli("snap", "purge", "--no-progress", name)
        rbd_cli("rm", "--no-progress", name)
