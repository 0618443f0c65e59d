"""Random maps, compared with the tools of several releases; and some with their answers, for where no tool is."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from pyrbd.osdmap import OSDMap
from pyrbd.testing.releases import ReleasePrograms
from tests.osdmap.maps.oracle import Answer, Oracle, ToolFailed, differences, installed

DATA = Path(__file__).parent / "data"
SECONDS = 8
"""Of maps for each release: as many as fit."""
LEAST = 5


@pytest.mark.parametrize("release", ["installed", "reef", "tentacle"])
def test_every_group_of_random_maps(tmp_path: Path, release: str) -> None:
    """``python -m tests.osdmap.maps`` plays more of them, and one again by its seed."""
    if release == "installed":
        if not installed():
            pytest.skip("osdmaptool and crushtool are not installed: there is no oracle for this test")
        oracle = Oracle(tmp_path)
    else:
        if ReleasePrograms(release).installed() is None:
            pytest.skip(f"{release} is not unpacked on this machine: there is no oracle for this test")
        oracle = Oracle(tmp_path, release)
    until = time.monotonic() + SECONDS
    played = 0
    seed = 1
    while played < LEAST or time.monotonic() < until:
        try:
            answer = oracle.play(seed)
        except ToolFailed:
            assert seed < 10 * (played + LEAST), "the tools refuse most maps"
        else:
            assert not differences(answer), f"seed {seed}"
            played += 1
        seed += 1


def recorded() -> list[tuple[str, Answer]]:
    found = json.loads(gzip.decompress((DATA / "random.gz").read_bytes()))
    return [
        (
            each["name"],
            Answer(
                bytes.fromhex(each["map"]),
                {(p, s): (tuple(a), b, tuple(c), d, tuple(e), f) for p, s, a, b, c, d, e, f in each["groups"]},
            ),
        )
        for each in found
    ]


@pytest.mark.parametrize("name, answer", [pytest.param(*each, id=each[0]) for each in recorded()])
def test_recorded_answers(name: str, answer: Answer) -> None:
    """Maps of four releases (:mod:`tests.osdmap.record_random`) in which all that decides a placement is found."""
    assert answer.groups
    assert not differences(answer)


def test_what_the_recorded_maps_have() -> None:
    """Each thing that decides a placement is in some of them, and decides."""
    seen: set[str] = set()
    for _, answer in recorded():
        m = OSDMap.decode_full(answer.map)
        seen |= things(m, answer)
    assert seen >= {
        *(f"bucket {alg}" for alg in range(1, 6)),
        *(f"step {op}" for op in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13)),
        "choose_args of all pools",
        "choose_args of a pool",
        "weight-sets of several positions",
        "ids",
        "shadow trees",
        "pg_upmap",
        "pg_upmap_items",
        "pg_upmap_primaries",
        "pg_temp",
        "primary_temp",
        "affinity",
        "linux",
        "rjenkins",
        "without hashpspool",
        "erasure",
        "replicated",
        "holes",
        "temporary",
        "pgp_num",
        "optimized",
        "legacy tries",
        "fallback tries",
    }


def things(m: OSDMap, answer: Answer) -> set[str]:
    """What is in a map and plays a role."""
    crush = m.crush
    out = {f"bucket {b.alg}" for b in crush.buckets.values() if b.items}
    args = [crush.choose_args_for(p) or {} for p in m.pools]
    t = crush.tunables
    out |= {
        name
        for name, there in {
            "choose_args of all pools": -1 in crush.choose_args,
            "choose_args of a pool": any(p in crush.choose_args for p in m.pools),
            "weight-sets of several positions": any(len(b.weight_sets) > 1 for a in args for b in a.values()),
            "ids": any(b.ids for a in args for b in a.values()),
            "shadow trees": bool(crush.class_buckets),
            "legacy tries": t.choose_local_tries > 0,
            "fallback tries": t.choose_local_fallback_tries > 0,
            "affinity": bool(m.primary_affinity),
        }.items()
        if there
    }
    names = ("pg_upmap", "pg_upmap_items", "pg_upmap_primaries", "pg_temp", "primary_temp")
    out |= {name for name in names if getattr(m, name)}
    for pool in m.pools.values():
        out |= {f"step {s.op}" for s in crush.rules[pool.crush_rule].steps} if pool.crush_rule in crush.rules else set()
        out.add("linux" if pool.object_hash == 1 else "rjenkins")
        out.add("erasure" if pool.is_erasure else "replicated")
        if not pool.flags & 1:
            out.add("without hashpspool")
        if pool.pgp_num < pool.pg_num:
            out.add("pgp_num")
        if pool.allows_ecoptimizations:
            out.add("optimized")
    for raw, _, up, _, acting, _ in answer.groups.values():
        if 0x7FFFFFFF in raw:
            out.add("holes")
        if acting != up:
            out.add("temporary")
    return out
