"""The small structs inside a pool (`src/osd/osd_types.h`, `src/osd/HitSet.h`): options, hit sets, merges, snapshots."""

from typing import NamedTuple, TypeAlias

from ..denc import Decoder, Encoder, Scalar, Struct, u32
from ..errors import DecodeError
from ..msgr.types import Eversion, PgId, Utime
from .features import SERVER_NAUTILUS, have

IntervalSet: TypeAlias = "tuple[tuple[int, int], ...]"
"""interval_set: pairs of a start and a length, ascending."""

_double = Scalar("d")

MAX_SHARDS = 128


class PoolSnap(NamedTuple):
    """pool_snap_info_t: a snapshot of a whole pool."""

    name: str
    stamp: Utime
    snapid: int = 0

    @classmethod
    def decode(cls, d: Decoder) -> "PoolSnap":
        _, b = d.envelope(2, "pool_snap_info_t")
        snapid = b.u64()
        stamp = Utime.decode(b)
        return cls(b.string(), stamp, snapid)

    def encode(self, e: Encoder) -> None:
        mark = e.start(2, 2)
        e.u64(self.snapid)
        self.stamp.encode(e)
        e.string(self.name)
        e.finish(mark)


class PgMergeMeta(Struct, version=1, compat=1):
    """pg_merge_meta_t: the last merge of placement groups."""

    source_pgid: PgId = PgId(0, 0)
    ready_epoch: u32 = 0
    last_epoch_started: u32 = 0
    last_epoch_clean: u32 = 0
    source_version: Eversion = Eversion()
    target_version: Eversion = Eversion()


HIT_SET_NONE = 0
HIT_SET_EXPLICIT_HASH = 1
HIT_SET_EXPLICIT_OBJECT = 2
HIT_SET_BLOOM = 3
HIT_SET_TYPE_NAMES = ("none", "explicit_hash", "explicit_object", "bloom")


class HitSetParams(NamedTuple):
    """HitSet::Params; all but `type` are of bloom filters."""

    type: int = HIT_SET_NONE
    fpp_micro: int = 0
    """False positives that are accepted, in millionths."""
    target_size: int = 0
    seed: int = 0

    @classmethod
    def decode(cls, d: Decoder) -> "HitSetParams":
        _, b = d.envelope(1, "HitSet::Params")
        kind = b.u8()
        if kind > HIT_SET_BLOOM:
            raise DecodeError(f"HitSet::Params of type {kind}")
        if kind != HIT_SET_BLOOM:
            return cls(kind)
        _, p = b.envelope(1, "BloomHitSet::Params")
        return cls(kind, p.u32(), p.u64(), p.u64())

    def encode(self, e: Encoder) -> None:
        outer = e.start(1, 1)
        e.u8(self.type)
        if self.type == HIT_SET_BLOOM:
            inner = e.start(1, 1)
            e.u32(self.fpp_micro)
            e.u64(self.target_size)
            e.u64(self.seed)
            e.finish(inner)
        e.finish(outer)


POOL_OPT_NAMES = (
    "scrub_min_interval",
    "scrub_max_interval",
    "deep_scrub_interval",
    "recovery_priority",
    "recovery_op_priority",
    "scrub_priority",
    "compression_mode",
    "compression_algorithm",
    "compression_required_ratio",
    "compression_max_blob_size",
    "compression_min_blob_size",
    "csum_type",
    "csum_max_block",
    "csum_min_block",
    "fingerprint_algorithm",
    "pg_num_min",
    "target_size_bytes",
    "target_size_ratio",
    "pg_autoscale_bias",
    "read_lease_interval",
    "dedup_tier",
    "dedup_chunk_algorithm",
    "dedup_cdc_chunk_size",
    "pg_num_max",
    "read_ratio",
    "pct_update_delay",
)
"""pool_opts_t::key_t; an option's number is its place."""

_STR, _INT, _DOUBLE = 0, 1, 2


def decode_opts(d: Decoder) -> "dict[str, str | int | float]":
    """pool_opts_t, by name; an option that is not known by its number."""
    v, b = d.envelope(2, "pool_opts_t")
    opts: dict[str, str | int | float] = {}
    for _ in range(b.count(12)):
        key, kind = b.s32(), b.s32()
        name = POOL_OPT_NAMES[key] if 0 <= key < len(POOL_OPT_NAMES) else str(key)
        if kind == _STR:
            opts[name] = b.string()
        elif kind == _INT:
            opts[name] = b.s64() if v >= 2 else b.s32()
        elif kind == _DOUBLE:
            opts[name] = _double.decode(b)
        else:
            raise DecodeError(f"pool_opts_t: option {name} has a value of type {kind}")
    return opts


def encode_opts(e: Encoder, opts: "dict[str, str | int | float]", features: int) -> None:
    wide = have(features, SERVER_NAUTILUS)
    mark = e.start(2 if wide else 1, 1)
    e.u32(len(opts))
    keys = {POOL_OPT_NAMES.index(name) if name in POOL_OPT_NAMES else int(name): name for name in opts}
    for key in sorted(keys):
        value = opts[keys[key]]
        e.s32(key)
        if isinstance(value, str):
            e.s32(_STR)
            e.string(value)
        elif isinstance(value, int):
            e.s32(_INT)
            e.s64(value) if wide else e.s32(value)
        else:
            e.s32(_DOUBLE)
            _double.encode(e, value)
    e.finish(mark)


def decode_intervals(d: Decoder) -> IntervalSet:
    n = d.count(16)
    flat = d.u64s(2 * n)
    intervals = tuple(zip(flat[::2], flat[1::2]))
    if any(start + length > 1 << 64 for start, length in intervals):
        raise DecodeError("interval_set: an interval of more than 64 bits")
    return intervals


def encode_intervals(e: Encoder, intervals: IntervalSet) -> None:
    e.u32(len(intervals))
    for start, length in intervals:
        e.u64(start)
        e.u64(length)


def union(a: IntervalSet, b: IntervalSet) -> IntervalSet:
    """interval_set::union_of."""
    merged: list[tuple[int, int]] = []
    for start, length in sorted((*a, *b)):
        if merged and start <= merged[-1][0] + merged[-1][1]:
            first = merged[-1][0]
            merged[-1] = (first, min(max(sum(merged[-1]), start + length) - first, (1 << 64) - 1))
        else:
            merged.append((start, length))
    return tuple(merged)


def subtract(a: IntervalSet, b: IntervalSet) -> IntervalSet:
    """interval_set::subtract, for parts that may not be there too."""
    left: list[tuple[int, int]] = []
    cuts = iter((*sorted(b), (1 << 65, 0)))
    cut, length = next(cuts)
    for start, size in a:
        end = start + size
        while cut + length <= start:
            cut, length = next(cuts)
        while cut < end:
            if cut > start:
                left.append((start, cut - start))
            start = max(start, cut + length)
            if start >= end:
                break
            cut, length = next(cuts)
        if start < end:
            left.append((start, end - start))
    return tuple(left)


def decode_shard_set(d: Decoder) -> frozenset[int]:
    """shard_id_set: two words, as variable-length integers (`src/common/bitset_set.h`)."""
    bits = _varint(d) | _varint(d) << 64
    return frozenset([i for i in range(MAX_SHARDS) if bits >> i & 1])


def encode_shard_set(e: Encoder, shards: frozenset[int]) -> None:
    bits = sum(1 << i for i in shards)
    for word in (bits & 0xFFFFFFFFFFFFFFFF, bits >> 64):
        while word > 0x7F:
            e.u8(word & 0x7F | 0x80)
            word >>= 7
        e.u8(word)


def _varint(d: Decoder) -> int:
    value = shift = 0
    while True:
        byte = d.u8()
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value & 0xFFFFFFFFFFFFFFFF
        if shift > 63:
            raise DecodeError("a variable-length integer of more than 64 bits")
