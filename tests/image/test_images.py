"""Images made here are what librbd makes, and the other way round."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import features

MIB = 1 << 20
Run = Callable[..., bytes]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("order", [12, 16, 22, 25])
def test_rbd_exports_what_we_wrote(ioctx: rados.Ioctx, name: str, rbd_cli: Run, order: int) -> None:
    size = 9 * MIB + 12345  # not a multiple of any object size
    rbd.RBD().create(ioctx, name, size, order)
    rng = random.Random(order)
    expected = bytearray(size)
    with rbd.Image(ioctx, name) as image:
        for _ in range(20):
            offset = rng.randrange(size)
            data = rng.randbytes(min(rng.choice([1, 511, 4096, 70000, MIB + 1]), size - offset))
            assert image.write(data, offset) == len(data)
            expected[offset : offset + len(data)] = data
        assert image.read(0, size) == expected
        assert image.read(size - 7, 100) == expected[-7:]
    assert sha(rbd_cli("export", "--no-progress", name, "-")) == sha(expected)


@pytest.mark.parametrize("order", [12, 16, 22, 25])
def test_we_read_what_rbd_imported(ioctx: rados.Ioctx, name: str, rbd_cli: Run, order: int) -> None:
    data = os.urandom(3 * MIB) + bytes(2 * MIB) + os.urandom(777)
    layout = ["--image-feature", "layering", "--object-size", str(1 << order)]
    rbd_cli("import", "--no-progress", *layout, "-", name, stdin=data)
    with rbd.Image(ioctx, name, read_only=True) as image:
        assert image.size() == len(data)
        assert image.read(0, len(data)) == data
        buffer = bytearray(len(data) + 5)
        assert image.read_into(0, buffer) == len(data)
        assert buffer[: len(data)] == data


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"order": 16},
        {"features": rbd.RBD_FEATURE_LAYERING, "order": 25},
        {"features": 0},
        {"stripe_unit": 65536, "stripe_count": 4},
        {"order": 20, "stripe_unit": 1 << 20, "stripe_count": 3},
    ],
)
def test_create_writes_the_header_that_librbd_writes(
    ioctx: rados.Ioctx, name: str, rbd_cli: Run, librbd: Callable[[str], Any], kwargs: dict[str, int]
) -> None:
    """Everything that `rbd info` and the omap of the header show is equal, up to id and time."""
    size = 20 * MIB + 1
    rbd.RBD().create(ioctx, name, size, **kwargs)
    theirs_kwargs = {"features": 61 & features.WRITABLE, "old_format": False, **kwargs}
    result = librbd(
        f"""
kwargs = {theirs_kwargs!r}
rbd.RBD().create(ioctx, {name + "-oracle"!r}, {size}, **kwargs)
def header(image_name):
    with rbd.Image(ioctx, image_name, read_only=True) as image:
        oid = "rbd_header." + image.id()
        facts = dict(image.stat(), features=image.features(), unit=image.stripe_unit(), count=image.stripe_count(),
                     flags=image.flags(), prefix=image.block_name_prefix().replace(image.id(), "ID"))
        facts["block_name_prefix"] = facts["parent_name"] = ""
    with rados.ReadOpCtx() as op:
        values, _ = ioctx.get_omap_vals(op, "", "", 100)
        ioctx.operate_read_op(op, oid)
        keys = {{k: len(v) if "timestamp" in k or k == "object_prefix" else v.hex() for k, v in values}}
    keys["object_prefix"] = 0
    return [facts, keys]
result = [header({name!r}), header({name + "-oracle"!r})]
rbd.RBD().remove(ioctx, {name + "-oracle"!r})
"""
    )
    assert result[0] == result[1]
    info = json.loads(rbd_cli("info", "--format", "json", name))
    assert info["size"] == size and info["format"] == 2 and info["snapshot_count"] == 0


def test_empty_image(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 0)
    with rbd.Image(ioctx, name) as image:
        assert image.size() == 0
        assert image.stat()["num_objs"] == 0
        assert image.read(0, 0) == b""
        with pytest.raises(rbd.InvalidArgument):
            image.read(0, 1)
        with pytest.raises(rbd.InvalidArgument):
            image.write(b"x", 0)
    assert rbd_cli("export", "--no-progress", name, "-") == b""


def test_petabyte_image_is_written_at_its_end(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    size = 1 << 50
    rbd.RBD().create(ioctx, name, size, features=rbd.RBD_FEATURE_LAYERING)
    with rbd.Image(ioctx, name) as image:
        image.write(b"the end", size - 7)
        assert image.read(size - 10, 100) == b"\0\0\0the end"
        assert image.stat()["num_objs"] == 1 << 28
    assert json.loads(rbd_cli("info", "--format", "json", name))["size"] == size
    rbd.RBD().remove(ioctx, name)
    assert name not in rbd.RBD().list(ioctx)


def test_striped_images_agree_both_ways(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    size = 30 * MIB + 5
    rbd.RBD().create(ioctx, name, size, 20, features=1, stripe_unit=65536, stripe_count=5)
    data = os.urandom(11 * MIB)
    with rbd.Image(ioctx, name) as image:
        image.write(data, 3 * MIB + 7)
        expected = bytes(3 * MIB + 7) + data + bytes(size - 14 * MIB - 7)
        assert image.read(0, size) == expected
        image.resize(7 * MIB + 11)
        image.resize(size)
        assert image.read(0, size) == expected[: 7 * MIB + 11] + bytes(size - 7 * MIB - 11)
    exported = rbd_cli("export", "--no-progress", name, "-")
    assert sha(exported) == sha(expected[: 7 * MIB + 11] + bytes(size - 7 * MIB - 11))


def test_rename_and_list_as_rbd_sees_them(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, MIB)
    rbd.RBD().rename(ioctx, name, name + "-new")
    try:
        names = rbd_cli("ls").decode().split()
        assert name not in names and name + "-new" in names
        assert rbd.RBD().list(ioctx) == names
        rbd_cli("mv", name + "-new", name)
        assert name in rbd.RBD().list(ioctx)
    finally:
        if name + "-new" in rbd.RBD().list(ioctx):
            rbd.RBD().remove(ioctx, name + "-new")


def test_remove_leaves_no_objects(ioctx: rados.Ioctx, name: str, rados_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 20 * MIB, 20)
    with rbd.Image(ioctx, name) as image:
        image.write(os.urandom(20 * MIB), 0)
        image_id = image.id()
    seen: list[tuple[int, int]] = []
    rbd.RBD().remove(ioctx, name, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20, 20)
    assert image_id not in rados_cli("-p", "rbd", "ls").decode()
    assert f"rbd_id.{name}" not in rados_cli("-p", "rbd", "ls").decode()
    with pytest.raises(rbd.ImageNotFound):
        rbd.RBD().remove(ioctx, name)


def test_a_failed_create_leaves_nothing(ioctx: rados.Ioctx, name: str, rados_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, MIB)
    before = sorted(rados_cli("-p", "rbd", "ls").decode().split())
    directory = rados_cli("-p", "rbd", "listomapvals", "rbd_directory")
    with pytest.raises(rbd.ImageExists):
        rbd.RBD().create(ioctx, name, 2 * MIB)
    for bad in ({"order": 11}, {"order": 26}, {"stripe_unit": 3, "stripe_count": 2}, {"features": 1 << 40}):
        with pytest.raises(rbd.OSError):
            rbd.RBD().create(ioctx, name + "-bad", MIB, **bad)
    # the object of the id is there already, the directory does not know it: the last steps fail
    ioctx.write_full(f"rbd_id.{name}-half", b"x")
    with pytest.raises(rbd.ImageExists):
        rbd.RBD().create(ioctx, name + "-half", MIB)
    ioctx.remove_object(f"rbd_id.{name}-half")
    after = rados_cli("-p", "rbd", "ls").decode().split()
    assert sorted(set(after) - set(before)) == [], "what OSDs still trim of other images may go"
    assert rados_cli("-p", "rbd", "listomapvals", "rbd_directory") == directory


def test_image_of_librbd_with_features_that_we_cannot_write(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """It can be read; every change is refused by the feature's name, before a byte is written."""
    data = os.urandom(MIB)
    rbd_cli("import", "--no-progress", "--image-feature", "exclusive-lock,journaling", "-", name, stdin=data)
    with rbd.Image(ioctx, name) as image:
        assert image.read(0, MIB) == data
        for change in (
            lambda: image.write(b"x", 0),
            lambda: image.discard(0, MIB),
            lambda: image.resize(5),
            lambda: image.write_zeroes(0, 10),
        ):
            with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
                change()
    for refused in (
        lambda: rbd.RBD().remove(ioctx, name),
        lambda: rbd.RBD().rename(ioctx, name, name + "x"),
    ):
        with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
            refused()
    assert rbd_cli("export", "--no-progress", name, "-") == data
    rbd_cli("rm", "--no-progress", name)


def test_snapshots_and_clones_of_librbd_are_read(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    size = 6 * MIB + 100
    data = os.urandom(size)
    rbd_cli("import", "--no-progress", "--image-feature", "layering", "-", name, stdin=data)
    rbd_cli("snap", "create", "--no-progress", f"{name}@s1")
    with rbd.Image(ioctx, name) as image:
        image.write(b"Z" * 100000, 5)  # carries the snapshot, or s1 would change
        assert [s["name"] for s in image.list_snaps()] == ["s1"]
        assert not image.is_protected_snap("s1")
    with rbd.Image(ioctx, name, snapshot="s1") as old:
        assert old.read(0, size) == data
        with pytest.raises(rbd.ReadOnlyImage):
            old.write(b"x", 0)
    assert rbd_cli("export", "--no-progress", f"{name}@s1", "-") == data
    rbd_cli("snap", "protect", f"{name}@s1")
    clone = name + "-clone"
    rbd_cli("clone", "--image-feature", "layering", f"{name}@s1", clone)
    try:
        rbd_cli("resize", "--no-progress", "--size", "8M", clone)
        with rbd.Image(ioctx, clone) as child:
            assert child.read(0, 8 * MIB) == data + bytes(8 * MIB - size)
            assert child.parent_info() == ("rbd", name, "s1")
            assert child.overlap() == size
            child.write(b"x", 5 * MIB)
            assert child.read(0, size) == data[: 5 * MIB] + b"x" + data[5 * MIB + 1 :]
        with pytest.raises(rbd.ImageHasSnapshots):
            rbd.RBD().remove(ioctx, name)
    finally:
        rbd_cli("rm", "--no-progress", clone)
        rbd_cli("snap", "unprotect", f"{name}@s1")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s1")


def test_a_snapshot_taken_by_another_client_is_kept(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """The header is watched: a snapshot made while we have the image open is in the next write."""
    rbd.RBD().create(ioctx, name, 4 * MIB, 20)
    with rbd.Image(ioctx, name) as image:
        image.write(b"old" * 1000, 0)
        rbd_cli("snap", "create", "--no-progress", f"{name}@s")
        image.write(b"new" * 1000, 0)
        assert [s["name"] for s in image.list_snaps()] == ["s"]
        assert image.read(0, 3000) == b"new" * 1000
    assert rbd_cli("export", "--no-progress", f"{name}@s", "-")[:3000] == b"old" * 1000
    rbd_cli("snap", "rm", "--no-progress", f"{name}@s")


def test_a_resize_by_another_client_is_seen(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 4 * MIB)
    with rbd.Image(ioctx, name) as image:
        rbd_cli("resize", "--no-progress", "--size", "9M", name)
        assert image.size() == 9 * MIB
        image.write(b"there", 8 * MIB)
        image.resize(10 * MIB)
        assert json.loads(rbd_cli("info", "--format", "json", name))["size"] == 10 * MIB


def test_an_open_image_is_not_removed(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, MIB)
    with rbd.Image(ioctx, name):
        status = rbd_cli("status", name).decode()
        assert status.count("watcher=") == 1 and f"client.{ioctx.rados.get_instance_id()}" in status
        with pytest.raises(rbd.ImageBusy):
            rbd.RBD().remove(ioctx, name)
    assert "none" in rbd_cli("status", name).decode()


def test_shrink_and_grow_again_shows_zeroes(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 10 * MIB, 20)
    with rbd.Image(ioctx, name) as image:
        image.write(b"a" * (10 * MIB), 0)
        with pytest.raises(rbd.InvalidArgument):
            image.resize(MIB, allow_shrink=False)
        image.resize(3 * MIB + 100)
        assert image.size() == 3 * MIB + 100
        image.resize(10 * MIB)
        expected = b"a" * (3 * MIB + 100) + bytes(7 * MIB - 100)
        assert image.read(0, 10 * MIB) == expected
    assert rbd_cli("export", "--no-progress", name, "-") == expected


def test_discard_as_librbd_does_it(ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any], rbd_cli: Run) -> None:
    """The same discards by both leave the same bytes."""
    cases = [(0, 4096), (65536, 65536), (100, 200000), (MIB - 10, 20), (2 * MIB, MIB), (3 * MIB + 5, 5 * MIB)]
    size = 9 * MIB + 777
    for order in (20, 16, 15):
        ours, theirs = f"{name}-{order}-a", f"{name}-{order}-b"
        for n in (ours, theirs):
            rbd.RBD().create(ioctx, n, size, order)
            with rbd.Image(ioctx, n) as image:
                image.write(b"\x55" * size, 0)
        with rbd.Image(ioctx, ours) as image:
            for offset, length in cases:
                image.discard(offset, length)
            image.discard(size - 100, 100)
        librbd(
            f"""
with rbd.Image(ioctx, {theirs!r}) as image:
    for offset, length in {cases!r} + [({size} - 100, 100)]:
        image.discard(offset, length)
result = 0
"""
        )
        try:
            assert sha(rbd_cli("export", "--no-progress", ours, "-")) == sha(
                rbd_cli("export", "--no-progress", theirs, "-")
            ), f"order {order}"
        finally:
            for n in (ours, theirs):
                rbd.RBD().remove(ioctx, n)


def test_write_zeroes_is_exact(image: rbd.Image) -> None:
    image.write(b"\x55" * (3 << 20), 0)
    image.write_zeroes(1000, 2 << 20)
    expected = b"\x55" * 1000 + bytes(2 << 20) + b"\x55" * ((1 << 20) - 1000)
    assert image.read(0, 3 << 20) == expected
    image.write_zeroes(0, 500, rbd.RBD_WRITE_ZEROES_FLAG_THICK_PROVISION)
    assert image.read(0, 1001) == bytes(500) + b"\x55" * 500 + b"\0"


def test_data_of_any_bytes_like_type(image: rbd.Image) -> None:
    import array

    for i, data in enumerate((b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview"), array.array("I", [1, 2]))):
        assert image.write(data, 1000 * i) == memoryview(data).nbytes
        assert image.read(1000 * i, memoryview(data).nbytes) == bytes(data)
    for bad in ("text", 5, None, [1, 2]):
        with pytest.raises(TypeError):
            image.write(bad, 0)
    with pytest.raises(TypeError):
        image.read_into(0, b"readonly")


def test_namespaces_and_a_new_pool(handle: rados.Rados, rbd_cli: Run) -> None:
    """A pool that nobody has prepared is validated once, as librbd does."""
    pool = f"test-pool-{os.getpid()}"
    handle.create_pool(pool)
    try:
        with handle.open_ioctx(pool) as io:
            rbd.RBD().create(io, "a", MIB)
            assert io.read("rbd_info", 100, 0) == b"overwrite validated"
            rbd_cli("namespace", "create", f"{pool}/ns")
            io.set_namespace("ns")
            assert rbd.RBD().list(io) == []
            rbd.RBD().create(io, "b", MIB)
            with rbd.Image(io, "b") as image:
                image.write(b"in a namespace", 0)
            assert rbd_cli("ls", f"{pool}/ns").decode().split() == ["b"]
            assert rbd_cli("export", "--no-progress", f"{pool}/ns/b", "-").startswith(b"in a namespace")
            io.set_namespace("nowhere")
            with pytest.raises(rbd.ImageNotFound):
                rbd.RBD().create(io, "c", MIB)
            io.set_namespace("")
            assert rbd.RBD().list(io) == ["a"]
            assert handle.pool_lookup(pool) == io.get_pool_id()
            # data in another pool
            rbd.RBD().create(io, "d", MIB, data_pool="rbd")
            with rbd.Image(io, "d") as image:
                image.write(b"elsewhere", 5)
                assert image.features() & rbd.RBD_FEATURE_DATA_POOL
            info = json.loads(rbd_cli("info", "--format", "json", f"{pool}/d"))
            assert info["data_pool"] == "rbd"
            assert rbd_cli("export", "--no-progress", f"{pool}/d", "-")[5:14] == b"elsewhere"
            rbd.RBD().remove(io, "d")
    finally:
        handle.delete_pool(pool)
    assert not handle.pool_exists(pool)
    with pytest.raises(rados.ObjectNotFound):
        handle.open_ioctx(pool)


def test_the_example_of_the_documentation(conf: str, name: str) -> None:
    """doc/rbd/api/librbdpy.rst, with bytes for data."""
    import sys

    import pyrbd

    saved = {m: sys.modules.pop(m, None) for m in ("rados", "rbd")}
    try:
        pyrbd.install_as_ceph()
        import rados  # type: ignore[import-not-found]
        import rbd  # type: ignore[import-not-found]

        with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
            rbd_inst = rbd.RBD()
            size = 4 * 1024**3
            rbd_inst.create(ioctx, name, size)
            with rbd.Image(ioctx, name) as image:
                data = b"foo" * 200
                image.write(data, 0)
                assert image.read(0, 600) == data
            rbd_inst.remove(ioctx, name)
    finally:
        for m, module in saved.items():
            sys.modules.pop(m, None)
            if module is not None:
                sys.modules[m] = module
