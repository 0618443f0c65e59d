"""pg_pool_t: a pool, as a map describes it (`src/osd/osd_types.cc`)."""

from typing import Any

from ..denc import Decoder, Encoder, MapOf, Struct, string
from ..errors import DecodeError
from ..msgr.types import Utime
from .features import SERVER_MIMIC, SERVER_NAUTILUS, SERVER_TENTACLE, SIGNIFICANT_FEATURES, have
from .hash import ceph_stable_mod, ceph_str_hash, crush_hash32_2, mask_for
from .pool_types import (
    HitSetParams,
    IntervalSet,
    PgMergeMeta,
    PoolSnap,
    decode_intervals,
    decode_opts,
    decode_shard_set,
    encode_intervals,
    encode_opts,
    encode_shard_set,
)

TYPE_REPLICATED = 1
TYPE_ERASURE = 3

FLAG_HASHPSPOOL = 1 << 0
FLAG_FULL = 1 << 1
FLAG_EC_OVERWRITES = 1 << 2
FLAG_FULL_QUOTA = 1 << 10
FLAG_SELFMANAGED_SNAPS = 1 << 13
FLAG_POOL_SNAPS = 1 << 14
FLAG_CREATING = 1 << 15
FLAG_EIO = 1 << 16
FLAG_EC_OPTIMIZATIONS = 1 << 19

FLAG_NAMES = (
    "hashpspool",
    "full",
    "ec_overwrites",
    "incomplete_clones",
    "nodelete",
    "nopgchange",
    "nosizechange",
    "write_fadvise_dontneed",
    "noscrub",
    "nodeep-scrub",
    "full_quota",
    "nearfull",
    "backfillfull",
    "selfmanaged_snaps",
    "pool_snaps",
    "creating",
    "eio",
    "bulk",
    "crimson",
    "ec_optimizations",
)
"""pg_pool_t::get_flag_name; a flag's bit is its place."""

CACHE_MODE_NAMES = ("none", "writeback", "forward", "readonly", "readforward", "readproxy", "proxy")

AUTOSCALE_OFF, AUTOSCALE_WARN, AUTOSCALE_ON, AUTOSCALE_UNKNOWN = 0, 1, 2, 0xFF

CRUSH_ITEM_NONE = 0x7FFFFFFF

VERSION = 32

_names = MapOf(string, string)
_apps = MapOf(string, _names)


class PgPool(Struct, version=VERSION, compat=5):
    """A pool. Times that the cluster counts in map epochs are epochs here too; the names are Ceph's."""

    type: int
    size: int
    crush_rule: int
    object_hash: int
    pg_num: int
    pgp_num: int
    last_change: int = 0
    snap_seq: int = 0
    snap_epoch: int = 0
    snaps: dict[int, PoolSnap] = {}  # noqa: RUF012 - these are never changed
    removed_snaps: IntervalSet = ()
    auid: int = 0
    flags: int = 0
    min_size: int = 0
    quota_max_bytes: int = 0
    quota_max_objects: int = 0
    tiers: tuple[int, ...] = ()
    tier_of: int = -1
    cache_mode: int = 0
    read_tier: int = -1
    write_tier: int = -1
    properties: dict[str, str] = {}  # noqa: RUF012
    hit_set_params: HitSetParams = HitSetParams()
    hit_set_period: int = 0
    hit_set_count: int = 0
    stripe_width: int = 0
    target_max_bytes: int = 0
    target_max_objects: int = 0
    cache_target_dirty_ratio_micro: int = 0
    cache_target_full_ratio_micro: int = 0
    cache_min_flush_age: int = 0
    cache_min_evict_age: int = 0
    erasure_code_profile: str = ""
    last_force_op_resend_preluminous: int = 0
    min_read_recency_for_promote: int = 0
    expected_num_objects: int = 0
    cache_target_dirty_high_ratio_micro: int = 0
    min_write_recency_for_promote: int = 0
    use_gmt_hitset: int = 1
    fast_read: int = 0
    hit_set_grade_decay_rate: int = 0
    hit_set_search_last_n: int = 0
    opts: dict[str, str | int | float] = {}  # noqa: RUF012
    last_force_op_resend_prenautilus: int = 0
    application_metadata: dict[str, dict[str, str]] = {}  # noqa: RUF012
    create_time: Utime = Utime()
    pg_num_target: int = 0
    pgp_num_target: int = 0
    pg_num_pending: int = 0
    last_force_op_resend: int = 0
    pg_autoscale_mode: int = AUTOSCALE_UNKNOWN
    last_pg_merge_meta: PgMergeMeta = PgMergeMeta()
    peering_crush_bucket_count: int = 0
    peering_crush_bucket_target: int = 0
    peering_crush_bucket_barrier: int = 0
    peering_crush_mandatory_member: int = CRUSH_ITEM_NONE
    nonprimary_shards: frozenset[int] = frozenset()

    @property
    def is_erasure(self) -> bool:
        return self.type == TYPE_ERASURE

    @property
    def has_tier(self) -> bool:
        """Whether requests go to another pool, a cache, first."""
        return self.read_tier >= 0 or self.write_tier >= 0

    @property
    def is_stretch_pool(self) -> bool:
        return self.peering_crush_bucket_count != 0

    @property
    def allows_ecoptimizations(self) -> bool:
        return bool(self.flags & FLAG_EC_OPTIMIZATIONS)

    @property
    def required_alignment(self) -> int | None:
        """What appends must be a multiple of, in bytes; None if they need not."""
        return self.stripe_width if self.is_erasure and not self.flags & FLAG_EC_OVERWRITES else None

    @property
    def is_full(self) -> bool:
        return bool(self.flags & (FLAG_FULL | FLAG_FULL_QUOTA))

    @property
    def is_pool_snaps_mode(self) -> bool:
        return bool(self.flags & FLAG_POOL_SNAPS)

    @property
    def is_unmanaged_snaps_mode(self) -> bool:
        return bool(self.flags & FLAG_SELFMANAGED_SNAPS)

    @property
    def can_shift_osds(self) -> bool:
        """Whether a missing OSD lets those behind it move up (not so for erasure codes)."""
        return self.type == TYPE_REPLICATED

    def hash_key(self, name: bytes, nspace: bytes = b"") -> int:
        """pg_pool_t::hash_key: the 32-bit hash of a name (or locator key) in a namespace."""
        return ceph_str_hash(self.object_hash, nspace + b"\x1f" + name if nspace else name)

    def raw_pg_to_pg(self, ps: int) -> int:
        """The placement group's seed for a full hash."""
        return ceph_stable_mod(ps, self.pg_num, mask_for(self.pg_num))

    def raw_pg_to_pps(self, pool: int, ps: int) -> int:
        """The input value for CRUSH: placement group, mixed with the pool's number."""
        seed = ceph_stable_mod(ps, self.pgp_num, mask_for(self.pgp_num))
        return crush_hash32_2(seed, pool) if self.flags & FLAG_HASHPSPOOL else seed + pool

    @classmethod
    def decode(cls, d: Decoder) -> "PgPool":
        start = d.pos
        v, b = d.envelope(VERSION, "pg_pool_t")
        if v < 14:
            raise DecodeError(f"pg_pool_t version {v} is older than any release that is supported")
        f: dict[str, Any] = {}
        f["type"], f["size"], f["crush_rule"], f["object_hash"] = b.raw(4)
        f["pg_num"], f["pgp_num"] = pg_num, pgp_num = b.u32(), b.u32()
        b.skip(8)  # lpg_num, lpgp_num
        f["last_change"] = b.u32()
        f["snap_seq"] = snap_seq = b.u64()
        f["snap_epoch"] = b.u32()
        f["snaps"] = {b.u64(): PoolSnap.decode(b) for _ in range(b.count(14))}
        f["removed_snaps"] = removed = decode_intervals(b)
        f["auid"] = b.u64()
        flags = b.u64()
        if snap_seq and not flags & (FLAG_SELFMANAGED_SNAPS | FLAG_POOL_SNAPS):  # from before the flags were there
            flags |= FLAG_SELFMANAGED_SNAPS if removed else FLAG_POOL_SNAPS
        f["flags"] = flags
        b.skip(4)  # crash_replay_interval
        f["min_size"] = b.u8()
        f["quota_max_bytes"], f["quota_max_objects"] = b.u64(), b.u64()
        f["tiers"] = b.u64s(b.count(8))
        f["tier_of"] = b.s64()
        f["cache_mode"] = b.u8()
        f["read_tier"], f["write_tier"] = b.s64(), b.s64()
        f["properties"] = _names.decode(b)
        f["hit_set_params"] = HitSetParams.decode(b)
        f["hit_set_period"], f["hit_set_count"] = b.u32(), b.u32()
        f["stripe_width"] = b.u32()
        f["target_max_bytes"], f["target_max_objects"] = b.u64(), b.u64()
        f["cache_target_dirty_ratio_micro"] = dirty = b.u32()
        f["cache_target_full_ratio_micro"] = b.u32()
        f["cache_min_flush_age"], f["cache_min_evict_age"] = b.u32(), b.u32()
        f["erasure_code_profile"] = b.string()
        f["last_force_op_resend_preluminous"] = resend = b.u32() if v >= 15 else 0
        f["min_read_recency_for_promote"] = b.u32() if v >= 16 else 1
        f["expected_num_objects"] = b.u64() if v >= 17 else 0
        f["cache_target_dirty_high_ratio_micro"] = b.u32() if v >= 19 else dirty
        f["min_write_recency_for_promote"] = b.u32() if v >= 20 else 1
        f["use_gmt_hitset"] = b.u8() if v >= 21 else 0
        f["fast_read"] = b.u8() if v >= 22 else 0
        f["hit_set_grade_decay_rate"] = b.u32() if v >= 23 else 0
        f["hit_set_search_last_n"] = b.u32() if v >= 23 else 1
        f["opts"] = decode_opts(b) if v >= 24 else {}
        f["last_force_op_resend_prenautilus"] = resend = b.u32() if v >= 25 else resend
        f["application_metadata"] = _apps.decode(b) if v >= 26 else {}
        f["create_time"] = Utime.decode(b) if v >= 27 else Utime()
        if v >= 28:
            f["pg_num_target"], f["pgp_num_target"], f["pg_num_pending"] = b.u32(), b.u32(), b.u32()
            started, clean = b.u32(), b.u32()
            f["last_force_op_resend"] = b.u32()
            f["pg_autoscale_mode"] = b.u8()
            merge = PgMergeMeta(last_epoch_started=started, last_epoch_clean=clean)
            f["last_pg_merge_meta"] = PgMergeMeta.decode(b) if v >= 29 else merge
        else:
            f["pg_num_target"], f["pgp_num_target"], f["pg_num_pending"] = pg_num, pgp_num, pg_num
            f["last_force_op_resend"] = resend
            f["pg_autoscale_mode"] = AUTOSCALE_WARN
        if v == 30 or (v >= 31 and b.u8()):
            f["peering_crush_bucket_count"] = b.u32()
            f["peering_crush_bucket_target"] = b.u32()
            f["peering_crush_bucket_barrier"] = b.u32()
            f["peering_crush_mandatory_member"] = b.s32()
        if v >= 32:
            f["nonprimary_shards"] = decode_shard_set(b)
        pool = cls(**f)
        pool.__dict__["_encoded"] = bytes(d.buf[start : d.pos])
        return pool

    @property
    def struct_v(self) -> int:
        """The version of the encoding that the pool was decoded from, or 0."""
        encoded: bytes = self.__dict__.get("_encoded", b"\0")
        return encoded[0]

    def encoding_version(self, features: int) -> int:
        """The struct's version for these features; the oldest is luminous."""
        if have(features, SERVER_TENTACLE):
            return 32
        if not have(features, SERVER_MIMIC):
            return 26
        if not have(features, SERVER_NAUTILUS):
            return 27
        return 30 if self.is_stretch_pool else 29

    def encode(self, e: Encoder, features: int = SIGNIFICANT_FEATURES) -> None:
        """As the monitors write it for these features (:mod:`.features`)."""
        v = self.encoding_version(features)
        if v == self.struct_v and v >= 27:  # below, what features hide is not in the encoding
            e.raw(self.__dict__["_encoded"])
            return
        start = len(e.buf)
        mark = e.start(v, 5)
        e.raw(bytes((self.type, self.size, self.crush_rule, self.object_hash)))
        e.u32(self.pg_num)
        e.u32(self.pgp_num)
        e.u64(0)  # lpg_num, lpgp_num
        e.u32(self.last_change)
        e.u64(self.snap_seq)
        e.u32(self.snap_epoch)
        e.u32(len(self.snaps))
        for snapid in sorted(self.snaps):
            e.u64(snapid)
            self.snaps[snapid].encode(e)
        encode_intervals(e, self.removed_snaps)
        e.u64(self.auid)
        hidden = 0 if v >= 27 else FLAG_SELFMANAGED_SNAPS | FLAG_POOL_SNAPS | FLAG_CREATING
        e.u64(self.flags & ~hidden)
        e.u32(0)  # crash_replay_interval
        e.u8(self.min_size)
        e.u64(self.quota_max_bytes)
        e.u64(self.quota_max_objects)
        e.u32(len(self.tiers))
        for pool in sorted(self.tiers):
            e.u64(pool)
        e.s64(self.tier_of)
        e.u8(self.cache_mode)
        e.s64(self.read_tier)
        e.s64(self.write_tier)
        _names.encode(e, self.properties)
        self.hit_set_params.encode(e)
        e.u32(self.hit_set_period)
        e.u32(self.hit_set_count)
        e.u32(self.stripe_width)
        e.u64(self.target_max_bytes)
        e.u64(self.target_max_objects)
        e.u32(self.cache_target_dirty_ratio_micro)
        e.u32(self.cache_target_full_ratio_micro)
        e.u32(self.cache_min_flush_age)
        e.u32(self.cache_min_evict_age)
        e.string(self.erasure_code_profile)
        e.u32(self.last_force_op_resend_preluminous)
        e.u32(self.min_read_recency_for_promote)
        e.u64(self.expected_num_objects)
        e.u32(self.cache_target_dirty_high_ratio_micro)
        e.u32(self.min_write_recency_for_promote)
        e.u8(self.use_gmt_hitset)
        e.u8(self.fast_read)
        e.u32(self.hit_set_grade_decay_rate)
        e.u32(self.hit_set_search_last_n)
        encode_opts(e, self.opts, features)
        e.u32(self.last_force_op_resend_prenautilus)
        _apps.encode(e, self.application_metadata)
        if v >= 27:
            self.create_time.encode(e)
        if v >= 28:
            e.u32(self.pg_num_target)
            e.u32(self.pgp_num_target)
            e.u32(self.pg_num_pending)
            e.u64(0)  # of merges, in 14.1
            e.u32(self.last_force_op_resend)
            e.u8(self.pg_autoscale_mode)
        if v >= 29:
            self.last_pg_merge_meta.encode(e)
        if v >= 31:
            e.u8(self.is_stretch_pool)
        if v >= 30 and self.is_stretch_pool:
            e.u32(self.peering_crush_bucket_count)
            e.u32(self.peering_crush_bucket_target)
            e.u32(self.peering_crush_bucket_barrier)
            e.s32(self.peering_crush_mandatory_member)
        if v >= 32:
            encode_shard_set(e, self.nonprimary_shards)
        e.finish(mark)
        self.__dict__["_encoded"] = bytes(e.buf[start:])


__all__ = ["FLAG_FULL", "TYPE_ERASURE", "TYPE_REPLICATED", "PgPool", "PoolSnap"]
