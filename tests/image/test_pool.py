"""Preparing pools for images and adding up what they hold; `rbd pool` is asked for the same."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import directory, groups, namespaces, pool, trash
from pyrbd.image.image import Image
from pyrbd.rados.io import IoContext

Run = Callable[..., bytes]
MIB = 1 << 20


@pytest.fixture
def io(handle: rados.Rados) -> Iterator[IoContext]:
    """A pool of its own."""
    name = f"pool-{os.getpid()}"
    handle.create_pool(name)
    try:
        with handle.open_ioctx(name) as ioctx:
            yield ioctx._io
    finally:
        handle.delete_pool(name)


def name_of(io: IoContext) -> str:
    return io.client.osdmap.pool_names[io.pool_id]


def test_a_pool_that_we_prepared_is_ready_for_rbd(handle: rados.Rados, io: IoContext, rbd_cli: Run) -> None:
    io.client.run(pool.init(io))
    with handle.open_ioctx(name_of(io)) as ioctx:
        assert ioctx.application_list() == ["rbd"]
        assert ioctx.read("rbd_info") == b"overwrite validated"
        assert ioctx.stat("rbd_trash")[0] == 0
    rbd_cli("create", "--size", "4M", f"{name_of(io)}/a")
    io.client.run(pool.init(io))
    assert rbd_cli("ls", name_of(io)) == b"a\n"


def test_another_applications_pool_is_taken_by_force_only(
    handle: rados.Rados, io: IoContext, librbd: Callable[[str], Any]
) -> None:
    with handle.open_ioctx(name_of(io)) as ioctx:
        ioctx.application_enable("other")
        theirs = librbd(
            f"io = cluster.open_ioctx({name_of(io)!r})\n"
            "try: result = rbd.RBD().pool_init(io, False)\n"
            "except rbd.OSError as e: result = e.errno"
        )
        with pytest.raises((rbd.OSError, rados.Error)) as e:
            io.client.run(pool.init(io))
        assert e.value.errno == theirs == errno.EPERM
        assert ioctx.application_list() == ["other"]
        io.client.run(pool.init(io, True))
        assert sorted(ioctx.application_list()) == ["other", "rbd"]


def test_a_pool_with_snapshots_of_its_own_cannot_hold_images(
    handle: rados.Rados, io: IoContext, librbd: Callable[[str], Any]
) -> None:
    with handle.open_ioctx(name_of(io)) as ioctx:
        ioctx.application_enable("rbd")
        ioctx.create_snap("s")
    theirs = librbd(
        f"io = cluster.open_ioctx({name_of(io)!r})\n"
        "try: result = rbd.RBD().pool_init(io, False)\n"
        "except rbd.OSError as e: result = e.errno"
    )
    with pytest.raises(rbd.InvalidArgument) as e:
        io.client.run(pool.init(io))
    assert e.value.errno == theirs


def test_what_is_provisioned(io: IoContext, rbd_cli: Run, librbd: Callable[[str], Any]) -> None:
    run, name = io.client.run, name_of(io)
    run(pool.init(io))
    assert run(pool.stats(io)) == (0,) * 8
    for i in range(25):
        run(directory.create(io, f"a{i}", (i + 1) * MIB, 20, 1))
    rbd_cli("snap", "create", "--no-progress", f"{name}/a24@s")
    rbd_cli("resize", "--no-progress", "--allow-shrink", "--size", "10M", f"{name}/a24")
    for i in range(3):
        rbd_cli("snap", "create", "--no-progress", f"{name}/a0@s{i}")
    for i in (1, 2):
        rbd_cli("snap", "create", "--no-progress", f"{name}/a{i}@s")
        run(trash.move(io, f"a{i}"))
    got = run(pool.stats(io))
    assert got.image_count == 23 and got.trash_count == 2 and got.image_snap_count == 4 and got.trash_snap_count == 2
    assert got.image_max_provisioned_bytes - got.image_provisioned_bytes == 15 * MIB
    theirs = librbd(f"result = rbd.RBD().pool_stats_get(cluster.open_ioctx({name!r}))")
    assert got._asdict() == theirs
    shown = json.loads(rbd_cli("pool", "stats", "--format", "json", name))
    assert shown["images"]["count"] == 23 and shown["trash"]["snap_count"] == 2


def test_images_that_are_being_removed_count_as_images(io: IoContext, librbd: Callable[[str], Any]) -> None:
    run, name = io.client.run, name_of(io)
    run(pool.init(io))
    image_id = run(directory.create(io, "a", MIB, 20, 1))
    run(directory.create(io, "gone", MIB, 20, 1))
    run(io.operate("rbd_header." + run(io_id(io, "gone")), remove()))  # its header has gone, its entry has not
    run(trash.move_image(io, "a", image_id, trash.TRASH_IMAGE_SOURCE_REMOVING))
    assert run(trash.list_(io)) == []
    got = run(pool.stats(io))
    assert got._asdict() == librbd(f"result = rbd.RBD().pool_stats_get(cluster.open_ioctx({name!r}))")
    assert got.image_count == 2 and got.image_provisioned_bytes == MIB and got.trash_count == 0


async def io_id(io: IoContext, name: str) -> str:
    return (await directory.list_images(io))[name]


def remove() -> Any:
    from pyrbd.rados.operations import ObjectOperation

    return ObjectOperation().remove()


def test_snapshots_beyond_one_request(io: IoContext, librbd: Callable[[str], Any]) -> None:
    run, name = io.client.run, name_of(io)
    run(pool.init(io))
    run(directory.create(io, "a", MIB, 20, 1))
    librbd(
        f"i = rbd.Image(cluster.open_ioctx({name!r}), 'a')\n"
        "for n in range(70):\n"
        "    if n == 67: i.resize(9 << 20)\n"
        "    if n == 68: i.resize(2 << 20)\n"
        "    i.create_snap(f's{n}')\n"
        "i.close(); result = 0"
    )
    got = run(pool.stats(io))
    assert (got.image_provisioned_bytes, got.image_max_provisioned_bytes, got.image_snap_count) == (
        2 * MIB,
        9 * MIB,
        70,
    )


def test_stats_are_those_of_a_namespace(io: IoContext) -> None:
    run = io.client.run
    run(pool.init(io))
    run(namespaces.create(io, "n"))
    run(directory.create(io.with_namespace("n"), "a", MIB, 20, 1))
    assert run(pool.stats(io)).image_count == 0 and run(pool.stats(io.with_namespace("n"))).image_count == 1


def test_which_group_an_image_belongs_to(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    io = ioctx._io
    run = io.client.run
    rbd_cli("create", "--size", "4M", "--image-feature", "layering", name)
    image = run(Image.open(io, name))
    try:
        assert run(groups.image_get_group(image)) == (-1, "")
        rbd_cli("group", "create", f"{name}-g")
        rbd_cli("group", "image", "add", f"{name}-g", name)
        assert run(groups.image_get_group(image)) == (io.pool_id, f"{name}-g")
        rbd_cli("group", "rm", f"{name}-g")
        assert run(groups.image_get_group(image)) == (-1, "")
    finally:
        run(image.close())
