"""Maps by placement group (`src/osd/OSDMap.h` pg_temp, pg_upmap, ...): with a balancer at work they have as many
entries as a cluster has groups, so they are gone over when a map comes and decoded when they are asked for.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ..denc import Decoder, Encoder
from ..errors import DecodeError
from ..msgr.types import PgId

PgToOsds: TypeAlias = "dict[PgId, tuple[int, ...]]"
PgToPairs: TypeAlias = "dict[PgId, tuple[tuple[int, int], ...]]"
PgToOsd: TypeAlias = "dict[PgId, int]"

_PG_COUNT = _struct.Struct("<BqI4xI")
_PG_OSD = _struct.Struct("<BqI4xi")
_PG = _struct.Struct("<BqIi")
_U32 = _struct.Struct("<I")


def pgid(pool: int, seed: int) -> PgId:
    """PgId(pool, seed), several times faster."""
    pg = PgId.__new__(PgId)
    fields = pg.__dict__
    fields["pool"] = pool
    fields["seed"] = seed
    return pg


def encode_pg(e: Encoder, pg: PgId) -> None:
    e.pack(_PG, 1, pg.pool, pg.seed, -1)


def _order(pg: PgId) -> tuple[int, int]:
    return pg.pool & 0xFFFFFFFFFFFFFFFF, pg.seed


def skip_lists(d: Decoder, item: int) -> None:
    """Goes over a map of placement groups to vectors with items of `item` bytes."""
    n = d.count(21)
    buf, pos, end = d.buf, d.pos, d.end
    count = _U32.unpack_from
    for _ in range(n):
        if pos + 21 > end or buf[pos] != 1:
            raise DecodeError(f"map by placement group: {n} entries announced, damaged or truncated")
        pos += 21 + item * count(buf, pos + 17)[0]
    if pos > end:
        raise DecodeError("map by placement group: truncated")
    d.pos = pos


def skip_osds(d: Decoder) -> None:
    """Goes over a map of placement groups to an OSD each."""
    n = d.count(_PG_OSD.size)
    start = d.pos
    d.skip(n * _PG_OSD.size)
    if bytes(d.buf[start : d.pos : _PG_OSD.size]) != b"\1" * n:
        raise DecodeError("map by placement group: damaged")


def decode_osd_lists(d: Decoder) -> PgToOsds:
    """map<pg_t, vector<int32_t>>."""
    return {pg: d.array(n, "i", 4) for pg, n in _entries(d)}


def decode_pairs(d: Decoder) -> PgToPairs:
    """map<pg_t, vector<pair<int32_t, int32_t>>>."""
    found: PgToPairs = {}
    for pg, n in _entries(d):
        flat = d.array(2 * n, "i", 4)
        found[pg] = tuple(zip(flat[::2], flat[1::2]))
    return found


def _entries(d: Decoder) -> Iterable[tuple[PgId, int]]:
    head = _PG_COUNT.unpack_from
    for _ in range(d.count(_PG_COUNT.size)):
        v, pool, seed, n = head(d.buf, d._take(_PG_COUNT.size))
        if v != 1:
            raise DecodeError(f"pg_t: version {v}")
        yield pgid(pool, seed), n


def decode_osds(d: Decoder) -> PgToOsd:
    """map<pg_t, int32_t>."""
    n = d.count(_PG_OSD.size)
    found: PgToOsd = {}
    for v, pool, seed, osd in _PG_OSD.iter_unpack(d.buf[d.pos : d.pos + n * _PG_OSD.size]):
        if v != 1:
            raise DecodeError(f"pg_t: version {v}")
        found[pgid(pool, seed)] = osd
    d.skip(n * _PG_OSD.size)
    return found


def encode_osd_lists(e: Encoder, entries: Mapping[PgId, tuple[int, ...]]) -> None:
    e.u32(len(entries))
    for pg in sorted(entries, key=_order):
        osds = entries[pg]
        encode_pg(e, pg)
        e.raw(_struct.pack(f"<I{len(osds)}i", len(osds), *osds))


def encode_pairs(e: Encoder, entries: Mapping[PgId, tuple[tuple[int, int], ...]]) -> None:
    e.u32(len(entries))
    for pg in sorted(entries, key=_order):
        flat = [osd for pair in entries[pg] for osd in pair]
        encode_pg(e, pg)
        e.raw(_struct.pack(f"<I{len(flat)}i", len(flat) // 2, *flat))


def encode_osds(e: Encoder, entries: Mapping[PgId, int]) -> None:
    e.u32(len(entries))
    for pg in sorted(entries, key=_order):
        encode_pg(e, pg)
        e.s32(entries[pg])


def decode_pgs(d: Decoder) -> tuple[PgId, ...]:
    """set<pg_t>."""
    return tuple([PgId.decode(d) for _ in range(d.count(17))])


def encode_pgs(e: Encoder, pgs: Iterable[PgId]) -> None:
    ordered = sorted(pgs, key=_order)
    e.u32(len(ordered))
    for pg in ordered:
        encode_pg(e, pg)
