"""The CRUSH map: buckets, rules, tunables, names, and how they are decoded (`src/crush/CrushWrapper.cc`).

Weights are 16.16 fixed point. What rules choose is in :mod:`.mapper`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Decoder
from ..errors import DecodeError

if TYPE_CHECKING:
    from .mapper import Choose, Trace

CRUSH_MAGIC = 0x00010000
CRUSH_ITEM_UNDEF = 0x7FFFFFFE
CRUSH_ITEM_NONE = 0x7FFFFFFF

BUCKET_UNIFORM, BUCKET_LIST, BUCKET_TREE, BUCKET_STRAW, BUCKET_STRAW2 = 1, 2, 3, 4, 5

RULE_TAKE = 1
RULE_CHOOSE_FIRSTN = 2
RULE_CHOOSE_INDEP = 3
RULE_EMIT = 4
RULE_CHOOSELEAF_FIRSTN = 6
RULE_CHOOSELEAF_INDEP = 7
RULE_SET_CHOOSE_TRIES = 8
RULE_SET_CHOOSELEAF_TRIES = 9
RULE_SET_CHOOSE_LOCAL_TRIES = 10
RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES = 11
RULE_SET_CHOOSELEAF_VARY_R = 12
RULE_SET_CHOOSELEAF_STABLE = 13
RULE_SET_MSR_DESCENTS = 14
RULE_SET_MSR_COLLISION_TRIES = 15
RULE_CHOOSE_MSR = 16

RULE_TYPE_MSR_FIRSTN, RULE_TYPE_MSR_INDEP = 4, 5
MSR_RULE_TYPES = (RULE_TYPE_MSR_FIRSTN, RULE_TYPE_MSR_INDEP)

CHOOSE_STEPS = (RULE_CHOOSE_FIRSTN, RULE_CHOOSE_INDEP, RULE_CHOOSELEAF_FIRSTN, RULE_CHOOSELEAF_INDEP)
MAX_BUCKETS = 1 << 22
MAX_DEPTH = 64
DEFAULT_CHOOSE_ARGS = -1

TAIL_TRIES, TAIL_DESCEND_ONCE, TAIL_VARY_R, TAIL_STRAW_CALC, TAIL_ALGS = 1, 2, 4, 8, 16
TAIL_STABLE, TAIL_CLASSES, TAIL_CHOOSE_ARGS, TAIL_MSR = 32, 64, 128, 256


class Bucket(NamedTuple):
    """crush_bucket; `extra` depends on the algorithm: sums, straws, nodes, or the weight that all items have."""

    id: int
    type: int
    alg: int
    hash: int
    weight: int
    items: tuple[int, ...]
    weights: tuple[int, ...]
    extra: tuple[int, ...] = ()


class Step(NamedTuple):
    op: int
    arg1: int
    arg2: int


class Rule(NamedTuple):
    type: int
    steps: tuple[Step, ...]
    min_size: int = 0
    max_size: int = 0
    ruleset: int | None = None
    """The mask's first byte; None: the rule's number."""


class ChooseArg(NamedTuple):
    """crush_choose_arg of one bucket: other weights per position, other ids."""

    weight_sets: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...]


class Tunables(NamedTuple):
    choose_local_tries: int = 2
    choose_local_fallback_tries: int = 5
    choose_total_tries: int = 19
    chooseleaf_descend_once: int = 0
    chooseleaf_vary_r: int = 0
    chooseleaf_stable: int = 0
    straw_calc_version: int = 0
    msr_descents: int = 100
    msr_collision_tries: int = 100
    allowed_bucket_algs: int = 1 << BUCKET_UNIFORM | 1 << BUCKET_LIST | 1 << BUCKET_STRAW


class CrushMap:
    """A decoded CRUSH map."""

    def __init__(self) -> None:
        self.max_devices = 0
        self.max_buckets = 0
        self.max_rules = 0
        self.tail = TAIL_MSR * 2 - 1
        """Which parts that later releases appended it was written with, as bits."""
        self.buckets: dict[int, Bucket] = {}
        self.rules: dict[int, Rule] = {}
        self.type_names: dict[int, str] = {}
        self.names: dict[int, str] = {}
        self.rule_names: dict[int, str] = {}
        self.tunables = Tunables()
        self.classes: dict[int, int] = {}
        self.class_names: dict[int, str] = {}
        self.class_buckets: dict[int, dict[int, int]] = {}
        self.choose_args: dict[int, dict[int, ChooseArg]] = {}
        self._parents: dict[int, int] | None = None

    # ------------------------------------------------------------ decoding

    @classmethod
    def decode(cls, data: bytes | memoryview) -> CrushMap:
        """CrushWrapper::decode.

        Raises:
            DecodeError: truncated, of an unknown kind, or buckets that contain themselves.
        """
        d = Decoder(data)
        m = cls()
        if d.u32() != CRUSH_MAGIC:
            raise DecodeError("crush map: bad magic")
        m.max_buckets, m.max_rules = max_buckets, max_rules = d.s32(), d.u32()
        d.skip(4)  # max_devices, which follows from the rest
        if not 0 <= max_buckets <= min(MAX_BUCKETS, d.remaining // 4) or max_rules > d.remaining // 4:
            raise DecodeError(f"crush map: {max_buckets} buckets and {max_rules} rules announced")
        for slot in range(-1, -1 - max_buckets, -1):
            bucket = _decode_bucket(d)
            if bucket is not None:
                m.buckets[slot] = bucket
        for i in range(max_rules):
            if not d.u32():
                continue
            n = d.count(12)
            ruleset, kind, low, high = d.u8(), d.u8(), d.u8(), d.u8()
            m.rules[i] = Rule(kind, tuple([Step(d.u32(), d.s32(), d.s32()) for _ in range(n)]), low, high, ruleset)
        m.type_names = _decode_names(d)
        m.names = _decode_names(d)
        m.rule_names = _decode_names(d)
        m._decode_tail(d)
        m._check_tree()
        m._finalize()
        return m

    def _decode_tail(self, d: Decoder) -> None:
        """What later releases appended, as far as it is there."""
        t, tail = Tunables(), 0
        if d.remaining:
            tail |= TAIL_TRIES
            t = t._replace(choose_local_tries=d.u32(), choose_local_fallback_tries=d.u32(), choose_total_tries=d.u32())
        if d.remaining:
            tail |= TAIL_DESCEND_ONCE
            t = t._replace(chooseleaf_descend_once=d.u32())
        if d.remaining:
            tail |= TAIL_VARY_R
            t = t._replace(chooseleaf_vary_r=d.u8())
        if d.remaining:
            tail |= TAIL_STRAW_CALC
            t = t._replace(straw_calc_version=d.u8())
        if d.remaining:
            tail |= TAIL_ALGS
            t = t._replace(allowed_bucket_algs=d.u32())
        if d.remaining:
            tail |= TAIL_STABLE
            t = t._replace(chooseleaf_stable=d.u8())
        self.tunables = t
        if d.remaining:
            tail |= TAIL_CLASSES
            self.classes = {d.s32(): d.s32() for _ in range(d.count(8))}
            self.class_names = {d.s32(): d.string() for _ in range(d.count(8))}
            self.class_buckets = {d.s32(): {d.s32(): d.s32() for _ in range(d.count(8))} for _ in range(d.count(8))}
        if d.remaining:
            tail |= TAIL_CHOOSE_ARGS
            for _ in range(d.count(12)):
                index = d.s64()
                args = {}
                for _ in range(d.count(12)):
                    bucket_id = -1 - d.u32()
                    sets = tuple([tuple([d.u32() for _ in range(d.count(4))]) for _ in range(d.count(4))])
                    args[bucket_id] = ChooseArg(sets, tuple([d.s32() for _ in range(d.count(4))]))
                args = self._fitting(args)
                self.choose_args[index] = args
        if d.remaining:
            tail |= TAIL_MSR
            self.tunables = t._replace(msr_descents=d.u32(), msr_collision_tries=d.u32())
        self.tail = tail

    def _finalize(self) -> None:
        """CrushWrapper::finalize: devices are those that stand in a bucket or have a name."""
        highest = max((max(b.items, default=-1) for b in self.buckets.values()), default=-1)
        self.max_devices = min(max(highest, max(self.names, default=-1), -1) + 1, 0x7FFFFFFF)

    def encode(self, features: int | None = None) -> bytes:
        """CrushWrapper::encode: as Ceph writes it for these features (:mod:`pyrbd.osdmap.features`); by default with
        what it was read with, which gives the same bytes of a map that Ceph wrote.

        Raises:
            ValueError: for these features, from before luminous, there is no encoding of the map's weight sets.
        """
        from .crush_encode import encode_crush

        return encode_crush(self, features)

    def _fitting(self, args: dict[int, ChooseArg]) -> dict[int, ChooseArg]:
        """CrushWrapper::update_choose_args: old releases left weight-sets that do not have an item's number of weights,
        and some of buckets that are gone or cannot have them."""
        found = {}
        positions = next((len(args[b].weight_sets) for b in sorted(args, reverse=True) if args[b].weight_sets), 1)
        for bucket_id, (sets, ids) in args.items():
            bucket = self.buckets.get(bucket_id)
            if bucket is None or bucket.alg != BUCKET_STRAW2:
                continue
            size = len(bucket.items)
            if len(sets) == positions:
                sets = tuple([(*w[:size], *[0] * (size - len(w))) for w in sets])
            if (ids and len(ids) != size) or any(len(w) != size for w in sets):
                raise DecodeError(f"crush map: choose_args of bucket {bucket_id} do not fit it")
            found[bucket_id] = ChooseArg(sets, ids)
        return found

    def _check_tree(self) -> None:
        """Refuses cycles and absurd depth, so that every descent ends."""
        done: set[int] = set()
        for start in self.buckets:
            if start in done:
                continue
            path: list[tuple[int, int]] = [(start, 0)]
            on_path = {start}
            while path:
                node, i = path[-1]
                items = self.buckets[node].items
                while i < len(items) and (items[i] >= 0 or items[i] in done or items[i] not in self.buckets):
                    i += 1
                if i == len(items):
                    path.pop()
                    on_path.discard(node)
                    done.add(node)
                    continue
                child = items[i]
                if child in on_path or len(path) >= MAX_DEPTH:
                    raise DecodeError(f"crush map: bucket {child} contains itself, or buckets are nested too deep")
                path[-1] = (node, i + 1)
                path.append((child, 0))
                on_path.add(child)

    # ------------------------------------------------------------ where things stand

    def full_location(self, item: int) -> dict[str, str]:
        """CrushWrapper::get_full_location: {type of bucket: name of the one that `item` is in}, up
        to the root. The trees of device classes do not count."""
        parents = self._parents
        if parents is None:
            parents = {i: n for n, b in self.buckets.items() for i in b.items if "~" not in self.names.get(n, "")}
            self._parents = parents
        location = {}
        while (up := parents.get(item)) is not None:
            location[self.type_names.get(self.buckets[up].type, "")] = self.names.get(up, "")
            item = up
        return location

    def common_ancestor_distance(self, item: int, location: Collection[tuple[str, str]]) -> int | None:
        """CrushWrapper::get_common_ancestor_distance: the type, by number, of the smallest bucket
        that has `item` and is in `location`, [(type, name)]; None if there is none."""
        theirs = self.full_location(item)
        for number, kind in sorted(self.type_names.items()):
            if kind in theirs and (kind, theirs[kind]) in location:
                return number
        return None

    # ------------------------------------------------------------ mapping

    def choose_args_for(self, pool: int) -> dict[int, ChooseArg] | None:
        """choose_args_get_with_fallback."""
        found = self.choose_args.get(pool)
        return found if found is not None else self.choose_args.get(DEFAULT_CHOOSE_ARGS)

    def do_rule(
        self,
        ruleno: int,
        x: int,
        result_max: int,
        weights: Sequence[int],
        choose_args: Mapping[int, ChooseArg] | None = None,
        trace: Trace | None = None,
        choose: Choose | None = None,
    ) -> list[int]:
        """crush_do_rule: up to `result_max` devices for input `x`.

        Args:
            weights: of the devices, 0x10000 = in; those beyond its end are out.
            trace: is told of each step, draw and rejection.
            choose: makes the draws, (bucket, x, r, position), in place of :func:`.mapper.crush_bucket_choose`.
        Raises:
            DecodeError: the rule does not come to an end.
        """
        from .mapper import crush_do_rule

        return crush_do_rule(self, ruleno, x, result_max, weights, choose_args or {}, trace, choose)


def _decode_bucket(d: Decoder) -> Bucket | None:
    alg = d.u32()
    if not alg:
        return None
    if not BUCKET_UNIFORM <= alg <= BUCKET_STRAW2:
        raise DecodeError(f"crush map: bucket algorithm {alg} is not known")
    ident, kind, alg2, hash_, weight = d.s32(), d.u16(), d.u8(), d.u8(), d.u32()
    size = d.count(4)
    if alg2 != alg or ident >= 0 or kind == 0 or hash_ != 0:
        raise DecodeError(f"crush map: bucket {ident} is not well formed")
    items = tuple([d.s32() for _ in range(size)])
    weights: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    if alg == BUCKET_UNIFORM:
        extra = (d.u32(),)
        weights = extra * size
    elif alg == BUCKET_TREE:
        extra = tuple([d.u32() for _ in range(d.u8())])
        if size and (not extra or len(extra) & (len(extra) - 1) or size > len(extra) >> 1):
            raise DecodeError(f"crush map: tree bucket {ident} with {len(extra)} nodes for {size} items")
    elif alg == BUCKET_STRAW2:
        weights = tuple([d.u32() for _ in range(size)])
    else:  # list: weight and sum; straw: weight and straw
        pairs = [(d.u32(), d.u32()) for _ in range(size)]
        weights = tuple([p[0] for p in pairs])
        extra = tuple([p[1] for p in pairs])
    return Bucket(ident, kind, alg, hash_, weight, items, weights, extra)


def _decode_names(d: Decoder) -> dict[int, str]:
    """decode_32_or_64_string_map: an old bug wrote some keys with 64 bits."""
    names = {}
    for _ in range(d.count(8)):
        key = d.s32()
        length = d.u32()
        if length == 0:
            length = d.u32()
        names[key] = d.raw(length).decode("utf-8", "surrogateescape")
    return names
