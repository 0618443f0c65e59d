"""One evaluation of a CRUSH rule with all that was looked at, for :mod:`.explain`.

The mapper tells which bucket was asked with which r, and what became of the item; the numbers behind each draw are
computed here again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import DecodeError
from .crush import (
    BUCKET_LIST,
    BUCKET_STRAW,
    BUCKET_STRAW2,
    BUCKET_TREE,
    BUCKET_UNIFORM,
    CRUSH_ITEM_NONE,
    RULE_CHOOSE_FIRSTN,
    RULE_CHOOSE_INDEP,
    RULE_CHOOSE_MSR,
    RULE_CHOOSELEAF_FIRSTN,
    RULE_CHOOSELEAF_INDEP,
    RULE_EMIT,
    RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES,
    RULE_SET_CHOOSE_LOCAL_TRIES,
    RULE_SET_CHOOSE_TRIES,
    RULE_SET_CHOOSELEAF_STABLE,
    RULE_SET_CHOOSELEAF_TRIES,
    RULE_SET_CHOOSELEAF_VARY_R,
    RULE_SET_MSR_COLLISION_TRIES,
    RULE_SET_MSR_DESCENTS,
    RULE_TAKE,
    Bucket,
    ChooseArg,
    CrushMap,
    Rule,
    Step,
    crush_ln,
)
from .hash import crush_hash32_2, crush_hash32_3, crush_hash32_4

if TYPE_CHECKING:
    from .osdmap import OSDMap

ALGORITHMS = {
    BUCKET_UNIFORM: "uniform",
    BUCKET_LIST: "list",
    BUCKET_TREE: "tree",
    BUCKET_STRAW: "straw",
    BUCKET_STRAW2: "straw2",
}


class Candidate(NamedTuple):
    """An item of a bucket in one draw; for tree buckets one of the nodes on the way to it."""

    item: int
    name: str
    weight: int
    """16.16 fixed point, as it counts here: of the bucket, or of a weight set."""
    hash: int
    """Of x, the item and r: 16 bits, 32 in tree and uniform buckets."""
    ln: int | None
    """straw2: 2^44 * log2((hash + 1) / 2^16)."""
    scale: int | None
    """straw: the length of the item's straw; list: the weights up to here; tree: the weight of the node."""
    draw: int | None
    """What is compared; None if an item without weight does not take part."""
    won: bool


class Draw(NamedTuple):
    """A bucket gives one of its items."""

    depth: int
    """1 in the search for an OSD below a bucket that was chosen (chooseleaf), else 0."""
    replica: int
    tries: int
    """How many before failed."""
    r: int
    bucket: int
    name: str
    type: str
    alg: str
    items: int
    """How many are in the bucket."""
    weight_set: bool
    """Whether weights or ids come from choose_args."""
    candidates: tuple[Candidate, ...]
    item: int
    item_name: str


class Verdict(NamedTuple):
    """What becomes of an item that was drawn."""

    depth: int
    replica: int
    tries: int
    item: int
    name: str
    verdict: str
    """``taken``, ``collision``, ``out``, ..."""
    text: str
    hash: int | None
    """``out`` and ``taken`` of a reweighted OSD: the 16 bits that decided; it is out unless they are below `weight`."""
    weight: int | None


class RuleStep(NamedTuple):
    """A step of a rule."""

    op: str
    text: str
    events: tuple[Draw | Verdict, ...]
    result: tuple[int, ...]
    """What the step leaves to the next one; of ``emit``, what has been found up to there."""
    result_names: tuple[str, ...]


def item_name(crush: CrushMap, item: int) -> str:
    """``host1``, ``osd.3``; the number for what has no name."""
    if item == CRUSH_ITEM_NONE:
        return "none"
    return crush.names.get(item) or (f"osd.{item}" if item >= 0 else f"bucket {item}")


def item_weight(bucket: Bucket, i: int) -> int:
    """crush_get_bucket_item_weight of the item at this position."""
    return bucket.extra[2 * i + 1] if bucket.alg == BUCKET_TREE else bucket.weights[i]


def candidates(
    crush: CrushMap, bucket: Bucket, arg: ChooseArg | None, x: int, r: int, position: int
) -> tuple[Candidate, ...]:
    """The numbers behind one draw, in the order in which the bucket has its items (the walk, for list and tree)."""
    if bucket.alg == BUCKET_STRAW2:
        return _straw2(crush, bucket, arg, x, r, position)
    if bucket.alg == BUCKET_STRAW:
        return _straw(crush, bucket, x, r)
    if bucket.alg == BUCKET_LIST:
        return _list(crush, bucket, x, r)
    if bucket.alg == BUCKET_TREE:
        return _tree(crush, bucket, x, r)
    return _uniform(crush, bucket, x, r)


def _straw2(
    crush: CrushMap, bucket: Bucket, arg: ChooseArg | None, x: int, r: int, position: int
) -> tuple[Candidate, ...]:
    ids, weights = bucket.items, bucket.weights
    if arg is not None:
        ids = arg.ids or ids
        if arg.weight_sets:
            weights = arg.weight_sets[min(position, len(arg.weight_sets) - 1)]
    found: list[Candidate] = []
    best = 0
    for i, item in enumerate(bucket.items):
        hash16 = crush_hash32_3(x, ids[i], r) & 0xFFFF
        ln = crush_ln(hash16) - (1 << 48)
        draw = -(-ln // weights[i]) if weights[i] else None
        found.append(Candidate(item, item_name(crush, item), weights[i], hash16, ln, None, draw, False))
        longest = found[best].draw
        if draw is not None and (longest is None or draw > longest):
            best = i
    return _with_winner(found, best)


def _straw(crush: CrushMap, bucket: Bucket, x: int, r: int) -> tuple[Candidate, ...]:
    found = []
    for i, item in enumerate(bucket.items):
        hash16 = crush_hash32_3(x, item, r) & 0xFFFF
        straw = bucket.extra[i]
        draw = hash16 * straw
        found.append(Candidate(item, item_name(crush, item), bucket.weights[i], hash16, None, straw, draw, False))
    draws = [c.draw or 0 for c in found]
    return _with_winner(found, draws.index(max(draws)))


def _list(crush: CrushMap, bucket: Bucket, x: int, r: int) -> tuple[Candidate, ...]:
    found = []
    for i in range(len(bucket.items) - 1, -1, -1):
        item, weight, total = bucket.items[i], bucket.weights[i], bucket.extra[i]
        hash16 = crush_hash32_4(x, item, r, bucket.id) & 0xFFFF
        draw = (hash16 * total) >> 16
        found.append(Candidate(item, item_name(crush, item), weight, hash16, None, total, draw, draw < weight))
        if draw < weight:
            return tuple(found)
    return _with_winner(found, len(found) - 1)


def _tree(crush: CrushMap, bucket: Bucket, x: int, r: int) -> tuple[Candidate, ...]:
    nodes = bucket.extra
    n = len(nodes) >> 1
    found = []
    while not n & 1:
        hash32 = crush_hash32_4(x, n, r, bucket.id)
        draw = (hash32 * nodes[n]) >> 32
        half = (n & -n) >> 1
        left = n - half
        found.append(Candidate(n, f"node {n}", nodes[left], hash32, None, nodes[n], draw, draw < nodes[left]))
        n = left if draw < nodes[left] else n + half
    return tuple(found)


def _uniform(crush: CrushMap, bucket: Bucket, x: int, r: int) -> tuple[Candidate, ...]:
    size = len(bucket.items)
    last = r % size
    perm = list(range(size))
    found = []
    for p in range(last + 1):
        hash32 = crush_hash32_3(x, bucket.id, p)
        i = hash32 % (size - p)
        perm[p], perm[p + i] = perm[p + i], perm[p]
        item, weight = bucket.items[perm[p]], item_weight(bucket, perm[p])
        found.append(Candidate(item, item_name(crush, item), weight, hash32, None, None, i, p == last))
    return tuple(found)


def _with_winner(found: list[Candidate], best: int) -> tuple[Candidate, ...]:
    found[best] = found[best]._replace(won=True)
    return tuple(found)


# ---------------------------------------------------------------- a rule

_TAKEN = {
    "collision": "is taken already (collision)",
    "leafless": "has no OSD for this",
    "empty": "is empty",
    "unusable": "cannot be used here",
    "exhausted": "no more tries",
}


def step_text(crush: CrushMap, step: Step, size: int) -> tuple[str, str]:
    """The name of a step's operation, and the step as the text of a CRUSH map has it, with what that means."""
    op, arg1, arg2 = step
    if op == RULE_TAKE:
        return "take", f"take {item_name(crush, arg1)}"
    if op == RULE_EMIT:
        return "emit", "emit"
    chosen = _CHOOSE.get(op)
    if chosen is not None:
        what, how = chosen
        kind = crush.type_names.get(arg2, f"type {arg2}" if arg2 else "osd")
        count = arg1 if arg1 > 0 else arg1 + size
        leaf = ", and an OSD below each" if what == "chooseleaf" and arg2 else ""
        text = f"{what} {how} {arg1} type {kind}: {max(count, 0)} different of type {kind}{leaf}"
        return f"{what}_{how}", text
    if op == RULE_CHOOSE_MSR:
        kind = crush.type_names.get(arg2, f"type {arg2}" if arg2 else "osd")
        return "choosemsr", f"choosemsr {arg1} type {kind}: {arg1 or size} different of type {kind}"
    name = _SETTERS.get(op)
    return (name, f"{name} {arg1}") if name else (f"op{op}", f"step {op} {arg1} {arg2}: not known, it does nothing")


_CHOOSE = {
    RULE_CHOOSE_FIRSTN: ("choose", "firstn"),
    RULE_CHOOSE_INDEP: ("choose", "indep"),
    RULE_CHOOSELEAF_FIRSTN: ("chooseleaf", "firstn"),
    RULE_CHOOSELEAF_INDEP: ("chooseleaf", "indep"),
}
_SETTERS = {
    RULE_SET_CHOOSE_TRIES: "set_choose_tries",
    RULE_SET_CHOOSELEAF_TRIES: "set_chooseleaf_tries",
    RULE_SET_CHOOSE_LOCAL_TRIES: "set_choose_local_tries",
    RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES: "set_choose_local_fallback_tries",
    RULE_SET_CHOOSELEAF_VARY_R: "set_chooseleaf_vary_r",
    RULE_SET_CHOOSELEAF_STABLE: "set_chooseleaf_stable",
    RULE_SET_MSR_DESCENTS: "set_msr_descents",
    RULE_SET_MSR_COLLISION_TRIES: "set_msr_collision_tries",
}


class _Recorder:
    """What the mapper tells, as steps with their events."""

    def __init__(self, osdmap: OSDMap, rule: Rule, args: Mapping[int, ChooseArg], x: int, size: int) -> None:
        self.crush = osdmap.crush
        self.weights = osdmap.osd_weight
        self.rule = rule
        self.args = args
        self.x = x
        self.size = size
        self.steps: list[RuleStep] = []
        self.events: list[Draw | Verdict] = []

    def step(self, number: int, working: Sequence[int], result: Sequence[int]) -> None:
        """The step before `number` has been done."""
        if number:
            step = self.rule.steps[number - 1]
            left = result if step.op == RULE_EMIT else working
            op, text = step_text(self.crush, step, self.size)
            names = tuple([item_name(self.crush, item) for item in left])
            self.steps.append(RuleStep(op, text, tuple(self.events), tuple(left), names))
        self.events = []

    def event(
        self, kind: str, depth: int, replica: int, tries: int, bucket: Bucket, r: int, position: int, item: int
    ) -> None:
        if kind in ("draw", "permuted"):
            self.events.append(self._draw(kind, depth, replica, tries, bucket, r, position, item))
            return
        if kind == "empty":
            item = bucket.id
        name = item_name(self.crush, item)
        text = _TAKEN.get(kind, "")
        hash16 = weight = None
        if kind in ("out", "taken") and item >= 0:
            weight = self.weights[item] if item < len(self.weights) else 0
            if 0 < weight < 0x10000:
                hash16 = crush_hash32_2(self.x, item) & 0xFFFF
                text = f"reweighted to {weight / 0x10000:.5f}, hash {hash16:#06x} is {{}}below {weight:#06x}"
                text = text.format("" if kind == "taken" else "not ")
        if kind == "out":
            text = f"out ({text or 'weight 0'})"
        elif kind == "taken":
            text = f"taken ({text})" if text else "taken"
        self.events.append(Verdict(depth, replica, tries, item, name, kind, text, hash16, weight))

    def _draw(
        self, kind: str, depth: int, replica: int, tries: int, bucket: Bucket, r: int, position: int, item: int
    ) -> Draw:
        crush = self.crush
        arg = self.args.get(bucket.id) if bucket.alg == BUCKET_STRAW2 else None
        permuted = kind == "permuted"
        if permuted:
            found = _uniform(crush, bucket, self.x, r)
        else:
            found = candidates(crush, bucket, arg, self.x, r, position)
        return Draw(
            depth,
            replica,
            tries,
            r,
            bucket.id,
            item_name(crush, bucket.id),
            crush.type_names.get(bucket.type, f"type {bucket.type}"),
            "permutation" if permuted else ALGORITHMS[bucket.alg],
            len(bucket.items),
            arg is not None and not permuted,
            found,
            item,
            item_name(crush, item),
        )


def trace_rule(osdmap: OSDMap, pool: int, x: int) -> tuple[tuple[RuleStep, ...], tuple[int, ...]]:
    """The steps of a pool's rule for the input `x`, and what it finds; no steps if there is no such rule."""
    crush, pi = osdmap.crush, osdmap.pools[pool]
    rule = crush.rules.get(pi.crush_rule)
    if rule is None:
        return (), ()
    args = crush.choose_args_for(pool) or {}
    recorder = _Recorder(osdmap, rule, args, x, pi.size)
    try:
        found = crush.do_rule(pi.crush_rule, x, pi.size, osdmap.osd_weight, args, recorder)
    except DecodeError:
        found = []  # a rule without an end finds no OSD
    return tuple(recorder.steps), tuple(found)
