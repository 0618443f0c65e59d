"""Ceph's encoding rules (`src/include/encoding.h`, `src/include/denc.h`): a bounded
cursor, and structs that are declared rather than scripted.

A struct lists its fields with wire types; decoding, encoding, equality and `repr` follow
from the declaration::

    class Eversion(Struct):
        version: u64
        epoch: u32

    class ObjectLocator(Struct, version=6, compat=3):   # ENCODE_START(6, 3)
        pool: s64
        preferred: s32 = -1
        key: string = ""
        nspace: Annotated[string, Since(5)] = ""
        hash: Annotated[s64, Since(6)] = -1

With ``version`` the struct has Ceph's envelope (u8 version, u8 compat, u32 length): bytes
of a newer encoder that follow the known fields are skipped, and a `compat` above ours is
refused. Instances are values: they cannot be changed. (This is not
`dataclasses`: importing that module costs more than the rest of pyrbd together, and
`import pyrbd` is on the path of every command.)

All integers are little-endian. Every count is checked against the bytes that are left
before anything is allocated; every failure is a :class:`~pyrbd.errors.DecodeError`.

Modules that declare structs must not postpone the evaluation of annotations.
"""

import struct as _struct
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias, TypeVar

from .errors import DecodeError

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_kwargs):
        return lambda cls: cls


T = TypeVar("T")
Buffer: TypeAlias = "bytes | bytearray | memoryview"

_U8 = _struct.Struct("<B")
_U16 = _struct.Struct("<H")
_U32 = _struct.Struct("<I")
_U64 = _struct.Struct("<Q")
_S8 = _struct.Struct("<b")
_S16 = _struct.Struct("<h")
_S32 = _struct.Struct("<i")
_S64 = _struct.Struct("<q")
_ENVELOPE = _struct.Struct("<BBI")


class Decoder:
    """A cursor over bytes that came from the wire.

    Args:
        buf: any contiguous buffer; slices of it are copied only where a value needs it.
        pos, end: the range to read, default all.
    """

    __slots__ = ("buf", "end", "pos")

    def __init__(self, buf: Buffer, pos: int = 0, end: int | None = None) -> None:
        self.buf = buf if isinstance(buf, memoryview) else memoryview(buf)
        self.pos = pos
        self.end = len(self.buf) if end is None else end

    def __repr__(self) -> str:
        return f"<Decoder at {self.pos} of {self.end}>"

    @property
    def remaining(self) -> int:
        return self.end - self.pos

    def _take(self, n: int) -> int:
        """Advances by `n` and returns the position before."""
        pos = self.pos
        if n > self.end - pos:
            raise DecodeError(f"truncated: {n} bytes wanted at offset {pos}, {self.end - pos} are left")
        self.pos = pos + n
        return pos

    def unpack(self, s: _struct.Struct) -> tuple[Any, ...]:
        return s.unpack_from(self.buf, self._take(s.size))

    def u8(self) -> int:
        return self.buf[self._take(1)]

    def u16(self) -> int:
        return int(_U16.unpack_from(self.buf, self._take(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack_from(self.buf, self._take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack_from(self.buf, self._take(8))[0])

    def s8(self) -> int:
        return int(_S8.unpack_from(self.buf, self._take(1))[0])

    def s32(self) -> int:
        return int(_S32.unpack_from(self.buf, self._take(4))[0])

    def s64(self) -> int:
        return int(_S64.unpack_from(self.buf, self._take(8))[0])

    def array(self, n: int, fmt: str, size: int) -> tuple[int, ...]:
        """The next `n` integers of `size` bytes each, `fmt` being their code in :mod:`struct`."""
        return _struct.unpack_from(f"<{n}{fmt}", self.buf, self._take(n * size))

    def u32s(self, n: int) -> tuple[int, ...]:
        return self.array(n, "I", 4)

    def u64s(self, n: int) -> tuple[int, ...]:
        return self.array(n, "Q", 8)

    def raw(self, n: int) -> bytes:
        """The next `n` bytes, copied."""
        pos = self._take(n)
        return bytes(self.buf[pos : pos + n])

    def rest(self) -> bytes:
        return self.raw(self.end - self.pos)

    def skip(self, n: int) -> None:
        self._take(n)

    def blob(self) -> bytes:
        """u32 length and that many bytes."""
        return self.raw(self.u32())

    def string(self) -> str:
        """u32 length and UTF-8; bytes that are not UTF-8 survive a round trip (surrogateescape)."""
        return self.blob().decode("utf-8", "surrogateescape")

    def count(self, min_item_size: int = 1) -> int:
        """A u32 element count, refused if that many items cannot be in what is left."""
        n = self.u32()
        if n * min_item_size > self.end - self.pos:
            raise DecodeError(f"{n} items announced, {self.end - self.pos} bytes are left for them")
        return n

    def sub(self, n: int) -> "Decoder":
        """A decoder restricted to the next `n` bytes, which this one skips."""
        pos = self._take(n)
        return Decoder(self.buf, pos, pos + n)

    def blob_decoder(self) -> "Decoder":
        """A decoder restricted to the bytes of a u32-length-prefixed blob."""
        return self.sub(self.u32())

    def envelope(self, known: int, what: str) -> "tuple[int, Decoder]":
        """DECODE_START: returns (struct_v, decoder restricted to the struct's bytes).

        Raises:
            DecodeError: the encoder says that `known` is too old to understand it.
        """
        struct_v, compat, length = _ENVELOPE.unpack_from(self.buf, self._take(6))
        if compat > known:
            raise DecodeError(
                f"{what}: encoded as version {struct_v} that needs a decoder of version {compat}; ours is {known}"
            )
        return struct_v, self.sub(length)

    def done(self, what: str) -> None:
        """Refuses bytes that are left over."""
        if self.pos != self.end:
            raise DecodeError(f"{what}: {self.end - self.pos} bytes left over")


class Encoder:
    """Appends encoded values to a growing buffer."""

    __slots__ = ("buf",)

    def __init__(self) -> None:
        self.buf = bytearray()

    def __bytes__(self) -> bytes:
        return bytes(self.buf)

    def pack(self, s: _struct.Struct, *values: Any) -> None:
        self.buf += s.pack(*values)

    def u8(self, v: int) -> None:
        self.buf += _U8.pack(v)

    def u16(self, v: int) -> None:
        self.buf += _U16.pack(v)

    def u32(self, v: int) -> None:
        self.buf += _U32.pack(v)

    def u64(self, v: int) -> None:
        self.buf += _U64.pack(v)

    def s8(self, v: int) -> None:
        self.buf += _S8.pack(v)

    def s32(self, v: int) -> None:
        self.buf += _S32.pack(v)

    def s64(self, v: int) -> None:
        self.buf += _S64.pack(v)

    def u32s(self, values: "tuple[int, ...]") -> None:
        self.buf += _struct.pack(f"<{len(values)}I", *values)

    def raw(self, v: Buffer) -> None:
        self.buf += v

    def blob(self, v: Buffer) -> None:
        self.buf += _U32.pack(len(v))
        self.buf += v

    def string(self, v: str) -> None:
        self.blob(v.encode("utf-8", "surrogateescape"))

    def start(self, version: int, compat: int) -> int:
        """ENCODE_START; hand the result to :meth:`finish`."""
        self.buf += _ENVELOPE.pack(version, compat, 0)
        return len(self.buf)

    def finish(self, mark: int) -> None:
        """ENCODE_FINISH: writes the length of what came since :meth:`start`."""
        _U32.pack_into(self.buf, mark - 4, len(self.buf) - mark)


# ---------------------------------------------------------------- wire types


class WireType:
    """How one value travels. `min_size`: the fewest bytes it can take."""

    min_size: int = 0

    def decode(self, d: Decoder) -> Any:
        raise NotImplementedError

    def encode(self, e: Encoder, v: Any) -> None:
        raise NotImplementedError


class Scalar(WireType):
    """A fixed-size value with a `struct` format."""

    def __init__(self, fmt: str, convert: Callable[[Any], Any] | None = None) -> None:
        self.fmt = fmt
        self.convert = convert
        self.packer = _struct.Struct("<" + fmt)
        self.min_size = self.packer.size

    def __repr__(self) -> str:
        return f"Scalar({self.fmt!r})"

    def decode(self, d: Decoder) -> Any:
        v = self.packer.unpack_from(d.buf, d._take(self.min_size))[0]
        return self.convert(v) if self.convert else v

    def encode(self, e: Encoder, v: Any) -> None:
        e.buf += self.packer.pack(v)


class _String(WireType):
    min_size = 4

    def decode(self, d: Decoder) -> str:
        return d.string()

    def encode(self, e: Encoder, v: str) -> None:
        e.string(v)


class _Blob(WireType):
    min_size = 4

    def decode(self, d: Decoder) -> bytes:
        return d.blob()

    def encode(self, e: Encoder, v: bytes) -> None:
        e.blob(v)


class Vector(WireType):
    """u32 count and the items; a tuple in Python."""

    min_size = 4

    def __init__(self, item: Any) -> None:
        self.item = wire_type(item)

    def decode(self, d: Decoder) -> tuple[Any, ...]:
        item = self.item
        n = d.count(item.min_size or 1)
        if isinstance(item, Scalar) and item.convert is None:
            return d.unpack(_struct.Struct(f"<{n}{item.fmt}"))
        decode = item.decode
        return tuple([decode(d) for _ in range(n)])

    def encode(self, e: Encoder, v: Iterable[Any]) -> None:
        v = tuple(v)
        e.u32(len(v))
        for x in v:
            self.item.encode(e, x)


def _order(key: Any) -> Any:
    """What keys are compared by: structs by their fields, text by its bytes."""
    if isinstance(key, str):
        return key.encode("utf-8", "surrogateescape")
    return tuple([_order(getattr(key, name)) for name in key._names]) if isinstance(key, Struct) else key


class MapOf(WireType):
    """u32 count and (key, value) pairs; encoded in the order of the keys, as std::map is."""

    min_size = 4

    def __init__(self, key: Any, value: Any) -> None:
        self.key = wire_type(key)
        self.value = wire_type(value)

    def decode(self, d: Decoder) -> dict[Any, Any]:
        key, value = self.key.decode, self.value.decode
        n = d.count((self.key.min_size + self.value.min_size) or 1)
        return {key(d): value(d) for _ in range(n)}

    def encode(self, e: Encoder, v: Mapping[Any, Any]) -> None:
        e.u32(len(v))
        for k in sorted(v, key=_order):
            self.key.encode(e, k)
            self.value.encode(e, v[k])


class Nested(WireType):
    """A struct inside another."""

    def __init__(self, cls: "type[Struct]") -> None:
        self.cls = cls
        self.min_size = cls.wire_min_size()

    def decode(self, d: Decoder) -> "Struct":
        return self.cls.decode(d)

    def encode(self, e: Encoder, v: "Struct") -> None:
        v.encode(e)


class InBlob(WireType):
    """A value that travels inside a u32-length-prefixed blob of its own."""

    min_size = 4

    def __init__(self, item: Any) -> None:
        self.item = wire_type(item)

    def decode(self, d: Decoder) -> Any:
        return self.item.decode(d.blob_decoder())

    def encode(self, e: Encoder, v: Any) -> None:
        inner = Encoder()
        self.item.encode(inner, v)
        e.blob(inner.buf)


class Since:
    """Field metadata: the field exists from this struct version on."""

    __slots__ = ("version",)

    def __init__(self, version: int) -> None:
        self.version = version


u8 = Annotated[int, Scalar("B")]
u16 = Annotated[int, Scalar("H")]
u32 = Annotated[int, Scalar("I")]
u64 = Annotated[int, Scalar("Q")]
s8 = Annotated[int, Scalar("b")]
s16 = Annotated[int, Scalar("h")]
s32 = Annotated[int, Scalar("i")]
s64 = Annotated[int, Scalar("q")]
boolean = Annotated[bool, Scalar("B", bool)]
string = Annotated[str, _String()]
blob = Annotated[bytes, _Blob()]
uuid = Annotated[bytes, Scalar("16s")]


def wire_type(annotation: Any) -> WireType:
    """The wire type of a field annotation (a WireType, an Annotated with one, or a Struct)."""
    if isinstance(annotation, WireType):
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return Nested(annotation)
    for m in getattr(annotation, "__metadata__", ()):
        if isinstance(m, WireType):
            return m
    origin = getattr(annotation, "__origin__", None)
    if isinstance(origin, type) and issubclass(origin, Struct):
        return Nested(origin)
    raise TypeError(f"{annotation!r} has no wire type")


class Field:
    """One declared field: name, wire type, the struct version that introduced it."""

    __slots__ = ("name", "since", "type")

    def __init__(self, name: str, annotation: Any) -> None:
        self.name = name
        self.type = wire_type(annotation)
        self.since = 0
        for m in getattr(annotation, "__metadata__", ()):
            if isinstance(m, Since):
                self.since = m.version

    def __repr__(self) -> str:
        return f"<Field {self.name}>"


_MISSING = object()


@dataclass_transform(frozen_default=True, kw_only_default=False)
class Struct:
    """Base of declared structs; see the module's text.

    A class whose encoding is irregular overrides `decode` and `encode` and keeps the
    declaration for the value itself.
    """

    __slots__ = ()
    wire_fields: ClassVar[tuple[Field, ...]] = ()
    wire_version: ClassVar[int | None] = None
    wire_compat: ClassVar[int] = 0
    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}
    _secret: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(
        cls, *, version: int | None = None, compat: int | None = None, secret: Iterable[str] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        annotations = {
            k: v
            for k, v in getattr(cls, "__annotations__", {}).items()
            if not k.startswith(("_", "wire_")) and getattr(v, "__origin__", None) is not ClassVar
        }
        cls._names = tuple(annotations)
        cls._defaults = {k: cls.__dict__[k] for k in annotations if k in cls.__dict__}
        cls._secret = frozenset(secret)
        cls.wire_version = version
        cls.wire_compat = compat if compat is not None else (version or 0)
        if "decode" not in cls.__dict__:
            cls.wire_fields = tuple(Field(k, v) for k, v in annotations.items())
        if annotations:
            cls.__init__ = _make_init(cls._names, cls._defaults)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        parts = (f"{n}={'...' if n in self._secret else repr(getattr(self, n))}" for n in self._names)
        return f"{type(self).__name__}({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self._names)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, n) for n in self._names))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is a value; use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is a value")

    def replace(self, **changes: Any) -> "Self":
        """A copy with other values for some fields."""
        values = {n: getattr(self, n) for n in self._names}
        for k in changes:
            if k not in values:
                raise TypeError(f"{type(self).__name__} has no field {k!r}")
        values.update(changes)
        return type(self)(**values)

    @classmethod
    def wire_min_size(cls) -> int:
        if cls.wire_version is not None:
            return 6
        return sum(f.type.min_size for f in cls.wire_fields) or 1

    @classmethod
    def decode(cls, d: Decoder) -> "Self":
        if cls.wire_version is None:
            return cls(*[f.type.decode(d) for f in cls.wire_fields])
        struct_v, body = d.envelope(cls.wire_version, cls.__name__)
        return cls(**{f.name: f.type.decode(body) for f in cls.wire_fields if f.since <= struct_v})

    def encode(self, e: Encoder) -> None:
        if self._names and not self.wire_fields:
            raise NotImplementedError(f"{type(self).__name__} is decoded in its own way, and is not sent")
        if self.wire_version is None:
            for f in self.wire_fields:
                f.type.encode(e, getattr(self, f.name))
            return
        mark = e.start(self.wire_version, self.wire_compat)
        for f in self.wire_fields:
            f.type.encode(e, getattr(self, f.name))
        e.finish(mark)

    @classmethod
    def from_bytes(cls, data: Buffer) -> "Self":
        """Decodes `data`, all of it."""
        d = Decoder(data)
        value = cls.decode(d)
        d.done(cls.__name__)
        return value

    def to_bytes(self) -> bytes:
        e = Encoder()
        self.encode(e)
        return bytes(e.buf)


def _make_init(names: tuple[str, ...], defaults: Mapping[str, Any]) -> Callable[..., None]:
    def __init__(self: Struct, *args: Any, **kwargs: Any) -> None:
        set_ = object.__setattr__
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} has {len(names)} fields, {len(args)} values given")
        for name, value in zip(names, args):
            set_(self, name, value)
        for name in names[len(args) :]:
            value = kwargs.pop(name, _MISSING)
            if value is _MISSING:
                value = defaults.get(name, _MISSING)
                if value is _MISSING:
                    raise TypeError(f"{type(self).__name__}: no value for {name!r}")
            set_(self, name, value)
        if kwargs:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(kwargs))!r}")

    return __init__
