"""Maintenance operations that the owner of the exclusive lock does for others, in both directions."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyrbd import rados, rbd
from pyrbd.image import notify, operation
from pyrbd.image.notify import AsyncRequestId, ClientId, Request
from pyrbd.image.watcher import next_request_id
from pyrbd.rados.completion import Event
from tests.image.peers import Peer, until

Run = Callable[..., bytes]
MIB = 1 << 20


@pytest.fixture
def locked(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> Iterator[str]:
    rbd_cli("create", "--size", "64M", "--object-size", "1M", name)
    yield name
    rbd_cli("snap", "purge", "--no-progress", name, check=False)


@pytest.fixture
def owner(conf: str, locked: str) -> Iterator[Peer]:
    """librbd, which owns the lock of the image."""
    with Peer(conf, librbd=True) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        peer.do("image.write(b'x' * 4096, 0)")
        yield peer


def ask(image: rbd.Image, payload: Request, on_progress: Callable[[int, int], int | None] | None = None) -> None:
    """Has the owner do something; it is a failure if we come to do it ourselves."""

    async def here(progress: operation.Progress) -> None:
        raise AssertionError("the operation was done by ourselves")

    image._run(operation.invoke(image._core, payload, here, on_progress))


def info(rbd_cli: Run, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rbd_cli("info", "--format", "json", name))
    return found


# ---------------------------------------------------------------- librbd does it for us


def test_librbd_does_it_for_us(ioctx: rados.Ioctx, locked: str, owner: Peer, rbd_cli: Run) -> None:
    with rbd.Image(ioctx, locked) as image:
        ask(image, notify.Resize(80 * MIB))
        assert image.size() == 80 * MIB
        ask(image, notify.Resize(64 * MIB))
        assert info(rbd_cli, locked)["size"] == 64 * MIB == image.size()
        ask(image, notify.SnapCreate("one", flags=1))
        ask(image, notify.SnapCreate("two"))
        assert [s["name"] for s in json.loads(rbd_cli("snap", "ls", "--format", "json", locked))] == ["one", "two"]
        ask(image, notify.SnapRemove("one"))
        image._run(image._core.current())
        (snap,) = image._core.header.snaps
        assert snap.name == "two"
        ask(image, notify.SnapRemove("two"))
        ask(image, notify.MetadataUpdate("key", "värde"))
        assert rbd_cli("image-meta", "get", locked, "key").decode() == "värde\n"
        ask(image, notify.MetadataUpdate("key", None))
        assert json.loads(rbd_cli("image-meta", "ls", "--format", "json", locked) or "{}") == {}
        ask(image, notify.UpdateFeatures(16, False))
        assert "fast-diff" not in info(rbd_cli, locked)["features"]
        ask(image, notify.UpdateFeatures(24, True))
        assert "fast-diff" in info(rbd_cli, locked)["features"]
        ask(image, notify.RebuildObjectMap())
        ask(image, notify.Sparsify(sparse_size=4096))
        assert owner.do("image.is_exclusive_lock_owner()") is True


def test_errors_of_the_owner_are_ours(ioctx: rados.Ioctx, locked: str, owner: Peer) -> None:
    with rbd.Image(ioctx, locked) as image:
        ask(image, notify.SnapCreate("one", flags=1))
        with pytest.raises(rbd.ImageExists) as there:
            ask(image, notify.SnapCreate("one", flags=1))
        assert there.value.errno == errno.EEXIST
        with pytest.raises(rbd.InvalidArgument):
            ask(image, notify.Resize(1 * MIB, allow_shrink=False))
        with pytest.raises(rbd.ImageNotFound):
            ask(image, notify.SnapRemove("none"))


def test_renaming_by_the_owner(ioctx: rados.Ioctx, locked: str, owner: Peer, rbd_cli: Run) -> None:
    with rbd.Image(ioctx, locked) as image:
        ask(image, notify.Rename(locked + "-new"))
    assert info(rbd_cli, locked + "-new")["name"] == locked + "-new"
    ask_back = rbd.Image(ioctx, locked + "-new")
    ask(ask_back, notify.Rename(locked))
    ask_back.close()
    assert info(rbd_cli, locked)["name"] == locked


def test_progress_of_the_owner_is_told(ioctx: rados.Ioctx, conf: str, name: str, rbd_cli: Run) -> None:
    child = name + "-child"
    rbd_cli("create", "--size", "64M", "--object-size", "256K", name)
    rbd_cli("bench", "--io-type", "write", "--io-size", "256K", "--io-total", "64M", name)
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    rbd_cli("clone", "--object-size", "256K", f"{name}@s", child)
    calls: list[tuple[int, int]] = []
    here = threading.get_ident()
    threads = set()

    def on_progress(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.get_ident())

    try:
        with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, child) as image:
            peer.do(f"image = rbd.Image(ioctx, {child!r})")
            peer.do("image.write(b'x', 0)")
            ask(image, notify.Flatten(), on_progress)
            assert image.size() == 64 * MIB
        assert "parent" not in info(rbd_cli, child)
        assert calls and all(0 <= done <= total == 256 for done, total in calls)
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)
        assert threads == {here}
    finally:
        rbd_cli("rm", "--no-progress", child, check=False)
        rbd_cli("snap", "unprotect", f"{name}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s")


def test_negative_progress_cancels_the_waiting(ioctx: rados.Ioctx, locked: str, owner: Peer) -> None:
    with rbd.Image(ioctx, locked) as image, pytest.raises(rbd.OperationCanceled):
        ask(image, notify.RebuildObjectMap(), lambda done, total: -1)


def test_we_do_it_where_nobody_owns_the_lock(ioctx: rados.Ioctx, locked: str) -> None:
    with rbd.Image(ioctx, locked) as image:

        async def here(progress: operation.Progress) -> str:
            assert image._core.lock is not None and image._core.lock.owner
            assert image._core.operations.locked
            progress(1, 2)
            return "done"

        calls: list[tuple[int, int]] = []
        run = operation.invoke(image._core, notify.Resize(1), here, lambda *a: calls.append(a))
        assert image._run(run) == "done"
        assert calls == [(1, 2)]
        with pytest.raises(rbd.OperationCanceled):
            image._run(operation.invoke(image._core, notify.Resize(1), here, lambda *a: -1))
        assert not image._core.operations.locked


def test_what_needs_no_lock_leaves_it_with_its_owner(ioctx: rados.Ioctx, locked: str, owner: Peer) -> None:
    """Protecting a snapshot is done by whoever wants it, unless the image has a journal."""
    done = []

    async def here(progress: operation.Progress) -> None:
        done.append(progress)

    with rbd.Image(ioctx, locked) as image:
        for payload in (notify.SnapProtect("s"), notify.SnapUnprotect("s"), notify.SnapRename(1, "s")):
            image._run(operation.invoke(image._core, payload, here))
        assert len(done) == 3
        assert owner.do("image.is_exclusive_lock_owner()") is True
        # what is not asked of others takes the lock
        image._run(operation.invoke(image._core, None, here))
        assert len(done) == 4
        assert owner.do("image.is_exclusive_lock_owner()") is False


def test_read_only_images_refuse(ioctx: rados.Ioctx, locked: str) -> None:
    async def here(progress: operation.Progress) -> None:
        raise AssertionError

    with rbd.Image(ioctx, locked, read_only=True) as image, pytest.raises(rbd.ReadOnlyImage):
        image._run(operation.invoke(image._core, notify.Resize(1), here))


def test_owner_that_was_killed_does_nothing_for_us(
    ioctx: rados.Ioctx, conf: str, locked: str, ceph_cli: Run, rbd_cli: Run
) -> None:
    ceph_cli("config", "set", "osd", "osd_client_watch_timeout", "12")
    try:
        with Peer(conf, librbd=True) as peer, rbd.Image(ioctx, locked) as image:
            peer.do(f"image = rbd.Image(ioctx, {locked!r})")
            peer.do("image.write(b'x' * 4096, 0)")
            peer.kill()

            async def here(progress: operation.Progress) -> str:
                return "done here"

            assert image._run(operation.invoke(image._core, notify.SnapCreate("s"), here)) == "done here"
    finally:
        ceph_cli("config", "rm", "osd", "osd_client_watch_timeout")


# ---------------------------------------------------------------- we do it for librbd


def test_we_do_it_for_librbd(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    with rbd.Image(ioctx, locked) as image:
        image.write(b"x" * 4096, 5 * MIB)
        lock = image._core.lock
        assert lock is not None

        def did(*command: str) -> None:
            rbd_cli(*command)
            assert lock.owner, f"the lock was given up for {command}"

        did("image-meta", "set", locked, "key", "value")
        assert rbd_cli("image-meta", "get", locked, "key") == b"value\n"
        did("image-meta", "remove", locked, "key")
        did("resize", "--no-progress", "--size", "80M", locked)
        assert image.size() == 80 * MIB
        did("resize", "--no-progress", "--size", "64M", "--allow-shrink", locked)
        did("snap", "create", "--no-progress", f"{locked}@one")
        image.write(b"y" * 4096, 5 * MIB)
        did("snap", "create", "--no-progress", f"{locked}@two")
        did("snap", "rename", f"{locked}@two", f"{locked}@three")
        with rbd.Image(ioctx, locked, snapshot="one") as snap:
            assert snap.read(5 * MIB, 4096) == b"x" * 4096
        did("snap", "rm", "--no-progress", f"{locked}@one")
        did("snap", "protect", f"{locked}@three")
        did("snap", "unprotect", f"{locked}@three")
        did("snap", "rm", "--no-progress", f"{locked}@three")
        did("object-map", "rebuild", "--no-progress", locked)
        did("sparsify", "--no-progress", locked)
        did("feature", "disable", locked, "fast-diff")
        did("feature", "enable", locked, "object-map")
        did("object-map", "rebuild", "--no-progress", locked)  # until then it is flagged as invalid, as by librbd
        assert image.read(5 * MIB, 4096) == b"y" * 4096
    rbd_cli("object-map", "check", "--no-progress", locked)
    assert info(rbd_cli, locked)["flags"] == []


def test_we_rename_for_librbd(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    with rbd.Image(ioctx, locked) as image:
        image.write(b"x", 0)
        rbd_cli("rename", locked, locked + "-new")
        assert image._core.lock is not None and image._core.lock.owner
        assert info(rbd_cli, locked + "-new")["name"] == locked + "-new"
        rbd_cli("rename", locked + "-new", locked)


def test_we_flatten_for_librbd(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    child = name + "-child"
    rbd_cli("create", "--size", "8M", "--object-size", "256K", name)
    rbd_cli("bench", "--io-type", "write", "--io-size", "256K", "--io-total", "8M", name)
    rbd_cli("snap", "create", "--no-progress", f"{name}@s")
    rbd_cli("snap", "protect", f"{name}@s")
    rbd_cli("clone", "--object-size", "256K", f"{name}@s", child)
    try:
        before = rbd_cli("export", "--no-progress", child, "-")
        with rbd.Image(ioctx, child) as image:
            image.write(before[:1], 0)
            rbd_cli("flatten", "--no-progress", child)
            assert image._core.lock is not None and image._core.lock.owner
            image._run(image._core.current())
            assert image._core.parent is None
        assert "parent" not in info(rbd_cli, child)
        assert rbd_cli("export", "--no-progress", child, "-") == before
    finally:
        rbd_cli("rm", "--no-progress", child, check=False)
        rbd_cli("snap", "unprotect", f"{name}@s")
        rbd_cli("snap", "rm", "--no-progress", f"{name}@s")


# ---------------------------------------------------------------- the protocol


class Asker:
    """Says things to an image's watchers, and hears what they say."""

    def __init__(self, ioctx: rados.Ioctx, image: rbd.Image) -> None:
        self.oid = image._core.header_oid
        self.io = ioctx._io
        self.client = ioctx._client
        self.heard: list[notify.Payload] = []
        self.watch = ioctx.watch(self.oid, lambda i, n, c, data: self.heard.append(notify.decode_message(data)))

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *args: object) -> None:
        self.watch.close()

    @property
    def id(self) -> ClientId:
        return ClientId(self.client.global_id, self.watch.get_id())

    def say(self, data: bytes) -> list[int]:
        """The results that were answered; who has no say answers nothing."""
        from pyrbd.rados.watch import decode_acks

        acks, missing = decode_acks(self.client.run(self.io.notify(self.oid, data)))
        assert not missing
        return [notify.ResponseMessage.from_bytes(a).result for _, _, a in acks if a]

    def completed(self) -> list[tuple[AsyncRequestId, int]]:
        return [(p.async_request_id, p.result) for p in self.heard if isinstance(p, notify.AsyncComplete)]


def test_only_the_owner_answers(ioctx: rados.Ioctx, locked: str) -> None:
    unknown = bytes.fromhex("07010400000063000000")
    with rbd.Image(ioctx, locked) as image, Asker(ioctx, image) as asker:
        request = notify.MetadataUpdate("k", "v", AsyncRequestId(asker.id, 1))
        asking = notify.RequestLock(asker.id)
        for data in (notify.encode_message(request), notify.encode_message(asking), unknown, b"\x07\x01\xff"):
            assert asker.say(data) == []
        assert asker.say(b"") == [0]  # the header has changed: everybody answers that
        image.write(b"x", 0)
        assert asker.say(unknown) == [-errno.EOPNOTSUPP]
        assert asker.say(notify.encode_message(notify.Migrate(AsyncRequestId(asker.id, 2)))) == [0]
        until(asker.completed, "the request is refused")
        assert asker.completed() == [(AsyncRequestId(asker.id, 2), -errno.EOPNOTSUPP)]
        assert asker.say(notify.encode_message(notify.Quiesce(AsyncRequestId(asker.id, 3)))) == [0]
        assert asker.say(notify.encode_message(notify.Unquiesce(AsyncRequestId(asker.id, 3)))) == []
        assert asker.say(b"\x07\x01\xff") == []
        assert asker.say(notify.encode_message(asking)) == [0]
        until(lambda: image._core.lock is not None and not image._core.lock.owner, "the lock is given up")
        until(lambda: any(isinstance(p, notify.ReleasedLock) for p in asker.heard), "that is told")


def test_a_request_that_comes_twice_is_done_once(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    with rbd.Image(ioctx, locked) as image, Asker(ioctx, image) as asker:
        image.write(b"x", 0)
        request = notify.MetadataUpdate("k", "v", AsyncRequestId(asker.id, 1))
        assert asker.say(notify.encode_message(request)) == [0]
        until(asker.completed, "it is done")
        rbd_cli("image-meta", "remove", locked, "k")
        assert asker.say(notify.encode_message(request)) == [0]
        assert json.loads(rbd_cli("image-meta", "ls", "--format", "json", locked) or "{}") == {}
        assert asker.completed() == [(request.async_request_id, 0)] + [
            c for c in asker.completed() if c[0] != request.async_request_id
        ]
        # a failure is remembered as one
        bad = notify.Migrate(AsyncRequestId(asker.id, 2))
        assert asker.say(notify.encode_message(bad)) == [0]
        until(lambda: asker.completed()[-1] == (bad.async_request_id, -errno.EOPNOTSUPP), "it is refused")
        until(lambda: asker.say(notify.encode_message(bad)) == [-errno.EOPNOTSUPP], "it is refused at once")
        # and so is one that was tried
        none = notify.SnapRemove("none", async_request_id=AsyncRequestId(asker.id, 4))
        assert asker.say(notify.encode_message(none)) == [0]
        until(lambda: asker.completed()[-1] == (none.async_request_id, -errno.ENOENT), "there is none")
        until(lambda: asker.say(notify.encode_message(none)) == [-errno.ENOENT], "that is said at once")
        # our own requests come back to us when we have got the lock meanwhile
        own = notify.MetadataUpdate("k", "v", AsyncRequestId(image._core.watcher.client_id, 3))
        assert asker.say(notify.encode_message(own)) == [-errno.ERESTART]


def test_answer_between_two_times_that_it_was_asked_is_not_lost(ioctx: rados.Ioctx, locked: str) -> None:
    """An owner may have done it when we think that it is not the owner any more, and be silent when asked again."""
    with rbd.Image(ioctx, locked) as image, Asker(ioctx, image) as asker:
        watcher = image._core.watcher
        number = next_request_id()
        asker.say(notify.encode_message(notify.AsyncComplete(AsyncRequestId(watcher.client_id, number), -errno.EDOM)))

        def ask() -> int:
            return image._run(watcher.request(notify.MetadataUpdate("k", "v"), number, lambda done, total: None))

        until(lambda: watcher._unheard, "it was heard")
        assert ask() == -errno.EDOM
        assert ask() == -errno.ETIMEDOUT  # it is told once, and nobody owns the lock
        for i in range(100):
            watcher._async_complete(notify.AsyncComplete(AsyncRequestId(watcher.client_id, 1 << 40 | i), 0), 0)
        assert len(watcher._unheard) <= 64


def test_request_of_an_old_client_is_answered_at_its_end(ioctx: rados.Ioctx, locked: str, rbd_cli: Run) -> None:
    """Before pacific they had no request id, and waited for the acknowledgement."""
    with rbd.Image(ioctx, locked) as image, Asker(ioctx, image) as asker:
        image.write(b"x", 0)
        data = notify.encode_message(notify.MetadataUpdate("old", "client"))
        body = data[6:-24]
        assert asker.say(bytes([6, 1]) + len(body).to_bytes(4, "little") + body) == [0]
        assert rbd_cli("image-meta", "get", locked, "old") == b"client\n"


def test_operation_stops_when_another_client_wants_the_lock(
    ioctx: rados.Ioctx, conf: str, locked: str, rbd_cli: Run
) -> None:
    """It is then asked of the new owner, as often as it takes."""
    with rbd.Image(ioctx, locked) as image, Peer(conf, librbd=True) as peer:
        peer.do(f"image = rbd.Image(ioctx, {locked!r})")
        begun = threading.Event()
        client = ioctx._client

        async def slow(progress: operation.Progress) -> str:
            for i in range(3000):
                begun.set()
                progress(i, 3000)
                event: Event[None] = Event(client.driver)
                client.driver.call_later(0.01, lambda event=event: event.set_result(None))  # type: ignore[misc]
                await event
            return "done here"

        results: list[object] = []

        def work() -> None:
            payload = notify.MetadataUpdate("who", "the new owner")
            results.append(image._run(operation.invoke(image._core, payload, slow)))

        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(20)
        start = time.monotonic()
        peer.do("image.write(b'x' * 4096, 0)")
        assert time.monotonic() - start < 10
        thread.join(60)
        assert not thread.is_alive()
        assert results == [None]
    assert rbd_cli("image-meta", "get", locked, "who") == b"the new owner\n"
