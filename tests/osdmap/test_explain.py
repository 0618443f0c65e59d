"""An explanation tells what the map does: its draws are the mapper's, its sets those of `pg_to_up_acting`."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd.cli.explain import print_explanation
from pyrbd.errors import DecodeError
from pyrbd.msgr.types import PgId
from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.crush import (
    BUCKET_LIST,
    BUCKET_STRAW,
    BUCKET_STRAW2,
    BUCKET_TREE,
    BUCKET_UNIFORM,
    CRUSH_ITEM_NONE,
    RULE_CHOOSE_FIRSTN,
    RULE_CHOOSE_INDEP,
    RULE_CHOOSELEAF_FIRSTN,
    RULE_CHOOSELEAF_INDEP,
    RULE_EMIT,
    RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES,
    RULE_SET_CHOOSE_LOCAL_TRIES,
    RULE_SET_CHOOSE_TRIES,
    RULE_SET_CHOOSELEAF_STABLE,
    RULE_SET_CHOOSELEAF_TRIES,
    RULE_SET_CHOOSELEAF_VARY_R,
    RULE_TAKE,
    Bucket,
    ChooseArg,
    CrushMap,
    Rule,
    Step,
    Tunables,
)
from pyrbd.osdmap.explain import Draw, Verdict, explain
from pyrbd.osdmap.pool import FLAG_EC_OPTIMIZATIONS, TYPE_ERASURE, TYPE_REPLICATED

DATA = Path(__file__).parent / "data"
ALGS = [BUCKET_UNIFORM, BUCKET_LIST, BUCKET_TREE, BUCKET_STRAW, BUCKET_STRAW2]


def recorded(name: str) -> OSDMap:
    return OSDMap.decode_full(gzip.decompress((DATA / f"{name}.gz").read_bytes()))


def bucket(rng: random.Random, ident: int, kind: int, alg: int, items: list[tuple[int, int]]) -> Bucket:
    """A bucket of (item, weight)."""
    ids, weights = tuple([i for i, _ in items]), tuple([w for _, w in items])
    extra: tuple[int, ...] = ()
    if alg == BUCKET_UNIFORM:
        weights = weights[:1] * len(weights)
    elif alg == BUCKET_LIST:
        extra = tuple([sum(weights[: i + 1]) for i in range(len(weights))])
    elif alg == BUCKET_STRAW:
        extra = tuple([rng.randint(0, 0x30000) for _ in weights])
    elif alg == BUCKET_TREE:
        size = 2 << (len(weights) - 1).bit_length() if weights else 2
        nodes = [0] * size
        for i, w in enumerate(weights):
            nodes[2 * i + 1] = w
        for level in range(1, size.bit_length()):
            half = 1 << (level - 1)
            for n in range(1 << level, size, 2 << level):
                nodes[n] = nodes[n - half] + nodes[n + half]
        extra, weights = tuple(nodes), ()
    return Bucket(ident, kind, alg, 0, sum(w for _, w in items), ids, weights, extra)


def random_crush(rng: random.Random, osds: int) -> CrushMap:
    """Two layers of buckets of any algorithm; rules of any steps."""
    m = CrushMap()
    m.max_devices = osds
    m.type_names = {0: "osd", 1: "host", 2: "root"}
    devices = list(range(osds))
    hosts = []
    while devices:
        size = rng.choice([0, 1, 2, 3, 5])
        items = [(devices.pop(), rng.choice([0, 0x8000, 0x10000, 0x20000])) for _ in range(min(size, len(devices)))]
        host = bucket(rng, -2 - len(hosts), 1, rng.choice(ALGS), items)
        hosts.append(host)
        m.names[host.id] = f"host{len(hosts)}"
    m.buckets = {h.id: h for h in hosts}
    m.buckets[-1] = bucket(rng, -1, 2, rng.choice(ALGS), [(h.id, h.weight) for h in hosts])
    m.names[-1] = "root"
    setters = (
        (RULE_SET_CHOOSE_TRIES, 1, 30),
        (RULE_SET_CHOOSELEAF_TRIES, 0, 5),
        (RULE_SET_CHOOSE_LOCAL_TRIES, 0, 3),
        (RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES, 0, 3),
        (RULE_SET_CHOOSELEAF_VARY_R, 0, 3),
        (RULE_SET_CHOOSELEAF_STABLE, 0, 1),
    )
    for number in range(4):
        steps = [Step(op, rng.randint(low, high), 0) for op, low, high in setters if rng.random() < 0.3]
        steps.append(Step(RULE_TAKE, -1, 0))
        leaf, plain = rng.choice(
            [(RULE_CHOOSELEAF_FIRSTN, RULE_CHOOSE_FIRSTN), (RULE_CHOOSELEAF_INDEP, RULE_CHOOSE_INDEP)]
        )
        if rng.random() < 0.3:
            steps += [Step(plain, rng.choice([0, 2]), 1), Step(plain, rng.choice([0, 1, 2]), 0)]
        elif rng.random() < 0.2:
            steps.append(Step(plain, 0, 0))
        else:
            steps.append(Step(leaf, rng.choice([0, 0, 2, -1]), 1))
        m.rules[number] = Rule(1, (*steps, Step(RULE_EMIT, 0, 0)))
        m.rule_names[number] = f"rule{number}"
    local = rng.choice([(0, 0), (2, 5)])
    m.tunables = Tunables(*local, rng.choice([5, 19, 50]), rng.randint(0, 1), rng.randint(0, 2), rng.randint(0, 1))
    if rng.random() < 0.5:
        m.choose_args[rng.choice([1, -1])] = {
            b.id: ChooseArg(
                tuple([tuple([rng.randint(0, 0x20000) for _ in b.items]) for _ in range(rng.randint(0, 3))]),
                tuple([rng.randint(-100, 100) for _ in b.items]) if rng.random() < 0.3 else (),
            )
            for b in m.buckets.values()
            if b.alg == BUCKET_STRAW2
        }
    return m


def random_map(rng: random.Random) -> OSDMap:
    m = recorded("map")
    n = rng.randint(1, 25)
    m.max_osd = n
    m.osd_state = tuple(rng.choices([0, 1, 3], [1, 2, 20], k=n))
    m.osd_weight = tuple(rng.choices([0, 0x4000, 0xFFFF, 0x10000], [2, 2, 1, 12], k=n))
    m.primary_affinity = tuple(rng.choices([0, 0x4000, 0x10000], k=n)) if rng.random() < 0.5 else ()
    m._crush = random_crush(rng, n)
    pool = m.pools[1].replace(
        type=rng.choice([TYPE_REPLICATED, TYPE_ERASURE]),
        size=rng.randint(1, 6),
        crush_rule=rng.choice([0, 1, 2, 3, 7]),
        flags=rng.choice([0, 1, FLAG_EC_OPTIMIZATIONS, FLAG_EC_OPTIMIZATIONS | 1]),
        nonprimary_shards=frozenset(rng.sample(range(6), rng.randint(0, 3))),
        object_hash=rng.choice([1, 2]),
        pg_num=rng.randint(1, 40),
    )
    m.pools = {1: pool.replace(pgp_num=rng.randint(1, pool.pg_num))}
    seeds = [PgId(1, i) for i in range(pool.pg_num)]

    def some(value: object) -> dict[PgId, object]:
        return {pg: value() for pg in seeds if rng.random() < 0.4}  # type: ignore[operator]

    def osd() -> int:
        return rng.choice([*range(n), n, CRUSH_ITEM_NONE])

    m.pg_upmap = some(lambda: tuple([osd() for _ in range(rng.randint(1, 4))]))
    m.pg_upmap_items = some(lambda: tuple([(osd(), osd()) for _ in range(rng.randint(1, 3))]))
    m.pg_upmap_primaries = some(osd)
    m.pg_temp = some(lambda: tuple([osd() for _ in range(rng.randint(1, 4))]))
    m.primary_temp = some(lambda: rng.randrange(n))
    return m


@pytest.mark.parametrize("seed", range(60))
def test_explanation_is_what_the_map_does(seed: int) -> None:
    rng = random.Random(seed)
    m = random_map(rng)
    for i in range(12):
        e = explain(m, 1, f"object{i}", rng.choice(["", "key"]), rng.choice(["", "space"]))
        assert e.hash == m.object_to_raw_hash(1, e.object, e.key, e.namespace)
        assert e.pgid == m.raw_hash_to_pg(1, e.hash) == PgId(1, e.pg.result)
        assert e.pps == m.pools[1].raw_pg_to_pps(1, e.hash)
        assert (e.up, e.up_primary, e.acting, e.acting_primary) == m.pg_to_up_acting(1, e.pgid.seed)
        assert e.raw == m.pg_to_raw_osds(1, e.pgid.seed)[0]
        assert not e.steps or e.steps[-1].result == e.crush
        for step in e.steps:
            for event in step.events:
                if isinstance(event, Draw):
                    won = [c for c in event.candidates if c.won]
                    assert event.alg == "tree" or [c.item for c in won] == [event.item]
        json.dumps(e.as_dict())


def test_all_kinds_of_draws_and_verdicts_are_met() -> None:
    """What the test above covers."""
    algs, verdicts, stages, texts = set(), set(), set(), []
    for seed in range(60):
        rng = random.Random(seed)
        m = random_map(rng)
        for i in range(6):
            e = explain(m, 1, f"object{i}")
            stages |= {(s.kind, s.applied) for s in e.stages}
            texts += [s.text for s in e.stages]
            for event in (event for step in e.steps for event in step.events):
                if isinstance(event, Draw):
                    algs.add(event.alg)
                else:
                    assert isinstance(event, Verdict)
                    verdicts.add(event.verdict)
    assert algs == {"uniform", "list", "tree", "straw", "straw2", "permutation"}
    assert verdicts >= {"taken", "collision", "out", "leafless", "exhausted", "empty"}
    assert any("in the order of the shards" in text for text in texts)
    kinds = ("pg_upmap", "pg_upmap_items", "pg_upmap_primaries", "pg_temp")
    assert stages >= {("exists", True), ("down", True), ("primary_temp", True)}
    assert stages >= {(kind, applied) for kind in kinds for applied in (True, False)}


def test_cache_tiers_are_mentioned() -> None:
    m = recorded("page-healthy")
    m.pools = {3: m.pools[3].replace(read_tier=5, write_tier=5)}
    lines: list[str] = []
    print_explanation(explain(m, 3, "x"), False, lines.append)
    assert "reads go to pool 5 and writes go to pool 5 first" in lines[1]


def test_recorded_maps() -> None:
    for name in ("map", "page-healthy", "page-moved", "page-down", "page-out"):
        m = recorded(name)
        for pool in m.pools:
            for i in range(20):
                e = explain(m, pool, f"object{i}")
                assert (e.up, e.up_primary, e.acting, e.acting_primary) == m.pg_to_up_acting(pool, e.pgid.seed)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_damaged_crush_maps_are_explained_or_refused(rng: random.Random) -> None:
    m = recorded("page-healthy")
    raw = bytearray(m._crush_raw)
    for _ in range(rng.randint(1, 4)):
        raw[rng.randrange(len(raw))] = rng.choice([0, 1, 255, rng.randrange(256)])
    try:
        m._crush = CrushMap.decode(bytes(raw))
    except DecodeError:
        return
    e = explain(m, 3, "strawberry")
    assert (e.up, e.up_primary, e.acting, e.acting_primary) == m.pg_to_up_acting(3, 9)
    lines: list[str] = []
    print_explanation(e, True, lines.append)
    assert lines
