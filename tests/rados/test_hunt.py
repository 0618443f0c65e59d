"""Which monitors are tried, in which order and for how long (`src/mon/MonClient.cc`): no cluster is needed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pyrbd.msgr.types import EntityAddr
from pyrbd.rados.config import Config
from pyrbd.rados.hunt import Candidate, Hunt


def mon(name: str, priority: int = 0, weight: int = 0) -> Candidate:
    return Candidate(name, EntityAddr(EntityAddr.TYPE_MSGR2, 0, f"10.0.0.{ord(name)}", 3300), priority, weight)


def hunt(seed: int = 1, **options: str) -> Hunt:
    config = Config(environ={})
    for option, value in options.items():
        config.set(f"mon_client_hunt_{option}", value)
    return Hunt(config, random.Random(seed))


def names(candidates: list[Candidate]) -> str:
    return "".join(sorted(c.name for c in candidates))


def test_a_few_at_a_time_until_all_were_tried() -> None:
    h, mons = hunt(), [mon(n) for n in "abcde"]
    first = h.batch(mons, 0)
    assert len(first) == 3 and not h.exhausted(mons)
    assert h.batch(mons, 3) == [], "three are being tried"
    second = h.batch(mons, 1)
    assert len(second) == 2 and names(first + second) == "abcde" and h.exhausted(mons)
    assert h.batch(mons, 1) == [], "the rest has to be waited for"
    assert len(h.batch(mons, 0)) == 3 and h.rounds == 1
    assert len(hunt(parallel="0").batch(mons, 0)) == 5
    assert len(hunt(parallel="1").batch(mons, 0)) == 1
    assert h.batch([], 0) == []


def test_the_lowest_priority_first() -> None:
    h, mons = hunt(), [mon("a", 2), mon("b", 1), mon("c", 2), mon("d", 1), mon("e", 7)]
    assert [names(h.batch(mons, 0)) for _ in range(4)] == ["bd", "ac", "e", "bd"]


def test_weights_say_how_often() -> None:
    mons = [mon("a", weight=10), mon("b", weight=30), mon("c")]
    firsts = Counter(hunt(seed, parallel="1").batch(mons, 0)[0].name for seed in range(2000))
    assert firsts["b"] == pytest.approx(1500, abs=120) and firsts["a"] == pytest.approx(500, abs=120)
    assert not firsts["c"]
    h = hunt(parallel="1")
    order = [h.batch(mons, 0)[0].name for _ in range(3)]
    assert sorted(order) == ["a", "b", "c"] and order[2] == "c"
    equal = Counter(hunt(seed, parallel="1").batch([mon("a"), mon("b")], 0)[0].name for seed in range(400))
    assert equal["a"] == pytest.approx(200, abs=60)


def test_the_one_that_was_lost_comes_last() -> None:
    h, mons = hunt(), [mon(n) for n in "abc"]
    h.batch(mons, 0)
    h.found()
    h.lost(mons[0].addr)
    assert names(h.batch(mons, 0)) == "bc"
    h.found()
    h.lost(mons[1].addr)  # it let us in, and did nothing for us
    assert names(h.batch(mons, 0)) == "c"
    h.found()
    h.useful()
    h.lost(mons[2].addr)
    assert names(h.batch(mons, 0)) == "ab"
    h.lost(mons[0].addr)
    h.lost(mons[1].addr)
    assert h.exhausted(mons)
    assert names(h.batch(mons, 0)) == "abc" and h.rounds == 1
    h.lost(mons[0].addr)
    h.forget()  # they are others now
    assert names(h.batch(mons, 0)) == "abc"


def test_patience_grows_only_for_who_was_connected_once() -> None:
    """So that a cluster that comes back is not overrun by its clients."""
    h = hunt()
    h.silent()
    assert h.interval == 3
    h.found()
    h.silent()
    h.silent()
    assert h.interval == 3 * 1.5 * 1.5
    for _ in range(20):
        h.silent()
    assert h.interval == 30
    h.calm()
    assert h.interval == 20
    for _ in range(20):
        h.calm()
    assert h.interval == 3
    assert hunt(interval="0.5", interval_min_multiple="2").interval == 1
    h = hunt(interval_backoff="3", interval_max_multiple="2")
    h.found()
    h.silent()
    assert h.interval == 6


def test_the_pause_after_refusals_grows() -> None:
    h, mons = hunt(), [mon("a")]
    pauses = []
    for _ in range(20):
        h.batch(mons, 0)
        pauses.append(h.pause)
    assert pauses[:3] == [0.25, 0.375, 0.5625] and pauses[-1] == 3
    h.useful()
    assert h.pause == 0.25
