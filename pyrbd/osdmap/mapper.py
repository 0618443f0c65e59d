"""What the rules of a CRUSH map choose (`src/crush/mapper.c`). Function names are those of `mapper.c`, so that both can
be read side by side. Rules of the MSR kind (squid and newer) are run by :mod:`.msr`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import DecodeError
from .crush import (
    BUCKET_LIST,
    BUCKET_STRAW2,
    BUCKET_TREE,
    BUCKET_UNIFORM,
    CHOOSE_STEPS,
    CRUSH_ITEM_NONE,
    CRUSH_ITEM_UNDEF,
    MSR_RULE_TYPES,
    RULE_CHOOSE_FIRSTN,
    RULE_CHOOSELEAF_FIRSTN,
    RULE_CHOOSELEAF_INDEP,
    RULE_EMIT,
    RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES,
    RULE_SET_CHOOSE_LOCAL_TRIES,
    RULE_SET_CHOOSE_TRIES,
    RULE_SET_CHOOSELEAF_STABLE,
    RULE_SET_CHOOSELEAF_TRIES,
    RULE_SET_CHOOSELEAF_VARY_R,
    RULE_TAKE,
    Bucket,
    ChooseArg,
    Rule,
)
from .hash import crush_hash32_2, crush_hash32_3, crush_hash32_4
from .ln import crush_ln

if TYPE_CHECKING:
    from .crush import CrushMap

_SET_STEPS = (
    RULE_SET_CHOOSE_TRIES,
    RULE_SET_CHOOSELEAF_TRIES,
    RULE_SET_CHOOSE_LOCAL_TRIES,
    RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES,
    RULE_SET_CHOOSELEAF_VARY_R,
    RULE_SET_CHOOSELEAF_STABLE,
)

MAX_DRAWS = 1 << 22
"""Items that one evaluation of a rule may look at (and what a look into a bucket costs besides): seconds. No map in use
comes near, not one of 10,000 devices in one bucket, most of them out; without a bound, the tries and replicas that a
damaged map tells of would keep us for hours."""
PATIENCE = 8
"""Tries in vain after which it is worth a look whether others could have more luck."""
_LOOK = 8


class OneChoice(NamedTuple):
    """A rule that takes a bucket, chooses once and emits."""

    root: int
    kind: int
    numrep: int
    """As the step has it: 0 or less means so many less than are wanted."""
    firstn: bool
    to_leaf: bool
    vary_r: int | None
    stable: int | None

    @classmethod
    def of(cls, rule: Rule) -> OneChoice | None:
        """None if the rule is another one."""
        vary_r = stable = root = None
        steps = list(rule.steps)
        while steps and steps[0].op in (*_SET_STEPS, RULE_TAKE):
            op, arg, _ = steps.pop(0)
            if op == RULE_TAKE:
                root = arg
            elif op == RULE_SET_CHOOSELEAF_VARY_R and arg >= 0:
                vary_r = arg
            elif op == RULE_SET_CHOOSELEAF_STABLE and arg >= 0:
                stable = arg
        if root is None or len(steps) != 2 or steps[0].op not in CHOOSE_STEPS or steps[1].op != RULE_EMIT:
            return None
        op, numrep, kind = steps[0]
        firstn = op in (RULE_CHOOSE_FIRSTN, RULE_CHOOSELEAF_FIRSTN)
        to_leaf = op in (RULE_CHOOSELEAF_FIRSTN, RULE_CHOOSELEAF_INDEP)
        return cls(root, kind, numrep, firstn, to_leaf, vary_r, stable)


def crush_do_rule(
    crush: CrushMap,
    ruleno: int,
    x: int,
    result_max: int,
    weights: Sequence[int],
    choose_args: Mapping[int, ChooseArg],
    trace: Trace | None = None,
    choose: Choose | None = None,
) -> list[int]:
    """See :meth:`CrushMap.do_rule`."""
    rule = crush.rules.get(ruleno)
    if rule is None:
        return []
    if rule.type in MSR_RULE_TYPES:
        from .msr import crush_msr_do_rule

        return crush_msr_do_rule(crush, rule, x, result_max, weights, choose_args, trace)
    t = crush.tunables
    args = choose_args
    choose_tries = t.choose_total_tries + 1
    leaf_tries = 0
    local_retries = t.choose_local_tries
    fallback_retries = t.choose_local_fallback_tries
    vary_r = t.chooseleaf_vary_r
    stable = t.chooseleaf_stable
    w: list[int] = []
    result: list[int] = []
    draws = [MAX_DRAWS]
    for number, (op, arg1, arg2) in enumerate(rule.steps):
        if trace is not None:
            trace.step(number, w, result)
        if op == RULE_TAKE:
            if 0 <= arg1 < crush.max_devices or arg1 in crush.buckets:
                w = [arg1]
        elif op == RULE_SET_CHOOSE_TRIES:
            choose_tries = arg1 if arg1 > 0 else choose_tries
        elif op == RULE_SET_CHOOSELEAF_TRIES:
            leaf_tries = arg1 if arg1 > 0 else leaf_tries
        elif op == RULE_SET_CHOOSE_LOCAL_TRIES:
            local_retries = arg1 if arg1 >= 0 else local_retries
        elif op == RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES:
            fallback_retries = arg1 if arg1 >= 0 else fallback_retries
        elif op == RULE_SET_CHOOSELEAF_VARY_R:
            vary_r = arg1 if arg1 >= 0 else vary_r
        elif op == RULE_SET_CHOOSELEAF_STABLE:
            stable = arg1 if arg1 >= 0 else stable
        elif op in CHOOSE_STEPS:
            if not w:
                continue
            to_leaf = op in (RULE_CHOOSELEAF_FIRSTN, RULE_CHOOSELEAF_INDEP)
            firstn = op in (RULE_CHOOSE_FIRSTN, RULE_CHOOSELEAF_FIRSTN)
            o: list[int] = []
            for item in w:
                numrep = arg1 if arg1 > 0 else arg1 + result_max
                bucket = crush.buckets.get(item)
                room = result_max - len(o)
                if numrep <= 0 or bucket is None or room <= 0:
                    continue
                run = Run(crush, weights, x, args, draws, local_retries, fallback_retries, vary_r, stable)
                run.trace = trace
                run.choose = choose
                out, out2 = [0] * room, [0] * room
                if firstn:
                    recurse = leaf_tries or (1 if t.chooseleaf_descend_once else choose_tries)
                    n = run.choose_firstn(bucket, numrep, arg2, out, 0, room, choose_tries, recurse, to_leaf, out2, 0)
                else:
                    n = min(numrep, room)
                    run.choose_indep(bucket, n, numrep, arg2, out, 0, choose_tries, leaf_tries or 1, to_leaf, out2, 0)
                o += (out2 if to_leaf else out)[:n]
            w = o
        elif op == RULE_EMIT:
            result += w[: result_max - len(result)]
            w = []
    if trace is not None:
        trace.step(len(rule.steps), w, result)
    return result


class Trace(Protocol):
    """Who is told what the evaluation of a rule does."""

    def step(self, number: int, working: Sequence[int], result: Sequence[int]) -> None:
        """The steps before `number` are done; what the last one left to the next, and what has been found so far."""

    def event(
        self, kind: str, depth: int, replica: int, tries: int, bucket: Bucket, r: int, position: int, item: int
    ) -> None:
        """`kind` is ``draw`` or ``permuted`` (bucket_perm_choose after many collisions) for an item that a bucket
        gives, and for what becomes of it ``taken``, ``collision``, ``out``, ``leafless``, ``unusable``, ``empty``
        (the bucket has no items), ``exhausted``; `depth` is 1 below a bucket that chooseleaf has chosen."""


Choose = Callable[[Bucket, int, int, int], int]


class Run:
    """One evaluation: what stays the same through the recursion."""

    __slots__ = (
        "args",
        "choose",
        "depth",
        "draws",
        "fallback_retries",
        "local_retries",
        "map",
        "stable",
        "trace",
        "vary_r",
        "weights",
        "x",
    )

    def __init__(
        self,
        crush: CrushMap,
        weights: Sequence[int],
        x: int,
        args: Mapping[int, ChooseArg],
        draws: list[int],
        local_retries: int,
        fallback_retries: int,
        vary_r: int,
        stable: int,
    ) -> None:
        self.map = crush
        self.weights = weights
        self.x = x
        self.args = args
        self.draws = draws
        self.local_retries = local_retries
        self.fallback_retries = fallback_retries
        self.vary_r = vary_r
        self.stable = stable
        self.trace: Trace | None = None
        self.choose: Choose | None = None
        self.depth = 0

    def tell(self, kind: str, rep: int, tries: int, bucket: Bucket, r: int, position: int, item: int) -> None:
        if self.trace is not None:
            self.trace.event(kind, self.depth, rep, tries, bucket, r, position, item)

    def spend(self, bucket: Bucket) -> None:
        """Counts what a look into a bucket costs."""
        self.draws[0] -= len(bucket.items) + _LOOK
        if self.draws[0] < 0:
            raise DecodeError("crush map: a rule does not come to an end")

    def is_out(self, item: int) -> bool:
        if item >= len(self.weights):
            return True
        weight = self.weights[item]
        if weight >= 0x10000:
            return False
        return weight == 0 or crush_hash32_2(self.x, item) & 0xFFFF >= weight

    def in_vain(self, bucket: Bucket, kind: int, chosen: list[int]) -> bool:
        """Whether no draw can give a device, because those below are all chosen or out: the tries that are left, up to
        hundreds for each of hundreds where the legacy tunables have leaves tried as often as hosts, change nothing.
        A trace is told of each."""
        if kind != 0 or self.trace is not None:
            return False
        pending = [bucket]
        while pending:
            inside = pending.pop()
            self.spend(inside)
            for item in inside.items:
                if item >= self.map.max_devices:
                    continue
                if item >= 0:
                    if item not in chosen and not self.is_out(item):
                        return False
                elif item in self.map.buckets:
                    pending.append(self.map.buckets[item])
        return True

    def choose_firstn(
        self,
        bucket: Bucket,
        numrep: int,
        kind: int,
        out: list[int],
        outpos: int,
        count: int,
        tries: int,
        recurse_tries: int,
        to_leaf: bool,
        out2: list[int] | None,
        parent_r: int,
    ) -> int:
        buckets, max_devices = self.map.buckets, self.map.max_devices
        rep = 0 if self.stable else outpos
        while rep < numrep and count > 0:
            ftotal = 0
            look_at = PATIENCE
            skip = False
            item = 0
            retry_descent = True
            while retry_descent:
                retry_descent = False
                inside = bucket
                flocal = 0
                retry_bucket = True
                while retry_bucket:
                    retry_bucket = False
                    self.spend(inside)
                    collide = reject = False
                    r = rep + parent_r + ftotal
                    if not inside.items:
                        reject = True
                        self.tell("empty", rep, ftotal, inside, r, outpos, 0)
                    else:
                        if (
                            self.fallback_retries > 0
                            and flocal >= len(inside.items) >> 1
                            and flocal > self.fallback_retries
                        ):
                            item = _perm_choose(inside, self.x, r)
                            self.tell("permuted", rep, ftotal, inside, r, outpos, item)
                        else:
                            item = self.bucket_choose(inside, r, outpos)
                            self.tell("draw", rep, ftotal, inside, r, outpos, item)
                        if item >= max_devices:
                            self.tell("unusable", rep, ftotal, inside, r, outpos, item)
                            skip = True
                            break
                        below = buckets.get(item) if item < 0 else None
                        itemtype = below.type if below is not None else 0
                        if item < 0 and below is None:
                            self.tell("unusable", rep, ftotal, inside, r, outpos, item)
                            skip = True
                            break
                        if itemtype != kind:
                            if below is None:
                                self.tell("unusable", rep, ftotal, inside, r, outpos, item)
                                skip = True
                                break
                            inside = below
                            retry_bucket = True
                            continue
                        collide = item in out[:outpos]
                        if collide:
                            self.tell("collision", rep, ftotal, inside, r, outpos, item)
                        if not collide and to_leaf:
                            assert out2 is not None
                            if below is not None:
                                sub_r = r >> (self.vary_r - 1) if self.vary_r else 0
                                self.depth += 1
                                got = self.choose_firstn(
                                    below,
                                    1 if self.stable else outpos + 1,
                                    0,
                                    out2,
                                    outpos,
                                    count,
                                    recurse_tries,
                                    0,
                                    False,
                                    None,
                                    sub_r,
                                )
                                reject = got <= outpos
                                self.depth -= 1
                                if reject:
                                    self.tell("leafless", rep, ftotal, inside, r, outpos, item)
                            else:
                                out2[outpos] = item
                        if not reject and not collide and itemtype == 0:
                            reject = self.is_out(item)
                            if reject:
                                self.tell("out", rep, ftotal, inside, r, outpos, item)
                    if reject or collide:
                        ftotal += 1
                        flocal += 1
                        if (collide and flocal <= self.local_retries) or (
                            self.fallback_retries > 0 and flocal <= len(inside.items) + self.fallback_retries
                        ):
                            retry_bucket = True
                        elif ftotal < tries and not (ftotal >= look_at and self.in_vain(bucket, kind, out[:outpos])):
                            if ftotal >= look_at:
                                look_at = tries
                            retry_descent = True
                        else:
                            skip = True
                            self.tell("exhausted", rep, ftotal, inside, r, outpos, item)
            if not skip:
                self.tell("taken", rep, ftotal, inside, r, outpos, item)
                out[outpos] = item
                outpos += 1
                count -= 1
            rep += 1
        return outpos

    def choose_indep(
        self,
        bucket: Bucket,
        left: int,
        numrep: int,
        kind: int,
        out: list[int],
        outpos: int,
        tries: int,
        recurse_tries: int,
        to_leaf: bool,
        out2: list[int] | None,
        parent_r: int,
    ) -> None:
        buckets, max_devices = self.map.buckets, self.map.max_devices
        endpos = outpos + left
        for rep in range(outpos, endpos):
            out[rep] = CRUSH_ITEM_UNDEF
            if out2 is not None:
                out2[rep] = CRUSH_ITEM_UNDEF
        ftotal = 0
        while left > 0 and ftotal < tries:
            for rep in range(outpos, endpos):
                if out[rep] != CRUSH_ITEM_UNDEF:
                    continue
                inside = bucket
                while True:
                    self.spend(inside)
                    r = rep + parent_r
                    if inside.alg == BUCKET_UNIFORM and inside.items and len(inside.items) % numrep == 0:
                        r += (numrep + 1) * ftotal
                    else:
                        r += numrep * ftotal
                    if not inside.items:
                        self.tell("empty", rep, ftotal, inside, r, outpos, 0)
                        break
                    item = self.bucket_choose(inside, r, outpos)
                    self.tell("draw", rep, ftotal, inside, r, outpos, item)
                    below = buckets.get(item) if item < 0 else None
                    itemtype = below.type if below is not None else 0
                    unusable = item >= max_devices or (item < 0 and below is None)
                    if not unusable and itemtype != kind:
                        if below is not None:
                            inside = below
                            continue
                        unusable = True
                    if unusable:
                        self.tell("unusable", rep, ftotal, inside, r, outpos, item)
                        out[rep] = CRUSH_ITEM_NONE
                        if out2 is not None:
                            out2[rep] = CRUSH_ITEM_NONE
                        left -= 1
                        break
                    if item in out[outpos:endpos]:
                        self.tell("collision", rep, ftotal, inside, r, outpos, item)
                        break
                    if to_leaf:
                        if below is not None:
                            assert out2 is not None
                            self.depth += 1
                            self.choose_indep(below, 1, numrep, 0, out2, rep, recurse_tries, 0, False, None, r)
                            self.depth -= 1
                            if out2[rep] == CRUSH_ITEM_NONE:
                                self.tell("leafless", rep, ftotal, inside, r, outpos, item)
                                break
                        elif out2 is not None:
                            out2[rep] = item
                    if itemtype == 0 and self.is_out(item):
                        self.tell("out", rep, ftotal, inside, r, outpos, item)
                        break
                    out[rep] = item
                    self.tell("taken", rep, ftotal, inside, r, outpos, item)
                    left -= 1
                    break
            ftotal += 1
        for rep in range(outpos, endpos):
            if out[rep] == CRUSH_ITEM_UNDEF:
                self.tell("exhausted", rep, ftotal, bucket, 0, outpos, CRUSH_ITEM_NONE)
                out[rep] = CRUSH_ITEM_NONE
            if out2 is not None and out2[rep] == CRUSH_ITEM_UNDEF:
                out2[rep] = CRUSH_ITEM_NONE

    def bucket_choose(self, bucket: Bucket, r: int, position: int) -> int:
        if self.choose is not None:
            return self.choose(bucket, self.x, r, position)
        return crush_bucket_choose(self.args, bucket, self.x, r, position)


def crush_bucket_choose(args: Mapping[int, ChooseArg], bucket: Bucket, x: int, r: int, position: int) -> int:
    """The item that a bucket, which is not empty, gives."""
    alg = bucket.alg
    if alg == BUCKET_STRAW2:
        ids, weights = straw2_arguments(args, bucket, position)
        return bucket.items[_straw2_choose(ids, weights, x, r)]
    if alg == BUCKET_UNIFORM:
        return _perm_choose(bucket, x, r)
    if alg == BUCKET_LIST:
        return _list_choose(bucket, x, r)
    if alg == BUCKET_TREE:
        return _tree_choose(bucket, x, r)
    return _straw_choose(bucket, x, r)


def straw2_arguments(
    args: Mapping[int, ChooseArg], bucket: Bucket, position: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """get_choose_arg_ids, get_choose_arg_weights: what is hashed for each item, and what the items weigh."""
    arg = args.get(bucket.id)
    if arg is None:
        return bucket.items, bucket.weights
    weights = arg.weight_sets[min(position, len(arg.weight_sets) - 1)] if arg.weight_sets else bucket.weights
    return arg.ids or bucket.items, weights


def _straw2_choose(ids: Sequence[int], weights: Sequence[int], x: int, r: int) -> int:
    """The index with the longest straw: the smallest -ln(u)/weight."""
    best = 0
    shortest = 1 << 64
    for i, item in enumerate(ids):
        weight = weights[i]
        if weight:
            draw = (0x1000000000000 - crush_ln(crush_hash32_3(x, item, r) & 0xFFFF)) // weight
            if draw < shortest:
                best = i
                shortest = draw
    return best


def _perm_choose(bucket: Bucket, x: int, r: int) -> int:
    """bucket_perm_choose: the r-th of a pseudo-random permutation of the items."""
    size = len(bucket.items)
    pr = r % size
    perm = list(range(size))
    for p in range(pr + 1):
        if p < size - 1:
            i = crush_hash32_3(x, bucket.id, p) % (size - p)
            perm[p], perm[p + i] = perm[p + i], perm[p]
    return bucket.items[perm[pr]]


def _list_choose(bucket: Bucket, x: int, r: int) -> int:
    for i in range(len(bucket.items) - 1, -1, -1):
        w = crush_hash32_4(x, bucket.items[i], r, bucket.id) & 0xFFFF
        if (w * bucket.extra[i]) >> 16 < bucket.weights[i]:
            return bucket.items[i]
    return bucket.items[0]


def _tree_choose(bucket: Bucket, x: int, r: int) -> int:
    nodes = bucket.extra
    n = len(nodes) >> 1
    while not n & 1:
        w = nodes[n]
        t = (crush_hash32_4(x, n, r, bucket.id) * w) >> 32
        half = (n & -n) >> 1
        left = n - half
        n = left if t < nodes[left] else n + half
    return bucket.items[min(n >> 1, len(bucket.items) - 1)]  # beyond the last one there is no weight, or should not be


def _straw_choose(bucket: Bucket, x: int, r: int) -> int:
    best, high = 0, -1
    for i, item in enumerate(bucket.items):
        draw = (crush_hash32_3(x, item, r) & 0xFFFF) * bucket.extra[i]
        if draw > high:
            best, high = i, draw
    return bucket.items[best]
