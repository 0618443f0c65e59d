"""Snapshots, made and removed by us and by librbd in turn: what both see, and what is refused."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import errors, snapshots
from pyrbd.image.image import Image
from tests.image.modelled import (
    EVERYTHING,
    KIB,
    MIB,
    Modelled,
    check_object_maps,
    digest,
    opened,
    purge,
)

Run = Callable[..., bytes]

PLAIN = ("--object-size", "256K")
STRIPED = ("--object-size", "256K", "--stripe-unit", "64K", "--stripe-count", "3")
KINDS = ["write"] * 4 + ["zero"] * 2 + ["resize"] * 2 + ["snap", "snap", "remove", "rollback"]


@pytest.mark.parametrize(
    ("features", "layout", "seed"),
    [("layering", PLAIN, 1), (EVERYTHING, PLAIN, 2), (EVERYTHING, STRIPED, 3)],
    ids=["plain", "everything", "striped"],
)
def test_random_histories(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, features: str, layout: tuple[str, ...], seed: int
) -> None:
    rng = random.Random(seed)
    rbd_cli("create", "--size", "4M", "--image-feature", features, *layout, name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(4 * MIB))
            done = [modelled.change(rng, KINDS) for _ in range(30)]
            modelled.check(done)
    finally:
        purge(rbd_cli, name)


@pytest.mark.parametrize(
    ("features", "layout", "clone_format", "seed"),
    [("layering", PLAIN, "1", 4), (EVERYTHING, STRIPED, "2", 5), (EVERYTHING, PLAIN, "2", 6)],
    ids=["plain", "striped", "everything"],
)
def test_random_histories_of_clones(
    ioctx: rados.Ioctx,
    name: str,
    rbd_cli: Run,
    features: str,
    layout: tuple[str, ...],
    clone_format: str,
    seed: int,
) -> None:
    rng = random.Random(seed)
    data = bytearray(rng.randbytes(3 * MIB + 12345))
    data[MIB : 2 * MIB] = bytes(MIB)
    child = name + "-child"
    _make_clone(rbd_cli, name, child, features, layout, clone_format, bytes(data))
    try:
        with opened(ioctx, child) as image:
            modelled = Modelled(ioctx, image, rbd_cli, data)
            done = [modelled.change(rng, KINDS) for _ in range(24)]
            done += [modelled.change(rng, [*KINDS, "flatten"]) for _ in range(8)]
            modelled.check(done)
        assert digest(rbd_cli("export", "--no-progress", f"{name}@s", "-")) == digest(data)
    finally:
        purge(rbd_cli, child, name)


def _make_clone(
    rbd_cli: Run, name: str, child: str, features: str, layout: tuple[str, ...], clone_format: str, data: bytes
) -> None:
    rbd_cli("import", "--no-progress", "--image-feature", "layering", *PLAIN, "-", name, stdin=data)
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    if clone_format == "1":
        rbd_cli("snap", "protect", f"{name}@s")
    options = ("--rbd-default-clone-format", clone_format, "--image-feature", features, *layout)
    rbd_cli("clone", *options, f"{name}@s", child)


@pytest.mark.parametrize("features", ["layering", EVERYTHING])
def test_in_turn_with_librbd(ioctx: rados.Ioctx, name: str, rbd_cli: Run, features: str) -> None:
    """Each makes, renames, rolls back to and removes what the other made, while we have the image open."""
    rbd_cli("create", "--size", "2M", "--image-feature", features, *PLAIN, name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(2 * MIB))
            modelled.write(0, b"1" * MIB)
            modelled.snap("ours")
            modelled.write(MIB // 2, b"2" * MIB)
            rbd_cli("snap", "create", "--no-progress", f"{name}@theirs")
            modelled.snaps["theirs"] = bytes(modelled.now)
            modelled.write(0, b"3" * 100)
            modelled.check("made")
            rbd_cli("snap", "rollback", "--no-progress", f"{name}@ours")
            modelled.now = bytearray(modelled.snaps["ours"])
            modelled.check("they rolled back")
            modelled.write(5, b"4" * 100)
            modelled.rollback("theirs")
            modelled.check("we rolled back")
            rbd_cli("snap", "rename", f"{name}@ours", f"{name}@yours")
            modelled.run(snapshots.rename(image, "theirs", "mine"))
            modelled.snaps = {"yours": modelled.snaps["ours"], "mine": modelled.snaps["theirs"]}
            modelled.check("renamed")
            modelled.remove_snap("yours")
            rbd_cli("snap", "rm", "--no-progress", f"{name}@mine")
            del modelled.snaps["mine"]
            modelled.write(100, b"5" * 100)
            modelled.check("removed")
    finally:
        purge(rbd_cli, name)


def test_images_of_format_1(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd_cli("create", "--image-format", "1", "--size", "2M", *PLAIN, name, env={"RBD_FORCE_ALLOW_V1": "1"})
    rng = random.Random(7)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(2 * MIB))
            for _ in range(20):
                modelled.change(rng, KINDS)
            modelled.snap("last")
            with pytest.raises(errors.ImageExists):
                modelled.run(snapshots.create(image, "last"))
            with pytest.raises(errors.FunctionNotSupported):
                modelled.run(snapshots.protect(image, "last"))
            modelled.run(snapshots.rename(image, "last", "newest"))
            modelled.snaps["newest"] = modelled.snaps.pop("last")
            modelled.check()
    finally:
        purge(rbd_cli, name)


def test_what_is_refused(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run = ioctx._client.run
    rbd_cli("create", "--size", "1M", "--image-feature", "layering", name)
    try:
        with opened(ioctx, name) as image:
            run(snapshots.create(image, "a"))
            with pytest.raises(errors.ImageExists):
                run(snapshots.create(image, "a"))
            with pytest.raises(errors.InvalidArgument):
                run(snapshots.create(image, "b", 4))
            for missing in (
                snapshots.remove(image, "x"),
                snapshots.remove(image, 12345),
                snapshots.rename(image, "x", "y"),
                snapshots.protect(image, "x"),
                snapshots.unprotect(image, "x"),
                snapshots.rollback(image, "x"),
            ):
                with pytest.raises(errors.ImageNotFound):
                    run(missing)
            with pytest.raises(errors.InvalidArgument):
                run(snapshots.unprotect(image, "a"))
            run(snapshots.protect(image, "a"))
            with pytest.raises(errors.ImageBusy):
                run(snapshots.protect(image, "a"))
            with pytest.raises(errors.ImageBusy):
                run(snapshots.remove(image, "a"))
            with pytest.raises(errors.ImageExists):
                run(snapshots.rename(image, "a", "a"))
            run(snapshots.remove(image, "a", snapshots.RBD_SNAP_REMOVE_UNPROTECT))
            assert not image.header.snaps
            # the limit
            assert run(snapshots.get_limit(image)) == snapshots.NO_LIMIT
            run(snapshots.create(image, "b"))
            run(snapshots.create(image, "c"))
            with pytest.raises(errors.OSError) as caught:
                run(snapshots.set_limit(image, 1))
            assert caught.value.errno == 34  # ERANGE
            run(snapshots.set_limit(image, 2))
            assert run(snapshots.get_limit(image)) == 2
            with pytest.raises(errors.DiskQuotaExceeded):
                run(snapshots.create(image, "d"))
            rbd_cli("snap", "limit", "clear", name)
            assert run(snapshots.get_limit(image)) == snapshots.NO_LIMIT
            run(snapshots.create(image, "d"))
        with opened(ioctx, name, read_only=True) as image:
            for change in (
                snapshots.create(image, "e"),
                snapshots.remove(image, "b"),
                snapshots.rename(image, "b", "f"),
                snapshots.protect(image, "b"),
                snapshots.rollback(image, "b"),
                snapshots.set_limit(image, 9),
            ):
                with pytest.raises(errors.ReadOnlyImage):
                    run(change)
        with opened(ioctx, name) as image:
            run(image.set_snapshot("b"))
            run(snapshots.create(image, "e"))
            with pytest.raises(errors.ReadOnlyImage):
                run(snapshots.rollback(image, "b"))
    finally:
        purge(rbd_cli, name)


def test_an_id_that_is_not_used_is_given_back(ioctx: rados.Ioctx, name: str, rbd_cli: Run, ceph_cli: Run) -> None:
    """A snapshot that the header refuses leaves nothing in the pool."""
    rbd_cli("create", "--size", "1M", "--image-feature", "layering", name)
    rbd_cli("snap", "create", "--no-progress", f"{name}@first")
    rbd_cli("snap", "limit", "set", "--limit", "1", name)
    with opened(ioctx, name) as image:
        taken: list[int] = []
        client = image.client
        allocate, give_back = client.create_selfmanaged_snap, client.remove_selfmanaged_snap

        async def counted(pool: int) -> int:
            taken.append(await allocate(pool))
            return taken[-1]

        async def uncounted(pool: int, snap_id: int) -> None:
            await give_back(pool, snap_id)
            taken.remove(snap_id)

        client.create_selfmanaged_snap = counted  # type: ignore[method-assign]
        client.remove_selfmanaged_snap = uncounted  # type: ignore[method-assign]
        try:
            with pytest.raises(errors.DiskQuotaExceeded):
                client.run(snapshots.create(image, "a"))
        finally:
            del client.create_selfmanaged_snap, client.remove_selfmanaged_snap  # type: ignore[method-assign]
        assert taken == []
    purge(rbd_cli, name)


def test_protection_and_clones_of_format_1(handle: rados.Rados, ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """Clones in any pool keep a snapshot protected, and it stays so."""
    run, pool = ioctx._client.run, name + "-pool"
    rbd_cli("create", "--size", "1M", "--image-feature", "layering", name)
    handle.create_pool(pool)
    try:
        with opened(ioctx, name) as image:
            run(snapshots.create(image, "s"))
            run(snapshots.protect(image, "s"))
            rbd_cli("clone", "--rbd-default-clone-format", "1", f"{name}@s", f"{pool}/child")
            with pytest.raises(errors.ImageBusy):
                run(snapshots.unprotect(image, "s"))
            assert image.find_snapshot("s").protected
            assert json.loads(rbd_cli("snap", "ls", "--format", "json", name))[0]["protected"] == "true"
            with pytest.raises(errors.ImageBusy):
                run(snapshots.remove(image, "s"))
            rbd_cli("rm", "--no-progress", f"{pool}/child")
            run(snapshots.unprotect(image, "s"))
            rbd_cli("snap", "rm", "--no-progress", f"{name}@s")
    finally:
        handle.delete_pool(pool)
        purge(rbd_cli, name)


def test_a_removed_snapshot_stays_for_its_clones(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run, child = ioctx._client.run, name + "-child"
    _make_clone(rbd_cli, name, child, "layering", PLAIN, "2", b"x" * MIB)
    try:
        with opened(ioctx, name) as image:
            run(snapshots.remove(image, "s"))
            (left,) = image.header.snaps
            assert left.info.namespace.type == rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH
            assert snapshots.trash_namespace(image, left.id) == {"original_namespace_type": 0, "original_name": "s"}
            with pytest.raises(errors.InvalidArgument):
                snapshots.mirror_namespace(image, left.id)
            with pytest.raises(errors.InvalidArgument):
                run(snapshots.group_namespace(image, left.id))
            with pytest.raises(errors.ImageBusy):
                run(snapshots.remove(image, left.id))
            assert json.loads(rbd_cli("snap", "ls", "--format", "json", name)) == []
            assert rbd_cli("export", "--no-progress", child, "-") == b"x" * MIB
            with opened(ioctx, child) as clone:
                run(_flatten(clone))
            run(image.current())
            assert not image.header.snaps
        assert rbd_cli("export", "--no-progress", child, "-") == b"x" * MIB
    finally:
        purge(rbd_cli, child, name)


async def _flatten(image: Image) -> None:
    from pyrbd.image import flatten

    await flatten.flatten(image)


@pytest.mark.parametrize("clone_format", ["1", "2"])
def test_clones_are_flattened_when_a_snapshot_is_removed(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, clone_format: str
) -> None:
    run, children = ioctx._client.run, [f"{name}-{i}" for i in range(2)]
    _make_clone(rbd_cli, name, children[0], "layering", PLAIN, clone_format, b"y" * MIB)
    rbd_cli("clone", "--rbd-default-clone-format", clone_format, f"{name}@s", children[1])
    flags = snapshots.RBD_SNAP_REMOVE_UNPROTECT | snapshots.RBD_SNAP_REMOVE_FLATTEN
    told: list[tuple[int, int]] = []
    try:
        with opened(ioctx, name) as image:
            rbd_cli("snap", "create", "--no-progress", f"{children[0]}@keeps")
            with pytest.raises(errors.ImageBusy):  # no deep-flatten: its snapshot needs the parent
                run(snapshots.remove(image, "s", flags))
            rbd_cli("snap", "rm", "--no-progress", f"{children[0]}@keeps")
            run(snapshots.remove(image, "s", flags, lambda done, total: told.append((done, total))))
            assert not image.header.snaps
        assert told[-1][0] == told[-1][1]
        for child in children:
            assert "parent" not in json.loads(rbd_cli("info", "--format", "json", child))
            assert rbd_cli("export", "--no-progress", child, "-") == b"y" * MIB
    finally:
        purge(rbd_cli, *children, name)


@pytest.mark.parametrize("clone_format", ["1", "2"])
def test_the_last_snapshot_that_needs_the_parent_lets_go_of_it(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, clone_format: str
) -> None:
    """Without deep-flatten, a flattened clone's snapshot is a child still, until it goes."""
    run, child = ioctx._client.run, name + "-child"
    _make_clone(rbd_cli, name, child, "layering", PLAIN, clone_format, b"z" * MIB)
    try:
        with opened(ioctx, child) as image:
            run(snapshots.create(image, "a"))
            run(snapshots.create(image, "b"))
            run(_flatten(image))
            assert rbd_cli("children", f"{name}@s").split() == [f"rbd/{child}".encode()]
            run(snapshots.remove(image, "a"))
            assert rbd_cli("export", "--no-progress", f"{child}@b", "-") == b"z" * MIB
            assert rbd_cli("children", f"{name}@s").split() == [f"rbd/{child}".encode()]
            run(snapshots.remove(image, "b"))
            assert rbd_cli("children", f"{name}@s") == b""
        if clone_format == "1":
            rbd_cli("snap", "unprotect", f"{name}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s")
        assert rbd_cli("export", "--no-progress", child, "-") == b"z" * MIB
    finally:
        purge(rbd_cli, child, name)


def test_who_writes_meanwhile_is_in_it_or_not(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """Blocks are written one after the other while snapshots are made: each has a first part of them."""
    client, blocks = ioctx._client, 300
    rbd_cli("create", "--size", "4M", "--image-feature", EVERYTHING, *PLAIN, name)
    try:
        with opened(ioctx, name) as image:

            async def write_all() -> None:
                for i in range(blocks):
                    await image.write(i * 4096, memoryview(bytes([i % 255 + 1]) * 4096))

            writer = client.spawn(write_all())
            names = []
            while not writer.done and len(names) < 8:
                names.append(f"s{len(names)}")
                client.run(snapshots.create(image, names[-1]))
            client.run(_result(writer))
            written = []
            for snap in names:
                with opened(ioctx, name, snapshot=snap) as old:
                    data = client.run(old.read(0, blocks * 4096))
                there = [data[i * 4096] for i in range(blocks)]
                n = next((i for i, x in enumerate(there) if not x), blocks)
                assert there == [i % 255 + 1 for i in range(n)] + [0] * (blocks - n)
                written.append(n)
            assert written == sorted(written)
            assert written[-1] > 0
        check_object_maps(rbd_cli, name, names)
    finally:
        purge(rbd_cli, name)


async def _result(completion: Any) -> None:
    await completion


def test_rollback_of_a_large_sparse_image(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """Its time is that of what there is: 2**18 objects are possible."""
    run = ioctx._client.run
    for features in ("layering", EVERYTHING):
        rbd_cli("create", "--size", "1T", "--image-feature", features, name)
        try:
            with opened(ioctx, name) as image:
                for at in (0, 1 << 35, (1 << 40) - 4096):
                    run(image.write(at, memoryview(b"1" * 4096)))
                run(snapshots.create(image, "s"))
                run(image.write(1 << 36, memoryview(b"2" * 4096)))
                run(image.write_zeroes(1 << 35, 4 * MIB))
                begin = time.monotonic()
                run(snapshots.rollback(image, "s"))
                assert time.monotonic() - begin < 60
                assert run(image.read(1 << 35, 4096)) == b"1" * 4096
                assert run(image.read(1 << 36, 4096)) == bytes(4096)
                assert run(image.read((1 << 40) - 4096, 5000)) == b"1" * 4096
                run(snapshots.remove(image, "s"))
        finally:
            rbd.RBD().remove(ioctx, name)


def test_rollback_is_canceled(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """It leaves a mixture of both, of which the object map is right; and it can be done again."""
    rbd_cli("create", "--size", "16M", "--image-feature", EVERYTHING, *PLAIN, name)
    try:
        with opened(ioctx, name) as image:
            modelled = Modelled(ioctx, image, rbd_cli, bytes(16 * MIB))
            modelled.write(0, b"1" * 8 * MIB)
            modelled.snap("s")
            modelled.write(4 * MIB, b"2" * 12 * MIB)
            with pytest.raises(errors.OperationCanceled):
                modelled.run(snapshots.rollback(image, "s", lambda done, total: -1 if done > 20 else 0))
            modelled.now = bytearray(modelled.run(image.read(0, 16 * MIB)))
            units = {bytes(modelled.now[i : i + 1]) for i in range(8 * MIB, 16 * MIB, 256 * KIB)}
            assert units <= {b"\0", b"2"}
            modelled.rollback("s")
            modelled.check()
    finally:
        purge(rbd_cli, name)
