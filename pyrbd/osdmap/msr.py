"""CRUSH rules of the MSR kind (squid and newer): several devices of each failure domain, where a device that is out
makes the rule look in other domains too (`src/crush/mapper.c`, `doc/dev/crush-msr.rst`).

Function names are those of `mapper.c`, so that both can be read side by side. A rule sets the number of its tries and
goes on with blocks of ``take``, one or more ``choosemsr`` and ``emit``. The product of a block's numbers is the number
of its devices. What Ceph asserts, and ends with the process when it is not so, is a DecodeError here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DecodeError
from . import crush as _crush
from .crush import (
    BUCKET_LIST,
    BUCKET_STRAW,
    BUCKET_STRAW2,
    CRUSH_ITEM_NONE,
    CRUSH_ITEM_UNDEF,
    RULE_CHOOSE_MSR,
    RULE_EMIT,
    RULE_SET_MSR_COLLISION_TRIES,
    RULE_SET_MSR_DESCENTS,
    RULE_TAKE,
    RULE_TYPE_MSR_FIRSTN,
    Bucket,
    ChooseArg,
    Rule,
    Trace,
    _Run,
)

if TYPE_CHECKING:
    from .crush import CrushMap

_TRIES_BEFORE_LOOKING = 8
_U32 = 0xFFFFFFFF


def crush_msr_do_rule(
    crush: CrushMap,
    rule: Rule,
    x: int,
    result_max: int,
    weights: Sequence[int],
    choose_args: Mapping[int, ChooseArg],
    trace: Trace | None = None,
) -> list[int]:
    """The devices for input `x`: `result_max` with CRUSH_ITEM_NONE for what was not found, or with msr_firstn only
    those that were found. A rule that is not of the form above finds none.

    Raises:
        DecodeError: the rule or the buckets are such that Ceph's tools and daemons end at them, or do not come to
            an end.
    """
    descents, collision_tries, start_stepno = crush_msr_scan_config_steps(crush, rule)
    run = _Run(crush, weights, x, choose_args, [_crush.MAX_DRAWS - result_max * len(rule.steps)], 0, 0, 0, 0)
    run.trace = trace
    if run.draws[0] < 0:
        raise DecodeError(f"crush map: {result_max} devices are asked for")
    output = _Output(rule.type, result_max)
    if trace is not None:
        for number in range(start_stepno + 1):
            trace.step(number, (), ())
    start_index = 0
    while start_stepno < len(rule.steps):
        found = crush_msr_scan_next(rule, result_max, start_stepno)
        if found is None:
            return []
        total_children, emit_stepno = found
        root = rule.steps[start_stepno].arg1
        if root >= 0:
            if start_stepno + 1 != emit_stepno:
                return []
            raise DecodeError(f"crush map: an MSR rule takes device {root}")  # Ceph never gets beyond this step
        bucket = _bucket(crush, root)
        start_stepno += 1
        if trace is not None:
            trace.step(start_stepno, (root,), output.devices())
        end_index = min((start_index + total_children) & _U32, result_max)
        if end_index < start_index:
            raise DecodeError("crush map: the numbers of an MSR rule are too large")
        block = _Block(run, rule, result_max, collision_tries, start_stepno, emit_stepno, output)
        limit = output.returned_so_far + end_index - start_index
        before = len(output.devices()) if rule.type == RULE_TYPE_MSR_FIRSTN else start_index
        tryno = 0
        while tryno < descents and output.returned_so_far < limit:
            drawn = block.drawn
            block.choose(bucket, total_children, start_index, end_index, start_stepno, tryno)
            tryno += 1
            if block.drawn == drawn:
                break  # nor will the next tries find anything
        if trace is not None:
            for number in range(start_stepno + 1, emit_stepno + 1):
                trace.step(number, output.devices()[before:], ())
            trace.step(emit_stepno + 1, (), output.devices())
        start_index = end_index
        start_stepno = emit_stepno + 1
    return output.devices()


def crush_msr_scan_config_steps(crush: CrushMap, rule: Rule) -> tuple[int, int, int]:
    """(descents, collision tries, number of the first step that does not set them)."""
    descents, collision_tries = crush.tunables.msr_descents, crush.tunables.msr_collision_tries
    for stepno, step in enumerate(rule.steps):
        if step.op == RULE_SET_MSR_DESCENTS:
            descents = step.arg1 & _U32
        elif step.op == RULE_SET_MSR_COLLISION_TRIES:
            collision_tries = step.arg1 & _U32
        else:
            return descents, collision_tries, stepno
    return descents, collision_tries, len(rule.steps)


def crush_msr_scan_next(rule: Rule, result_max: int, stepno: int) -> tuple[int, int] | None:
    """The block that begins at `stepno`: (number of its devices, number of its emit step); None if it is none."""
    steps = rule.steps
    if stepno + 1 >= len(steps) or steps[stepno].op != RULE_TAKE:
        return None
    total_children = 1
    for number in range(stepno + 1, len(steps)):
        op, arg1, _ = steps[number]
        if op == RULE_EMIT:
            return total_children, number
        if op != RULE_CHOOSE_MSR:
            return None
        total_children = total_children * (arg1 or result_max) & _U32
    return None


def crush_msr_get_retry_value(result_max: int, index: int, tryno: int, local_tryno: int) -> int:
    """The r of a draw."""
    return (((tryno * result_max + index) << 16) + local_tryno) & _U32


def _bucket(crush: CrushMap, item: int) -> Bucket:
    bucket = crush.buckets.get(item)
    if bucket is None:
        raise DecodeError(f"crush map: an MSR rule comes to {item}, which is no bucket")
    return bucket


class _Output:
    """crush_msr_output."""

    __slots__ = ("out", "returned_so_far", "rule_type")

    def __init__(self, rule_type: int, result_len: int) -> None:
        self.rule_type = rule_type
        self.out = [CRUSH_ITEM_NONE] * result_len
        self.returned_so_far = 0

    def emit(self, position: int, result: int) -> None:
        """crush_msr_emit_result."""
        self.out[self.returned_so_far if self.rule_type == RULE_TYPE_MSR_FIRSTN else position] = result
        self.returned_so_far += 1

    def devices(self) -> list[int]:
        return self.out[: self.returned_so_far] if self.rule_type == RULE_TYPE_MSR_FIRSTN else self.out[:]


class _Block:
    """One block of a rule: crush_msr_input, crush_msr_workspace and what works on them.

    Each step has a vector with a place for each device of the result. The places of a stride, which are those below
    one choice, hold what was chosen there so far.
    """

    __slots__ = (
        "collision_tries",
        "drawn",
        "end_stepno",
        "output",
        "possible",
        "result_max",
        "rule",
        "run",
        "start_stepno",
        "step_vecs",
    )

    def __init__(
        self,
        run: _Run,
        rule: Rule,
        result_max: int,
        collision_tries: int,
        start_stepno: int,
        end_stepno: int,
        output: _Output,
    ) -> None:
        self.run = run
        self.rule = rule
        self.result_max = result_max
        self.collision_tries = collision_tries
        self.start_stepno = start_stepno
        self.end_stepno = end_stepno
        self.output = output
        self.drawn = 0
        self.possible: dict[tuple[int, int], frozenset[int]] = {}
        self.step_vecs = [[CRUSH_ITEM_UNDEF] * result_max for _ in range(start_stepno, end_stepno)]

    def descend(self, bucket: Bucket, kind: int, tryno: int, local_tryno: int, index: int) -> tuple[int, Bucket, int]:
        """crush_msr_descend: (the device, or the bucket of the type `kind`, below `bucket`; where it was drawn, r)."""
        run = self.run
        self.drawn += 1
        r = crush_msr_get_retry_value(self.result_max, index, tryno, local_tryno)
        while True:
            run.spend(bucket)
            if not bucket.items:
                raise DecodeError(f"crush map: an MSR rule comes to bucket {bucket.id}, which is empty")
            candidate = run.bucket_choose(bucket, r, index)
            run.tell("draw", index, tryno, bucket, r, index, candidate)
            if candidate >= 0:
                return candidate, bucket, r
            below = _bucket(run.map, candidate)
            if below.type == kind:
                return candidate, bucket, r
            bucket = below

    def charge(self, places: int) -> None:
        """Counts what it costs to look for collisions."""
        self.run.draws[0] -= places + 1
        if self.run.draws[0] < 0:
            raise DecodeError("crush map: a rule does not come to an end")

    def below(self, bucket: Bucket, kind: int) -> frozenset[int]:
        """All that descend() may give; where each of it is a collision, none of the tries has to be made.

        Where fewer failure domains are left than a rule asks for, Ceph looks for each that is missing 100 * 100 times.
        """
        found = self.possible.get((bucket.id, kind))
        if found is None:
            run = self.run
            reached: set[int] = set()
            seen = {bucket.id}
            todo = [bucket]
            while todo:
                inside = todo.pop()
                run.spend(inside)
                for item in self.with_weight(inside):
                    below = _bucket(run.map, item) if item < 0 else None
                    if below is None or below.type == kind:
                        reached.add(item)
                    elif item not in seen:
                        seen.add(item)
                        todo.append(below)
            found = self.possible[bucket.id, kind] = frozenset(reached)
        return found

    def with_weight(self, bucket: Bucket) -> Sequence[int]:
        """The items of a bucket without those that its algorithm never takes."""
        if bucket.alg in (BUCKET_LIST, BUCKET_STRAW):
            lengths = bucket.weights if bucket.alg == BUCKET_LIST else bucket.extra
            return [item for i, item in enumerate(bucket.items) if lengths[i] or not i]
        if bucket.alg != BUCKET_STRAW2:
            return bucket.items
        arg = self.run.args.get(bucket.id)
        sets = arg.weight_sets if arg is not None and arg.weight_sets else (bucket.weights,)
        items = [item for item, *weights in zip(bucket.items, *sets) if any(weights)]
        return items if all(map(any, sets)) else bucket.items

    def choose(
        self, bucket: Bucket, total_descendants: int, start_index: int, end_index: int, stepno: int, tryno: int
    ) -> int:
        """crush_msr_choose: how many of the devices `start_index` to `end_index` were found now."""
        if stepno >= self.end_stepno:
            raise DecodeError("crush map: an MSR rule takes a bucket and chooses nothing of it")
        run = self.run
        _, num, kind = self.rule.steps[stepno]
        num_strides = (num or self.result_max) & _U32
        if total_descendants % num_strides or total_descendants < num_strides:
            raise DecodeError("crush map: the numbers of an MSR rule are too large")
        stride_length = total_descendants // num_strides
        vec, leaf_vec = self.step_vecs[stepno - self.start_stepno], self.step_vecs[-1]
        is_last = stepno + 1 == self.end_stepno
        undo: list[tuple[int, int, int]] = []
        mapped = 0
        for index, stride_start in enumerate(range(start_index, end_index, stride_length)):
            stride_end = min(stride_start + stride_length, end_index)
            if CRUSH_ITEM_UNDEF not in leaf_vec[stride_start:stride_end]:  # crush_msr_leaf_vec_populated
                continue
            # crush_msr_valid_candidate: chosen already for this stride, or for no other
            here = set(vec[stride_start:stride_end])
            elsewhere = set(vec[start_index:stride_start] + vec[stride_end:end_index]) - {CRUSH_ITEM_UNDEF}
            self.charge(end_index - start_index)
            known = (bucket.id, kind) in self.possible
            vain = True
            for local_tryno in range(self.collision_tries):
                if (known or local_tryno == _TRIES_BEFORE_LOOKING) and self.below(bucket, kind) <= elsewhere:
                    run.tell("exhausted", index, tryno, bucket, 0, index, CRUSH_ITEM_NONE)
                    vain = True
                    break
                known = False
                candidate, drawn, r = self.descend(bucket, kind, tryno, local_tryno, index)
                vain = candidate in elsewhere
                if not vain:
                    break
                run.tell("collision", index, tryno, drawn, r, index, candidate)
            if vain:
                continue
            if kind == 0:
                if stride_length != 1 or not is_last:
                    continue
                if run.is_out(candidate):
                    run.tell("out", index, tryno, drawn, r, index, candidate)
                    continue
                vec[stride_start] = candidate
                run.tell("taken", index, tryno, drawn, r, index, candidate)
                self.output.emit(stride_start, candidate)
                mapped += 1
            elif not is_last:
                child = _bucket(run.map, candidate)
                run.depth += 1
                child_mapped = self.choose(child, stride_length, stride_start, stride_end, stepno + 1, tryno)
                run.depth -= 1
                pushed = candidate not in here
                if pushed:  # crush_msr_push_used
                    vec[vec.index(CRUSH_ITEM_UNDEF, stride_start, stride_end)] = candidate
                if pushed and not child_mapped:
                    run.tell("leafless", index, tryno, drawn, r, index, candidate)
                    undo.append((stride_start, stride_end, candidate))
                mapped += child_mapped
        for stride_start, stride_end, candidate in undo:  # crush_msr_pop_used
            vec[vec.index(candidate, stride_start, stride_end)] = CRUSH_ITEM_UNDEF
        return mapped
