"""crush_do_rule for many inputs at once, with numpy: what :mod:`.crush` does for one x is done for an array of them.

An array of inputs goes through a rule together. What differs among them (how often each was rejected, which bucket it
is in) is kept in arrays beside it, and who is done drops out. Names are those of `src/crush/mapper.c`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import crush as _crush
from .bulk import do_rule_or_nothing, neg_ln
from .crush import BUCKET_STRAW2, BUCKET_UNIFORM, CRUSH_ITEM_NONE, CRUSH_ITEM_UNDEF, ChooseArg, CrushMap, Rule

Ints = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

_CHUNK = 40_000
"""Hashes that are computed together: their arrays fit into the second-level cache."""
_WAVES = 1000
"""Tries after which an input that is still rejected is left to the scalar code, which counts what it costs."""
_FEW_WEIGHTS = 8
_NOBODY = -(1 << 40)
_PADDING = 0xFFFFFFFF

_OK, _REJECT, _SKIP = 0, 1, 2

_SHIFTS = tuple([np.uint32(n) for n in range(17)])
_SEED, _X, _Y = np.uint32(1315423911), np.uint32(231232), np.uint32(1232)


def _mix(a: Any, b: Any, c: U32, to_a: U32, to_b: U32, t: U32) -> None:
    """crush_hashmix: what becomes of `a` and `b`, which may be of a smaller shape, goes into two other arrays (or the
    same ones), `c` is changed; `t` is room."""
    subtract, xor, right, left, n = np.subtract, np.bitwise_xor, np.right_shift, np.left_shift, _SHIFTS
    subtract(a, b, out=to_a)
    subtract(to_a, c, out=to_a)
    right(c, n[13], out=t)
    xor(to_a, t, out=to_a)
    subtract(b, c, out=to_b)
    subtract(to_b, to_a, out=to_b)
    left(to_a, n[8], out=t)
    xor(to_b, t, out=to_b)
    subtract(c, to_a, out=c)
    subtract(c, to_b, out=c)
    right(to_b, n[13], out=t)
    xor(c, t, out=c)
    for first, second, third in ((12, 16, 5), (3, 10, 15)):
        subtract(to_a, to_b, out=to_a)
        subtract(to_a, c, out=to_a)
        right(c, n[first], out=t)
        xor(to_a, t, out=to_a)
        subtract(to_b, c, out=to_b)
        subtract(to_b, to_a, out=to_b)
        left(to_a, n[second], out=t)
        xor(to_b, t, out=to_b)
        subtract(c, to_a, out=c)
        subtract(c, to_b, out=c)
        right(to_b, n[third], out=t)
        xor(c, t, out=c)


def crush_hash32_2(a: U32, b: U32) -> U32:
    h: U32 = a ^ b ^ _SEED
    t, a1, b1, x = (np.empty_like(h) for _ in range(4))
    _mix(a, b, h, a1, b1, t)
    _mix(_X, a1, h, x, a1, t)
    _mix(b1, _Y, h, b1, x, t)
    return h


def crush_hash32_3(a: U32, b: U32, c: U32) -> U32:
    """The arguments are broadcast to a common shape."""
    h: U32 = a ^ b
    np.bitwise_xor(h, c ^ _SEED, out=h)
    t, a1, b1, c1, x, y = (np.empty_like(h) for _ in range(6))
    _mix(a, b, h, a1, b1, t)
    _mix(c, _X, h, c1, x, t)
    _mix(_Y, a1, h, y, a1, t)
    _mix(b1, x, h, b1, x, t)
    _mix(y, c1, h, y, c1, t)
    return h


class _Straws:
    """Buckets of like size, as the columns of tables: a row for each place in a bucket, padded."""

    def __init__(self, columns: Sequence[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]) -> None:
        height = max(len(items) for items, _, _ in columns)
        shape = (height, len(columns))
        self.items = np.zeros(shape, np.int64)
        self.ids = np.zeros(shape, np.uint32)
        weights = np.zeros(shape, np.uint64)
        for i, (items, ids, w) in enumerate(columns):
            n = len(items)
            self.items[:n, i] = items
            self.ids[:n, i] = np.array(ids, np.int64).astype(np.uint32)
            weights[:n, i] = w
        self.nothing = weights == 0
        """Where no straw is drawn."""
        self.all_drawn = not self.nothing.any()
        distinct = np.unique(weights[~self.nothing])
        self.places = np.arange(height, dtype=np.uint64)[:, None]
        ln = _ln()
        # where one bucket's items weigh the same, the order of its straws is that of small numbers
        first = weights.max(axis=0)
        uniform = bool(((weights == first) | self.nothing).all()) and len(distinct) <= _FEW_WEIGHTS
        self.ranks: npt.NDArray[np.uint32] | None = None
        if uniform and len(distinct):
            tables = [np.unique(ln // w, return_inverse=True)[1].astype(np.uint32) << np.uint32(16) for w in distinct]
            self.ranks = np.concatenate(tables)
            self.table = (np.searchsorted(distinct, np.maximum(first, distinct[0])) << 16).astype(np.uint32)
            self.one_table = len(distinct) == 1
        self.weights = np.maximum(weights, np.uint64(1))
        self.shape = shape

    def choose(self, columns: Ints, x: U32, r: U32) -> Ints:
        """bucket_straw2_choose of the bucket in the given column, for each x and r."""
        n = len(x)
        found = np.empty(n, np.int64)
        step = max(_CHUNK // self.shape[0], 1)
        same = bool((columns == columns[0]).all()) if n else True
        for start in range(0, n, step):
            part = slice(start, min(start + step, n))
            which = columns[start : start + 1] if same else columns[part]
            place = self._places(which, x[part], r[part])
            found[part] = self.items[place, which]
        return found

    def _places(self, which: Ints, x: U32, r: U32) -> Any:
        u = crush_hash32_3(x[None, :], self.ids.take(which, axis=1), r[None, :])
        u &= np.uint32(0xFFFF)
        if self.ranks is not None:
            if not self.one_table:
                u |= self.table.take(which)[None, :]
            key: Any = self.ranks.take(u)
            key |= self.places.astype(np.uint32)
            if not self.all_drawn:
                key |= np.where(self.nothing.take(which, axis=1), np.uint32(_PADDING), np.uint32(0))
            place = np.minimum.reduce(key, axis=0) & np.uint32(0xFFFF)
            return place if self.all_drawn else np.where(place == 0xFFFF, 0, place)
        key = _ln().take(u)
        key //= self.weights.take(which, axis=1)
        np.minimum(key, np.uint64((1 << 48) - 1), out=key)
        key <<= np.uint64(16)
        key |= self.places
        if not self.all_drawn:
            key |= np.where(self.nothing.take(which, axis=1), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0))
        place = np.minimum.reduce(key, axis=0) & np.uint64(0xFFFF)
        return np.where(place == 0xFFFF, 0, place).astype(np.int64)


_ln_table: list[npt.NDArray[np.uint64]] = []


def _ln() -> npt.NDArray[np.uint64]:
    if not _ln_table:
        _ln_table.append(np.array(neg_ln(), np.uint64))
    return _ln_table[0]


class VectorMapper:
    """A CRUSH map, prepared for many inputs."""

    def __init__(self, crush: CrushMap, weights: Sequence[int], args: Mapping[int, ChooseArg]) -> None:
        self.crush = crush
        self.weights = weights
        self.args = args
        n = max((-b for b in crush.buckets), default=0)
        self.types = np.full(n, -1, np.int64)
        """Of the bucket with the id -1-i; -1 where there is none."""
        self.sizes = np.zeros(n, np.int64)
        self.uniform = np.zeros(n, bool)
        self.positions = np.ones(n, np.int64)
        self.klass = np.full(n, -1, np.int64)
        self.column = np.zeros(n, np.int64)
        self.straws: list[_Straws] = []
        groups: dict[int, list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]] = {}
        for ident, b in crush.buckets.items():
            i = -1 - ident
            self.types[i], self.sizes[i], self.uniform[i] = b.type, len(b.items), b.alg == BUCKET_UNIFORM
            if b.alg != BUCKET_STRAW2 or not b.items or len(b.items) > 0x8000:
                continue
            arg = args.get(ident)
            positions = max(len(arg.weight_sets), 1) if arg is not None else 1
            self.positions[i] = positions
            klass = len(b.items).bit_length()
            columns = groups.setdefault(klass, [])
            self.klass[i], self.column[i] = klass, len(columns)
            for position in range(positions):
                ids, w = _crush.straw2_arguments(args, b, position)
                columns.append((b.items, ids, w))
        numbers = {klass: number for number, klass in enumerate(groups)}
        self.straws = [_Straws(columns) for columns in groups.values()]
        self.klass = np.array([numbers.get(int(k), -1) for k in self.klass], np.int64)
        self.device_weights = np.zeros(max(crush.max_devices, 1), np.int64)
        known = min(len(weights), crush.max_devices)
        self.device_weights[:known] = weights[:known]

    @classmethod
    def for_rule(
        cls, crush: CrushMap, rule: Rule, weights: Sequence[int], args: Mapping[int, ChooseArg]
    ) -> VectorMapper | None:
        """None if the map or the rule asks for tries inside a bucket, as only legacy tunables do, or for what makes no
        sense."""
        t = crush.tunables
        local = [t.choose_local_tries, t.choose_local_fallback_tries]
        if t.chooseleaf_vary_r > 31:
            return None
        for op, arg, kind in rule.steps:
            if op in _crush.CHOOSE_STEPS and (kind < 0 or arg > _WAVES):
                return None
            if op == _crush.RULE_SET_CHOOSELEAF_VARY_R and arg > 31:
                return None
            if op in (_crush.RULE_SET_CHOOSE_LOCAL_TRIES, _crush.RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES) and arg > 0:
                return None
            if op == _crush.RULE_SET_CHOOSE_LOCAL_TRIES and arg == 0:
                local[0] = 0
            elif op == _crush.RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES and arg == 0:
                local[1] = 0
        return None if any(local) else cls(crush, weights, args)

    # ------------------------------------------------------------ draws

    def _bucket_choose(self, buckets: Ints, x: U32, r: U32, position: Ints) -> Ints:
        """crush_bucket_choose for each input, in the bucket -1-i."""
        found = np.empty(len(x), np.int64)
        klass = self.klass[buckets]
        first = int(klass[0])
        if first >= 0 and (klass == first).all():
            columns = self.column[buckets] + np.minimum(position, self.positions[buckets] - 1)
            return self.straws[first].choose(columns, x, r)
        for k in np.unique(klass).tolist():
            lanes = np.flatnonzero(klass == k)
            some = buckets[lanes]
            if k >= 0:
                columns = self.column[some] + np.minimum(position[lanes], self.positions[some] - 1)
                found[lanes] = self.straws[k].choose(columns, x[lanes], r[lanes])
                continue
            for lane, i in zip(lanes.tolist(), some.tolist()):
                found[lane] = _crush.crush_bucket_choose(
                    self.args, self.crush.buckets[-1 - i], int(x[lane]), int(r[lane]), int(position[lane])
                )
        return found

    def _is_out(self, x: U32, items: Ints) -> npt.NDArray[np.bool_]:
        weight = self.device_weights[items]
        out: npt.NDArray[np.bool_] = weight == 0
        unsure = np.flatnonzero((weight > 0) & (weight < 0x10000))
        if len(unsure):
            h = crush_hash32_2(x[unsure], items[unsure].astype(np.uint32)) & np.uint32(0xFFFF)
            out[unsure] = h >= weight[unsure]
        return out

    def _descend(
        self, start: Ints, x: U32, r: Ints, kind: int, position: Ints, uniform: tuple[int, int] | None = None
    ) -> tuple[Ints, Ints, Ints]:
        """Draws from bucket to bucket until an item is of the kind: items; _OK, _REJECT for an empty bucket or
        _SKIP for what leads nowhere; the r of the last draw.

        Args:
            uniform: (numrep, what is added to r in a uniform bucket whose size is a multiple of it).
        """
        n = len(x)
        item = np.full(n, _NOBODY, np.int64)
        status = np.full(n, _OK, np.int64)
        last = r.copy()
        lanes = np.arange(n)
        buckets = start
        while len(lanes):
            size = self.sizes[buckets]
            empty = size == 0
            if empty.any():
                status[lanes[empty]] = _REJECT
                lanes, buckets, size = lanes[~empty], buckets[~empty], size[~empty]
                if not len(lanes):
                    break
            turns = r[lanes]
            if uniform is not None:
                turns = turns + np.where(self.uniform[buckets] & (size % uniform[0] == 0), uniform[1], 0)
                last[lanes] = turns
            found = self._bucket_choose(buckets, x[lanes], turns.astype(np.uint32), position[lanes])
            inner = found < 0
            known = inner & (found >= -len(self.types))
            index = np.where(known, -1 - found, 0)
            types = np.where(known, self.types[index], np.where(inner, -1, 0))
            types[found >= self.crush.max_devices] = -1
            done = types == kind
            item[lanes[done]] = found[done]
            lost = ~done & (types <= 0)
            status[lanes[lost]] = _SKIP
            go_on = ~done & ~lost
            lanes, buckets = lanes[go_on], index[go_on]
        return item, status, last

    # ------------------------------------------------------------ choosing

    def _choose_firstn(
        self,
        start: Ints,
        x: U32,
        numrep: int,
        kind: int,
        count: int,
        tries: int,
        recurse_tries: int,
        to_leaf: bool,
        vary_r: int,
        stable: int,
    ) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
        """(devices or buckets chosen, how many for each input, inputs that are not done)."""
        n = len(x)
        width = min(numrep, count)
        out = np.full((n, width), _NOBODY, np.int64)
        leaves = out.copy()
        pos = np.zeros(n, np.int64)
        undone = np.zeros(n, bool)
        for rep in range(numrep):
            lanes = np.flatnonzero((pos < width) & ~undone)
            ftotal = 0
            while len(lanes):
                at = pos[lanes]
                r = np.full(len(lanes), rep + ftotal, np.int64)
                item, status, _ = self._descend(start[lanes], x[lanes], r, kind, at)
                good = status == _OK
                good &= ~(out[lanes] == item[:, None]).any(axis=1)
                leaf = item.copy()
                if to_leaf:
                    inner = np.flatnonzero(good & (item < 0))
                    sub = lanes[inner]
                    sub_r = r[inner] >> (vary_r - 1) if vary_r else np.zeros(len(inner), np.int64)
                    rep0 = 0 if stable else at[inner]
                    got, late = self._leaf_firstn(
                        -1 - item[inner], x[sub], rep0 + sub_r, at[inner], leaves[sub], recurse_tries
                    )
                    undone[sub[late]] = True
                    leaf[inner] = got
                    good[inner[got == _NOBODY]] = False
                if kind == 0:
                    check = np.flatnonzero(good)
                    good[check] = ~self._is_out(x[lanes[check]], item[check])
                win = lanes[good]
                out[win, at[good]] = item[good]
                leaves[win, at[good]] = leaf[good]
                pos[win] += 1
                lanes = lanes[~good & (status != _SKIP)]
                ftotal += 1
                if ftotal >= tries:
                    break
                if ftotal >= _WAVES:
                    undone[lanes] = True
                    break
        return (leaves if to_leaf else out), pos, undone

    def _leaf_firstn(
        self, start: Ints, x: U32, r: Ints, at: Ints, taken: Ints, tries: int
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """chooseleaf's look for one device below a bucket; _NOBODY where there is none, and who is not done."""
        found = np.full(len(x), _NOBODY, np.int64)
        late = np.zeros(len(x), bool)
        lanes = np.arange(len(x))
        ftotal = 0
        while len(lanes):
            item, status, _ = self._descend(start[lanes], x[lanes], r[lanes] + ftotal, 0, at[lanes])
            good = status == _OK
            good &= ~(taken[lanes] == item[:, None]).any(axis=1)
            check = np.flatnonzero(good)
            good[check] = ~self._is_out(x[lanes[check]], item[check])
            found[lanes[good]] = item[good]
            lanes = lanes[~good & (status != _SKIP)]
            ftotal += 1
            if ftotal >= tries:
                break
            if ftotal >= _WAVES:
                late[lanes] = True
                break
        return found, late

    def _choose_indep(
        self,
        start: Ints,
        x: U32,
        left: int,
        numrep: int,
        kind: int,
        tries: int,
        recurse_tries: int,
        to_leaf: bool,
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        n = len(x)
        out = np.full((n, left), CRUSH_ITEM_UNDEF, np.int64)
        leaves = out.copy()
        undone = np.zeros(n, bool)
        for ftotal in range(tries):
            if not (out == CRUSH_ITEM_UNDEF).any():
                break
            if ftotal >= _WAVES:
                undone |= (out == CRUSH_ITEM_UNDEF).any(axis=1)
                break
            for rep in range(left):
                lanes = np.flatnonzero((out[:, rep] == CRUSH_ITEM_UNDEF) & ~undone)
                if not len(lanes):
                    continue
                zeros = np.zeros(len(lanes), np.int64)
                base = zeros + rep + numrep * ftotal
                item, status, last = self._descend(start[lanes], x[lanes], base, kind, zeros, (numrep, ftotal))
                bad = lanes[status == _SKIP]
                out[bad, rep] = leaves[bad, rep] = CRUSH_ITEM_NONE
                good = status == _OK
                good &= ~(out[lanes] == item[:, None]).any(axis=1)
                if to_leaf:
                    device = lanes[good & (item >= 0)]
                    leaves[device, rep] = item[good & (item >= 0)]
                    inner = np.flatnonzero(good & (item < 0))
                    sub = lanes[inner]
                    got, late = self._leaf_indep(-1 - item[inner], x[sub], rep, last[inner], numrep, recurse_tries)
                    undone[sub[late]] = True
                    leaves[sub, rep] = got
                    good[inner[got == CRUSH_ITEM_NONE]] = False
                if kind == 0:
                    check = np.flatnonzero(good)
                    good[check] = ~self._is_out(x[lanes[check]], item[check])
                out[lanes[good], rep] = item[good]
        result = leaves if to_leaf else out
        result[result == CRUSH_ITEM_UNDEF] = CRUSH_ITEM_NONE
        return result, undone

    def _leaf_indep(
        self, start: Ints, x: U32, rep: int, parent_r: Ints, numrep: int, tries: int
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        found = np.full(len(x), CRUSH_ITEM_NONE, np.int64)
        late = np.zeros(len(x), bool)
        lanes = np.arange(len(x))
        ftotal = 0
        while len(lanes) and ftotal < tries:
            if ftotal >= _WAVES:
                late[lanes] = True
                break
            at = np.full(len(lanes), rep, np.int64)
            r = parent_r[lanes] + rep + numrep * ftotal
            item, status, _ = self._descend(start[lanes], x[lanes], r, 0, at, (numrep, ftotal))
            good = np.flatnonzero(status == _OK)
            good = good[~self._is_out(x[lanes[good]], item[good])]
            found[lanes[good]] = item[good]
            again = status != _SKIP
            again[good] = False
            lanes = lanes[again]
            ftotal += 1
        return found, late

    # ------------------------------------------------------------ rules

    def map(self, ruleno: int, rule: Rule, xs: Sequence[int], result_max: int) -> list[list[int]]:
        """crush_do_rule for each of `xs`."""
        x = np.array([v & 0xFFFFFFFF for v in xs], np.uint32)
        n = len(x)
        t = self.crush.tunables
        choose_tries, leaf_tries = t.choose_total_tries + 1, 0
        vary_r, stable = t.chooseleaf_vary_r, t.chooseleaf_stable
        working = np.zeros((n, result_max), np.int64)
        filled = np.zeros(n, np.int64)
        result = np.zeros((n, result_max), np.int64)
        size = np.zeros(n, np.int64)
        undone = np.zeros(n, bool)
        for op, arg1, arg2 in rule.steps:
            if op == _crush.RULE_TAKE:
                if 0 <= arg1 < self.crush.max_devices or arg1 in self.crush.buckets:
                    working[:, 0] = arg1
                    filled[:] = 1
            elif op == _crush.RULE_SET_CHOOSE_TRIES:
                choose_tries = arg1 if arg1 > 0 else choose_tries
            elif op == _crush.RULE_SET_CHOOSELEAF_TRIES:
                leaf_tries = arg1 if arg1 > 0 else leaf_tries
            elif op == _crush.RULE_SET_CHOOSELEAF_VARY_R:
                vary_r = arg1 if arg1 >= 0 else vary_r
            elif op == _crush.RULE_SET_CHOOSELEAF_STABLE:
                stable = arg1 if arg1 >= 0 else stable
            elif op in _crush.CHOOSE_STEPS:
                to_leaf = op in (_crush.RULE_CHOOSELEAF_FIRSTN, _crush.RULE_CHOOSELEAF_INDEP)
                firstn = op in (_crush.RULE_CHOOSE_FIRSTN, _crush.RULE_CHOOSELEAF_FIRSTN)
                numrep = arg1 if arg1 > 0 else arg1 + result_max
                chosen = np.zeros((n, result_max), np.int64)
                have = np.zeros(n, np.int64)
                for i in range(int(filled.max()) if n and numrep > 0 else 0):
                    item = working[:, i]
                    valid = (i < filled) & (item < 0) & (item >= -len(self.types)) & (have < result_max) & ~undone
                    valid[valid] = self.types[-1 - item[valid]] >= 0
                    for room in np.unique(result_max - have[valid]).tolist():
                        lanes = np.flatnonzero(valid & (have == result_max - room))
                        start = -1 - item[lanes]
                        if firstn:
                            recurse = leaf_tries or (1 if t.chooseleaf_descend_once else choose_tries)
                            got, counts, late = self._choose_firstn(
                                start, x[lanes], numrep, arg2, room, choose_tries, recurse, to_leaf, vary_r, stable
                            )
                        else:
                            width = min(numrep, room)
                            got, late = self._choose_indep(
                                start, x[lanes], width, numrep, arg2, choose_tries, leaf_tries or 1, to_leaf
                            )
                            counts = np.full(len(lanes), width, np.int64)
                        undone[lanes[late]] = True
                        _append(chosen, have, lanes, got, counts)
                if filled.any():
                    working, filled = chosen, np.where(filled > 0, have, 0)
            elif op == _crush.RULE_EMIT:
                room_left = np.minimum(filled, result_max - size)
                _append(result, size, np.arange(n), working, room_left)
                filled = np.zeros(n, np.int64)
        rows: list[list[int]] = result.tolist()
        if not (size == result_max).all():
            rows = [row[:k] for row, k in zip(rows, size.tolist())]
        for lane in np.flatnonzero(undone).tolist():
            rows[lane] = do_rule_or_nothing(self.crush, ruleno, xs[lane], result_max, self.weights, self.args)
        return rows


def _append(rows: Ints, used: Ints, lanes: Ints, more: Ints, counts: Ints) -> None:
    """Puts the first `counts` of `more` behind what the rows of `lanes` have."""
    for i in range(min(more.shape[1], rows.shape[1])):
        some = np.flatnonzero(counts > i)
        if not len(some):
            break
        to = lanes[some]
        rows[to, used[to] + i] = more[some, i]
    used[lanes] += counts
