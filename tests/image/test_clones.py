"""Clones that we make are what librbd makes; children are found; what goes is taken out of its parent."""

from __future__ import annotations

import inspect
import json
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from pyrbd import rados, rbd
from pyrbd.image import children, clone, directory, metadata, remove, trash
from pyrbd.image.image import Image

MIB = 1 << 20
Run = Callable[..., bytes]
T = TypeVar("T")


def run(ioctx: rados.Ioctx, coro: Coroutine[Any, Any, T]) -> T:
    return ioctx.rados.client.run(coro)


def omap(ioctx: rados.Ioctx, oid: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as op:
        values, _ = ioctx.get_omap_vals(
            op, "", "", 1000, omap_key_type=lambda key: key.decode("latin-1")
        )  # ids are binary
        ioctx.operate_read_op(op, oid)
        return dict(values)


def image_id_of(ioctx: rados.Ioctx, name: str) -> str:
    found = run(ioctx, remove.find_in_directory(ioctx._io, name))
    assert found is not None
    return found


def header_of(ioctx: rados.Ioctx, name: str) -> dict[str, Any]:
    """A header's omap, but for the id and times."""
    image_id = image_id_of(ioctx, name)
    keys: dict[str, Any] = dict(omap(ioctx, "rbd_header." + image_id))
    keys["object_prefix"] = keys["object_prefix"].replace(image_id.encode(), b"ID")[4:]
    for key in keys:
        if key.endswith("timestamp"):
            keys[key] = len(keys[key])
    return keys


@pytest.fixture
def other(handle: rados.Rados, rbd_cli: Run) -> Iterator[rados.Ioctx]:
    """Another pool, with a namespace "ns"."""
    pool = f"test-other-{os.getpid()}"
    if not handle.pool_exists(pool):
        handle.create_pool(pool)
        rbd_cli("namespace", "create", f"{pool}/ns")
    with handle.open_ioctx(pool) as opened:
        yield opened


@pytest.fixture
def parent(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> Iterator[str]:
    """An image of librbd with the default features, with a protected snapshot "s" and one that is not, "t", with
    metadata, and with data."""
    rbd_cli("create", "--size", "9M", "--object-size", "1M", name)
    rbd_cli("image-meta", "set", name, "key", "value")
    rbd_cli("image-meta", "set", name, "conf_rbd_cache", "false")
    rbd_cli("bench", "--io-type", "write", "--io-total", "3M", "--io-size", "1M", name)
    for snap in ("s", "t"):
        rbd_cli("snap", "create", "--no-progress", f"{name}@{snap}")
    rbd_cli("snap", "protect", f"{name}@s")
    yield name
    rbd_cli("snap", "unprotect", f"{name}@s", check=False)
    rbd_cli("snap", "purge", "--no-progress", name, check=False)
    rbd_cli("rm", "--no-progress", name, check=False)


@pytest.mark.parametrize("format", [1, 2])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"features": 61},
        {"features": 1},
        {"features": 61, "order": 16, "stripe_unit": 1 << 16, "stripe_count": 1},
        {"features": 33, "order": 22, "stripe_unit": 1 << 20, "stripe_count": 3},
        {"features": 5, "order": 24},
    ],
)
def test_the_same_headers(
    ioctx: rados.Ioctx,
    parent: str,
    librbd: Callable[[str], Any],
    rbd_cli: Run,
    format: int,
    kwargs: dict[str, int],
) -> None:
    """The child's header, the parent's, and rbd_children."""
    ours, theirs = parent + "-ours", parent + "-theirs"
    before = header_of(ioctx, parent)
    data = rbd_cli("export", "--no-progress", f"{parent}@s", "-")

    def state(child: str) -> list[Any]:
        """All that is stored of a relation, with the child's id replaced."""
        image_id = image_id_of(ioctx, child).encode()
        stored = [header_of(ioctx, parent), omap(ioctx, "rbd_children") if format == 1 else {}]
        # ids have 12 or 13 characters, and their length is encoded before them
        known = [{k: v.replace(image_id, b"ID") if isinstance(v, bytes) else v for k, v in s.items()} for s in stored]
        for values in known:
            for key, value in values.items():
                if isinstance(value, bytes) and b"ID" in value:
                    values[key] = value.split(b"ID")[1:]
        return [header_of(ioctx, child), *known]

    arguments = {("features_wanted" if k == "features" else k): v for k, v in kwargs.items()}
    run(ioctx, clone.clone(ioctx._io, parent, "s", ioctx._io, ours, format=format, **arguments))
    our_state = state(ours)
    info = json.loads(rbd_cli("info", "--format", "json", ours))
    assert (info["parent"]["image"], info["parent"]["snapshot"]) == (parent, "s")
    assert ("operations" in info["features"]) == (format == 2)
    if kwargs["features"] & rbd.RBD_FEATURE_OBJECT_MAP:
        rbd_cli("object-map", "check", "--no-progress", ours)
    assert rbd_cli("export", "--no-progress", ours, "-") == data
    assert rbd_cli("children", f"{parent}@s").decode().split() == [f"rbd/{ours}"]
    rbd_cli("rm", "--no-progress", ours)

    # the binding of 16.2 has no argument for the format
    librbd(
        f"cluster.conf_set('rbd_default_clone_format', '{format}')\n"
        f"result = rbd.RBD().clone(ioctx, {parent!r}, 's', ioctx, {theirs!r}, **{kwargs!r})"
    )
    assert our_state == state(theirs)
    assert json.loads(rbd_cli("image-meta", "list", "--format", "json", theirs)) == {
        "key": "value",
        "conf_rbd_cache": "false",
    }
    run(ioctx, directory.remove(ioctx._io, theirs))
    assert header_of(ioctx, parent) == before
    assert rbd_cli("children", f"{parent}@s") == b""


def outcomes(rbd: Any, cluster: Any, ioctx: Any, calls: list[tuple[str, list[Any], dict[str, Any]]]) -> list[Any]:
    """What each clone() gives. Run by us and by librbd."""
    results: list[Any] = []
    for format, args, kwargs in calls:
        cluster.conf_set("rbd_default_clone_format", format)
        try:
            clone_of(rbd, ioctx, args, kwargs)
        except Exception as e:
            results.append([type(e).__name__, getattr(e, "errno", None)])
            continue
        with rbd.Image(ioctx, args[2], read_only=True) as image:
            results.append(
                [image.stat()["order"], image.size(), image.features(), image.stripe_unit(), image.stripe_count()]
            )
    return results


_THEIRS = "def clone_of(rbd, ioctx, a, kwargs): rbd.RBD().clone(ioctx, a[0], a[1], ioctx, a[2], **kwargs)\n"


def clone_of(rbd: Any, ioctx: rados.Ioctx, a: list[Any], kwargs: dict[str, Any]) -> None:
    arguments = {("features_wanted" if k == "features" else k): v for k, v in kwargs.items()}
    run(ioctx, clone.clone(ioctx._io, a[0], a[1], ioctx._io, a[2], **arguments))


@pytest.mark.parametrize("seed", range(3))
def test_random_arguments_do_as_in_librbd(
    conf: str, ioctx: rados.Ioctx, parent: str, rbd_cli: Run, librbd: Callable[[str], Any], seed: int
) -> None:
    """The same result, or the same exception and errno; and nothing is left after an error."""
    rbd_cli("create", "--size", "0", parent + "-empty")
    rbd_cli("create", "--size", "8M", "--image-feature", "exclusive-lock", parent + "-flat")
    for n in ("-empty", "-flat"):
        rbd_cli("snap", "create", "--no-progress", f"{parent}{n}@t")
    rng = random.Random(seed)
    arguments: dict[str, list[Any]] = {
        "features": [None, None, 0, 1, 5, 9, 13, 61, 60, 3, 257, 1 << 12],
        "order": [None, None, 0, 12, 16, 20, 25, 11, 26],
        "stripe_unit": [None, None, None, 0, 512, 5000, 65536, 1 << 20],
        "stripe_count": [None, None, None, 0, 1, 3],
        "data_pool": [None, None, None, "rbd", "no-such-pool"],
    }
    sources = [(parent, "s")] * 6 + [(parent, "t")] * 2 + [(parent + n, "t") for n in ("-empty", "-flat")]
    sources += [(parent, "no-such-snap"), ("no-such-image", "s")]
    calls = []
    for i in range(40):
        source, snap = rng.choice(sources)
        kwargs = {k: v for k, options in arguments.items() if (v := rng.choice(options)) is not None}
        if rng.random() < 0.6:  # most of them otherwise fail of these
            kwargs.pop("stripe_unit", None)
            kwargs.pop("stripe_count", None)
        child = parent if rng.random() < 0.05 else f"{parent}-c{i}"
        calls.append((rng.choice(["1", "2", "auto"]), [source, snap, child], kwargs))
    code = inspect.getsource(outcomes).replace("Any", "object")
    # the binding of 16.2 takes its own features for those of the parent when none are given
    theirs_calls = [
        (f, a, {**({"features": 61} if a[0] != parent + "-flat" else {"features": 4}), **k}) for f, a, k in calls
    ]
    try:
        theirs = librbd(f"{_THEIRS}{code}\nresult = outcomes(rbd, cluster, ioctx, {theirs_calls!r})")
        _remove(ioctx, [c[1][2] for c in calls if c[1][2] != parent])
        before = sorted(o.key for o in ioctx.list_objects())
        with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as own:
            ours = outcomes(rbd, cluster, own, calls)
        _remove(ioctx, [c[1][2] for c in calls if c[1][2] != parent])
        assert sorted(o.key for o in ioctx.list_objects()) == before
        for call, one, other in zip(calls, ours, theirs):
            assert one == other, f"seed {seed}: {call}"
        assert sum(len(o) > 2 for o in ours) >= 3
        for snap in ("s", "t"):
            assert rbd_cli("children", f"{parent}@{snap}") == b""
    finally:
        for n in ("-empty", "-flat"):
            rbd_cli("snap", "purge", "--no-progress", parent + n)
            rbd_cli("rm", "--no-progress", parent + n)


def _remove(ioctx: rados.Ioctx, names: list[str]) -> None:
    there = run(ioctx, directory.list_images(ioctx._io))
    for n in names:
        if n in there:
            run(ioctx, directory.remove(ioctx._io, n))


def test_across_pools_and_namespaces(ioctx: rados.Ioctx, other: rados.Ioctx, parent: str, rbd_cli: Run) -> None:
    pool, io = other.name, ioctx._io
    there, inside = other._io, other._io.with_namespace("ns")
    data = rbd_cli("export", "--no-progress", f"{parent}@s", "-")
    run(ioctx, clone.clone(io, parent, "s", there, "c1", format=1))
    run(ioctx, clone.clone(io, parent, "s", there, "c2", format=2))
    run(ioctx, clone.clone(io, parent, "t", inside, "c3", format=2, data_pool="rbd"))
    with pytest.raises(rbd.OSError) as e:
        run(ioctx, clone.clone(io, parent, "s", inside, "c4", format=1))
    assert e.value.errno == 18  # EXDEV
    with pytest.raises(rbd.ImageNotFound):
        run(ioctx, clone.clone(io, parent, "s", there.with_namespace("nowhere"), "c4", format=2))
    rbd_cli("snap", "create", "--no-progress", f"{pool}/ns/c3@x")
    run(ioctx, clone.clone(inside, "c3", "x", io, parent + "-c5", format=2))  # and back again
    for spec in (f"{pool}/c1", f"{pool}/c2", f"{pool}/ns/c3", parent + "-c5"):
        assert rbd_cli("export", "--no-progress", spec, "-") == data, spec

    def ours(image_name: str, descendants: bool, snapshot: str | None = None) -> list[tuple[str, str, str, bool]]:
        image = run(ioctx, Image.open(io, image_name, snapshot=snapshot, read_only=True))
        found = run(ioctx, children.list_children(image, descendants))
        run(ioctx, image.close())
        return [(c.pool, c.pool_namespace, c.image, c.trash) for c in found]

    def theirs(*args: str) -> list[tuple[str, str, str, bool]]:
        listed = json.loads(rbd_cli("children", "--all", "--format", "json", *args))
        return [(c["pool"], c["pool_namespace"], c["image"], c.get("trash", False)) for c in listed]

    assert ours(parent, False) == theirs(parent) != []
    assert ours(parent, True) == theirs("--descendants", parent)
    assert len(ours(parent, True)) == 4
    assert ours(parent, False, "s") == theirs(f"{parent}@s") == [(pool, "", "c1", False), (pool, "", "c2", False)]
    rbd_cli("trash", "mv", f"{pool}/c2")
    assert ours(parent, False) == theirs(parent)
    assert (pool, "", "c2", True) in ours(parent, False)
    entry = run(ioctx, trash.entries(there))[0]
    run(ioctx, trash.remove(there, entry.id))
    run(ioctx, directory.remove(io, parent + "-c5"))
    rbd_cli("snap", "rm", "--no-progress", f"{pool}/ns/c3@x")
    run(ioctx, directory.remove(inside, "c3"))
    assert ours(parent, True) == theirs("--descendants", parent) == [(pool, "", "c1", False)]
    run(ioctx, directory.remove(there, "c1"))
    assert ours(parent, True) == []


def test_a_clone_by_the_id_of_its_snapshot_is_flattened_by_rbd(ioctx: rados.Ioctx, parent: str, rbd_cli: Run) -> None:
    image = run(ioctx, Image.open(ioctx._io, parent, read_only=True))
    snap_id = image.find_snapshot("t").id
    run(ioctx, image.close())
    child = parent + "-c"
    for kwargs in ({"p_name": parent}, {"p_name": None, "p_id": image.id}):
        run(ioctx, clone.clone(ioctx._io, p_snapshot=snap_id, c_io=ioctx._io, c_name=child, format=2, **kwargs))
        assert rbd_cli("children", f"{parent}@t").decode().split() == [f"rbd/{child}"]
        rbd_cli("flatten", "--no-progress", child)
        assert rbd_cli("children", f"{parent}@t") == b""
        assert "parent" not in json.loads(rbd_cli("info", "--format", "json", child))
        rbd_cli("object-map", "check", "--no-progress", child)
        run(ioctx, directory.remove(ioctx._io, child))


def test_default_format_follows_the_oldest_clients(
    ioctx: rados.Ioctx, handle: rados.Rados, parent: str, rbd_cli: Run
) -> None:
    """`auto`: clones of format 2 are made where all clients are of mimic or newer."""
    wanted = 2 if handle.client.osdmap.min_compat_client >= 13 else 1
    run(ioctx, clone.clone(ioctx._io, parent, "s", ioctx._io, parent + "-c"))
    info = json.loads(rbd_cli("info", "--format", "json", parent + "-c"))
    assert ("operations" in info["features"]) == (wanted == 2)
    rbd_cli("clone", f"{parent}@s", parent + "-d")
    theirs = json.loads(rbd_cli("info", "--format", "json", parent + "-d"))
    assert theirs["features"] == info["features"]
    _remove(ioctx, [parent + "-c", parent + "-d"])


def test_an_unprotected_snapshot_and_a_name_of_format_1(ioctx: rados.Ioctx, parent: str) -> None:
    io, child = ioctx._io, parent + "-c"
    with pytest.raises(rbd.InvalidArgument):
        run(ioctx, clone.clone(io, parent, "t", io, child, format=1))
    with pytest.raises(rbd.InvalidArgument):
        run(ioctx, clone.clone(io, parent, "t", io, child, format=3))
    run(ioctx, directory.create(io, child, MIB, old_format=True))
    with pytest.raises(rbd.ImageExists):
        run(ioctx, clone.clone(io, parent, "s", io, child))
    run(ioctx, directory.remove(io, child))


@pytest.mark.parametrize("format", [1, 2])
def test_a_clone_that_fails_leaves_nothing(
    ioctx: rados.Ioctx, parent: str, monkeypatch: pytest.MonkeyPatch, format: int
) -> None:
    """Whatever step it is: neither objects, nor entries, nor a child of the parent."""
    objects = sorted(o.key for o in ioctx.list_objects())
    directory_before, header_before = omap(ioctx, "rbd_directory"), header_of(ioctx, parent)

    class Stop(Exception):
        pass

    async def stop(*_: object, **__: object) -> None:
        raise Stop

    for place, what in ((clone, "attach_parent"), (clone, "attach_child"), (metadata, "list_")):
        with monkeypatch.context() as patch:
            patch.setattr(place, what, stop)
            with pytest.raises(Stop):
                run(ioctx, clone.clone(ioctx._io, parent, "s", ioctx._io, parent + "-c", format=format))
        assert sorted(o.key for o in ioctx.list_objects() if o.key != "rbd_children") == [
            o for o in objects if o != "rbd_children"
        ]
        assert omap(ioctx, "rbd_directory") == directory_before
        assert header_of(ioctx, parent) == header_before
    image = run(ioctx, Image.open(ioctx._io, parent, read_only=True))
    assert run(ioctx, children.list_children(image)) == []
    run(ioctx, image.close())


def test_detaching_and_attaching_again(ioctx: rados.Ioctx, parent: str, rbd_cli: Run) -> None:
    """What flattening does, and what moves a child to another parent."""
    io = ioctx._io
    for format in (1, 2):
        child_name = f"{parent}-c{format}"
        run(ioctx, clone.clone(io, parent, "s", io, child_name, format=format))
        child = run(ioctx, Image.open(io, child_name))
        run(ioctx, clone.detach_child(child))
        assert rbd_cli("children", f"{parent}@s") == b""
        run(ioctx, clone.detach_child(child))  # again: nothing
        source = run(ioctx, Image.open(io, parent, snapshot="s", read_only=True))
        run(ioctx, clone.attach_child(child, source, source.snap_id, format))
        assert rbd_cli("children", f"{parent}@s").decode().split() == [f"rbd/{child_name}"]
        run(ioctx, clone.attach_child(child, source, source.snap_id, format, old_parent=(source, 12345)))
        run(ioctx, clone.detach_child(child))
        run(ioctx, clone.detach_parent(child))
        run(ioctx, clone.detach_parent(child))
        run(ioctx, child.refresh())
        assert child.header.parent is None
        spec = clone.ParentSpec(source.io.pool_id, "", source.id, source.snap_id)
        run(ioctx, clone.attach_parent(child, spec, 3 * MIB))
        with pytest.raises(rbd.ImageExists):
            run(ioctx, clone.attach_parent(child, spec, 4 * MIB))
        run(ioctx, child.refresh())
        assert child.overlap == 3 * MIB
        run(ioctx, source.close())
        run(ioctx, child.close())
        run(ioctx, directory.remove(io, child_name))


def test_a_snapshot_in_the_trash_goes_with_its_last_child(ioctx: rados.Ioctx, parent: str, rbd_cli: Run) -> None:
    io = ioctx._io
    for child in ("-c1", "-c2"):
        run(ioctx, clone.clone(io, parent, "t", io, parent + child, format=2))
    rbd_cli("snap", "rm", "--no-progress", f"{parent}@t")
    kinds = [s["namespace"]["type"] for s in json.loads(rbd_cli("snap", "ls", "--all", "--format", "json", parent))]
    assert kinds == ["user", "trash"]
    run(ioctx, directory.remove(io, parent + "-c1"))
    assert len(json.loads(rbd_cli("snap", "ls", "--all", "--format", "json", parent))) == 2
    run(ioctx, directory.remove(io, parent + "-c2"))
    assert len(json.loads(rbd_cli("snap", "ls", "--all", "--format", "json", parent))) == 1
    assert json.loads(rbd_cli("info", "--format", "json", parent))["op_features"] == []
    rbd_cli("object-map", "check", "--no-progress", parent)


def test_a_parent_in_the_trash_goes_with_its_last_child(conf: str, parent: str, rbd_cli: Run) -> None:
    """Its snapshots are in the trash: without the option it stays, with it it is gone when nobody needs it."""
    with rados.Rados(conffile=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
        io = ioctx._io
        parent_id = image_id_of(ioctx, parent)
        run(ioctx, clone.clone(io, parent, "t", io, parent + "-c", format=2))
        rbd_cli("snap", "unprotect", f"{parent}@s")
        rbd_cli("snap", "purge", "--no-progress", parent)
        with pytest.raises(rbd.ImageHasSnapshots):
            run(ioctx, directory.remove(io, parent))
        assert parent in run(ioctx, directory.list_images(io))
        cluster.conf_set("rbd_move_parent_to_trash_on_remove", "true")
        run(ioctx, directory.remove(io, parent))
        assert parent not in run(ioctx, directory.list_images(io))
        assert run(ioctx, trash.get(io, parent_id)).source == trash.TRASH_IMAGE_SOURCE_USER_PARENT
        image = run(ioctx, Image.open(io, parent + "-c", read_only=True))
        assert image.parent is not None and image.parent.id == parent_id
        run(ioctx, image.close())
        run(ioctx, directory.remove(io, parent + "-c"))
        assert not [o.key for o in ioctx.list_objects() if parent_id in o.key]
        assert all(e.id != parent_id for e in run(ioctx, trash.entries(io)))


def test_an_image_with_only_a_trashed_snapshot_is_removed(ioctx: rados.Ioctx, parent: str, rbd_cli: Run) -> None:
    """A child that went without taking its snapshot with it (an older client) does not keep the parent."""
    io = ioctx._io
    run(ioctx, clone.clone(io, parent, "t", io, parent + "-c", format=2))
    rbd_cli("snap", "unprotect", f"{parent}@s")
    rbd_cli("snap", "purge", "--no-progress", parent)
    child = run(ioctx, Image.open(io, parent + "-c"))
    spec = child.header.parent
    assert spec is not None
    run(ioctx, io.operate("rbd_header." + spec.image_id, clone._child_request("child_detach", spec.snap_id, child)))
    run(ioctx, child.close())
    run(ioctx, directory.remove(io, parent))
    assert not [o.key for o in ioctx.list_objects() if spec.image_id in o.key]
    run(ioctx, directory.remove(io, parent + "-c"))
