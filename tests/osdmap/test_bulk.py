"""All groups of a pool at once are where each of them is, with and without numpy."""

from __future__ import annotations

import gzip
import random
import sys
from pathlib import Path

import pytest

from pyrbd.osdmap import OSDMap, bulk
from pyrbd.osdmap.crush import (
    BUCKET_LIST,
    BUCKET_STRAW2,
    BUCKET_UNIFORM,
    Bucket,
    ChooseArg,
    CrushMap,
    Rule,
    Step,
    Tunables,
)
from pyrbd.osdmap.hash import crush_hash32_2, crush_hash32_3
from tests.osdmap.record_random import MOST_TRIES
from tests.osdmap.test_random_maps import Answer, recorded

DATA = Path(__file__).parent / "data"
WAYS = ["numpy", "integers"]
RECORDED = [each for each in recorded() if not each[0].endswith(str(MOST_TRIES))]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either of the two, for any number of groups."""
    monkeypatch.setattr(bulk, "_FEW", 8)
    if request.param == "numpy":
        pytest.importorskip("numpy")
    else:
        without_numpy(monkeypatch)
    return str(request.param)


def without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that does not have it."""
    monkeypatch.setitem(sys.modules, "pyrbd.osdmap.vector", None)


def check(m: OSDMap, pool: int) -> int:
    rows = list(m.map_pgs(pool))
    assert [row[0] for row in rows] == list(range(m.pools[pool].pg_num))
    for seed, raw, *rest in rows:
        assert raw == m.pg_to_raw_osds(pool, seed)[0], f"{pool}.{seed:x}"
        assert tuple(rest) == m.pg_to_up_acting(pool, seed), f"{pool}.{seed:x}"
    return len(rows)


@pytest.mark.parametrize("name, answer", [pytest.param(*each, id=each[0]) for each in RECORDED])
def test_recorded_maps(way: str, name: str, answer: Answer) -> None:
    """The maps of test_random_maps, of which each group is known to be where Ceph has it."""
    m = OSDMap.decode_full(answer.map)
    assert sum(check(m, pool) for pool in m.pools) == len(answer.groups)


def tree(rng: random.Random, hosts: int, odd: bool) -> CrushMap:
    """Hosts of different sizes in a root of straw2, some of them of another kind of bucket."""
    crush = CrushMap()
    crush.tunables = Tunables(0, 0, 50, 1, 1, 1)
    osd = 0
    ids = []
    for i in range(hosts):
        n = rng.choice([0, 1, 3, 4, 4, 4, 9]) if odd else 4
        weights = tuple(rng.choice([0x10000, 0x10000, 0x18000, 0, 77]) if odd else 0x10000 for _ in range(n))
        ident = -2 - i
        alg = rng.choice([BUCKET_STRAW2] * 4 + [BUCKET_UNIFORM, BUCKET_LIST]) if odd else BUCKET_STRAW2
        sums = tuple(sum(weights[: k + 1]) for k in range(n))
        crush.buckets[ident] = Bucket(
            ident, 1, alg, 0, sum(weights), tuple(range(osd, osd + n)), weights, sums if alg == BUCKET_LIST else ()
        )
        ids.append(ident)
        osd += n
    weights = tuple(crush.buckets[i].weight for i in ids)
    crush.buckets[-1] = Bucket(-1, 2, BUCKET_STRAW2, 0, sum(weights), tuple(ids), weights)
    crush.max_devices = osd
    return crush


RULES = {
    "chooseleaf firstn": [(6, 0, 1)],
    "chooseleaf indep": [(7, 0, 1)],
    "choose firstn of devices": [(2, 0, 0)],
    "choose indep of devices": [(3, 0, 0)],
    "two by two": [(2, 2, 1), (2, 2, 0)],
    "two by two, indep": [(3, 2, 1), (7, 2, 0)],
    "fewer than wanted": [(6, -1, 1)],
    "more than there are": [(7, 12, 1)],
}


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
def test_rules(way: str, rule: str, odd: bool) -> None:
    """Trees with holes, devices that are out or half out, weight-sets, tunables."""
    for seed in range(4):
        rng = random.Random(seed)
        crush = tree(rng, rng.choice([5, 9]), odd)
        steps = [Step(1, -1, 0), *(Step(*s) for s in RULES[rule]), Step(4, 0, 0)]
        if seed % 2:
            crush.tunables = Tunables(0, 0, rng.choice([3, 50]), seed & 1, rng.choice([0, 1, 2]), rng.choice([0, 1]))
            steps.insert(0, Step(9, 3, 0))
        crush.rules[0] = Rule(1, tuple(steps))
        args = None
        if seed == 2:
            root = crush.buckets[-1]
            sets = tuple(tuple(rng.choice([0x10000, 0x30000]) for _ in root.items) for _ in range(2))
            args = {-1: ChooseArg(sets, tuple(-100 - i for i in range(len(root.items))))}
        weights = [rng.choice([0x10000, 0x10000, 0x8000, 0]) for _ in range(crush.max_devices - 1)]
        xs = [rng.getrandbits(32) for _ in range(150)]
        got = bulk.crush_do_rule_bulk(crush, 0, xs, 4, weights, args)
        for x, row in zip(xs, got):
            assert row == crush.do_rule(0, x, 4, weights, args), f"seed {seed}, x {x}"


def test_a_rule_that_does_not_end_finds_nobody(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrbd.osdmap.crush.MAX_DRAWS", 100_000)
    crush = tree(random.Random(1), 3, False)
    crush.tunables = crush.tunables._replace(choose_total_tries=(1 << 31) - 1)
    crush.rules[0] = Rule(3, (Step(1, -1, 0), Step(7, 0, 1), Step(4, 0, 0)))
    assert bulk.crush_do_rule_bulk(crush, 0, range(10), 5, [0x10000] * 12) == [[]] * 10


def test_hashes_of_many() -> None:
    rng = random.Random(5)
    xs = [rng.getrandbits(32) for _ in range(5000)] + [0, 0xFFFFFFFF]
    assert bulk.crush_hash32_2_bulk(xs, 3) == [crush_hash32_2(x, 3) for x in xs]
    np = pytest.importorskip("numpy")
    from pyrbd.osdmap import vector

    got = vector.crush_hash32_3(np.array(xs, np.uint32), np.array([7], np.uint32), np.array([2], np.uint32))
    assert vector.crush_hash32_2(
        np.array(xs, np.uint32), np.array([3], np.uint32)
    ).tolist() == bulk.crush_hash32_2_bulk(xs, 3)
    assert got.tolist() == [crush_hash32_3(x, 7, 2) for x in xs]


def test_memory_is_bounded(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool with two thousand million groups, as no monitor makes it: the first come at once."""
    monkeypatch.setattr(bulk, "_BLOCK", 1024)
    m = OSDMap.decode_full(gzip.decompress((DATA / "map.gz").read_bytes()))
    pool = min(m.pools)
    huge = m.replace(pools={**m.pools, pool: m.pools[pool].replace(pg_num=1 << 31, pgp_num=1 << 31)})
    rows = huge.map_pgs(pool)
    assert [next(rows)[0] for _ in range(3)] == [0, 1, 2]


def test_what_is_used_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the tests of both ways test two ways."""
    pytest.importorskip("numpy")
    used = []
    original = bulk._Bulk.map
    monkeypatch.setattr(bulk._Bulk, "map", lambda self, xs: used.append(len(xs)) or original(self, xs))
    crush = tree(random.Random(1), 5, False)
    crush.rules[0] = Rule(1, (Step(1, -1, 0), Step(6, 0, 1), Step(4, 0, 0)))
    with_numpy = bulk.crush_do_rule_bulk(crush, 0, range(200), 3, [0x10000] * 20)
    assert not used
    without_numpy(monkeypatch)
    assert bulk.crush_do_rule_bulk(crush, 0, range(200), 3, [0x10000] * 20) == with_numpy
    assert used == [200]
