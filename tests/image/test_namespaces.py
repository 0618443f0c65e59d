"""Namespaces, shared with `rbd` and librbd."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import directory, errors, namespaces, trash
from pyrbd.rados.io import IoContext
from pyrbd.rados.operations import ObjectOperation

Run = Callable[..., bytes]


@pytest.fixture
def io(handle: rados.Rados) -> Iterator[IoContext]:
    """A pool of its own."""
    pool = f"namespaces-{os.getpid()}"
    handle.create_pool(pool)
    try:
        with handle.open_ioctx(pool) as ioctx:
            ioctx.application_enable("rbd")
            yield ioctx._io
    finally:
        handle.delete_pool(pool)


def pool_of(io: IoContext) -> str:
    return io.client.osdmap.pool_names[io.pool_id]


def test_namespaces_of_both_sides(io: IoContext, rbd_cli: Run) -> None:
    client, pool = io.client, pool_of(io)
    assert client.run(namespaces.list_(io)) == []
    rbd_cli("namespace", "create", f"{pool}/theirs")
    client.run(namespaces.create(io, "ours"))
    client.run(namespaces.create(io.with_namespace("ours"), "äöü"))  # it is the pool that counts
    assert client.run(namespaces.list_(io)) == ["ours", "theirs", "äöü"]
    assert b"ours" in rbd_cli("namespace", "ls", pool) and "äöü".encode() in rbd_cli("namespace", "ls", pool)
    assert [client.run(namespaces.exists(io, n)) for n in ("ours", "theirs", "none")] == [True, True, False]
    rbd_cli("create", "--size", "4M", f"{pool}/ours/a")
    client.run(directory.create(io.with_namespace("theirs"), "b", 4 << 20))
    for name in ("ours", "theirs"):
        with pytest.raises(rbd.ImageBusy):
            client.run(namespaces.remove(io, name))
        assert client.run(namespaces.exists(io, name))
    rbd_cli("rm", "--no-progress", f"{pool}/ours/a")
    rbd_cli("rm", "--no-progress", f"{pool}/theirs/b")
    client.run(namespaces.remove(io, "theirs"))
    rbd_cli("namespace", "remove", f"{pool}/ours")
    assert client.run(namespaces.list_(io)) == ["äöü"]
    client.run(namespaces.remove(io, "äöü"))
    assert rbd_cli("namespace", "ls", "--format", "json", pool).strip() == b"[]"


def test_an_image_in_the_trash_keeps_its_namespace(io: IoContext, rbd_cli: Run) -> None:
    client, pool = io.client, pool_of(io)
    client.run(namespaces.create(io, "n"))
    inside = io.with_namespace("n")
    image_id = client.run(directory.create(inside, "a", 4 << 20, features_wanted=1))
    client.run(trash.move(inside, "a"))
    with pytest.raises(rbd.ImageBusy):
        client.run(namespaces.remove(io, "n"))
    rbd_cli("create", "--size", "4M", f"{pool}/n/b")  # the namespace is as it was
    rbd_cli("rm", "--no-progress", f"{pool}/n/b")
    client.run(trash.remove(inside, image_id))
    client.run(namespaces.remove(io, "n"))
    with pytest.raises(rbd.ImageNotFound):
        client.run(directory.create(inside, "a", 4 << 20))


def test_many_namespaces(io: IoContext) -> None:
    client = io.client
    names = [f"n{i:04}" for i in range(1100)]
    adding = [io.submit(namespaces.RBD_NAMESPACE, namespaces._name_operation("namespace_add", name)) for name in names]
    for a in adding:
        client.wait(a)
    assert client.run(namespaces.list_(io)) == names


def test_errors_are_those_of_librbd(io: IoContext, librbd: Callable[[str], Any]) -> None:
    client, pool = io.client, pool_of(io)
    client.run(namespaces.create(io, "there"))
    theirs = librbd(
        f"io = cluster.open_ioctx({pool!r}); r = rbd.RBD()\n"
        "def code(f, *a):\n"
        "    try: f(io, *a)\n"
        "    except rbd.OSError as e: return [type(e).__name__, e.errno]\n"
        "    return 0\n"
        "result = [code(f, n) for f in (r.namespace_create, r.namespace_remove, r.namespace_exists)\n"
        "          for n in ('', 'there', 'none')]\n"
    )

    def code(function: Callable[[IoContext, str], Any], name: str) -> Any:
        try:
            client.run(function(io, name))
        except errors.OSError as e:
            return [type(e).__name__, e.errno]
        return 0

    functions = (namespaces.create, namespaces.remove, namespaces.exists)
    client.run(namespaces.create(io, "there"))
    assert theirs == [code(f, n) for f in functions for n in ("", "there", "none")]


@pytest.mark.parametrize("oid", ["rbd_trash", "rbd_directory"])
def test_a_creation_that_fails_leaves_nothing(
    io: IoContext, rbd_cli: Run, monkeypatch: pytest.MonkeyPatch, oid: str
) -> None:
    client, operate = io.client, IoContext.operate

    failed: list[str] = []

    async def once(self: IoContext, name: str, operation: ObjectOperation, **kwargs: Any) -> Any:
        if name == oid and not failed:
            failed.append(name)
            raise rados.NoSpace("full", errno.ENOSPC)
        return await operate(self, name, operation, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(IoContext, "operate", once)
        with pytest.raises(rados.NoSpace):
            client.run(namespaces.create(io, "n"))
    assert client.run(namespaces.list_(io)) == [] and not client.run(namespaces.exists(io, "n"))
    rbd_cli("namespace", "create", f"{pool_of(io)}/n")


def test_a_removal_that_was_interrupted_is_completed_by_another(io: IoContext, monkeypatch: pytest.MonkeyPatch) -> None:
    client, operate = io.client, IoContext.operate
    client.run(namespaces.create(io, "n"))

    async def fail(self: IoContext, name: str, operation: ObjectOperation, **kwargs: Any) -> Any:
        if name == namespaces.RBD_NAMESPACE:
            raise rados.TimedOut("no answer", errno.ETIMEDOUT)
        return await operate(self, name, operation, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(IoContext, "operate", fail)
        with pytest.raises(rados.TimedOut):
            client.run(namespaces.remove(io, "n"))
    assert client.run(namespaces.list_(io)) == ["n"] and not client.run(namespaces.exists(io, "n"))
    client.run(namespaces.remove(io, "n"))
    assert client.run(namespaces.list_(io)) == []


def test_a_mirrored_namespace_is_refused(io: IoContext, rbd_cli: Run) -> None:
    client, pool = io.client, pool_of(io)
    client.run(namespaces.create(io, "n"))
    rbd_cli("mirror", "pool", "enable", pool, "image")
    rbd_cli("mirror", "pool", "enable", f"{pool}/n", "image")
    with pytest.raises(rbd.FunctionNotSupported, match="mirrored"):
        client.run(namespaces.remove(io, "n"))
    assert client.run(namespaces.exists(io, "n"))
    rbd_cli("mirror", "pool", "disable", f"{pool}/n")
    client.run(namespaces.remove(io, "n"))
