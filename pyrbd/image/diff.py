"""What has changed in an image (`src/librbd/api/DiffIterate.cc`, `object_map/DiffRequest.cc`,
`io/ObjectRequest.cc` ObjectListSnapsRequest, `src/librados/snap_set_diff.cc`).

Byte by byte it is asked of the objects, which know for each snapshot what the next one has unchanged. By
whole objects it comes from the object maps, where the image has fast-diff and they are to be believed.

An OSD tells of snapshots that were removed until it has trimmed them, so a diff may have extents that were
written and written back, or were the same all the time; it never lacks one that has changed. librbd's fast-diff does:
it forgets a hole that came from cutting the image off, if there is a snapshot of the smaller image and it has grown
again since. Ours tells it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..denc import Decoder
from ..errors import DecodeError
from ..msgr.osdop import NOSNAP, SNAPDIR, OpFlag
from ..msgr.types import CloneInfo, ListSnaps
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import bulk, features, object_map
from .bit_vector import BitVector, PairTable
from .errors import ImageNotFound, InvalidArgument, make_ex
from .io import OBJECT_EXISTS_CLEAN, OBJECT_NONEXISTENT
from .listing import LIST_INSTEAD, existing_objects

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from .image import Image

Callback = Callable[[int, int, bool], object]
Interval = tuple[int, int]
"""First byte, and the one behind the last."""
Extent = tuple[int, int, bool]
"""An interval, and whether there is data; False for what has become a hole."""

_FEW_OBJECTS = 8
"""Up to so many objects are asked one by one, without a look at object maps."""
_WINDOW = 32
_MAPS_IN_FLIGHT = 4

_HOLE, _DATA, _HOLE_UPDATED, _DATA_UPDATED = 0, 1, 2, 3
"""object_map::DiffState: unchanged, unchanged, no more there, changed."""


async def diff_iterate(
    image: Image,
    offset: int,
    length: int,
    from_snapshot: str | int | None,
    callback: Callback,
    include_parent: bool = True,
    whole_object: bool = False,
) -> None:
    """Calls `callback(offset, length, exists)` for each extent that differs from an older state, ascending.

    The newer state is what the image has open: the head or a snapshot.

    Args:
        offset, length: bytes; what is beyond the end is left out.
        from_snapshot: the older state, by a name or an id; None or 0 for an image without any data.
        callback: what it raises ends this; so does a negative number, as an error of that errno. `exists` is
            False where data has been discarded.
        include_parent: of a clone, and without `from_snapshot`: the data that comes from the parent too.
        whole_object: objects that have changed instead of bytes, which fast-diff knows without asking them.
    Raises:
        InvalidArgument: `offset` is beyond the end, or the snapshot is newer than what is open.
        ImageNotFound: there is no such snapshot.
    """
    await image.cache.settle()
    await image.writes.drain()
    await image.current()
    length = image.clip(offset, length)
    from_id = image.find_snapshot(from_snapshot).id if from_snapshot not in (None, 0) else 0
    end_id = image.snap_id
    if from_id > end_id:
        raise InvalidArgument(f"snapshot {from_snapshot!r} of {image.name} is newer than what is open", errno.EINVAL)

    def emit(start: int, end: int, exists: bool) -> None:
        answer = callback(start, end - start, exists)
        if isinstance(answer, int) and answer < 0:
            raise make_ex(answer, f"error generating diff from snapshot {from_snapshot}")

    if from_id != end_id and length:
        await _Diff(image, from_id, offset, offset + length, include_parent, whole_object).run(emit)


async def pieces_with_data(image: Image, size: int) -> list[Interval]:
    """The pieces of what is open, ascending and of at most `size` bytes each, in which there may be data, of its own or
    the parent's."""
    if not image.size:
        return []
    diff = _Diff(image, 0, 0, image.size, True, False)
    await diff._find_existing()
    shown = 0 if diff.parent is None else diff.parent.end
    return [
        (at, min(end, at + size))
        for start, end in diff._periods(diff._candidates())
        for at in range(start, end, size)
        if at < shown or any(diff._may_exist(e.object_no) for e in image.layout.map(at, min(end, at + size) - at))
    ]


class _Diff:
    """One diff of an image against an older state, in a range of bytes.

    A clone's objects that tell of no difference show the parent, so that its diff is reported; but only in
    diffs from the beginning.
    """

    def __init__(self, image: Image, from_id: int, start: int, end: int, parents: bool, whole: bool) -> None:
        self.image = image
        self.from_id = from_id
        self.end_id = image.snap_id
        self.start = start
        self.end = end
        self.whole = whole
        self.parent: _Diff | None = None
        """The diff of the parent from the beginning, in as much of the range as overlaps."""
        self.existing: BitVector | set[int] | None = None
        """Which objects may tell of a difference; None when that is not known."""
        if parents and not from_id and image.parent is not None and start < image.overlap:
            self.parent = _Diff(image.parent, 0, start, min(end, image.overlap), True, whole)

    def objects(self) -> range:
        """The numbers of the objects of all periods (object sets) that the range touches."""
        layout = self.image.layout
        first, last = self.start // layout.period, (self.end - 1) // layout.period
        return range(first * layout.stripe_count, (last + 1) * layout.stripe_count)

    async def run(self, emit: Callable[[int, int, bool], None]) -> None:
        states = await self._fast_diff() if self.whole else None
        if states is not None:
            await self._run_fast(*states, emit)
        else:
            await self._run_slow(emit)

    def _periods(self, numbers: Iterable[int]) -> Iterator[Interval]:
        """The part of the range in each of these periods."""
        period = self.image.layout.period
        for n in numbers:
            yield max(self.start, n * period), min(self.end, (n + 1) * period)

    # ------------------------------------------------------------ from object maps

    async def _fast_diff(self) -> tuple[int, BitVector] | None:
        """DiffRequest: the state of objects, from a certain number on; None when the maps do not tell."""
        image = self.image
        if not image.has(features.FAST_DIFF):
            return None
        ids = [s.id for s in image.header.snaps if self.from_id <= s.id < self.end_id] if self.from_id else []
        ids.append(self.end_id)
        if any(object_map.flags(image, i) & object_map.FAST_DIFF_INVALID for i in ids):
            return None
        objects = self.objects()
        base = objects.start & ~3
        states, before = BitVector(), BitVector()
        smallest = objects.stop
        pending: deque[tuple[int, Completion[BitVector]]] = deque()
        left = deque(ids)
        while left or pending:
            while left and len(pending) < _MAPS_IN_FLIGHT:
                snap_id = left.popleft()
                pending.append((snap_id, image.client.spawn(_load_map(image, snap_id))))
            snap_id, completion = pending.popleft()
            count = image.layout.num_objects(_size_at(image, snap_id))
            try:
                vector = await completion
                usable = vector.size >= count
            except rados.ObjectNotFound:
                if snap_id not in (self.from_id, self.end_id):
                    continue  # removed meanwhile: the next one has its changes
                usable = False
            except (rados.OSError, rados.InvalidArgumentError, DecodeError) as e:
                usable = False
                if isinstance(e, rados.ConnectionShutdown | rados.TimedOut):
                    await bulk.settle([c for _, c in pending])
                    raise
            if not usable:
                await bulk.settle([c for _, c in pending])
                return None
            part = vector.part(base, min(count, objects.stop))
            states.resize(part.size)
            if snap_id == self.from_id:
                states, before = part, part.copy()
                states.apply(0, states.size, (_HOLE, _DATA, _DATA_UPDATED, _DATA))
            else:
                states.fold(part, _LAST if snap_id == self.end_id else _BETWEEN)
                smallest = min(smallest, base + part.size)
        for n in before.nonzero(smallest - base, min(before.size, states.size)):
            if states[n] == _HOLE:  # it was cut off in between
                states[n] = _HOLE_UPDATED
        if await _flags_now(image, ids) & object_map.FAST_DIFF_INVALID:
            return None
        return base, states

    async def _run_fast(self, base: int, states: BitVector, emit: Callable[[int, int, bool], None]) -> None:
        layout = self.image.layout
        from_parent: list[Interval] = []
        if self.parent is not None:
            await self.parent.run(lambda start, end, exists: from_parent.append((start, end)))
            from_parent = _union(from_parent)
        count, period = layout.stripe_count, layout.period
        touched: Iterable[int] = _periods_of_objects((base + n for n in states.nonzero()), count)
        if from_parent:
            touched = sorted({*touched, *_periods_of_intervals(from_parent, period)})
        for start, end in self._periods(touched):
            if start >= end:
                continue
            merged = _Merger(emit)
            for e in layout.map(start, end - start):
                n = e.object_no - base
                state = states[n] if 0 <= n < states.size else _HOLE
                at = start + e.buffer_offset
                if state in (_DATA_UPDATED, _HOLE_UPDATED):
                    merged.add(at, at + e.length, state == _DATA_UPDATED)
                elif state == _HOLE and from_parent:
                    for a, b in _within(from_parent, at, at + e.length):
                        merged.add(a, b, True)
            merged.finish()

    # ------------------------------------------------------------ from the objects

    async def _run_slow(self, emit: Callable[[int, int, bool], None]) -> None:
        image = self.image
        await self._find_existing()
        window = bulk.window(image)
        pending: deque[Completion[list[Extent]]] = deque()

        async def report() -> None:
            merged = _Merger(emit)
            for start, end, exists in await pending.popleft():
                merged.add(start, end, exists)
            merged.finish()

        try:
            for start, end in self._periods(self._candidates()):
                if start >= end:
                    continue
                if len(pending) >= window:
                    await report()
                pending.append(image.client.spawn(self._changes([(start, end)])))
            while pending:
                await report()
        except Exception:
            await bulk.settle(pending)
            raise

    async def _find_existing(self) -> None:
        """Finds out which objects need not be asked."""
        objects = self.objects()
        if len(objects) > _FEW_OBJECTS:
            self.existing = await self._known_by_maps()
            if self.existing is None and len(objects) > LIST_INSTEAD:
                self.existing = set(await existing_objects(self.image, objects))
        if self.parent is not None:
            await self.parent._find_existing()

    async def _known_by_maps(self) -> BitVector | None:
        """What exists in one of the two states, by their object maps."""
        image = self.image
        ids = [i for i in (self.from_id, self.end_id) if i]
        if not image.has(features.OBJECT_MAP):
            return None
        if any(object_map.flags(image, i) & object_map.OBJECT_MAP_INVALID for i in ids):
            return None
        both = BitVector()
        for snap_id in ids:
            try:
                vector = await _load_map(image, snap_id)
            except (rados.OSError, rados.InvalidArgumentError, DecodeError) as e:
                if isinstance(e, rados.ConnectionShutdown | rados.TimedOut):
                    raise
                return None
            if vector.size < image.layout.num_objects(_size_at(image, snap_id)):
                return None
            both.resize(max(both.size, vector.size))
            both.fold(vector, _EITHER)
        return None if await _flags_now(image, ids) & object_map.OBJECT_MAP_INVALID else both

    def _may_exist(self, object_no: int) -> bool:
        known = self.existing
        if isinstance(known, BitVector):
            return object_no < known.size and known[object_no] != OBJECT_NONEXISTENT
        return known is None or object_no in known

    def _candidates(self) -> Iterable[int]:
        """The periods in which there may be a difference, ascending."""
        if self.existing is None:
            period = self.image.layout.period
            return range(self.start // period, (self.end - 1) // period + 1)
        own = _periods_of_objects(self._existing_numbers(), self.image.layout.stripe_count)
        if self.parent is None:
            return own
        period = self.image.layout.period
        if self.parent._unknown():
            return sorted({*own, *range(self.start // period, (self.parent.end - 1) // period + 1)})
        return sorted({*own, *_periods_of_intervals(self.parent._intervals(), period)})

    def _existing_numbers(self) -> Iterator[int]:
        known, objects = self.existing, self.objects()
        if isinstance(known, BitVector):
            yield from known.nonzero(objects.start, objects.stop)
        elif known is not None:
            yield from sorted(known)

    def _unknown(self) -> bool:
        return self.existing is None or (self.parent is not None and self.parent._unknown())

    def _intervals(self) -> Iterator[Interval]:
        """Where there may be a difference, in bytes."""
        yield from self._periods(self._candidates())

    async def _changes(self, parts: list[Interval]) -> list[Extent]:
        """What differs within some intervals, ascending, and neither joined nor overlapping."""
        image, layout = self.image, self.image.layout
        by_object: dict[int, list[Interval]] = {}
        for start, end in parts:
            for e in layout.map(start, end - start):
                by_object.setdefault(e.object_no, []).append((e.offset, e.offset + e.length))
        found: list[Extent] = []
        bare: list[Interval] = []
        pending: deque[tuple[int, Completion[Any] | None]] = deque()

        def to_image(n: int, interval: Interval) -> Iterator[Interval]:
            for at, length in layout.unmap(n, interval[0], interval[1] - interval[0]):
                yield at, at + length

        async def receive() -> None:
            n, op = pending.popleft()
            wanted = _union(by_object.pop(n))
            data: list[Interval] = []
            holes: list[Interval] = []
            if op is not None:
                try:
                    listed = ListSnaps.decode(Decoder((await op).ops[0].data))
                except rados.ObjectNotFound:
                    pass
                else:
                    data, holes = self._object_changes(listed, wanted)
            if not data and not holes:
                for interval in wanted:
                    bare.extend(to_image(n, interval))
            for interval in data:
                found.extend((a, b, True) for a, b in to_image(n, interval))
            for interval in holes:
                found.extend((a, b, False) for a, b in to_image(n, interval))

        for n in sorted(by_object):
            if len(pending) >= _WINDOW:
                await receive()
            op = None
            if self._may_exist(n):
                op = image.data_io.submit(image.object_name(n), ObjectOperation().list_snaps(), snapid=SNAPDIR)
            pending.append((n, op))
        while pending:
            await receive()
        if self.parent is not None and bare:
            shown = _intersect(_union(bare), [(0, image.overlap)])
            if shown:
                found += await self.parent._changes(shown)
        return sorted(found)

    def _object_changes(self, listed: ListSnaps, wanted: list[Interval]) -> tuple[list[Interval], list[Interval]]:
        """What differs in an object: data that is new, and what has become a hole."""
        size = self.image.layout.object_size
        before_size = 0
        if self.from_id:
            before = snap_set_diff(listed.clones, listed.seq, 0, self.from_id)
            before_size = size if before is None else before.end_size
        change = snap_set_diff(listed.clones, listed.seq, self.from_id, self.end_id)
        if change is None:
            return wanted, []
        diff = change.diff
        if self.whole and diff:
            diff = [(0, size)]
        changed = _intersect(wanted, diff)
        holes: list[Interval] = []
        if change.end_size < before_size and not self.whole:
            holes = _intersect(wanted, [(change.end_size, before_size)])
            changed = _subtract(changed, holes)
        if change.exists:
            return changed, holes
        return [], _union([*holes, *changed])


async def _load_map(image: Image, snap_id: int) -> BitVector:
    """A map of the image: the one in memory where we have it, as it is newer than nothing that is stored."""
    own = image.object_map
    if own is not None and own.snap_id == snap_id:
        vector: BitVector = own.vector
        return vector
    return await object_map.load(image.io, image.id, snap_id)


async def _flags_now(image: Image, ids: list[int]) -> int:
    """The flags of some snapshots (or the head) taken together, as the header has them now: who flags a map tells
    nobody, and then changes what it does not have."""
    found = 0
    for at in range(0, len(ids), 256):
        op = ObjectOperation()
        for snap_id in ids[at : at + 256]:
            op.call("rbd", "get_flags", snap_id.to_bytes(8, "little")).set_op_flags(OpFlag.FAILOK)
        for output in (await image.io.operate(image.header_oid, op)).ops:
            if output.rval >= 0 and output.data:
                found |= Decoder(output.data).u64()
    return found


def _size_at(image: Image, snap_id: int) -> int:
    if snap_id == NOSNAP:
        return image.header.size
    for s in image.header.snaps:
        if s.id == snap_id:
            return s.info.image_size
    raise ImageNotFound(f"image {image.name} has no snapshot {snap_id}", errno.ENOENT)


# ---------------------------------------------------------------- the arithmetic


class SnapSetDiff(NamedTuple):
    """What of an object differs between two snapshots."""

    diff: list[Interval]
    end_size: int
    exists: bool
    """At the end."""


def snap_set_diff(clones: tuple[CloneInfo, ...], seq: int, start: int, end: int) -> SnapSetDiff | None:
    """calc_snap_set_diff: None when the object cannot tell, and all of it may differ.

    Args:
        seq: the newest snapshot that the object knows.
        start, end: ids of snapshots; 0 for the beginning, NOSNAP for the head.
    """
    diff: list[Interval] = []
    start_size = 0
    saw_start = False
    i = 0
    while i < len(clones):
        clone = clones[i]
        if clone.id == NOSNAP:
            a, b = seq + 1, NOSNAP
        elif not clone.snaps:
            return None
        else:
            a, b = clone.snaps[0], clone.snaps[-1]
        if b < start:
            i += 1
            continue
        if not saw_start:
            if start < a:  # it was not there
                if clone.size:
                    diff = [(0, clone.size)]
            else:
                start_size = clone.size
            saw_start = True
        if end < a:
            break
        if end <= b:
            return SnapSetDiff(diff, clone.size, True)
        i += 1
        if i < len(clones):
            after = clones[i].size
            if after >= clone.size:
                boundary = after
            elif clone.size <= start_size:
                boundary = clone.size
            else:  # what was appended since the start is gone again
                boundary = max(after, start_size)
                diff = _subtract(diff, [(boundary, clone.size)])
            to_next = [(0, boundary)] if boundary else []
            to_next = _subtract(to_next, _union([(o.start, o.start + o.length) for o in clone.overlap]))
            diff = _union([*diff, *to_next])
    return SnapSetDiff([(0, start_size)] if start_size else [], 0, False)


def _union(intervals: list[Interval]) -> list[Interval]:
    """Sorted, without overlaps, and with neighbours joined."""
    out: list[Interval] = []
    for start, end in sorted(intervals):
        if out and start <= out[-1][1]:
            if end > out[-1][1]:
                out[-1] = (out[-1][0], end)
        elif start < end:
            out.append((start, end))
    return out


def _intersect(a: list[Interval], b: list[Interval]) -> list[Interval]:
    """Of two sorted lists."""
    out: list[Interval] = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            out.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return out


def _subtract(a: list[Interval], b: list[Interval]) -> list[Interval]:
    """Of two sorted lists."""
    out: list[Interval] = []
    j = 0
    for start, end in a:
        while j < len(b) and b[j][1] <= start:
            j += 1
        k = j
        while k < len(b) and b[k][0] < end:
            if start < b[k][0]:
                out.append((start, b[k][0]))
            start = max(start, b[k][1])
            k += 1
        if start < end:
            out.append((start, end))
    return out


def _within(intervals: list[Interval], start: int, end: int) -> Iterator[Interval]:
    """The parts of a sorted list within an interval."""
    from bisect import bisect_right

    i = max(0, bisect_right(intervals, (start, 1 << 65)) - 1)
    while i < len(intervals) and intervals[i][0] < end:
        a, b = max(start, intervals[i][0]), min(end, intervals[i][1])
        if a < b:
            yield a, b
        i += 1


def _periods_of_objects(numbers: Iterable[int], stripe_count: int) -> Iterator[int]:
    last = -1
    for n in numbers:
        period = n // stripe_count
        if period != last:
            last = period
            yield period


def _periods_of_intervals(intervals: Iterable[Interval], period: int) -> Iterator[int]:
    for start, end in intervals:
        yield from range(start // period, (end - 1) // period + 1)


class _Merger:
    """Joins extents that come in ascending order and tell the same."""

    def __init__(self, emit: Callable[[int, int, bool], None]) -> None:
        self._emit = emit
        self._last: Extent | None = None

    def add(self, start: int, end: int, exists: bool) -> None:
        last = self._last
        if last is not None:
            if last[1] == start and last[2] == exists:
                self._last = (last[0], end, exists)
                return
            self._emit(*last)
        self._last = (start, end, exists)

    def finish(self) -> None:
        if self._last is not None:
            self._emit(*self._last)
            self._last = None


def _fold(last: bool) -> Callable[[int, int], int]:
    """DiffRequest::process_object_map: what becomes of an object's diff state with the next snapshot's map."""

    def fold(before: int, state: int) -> int:
        if before == _HOLE:  # only what there is at the end matters
            return _DATA_UPDATED if last and state != OBJECT_NONEXISTENT else _HOLE
        if state == OBJECT_NONEXISTENT:
            return _HOLE_UPDATED
        return _DATA if before == _DATA and state == OBJECT_EXISTS_CLEAN else _DATA_UPDATED

    return fold


_BETWEEN = PairTable(_fold(False))
_LAST = PairTable(_fold(True))
_EITHER = PairTable(lambda a, b: a | b)
