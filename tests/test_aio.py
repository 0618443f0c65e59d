"""The asyncio door: the same operations on a running loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyrbd import aio, rados, rbd

MIB = 1 << 20


def on_loop(fn: Callable[[aio.Ioctx], Coroutine[Any, Any, None]], conf: str) -> None:
    async def main() -> None:
        async with aio.Rados(conffile=conf) as cluster:
            await fn(await cluster.open_ioctx("rbd"))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_image(conf: str, name: str, rbd_cli: Callable[..., bytes]) -> None:
    async def work(ioctx: aio.Ioctx) -> None:
        images = aio.RBD()
        await images.create(ioctx, name, 40 * MIB + 5, order=20)
        data = os.urandom(13 * MIB)
        async with aio.Image(ioctx, name) as image:
            assert await image.write(data, 3 * MIB + 1) == len(data)
            assert await image.read(3 * MIB + 1, len(data)) == data
            assert await image.read(0, 10) == bytes(10)
            buffer = bytearray(2 * MIB)
            assert await image.read_into(3 * MIB + 1, buffer) == len(buffer)
            assert buffer == data[: 2 * MIB]
            await image.resize(20 * MIB)
            assert image.size() == 20 * MIB and image.stat()["num_objs"] == 20
            await image.discard(0, 20 * MIB)
            assert not any(await image.read(0, 20 * MIB))
            await image.flush()
        await images.rename(ioctx, name, name + "-b")
        assert name + "-b" in await images.list(ioctx)
        await images.remove(ioctx, name + "-b")

    on_loop(work, conf)
    assert name + "-b" not in rbd_cli("ls").decode().split()


def test_the_rest_of_an_image(conf: str, name: str, rbd_cli: Callable[..., bytes]) -> None:
    """A call of each room: they are the same coroutines as the blocking door runs."""

    async def work(ioctx: aio.Ioctx) -> None:
        images, child = aio.RBD(), name + "-child"
        await images.create(ioctx, name, 8 * MIB, order=20)
        async with aio.Image(ioctx, name) as image:
            await image.write(b"old", 0)
            await image.create_snap("s")
            await image.write(b"new", 0)
            assert [s["name"] for s in await image.list_snaps()] == ["s"]
            extents: list[tuple[int, int, bool]] = []
            await image.diff_iterate(0, 8 * MIB, "s", lambda *e: extents.append(e))
            assert extents == [(0, 3, True)]
            with pytest.raises(ZeroDivisionError):
                await image.diff_iterate(0, 8 * MIB, None, lambda *e: 1 // 0)
            await image.set_snap("s")
            assert await image.read(0, 3) == b"old"
            await image.set_snap(None)
            await image.protect_snap("s")
            await images.clone(ioctx, name, "s", ioctx, child, clone_format=1)
            assert await image.list_children() == [("rbd", child)]
            async with aio.Image(ioctx, child) as clone:
                assert (await clone.get_parent_image_spec())["snap_name"] == "s"
                done: list[tuple[int, int]] = []
                await clone.flatten(lambda *p: done.append(p))
                assert done and await clone.read(0, 3) == b"old"
            await image.rollback_to_snap("s")
            assert await image.read(0, 3) == b"old"
            await image.unprotect_snap("s")
            await image.remove_snap("s")
            await image.metadata_set("k", "v")
            assert await image.metadata_list() == [("k", "v")]
            with pytest.raises(KeyError):
                await image.metadata_get("no-such-key")
            await image.config_set("rbd_cache", "false")
            assert await image.config_get("rbd_cache") == "false"
            assert await image.is_exclusive_lock_owner()
            assert [o["mode"] for o in await image.lock_get_owners()] == [rbd.RBD_LOCK_MODE_EXCLUSIVE]
            await image.rebuild_object_map()
            await image.update_features(rbd.RBD_FEATURE_FAST_DIFF, False)
            assert not image.features() & rbd.RBD_FEATURE_OBJECT_MAP
            assert len(await image.watchers_list()) == 1
            await image.copy(ioctx, name + "-copy")
        await images.trash_move(ioctx, name + "-copy")
        (trashed,) = [t for t in await images.trash_list(ioctx) if t["name"] == name + "-copy"]
        await images.trash_remove(ioctx, trashed["id"])
        await images.namespace_create(ioctx, name)
        assert await images.namespace_exists(ioctx, name)
        await images.namespace_remove(ioctx, name)
        await images.remove(ioctx, child)
        assert (await images.pool_stats_get(ioctx))["image_count"] >= 1
        with pytest.raises(rbd.FunctionNotSupported, match="mirror_mode_get"):
            images.mirror_mode_get(ioctx)  # type: ignore[attr-defined]

    on_loop(work, conf)
    assert name in rbd_cli("ls").decode().split()


def test_many_at_once(conf: str, name: str) -> None:
    async def work(ioctx: aio.Ioctx) -> None:
        await aio.RBD().create(ioctx, name, 16 * MIB, order=20)
        async with aio.Image(ioctx, name) as image:
            blocks = [os.urandom(4096) for _ in range(200)]
            await asyncio.gather(*(image.write(b, 70000 * i) for i, b in enumerate(blocks)))
            assert await asyncio.gather(*(image.read(70000 * i, 4096) for i in range(200))) == blocks

    on_loop(work, conf)


def test_cancelling_leaves_the_client_usable(conf: str, name: str) -> None:
    async def work(ioctx: aio.Ioctx) -> None:
        await aio.RBD().create(ioctx, name, 64 * MIB, order=22)
        async with aio.Image(ioctx, name) as image:
            data = os.urandom(32 * MIB)
            await image.write(data, 0)
            for delay in (0, 0.001, 0.01, 0.02):
                task = asyncio.create_task(image.read(0, len(data)))
                await asyncio.sleep(delay)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await image.read(MIB, 5) == data[MIB : MIB + 5]
            assert await image.read(0, len(data)) == data

    on_loop(work, conf)


def test_errors(conf: str, name: str) -> None:
    async def work(ioctx: aio.Ioctx) -> None:
        with pytest.raises(rbd.ImageNotFound):
            await aio.Image(ioctx, "no-such-image").open()
        with pytest.raises(rbd.InvalidArgument):
            aio.Image(ioctx)
        with pytest.raises(rados.ObjectNotFound):
            await ioctx.read("no-such-object")
        await aio.RBD().create(ioctx, name, MIB)
        image = await aio.Image(ioctx, name).open()
        with pytest.raises(TypeError):
            await image.write("text", 0)
        with pytest.raises(rbd.IncompleteWriteError):
            await image.write(b"xxx", MIB - 1)
        await image.close()
        with pytest.raises(rbd.InvalidArgument):
            await image.read(0, 1)

    on_loop(work, conf)


def test_a_silent_monitor(conf: str) -> None:
    import socket
    import time

    async def main(port: int) -> None:
        key = "AQBSWwVrAAAAABAAAQIDBAUGBwgJCgsMDQ4PEA=="
        cluster = aio.Rados(conf={"mon_host": f"127.0.0.1:{port}", "key": key})
        start = time.monotonic()
        with pytest.raises(rados.TimedOut):
            await cluster.connect(timeout=0.6)
        assert 0.6 <= time.monotonic() - start < 0.7
        await cluster.shutdown()

    with socket.create_server(("127.0.0.1", 0)) as s:
        asyncio.run(main(s.getsockname()[1]))


def test_objects(conf: str, name: str) -> None:
    """The same requests as `rados.Ioctx` has."""

    async def work(ioctx: aio.Ioctx) -> None:
        assert await ioctx.write_full(name, b"abcdef") == 0
        assert await ioctx.append(name, b"gh") == 0
        assert await ioctx.read(name, 3, 2) == b"cde"
        assert await ioctx.cmpext(name, b"abX") == -rados.MAX_ERRNO - 2
        assert (await ioctx.stat(name))[0] == 8
        into = bytearray(4)
        assert await ioctx.read_into(name, into, 4) == 4 and into == b"efgh"
        await ioctx.set_xattr(name, "k", b"v")
        assert dict(await ioctx.get_xattrs(name)) == {"k": b"v"}
        assert await ioctx.execute(name, "hello", "say_hello", b"") == (13, b"Hello, world!")
        with rados.WriteOpCtx() as op:
            op.cmpext(b"abc")
            op.write(b"ABC")
            ioctx.set_omap(op, ("one", "two"), (b"1", b"2"))
            await ioctx.operate_write_op(op, name)
        with rados.ReadOpCtx() as read:
            it, _ = ioctx.get_omap_vals(read, "", "", 10)
            await ioctx.operate_read_op(read, name)
        assert list(it) == [("one", b"1"), ("two", b"2")]
        await ioctx.lock_exclusive(name, "lk", "cookie")
        with pytest.raises(rados.ObjectExists):
            await ioctx.lock_exclusive(name, "lk", "cookie")
        assert (await ioctx.list_lockers(name, "lk"))["exclusive"]
        await ioctx.unlock(name, "lk", "cookie")
        assert name in [entry.oid async for entry in ioctx.list_objects()]
        assert "num_objects" in await ioctx.get_stats()
        await ioctx.remove_object(name)
        with pytest.raises(rados.ObjectNotFound):
            await ioctx.read(name)

    on_loop(work, conf)


def test_watch_and_notify(conf: str, name: str) -> None:
    """Callbacks may be coroutine functions that use the cluster."""

    async def work(ioctx: aio.Ioctx) -> None:
        await ioctx.write_full(name, b"content")

        async def answer(notify_id: int, notifier: int, watch_id: int, data: bytes) -> bytes:
            return data + b"/" + await ioctx.read(name)

        async with await ioctx.watch(name, answer) as watch:
            acks = await ioctx.notify(name, "hello")
            assert acks == [(ioctx.rados.get_instance_id(), watch.get_id(), b"hello/content")]
            assert watch.check().total_seconds() < 20
        assert await ioctx.notify(name, "nobody") == []
        lost: list[Any] = []
        kept = await ioctx.watch(name, lambda *args: None, lambda *args: lost.append(args))
        await ioctx.remove_object(name)
        while not lost:
            await asyncio.sleep(0.05)
        assert lost == [(kept.get_id(), -107)]

    on_loop(work, conf)


def test_commands_and_pools(conf: str) -> None:
    async def main() -> None:
        async with aio.Rados(conffile=conf) as cluster:
            cmd = '{"prefix": "version", "format": "json"}'
            for reply in (
                await cluster.mon_command(cmd),
                await cluster.mon_command(cmd, target="a"),
                await cluster.osd_command(0, cmd),
                await cluster.pg_command("1.0", cmd),
            ):
                assert (reply[0] == 0 and b"16.2" in reply[1]) or b"version" in reply[1]
            usage = '{"prefix": "osd df", "format": "json"}'
            assert b"nodes" in (await cluster.mgr_command(usage))[1]
            assert (await cluster.osd_command(99, cmd))[0] == -2
            await cluster.create_pool("aio-pool")
            ioctx = await cluster.open_ioctx("aio-pool")
            await ioctx.application_enable("test")
            assert ioctx.application_list() == ["test"]
            first = await ioctx.create_self_managed_snap()
            await ioctx.write_full("a", b"before")
            ioctx.set_self_managed_snap_write([await ioctx.create_self_managed_snap()])
            await ioctx.remove_self_managed_snap(first)
            assert (await cluster.get_cluster_stats())["kb"] > 0
            await cluster.delete_pool("aio-pool")
            assert await cluster.pool_lookup("aio-pool") is None

    asyncio.run(asyncio.wait_for(main(), 60))


def test_more_at_once_than_may_be_in_flight(conf: str, name: str) -> None:
    async def main() -> None:
        limits = {"objecter_inflight_ops": "10", "objecter_inflight_op_bytes": "100000"}
        async with aio.Rados(conffile=conf, conf=limits) as cluster:
            ioctx = await cluster.open_ioctx("rbd")
            blocks = [os.urandom(20_000) for _ in range(200)]
            tasks = [asyncio.ensure_future(ioctx.append(name, b)) for b in blocks]  # type: ignore[arg-type]
            most = 0
            while not all(t.done() for t in tasks):
                ops, size = cluster.client.objecter.throttle.in_flight
                assert ops <= 10 and size <= 120_000
                most = max(most, ops)
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            assert most > 1
            assert await ioctx.read(name, 5_000_000) == b"".join(blocks)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_task_that_is_cancelled_at_any_step_leaves_nothing_behind(conf: str, name: str) -> None:
    """After each number of turns of the loop: in the middle of writes, watches, commands, listings."""

    async def work(ioctx: aio.Ioctx) -> None:
        client = ioctx.rados.client

        async def everything() -> None:
            await ioctx.write_full(name, b"something")
            assert await ioctx.read(name) == b"something"
            async with await ioctx.watch(name, lambda *_: b"heard"):
                await ioctx.notify(name, "x", 2000)
            await client.mon_command('{"prefix": "osd pool ls"}')
            async for _ in ioctx.list_objects():
                break

        cancelled, steps = 0, 0
        while True:
            task = asyncio.create_task(everything())
            for _ in range(steps):
                await asyncio.sleep(0)
            finished = task.done()
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                cancelled += 1
            if finished:
                break
            steps += 1 + steps // 12
        assert cancelled > 20
        await ioctx.write_full(name, b"the end")
        assert await ioctx.read(name) == b"the end"
        assert client.objecter.throttle.in_flight == (0, 0)
        assert not client.watches._watches and not client.dialogs

    on_loop(work, conf)


def test_a_loop_that_is_closed_with_everything_in_flight(conf: str) -> None:
    """And a client that is used on another loop than its own, which is told."""
    program = """
import asyncio, gc, sys
from pyrbd import aio
async def begin():
    cluster = aio.Rados(conffile=sys.argv[1])
    await cluster.connect()
    ioctx = await cluster.open_ioctx("rbd")
    tasks = [asyncio.create_task(ioctx.write_full(f"loop{i}", bytes(100000))) for i in range(20)]
    await asyncio.sleep(0)
    return ioctx, tasks
loop = asyncio.new_event_loop()
kept = loop.run_until_complete(begin())
try:
    asyncio.run(asyncio.wait_for(kept[0].read("loop0"), 20))
except RuntimeError as e:
    print(e)
loop.close()
del kept
gc.collect()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, conf], capture_output=True, text=True, timeout=40, check=True
    )
    assert "attached to a different loop" in done.stdout
    assert "Traceback" not in done.stderr
