"""CRUSH maps are written as Ceph writes them: the same bytes."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrbd.errors import DecodeError
from pyrbd.osdmap import Incremental, OSDMap
from pyrbd.osdmap.crush import TAIL_CHOOSE_ARGS, TAIL_CLASSES, TAIL_MSR, TAIL_STABLE, ChooseArg, CrushMap, Rule
from pyrbd.osdmap.features import CRUSH_MSR, CRUSH_TUNABLES5, SERVER_QUINCY, encoding_features
from tests.osdmap.history import History

RELEASES = ["nautilus", "pacific", "reef", "tentacle"]
NAUTILUS, TENTACLE = encoding_features(14), encoding_features(20)

TEXT = """
tunable choose_local_tries 1
tunable choose_local_fallback_tries 2
tunable choose_total_tries 51
tunable chooseleaf_descend_once 1
tunable chooseleaf_vary_r 3
tunable chooseleaf_stable 1
tunable straw_calc_version 1
tunable allowed_bucket_algs 62
device 0 osd.0 class ssd
device 1 osd.1 class hdd
device 2 osd.2
device 3 osd.3
device 9 osd.9
type 0 osd
type 1 host
type 11 root
host a { id -2
 alg straw2
 hash 0
 item osd.0 weight 1.5
 item osd.1 weight 0.25 }
host b { id -7
 alg list
 hash 0
 item osd.2 weight 3
 item osd.3 weight 0 }
host c { id -9
 alg straw2
 hash 0 }
root r { id -1
 alg straw2
 hash 0
 item a weight 1.75
 item b weight 3 }
rule some { id 1
 type replicated
 min_size 2
 max_size 7
 step set_choose_tries 7
 step take r class ssd
 step chooseleaf firstn -1 type host
 step emit }
rule other { id 4
 type erasure
 min_size 1
 max_size 10
 step take r
 step choose indep 0 type osd
 step emit }
choose_args 18446744073709551615 {
 { bucket_id -1
   weight_set [ [ 1 2.5 ] [ 3 4 ] ] } }
choose_args 5 {
 { bucket_id -2
   ids [ -77 12 ] } }
"""


def tool(*args: object) -> None:
    if shutil.which("crushtool") is None:
        pytest.skip("crushtool is not installed: there is no oracle for this test")
    subprocess.run(["crushtool", *map(str, args)], capture_output=True, check=True)


def compiled(tmp_path: Path, text: str = TEXT) -> bytes:
    (tmp_path / "text").write_text(text)
    tool("-c", tmp_path / "text", "-o", tmp_path / "crush")
    return (tmp_path / "crush").read_bytes()


def recorded(release: str) -> list[tuple[OSDMap, bytes]]:
    """The CRUSH maps of a history: as they are in full maps."""
    maps = [OSDMap.decode_full(data) for data in History.load(release).full.values()]
    return [(m, m._encode_crush(m.encode_features)) for m in maps]


@pytest.mark.parametrize("release", RELEASES)
def test_maps_of_monitors(release: str) -> None:
    """In full maps, and in incrementals, for which other features count."""
    for m, data in recorded(release):
        crush = CrushMap.decode(data)
        assert crush.encode() == crush.encode(m.encode_features) == data
    crushes = [i.crush for i in map(Incremental.decode, History.load(release).incrementals.values()) if i.crush]
    assert crushes
    for data in crushes:
        crush = CrushMap.decode(data)
        assert crush.encode() == data
        assert bool(crush.tail & TAIL_MSR) == (release == "tentacle")


@pytest.mark.parametrize("alg", ["straw2", "straw", "list", "tree", "uniform"])
@pytest.mark.parametrize("osds", [1, 17])
def test_maps_that_crushtool_builds(tmp_path: Path, alg: str, osds: int) -> None:
    tool("-o", tmp_path / "crush", "--build", "--num_osds", osds, "host", alg, 3, "root", alg, 0)
    data = (tmp_path / "crush").read_bytes()
    assert CrushMap.decode(data).encode() == data


def test_a_map_with_everything(tmp_path: Path) -> None:
    """Classes, choose_args, rules and buckets with gaps between them; and what crushtool makes of our bytes."""
    data = compiled(tmp_path)
    m = CrushMap.decode(data)
    assert m.tunables.allowed_bucket_algs == 62
    assert (m.max_devices, sorted(m.rules)) == (10, [1, 4])
    assert len(m.buckets) < m.max_buckets
    assert m.choose_args[5][-2].ids == (-77, 12)
    assert m.encode() == data

    m.tunables = m.tunables._replace(allowed_bucket_algs=54, choose_total_tries=77)
    m.choose_args[5][-2] = ChooseArg(((0x10000, 0x8000),), (3, 4))
    m.choose_args[4] = {-1: ChooseArg((), ())}
    m.rules[2] = Rule(1, m.rules[1].steps, 3, 4)
    m.rule_names[2] = "copy"
    (tmp_path / "ours").write_bytes(m.encode())
    tool("-i", tmp_path / "ours", "-o", tmp_path / "theirs", "--set-straw-calc-version", 1)
    assert (tmp_path / "theirs").read_bytes() == m.encode()
    tool("-d", tmp_path / "ours", "-o", tmp_path / "text")
    text = (tmp_path / "text").read_text()
    for line in ("tunable choose_total_tries 77", "tunable allowed_bucket_algs 54", "ids [ 3 4 ]", "rule copy {"):
        assert line in text


def test_weight_sets_of_buckets_that_have_none_are_dropped(tmp_path: Path) -> None:
    """crushtool compiles them, and drops them when it reads what it wrote."""
    extra = "choose_args 7 { { bucket_id -7 weight_set [ [ 1 2 ] ] } }\n"
    m = CrushMap.decode(compiled(tmp_path, TEXT + extra))
    assert m.choose_args[7] == {}
    tool("-i", tmp_path / "crush", "-o", tmp_path / "theirs", "--set-straw-calc-version", 1)
    assert (tmp_path / "theirs").read_bytes() == m.encode()


def test_what_features_change(tmp_path: Path) -> None:
    m = CrushMap.decode(recorded("tentacle")[0][1])
    base = m.encode(TENTACLE)
    tunables = m.tunables._replace(msr_descents=7, msr_collision_tries=8)
    assert m.encode(TENTACLE | CRUSH_MSR) == base + struct.pack("<II", 100, 100)
    m.tunables = tunables
    again = CrushMap.decode(m.encode(TENTACLE | CRUSH_MSR))
    assert again.tunables == tunables
    assert again.tail & TAIL_MSR

    number, rule = next(iter(m.rules.items()))
    m.rules[number] = rule._replace(min_size=3, max_size=4)
    for features, sizes in ((TENTACLE, (3, 4)), (TENTACLE | SERVER_QUINCY, (1, 100))):
        found = CrushMap.decode(m.encode(features)).rules[number]
        assert (found.min_size, found.max_size) == sizes

    old = NAUTILUS & ~(1 << 21) & ~(1 << 57)  # before luminous
    assert not CrushMap.decode(m.encode(old)).tail & (TAIL_CLASSES | TAIL_CHOOSE_ARGS)
    assert not CrushMap.decode(m.encode(old & ~CRUSH_TUNABLES5)).tail & TAIL_STABLE


def test_weight_sets_for_decoders_that_do_not_know_them() -> None:
    """The compat weight set takes the place of the weights; what else there is cannot be told."""
    m = CrushMap.decode(recorded("nautilus")[0][1])
    bucket_id, bucket = next((b, bucket) for b, bucket in m.buckets.items() if bucket.items)
    weights = tuple(range(1, len(bucket.items) + 1))
    m.choose_args = {-1: {bucket_id: ChooseArg((weights,), ())}}
    assert CrushMap.decode(m.encode(0)).buckets[bucket_id].weights == weights
    assert CrushMap.decode(m.encode(NAUTILUS)).buckets[bucket_id].weights == bucket.weights
    m.choose_args[3] = m.choose_args[-1]
    with pytest.raises(ValueError):
        m.encode(0)


def test_maps_from_before_there_was_a_tail() -> None:
    """They end where their release ended; written again they are as they were."""
    m = CrushMap.decode(recorded("pacific")[0][1])
    m.classes, m.class_names, m.class_buckets, m.choose_args = {}, {}, {}, {}
    ends = set()
    for parts in range(10):
        m.tail = (1 << parts) - 1
        data = m.encode()
        ends.add(len(data))
        again = CrushMap.decode(data)
        assert again.tail == m.tail
        assert again.encode() == data
    assert len(ends) == 10


def test_a_bucket_is_where_it_stands(tmp_path: Path) -> None:
    """Not where its id would have it: Ceph looks for buckets by their place."""
    data = bytearray(compiled(tmp_path))
    at = data.index(struct.pack("<Ii", 5, -2)) + 4
    data[at : at + 4] = struct.pack("<i", -3)
    m = CrushMap.decode(bytes(data))
    assert m.buckets[-2].id == -3
    assert -3 not in m.buckets or m.buckets[-3].id == -3
    assert m.full_location(0)["host"] == "a"
    assert m.encode() == bytes(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_maps_are_refused_or_written_the_same_again(data: st.DataObject) -> None:
    raw = bytearray(recorded("tentacle")[-1][1])
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        m = CrushMap.decode(bytes(raw))
    except DecodeError:
        return
    assert CrushMap.decode(m.encode()).encode() == m.encode()
