"""The mutex and the gate of an open image: in threads, in the background, with holders that die."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

from pyrbd import aio, rados
from pyrbd.image.sync import Gate, Mutex
from pyrbd.rados.completion import Event


def test_a_mutex_lets_one_in_at_a_time_from_threads_and_the_background(handle: rados.Rados) -> None:
    client = handle.client
    mutex = Mutex(client)
    inside: list[int] = []
    overlaps: list[int] = []

    async def work(n: int) -> None:
        with await mutex.acquire():
            inside.append(n)
            if len(inside) > 1:
                overlaps.append(n)
            event: Event[None] = Event(client.driver)
            client.driver.call_later(0.001, lambda: event.set_result(None))
            await event
            inside.remove(n)

    threads = [threading.Thread(target=lambda n=n: client.run(work(n))) for n in range(16)]
    for t in threads:
        t.start()
    spawned = [client.spawn(work(100 + n)) for n in range(16)]
    for t in threads:
        t.join(20)
        assert not t.is_alive()
    for s in spawned:
        client.wait(s)
    assert not overlaps
    assert not mutex.locked


def test_a_mutex_comes_back_from_a_holder_that_died(handle: rados.Rados) -> None:
    client = handle.client
    mutex = Mutex(client)

    async def take() -> Any:
        return await mutex.acquire()

    hold = client.run(take())
    assert mutex.locked
    begun: list[Any] = []
    thread = threading.Thread(target=lambda: begun.append(client.run(take())))
    thread.start()
    time.sleep(0.05)
    assert not begun
    del hold  # as a frame does that an interrupt has torn down
    gc.collect()
    thread.join(5)
    assert begun
    begun[0].release()


def test_a_mutex_passes_over_who_no_longer_waits(handle: rados.Rados) -> None:
    client = handle.client
    mutex = Mutex(client)

    async def take() -> Any:
        return await mutex.acquire()

    hold = client.run(take())
    given_up = take()
    given_up.send(None)
    given_up.close()
    del given_up
    hold.release()
    client.run(take()).release()


def test_a_gate_keeps_out_and_drains(handle: rados.Rados) -> None:
    client = handle.client
    gate = Gate(client)
    stop = threading.Event()
    inside = 0
    lock = threading.Lock()

    async def visit() -> None:
        nonlocal inside
        with await gate.enter():
            with lock:
                inside += 1
            event: Event[None] = Event(client.driver)
            client.driver.call_later(0.0005, lambda: event.set_result(None))
            await event
            with lock:
                inside -= 1

    def visitor() -> None:
        while not stop.is_set():
            client.run(visit())

    async def look() -> int:
        with await gate.block():
            return inside

    threads = [threading.Thread(target=visitor) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        for _ in range(50):
            assert client.run(look()) == 0
    finally:
        stop.set()
        for t in threads:
            t.join(20)
    assert not any(t.is_alive() for t in threads)


def test_a_gate_heals_when_who_is_inside_or_who_blocks_dies(handle: rados.Rados) -> None:
    client = handle.client
    gate = Gate(client)

    async def enter() -> Any:
        return await gate.enter()

    async def block() -> Any:
        return await gate.block()

    inside = client.run(enter())
    begun = time.monotonic()
    threading.Timer(0.1, lambda: held.clear()).start()
    held = [inside]
    del inside
    blocked = client.run(block())
    assert 0.05 < time.monotonic() - begun < 5
    assert gate.try_enter() is None
    thread = threading.Thread(target=lambda: client.run(enter()).leave())
    thread.start()
    del blocked
    thread.join(5)
    assert not thread.is_alive()


def test_who_was_to_be_told_goes_on_though_nobody_told_him(handle: rados.Rados) -> None:
    """KeyboardInterrupt may come between the end of something and the calls of who is to know of it."""
    client = handle.client
    mutex, gate = Mutex(client), Gate(client)

    async def take() -> None:
        (await mutex.acquire()).release()

    async def enter() -> None:
        (await gate.enter()).leave()

    async def hold_both() -> tuple[Any, Any]:
        return await mutex.acquire(), await gate.block()

    event: Event[int] = Event(client.driver)

    async def listen() -> int:
        return await event

    hold, block = client.run(hold_both())
    waiting = [client.spawn(c) for c in (take(), enter(), listen())]
    event._callbacks.clear()
    event.set_result(7)
    hold._mutex = None  # it is released, and nobody is told
    gate._blocks.clear()
    block._gate = None
    begun = time.monotonic()
    for w in waiting:
        client.wait(w)
    assert waiting[2].result() == 7
    assert time.monotonic() - begun < 5


def test_the_same_on_asyncio(conf: str) -> None:
    async def main() -> None:
        async with aio.Rados(conffile=conf) as cluster:
            gate, mutex = Gate(cluster.client), Mutex(cluster.client)
            inside = 0

            async def visit() -> None:
                nonlocal inside
                with await gate.enter():
                    inside += 1
                    await asyncio.sleep(0.001)
                    inside -= 1

            async def look() -> None:
                with await mutex.acquire(), await gate.block():
                    assert inside == 0

            everything = asyncio.gather(*(visit() for _ in range(50)), *(look() for _ in range(10)))
            await asyncio.wait_for(everything, 20)

    asyncio.run(main())
