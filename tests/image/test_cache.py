"""The write-around cache: what it takes, when that is stored, and who must not miss it."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyrbd import aio, rados, rbd
from pyrbd.image.cache import Dirty

Run = Callable[..., bytes]
ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture
def image(ioctx: rados.Ioctx, name: str) -> Iterator[rbd.Image]:
    """Open, with its cache in use."""
    rbd.RBD().create(ioctx, name, 64 * MIB, 22)
    with rbd.Image(ioctx, name) as found:
        found.write(b"-" * 4096, 60 * MIB)  # we have the lock
        found.flush()
        yield found


@contextmanager
def paused(ceph_cli: Run) -> Iterator[None]:
    """The OSDs do nothing for clients."""
    ceph_cli("osd", "pause")
    try:
        yield
    finally:
        ceph_cli("osd", "unpause")


def wait_until(what: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def pause_heard(image: rbd.Image) -> None:
    """Returns when our map says that the OSDs are paused."""
    image._client.run(image._client.wait_for_latest_osdmap())


# ---------------------------------------------------------------- when it is in use


def test_writes_return_early_after_the_first_flush(ioctx: rados.Ioctx, name: str, ceph_cli: Run, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 22)
    with rbd.Image(ioctx, name) as image:
        image.write(b"-" * 4096, 0)
        with paused(ceph_cli):
            pause_heard(image)
            through = threading.Thread(target=image.write, args=(b"a" * 4096, 0))
            through.start()
            through.join(0.5)
            assert through.is_alive(), "nobody has flushed: a write returns when it is stored"
        through.join(20)
        image.flush()
        with paused(ceph_cli):
            pause_heard(image)
            assert image.write(b"b" * 4096, 4096) == 4096
            assert image.write(bytearray(b"c" * 8192), 4 * MIB - 4096) == 8192
            flush = threading.Thread(target=image.flush)
            flush.start()
            flush.join(0.5)
            assert flush.is_alive(), "nothing can be stored, so nothing is flushed"
        flush.join(20)
        assert not flush.is_alive()
        stored = rbd_cli("export", "--no-progress", name, "-")
        assert stored[:12288] == b"a" * 4096 + b"b" * 4096 + bytes(4096)
        assert stored[4 * MIB - 4096 : 4 * MIB + 8192] == b"c" * 8192 + bytes(4096)


@pytest.mark.parametrize(
    "conf_options",
    [{"rbd_cache": "false"}, {"rbd_cache_policy": "writethrough"}, {"rbd_cache_max_dirty": "0"}],
    ids=lambda options: next(iter(options)),
)
def test_options_that_turn_it_off(conf: str, ioctx: rados.Ioctx, name: str, conf_options: dict[str, str]) -> None:
    rbd.RBD().create(ioctx, name, MIB)
    with (
        rados.Rados(conffile=conf, conf=conf_options) as cluster,
        cluster.open_ioctx("rbd") as io,
        rbd.Image(io, name) as image,
    ):
        image.flush()
        assert not image._core.cache.active


def test_options_of_the_image_and_a_cache_from_the_begin(conf: str, ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, MIB)
    options = {"rbd_cache_writethrough_until_flush": "false"}
    with rados.Rados(conffile=conf, conf=options) as cluster, cluster.open_ioctx("rbd") as io:
        with rbd.Image(io, name) as image:
            assert image._core.cache.active
            image.metadata_set("conf_rbd_cache", "false")
        with rbd.Image(io, name) as image:
            assert not image._core.cache.active
        with rbd.Image(io, name, read_only=True) as image:
            assert not image._core.cache.active


# ---------------------------------------------------------------- what it does


def test_writes_to_one_object_travel_together(image: rbd.Image, rbd_cli: Run, name: str) -> None:
    objecter = image._client.objecter
    first = next(objecter._tids)
    for i in range(256):
        image.write(i.to_bytes(2, "little") * 2048, i * 4096)
    for i in range(64):  # apart from each other
        image.write(b"z" * 512, 8 * MIB + i * 8192)
    image.flush()
    assert next(objecter._tids) - first < 60
    stored = rbd_cli("export", "--no-progress", name, "-")
    assert stored[:MIB] == b"".join(i.to_bytes(2, "little") * 2048 for i in range(256))
    assert stored[8 * MIB : 8 * MIB + 64 * 8192] == (b"z" * 512 + bytes(7680)) * 64


def test_extents_of_an_object_are_merged_as_they_lie() -> None:
    rng = random.Random(11)
    for _ in range(300):
        model, covered = bytearray(4096), bytearray(4096)
        dirty = Dirty()
        at = 0
        for n in range(rng.randrange(1, 40)):
            at = at if rng.random() < 0.5 else rng.randrange(4000)
            data = bytes([n + 1]) * rng.choice((1, 7, 64, 500))
            data = data[: 4096 - at]
            if not data:
                continue
            dirty.add(at, data)
            model[at : at + len(data)] = data
            covered[at : at + len(data)] = b"\1" * len(data)
            at = (at + len(data)) % 4096
        found, mask, end = bytearray(4096), bytearray(4096), -1
        for start, piece in zip(dirty.starts, dirty.pieces, strict=True):
            assert start > end, "extents that touch are one"
            end = start + len(piece)
            found[start:end] = piece
            mask[start:end] = b"\1" * len(piece)
        assert (found, mask) == (model, covered)


def test_writers_wait_when_much_is_not_stored(conf: str, ioctx: rados.Ioctx, name: str, ceph_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 22)
    options = {"rbd_cache_max_dirty": str(MIB), "rbd_cache_target_dirty": str(MIB // 2)}
    with rados.Rados(conffile=conf, conf=options) as cluster, cluster.open_ioctx("rbd") as io:
        with rbd.Image(io, name) as image:
            image.write(b"-" * 4096, 0)
            image.flush()
            written = 0

            def work() -> None:
                nonlocal written
                for i in range(1000):
                    written += image.write(b"x" * 4096, i * 65536 % (64 * MIB))

            thread = threading.Thread(target=work)
            with paused(ceph_cli):
                pause_heard(image)
                thread.start()
                wait_until(lambda: written == MIB)
                thread.join(0.3)
                assert written == MIB
            thread.join(60)
            assert written == 1000 * 4096
            image.flush()
        with rbd.Image(io, name, read_only=True) as again:
            for i in range(0, 1000, 37):
                assert again.read(i * 65536, 4097) == b"x" * 4096 + bytes(1)


def test_random_operations_with_everybody_looking(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    """Writes of all sizes, discards, zeroes, compare-and-write, snapshots, sizes, beside a model."""
    size, rng = 4 * MIB, random.Random(3)
    rbd.RBD().create(ioctx, name, size, 16, features=61)
    model = bytearray(size)
    snaps: dict[str, bytes] = {}
    with rbd.Image(ioctx, name) as image:
        image.flush()
        for i in range(1500):
            length = rng.choice((1, 512, 4096, 4096, 65536, 200000))
            at = rng.randrange(0, size - length)
            if rng.random() < 0.5:
                at = at // 4096 * 4096
            kind = rng.choices(
                ("write", "read", "discard", "zeroes", "compare", "snap", "resize", "flush"),
                (60, 15, 3, 3, 3, 0.6, 0.6, 1),
            )[0]
            if kind == "write":
                data = rng.randbytes(length)
                assert image.write(data if i % 2 else bytearray(data), at) == length
                model[at : at + length] = data
            elif kind == "read":
                assert image.read(at, length) == model[at : at + length]
            elif kind == "discard":
                first = at // 65536 * 65536
                image.discard(first, 65536)
                model[first : first + 65536] = bytes(65536)
            elif kind == "zeroes":
                image.write_zeroes(at, length)
                model[at : at + length] = bytes(length)
            elif kind == "compare":
                at = at // 4096 * 4096
                data = rng.randbytes(512)
                image.compare_and_write(bytes(model[at : at + 512]), data, at)
                model[at : at + 512] = data
            elif kind == "snap":
                image.create_snap(f"s{i}")
                snaps[f"s{i}"] = bytes(model)
            elif kind == "resize":
                image.resize(size // 2)
                image.resize(size)
                model[size // 2 :] = bytes(size // 2)
            else:
                image.flush()
        assert image.read(0, size) == model
    assert rbd_cli("export", "--no-progress", name, "-") == model
    rbd_cli("object-map", "check", "--no-progress", name)
    for snap, data in snaps.items():
        assert rbd_cli("export", "--no-progress", f"{name}@{snap}", "-") == data
    with rbd.Image(ioctx, name) as image:
        for snap in snaps:
            image.remove_snap(snap)


def test_a_striped_image(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 8 * MIB, 20, stripe_unit=16384, stripe_count=4)
    rng = random.Random(5)
    model = bytearray(8 * MIB)
    with rbd.Image(ioctx, name) as image:
        image.flush()
        for _ in range(200):
            at, data = rng.randrange(8 * MIB - 40000), rng.randbytes(rng.choice((100, 4096, 40000)))
            image.write(data, at)
            model[at : at + len(data)] = data
            assert image.read(max(0, at - 100), 1000) == model[max(0, at - 100) : max(0, at - 100) + 1000]
    assert rbd_cli("export", "--no-progress", name, "-") == model


def test_a_clone_is_copied_up(ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 8 * MIB, 20)
    rng = random.Random(6)
    model = bytearray(rng.randbytes(8 * MIB))
    with rbd.Image(ioctx, name) as parent:
        parent.write(bytes(model), 0)
        parent.create_snap("s")
        parent.protect_snap("s")
    clone = f"{name}-clone"
    rbd.RBD().clone(ioctx, name, "s", ioctx, clone)
    with rbd.Image(ioctx, clone) as image:
        image.flush()
        for _ in range(100):
            at, data = rng.randrange(8 * MIB - 5000), rng.randbytes(rng.choice((100, 4096)))
            image.write(data, at)
            model[at : at + len(data)] = data
        assert image.read(0, 8 * MIB) == model
        image.write(b"last", 0)
        model[:4] = b"last"
        image.flatten()
    assert rbd_cli("export", "--no-progress", clone, "-") == model
    rbd.RBD().remove(ioctx, clone)
    with rbd.Image(ioctx, name) as parent:
        parent.unprotect_snap("s")
        parent.remove_snap("s")


def test_threads(image: rbd.Image, rbd_cli: Run, name: str) -> None:
    """Each thread reads what it wrote, others flush, and asynchronous writes mix with them."""
    errors: list[BaseException] = []

    def work(k: int) -> None:
        rng = random.Random(k)
        try:
            for i in range(150):
                at = (rng.randrange(64) * 16 + k) * 4096
                data = bytes([k, i & 255]) * 2048
                if i % 10 == 9:
                    image.aio_write(data, at, lambda c: None).wait_for_complete_and_cb()
                else:
                    image.write(data, at)
                if i % 3 == 0:
                    assert image.read(at, 4096) == data
                if i % 50 == 49:
                    image.flush()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert not errors, errors[0]
    found = image.read(0, 4 * MIB)
    assert rbd_cli("export", "--no-progress", name, "-") != b"" and image.read(0, 4 * MIB) == found


# ---------------------------------------------------------------- who must not miss it


def test_a_snapshot_has_what_had_returned(image: rbd.Image, rbd_cli: Run, name: str) -> None:
    for i in range(20):
        image.write(bytes([i + 1]) * 4096, 4096 * i)
        image.create_snap(f"s{i}")
        image.write(b"\xff" * 4096, 4096 * i)
    for i in range(20):
        with rbd.Image(image.ioctx, name, snapshot=f"s{i}") as snapshot:
            assert snapshot.read(0, 4096 * 21) == b"\xff" * 4096 * i + bytes([i + 1]) * 4096 + bytes(4096 * (20 - i))
        image.remove_snap(f"s{i}")


def test_who_gets_the_lock_sees_everything(conf: str, image: rbd.Image, name: str, rbd_cli: Run) -> None:
    for i in range(100):
        image.write(b"mine" * 1024, i * 65536)
    rbd_cli("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "4K", "--io-threads", "1", name)
    stored = rbd_cli("export", "--no-progress", name, "-")
    for i in range(1, 100):
        assert stored[i * 65536 : i * 65536 + 4097] == b"mine" * 1024 + bytes(1)


def test_copies_and_diffs_have_what_had_returned(image: rbd.Image, name: str) -> None:
    image.write(b"a" * 4096, 12 * MIB)
    found: list[tuple[int, int, bool]] = []
    image.diff_iterate(0, 60 * MIB, None, lambda at, length, exists: found.append((at, length, exists)))
    assert found == [(12 * MIB, 4096, True)]
    image.write(b"b" * 4096, 12 * MIB)
    image.copy(image.ioctx, f"{name}-copy")
    with rbd.Image(image.ioctx, f"{name}-copy") as copy:
        assert copy.read(12 * MIB, 4097) == b"b" * 4096 + bytes(1)
    rbd.RBD().remove(image.ioctx, f"{name}-copy")


def test_close_shutdown_and_the_garbage_collection_store(conf: str, ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 22, features=1)
    ways = ("close", "shutdown", "forgotten")
    for number, way in enumerate(ways):
        cluster = rados.Rados(conffile=conf)
        cluster.connect()
        image = rbd.Image(cluster.open_ioctx("rbd"), name)
        image.flush()
        for i in range(200):
            image.write(way.encode()[:5] * 100, number * 16 * MIB + i * 65536)
        if way == "close":
            image.close()
        elif way == "forgotten":
            client = image._client
            del image
            gc.collect()
            wait_until(lambda client=client: not any(c.objects for c in list(client.caches)))
        cluster.shutdown()
    with rbd.Image(ioctx, name, read_only=True) as again:
        for number, way in enumerate(ways):
            for i in range(200):
                assert again.read(number * 16 * MIB + i * 65536, 500) == way.encode()[:5] * 100, way


def test_the_end_of_the_process_stores(conf: str, ioctx: rados.Ioctx, name: str) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 22)
    code = """
import sys
from pyrbd import rados, rbd
cluster = rados.Rados(conffile=sys.argv[1])
cluster.connect()
image = rbd.Image(cluster.open_ioctx("rbd"), sys.argv[2])
image.flush()
for i in range(500):
    image.write(b"x" * 4096, i * 65536)
"""
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", code, conf, name], check=True, env=env, timeout=60)
    with rbd.Image(ioctx, name, read_only=True) as again:
        for i in range(500):
            assert again.read(i * 65536, 4096) == b"x" * 4096


# ---------------------------------------------------------------- what fails late


Failing = tuple[rbd.Image, Callable[[bool], None]]


@pytest.fixture
def failing(image: rbd.Image, ceph_cli: Run) -> Iterator[Failing]:
    """An image, and what makes the OSDs refuse writes in the second half of each of its objects."""

    def fail(on: bool) -> None:
        ceph_cli("tell", "osd.*", "config", "set", "osd_max_object_size", str(2 * MIB if on else 128 * MIB))

    try:
        yield image, fail
    finally:
        fail(False)


def test_an_error_comes_back_once_with_its_extents(failing: Failing) -> None:
    image, fail = failing
    fail(True)
    image.write(b"a" * 4096, 3 * MIB)
    image.write(b"b" * 512, 7 * MIB)
    image.write(b"c" * 512, 8 * MIB)
    wait_until(lambda: not image._core.cache.objects)
    with pytest.raises(rbd.OSError, match=r"at (3145728~4096, 7340032~512|7340032~512, 3145728~4096):") as caught:
        image.flush()
    assert caught.value.errno == errno.EFBIG
    image.flush()
    assert image.read(8 * MIB, 513) == b"c" * 512 + bytes(1)
    fail(False)
    image.write(b"d" * 4096, 3 * MIB)
    image.flush()
    assert image.read(3 * MIB, 4096) == b"d" * 4096


def test_no_snapshot_of_what_was_lost_and_close_tells(failing: Failing) -> None:
    image, fail = failing
    fail(True)
    image.write(b"a" * 4096, 3 * MIB)
    with pytest.raises(rbd.OSError, match="3145728~4096"):
        image.create_snap("s")
    fail(False)
    assert list(image.list_snaps()) == []
    with pytest.raises(rbd.OSError, match="3145728~4096"):
        image.close()
    image.close()


# ---------------------------------------------------------------- the other door


def test_the_same_on_asyncio(conf: str, ioctx: rados.Ioctx, name: str, rbd_cli: Run) -> None:
    rbd.RBD().create(ioctx, name, 64 * MIB, 22)

    async def main() -> None:
        async with aio.Rados(conffile=conf) as cluster:
            io = await cluster.open_ioctx("rbd")
            async with aio.Image(io, name) as image:
                await image.flush()
                counter = itertools.count()

                async def work(k: int) -> None:
                    for i in range(100):
                        at = (i * 16 + k) * 4096
                        await image.write(bytes([k + 1]) * 4096, at)
                        if next(counter) % 7 == 0:
                            assert await image.read(at, 4096) == bytes([k + 1]) * 4096

                await asyncio.gather(*(work(k) for k in range(16)))
                await image.create_snap("s")
                await image.write(b"\xff" * 4096, 0)

    asyncio.run(main())
    expected = b"".join(bytes([k + 1]) * 4096 for k in range(16)) * 100
    assert rbd_cli("export", "--no-progress", f"{name}@s", "-")[: len(expected)] == expected
    assert rbd_cli("export", "--no-progress", name, "-")[: len(expected)] == b"\xff" * 4096 + expected[4096:]
    with rbd.Image(ioctx, name) as image:
        image.remove_snap("s")
