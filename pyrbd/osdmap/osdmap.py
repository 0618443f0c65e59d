"""OSDMap: which OSDs there are, and where each object belongs (`src/osd/OSDMap.cc`).

A map is a value: a newer epoch is another object, made by :meth:`OSDMap.apply`. Of the
encoding the client's section is decoded; of the section for OSDs, which the crc covers as
well, only what :mod:`.blocklist` takes. After an incremental the crc of the whole map is not checked, since
that would need to encode it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..crc32c import MASK, standard_crc32c
from ..denc import Decoder, MapOf, Vector, s32, s64, string, u32
from ..errors import DecodeError
from ..msgr.types import EntityAddrVec, PgId, Utime
from . import blocklist
from .blocklist import Blocklist, OsdSection
from .crush import CRUSH_ITEM_NONE, CrushMap
from .hash import crush_hash32_2
from .pool import FLAG_EIO, PgPool

DEFAULT_PRIMARY_AFFINITY = 0x10000

OSD_EXISTS = 1
OSD_UP = 2

RELEASE_REEF = 18

MAX_OSDS = 100_000
"""Ten times what the monitors allow unless told otherwise (`mon_max_osd`)."""

_vec_s32 = Vector(s32)
_vec_u32 = Vector(u32)
_vec_pg = Vector(PgId)
_pg_to_osds = MapOf(PgId, _vec_s32)
_pg_to_osd = MapOf(PgId, s32)
_profiles = MapOf(string, MapOf(string, string))


def _decode_upmap_items(d: Decoder) -> dict[PgId, tuple[tuple[int, int], ...]]:
    return {PgId.decode(d): tuple([(d.s32(), d.s32()) for _ in range(d.count(8))]) for _ in range(d.count(21))}


def _sections(data: bytes | memoryview, what: str, newest: int) -> tuple[int, Decoder, int, Decoder]:
    """Opens the envelopes, checks the crc; gives version and contents of the client's section
    and of that for OSDs."""
    d = Decoder(data)
    struct_v, body = d.envelope(8, what)
    if struct_v < 7:
        raise DecodeError(f"{what}: version {struct_v} is older than any release that is supported")
    client_v, client = body.envelope(newest, what)
    osd_v, osds = body.envelope(255, f"{what}, the section for OSDs")
    if struct_v >= 8:
        view, at = d.buf, body.pos
        expected = body.u32()
        # all bytes but those of the crc itself
        crc = standard_crc32c(view[body.pos : d.pos], standard_crc32c(view[:at], 0)) ^ MASK
        if crc != expected:
            raise DecodeError(f"{what}: crc {crc:#010x}, {expected:#010x} expected", hint="a damaged map")
    return client_v, client, osd_v, osds


class Incremental:
    """What changes from one epoch to the next (OSDMap::Incremental, the client's section)."""

    __slots__ = (
        "blocklist",
        "crush",
        "epoch",
        "fsid",
        "fullmap",
        "modified",
        "new_client_addrs",
        "new_flags",
        "new_max_osd",
        "new_pg_temp",
        "new_pg_upmap",
        "new_pg_upmap_items",
        "new_pg_upmap_primary",
        "new_pool_max",
        "new_pool_names",
        "new_pools",
        "new_primary_affinity",
        "new_primary_temp",
        "new_profiles",
        "new_state",
        "new_weight",
        "old_pg_upmap",
        "old_pg_upmap_items",
        "old_pg_upmap_primary",
        "old_pools",
        "old_profiles",
    )

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Incremental:
        """Raises DecodeError for what is damaged or from before nautilus."""
        v, d, osd_v, osds = _sections(data, "osdmap incremental", 9)
        i = cls()
        i.fsid = d.raw(16)
        i.epoch = d.u32()
        i.modified = Utime.decode(d)
        i.new_pool_max = d.s64()
        i.new_flags = d.s32()
        i.fullmap = d.blob()
        i.crush = d.blob()
        i.new_max_osd = d.s32()
        i.new_pools = {d.s64(): PgPool.decode(d) for _ in range(d.count(14))}
        i.new_pool_names = MapOf(s64, string).decode(d)
        i.old_pools = Vector(s64).decode(d)
        i.new_client_addrs = MapOf(s32, EntityAddrVec).decode(d)
        i.new_state = MapOf(s32, u32).decode(d) if v >= 5 else {d.s32(): d.u8() for _ in range(d.count(5))}
        i.new_weight = MapOf(s32, u32).decode(d)
        i.new_pg_temp = _pg_to_osds.decode(d)
        i.new_primary_temp = _pg_to_osd.decode(d)
        i.new_primary_affinity = MapOf(s32, u32).decode(d)
        i.new_profiles = _profiles.decode(d)
        i.old_profiles = Vector(string).decode(d)
        i.new_pg_upmap = _pg_to_osds.decode(d) if v >= 4 else {}
        i.old_pg_upmap = _vec_pg.decode(d) if v >= 4 else ()
        i.new_pg_upmap_items = _decode_upmap_items(d) if v >= 4 else {}
        i.old_pg_upmap_items = _vec_pg.decode(d) if v >= 4 else ()
        i.new_pg_upmap_primary = {}
        i.old_pg_upmap_primary = ()
        if v >= 9:
            for _ in range(2):  # new_removed_snaps, new_purged_snaps
                _skip_snap_intervals(d)
            d.skip(16)  # last_up_change, last_in_change
            i.new_pg_upmap_primary = _pg_to_osd.decode(d)
            i.old_pg_upmap_primary = _vec_pg.decode(d)
        i.blocklist = blocklist.decode_incremental(osd_v, osds)
        return i

    blocklist: blocklist.Changes
    fsid: bytes
    epoch: int
    modified: Utime
    new_pool_max: int
    new_flags: int
    fullmap: bytes
    crush: bytes
    new_max_osd: int
    new_pools: dict[int, PgPool]
    new_pool_names: dict[int, str]
    old_pools: tuple[int, ...]
    new_client_addrs: dict[int, EntityAddrVec]
    new_state: dict[int, int]
    new_weight: dict[int, int]
    new_pg_temp: dict[PgId, tuple[int, ...]]
    new_primary_temp: dict[PgId, int]
    new_primary_affinity: dict[int, int]
    new_profiles: dict[str, dict[str, str]]
    old_profiles: tuple[str, ...]
    new_pg_upmap: dict[PgId, tuple[int, ...]]
    old_pg_upmap: tuple[PgId, ...]
    new_pg_upmap_items: dict[PgId, tuple[tuple[int, int], ...]]
    old_pg_upmap_items: tuple[PgId, ...]
    new_pg_upmap_primary: dict[PgId, int]
    old_pg_upmap_primary: tuple[PgId, ...]


def _skip_snap_intervals(d: Decoder) -> None:
    for _ in range(d.count(12)):
        d.skip(8)
        d.skip(16 * d.count(16))


class OSDMap:
    """One epoch. Mappings are computed when they are asked for, and kept."""

    # CEPH_OSDMAP_*
    NEARFULL = 1 << 0
    FULL = 1 << 1
    PAUSERD = 1 << 2
    PAUSEWR = 1 << 3
    PAUSE_MASK = FULL | PAUSERD | PAUSEWR

    __slots__ = (
        "_acting",
        "_addrs",
        "_crush",
        "_crush_raw",
        "_for_osds",
        "_intervals",
        "_osd_section",
        "any_pool_full",
        "any_pool_special",
        "created",
        "epoch",
        "erasure_code_profiles",
        "flags",
        "fsid",
        "max_osd",
        "modified",
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
    pg_temp: Mapping[PgId, tuple[int, ...]]
    primary_temp: Mapping[PgId, int]
    primary_affinity: tuple[int, ...]
    erasure_code_profiles: Mapping[str, Mapping[str, str]]
    pg_upmap: Mapping[PgId, tuple[int, ...]]
    pg_upmap_items: Mapping[PgId, tuple[tuple[int, int], ...]]
    pg_upmap_primaries: Mapping[PgId, int]
    pool_ids: dict[str, int]
    any_pool_full: bool
    any_pool_special: bool
    """Whether there is a pool with a cache tier, or one that fails all requests."""
    _addrs: tuple[EntityAddrVec, ...]
    _for_osds: OsdSection | None
    _osd_section: tuple[int, bytes]
    _crush_raw: bytes
    _crush: CrushMap | None
    _acting: dict[tuple[int, int], tuple[int, tuple[int, ...]]]
    _intervals: dict[tuple[int, int], tuple[object, ...]]

    def __repr__(self) -> str:
        return f"<OSDMap epoch={self.epoch} osds={self.max_osd} pools={len(self.pools)}>"

    @classmethod
    def decode_full(cls, data: bytes | memoryview) -> OSDMap:
        """A full map, as `ceph osd getmap` writes it.

        Raises:
            DecodeError: damaged, truncated, or from before nautilus.
        """
        v, d, osd_v, osds = _sections(data, "osdmap", 10)
        m = cls()
        m._for_osds = None
        m._osd_section = (osd_v, bytes(osds.buf[osds.pos : osds.end]))
        m.fsid = d.raw(16)
        m.epoch = d.u32()
        m.created = Utime.decode(d)
        m.modified = Utime.decode(d)
        m.pools = {d.s64(): PgPool.decode(d) for _ in range(d.count(14))}
        m.pool_names = MapOf(s64, string).decode(d)
        m.pool_max = d.s32()
        m.flags = d.u32()
        m.max_osd = d.s32()
        m.osd_state = _vec_u32.decode(d) if v >= 5 else tuple(d.blob())
        m.osd_weight = _vec_u32.decode(d)
        m._addrs = Vector(EntityAddrVec).decode(d)
        m.pg_temp = _pg_to_osds.decode(d)
        m.primary_temp = _pg_to_osd.decode(d)
        m.primary_affinity = _vec_u32.decode(d) if v >= 2 else ()
        m._crush_raw = d.blob()
        m.erasure_code_profiles = _profiles.decode(d) if v >= 3 else {}
        m.pg_upmap = _pg_to_osds.decode(d) if v >= 4 else {}
        m.pg_upmap_items = _decode_upmap_items(d) if v >= 4 else {}
        m.pg_upmap_primaries = {}
        if v >= 10:
            d.skip(4)  # crush_version
            for _ in range(2):  # new_removed_snaps, new_purged_snaps
                _skip_snap_intervals(d)
            d.skip(16)  # last_up_change, last_in_change
            m.pg_upmap_primaries = _pg_to_osd.decode(d)
        if not (len(m.osd_state) == len(m.osd_weight) == len(m._addrs) == max(m.max_osd, 0)):
            raise DecodeError(f"osdmap: {m.max_osd} OSDs, but {len(m.osd_state)} states")
        if m.primary_affinity and len(m.primary_affinity) != m.max_osd:
            raise DecodeError(f"osdmap: {m.max_osd} OSDs, but {len(m.primary_affinity)} affinities")
        m._crush = None
        m._finish()
        return m

    def _finish(self) -> None:
        self._acting = {}
        self._intervals = {}
        self.any_pool_full = any(p.is_full for p in self.pools.values())
        self.any_pool_special = any(p.has_tier or p.flags & FLAG_EIO for p in self.pools.values())
        self.pool_ids = {name: i for i, name in self.pool_names.items()}

    @property
    def blocklist(self) -> Blocklist:
        """The clients that OSDs do not serve."""
        return self._section_for_osds().blocklist

    @property
    def min_compat_client(self) -> int:
        """The release (12 is luminous, 13 mimic, ...) of the oldest clients that the cluster has to expect, as far as
        it is told by `require_min_compat_client` and by what no client before reef understands."""
        return max(self._section_for_osds().require_min_compat_client, RELEASE_REEF if self.pg_upmap_primaries else 0)

    def _section_for_osds(self) -> OsdSection:
        """Decoded when it is first asked for."""
        if self._for_osds is None:
            version, section = self._osd_section
            self._for_osds = blocklist.decode_full(version, Decoder(section))
        return self._for_osds

    def apply(self, inc: Incremental) -> OSDMap:
        """The map of the next epoch.

        Raises:
            DecodeError: the incremental is of another cluster, does not follow this epoch, or does not fit it.
        """
        if inc.fsid != self.fsid:
            raise DecodeError("osdmap incremental of another cluster")
        if inc.epoch != self.epoch + 1:
            raise DecodeError(f"osdmap incremental {inc.epoch} does not follow {self.epoch}")
        if inc.fullmap:
            full = OSDMap.decode_full(inc.fullmap)
            if (full.fsid, full.epoch) != (inc.fsid, inc.epoch):
                raise DecodeError(f"osdmap incremental {inc.epoch} with the full map of {full.epoch}")
            return full
        if inc.new_max_osd > MAX_OSDS:
            raise DecodeError(f"osdmap incremental {inc.epoch} with {inc.new_max_osd} OSDs")
        m = OSDMap()
        m.fsid, m.created = self.fsid, self.created
        m._osd_section = self._osd_section
        changed = any(inc.blocklist)
        m._for_osds = inc.blocklist.apply(self._section_for_osds()) if changed else self._for_osds
        m.epoch, m.modified = inc.epoch, inc.modified
        m.flags = inc.new_flags if inc.new_flags >= 0 else self.flags
        m.pool_max = inc.new_pool_max if inc.new_pool_max != -1 else self.pool_max
        m.max_osd = n = inc.new_max_osd if inc.new_max_osd >= 0 else self.max_osd
        m.pools = _changed(self.pools, inc.new_pools, inc.old_pools)
        m.pool_names = _changed(self.pool_names, inc.new_pool_names, inc.old_pools)
        state, weight = _resized(self.osd_state, n, 0), _resized(self.osd_weight, n, 0)
        addrs: list[EntityAddrVec] = _resized(self._addrs, n, EntityAddrVec())
        affinity = list(self.primary_affinity)
        if affinity or inc.new_primary_affinity:
            affinity = _resized(affinity, n, DEFAULT_PRIMARY_AFFINITY)
        touched = (inc.new_weight, inc.new_primary_affinity, inc.new_state, inc.new_client_addrs)
        if any(not 0 <= osd < n for changes in touched for osd in changes):
            raise DecodeError(f"osdmap incremental {inc.epoch} changes an OSD beyond the {n} that there are")
        for osd, value in inc.new_weight.items():
            weight[osd] = value
            if value:
                state[osd] &= ~((1 << 2) | (1 << 3))  # autoout, new
        for osd, value in inc.new_primary_affinity.items():
            affinity[osd] = value
        for osd, value in inc.new_state.items():
            change = value or OSD_UP
            if state[osd] & OSD_EXISTS and change & OSD_EXISTS:  # destroyed
                state[osd] = 0
                addrs[osd] = EntityAddrVec()
                if affinity:
                    affinity[osd] = DEFAULT_PRIMARY_AFFINITY
            else:
                state[osd] ^= change
        for osd, addr in inc.new_client_addrs.items():
            state[osd] = (state[osd] | OSD_EXISTS | OSD_UP) & ~(1 << 8)  # not "stop"
            addrs[osd] = addr
        m.osd_state, m.osd_weight, m._addrs = tuple(state), tuple(weight), tuple(addrs)
        m.primary_affinity = tuple(affinity)
        gone = [pg for pg, osds in inc.new_pg_temp.items() if not osds]
        m.pg_temp = _changed(self.pg_temp, inc.new_pg_temp, gone)
        gone = [pg for pg, osd in inc.new_primary_temp.items() if osd == -1]
        m.primary_temp = _changed(self.primary_temp, inc.new_primary_temp, gone)
        m.pg_upmap = _changed(self.pg_upmap, inc.new_pg_upmap, inc.old_pg_upmap)
        m.pg_upmap_items = _changed(self.pg_upmap_items, inc.new_pg_upmap_items, inc.old_pg_upmap_items)
        m.pg_upmap_primaries = _changed(self.pg_upmap_primaries, inc.new_pg_upmap_primary, inc.old_pg_upmap_primary)
        m.erasure_code_profiles = {
            k: v for k, v in self.erasure_code_profiles.items() if k not in inc.old_profiles
        } | inc.new_profiles
        m._crush_raw = inc.crush or self._crush_raw
        m._crush = None if inc.crush else self._crush
        m._finish()
        return m

    # ------------------------------------------------------------ OSDs and pools

    @property
    def crush(self) -> CrushMap:
        """The CRUSH map; decoded when first used. Raises DecodeError if it is damaged."""
        if self._crush is None:
            self._crush = CrushMap.decode(self._crush_raw)
        return self._crush

    def exists(self, osd: int) -> bool:
        return 0 <= osd < self.max_osd and bool(self.osd_state[osd] & OSD_EXISTS)

    def is_up(self, osd: int) -> bool:
        return self.exists(osd) and bool(self.osd_state[osd] & OSD_UP)

    def osd_addrs(self, osd: int) -> EntityAddrVec:
        """Where clients reach an OSD; no addresses if it is not known."""
        return self._addrs[osd] if 0 <= osd < self.max_osd else EntityAddrVec()

    def lookup_pool(self, name: str) -> int | None:
        return self.pool_ids.get(name)

    # ------------------------------------------------------------ placement

    def object_to_raw_hash(self, pool: int, name: str | bytes, key: str = "", nspace: str = "") -> int:
        """The 32-bit hash that decides an object's placement group; the locator key, if
        there is one, stands for the name.

        Raises:
            KeyError: no such pool.
        """
        text = key or name
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        return self.pools[pool].hash_key(raw, nspace.encode("utf-8", "surrogateescape"))

    def raw_hash_to_pg(self, pool: int, ps: int) -> PgId:
        return PgId(pool, self.pools[pool].raw_pg_to_pg(ps))

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

    def pg_to_up_acting(self, pool: int, seed: int) -> tuple[tuple[int, ...], int, tuple[int, ...], int]:
        """(up, up primary, acting, acting primary), as `ceph pg map` has them."""
        pi = self.pools[pool]
        pg = PgId(pool, seed)
        pps = pi.raw_pg_to_pps(pool, seed)
        raw = self._existing_osds(pi, pool, pps)
        raw = self._apply_upmap(pg, raw)
        up = self._only_up(pi, raw)
        up_primary = _first_osd(up)
        up, up_primary = self._apply_primary_affinity(pps, pi, up, up_primary)
        acting = self._only_up(pi, list(self.pg_temp.get(pg, ())))
        primary = self.primary_temp.get(pg, -1)
        if acting:
            if primary == -1:
                primary = _first_osd(acting)
        else:
            acting = up
            if primary == -1:
                primary = up_primary
        return tuple(up), up_primary, tuple(acting), primary

    def pg_to_raw_osds(self, pool: int, seed: int) -> tuple[tuple[int, ...], int]:
        """(the OSDs that CRUSH finds, as far as they exist; the first of them or -1): before exceptions (pg_upmap*,
        pg_temp), and without regard to which OSDs are up."""
        pi = self.pools[pool]
        raw = self._existing_osds(pi, pool, pi.raw_pg_to_pps(pool, seed))
        return tuple(raw), _first_osd(raw)

    def _existing_osds(self, pi: PgPool, pool: int, pps: int) -> list[int]:
        """OSDMap::_pg_to_raw_osds."""
        try:
            raw = self.crush.do_rule(pi.crush_rule, pps, pi.size, self.osd_weight, self.crush.choose_args_for(pool))
        except DecodeError:
            raw = []  # a rule without an end finds no OSD
        if pi.can_shift_osds:
            return [o for o in raw if self.exists(o)]
        return [o if self.exists(o) else CRUSH_ITEM_NONE for o in raw]

    def _only_up(self, pool: PgPool, osds: list[int]) -> list[int]:
        if pool.can_shift_osds:
            return [o for o in osds if self.is_up(o)]
        return [o if self.is_up(o) else CRUSH_ITEM_NONE for o in osds]

    def _is_out(self, osd: int) -> bool:
        return osd != CRUSH_ITEM_NONE and 0 <= osd < self.max_osd and self.osd_weight[osd] == 0

    def _apply_upmap(self, pg: PgId, raw: list[int]) -> list[int]:
        """OSDMap::_apply_upmap: exceptions that the balancer or an operator made."""
        explicit = self.pg_upmap.get(pg)
        if explicit is not None:
            if any(self._is_out(o) for o in explicit):
                return raw
            raw = list(explicit)
        for source, target in self.pg_upmap_items.get(pg, ()):
            if target in raw or self._is_out(target):
                continue
            if source in raw:
                raw[raw.index(source)] = target
        primary = self.pg_upmap_primaries.get(pg)
        if (
            primary is not None
            and primary != CRUSH_ITEM_NONE
            and 0 <= primary < self.max_osd
            and self.osd_weight[primary]
            and primary in raw[1:]
        ):
            i = raw.index(primary, 1)
            raw[0], raw[i] = raw[i], raw[0]
        return raw

    def _apply_primary_affinity(self, seed: int, pool: PgPool, osds: list[int], primary: int) -> tuple[list[int], int]:
        affinity = self.primary_affinity
        if not affinity or all(o == CRUSH_ITEM_NONE or affinity[o] == DEFAULT_PRIMARY_AFFINITY for o in osds):
            return osds, primary
        pos = -1
        for i, o in enumerate(osds):
            if o == CRUSH_ITEM_NONE:
                continue
            a = affinity[o]
            if a < DEFAULT_PRIMARY_AFFINITY and crush_hash32_2(seed, o) >> 16 >= a:
                if pos < 0:
                    pos = i  # if nobody else wants to
            else:
                pos = i
                break
        if pos < 0:
            return osds, primary
        primary = osds[pos]
        if pool.can_shift_osds and pos > 0:
            osds = [primary, *osds[:pos], *osds[pos + 1 :]]
        return osds, primary


def _first_osd(osds: list[int]) -> int:
    return next((o for o in osds if o != CRUSH_ITEM_NONE), -1)


def _resized(values: Any, n: int, fill: Any) -> list[Any]:
    return [*values[:n], *([fill] * (n - len(values)))]


def _changed(old: Mapping[Any, Any], new: Mapping[Any, Any], gone: Any) -> Mapping[Any, Any]:
    """`old` with the changes; the same object if there are none."""
    if not new and not gone:
        return old
    merged = {**old, **new}
    for k in gone:
        merged.pop(k, None)
    return merged
