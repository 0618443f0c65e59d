"""Many at once on one open image: threads, asynchronous writes, snapshots and resizing meanwhile, interrupts and
cancellations. Nothing that was acknowledged is lost, a snapshot has what was acknowledged before it was
asked for, and the object map is never less than the truth."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyrbd import aio, rados, rbd
from pyrbd.image import header

Run = Callable[..., bytes]
BLOCK = 8192
BLOCKS = 512
SIZE = BLOCK * BLOCKS


def block(generation: int) -> bytes:
    return generation.to_bytes(8, "little") * (BLOCK // 8)


def generations(data: bytes) -> list[int]:
    """Of each block; each must be of one generation as a whole."""
    found = []
    for at in range(0, len(data), BLOCK):
        generation = int.from_bytes(data[at : at + 8], "little")
        assert data[at : at + BLOCK] == block(generation), f"the block at {at} is of several writes"
        found.append(generation)
    return found


def stored(ioctx: rados.Ioctx, name: str) -> bytes:
    """What the objects of an image have, whatever its object map says."""
    with rbd.Image(ioctx, name, read_only=True) as image:
        prefix, size, piece = image.block_name_prefix(), image.size(), 1 << image.stat()["order"]
    data = bytearray(size)
    for n in range(size // piece):
        try:
            found = ioctx.read(f"{prefix}.{n:016x}", piece)
        except rados.ObjectNotFound:
            continue
        data[n * piece : n * piece + len(found)] = found
    return bytes(data)


def check_object_maps(rbd_cli: Run, name: str, snaps: list[str]) -> None:
    for spec in (name, *(f"{name}@{s}" for s in snaps)):
        rbd_cli("object-map", "check", "--no-progress", spec)
        assert json.loads(rbd_cli("info", "--format", "json", spec)).get("flags", []) == [], spec


def remove_with_snapshots(ioctx: rados.Ioctx, name: str) -> None:
    with rbd.Image(ioctx, name) as image:
        for snap in list(image.list_snaps()):
            image.remove_snap(snap["name"])
    rbd.RBD().remove(ioctx, name)


@pytest.fixture
def wide(ioctx: rados.Ioctx, name: str) -> str:
    """Small objects, so that there are many; with lock and object map."""
    rbd.RBD().create(ioctx, name, SIZE, 16, features=61)
    return name


@pytest.mark.timeout(180)
def test_threads_and_asynchronous_writes_while_snapshots_are_made(
    conf: str, ioctx: rados.Ioctx, wide: str, rbd_cli: Run
) -> None:
    threads, rounds = 8, 6
    errors: list[BaseException] = []
    begun = [0] * BLOCKS
    sure = [0] * BLOCKS
    stop = threading.Event()
    windows: list[tuple[str, list[int], list[int]]] = []
    with rbd.Image(ioctx, wide) as image:

        def work(number: int) -> None:
            rng, generation = random.Random(number), 0
            mine = range(number, BLOCKS, threads)
            try:
                while not stop.is_set():
                    generation += 1
                    chosen = rng.sample(mine, rng.choice((1, 1, 4, 16)))
                    for n in chosen:
                        begun[n] = generation
                    if len(chosen) == 1:
                        image.write(block(generation), chosen[0] * BLOCK)
                    else:
                        flight = [image.aio_write(block(generation), n * BLOCK, lambda c: None) for n in chosen]
                        for completion in flight:
                            completion.wait_for_complete_and_cb()
                            assert completion.get_return_value() == BLOCK or completion.get_return_value() == 0
                    for n in chosen:
                        sure[n] = generation
            except BaseException as e:
                errors.append(e)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        try:
            for i in range(rounds):
                time.sleep(0.2)
                before = list(sure)
                image.create_snap(f"s{i}")
                windows.append((f"s{i}", before, list(begun)))
                image.resize(SIZE + (i % 3) * 65536)
                if i % 2:
                    assert rbd_cli("snap", "ls", wide)  # another client reads the header meanwhile
        finally:
            stop.set()
            for worker in workers:
                worker.join(60)
        assert not any(worker.is_alive() for worker in workers)
        assert not errors, errors
        assert generations(image.read(0, SIZE)) == sure
    for snap, least, most in windows:
        with rbd.Image(ioctx, wide, snapshot=snap) as at:
            found = generations(at.read(0, SIZE))
        assert all(low <= g <= high for low, g, high in zip(least, found, most)), snap
        exported = rbd_cli("export", "--no-progress", f"{wide}@{snap}", "-")
        assert generations(exported[:SIZE]) == found, "librbd reads the snapshot as we do"
    assert sum(sure) > threads * rounds
    check_object_maps(rbd_cli, wide, [w[0] for w in windows])
    remove_with_snapshots(ioctx, wide)


def test_nobody_goes_on_with_the_header_of_before(
    ioctx: rados.Ioctx, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes while another thread reads the header again waits for it: there is a snapshot that he must know."""
    rbd.RBD().create(ioctx, name, 1 << 22, features=1)
    reading, go_on = threading.Event(), threading.Event()
    load = header.load
    threads: list[threading.Thread] = []

    async def slowly(*args: Any) -> header.Header:
        found = await load(*args)
        if threading.current_thread() is threads[0]:
            reading.set()
            assert go_on.wait(20)
        return found

    with rbd.Image(ioctx, name) as image:
        image.write(b"a" * 4096, 0)
        with rbd.Image(ioctx, name) as other:
            other.create_snap("s")  # the other one is told
        with monkeypatch.context() as patch:
            patch.setattr(header, "load", slowly)
            threads += [
                threading.Thread(target=image.read, args=(0, 4096)),
                threading.Thread(target=image.write, args=(b"b" * 4096, 0)),
            ]
            threads[0].start()
            assert reading.wait(20)
            threads[1].start()
            threads[1].join(0.3)
            waited = threads[1].is_alive()
            go_on.set()
            for t in threads:
                t.join(20)
                assert not t.is_alive()
        assert waited
        assert image.read(0, 4096) == b"b" * 4096
        with rbd.Image(ioctx, name, snapshot="s") as snapshot:
            assert snapshot.read(0, 4096) == b"a" * 4096
    remove_with_snapshots(ioctx, name)


@pytest.mark.timeout(180, method="thread")  # the alarm is the test's own
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_random_moments(conf: str, ioctx: rados.Ioctx, wide: str, rbd_cli: Run) -> None:
    """What is interrupted is done or not done; the image goes on, and its object map is never too small."""
    rng = random.Random(5)
    may: list[set[int]] = [{0} for _ in range(BLOCKS)]
    generation = interrupted = 0
    snaps: list[str] = []

    def ring(*args: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with (
            rados.Rados(conffile=conf, conf={"rados_osd_op_timeout": "30"}) as cluster,
            cluster.open_ioctx("rbd") as io,
            rbd.Image(io, wide) as image,
        ):
            image.read(0, SIZE)  # imports what large reads need: an interrupt in an import is Python's affair
            end = time.monotonic() + 15
            while time.monotonic() < end:
                generation += 1
                n = rng.randrange(BLOCKS)
                kind = rng.choices(("write", "discard", "snap", "flush"), (80, 10, 3, 3))[0]
                first = n // 8 * 8  # the blocks of an object
                if kind == "write":
                    may[n].add(generation)
                elif kind == "discard":
                    for k in range(first, first + 8):
                        may[k].add(0)
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.choice((rng.uniform(1e-5, 4e-3), rng.uniform(1e-4, 5e-2))))
                    if kind == "write":
                        image.write(block(generation), n * BLOCK)
                    elif kind == "discard":
                        image.discard(first * BLOCK, 65536)
                    elif kind == "snap":
                        image.create_snap(f"s{generation}")
                    else:
                        image.flush()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    if kind == "write":
                        may[n] = {generation}
                    elif kind == "discard":
                        for k in range(first, first + 8):
                            may[k] = {0}
                except KeyboardInterrupt:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                if generation % 40 == 0:
                    found = generations(image.read(0, SIZE))
                    wrong = [(i, g, sorted(m)) for i, (g, m) in enumerate(zip(found, may)) if g not in m]
                    assert not wrong, wrong[:5]
                if generation % 150 == 0:
                    for snap in [s["name"] for s in image.list_snaps()]:
                        image.remove_snap(snap)
            found = generations(image.read(0, SIZE))
            snaps = [s["name"] for s in image.list_snaps()]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 20
    assert all(g in m for g, m in zip(found, may))
    exported = rbd_cli("export", "--no-progress", wide, "-")
    assert all(g in m for g, m in zip(generations(exported), may))
    assert exported == stored(ioctx, wide), "by the object map, librbd reads what is there"
    assert rbd_cli("lock", "ls", wide) == b""
    rbd_cli("bench", "--io-type", "write", "--io-size", "4K", "--io-total", "64K", "--io-threads", "2", wide)
    assert len(snaps) < 200
    remove_with_snapshots(ioctx, wide)


@pytest.mark.timeout(120)
def test_cancelled_tasks(conf: str, ioctx: rados.Ioctx, wide: str, rbd_cli: Run) -> None:
    """Tasks of asyncio that are cancelled at random moments, and snapshots between them."""
    rng = random.Random(6)
    may: list[set[int]] = [{0} for _ in range(BLOCKS)]
    seen: list[tuple[str, list[set[int]]]] = []

    async def main() -> int:
        cancelled = generation = 0
        async with aio.Rados(conffile=conf) as cluster:
            io = await cluster.open_ioctx("rbd")
            async with aio.Image(io, wide) as image:
                for i in range(60):
                    chosen = rng.sample(range(BLOCKS), 12)
                    tasks: dict[int, asyncio.Task[Any]] = {}
                    for n in chosen:
                        generation += 1
                        may[n].add(generation)
                        tasks[n] = asyncio.create_task(image.write(block(generation), n * BLOCK))
                    numbers = dict(zip(chosen, range(generation - 11, generation + 1)))
                    await asyncio.sleep(rng.uniform(0, 0.01))
                    for n in rng.sample(chosen, rng.choice((0, 1, 6, 12))):
                        tasks[n].cancel()
                    results = await asyncio.gather(*tasks.values(), return_exceptions=True)
                    for n, result in zip(chosen, results):
                        if isinstance(result, asyncio.CancelledError):
                            cancelled += 1
                        else:
                            assert result == BLOCK, result
                            may[n] = {numbers[n]}
                    if i % 15 == 7:
                        snapping = asyncio.create_task(image.create_snap(f"s{i}"))
                        await asyncio.sleep(rng.uniform(0, 0.02))
                        if i % 2:
                            snapping.cancel()
                        try:
                            await snapping
                            seen.append((f"s{i}", [set(m) for m in may]))
                        except asyncio.CancelledError:
                            cancelled += 1
        return cancelled

    assert asyncio.run(asyncio.wait_for(main(), 60)) > 20
    with rbd.Image(ioctx, wide, read_only=True) as image:
        found = generations(image.read(0, SIZE))
        assert all(g in m for g, m in zip(found, may))
        there = {s["name"] for s in image.list_snaps()}
    assert generations(rbd_cli("export", "--no-progress", wide, "-")) == found
    for snap, allowed in seen:
        assert snap in there
        with rbd.Image(ioctx, wide, snapshot=snap) as at:
            assert all(g in m for g, m in zip(generations(at.read(0, SIZE)), allowed)), snap
    remove_with_snapshots(ioctx, wide)
