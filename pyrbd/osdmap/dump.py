"""A map as `osdmaptool --print`, `osdmaptool --dump json` and `ceph osd dump` show it (`src/osd/OSDMap.cc`,
OSDMap::print and OSDMap::dump; `src/osd/osd_types.cc`).

Releases differ in what they show. A map is shown as the release does that writes maps like it: see
:func:`writing_release`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..msgr.types import EntityAddr, EntityAddrVec, PgId, Utime
from .addrs import addr_order
from .blocklist import entries
from .compat import min_compat_client
from .features import (
    RELEASE_NAUTILUS,
    RELEASE_OCTOPUS,
    RELEASE_REEF,
    RELEASE_TENTACLE,
    release_name,
)
from .formatter import blob_hash, real, to_json, unordered
from .osdmap import OSDMap
from .placement import DEFAULT_PRIMARY_AFFINITY
from .pool import AUTOSCALE_OFF, AUTOSCALE_UNKNOWN, CACHE_MODE_NAMES, FLAG_NAMES, TYPE_ERASURE, TYPE_REPLICATED, PgPool
from .pool_types import (
    HIT_SET_BLOOM,
    HIT_SET_NONE,
    HIT_SET_TYPE_NAMES,
    POOL_OPT_NAMES,
    HitSetParams,
    IntervalSet,
    PgMergeMeta,
)
from .read_balance import ReadBalance, read_balance

RELEASE_PACIFIC = 16
RELEASE_QUINCY = 17
RELEASE_SQUID = 19

FLAGS = {  # CEPH_OSDMAP_*, in the order in which they are named
    1 << 0: "nearfull",
    1 << 1: "full",
    1 << 2: "pauserd",
    1 << 3: "pausewr",
    1 << 4: "pauserec",
    1 << 5: "noup",
    1 << 6: "nodown",
    1 << 7: "noout",
    1 << 8: "noin",
    1 << 9: "nobackfill",
    1 << 14: "norebalance",
    1 << 10: "norecover",
    1 << 11: "noscrub",
    1 << 12: "nodeep-scrub",
    1 << 13: "notieragent",
    1 << 21: "nosnaptrim",
    1 << 15: "sortbitwise",
    1 << 16: "require_jewel_osds",
    1 << 17: "require_kraken_osds",
    1 << 18: "require_luminous_osds",
    1 << 19: "recovery_deletes",
    1 << 20: "purged_snapdirs",
    1 << 22: "pglog_hardlimit",
    1 << 23: "noautoscale",
}

STATES = (
    "exists",
    "up",
    "autoout",
    "new",
    "full",
    "nearfull",
    "backfillfull",
    "destroyed",
    "noup",
    "nodown",
    "noin",
    "noout",
    "stop",
)
"""CEPH_OSD_*; a state's bit is its place."""

_AUTOSCALE = {0: "off", 1: "warn", 2: "on"}
_POOL_TYPES = {TYPE_REPLICATED: "replicated", TYPE_ERASURE: "erasure"}
_HASHES = {1: "linux", 2: "rjenkins"}
_ADDR_TYPES = {0: "none", 1: "v1", 2: "v2", 3: "any", 4: "cidr"}
_RELATIVE = 60 * 60 * 24 * 365 * 10
_NOSNAP = 2**64 - 2
_SNAPDIR = 2**64 - 1


def writing_release(m: OSDMap) -> int:
    """The release (14 is nautilus, 16 pacific, ...) of the monitors or tools that wrote a map, as far as can be told:
    what `require_osd_release` says, unless the encoding is that of newer ones. What pacific and quincy write is the
    same, and for a cluster of nautilus or older they all write what nautilus does."""
    told = m.section.require_osd_release
    least = RELEASE_NAUTILUS
    if m.section.osd_xinfo.variant == 4 or m.encode_features & 1 << 16:
        least = RELEASE_PACIFIC if told != RELEASE_OCTOPUS else RELEASE_OCTOPUS
    if m.client_version >= 10:
        least = RELEASE_REEF
    if any(p.struct_v >= 31 for p in m.pools.values()):
        least = RELEASE_TENTACLE
    return max(told, least) if told < 0x80 else least


_UNKNOWN_POOL_FLAGS = {  # by release: those with other names than "???" end before this bit, with exceptions
    RELEASE_NAUTILUS: (16, ()),
    RELEASE_OCTOPUS: (16, ()),
    RELEASE_PACIFIC: (18, (16,)),
    RELEASE_QUINCY: (18, ()),
    RELEASE_REEF: (19, ()),
    RELEASE_SQUID: (19, ()),
    RELEASE_TENTACLE: (20, ()),
}
_LAST_POOL_OPTS = {
    RELEASE_NAUTILUS: "pg_autoscale_bias",
    RELEASE_OCTOPUS: "read_lease_interval",
    RELEASE_PACIFIC: "pg_num_max",
    RELEASE_QUINCY: "pg_num_max",
    RELEASE_REEF: "pg_num_max",
    RELEASE_SQUID: "pg_num_max",
    RELEASE_TENTACLE: "pct_update_delay",
}


class Style:
    """What depends on the release of the tool: what it does not know yet it calls unknown, or does not show."""

    def __init__(self, release: int) -> None:
        self.release = release
        known = min(max(release, RELEASE_NAUTILUS), RELEASE_TENTACLE)
        self.iso_times = release >= RELEASE_OCTOPUS
        self.blocklist = "blocklist" if release >= RELEASE_PACIFIC else "blacklist"
        hidden = 1 << 23 if release < RELEASE_QUINCY else 0
        if release >= RELEASE_OCTOPUS:
            hidden |= 1 << 0 | 1 << 1
        self.flags = {bit: name for bit, name in FLAGS.items() if not bit & hidden}
        self.no_sockaddr = "(unrecognized address family 0)" if release >= RELEASE_OCTOPUS else ":"
        self.states = STATES if release >= RELEASE_OCTOPUS else STATES[:-1]
        end, others = _UNKNOWN_POOL_FLAGS[known]
        self.pool_flags = tuple("???" if i in others else name for i, name in enumerate(FLAG_NAMES[:end]))
        self.opts = frozenset(POOL_OPT_NAMES[: POOL_OPT_NAMES.index(_LAST_POOL_OPTS[known]) + 1])

    def stamp(self, t: Utime) -> str:
        """A time in the zone of this machine, as operator<< of utime_t gives it."""
        if t.sec < _RELATIVE:
            return f"{t.sec}.{t.nsec // 1000:06d}"
        local = time.localtime(t.sec)
        if not self.iso_times:
            return f"{time.strftime('%Y-%m-%d %H:%M:%S', local)}.{t.nsec // 1000:06d}"
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{t.nsec // 1000:06d}{time.strftime('%z', local)}"

    def release_name(self, release: int) -> str:
        return release_name(release) if release <= self.release else "unknown"

    def flag_names(self, flags: int) -> str:
        """OSDMap::get_flag_string."""
        return ",".join(name for bit, name in self.flags.items() if flags & bit)

    def state_names(self, state: int) -> list[str]:
        """OSDMap::calc_state_set."""
        names = self.states
        return sorted({names[i] if i < len(names) else "???" for i in range(32) if state >> i & 1})

    def pool_flag_names(self, flags: int) -> str:
        """pg_pool_t::get_flags_string."""
        names = self.pool_flags
        return ",".join(names[i] if i < len(names) else "???" for i in range(64) if flags >> i & 1)

    def sockaddr(self, a: EntityAddr) -> str:
        if not a.host:
            return self.no_sockaddr
        return f"[{a.host}]:{a.port}" if a.is_ipv6 else f"{a.host}:{a.port}"

    def addr(self, a: EntityAddr) -> str:
        """operator<< of entity_addr_t."""
        if a.type == EntityAddr.TYPE_NONE:
            return "-"
        prefix = "" if a.type == EntityAddr.TYPE_ANY else _ADDR_TYPES.get(a.type, "???") + ":"
        return f"{prefix}{self.sockaddr(a)}/{a.nonce}"

    def addrvec(self, v: EntityAddrVec) -> str:
        addrs = ",".join(map(self.addr, v.addrs))
        return addrs if len(v.addrs) <= 1 else f"[{addrs}]"

    def legacy(self, v: EntityAddrVec) -> str:
        """entity_addrvec_t::get_legacy_str."""
        blank = EntityAddr(0, 0, "", 0)
        a = next((a for a in v.addrs if a.type == EntityAddr.TYPE_LEGACY), v.addrs[0] if v.addrs else blank)
        return f"{self.sockaddr(a)}/{a.nonce}"

    def addrvec_value(self, v: EntityAddrVec) -> dict[str, Any]:
        return {
            "addrvec": [
                {"type": _ADDR_TYPES.get(a.type, "???"), "addr": self.sockaddr(a), "nonce": a.nonce} for a in v.addrs
            ]
        }

    def pool_opts(self, p: PgPool) -> list[tuple[str, str | int | float]]:
        """Those that have a name, by it."""
        return sorted((name, value) for name, value in p.opts.items() if name in self.opts)


def dump_json(m: OSDMap, release: int | None = None, pretty: bool = False) -> str:
    """The output of `osdmaptool --dump json`, or `json-pretty`."""
    style = Style(writing_release(m) if release is None else release)
    return to_json(_Dump(m, style).value(), pretty)


def dump_value(m: OSDMap, release: int | None = None) -> dict[str, Any]:
    """What :func:`dump_json` writes."""
    return _Dump(m, Style(writing_release(m) if release is None else release)).value()


def dump_plain(m: OSDMap, release: int | None = None) -> str:
    """The output of `osdmaptool --print`."""
    style = Style(writing_release(m) if release is None else release)
    return "".join(line + "\n" for line in _Print(m, style).lines())


def _uuid(raw: bytes) -> str:
    h = raw.hex()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))


def _snap(snapid: int) -> str:
    return "head" if snapid == _NOSNAP else "snapdir" if snapid == _SNAPDIR else f"{snapid:x}"


def _intervals(intervals: IntervalSet) -> str:
    return "[" + ",".join(f"{_snap(start)}~{_snap(length)}" for start, length in intervals) + "]"


def _list(values: Iterable[object]) -> str:
    return "[" + ",".join(map(str, values)) + "]"


def _sorted_pgs(entries: Mapping[PgId, Any]) -> list[tuple[PgId, Any]]:
    return sorted(entries.items(), key=lambda item: (item[0].pool & 0xFFFFFFFFFFFFFFFF, item[0].seed))


def _f32(x: float) -> float:
    import struct

    return float(struct.unpack("<f", struct.pack("<f", x))[0])


class _View:
    """What text and JSON have in common."""

    def __init__(self, m: OSDMap, style: Style) -> None:
        self.m = m
        self.s = m.section
        self.style = style
        self.flags = m.normalized_flags
        self.cluster_snapshot = self.s.cluster_snapshot if self.s.cluster_snapshot_epoch == m.epoch else ""

    def is_in(self, osd: int) -> bool:
        return self.m.exists(osd) and self.m.osd_weight[osd] != 0

    def affinity(self, osd: int) -> int:
        return self.m.primary_affinity[osd] if self.m.primary_affinity else DEFAULT_PRIMARY_AFFINITY

    def blocklist(self) -> list[tuple[str, Utime]]:
        """In the order of a hash table, as the tools have it after they read the map."""
        stamped = entries(self.s.blocklist_stamps)
        hashes = [blob_hash(addr_order(key)) for key in sorted(self.s.blocklist_stamps, key=addr_order)]
        return [(self.style.addr(stamped[i][0]), stamped[i][1]) for i in unordered(hashes)]

    def ranges(self) -> list[tuple[str, Utime]]:
        return [(self.style.addr(a), t) for a, t in entries(self.s.range_blocklist_stamps)]

    def pool_name(self, pool: int) -> str:
        return self.m.pool_names.get(pool, "<unknown>")

    def read_balance(self, pool: int, pi: PgPool) -> ReadBalance | None:
        if self.style.release < RELEASE_REEF or pi.type != TYPE_REPLICATED:
            return None
        return read_balance(self.m, pool, self.style.release)


class _Print(_View):
    """OSDMap::print."""

    def lines(self) -> Iterable[str]:
        m, s, style = self.m, self.s, self.style
        yield f"epoch {m.epoch}"
        yield f"fsid {_uuid(m.fsid)}"
        yield f"created {style.stamp(m.created)}"
        yield f"modified {style.stamp(m.modified)}"
        yield f"flags {style.flag_names(self.flags)}"
        yield f"crush_version {m.crush_version}"
        yield f"full_ratio {real(s.full_ratio)}"
        yield f"backfillfull_ratio {real(s.backfillfull_ratio)}"
        yield f"nearfull_ratio {real(s.nearfull_ratio)}"
        if s.require_min_compat_client:
            yield f"require_min_compat_client {style.release_name(s.require_min_compat_client)}"
        yield f"min_compat_client {style.release_name(min_compat_client(m, style.release))}"
        if 0 < s.require_osd_release < 0x80:
            yield f"require_osd_release {style.release_name(s.require_osd_release)}"
        if style.release >= RELEASE_PACIFIC:
            yield f"stretch_mode_enabled {'true' if s.stretch_mode_enabled else 'false'}"
            if s.stretch_mode_enabled:
                yield f"stretch_bucket_count {s.stretch_bucket_count}"
                yield f"degraded_stretch_mode {s.degraded_stretch_mode}"
                yield f"recovering_stretch_mode {s.recovering_stretch_mode}"
                yield f"stretch_mode_bucket {s.stretch_mode_bucket}"
        if self.cluster_snapshot:
            yield f"cluster_snapshot {self.cluster_snapshot}"
        if s.allow_crimson and style.release >= RELEASE_REEF:
            yield "allow_crimson=true"
        yield ""
        for pool in sorted(m.pools):
            yield from self.pool(pool, m.pools[pool])
        yield ""
        yield f"max_osd {m.max_osd}"
        for osd in range(m.max_osd):
            if m.exists(osd):
                yield self.osd(osd)
        yield ""
        for pg, osds in _sorted_pgs(m.pg_upmap):
            yield f"pg_upmap {pg} {_list(osds)}"
        for pg, pairs in _sorted_pgs(m.pg_upmap_items):
            yield f"pg_upmap_items {pg} {_list(osd for pair in pairs for osd in pair)}"
        if style.release >= RELEASE_REEF:
            for pg, osd in _sorted_pgs(m.pg_upmap_primaries):
                yield f"pg_upmap_primary {pg} {osd}"
        for pg, osds in _sorted_pgs(m.pg_temp):
            yield f"pg_temp {pg} {_list(osds)}"
        for pg, osd in _sorted_pgs(m.primary_temp):
            yield f"primary_temp {pg} {osd}"
        for addr, until in self.blocklist():
            yield f"{style.blocklist} {addr} expires {style.stamp(until)}"
        if style.release >= RELEASE_PACIFIC:
            for addr, until in self.ranges():
                yield f"range blocklist {addr} expires {style.stamp(until)}"

    def pool(self, pool: int, pi: PgPool) -> Iterable[str]:
        balance = self.read_balance(pool, pi)
        score = f" read_balance_score {balance.acting_adj_score:.2f}" if balance is not None and balance.valid else ""
        yield f"pool {pool} '{self.pool_name(pool)}' {' '.join(self.pool_words(pi))}{score}"
        if balance is not None and balance.err_msg:
            yield f"{' Warning: ' if balance.valid else ' ERROR: '}{balance.err_msg}"
        for snapid in sorted(pi.snaps):
            snap = pi.snaps[snapid]
            yield f"\tsnap {_snap(snap.snapid)} '{snap.name}' {self.style.stamp(snap.stamp)}"
        if pi.removed_snaps:
            yield f"\tremoved_snaps {_intervals(pi.removed_snaps)}"
        if pool in self.s.removed_snaps_queue:
            yield f"\tremoved_snaps_queue {_intervals(self.s.removed_snaps_queue[pool])}"

    def pool_words(self, p: PgPool) -> Iterable[str]:
        """operator<< of pg_pool_t."""
        yield _POOL_TYPES.get(p.type, "???")
        if p.is_erasure and self.style.release >= RELEASE_OCTOPUS:
            yield f"profile {p.erasure_code_profile}"
        yield f"size {p.size} min_size {p.min_size} crush_rule {p.crush_rule}"
        yield f"object_hash {_HASHES.get(p.object_hash, 'unknown')} pg_num {p.pg_num} pgp_num {p.pgp_num}"
        if p.pg_num_target != p.pg_num:
            yield f"pg_num_target {p.pg_num_target}"
        if p.pgp_num_target != p.pgp_num:
            yield f"pgp_num_target {p.pgp_num_target}"
        if p.pg_num_pending != p.pg_num:
            yield f"pg_num_pending {p.pg_num_pending}"
        if p.pg_autoscale_mode != (AUTOSCALE_UNKNOWN if self.style.release >= RELEASE_OCTOPUS else AUTOSCALE_OFF):
            yield f"autoscale_mode {_AUTOSCALE.get(p.pg_autoscale_mode, '???')}"
        yield f"last_change {p.last_change}"
        resend = (p.last_force_op_resend, p.last_force_op_resend_prenautilus, p.last_force_op_resend_preluminous)
        if any(resend):
            yield f"lfor {'/'.join(map(str, resend))}"
        if p.auid:
            yield f"owner {p.auid}"
        if p.flags:
            yield f"flags {self.style.pool_flag_names(p.flags)}"
        if p.quota_max_bytes:
            yield f"max_bytes {p.quota_max_bytes}"
        if p.quota_max_objects:
            yield f"max_objects {p.quota_max_objects}"
        if p.tiers:
            yield f"tiers {','.join(map(str, sorted(p.tiers)))}"
        if p.tier_of >= 0:
            yield f"tier_of {p.tier_of}"
        if p.read_tier >= 0:
            yield f"read_tier {p.read_tier}"
        if p.write_tier >= 0:
            yield f"write_tier {p.write_tier}"
        if p.cache_mode:
            yield f"cache_mode {_cache_mode(p.cache_mode)}"
        if p.target_max_bytes:
            yield f"target_bytes {p.target_max_bytes}"
        if p.target_max_objects:
            yield f"target_objects {p.target_max_objects}"
        if p.hit_set_params.type != HIT_SET_NONE:
            yield f"hit_set {_hit_set(p.hit_set_params)} {p.hit_set_period}s x{p.hit_set_count}"
            yield f"decay_rate {p.hit_set_grade_decay_rate} search_last_n {p.hit_set_search_last_n}"
        if p.min_read_recency_for_promote:
            yield f"min_read_recency_for_promote {p.min_read_recency_for_promote}"
        if p.min_write_recency_for_promote:
            yield f"min_write_recency_for_promote {p.min_write_recency_for_promote}"
        yield f"stripe_width {p.stripe_width}"
        if p.expected_num_objects:
            yield f"expected_num_objects {p.expected_num_objects}"
        if p.fast_read:
            yield f"fast_read {p.fast_read}"
        for name, value in self.style.pool_opts(p):
            yield f"{name} {real(value) if isinstance(value, float) else value}"
        if p.application_metadata:
            yield f"application {','.join(sorted(p.application_metadata))}"

    def osd(self, osd: int) -> str:
        m, info = self.m, self.s.osd_info[osd]
        words = [f"osd.{osd} {'up  ' if m.is_up(osd) else 'down'} {'in ' if self.is_in(osd) else 'out'}"]
        words.append(f"weight {real(_f32(m.osd_weight[osd] / 0x10000))}")
        if self.affinity(osd) != DEFAULT_PRIMARY_AFFINITY:
            words.append(f"primary_affinity {real(_f32(self.affinity(osd) / 0x10000))}")
        words.append(f"up_from {info.up_from} up_thru {info.up_thru} down_at {info.down_at}")
        words.append(f"last_clean_interval [{info.last_clean_begin},{info.last_clean_end})")
        if info.lost_at:
            words.append(f"lost_at {info.lost_at}")
        words += [self.style.addrvec(m.client_addrs[osd]), self.style.addrvec(self.s.cluster_addrs[osd])]
        words.append(",".join(self.style.state_names(m.osd_state[osd])))
        uuid = self.s.osd_uuid[osd]
        return " ".join([*words, _uuid(uuid)] if any(uuid) else words)


class _Dump(_View):
    """OSDMap::dump."""

    def value(self) -> dict[str, Any]:
        m, s, style = self.m, self.s, self.style
        new = style.release
        set_flags = sorted({style.flags.get(1 << i, "") for i in range(32) if self.flags >> i & 1})
        found: dict[str, Any] = {
            "epoch": m.epoch,
            "fsid": _uuid(m.fsid),
            "created": style.stamp(m.created),
            "modified": style.stamp(m.modified),
            "last_up_change": style.stamp(m.last_up_change),
            "last_in_change": style.stamp(m.last_in_change),
            "flags": style.flag_names(self.flags),
            "flags_num": self.flags,
            "flags_set": set_flags,
            "crush_version": m.crush_version,
            "full_ratio": s.full_ratio,
            "backfillfull_ratio": s.backfillfull_ratio,
            "nearfull_ratio": s.nearfull_ratio,
            "cluster_snapshot": self.cluster_snapshot,
            "pool_max": m.pool_max,
            "max_osd": m.max_osd,
            "require_min_compat_client": style.release_name(s.require_min_compat_client),
            "min_compat_client": style.release_name(min_compat_client(m, new)),
            "require_osd_release": style.release_name(s.require_osd_release),
        }
        if new >= RELEASE_REEF:
            found["allow_crimson"] = s.allow_crimson
        found["pools"] = [self.pool(pool, m.pools[pool]) for pool in sorted(m.pools)]
        osds = [osd for osd in range(m.max_osd) if m.exists(osd)]
        found["osds"] = [self.osd(osd) for osd in osds]
        found["osd_xinfo"] = [self.xinfo(osd) for osd in osds]
        found["pg_upmap"] = [{"pgid": str(pg), "osds": list(osds)} for pg, osds in _sorted_pgs(m.pg_upmap)]
        found["pg_upmap_items"] = [
            {"pgid": str(pg), "mappings": [{"from": a, "to": b} for a, b in pairs]}
            for pg, pairs in _sorted_pgs(m.pg_upmap_items)
        ]
        if new >= RELEASE_REEF:
            found["pg_upmap_primaries"] = [
                {"pgid": str(pg), "primary_osd": osd} for pg, osd in _sorted_pgs(m.pg_upmap_primaries)
            ]
        found["pg_temp"] = [{"pgid": str(pg), "osds": list(osds)} for pg, osds in _sorted_pgs(m.pg_temp)]
        # not objects, but one after the other
        found["primary_temp"] = [x for pg, osd in _sorted_pgs(m.primary_temp) for x in (str(pg), osd)]
        found[style.blocklist] = {addr: style.stamp(until) for addr, until in self.blocklist()}
        if new >= RELEASE_PACIFIC:
            found["range_blocklist"] = {addr: style.stamp(until) for addr, until in self.ranges()}
        found["erasure_code_profiles"] = _sorted_texts(m.erasure_code_profiles)
        found["removed_snaps_queue"] = _pool_intervals(s.removed_snaps_queue)
        found["new_removed_snaps"] = _pool_intervals(m.new_removed_snaps)
        found["new_purged_snaps"] = _pool_intervals(m.new_purged_snaps)
        names, classes = m.crush.names, m.crush.class_names
        found["crush_node_flags"] = {
            names.get(i, str(i)): style.state_names(flags) for i, flags in sorted(s.crush_node_flags.items())
        }
        found["device_class_flags"] = {
            classes.get(i, str(i)): style.state_names(flags) for i, flags in sorted(s.device_class_flags.items())
        }
        if new >= RELEASE_PACIFIC:
            found["stretch_mode"] = {
                "stretch_mode_enabled": s.stretch_mode_enabled,
                "stretch_bucket_count": s.stretch_bucket_count,
                "degraded_stretch_mode": s.degraded_stretch_mode,
                "recovering_stretch_mode": s.recovering_stretch_mode,
                "stretch_mode_bucket": s.stretch_mode_bucket,
            }
        return found

    def pool(self, pool: int, p: PgPool) -> dict[str, Any]:
        style = self.style
        new = style.release
        found: dict[str, Any] = {
            "pool": pool,
            "pool_name": self.pool_name(pool),
            "create_time": style.stamp(p.create_time),
            "flags": p.flags,
            "flags_names": style.pool_flag_names(p.flags),
            "type": p.type,
            "size": p.size,
            "min_size": p.min_size,
            "crush_rule": p.crush_rule,
        }
        if new >= RELEASE_PACIFIC:
            found["peering_crush_bucket_count"] = p.peering_crush_bucket_count
            found["peering_crush_bucket_target"] = p.peering_crush_bucket_target
            found["peering_crush_bucket_barrier"] = p.peering_crush_bucket_barrier
            found["peering_crush_bucket_mandatory_member"] = p.peering_crush_mandatory_member
        if new >= RELEASE_TENTACLE:
            found["is_stretch_pool"] = p.is_stretch_pool
        found |= {
            "object_hash": p.object_hash,
            "pg_autoscale_mode": _AUTOSCALE.get(p.pg_autoscale_mode, "???"),
            "pg_num": p.pg_num,
            "pg_placement_num": p.pgp_num,
            "pg_placement_num_target": p.pgp_num_target,
            "pg_num_target": p.pg_num_target,
            "pg_num_pending": p.pg_num_pending,
            "last_pg_merge_meta": _merge(p.last_pg_merge_meta),
            "last_change": str(p.last_change),
            "last_force_op_resend": str(p.last_force_op_resend),
            "last_force_op_resend_prenautilus": str(p.last_force_op_resend_prenautilus),
            "last_force_op_resend_preluminous": str(p.last_force_op_resend_preluminous),
            "auid": p.auid,
            "snap_mode": "pool" if p.is_pool_snaps_mode else "selfmanaged",
            "snap_seq": p.snap_seq,
            "snap_epoch": p.snap_epoch,
            "pool_snaps": [
                {"snapid": snap.snapid, "stamp": style.stamp(snap.stamp), "name": snap.name}
                for _, snap in sorted(p.snaps.items())
            ],
            "removed_snaps": _intervals(p.removed_snaps),
            "quota_max_bytes": p.quota_max_bytes,
            "quota_max_objects": p.quota_max_objects,
            "tiers": sorted(p.tiers),
            "tier_of": p.tier_of,
            "read_tier": p.read_tier,
            "write_tier": p.write_tier,
            "cache_mode": _cache_mode(p.cache_mode),
            "target_max_bytes": p.target_max_bytes,
            "target_max_objects": p.target_max_objects,
            "cache_target_dirty_ratio_micro": p.cache_target_dirty_ratio_micro,
            "cache_target_dirty_high_ratio_micro": p.cache_target_dirty_high_ratio_micro,
            "cache_target_full_ratio_micro": p.cache_target_full_ratio_micro,
            "cache_min_flush_age": p.cache_min_flush_age,
            "cache_min_evict_age": p.cache_min_evict_age,
            "erasure_code_profile": p.erasure_code_profile,
            "hit_set_params": _hit_set_value(p.hit_set_params),
            "hit_set_period": p.hit_set_period,
            "hit_set_count": p.hit_set_count,
            "use_gmt_hitset": bool(p.use_gmt_hitset),
            "min_read_recency_for_promote": p.min_read_recency_for_promote,
            "min_write_recency_for_promote": p.min_write_recency_for_promote,
            "hit_set_grade_decay_rate": p.hit_set_grade_decay_rate,
            "hit_set_search_last_n": p.hit_set_search_last_n,
            "grade_table": _grade_table(p),
            "stripe_width": p.stripe_width,
            "expected_num_objects": p.expected_num_objects,
            "fast_read": bool(p.fast_read),
        }
        if new >= RELEASE_TENTACLE:
            found["nonprimary_shards"] = "{" + ",".join(map(str, sorted(p.nonprimary_shards))) + "}"
        found["options"] = dict(style.pool_opts(p))
        found["application_metadata"] = _sorted_texts(p.application_metadata)
        balance = self.read_balance(pool, p)
        if balance is not None:
            found |= balance.dump(new)
        return found

    def osd(self, osd: int) -> dict[str, Any]:
        m, s = self.m, self.s
        info = s.osd_info[osd]
        public, cluster = m.client_addrs[osd], s.cluster_addrs[osd]
        back, front = s.hb_back_addrs[osd], s.hb_front_addrs[osd]
        return {
            "osd": osd,
            "uuid": _uuid(s.osd_uuid[osd]),
            "up": int(m.is_up(osd)),
            "in": int(self.is_in(osd)),
            "weight": _f32(m.osd_weight[osd] / 0x10000),
            "primary_affinity": _f32(self.affinity(osd) / 0x10000),
            "last_clean_begin": info.last_clean_begin,
            "last_clean_end": info.last_clean_end,
            "up_from": info.up_from,
            "up_thru": info.up_thru,
            "down_at": info.down_at,
            "lost_at": info.lost_at,
            "public_addrs": self.style.addrvec_value(public),
            "cluster_addrs": self.style.addrvec_value(cluster),
            "heartbeat_back_addrs": self.style.addrvec_value(back),
            "heartbeat_front_addrs": self.style.addrvec_value(front),
            "public_addr": self.style.legacy(public),
            "cluster_addr": self.style.legacy(cluster),
            "heartbeat_back_addr": self.style.legacy(back),
            "heartbeat_front_addr": self.style.legacy(front),
            "state": self.style.state_names(m.osd_state[osd]),
        }

    def xinfo(self, osd: int) -> dict[str, Any]:
        x = self.s.osd_xinfo[osd]
        found: dict[str, Any] = {
            "osd": osd,
            "down_stamp": self.style.stamp(x.down_stamp),
            "laggy_probability": x.laggy_probability,
            "laggy_interval": x.laggy_interval,
            "features": _signed(x.features, 64),
            "old_weight": x.old_weight,
        }
        if self.style.release >= RELEASE_OCTOPUS:
            found["last_purged_snaps_scrub"] = self.style.stamp(x.last_purged_snaps_scrub)
            found["dead_epoch"] = x.dead_epoch
        return found


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


def _cache_mode(mode: int) -> str:
    return CACHE_MODE_NAMES[mode] if mode < len(CACHE_MODE_NAMES) else "unknown"


def _hit_set(h: HitSetParams) -> str:
    if h.type == HIT_SET_BLOOM:
        fpp = real(h.fpp_micro / 1e6)
        return f"bloom{{false_positive_probability: {fpp}, target_size: {h.target_size}, seed: {h.seed}}}"
    return HIT_SET_TYPE_NAMES[h.type] + ("{}" if h.type else "}")


def _hit_set_value(h: HitSetParams) -> dict[str, Any]:
    found: dict[str, Any] = {"type": HIT_SET_TYPE_NAMES[h.type]}
    if h.type == HIT_SET_BLOOM:
        found["false_positive_probability"] = h.fpp_micro / 1e6
        found["target_size"] = _signed(h.target_size, 64)
        found["seed"] = _signed(h.seed, 64)
    return found


def _grade_table(p: PgPool) -> list[int]:
    """pg_pool_t::calc_grade_table."""
    grade, table = 1_000_000, []
    for _ in range(min(p.hit_set_count, 1 << 20)):
        grade = int(grade * (1 - p.hit_set_grade_decay_rate / 100.0)) & 0xFFFFFFFF
        table.append(grade)
    return table


def _merge(meta: PgMergeMeta) -> dict[str, Any]:
    source, target = meta.source_version, meta.target_version
    return {
        "source_pgid": str(meta.source_pgid),
        "ready_epoch": meta.ready_epoch,
        "last_epoch_started": meta.last_epoch_started,
        "last_epoch_clean": meta.last_epoch_clean,
        "source_version": f"{source.epoch}'{source.version}",
        "target_version": f"{target.epoch}'{target.version}",
    }


def _pool_intervals(pools: Mapping[int, IntervalSet]) -> list[dict[str, Any]]:
    return [
        {"pool": pool, "snaps": [{"begin": start, "length": length} for start, length in intervals]}
        for pool, intervals in sorted(pools.items())
    ]


def _sorted_texts(texts: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {name: dict(sorted(texts[name].items())) for name in sorted(texts)}


FORMATS = ("plain", "json", "json-pretty")


def dump(osdmap: OSDMap, format: str = "plain") -> str:
    """The text that `osdmaptool --print` (plain) or `osdmaptool --dump FORMAT` of the release that wrote the map
    gives, to be written as it is: one line of JSON has no end of line.

    Raises:
        ValueError: there is no such format.
        DecodeError: a part of the map is damaged.
    """
    if format == "plain":
        return dump_plain(osdmap)
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}: there are {', '.join(FORMATS)}")
    return dump_json(osdmap, pretty=format == "json-pretty")
