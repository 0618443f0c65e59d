"""Fields of a map that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..denc import Decoder, Encoder, MapOf, s64, string
from . import pgmaps
from .pool_types import IntervalSet, decode_intervals, encode_intervals


class Codec(NamedTuple):
    """How a field travels; `skip` goes over it and refuses what `decode` would. It may be `decode`, or gives None."""

    skip: Callable[[Decoder], Any]
    decode: Callable[[Decoder], Any]
    encode: Callable[[Encoder, Any], None]


class Lazy:
    """A field as its bytes, as its value, or both; shared by all maps in which it is the same."""

    __slots__ = ("_raw", "_value", "codec")

    def __init__(self, codec: Codec, raw: bytes | None, value: Any = None) -> None:
        self.codec = codec
        self._raw = raw
        self._value = value

    @classmethod
    def of(cls, codec: Codec, d: Decoder) -> Lazy:
        start = d.pos
        value = codec.skip(d)
        return cls(codec, bytes(d.buf[start : d.pos]), value)

    def get(self) -> Any:
        if self._value is None and self._raw is not None:
            self._value = self.codec.decode(Decoder(self._raw))
        return self._value

    def encoded(self) -> bytes:
        if self._raw is None:
            e = Encoder()
            self.codec.encode(e, self._value)
            self._raw = bytes(e.buf)
        return self._raw


def _u32s(d: Decoder) -> tuple[int, ...]:
    return d.u32s(d.count(4))


def _skip_u32s(d: Decoder) -> None:
    d.skip(4 * d.count(4))


def _encode_u32s(e: Encoder, values: tuple[int, ...]) -> None:
    e.u32(len(values))
    e.u32s(values)


def decode_pool_intervals(d: Decoder) -> dict[int, IntervalSet]:
    """map<int64_t, snap_interval_set_t>."""
    return {d.s64(): decode_intervals(d) for _ in range(d.count(12))}


def encode_pool_intervals(e: Encoder, pools: Mapping[int, IntervalSet]) -> None:
    e.u32(len(pools))
    for pool in sorted(pools):
        e.s64(pool)
        encode_intervals(e, pools[pool])


_names = MapOf(s64, string)
_profiles = MapOf(string, MapOf(string, string))

U32S = Codec(_skip_u32s, _u32s, _encode_u32s)
NAMES = Codec(_names.decode, _names.decode, _names.encode)
PROFILES = Codec(_profiles.decode, _profiles.decode, _profiles.encode)
POOL_INTERVALS = Codec(decode_pool_intervals, decode_pool_intervals, encode_pool_intervals)
OSD_LISTS = Codec(lambda d: pgmaps.skip_lists(d, 4), pgmaps.decode_osd_lists, pgmaps.encode_osd_lists)
PAIRS = Codec(lambda d: pgmaps.skip_lists(d, 8), pgmaps.decode_pairs, pgmaps.encode_pairs)
OSDS = Codec(pgmaps.skip_osds, pgmaps.decode_osds, pgmaps.encode_osds)
BLOB = Codec(lambda d: d.skip(d.u32()), Decoder.blob, Encoder.blob)
