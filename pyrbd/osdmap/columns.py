"""Tables with one row for each OSD, kept as the bytes that the map has for them: a row is decoded when it is asked
for, and a map made by an incremental shares all but the rows that changed.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ..denc import Decoder, Encoder
from ..errors import DecodeError
from ..msgr.types import EntityAddrVec, Utime
from .addrs import ADDRVEC, NO_ADDRS, addrvec_bytes, decode_addrvec
from .features import SERVER_NAUTILUS, SERVER_OCTOPUS, have

T = TypeVar("T")

_INFO = _struct.Struct("<B6I")
_XINFO = _struct.Struct("<IIIIQIIII")
_XINFO_V3 = _struct.Struct("<IIIIQI")
_FLOAT = _struct.Struct("<f")


class OsdInfo(NamedTuple):
    """osd_info_t: epochs in an OSD's life."""

    last_clean_begin: int = 0
    last_clean_end: int = 0
    up_from: int = 0
    up_thru: int = 0
    down_at: int = 0
    lost_at: int = 0


class OsdXInfo(NamedTuple):
    """osd_xinfo_t."""

    down_stamp: Utime = Utime()
    laggy_probability: float = 0.0
    laggy_interval: int = 0
    features: int = 0
    old_weight: int = 0
    last_purged_snaps_scrub: Utime = Utime()
    dead_epoch: int = 0

    @classmethod
    def decode(cls, d: Decoder) -> OsdXInfo:
        v, b = d.envelope(4, "osd_xinfo_t")
        if v < 3:
            raise DecodeError(f"osd_xinfo_t version {v} is older than any release that is supported")
        sec, nsec, laggy, interval, features, weight = b.unpack(_XINFO_V3)
        # C++ has it as a float, which has fewer digits
        probability = _FLOAT.unpack(_FLOAT.pack(laggy))[0] / 2**32
        scrub, dead = (Utime.decode(b), b.u32()) if v >= 4 else (Utime(), 0)
        return cls(Utime(sec, nsec), probability, interval, features, weight, scrub, dead)

    def encode(self, e: Encoder, features: int) -> None:
        newer = have(features, SERVER_OCTOPUS)
        mark = e.start(4 if newer else 3, 1)
        self.down_stamp.encode(e)
        e.u32(int(self.laggy_probability * 2**32) & 0xFFFFFFFF)
        e.u32(self.laggy_interval)
        e.u64(self.features)
        e.u32(self.old_weight)
        if newer:
            self.last_purged_snaps_scrub.encode(e)
            e.u32(self.dead_epoch)
        e.finish(mark)


class Kind(Generic[T]):
    """What the rows of a table are."""

    default: T
    """Of an OSD that was never there."""

    def variant(self, features: int) -> object:
        """Rows that were encoded with features of the same variant can be taken as they are."""
        return 0

    def scan(self, d: Decoder, n: int) -> object:
        """Goes over `n` rows; gives the variant they are encoded in, or None if each would be encoded in another way.

        Raises:
            DecodeError: rows that cannot be decoded.
        """
        raise NotImplementedError

    def starts(self, raw: bytes, n: int) -> Sequence[int]:
        """Where each row begins, and where the last ends."""
        raise NotImplementedError

    def decode(self, row: Decoder) -> T:
        raise NotImplementedError

    def encode(self, value: T, features: int) -> bytes:
        raise NotImplementedError


class _Infos(Kind[OsdInfo]):
    default = OsdInfo()

    def scan(self, d: Decoder, n: int) -> object:
        start = d.pos
        d.skip(n * _INFO.size)
        return 0 if bytes(d.buf[start : d.pos : _INFO.size]) == b"\1" * n else None

    def starts(self, raw: bytes, n: int) -> Sequence[int]:
        return range(0, n * _INFO.size + 1, _INFO.size)

    def decode(self, row: Decoder) -> OsdInfo:
        return OsdInfo(*row.unpack(_INFO)[1:])

    def encode(self, value: OsdInfo, features: int) -> bytes:
        return _INFO.pack(1, *value)


class _Uuids(Kind[bytes]):
    default = bytes(16)

    def scan(self, d: Decoder, n: int) -> object:
        d.skip(16 * n)
        return 0

    def starts(self, raw: bytes, n: int) -> Sequence[int]:
        return range(0, 16 * n + 1, 16)

    def decode(self, row: Decoder) -> bytes:
        return row.raw(16)

    def encode(self, value: bytes, features: int) -> bytes:
        return value


class _XInfos(Kind[OsdXInfo]):
    default = OsdXInfo()
    _heads = ((4, b"\4\1\x28\0\0\0", 46), (3, b"\3\1\x1c\0\0\0", 34))

    def variant(self, features: int) -> object:
        return 4 if have(features, SERVER_OCTOPUS) else 3

    def scan(self, d: Decoder, n: int) -> object:
        for version, head, size in self._heads:
            rows = bytes(d.buf[d.pos : min(d.end, d.pos + n * size)])
            if len(rows) == n * size and all(rows[i::size] == head[i : i + 1] * n for i in range(6)):
                d.skip(n * size)
                return version
        for _ in range(n):
            OsdXInfo.decode(d)
        return None

    def starts(self, raw: bytes, n: int) -> Sequence[int]:
        for _, head, size in self._heads:
            if len(raw) == n * size and all(raw[i::size] == head[i : i + 1] * n for i in range(6)):
                return range(0, n * size + 1, size)
        return _decoded_starts(self, raw, n)

    def decode(self, row: Decoder) -> OsdXInfo:
        return OsdXInfo.decode(row)

    def encode(self, value: OsdXInfo, features: int) -> bytes:
        e = Encoder()
        value.encode(e, features)
        return bytes(e.buf)


class _Addrs(Kind[EntityAddrVec]):
    default = NO_ADDRS

    def variant(self, features: int) -> object:
        return have(features, SERVER_NAUTILUS)

    def scan(self, d: Decoder, n: int) -> object:
        start = d.pos
        end = start + n * _uniform_size(d, n)
        if end == start and n:
            ends = _ends(d, n)
            if ends is None:
                for _ in range(n):
                    decode_addrvec(d)
                return None
            end = ends[-1]
        d.skip(end - start)
        return True

    def starts(self, raw: bytes, n: int) -> Sequence[int]:
        d = Decoder(raw)
        size = _uniform_size(d, n)
        if size:
            return range(0, n * size + 1, size)
        ends = _ends(d, n)
        return _decoded_starts(self, raw, n) if ends is None else [0, *ends]

    def decode(self, row: Decoder) -> EntityAddrVec:
        return decode_addrvec(row)

    def encode(self, value: EntityAddrVec, features: int) -> bytes:
        return addrvec_bytes(value, features)


def _uniform_size(d: Decoder, n: int) -> int:
    """The size of each of the next `n` rows of addresses, if all are built alike, as they are where all OSDs are up;
    0 if they are not."""
    first = ADDRVEC.match(d.buf, d.pos, d.end) if n else None
    if first is None:
        return 0
    row: bytes = first.group()
    size = len(row)
    if n * size > d.remaining:
        return 0
    rows = bytes(d.buf[d.pos : d.pos + n * size])
    fixed = [*range(5)]
    at = 5
    while at < size:
        fixed += (*range(at, at + 7), *range(at + 15, at + 21))  # the head, the length of the sockaddr, the family
        at += 7 + row[at + 3]
    return size if all(rows[i::size] == row[i : i + 1] * n for i in fixed) else 0


def _ends(d: Decoder, n: int) -> list[int] | None:
    """Where each of the next `n` rows of addresses ends; None if one is not encoded as it is nowadays."""
    match, buf, pos, end = ADDRVEC.match, d.buf, d.pos, d.end
    ends = []
    for _ in range(n):
        m = match(buf, pos, end)
        if m is None:
            return None
        pos = m.end()
        ends.append(pos)
    return ends


def _decoded_starts(kind: Kind[T], raw: bytes, n: int) -> Sequence[int]:
    d = Decoder(raw)
    starts = [0]
    for _ in range(n):
        kind.decode(d)
        starts.append(d.pos)
    return starts


INFOS = _Infos()
UUIDS = _Uuids()
XINFOS = _XInfos()
ADDRS = _Addrs()


class _State(Generic[T]):
    """Rows as bytes, and those that differ from them."""

    __slots__ = ("changes", "n", "raw", "starts", "variant")

    def __init__(self, raw: bytes, n: int, variant: object, changes: dict[int, T]) -> None:
        self.raw = raw
        self.n = n
        self.variant = variant
        self.changes = changes
        self.starts: Sequence[int] | None = None


class Column(Sequence[T]):
    """A table; a value, though it may change how it keeps itself."""

    __slots__ = ("_kind", "_len", "_state")

    def __init__(self, kind: Kind[T], rows: Sequence[T] = ()) -> None:
        self._kind = kind
        self._len = len(rows)
        self._state: _State[T] = _State(b"", 0, None, dict(enumerate(rows)))

    @classmethod
    def decode(cls, kind: Kind[T], d: Decoder) -> Column[T]:
        """Raises DecodeError if any row is damaged."""
        n = d.count(1)
        start = d.pos
        variant = kind.scan(d, n)
        return cls._of(kind, n, _State(bytes(d.buf[start : d.pos]), n, variant, {}))

    @classmethod
    def _of(cls, kind: Kind[T], n: int, state: _State[T]) -> Column[T]:
        column = cls.__new__(cls)
        column._kind, column._len, column._state = kind, n, state
        return column

    def __len__(self) -> int:
        return self._len

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Column):
            return NotImplemented
        return self is other or list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Column of {self._len}>"

    def __getitem__(self, i: Any) -> Any:
        """A row, or a tuple of them for a slice."""
        if isinstance(i, slice):
            return tuple([self[k] for k in range(*i.indices(self._len))])
        if i < 0:
            i += self._len
        if not 0 <= i < self._len:
            raise IndexError(i)
        state = self._state
        if i in state.changes:
            return state.changes[i]
        if i >= state.n:
            return self._kind.default
        starts = self._starts(state)
        return self._kind.decode(Decoder(state.raw, starts[i], starts[i + 1]))

    def _starts(self, state: _State[T]) -> Sequence[int]:
        if state.starts is None:
            state.starts = self._kind.starts(state.raw, state.n)
        return state.starts

    @property
    def variant(self) -> object:
        """What kind of features the rows were encoded with; None if that is not known."""
        return self._state.variant if self._state.n else None

    def changed(self, n: int, changes: Mapping[int, T]) -> Column[T]:
        """A table of `n` rows with these changes; itself if that is no difference."""
        if n == self._len and not changes:
            return self
        old = self._state
        kept = old.changes if n >= self._len else {i: row for i, row in old.changes.items() if i < n}
        state = _State(old.raw, old.n, old.variant, {**kept, **changes})
        state.starts = old.starts
        if n < old.n:  # rows that come back later are new ones
            starts = self._starts(old)
            state.raw, state.n, state.starts = old.raw[: starts[n]], n, starts[: n + 1]
        return self._of(self._kind, n, state)

    def encode(self, features: int) -> bytes:
        """The count and all rows. What is made is kept, so that the next time costs only what changed."""
        kind, state, n = self._kind, self._state, self._len
        variant = kind.variant(features)
        if state.changes or state.n != n or state.variant != variant:
            if state.variant == variant:
                raw = b"".join(self._pieces(state, features))
            else:
                raw = b"".join([kind.encode(row, features) for row in self])
            state = self._state = _State(raw, n, variant, {})
        return n.to_bytes(4, "little") + state.raw

    def _pieces(self, state: _State[T], features: int) -> list[bytes]:
        encode, starts = self._kind.encode, self._starts(state)
        pieces: list[bytes] = []
        done = 0
        for i in sorted(state.changes):
            if i >= state.n:
                break
            pieces += (state.raw[starts[done] : starts[i]], encode(state.changes[i], features))
            done = i + 1
        pieces.append(state.raw[starts[done] :])
        default = encode(self._kind.default, features)
        pieces += [
            encode(state.changes[i], features) if i in state.changes else default for i in range(state.n, self._len)
        ]
        return pieces
