"""Changing the size of images: what is cut off is gone, what is added is zero, as `rbd` sees it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest

from pyrbd import rados, rbd
from pyrbd.image import errors, resize, sparsify
from tests.image.modelled import EVERYTHING, KIB, MIB, Modelled, check_object_maps, opened, purge

Run = Callable[..., bytes]
LAYOUTS = {
    "plain": ("--object-size", "64K"),
    "striped": ("--object-size", "64K", "--stripe-unit", "16K", "--stripe-count", "5"),
}


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_size(ioctx: rados.Ioctx, name: str, rbd_cli: Run, layout: str, features: str) -> None:
    """Data that was cut off does not come back, wherever the border is."""
    rng = random.Random(layout)
    rbd_cli("create", "--size", "1M", "--image-feature", features, *LAYOUTS[layout], name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(MIB))
            units = (512, 16 * KIB, 64 * KIB, 320 * KIB)
            for _ in range(25):
                size = rng.randrange(16) * rng.choice(units) + rng.choice((0, 0, 1, 513))
                if modelled.now:
                    modelled.write(0, rng.randbytes(len(modelled.now)))
                modelled.resize(size)
                modelled.resize(max(size, MIB))
                assert modelled.run(image.read(0, 8 * MIB)) == modelled.now
            modelled.check()
    finally:
        purge(rbd_cli, name)


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_clones_and_their_snapshots(ioctx: rados.Ioctx, name: str, rbd_cli: Run, layout: str, features: str) -> None:
    """What a clone shrinks by, its snapshots still have from the parent; and the parent does not show again when it
    grows."""
    data, child = random.Random(1).randbytes(MIB), name + "-child"
    rbd_cli("import", "--no-progress", "--image-feature", "layering", "--object-size", "64K", "-", name, stdin=data)
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    options = ("--rbd-default-clone-format", "2", "--image-feature", features, *LAYOUTS[layout])
    rbd_cli("clone", *options, f"{name}@s", child)
    try:
        with opened(ioctx, child) as image:
            modelled = Modelled(ioctx, image, rbd_cli, data)
            modelled.write(10 * KIB, b"x" * 1000)
            modelled.resize(900 * KIB)
            modelled.snap("a")
            modelled.resize(333 * KIB + 7)
            assert image.overlap == 333 * KIB + 7
            modelled.resize(2 * MIB)
            assert image.overlap == 333 * KIB + 7
            modelled.snap("b")
            modelled.resize(0)
            modelled.resize(MIB)
            modelled.check()
        rbd_cli("snap", "purge", "--no-progress", child)
    finally:
        purge(rbd_cli, child, name)


def test_what_is_refused(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run = ioctx._client.run
    rbd_cli("create", "--size", "1M", "--image-feature", EVERYTHING, name)
    try:
        with opened(ioctx, name) as image:
            with pytest.raises(errors.InvalidArgument):
                run(resize.resize(image, MIB - 1, allow_shrink=False))
            for bad in (-1, 1 << 64):
                with pytest.raises(errors.InvalidArgument):
                    run(resize.resize(image, bad))
            with pytest.raises(errors.InvalidArgument):  # more objects than a map can have
                run(resize.resize(image, 1 << 60))
            run(resize.resize(image, MIB, allow_shrink=False))
            run(resize.resize(image, MIB + 1, allow_shrink=False))
        with opened(ioctx, name, read_only=True) as image, pytest.raises(errors.ReadOnlyImage):
            run(resize.resize(image, 0))
        assert json.loads(rbd_cli("info", "--format", "json", name))["size"] == MIB + 1
    finally:
        purge(rbd_cli, name)


def test_canceled_and_done_again(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """Until it is through the image has its old size; and what is going to be cut off is out of reach meanwhile."""
    rbd_cli("create", "--size", "8M", "--image-feature", EVERYTHING, "--object-size", "64K", name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(8 * MIB))
            modelled.write(0, b"d" * 8 * MIB)
            sizes = []

            def cancel(done: int, total: int) -> int:
                sizes.append(image.size)
                return -1 if done > 50 else 0

            with pytest.raises(errors.OperationCanceled):
                modelled.run(resize.resize(image, MIB, on_progress=cancel))
            assert set(sizes) == {MIB}
            assert image.size == 8 * MIB
            assert json.loads(rbd_cli("info", "--format", "json", name))["size"] == 8 * MIB
            modelled.resize(MIB)
            modelled.resize(8 * MIB)
            modelled.check()
    finally:
        purge(rbd_cli, name)


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
def test_a_large_image_shrinks_at_once(ioctx: rados.Ioctx, name: str, rbd_cli: Run, features: str) -> None:
    run = ioctx._client.run
    rbd_cli("create", "--size", "4T", "--image-feature", features, name)
    try:
        with opened(ioctx, name) as image:
            run(image.write(3 << 40, memoryview(b"far away")))
            begin = time.monotonic()
            run(resize.resize(image, MIB))
            assert time.monotonic() - begin < 60
            run(resize.resize(image, 4 << 40))
            assert run(image.read(3 << 40, 8)) == bytes(8)
    finally:
        rbd.RBD().remove(ioctx, name)


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
def test_sparsify(ioctx: rados.Ioctx, name: str, rbd_cli: Run, features: str) -> None:
    """Zeroes that were written are given back, of a clone only as far as the parent does not show then."""
    run, child = ioctx._client.run, name + "-child"
    rbd_cli(
        "import", "--no-progress", "--image-feature", "layering", "--object-size", "64K", "-", name, stdin=b"p" * MIB
    )
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    options = ("--rbd-default-clone-format", "2", "--image-feature", features, "--object-size", "256K")
    rbd_cli("clone", *options, f"{name}@s", child)
    told: list[tuple[int, int]] = []
    try:
        with opened(ioctx, child) as image:
            modelled = Modelled(ioctx, image, rbd_cli, b"p" * MIB)
            modelled.resize(2 * MIB)
            modelled.write(0, bytes(2 * MIB))
            modelled.write(MIB + 100, b"data")
            before = json.loads(rbd_cli("du", "--format", "json", "--exact", child))["images"][-1]["used_size"]
            for bad in (0, 4095, 4097, 6000, 512 * KIB):
                with pytest.raises(errors.InvalidArgument):
                    run(sparsify.sparsify(image, bad))
            run(sparsify.sparsify(image, 4096, lambda done, total: told.append((done, total))))
            modelled.check()
            there = {o.key for o in ioctx.list_objects()}
            assert [image.object_name(n) in there for n in range(8)] == [True] * 5 + [False] * 3
        assert told[-1] == (8, 8)
        after = json.loads(rbd_cli("du", "--format", "json", "--exact", child))["images"][-1]["used_size"]
        assert after < before
        check_object_maps(rbd_cli, child, [])
    finally:
        purge(rbd_cli, child, name)
