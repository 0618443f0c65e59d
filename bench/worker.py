"""One side of the benchmark: runs workloads on the API that both sides have.

Speaks JSON lines on stdin and stdout, so that it can run under the Python that has Ceph's
modules. ``--backend pyrbd`` or ``librbd``.
"""

import json
import os
import random
import resource
import sys
import threading
import time

MIB = 1 << 20


def load(backend):
    if backend == "pyrbd":
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        import pyrbd.rados as rados
        import pyrbd.rbd as rbd
    else:
        import rados
        import rbd
    return rados, rbd


class Side:
    def __init__(self, backend, conf, cache):
        self.backend = backend
        self.conf = conf
        self.rados, self.rbd = load(backend)
        self.options = {} if cache else {"rbd_cache": "false"}
        self.cluster = self.rados.Rados(conffile=conf, conf=self.options)
        self.cluster.connect()
        self.ioctx = self.cluster.open_ioctx("rbd")
        self.image = None
        self.rng = random.Random(7)

    def setup(self, name, size):
        self.image = self.rbd.Image(self.ioctx, name)
        self.name = name
        self.size = size
        self.data = os.urandom(4 * MIB)

    def close(self):
        if self.image is not None:
            self.image.close()
        self.ioctx.close()
        self.cluster.shutdown()

    # ---------------------------------------------------------------- workloads

    def measure(self, seconds, step):
        """Calls `step` for so long; (steps per second, CPU microseconds per step)."""
        step(0)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        end, n = start + seconds, 0
        while time.perf_counter() < end:
            for _ in range(8):
                step(n)
                n += 1
        took = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return n / took, cpu / n * 1e6

    def offsets(self, length):
        limit = self.size // length
        return [self.rng.randrange(limit) * length for _ in range(4096)]

    def bare_read_4k(self, seconds):
        """The same request without the image layer."""
        prefix = self.image.block_name_prefix()
        places = [(f"{prefix}.{o >> 22:016x}", o & (4 * MIB - 1)) for o in self.offsets(4096)]
        read = self.ioctx.read

        def step(n):
            oid, offset = places[n & 4095]
            read(oid, 4096, offset)

        return self.measure(seconds, step)

    def read_4k(self, seconds):
        offsets, image = self.offsets(4096), self.image
        return self.measure(seconds, lambda n: image.read(offsets[n & 4095], 4096))

    def write_4k(self, seconds):
        offsets, image, data = self.offsets(4096), self.image, self.data[:4096]
        return self.measure(seconds, lambda n: image.write(data, offsets[n & 4095]))

    def threads(self, seconds, call):
        offsets = self.offsets(4096)
        counts = [0] * 16
        stop = threading.Event()

        def work(k):
            n = k * 256
            while not stop.is_set():
                call(offsets[n & 4095])
                n += 1
            counts[k] = n - k * 256

        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
        for t in threads:
            t.start()
        time.sleep(seconds)
        stop.set()
        for t in threads:
            t.join()
        took, total = time.perf_counter() - start, sum(counts)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return total / took, cpu / total * 1e6

    def read_4k_16_threads(self, seconds):
        return self.threads(seconds, lambda offset: self.image.read(offset, 4096))

    def write_4k_16_threads(self, seconds):
        data = self.data[:4096]
        return self.threads(seconds, lambda offset: self.image.write(data, offset))

    def read_4k_16_aio(self, seconds):
        """librbd: 16 aio_read in flight with callbacks; pyrbd: 16 asyncio tasks."""
        if self.backend == "pyrbd":
            return self._asyncio_reads(seconds)
        offsets = self.offsets(4096)
        state = {"n": 0, "stop": False, "open": 16}
        done = threading.Event()

        def completed(completion, data):
            if state["stop"]:
                state["open"] -= 1
                if not state["open"]:
                    done.set()
                return
            state["n"] += 1
            self.image.aio_read(offsets[state["n"] & 4095], 4096, completed)

        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for i in range(16):
            self.image.aio_read(offsets[i], 4096, completed)
        time.sleep(seconds)
        state["stop"] = True
        done.wait(10)
        took = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return state["n"] / took, cpu / state["n"] * 1e6

    def _asyncio_reads(self, seconds):
        import asyncio

        from pyrbd import aio

        offsets = self.offsets(4096)

        async def main():
            async with aio.Rados(conffile=self.conf) as cluster:
                ioctx = await cluster.open_ioctx("rbd")
                async with aio.Image(ioctx, self.name, read_only=True) as image:
                    for i in range(0, self.size, 4 * MIB):
                        await image.read(i, 512)
                    count = 0
                    end = time.perf_counter() + seconds

                    async def work(k):
                        nonlocal count
                        n = k * 256
                        while time.perf_counter() < end:
                            await image.read(offsets[n & 4095], 4096)
                            n += 1
                        count += n - k * 256

                    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                    await asyncio.gather(*(work(k) for k in range(16)))
                    took = time.perf_counter() - start
                    after = resource.getrusage(resource.RUSAGE_SELF)
                    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    return count / took, cpu / count * 1e6

        return asyncio.run(main())

    def read_4m(self, seconds):
        image, n_objects = self.image, self.size // (4 * MIB)
        rate, cpu = self.measure(seconds, lambda n: image.read(n % n_objects * 4 * MIB, 4 * MIB))
        return rate * 4, cpu

    def write_4m(self, seconds):
        image, n_objects, data = self.image, self.size // (4 * MIB), self.data
        rate, cpu = self.measure(seconds, lambda n: image.write(data, n % n_objects * 4 * MIB))
        return rate * 4, cpu

    def once(self, fn, mib):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        fn()
        took = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        return mib / took, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6

    def read_128m(self, seconds):
        return self.once(lambda: self.image.read(0, 128 * MIB), 128)

    def write_128m(self, seconds):
        data = self.data * 32
        return self.once(lambda: self.image.write(data, 0), 128)

    def connect(self, seconds):
        def step(n):
            cluster = self.rados.Rados(conffile=self.conf, conf=self.options)
            cluster.connect()
            cluster.shutdown()

        return self.measure(seconds, step)

    def open(self, seconds):
        def step(n):
            self.rbd.Image(self.ioctx, self.name, read_only=True).close()

        return self.measure(seconds, step)

    def remove(self, seconds):
        """Removes an image of 256 MiB with 64 objects."""
        images, name = self.rbd.RBD(), "bench-remove"
        images.create(self.ioctx, name, 256 * MIB, 22, False, 1)
        with self.rbd.Image(self.ioctx, name) as image:
            for i in range(64):
                image.write(b"x" * 4096, i * 4 * MIB)
        rate, cpu = self.once(lambda: images.remove(self.ioctx, name), 1)
        return rate, cpu


def whole_process(backend, conf, name):
    rados, rbd = load(backend)
    cluster = rados.Rados(conffile=conf)
    cluster.connect()
    ioctx = cluster.open_ioctx("rbd")
    image = rbd.Image(ioctx, name, read_only=True)
    assert len(image.read(0, 4096)) == 4096
    image.close()
    ioctx.close()
    cluster.shutdown()


def main():
    if sys.argv[1] == "whole":
        return whole_process(*sys.argv[2:5])
    if sys.argv[1] == "import":
        load(sys.argv[2])
        return None
    side = Side(sys.argv[2], sys.argv[3], sys.argv[4] == "cache")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        call, *args = json.loads(line)
        print(json.dumps(getattr(side, call)(*args)), flush=True)
        if call == "close":
            break
    return None


if __name__ == "__main__":
    main()
