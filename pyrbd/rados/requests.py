"""What can be asked of one object: each function here builds one request.

The functions are the methods of `rados.Ioctx` and of `aio.Ioctx` alike: a front door makes
a method of one by saying how it waits (:func:`blocking`, `aio.awaiting`), and the aio_*
methods send the same requests without waiting. So a function's signature, docstring and
checks stand once. The first argument is the ioctx.

Sizes and offsets are in bytes. A request that fails raises the exception for its errno:
ObjectNotFound, ObjectExists, ObjectBusy, NoSpace, PermissionError, TimedOut (after
`rados_osd_op_timeout`), ConnectionShutdown (shut down or blocklisted), or OSError.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ..denc import Decoder
from ..errors import DecodeError
from ..msgr.osdop import NOSNAP, SNAPDIR
from ..msgr.types import EntityName, ListSnaps
from . import cls_lock
from .exceptions import Error, ExtendMismatch, InvalidArgumentError, OutOfRangeArgument, make_ex
from .objects import XattrIterator
from .operations import ObjectOperation, OpReply

if TYPE_CHECKING:
    from .ioctx import IoctxBase

T = TypeVar("T")

MAX_U64 = 0xFFFFFFFFFFFFFFFF
MAX_DATA = 0x7FFFFFFF
"""Bytes in one request; librados refuses more with E2BIG."""


class Request(Generic[T]):
    """One request to one object, not sent yet.

    Attributes:
        what: is being done, for the message of an error.
        finish: makes the result of the reply.
        recover: makes a result of an error that is one, or raises it.
        partial: gets what came with an error.
        snapid: to read from; None for what the ioctx says, which may refuse a write then.
    """

    __slots__ = ("finish", "oid", "operation", "partial", "recover", "snapid", "what")

    def __init__(
        self,
        what: str,
        oid: str,
        operation: ObjectOperation,
        finish: Callable[[OpReply], T],
        *,
        recover: Callable[[Error], T] | None = None,
        partial: Callable[[OpReply], object] | None = None,
        snapid: int | None = None,
    ) -> None:
        self.what = what
        self.oid = oid
        self.operation = operation
        self.finish = finish
        self.recover = recover
        self.partial = partial
        self.snapid = snapid


def text(value: Any, name: str, *, opt: bool = False) -> str:
    """A str from str or bytes, which need not be UTF-8 (surrogateescape); TypeError for anything
    else, as in Ceph's binding."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if value is None and opt:
        return ""
    raise TypeError(f"{name} must be a string")


def number(value: Any, name: str, low: int = 0, high: int = MAX_U64) -> int:
    """An int, from anything that is one (NumPy's too); TypeError for what is not,
    OutOfRangeArgument for what is not from `low` to `high`."""
    if not isinstance(value, int):
        try:
            value = index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if low <= value <= high:
        return int(value)
    raise OutOfRangeArgument(f"{name} {value} is not from {low} to {high}", errno.EINVAL)


def int32(value: Any, name: str) -> int:
    """A number that is an int in C."""
    return number(value, name, -1 << 31, (1 << 31) - 1)


def seconds(value: Any, name: str, low: int = 0, high: int = 0xFFFFFFFF) -> float:
    """A time or duration, which may be a float."""
    if not isinstance(value, float) or not low <= value <= high:
        return number(int(value) if isinstance(value, float) else value, name, low, high)
    return value


def data_of(value: Any, name: str) -> bytes | bytearray | memoryview:
    """Any contiguous bytes-like object; TypeError for str and the rest."""
    if isinstance(value, bytes | bytearray):
        view: bytes | bytearray | memoryview = value
    else:
        try:
            view = memoryview(value)
        except TypeError:
            raise TypeError(f"{name} must be a bytes-like object, not {type(value).__name__}") from None
        if not (view.contiguous and view.format == "B" and view.ndim == 1):
            view = view.cast("B")
    if len(view) > MAX_DATA:
        raise make_ex(-errno.E2BIG, f"{len(view)} bytes in one request")
    return view


def writable(buffer: Any) -> memoryview:
    """The bytes of a buffer to read into; TypeError if it cannot be written."""
    view = memoryview(buffer).cast("B")
    if view.readonly:
        raise TypeError("buffer must be writable")
    return view


def checked(build: Callable[[], ObjectOperation]) -> ObjectOperation:
    """What the builder refuses before it leaves is an invalid argument."""
    try:
        return build()
    except ValueError as e:
        raise InvalidArgumentError(str(e), errno.EINVAL) from None


def _zero(_reply: OpReply) -> int:
    return 0


def _true(_reply: OpReply) -> bool:
    return True


def _nothing(_reply: OpReply) -> None:
    return None


def _output(reply: OpReply) -> bytes:
    return reply.ops[0].data


# ---------------------------------------------------------------- data


def read(self: IoctxBase, key: str, length: int = 8192, offset: int = 0) -> Request[bytes]:
    """Up to `length` bytes from `offset`, fewer at the object's end."""
    length, offset = number(length, "length"), number(offset, "offset")
    if length > MAX_DATA:
        raise make_ex(-errno.EDOM, f"read of {length} bytes")
    name = text(key, "key")
    if not length:
        return Request("read", name, ObjectOperation().stat(), lambda _: b"")
    return Request("read", name, ObjectOperation().read(offset, length), _output)


def sparse_read(
    self: IoctxBase, key: str, length: int = 8192, offset: int = 0
) -> Request[list[tuple[int, memoryview]]]:
    """What is there in a range: [(offset, bytes)] without the holes. Not in Ceph's binding."""
    name = text(key, "key")

    def finish(reply: OpReply) -> list[tuple[int, memoryview]]:
        d = Decoder(reply.ops[0].data)
        extents = [(d.u64(), d.u64()) for _ in range(d.count(16))]
        data, parts, at = memoryview(d.blob()), [], 0
        if sum(size for _, size in extents) != len(data):
            raise DecodeError(f"a sparse read with {len(data)} bytes for {len(extents)} extents of other lengths")
        for start, size in extents:
            parts.append((start, data[at : at + size]))
            at += size
        return parts

    length, offset = number(length, "length", 1), number(offset, "offset")
    return Request("read", name, checked(lambda: ObjectOperation().sparse_read(offset, length)), finish)


def write(self: IoctxBase, key: str, data: Any, offset: int = 0) -> Request[int]:
    """Writes `data` at `offset`, making the object if need be; returns 0."""
    view = data_of(data, "data")
    op = checked(lambda: ObjectOperation().write(number(offset, "offset"), view))
    return Request("write", text(key, "key"), op, _zero)


def write_full(self: IoctxBase, key: str, data: Any) -> Request[int]:
    """Replaces the whole object; returns 0."""
    return Request("write_full", text(key, "key"), ObjectOperation().write_full(data_of(data, "data")), _zero)


def writesame(self: IoctxBase, key: str, data: Any, write_len: int, offset: int = 0) -> Request[None]:
    """Writes `data` again and again over `write_len` bytes, a multiple of its size."""
    view, write_len = data_of(data, "data"), number(write_len, "write_len")
    if write_len > MAX_DATA:
        raise make_ex(-errno.E2BIG, f"{write_len} bytes in one request")
    op = checked(lambda: ObjectOperation().writesame(number(offset, "offset"), write_len, view))
    return Request("writesame", text(key, "key"), op, _nothing)


def append(self: IoctxBase, key: str, data: Any) -> Request[int]:
    """Writes `data` at the object's end; returns 0."""
    return Request("append", text(key, "key"), ObjectOperation().append(data_of(data, "data")), _zero)


def trunc(self: IoctxBase, key: str, size: int) -> Request[int]:
    """Cuts or extends the object to `size` bytes; returns 0."""
    op = checked(lambda: ObjectOperation().truncate(number(size, "size")))
    return Request("trunc", text(key, "key"), op, _zero)


def zero(self: IoctxBase, key: str, length: int, offset: int = 0) -> Request[int]:
    """Makes a range zeros, a hole where the store can; the object's size stays. Returns 0.
    Not in Ceph's binding, where only WriteOp has it."""
    op = checked(lambda: ObjectOperation().zero(number(offset, "offset"), number(length, "length")))
    return Request("zero", text(key, "key"), op, _zero)


def remove_object(self: IoctxBase, key: str) -> Request[bool]:
    """Removes the object; ObjectNotFound if there is none. Returns True."""
    return Request("remove", text(key, "key"), ObjectOperation().remove(), _true)


def cmpext(self: IoctxBase, key: str, cmp_buf: Any, offset: int = 0) -> Request[int]:
    """Compares the object with `cmp_buf`: 0 if equal, else -4095 (MAX_ERRNO) less the offset
    of the first byte that differs."""
    view = data_of(cmp_buf, "cmp_buf")

    def recover(e: Error) -> int:
        if isinstance(e, ExtendMismatch) and e.errno is not None:
            return -e.errno
        raise e

    op = checked(lambda: ObjectOperation().cmpext(number(offset, "offset"), view))
    return Request("cmpext", text(key, "key"), op, _zero, recover=recover)


def checksum(
    self: IoctxBase, key: str, type: str, init_value: int, length: int = 0, offset: int = 0, chunk_size: int = 0
) -> Request[list[int]]:
    """Checksums by the OSD, one of each `chunk_size` bytes (0: one of all). Not in Ceph's binding.

    Args:
        type: ``xxhash32``, ``xxhash64`` or ``crc32c``.
        init_value: to begin with, as librados' `checksum` takes it.
        length: a multiple of `chunk_size`; 0 for up to the object's end.
    """
    kinds = {"xxhash32": (0, 4), "xxhash64": (1, 8), "crc32c": (2, 4)}
    init_value, length = number(init_value, "init_value"), number(length, "length")
    offset, chunk_size = number(offset, "offset"), number(chunk_size, "chunk_size", 0, 0xFFFFFFFF)
    if type not in kinds:
        raise InvalidArgumentError(f"checksum type {type!r}: one of {', '.join(kinds)}", errno.EINVAL)
    kind, size = kinds[type]
    seed = (init_value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def finish(reply: OpReply) -> list[int]:
        d = Decoder(reply.ops[0].data)
        return [int.from_bytes(d.raw(size), "little") for _ in range(d.count(size) if d.remaining else 0)]

    op = checked(lambda: ObjectOperation().checksum(kind, seed, offset, length, chunk_size))
    return Request("checksum", text(key, "key"), op, finish)


def stat(self: IoctxBase, key: str) -> Request[tuple[int, time.struct_time]]:
    """(size in bytes, time of last change)."""

    def finish(reply: OpReply) -> tuple[int, time.struct_time]:
        d = Decoder(reply.ops[0].data)
        return d.u64(), time.localtime(d.u32())

    return Request("stat", text(key, "key"), ObjectOperation().stat(), finish)


def execute(
    self: IoctxBase, key: str, cls: str, method: str, data: Any, length: int = 8192
) -> Request[tuple[int, bytes]]:
    """Runs a method of an object class in the OSD.

    Args:
        length: what the output may have at most, else it is ERANGE.
    Returns:
        (length of the output, or the method's return value if there is none; the output).
    """

    def finish(reply: OpReply) -> tuple[int, bytes]:
        out = reply.ops[0]
        if len(out.data) > length:
            raise make_ex(-errno.ERANGE, f"{cls}.{method} gave {len(out.data)} bytes, more than {length}")
        return len(out.data) or reply.result, out.data

    name, length = text(key, "key"), number(length, "length")
    op = checked(lambda: ObjectOperation().call(text(cls, "cls"), text(method, "method"), data_of(data, "data")))
    return Request("execute", name, op, finish)


# ---------------------------------------------------------------- extended attributes


def get_xattr(self: IoctxBase, key: str, xattr_name: str) -> Request[bytes]:
    """An extended attribute; NoData if the object has none of that name."""
    return Request("get_xattr", text(key, "key"), ObjectOperation().getxattr(text(xattr_name, "xattr_name")), _output)


def get_xattrs(self: IoctxBase, oid: str) -> Request[XattrIterator]:
    """(name, value) of all extended attributes."""

    name = text(oid, "oid")

    def finish(reply: OpReply) -> XattrIterator:
        d = Decoder(reply.ops[0].data)
        pairs = [(d.string(), d.blob()) for _ in range(d.count(8))] if d.remaining else []
        return XattrIterator(self, name, pairs)

    return Request("get_xattrs", name, ObjectOperation().getxattrs(), finish)


def set_xattr(self: IoctxBase, key: str, xattr_name: str, xattr_value: Any) -> Request[bool]:
    """Sets an extended attribute; returns True."""
    op = ObjectOperation().setxattr(text(xattr_name, "xattr_name"), data_of(xattr_value, "xattr_value"))
    return Request("set_xattr", text(key, "key"), op, _true)


def rm_xattr(self: IoctxBase, key: str, xattr_name: str) -> Request[bool]:
    """Removes an extended attribute; returns True."""
    return Request("rm_xattr", text(key, "key"), ObjectOperation().rmxattr(text(xattr_name, "xattr_name")), _true)


# ---------------------------------------------------------------- snapshots


class ObjectClone(NamedTuple):
    """A state of an object that a snapshot keeps; see :func:`list_object_snaps`."""

    id: int
    snaps: tuple[int, ...]
    overlap: tuple[tuple[int, int], ...]
    size: int


def list_object_snaps(self: IoctxBase, key: str) -> Request[tuple[int, list[ObjectClone]]]:
    """(newest snapshot id that the object knows, its clones, the head last with the id
    LIBRADOS_SNAP_HEAD). `overlap` is [(offset, length)] that the next one has unchanged.
    Not in Ceph's binding."""

    def finish(reply: OpReply) -> tuple[int, list[ObjectClone]]:
        r = ListSnaps.decode(Decoder(reply.ops[0].data))
        return r.seq, [
            ObjectClone(c.id, c.snaps, tuple([(o.start, o.length) for o in c.overlap]), c.size) for c in r.clones
        ]

    return Request("list_snaps", text(key, "key"), ObjectOperation().list_snaps(), finish, snapid=SNAPDIR)


def rollback_self_managed_snap(self: IoctxBase, oid: str, snap_id: int) -> Request[None]:
    """Makes the object what it was at a snapshot."""
    op = ObjectOperation().rollback(number(snap_id, "snap_id"))
    return Request("rollback", text(oid, "oid"), op, _nothing, snapid=NOSNAP)


def snap_rollback(self: IoctxBase, oid: str, snap_name: str) -> Request[None]:
    """Makes the object what it was at a snapshot of the pool."""
    return rollback_self_managed_snap(self, oid, self.lookup_snap(text(snap_name, "snap_name")).snap_id)


# ---------------------------------------------------------------- advisory locks


def _duration(duration: float | None) -> float:
    return 0.0 if duration is None else seconds(duration, "duration", -1 << 63, (1 << 63) - 1)


def lock_exclusive(
    self: IoctxBase, key: str, name: str, cookie: str, desc: str = "", duration: float | None = None, flags: int = 0
) -> Request[None]:
    """Takes a lock for us alone; ObjectBusy when others hold it, ObjectExists when we do.

    Args:
        duration: seconds until it expires, None for never.
        flags: 1 renews a lock that we hold, 2 only renews.
    """
    cookie, desc, flags = text(cookie, "cookie"), text(desc, "desc"), number(flags, "flags", 0, 255)
    op = cls_lock.lock(text(name, "name"), cls_lock.LOCK_EXCLUSIVE, cookie, "", desc, _duration(duration), flags)
    return Request("lock", text(key, "key"), op, _nothing)


def lock_shared(
    self: IoctxBase,
    key: str,
    name: str,
    cookie: str,
    tag: str,
    desc: str = "",
    duration: float | None = None,
    flags: int = 0,
) -> Request[None]:
    """Takes a lock that others may share who give the same `tag`."""
    cookie, tag, desc = text(cookie, "cookie"), text(tag, "tag"), text(desc, "desc")
    flags = number(flags, "flags", 0, 255)
    op = cls_lock.lock(text(name, "name"), cls_lock.LOCK_SHARED, cookie, tag, desc, _duration(duration), flags)
    return Request("lock", text(key, "key"), op, _nothing)


def unlock(self: IoctxBase, key: str, name: str, cookie: str) -> Request[None]:
    """Gives our lock back; ObjectNotFound when we do not hold it."""
    return Request("unlock", text(key, "key"), cls_lock.unlock(text(name, "name"), text(cookie, "cookie")), _nothing)


def break_lock(self: IoctxBase, key: str, name: str, client: str, cookie: str) -> Request[None]:
    """Takes the lock away from `client`, named as :func:`list_lockers` does; it may go on
    writing unless it is blocklisted too."""
    kind, _, num = text(client, "client").partition(".")
    kinds = {"mon": 1, "mds": 2, "osd": 4, "client": 8, "mgr": 16}
    if kind not in kinds or not num.isascii() or not num.isdigit():
        raise InvalidArgumentError(f"{client!r} is not the name of a client, such as client.4123", errno.EINVAL)
    op = cls_lock.break_lock(text(name, "name"), EntityName(kinds[kind], int(num)), text(cookie, "cookie"))
    return Request("break_lock", text(key, "key"), op, _nothing)


def list_lockers(self: IoctxBase, key: str, name: str) -> Request[dict[str, Any]]:
    """{"tag", "exclusive", "lockers": [(client, cookie, address)]}."""

    def finish(reply: OpReply) -> dict[str, Any]:
        info = cls_lock.decode_info(reply.ops[0].data)
        lockers = [(str(i.locker), i.cookie, _addr_text(str(v.addr))) for i, v in info.lockers.items()]
        exclusive = info.type == cls_lock.LOCK_EXCLUSIVE
        return {"tag": info.tag, "exclusive": exclusive, "lockers": lockers}

    return Request("list_lockers", text(key, "key"), cls_lock.get_info(text(name, "name")), finish)


def _addr_text(addr: str) -> str:
    """As librados writes it, which stores them without a type."""
    return addr.removeprefix("any:").removeprefix("v1:")


__all__ = ["ObjectClone", "Request", "checked", "data_of", "number", "text", "writable"]
