"""The asyncio door: the same operations on a running loop."""

from __future__ import annotations

import asyncio
import os
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
