"""Several operations in one request: `WriteOp`, `ReadOp` and what reads them out.

    with WriteOpCtx() as op:
        op.assert_version(7)
        op.write_full(b"new")
        ioctx.set_omap(op, ("key",), (b"value",))
        ioctx.operate_write_op(op, "object")

The operations of a request are done together, in order, or not at all.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..denc import Decoder
from ..msgr.osdop import OpFlag
from .exceptions import Error, InvalidArgumentError, make_ex
from .operations import ObjectOperation, OpOutput, OpReply
from .requests import MAX_U64, checked, data_of, int32, number, text

_OpT = TypeVar("_OpT", bound="_Op")

LIBRADOS_OP_FLAG_EXCL = 0x1
LIBRADOS_OP_FLAG_FAILOK = 0x2
LIBRADOS_OP_FLAG_FADVISE_RANDOM = 0x4
LIBRADOS_OP_FLAG_FADVISE_SEQUENTIAL = 0x8
LIBRADOS_OP_FLAG_FADVISE_WILLNEED = 0x10
LIBRADOS_OP_FLAG_FADVISE_DONTNEED = 0x20
LIBRADOS_OP_FLAG_FADVISE_NOCACHE = 0x40

LIBRADOS_CMPXATTR_OP_EQ = 1
LIBRADOS_CMPXATTR_OP_NE = 2
LIBRADOS_CMPXATTR_OP_GT = 3
LIBRADOS_CMPXATTR_OP_GTE = 4
LIBRADOS_CMPXATTR_OP_LT = 5
LIBRADOS_CMPXATTR_OP_LTE = 6

LIBRADOS_CREATE_EXCLUSIVE = 1
LIBRADOS_CREATE_IDEMPOTENT = 0

_OP_FLAGS = sum(OpFlag)


def raw_key(value: Any, name: str) -> bytes:
    """A key of an omap: bytes, or the UTF-8 of a str."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    raise TypeError(f"{name} must be a string")


class OpCtx:
    """Base of the context managers: makes the operation, and lets it go."""

    def __enter__(self) -> Any:
        return self.create()

    def __exit__(self, *args: object) -> None:
        self.release()

    def create(self) -> Any:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


class _Op:
    """What `WriteOp` and `ReadOp` share: a builder, and who wants its outputs."""

    def __init__(self) -> None:
        self._op = ObjectOperation()
        self._outputs: list[tuple[int, Callable[[OpOutput], object]]] = []

    def __len__(self) -> int:
        return len(self._op)

    def create(self) -> Any:
        """Begins anew; returns itself."""
        self._op, self._outputs = ObjectOperation(), []
        return self

    def release(self) -> None:
        """Lets go of the operations and their data."""
        self.create()

    def take(self) -> tuple[ObjectOperation, Callable[[OpReply], None]]:
        """For the one who sends it: the operations, and what to do with the reply. The op is
        empty afterwards, as librados leaves it."""
        op, outputs = self._op, self._outputs
        self.create()

        def finish(reply: OpReply) -> None:
            for index, deliver in outputs:
                if index < len(reply.ops) and (reply.result >= 0 or reply.ops[index].data):
                    deliver(reply.ops[index])

        return op, finish

    def wants_output(self, deliver: Callable[[OpOutput], object]) -> None:
        """`deliver` gets the output of the operation that was added last."""
        self._outputs.append((len(self._op) - 1, deliver))

    def add(self, build: Callable[[ObjectOperation], object]) -> None:
        """Adds operations by the builder; what it refuses is an InvalidArgumentError."""
        checked(lambda: build(self._op) and self._op)  # type: ignore[arg-type,return-value]

    def set_flags(self, flags: int = 0) -> None:
        """Sets ``LIBRADOS_OP_FLAG_*`` for the operation that was added last, in place of those that
        it has: 0 after an exclusive :meth:`new` makes it one that is not."""
        if not len(self._op):
            raise InvalidArgumentError("flags for the last operation, and there is none", errno.EINVAL)
        self._op.set_op_flags(int32(flags, "flags") & _OP_FLAGS)

    def cmpext(self, cmp_buf: Any, offset: int = 0) -> None:
        """Goes on only if the object has `cmp_buf` at `offset`; else ExtendMismatch."""
        view = data_of(cmp_buf, "cmp_buf")
        self.add(lambda op: op.cmpext(number(offset, "offset"), view))

    def assert_version(self, version: int) -> None:
        """Goes on only if the object has this version (see `Ioctx.get_last_version`)."""
        self.add(lambda op: op.assert_version(number(version, "version")))

    def assert_exists(self) -> None:
        """Goes on only if the object is there. Not in Ceph's binding."""
        self.add(lambda op: op.assert_exists())

    def cmp_xattr(self, xattr_name: str, value: Any, cmp_op: int = LIBRADOS_CMPXATTR_OP_EQ) -> None:
        """Goes on only if `value`, bytes or a number, stands in this relation to the attribute;
        else it is ECANCELED. Not in Ceph's binding."""
        name = text(xattr_name, "xattr_name")
        operand = value if isinstance(value, int) else bytes(data_of(value, "value"))
        self.add(lambda op: op.cmpxattr(name, cmp_op, operand))

    def omap_cmp(self, key: str | bytes, val: str | bytes, cmp_op: int = LIBRADOS_CMPXATTR_OP_EQ) -> None:
        """Goes on only if `val` stands in this relation to the key's value (EQ, GT or LT);
        else it is ECANCELED."""
        pair = (raw_key(val, "val"), number(cmp_op, "cmp_op", 0, 255))
        self.add(lambda op: op.omap_cmp({raw_key(key, "key"): pair}))


class WriteOp(_Op):
    """Changes of one object, done together or not at all."""

    def new(self, exclusive: int | None = None) -> None:
        """Makes the object; with LIBRADOS_CREATE_EXCLUSIVE it is ObjectExists if it is there."""
        self.add(lambda op: op.create(int32(exclusive or 0, "exclusive") != 0))

    def remove(self) -> None:
        self.add(lambda op: op.remove())

    def set_xattr(self, xattr_name: str, xattr_value: Any) -> None:
        view = data_of(xattr_value, "xattr_value")
        self.add(lambda op: op.setxattr(text(xattr_name, "xattr_name"), view))

    def rm_xattr(self, xattr_name: str) -> None:
        self.add(lambda op: op.rmxattr(text(xattr_name, "xattr_name")))

    def append(self, to_write: Any) -> None:
        view = data_of(to_write, "to_write")
        self.add(lambda op: op.append(view))

    def write_full(self, to_write: Any) -> None:
        view = data_of(to_write, "to_write")
        self.add(lambda op: op.write_full(view))

    def write(self, to_write: Any, offset: int = 0) -> None:
        view = data_of(to_write, "to_write")
        self.add(lambda op: op.write(number(offset, "offset"), view))

    def zero(self, offset: int, length: int) -> None:
        """Makes `length` bytes from `offset` zeros. (The binding of 16.2 takes the two the
        other way round, by mistake.) A length of 0 is refused: it aborts some OSDs."""
        self.add(lambda op: op.zero(number(offset, "offset"), number(length, "length")))

    def truncate(self, offset: int) -> None:
        """Cuts or extends the object to `offset` bytes."""
        self.add(lambda op: op.truncate(number(offset, "offset")))

    def execute(self, cls: str, method: str, data: Any) -> None:
        view = data_of(data, "data")
        self.add(lambda op: op.call_write(text(cls, "cls"), text(method, "method"), view))

    def writesame(self, to_write: Any, write_len: int, offset: int = 0) -> None:
        view = data_of(to_write, "to_write")
        self.add(lambda op: op.writesame(number(offset, "offset"), number(write_len, "write_len"), view))


class ReadOp(_Op):
    """Reads and comparisons of one object, at one moment."""


class WriteOpCtx(WriteOp, OpCtx):
    """A `WriteOp` for ``with``."""


class ReadOpCtx(ReadOp, OpCtx):
    """A `ReadOp` for ``with``."""


class OmapIterator:
    """(key, value) pairs, once the read op has been operated; value None for keys alone.

    `more` says whether the object has more than were asked for (None before).
    """

    def __init__(self, ioctx: object, omap_key_type: Callable[[bytes], Any]) -> None:
        self.ioctx = ioctx
        self.omap_key_type = omap_key_type
        self.more: bool | None = None
        self._error: Error | None = None
        self._items: list[tuple[bytes, bytes | None]] = []
        self._at = 0

    def __iter__(self) -> OmapIterator:
        return self

    def __next__(self) -> tuple[Any, bytes | None]:
        if self._error is not None:
            raise self._error
        if self._at >= len(self._items):
            raise StopIteration
        key, value = self._items[self._at]
        self._at += 1
        return self.omap_key_type(key), value

    def fill(self, output: OpOutput, *, values: bool) -> None:
        """Takes an operation's output: a map, or a set of keys."""
        if output.rval < 0:
            self._error = make_ex(output.rval, "error iterating over the omap")
            return
        d = Decoder(output.data)
        self._items = [(d.blob(), d.blob() if values else None) for _ in range(d.count(8 if values else 4))]
        self.more = bool(d.u8()) if d.remaining else False


def checked_op(op: Any, cls: type[_OpT]) -> _OpT:
    if not isinstance(op, cls):
        raise TypeError(f"a {cls.__name__} is needed, not {type(op).__name__}")
    return op


class OmapOps:
    """The methods of an ioctx that add omap operations to an op."""

    def set_omap(self, write_op: WriteOp, keys: Sequence[str | bytes], values: Sequence[Any]) -> None:
        """Adds: sets `keys` to `values`, of which there must be as many."""
        if len(keys) != len(values):
            raise Error("Rados(): keys and values must have the same number of items")
        pairs = {}
        for k, v in zip(keys, values):
            pairs[raw_key(k, "keys")] = v.encode() if isinstance(v, str) else bytes(data_of(v, "values"))
        checked_op(write_op, WriteOp).add(lambda op: op.omap_set(pairs))

    def remove_omap_keys(self, write_op: WriteOp, keys: Sequence[str | bytes]) -> None:
        """Adds: removes `keys`; those that are not there do not matter."""
        raw = [raw_key(k, "keys") for k in keys]
        checked_op(write_op, WriteOp).add(lambda op: op.omap_rm_keys(raw))

    def clear_omap(self, write_op: WriteOp) -> None:
        """Adds: removes all keys and the header."""
        checked_op(write_op, WriteOp).add(lambda op: op.omap_clear())

    def remove_omap_range2(self, write_op: WriteOp, key_begin: str | bytes, key_end: str | bytes) -> None:
        """Adds: removes the keys from `key_begin` up to, without, `key_end`."""
        begin, end = raw_key(key_begin, "key_begin"), raw_key(key_end, "key_end")
        checked_op(write_op, WriteOp).add(lambda op: op.omap_rm_range(begin, end))

    def set_omap_header(self, write_op: WriteOp, header: Any) -> None:
        """Adds: sets the omap's header. Not in Ceph's binding."""
        view = data_of(header, "header")
        checked_op(write_op, WriteOp).add(lambda op: op.omap_set_header(view))

    def get_omap_header(self, read_op: ReadOp, deliver: Callable[[bytes], object]) -> None:
        """Adds: `deliver(header)` is called when the op has been operated. Not in Ceph's binding."""
        checked_op(read_op, ReadOp).add(lambda op: op.omap_get_header())
        read_op.wants_output(lambda output: deliver(output.data))

    def get_omap_vals(
        self,
        read_op: ReadOp,
        start_after: str | bytes | None,
        filter_prefix: str | bytes | None,
        max_return: int,
        omap_key_type: Callable[[bytes], Any] = bytes.decode,
    ) -> tuple[OmapIterator, int]:
        """Adds: up to `max_return` keys with their values, in order.

        Args:
            start_after: only what comes after this key ("" for all).
            filter_prefix: only keys that begin with this.
            omap_key_type: makes the key of bytes.
        Returns:
            (an iterator that is filled when the op is operated, 0).
        """
        it = OmapIterator(self, omap_key_type)
        after, prefix = raw_key(start_after or b"", "start_after"), raw_key(filter_prefix or b"", "filter_prefix")
        checked_op(read_op, ReadOp).add(
            lambda op: op.omap_get_vals(after, prefix, int32(max_return, "max_return") & MAX_U64)
        )
        read_op.wants_output(lambda output: it.fill(output, values=True))
        return it, 0

    def get_omap_keys(
        self,
        read_op: ReadOp,
        start_after: str | bytes | None,
        max_return: int,
        omap_key_type: Callable[[bytes], Any] = bytes.decode,
    ) -> tuple[OmapIterator, int]:
        """Adds: as :meth:`get_omap_vals`, with None for the values."""
        it = OmapIterator(self, omap_key_type)
        after = raw_key(start_after or b"", "start_after")
        count = int32(max_return, "max_return") & MAX_U64
        checked_op(read_op, ReadOp).add(lambda op: op.omap_get_keys(after, count))
        read_op.wants_output(lambda output: it.fill(output, values=False))
        return it, 0

    def get_omap_vals_by_keys(
        self, read_op: ReadOp, keys: Sequence[str | bytes], omap_key_type: Callable[[bytes], Any] = bytes.decode
    ) -> tuple[OmapIterator, int]:
        """Adds: those of `keys` that are there, with their values."""
        it = OmapIterator(self, omap_key_type)
        raw = [raw_key(k, "keys") for k in keys]
        checked_op(read_op, ReadOp).add(lambda op: op.omap_get_vals_by_keys(raw))
        read_op.wants_output(lambda output: it.fill(output, values=True))
        return it, 0
