"""Images that we create are what librbd creates from the same arguments; they are listed, renamed and removed."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from pyrbd import rados, rbd
from pyrbd.image import directory, features, remove, trash
from pyrbd.image.image import Image
from tests import oracle

MIB = 1 << 20
Run = Callable[..., bytes]
T = TypeVar("T")


def run(ioctx: rados.Ioctx, coro: Coroutine[Any, Any, T]) -> T:
    return ioctx.rados.client.run(coro)


def omap(ioctx: rados.Ioctx, oid: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as op:
        values, _ = ioctx.get_omap_vals(op, "", "", 1000)
        ioctx.operate_read_op(op, oid)
        return dict(values)


def facts(ioctx: rados.Ioctx, image_name: str) -> dict[str, Any]:
    """Everything that is stored of an image without data, but for its id and times."""
    image_id = run(ioctx, remove.find_in_directory(ioctx._io, image_name))
    assert image_id is not None
    keys: dict[str, Any] = dict(omap(ioctx, "rbd_header." + image_id))
    keys["object_prefix"] = keys["object_prefix"].replace(image_id.encode(), b"ID")[4:]
    for key in list(keys):
        if key.endswith("timestamp"):
            keys[key] = len(keys[key])
    try:
        keys["object map"] = ioctx.read("rbd_object_map." + image_id, 1 << 20)
    except rados.ObjectNotFound:
        pass
    assert ioctx.read("rbd_id." + image_name)[4:].decode() == image_id
    entries = omap(ioctx, "rbd_directory")
    assert entries["name_" + image_name][4:].decode() == image_id
    assert entries["id_" + image_id][4:].decode() == image_name
    return keys


MASKS = [0, 1, 4, 5, 8 | 4, 13, 61, 61 | 2 | 128 | 256 | 1024, 32, 16 | 1, 4 | 16]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("size", [0, 1, 20 * MIB + 1, 1 << 40])
def test_the_same_header_and_object_map(
    ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any], mask: int, size: int
) -> None:
    theirs = name + "-theirs"
    run(ioctx, directory.create(ioctx._io, name, size, features_wanted=mask))
    librbd(f"result = rbd.RBD().create(ioctx, {theirs!r}, {size}, old_format=False, features={mask})")
    try:
        assert facts(ioctx, name) == facts(ioctx, theirs)
    finally:
        for n in (name, theirs):
            run(ioctx, directory.remove(ioctx._io, n))


ARGUMENTS: dict[str, list[Any]] = {
    "size": [0, 1, MIB, 20 * MIB + 5, 1 << 41, 1 << 60, (1 << 63) - 1],
    "order": [None, None, 0, 12, 16, 22, 25, 11, 26, 40, 64, 255],
    "features": [None, 0, 1, 5, 8, 13, 16, 61, 32, 2, 3, 128, 256, 512, 1024, 2048, 64, 1 << 12, (1 << 63) | 1, 45],
    "stripe_unit": [None, None, 0, 1, 512, 4096, 5000, 65536, 1 << 22, 1 << 23],
    "stripe_count": [None, None, 0, 1, 2, 16],
    "data_pool": [None, None, None, "", "rbd", "test-data", "no-such-pool"],
}


def outcomes(module: Any, ioctx: Any, calls: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """What each creation gives. Run by us and by librbd."""
    results: list[Any] = []
    for image_name, kwargs in calls:
        try:
            module.RBD().create(ioctx, image_name, old_format=False, **kwargs)
        except Exception as e:
            results.append([type(e).__name__, getattr(e, "errno", None)])
            continue
        with module.Image(ioctx, image_name, read_only=True) as image:
            results.append(
                [image.stat()["order"], image.size(), image.features(), image.stripe_unit(), image.stripe_count()]
            )
    return results


@pytest.fixture
def data_pool(handle: rados.Rados) -> str:
    if not handle.pool_exists("test-data"):
        handle.create_pool("test-data")
    return "test-data"


@pytest.mark.parametrize("seed", range(4))
def test_random_arguments_do_as_in_librbd(
    ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any], data_pool: str, seed: int
) -> None:
    """The same result, or the same exception and errno; and nothing is left after an error."""
    import inspect

    rng = random.Random(seed)
    calls = []
    for i in range(40):
        kwargs = {k: v for k, options in ARGUMENTS.items() if (v := rng.choice(options)) is not None}
        if kwargs.get("features") is None:
            kwargs["features"] = 1
        if rng.random() < 0.6:  # most of them otherwise fail of these
            kwargs.pop("stripe_unit", None)
            kwargs.pop("stripe_count", None)
        calls.append((f"{name}-{i}", {"size": 0, **kwargs}))
    theirs = librbd(f"{inspect.getsource(outcomes).replace('Any', 'object')}\nresult = outcomes(rbd, ioctx, {calls!r})")
    for image_name, _ in calls:
        if image_name in rbd.RBD().list(ioctx):
            rbd.RBD().remove(ioctx, image_name)
    before = sorted(o.key for o in ioctx.list_objects())
    ours = outcomes(rbd, ioctx, calls)
    for image_name, _ in calls:
        if image_name in rbd.RBD().list(ioctx):
            rbd.RBD().remove(ioctx, image_name)
    assert sorted(o.key for o in ioctx.list_objects()) == before
    for (_, kwargs), one, other in zip(calls, ours, theirs):
        assert one == other, f"seed {seed}: {kwargs}"
    assert sum(len(o) > 2 for o in ours) >= 5


def test_defaults_come_from_the_options_and_the_pool(conf: str, name: str, rbd_cli: Run) -> None:
    options = {"rbd_default_order": "20", "rbd_default_features": "layering,deep-flatten"}
    with rados.Rados(conffile=conf, conf=options) as cluster, cluster.open_ioctx("rbd") as io:
        run(io, directory.create(io._io, name, MIB))
        info = json.loads(rbd_cli("info", "--format", "json", name))
        assert (info["order"], info["features"]) == (20, ["layering", "deep-flatten"])
        run(io, directory.remove(io._io, name))
        rbd_cli("config", "pool", "set", "rbd", "rbd_default_order", "16")
        rbd_cli("config", "pool", "set", "rbd", "rbd_default_features", "1")
        try:
            run(io, directory.create(io._io, name, MIB))
            info = json.loads(rbd_cli("info", "--format", "json", name))
            assert (info["order"], info["features"]) == (16, ["layering"])
        finally:
            rbd_cli("config", "pool", "rm", "rbd", "rbd_default_order")
            rbd_cli("config", "pool", "rm", "rbd", "rbd_default_features")
        run(io, directory.remove(io._io, name))
        cluster.conf_set("rbd_default_features", "125")
        with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
            run(io, directory.create(io._io, name, MIB))


def test_the_object_map_is_consistent_with_what_is_written(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run(ioctx, directory.create(ioctx._io, name, 100 * MIB, 20, 61))
    rbd_cli("bench", "--io-type", "write", "--io-total", "8M", "--io-size", "64K", name)
    rbd_cli("object-map", "check", "--no-progress", name)
    assert json.loads(rbd_cli("info", "--format", "json", name))["flags"] == []
    used = json.loads(rbd_cli("du", "--format", "json", name))["images"][0]["used_size"]
    assert 8 * MIB <= used < 100 * MIB
    run(ioctx, directory.remove(ioctx._io, name))


def test_an_erasure_coded_data_pool(bluestore: str, name: str) -> None:
    def tool(program: str, *args: str) -> bytes:
        return subprocess.run(oracle.argv(bluestore, program, *args), check=True, capture_output=True).stdout

    pool = "ec-data"
    tool("ceph", "osd", "erasure-code-profile", "set", "ec-dir", "k=2", "m=1", "crush-failure-domain=osd")
    tool("ceph", "osd", "pool", "create", pool, "8", "8", "erasure", "ec-dir")
    with rados.Rados(conffile=bluestore) as cluster, cluster.open_ioctx("rbd") as ioctx:
        with pytest.raises(rbd.InvalidArgument):  # no overwrites
            run(ioctx, directory.create(ioctx._io, name, 8 * MIB, 20, 61, data_pool=pool))
        assert name not in run(ioctx, directory.list_images(ioctx._io))
        tool("ceph", "osd", "pool", "set", pool, "allow_ec_overwrites", "true")
        run(ioctx, directory.create(ioctx._io, name, 8 * MIB, 20, 61, data_pool=pool))
        assert json.loads(tool("rbd", "info", "--format", "json", name))["data_pool"] == pool
        tool("rbd", "bench", "--io-type", "write", "--io-total", "1M", "--io-size", "64K", name)
        with rbd.Image(ioctx, name) as image, cluster.open_ioctx(pool) as io:
            # the class method that looks for zeroes does not work in such pools
            image.write(bytes(8 * MIB), 0)
            image.write(b"data", 2 * MIB + 100_000)
            image.sparsify(65536)
            prefix = image.block_name_prefix()
            sizes = {o.key[len(prefix) :]: io.stat(o.key)[0] for o in io.list_objects() if o.key.startswith(prefix)}
            assert sizes == {".0000000000000002": 131072}
            assert image.read(2 * MIB, MIB) == bytes(100_000) + b"data" + bytes(MIB - 100_004)
        assert "flags: \n" in tool("rbd", "info", name).decode()
        tool("rbd", "object-map", "check", "--no-progress", name)
        run(ioctx, directory.remove(ioctx._io, name))
        with cluster.open_ioctx(pool) as io:
            assert [o.key for o in io.list_objects()] == ["rbd_info"]


# ---------------------------------------------------------------- renaming and removing


def test_rename_of_what_others_have_open(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run(ioctx, directory.create(ioctx._io, name, MIB, features_wanted=61))
    new = name + "-new"
    with rbd.Image(ioctx, name) as image:
        run(ioctx, directory.rename(ioctx._io, name, new))
        assert image.read(0, 10) == bytes(10)
    try:
        assert json.loads(rbd_cli("info", "--format", "json", new))["name"] == new
        with pytest.raises(rbd.ImageExists):
            run(ioctx, directory.rename(ioctx._io, new, new))
        with pytest.raises(rbd.ImageNotFound):
            run(ioctx, directory.rename(ioctx._io, name, new))
        run(ioctx, directory.create(ioctx._io, name, MIB))
        with pytest.raises(rbd.ImageExists):
            run(ioctx, directory.rename(ioctx._io, name, new))
        assert {name, new} <= set(run(ioctx, directory.list_images(ioctx._io)))
    finally:
        run(ioctx, directory.remove(ioctx._io, new))


def existing(ioctx: rados.Ioctx, image_id: str) -> list[str]:
    return sorted(o.key for o in ioctx.list_objects() if image_id in o.key)


def test_an_interrupted_removal_is_finished_by_either(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """Cancelled in the middle, the image is in the trash, is listed, and goes at the next attempt."""
    for finish in ("ours", "theirs"):
        image_id = run(ioctx, directory.create(ioctx._io, name, 20 * MIB, 16, features_wanted=61))
        rbd_cli("bench", "--io-type", "write", "--io-total", "20M", "--io-size", "64K", name)
        with pytest.raises(rbd.OperationCanceled):
            run(ioctx, directory.remove(ioctx._io, name, lambda done, total: -1 if done > total // 2 else 0))
        assert existing(ioctx, image_id) != []
        assert run(ioctx, directory.list_images(ioctx._io))[name] == image_id
        assert name in rbd_cli("ls").decode().split()
        with pytest.raises(rbd.ImageNotFound):
            rbd.Image(ioctx, name)
        if finish == "ours":
            run(ioctx, directory.remove(ioctx._io, name))
        else:
            rbd_cli("rm", "--no-progress", name)
        assert name not in run(ioctx, directory.list_images(ioctx._io))
        assert existing(ioctx, image_id) == []


def test_a_removal_that_librbd_began_is_finished(ioctx: rados.Ioctx, name: str, librbd: Callable[[str], Any]) -> None:
    image_id = run(ioctx, directory.create(ioctx._io, name, 20 * MIB, 16, features_wanted=61))
    outcome = librbd(
        f"""
with rbd.Image(ioctx, {name!r}) as image:
    image.write(b"x" * (20 << 20), 0)
try:
    rbd.RBD().remove(ioctx, {name!r}, on_progress=lambda done, total: -125 if done > total // 2 else 0)
    result = "removed"
except rbd.OperationCanceled:
    result = "canceled"
"""
    )
    assert outcome == "canceled"
    assert run(ioctx, directory.list_images(ioctx._io))[name] == image_id
    run(ioctx, directory.remove(ioctx._io, name))
    assert existing(ioctx, image_id) == []
    assert all(e.id != image_id for e in run(ioctx, trash.entries(ioctx._io)))


def test_removal_touches_only_objects_of_the_object_map(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """An image of 1 TiB with three objects: three removals."""
    image_id = run(ioctx, directory.create(ioctx._io, name, 1 << 40, 22, features_wanted=61))
    rbd_cli("bench", "--io-type", "write", "--io-total", "12M", "--io-size", "4M", name)
    seen: list[tuple[int, int]] = []
    run(ioctx, directory.remove(ioctx._io, name, lambda done, total: seen.append((done, total))))
    assert seen[-1] == (3, 3)
    assert existing(ioctx, image_id) == []


def test_what_must_not_be_removed_stays(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    run(ioctx, directory.create(ioctx._io, name, MIB, features_wanted=61))
    with rbd.Image(ioctx, name), pytest.raises(rbd.ImageBusy):
        run(ioctx, directory.remove(ioctx._io, name))
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    with pytest.raises(rbd.ImageHasSnapshots):
        run(ioctx, directory.remove(ioctx._io, name))
    rbd_cli("snap", "rm", "--no-progress", f"{name}@s")
    rbd_cli("group", "create", f"{name}-group")
    rbd_cli("group", "image", "add", f"{name}-group", name)
    with pytest.raises(rbd.ImageMemberOfGroup):
        run(ioctx, directory.remove(ioctx._io, name))
    rbd_cli("group", "rm", f"{name}-group")
    assert json.loads(rbd_cli("info", "--format", "json", name))["name"] == name
    run(ioctx, directory.remove(ioctx._io, name))
    with pytest.raises(rbd.ImageNotFound):
        run(ioctx, directory.remove(ioctx._io, name))


@pytest.mark.parametrize("lost", ["rbd_id.{name}", "rbd_header.{id}", "rbd_object_map.{id}"])
def test_an_image_of_which_something_is_missing_is_removed(ioctx: rados.Ioctx, name: str, lost: str) -> None:
    image_id = run(ioctx, directory.create(ioctx._io, name, MIB, features_wanted=61))
    ioctx.remove_object(lost.format(name=name, id=image_id))
    run(ioctx, directory.remove(ioctx._io, name))
    assert name not in run(ioctx, directory.list_images(ioctx._io))
    assert existing(ioctx, image_id) == []
    assert not [o.key for o in ioctx.list_objects() if o.key == "rbd_id." + name]


def test_removal_into_the_trash(conf: str, name: str, rbd_cli: Run) -> None:
    options = {"rbd_move_to_trash_on_remove": "true", "rbd_move_to_trash_on_remove_expire_seconds": "1000"}
    with rados.Rados(conffile=conf, conf=options) as cluster, cluster.open_ioctx("rbd") as io:
        image_id = run(io, directory.create(io._io, name, MIB, features_wanted=1))
        run(io, directory.remove(io._io, name))
        assert name not in rbd_cli("ls").decode().split()
        entry = next(e for e in json.loads(rbd_cli("trash", "ls", "--all", "--format", "json")) if e["name"] == name)
        assert entry["id"] == image_id
        rbd_cli("trash", "rm", "--no-progress", "--force", image_id)


def test_a_journal_is_refused_by_name(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd_cli("create", "--size", "8M", "--image-feature", "layering,exclusive-lock,journaling", name)
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    from pyrbd.image import clone

    with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
        run(ioctx, directory.rename(ioctx._io, name, name + "-x"))
    with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
        run(ioctx, clone.clone(ioctx._io, name, "s", ioctx._io, name + "-x"))
    run(ioctx, clone.clone(ioctx._io, name, "s", ioctx._io, name + "-x", features.LAYERING))
    run(ioctx, directory.remove(ioctx._io, name + "-x"))
    rbd_cli("snap", "unprotect", f"{name}@s")
    rbd_cli("snap", "rm", "--no-progress", f"{name}@s")
    with pytest.raises(rbd.FunctionNotSupported, match="journaling"):
        run(ioctx, directory.remove(ioctx._io, name))
    rbd_cli("rm", "--no-progress", name)


def test_an_image_removed_while_we_have_it(ioctx: rados.Ioctx, name: str) -> None:
    """Renaming what somebody removes meanwhile says so, and leaves no new name."""
    run(ioctx, directory.create(ioctx._io, name, MIB, features_wanted=1))
    image = run(ioctx, Image.open(ioctx._io, name))
    ioctx.remove_object("rbd_id." + name)
    with pytest.raises(rbd.ImageNotFound):
        run(ioctx, directory.rename_open(image, name + "-new"))
    run(ioctx, image.close())
    assert not [o.key for o in ioctx.list_objects() if o.key == f"rbd_id.{name}-new"]
    run(ioctx, directory.remove(ioctx._io, name))


def test_the_owner_of_the_lock_renames(ioctx: rados.Ioctx, conf: str, name: str) -> None:
    """librbd has the image open and writes to it: it is asked, and knows the new name afterwards."""
    run(ioctx, directory.create(ioctx._io, name, MIB, features_wanted=61))
    code = f"""
import sys, rados, rbd
cluster = rados.Rados(conffile={conf!r}); cluster.connect()
ioctx = cluster.open_ioctx("rbd")
image = rbd.Image(ioctx, {name!r})
image.write(b"x", 0)
print("owner" if image.is_exclusive_lock_owner() else "not", flush=True)
sys.stdin.readline()
print(image.get_name(), "owner" if image.is_exclusive_lock_owner() else "not", flush=True)
image.close()
"""
    with subprocess.Popen(
        oracle.argv(conf, "python3", "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:
        assert p.stdin is not None and p.stdout is not None
        assert p.stdout.readline() == "owner\n"
        run(ioctx, directory.rename(ioctx._io, name, name + "-new"))
        p.stdin.write("\n")
        p.stdin.flush()
        assert p.stdout.readline() == f"{name}-new owner\n"
    run(ioctx, directory.rename(ioctx._io, name + "-new", name))


def test_we_rename_for_others(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """We have the lock: `rbd mv` asks us."""
    run(ioctx, directory.create(ioctx._io, name, MIB, features_wanted=61))
    with rbd.Image(ioctx, name) as image:
        image.write(b"x", 0)
        rbd_cli("mv", name, name + "-new")
        assert image.is_exclusive_lock_owner()
        assert image.get_name() == name + "-new"
    run(ioctx, directory.rename(ioctx._io, name + "-new", name))
