"""Workloads that can tell afterwards what was lost, what is wrong and what was done twice.

Each writer owns its objects, so it knows what must be in them: every acknowledged write, in
order, once; and of each write that ended in an exception either nothing or all, once.
"""

from __future__ import annotations

import asyncio
import random
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pyrbd import aio, rados, rbd
from pyrbd.image.rebuild import check_object_map

RECORD = struct.Struct("<8sQ")
MAGIC = b"thrashed"


@dataclass
class Findings:
    """What a workload has done, and what is not as it must be."""

    operations: int = 0
    unknown: int = 0
    """Writes that ended in an exception: done or not done. No time limit is set, so nothing
    gives a client a reason for one."""
    cancelled: int = 0
    """Writes that were cancelled by the workload itself."""
    slowest: float = 0.0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Workload:
    """A thread that works until it is told to stop."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(f"{name}/{seed}")
        self.found = Findings()
        self._stop = threading.Event()
        self._begun: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.found.failed.append(f"{self.name} hangs")

    @property
    def stuck_for(self) -> float:
        """Seconds that the operation in hand has taken."""
        begun = self._begun
        return time.monotonic() - begun if begun is not None else 0.0

    @property
    def going_on(self) -> bool:
        return not self._stop.is_set()

    def _run(self) -> None:
        try:
            while self.going_on:
                self.timed(self.round)
        except Exception as e:
            self.found.failed.append(f"{self.name}: {e!r}")

    def timed(self, work: Callable[[], int]) -> None:
        """Does something and counts the operations that it says it did."""
        self._begun = begun = time.monotonic()
        self.found.operations += work()
        self._begun = None
        self.found.slowest = max(self.found.slowest, time.monotonic() - begun)

    def round(self) -> int:
        """Some operations; gives how many."""
        raise NotImplementedError

    def verify(self) -> None:
        """After everything is healed: compares what is there with what must be."""
        raise NotImplementedError

    def check_log(self, oid: str, data: bytes, acknowledged: dict[int, bool]) -> None:
        """Compares an object of appended records with {number: acknowledged}, in order."""
        if len(data) % RECORD.size:
            self.found.wrong.append(f"{oid}: {len(data)} bytes are not whole records")
        seen: list[int] = []
        for at in range(0, len(data) - RECORD.size + 1, RECORD.size):
            magic, n = RECORD.unpack_from(data, at)
            if magic != MAGIC:
                self.found.wrong.append(f"{oid}: not a record at {at}")
                return
            seen.append(n)
        there = set(seen)
        if len(there) != len(seen):
            twice = sorted(n for n in there if seen.count(n) > 1)
            self.found.duplicated.append(f"{oid}: {twice[:5]}")
        if lost := [n for n, sure in acknowledged.items() if sure and n not in there]:
            self.found.lost.append(f"{oid}: {lost[:5]} of {len(acknowledged)}")
        if strange := there - acknowledged.keys():
            self.found.wrong.append(f"{oid}: {sorted(strange)[:5]} were never written")
        if seen != sorted(seen):
            self.found.wrong.append(f"{oid}: not in the order of writing")


class Appender(Workload):
    """Appends numbered records, several in flight; with a counter beside them where omap is."""

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, objects: int, omap: bool) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._omap = omap
        self._logs: dict[str, dict[int, bool]] = {f"{name}.{i}": {} for i in range(objects)}
        self._next = 0

    def round(self) -> int:
        oid = self.random.choice(list(self._logs))
        log = self._logs[oid]
        flight: list[tuple[int, rados.Completion]] = []
        for _ in range(self.random.choice((1, 1, 4, 16))):
            n = self._next
            self._next += 1
            log[n] = False
            with rados.WriteOpCtx() as op:
                op.append(RECORD.pack(MAGIC, n))
                if self._omap:
                    self._io.set_omap(op, (f"{n:016d}",), (b"",))
                flight.append((n, self._io.operate_aio_write_op(op, oid)))
        for n, completion in flight:
            completion.wait_for_complete()
            log[n] = completion.get_return_value() == 0
            self.found.unknown += not log[n]
        return len(flight)

    def verify(self) -> None:
        for oid, log in self._logs.items():
            if not log:
                continue
            try:
                data = self._io.read(oid, 64 << 20)
            except rados.ObjectNotFound:
                data = b""
            self.check_log(oid, data, log)
            if self._omap and data:
                keys: list[str] = []
                while True:
                    with rados.ReadOpCtx() as op:
                        it, _ = self._io.get_omap_keys(op, keys[-1] if keys else "", 4096)
                        self._io.operate_read_op(op, oid)
                    page = [k for k, _ in it]
                    keys += page
                    if not page:
                        break
                numbers = [RECORD.unpack_from(data, at)[1] for at in range(0, len(data), RECORD.size)]
                if [int(k) for k in keys] != sorted(numbers):
                    self.found.wrong.append(f"{oid}: {len(keys)} keys beside {len(numbers)} records")


class Overwriter(Workload):
    """Replaces whole objects under the condition that nobody else has, and reads them back."""

    SIZES = (16, 4096, 70_000, 1 << 20)

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, objects: int) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._state: dict[str, tuple[bytes, set[bytes]]] = {f"{name}.{i}": (b"", set()) for i in range(objects)}
        self._versions: dict[str, int] = {}

    def _content(self, generation: int) -> bytes:
        head = generation.to_bytes(16, "little")
        return head * (self.random.choice(self.SIZES) // 16)

    def round(self) -> int:
        oid = self.random.choice(list(self._state))
        last, maybe = self._state[oid]
        new = self._content(self.random.getrandbits(100) | 1)
        try:
            with rados.WriteOpCtx() as op:
                op.write_full(new)
                op.set_xattr("size", str(len(new)).encode())
                self._io.operate_write_op(op, oid)
        except rados.Error:
            self.found.unknown += 1
            self._state[oid] = (last, maybe | {new})
            return 1
        version = self._io.get_last_version()
        if version <= self._versions.get(oid, 0):
            self.found.wrong.append(f"{oid}: version {version} after {self._versions[oid]}")
        self._versions[oid] = version
        self._state[oid] = (new, set())
        got = self._io.read(oid, len(new) + 1)
        if got != new:
            self.found.wrong.append(f"{oid}: read {got[:16].hex()} ({len(got)}) after writing {new[:16].hex()}")
        if int(self._io.get_xattr(oid, "size")) != len(new):
            self.found.wrong.append(f"{oid}: the attribute is of another write")
        return 3

    def verify(self) -> None:
        for oid, (last, maybe) in self._state.items():
            if not last and not maybe:
                continue
            try:
                data = self._io.read(oid, 2 << 20)
            except rados.ObjectNotFound:
                data = b""
            if data != last and data not in maybe:
                self.found.lost.append(f"{oid}: {len(data)} bytes {data[:16].hex()}, not {last[:16].hex()}")


class ImageWriter(Workload):
    """Writes blocks of an image and reads them back.

    Args:
        data_pool: an erasure-coded one, perhaps.
        features: of the image; with an exclusive lock and an object map, these are checked as well.
    """

    BLOCK = 16384

    def __init__(
        self, name: str, seed: int, ioctx: rados.Ioctx, data_pool: str | None = None, features: int = 1
    ) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self.blocks = 512
        self._content: dict[int, set[int]] = {}
        size = self.blocks * self.BLOCK
        rbd.RBD().create(ioctx, name, size, 20, features=features, data_pool=data_pool)
        self._image = rbd.Image(ioctx, name)
        self._generation = 0

    def _block(self, generation: int) -> bytes:
        return generation.to_bytes(8, "little") * (self.BLOCK // 8)

    def round(self) -> int:
        first = self.random.randrange(self.blocks)
        count = min(self.random.choice((1, 1, 2, 100)), self.blocks - first)
        self._generation += 1
        data = self._block(self._generation)
        try:
            self._image.write(data * count, first * self.BLOCK)
        except rbd.Error:
            self.found.unknown += 1
            for i in range(first, first + count):
                self._content[i] = self._content.get(i, {0}) | {self._generation}
            return 1
        for i in range(first, first + count):
            self._content[i] = {self._generation}
        if self._image.read(first * self.BLOCK, count * self.BLOCK) != data * count:
            self.found.wrong.append(f"{self.name}: blocks {first}..{first + count} are not what was written")
        return 2

    def verify(self) -> None:
        for i, allowed in self._content.items():
            data = self._image.read(i * self.BLOCK, self.BLOCK)
            if data not in {self._block(g) for g in allowed}:
                self.found.lost.append(f"{self.name}: block {i} is {data[:8].hex()}, not of {sorted(allowed)[-3:]}")
        if self._image.features() & rbd.RBD_FEATURE_OBJECT_MAP and not self._image.flags():
            core = self._image._core
            if not self._io.rados.client.run(check_object_map(core)):
                self.found.wrong.append(f"{self.name}: its object map")
        self._image.close()


class AsyncioAppender(Workload):
    """Appends through the asyncio door, and cancels some of it."""

    def __init__(self, name: str, seed: int, conf: str, pool: str, objects: int) -> None:
        super().__init__(name, seed)
        self._conf, self._pool = conf, pool
        self._logs: dict[str, dict[int, bool]] = {f"{name}.{i}": {} for i in range(objects)}
        self._next = 0

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as e:
            self.found.failed.append(f"{self.name}: {e!r}")

    async def _main(self) -> None:
        async with aio.Rados(conffile=self._conf) as cluster:
            ioctx = await cluster.open_ioctx(self._pool)
            while self.going_on:
                self._begun = begun = time.monotonic()
                await self._round(ioctx)
                self._begun = None
                self.found.slowest = max(self.found.slowest, time.monotonic() - begun)

    async def _round(self, ioctx: aio.Ioctx) -> None:
        oid = self.random.choice(list(self._logs))
        log = self._logs[oid]
        tasks: dict[int, asyncio.Task[int]] = {}
        for _ in range(self.random.choice((1, 4, 16))):
            n = self._next
            self._next += 1
            log[n] = False
            tasks[n] = asyncio.create_task(ioctx.append(oid, RECORD.pack(MAGIC, n)))  # type: ignore[arg-type]
        if self.random.random() < 0.1:
            await asyncio.sleep(self.random.random() * 0.003)
            self.random.choice(list(tasks.values())).cancel()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for n, result in zip(tasks, results):
            log[n] = not isinstance(result, BaseException)
            if isinstance(result, asyncio.CancelledError):
                self.found.cancelled += 1
            else:
                self.found.unknown += not log[n]
        self.found.operations += len(tasks)

    def verify(self) -> None:
        with rados.Rados(conffile=self._conf) as cluster, cluster.open_ioctx(self._pool) as ioctx:
            for oid, log in self._logs.items():
                if log:
                    try:
                        data = ioctx.read(oid, 64 << 20)
                    except rados.ObjectNotFound:
                        data = b""
                    self.check_log(oid, data, log)
