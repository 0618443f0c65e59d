"""Locks that users take by hand: by us and by librbd, with the same errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import advisory
from tests.image.peers import Failed, Peer

Run = Callable[..., bytes]


@pytest.fixture
def plain(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> str:
    """An image without the exclusive-lock feature."""
    rbd_cli("create", "--size", "1M", "--image-feature", "layering", name)
    return name


def call(image: rbd.Image, coro: Any) -> Any:
    return image._run(coro)


def test_shape_is_that_of_librbds_binding(ioctx: rados.Ioctx, conf: str, plain: str) -> None:
    with rbd.Image(ioctx, plain) as image, Peer(conf, librbd=True) as peer:
        core = image._core
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")
        assert call(image, advisory.list_lockers(core)) == peer.do("image.list_lockers()") == []
        call(image, advisory.lock_exclusive(core, "me"))
        ours = call(image, advisory.list_lockers(core))
        theirs = peer.do("image.list_lockers()")
        assert isinstance(ours["lockers"][0], tuple)
        assert json.loads(json.dumps(ours)) == theirs
        assert ours["exclusive"] is True and ours["tag"] == ""
        assert ours["lockers"][0][:2] == (f"client.{ioctx._client.global_id}", "me")
        call(image, advisory.unlock(core, "me"))
        call(image, advisory.lock_shared(core, "a", "tag"))
        peer.do("image.lock_shared('b', 'tag')")
        ours = call(image, advisory.list_lockers(core))
        assert ours["exclusive"] is False and ours["tag"] == "tag" and len(ours["lockers"]) == 2
        assert json.loads(json.dumps(ours)) == peer.do("image.list_lockers()")
        peer.do("image.unlock('b')")
        call(image, advisory.unlock(core, "a"))
        assert call(image, advisory.list_lockers(core)) == []


def test_errors_are_those_of_librbd(ioctx: rados.Ioctx, conf: str, plain: str) -> None:
    with rbd.Image(ioctx, plain) as image, Peer(conf, librbd=True) as peer:
        core = image._core
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")

        def fails(ours: Any, theirs: str, kind: type[rbd.OSError]) -> None:
            with pytest.raises(kind) as here:
                call(image, ours)
            with pytest.raises(Failed) as there:
                peer.do(theirs)
            assert (there.value.kind, there.value.errno) == (kind.__name__, here.value.errno)

        fails(advisory.unlock(core, "x"), "image.unlock('x')", rbd.ImageNotFound)
        fails(advisory.break_lock(core, "client.1", "x"), "image.break_lock('client.1', 'x')", rbd.ImageNotFound)
        fails(advisory.break_lock(core, "nobody", "x"), "image.break_lock('nobody', 'x')", rbd.InvalidArgument)
        call(image, advisory.lock_exclusive(core, "a"))
        with pytest.raises(rbd.ImageExists):
            call(image, advisory.lock_exclusive(core, "a"))
        fails(advisory.lock_exclusive(core, "b"), "image.lock_exclusive('b')", rbd.ImageBusy)
        fails(advisory.lock_shared(core, "b", "t"), "image.lock_shared('b', 't')", rbd.ImageBusy)
        call(image, advisory.unlock(core, "a"))
        peer.do("image.lock_shared('x', 'tag')")
        with pytest.raises(rbd.ImageBusy):
            call(image, advisory.lock_shared(core, "y", "other"))
        peer.do("image.unlock('x')")


def test_rbd_sees_and_removes_our_lock(conf: str, ioctx: rados.Ioctx, plain: str, rbd_cli: Run) -> None:
    with rados.Rados(conffile=conf) as other, other.open_ioctx("rbd") as io:
        image = rbd.Image(io, plain)
        call(image, advisory.lock_exclusive(image._core, "mine"))
        (locker,) = json.loads(rbd_cli("lock", "ls", "--format", "json", plain))
        assert locker["id"] == "mine" and locker["address"] == str(other.get_addrs()).split("[")[-1].split("]")[0][3:]
        rbd_cli("lock", "rm", plain, "mine", locker["locker"])
        with rbd.Image(ioctx, plain) as again:
            assert call(again, advisory.list_lockers(again._core)) == []


def test_break_lock_fences_its_owner(conf: str, ioctx: rados.Ioctx, plain: str, rbd_cli: Run, ceph_cli: Run) -> None:
    with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, plain) as image:
        core = image._core
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")
        peer.do("image.lock_exclusive('theirs')")
        ((client, cookie, address),) = call(image, advisory.list_lockers(core))["lockers"]
        with pytest.raises(rbd.ImageNotFound):
            call(image, advisory.break_lock(core, "client.999999", cookie))
        call(image, advisory.break_lock(core, client, cookie))
        assert call(image, advisory.list_lockers(core)) == []
        assert address in ceph_cli("osd", "blocklist", "ls").decode()
        with pytest.raises(Failed):
            peer.do("image.write(b'x', 0) + image.flush()")
        peer.kill()


@pytest.mark.parametrize("librbd", [True, False])
def test_break_lock_without_blocklisting(conf: str, plain: str, librbd: bool) -> None:
    """rbd_blocklist_on_break_lock = false: the owner goes on."""
    with (
        Peer(conf, librbd) as peer,
        rados.Rados(conffile=conf, conf={"rbd_blocklist_on_break_lock": "false"}) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, plain) as image,
    ):
        core = image._core
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")
        take = "image.lock_exclusive('x')" if librbd else "image._run(a.lock_exclusive(image._core, 'x'))"
        if not librbd:
            peer.do("import pyrbd.image.advisory as a")
        peer.do(take)
        ((client, cookie, _),) = call(image, advisory.list_lockers(core))["lockers"]
        call(image, advisory.break_lock(core, client, cookie))
        assert peer.do("image.write(b'x', 0)") == 1
