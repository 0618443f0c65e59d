"""What a sequence of steps does by either client: the same text runs in the tests' process
with our `rados` module, and as a program of the system's Python with Ceph's.

A sequence and what comes of it are plain literals, so that they can be printed, sent and
compared. A step is a tuple whose head names a method of :class:`Player`; a str that begins
with ``@`` stands for the name of an object of the sequence. What comes of a step is
``("ok", value)`` or ``("raises", the class's name, errno)``.

    /usr/bin/python3 play.py CONF POOL SELF    # a sequence per line in, a list of outcomes out
"""

from __future__ import annotations

import array
import ast
import ctypes
import errno
import mmap
import sys
import time
from typing import Any

NAMESPACES = ("", "n", "ns ü")
LOCATORS = ("", "k")
Where = tuple[str, str, str, int]


def plain(value: Any) -> Any:
    """A value as literals; what two runs cannot have in common is left out."""
    if isinstance(value, time.struct_time):
        stamp = int(time.mktime(value))
        return stamp if 10 < stamp < 1_600_000_000 else "now"  # the binding of 16.2 says 1970
    if isinstance(value, (tuple, list)):
        return [plain(x) for x in value]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if value is None or isinstance(value, (bytes, str, int)):
        return value
    return type(value).__name__


def xattrs(pairs: Any) -> list[tuple[str, bytes]]:
    """Without what names the client: what the class ``hello`` notes, and who holds a lock."""
    return sorted((k, b"" if k.startswith("lock.") else v) for k, v in pairs if not v.startswith(b"client."))


class Index:
    """A number as NumPy's are."""

    def __index__(self) -> int:
        return 3


class Player:
    """One client with two pools of its own: one that has snapshots of the pool, one that has
    self-managed ones."""

    def __init__(self, rados: Any, cluster: Any, pool: str, managed: str, conf: str | None = None) -> None:
        self.rados = rados
        self.cluster = cluster
        self.pools = {"pool": pool, "self": managed}
        self.c = None if conf is None else CApi(conf, self.pools)
        version = (rados.__name__, hasattr(rados.Ioctx, "list_lockers"))
        self.swapped = version == ("rados", False)
        with cluster.open_ioctx(managed) as io:
            io.remove_self_managed_snap(io.create_self_managed_snap())  # it is of that kind from now on

    def play(self, seed: int, kind: str, steps: list[tuple[Any, ...]]) -> list[Any]:
        self.seed = seed
        self.io = self.cluster.open_ioctx(self.pools[kind])
        self.kind = kind
        self.snaps: list[Any] = []
        self.live: set[int] = set()
        self.versions: dict[Any, int] = {}
        self.reading = self.rados.LIBRADOS_SNAP_HEAD
        self.last: tuple[Any, ...] = (None,)
        try:
            return [self.outcome(step) for step in steps]
        finally:
            self.clean()
            self.io.close()

    def clean(self) -> None:
        io = self.cluster.open_ioctx(self.pools[self.kind])
        for i in self.live:
            if self.kind == "pool":
                io.remove_snap(self.snaps[i])
            else:
                io.remove_self_managed_snap(self.snaps[i])
        io.set_namespace(self.rados.LIBRADOS_ALL_NSPACES)
        there = self.cluster.open_ioctx(self.pools[self.kind])
        for o in io.list_objects():
            there.set_namespace(o.nspace)
            there.set_locator_key(o.locator_key or "")
            try:
                there.remove_object(o.key)
            except self.rados.ObjectNotFound:
                pass  # only its snapshots were there
        there.close()
        io.close()

    def outcome(self, step: tuple[Any, ...]) -> Any:
        kind, *args = [self.named(x) for x in step]
        try:
            self.last = ("ok", plain(getattr(self, kind)(*args)))
        except Exception as e:
            self.last = ("raises", type(e).__name__, getattr(e, "errno", None))
        return self.last

    def named(self, x: Any) -> Any:
        if isinstance(x, str) and x.startswith("@"):
            return {"@a": f"{self.seed}.a", "@b": f"{self.seed} ü/\n", "@c": f"{self.seed}{'c' * 400}"}[x]
        if isinstance(x, (tuple, list)):
            return type(x)(self.named(y) for y in x)
        return x

    # ------------------------------------------------------------ steps

    def call(self, method: str, *args: Any) -> Any:
        """A method of the ioctx."""
        if method == "get_xattrs":
            return xattrs(self.io.get_xattrs(*args))
        return getattr(self.io, method)(*args)

    def namespace(self, name: str) -> None:
        self.io.set_namespace(name)

    def locator(self, key: str) -> None:
        self.io.set_locator_key(key)

    def note_version(self, oid: str) -> None:
        """What comes after an operation on that object, if it was sent at all."""
        if self.last[-1] != errno.EROFS:
            self.versions[self.where(), oid] = self.io.get_last_version()

    def compare_version(self, oid: str) -> int | None:
        new, old = self.io.get_last_version(), self.versions.get((self.where(), oid))
        if old is None or self.last[-1] == errno.EROFS:
            return None
        return (new > old) - (new < old) if new else -2

    def listing(self) -> Any:
        return [(o.nspace, o.key, o.locator_key) for o in self.ours()]

    def ours(self) -> Any:
        """The objects of this sequence: those of others may wait for their snapshots to be trimmed."""
        mine = tuple(f"{self.seed}{x}" for x in ". c")
        return [o for o in self.io.list_objects() if o.key.startswith(mine)]

    def through_objects(self) -> Any:
        """Reads and changes what is listed by its `Object`."""
        found = []
        for o in self.ours():
            o.seek(1)
            found.append([o.key, o.read(3), o.read(), o.stat()[0], xattrs(o.get_xattrs())])
            o.write(b"written")
            o.set_xattr("by", b"object")
            found.append([o.get_xattr("by"), o.offset])
        return found

    def state(self, oid: str) -> Any:
        """All that there is of an object."""
        size, changed = self.io.stat(oid)
        op = self.io.create_read_op()
        pairs, _ = self.io.get_omap_vals(op, "", "", 1000)
        self.io.operate_read_op(op, oid)
        data = self.io.read(oid, 8 << 20)
        return [size, changed, digest(data), xattrs(self.io.get_xattrs(oid)), self.pairs(pairs)]

    def pairs(self, iterator: Any) -> Any:
        """The binding says None for an empty value."""
        return [(k, v or b"") for k, v in iterator]

    def write_op(self, how: str, oid: str, ops: list[Any], flags: int, mtime: int) -> Any:
        op = self.io.create_write_op()
        kwargs: dict[str, Any] = {"flags": flags, "mtime": mtime}
        for method, *args in ops:
            if method in ("set_omap", "remove_omap_keys", "clear_omap", "remove_omap_range2"):
                getattr(self.io, method)(op, *args)
            elif method == "assert_version":
                op.assert_version(self.versions.get((self.where(), oid), 1 << 40) + args[0])
            elif method == "zero":
                op.zero(*(args[::-1] if self.swapped else args))
            else:
                getattr(op, method)(*args)
        if how == "sync":
            return self.io.operate_write_op(op, oid, **kwargs)
        called: list[Any] = []
        completion = self.io.operate_aio_write_op(op, oid, lambda c: called.append(c.get_return_value()), **kwargs)
        return self._waited(completion, called)

    def read_op(self, how: str, oid: str, ops: list[Any], flag: int) -> Any:
        op = self.io.create_read_op()
        iterators = []
        for method, *args in ops:
            if method.startswith("get_omap"):
                iterators.append(getattr(self.io, method)(op, *args)[0])
            else:
                getattr(op, method)(*args)
        called: list[Any] = []
        result = None
        try:
            if how == "sync":
                self.io.operate_read_op(op, oid, flag)
            else:
                completion = self.io.operate_aio_read_op(
                    op, oid, lambda c: called.append(c.get_return_value()), flag=flag
                )
                result = self._waited(completion, called)
        except self.rados.Error as e:
            result = [type(e).__name__, e.errno]
        return [result, [self.pairs(it) for it in iterators]]

    def _waited(self, completion: Any, called: list[Any]) -> Any:
        completion.wait_for_complete_and_cb()
        assert completion.is_complete() and completion.is_safe()
        return [completion.get_return_value(), called]

    def aio(self, calls: list[Any]) -> Any:
        """Several at once; each gives its return value and what its callback got."""
        begun = []
        for method, *args in calls:
            called: list[Any] = []

            def oncomplete(c: Any, *rest: Any, called: list[Any] = called) -> None:
                if self.c is not None and rest and c.get_return_value() == 0 and isinstance(rest[0], bytes):
                    rest = (b"",)  # the binding gives memory that was never written
                called.append([c.get_return_value(), plain(list(rest))])

            try:
                if method == "aio_stat":
                    completion = self.io.aio_stat(*args, oncomplete)
                else:
                    completion = getattr(self.io, method)(*args, oncomplete=oncomplete)
            except Exception as e:
                begun.append((None, [type(e).__name__, getattr(e, "errno", None)]))
            else:
                begun.append((completion, called))
        self.io.aio_flush()
        return [called if completion is None else self._waited(completion, called) for completion, called in begun]

    def evaluate(self, oid: str, text: str) -> Any:
        """An expression, on an object of ten bytes with an attribute and two keys."""
        self.io.set_namespace("")
        self.io.set_locator_key("")  # the binding's `Object` leaves its own when it raises
        self.io.write_full(oid, b"0123456789")
        self.io.set_xattr(oid, "x", b"value")
        with self.rados.WriteOpCtx() as op:
            self.io.set_omap(op, ("k", "l"), (b"1", b"2"))
            self.io.operate_write_op(op, oid, mtime=1_000_000_000)
        names = {"io": self.io, "oid": oid, "rados": self.rados, "array": array, "cluster": self.cluster}
        return eval(text, {**names, "mmap": mmap, "Index": Index, "w": self.write_with, "r": self.read_with})  # noqa: S307

    def write_with(self, oid: str, *changes: Any, **kwargs: Any) -> Any:
        """A write op to which each of `changes` adds."""
        with self.rados.WriteOpCtx() as op:
            for change in changes:
                change(op)
            self.io.operate_write_op(op, oid, **{"mtime": 1_000_000_000, **kwargs})
        return self.state(oid)

    def read_with(self, oid: str, *reads: Any, **kwargs: Any) -> Any:
        """A read op, and what its iterators give."""
        with self.rados.ReadOpCtx() as op:
            iterators = [read(op) for read in reads]
            self.io.operate_read_op(op, oid, **kwargs)
        return [self.pairs(it[0]) for it in iterators if it]

    # ------------------------------------------------------------ snapshots

    def snapshot(self) -> int:
        """A new one, which the writes that follow preserve."""
        if self.kind == "pool":
            name = f"snap {self.seed} {len(self.snaps)}"
            self.io.create_snap(name)
            self.snaps.append(name)
        else:
            self.snaps.append(self.io.create_self_managed_snap())
        self.live.add(len(self.snaps) - 1)
        return len(self.snaps)

    def snap_again(self) -> Any:
        """A name that is there; the kind of snapshot that this pool cannot have."""
        if self.kind == "self":
            self.io.create_snap("never")
        elif self.live:
            self.io.create_snap(self.snaps[min(self.live)])
        else:
            self.io.remove_snap("never")

    def preserve(self, which: list[int]) -> None:
        if self.kind == "self":
            self.io.set_self_managed_snap_write([self.snaps[i] for i in which if i in self.live])

    def drop(self, i: int) -> None:
        if i not in self.live:
            return
        self.live.remove(i)
        if self.kind == "pool":
            self.io.remove_snap(self.snaps[i])
        else:
            self.io.remove_self_managed_snap(self.snaps[i])

    def rollback(self, oid: str, i: int) -> Any:
        if i not in self.live:
            return None
        if self.kind == "pool":
            return self.io.snap_rollback(oid, self.snaps[i])
        return self.io.rollback_self_managed_snap(oid, self.snaps[i])

    def read_from(self, i: int) -> None:
        """-1 for the present."""
        if i < 0:
            self.reading = self.rados.LIBRADOS_SNAP_HEAD
        elif i in self.live:
            self.reading = self.io.lookup_snap(self.snaps[i]).snap_id if self.kind == "pool" else self.snaps[i]
        self.io.set_read(self.reading)

    def list_snaps(self) -> Any:
        return [s.name for s in self.io.list_snaps()]

    # ------------------------------------------------------------ what the binding of 16.2 has not: librados' C

    def conditions(self, oid: str, writes: bool, conditions: list[Any]) -> Any:
        """(`name`, comparison, value) of attributes, None for the object's being there."""
        if self.c is not None:
            return self.c.conditions(self.where(), oid, writes, conditions)
        op = self.rados.WriteOp() if writes else self.rados.ReadOp()
        for condition in conditions:
            if condition is None:
                op.assert_exists()
            else:
                name, comparison, value = condition
                op.cmp_xattr(name, value, comparison)
        if writes:
            op.append(b"condition")
        try:
            (self.io.operate_write_op if writes else self.io.operate_read_op)(op, oid)
        except self.rados.Error as e:
            return -e.errno
        return 0

    def checksum(self, oid: str, kind: str, seed: int, length: int, offset: int, chunk: int) -> Any:
        if self.c is not None:
            return self.c.checksum(self.where(), oid, kind, seed, length, offset, chunk)
        try:
            return self.io.checksum(oid, kind, seed, length, offset, chunk)
        except self.rados.Error as e:
            return -e.errno

    def lockers(self, oid: str, name: str) -> Any:
        """Without clients and addresses."""
        if self.c is not None:
            return self.c.lockers(self.where(), oid, name)[:3]
        try:
            r = self.io.list_lockers(oid, name)
        except self.rados.Error as e:
            return [-e.errno, 0, []]
        return [r["tag"], int(r["exclusive"]), [cookie for _, cookie, _ in r["lockers"]]]

    def break_locks(self, oid: str, name: str, cookie: str) -> Any:
        """All, and one that is not there."""
        if self.c is not None:
            return self.c.break_locks(self.where(), oid, name, cookie)
        results = []
        try:
            found = [(client, c) for client, c, _ in self.io.list_lockers(oid, name)["lockers"]]
        except self.rados.Error as e:
            return -e.errno
        for client, c in [*found, ("client.1", cookie)]:
            try:
                self.io.break_lock(oid, name, client, c)
                results.append(0)
            except self.rados.Error as e:
                results.append(-e.errno)
        return results

    def where(self) -> Where:
        return self.kind, self.io.get_namespace(), self.io.get_locator_key(), self.reading


def digest(data: bytes) -> Any:
    """Short data as they are, long ones as something to compare."""
    import zlib

    return data if len(data) <= 500 else (len(data), zlib.crc32(data), data[:20], data[-20:])


class CApi:
    """Some of librados' C functions, on a connection of their own."""

    def __init__(self, conf: str, pools: dict[str, str]) -> None:
        self.lib = ctypes.CDLL("librados.so.2")
        cluster = ctypes.c_void_p()
        for made in ("rados_create_write_op", "rados_create_read_op"):
            getattr(self.lib, made).restype = ctypes.c_void_p
        assert self.lib.rados_create2(ctypes.byref(cluster), b"ceph", b"client.admin", ctypes.c_uint64(0)) == 0
        assert self.lib.rados_conf_read_file(cluster, conf.encode()) == 0
        assert self.lib.rados_connect(cluster) == 0
        self.cluster = cluster
        self.pools = {}
        for kind, name in pools.items():
            self.pools[kind] = ctypes.c_void_p()
            assert self.lib.rados_ioctx_create(cluster, name.encode(), ctypes.byref(self.pools[kind])) == 0

    def io(self, where: Where) -> ctypes.c_void_p:
        kind, nspace, key, snap = where
        io = self.pools[kind]
        self.lib.rados_ioctx_set_namespace(io, nspace.encode())
        self.lib.rados_ioctx_locator_set_key(io, key.encode())
        self.lib.rados_ioctx_snap_set_read(io, ctypes.c_uint64(snap))
        return io

    def conditions(self, where: Where, oid: str, writes: bool, conditions: list[Any]) -> int:
        lib, io = self.lib, self.io(where)
        kind = "write" if writes else "read"
        op = ctypes.c_void_p(getattr(lib, f"rados_create_{kind}_op")())
        for condition in conditions:
            if condition is None:
                getattr(lib, f"rados_{kind}_op_assert_exists")(op)
            else:
                name, comparison, value = condition
                size = ctypes.c_size_t(len(value))
                compare = getattr(lib, f"rados_{kind}_op_cmpxattr")
                compare(op, name.encode(), ctypes.c_uint8(comparison), value, size)
        if writes:
            lib.rados_write_op_append(op, b"condition", ctypes.c_size_t(9))
            result: int = lib.rados_write_op_operate(op, io, oid.encode(), None, 0)
        else:
            result = lib.rados_read_op_operate(op, io, oid.encode(), 0)
        getattr(lib, f"rados_release_{kind}_op")(op)
        return min(result, 0)

    def checksum(self, where: Where, oid: str, kind: str, seed: int, length: int, offset: int, chunk: int) -> Any:
        number, size = {"xxhash32": (0, 4), "xxhash64": (1, 8), "crc32c": (2, 4)}[kind]
        out = ctypes.create_string_buffer(1 << 16)
        result = self.lib.rados_checksum(
            self.io(where),
            oid.encode(),
            number,
            (seed & ((1 << 8 * size) - 1)).to_bytes(size, "little"),
            ctypes.c_size_t(size),
            ctypes.c_size_t(length),
            ctypes.c_uint64(offset),
            ctypes.c_size_t(chunk),
            out,
            ctypes.c_size_t(len(out)),
        )
        if result < 0:
            return result
        n = int.from_bytes(out.raw[:4], "little")
        return [int.from_bytes(out.raw[4 + i * size : 4 + i * size + size], "little") for i in range(n)]

    def lockers(self, where: Where, oid: str, name: str) -> Any:
        exclusive = ctypes.c_int()
        buffers = [(ctypes.create_string_buffer(4096), ctypes.c_size_t(4096)) for _ in range(4)]
        args = [x for buffer, size in buffers for x in (buffer, ctypes.byref(size))]
        n = self.lib.rados_list_lockers(self.io(where), oid.encode(), name.encode(), ctypes.byref(exclusive), *args)
        if n < 0:
            return [n, 0, [], []]
        tag, clients, cookies, _ = [buffer.raw[: size.value] for buffer, size in buffers]
        split = [[x.decode() for x in text.split(b"\0")][:n] for text in (clients, cookies)]
        return [tag.split(b"\0")[0].decode(), exclusive.value, split[1], split[0]]

    def break_locks(self, where: Where, oid: str, name: str, cookie: str) -> Any:
        found = self.lockers(where, oid, name)
        if isinstance(found[0], int):
            return found[0]
        pairs = [*zip(found[3], found[2]), ("client.1", cookie)]
        break_lock = self.lib.rados_break_lock
        return [
            break_lock(self.io(where), oid.encode(), name.encode(), client.encode(), c.encode()) for client, c in pairs
        ]


def main(conf: str, pool: str, managed: str) -> None:
    import rados

    cluster = rados.Rados(conffile=conf)
    cluster.connect()
    player = Player(rados, cluster, pool, managed, conf)
    for line in sys.stdin:
        print(repr(player.play(*ast.literal_eval(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
