"""How a map leads from an object's name to OSDs, step by step, for people who want to see it.

:func:`explain` gives the steps as a value; its result is that of `OSDMap.pg_to_up_acting`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..msgr.types import PgId
from .crush import CRUSH_ITEM_NONE
from .draws import Draw, RuleStep, Verdict, trace_rule
from .hash import STR_HASH_LINUX, crush_hash32_2, mask_for
from .osdmap import OSDMap
from .pool import FLAG_HASHPSPOOL, PgPool

__all__ = ["Affinity", "Draw", "Explanation", "Fold", "RuleStep", "Stage", "Verdict", "explain"]


class Fold(NamedTuple):
    """A number made one of `n` by ceph_stable_mod."""

    value: int
    n: int
    mask: int
    half: bool
    """Whether `value & mask` is not below `n`, so that the mask loses its highest bit."""
    result: int


class Stage(NamedTuple):
    """What changed the set of OSDs after CRUSH, or might have."""

    kind: str
    """``exists``, ``pg_upmap``, ``pg_upmap_items``, ``pg_upmap_primaries``, ``down``, ``pg_temp``, ``primary_temp``."""
    text: str
    applied: bool
    osds: tuple[int, ...]
    """The set afterwards."""


class Affinity(NamedTuple):
    """Whether an OSD may be the primary: it may if `hash` is below its affinity (16.16 fixed point)."""

    osd: int
    affinity: int
    hash: int
    accepted: bool


class Explanation(NamedTuple):
    """All steps for one object."""

    epoch: int
    pool: int
    pool_name: str
    object: str
    namespace: str
    key: str
    read_tier: int
    write_tier: int
    """The pools in front of this one, to which requests go first; -1 if there are none."""
    hashed: bytes
    """The string that is hashed."""
    hash_name: str
    hash: int
    pg: Fold
    pgid: PgId
    placement: Fold
    hashpspool: bool
    pps: int
    """The input of CRUSH."""
    rule: int
    rule_name: str
    size: int
    erasure: bool
    weights_of: str
    """Whose weights replace those of the buckets: ``""``, or the name of a weight set."""
    steps: tuple[RuleStep, ...]
    crush: tuple[int, ...]
    """What CRUSH finds."""
    stages: tuple[Stage, ...]
    raw: tuple[int, ...]
    affinity: tuple[Affinity, ...]
    up: tuple[int, ...]
    up_primary: int
    acting: tuple[int, ...]
    acting_primary: int

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold: 32-bit hashes and weights are numbers, bytes that are no text are escaped."""
        found: dict[str, Any] = _plain(self)
        found["hashed"] = self.hashed.decode("utf-8", "backslashreplace")
        found["pgid"] = str(self.pgid)
        found["steps"] = [
            _plain(step) | {"events": [{"event": type(e).__name__.lower()} | _plain(e) for e in step.events]}
            for step in self.steps
        ]
        return found


def explain(osdmap: OSDMap, pool: int, name: str | bytes, key: str = "", nspace: str = "") -> Explanation:
    """The steps from an object's name to its OSDs.

    Args:
        key: the locator key, which is hashed instead of the name if there is one.
    Raises:
        KeyError: no such pool.
        DecodeError: the CRUSH map is damaged.
    """
    pi = osdmap.pools[pool]
    text = key or name
    hashed = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    if nspace:
        hashed = nspace.encode("utf-8", "surrogateescape") + b"\x1f" + hashed
    ps = pi.hash_key(hashed)
    pg = _fold(ps, pi.pg_num)
    placement = _fold(pg.result, pi.pgp_num)
    pps = pi.raw_pg_to_pps(pool, pg.result)
    crush = osdmap.crush
    steps, chosen = trace_rule(osdmap, pool, pps)
    walk = _Walk(osdmap, pi, PgId(pool, pg.result), pps)
    walk.exists(chosen)
    raw = tuple(walk.osds)
    walk.upmap()
    up, up_primary = walk.up()
    acting, acting_primary = walk.temp(up, up_primary)
    return Explanation(
        epoch=osdmap.epoch,
        pool=pool,
        pool_name=osdmap.pool_names.get(pool, ""),
        object=name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"),
        namespace=nspace,
        key=key,
        read_tier=pi.read_tier,
        write_tier=pi.write_tier,
        hashed=hashed,
        hash_name="linux" if pi.object_hash == STR_HASH_LINUX else "rjenkins",
        hash=ps,
        pg=pg,
        pgid=walk.pg,
        placement=placement,
        hashpspool=bool(pi.flags & FLAG_HASHPSPOOL),
        pps=pps,
        rule=pi.crush_rule,
        rule_name=crush.rule_names.get(pi.crush_rule, ""),
        size=pi.size,
        erasure=pi.is_erasure,
        weights_of=_weight_set(osdmap, pool),
        steps=steps,
        crush=chosen,
        stages=tuple(walk.stages),
        raw=raw,
        affinity=tuple(walk.affinity),
        up=up,
        up_primary=up_primary,
        acting=acting,
        acting_primary=acting_primary,
    )


def _fold(value: int, n: int) -> Fold:
    mask = mask_for(n)
    half = value & mask >= n
    return Fold(value, n, mask, half, value & (mask >> 1 if half else mask))


def _weight_set(osdmap: OSDMap, pool: int) -> str:
    sets = osdmap.crush.choose_args
    return f"pool {pool}" if pool in sets else "compat" if -1 in sets else ""


def osd_names(osds: tuple[int, ...] | list[int]) -> str:
    """A set as Ceph writes it: ``[3,NONE,5]``."""
    return f"[{','.join('NONE' if osd == CRUSH_ITEM_NONE else str(osd) for osd in osds)}]"


def _first(osds: tuple[int, ...] | list[int]) -> int:
    return next((o for o in osds if o != CRUSH_ITEM_NONE), -1)


_ALWAYS = 0x10000
"""CEPH_OSD_MAX_PRIMARY_AFFINITY, which is the default."""
_MISSING = ("does not exist", "do not exist")


class _Walk:
    """From what CRUSH finds to the acting set (OSDMap::_pg_to_up_acting_osds), with notes."""

    def __init__(self, osdmap: OSDMap, pool: PgPool, pg: PgId, pps: int) -> None:
        self.map = osdmap
        self.pool = pool
        self.pg = pg
        self.pps = pps
        self.osds: list[int] = []
        self.stages: list[Stage] = []
        self.affinity: list[Affinity] = []

    def note(self, kind: str, text: str, applied: bool = True) -> None:
        self.stages.append(Stage(kind, text, applied, tuple(self.osds)))

    def without(self, kind: str, gone: list[int], why: tuple[str, str]) -> None:
        """Removes OSDs, or leaves holes where positions count."""
        if not gone:
            return
        shift = self.pool.can_shift_osds
        if shift:
            self.osds = [o for o in self.osds if o not in gone]
        else:
            self.osds = [CRUSH_ITEM_NONE if o in gone else o for o in self.osds]
        names = [f"osd.{o}" for o in sorted(set(gone))]
        effect = "those behind move up" if shift else "a hole stays, as the position tells the shard"
        self.note(kind, f"{' and '.join(names)} {why[len(names) > 1]}: {effect}")

    def exists(self, chosen: tuple[int, ...]) -> None:
        self.osds = list(chosen)
        self.without("exists", [o for o in chosen if o != CRUSH_ITEM_NONE and not self.map.exists(o)], _MISSING)
        if self.pool.can_shift_osds and CRUSH_ITEM_NONE in self.osds:
            self.osds = [o for o in self.osds if o != CRUSH_ITEM_NONE]
            self.note("exists", "holes are closed, as the pool is replicated")

    def is_out(self, osd: int) -> bool:
        return 0 <= osd < self.map.max_osd and not self.map.osd_weight[osd]

    def upmap(self) -> None:
        """OSDMap::_apply_upmap."""
        explicit = self.map.pg_upmap.get(self.pg)
        if explicit is not None:
            out = [o for o in explicit if self.is_out(o)]
            if out:
                items = " and all other exceptions" if self.has_exceptions() else ""
                self.note("pg_upmap", f"{osd_names(explicit)} is ignored{items}, as osd.{out[0]} is out", False)
                return
            self.osds = list(explicit)
            self.note("pg_upmap", f"{osd_names(explicit)} takes the place of what CRUSH found")
        for source, target in self.map.pg_upmap_items.get(self.pg, ()):
            change = f"osd.{target} for osd.{source}"
            if target in self.osds:
                self.note("pg_upmap_items", f"{change} is ignored: osd.{target} is in the set already", False)
            elif self.is_out(target):
                self.note("pg_upmap_items", f"{change} is ignored: osd.{target} is out", False)
            elif source not in self.osds:
                self.note("pg_upmap_items", f"{change} is ignored: osd.{source} is not in the set", False)
            else:
                self.osds[self.osds.index(source)] = target
                self.note("pg_upmap_items", change)
        primary = self.map.pg_upmap_primaries.get(self.pg)
        if primary is None:
            return
        change = f"osd.{primary} first"
        if not 0 <= primary < self.map.max_osd or self.is_out(primary):
            self.note("pg_upmap_primaries", f"{change} is ignored: it is out, or no OSD", False)
        elif primary not in self.osds[1:]:
            why = "it is" if self.osds[:1] == [primary] else "it is not in the set"
            self.note("pg_upmap_primaries", f"{change} is ignored: {why}", False)
        else:
            i = self.osds.index(primary, 1)
            self.osds[0], self.osds[i] = primary, self.osds[0]
            self.note("pg_upmap_primaries", change)

    def has_exceptions(self) -> bool:
        return self.pg in self.map.pg_upmap_items or self.pg in self.map.pg_upmap_primaries

    def only_up(self) -> None:
        gone = [o for o in self.osds if o != CRUSH_ITEM_NONE and not self.map.is_up(o)]
        down = [o for o in gone if self.map.exists(o)]
        self.without("exists", [o for o in gone if o not in down], _MISSING)
        self.without("down", down, ("is down", "are down"))
        if self.pool.can_shift_osds and CRUSH_ITEM_NONE in self.osds:
            self.osds = [o for o in self.osds if o != CRUSH_ITEM_NONE]

    def up(self) -> tuple[tuple[int, ...], int]:
        self.only_up()
        primary = self.apply_primary_affinity(_first(self.osds))
        return tuple(self.osds), primary

    def apply_primary_affinity(self, primary: int) -> int:
        """OSDMap::_apply_primary_affinity."""
        values = self.map.primary_affinity
        if not values or all(o == CRUSH_ITEM_NONE or values[o] == _ALWAYS for o in self.osds):
            return primary
        pos = -1
        for i, osd in enumerate(self.osds):
            if osd == CRUSH_ITEM_NONE:
                continue
            hash16 = crush_hash32_2(self.pps, osd) >> 16
            accepted = hash16 < values[osd] or values[osd] >= _ALWAYS
            self.affinity.append(Affinity(osd, values[osd], hash16, accepted))
            if accepted:
                pos = i
                break
            if pos < 0:
                pos = i
        primary = self.osds[pos]
        if self.pool.can_shift_osds:
            self.osds.insert(0, self.osds.pop(pos))
        return primary

    def temp(self, up: tuple[int, ...], up_primary: int) -> tuple[tuple[int, ...], int]:
        """OSDMap::_get_temp_osds."""
        acting, primary = up, -1
        temp = self.map.pg_temp.get(self.pg)
        if temp:
            self.osds = list(temp)
            self.note("pg_temp", f"{osd_names(temp)} serves instead, until the OSDs of up have the data")
            self.only_up()
            if self.osds:
                primary = _first(self.osds)
                ordered = self.map._pgtemp_undo_primaryfirst(self.pool, self.osds)
                if ordered != self.osds:
                    self.osds = list(ordered)
                    self.note("pg_temp", "those that may be primary were listed first; in the order of the shards")
                acting = tuple(self.osds)
            else:
                self.note("pg_temp", "none of these is up, so that up serves", False)
        self.osds = list(acting)
        if self.pg in self.map.primary_temp:
            primary = self.map.primary_temp[self.pg]
            self.note("primary_temp", f"osd.{primary} is the primary for now", primary != -1)
        if primary == -1 and acting is up:
            primary = up_primary
        return acting, primary


def _plain(value: Any) -> Any:
    """NamedTuples as dicts, tuples as lists."""
    if hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
