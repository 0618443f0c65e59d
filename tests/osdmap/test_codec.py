"""Maps are read, changed and written as Ceph does: the bytes, and so the crc, are the monitors'."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd import rados
from pyrbd.denc import Decoder, Encoder
from pyrbd.errors import DecodeError
from pyrbd.msgr.types import EntityAddr, EntityAddrVec, Eversion, PgId, Utime
from pyrbd.osdmap import Incremental, OSDMap
from pyrbd.osdmap.addrs import addr_bytes
from pyrbd.osdmap.columns import ADDRS, INFOS, UUIDS, XINFOS, Column, OsdInfo, OsdXInfo
from pyrbd.osdmap.features import SERVER_TENTACLE, encoding_features
from pyrbd.osdmap.osdmap import LAZY_FIELDS
from pyrbd.osdmap.pool import FLAG_EC_OPTIMIZATIONS, TYPE_ERASURE, PgPool
from pyrbd.osdmap.pool_types import (
    HIT_SET_BLOOM,
    POOL_OPT_NAMES,
    HitSetParams,
    IntervalSet,
    PgMergeMeta,
    PoolSnap,
    subtract,
    union,
)
from tests.conftest import own_cluster
from tests.osdmap.history import OSDS, History, happen

RELEASES = ["nautilus", "pacific", "reef", "tentacle"]


def by_value(m: OSDMap) -> OSDMap:
    """The same map with every field given by its value: nothing is left of the bytes that it came in."""
    changes: dict[str, object] = {name: getattr(m, name) for name in LAZY_FIELDS}
    changes["pools"] = {i: pool.replace() for i, pool in m.pools.items()}
    changes["client_addrs"] = Column(ADDRS, list(m.client_addrs))
    for name in ("cluster_addrs", "hb_back_addrs", "hb_front_addrs"):
        changes[name] = Column(ADDRS, list(getattr(m.section, name)))
    changes["osd_info"] = Column(INFOS, list(m.section.osd_info))
    changes["osd_xinfo"] = Column(XINFOS, list(m.section.osd_xinfo))
    changes["osd_uuid"] = Column(UUIDS, list(m.section.osd_uuid))
    return m.replace(**changes)


@pytest.mark.parametrize("release", RELEASES)
def test_full_maps_are_written_as_they_were(release: str) -> None:
    for epoch, data in History.load(release).full.items():
        m = OSDMap.decode_full(data)
        assert m.epoch == epoch
        assert m.encode() == data
        assert by_value(m).encode() == data
        assert m.crc == by_value(m).crc == int.from_bytes(data[-4:], "little")


@pytest.mark.parametrize("release", RELEASES)
def test_incrementals_are_written_as_they_were(release: str) -> None:
    for data in History.load(release).incrementals.values():
        inc = Incremental.decode(data)
        inc.new_pools = {i: pool.replace() for i, pool in inc.new_pools.items()}
        assert inc.encode() == data


def follow(history: History) -> int:
    """Goes through a history as a client does; the number of epochs whose crc was compared."""
    first = min(history.full)
    m = OSDMap.decode_full(history.full[first])
    compared = 0
    for epoch in sorted(history.incrementals):
        inc = Incremental.decode(history.incrementals[epoch])
        before = m.encode()
        following = m.apply(inc)
        assert m.encode() == before, f"epoch {epoch} changed the map before it"
        m = following
        assert m.crc == inc.full_crc, f"epoch {epoch}, {inc}"
        compared += 1
        if epoch in history.full:
            assert m.encode() == history.full[epoch]
    return compared


@pytest.mark.parametrize("release", RELEASES)
def test_the_crc_is_the_monitors_in_every_epoch(release: str) -> None:
    history = History.load(release)
    assert follow(history) > 60


def test_a_history_of_a_monitor() -> None:
    with own_cluster(osds=OSDS) as cluster, rados.Rados(conffile=str(cluster.conf)) as handle:
        history = happen(handle, 50, seed=7, careful=True)
    follow(history)


def test_the_next_map_shares_what_did_not_change() -> None:
    history = History.load("pacific")
    m = OSDMap.decode_full(history.full[min(history.full)])
    inc = Incremental(epoch=m.epoch + 1, fsid=m.fsid, new_pg_temp={PgId(1, 1): (0, 1)})
    following = m.apply(inc)
    assert following.osd_state is m.osd_state
    assert following.client_addrs is m.client_addrs
    assert PgId(1, 1) not in m.pg_temp
    assert following.pg_temp[PgId(1, 1)] == (0, 1)


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: there is no oracle for this test")


def test_a_map_that_was_changed_is_read_by_osdmaptool(tmp_path: Path) -> None:
    """It checks the crc."""
    needs("osdmaptool")
    f = tmp_path / "map"
    subprocess.run(["osdmaptool", "--createsimple", "5", f, "--with-default-pool"], capture_output=True, check=True)
    m = OSDMap.decode_full(f.read_bytes())
    assert by_value(m).encode() == f.read_bytes()
    pool = next(iter(m.pools))
    addrs = EntityAddrVec((EntityAddr(2, 7, "10.1.2.3", 6800), EntityAddr(1, 7, "fd00::1", 6801)))
    changed = m.replace(
        pools={pool: m.pools[pool].replace(quota_max_bytes=4711)},
        osd_state=(3,) * 5,
        client_addrs=Column(ADDRS, [addrs] * 5),
        blocklist_stamps={addr_bytes(EntityAddr(3, 9, "10.9.9.9", 0)): bytes(8)},
    )
    f.write_bytes(changed.encode())
    out = subprocess.run(["osdmaptool", f, "--print"], capture_output=True, text=True, check=True).stdout
    assert "max_bytes 4711" in out
    assert "[v2:10.1.2.3:6800/7,v1:[fd00::1]:6801/7]" in out
    assert "blocklist 10.9.9.9:0/9 expires 0.000000" in out
    f.write_bytes(changed.encode()[:-1] + b"\0")
    assert subprocess.run(["osdmaptool", f, "--print"], capture_output=True, check=False).returncode != 0


POOL = PgPool(
    TYPE_ERASURE, 6, 1, 2, 64, 32,
    last_change=9, snap_seq=7, snap_epoch=8, snaps={3: PoolSnap("a", Utime(1, 2), 3)}, removed_snaps=((1, 2), (5, 1)),
    auid=1, flags=FLAG_EC_OPTIMIZATIONS | 1 << 13, min_size=5, quota_max_bytes=10, quota_max_objects=11, tiers=(4, 5),
    tier_of=3, cache_mode=5, read_tier=4, write_tier=5, properties={"x": "y"},
    hit_set_params=HitSetParams(HIT_SET_BLOOM, 50000, 1000, 77), hit_set_period=1, hit_set_count=2, stripe_width=4096,
    target_max_bytes=1, target_max_objects=2, cache_target_dirty_ratio_micro=3, cache_target_full_ratio_micro=4,
    cache_min_flush_age=5, cache_min_evict_age=6, erasure_code_profile="p", last_force_op_resend_preluminous=7,
    min_read_recency_for_promote=8, expected_num_objects=9, cache_target_dirty_high_ratio_micro=10,
    min_write_recency_for_promote=11, use_gmt_hitset=0, fast_read=1, hit_set_grade_decay_rate=12,
    hit_set_search_last_n=13, opts={"compression_mode": "force", "pg_num_min": 3, "target_size_ratio": 0.5},
    last_force_op_resend_prenautilus=14, application_metadata={"rbd": {"k": "v"}}, create_time=Utime(5, 6),
    pg_num_target=128, pgp_num_target=64, pg_num_pending=63, last_force_op_resend=15, pg_autoscale_mode=2,
    last_pg_merge_meta=PgMergeMeta(PgId(1, 2), 3, 4, 5, Eversion(6, 7), Eversion(8, 9)),
    peering_crush_bucket_count=2, peering_crush_bucket_target=3, peering_crush_bucket_barrier=8,
    peering_crush_mandatory_member=-5, nonprimary_shards=frozenset({1, 2, 3, 70}),
)  # fmt: skip


def encoded(pool: PgPool, features: int) -> bytes:
    e = Encoder()
    pool.encode(e, features)
    return bytes(e.buf)


@pytest.mark.parametrize(("release", "version"), [(12, 26), (13, 27), (14, 30), (16, 30), (19, 30), (20, 32)])
def test_a_pool_of_each_release(release: int, version: int) -> None:
    """With all fields set; what a release does not have yet is what it is by default."""
    data = encoded(POOL.replace(), encoding_features(release))
    assert data[0] == version
    again = PgPool.from_bytes(data)
    if version == 32:
        assert again == POOL
    elif version == 30:
        assert again == POOL.replace(nonprimary_shards=frozenset())
    assert encoded(again.replace(), encoding_features(release)) == data


def test_what_a_newer_release_appends_is_skipped() -> None:
    data = encoded(POOL.replace(), encoding_features(20))
    longer = bytearray(data + b"more")
    longer[0] += 3
    longer[2:6] = (len(longer) - 6).to_bytes(4, "little")
    assert PgPool.from_bytes(bytes(longer)) == POOL
    longer[1] = longer[0]  # and must be understood
    with pytest.raises(DecodeError):
        PgPool.from_bytes(bytes(longer))


def test_all_options_of_pools_have_their_numbers() -> None:
    opts: dict[str, str | int | float] = dict.fromkeys(POOL_OPT_NAMES, 1)
    opts["99"] = 0.5  # one that is not known keeps its number
    data = encoded(POOL.replace(opts=opts), SERVER_TENTACLE | encoding_features(20))
    assert PgPool.from_bytes(data).opts == opts


def test_optimized_erasure_coded_pools_have_other_orders_in_pg_temp() -> None:
    """OSDMap::pgtemp_undo_primaryfirst: its own example."""
    history = History.load("pacific")
    base = OSDMap.decode_full(history.full[min(history.full)])
    none = 0x7FFFFFFF
    pool = POOL.replace(nonprimary_shards=frozenset({1, 2, 3}), crush_rule=0)
    m = base.replace(
        max_osd=11,
        osd_state=(3,) * 11,
        osd_weight=(0x10000,) * 11,
        primary_affinity=(),
        client_addrs=Column(ADDRS, [EntityAddrVec()] * 11),
        pools={77: pool},
        pg_temp={PgId(77, 1): (none, 9, 10, 6, 7, 8), PgId(77, 2): (1, 2)},
    )
    _, _, acting, primary = m.pg_to_up_acting(77, 1)
    assert (acting, primary) == ((none, 6, 7, 8, 9, 10), 9)
    assert m.pg_to_up_acting(77, 2)[2] == (1, 2)  # too short: a map that no monitor writes


def test_what_happens_to_an_osd() -> None:
    """Down, then destroyed: times, addresses and affinity follow, step by step."""
    history = History.load("pacific")
    m = OSDMap.decode_full(history.full[min(history.full)])
    info = m.section.osd_info[1]
    down = m.apply(Incremental(epoch=m.epoch + 1, fsid=m.fsid, modified=Utime(77, 0), new_state={1: 0}))
    assert not down.is_up(1)
    assert down.section.osd_info[1] == info._replace(down_at=down.epoch)
    assert down.section.osd_xinfo[1].down_stamp == Utime(77, 0)
    gone = down.apply(Incremental(epoch=down.epoch + 1, fsid=m.fsid, new_state={1: 1}))
    assert not gone.exists(1)
    assert gone.osd_addrs(1) == EntityAddrVec()
    assert (gone.section.osd_info[1], gone.section.osd_xinfo[1]) == (OsdInfo(), OsdXInfo())
    assert gone.section.osd_uuid[1] == bytes(16)
    assert gone.primary_affinity == (0x10000,) * gone.max_osd
    assert m.is_up(1) and m.section.osd_info[1] == info


@given(st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)))
def test_intervals(a: set[int], b: set[int]) -> None:
    def intervals(values: set[int]) -> IntervalSet:
        found: IntervalSet = ()
        for v in sorted(values):
            found = union(found, ((v, 1),))
        return found

    assert union(intervals(a), intervals(b)) == intervals(a | b)
    assert subtract(intervals(a), intervals(b)) == intervals(a - b)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), max_size=20), st.integers(0, 40))
def test_columns_are_as_lists(changes: list[tuple[int, int]], n: int) -> None:
    """However rows change, and however often the table is written meanwhile."""
    vectors = [
        EntityAddrVec(),
        EntityAddrVec((EntityAddr(2, 1, "10.0.0.1", 2),)),
        EntityAddrVec((EntityAddr(2, 1, "::1", 2), EntityAddr(1, 1, "10.0.0.1", 2))),
    ]
    rows = [vectors[i % 3] for i in range(20)]
    column = Column.decode(ADDRS, Decoder(Column(ADDRS, rows).encode(encoding_features(16))))
    for row, value in changes:
        size = max(row + 1, n if value else len(rows))
        rows = [*rows[:size], *[EntityAddrVec()] * (size - len(rows))]
        rows[row] = vectors[value]
        column = column.changed(size, {row: vectors[value]})
        if value == 1:
            assert column.encode(encoding_features(16)) == Column(ADDRS, rows).encode(encoding_features(16))
    assert list(column) == rows


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damage_ends_in_one_error(data: st.DataObject) -> None:
    """Of a map and of all its parts that are looked at later, with a crc that fits."""
    from tests.fuzz.material import sum_map

    raw = bytearray(History.load("tentacle").full[min(History.load("tentacle").full)])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(6, len(raw) - 5))] = data.draw(st.integers(0, 255))
    try:
        m = OSDMap.decode_full(sum_map(bytes(raw)))
        written = m.encode()
    except DecodeError:
        return
    assert OSDMap.decode_full(written).encode() == written
