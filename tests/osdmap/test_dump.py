"""`pyrbd osdmap dump` prints what osdmaptool prints: nothing is left for `diff`."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrbd.msgr.types import EntityAddr, EntityAddrVec, PgId, Utime
from pyrbd.osdmap import OSDMap
from pyrbd.osdmap.addrs import addr_bytes
from pyrbd.osdmap.columns import ADDRS, INFOS, Column, OsdInfo
from pyrbd.osdmap.dump import FORMATS, dump, dump_json, dump_plain, dump_value, writing_release
from pyrbd.osdmap.formatter import to_json, unordered
from pyrbd.osdmap.pool_types import HIT_SET_BLOOM, HitSetParams, PoolSnap
from tests.osdmap.history import DATA

RELEASES = {"nautilus": 14, "pacific": 16, "reef": 18, "tentacle": 20}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown in the zone of the machine."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("release", RELEASES)
def test_recorded_output_of_each_release(release: str) -> None:
    """Of maps that have everything (:mod:`tests.osdmap.record`)."""
    recorded = json.loads(gzip.decompress((DATA / f"dump-{release}.gz").read_bytes()))
    assert len(recorded) >= 3
    for each in recorded:
        m = OSDMap.decode_full(bytes.fromhex(each["map"]))
        assert writing_release(m) == RELEASES[release]
        for format in FORMATS:
            assert dump(m, format) == each[format]


def installed() -> int:
    if shutil.which("osdmaptool") is None:
        pytest.skip("osdmaptool is not installed: there is no oracle for this test")
    text = subprocess.run(["osdmaptool", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"ceph version (\d+)", text)
    assert found, text
    return int(found[1])


def test_output_of_the_installed_tool(tmp_path: Path) -> None:
    release = installed()
    f = tmp_path / "map"
    subprocess.run(["osdmaptool", "--createsimple", "4", f, "--with-default-pool"], capture_output=True, check=True)
    m = OSDMap.decode_full(f.read_bytes())
    pool = next(iter(m.pools))
    both = EntityAddrVec((EntityAddr(2, 7, "10.1.2.3", 6800), EntityAddr(1, 7, "fd00::1", 6801)))
    hosts = [f"10.0.{i % 7}.{i}" for i in range(100)]
    changed = m.replace(
        pools={
            pool: m.pools[pool].replace(
                flags=0xFFFF,
                opts={"target_size_ratio": 0.1, "compression_mode": 'a"b', "pg_num_min": 2},
                hit_set_params=HitSetParams(HIT_SET_BLOOM, 50000, 1000, 77),
                hit_set_count=3,
                hit_set_grade_decay_rate=20,
                snaps={10: PoolSnap("ten", Utime(1700000000, 5000), 10)},
                removed_snaps=((17, 1), (20, 30)),
                application_metadata={"rbd": {"k": "v"}},
                cache_mode=5,
            )
        },
        flags=0xFFFFFF,
        osd_state=(3, 0, 1, 0xFFFF),
        osd_weight=(0x10000, 0, 0x4321, 7),
        primary_affinity=(0x10000, 0x10000, 0x1234, 0x10000),
        client_addrs=Column(ADDRS, [both, EntityAddrVec(), EntityAddrVec(), both]),
        osd_info=Column(INFOS, [OsdInfo(1, 2, 3, 4, 5, 6)] * 4),
        blocklist_stamps={addr_bytes(EntityAddr(3, i, host, 0)): b"\0\xf1\x53\x65" * 2 for i, host in enumerate(hosts)},
        pg_temp={PgId(pool, 10): (1, 2, 3)},
        primary_temp={PgId(pool, 11): 3},
        pg_upmap_items={PgId(pool, 12): ((1, 2), (3, 0))},
        removed_snaps_queue={pool: ((1, 2),)},
        crush_node_flags={-1: 0x900, 1000: 1},
    )
    for each in (m, changed):
        f.write_bytes(each.encode())
        for arguments, ours in (
            (["--print"], dump_plain(each, release)),
            (["--dump", "json"], dump_json(each, release)),
            (["--dump", "json-pretty"], dump_json(each, release, pretty=True)),
        ):
            done = subprocess.run(["osdmaptool", f, *arguments], capture_output=True, text=True, check=True)
            assert ours == done.stdout
        assert json.loads(dump_json(each, release)) == dump_value(each, release)


def test_an_unknown_format() -> None:
    with pytest.raises(ValueError, match="xml"):
        dump(OSDMap(), "xml")


def test_json_as_ceph_writes_it() -> None:
    assert to_json({"a": [], "b": {}, "c": [1, True, 0.1], "d": 'q"\\\n\x01'}) == (
        '{"a":[],"b":{},"c":[1,true,0.10000000000000001],"d":"q\\"\\\\\\n\\u0001"}'
    )
    assert to_json({"a": [1, {"b": []}], "c": {}}, pretty=True) == (
        '{\n    "a": [\n        1,\n        {\n            "b": []\n        }\n    ],\n    "c": {}\n}\n'
    )


def test_a_hash_table_keeps_all_that_is_put_in() -> None:
    assert unordered([]) == []
    assert sorted(unordered([i * 7919 % 1000 for i in range(500)])) == list(range(500))
