"""Workloads of single features: listing, versions, snapshots, locks, watches, big transfers."""

from __future__ import annotations

import threading
import time

from ci.thrash.workloads import MAGIC, RECORD, Workload
from pyrbd import rados

MIB = 1 << 20


class Lister(Workload):
    """Lists objects that stay: each exactly once per round, whatever splits and merges meanwhile."""

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, objects: int) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        ioctx.set_namespace(name)
        self._want = sorted(f"{name}.{i}" for i in range(objects))
        for completion in [ioctx.aio_write_full(oid, b"stays") for oid in self._want]:
            completion.wait_for_complete()

    def round(self) -> int:
        got = sorted(o.key for o in self._io.list_objects())
        if got != self._want:
            twice = sorted({oid for oid in got if got.count(oid) > 1})
            missing = sorted(set(self._want) - set(got))
            self.found.wrong.append(f"listing: {twice[:5]} twice, {missing[:5]} ({len(missing)}) not at all")
        return 1

    def verify(self) -> None:
        self.round()


class VersionChain(Workload):
    """Each write asserts the version that the one before it gave: what is done twice, or by
    anybody else, breaks the chain at once."""

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, objects: int) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._versions: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._oids = [f"{name}.{i}" for i in range(objects)]

    def round(self) -> int:
        oid = self.random.choice(self._oids)
        count = self._counts.get(oid, 0)
        with rados.WriteOpCtx() as op:
            if count:
                op.assert_version(self._versions[oid])
            else:
                op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
            op.append(RECORD.pack(MAGIC, count))
            op.set_xattr("count", str(count + 1).encode())
            try:
                self._io.operate_write_op(op, oid)
            except rados.Error as e:
                self.found.wrong.append(f"{oid}: write {count} on version {self._versions.get(oid)}: {e!r}")
                self._oids.remove(oid)
                return 1
        version = self._io.get_last_version()
        if version <= self._versions.get(oid, 0):
            self.found.wrong.append(f"{oid}: version {version} after {self._versions[oid]}")
        self._versions[oid], self._counts[oid] = version, count + 1
        return 1

    def verify(self) -> None:
        for oid, count in self._counts.items():
            self.check_log(oid, self._io.read(oid, 64 * MIB), dict.fromkeys(range(count), True))
            if int(self._io.get_xattr(oid, "count")) != count:
                self.found.wrong.append(f"{oid}: the attribute is not {count}")


class Locker(Workload):
    """Locks and unlocks; a call that is done twice would answer differently."""

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._n = 0

    def round(self) -> int:
        oid, cookie = f"{self.name}.{self.random.randrange(6)}", f"c{self._n}"
        self._n += 1
        try:
            self._io.lock_exclusive(oid, "lock", cookie, "test")
            try:
                self._io.lock_exclusive(oid, "lock", "another", "test")
                self.found.wrong.append(f"{oid}: two exclusive locks")
            except rados.ObjectBusy:
                pass
            lockers = self._io.list_lockers(oid, "lock")["lockers"]
            if [c for _, c, _ in lockers] != [cookie]:
                self.found.wrong.append(f"{oid}: lockers are {lockers}, not {cookie}")
            self._io.unlock(oid, "lock", cookie)
        except rados.Error as e:
            self.found.duplicated.append(f"{oid}: {e!r} for {cookie}")
        return 4

    def verify(self) -> None:
        pass


class Snapshots(Workload):
    """Overwrites an object that has self-managed snapshots; each must stay what it was."""

    KEEP = 4

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, reader: rados.Ioctx) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._reader = reader
        self._generation = 0
        self._last: dict[str, int] = {}
        self._snaps: list[tuple[int, dict[str, int]]] = []

    def _content(self, generation: int) -> bytes:
        return generation.to_bytes(8, "little") * 2048

    def _check(self, oid: str, snap: int, generation: int) -> None:
        self._reader.set_read(snap)
        got = self._reader.read(oid, 1 << 20)
        if got != self._content(generation):
            self.found.wrong.append(f"{oid}@{snap}: {got[:8].hex()} ({len(got)} bytes), not of {generation}")

    def round(self) -> int:
        oid = f"{self.name}.{self.random.randrange(4)}"
        self._generation += 1
        if self._generation % 16 == 0:
            self._snaps.insert(0, (self._io.create_self_managed_snap(), dict(self._last)))
            self._io.set_self_managed_snap_write([s for s, _ in self._snaps])
        if len(self._snaps) > self.KEEP:
            snap, _ = self._snaps.pop()
            self._io.set_self_managed_snap_write([s for s, _ in self._snaps])
            self._io.remove_self_managed_snap(snap)
        self._io.write_full(oid, self._content(self._generation))
        self._last[oid] = self._generation
        self._check(oid, rados.LIBRADOS_SNAP_HEAD, self._generation)
        for snap, was in self._snaps:
            if oid in was:
                self._check(oid, snap, was[oid])
        return 2 + len(self._snaps)

    def verify(self) -> None:
        for snap, was in [*self._snaps, (rados.LIBRADOS_SNAP_HEAD, self._last)]:
            for oid, generation in was.items():
                self._check(oid, snap, generation)


class BigTransfers(Workload):
    """Objects of several MiB, read into buffers of ours: cuts fall into the data, and late bytes
    of an old answer would be seen in a buffer that has been filled since."""

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, objects: int) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._state: dict[str, bytes] = {f"{name}.{i}": b"" for i in range(objects)}
        self._buffers = [bytearray(6 * MIB) for _ in range(2)]
        self._before: tuple[bytearray, bytes] | None = None

    def round(self) -> int:
        oid = self.random.choice(list(self._state))
        size = self.random.choice((4 * MIB, 5 * MIB + 4096, 6 * MIB))
        new = self.random.getrandbits(128).to_bytes(16, "little") * (size // 16)
        self._io.write_full(oid, new)
        self._state[oid] = new
        buffer = self._buffers[0]
        self._buffers.reverse()
        n = self._io.read_into(oid, buffer)
        if n != size or memoryview(buffer)[:n] != new:
            self.found.wrong.append(f"{oid}: {n} of {size} bytes, {bytes(buffer[:16]).hex()}, not {new[:16].hex()}")
        if self._before is not None and memoryview(self._before[0])[: len(self._before[1])] != self._before[1]:
            self.found.wrong.append(f"{oid}: the buffer before has changed after its read was done")
        self._before = buffer, new
        return 2

    def verify(self) -> None:
        for oid, want in self._state.items():
            if want and self._io.read(oid, 8 * MIB) != want:
                self.found.lost.append(f"{oid}: not what was written last")


class Watcher(Workload):
    """Notifies a watch of its own: it hears what all watchers are said to have acknowledged,
    or is told that it was lost; then a new one hears again."""

    PATIENCE = 90.0

    def __init__(self, name: str, seed: int, ioctx: rados.Ioctx, notifier: rados.Ioctx) -> None:
        super().__init__(name, seed)
        self._io = ioctx
        self._notifier = notifier
        self._n = 0
        self._heard: set[bytes] = set()
        self._lost = threading.Event()
        self.losses = 0
        self.unanswered = 0
        ioctx.write_full(name, b"")
        self._watch = self._open()

    def _open(self) -> rados.Watch:
        self._lost = lost = threading.Event()
        return self._io.watch(self.name, self._callback, lambda _id, _error: lost.set())

    def _callback(self, notify_id: int, notifier: int, watch_id: int, data: bytes) -> None:
        self._heard.add(bytes(data))

    def round(self) -> int:
        payload = f"{self._n}".encode()
        self._n += 1
        try:
            self._notifier.notify(self.name, payload, timeout_ms=10_000)
        except rados.TimedOut:
            self.unanswered += 1
            self._restore()
            return 1
        if payload not in self._heard and not self._lost.wait(self.PATIENCE):
            self.found.wrong.append(f"{self.name}: {payload!r} was not heard, and nobody said that the watch was lost")
        self._restore()
        time.sleep(0.02)
        return 1

    def _restore(self) -> None:
        if self._lost.is_set():
            self.losses += 1
            self._watch.close()
            self._watch = self._open()
            return
        try:
            self._watch.check()
        except rados.Error as e:
            if not self._lost.wait(5):
                self.found.wrong.append(f"{self.name}: {e!r}, and nobody was told")

    def verify(self) -> None:
        before = self._n
        end = time.monotonic() + self.PATIENCE
        while not {f"{i}".encode() for i in range(before, self._n)} & self._heard:
            if time.monotonic() > end:
                self.found.failed.append(f"{self.name}: the watch hears nothing any more")
                return
            self.round()
        self._watch.close()
