"""Operations of an image that go on by themselves."""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Any

import pytest

from pyrbd import rados, rbd

MIB = 1 << 20


def test_what_callbacks_get(image: rbd.Image) -> None:
    told: list[Any] = []
    data = os.urandom(3 * MIB)
    written = image.aio_write(data, MIB - 5, lambda *a: told.append(a))
    written.wait_for_complete_and_cb()
    assert told.pop() == (written,) and written.get_return_value() == 0 and written.is_complete()
    read = image.aio_read(MIB - 5, len(data), lambda *a: told.append(a))
    read.wait_for_complete_and_cb()
    assert told.pop() == (read, data) and read.get_return_value() == len(data)
    for beyond in (
        image.aio_read(64 * MIB, 1, lambda *a: told.append(a)),
        image.aio_write(b"x", 64 * MIB, lambda *a: told.append((*a, None))),
        image.aio_discard(65 * MIB, 1, lambda *a: told.append((*a, None))),
        image.aio_write_zeroes(65 * MIB, 1, lambda *a: told.append((*a, None))),
    ):
        beyond.wait_for_complete_and_cb()
        assert told.pop(0) == (beyond, None) and beyond.get_return_value() == -errno.EINVAL
    at_the_end = image.aio_read(64 * MIB - 7, 100, lambda *a: told.append(a))
    at_the_end.wait_for_complete_and_cb()
    assert told.pop() == (at_the_end, bytes(7)) and at_the_end.get_return_value() == 7


def test_no_callback_is_needed(image: rbd.Image) -> None:
    completion = image.aio_write(b"data", 10, None)
    completion.wait_for_complete()
    assert completion.is_complete() and image.read(10, 4) == b"data"
    image.aio_discard(0, MIB, None).wait_for_complete()
    assert image.read(10, 4) == bytes(4)
    zeroed = image.aio_write_zeroes(0, MIB, None, rbd.RBD_WRITE_ZEROES_FLAG_THICK_PROVISION)
    zeroed.wait_for_complete()
    assert zeroed.get_return_value() == 0


def test_a_flush_is_after_the_writes_before_it(image: rbd.Image) -> None:
    ended: list[str] = []
    for i in range(50):
        image.aio_write(bytes([i + 1]) * MIB, i * MIB, lambda c: ended.append("write"))
    flushed = image.aio_flush(lambda c: ended.append("flush"))
    flushed.wait_for_complete_and_cb()
    assert ended == ["write"] * 50 + ["flush"]
    assert [image.read(i * MIB, 1)[0] for i in range(50)] == list(range(1, 51))


def test_writes_to_one_object_keep_their_order(image: rbd.Image) -> None:
    for i in range(200):
        image.aio_write(bytes([i]) * 4096, 8192, None)
    image.flush()
    assert image.read(8192, 4096) == bytes([199]) * 4096


def test_closing_waits_for_what_is_in_flight(ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, features=rbd.RBD_FEATURE_LAYERING)
    data = os.urandom(16 * MIB)
    with rbd.Image(ioctx, name) as image:
        image.aio_write(data, 0, None)
    with rbd.Image(ioctx, name) as image:
        image.aio_write(data, 16 * MIB, None)
        closed = image.aio_close(lambda c: None)
        with pytest.raises(rbd.InvalidArgument, match="closed"):
            image.read(0, 1)
        closed.wait_for_complete_and_cb()
        assert closed.get_return_value() == 0
    with rbd.Image(ioctx, name, read_only=True) as image:
        assert image.read(0, 32 * MIB) == data * 2


def test_the_callbacks_exception_is_raised_by_who_waits(image: rbd.Image) -> None:
    def fail(*args: Any) -> None:
        raise KeyError("mine")

    for completion in (image.aio_read(0, 1, fail), image.aio_read(1 << 40, 1, fail), image.aio_flush(fail)):
        with pytest.raises(KeyError, match="mine"):
            completion.wait_for_complete_and_cb()
        completion.wait_for_complete()
        assert completion.is_complete()


def test_callbacks_may_use_the_image_and_have_a_thread_of_their_own(image: rbd.Image) -> None:
    seen: list[Any] = []

    def callback(completion: rbd.Completion) -> None:
        seen.append((threading.current_thread().name, completion.get_return_value(), image.read(5, 3)))
        image.write(b"more", 100)

    image.aio_write(b"abc", 5, callback).wait_for_complete_and_cb()
    assert seen == [("pyrbd-finisher", 0, b"abc")]
    assert image.read(100, 4) == b"more"


def test_nothing_refers_to_a_completion_that_was_waited_for(image: rbd.Image) -> None:
    def callback(*args: Any) -> None:
        pass

    for completion in (
        image.aio_read(0, 20, callback),
        image.aio_read(64 * MIB, 20, callback),
        image.aio_write(b"x", 0, callback),
        image.aio_flush(callback),
    ):
        completion.wait_for_complete_and_cb()
    del completion
    for begin in (
        lambda: image.aio_read(0, 20, callback),
        lambda: image.aio_read(64 * MIB, 20, callback),
        lambda: image.aio_write(b"x", 0, callback),
    ):
        for _ in range(50):
            completion = begin()
            completion.wait_for_complete_and_cb()
            assert sys.getrefcount(completion) == 2


def test_opening(ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, MIB)
    opened: list[rbd.Image] = []
    completion = rbd.RBD().aio_open_image(lambda c, image: opened.append(image), ioctx, name)
    completion.wait_for_complete_and_cb()
    assert completion.get_return_value() == 0
    with opened.pop() as image:
        assert image.get_name() == image.name == name and image.size() == MIB
        image_id = image.id()
    by_id = rbd.RBD().aio_open_image(lambda c, image: opened.append(image), ioctx, image_id=image_id, read_only=True)
    by_id.wait_for_complete_and_cb()
    with opened.pop() as image:
        assert image.name == name
        with pytest.raises(rbd.ReadOnlyImage):
            image.write(b"x", 0)
    missing = rbd.RBD().aio_open_image(lambda c, image: opened.append(image), ioctx, "no-such-image")
    missing.wait_for_complete_and_cb()
    assert missing.get_return_value() == -errno.ENOENT
    with pytest.raises(rbd.InvalidArgument, match="closed"):
        opened.pop().size()
    with pytest.raises(rbd.InvalidArgument, match="only need"):
        rbd.RBD().aio_open_image(lambda c, image: None, ioctx, name, image_id=image_id)


def test_what_is_in_flight_at_a_shutdown_is_told(conf: str, name: str) -> None:
    with rados.Rados(conffile=conf) as cluster:
        ioctx = cluster.open_ioctx("rbd")
        rbd.RBD().create(ioctx, name, 64 * MIB)
        image = rbd.Image(ioctx, name)
        codes: list[int] = []
        begun = [image.aio_write(bytes(MIB), i * MIB, lambda c: codes.append(c.get_return_value())) for i in range(32)]
    for completion in begun:
        completion.wait_for_complete_and_cb()
    assert len(codes) == 32 and set(codes) <= {0, -errno.ESHUTDOWN}


def test_wrong_arguments_are_refused_at_once(image: rbd.Image) -> None:
    with pytest.raises(TypeError):
        image.aio_write("text", 0, None)
    for begin in (
        lambda: image.aio_write(b"x", -1, None),
        lambda: image.aio_read(-1, 1, print),
        lambda: image.aio_discard(0, -1, None),
        lambda: image.aio_write_zeroes(1 << 64, 1, None),
    ):
        with pytest.raises(OverflowError):
            begin()
