"""Placement is Ceph's, for every group: compared with osdmaptool and crushtool, and with
recorded answers on machines that do not have them."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd.errors import DecodeError
from pyrbd.osdmap import Incremental, OSDMap
from pyrbd.osdmap.crush import CRUSH_ITEM_NONE, CrushMap
from pyrbd.osdmap.hash import (
    ceph_stable_mod,
    ceph_str_hash_linux,
    crush_hash32_2,
    crush_hash32_3,
    mask_for,
)
from pyrbd.osdmap.ln import crush_ln

DATA = Path(__file__).parent / "data"
LINE = re.compile(
    r"(\d+)\.([0-9a-f]+) raw \(\[[^\]]*\], p-?\d+\) up \(\[([^\]]*)\], p(-?\d+)\) acting \(\[([^\]]*)\], p(-?\d+)\)"
)


def needs(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: there is no oracle for this test")


def osds(text: str) -> tuple[int, ...]:
    return tuple(CRUSH_ITEM_NONE if x == "NONE" else int(x) for x in text.split(",") if x)


def compare(path: Path) -> int:
    """Compares every placement group of a map with osdmaptool's answer."""
    m = OSDMap.decode_full(path.read_bytes())
    done = subprocess.run(
        ["osdmaptool", str(path), "--test-map-pgs-dump-all"], capture_output=True, text=True, check=True
    )
    n = 0
    for line in done.stdout.splitlines():
        found = LINE.match(line)
        if found:
            pool, seed, up, up_primary, acting, primary = found.groups()
            want = (osds(up), int(up_primary), osds(acting), int(primary))
            assert m.pg_to_up_acting(int(pool), int(seed, 16)) == want, line
            n += 1
    return n


def tool(*args: object) -> None:
    subprocess.run([str(a) for a in args], capture_output=True, check=True)


@pytest.mark.parametrize("n", [4, 40, 150])
def test_every_group_of_a_map(tmp_path: Path, n: int) -> None:
    needs("osdmaptool")
    f = tmp_path / "map"
    tool("osdmaptool", "--createsimple", n, f, "--with-default-pool", "--pg-bits", 3 if n > 100 else 5)
    tool("osdmaptool", f, "--mark-up-in", "--mark-out", 3, "--adjust-crush-weight", "1:0.3", "--save")
    assert compare(f) >= 32
    tool("osdmaptool", f, "--upmap", tmp_path / "up", "--upmap-max", 30, "--upmap-deviation", 1, "--save")
    assert compare(f) >= 32


def test_names_to_groups(tmp_path: Path) -> None:
    needs("osdmaptool")
    f = tmp_path / "map"
    tool("osdmaptool", "--createsimple", 5, f, "--with-default-pool", "--pg-bits", 6)
    m = OSDMap.decode_full(f.read_bytes())
    rng = random.Random(1)
    names = ["a", "rbd_data.1234.0000000000000000", "ä ü%", "x" * 255]
    names += ["".join(rng.choice("abc._-0189 ") for _ in range(length)).strip() or "z" for length in range(1, 40)]
    for name in names:
        out = subprocess.run(
            ["osdmaptool", str(f), "--test-map-object", name, "--pool", "1"], capture_output=True, text=True, check=True
        ).stdout
        pg = m.raw_hash_to_pg(1, m.object_to_raw_hash(1, name))
        assert f"-> {pg} ->" in out, name


@pytest.mark.parametrize("alg", ["straw2", "straw", "list", "tree", "uniform"])
@pytest.mark.parametrize("shape", [(12, 4), (40, 10)])
@pytest.mark.parametrize("tunables", ["jewel", "hammer", "firefly", "bobtail", "argonaut"])
def test_crush_rules(tmp_path: Path, alg: str, shape: tuple[int, int], tunables: str) -> None:
    needs("crushtool")
    devices, hosts = shape
    plain, f = tmp_path / "plain", tmp_path / "crush"
    layers = ["host", alg, devices // hosts, "root", alg, 0]
    tool("crushtool", "-o", plain, "--build", "--num_osds", devices, *layers)
    values = {  # CrushWrapper::set_tunables_*
        "argonaut": (2, 5, 19, 0, 0, 0),
        "bobtail": (0, 0, 50, 1, 0, 0),
        "firefly": (0, 0, 50, 1, 1, 0),
        "hammer": (0, 0, 50, 1, 1, 0),
        "jewel": (0, 0, 50, 1, 1, 1),
    }[tunables]
    options = (
        "--set-choose-local-tries",
        "--set-choose-local-fallback-tries",
        "--set-choose-total-tries",
        "--set-chooseleaf-descend-once",
        "--set-chooseleaf-vary-r",
        "--set-chooseleaf-stable",
    )
    tool(
        "crushtool",
        "-i",
        plain,
        "-o",
        f,
        "--enable-unsafe-tunables",
        *(w for pair in zip(options, values) for w in pair),
    )
    m = CrushMap.decode(f.read_bytes())
    weights = [0x10000] * devices
    weights[3], weights[5] = 0x8000, 0
    compared = 0
    for replicas in (1, 3, 4):
        args = ["--rule", "0", "--num-rep", str(replicas), "--min-x", "0", "--max-x", "60", "--show-mappings"]
        args += ["--weight", "3", "0.5", "--weight", "5", "0"]
        out = subprocess.run(["crushtool", "-i", str(f), "--test", *args], capture_output=True, text=True, check=True)
        for x, got in re.findall(r"CRUSH rule 0 x (\d+) \[(.*)\]", out.stdout):
            assert m.do_rule(0, int(x), replicas, weights) == list(osds(got)), f"x {x}, {replicas} replicas"
            compared += 1
    assert compared == 3 * 61


def test_erasure_coded_rule_keeps_positions(tmp_path: Path) -> None:
    needs("crushtool")
    text, f = tmp_path / "text", tmp_path / "crush"
    plain = tmp_path / "plain"
    tool("crushtool", "-o", plain, "--build", "--num_osds", 20, "host", "straw2", 2, "root", "straw2", 0)
    tool("crushtool", "-d", plain, "-o", text)
    text.write_text(
        text.read_text().replace(
            "# end crush map",
            """rule ec {
    id 1
    type erasure
    min_size 1
    max_size 20
    step set_chooseleaf_tries 5
    step set_choose_tries 100
    step take root
    step chooseleaf indep 0 type host
    step emit
}
# end crush map""",
        )
    )
    tool("crushtool", "-c", text, "-o", f)
    m = CrushMap.decode(f.read_bytes())
    weights = [0x10000] * 20
    weights[1] = weights[4] = weights[5] = 0
    off = [w for i in (1, 4, 5) for w in ("--weight", str(i), "0")]
    args = ["--rule", "1", "--num-rep", "6", "--min-x", "0", "--max-x", "300", "--show-mappings", *off]
    out = subprocess.run(
        ["crushtool", "-i", str(f), "--test", *args], capture_output=True, text=True, check=True
    ).stdout
    rows = re.findall(r"CRUSH rule 1 x (\d+) \[(.*)\]", out)
    assert len(rows) == 301
    for x, got in rows:
        assert m.do_rule(1, int(x), 6, weights) == [
            CRUSH_ITEM_NONE if o == "2147483647" else int(o) for o in got.split(",")
        ]


def golden(name: str) -> bytes:
    return gzip.decompress((DATA / f"{name}.gz").read_bytes())


def test_recorded_map() -> None:
    """A map with upmaps, reweights, pg_temp and affinity, and osdmaptool's answers."""
    m = OSDMap.decode_full(golden("map"))
    answers = json.loads(golden("answers"))
    assert len(answers) >= 40
    for pool, seed, up, up_primary, acting, primary in answers:
        assert m.pg_to_up_acting(pool, seed) == (tuple(up), up_primary, tuple(acting), primary)


def test_recorded_incrementals_lead_to_the_recorded_map() -> None:
    """From one full map, epoch by epoch, to what the monitor itself has at the end."""
    frames = json.loads(golden("epochs"))
    m = OSDMap.decode_full(bytes.fromhex(frames["first"]))
    for inc in frames["incrementals"]:
        m = m.apply(Incremental.decode(bytes.fromhex(inc)))
    last = bytes.fromhex(frames["last"])
    assert m.encode() == last
    assert m.crc == OSDMap.decode_full(last).crc


@given(st.integers(0, 2**32 - 1), st.integers(1, 1 << 20))
def test_stable_mod(x: int, b: int) -> None:
    """include/rados.h: below b, and unchanged by growth except for what moves to the new groups."""
    got = ceph_stable_mod(x, b, mask_for(b))
    assert 0 <= got < b
    grown = ceph_stable_mod(x, b + 1, mask_for(b + 1))
    assert grown in (got, b)


def test_hash_functions() -> None:
    """The ends of the tables, and that the mix depends on each argument."""
    assert ceph_str_hash_linux(b"") == 0
    assert crush_ln(0) == 0
    assert crush_ln(0xFFFF) == 0xFFFFF0000000
    assert len({crush_hash32_3(1, 2, i) for i in range(1000)}) == 1000
    assert crush_hash32_2(1, 2) != crush_hash32_2(2, 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_maps_end_in_one_error(data: st.DataObject) -> None:
    raw = bytearray(golden("map"))
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecodeError):
        OSDMap.decode_full(bytes(raw))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_crush_maps_do_not_hang(data: st.DataObject) -> None:
    """Without the crc of the map around it: whatever it is, it ends."""
    raw = bytearray(OSDMap.decode_full(golden("map"))._crush_raw)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        m = CrushMap.decode(bytes(raw))
    except DecodeError:
        return
    for rule in list(m.rules)[:2]:
        if max((s.arg1 for s in m.rules[rule].steps), default=0) < 1000 and m.tunables.choose_total_tries < 10000:
            m.do_rule(rule, 7, 3, [0x10000] * 16)


def test_a_bucket_inside_itself_is_refused(tmp_path: Path) -> None:
    m = CrushMap.decode(OSDMap.decode_full(golden("map"))._crush_raw)
    root = min(m.buckets)
    m.buckets[root] = m.buckets[root]._replace(items=(root,), weights=(0x10000,))
    with pytest.raises(DecodeError, match="contains itself"):
        m._check_tree()
