"""Random OSDMaps around a CRUSH map: all else that decides where a placement group is."""

from __future__ import annotations

import random
from typing import Any

from pyrbd.msgr.types import PgId
from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.placement import OSD_EXISTS, OSD_UP
from pyrbd.osdmap.pool import (
    CRUSH_ITEM_NONE,
    FLAG_EC_OPTIMIZATIONS,
    FLAG_HASHPSPOOL,
    TYPE_ERASURE,
    TYPE_REPLICATED,
    PgPool,
)

OSD_DESTROYED = 1 << 7

MAX_SIZE = 29
"""osdmaptool counts sets by their size, up to this one."""


def random_cluster(rng: random.Random, base: OSDMap, rules: dict[int, str], numbers: list[int], major: int) -> OSDMap:
    """A map of the OSDs of `base`, of pools with these numbers."""
    n = base.max_osd
    trouble = rng.choice([0, 0.05, 0.2, 0.5])
    states, weights, affinity = [], [], []
    for _ in range(n):
        state, weight = OSD_EXISTS | OSD_UP, 0x10000
        if rng.random() < trouble:
            state = rng.choice([OSD_EXISTS, OSD_EXISTS, 0, OSD_EXISTS | OSD_DESTROYED, OSD_UP])
        if rng.random() < trouble:
            weight = rng.choice([0, 0, 1, 0x8000, 0xFFFF, 0x1999, rng.randrange(0x10000)])
        states.append(state)
        weights.append(weight)
        affinity.append(rng.choice([0, 0x10000, 0x10000, 0x8000, 1, 0xFFFF, rng.randrange(0x10000)]))
    pools = {number: random_pool(rng, base, rules, major) for number in numbers}
    changes: dict[str, Any] = {
        "pools": pools,
        "pool_names": {number: f"pool{number}" for number in numbers},
        "pool_max": max(numbers),
        "osd_state": tuple(states),
        "osd_weight": tuple(weights),
        "primary_affinity": tuple(affinity) if rng.random() < 0.5 else (),
    }
    m = base.replace(**changes)
    return m.replace(**exceptions(rng, m, major))


def random_pool(rng: random.Random, base: OSDMap, rules: dict[int, str], major: int) -> PgPool:
    rule = rng.choice(list(rules)) if rng.random() < 0.98 else 11
    kind = rules.get(rule, "replicated")
    erasure = kind in ("erasure", "msr_indep")
    if major >= 18 and rng.random() < 0.1:
        erasure = not erasure  # newer releases do not care
    pg_num = rng.choice([1, 2, 3, 8, 12, 16, 21, 32, 33, 64])
    pgp_num = pg_num if rng.random() < 0.6 else rng.randint(1, pg_num)
    flags = 0 if rng.random() < 0.25 else FLAG_HASHPSPOOL
    size = rng.choice([1, 2, 3, 3, 3, 4, 6, 9]) if not erasure else rng.choice([2, 3, 4, 5, 6, 8, 11, 14, 20])
    template = next(iter(base.pools.values()))
    changes: dict[str, Any] = {}
    if major >= 20 and erasure and rng.random() < 0.4:
        flags |= FLAG_EC_OPTIMIZATIONS
        changes["nonprimary_shards"] = frozenset(rng.sample(range(size), rng.randrange(size)))
    return template.replace(
        type=TYPE_ERASURE if erasure else TYPE_REPLICATED,
        size=size,
        min_size=1,
        crush_rule=rule,
        object_hash=rng.choice([1, 2, 2]),
        pg_num=pg_num,
        pgp_num=pgp_num,
        pg_num_target=pg_num,
        pgp_num_target=pgp_num,
        pg_num_pending=pg_num - (rng.random() < 0.2 and pg_num > 1),
        flags=flags,
        **changes,
    )


def exceptions(rng: random.Random, m: OSDMap, major: int) -> dict[str, Any]:
    """What balancers, operators and recovery put in front of CRUSH."""
    n = m.max_osd
    share = rng.choice([0, 0.1, 0.5])
    out: dict[str, Any] = {}
    upmap: dict[PgId, tuple[int, ...]] = {}
    items: dict[PgId, tuple[tuple[int, int], ...]] = {}
    primaries: dict[PgId, int] = {}
    temp: dict[PgId, tuple[int, ...]] = {}
    primary_temp: dict[PgId, int] = {}

    def osd() -> int:
        return rng.randrange(n)

    def odd() -> int:
        return osd() if rng.random() < 0.9 else rng.choice([CRUSH_ITEM_NONE, -1, n, n + 7, -3, 0x7FFFFFFE])

    for number, pool in m.pools.items():
        for seed in range(pool.pg_num):
            pg = PgId(number, seed)
            there = m.pg_to_raw_osds(number, seed)[0]
            if rng.random() < share / 2:
                length = pool.size if rng.random() < 0.7 else rng.randint(0, MAX_SIZE)
                upmap[pg] = tuple(odd() for _ in range(length))
            if rng.random() < share:
                pairs: list[tuple[int, int]] = []
                for _ in range(rng.choice([1, 1, 2, 4])):
                    source = rng.choice(there) if there and rng.random() < 0.8 else odd()
                    if pairs and rng.random() < 0.3:
                        source = pairs[-1][1]
                    pairs.append((source, odd()))
                items[pg] = tuple(pairs)
            if major >= 18 and rng.random() < share:
                primaries[pg] = rng.choice(there) if there and rng.random() < 0.7 else odd()
            if rng.random() < share / 3:
                fixed = pool.allows_ecoptimizations or rng.random() < 0.8  # Ceph asserts the length for these
                length = pool.size if fixed else rng.randint(0, MAX_SIZE)
                temp[pg] = tuple(odd() for _ in range(length))
            if rng.random() < share / 3:
                primary_temp[pg] = rng.choice([osd(), osd(), -1, *there[:1]])
    for name, value in (("pg_upmap", upmap), ("pg_upmap_items", items), ("pg_temp", temp)):
        out[name] = value
    out["primary_temp"] = {pg: o for pg, o in primary_temp.items() if o < n}  # osdmaptool counts by this
    if major >= 18:
        out["pg_upmap_primaries"] = primaries
    return out
