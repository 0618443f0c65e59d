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
GIB = 1 << 30

Figure = list[float]
"""[rate per second, CPU seconds per call]"""


def load(backend: str) -> tuple[Any, Any]:
    """The modules rados and rbd of a side."""
    prefix = "pyrbd." if backend == "pyrbd" else ""
    return importlib.import_module(f"{prefix}rados"), importlib.import_module(f"{prefix}rbd")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Stopwatch:
    """What a workload took: wall-clock and this process's CPU time."""

    took = cpu = 0.0

    def figure(self, calls: int) -> Figure:
        return [calls / self.took, self.cpu / calls]


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

    def repeat(
        self, seconds: float, step: Callable[[int], object], finish: Callable[[], object] = lambda: None
    ) -> Figure:
        """Calls `step` for so long, then `finish`, which counts in the time."""
        step(0)
        finish()
        n = 0
        with stopwatch() as watch:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                for _ in range(8):
                    step(n)
                    n += 1
            finish()
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

    def in_flight(self, seconds: float, begin: Callable[[int, Callable[..., None]], object]) -> Figure:
        """16 asynchronous calls at a time: the callback of one begins the next."""
        offsets, lock, done = self.offsets(4096), threading.Lock(), threading.Event()
        count, left, stop = 0, 16, False

        def completed(*_: object) -> None:
            nonlocal count, left
            with lock:
                count += 1
                if stop:
                    left -= 1
                    if not left:
                        done.set()
                    return
                offset = offsets[count & 4095]
            begin(offset, completed)

        with stopwatch() as watch:
            for offset in offsets[:16]:
                begin(offset, completed)
            time.sleep(seconds)
            with lock:
                stop = True
            if not done.wait(20):
                raise RuntimeError("asynchronous calls hang")
            self.image.flush()
        return watch.figure(count)

    # ---------------------------------------------------------------- small requests

    def read_4k(self, seconds: float) -> Figure:
        offsets, image = self.offsets(4096), self.image
        return self.repeat(seconds, lambda n: image.read(offsets[n & 4095], 4096))

    def read_4k_threads(self, seconds: float) -> Figure:
        return self.threads(seconds, lambda offset: self.image.read(offset, 4096))

    def read_4k_aio(self, seconds: float) -> Figure:
        return self.in_flight(seconds, lambda offset, done: self.image.aio_read(offset, 4096, done))

    def read_4k_asyncio(self, seconds: float) -> Figure:
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

    def write_4k(self, seconds: float) -> Figure:
        offsets, image, data = self.offsets(4096), self.image, self.data[:4096]
        return self.repeat(seconds, lambda n: image.write(data, offsets[n & 4095]), image.flush)

    def write_4k_aio(self, seconds: float) -> Figure:
        data = self.data[:4096]
        return self.in_flight(seconds, lambda offset, done: self.image.aio_write(data, offset, done))

    def write_4k_sequential(self, seconds: float) -> Figure:
        image, data, size = self.image, self.data[:4096], self.size
        return self.repeat(seconds, lambda n: image.write(data, n * 4096 % size), image.flush)

    # ---------------------------------------------------------------- large requests, in MiB

    def read_4m(self, seconds: float) -> Figure:
        image, objects = self.image, self.size // (4 * MIB)
        return in_mib(4, self.repeat(seconds, lambda n: image.read(n % objects * 4 * MIB, 4 * MIB)))

    def write_4m(self, seconds: float) -> Figure:
        image, objects, data = self.image, self.size // (4 * MIB), self.data
        return in_mib(4, self.repeat(seconds, lambda n: image.write(data, n % objects * 4 * MIB), image.flush))

    def read_128m(self, seconds: float) -> Figure:
        with stopwatch() as watch:
            self.image.read(0, 128 * MIB)
        return in_mib(128, watch.figure(1))

    def write_128m(self, seconds: float) -> Figure:
        data = self.data * 32
        with stopwatch() as watch:
            self.image.write(data, 0)
            self.image.flush()
        return in_mib(128, watch.figure(1))

    # ---------------------------------------------------------------- connections

    def connect(self, seconds: float) -> Figure:
        def step(n: int) -> None:
            cluster = self.rados.Rados(conffile=self.conf, conf=self.options)
            cluster.connect()
            cluster.shutdown()

        return self.repeat(seconds, step)

    def open(self, seconds: float) -> Figure:
        return self.repeat(seconds, lambda n: self.rbd.Image(self.ioctx, self.name, read_only=True).close())

    # ---------------------------------------------------------------- whole images

    @contextmanager
    def other(self, what: str, size: int, written: int = 0) -> Iterator[str]:
        """An image of its own with all default features, filled from its begin."""
        name = f"{self.name}-{what}"
        self.rbd.RBD().create(self.ioctx, name, size, 22)
        try:
            if written:
                with self.rbd.Image(self.ioctx, name) as image:
                    for at in range(0, written, len(self.data)):
                        image.write(self.data, at)
            yield name
        finally:
            if name in self.rbd.RBD().list(self.ioctx):
                self.rbd.RBD().remove(self.ioctx, name)

    def _diff(self, whole_object: bool) -> Figure:
        size = 1 << 40
        with self.other("diff", size) as name, self.rbd.Image(self.ioctx, name) as image:
            step = size // 1000 // (4 * MIB) * 4 * MIB
            for i in range(1000):
                image.write(self.data[:512], i * step)
            image.flush()
            found: list[int] = []
            with stopwatch() as watch:
                image.diff_iterate(0, size, None, lambda at, length, exists: found.append(at), True, whole_object)
            assert len(found) == 1000
        return watch.figure(1)

    def diff_fast(self, seconds: float) -> Figure:
        return self._diff(True)

    def diff_list(self, seconds: float) -> Figure:
        return self._diff(False)

    def flatten(self, seconds: float) -> Figure:
        with self.other("parent", GIB, GIB) as name:
            with self.rbd.Image(self.ioctx, name) as parent:
                parent.create_snap("s")
                parent.protect_snap("s")
            clone = f"{name}-clone"
            self.rbd.RBD().clone(self.ioctx, name, "s", self.ioctx, clone)
            with self.rbd.Image(self.ioctx, clone) as image, stopwatch() as watch:
                image.flatten()
            self.rbd.RBD().remove(self.ioctx, clone)
            with self.rbd.Image(self.ioctx, name) as parent:
                parent.unprotect_snap("s")
                parent.remove_snap("s")
        return watch.figure(1)

    def copy(self, seconds: float) -> Figure:
        with self.other("source", GIB, GIB) as name, self.rbd.Image(self.ioctx, name) as image:
            with stopwatch() as watch:
                image.copy(self.ioctx, f"{name}-copy")
            self.rbd.RBD().remove(self.ioctx, f"{name}-copy")
        return watch.figure(1)

    def export(self, seconds: float) -> Figure:
        with self.other("export", GIB, GIB) as name:
            image = self.rbd.Image(self.ioctx, name, read_only=True)
            with stopwatch() as watch:
                for at in range(0, GIB, 4 * MIB):
                    image.read(at, 4 * MIB)
            image.close()
        return watch.figure(1)

    def import_(self, seconds: float) -> Figure:
        with self.other("import", GIB) as name, stopwatch() as watch, self.rbd.Image(self.ioctx, name) as image:
            image.flush()
            for at in range(0, GIB, 4 * MIB):
                image.write(self.data, at)
        return watch.figure(1)

    def remove(self, seconds: float) -> Figure:
        with self.other("remove", GIB, GIB) as name, stopwatch() as watch:
            self.rbd.RBD().remove(self.ioctx, name)
        return watch.figure(1)


def in_mib(each: int, figure: Figure) -> Figure:
    """Of calls with so many MiB."""
    rate, cpu = figure
    return [rate * each, cpu / each]


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
