"""Maps that no monitor would write: a DecodeError that says what is wrong, or the placement that Ceph gives."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd.errors import DecodeError
from pyrbd.msgr.types import PgId
from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.crush import CrushMap
from tests.osdmap.maps.oracle import Oracle, ToolFailed, differences, installed
from tests.osdmap.test_random_maps import recorded

NONE = 0x7FFFFFFF
MAPS = {name: OSDMap.decode_full(answer.map) for name, answer in recorded()}
BASE = next(m for m in MAPS.values() if m.pg_temp and m.max_osd > 3)
POOL = min(BASE.pools)


def changed(**fields: Any) -> OSDMap:
    """The map with a pool that is different, through its bytes."""
    pools = dict(BASE.pools)
    pools[POOL] = pools[POOL].replace(**fields)
    return OSDMap.decode_full(BASE.replace(pools=pools).encode())


def first_groups(m: OSDMap, n: int = 4) -> list[Any]:
    started = time.monotonic()
    got = [m.pg_to_up_acting(pool, seed) for pool, p in m.pools.items() for seed in range(min(n, p.pg_num))]
    assert time.monotonic() - started < 20
    return got


def test_a_wrong_crc() -> None:
    data = bytearray(BASE.encode())
    data[-1] ^= 1
    with pytest.raises(DecodeError, match="crc"):
        OSDMap.decode_full(bytes(data))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_truncated_crush_map_with_a_correct_crc(data: st.DataObject) -> None:
    """The map is read, as its CRUSH map is not decoded yet; what needs that says what is wrong or finds nothing."""
    whole = BASE.crush_data
    cut = data.draw(st.integers(0, len(whole) - 1))
    m = OSDMap.decode_full(with_crush(BASE, whole[:cut]))
    try:
        _ = m.crush
    except DecodeError:
        pass
    for _, up_primary, _, _ in first_groups(m):
        assert up_primary < m.max_osd


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_with_a_correct_crc(data: st.DataObject) -> None:
    m = MAPS[data.draw(st.sampled_from(sorted(MAPS)))]
    crush = bytearray(m.crush_data)
    for _ in range(data.draw(st.integers(1, 3))):
        crush[data.draw(st.integers(0, len(crush) - 1))] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    damaged = OSDMap.decode_full(with_crush(m, bytes(crush)))
    first_groups(damaged, 2)


def with_crush(m: OSDMap, crush: bytes) -> bytes:
    """The map's encoding with this CRUSH map, whatever that is."""
    other = m.replace(crush_data=crush)
    other._crush_features = other.encode_features  # as it is
    return other.encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"pg_num": 0, "pgp_num": 0},
        {"pgp_num": 0},
        {"pg_num": 1 << 31, "pgp_num": 1 << 31},
        {"pg_num": (1 << 32) - 1, "pgp_num": (1 << 32) - 1},
        {"size": 0},
        {"size": 255},
        {"crush_rule": 255},
        {"type": 2},
        {"type": 255},
        {"object_hash": 0},
        {"object_hash": 77},
    ],
    ids=str,
)
def test_pools_that_cannot_be(fields: dict[str, int]) -> None:
    try:
        m = changed(**fields)
        placed = first_groups(m)
        ps = m.object_to_raw_hash(POOL, "x")
        pg = m.raw_hash_to_pg(POOL, ps)
        assert pg.seed < max(1, m.pools[POOL].pg_num)
    except DecodeError:
        return
    if fields in ({"size": 0}, {"crush_rule": 255}):
        assert not any(m.pg_to_raw_osds(POOL, seed)[0] for seed in range(m.pools[POOL].pg_num))
    assert all(osd == NONE or 0 <= osd < m.max_osd for up, *_ in placed for osd in up)


@pytest.mark.parametrize("affinity", [(0x8000,), (0x8000,) * 1000])
def test_affinity_of_another_number_of_osds(affinity: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError, match="affinit"):
        OSDMap.decode_full(BASE.replace(primary_affinity=affinity).encode())


@pytest.mark.parametrize("name", ["osd_state", "osd_weight"])
def test_fewer_osds_than_announced(name: str) -> None:
    with pytest.raises(DecodeError):
        OSDMap.decode_full(BASE.replace(**{name: getattr(BASE, name)[:-1]}).encode())


def test_a_map_without_osds() -> None:
    """Nothing is placed; a negative number of OSDs is none."""
    data = BASE.replace(max_osd=-5).encode()
    with pytest.raises(DecodeError):
        OSDMap.decode_full(data)


def test_exceptions_for_osds_that_cannot_be() -> None:
    """Nobody up is named, whatever the lists say; a temporary primary is believed, as Ceph does."""
    odd = (-1, -(1 << 31), NONE, NONE - 1, BASE.max_osd, 1 << 30)
    pgs = [PgId(POOL, seed) for seed in range(BASE.pools[POOL].pg_num)]
    m = OSDMap.decode_full(
        BASE.replace(
            pg_upmap={pgs[0]: odd},
            pg_upmap_items=dict.fromkeys(pgs, tuple(zip(odd, reversed(odd)))),
            pg_temp={pgs[0]: odd, PgId(99, 1): odd},
            primary_temp=dict.fromkeys(pgs, 1 << 30),
        ).encode()
    )
    for pg in pgs:
        up, _, acting, primary = m.pg_to_up_acting(pg.pool, pg.seed)
        assert all(osd == NONE or m.is_up(osd) for osd in (*up, *acting))
        assert primary == 1 << 30


def huge_counts() -> list[bytes]:
    """CRUSH maps that announce more than is there."""
    magic = struct.pack("<I", 0x00010000)
    return [
        magic + struct.pack("<iIi", 1 << 30, 0, 1),
        magic + struct.pack("<iIi", -1, 0, 1),
        magic + struct.pack("<iIi", 0, 0xFFFFFFFF, 1),
        magic + struct.pack("<iIiIiHBBII", 1, 0, 1, 5, -1, 1, 5, 0, 0, 0xFFFFFFFF),
        b"",
        magic,
    ]


@pytest.mark.parametrize("crush", huge_counts())
def test_counts_without_what_they_count(crush: bytes) -> None:
    with pytest.raises(DecodeError):
        CrushMap.decode(crush)
    m = OSDMap.decode_full(with_crush(BASE, crush))
    with pytest.raises(DecodeError):
        _ = m.crush


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 0},
        {"size": 29},
        {"crush_rule": 200},
        {"pg_num": 7, "pgp_num": 100},
        {"pg_num": 100, "pgp_num": 1},
        {"object_hash": 0},
    ],
    ids=str,
)
def test_odd_pools_are_placed_as_ceph_does(tmp_path: Path, fields: dict[str, int]) -> None:
    if not installed():
        pytest.skip("osdmaptool and crushtool are not installed: there is no oracle for this test")
    oracle = Oracle(tmp_path)
    played = 0
    for seed in range(40, 60):
        try:
            answer = oracle.play(seed)
            m = OSDMap.decode_full(answer.map)
            pool = min(m.pools)
            odd = m.replace(pools={**m.pools, pool: m.pools[pool].replace(**fields)}, pg_temp={})
            answer = oracle.ask(odd.encode(), tmp_path / "crush")
        except ToolFailed:
            continue
        assert not differences(answer)
        played += 1
        if played == 2:
            return
    pytest.fail("the tools refuse all of them")
