"""Copies of images, without and with their snapshots: `rbd` reads the same from them as from the source."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

import pytest

from pyrbd import rados, rbd
from pyrbd.image import copy, deep_copy, errors, snapshots
from pyrbd.image import features as bits
from pyrbd.image.image import Image
from tests.image.modelled import EVERYTHING, KIB, MIB, Modelled, check_object_maps, digest, opened, purge

Run = Callable[..., bytes]
PLAIN = ("--object-size", "256K")
STRIPED = ("--object-size", "256K", "--stripe-unit", "64K", "--stripe-count", "3")
ALL = bits.LAYERING | bits.EXCLUSIVE_LOCK | bits.OBJECT_MAP | bits.FAST_DIFF | bits.DEEP_FLATTEN
KINDS = ["write"] * 4 + ["zero"] * 2 + ["resize"] + ["snap"] * 3 + ["remove", "rollback"]
SHAPES = {
    "same": (None, None, None),
    "smaller": (16, 64 * KIB, 1),
    "larger": (20, MIB, 1),
    "striped": (18, 64 * KIB, 5),
}


def _data(seed: int) -> bytes:
    data = bytearray(random.Random(seed).randbytes(3 * MIB + 12345))
    data[MIB : 2 * MIB] = bytes(MIB)
    return bytes(data)


def _clone(rbd_cli: Run, parent: str, name: str, features: str, layout: tuple[str, ...], data: bytes) -> None:
    rbd_cli("import", "--no-progress", "--image-feature", "layering", "--object-size", "64K", "-", parent, stdin=data)
    rbd_cli("snap", "create", "--no-progress", f"{parent}@s")
    rbd_cli("snap", "protect", f"{parent}@s")
    rbd_cli("clone", "--rbd-default-clone-format", "2", "--image-feature", features, *layout, f"{parent}@s", name)


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_histories(ioctx: rados.Ioctx, name: str, rbd_cli: Run, shape: str, features: str) -> None:
    """The copy has the bytes of the present, the deep copy those of every snapshot too."""
    rng = random.Random(shape + features)
    plain, deep = name + "-copy", name + "-deep"
    rbd_cli("create", "--size", "4M", "--image-feature", features, *rng.choice((PLAIN, STRIPED)), name)
    rbd_cli("image-meta", "set", name, "key", "value")
    order, unit, count = SHAPES[shape]
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(4 * MIB))
            done = [modelled.change(rng, KINDS) for _ in range(24)]
            modelled.run(copy.copy(image, ioctx._io, plain, ALL, order, unit, count))
            modelled.run(deep_copy.deep_copy(image, ioctx._io, deep, ALL, order, unit, count))
            for dest, snaps in ((plain, {}), (deep, modelled.snaps)):
                with opened(ioctx, dest) as made:
                    other = Modelled(ioctx, made, rbd_cli, modelled.now)
                    other.snaps = dict(snaps)
                    other.check((dest, done))
                assert rbd_cli("image-meta", "get", dest, "key").strip() == b"value"
    finally:
        purge(rbd_cli, plain, deep, name)


@pytest.mark.parametrize("flat", [False, True], ids=["related", "flat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_histories_of_clones(ioctx: rados.Ioctx, name: str, rbd_cli: Run, shape: str, flat: bool) -> None:
    """A deep copy of a clone has the same parent, or all that was shown of it."""
    rng = random.Random(f"{shape} {flat}")
    parent, deep, data = name + "-parent", name + "-deep", _data(5)
    layout, features = rng.choice((PLAIN, STRIPED)), rng.choice(("layering", EVERYTHING))
    _clone(rbd_cli, parent, name, features, layout, data)
    order, unit, count = SHAPES[shape]
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, data)
            done = [modelled.change(rng, KINDS) for _ in range(18)]
            coro = deep_copy.deep_copy(image, ioctx._io, deep, ALL, order, unit, count, None, 2, flat)
            modelled.run(coro)
            with opened(ioctx, deep) as made:
                assert (made.header.parent is None) == flat
                other = Modelled(ioctx, made, rbd_cli, modelled.now)
                other.snaps = dict(modelled.snaps)
                other.check(done)
            expected = {f"rbd/{name}", *([] if flat else [f"rbd/{deep}"])}
            assert set(rbd_cli("children", f"{parent}@s").decode().split()) == expected
    finally:
        purge(rbd_cli, deep, name, parent)


def test_a_deep_copy_of_a_snapshot_ends_there(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """It has the snapshots up to that one, protected where the source's are, and is itself as that one."""
    run, deep, theirs = ioctx._client.run, name + "-deep", name + "-theirs"
    rbd_cli("create", "--size", "1M", "--image-feature", EVERYTHING, *PLAIN, name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(MIB))
            for i, snap in enumerate("abc"):
                modelled.write(i * 100 * KIB, bytes([i + 1]) * 300 * KIB)
                modelled.snap(snap)
            run(snapshots.protect(image, "a"))
        with opened(ioctx, name, snapshot="b") as image:
            run(deep_copy.deep_copy(image, ioctx._io, deep))
        rbd_cli("deep", "cp", "--no-progress", f"{name}@b", theirs)
        listed = [json.loads(rbd_cli("snap", "ls", "--format", "json", n)) for n in (deep, theirs)]
        ours, wanted = ([(s["name"], s["size"], s["protected"]) for s in snaps] for snaps in listed)
        assert ours == wanted == [("a", MIB, "true"), ("b", MIB, "false")]
        for spec, content in ((deep, "b"), (f"{deep}@a", "a"), (f"{deep}@b", "b")):
            assert digest(rbd_cli("export", "--no-progress", spec, "-")) == digest(modelled.snaps[content])
        check_object_maps(rbd_cli, deep, ["a", "b"])
    finally:
        purge(rbd_cli, deep, theirs, name)


def test_what_a_copy_is_like(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """As the source, unless something else is asked for; a snapshot's copy is as large as that."""
    run, dest = ioctx._client.run, name + "-copy"
    rbd_cli("create", "--size", "3M", "--image-feature", EVERYTHING, *STRIPED, name)
    try:
        with opened(ioctx, name) as image:
            run(image.write(0, memoryview(b"x" * 2 * MIB)))
            run(snapshots.create(image, "s"))
            run(_resize(image, MIB))
            run(copy.copy(image, ioctx._io, dest))
            source, made = (json.loads(rbd_cli("info", "--format", "json", n)) for n in (name, dest))
            for key in ("size", "object_size", "features", "stripe_unit", "stripe_count"):
                assert made[key] == source[key], key
            for again in (copy.copy(image, ioctx._io, dest), deep_copy.deep_copy(image, ioctx._io, dest)):
                with pytest.raises(errors.ImageExists):
                    run(again)
            rbd_cli("rm", "--no-progress", dest)
            for bad in (1 << 40, bits.JOURNALING | bits.EXCLUSIVE_LOCK):
                with pytest.raises(errors.FunctionNotSupported):
                    run(copy.copy(image, ioctx._io, dest, bad))
            with pytest.raises(errors.ArgumentOutOfRange):
                run(copy.copy(image, ioctx._io, dest, None, 40))
            with pytest.raises(errors.InvalidArgument):  # smaller than a stripe unit
                run(deep_copy.deep_copy(image, ioctx._io, dest, None, 12))
        with opened(ioctx, name, snapshot="s") as image:
            run(copy.copy(image, ioctx._io, dest, bits.LAYERING, 16, 64 * KIB, 1))
        info = json.loads(rbd_cli("info", "--format", "json", dest))
        assert (info["size"], info["object_size"], info["features"]) == (3 * MIB, 64 * KIB, ["layering"])
        assert rbd_cli("export", "--no-progress", dest, "-") == b"x" * 2 * MIB + bytes(MIB)
        assert json.loads(rbd_cli("snap", "ls", "--format", "json", dest)) == []
    finally:
        purge(rbd_cli, dest, name)


async def _resize(image: Image, size: int) -> None:
    from pyrbd.image import resize

    await resize.resize(image, size)


def test_zeroes_are_not_written(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run, names = ioctx._client.run, [name + "-copy", name + "-deep"]
    rbd_cli("create", "--size", "4M", "--image-feature", "layering", *PLAIN, name)
    try:
        with opened(ioctx, name) as image:
            run(image.write(0, memoryview(bytes(4 * MIB))))
            run(image.write(MIB + 5000, memoryview(b"data")))
            run(copy.copy(image, ioctx._io, names[0]))
            run(deep_copy.deep_copy(image, ioctx._io, names[1]))
        for dest in names:
            with opened(ioctx, dest) as made:
                there = {o.key for o in ioctx.list_objects()}
                assert [n for n in range(16) if made.object_name(n) in there] == [4]
                assert run(made.read(MIB + 5000, 4)) == b"data"
    finally:
        purge(rbd_cli, *names, name)


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
def test_large_sparse_images(ioctx: rados.Ioctx, name: str, rbd_cli: Run, features: str) -> None:
    """What is copied is what there is, of 2**18 possible objects."""
    run, names = ioctx._client.run, [name + "-copy", name + "-deep"]
    rbd_cli("create", "--size", "1T", "--image-feature", features, name)
    begin = time.monotonic()
    with opened(ioctx, name) as image:
        run(image.write(1 << 35, memoryview(b"first")))
        run(snapshots.create(image, "s"))
        run(image.write(1 << 35, memoryview(b"later")))
        run(image.write((1 << 40) - 100, memoryview(b"last")))
        run(copy.copy(image, ioctx._io, names[0]))
        run(deep_copy.deep_copy(image, ioctx._io, names[1]))
        run(snapshots.remove(image, "s"))
    for dest in names:
        with opened(ioctx, dest) as made:
            assert run(made.read(1 << 35, 5)) == b"later"
            assert run(made.read((1 << 40) - 100, 4)) == b"last"
    with opened(ioctx, names[1], snapshot="s") as made:
        assert run(made.read(1 << 35, 5)) == b"first"
        assert run(made.read((1 << 40) - 100, 4)) == bytes(4)
    with opened(ioctx, names[1]) as made:
        run(snapshots.remove(made, "s"))
    for dest in (*names, name):
        rbd.RBD().remove(ioctx, dest)
    assert time.monotonic() - begin < 100


def test_canceled(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run, dest = ioctx._client.run, name + "-copy"
    rbd_cli("import", "--no-progress", "--image-feature", EVERYTHING, *PLAIN, "-", name, stdin=_data(1))
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    try:
        with opened(ioctx, name) as image:
            for make in (copy.copy, deep_copy.deep_copy):
                told.clear()
                run(make(image, ioctx._io, dest, on_progress=tell))
                assert told[-1][0] == told[-1][1]
                assert [done for done, _ in told] == sorted(done for done, _ in told)
                rbd_cli("rm", "--no-progress", dest)
                with pytest.raises(errors.OperationCanceled):
                    run(make(image, ioctx._io, dest, on_progress=lambda done, total: -1))
                rbd_cli("rm", "--no-progress", dest)  # nobody has it open any more
    finally:
        purge(rbd_cli, dest, name)


def test_a_source_of_format_1(ioctx: rados.Ioctx, name: str, rbd_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBD_FORCE_ALLOW_V1", "1")
    dest, rng = name + "-deep", random.Random(8)
    rbd_cli("create", "--image-format", "1", "--size", "2M", *PLAIN, name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(2 * MIB))
            for _ in range(16):
                modelled.change(rng, KINDS)
            modelled.run(deep_copy.deep_copy(image, ioctx._io, dest, bits.LAYERING))
            with opened(ioctx, dest) as made:
                assert not made.old_format
                other = Modelled(ioctx, made, rbd_cli, modelled.now)
                other.snaps = dict(modelled.snaps)
                other.check()
    finally:
        purge(rbd_cli, dest, name)
