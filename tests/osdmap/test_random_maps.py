"""Random maps, compared with the tools of several releases; and some with their answers, for where no tool is."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from pyrbd.testing.releases import ReleasePrograms
from tests.osdmap.maps.oracle import Answer, Oracle, ToolFailed, differences, installed, things
from tests.osdmap.record_random import MOST_TRIES

DATA = Path(__file__).parent / "data"
SECONDS = 6
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
                bytes.fromhex(each["crush"]),
            ),
        )
        for each in found
    ]


@pytest.mark.parametrize("name, answer", [pytest.param(*each, id=each[0]) for each in recorded()])
def test_recorded_answers(name: str, answer: Answer) -> None:
    """Maps of four releases (:mod:`tests.osdmap.record_random`) in which all that decides a placement is found."""
    assert answer.groups
    assert not differences(answer)


def test_tries_in_vain_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Legacy tunables, and more replicas asked for than there are hosts: a million draws in Ceph."""
    monkeypatch.setattr("pyrbd.osdmap.mapper.MAX_DRAWS", 200_000)
    answer = dict(recorded())[f"pacific {MOST_TRIES}"]
    assert not differences(answer)


def test_what_the_recorded_maps_have() -> None:
    """Each thing that decides a placement is in some of them, and decides."""
    seen: set[str] = set()
    for _, answer in recorded():
        seen |= things(answer)
    assert seen >= {
        *(f"bucket {alg}" for alg in range(1, 6)),
        *(f"step {op}" for op in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13)),
        "choose_args of all pools",
        "choose_args of a pool",
        "weight-sets of several positions",
        "ids",
        "shadow trees",
        "choose_args of the wrong size",
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
