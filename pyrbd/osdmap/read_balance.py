"""How evenly the primaries of a pool are spread (`src/osd/OSDMap.cc` OSDMap::calc_read_balance_score), which reef and
newer show with each replicated pool. C++ has these numbers as `float`; so each step is rounded to that here."""

from __future__ import annotations

import math
import struct as _struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .crush import BUCKET_TREE, CRUSH_ITEM_NONE, RULE_TAKE, Bucket, CrushMap
from .placement import DEFAULT_PRIMARY_AFFINITY

if TYPE_CHECKING:
    from .osdmap import OSDMap

SIZE_AWARE_SINCE = 20
"""The release that introduced the pool option read_ratio, and a second kind of score."""

_FLOAT = _struct.Struct("<f")


class ReadBalance(NamedTuple):
    """read_balance_info_t."""

    valid: bool
    """Whether there is a score; if not, `err_msg` says why, if somebody should know."""
    err_msg: str = ""
    acting_adj_score: float = 0.0
    adjusted_score: float = 0.0
    details: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def dump(self, release: int) -> dict[str, Any]:
        """OSDMap::dump_read_balance_score: the entry that it adds to a pool's, or none."""
        scores = {"score_acting": self.acting_adj_score, "score_stable": self.adjusted_score}
        if self.valid:
            kind = "OSD size aware" if "average_osd_load" in self.details else "Fair distribution"
            found = {**({"score_type": kind} if release >= SIZE_AWARE_SINCE else {}), **scores, **self.details}
            return {"read_balance": {**found, "error_message": self.err_msg} if self.err_msg else found}
        if self.err_msg:
            return {"read_balance": {"error_message": self.err_msg, **scores}}
        return {}


def _f(x: float) -> float:
    try:
        return float(_FLOAT.unpack(_FLOAT.pack(x))[0])
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def _div(a: float, b: float) -> float:
    if b:
        return _f(a / b)
    return math.nan if not a or math.isnan(a) else math.copysign(math.inf, a)


def _round(x: float) -> float:
    """rbi_round: to hundredths."""
    if not math.isfinite(x):
        return x
    scaled = _f(x * 100)
    return _f(math.floor(scaled + 0.5) / 100) if x > 0 else _f(math.ceil(scaled - 0.5) / 100)


def item_weight(bucket: Bucket, i: int) -> int:
    """crush_get_bucket_item_weight (`src/crush/crush.c`)."""
    if bucket.alg == BUCKET_TREE:
        node = (i + 1 << 1) - 1
        return bucket.extra[node] if node < len(bucket.extra) else 0
    return bucket.weights[i] if i < len(bucket.weights) else 0


def rule_weights(crush: CrushMap, rule: int) -> dict[int, float]:
    """CrushWrapper::get_rule_weight_osd_map: the share that each OSD has of what a rule takes."""
    found: dict[int, float] = {}
    total = 0.0
    steps = crush.rules[rule].steps if rule in crush.rules else ()
    for step in steps:
        if step.op != RULE_TAKE:
            continue
        if step.arg1 >= 0:
            found[step.arg1] = total = 1.0
            continue
        part = 0.0
        queue = [step.arg1]
        for number in queue:
            bucket = crush.buckets.get(number)
            for i, item in enumerate(bucket.items if bucket is not None else ()):
                if item >= 0:
                    found[item] = weight = _f(item_weight(bucket, i)) if bucket is not None else 0.0
                    part = _f(part + weight)
                else:
                    queue.append(item)
        total = _f(total + part)
    return {osd: _div(found[osd], total) for osd in sorted(found)}


def read_balance(m: OSDMap, pool: int, release: int) -> ReadBalance:
    """The score of a replicated pool, as a tool of this release gives it."""
    pi = m.pools[pool]
    by_osd: dict[int, int] = {}
    primaries: dict[int, int] = {}
    acting_primaries: dict[int, int] = {}
    zero_affinity = -1
    for seed in range(pi.pg_num):
        up, primary, acting, acting_primary = m.pg_to_up_acting(pool, seed)
        if zero_affinity < 0 and not any(_affinity(m, osd) for osd in acting):
            zero_affinity = seed
        if not up:
            continue
        for osd in set(up):
            if osd != CRUSH_ITEM_NONE:
                by_osd[osd] = by_osd.get(osd, 0) + 1
        for counts, osd in ((primaries, primary), (acting_primaries, acting_primary)):
            if osd != CRUSH_ITEM_NONE:
                counts[osd] = counts.get(osd, 0) + 1
    ratio = pi.opts.get("read_ratio")
    if ratio is not None and release >= SIZE_AWARE_SINCE:
        return _size_optimal(m, pool, int(ratio), by_osd, primaries, acting_primaries)
    return _fair(m, pool, by_osd, primaries, acting_primaries, zero_affinity)


def _affinity(m: OSDMap, osd: int) -> float:
    if not m.primary_affinity or not 0 <= osd < len(m.primary_affinity):
        return 1.0
    return _f(m.primary_affinity[osd] / DEFAULT_PRIMARY_AFFINITY)


def _fair(
    m: OSDMap,
    pool: int,
    by_osd: dict[int, int],
    primaries: dict[int, int],
    acting_primaries: dict[int, int],
    zero_affinity: int,
) -> ReadBalance:
    """OSDMap::calc_rbs_fair and set_rbi_fair."""
    pi = m.pools[pool]
    if not by_osd:
        return ReadBalance(False)
    osds = len(by_osd)
    average = _div(_f(pi.pg_num), _f(osds))
    most = most_acting = with_affinity = 0
    max_score = affinity_sum = total_weight = weighted = 0.0
    acting_on_zero = False
    for osd, weight in rule_weights(m.crush, pi.crush_rule).items():
        total_weight = _f(total_weight + weight)
        affinity = _affinity(m, osd)
        weighted = _f(weighted + _f(weight * affinity))
        with_affinity += affinity != 0
        most = max(most, primaries.get(osd, 0))
        if osd in acting_primaries:
            most_acting = max(most_acting, acting_primaries[osd])
            if affinity:
                max_score = max(max_score, _div(_f(acting_primaries[osd]), affinity))
            else:
                acting_on_zero = True
        affinity_sum = _f(affinity_sum + affinity)
    if affinity_sum == 0.0:
        return ReadBalance(False, f"pool {pool} has primary_affinity set to zero on all OSDs")
    max_score = _f(max_score * _div(affinity_sum, osds))
    least = 1.0 / pi.size if pi.size else math.inf
    if _div(weighted, total_weight) < least:
        text = f"pool {pool} average primary affinity is lower than {least:.2f}, read balance score is not reliable"
        return ReadBalance(False, text)
    raw = _round(_div(_f(most), average))
    error = ""
    if acting_on_zero:
        raw_acting = _round(max_score)
        error = (
            f"pool {pool} has acting primaries on OSD(s) with primary affinity 0, read balance score is not accurate"
        )
    else:
        raw_acting = _round(_div(_f(most_acting), average))
    average_affinity = _round(_div(affinity_sum, with_affinity)) if with_affinity else 0.0
    if average_affinity == 0.0:
        text = f"pool {pool} all OSDs have zero primary affinity, can't calculate a reliable read balance score"
        return ReadBalance(False, text)
    if zero_affinity >= 0:
        text = (
            f"pool {pool} has some PGs where all OSDs are with primary_affinity 0 "
            f"(at least pg {pool}.{zero_affinity:x}), read balance score may not be reliable"
        )
        return ReadBalance(False, text)
    optimal = _round(_div(_f(osds), _f(with_affinity)))
    adjusted, acting_adjusted = _round(_div(raw, optimal)), _round(_div(raw_acting, optimal))
    details = {
        "optimal_score": optimal,
        "raw_score_acting": raw_acting,
        "raw_score_stable": raw,
        "primary_affinity_weighted": weighted,
        "average_primary_affinity": average_affinity,
        "average_primary_affinity_weighted": _round(_div(weighted, total_weight)),
    }
    return ReadBalance(True, error, acting_adjusted, adjusted, details)


def _size_optimal(
    m: OSDMap,
    pool: int,
    ratio: int,
    by_osd: dict[int, int],
    primaries: dict[int, int],
    acting_primaries: dict[int, int],
) -> ReadBalance:
    """OSDMap::calc_rbs_size_optimal."""
    pi = m.pools[pool]
    error = "" if pi.pg_num else f"ERROR: pool {pool} has no PGs"
    osds = len(by_osd)
    legs = 0
    by_osd = dict(by_osd)
    for osd in range(osds):
        if _affinity(m, osd) != 1.0 and not error:
            error = (
                f"Warning: pool {pool} has primary_affinity set to non-default value on some OSDs, "
                "this is ignored by the size-optimal read balancer"
            )
        legs += by_osd.setdefault(osd, 0)
    wanted = pi.pg_num * pi.size
    if legs != wanted:
        return ReadBalance(
            False,
            f"ERROR: pool {pool} has {legs} PG OSD legs, expected {wanted} - "
            "Can't calculate size-optimal read balancer score",
        )
    if not 0 < ratio <= 100:
        return ReadBalance(
            False,
            f"ERROR: pool {pool} has invalid read_ratio {ratio} - Can't calculate size-optimal read balancer score",
        )
    if not osds:
        text = f"ERROR: pool {pool} has no active OSDs, can't calculate loads and read balance score"
        return ReadBalance(False, text)
    load_per_osd = _f((100 + (pi.size - 1) * (100 - ratio)) * pi.pg_num // osds)

    def most_loaded(counts: dict[int, int]) -> tuple[int, int, int, int]:
        found = (-1, 0, 0, 0)
        for osd in sorted(by_osd):
            groups, first = by_osd[osd], counts.get(osd, 0)
            load = first * 100 + (groups - first) * (100 - ratio)
            if load > found[3]:
                found = (osd, groups, first, load)
        return found

    best, best_acting = most_loaded(primaries), most_loaded(acting_primaries)
    if best_acting[0] < 0:
        return ReadBalance(False, f"ERROR: Could not find max_acting_load for pool {pool}")
    adjusted = 0.0
    if best[0] < 0:
        error = f"Warning: Could not find max_load for pool {pool}"
    else:
        adjusted = _round(_div(_f(best[3]), load_per_osd))
    names = ("osd", "pgs", "primaries", "load")
    details: dict[str, Any] = {"average_osd_load": int(load_per_osd), "most_loaded_osd": dict(zip(names, best))}
    if best[0] != best_acting[0]:
        details["most_loaded_acting_osd"] = dict(zip(names, best_acting))
    return ReadBalance(True, error, _round(_div(_f(best_acting[3]), load_per_osd)), adjusted, details)
