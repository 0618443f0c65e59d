"""One side of the benchmark: runs workloads on the API that both sides have.

``worker.py BACKEND CONF [OPTION=VALUE...]`` answers JSON lines on stdin, ``[workload, arguments...]``,
with figures. BACKEND is ``pyrbd`` or ``librbd``, the options are of the client. A program of its own, so
that it can run under the Python that has Ceph's modules.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MIB = 1 << 20

Figure = list[float]
"""[rate per second, CPU µs per call]"""


def load(backend: str) -> tuple[Any, Any]:
    """The modules rados and rbd of a side."""
    prefix = ""
    if backend == "pyrbd":
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        prefix = "pyrbd."
    return importlib.import_module(f"{prefix}rados"), importlib.import_module(f"{prefix}rbd")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Stopwatch:
    """What a workload took: wall-clock and this process's CPU time."""

    took = cpu = 0.0

    def figure(self, calls: int) -> Figure:
        return [calls / self.took, self.cpu / calls * 1e6]


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    watch = Stopwatch()
    cpu, start = cpu_seconds(), time.perf_counter()
    yield watch
    watch.took = time.perf_counter() - start
    watch.cpu = cpu_seconds() - cpu


class Side:
    """A connection and an open image; its methods are the workloads."""

    def __init__(self, backend: str, conf: str, options: dict[str, str]) -> None:
        self.backend = backend
        self.conf = conf
        self.rados, self.rbd = load(backend)
        self.options = options
        self.cluster = self.rados.Rados(conffile=conf, conf=self.options)
        self.cluster.connect()
        self.ioctx = self.cluster.open_ioctx("rbd")
        self.image: Any = None
        self.rng = random.Random(7)

    def setup(self, name: str, size: int) -> None:
        self.image = self.rbd.Image(self.ioctx, name)
        self.name = name
        self.size = size
        self.data = os.urandom(4 * MIB)
        self.image.flush()  # until the first flush librbd's cache writes through
        for offset in range(0, size, 4 * MIB):  # so that all OSDs are connected
            self.image.read(offset, 512)

    def close(self) -> None:
        if self.image is not None:
            self.image.close()
        self.ioctx.close()
        self.cluster.shutdown()

    # ---------------------------------------------------------------- how to measure

    def repeat(self, seconds: float, step: Callable[[int], object]) -> Figure:
        """Calls `step` for so long."""
        step(0)
        n = 0
        with stopwatch() as watch:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                for _ in range(8):
                    step(n)
                    n += 1
        return watch.figure(n)

    def threads(self, seconds: float, call: Callable[[int], object]) -> Figure:
        """16 threads call with random offsets for so long."""
        offsets = self.offsets(4096)
        counts = [0] * 16
        stop = threading.Event()

        def work(k: int) -> None:
            n = k * 256
            while not stop.is_set():
                call(offsets[n & 4095])
                n += 1
            counts[k] = n - k * 256

        threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
        with stopwatch() as watch:
            for t in threads:
                t.start()
            time.sleep(seconds)
            stop.set()
            for t in threads:
                t.join()
        return watch.figure(sum(counts))

    def offsets(self, length: int) -> list[int]:
        limit = self.size // length
        return [self.rng.randrange(limit) * length for _ in range(4096)]

    # ---------------------------------------------------------------- workloads

    def bare_read_4k(self, seconds: float) -> Figure:
        """The same request without the image layer."""
        oid = f"{self.image.block_name_prefix()}.{0:016x}"
        return self.repeat(seconds, lambda n: self.ioctx.read(oid, 4096, n % 1024 * 4096))

    def layer(self, seconds: float) -> Figure:
        """[µs of a read of an object, µs of that read through the image], medians of batches in turn."""
        oid, io, image = f"{self.image.block_name_prefix()}.{0:016x}", self.ioctx, self.image
        bare: list[float] = []
        whole: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not whole:
            start = time.perf_counter()
            for n in range(16):
                io.read(oid, 4096, n * 4096)
            middle = time.perf_counter()
            for n in range(16):
                image.read(n * 4096, 4096)
            bare.append(middle - start)
            whole.append(time.perf_counter() - middle)
        return [sorted(times)[len(times) // 2] / 16 * 1e6 for times in (bare, whole)]

    def read_4k(self, seconds: float) -> Figure:
        offsets, image = self.offsets(4096), self.image
        return self.repeat(seconds, lambda n: image.read(offsets[n & 4095], 4096))

    def write_4k(self, seconds: float) -> Figure:
        offsets, image, data = self.offsets(4096), self.image, self.data[:4096]
        return self.repeat(seconds, lambda n: image.write(data, offsets[n & 4095]))

    def read_4k_16_threads(self, seconds: float) -> Figure:
        return self.threads(seconds, lambda offset: self.image.read(offset, 4096))

    def write_4k_16_threads(self, seconds: float) -> Figure:
        data = self.data[:4096]
        return self.threads(seconds, lambda offset: self.image.write(data, offset))

    def read_4k_16_aio(self, seconds: float) -> Figure:
        """librbd: 16 aio_read in flight, whose callbacks start the next; pyrbd: 16 asyncio tasks."""
        if self.backend == "pyrbd":
            return self._asyncio_reads(seconds)
        offsets, lock, done = self.offsets(4096), threading.Lock(), threading.Event()
        count, in_flight, stop = 0, 16, False

        def completed(completion: object, data: bytes) -> None:
            nonlocal count, in_flight
            with lock:
                count += 1
                if stop:
                    in_flight -= 1
                    if not in_flight:
                        done.set()
                    return
                offset = offsets[count & 4095]
            self.image.aio_read(offset, 4096, completed)

        with stopwatch() as watch:
            for offset in offsets[:16]:
                self.image.aio_read(offset, 4096, completed)
            time.sleep(seconds)
            stop = True
            if not done.wait(10):
                raise RuntimeError("aio_read hangs")
        return watch.figure(count)

    def _asyncio_reads(self, seconds: float) -> Figure:
        import asyncio

        from pyrbd import aio

        offsets = self.offsets(4096)

        async def main() -> Figure:
            async with aio.Rados(conffile=self.conf, conf=self.options) as cluster:
                ioctx = await cluster.open_ioctx("rbd")
                async with aio.Image(ioctx, self.name, read_only=True) as image:
                    for i in range(0, self.size, 4 * MIB):
                        await image.read(i, 512)
                    count = 0

                    async def work(k: int) -> None:
                        nonlocal count
                        n = k * 256
                        while time.perf_counter() < end:
                            await image.read(offsets[n & 4095], 4096)
                            n += 1
                        count += n - k * 256

                    with stopwatch() as watch:
                        end = time.perf_counter() + seconds
                        await asyncio.gather(*(work(k) for k in range(16)))
                    return watch.figure(count)

        return asyncio.run(main())

    def read_4m(self, seconds: float) -> Figure:
        image, objects = self.image, self.size // (4 * MIB)
        rate, cpu = self.repeat(seconds, lambda n: image.read(n % objects * 4 * MIB, 4 * MIB))
        return [rate * 4, cpu]

    def write_4m(self, seconds: float) -> Figure:
        image, objects, data = self.image, self.size // (4 * MIB), self.data
        rate, cpu = self.repeat(seconds, lambda n: image.write(data, n % objects * 4 * MIB))
        return [rate * 4, cpu]

    def read_128m(self, seconds: float) -> Figure:
        with stopwatch() as watch:
            self.image.read(0, 128 * MIB)
        rate, cpu = watch.figure(1)
        return [rate * 128, cpu]

    def write_128m(self, seconds: float) -> Figure:
        data = self.data * 32
        with stopwatch() as watch:
            self.image.write(data, 0)
        rate, cpu = watch.figure(1)
        return [rate * 128, cpu]

    def connect(self, seconds: float) -> Figure:
        def step(n: int) -> None:
            cluster = self.rados.Rados(conffile=self.conf, conf=self.options)
            cluster.connect()
            cluster.shutdown()

        return self.repeat(seconds, step)

    def open(self, seconds: float) -> Figure:
        return self.repeat(seconds, lambda n: self.rbd.Image(self.ioctx, self.name, read_only=True).close())

    def remove(self, seconds: float) -> Figure:
        """Removes an image of 256 MiB with 64 objects."""
        images, name = self.rbd.RBD(), f"{self.name}-remove"
        images.create(self.ioctx, name, 256 * MIB, 22, False, 1)
        with self.rbd.Image(self.ioctx, name) as image:
            for i in range(64):
                image.write(b"x" * 4096, i * 4 * MIB)
        with stopwatch() as watch:
            images.remove(self.ioctx, name)
        return watch.figure(1)


def main() -> None:
    backend, conf, *options = sys.argv[1:]
    side = Side(backend, conf, dict(option.split("=", 1) for option in options))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        call, *args = json.loads(line)
        print(json.dumps(getattr(side, call)(*args)), flush=True)
        if call == "close":
            break


if __name__ == "__main__":
    main()
