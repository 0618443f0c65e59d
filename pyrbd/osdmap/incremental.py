"""OSDMap::Incremental: what changes from one epoch to the next (`src/osd/OSDMap.cc`)."""

from __future__ import annotations

import struct as _struct
from collections.abc import Mapping
from typing import Any

from ..denc import Decoder, Encoder, MapOf, Vector, s32, s64, string, u32
from ..msgr.types import EntityAddr, EntityAddrVec, PgId, Utime
from . import pgmaps
from .addrs import addr_bytes, addr_from, addrvec_bytes, decode_addrvec, decode_stamped, encode_stamped
from .columns import OsdXInfo
from .envelope import finish_map, open_map, start_map
from .features import (
    OSDMAP_ENC,
    PGID64,
    REEF_BIT,
    SERVER_MIMIC,
    SERVER_NAUTILUS,
    SERVER_REEF,
    SIGNIFICANT_FEATURES,
    have,
)
from .lazy import PROFILES, decode_pool_intervals, encode_pool_intervals
from .pool import PgPool
from .pool_types import IntervalSet

NO_RELEASE = 0xFF
"""The release is not changed."""

_names = MapOf(s64, string)
_pools = Vector(s64)
_osd_u32 = MapOf(s32, u32)
_texts = Vector(string)
_RATIOS = _struct.Struct("<3f")
_STRETCH = _struct.Struct("<BIIIiB")
_UUID = _struct.Struct("<i16s")
_INTERVAL = _struct.Struct("<iII")


class Incremental:
    """The fields have Ceph's names and defaults; one that is to be written starts from ``Incremental(epoch=...)``."""

    __slots__ = (
        "change_stretch_mode",
        "client_version",
        "cluster_snapshot",
        "crush",
        "encode_features",
        "epoch",
        "fsid",
        "full_crc",
        "fullmap",
        "modified",
        "mutate_allow_crimson",
        "new_backfillfull_ratio",
        "new_blocklist",
        "new_crush_node_flags",
        "new_degraded_stretch_mode",
        "new_device_class_flags",
        "new_erasure_code_profiles",
        "new_flags",
        "new_full_ratio",
        "new_hb_back_up",
        "new_hb_front_up",
        "new_last_clean_interval",
        "new_last_in_change",
        "new_last_up_change",
        "new_lost",
        "new_max_osd",
        "new_nearfull_ratio",
        "new_pg_temp",
        "new_pg_upmap",
        "new_pg_upmap_items",
        "new_pg_upmap_primary",
        "new_pool_max",
        "new_pool_names",
        "new_pools",
        "new_primary_affinity",
        "new_primary_temp",
        "new_purged_snaps",
        "new_range_blocklist",
        "new_recovering_stretch_mode",
        "new_removed_snaps",
        "new_require_min_compat_client",
        "new_require_osd_release",
        "new_state",
        "new_stretch_bucket_count",
        "new_stretch_mode_bucket",
        "new_up_client",
        "new_up_cluster",
        "new_up_thru",
        "new_uuid",
        "new_weight",
        "new_xinfo",
        "old_blocklist",
        "old_erasure_code_profiles",
        "old_pg_upmap",
        "old_pg_upmap_items",
        "old_pg_upmap_primary",
        "old_pools",
        "old_range_blocklist",
        "stretch_mode_enabled",
    )

    encode_features: int
    """What the monitors encoded it with, and what the map that results is encoded with."""
    client_version: int
    """Of the encoding of the section for clients; 0: what the features ask for."""
    full_crc: int
    """The crc of the map that results, as the monitors have it; 0 where they did not say."""
    fsid: bytes
    epoch: int
    modified: Utime
    new_pool_max: int
    """-1, as for all numbers here: no change."""
    new_flags: int
    fullmap: bytes
    crush: bytes
    new_max_osd: int
    new_pools: dict[int, PgPool]
    new_pool_names: dict[int, str]
    old_pools: tuple[int, ...]
    new_up_client: dict[int, EntityAddrVec]
    new_state: dict[int, int]
    """XORed onto the state; 0 stands for "up"."""
    new_weight: dict[int, int]
    new_pg_temp: dict[PgId, tuple[int, ...]]
    """Nothing, to remove one."""
    new_primary_temp: dict[PgId, int]
    """-1, to remove one."""
    new_primary_affinity: dict[int, int]
    new_erasure_code_profiles: dict[str, dict[str, str]]
    old_erasure_code_profiles: tuple[str, ...]
    new_pg_upmap: dict[PgId, tuple[int, ...]]
    old_pg_upmap: tuple[PgId, ...]
    new_pg_upmap_items: dict[PgId, tuple[tuple[int, int], ...]]
    old_pg_upmap_items: tuple[PgId, ...]
    new_removed_snaps: dict[int, IntervalSet]
    new_purged_snaps: dict[int, IntervalSet]
    new_last_up_change: Utime
    new_last_in_change: Utime
    new_pg_upmap_primary: dict[PgId, int]
    old_pg_upmap_primary: tuple[PgId, ...]
    new_hb_back_up: dict[int, EntityAddrVec]
    new_up_thru: dict[int, int]
    new_last_clean_interval: dict[int, tuple[int, int]]
    new_lost: dict[int, int]
    new_blocklist: dict[bytes, bytes]
    """Encoded addresses and until when (:func:`pyrbd.osdmap.blocklist.entries`); so are the ranges."""
    old_blocklist: tuple[bytes, ...]
    new_up_cluster: dict[int, EntityAddrVec]
    cluster_snapshot: str
    new_uuid: dict[int, bytes]
    new_xinfo: dict[int, OsdXInfo]
    new_hb_front_up: dict[int, EntityAddrVec]
    new_nearfull_ratio: float
    new_full_ratio: float
    new_backfillfull_ratio: float
    new_require_min_compat_client: int
    new_require_osd_release: int
    new_crush_node_flags: dict[int, int]
    new_device_class_flags: dict[int, int]
    change_stretch_mode: bool
    new_stretch_bucket_count: int
    new_degraded_stretch_mode: int
    new_recovering_stretch_mode: int
    new_stretch_mode_bucket: int
    stretch_mode_enabled: bool
    new_range_blocklist: dict[bytes, bytes]
    old_range_blocklist: tuple[bytes, ...]
    mutate_allow_crimson: int
    """0: no change, 1: set, 2: cleared."""

    def __init__(self, **fields: Any) -> None:
        for name in self.__slots__:
            default = _DEFAULTS.get(name)
            setattr(self, name, fields.pop(name) if name in fields else {} if default is None else default)
        if fields:
            raise TypeError(f"Incremental has no field {next(iter(fields))!r}")

    def __repr__(self) -> str:
        changed = [
            n for n in self.__slots__ if n.startswith(("new_", "old_")) and getattr(self, n) != _DEFAULTS.get(n, {})
        ]
        return f"<Incremental epoch={self.epoch} {' '.join(changed)}>"

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Incremental:
        """Raises DecodeError for what is damaged or from before nautilus."""
        opened = open_map(data, "osdmap incremental", 9, 12)
        i = cls()
        v, d = opened.client
        i.client_version = v
        i.fsid = d.raw(16)
        i.epoch = d.u32()
        i.modified = Utime.decode(d)
        i.new_pool_max = d.s64()
        i.new_flags = d.s32()
        i.fullmap = d.blob()
        i.crush = d.blob()
        i.new_max_osd = d.s32()
        i.new_pools = {d.s64(): PgPool.decode(d) for _ in range(d.count(14))}
        i.new_pool_names = _names.decode(d)
        i.old_pools = _pools.decode(d)
        i.new_up_client = _decode_addrs(d)
        i.new_state = _osd_u32.decode(d) if v >= 5 else {d.s32(): d.u8() for _ in range(d.count(5))}
        i.new_weight = _osd_u32.decode(d)
        i.new_pg_temp = pgmaps.decode_osd_lists(d)
        i.new_primary_temp = pgmaps.decode_osds(d)
        if v >= 2:
            i.new_primary_affinity = _osd_u32.decode(d)
        if v >= 3:
            i.new_erasure_code_profiles = PROFILES.decode(d)
            i.old_erasure_code_profiles = _texts.decode(d)
        if v >= 4:
            i.new_pg_upmap = pgmaps.decode_osd_lists(d)
            i.old_pg_upmap = pgmaps.decode_pgs(d)
            i.new_pg_upmap_items = pgmaps.decode_pairs(d)
            i.old_pg_upmap_items = pgmaps.decode_pgs(d)
        if v >= 6:
            i.new_removed_snaps = decode_pool_intervals(d)
            i.new_purged_snaps = decode_pool_intervals(d)
        if v >= 8:
            i.new_last_up_change = Utime.decode(d)
            i.new_last_in_change = Utime.decode(d)
        if v >= 9:
            i.new_pg_upmap_primary = pgmaps.decode_osds(d)
            i.old_pg_upmap_primary = pgmaps.decode_pgs(d)
        i._decode_for_osds(*opened.osds)
        i.full_crc = opened.rest.u32() if opened.crc is not None else 0
        return i

    def _decode_for_osds(self, v: int, d: Decoder) -> None:
        self.new_hb_back_up = _decode_addrs(d)
        self.new_up_thru = _osd_u32.decode(d)
        intervals = [d.unpack(_INTERVAL) for _ in range(d.count(_INTERVAL.size))]
        self.new_last_clean_interval = {osd: (begin, end) for osd, begin, end in intervals}
        self.new_lost = _osd_u32.decode(d)
        self.new_blocklist = decode_stamped(d)
        self.old_blocklist = _decode_listed(d)
        self.new_up_cluster = _decode_addrs(d)
        self.cluster_snapshot = d.string()
        self.new_uuid = dict([d.unpack(_UUID) for _ in range(d.count(_UUID.size))])
        self.new_xinfo = {d.s32(): OsdXInfo.decode(d) for _ in range(d.count(10))}
        self.new_hb_front_up = _decode_addrs(d)
        self.encode_features = d.u64() if v >= 2 else PGID64 | OSDMAP_ENC
        if v >= 4:
            ratios = d.unpack(_RATIOS)
            self.new_nearfull_ratio, self.new_full_ratio, self.new_backfillfull_ratio = ratios
        if v >= 6:
            self.new_require_min_compat_client = d.u8()
            self.new_require_osd_release = d.u8()
        if v >= 8:
            self.new_crush_node_flags = _osd_u32.decode(d)
        if v >= 9:
            self.new_device_class_flags = _osd_u32.decode(d)
        if v >= 10:
            change, count, degraded, recovering, bucket, enabled = d.unpack(_STRETCH)
            self.change_stretch_mode, self.stretch_mode_enabled = bool(change), bool(enabled)
            self.new_stretch_bucket_count, self.new_stretch_mode_bucket = count, bucket
            self.new_degraded_stretch_mode, self.new_recovering_stretch_mode = degraded, recovering
        if v >= 11:
            self.new_range_blocklist = decode_stamped(d)
            self.old_range_blocklist = _decode_listed(d)
        if v >= 12:
            self.mutate_allow_crimson = d.u8()

    @property
    def effective_features(self) -> int:
        """`encode_features`, but for reef's: its first releases wrote its versions of maps whatever the features."""
        if not self.client_version:
            return self.encode_features
        return self.encode_features | REEF_BIT if self.client_version >= 9 else self.encode_features & ~REEF_BIT

    def encode(self, features: int | None = None) -> bytes:
        """As a monitor writes it for these features (:mod:`pyrbd.osdmap.features`); by default for those that it
        came with, which gives the same bytes.

        Raises:
            ValueError: an encoding from before luminous is asked for.
        """
        told = self.encode_features if features is None else features
        features = self.effective_features if features is None else features
        e = Encoder()
        mark = start_map(e, features)
        self._encode_for_clients(e, features)
        self._encode_for_osds(e, features, told)
        finish_map(e, mark, self.full_crc.to_bytes(4, "little"))
        return bytes(e.buf)

    def _encode_for_clients(self, e: Encoder, features: int) -> None:
        v = 9
        if not have(features, SERVER_MIMIC):
            v = 5
        elif not have(features, SERVER_NAUTILUS):
            v = 6
        elif not have(features, SERVER_REEF):
            v = 8
        mark = e.start(v, 1)
        e.raw(self.fsid)
        e.u32(self.epoch)
        self.modified.encode(e)
        e.s64(self.new_pool_max)
        e.s32(self.new_flags)
        e.blob(self.fullmap)
        e.blob(self.crush)
        e.s32(self.new_max_osd)
        e.u32(len(self.new_pools))
        for pool in sorted(self.new_pools):
            e.s64(pool)
            self.new_pools[pool].encode(e, features)
        _names.encode(e, self.new_pool_names)
        _pools.encode(e, sorted(self.old_pools))
        _encode_addrs(e, self.new_up_client, features)
        _osd_u32.encode(e, self.new_state)
        _osd_u32.encode(e, self.new_weight)
        pgmaps.encode_osd_lists(e, self.new_pg_temp)
        pgmaps.encode_osds(e, self.new_primary_temp)
        _osd_u32.encode(e, self.new_primary_affinity)
        PROFILES.encode(e, self.new_erasure_code_profiles)
        _texts.encode(e, self.old_erasure_code_profiles)
        pgmaps.encode_osd_lists(e, self.new_pg_upmap)
        pgmaps.encode_pgs(e, self.old_pg_upmap)
        pgmaps.encode_pairs(e, self.new_pg_upmap_items)
        pgmaps.encode_pgs(e, self.old_pg_upmap_items)
        if v >= 6:
            encode_pool_intervals(e, self.new_removed_snaps)
            encode_pool_intervals(e, self.new_purged_snaps)
        if v >= 8:
            self.new_last_up_change.encode(e)
            self.new_last_in_change.encode(e)
        if v >= 9:
            pgmaps.encode_osds(e, self.new_pg_upmap_primary)
            pgmaps.encode_pgs(e, self.old_pg_upmap_primary)
        e.finish(mark)

    def _encode_for_osds(self, e: Encoder, features: int, told: int) -> None:
        v = 9 if have(features, SERVER_NAUTILUS) else 6
        if self.change_stretch_mode:
            v = max(v, 10)
        if self.new_range_blocklist or self.old_range_blocklist:
            v = max(v, 11)
        if self.mutate_allow_crimson:
            v = max(v, 12)
        addr_features = features if v >= 7 else features & ~SERVER_NAUTILUS
        mark = e.start(v, 1)
        _encode_addrs(e, self.new_hb_back_up, addr_features)
        _osd_u32.encode(e, self.new_up_thru)
        e.u32(len(self.new_last_clean_interval))
        for osd in sorted(self.new_last_clean_interval):
            e.pack(_INTERVAL, osd, *self.new_last_clean_interval[osd])
        _osd_u32.encode(e, self.new_lost)
        encode_stamped(e, self.new_blocklist, features)
        _encode_listed(e, self.old_blocklist, features)
        _encode_addrs(e, self.new_up_cluster, addr_features)
        e.string(self.cluster_snapshot)
        e.u32(len(self.new_uuid))
        for osd in sorted(self.new_uuid):
            e.pack(_UUID, osd, self.new_uuid[osd])
        e.u32(len(self.new_xinfo))
        for osd in sorted(self.new_xinfo):
            e.s32(osd)
            self.new_xinfo[osd].encode(e, features)
        _encode_addrs(e, self.new_hb_front_up, addr_features)
        e.u64(told)
        e.pack(_RATIOS, self.new_nearfull_ratio, self.new_full_ratio, self.new_backfillfull_ratio)
        e.u8(self.new_require_min_compat_client)
        e.u8(self.new_require_osd_release)
        if v >= 8:
            _osd_u32.encode(e, self.new_crush_node_flags)
        if v >= 9:
            _osd_u32.encode(e, self.new_device_class_flags)
        if v >= 10:
            e.pack(
                _STRETCH,
                self.change_stretch_mode,
                self.new_stretch_bucket_count,
                self.new_degraded_stretch_mode,
                self.new_recovering_stretch_mode,
                self.new_stretch_mode_bucket,
                self.stretch_mode_enabled,
            )
        if v >= 11:
            encode_stamped(e, self.new_range_blocklist, features)
            _encode_listed(e, self.old_range_blocklist, features)
        if v >= 12:
            e.u8(self.mutate_allow_crimson)
        e.finish(mark)


def _decode_addrs(d: Decoder) -> dict[int, EntityAddrVec]:
    return {d.s32(): decode_addrvec(d) for _ in range(d.count(5))}


def _encode_addrs(e: Encoder, osds: Mapping[int, EntityAddrVec], features: int) -> None:
    e.u32(len(osds))
    for osd in sorted(osds):
        e.s32(osd)
        e.raw(addrvec_bytes(osds[osd], features))


def _decode_listed(d: Decoder) -> tuple[bytes, ...]:
    return tuple([addr_bytes(EntityAddr.decode(d)) for _ in range(d.count(1))])


def _encode_listed(e: Encoder, addrs: tuple[bytes, ...], features: int) -> None:
    e.u32(len(addrs))
    for addr in addrs:
        e.raw(addr if have(features, SERVER_NAUTILUS) else addr_bytes(addr_from(addr), features))


_DEFAULTS: dict[str, Any] = {  # of the rest: no entries
    "change_stretch_mode": False,
    "client_version": 0,
    "cluster_snapshot": "",
    "crush": b"",
    "encode_features": SIGNIFICANT_FEATURES,
    "epoch": 0,
    "fsid": bytes(16),
    "full_crc": 0,
    "fullmap": b"",
    "modified": Utime(),
    "mutate_allow_crimson": 0,
    "new_backfillfull_ratio": -1.0,
    "new_degraded_stretch_mode": 0,
    "new_flags": -1,
    "new_full_ratio": -1.0,
    "new_last_in_change": Utime(),
    "new_last_up_change": Utime(),
    "new_max_osd": -1,
    "new_nearfull_ratio": -1.0,
    "new_pool_max": -1,
    "new_recovering_stretch_mode": 0,
    "new_require_min_compat_client": NO_RELEASE,
    "new_require_osd_release": NO_RELEASE,
    "new_stretch_bucket_count": 0,
    "new_stretch_mode_bucket": 0,
    "old_blocklist": (),
    "old_erasure_code_profiles": (),
    "old_pg_upmap": (),
    "old_pg_upmap_items": (),
    "old_pg_upmap_primary": (),
    "old_pools": (),
    "old_range_blocklist": (),
    "stretch_mode_enabled": False,
}
