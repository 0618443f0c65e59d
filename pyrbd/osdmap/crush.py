"""CRUSH: which devices hold an input value (`src/crush/mapper.c`, `src/crush/CrushWrapper.cc`).

Function names are those of `mapper.c`, so that both can be read side by side. Weights are
16.16 fixed point. Rules of the MSR kind (squid and newer) are run by `msr.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..denc import Decoder
from ..errors import DecodeError
from .hash import crush_hash32_2, crush_hash32_3, crush_hash32_4

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
_SET_STEPS = (
    RULE_SET_CHOOSE_TRIES,
    RULE_SET_CHOOSELEAF_TRIES,
    RULE_SET_CHOOSE_LOCAL_TRIES,
    RULE_SET_CHOOSE_LOCAL_FALLBACK_TRIES,
    RULE_SET_CHOOSELEAF_VARY_R,
    RULE_SET_CHOOSELEAF_STABLE,
)

MAX_BUCKETS = 1 << 22
MAX_DEPTH = 64
MAX_DRAWS = 1 << 22
"""Items that one evaluation of a rule may look at (and what a look into a bucket costs besides): seconds. No map in use
comes near, not one of 10,000 devices in one bucket, most of them out; without a bound, the tries and replicas that a
damaged map tells of would keep us for hours."""
PATIENCE = 8
"""Tries in vain after which it is worth a look whether others could have more luck."""
_LOOK = 8
DEFAULT_CHOOSE_ARGS = -1

TAIL_TRIES, TAIL_DESCEND_ONCE, TAIL_VARY_R, TAIL_STRAW_CALC, TAIL_ALGS = 1, 2, 4, 8, 16
TAIL_STABLE, TAIL_CLASSES, TAIL_CHOOSE_ARGS, TAIL_MSR = 32, 64, 128, 256

# 2^48 * log2(1 + i/128) for i = 0..128 and 2^48 * log2(1 + i/2^15) for i = 0..255, 6 bytes
# each, with the deviations of Ceph's tables: those are part of the format
_LOG_TABLES = (
    "000000080L7RuiOv~Z#2xdobu>S&G#e#g3LT?<u(T>T~vpQ4{Q>k#oL-7l&W6UqAaV-"
    "_<;ZlM?%tF1sn$Qz}95$tjv^RyYU7$H`wE~B|4T=B%yRVMBS^Hc38t@m>@fGY&vsf7+M2VS68m@wh|4!RvP*=bw6o;91Yn{697vS"
    "gUtlRDI#&KC$h&;)WVct60vZY$(LElg`4Ohmy)$`-Ij95}2V5J_q_@k4A&H<LP(#7z-"
    "w>=+qPZZt39X;NA;@%Oe=TJPs*09Wpvkv~RRGjukGh+FLY=}O04aafF%0$|93%W*nlTzn+zZe)yj<OrZ<f&D4i&1il6<ze`03gX<"
    "aA8kOMr^`ccZKbrnWN~5XNRoncsLOy)opsp=QUA1eQ=NyZ$$5yQ%vsxe8!V$0>V5tXYUcHS%e-"
    "9F{(*t}ljj74)v*RB2!=<Vik%3EDi76928z3sdqx3_fUfk2`Hcy5m>%zsJ~^Qd;*no2EMU@;*84dcz?Jz~uS2Vs<)l^PlbMTb+y8"
    "l+3jx)iU7djYyvaVFRm1dy9icf8#nkzt+-P3H)1-"
    "Eu*;1>fM@2Y{fT$cQWpq=j>BKY<B&?yRWoYuPP4J+9zORC*dR&OHMm%x^P_uZ@@_ZGw%CJ+**tTP<*z}pWI&iZ7Sh_Op{_PdK7pT"
    "d{(7kvT43UYygY&IUK*8CQg$4D(d^cFSr^MY^+HqLM767m?2gq3kZTqvyuVt0iUdsZ9oyG^vg@EeMuFi>I()Lr(z;K*D_t6G<fv%"
    "X-"
    "rU0x*IMqRpI1kp=L*_LJa@Yh&r8x}RmZ^HAq}xmKoJ~93^E2i+(BAIiBWh#d0u2}C^x+PVbghKrm`UZv66Hu#1~s4NL@;UlDd>**"
    "lO40^P?rIpI_og&A%no|tN&TeMDBSt1cArz3UF|tNbwdy<T1$dQxlstM)XHi#;?NlN}Y|PJ@>KO4ivZeGI(ADFZz9bhj*p>5x$FX"
    "8vR%KWAcsu00000|Nj600000001Bq!0szHMwhRXVXU<UX2>|_w<<SfPoPKn)4**`T{gx5{SQ~+P6#${a{#zITQl)l28vuaA=pY^d"
    "LmgEEApo+nyX7MQ<bxc@CIIk|cd97>?b*zXECBLe9B(fG7a(R)G5~QMsxvhJ8dvBQH~=QiAow}}u76Y7JpjmVfV@BejGCvOLjVv1"
    "$$&-xY^da7NdUHr`b10s2C51tPXKZT6$w%R6QCLEQ~>>U7|mAzN{bP%S^y8-"
    "1d&|;WNh+sU;tn_+Eilz8brJ{W&o&+m>6jQA`@@=YXG0uKiqBrHQEZkaRB`q(4TYw44RLDcK~`<Nn?5dUQ_)<eE`mlt0sT|;|5d+"
    "g8;I=_UVNHQni!IhydK`Dy@qEWna9GjsOJ{NN|w=(*@2^lmO*7PBWJPQ>n-"
    "lngBCeJ@%Xcol30Np8!}if3TteYU+5Jr2zYx)_bS`aEUHms{rG;fIhAOX(-"
    "Jfu>cs@69KdU3dmIAwg6N3kHfhD3~9xryZ}lX^@YCxCJY~E!T`2DLrBE{5wc+^$N)`ddJ4+`f?JL2%>c-"
    "en#|AuGYO)t(*WJUqmI@9+q<7{*#JcMl~CLOFm#47-vG5TaT4MH>M~aI<N)S$HPq(-"
    "!T1if>Hv_w;+5?HY{sy5@BnHMc~|oQqMSQ8_5dnt_!#*B8ho$$`v8c~VA}owjAabF0RcQdvYP|}uUS%j2Lb%I>|6=~I$41|4FP{W"
    "5FQW#<Ybxt5&?eC9N!fIWPO^y7y+$r5}+FaaifHQ9s$N1@n9hV!`D|qBmsZdxFIJ25E~Q%Dgln7Y2qva4{o`_F9E831EVqlchN_K"
    "H35uihGRGZ|3$w;I|1ot@*_S0Ud$f^K>>JnN902ROJ!-qMgj1cg``OVd=Z?4OaTbbtYl9CsnNGYQUP`uy(Couho-"
    "y)SOM~Qw&Yp?&XB6aT>&xfn519<G?9UXV*%`WWMpOmaHv5<X#v+986<20y&1~(Z2_v+w&QUDL>_&^bO9WzJ)?I4Nq+c(dI92>tzv"
    "xv{`Xu$fB{%Ef3Si98H}m{h5<&vNa2V9Qaj<mivd#obD)j^T?PSwkpYWVh+mWe^6d#fmjSBGg&vv#$nyLBoB?BCY~7y$lNHyzq5*"
    "CaJe;Kg3s;+ar~!cE^jfO{<+n&Wt^rWgmKm`D**M?$vjLUmA=tJ7o7!Htxd8(hmX^E$<DJKKzX4Hf^HjnCWrG<s#Q`?sITOeM*^5"
    ";2$^mD6Y0=FA^|yGi&;gn|f{)VyZ3u>L)&YhdgiYB2`F(sW+yUPvZwuc6P8nS4;Q?J$L&@X;BikgX=K-~<0Eg-UE5z1i?E#%9r$q"
    "1pAJuUq^8w1tHUjnmvkvy)_yO~pufO{No^fNI{sGLA5q$vyl>WI}1Og4UTsj8=5@K$^2?A;Yk@pM&e3>HF4+2;;f3Ok)*r+s<6#`"
    "HpwQ(2%7v(Qd8v>7~b7~y|?oJd9Ap$J*ed{9v6X)T{CIY)8K&UAKPMc>VECQ&5>trti8>KiyG6Ja*fFU&kY0Sa@Hv*&%J1jZ^TY&"
    "BpJpvyh=`}zCC9jWoLjpDDv{ps}{%d6IM*^5V?h;G_8e9VLP6C<75YJHpWldy~R08gW9E(>1@Yoq?S^`^u?h{=C7H0z`U;=_TMV4"
    "X$Q!CcsWdid7x4visUM7;9YXYg5_cCn)>sU8faRNJM0XB33u*1a@cLHB-gz<R-VP`$hd;-"
    "g^fMtFHvqYYXf&wxrMrefsRZ_pbhXP98gd>XrTY&BpjRGGc={1l7f;dH%k^*7-"
    "y_uE*t9qjXnF7gVxKx}1gAl#yodUHBoDZS`VO?Oyqykk^zrCjd{MuGvsRHj5uRW{+%ANrmuL6QNMV7Jx57;8mwF0voNBXz|6Xz0;"
    "x&q7rNo~CX_H21dzyhWyq$k4yOpjg~#sc<{=;6o$!aoAP%K~mb7M#uk6OJT#(E`RUEmqV5oggqX*8;F(EfCrQ6!;|V+yV"
)


def _load_tables() -> tuple[list[int], list[int], list[int]]:
    raw = base64.b85decode(_LOG_TABLES)
    values = [int.from_bytes(raw[i : i + 6], "little") for i in range(0, len(raw), 6)]
    reciprocals = [-(-(1 << 55) // (128 + k)) for k in range(129)]
    return reciprocals, values[:129], values[129:]


_RH, _LH, _LL = _load_tables()


def crush_ln(xin: int) -> int:
    """2^44 * log2(xin + 1) for 16-bit values, as Ceph's tables give it."""
    x = xin + 1
    iexpon = 15
    if not x & 0x18000:
        bits = 16 - x.bit_length()
        x <<= bits
        iexpon = 15 - bits
    index = (x >> 8) - 128
    low = (x * _RH[index] >> 48) & 0xFF
    return (iexpon << 44) + ((_LH[index] + _LL[low]) >> 4)


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
            choose: makes the draws, (bucket, x, r, position), in place of :func:`crush_bucket_choose`.
        Raises:
            DecodeError: the rule does not come to an end.
        """
        rule = self.rules.get(ruleno)
        if rule is None:
            return []
        if rule.type in MSR_RULE_TYPES:
            from .msr import crush_msr_do_rule

            return crush_msr_do_rule(self, rule, x, result_max, weights, choose_args or {}, trace)
        t = self.tunables
        args = choose_args or {}
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
                if 0 <= arg1 < self.max_devices or arg1 in self.buckets:
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
                    bucket = self.buckets.get(item)
                    room = result_max - len(o)
                    if numrep <= 0 or bucket is None or room <= 0:
                        continue
                    run = _Run(self, weights, x, args, draws, local_retries, fallback_retries, vary_r, stable)
                    run.trace = trace
                    run.choose = choose
                    out, out2 = [0] * room, [0] * room
                    if firstn:
                        recurse = leaf_tries or (1 if t.chooseleaf_descend_once else choose_tries)
                        n = run.choose_firstn(
                            bucket, numrep, arg2, out, 0, room, choose_tries, recurse, to_leaf, out2, 0
                        )
                    else:
                        n = min(numrep, room)
                        run.choose_indep(
                            bucket, n, numrep, arg2, out, 0, choose_tries, leaf_tries or 1, to_leaf, out2, 0
                        )
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


class _Run:
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
