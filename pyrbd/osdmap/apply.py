"""OSDMap::apply_incremental (`src/osd/OSDMap.cc`): step by step in Ceph's order, since steps see what earlier ones
did. What an incremental does not change is shared with the map before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DecodeError
from ..msgr.types import EntityAddrVec, Utime
from .addrs import NO_ADDRS
from .columns import OsdInfo, OsdXInfo
from .features import RELEASE_LUMINOUS, RELEASE_NAUTILUS, at_least, encoding_features
from .placement import DEFAULT_PRIMARY_AFFINITY, OSD_EXISTS, OSD_UP
from .pool_types import subtract, union

if TYPE_CHECKING:
    from .incremental import Incremental
    from .osd_section import OsdSection
    from .osdmap import OSDMap

K = TypeVar("K")
V = TypeVar("V")

OSD_AUTOOUT = 1 << 2
OSD_NEW = 1 << 3
OSD_STOP = 1 << 12

REQUIRE_JEWEL = 1 << 16
REQUIRE_KRAKEN = 1 << 17
REQUIRE_LUMINOUS = 1 << 18
RECOVERY_DELETES = 1 << 19
PGLOG_HARDLIMIT = 1 << 22

_NEVER = Utime()


def normalized_flags(flags: int, require_osd_release: int) -> int:
    """A map's flags with what the release implies."""
    if at_least(require_osd_release, RELEASE_LUMINOUS):
        flags = flags & ~(REQUIRE_JEWEL | REQUIRE_KRAKEN | REQUIRE_LUMINOUS) | RECOVERY_DELETES
    if at_least(require_osd_release, RELEASE_NAUTILUS):
        flags |= PGLOG_HARDLIMIT
    return flags


def apply_incremental(old: OSDMap, inc: Incremental) -> OSDMap:
    """The map of the next epoch, from an incremental that was found to follow.

    Raises:
        DecodeError: it does not fit the map.
    """
    m = old._successor()
    s = old.section.copy()
    m._section = s
    m.fsid, m.epoch, m.modified = inc.fsid, inc.epoch, inc.modified
    _flags(m, s, inc)
    if inc.new_max_osd >= 0:
        m.max_osd = inc.new_max_osd
    if inc.new_pool_max != -1:
        m.pool_max = (inc.new_pool_max + (1 << 31)) % (1 << 32) - (1 << 31)  # from int64_t to int32_t
    _pools(old, m, inc)
    _snaps(m, s, inc)
    if inc.new_last_up_change != _NEVER:
        m.last_up_change = inc.new_last_up_change
    if inc.new_last_in_change != _NEVER:
        m.last_in_change = inc.new_last_in_change
    if inc.new_erasure_code_profiles or inc.old_erasure_code_profiles:
        kept = _changed(old.erasure_code_profiles, {}, inc.old_erasure_code_profiles)
        m._set("erasure_code_profiles", {**kept, **inc.new_erasure_code_profiles})
    _osds(old, m, s, inc)
    _groups(old, m, inc)
    _blocklist(s, inc)
    if inc.new_crush_node_flags:
        s.crush_node_flags = _flagged(s.crush_node_flags, inc.new_crush_node_flags)
    if inc.new_device_class_flags:
        s.device_class_flags = _flagged(s.device_class_flags, inc.new_device_class_flags)
    s.cluster_snapshot = inc.cluster_snapshot
    s.cluster_snapshot_epoch = inc.epoch if inc.cluster_snapshot else 0
    if inc.new_nearfull_ratio >= 0:
        s.nearfull_ratio = inc.new_nearfull_ratio
    if inc.new_backfillfull_ratio >= 0:
        s.backfillfull_ratio = inc.new_backfillfull_ratio
    if inc.new_full_ratio >= 0:
        s.full_ratio = inc.new_full_ratio
    if at_least(inc.new_require_min_compat_client, 1):
        s.require_min_compat_client = inc.new_require_min_compat_client
    if at_least(inc.new_require_osd_release, 0):
        s.require_osd_release = inc.new_require_osd_release
        m.flags = normalized_flags(m.flags, s.require_osd_release)
    _crush(m, s, inc)
    if inc.change_stretch_mode:
        s.stretch_mode_enabled = inc.stretch_mode_enabled
        s.stretch_bucket_count = inc.new_stretch_bucket_count
        s.degraded_stretch_mode = inc.new_degraded_stretch_mode
        s.recovering_stretch_mode = inc.new_recovering_stretch_mode
        s.stretch_mode_bucket = inc.new_stretch_mode_bucket
    if inc.mutate_allow_crimson:
        s.allow_crimson = inc.mutate_allow_crimson == 1
    # an incremental for a client without some of these is written anew for it, and says so
    m._features = inc.effective_features | encoding_features(s.require_osd_release)
    return m


def _flags(m: OSDMap, s: OsdSection, inc: Incremental) -> None:
    if inc.new_flags < 0:
        m.flags = normalized_flags(m.flags, s.require_osd_release)
        return
    m.flags = inc.new_flags
    if m.flags & REQUIRE_KRAKEN:
        s.require_osd_release = max(s.require_osd_release, 11)
    elif m.flags & REQUIRE_JEWEL:
        s.require_osd_release = max(s.require_osd_release, 10)


def _pools(old: OSDMap, m: OSDMap, inc: Incremental) -> None:
    if inc.new_pools or inc.old_pools:
        new = {i: pool.replace(last_change=inc.epoch) for i, pool in inc.new_pools.items()}
        m.pools = _changed(old.pools, new, inc.old_pools)
    if inc.new_pool_names or inc.old_pools:
        m._set("pool_names", _changed(old.pool_names, inc.new_pool_names, inc.old_pools))
    if inc.new_pools or inc.new_pool_names or inc.old_pools:
        m._index_pools()


def _snaps(m: OSDMap, s: OsdSection, inc: Incremental) -> None:
    m._set("new_removed_snaps", inc.new_removed_snaps)
    m._set("new_purged_snaps", inc.new_purged_snaps)
    if inc.new_removed_snaps or inc.new_purged_snaps:
        queue = dict(s.removed_snaps_queue)
        for pool, snaps in inc.new_removed_snaps.items():
            queue[pool] = union(queue.get(pool, ()), snaps)
        for pool, snaps in inc.new_purged_snaps.items():
            left = subtract(queue.pop(pool, ()), snaps)
            if left:
                queue[pool] = left
        s.removed_snaps_queue = queue


def _osds(old: OSDMap, m: OSDMap, s: OsdSection, inc: Incremental) -> None:
    n = max(m.max_osd, 0)
    touched: tuple[Mapping[int, object], ...] = (
        inc.new_weight,
        inc.new_primary_affinity,
        inc.new_state,
        inc.new_up_client,
        inc.new_up_cluster,
        inc.new_up_thru,
        inc.new_last_clean_interval,
        inc.new_lost,
        inc.new_xinfo,
        inc.new_uuid,
    )
    if any(not 0 <= osd < n for changes in touched for osd in changes):
        raise DecodeError(f"osdmap incremental {inc.epoch} changes an OSD beyond the {n} that there are")
    resized = n != max(old.max_osd, 0)
    if not resized and not any(touched):
        return
    state = _resized(old.osd_state, n, 0)
    weight = _resized(old.osd_weight, n, 0)
    affinity = _resized(old.primary_affinity, n, DEFAULT_PRIMARY_AFFINITY) if old.primary_affinity else []
    info: dict[int, OsdInfo] = {}
    xinfo: dict[int, OsdXInfo] = {}
    uuid: dict[int, bytes] = {}
    client: dict[int, EntityAddrVec] = {}
    cluster: dict[int, EntityAddrVec] = {}
    back: dict[int, EntityAddrVec] = {}
    front: dict[int, EntityAddrVec] = {}

    def info_of(osd: int) -> OsdInfo:
        return info[osd] if osd in info else s.osd_info[osd] if osd < len(s.osd_info) else OsdInfo()

    def xinfo_of(osd: int) -> OsdXInfo:
        return xinfo[osd] if osd in xinfo else s.osd_xinfo[osd] if osd < len(s.osd_xinfo) else OsdXInfo()

    def set_affinity(osd: int, value: int) -> None:
        if not affinity:
            affinity.extend([DEFAULT_PRIMARY_AFFINITY] * n)
        affinity[osd] = value

    for osd, value in inc.new_weight.items():
        weight[osd] = value
        if value:
            state[osd] = (state[osd] | OSD_EXISTS) & ~(OSD_AUTOOUT | OSD_NEW)
            xinfo[osd] = xinfo_of(osd)._replace(old_weight=0)
    for osd, value in inc.new_primary_affinity.items():
        set_affinity(osd, value)
    for osd, value in inc.new_state.items():
        change = value or OSD_UP
        if state[osd] & OSD_UP and change & OSD_UP:
            info[osd] = info_of(osd)._replace(down_at=inc.epoch)
            xinfo[osd] = xinfo_of(osd)._replace(down_stamp=inc.modified)
        if state[osd] & OSD_EXISTS and change & OSD_EXISTS:  # it is destroyed
            uuid[osd] = bytes(16)
            info[osd], xinfo[osd] = OsdInfo(), OsdXInfo()
            set_affinity(osd, DEFAULT_PRIMARY_AFFINITY)
            client[osd] = cluster[osd] = back[osd] = front[osd] = NO_ADDRS
            state[osd] = 0
        else:
            state[osd] ^= change
    for osd, addrs in inc.new_up_client.items():
        state[osd] = (state[osd] | OSD_EXISTS | OSD_UP) & ~OSD_STOP
        client[osd] = addrs
        back[osd] = inc.new_hb_back_up.get(osd, NO_ADDRS)
        front[osd] = inc.new_hb_front_up.get(osd, NO_ADDRS)
        info[osd] = info_of(osd)._replace(up_from=inc.epoch)
    cluster.update(inc.new_up_cluster)
    for osd, epoch in inc.new_up_thru.items():
        info[osd] = info_of(osd)._replace(up_thru=epoch)
    for osd, (begin, end) in inc.new_last_clean_interval.items():
        info[osd] = info_of(osd)._replace(last_clean_begin=begin, last_clean_end=end)
    for osd, epoch in inc.new_lost.items():
        info[osd] = info_of(osd)._replace(lost_at=epoch)
    xinfo.update(inc.new_xinfo)
    uuid.update(inc.new_uuid)

    _set_if_changed(m, "osd_state", old.osd_state, state)
    _set_if_changed(m, "osd_weight", old.osd_weight, weight)
    _set_if_changed(m, "primary_affinity", old.primary_affinity, affinity)
    m.client_addrs = old.client_addrs.changed(n, client)
    s.cluster_addrs = s.cluster_addrs.changed(n, cluster)
    s.hb_back_addrs = s.hb_back_addrs.changed(n, back)
    s.hb_front_addrs = s.hb_front_addrs.changed(n, front)
    s.osd_info = s.osd_info.changed(n, info)
    s.osd_xinfo = s.osd_xinfo.changed(n, xinfo)
    s.osd_uuid = s.osd_uuid.changed(n, uuid)


def _groups(old: OSDMap, m: OSDMap, inc: Incremental) -> None:
    """What is said of placement groups."""

    def change(name: str, new: Mapping[Any, Any], gone: Sequence[Any]) -> None:
        if new or gone:
            m._set(name, _changed(getattr(old, name), new, gone))

    change("pg_temp", inc.new_pg_temp, [pg for pg, osds in inc.new_pg_temp.items() if not osds])
    change("primary_temp", inc.new_primary_temp, [pg for pg, osd in inc.new_primary_temp.items() if osd == -1])
    change("pg_upmap", inc.new_pg_upmap, inc.old_pg_upmap)
    change("pg_upmap_items", inc.new_pg_upmap_items, inc.old_pg_upmap_items)
    change("pg_upmap_primaries", inc.new_pg_upmap_primary, inc.old_pg_upmap_primary)


def _blocklist(s: OsdSection, inc: Incremental) -> None:
    """An entry that is there already keeps its time, as std::map::insert does."""
    if inc.new_blocklist or inc.old_blocklist:
        s.blocklist_stamps = _changed({**inc.new_blocklist, **s.blocklist_stamps}, {}, inc.old_blocklist)
    if inc.new_range_blocklist or inc.old_range_blocklist:
        ranges = {**inc.new_range_blocklist, **s.range_blocklist_stamps}
        s.range_blocklist_stamps = _changed(ranges, {}, inc.old_range_blocklist)


def _crush(m: OSDMap, s: OsdSection, inc: Incremental) -> None:
    if not inc.crush:
        return
    m._crush_raw, m._crush_features, m._crush = inc.crush, -1, None
    if at_least(s.require_osd_release, RELEASE_LUMINOUS):
        m.crush_version = (m.crush_version + 1) % (1 << 32)
    if s.device_class_flags:
        names = m.crush.class_names
        s.device_class_flags = {c: flags for c, flags in s.device_class_flags.items() if c in names}


def _set_if_changed(m: OSDMap, name: str, old: tuple[int, ...], new: list[int]) -> None:
    value = tuple(new)
    if value != old:
        m._set(name, value)


def _flagged(old: Mapping[int, int], new: Mapping[int, int]) -> dict[int, int]:
    return {item: flags for item, flags in {**old, **new}.items() if flags or item not in new}


def _resized(values: tuple[int, ...], n: int, fill: int) -> list[int]:
    return [*values[:n], *([fill] * (n - len(values)))]


def _changed(old: Mapping[K, V], new: Mapping[K, V], gone: Iterable[K]) -> dict[K, V]:
    merged = {**old, **new}
    for key in gone:
        merged.pop(key, None)
    return merged
