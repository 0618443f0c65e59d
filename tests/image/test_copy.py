"""Copies: `rbd` reads from them what the source has, in the head and in each snapshot, and finds in their headers what
it would have made of them itself."""

from __future__ import annotations

import errno
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import copy, deep_copy, errors, metadata, object_map, rebuild, snapshots
from pyrbd.image.image import Image
from pyrbd.image.listing import existing_objects
from pyrbd.msgr.osdop import NOSNAP
from tests.conftest import Run
from tests.image.modelled import EVERYTHING, KIB, MIB, Modelled, check_object_maps, digest, opened, purge

PLAIN = ("--object-size", "256K")
STRIPED = ("--object-size", "256K", "--stripe-unit", "64K", "--stripe-count", "3")
KINDS = ["write"] * 5 + ["zero"] * 2 + ["resize"] * 2 + ["snap", "snap", "remove", "rollback"]
LARGER: dict[str, Any] = {"order": 20, "stripe_unit": 0, "stripe_count": 0}
SMALLER: dict[str, Any] = {"order": 16, "stripe_unit": 4096, "stripe_count": 5}


@pytest.fixture
def names(name: str, rbd_cli: Run) -> Iterator[tuple[str, str, str]]:
    """Of a source, our copy of it, and librbd's. What begins with the source's name is removed in the end."""
    yield name, name + "-copy", name + "-theirs"
    for _ in range(2):
        left = [n for n in rbd_cli("ls").decode().split() if n == name or n.startswith(name + "-")]
        if left:
            purge(rbd_cli, *sorted(left, key=len, reverse=True))


def info(rbd_cli: Run, spec: str) -> dict[str, Any]:
    """What `rbd info` tells, without what differs from image to image."""
    found: dict[str, Any] = json.loads(rbd_cli("info", "--format", "json", spec))
    own = ("name", "id", "block_name_prefix", "create_timestamp", "access_timestamp", "modify_timestamp")
    return {k: v for k, v in found.items() if k not in own}


def snaps(rbd_cli: Run, name: str) -> list[tuple[str, int, str]]:
    listed = json.loads(rbd_cli("snap", "ls", "--format", "json", name))
    return [(s["name"], s["size"], s["protected"]) for s in listed]


def stored_maps(ioctx: rados.Ioctx, image: Image) -> dict[int, bytes]:
    run = ioctx._client.run
    ids = [NOSNAP, *[s.id for s in image.header.snaps]]
    return {i: bytes(run(object_map.load(image.io, image.id, i)).encode()) for i in ids}


def check_maps_exact(ioctx: rados.Ioctx, name: str) -> None:
    """The maps are those that a look at the objects would make."""
    with opened(ioctx, name) as image:
        before = stored_maps(ioctx, image)
        ioctx._client.run(rebuild.rebuild_object_map(image))
        assert before == stored_maps(ioctx, image)


def make_source(
    ioctx: rados.Ioctx,
    image: Image,
    rbd_cli: Run,
    rng: random.Random,
    content: bytes,
    kinds: list[str],
    count: int = 30,
) -> Modelled:
    modelled = Modelled(ioctx, image, rbd_cli, content)
    for _ in range(count):
        modelled.change(rng, kinds)
    return modelled


def check_copy(source: Modelled, name: str, **more: Any) -> None:
    """An image has what the model has."""
    with opened(source.ioctx, name) as image:
        copied = Modelled(source.ioctx, image, source.rbd_cli, bytes(source.now))
        copied.snaps = dict(source.snaps)
        copied.check(more)


# ---------------------------------------------------------------- with the whole history


@pytest.mark.parametrize(
    ("features", "layout", "dest", "seed"),
    [
        ("layering", PLAIN, {}, 1),
        (EVERYTHING, PLAIN, {}, 2),
        (EVERYTHING, PLAIN, LARGER, 3),
        (EVERYTHING, STRIPED, {}, 4),
        (EVERYTHING, PLAIN, SMALLER, 5),
        ("layering", STRIPED, LARGER | {"features_wanted": 61}, 6),
    ],
    ids=["plain", "everything", "larger", "striped", "smaller", "features"],
)
def test_deep_copies_of_random_histories(
    ioctx: rados.Ioctx,
    names: tuple[str, str, str],
    rbd_cli: Run,
    features: str,
    layout: tuple[str, ...],
    dest: dict[str, Any],
    seed: int,
) -> None:
    rng = random.Random(seed)
    source, ours, _ = names
    rbd_cli("create", "--size", "4M", "--image-feature", features, *layout, source)
    with opened(ioctx, source) as image:
        modelled = make_source(ioctx, image, rbd_cli, rng, bytes(4 * MIB), KINDS)
        modelled.run(deep_copy.deep_copy(image, ioctx._io, ours, **dest))
    check_copy(modelled, ours, dest=dest)
    if features == EVERYTHING or "features_wanted" in dest:
        check_maps_exact(ioctx, ours)


@pytest.mark.parametrize(
    ("features", "layout", "clone_format", "dest", "seed"),
    [
        ("layering", PLAIN, 2, {}, 11),
        (EVERYTHING, PLAIN, 2, {"clone_format": 1}, 12),
        (EVERYTHING, PLAIN, 2, LARGER, 13),
        (EVERYTHING, STRIPED, 1, SMALLER | {"clone_format": 2}, 14),
        (EVERYTHING, STRIPED, 2, {"flatten": True}, 15),
        ("layering", PLAIN, 2, SMALLER | {"flatten": True, "features_wanted": 61}, 16),
        (EVERYTHING, PLAIN, 2, {}, 17),
        (EVERYTHING, PLAIN, 2, SMALLER, 18),
    ],
)
def test_deep_copies_of_clones(
    ioctx: rados.Ioctx,
    names: tuple[str, str, str],
    rbd_cli: Run,
    features: str,
    layout: tuple[str, ...],
    clone_format: int,
    dest: dict[str, Any],
    seed: int,
) -> None:
    """The copy is a clone of the same parent, and knows as much of it in each snapshot as the source; or flattened."""
    rng = random.Random(seed)
    grandparent = names[0]
    source, ours, theirs = (f"{grandparent}-{n}" for n in ("z-source", "zz-copy", "zz-theirs"))
    content = bytearray(3 * MIB + 8 * KIB)
    rbd_cli("create", "--size", str(len(content)) + "B", "--image-feature", features, *PLAIN, grandparent)
    with opened(ioctx, grandparent) as image:
        for _ in range(8):
            data = rng.randbytes(100 * KIB)
            at = rng.randrange(len(content) - len(data))
            ioctx._client.run(image.write(at, memoryview(data)))
            content[at : at + len(data)] = data
    rbd_cli("snap", "create", "--no-progress", f"{grandparent}@p")
    rbd_cli("snap", "protect", f"{grandparent}@p")
    clone = ("--image-feature", features, "--rbd-default-clone-format", str(clone_format))
    rbd_cli("clone", *clone, *layout, f"{grandparent}@p", source)
    with opened(ioctx, source) as image:
        modelled = make_source(ioctx, image, rbd_cli, rng, bytes(content), KINDS, 25)
        related = not dest.get("flatten") and image.header.parent is not None
        modelled.run(deep_copy.deep_copy(image, ioctx._io, ours, **dest))
        overlaps = [s.parent_overlap for s in image.header.snaps] + [image.header.raw.parent_overlap]
    check_copy(modelled, ours, dest=dest)
    with opened(ioctx, ours) as image:
        copied = [s.parent_overlap for s in image.header.snaps] + [image.header.raw.parent_overlap]
        assert copied == (overlaps if related else [None] * len(overlaps))
        if image.has(object_map.features.OBJECT_MAP):
            check_maps_exact(ioctx, ours)
    if related:
        children = rbd_cli("children", f"{grandparent}@p").decode()
        assert f"rbd/{ours}\n" in children
        if not dest:
            rbd_cli("deep", "cp", "--no-progress", source, theirs)
            assert snaps(rbd_cli, ours) == snaps(rbd_cli, theirs)
            for spec in ("", *[f"@{s}" for s in modelled.snaps]):
                assert info(rbd_cli, ours + spec) == info(rbd_cli, theirs + spec)


def test_a_deep_copy_is_what_librbd_makes_of_the_same_image(
    ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run
) -> None:
    source, ours, theirs = names
    rbd_cli("create", "--size", "4M", "--image-feature", EVERYTHING, *PLAIN, source)
    with opened(ioctx, source) as image:
        modelled = make_source(ioctx, image, rbd_cli, random.Random(21), bytes(4 * MIB), KINDS[:-2])
        modelled.snap("last")
        rbd_cli("snap", "protect", f"{source}@last")
        rbd_cli("image-meta", "set", source, "key", "value")
        modelled.run(deep_copy.deep_copy(image, ioctx._io, ours))
    rbd_cli("deep", "cp", "--no-progress", source, theirs)
    assert snaps(rbd_cli, ours) == snaps(rbd_cli, theirs)
    assert snaps(rbd_cli, ours)[-1][2] == "true"
    for spec in ("", *[f"@{s}" for s in modelled.snaps]):
        assert info(rbd_cli, ours + spec) == info(rbd_cli, theirs + spec)
    assert rbd_cli("image-meta", "get", ours, "key") == b"value\n"
    with opened(ioctx, ours) as mine, opened(ioctx, theirs) as their:
        assert list(stored_maps(ioctx, mine).values()) == list(stored_maps(ioctx, their).values())
    # it is an image like any other
    with opened(ioctx, ours) as image:
        copied = Modelled(ioctx, image, rbd_cli, bytes(modelled.now))
        copied.snaps = dict(modelled.snaps)
        del copied.snaps["last"]
        rng = random.Random(22)
        for _ in range(10):
            copied.change(rng, KINDS)
        copied.snaps["last"] = modelled.snaps["last"]
        copied.check()
    rbd_cli("snap", "unprotect", f"{source}@last")


def test_a_deep_copy_up_to_a_snapshot(ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run) -> None:
    source, ours, theirs = names
    rbd_cli("create", "--size", "4M", "--image-feature", EVERYTHING, *PLAIN, source)
    with opened(ioctx, source) as image:
        modelled = make_source(ioctx, image, rbd_cli, random.Random(23), bytes(4 * MIB), KINDS[:-2], 15)
        modelled.snap("middle")
        expected = dict(modelled.snaps)
        rng = random.Random(24)
        for _ in range(10):
            modelled.change(rng, ["write", "resize", "snap"])
    with opened(ioctx, source, snapshot="middle", read_only=True) as image:
        ioctx._client.run(deep_copy.deep_copy(image, ioctx._io, ours))
    rbd_cli("deep", "cp", "--no-progress", f"{source}@middle", theirs)
    modelled.now, modelled.snaps = bytearray(expected["middle"]), expected
    check_copy(modelled, ours)
    check_maps_exact(ioctx, ours)
    assert snaps(rbd_cli, ours) == snaps(rbd_cli, theirs)


def test_a_flattened_head_with_snapshots_that_show_the_parent(
    ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run
) -> None:
    """Without deep-flatten the snapshots go on showing the parent when the head does so no more."""
    rng = random.Random(31)
    parent = names[0]
    source, ours = f"{parent}-z-source", f"{parent}-zz-copy"
    content = rng.randbytes(2 * MIB)
    rbd_cli("create", "--size", "2M", *PLAIN, parent)
    with opened(ioctx, parent) as image:
        ioctx._client.run(image.write(0, memoryview(content)))
    rbd_cli("snap", "create", "--no-progress", f"{parent}@p")
    features = "layering,exclusive-lock,object-map,fast-diff"
    rbd_cli("clone", "--image-feature", features, "--rbd-default-clone-format", "2", *PLAIN, f"{parent}@p", source)
    with opened(ioctx, source) as image:
        modelled = Modelled(ioctx, image, rbd_cli, content)
        modelled.write(300 * KIB, b"1" * 5000)
        modelled.snap("one")
        modelled.write(MIB, b"2" * 5000)
        modelled.flatten()
        modelled.write(MIB + 700 * KIB, b"3" * 5000)
        modelled.snap("two")
        modelled.zero(0, 512 * KIB)
        modelled.run(deep_copy.deep_copy(image, ioctx._io, ours))
    check_copy(modelled, ours)
    check_maps_exact(ioctx, ours)


def test_a_deep_copy_of_a_large_sparse_image(ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run) -> None:
    """Its cost is that of what exists: also without an object map."""
    source, ours, _ = names
    run = ioctx._client.run
    rbd_cli("create", "--size", "10T", "--image-feature", "layering", source)
    where = (0, 5 << 40, (10 << 40) - 4096)
    with opened(ioctx, source) as image:
        for i, at in enumerate(where):
            run(image.write(at, memoryview(bytes([i + 1]) * 4096)))
            run(snapshots.create(image, f"s{i}"))
        run(image.write_zeroes(0, 4096))
        before = time.monotonic()
        run(deep_copy.deep_copy(image, ioctx._io, ours))
        assert time.monotonic() - before < 60
    with opened(ioctx, ours) as image:
        assert [run(image.read(at, 4096)) for at in where] == [bytes(4096), b"\2" * 4096, b"\3" * 4096]
        run(image.set_snapshot("s0"))
        assert [run(image.read(at, 4096)) for at in where] == [b"\1" * 4096, bytes(4096), bytes(4096)]
        run(image.set_snapshot(None))
        for s in ("s0", "s1", "s2"):
            run(snapshots.remove(image, s))
    for n in (source, ours):
        with opened(ioctx, n) as image:
            for s in list(image.header.snaps):
                run(snapshots.remove(image, s.id))
        rbd.RBD().remove(ioctx, n)


# ---------------------------------------------------------------- of what there is now


@pytest.mark.parametrize(
    ("features", "layout", "dest"),
    [
        ("layering", PLAIN, {}),
        (EVERYTHING, PLAIN, LARGER),
        (EVERYTHING, STRIPED, {}),
        ("layering", STRIPED, SMALLER | {"features_wanted": 61}),
    ],
)
def test_copies(
    ioctx: rados.Ioctx,
    names: tuple[str, str, str],
    rbd_cli: Run,
    features: str,
    layout: tuple[str, ...],
    dest: dict[str, Any],
) -> None:
    """Of the head and of a snapshot, where another size and other data was."""
    source, ours, theirs = names
    at_snapshot = f"{source}-at-snapshot"
    rbd_cli("create", "--size", "4M", "--image-feature", features, *layout, source)
    with opened(ioctx, source) as image:
        modelled = make_source(ioctx, image, rbd_cli, random.Random(41), bytes(4 * MIB), KINDS[:-2], 20)
        modelled.resize(3 * MIB + 5000)
        modelled.write(3 * MIB, b"x" * 5000)
        modelled.snap("then")
        modelled.write(MIB, b"y" * 5000)
        modelled.run(copy.copy(image, ioctx._io, ours, **dest))
    with opened(ioctx, source, snapshot="then", read_only=True) as image:
        modelled.run(copy.copy(image, ioctx._io, at_snapshot, **dest))
    assert digest(rbd_cli("export", "--no-progress", ours, "-")) == digest(modelled.now)
    assert digest(rbd_cli("export", "--no-progress", at_snapshot, "-")) == digest(modelled.snaps["then"])
    assert snaps(rbd_cli, ours) == []
    check_object_maps(rbd_cli, ours, [])
    if not dest:
        rbd_cli("cp", "--no-progress", source, theirs)
        assert info(rbd_cli, ours) == info(rbd_cli, theirs)


def test_zeroes_are_not_written_and_metadata_goes_along(
    ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run
) -> None:
    source, ours, _ = names
    run = ioctx._client.run
    rbd_cli("create", "--size", "8M", "--image-feature", EVERYTHING, "--object-size", "1M", source)
    pairs = {f"key {n}": "value" * (n % 3) for n in range(300)} | {"conf_rbd_cache": "false", "ä": "ö"}
    with opened(ioctx, source) as image:
        run(image.write(0, memoryview(bytes(3 * MIB))))
        run(image.write(3 * MIB, memoryview(bytes(500 * KIB) + b"x")))
        for key, value in pairs.items():
            op = metadata._set_operation(key, value)
            run(image.io.operate(image.header_oid, op))
        told: list[tuple[int, int]] = []
        run(copy.copy(image, ioctx._io, ours, on_progress=lambda *a: told.append(a)))
        assert told[-1] == (8 * MIB, 8 * MIB) and told == sorted(told)
    with opened(ioctx, ours) as image:
        assert run(existing_objects(image, range(8))) == [3]
        assert run(metadata.list_(image)) == pairs
        assert run(image.read(0, 8 * MIB)) == bytes(3 * MIB + 500 * KIB) + b"x" + bytes(
            8 * MIB - 3 * MIB - 500 * KIB - 1
        )
    check_maps_exact(ioctx, ours)


@pytest.mark.parametrize("features", ["layering", EVERYTHING])
def test_a_copy_of_a_large_sparse_image(
    ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run, features: str
) -> None:
    source, ours, _ = names
    run = ioctx._client.run
    rbd_cli("create", "--size", "10T", "--image-feature", features, source)
    where = (0, 5 << 40, (10 << 40) - 4096)
    with opened(ioctx, source) as image:
        for at in where:
            run(image.write(at, memoryview(b"a" * 4096)))
        before = time.monotonic()
        run(copy.copy(image, ioctx._io, ours))
        assert time.monotonic() - before < 60
    with opened(ioctx, ours) as image:
        assert [run(image.read(at, 4096)) for at in where] == [b"a" * 4096] * 3
    for n in (source, ours):
        rbd.RBD().remove(ioctx, n)


def test_a_copy_of_an_image_with_large_periods(ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run) -> None:
    """No more is in memory at a time than a few requests' worth."""
    source, ours, _ = names
    run = ioctx._client.run
    rbd.RBD().create(ioctx, source, 8 << 30, order=25, stripe_unit=1 << 20, stripe_count=64)
    with opened(ioctx, source) as image:
        run(image.write(5 * MIB - 100, memoryview(b"z" * 1000)))
        run(copy.copy(image, ioctx._io, ours, order=22, stripe_unit=0, stripe_count=0))
    with opened(ioctx, ours) as image:
        assert run(image.read(5 * MIB - 200, 1200)) == bytes(100) + b"z" * 1000 + bytes(100)


def test_a_copy_of_a_clone_has_no_parent(ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run) -> None:
    parent = names[0]
    source, ours = f"{parent}-z-source", f"{parent}-zz-copy"
    content = random.Random(51).randbytes(2 * MIB)
    rbd_cli("create", "--size", "2M", *PLAIN, parent)
    with opened(ioctx, parent) as image:
        ioctx._client.run(image.write(0, memoryview(content)))
    rbd_cli("snap", "create", "--no-progress", f"{parent}@p")
    rbd_cli("clone", "--rbd-default-clone-format", "2", *PLAIN, f"{parent}@p", source)
    rbd_cli("resize", "--no-progress", "--size", "3M", source)
    with opened(ioctx, source) as image:
        ioctx._client.run(image.write(700 * KIB, memoryview(b"n" * 100)))
        ioctx._client.run(copy.copy(image, ioctx._io, ours))
    want = content[: 700 * KIB] + b"n" * 100 + content[700 * KIB + 100 :] + bytes(MIB)
    assert digest(rbd_cli("export", "--no-progress", ours, "-")) == digest(want)
    assert "parent" not in info(rbd_cli, ours)


def test_copies_of_an_image_of_format_1(ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run) -> None:
    source, ours, theirs = names
    rbd.RBD().create(ioctx, source, 2 * MIB, order=18, old_format=True)
    with opened(ioctx, source) as image:
        modelled = Modelled(ioctx, image, rbd_cli, bytes(2 * MIB))
        modelled.write(100 * KIB, b"1" * 300 * KIB)
        modelled.snap("s")
        modelled.write(MIB, b"2" * 3000)
        modelled.run(copy.copy(image, ioctx._io, ours))
        modelled.run(deep_copy.deep_copy(image, ioctx._io, theirs))
    assert digest(rbd_cli("export", "--no-progress", ours, "-")) == digest(modelled.now)
    check_copy(modelled, theirs)


# ---------------------------------------------------------------- what is refused


CASES: list[tuple[str, dict[str, Any]]] = [
    (method, arguments)
    for method in ("copy", "deep_copy")
    for arguments in (
        {"order": 11},
        {"order": 26},
        {"order": 20},
        {"order": 0},
        {"features": 1 << 40},
        {"features": 8},
        {"features": 0},
        {"features": 4},
        {"features": 13},
        {"stripe_unit": 100, "stripe_count": 2},
        {"stripe_unit": 65536},
        {"stripe_count": 2},
        {"stripe_unit": 65536, "stripe_count": 0},
        {"stripe_unit": 65536, "stripe_count": 4, "order": 20},
        {"stripe_unit": 0, "stripe_count": 0, "order": 20},
        {"data_pool": "no-such-pool"},
        {"data_pool": ""},
        {"data_pool": "rbd"},
    )
]
CASES += [
    ("deep_copy", {"clone_format": 3}),
    ("deep_copy", {"clone_format": 1}),
    ("deep_copy", {"clone_format": 2, "flatten": True}),
    ("deep_copy", {"features": 4, "flatten": True}),
]

ATTEMPTS = """
def attempt(source, dest, method, arguments):
    with rbd.Image(ioctx, source) as image:
        try:
            getattr(image, method)(ioctx, dest, **arguments)
        except rbd.OSError as e:
            return [type(e).__name__, e.errno]
        except TypeError:  # releases before quincy do not know all of them
            return None
    with rbd.Image(ioctx, dest) as made:
        found = [made.features(), made.stripe_unit(), made.stripe_count(), made.stat()["order"], made.size()]
        try:
            found.append(made.parent_info()[1])
        except rbd.ImageNotFound:
            found.append(None)
    rbd.RBD().remove(ioctx, dest)
    return found

result = [attempt(source, dest, *case) for source in sources for case in cases]
"""


def test_the_same_arguments_are_refused_and_understood(
    ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run, librbd: Callable[[str], Any]
) -> None:
    parent = names[0]
    clone, dest = f"{parent}-z-clone", f"{parent}-zz-dest"
    rbd_cli("create", "--size", "4M", *PLAIN, parent)
    rbd_cli("create", "--size", "4M", f"{parent}-there")
    rbd_cli("snap", "create", "--no-progress", f"{parent}@p")
    rbd_cli("clone", "--rbd-default-clone-format", "2", *PLAIN, f"{parent}@p", clone)
    plain = f"{parent}-plain"
    rbd_cli("create", "--size", "4M", plain)
    sources = [plain, clone]
    scope: dict[str, Any] = {"rbd": rbd, "ioctx": ioctx, "sources": sources, "dest": dest, "cases": CASES}
    exec(ATTEMPTS, scope)  # noqa: S102
    theirs = librbd(f"sources, dest, cases = {sources!r}, {dest!r}, {CASES!r}\n{ATTEMPTS}")
    cases = [(source, *case) for source in ("plain", "clone") for case in CASES]
    for case, our, their in zip(cases, scope["result"], theirs, strict=True):
        assert our is not None and their in (our, None), case
    with rbd.Image(ioctx, clone) as image:
        with pytest.raises(rbd.InvalidArgument):
            image.deep_copy(ioctx, dest, clone_format=3)
        with pytest.raises(rbd.InvalidArgument, match="protected"):
            image.deep_copy(ioctx, dest, clone_format=1)
    with rbd.Image(ioctx, plain) as image:
        for method in (image.copy, image.deep_copy):
            with pytest.raises(rbd.ImageExists):
                method(ioctx, f"{parent}-there")
    assert dest not in rbd_cli("ls").decode().split()


def test_a_copy_is_canceled(ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run) -> None:
    source, ours, _ = names
    run = ioctx._client.run
    rbd_cli("create", "--size", "16M", "--object-size", "256K", source)
    with opened(ioctx, source) as image:
        run(image.write(0, memoryview(b"c" * 16 * MIB)))
        run(snapshots.create(image, "s"))
        for function in (copy.copy, deep_copy.deep_copy):
            calls: list[tuple[int, int]] = []

            def cancel(done: int, total: int, calls: list[tuple[int, int]] = calls) -> int:
                calls.append((done, total))
                return -1 if len(calls) == 5 else 0

            with pytest.raises(errors.OperationCanceled) as caught:
                run(function(image, ioctx._io, ours, on_progress=cancel))
            assert caught.value.errno == errno.ECANCELED and len(calls) == 5
            purge(rbd_cli, ours)
        # nothing is left that keeps others from using the source
        run(image.write(0, memoryview(b"d")))


def test_what_has_become_zero_is_removed_whatever_lies_behind_it(
    ioctx: rados.Ioctx, names: tuple[str, str, str], rbd_cli: Run
) -> None:
    """Zeroes behind the end of a copied object once hid that all before them had become zero too: it was thought to
    have a length still, and later zeroes to change it."""
    name, dest, run = names[0], names[1], ioctx._client.run
    rbd_cli("create", "--size", "1M", "--image-feature", EVERYTHING, "--object-size", "64K", name)
    with opened(ioctx, name) as image:
        source = Modelled(ioctx, image, rbd_cli, bytes(MIB))
        source.write(0, b"1" * (64 * KIB))
        source.write(192 * KIB, bytes(64 * KIB))
        source.snap("a")
        source.zero(0, 64 * KIB)
        source.zero(192 * KIB, 64 * KIB)
        source.snap("b")
        source.write(0, bytes(100))
        source.snap("c")
        run(deep_copy.deep_copy(image, ioctx._io, dest, None, 20, MIB, 1))
    with opened(ioctx, dest) as made:
        copied = Modelled(ioctx, made, rbd_cli, source.now)
        copied.snaps = dict(source.snaps)
        copied.check()
