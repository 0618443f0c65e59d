"""Several operations on one object in one request: applied together, in order, or not at
all (`src/osdc/Objecter.h`, ObjectOperation)."""

from __future__ import annotations

import struct as _struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Encoder
from ..msgr.osdop import (
    FLAG_EXEC,
    FLAG_IGNORE_OVERLAY,
    FLAG_PGOP,
    FLAG_READ,
    FLAG_WRITE,
    MAX_OPS,
    MODE_MASK,
    MODE_RD,
    OP_EXTENT,
    Op,
    OpFlag,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..denc import Buffer

_XATTR = _struct.Struct("<HIIIBB18xI")
_CLS = _struct.Struct("<HIBBBI21xI")
_WATCH = _struct.Struct("<HIQQBIIxxxI")
_TWO = _struct.Struct("<HIQQ12xI")  # assert_ver: unused, version
_SNAP = _struct.Struct("<HIQ20xI")
_WRITESAME = _struct.Struct("<HIQQQ4xI")
_CHECKSUM = _struct.Struct("<HIQQIB7xI")
_MAX_DATA = 0x7FFFFFFF
_MAX_U64 = 0xFFFFFFFFFFFFFFFF

CMPXATTR_MODE_STRING = 1
CMPXATTR_MODE_U64 = 2

WATCH_OP_UNWATCH = 0
WATCH_OP_WATCH = 3
WATCH_OP_RECONNECT = 5
WATCH_OP_PING = 7


class OpOutput(NamedTuple):
    """What one operation of a request gave: its own return value and its data."""

    rval: int
    data: bytes


class OpReply(NamedTuple):
    """What a request gave.

    `result` is that of the first operation that failed, or of the last one; `user_version`
    is the object's version, as librados' `get_last_version` shows it.
    """

    result: int
    ops: tuple[OpOutput, ...]
    user_version: int


class ObjectOperation:
    """A builder: each method adds one operation and gives the builder back.

    Offsets and lengths are in bytes. Data is not copied, so it must not change until the
    request has been answered. Raises ValueError for what no OSD should ever see
    (a negative number, a ZERO of no bytes).
    """

    __slots__ = ("flags", "indata", "ops", "read_bytes")

    def __init__(self) -> None:
        self.read_bytes = 0
        """Bytes of data that the reply may bring."""
        self.ops: list[bytes] = []
        self.indata: list[Buffer] = []
        self.flags = 0

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def is_write(self) -> bool:
        return bool(self.flags & FLAG_WRITE)

    def _mode(self, op: int) -> None:
        self.flags |= FLAG_READ if op & MODE_MASK == MODE_RD else FLAG_WRITE
        if len(self.ops) >= MAX_OPS:
            raise ValueError(f"more than {MAX_OPS} operations in one request")

    def _extent(self, op: int, offset: int, length: int, data: Buffer = b"") -> Self:
        if offset < 0 or length < 0 or offset + length > _MAX_U64:
            raise ValueError(f"offset {offset}, length {length} of an operation")
        self._mode(op)
        self.ops.append(OP_EXTENT.pack(op, 0, offset, length, 0, 0, len(data)))
        if len(data):
            self.indata.append(data)
        return self

    def _with_payload(self, op: int, payload: Buffer = b"") -> Self:
        return self._extent(op, 0, 0, payload)

    def set_op_flags(self, flags: int) -> Self:
        """Gives these :class:`~pyrbd.msgr.osdop.OpFlag` bits to the operation added last, in place of
        those that it has."""
        raw = bytearray(self.ops[-1])
        _struct.pack_into("<I", raw, 2, flags)
        self.ops[-1] = bytes(raw)
        return self

    # ------------------------------------------------------------ data

    def read(self, offset: int, length: int) -> Self:
        """Up to `length` bytes; 0 means the whole object."""
        self.read_bytes += length
        return self._extent(Op.READ, offset, length)

    def sparse_read(self, offset: int, length: int) -> Self:
        """map<u64 offset, u64 length> of what is there, and a blob with the data."""
        self.read_bytes += length
        return self._extent(Op.SPARSE_READ, offset, length)

    def stat(self) -> Self:
        """u64 size, utime mtime."""
        return self._extent(Op.STAT, 0, 0)

    def write(self, offset: int, data: Buffer) -> Self:
        return self._extent(Op.WRITE, offset, len(data), data)

    def write_full(self, data: Buffer) -> Self:
        return self._extent(Op.WRITEFULL, 0, len(data), data)

    def append(self, data: Buffer) -> Self:
        return self._extent(Op.APPEND, 0, len(data), data)

    def writesame(self, offset: int, length: int, data: Buffer) -> Self:
        """Writes `data` again and again over `length` bytes, a multiple of its size. The OSD has
        all of them in its memory."""
        if offset < 0 or not 0 <= length <= _MAX_DATA or offset + length > _MAX_U64:
            raise ValueError(f"offset {offset}, length {length} of an operation")
        if not len(data) or length % len(data):
            raise ValueError(f"{length} bytes are not a multiple of the {len(data)} to repeat")
        self._mode(Op.WRITESAME)
        self.ops.append(_WRITESAME.pack(Op.WRITESAME, 0, offset, length, len(data), len(data)))
        self.indata.append(data)
        return self

    def cmpext(self, offset: int, data: Buffer) -> Self:
        """Fails the request unless the object has `data` at `offset`; its return value then is
        -4095 (MAX_ERRNO) less the offset of the first byte that differs. What is beyond the
        object's end counts as zeros."""
        return self._extent(Op.CMPEXT, offset, len(data), data)

    def checksum(self, kind: int, init_value: bytes, offset: int, length: int, chunk_size: int = 0) -> Self:
        """Checksums of `length` bytes (0: up to the object's end) in chunks: u32 count, then values.

        Args:
            kind: 0 for xxhash32, 1 for xxhash64, 2 for crc32c.
            init_value: 4 bytes, 8 for xxhash64, little-endian.
        """
        if offset < 0 or length < 0 or chunk_size < 0 or offset + length > _MAX_U64:
            raise ValueError(f"offset {offset}, length {length} of an operation")
        if kind not in (0, 1, 2) or len(init_value) != (8 if kind == 1 else 4):
            raise ValueError(f"checksum of type {kind} with an initial value of {len(init_value)} bytes")
        self._mode(Op.CHECKSUM)
        self.ops.append(_CHECKSUM.pack(Op.CHECKSUM, 0, offset, length, chunk_size, kind, len(init_value)))
        self.indata.append(init_value)
        return self

    def truncate(self, size: int) -> Self:
        return self._extent(Op.TRUNCATE, size, 0)

    def zero(self, offset: int, length: int) -> Self:
        if length == 0:
            raise ValueError("a ZERO of no bytes aborts some OSDs")
        return self._extent(Op.ZERO, offset, length)

    def remove(self) -> Self:
        return self._extent(Op.DELETE, 0, 0)

    def create(self, exclusive: bool = True) -> Self:
        self._extent(Op.CREATE, 0, 0)
        return self.set_op_flags(OpFlag.EXCL) if exclusive else self

    def assert_exists(self) -> Self:
        """Fails the request with ENOENT unless the object is there."""
        return self.stat()

    def assert_version(self, version: int) -> Self:
        """Fails the request (ERANGE or EOVERFLOW) unless the object's user version is this one."""
        if not 0 <= version <= _MAX_U64:
            raise ValueError(f"version {version}")
        self._mode(Op.ASSERT_VER)
        self.ops.append(_TWO.pack(Op.ASSERT_VER, 0, 0, version, 0))
        return self

    def rollback(self, snapid: int) -> Self:
        """Makes the head what it was at a snapshot."""
        if not 0 <= snapid <= _MAX_U64:
            raise ValueError(f"snapshot {snapid}")
        self._mode(Op.ROLLBACK)
        self.ops.append(_SNAP.pack(Op.ROLLBACK, 0, snapid, 0))
        return self

    def set_alloc_hint(self, object_size: int, write_size: int, flags: int = 0) -> Self:
        """Tells the store how the object will be used; never fails the request."""
        self._mode(Op.SETALLOCHINT)
        self.ops.append(_struct.pack("<HIQQI8xI", Op.SETALLOCHINT, OpFlag.FAILOK, object_size, write_size, flags, 0))
        return self

    # ------------------------------------------------------------ class calls

    def call(self, cls: str, method: str, data: Buffer = b"") -> Self:
        """Runs a method of an object class in the OSD; whether it writes, the OSD knows."""
        names = _raw(cls), _raw(method)
        if not 1 <= min(map(len, names)) <= max(map(len, names)) <= 255:
            raise ValueError("class and method names have 1 to 255 bytes")
        payload = b"".join((*names, data))
        # the OSD looks up itself whether the method writes; both flags let it
        self.flags |= FLAG_READ | FLAG_EXEC
        self.ops.append(_CLS.pack(Op.CALL, 0, len(names[0]), len(names[1]), 0, len(data), len(payload)))
        self.indata.append(payload)
        return self

    def call_write(self, cls: str, method: str, data: Buffer = b"") -> Self:
        """As :meth:`call`, for a method that changes the object."""
        self.call(cls, method, data)
        self.flags |= FLAG_WRITE
        return self

    # ------------------------------------------------------------ xattrs

    def _xattr(self, op: int, name: str, value: Buffer = b"") -> Self:
        raw = _raw(name)
        self._mode(op)
        self.ops.append(_XATTR.pack(op, 0, len(raw), len(value), 0, 0, len(raw) + len(value)))
        self.indata.append(raw + bytes(value))
        return self

    def getxattr(self, name: str) -> Self:
        return self._xattr(Op.GETXATTR, name)

    def getxattrs(self) -> Self:
        """map<string, blob>."""
        return self._with_payload(Op.GETXATTRS)

    def setxattr(self, name: str, value: Buffer) -> Self:
        return self._xattr(Op.SETXATTR, name, value)

    def rmxattr(self, name: str) -> Self:
        return self._xattr(Op.RMXATTR, name)

    def cmpxattr(self, name: str, comparison: int, value: Buffer | int) -> Self:
        """Fails the request (ECANCELED) unless `value` stands in this relation to the attribute
        (``LIBRADOS_CMPXATTR_OP_*``: 1 EQ to 6 LTE); a number is compared as one."""
        if not 1 <= comparison <= 6:
            raise ValueError(f"comparison {comparison}")
        mode = CMPXATTR_MODE_U64 if isinstance(value, int) else CMPXATTR_MODE_STRING
        raw, text = _raw(name), value.to_bytes(8, "little") if isinstance(value, int) else bytes(value)
        self._mode(Op.CMPXATTR)
        sizes = (len(raw), len(text), comparison, mode, len(raw) + len(text))
        self.ops.append(_XATTR.pack(Op.CMPXATTR, 0, *sizes))
        self.indata.append(raw + text)
        return self

    # ------------------------------------------------------------ omap

    def omap_get_keys(self, start_after: bytes = b"", max_return: int = 1024) -> Self:
        """set<string> and, since kraken, u8 whether there are more."""
        e = Encoder()
        e.blob(start_after)
        e.u64(max_return)
        return self._with_payload(Op.OMAPGETKEYS, e.buf)

    def omap_get_vals(self, start_after: bytes = b"", filter_prefix: bytes = b"", max_return: int = 1024) -> Self:
        """map<string, blob> and, since kraken, u8 whether there are more."""
        e = Encoder()
        e.blob(start_after)
        e.u64(max_return)
        e.blob(filter_prefix)
        return self._with_payload(Op.OMAPGETVALS, e.buf)

    def omap_get_vals_by_keys(self, keys: Iterable[bytes]) -> Self:
        return self._with_payload(Op.OMAPGETVALSBYKEYS, _encode_keys(keys))

    def omap_set(self, values: Mapping[bytes, bytes]) -> Self:
        e = Encoder()
        e.u32(len(values))
        for k in sorted(values):
            e.blob(k)
            e.blob(values[k])
        return self._with_payload(Op.OMAPSETVALS, e.buf)

    def omap_rm_keys(self, keys: Iterable[bytes]) -> Self:
        return self._with_payload(Op.OMAPRMKEYS, _encode_keys(keys))

    def omap_rm_range(self, begin: bytes, end: bytes) -> Self:
        """Removes the keys from `begin` on up to, without, `end`."""
        e = Encoder()
        e.blob(begin)
        e.blob(end)
        return self._with_payload(Op.OMAPRMKEYRANGE, e.buf)

    def omap_clear(self) -> Self:
        """Removes all keys, and the header."""
        return self._with_payload(Op.OMAPCLEAR)

    def omap_get_header(self) -> Self:
        return self._with_payload(Op.OMAPGETHEADER)

    def omap_set_header(self, header: Buffer) -> Self:
        return self._with_payload(Op.OMAPSETHEADER, header)

    def omap_cmp(self, assertions: Mapping[bytes, tuple[bytes, int]]) -> Self:
        """Fails the request (ECANCELED) unless each key's value stands in this relation to the
        one given: {key: (value, comparison)}, with EQ 1, GT 3 and LT 5."""
        e = Encoder()
        e.u32(len(assertions))
        for k in sorted(assertions):
            value, comparison = assertions[k]
            e.blob(k)
            e.blob(value)
            e.s32(comparison)
        return self._with_payload(Op.OMAP_CMP, e.buf)

    # ------------------------------------------------------------ maps in an object's data

    def tmap_update(self, values: Mapping[bytes, bytes] = {}, removed: Iterable[bytes] = ()) -> Self:
        """Changes the map that is the object's data, as it was done before there were omaps: blob header,
        map<string, blob>. ENOENT when a key to remove is not there."""
        e = Encoder()
        for k, v in values.items():
            e.raw(b"s")
            e.blob(k)
            e.blob(v)
        for k in removed:
            e.raw(b"r")
            e.blob(k)
        return self._with_payload(Op.TMAPUP, e.buf)

    # ------------------------------------------------------------ watch and notify

    def watch(self, cookie: int, kind: int, gen: int = 0, timeout: int = 0) -> Self:
        """`kind` is one of ``WATCH_OP_*``; `timeout` in seconds, 0 for the OSD's default."""
        self._mode(Op.WATCH)
        self.ops.append(_WATCH.pack(Op.WATCH, 0, cookie, 0, kind, gen, timeout, 0))
        return self

    def notify_ack(self, notify_id: int, cookie: int, payload: Buffer = b"") -> Self:
        e = Encoder()
        e.u64(notify_id)
        e.u64(cookie)
        e.blob(payload)
        return self._with_payload(Op.NOTIFY_ACK, e.buf)

    def notify(self, cookie: int, payload: Buffer, timeout: int) -> Self:
        """Tells all watchers; `timeout` in seconds."""
        e = Encoder()
        e.u32(1)  # protocol version
        e.u32(timeout)
        e.blob(payload)
        self._mode(Op.NOTIFY)
        self.ops.append(_WATCH.pack(Op.NOTIFY, 0, cookie, 0, 0, 0, 0, len(e.buf)))
        self.indata.append(e.buf)
        return self

    def list_watchers(self) -> Self:
        """obj_list_watch_response_t."""
        return self._with_payload(Op.LIST_WATCHERS)

    def pg_list(self, count: int, cursor: bytes, epoch: int) -> Self:
        """Names of a placement group's objects from an encoded hobject_t on: pg_nls_response_t."""
        self._mode(Op.PGNLS)
        self.flags |= FLAG_PGOP | FLAG_IGNORE_OVERLAY
        self.ops.append(_struct.pack("<HIQI16xI", Op.PGNLS, 0, count, epoch, len(cursor)))
        self.indata.append(cursor)
        return self

    def list_snaps(self) -> Self:
        """obj_list_snap_response_t; sent with snapid SNAPDIR."""
        return self._with_payload(Op.LIST_SNAPS)


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _encode_keys(keys: Iterable[bytes]) -> bytearray:
    keys = list(keys)
    e = Encoder()
    e.u32(len(keys))
    for k in keys:
        e.blob(k)
    return e.buf
