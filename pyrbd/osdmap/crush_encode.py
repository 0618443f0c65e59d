"""How a CRUSH map is written (`src/crush/CrushWrapper.cc` CrushWrapper::encode)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..denc import Encoder
from .crush import (
    BUCKET_LIST,
    BUCKET_STRAW,
    BUCKET_STRAW2,
    BUCKET_TREE,
    BUCKET_UNIFORM,
    CRUSH_MAGIC,
    DEFAULT_CHOOSE_ARGS,
    TAIL_ALGS,
    TAIL_CHOOSE_ARGS,
    TAIL_CLASSES,
    TAIL_DESCEND_ONCE,
    TAIL_MSR,
    TAIL_STABLE,
    TAIL_STRAW_CALC,
    TAIL_TRIES,
    TAIL_VARY_R,
    Bucket,
    ChooseArg,
)
from .features import CRUSH_CHOOSE_ARGS, CRUSH_MSR, CRUSH_TUNABLES5, SERVER_LUMINOUS, SERVER_QUINCY, have

if TYPE_CHECKING:
    from .crush import CrushMap

T = TypeVar("T")


def encode_crush(m: CrushMap, features: int | None) -> bytes:
    """See :meth:`pyrbd.osdmap.crush.CrushMap.encode`."""
    e = Encoder()
    e.u32(CRUSH_MAGIC)
    e.s32(m.max_buckets)
    e.u32(m.max_rules)
    e.s32(m.max_devices)
    weights = {} if features is None or have(features, CRUSH_CHOOSE_ARGS) else _compat_weights(m)
    for slot in range(-1, -1 - m.max_buckets, -1):
        _encode_bucket(e, m.buckets.get(slot), weights.get(slot))
    quincy = features is not None and have(features, SERVER_QUINCY)
    for number in range(m.max_rules):
        rule = m.rules.get(number)
        e.u32(rule is not None)
        if rule is None:
            continue
        e.u32(len(rule.steps))
        e.u8(number & 0xFF if rule.ruleset is None else rule.ruleset)
        e.u8(rule.type)
        e.u8(1 if quincy else rule.min_size)
        e.u8(100 if quincy else rule.max_size)
        for step in rule.steps:
            e.u32(step.op)
            e.s32(step.arg1)
            e.s32(step.arg2)
    for names in (m.type_names, m.names, m.rule_names):
        _encode_map(e, names, e.string)
    _encode_tail(e, m, m.tail if features is None else _tail_of(features))
    return bytes(e.buf)


def _tail_of(features: int) -> int:
    """What is appended for these features, as bits."""
    tail = TAIL_TRIES | TAIL_DESCEND_ONCE | TAIL_VARY_R | TAIL_STRAW_CALC | TAIL_ALGS
    if have(features, CRUSH_TUNABLES5):
        tail |= TAIL_STABLE
    if have(features, SERVER_LUMINOUS):
        tail |= TAIL_CLASSES | TAIL_CHOOSE_ARGS
    if have(features, CRUSH_MSR):
        tail |= TAIL_MSR
    return tail


def _encode_tail(e: Encoder, m: CrushMap, tail: int) -> None:
    t = m.tunables
    if tail & TAIL_TRIES:
        e.u32s((t.choose_local_tries, t.choose_local_fallback_tries, t.choose_total_tries))
    if tail & TAIL_DESCEND_ONCE:
        e.u32(t.chooseleaf_descend_once)
    if tail & TAIL_VARY_R:
        e.u8(t.chooseleaf_vary_r)
    if tail & TAIL_STRAW_CALC:
        e.u8(t.straw_calc_version)
    if tail & TAIL_ALGS:
        e.u32(t.allowed_bucket_algs)
    if tail & TAIL_STABLE:
        e.u8(t.chooseleaf_stable)
    if tail & TAIL_CLASSES:
        _encode_map(e, m.classes, e.s32)
        _encode_map(e, m.class_names, e.string)
        _encode_map(e, m.class_buckets, lambda shadows: _encode_map(e, shadows, e.s32))
    if tail & TAIL_CHOOSE_ARGS:
        e.u32(len(m.choose_args))
        for index, args in sorted(m.choose_args.items()):
            e.s64(index)
            _encode_choose_args(e, args)
    if tail & TAIL_MSR:
        e.u32s((t.msr_descents, t.msr_collision_tries))


def _encode_map(e: Encoder, values: dict[int, T], encode: Callable[[T], None]) -> None:
    e.u32(len(values))
    for key, value in sorted(values.items()):
        e.s32(key)
        encode(value)


def _encode_choose_args(e: Encoder, args: dict[int, ChooseArg]) -> None:
    kept = [(-1 - slot, arg) for slot, arg in args.items() if arg.weight_sets or arg.ids]
    e.u32(len(kept))
    for index, arg in sorted(kept):
        e.u32(index)
        e.u32(len(arg.weight_sets))
        for weights in arg.weight_sets:
            e.u32(len(weights))
            e.u32s(weights)
        e.u32(len(arg.ids))
        for ident in arg.ids:
            e.s32(ident)


def _encode_bucket(e: Encoder, bucket: Bucket | None, weights: tuple[int, ...] | None) -> None:
    """Args:
    weights: to write instead of those of a straw2 bucket.
    """
    if bucket is None:
        e.u32(0)
        return
    e.u32(bucket.alg)
    e.s32(bucket.id)
    e.u16(bucket.type)
    e.u8(bucket.alg)
    e.u8(bucket.hash)
    e.u32(bucket.weight)
    e.u32(len(bucket.items))
    for item in bucket.items:
        e.s32(item)
    if bucket.alg == BUCKET_UNIFORM:
        e.u32s(bucket.extra)
    elif bucket.alg == BUCKET_TREE:
        e.u8(len(bucket.extra))
        e.u32s(bucket.extra)
    elif bucket.alg == BUCKET_STRAW2:
        e.u32s(bucket.weights if weights is None else weights)
    elif bucket.alg in (BUCKET_LIST, BUCKET_STRAW):
        e.u32s(tuple([value for pair in zip(bucket.weights, bucket.extra, strict=True) for value in pair]))


def _compat_weights(m: CrushMap) -> dict[int, tuple[int, ...]]:
    """For decoders from before luminous: the weights of the only weight set, by bucket, if there is one.

    Raises:
        ValueError: choose_args that only newer decoders understand.
    """
    if not m.choose_args:
        return {}
    args = {b: arg for b, arg in m.choose_args.get(DEFAULT_CHOOSE_ARGS, {}).items() if arg.weight_sets or arg.ids}
    if list(m.choose_args) != [DEFAULT_CHOOSE_ARGS] or any(len(a.weight_sets) != 1 or a.ids for a in args.values()):
        raise ValueError("decoders from before luminous do not understand these choose_args")
    return {b: arg.weight_sets[0] for b, arg in args.items()}
