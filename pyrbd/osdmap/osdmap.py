"""OSDMap: which OSDs there are, and where each object belongs (`src/osd/OSDMap.cc`).

A map is a value: a newer epoch is another object, made by :meth:`OSDMap.apply`. What a client does not ask for is not
decoded when a map comes: tables of OSDs and of placement groups, the CRUSH map, and the section for OSDs stay bytes
until then, and are shared by all maps in which they are the same. So is what a map is encoded of: with
:meth:`OSDMap.encode` and :attr:`OSDMap.crc` come the bytes and the checksum that the monitors have.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Mapping
from typing import Any

from ..denc import Decoder, Encoder
from ..errors import DecodeError
from ..msgr.types import EntityAddrVec, PgId, Utime
from .apply import apply_incremental, normalized_flags
from .blocklist import Blocklist
from .columns import ADDRS, Column
from .crush import CrushMap
from .envelope import finish_map, open_map, start_map
from .features import (
    MIMIC_BIT,
    NAUTILUS_BIT,
    OCTOPUS_BIT,
    REEF_BIT,
    RELEASE_REEF,
    SERVER_MIMIC,
    SERVER_NAUTILUS,
    SERVER_REEF,
    TENTACLE_BIT,
    encoding_features,
    have,
)
from .incremental import Incremental
from .lazy import NAMES, OSD_LISTS, OSDS, PAIRS, POOL_INTERVALS, PROFILES, U32S, Lazy
from .osd_section import VERSION as OSD_SECTION_VERSION
from .osd_section import OsdSection
from .placement import Placement
from .pool import FLAG_EIO, PgPool
from .pool_types import IntervalSet

VERSION = 10

MAX_OSDS = 100_000
"""Ten times what the monitors allow unless told otherwise (`mon_max_osd`)."""

_HEAD = _struct.Struct("<16sI4I")

LAZY_FIELDS = {
    "pool_names": NAMES,
    "osd_state": U32S,
    "osd_weight": U32S,
    "pg_temp": OSD_LISTS,
    "primary_temp": OSDS,
    "primary_affinity": U32S,
    "erasure_code_profiles": PROFILES,
    "pg_upmap": OSD_LISTS,
    "pg_upmap_items": PAIRS,
    "new_removed_snaps": POOL_INTERVALS,
    "new_purged_snaps": POOL_INTERVALS,
    "pg_upmap_primaries": OSDS,
}
"""The fields that are decoded when they are asked for."""


class OSDMap(Placement):
    """One epoch. Mappings are computed when they are asked for, and kept."""

    # CEPH_OSDMAP_*
    NEARFULL = 1 << 0
    FULL = 1 << 1
    PAUSERD = 1 << 2
    PAUSEWR = 1 << 3
    PAUSE_MASK = FULL | PAUSERD | PAUSEWR

    __slots__ = (
        "_acting",
        "_crc",
        "_crush",
        "_crush_features",
        "_crush_raw",
        "_features",
        "_intervals",
        "_lazy",
        "_osd_section",
        "_section",
        "any_pool_full",
        "any_pool_special",
        "client_addrs",
        "client_version",
        "created",
        "crush_version",
        "epoch",
        "erasure_code_profiles",
        "flags",
        "fsid",
        "last_in_change",
        "last_up_change",
        "max_osd",
        "modified",
        "new_purged_snaps",
        "new_removed_snaps",
        "osd_state",
        "osd_weight",
        "pg_temp",
        "pg_upmap",
        "pg_upmap_items",
        "pg_upmap_primaries",
        "pool_ids",
        "pool_max",
        "pool_names",
        "pools",
        "primary_affinity",
        "primary_temp",
    )

    fsid: bytes
    epoch: int
    created: Utime
    modified: Utime
    pools: Mapping[int, PgPool]
    pool_names: Mapping[int, str]
    pool_max: int
    flags: int
    max_osd: int
    osd_state: tuple[int, ...]
    osd_weight: tuple[int, ...]
    client_addrs: Column[EntityAddrVec]
    pg_temp: Mapping[PgId, tuple[int, ...]]
    primary_temp: Mapping[PgId, int]
    primary_affinity: tuple[int, ...]
    """Nothing where all OSDs have the default."""
    erasure_code_profiles: Mapping[str, Mapping[str, str]]
    pg_upmap: Mapping[PgId, tuple[int, ...]]
    pg_upmap_items: Mapping[PgId, tuple[tuple[int, int], ...]]
    crush_version: int
    new_removed_snaps: Mapping[int, IntervalSet]
    new_purged_snaps: Mapping[int, IntervalSet]
    last_up_change: Utime
    last_in_change: Utime
    pg_upmap_primaries: Mapping[PgId, int]
    client_version: int
    """Of the encoding of the section for clients that the map came in, or would be given."""
    pool_ids: dict[str, int]
    any_pool_full: bool
    any_pool_special: bool
    """Whether there is a pool with a cache tier, or one that fails all requests."""
    _lazy: dict[str, Lazy]
    _section: OsdSection | None
    _osd_section: tuple[int, bytes]
    _crush_raw: bytes
    _crush_features: int | None
    """What `_crush_raw` is encoded with; None: as the map that it came in; -1: not by those who write maps."""
    _crush: CrushMap | None
    _features: int | None
    _crc: int | None
    _acting: dict[tuple[int, int], tuple[int, tuple[int, ...]]]
    _intervals: dict[tuple[int, int], tuple[object, ...]]

    def __repr__(self) -> str:
        return f"<OSDMap epoch={self.epoch} osds={self.max_osd} pools={len(self.pools)}>"

    def __getattr__(self, name: str) -> Any:
        """A field that is asked for for the first time."""
        if name not in LAZY_FIELDS:
            raise AttributeError(f"OSDMap has no {name!r}")
        value = self._lazy[name].get()
        setattr(self, name, value)
        return value

    # ------------------------------------------------------------ bytes

    @classmethod
    def decode_full(cls, data: bytes | memoryview) -> OSDMap:
        """A full map, as `ceph osd getmap` writes it.

        Raises:
            DecodeError: damaged, truncated, or from before nautilus.
        """
        opened = open_map(data, "osdmap", VERSION, OSD_SECTION_VERSION)
        m = cls()
        osd_v, osds = opened.osds
        m._osd_section = (osd_v, bytes(osds.buf[osds.pos : osds.end]))
        m._section = None
        m._features = None
        m._crc = opened.crc
        v, d = opened.client
        m.client_version = v
        lazy = m._lazy = {}

        def field(name: str, there: bool = True, value: Any = None) -> None:
            codec = LAZY_FIELDS[name]
            lazy[name] = Lazy.of(codec, d) if there else Lazy(codec, None, {} if value is None else value)

        m.fsid, m.epoch, *stamps = d.unpack(_HEAD)
        m.created, m.modified = Utime(*stamps[:2]), Utime(*stamps[2:])
        m.pools = {d.s64(): PgPool.decode(d) for _ in range(d.count(14))}
        field("pool_names")
        m.pool_max = d.s32()
        m.flags = d.u32()
        m.max_osd = d.s32()
        if v >= 5:
            field("osd_state")
        else:
            field("osd_state", False, tuple(d.blob()))
        field("osd_weight")
        m.client_addrs = Column.decode(ADDRS, d)
        field("pg_temp")
        field("primary_temp")
        field("primary_affinity", v >= 2, ())
        m._crush_raw = d.blob()
        field("erasure_code_profiles", v >= 3)
        field("pg_upmap", v >= 4)
        field("pg_upmap_items", v >= 4)
        m.crush_version = d.u32() if v >= 6 else 1
        field("new_removed_snaps", v >= 7)
        field("new_purged_snaps", v >= 7)
        m.last_up_change = Utime.decode(d) if v >= 9 else Utime()
        m.last_in_change = Utime.decode(d) if v >= 9 else Utime()
        field("pg_upmap_primaries", v >= 10)
        if not (len(m.osd_state) == len(m.osd_weight) == len(m.client_addrs) == max(m.max_osd, 0)):
            raise DecodeError(f"osdmap: {m.max_osd} OSDs, but {len(m.osd_state)} states")
        if m.primary_affinity and len(m.primary_affinity) != m.max_osd:
            raise DecodeError(f"osdmap: {m.max_osd} OSDs, but {len(m.primary_affinity)} affinities")
        m._crush = None
        m._crush_features = None
        m._acting, m._intervals = {}, {}
        m._index_pools()
        return m

    def encode(self, features: int | None = None) -> bytes:
        """As a monitor writes it for these features (:mod:`pyrbd.osdmap.features`); by default for those that the map
        was written for, which gives the same bytes. Fields that a newer release added and this one does not know
        are not in it.

        Raises:
            ValueError: an encoding from before luminous is asked for.
            DecodeError: a part that was not looked at yet is damaged.
        """
        features = self.encode_features if features is None else features
        section = self.section
        e = Encoder()
        outer = start_map(e, features)
        v = 10
        if not have(features, SERVER_MIMIC):
            v = 6
        elif not have(features, SERVER_NAUTILUS):
            v = 7
        elif not have(features, SERVER_REEF):
            v = 9
        mark = e.start(v, 1)
        e.pack(_HEAD, self.fsid, self.epoch, self.created.sec, self.created.nsec, self.modified.sec, self.modified.nsec)
        e.u32(len(self.pools))
        for pool in sorted(self.pools):
            e.s64(pool)
            self.pools[pool].encode(e, features)
        e.raw(self._field("pool_names"))
        e.s32(self.pool_max)
        e.u32(self.normalized_flags)
        e.s32(self.max_osd)
        e.raw(self._field("osd_state"))
        e.raw(self._field("osd_weight"))
        e.raw(self.client_addrs.encode(features))
        e.raw(self._field("pg_temp"))
        e.raw(self._field("primary_temp"))
        e.raw(self._field("primary_affinity"))
        e.blob(self._encode_crush(features))
        e.raw(self._field("erasure_code_profiles"))
        e.raw(self._field("pg_upmap"))
        e.raw(self._field("pg_upmap_items"))
        e.u32(self.crush_version)
        if v >= 7:
            e.raw(self._field("new_removed_snaps"))
            e.raw(self._field("new_purged_snaps"))
        if v >= 9:
            self.last_up_change.encode(e)
            self.last_in_change.encode(e)
        if v >= 10:
            e.raw(self._field("pg_upmap_primaries"))
        e.finish(mark)
        section.encode(e, features)
        crc = finish_map(e, outer)
        if features == self.encode_features:
            self._crc = crc
        return bytes(e.buf)

    def _encode_crush(self, features: int) -> bytes:
        known = self.encode_features if self._crush_features is None else self._crush_features
        if known != features:
            self._crush_raw, self._crush_features = self.crush.encode(features), features
        return self._crush_raw

    def _field(self, name: str) -> bytes:
        return self._lazy[name].encoded()

    @property
    def crc(self) -> int:
        """The checksum of the map's encoding, which the monitors have as well; computed when it is asked for."""
        if self._crc is None:
            self.encode()
        assert self._crc is not None
        return self._crc

    @property
    def encode_features(self) -> int:
        """What the monitors encode this map with, told by the incremental that made it or by the encoding that it
        came in."""
        if self._features is None:
            section = self.section
            features = encoding_features(section.require_osd_release)
            v = self.client_version
            for since, bit in ((7, MIMIC_BIT), (9, NAUTILUS_BIT), (10, REEF_BIT)):
                features = features | bit if v >= since else features & ~bit
            xinfos = section.osd_xinfo.variant
            if xinfos is not None:
                features = features | OCTOPUS_BIT if xinfos == 4 else features & ~OCTOPUS_BIT
            versions = [p.struct_v for p in self.pools.values() if p.struct_v]
            if versions:
                features = features | TENTACLE_BIT if max(versions) >= 31 else features & ~TENTACLE_BIT
            self._features = features
        return self._features

    @property
    def normalized_flags(self) -> int:
        """The flags as daemons have them in memory: with what `require_osd_release` implies."""
        return normalized_flags(self.flags, self.section.require_osd_release)

    def replace(self, **changes: Any) -> OSDMap:
        """A map with other values for some fields of either section, by Ceph's names, and `crush_data`, the encoded
        CRUSH map.

        Raises:
            TypeError: no such field.
        """
        m = self._successor()
        m._features = self.encode_features
        section = self.section.copy()
        for name, value in changes.items():
            if name in LAZY_FIELDS:
                m._set(name, value)
            elif name == "crush_data":
                m._crush_raw, m._crush_features, m._crush = value, -1, None
            elif name in OSDMap.__slots__ and not name.startswith("_"):
                setattr(m, name, value)
            elif name in OsdSection.__slots__ and not name.startswith("_"):
                setattr(section, name, value)
            else:
                raise TypeError(f"OSDMap has no field {name!r}")
        m._section = section
        m._index_pools()
        return m

    def _successor(self) -> OSDMap:
        """A map with the same values, to be changed before anybody else sees it."""
        m = OSDMap()
        for name in _SHARED:
            setattr(m, name, getattr(self, name))
        if m._crush_features is None:
            m._crush_features = self.encode_features
        m._lazy = dict(self._lazy)
        m._crc = None
        m._acting, m._intervals = {}, {}
        return m

    def _set(self, name: str, value: Any) -> None:
        """Sets a field of a map that is being made."""
        self._lazy[name] = Lazy(LAZY_FIELDS[name], None, value)

    def _index_pools(self) -> None:
        self.any_pool_full = any(p.is_full for p in self.pools.values())
        self.any_pool_special = any(p.has_tier or p.flags & FLAG_EIO for p in self.pools.values())
        self.pool_ids = {name: i for i, name in self.pool_names.items()}

    def apply(self, inc: Incremental) -> OSDMap:
        """The map of the next epoch.

        Raises:
            DecodeError: the incremental is of another cluster, does not follow this epoch, or does not fit it.
        """
        if inc.fsid != self.fsid and inc.epoch != 1:
            raise DecodeError("osdmap incremental of another cluster")
        if inc.epoch != self.epoch + 1:
            raise DecodeError(f"osdmap incremental {inc.epoch} does not follow {self.epoch}")
        if inc.fullmap:
            full = OSDMap.decode_full(inc.fullmap)
            if (full.fsid, full.epoch) != (inc.fsid, inc.epoch):
                raise DecodeError(f"osdmap incremental {inc.epoch} with the full map of {full.epoch}")
            full._features = inc.effective_features
            return full
        if inc.new_max_osd > MAX_OSDS:
            raise DecodeError(f"osdmap incremental {inc.epoch} with {inc.new_max_osd} OSDs")
        return apply_incremental(self, inc)

    # ------------------------------------------------------------ OSDs and pools

    @property
    def crush(self) -> CrushMap:
        """The CRUSH map; decoded when first used. Raises DecodeError if it is damaged."""
        if self._crush is None:
            self._crush = CrushMap.decode(self._crush_raw)
        return self._crush

    @property
    def crush_data(self) -> bytes:
        """The CRUSH map, encoded."""
        return self._crush_raw

    @property
    def section(self) -> OsdSection:
        """The section for OSDs. Raises DecodeError if it is damaged."""
        if self._section is None:
            version, data = self._osd_section
            self._section = OsdSection.decode(version, Decoder(data))
        return self._section

    @property
    def blocklist(self) -> Blocklist:
        """The clients that OSDs do not serve."""
        return self.section.blocklist

    @property
    def min_compat_client(self) -> int:
        """The release (12 is luminous, 13 mimic, ...) of the oldest clients that the cluster has to expect, as far as
        it is told by `require_min_compat_client` and by what no client before reef understands."""
        return max(self.section.require_min_compat_client, RELEASE_REEF if self.pg_upmap_primaries else 0)

    def osd_addrs(self, osd: int) -> EntityAddrVec:
        """Where clients reach an OSD; no addresses if it is not known."""
        return self.client_addrs[osd] if 0 <= osd < self.max_osd else EntityAddrVec()

    def lookup_pool(self, name: str) -> int | None:
        return self.pool_ids.get(name)

    # ------------------------------------------------------------ placement, kept

    def pg_acting_primary(self, pool: int, seed: int) -> tuple[int, tuple[int, ...]]:
        """(primary or -1, acting set) of a placement group; kept after the first time."""
        key = (pool, seed)
        found = self._acting.get(key)
        if found is None:
            _, _, acting, primary = self.pg_to_up_acting(pool, seed)
            found = self._acting[key] = (primary, acting)
        return found

    def pg_interval(self, pool: int, seed: int) -> tuple[object, ...]:
        """A value that changes whenever a placement group begins a new interval
        (`src/osd/osd_types.cc` PastIntervals::is_new_interval), and for a split or merge of another
        group of the pool; kept after the first time."""
        key = (pool, seed)
        found = self._intervals.get(key)
        if found is None:
            pi = self.pools[pool]
            mapping = self.pg_to_up_acting(pool, seed)
            found = self._intervals[key] = (
                seed,
                *mapping,
                pi.size,
                pi.min_size,
                pi.pg_num,
                pi.pg_num_pending,
            )
        return found


_SHARED = tuple(
    name
    for name in OSDMap.__slots__
    if name not in LAZY_FIELDS and name not in ("_acting", "_crc", "_features", "_intervals", "_lazy")
)
"""What a map and the next have in common until something changes it."""
