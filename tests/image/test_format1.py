"""Images of format 1: those that we make are librbd's, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from pyrbd import rados, rbd
from pyrbd.image import directory, header
from pyrbd.image.image import Image

MIB = 1 << 20
Run = Callable[..., bytes]
T = TypeVar("T")


def run(ioctx: rados.Ioctx, coro: Coroutine[Any, Any, T]) -> T:
    return ioctx.rados.client.run(coro)


@pytest.fixture
def rbd_v1(rbd_cli: Run) -> Run:
    """`rbd`, which makes images of format 1 only when it is forced to."""

    def call(*args: str) -> bytes:
        return rbd_cli(*args, env={"RBD_FORCE_ALLOW_V1": "1"})

    return call


def test_the_header_is_that_of_librbd(ioctx: rados.Ioctx, name: str, rbd_v1: Run) -> None:
    theirs = name + "-theirs"
    for order in (12, 22, 25):
        size = 20 * MIB + order
        assert run(ioctx, directory.create(ioctx._io, name, size, order, old_format=True)) == ""
        rbd_v1("create", "--image-format", "1", "--size", f"{size}B", "--object-size", str(1 << order), theirs)
        fields = [list(header.V1_HEADER.unpack(ioctx.read(n + ".rbd", 4096))) for n in (name, theirs)]
        prefixes = [f.pop(1).rstrip(b"\0").decode().split(".") for f in fields]
        assert fields[0] == fields[1]
        assert [p[:2] for p in prefixes] == [["rb", "0"]] * 2 and [len(p) for p in prefixes] == [4, 4]
        info = json.loads(rbd_v1("info", "--format", "json", name))
        assert (info["format"], info["size"], info["order"]) == (1, size, order)
        names = rbd_v1("ls").decode().split()
        assert {name, theirs} <= set(names)
        assert set(run(ioctx, directory.list_images(ioctx._io))) == set(names)
        rbd_v1("rm", "--no-progress", name)
        run(ioctx, directory.remove(ioctx._io, theirs))
        names = rbd_v1("ls").decode().split()
        assert name not in names and theirs not in names
        assert not {name, theirs} & set(run(ioctx, directory.list_images(ioctx._io)))


def test_data_snapshots_rename_and_remove(ioctx: rados.Ioctx, name: str, rbd_v1: Run) -> None:
    run(ioctx, directory.create(ioctx._io, name, 8 * MIB, 20, old_format=True))
    rbd_v1("snap", "create", "--no-progress", f"{name}@s")
    image = run(ioctx, Image.open(ioctx._io, name))
    run(ioctx, image.write(5, memoryview(b"of format 1")))
    # the header object is called like the image: whoever renames an open one watches the new one
    run(ioctx, directory.rename_open(image, name + "-b"))
    assert image.name == name + "-b"
    rbd_v1("resize", "--no-progress", "--size", "9M", name + "-b")
    run(ioctx, image.current())
    assert image.size == 9 * MIB
    run(ioctx, image.close())
    run(ioctx, directory.rename(ioctx._io, name + "-b", name))
    names = rbd_v1("ls").decode().split()
    assert name in names and name + "-b" not in names
    assert rbd_v1("export", "--no-progress", name, "-")[5:16] == b"of format 1"
    assert rbd_v1("export", "--no-progress", f"{name}@s", "-")[5:16] == bytes(11)
    with pytest.raises(rbd.ImageHasSnapshots):
        run(ioctx, directory.remove(ioctx._io, name))
    rbd_v1("snap", "rm", "--no-progress", f"{name}@s")
    image = run(ioctx, Image.open(ioctx._io, name))
    with pytest.raises(rbd.ImageBusy):
        run(ioctx, directory.remove(ioctx._io, name))
    prefix = image.header.raw.object_prefix
    run(ioctx, image.close())
    run(ioctx, directory.remove(ioctx._io, name))
    assert not [o.key for o in ioctx.list_objects() if prefix in o.key or name in o.key]
    with pytest.raises(rbd.ImageNotFound):
        run(ioctx, directory.remove(ioctx._io, name))


def test_names_are_shared_by_both_formats(ioctx: rados.Ioctx, name: str, rbd_v1: Run) -> None:
    io = ioctx._io
    run(ioctx, directory.create(io, name, MIB, old_format=True))
    other = name + "-2"
    run(ioctx, directory.create(io, other, MIB, features_wanted=1))
    for old_format in (True, False):
        for taken in (name, other):
            with pytest.raises(rbd.ImageExists):
                run(ioctx, directory.create(io, taken, MIB, old_format=old_format))
    for source, dest in ((name, other), (other, name), (name, name)):
        with pytest.raises(rbd.ImageExists):
            run(ioctx, directory.rename(io, source, dest))
    run(ioctx, directory.remove(io, name))
    run(ioctx, directory.remove(io, other))


def test_what_format_1_has_not(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    for order in (11, 26):
        with pytest.raises(rbd.ArgumentOutOfRange):
            run(ioctx, directory.create(ioctx._io, name, MIB, order, old_format=True))
    with pytest.raises(rbd.InvalidArgument):
        run(ioctx, directory.create(ioctx._io.with_namespace("ns"), name, MIB, old_format=True))
    assert name not in rbd_cli("ls").decode().split()


def test_remains_of_an_interrupted_creation_are_removed(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """The directory's entry is written before the header."""
    run(ioctx, directory.create(ioctx._io, name, MIB, old_format=True))
    ioctx.remove_object(name + ".rbd")
    assert name in run(ioctx, directory.list_images(ioctx._io))
    run(ioctx, directory.remove(ioctx._io, name))
    assert name not in run(ioctx, directory.list_images(ioctx._io))
    assert name not in rbd_cli("ls").decode().split()
