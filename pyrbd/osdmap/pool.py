"""pg_pool_t: a pool, as a map describes it (`src/osd/osd_types.cc`)."""

from typing import NamedTuple

from ..denc import Decoder, Encoder, MapOf, Struct, Vector, string, u64
from ..errors import DecodeError
from ..msgr.types import Utime
from .hash import ceph_stable_mod, ceph_str_hash, crush_hash32_2, mask_for

TYPE_REPLICATED = 1
TYPE_ERASURE = 3

FLAG_HASHPSPOOL = 1 << 0
FLAG_FULL = 1 << 1
FLAG_EC_OVERWRITES = 1 << 2
FLAG_SELFMANAGED_SNAPS = 1 << 13
FLAG_POOL_SNAPS = 1 << 14
FLAG_FULL_QUOTA = 1 << 10
FLAG_EIO = 1 << 16

_names = MapOf(string, string)


class PoolSnap(NamedTuple):
    """A snapshot of a whole pool."""

    name: str
    stamp: Utime


class PgPool(Struct, version=32, compat=5):
    """A pool. Times that the cluster counts in map epochs are epochs here too."""

    type: int
    size: int
    crush_rule: int
    object_hash: int
    pg_num: int
    pgp_num: int
    last_change: int
    snap_seq: int
    snaps: dict[int, PoolSnap]
    flags: int
    min_size: int
    quota_max_bytes: int = 0
    quota_max_objects: int = 0
    tiers: tuple[int, ...] = ()
    tier_of: int = -1
    read_tier: int = -1
    write_tier: int = -1
    stripe_width: int = 0
    erasure_code_profile: str = ""
    last_force_op_resend: int = 0
    application_metadata: dict[str, dict[str, str]] = {}  # noqa: RUF012 - never changed
    pg_num_pending: int = 0
    pg_num_target: int = 0

    @property
    def is_erasure(self) -> bool:
        return self.type == TYPE_ERASURE

    @property
    def has_tier(self) -> bool:
        """Whether requests go to another pool, a cache, first."""
        return self.read_tier >= 0 or self.write_tier >= 0

    @property
    def required_alignment(self) -> int | None:
        """What appends must be a multiple of, in bytes; None if they need not."""
        return self.stripe_width if self.is_erasure and not self.flags & FLAG_EC_OVERWRITES else None

    @property
    def is_full(self) -> bool:
        return bool(self.flags & (FLAG_FULL | FLAG_FULL_QUOTA))

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
        v, b = d.envelope(32, "pg_pool_t")
        if v < 14:
            raise DecodeError(f"pg_pool_t version {v} is older than any release that is supported")
        head = (b.u8(), b.u8(), b.u8(), b.u8(), b.u32(), b.u32())
        b.skip(8)  # lpg_num, lpgp_num
        last_change, snap_seq = b.u32(), b.u64()
        b.skip(4)  # snap_epoch
        snaps = {b.u64(): _decode_pool_snap(b) for _ in range(b.count(14))}
        Vector(_Interval).decode(b)  # removed_snaps
        b.skip(8)  # auid
        flags = b.u64()
        b.skip(4)  # crash_replay_interval
        min_size = b.u8()
        quota = (b.u64(), b.u64())
        tiers: tuple[int, ...] = Vector(u64).decode(b)
        tier_of = b.s64()
        b.skip(1)  # cache_mode
        read_tier, write_tier = b.s64(), b.s64()
        _names.decode(b)  # properties
        b.skip(1)  # hit_set_params: an envelope with a type and a nested one
        b.skip(1)
        b.skip(b.u32())
        b.skip(8)  # hit_set_period, hit_set_count
        stripe_width = b.u32()
        b.skip(8 + 8 + 4 * 4)
        profile = b.string()
        force = b.u32() if v >= 15 else 0
        b.skip((4 if v >= 16 else 0) + (8 if v >= 17 else 0) + (4 if v >= 19 else 0) + (4 if v >= 20 else 0))
        b.skip((1 if v >= 21 else 0) + (1 if v >= 22 else 0) + (8 if v >= 23 else 0))
        if v >= 24:  # opts
            b.skip(2)
            b.skip(b.u32())
        if v >= 25:
            force = b.u32()
        apps: dict[str, dict[str, str]] = MapOf(string, _names).decode(b) if v >= 26 else {}
        if v >= 27:
            Utime.decode(b)
        target = pending = head[4]
        if v >= 28:
            target = b.u32()
            b.skip(4)
            pending = b.u32()
            b.skip(8)
            force = b.u32()
        return cls(
            *head,
            last_change,
            snap_seq,
            snaps,
            flags,
            min_size,
            *quota,
            tiers,
            tier_of,
            read_tier,
            write_tier,
            stripe_width,
            profile,
            force,
            apps,
            pending,
            target,
        )

    def encode(self, e: Encoder) -> None:
        raise NotImplementedError("a client does not write maps")


class _Interval(Struct):
    start: u64
    length: u64


def _decode_pool_snap(d: Decoder) -> PoolSnap:
    """pool_snap_info_t."""
    _, b = d.envelope(2, "pool_snap_info_t")
    b.skip(8)  # snapid
    stamp = Utime.decode(b)
    return PoolSnap(b.string(), stamp)


__all__ = ["FLAG_FULL", "TYPE_ERASURE", "TYPE_REPLICATED", "PgPool", "PoolSnap"]
