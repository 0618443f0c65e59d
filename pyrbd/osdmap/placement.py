"""From a placement group to its OSDs (`src/osd/OSDMap.cc`): CRUSH, then what is not there is taken out, then the
exceptions of balancers and operators, then who is up, who is first, and what recovery arranged for the time being.
Each step is Ceph's function of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DecodeError
from ..msgr.types import PgId
from .crush import CRUSH_ITEM_NONE, CrushMap
from .hash import crush_hash32_2
from .mapper import crush_do_rule

if TYPE_CHECKING:
    from .pool import PgPool

DEFAULT_PRIMARY_AFFINITY = 0x10000

OSD_EXISTS = 1
OSD_UP = 2


Osds = tuple[int, ...]


class Placement:
    """The part of a map that places."""

    __slots__ = ()

    if TYPE_CHECKING:
        max_osd: int
        osd_state: tuple[int, ...]
        osd_weight: tuple[int, ...]
        primary_affinity: tuple[int, ...]
        pg_temp: Mapping[PgId, tuple[int, ...]]
        primary_temp: Mapping[PgId, int]
        pg_upmap: Mapping[PgId, tuple[int, ...]]
        pg_upmap_items: Mapping[PgId, tuple[tuple[int, int], ...]]
        pg_upmap_primaries: Mapping[PgId, int]
        pools: Mapping[int, PgPool]

        @property
        def crush(self) -> CrushMap: ...

    def exists(self, osd: int) -> bool:
        return 0 <= osd < self.max_osd and bool(self.osd_state[osd] & OSD_EXISTS)

    def is_up(self, osd: int) -> bool:
        return 0 <= osd < self.max_osd and self.osd_state[osd] & (OSD_EXISTS | OSD_UP) == OSD_EXISTS | OSD_UP

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

    def pg_to_raw_osds(self, pool: int, seed: int) -> tuple[tuple[int, ...], int]:
        """(OSDs, primary or -1) as CRUSH finds them, without those that do not exist: "raw" in osdmaptool's
        listings."""
        pi = self.pools[pool]
        raw = self._pg_to_raw_osds(pi, pool, pi.raw_pg_to_pps(pool, seed))
        return tuple(raw), pick_primary(raw)

    def pg_to_up_acting(self, pool: int, seed: int) -> tuple[tuple[int, ...], int, tuple[int, ...], int]:
        """(up, up primary, acting, acting primary), as `ceph pg map` has them."""
        pi = self.pools[pool]
        pps = pi.raw_pg_to_pps(pool, seed)
        return self.raw_to_up_acting(pool, seed, pps, self._pg_to_raw_osds(pi, pool, pps))

    def map_pgs(self, pool: int) -> Iterator[tuple[int, Osds, Osds, int, Osds, int]]:
        """(seed, raw, up, up primary, acting, acting primary) of all placement groups of a pool, in the order of their
        seeds; raw as :meth:`pg_to_raw_osds` gives it.

        All groups are run through CRUSH at once, many times faster than one by one; with numpy (the extra ``bulk``)
        faster still.

        Raises:
            KeyError: no such pool.
            DecodeError: the CRUSH map is damaged.
        """
        from .bulk import map_pgs

        return map_pgs(self, pool)

    def raw_to_up_acting(
        self, pool: int, seed: int, pps: int, raw: list[int]
    ) -> tuple[tuple[int, ...], int, tuple[int, ...], int]:
        """OSDMap::_pg_to_up_acting_osds for a set that CRUSH found, without OSDs that do not exist."""
        pi = self.pools[pool]
        pg = PgId(pool, seed)
        up = self._raw_to_up_osds(pi, self._apply_upmap(pg, raw))
        up, up_primary = self._apply_primary_affinity(pps, pi, up, pick_primary(up))
        acting, primary = self._get_temp_osds(pi, pg)
        if not acting:
            acting = up
            if primary == -1:
                primary = up_primary
        return tuple(up), up_primary, tuple(acting), primary

    def _pg_to_raw_osds(self, pi: PgPool, pool: int, pps: int) -> list[int]:
        try:
            crush, weights = self.crush, self.osd_weight
            raw = crush_do_rule(crush, pi.crush_rule, pps, pi.size, weights, crush.choose_args_for(pool) or {})
        except DecodeError:
            raw = []  # a rule without an end finds no OSD
        return self.remove_nonexistent_osds(pi, raw)

    def remove_nonexistent_osds(self, pi: PgPool, osds: list[int]) -> list[int]:
        if pi.can_shift_osds:
            return [o for o in osds if self.exists(o)]
        return [o if self.exists(o) else CRUSH_ITEM_NONE for o in osds]

    def _raw_to_up_osds(self, pi: PgPool, osds: Sequence[int]) -> list[int]:
        if pi.can_shift_osds:
            return [o for o in osds if self.is_up(o)]
        return [o if self.is_up(o) else CRUSH_ITEM_NONE for o in osds]

    def _is_marked_out(self, osd: int) -> bool:
        """Weight 0; what is no OSD is not marked out."""
        return osd != CRUSH_ITEM_NONE and 0 <= osd < self.max_osd and self.osd_weight[osd] == 0

    def _apply_upmap(self, pg: PgId, raw: list[int]) -> list[int]:
        explicit = self.pg_upmap.get(pg) if self.pg_upmap else None
        if explicit is not None:
            if any(self._is_marked_out(o) for o in explicit):
                return raw
            raw = list(explicit)
        items = self.pg_upmap_items.get(pg, ()) if self.pg_upmap_items else ()
        if items:
            raw = list(raw)
            for source, target in items:
                if source in raw and target not in raw and not self._is_marked_out(target):
                    raw[raw.index(source)] = target
        primary = self.pg_upmap_primaries.get(pg, CRUSH_ITEM_NONE) if self.pg_upmap_primaries else CRUSH_ITEM_NONE
        if primary != CRUSH_ITEM_NONE and 0 <= primary < self.max_osd and self.osd_weight[primary]:
            at = next((i for i in range(1, len(raw)) if raw[i] == primary), 0)
            if at:
                raw = list(raw)
                raw[0], raw[at] = primary, raw[0]
        return raw

    def _apply_primary_affinity(self, pps: int, pi: PgPool, osds: list[int], primary: int) -> tuple[list[int], int]:
        affinity = self.primary_affinity
        if not affinity or all(o == CRUSH_ITEM_NONE or affinity[o] == DEFAULT_PRIMARY_AFFINITY for o in osds):
            return osds, primary
        pos = -1
        for i, o in enumerate(osds):
            if o == CRUSH_ITEM_NONE:
                continue
            a = affinity[o]
            if a < DEFAULT_PRIMARY_AFFINITY and crush_hash32_2(pps, o) >> 16 >= a:
                if pos < 0:
                    pos = i  # if nobody else wants to
            else:
                pos = i
                break
        if pos < 0:
            return osds, primary
        primary = osds[pos]
        if pi.can_shift_osds and pos > 0:
            osds = [primary, *osds[:pos], *osds[pos + 1 :]]
        return osds, primary

    def _get_temp_osds(self, pi: PgPool, pg: PgId) -> tuple[list[int], int]:
        """What recovery arranged: (OSDs, primary or -1)."""
        temp: list[int] = []
        acting: list[int] = []
        found = self.pg_temp.get(pg) if self.pg_temp else None
        if found is not None:
            temp = self._raw_to_up_osds(pi, found)
            acting = self._pgtemp_undo_primaryfirst(pi, temp)
        primary = self.primary_temp.get(pg) if self.primary_temp else None
        return acting, pick_primary(temp) if primary is None else primary

    def _pgtemp_undo_primaryfirst(self, pi: PgPool, temp: list[int]) -> list[int]:
        """Pools with `allow_ec_optimizations` list the shards that may be primary first; in their own order they are
        as the shards are numbered."""
        if not pi.allows_ecoptimizations or len(temp) != pi.size:
            return temp
        nonprimary = [shard in pi.nonprimary_shards for shard in range(pi.size)]
        places = iter(sorted(range(pi.size), key=nonprimary.__getitem__))
        acting = list(temp)
        for osd, place in zip(temp, places):
            acting[place] = osd
        return acting


def pick_primary(osds: Sequence[int]) -> int:
    return next((o for o in osds if o != CRUSH_ITEM_NONE), -1)
