"""Flattening clones: all data stays, the relation ends, on both sides."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.image import errors, flatten, snapshots
from tests.image.modelled import EVERYTHING, KIB, MIB, Modelled, digest, opened, purge

Run = Callable[..., bytes]
LAYOUTS = {
    "plain": ("--object-size", "256K"),
    "striped": ("--object-size", "256K", "--stripe-unit", "64K", "--stripe-count", "3"),
}
SIZE = 3 * MIB + 5000


def _data() -> bytes:
    data = bytearray(random.Random(11).randbytes(SIZE))
    data[MIB : 2 * MIB] = bytes(MIB)
    return bytes(data)


def _clone(rbd_cli: Run, name: str, child: str, clone_format: str, features: str, layout: str = "plain") -> None:
    rbd_cli("import", "--no-progress", "--image-feature", "layering", "--object-size", "64K", "-", name, stdin=_data())
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    options = ("--rbd-default-clone-format", clone_format, "--image-feature", features, *LAYOUTS[layout])
    rbd_cli("clone", *options, f"{name}@s", child)


@pytest.mark.parametrize("features", ["layering", EVERYTHING], ids=["layering", "everything"])
@pytest.mark.parametrize("clone_format", ["1", "2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_flatten(ioctx: rados.Ioctx, name: str, rbd_cli: Run, layout: str, clone_format: str, features: str) -> None:
    """The parent is not needed any more, if the clone has no snapshots, or deep-flatten."""
    child, told = name + "-child", []
    _clone(rbd_cli, name, child, clone_format, features, layout)

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    try:
        with opened(ioctx, child) as image:
            modelled = Modelled(ioctx, image, rbd_cli, _data())
            modelled.write(100 * KIB, b"own")
            if features == EVERYTHING:
                modelled.snap("a")
                modelled.write(600 * KIB, b"newer" * 20000)
                modelled.resize(2 * MIB + 100)
            modelled.run(flatten.flatten(image, tell))
            assert image.parent is None
            objects = image.layout.num_objects(len(modelled.now))
            assert told[-1] == (objects, objects)
            assert [done for done, _ in told] == sorted(done for done, _ in told)
            modelled.check()
            with pytest.raises(errors.InvalidArgument):
                modelled.run(flatten.flatten(image))
            info = json.loads(rbd_cli("info", "--format", "json", child))
            assert "parent" not in info
            assert info["op_features"] == []
            assert rbd_cli("children", f"{name}@s") == b""
            rbd_cli("snap", "unprotect", f"{name}@s")
            rbd_cli("snap", "rm", "--no-progress", f"{name}@s")
            rbd_cli("rm", "--no-progress", name)
            modelled.check("without the parent")
    finally:
        purge(rbd_cli, child, name)


def test_zeroes_of_the_parent_are_not_stored(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    child = name + "-child"
    _clone(rbd_cli, name, child, "2", "layering")
    try:
        with opened(ioctx, child) as image:
            ioctx._client.run(flatten.flatten(image))
            there = {o.key for o in ioctx.list_objects()}
            assert [image.object_name(n) in there for n in range(13)] == [True] * 4 + [False] * 4 + [True] * 5
    finally:
        purge(rbd_cli, child, name)


def test_what_is_refused(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run, child = ioctx._client.run, name + "-child"
    _clone(rbd_cli, name, child, "2", "layering")
    try:
        with opened(ioctx, name) as image, pytest.raises(errors.InvalidArgument):
            run(flatten.flatten(image))
        with opened(ioctx, child, read_only=True) as image, pytest.raises(errors.ReadOnlyImage):
            run(flatten.flatten(image))
        with opened(ioctx, child) as image:
            run(snapshots.create(image, "a"))
            run(image.set_snapshot("a"))
            with pytest.raises(errors.ReadOnlyImage):
                run(flatten.flatten(image))
    finally:
        purge(rbd_cli, child, name)


def test_canceled_and_done_again(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    child = name + "-child"
    _clone(rbd_cli, name, child, "2", EVERYTHING)
    try:
        with opened(ioctx, child) as image:
            modelled = Modelled(ioctx, image, rbd_cli, _data())
            with pytest.raises(errors.OperationCanceled):
                modelled.run(flatten.flatten(image, lambda done, total: -1 if done == 3 else 0))
            assert image.parent is not None
            modelled.check("canceled")
            assert rbd_cli("children", f"{name}@s").split() == [f"rbd/{child}".encode()]
            modelled.flatten()
            modelled.check("done")
    finally:
        purge(rbd_cli, child, name)


def test_others_use_both_meanwhile(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """The clone is written and read, and the parent read, while it is being flattened."""
    client, child = ioctx._client, name + "-child"
    _clone(rbd_cli, name, child, "1", EVERYTHING)
    try:
        with opened(ioctx, child) as image, opened(ioctx, name, snapshot="s") as parent:
            modelled = Modelled(ioctx, image, rbd_cli, _data())
            rng = random.Random(3)
            changes = [(rng.randrange(SIZE - 5000), rng.randbytes(rng.choice((1, 700, 5000)))) for _ in range(60)]

            async def use() -> None:
                for offset, data in changes:
                    await image.write(offset, memoryview(data))
                    modelled.now[offset : offset + len(data)] = data
                    assert await image.read(offset, len(data)) == data
                    assert await parent.read(offset, 1000) == _data()[offset : offset + 1000]

            user: Any = client.spawn(use())
            modelled.flatten()
            client.run(_result(user))
            modelled.check()
        assert digest(rbd_cli("export", "--no-progress", f"{name}@s", "-")) == digest(_data())
    finally:
        purge(rbd_cli, child, name)


async def _result(completion: Any) -> None:
    await completion
