"""CRUSH for many inputs at once: all placement groups of a pool.

What costs is the hash of each item that a bucket draws from: some 200 steps of 32-bit arithmetic, some two hundred
times for a group of a large cluster. Done for many inputs together they are cheap: with numpy (:mod:`.vector`), else
with Python's own long integers, of which one holds thousands of 48-bit lanes, so that an addition of two of them
is thousands of additions.

Without numpy the draws that a rule without rejections makes are made beforehand, bucket by bucket. Where the first
choices stand (no collisions, nobody out) that is the result; where not, the rule is run as ever, and its draws are
taken from those; the ones that are missing are made together, and the rule is run once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, cycle
from operator import getitem
from typing import TYPE_CHECKING

from ..errors import DecodeError
from . import crush as _crush
from .crush import BUCKET_STRAW2, Bucket, ChooseArg, CrushMap, Rule, crush_ln
from .hash import ceph_stable_mod, mask_for
from .placement import DEFAULT_PRIMARY_AFFINITY, OSD_EXISTS, OSD_UP, Osds, Placement
from .pool import FLAG_HASHPSPOOL

if TYPE_CHECKING:
    from .pool import PgPool
    from .vector import VectorMapper

Draw = tuple[int, int, int]
"""Bucket, r, position: what a draw depends on beside x."""

_LANES = 4096
"""Hashes that are computed together; more do not fit into the cache of a processor."""
_MASK = 0xFFFFFFFF
_BLOCK = 1 << 16
"""Groups that are mapped together, so that memory stays bounded."""
_FEW = 64
"""Inputs for which it does not pay to do anything together."""
_ROUNDS = 40
"""Times that draws which are missing are made together; who needs still more makes them alone."""
_WEIGHTS = 64
"""Weights for which all straws are kept."""
_NO_STRAW = 1 << 64

_neg_ln: list[int] = []


def neg_ln() -> list[int]:
    """2^44 * -log2((u + 1) / 65536) for all 16-bit u: the length that straw2 divides by the weight."""
    if not _neg_ln:
        _neg_ln.extend([0x1000000000000 - crush_ln(u) for u in range(0x10000)])
    return _neg_ln


def straws(weight: int) -> list[int]:
    """How short the straw of an item of this weight is, for each 16-bit hash; the shortest wins."""
    return [n // weight for n in neg_ln()] if weight else [_NO_STRAW] * 0x10000


def crush_do_rule_bulk(
    crush: CrushMap,
    ruleno: int,
    xs: Sequence[int],
    result_max: int,
    weights: Sequence[int],
    choose_args: Mapping[int, ChooseArg] | None = None,
) -> list[list[int]]:
    """:meth:`CrushMap.do_rule` for each of `xs`; a rule that does not come to an end gives no devices."""
    args = choose_args or {}
    rule = crush.rules.get(ruleno)
    if rule is None or not result_max:
        return [[] for _ in xs]
    if len(xs) < _FEW or rule.type in _crush.MSR_RULE_TYPES:
        return [do_rule_or_nothing(crush, ruleno, x, result_max, weights, args) for x in xs]
    vector = vector_mapper(crush, rule, weights, args)
    if vector is not None:
        return vector.map(ruleno, rule, xs, result_max)
    return _Bulk(crush, ruleno, rule, result_max, weights, args).map(xs)


def vector_mapper(
    crush: CrushMap, rule: Rule, weights: Sequence[int], args: Mapping[int, ChooseArg]
) -> VectorMapper | None:
    """None if there is no numpy, or the rule is not one for it."""
    try:
        from .vector import VectorMapper
    except ImportError:
        return None
    return VectorMapper.for_rule(crush, rule, weights, args)


def do_rule_or_nothing(
    crush: CrushMap, ruleno: int, x: int, result_max: int, weights: Sequence[int], args: Mapping[int, ChooseArg]
) -> list[int]:
    try:
        return crush.do_rule(ruleno, x, result_max, weights, args)
    except DecodeError:
        return []


def map_pgs(osdmap: Placement, pool: int) -> Iterator[tuple[int, Osds, Osds, int, Osds, int]]:
    """See :meth:`Placement.map_pgs`."""
    pi = osdmap.pools[pool]
    crush = osdmap.crush
    args = crush.choose_args_for(pool)
    state, affinity = osdmap.osd_state, osdmap.primary_affinity
    there = OSD_EXISTS | OSD_UP
    plain = {
        osd
        for osd in range(osdmap.max_osd)
        if state[osd] & there == there and (not affinity or affinity[osd] == DEFAULT_PRIMARY_AFFINITY)
    }
    tables = (osdmap.pg_temp, osdmap.primary_temp, osdmap.pg_upmap, osdmap.pg_upmap_items, osdmap.pg_upmap_primaries)
    # groups for which CRUSH does not have the last word
    exceptions = {pg.seed for table in tables for pg in table if pg.pool == pool}
    weights = osdmap.osd_weight

    def mapped() -> Iterator[tuple[int, Osds, Osds, int, Osds, int]]:
        block = min(_BLOCK, 64 * _BLOCK // max(pi.size, 1))
        for start in range(0, pi.pg_num, block):
            inputs = raw_pgs_to_pps(pi, pool, range(start, min(start + block, pi.pg_num)))
            rows = crush_do_rule_bulk(crush, pi.crush_rule, inputs, pi.size, weights, args)
            for seed, (pps, row) in enumerate(zip(inputs, rows), start):
                if row and plain.issuperset(row) and seed not in exceptions:
                    osds = tuple(row)
                    yield seed, osds, osds, row[0], osds, row[0]
                else:
                    raw = osdmap.remove_nonexistent_osds(pi, row)
                    yield seed, tuple(raw), *osdmap.raw_to_up_acting(pool, seed, pps, raw)

    return mapped()


def raw_pgs_to_pps(pi: PgPool, pool: int, seeds: range) -> list[int]:
    """pg_pool_t::raw_pg_to_pps of many groups of a pool."""
    mask = mask_for(pi.pgp_num)
    mixed = [ceph_stable_mod(seed, pi.pgp_num, mask) for seed in seeds]
    return crush_hash32_2_bulk(mixed, pool) if pi.flags & FLAG_HASHPSPOOL else [seed + pool for seed in mixed]


def crush_hash32_2_bulk(xs: Sequence[int], b: int) -> list[int]:
    """crush_hash32_2(x, b) for each x."""
    result: list[int] = []
    for i in range(0, len(xs), _LANES):
        part = xs[i : i + _LANES]
        lanes = _Lanes(len(part))
        a = int.from_bytes(b"".join([(x & _MASK).to_bytes(6, "little") for x in part]), "little")
        h = lanes.hash2(a, lanes.ones * (b & _MASK)).to_bytes(6 * len(part), "little")
        low, high = memoryview(h).cast("H")[::3].tolist(), memoryview(h).cast("H")[1::3].tolist()
        result += [x | y << 16 for x, y in zip(low, high)]
    return result


class _Lanes:
    """Arithmetic modulo 2^32 on many numbers in one long integer: 48 bits each, of which between two operations the
    lower 32 are used. So a shift to the left by up to 16 stays inside its lane, what a shift to the right pushes into
    the lane below lies above its 32 bits, and 2^34 in each lane keeps a difference positive."""

    __slots__ = ("_bias", "_mask", "_seed", "_x", "_y", "ones")

    def __init__(self, n: int) -> None:
        self.ones = ones = int.from_bytes(b"\1\0\0\0\0\0" * n, "little")
        self._mask = ones * _MASK
        self._bias = ones << 34
        self._seed, self._x, self._y = ones * 1315423911, ones * 231232, ones * 1232

    def _mix(self, a: int, b: int, c: int) -> tuple[int, int, int]:
        mask, bias = self._mask, self._bias
        a = (a + bias - b - c ^ c >> 13) & mask
        b = (b + bias - c - a ^ a << 8) & mask
        c = (c + bias - a - b ^ b >> 13) & mask
        a = (a + bias - b - c ^ c >> 12) & mask
        b = (b + bias - c - a ^ a << 16) & mask
        c = (c + bias - a - b ^ b >> 5) & mask
        a = (a + bias - b - c ^ c >> 3) & mask
        b = (b + bias - c - a ^ a << 10) & mask
        c = (c + bias - a - b ^ b >> 15) & mask
        return a, b, c

    def hash2(self, a: int, b: int) -> int:
        h = self._seed ^ a ^ b
        a, b, h = self._mix(a, b, h)
        _, a, h = self._mix(self._x, a, h)
        return self._mix(b, self._y, h)[2]

    def hash3(self, a: int, b: int, c: int) -> int:
        h = self._seed ^ a ^ b ^ c
        a, b, h = self._mix(a, b, h)
        c, x, h = self._mix(c, self._x, h)
        y, a, h = self._mix(self._y, a, h)
        b, x, h = self._mix(b, x, h)
        y, c, h = self._mix(y, c, h)
        return h


class _Missing(Exception):
    """A draw that was not made yet."""


class _Bulk:
    """One rule, for many inputs."""

    def __init__(
        self,
        crush: CrushMap,
        ruleno: int,
        rule: Rule,
        result_max: int,
        weights: Sequence[int],
        args: Mapping[int, ChooseArg],
    ) -> None:
        self.crush = crush
        self.ruleno = ruleno
        self.rule = rule
        self.result_max = result_max
        self.weights = weights
        self.args = args
        self._straws: dict[int, list[int]] = {}
        self._lanes: dict[int, _Lanes] = {}
        self._made: dict[Draw, dict[int, int]] = {}
        self._wanted: dict[Draw, list[int]] = {}

    # ------------------------------------------------------------ draws

    def _effective(self, bucket: Bucket, position: int) -> int:
        """The position as far as it matters."""
        arg = self.args.get(bucket.id)
        return min(position, len(arg.weight_sets) - 1) if arg is not None and arg.weight_sets else 0

    def draw(self, bucket: Bucket, xs: Sequence[int], r: int, position: int) -> list[int]:
        """bucket_choose for each of `xs`."""
        if bucket.alg != BUCKET_STRAW2 or len(bucket.items) > _LANES:
            return [_crush.crush_bucket_choose(self.args, bucket, x, r, position) for x in xs]
        ids, weights = _crush.straw2_arguments(self.args, bucket, position)
        m, items = len(ids), bucket.items
        b = b"".join([(i & _MASK).to_bytes(6, "little") for i in ids])
        tables = self._tables(weights)
        at_once = max(_LANES // m, 1)
        ln = neg_ln()
        found: list[int] = []
        for start in range(0, len(xs), at_once):
            part = xs[start : start + at_once]
            n = len(part) * m
            lanes = self._lanes.get(n)
            if lanes is None:
                if len(self._lanes) > 64:
                    self._lanes.clear()
                lanes = self._lanes[n] = _Lanes(n)
            a = int.from_bytes(b"".join([(x & _MASK).to_bytes(6, "little") * m for x in part]), "little")
            h = lanes.hash3(a, int.from_bytes(b * len(part), "little"), lanes.ones * (r & _MASK))
            us = memoryview(h.to_bytes(6 * n, "little")).cast("H")[::3].tolist()
            if tables is None:
                lengths = [ln[u] // w if w else _NO_STRAW for u, w in zip(us, cycle(weights))]
            elif len(tables) == 1:
                lengths = list(map(tables[0].__getitem__, us))
            else:
                lengths = list(map(getitem, cycle(tables), us))
            for i in range(0, n, m):
                row = lengths[i : i + m]
                found.append(items[row.index(min(row))])
        return found

    def _tables(self, weights: Sequence[int]) -> list[list[int]] | None:
        """The straws of each item, once if all weigh the same; None if there are too many weights to keep them."""
        kept = self._straws
        for weight in set(weights):
            if weight not in kept:
                if len(kept) >= _WEIGHTS:
                    return None
                kept[weight] = straws(weight)
        first = kept[weights[0]]
        return [first] if weights.count(weights[0]) == len(weights) else [kept[w] for w in weights]

    def _make(self, key: Draw, xs: Sequence[int]) -> dict[int, int]:
        """Makes draws and keeps them."""
        made = self._made.setdefault(key, {})
        new = [x for x in xs if x not in made] if made else list(xs)
        if new:
            made.update(zip(new, self.draw(self.crush.buckets[key[0]], new, key[1], key[2])))
        return made

    def _descend(self, bucket: Bucket, kind: int, xs: list[int], r: int, position: int) -> dict[int, int]:
        """{x: the item of this kind below the bucket}, as far as one is found at the first try."""
        buckets = self.crush.buckets
        found: dict[int, int] = {}
        pending = [(bucket, xs)]
        while pending:
            inside, some = pending.pop()
            if not inside.items:
                continue
            made = self._make((inside.id, r, self._effective(inside, position)), some)
            below: dict[int, list[int]] = {}
            for x in some:
                item = made[x]
                child = buckets.get(item) if item < 0 else None
                if (child.type if child is not None else 0) == kind:
                    found[x] = item
                elif child is not None:
                    below.setdefault(item, []).append(x)
            pending += [(buckets[item], some) for item, some in below.items()]
        return found

    # ------------------------------------------------------------ rules

    def map(self, xs: Sequence[int]) -> list[list[int]]:
        distinct = list(dict.fromkeys(xs))
        done: dict[int, list[int]] = {}
        self._first_choices(distinct, done)
        pending = [x for x in distinct if x not in done]
        for _ in range(_ROUNDS):
            if len(pending) < _FEW:
                break
            self._wanted = {}
            again = []
            for x in pending:
                try:
                    done[x] = self._run(x)
                except _Missing:
                    again.append(x)
            for (ident, r, position), some in self._wanted.items():
                self._descend(self.crush.buckets[ident], 0, some, r, position)
            pending = again
        for x in pending:
            done[x] = self._run(x, alone=True)
        return [done[x] for x in xs]

    def _run(self, x: int, alone: bool = False) -> list[int]:
        """The rule for one input; _Missing if a draw is missing and is not to be made alone."""

        def choose(bucket: Bucket, x: int, r: int, position: int) -> int:
            key = (bucket.id, r, self._effective(bucket, position))
            made = self._made.get(key)
            item = made.get(x) if made is not None else None
            if item is None:
                if alone:
                    return _crush.crush_bucket_choose(self.args, bucket, x, r, position)
                self._wanted.setdefault(key, []).append(x)
                raise _Missing
            return item

        try:
            return self.crush.do_rule(self.ruleno, x, self.result_max, self.weights, self.args, choose=choose)
        except DecodeError:
            return []

    def _first_choices(self, xs: list[int], done: dict[int, list[int]]) -> None:
        """What a rule of one choice gives when no choice is rejected."""
        shape = _crush.OneChoice.of(self.rule)
        bucket = self.crush.buckets.get(shape.root) if shape is not None else None
        if shape is None or bucket is None:
            return
        t = self.crush.tunables
        stable = t.chooseleaf_stable if shape.stable is None else shape.stable
        vary_r = t.chooseleaf_vary_r if shape.vary_r is None else shape.vary_r
        numrep = shape.numrep if shape.numrep > 0 else shape.numrep + self.result_max
        n = min(numrep, self.result_max)
        tops: list[dict[int, int]] = []
        leaves: list[dict[int, int]] = []
        for rep in range(n):
            top = self._descend(bucket, shape.kind, xs, rep, rep if shape.firstn else 0)
            tops.append(top)
            if not shape.to_leaf or shape.kind == 0:
                leaves.append(top)
                continue
            if shape.firstn:
                r = (0 if stable else rep) + (rep >> (vary_r - 1) if vary_r else 0)
            else:
                r = 2 * rep
            by_bucket: dict[int, list[int]] = {}
            for x, item in top.items():
                by_bucket.setdefault(item, []).append(x)
            leaf: dict[int, int] = {}
            for item, some in by_bucket.items():
                leaf.update(self._descend(self.crush.buckets[item], 0, some, r, rep))
            leaves.append(leaf)
        surely_in = self._surely_in()
        for x in xs:
            try:
                chosen = [leaf[x] for leaf in leaves]
                distinct = len(set(chosen)) == n and len({top[x] for top in tops}) == n
                if distinct and surely_in.issuperset(chosen):
                    done[x] = chosen
            except KeyError:
                pass

    def _surely_in(self) -> set[int]:
        """Devices that is_out does not reject for any x."""
        known = min(self.crush.max_devices, len(self.weights))
        devices = set(chain.from_iterable(b.items for b in self.crush.buckets.values()))
        return {o for o in devices if 0 <= o < known and self.weights[o] >= 0x10000}
