"""Locks that users take by hand: by us and by librbd, with the same errors."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pyrbd import rados, rbd
from tests.image.peers import Failed, Peer

Run = Callable[..., bytes]


@pytest.fixture
def plain(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> str:
    """An image without the exclusive-lock feature."""
    rbd_cli("create", "--size", "1M", "--image-feature", "layering", name)
    return name


def test_shape_is_that_of_librbds_binding(ioctx: rados.Ioctx, conf: str, plain: str) -> None:
    with rbd.Image(ioctx, plain) as image, Peer(conf, librbd=True) as peer:
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")
        assert image.list_lockers() == peer.do("image.list_lockers()") == []
        image.lock_exclusive("me")
        ours = image.list_lockers()
        theirs = peer.do("image.list_lockers()")
        assert isinstance(ours["lockers"][0], tuple)
        assert json.loads(json.dumps(ours)) == theirs
        assert ours["exclusive"] is True and ours["tag"] == ""
        assert ours["lockers"][0][:2] == (f"client.{ioctx._client.global_id}", "me")
        image.unlock("me")
        image.lock_shared("a", "tag")
        peer.do("image.lock_shared('b', 'tag')")
        ours = image.list_lockers()
        assert ours["exclusive"] is False and ours["tag"] == "tag" and len(ours["lockers"]) == 2
        assert json.loads(json.dumps(ours)) == peer.do("image.list_lockers()")
        peer.do("image.unlock('b')")
        image.unlock("a")
        assert image.list_lockers() == []


def test_errors_are_those_of_librbd(ioctx: rados.Ioctx, conf: str, plain: str) -> None:
    with rbd.Image(ioctx, plain) as image, Peer(conf, librbd=True) as peer:
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")

        def fails(code: str, kind: type[rbd.OSError]) -> None:
            with pytest.raises(kind) as here:
                eval(code, {"image": image})  # noqa: S307
            with pytest.raises(Failed) as there:
                peer.do(code)
            assert (there.value.kind, there.value.errno) == (kind.__name__, here.value.errno)

        fails("image.unlock('x')", rbd.ImageNotFound)
        fails("image.break_lock('client.1', 'x')", rbd.ImageNotFound)
        fails("image.break_lock('nobody', 'x')", rbd.InvalidArgument)
        image.lock_exclusive("a")
        with pytest.raises(rbd.ImageExists):
            image.lock_exclusive("a")
        fails("image.lock_exclusive('b')", rbd.ImageBusy)
        fails("image.lock_shared('b', 't')", rbd.ImageBusy)
        image.unlock("a")
        peer.do("image.lock_shared('x', 'tag')")
        with pytest.raises(rbd.ImageBusy):
            image.lock_shared("y", "other")
        peer.do("image.unlock('x')")


def test_rbd_sees_and_removes_our_lock(conf: str, ioctx: rados.Ioctx, plain: str, rbd_cli: Run) -> None:
    with rados.Rados(conffile=conf) as other, other.open_ioctx("rbd") as io:
        image = rbd.Image(io, plain)
        image.lock_exclusive("mine")
        (locker,) = json.loads(rbd_cli("lock", "ls", "--format", "json", plain))
        assert locker["id"] == "mine" and locker["address"] == str(other.get_addrs()).split("[")[-1].split("]")[0][3:]
        rbd_cli("lock", "rm", plain, "mine", locker["locker"])
        with rbd.Image(ioctx, plain) as again:
            assert again.list_lockers() == []


def test_break_lock_fences_its_owner(conf: str, ioctx: rados.Ioctx, plain: str, rbd_cli: Run, ceph_cli: Run) -> None:
    with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, plain) as image:
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")
        peer.do("image.lock_exclusive('theirs')")
        ((client, cookie, address),) = image.list_lockers()["lockers"]
        with pytest.raises(rbd.ImageNotFound):
            image.break_lock("client.999999", cookie)
        image.break_lock(client, cookie)
        assert image.list_lockers() == []
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
        peer.do(f"image = rbd.Image(ioctx, {plain!r})")
        peer.do("image.lock_exclusive('x')")
        ((client, cookie, _),) = image.list_lockers()["lockers"]
        image.break_lock(client, cookie)
        assert peer.do("image.write(b'x', 0)") == 1
