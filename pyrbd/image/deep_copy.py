"""Copying an image with its snapshots (`src/librbd/api/Image.cc`, deep_copy; `src/librbd/deep_copy/`).

The snapshots are made first, each with its size. Then every object of the copy is written in the order of its
history: what it was at the first snapshot, with a snapshot context from before it, then what had changed at the
second one, and so on up to the present. The source's objects tell what has changed, so that what did not is not
stored twice.

A copy of a clone has the same parent. An object that shows the parent in all states is left out; any other one is
copied with what it shows of the parent.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Decoder
from ..errors import DecodeError
from ..msgr.osdop import NOSNAP, SNAPDIR, OpFlag
from ..msgr.types import ListSnaps
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from ..rados.target import SnapContext
from . import clone, cls_rbd, create, features, object_map, snapshots
from . import io as rw
from .bit_vector import BitVector
from .bulk import change_header, each, window
from .copy import copy_metadata, data_runs, wanted_features
from .diff import snap_set_diff
from .directory import report
from .errors import ImageBusy
from .image import Image
from .io import OBJECT_EXISTS, OBJECT_EXISTS_CLEAN, OBJECT_NONEXISTENT
from .listing import LIST_INSTEAD, existing_objects
from .object_map import ObjectMap
from .remove import OnProgress

if TYPE_CHECKING:
    from ..rados.io import IoContext
    from .header import Snap
    from .sync import Hold

Interval = tuple[int, int]
"""First byte, and the one behind the last."""


class _State(NamedTuple):
    """What the image was at a snapshot, or is now."""

    snap: Snap | None
    """None for the head."""
    id: int
    size: int
    overlap: int | None
    """With the parent; None without one."""
    source: Image
    """Reads from this state."""


async def deep_copy(
    image: Image,
    dest_io: IoContext,
    dest_name: str,
    features_wanted: int | None = None,
    order: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
    clone_format: int | None = None,
    flatten: bool = False,
    on_progress: OnProgress | None = None,
) -> None:
    """Makes an image with the data and the snapshots of another one: all of them, or, if a snapshot is open, those up
    to that one. Only snapshots that users made are copied, protected ones are protected in the copy too.

    What the caller leaves out is as the source has it: features, order, striping; but for the data pool, which comes
    from `rbd_default_data_pool`.

    Args:
        clone_format: 1 or 2, of the copy of a clone; None for `rbd_default_clone_format`.
        flatten: copy what is shown of a parent, so that the copy has none.
        on_progress: called with (objects done, objects in all); a negative result cancels, and what was copied stays.
    Raises:
        ImageExists (EEXIST); InvalidArgument (EINVAL); ArgumentOutOfRange (EDOM, the order); FunctionNotSupported
        (ENOSYS, a feature); ImageNotFound (ENOENT, the namespace or data pool); ImageBusy (EBUSY): it is being
        migrated; OperationCanceled.
    """
    await image.current()
    await image.cache.settle()
    await image.writes.drain()
    if image.has(features.MIGRATING):
        raise ImageBusy(f"image {image.name} is being migrated", errno.EBUSY)
    bits = wanted_features(image, features_wanted)
    spec = image.header.parent
    parent = None
    if spec is not None:
        io = image.io.with_pool(spec.pool_id).with_namespace(spec.pool_namespace)
        parent = await Image.open(io, image_id=spec.image_id, snapshot=spec.snap_id, read_only=True)
    try:
        states = _states(image, parent)
        related = not flatten and _can_relate(states)
        layout = image.layout
        shape = (
            layout.order if order is None else order,
            bits,
            layout.stripe_unit if stripe_unit is None else stripe_unit,
            layout.stripe_count if stripe_count is None else stripe_count,
        )
        if related:
            assert parent is not None and spec is not None
            order_, features_, unit, count = shape
            await clone.clone(
                parent.io,
                None,
                spec.snap_id,
                dest_io,
                dest_name,
                features_,
                order_,
                unit,
                count,
                data_pool,
                clone_format,
                p_id=spec.image_id,
            )
        else:
            await create.create(dest_io, dest_name, image.size, *shape, data_pool)
        dest = await Image.open(dest_io, dest_name, skip_parent=True)
        try:
            await _Copy(image, dest, states, related, on_progress).run()
        finally:
            await dest.close()
    finally:
        if parent is not None:
            await parent.close()


def _states(image: Image, parent: Image | None) -> list[_State]:
    """What is copied, oldest first: the snapshots that users made, up to what is open, and that or the head."""

    def at(snap: Snap | None) -> _State:
        source = Image(image.io, image.name, image.id, True, image.old_format)
        source.header, source.layout, source.data_io = image.header, image.layout, image.data_io
        size, overlap = image.header.size, image.header.raw.parent_overlap
        if snap is not None:
            source.snap, source.snap_id = snap, snap.id
            size, overlap = snap.info.image_size, snap.parent_overlap
        if parent is None:
            overlap = None
        source.ancestry = (parent, overlap) if overlap else (None, 0)
        return _State(snap, source.snap_id, size, overlap, source)

    chosen = [s for s in image.header.snaps if s.id <= image.snap_id]
    found = [at(s) for s in chosen if s.info.namespace.type == cls_rbd.SNAP_NAMESPACE_USER]
    if image.snap is None:
        found.append(at(None))
    elif not found or found[-1].id != image.snap_id:  # one that users did not make becomes the head
        found.append(at(image.snap))
    return found


def _can_relate(states: list[_State]) -> bool:
    """Whether the copy can have the same parent: where the source shows it in each state, at the end no more than at
    the begin. Otherwise the copy gets the parent's data."""
    overlaps = [s.overlap for s in states]
    if overlaps[0] is None or None in overlaps:
        return False
    return all(b is not None and a is not None and b <= a for a, b in pairwise(overlaps))


class _Copy:
    """One copy, into an image that has just been made."""

    def __init__(
        self, image: Image, dest: Image, states: list[_State], related: bool, on_progress: OnProgress | None
    ) -> None:
        self.image = image
        self.dest = dest
        self.states = states
        self.related = related
        self.on_progress = on_progress
        self.to_head = states[-1].id == image.snap_id and (
            states[-1].snap is None or states[-1].snap.info.namespace.type != cls_rbd.SNAP_NAMESPACE_USER
        )
        """The last state becomes the head; otherwise that is as the last snapshot."""
        self.ids: list[int] = []
        """The copy's snapshots, one for each state but for the head."""
        self.maps: list[BitVector] = []
        """What its object maps are going to be, one for each state."""

    async def run(self) -> None:
        dest = self.dest
        with await self._have_operations(), await dest.writes.block():
            await self._make_snapshots()
            size = max(s.size for s in self.states)
            objects = range(dest.layout.num_objects(size))
            self.maps = [BitVector(dest.layout.num_objects(s.size)) for s in self.states]
            numbers = await self._candidates(objects)
            at_a_time = window(dest, 2 * dest.layout.object_size)
            start = lambda n: dest.client.spawn(self._copy_object(n))  # noqa: E731
            await each(dest, numbers, start, self._report, at_a_time)
            if not numbers and objects:
                self._report(len(objects), len(objects))
            await self._save_object_maps()
            await copy_metadata(self.image, dest)
        await dest.header_changed()

    async def _have_operations(self) -> Hold:
        """Who holds the operations keeps the exclusive lock."""
        while True:
            if self.dest.lock is not None:
                await self.dest.lock.acquire_now()
            hold = await self.dest.operations.acquire()
            if self.dest.lock is None or self.dest.lock.owner:
                return hold
            hold.release()

    def _report(self, done: int, total: int) -> int:
        report(self.on_progress, done, total)
        return 0

    # ------------------------------------------------------------ the header

    async def _make_snapshots(self) -> None:
        """SnapshotCopyRequest. Object maps tell at first that all objects may exist."""
        dest = self.dest
        flags = snapshots.SNAP_CREATE_FLAG_SKIP_OBJECT_MAP | snapshots.SNAP_CREATE_FLAG_SKIP_NOTIFY_QUIESCE
        for state in self.states if not self.to_head else self.states[:-1]:
            assert state.snap is not None
            await self._set_head(state)
            self.ids.append(await snapshots.execute_create(dest, state.snap.name, flags, self._ignore))
            if dest.has(features.OBJECT_MAP):
                oid = object_map.object_map_object(dest.id, self.ids[-1])
                op = object_map.resize_operation(dest.layout.num_objects(state.size), OBJECT_EXISTS)
                await dest.io.operate(oid, op)
            if state.snap.protected:
                await snapshots.execute_protect(dest, state.snap.name)
        await self._set_head(self.states[-1])
        head = dest.object_map
        if head is not None:
            await head.resize(self.states[-1].size)
            await head.update(0, head.size, OBJECT_EXISTS)

    def _ignore(self, done: int, total: int) -> int:
        return 0

    async def _set_head(self, state: _State) -> None:
        """SetHeadRequest: the next snapshot gets the size and the overlap from the head. The overlap follows the size
        down, and stays there."""
        dest = self.dest
        what = f"error setting the size of image {dest.name}"
        overlap = state.overlap if self.related else None
        if overlap is not None and overlap != dest.header.raw.parent_overlap:
            await change_header(dest, cls_rbd.set_size(ObjectOperation(), overlap), what)
        await change_header(dest, cls_rbd.set_size(ObjectOperation(), state.size), what)
        await dest.refresh()

    async def _save_object_maps(self) -> None:
        """The maps as they should be."""
        dest = self.dest
        if not dest.has(features.OBJECT_MAP):
            return
        for snap_id, vector in zip(self.ids, self.maps):
            await ObjectMap(dest, snap_id, vector).save()
        if dest.object_map is not None:
            vector = self.maps[-1]
            if not self.to_head and dest.has(features.FAST_DIFF):
                vector = vector.copy()
                clean = OBJECT_EXISTS_CLEAN
                vector.apply(0, vector.size, (OBJECT_NONEXISTENT, clean, clean, clean))
            await dest.object_map.replace(vector)

    # ------------------------------------------------------------ the objects

    async def _candidates(self, objects: range) -> Collection[int]:
        """The numbers of the copy's objects that may have to be written."""
        image, dest = self.image, self.dest
        own: Collection[int] | None = await self._known_by_maps()
        everything = range(image.layout.num_objects(max(s.size for s in self.states)))
        if own is None and len(everything) > LIST_INSTEAD:
            own = await existing_objects(image, everything)
        if own is None:
            return objects
        found: set[int] = set()
        for n in own:
            for offset, length in image.layout.unmap(n, 0, image.layout.object_size):
                found.update(e.object_no for e in dest.layout.map(offset, length))
        if not self.related:
            shown = max((s.overlap or 0 for s in self.states), default=0)
            found.update(range(dest.layout.num_objects(shown)))
        return sorted(n for n in found if n in objects)

    async def _known_by_maps(self) -> Collection[int] | None:
        """The source's objects that exist in any state, by the object maps; None if these do not tell."""
        image = self.image
        if not image.has(features.OBJECT_MAP):
            return None
        found: set[int] = set()
        for state in self.states:
            if object_map.flags(image, state.id) & object_map.OBJECT_MAP_INVALID:
                return None
            own = image.object_map if state.id == NOSNAP else None
            try:
                vector = own.vector if own is not None else await object_map.load(image.io, image.id, state.id)
            except (rados.ObjectNotFound, rados.InvalidArgumentError, DecodeError):
                return None
            if vector.size < image.layout.num_objects(state.size):
                return None
            found.update(vector.nonzero())
        return found

    async def _copy_object(self, object_no: int) -> None:
        """ObjectCopyRequest, for one object of the copy."""
        dest, layout = self.dest, self.image.layout
        size = dest.layout.object_size
        extents = list(dest.layout.unmap(object_no, 0, size))
        listed = await self._list_snaps({e.object_no for at, n in extents for e in layout.map(at, n)})
        history = _History(self.states, layout.object_size, listed)
        if self.related and not history.exists:
            return
        length = 0  # what the copy's object has
        exists = False
        for i, state in enumerate(self.states):
            pieces = self._changed(history, i, extents)
            op = ObjectOperation()
            if pieces:
                hides = self.related and bool(state.overlap) and extents[0][0] < (state.overlap or 0)
                length, exists = await self._change(op, state, pieces, length, exists, hides)
            if len(op):
                await self._send(object_no, i, op)
            if exists and object_no < self.maps[i].size:
                clean = not len(op) and dest.has(features.FAST_DIFF) and i > 0
                self.maps[i][object_no] = OBJECT_EXISTS_CLEAN if clean else OBJECT_EXISTS

    async def _list_snaps(self, numbers: Collection[int]) -> dict[int, ListSnaps]:
        """What the source's objects know of their history; objects that never were are left out."""
        io, listing = self.image.data_io, ObjectOperation().list_snaps()
        pending = [(n, io.submit(self.image.object_name(n), listing, snapid=SNAPDIR)) for n in sorted(numbers)]
        found: dict[int, ListSnaps] = {}
        error: Exception | None = None
        for n, op in pending:
            try:
                found[n] = ListSnaps.decode(Decoder((await op).ops[0].data))
            except rados.ObjectNotFound:
                pass
            except Exception as e:
                error = error or e
        if error is not None:
            raise error
        return found

    def _changed(self, history: _History, i: int, extents: list[Interval]) -> list[tuple[int, int, int]]:
        """What may differ from the state before: (offset in the copy's object, offset in the image, length).

        Args:
            extents: (offset, length) in the image of the pieces of the copy's object.
        """
        state = self.states[i]
        before = self.states[i - 1] if i else None
        borders: list[Interval] = []
        """Of the image, within which the size or the overlap has changed."""
        if before is not None:
            borders += [
                (min(a, b), max(a, b))
                for a, b in ((before.size, state.size), (before.overlap or 0, state.overlap or 0))
            ]
        out: list[tuple[int, int, int]] = []
        position = 0
        for at, n in extents:
            for e in self.image.layout.map(at, n):
                start, end = at + e.buffer_offset, at + e.buffer_offset + e.length
                for a, b in history.changes(i, e.object_no, e.offset, e.offset + e.length):
                    out.append((position + e.buffer_offset + a - e.offset, start + a - e.offset, b - a))
                for a, b in borders:
                    a, b = max(a, start), min(b, end)
                    if a < b:
                        out.append((position + a - at, a, b - a))
            position += n
        return _joined(out)

    async def _change(
        self,
        op: ObjectOperation,
        state: _State,
        pieces: list[tuple[int, int, int]],
        length: int,
        exists: bool,
        hides: bool,
    ) -> tuple[int, bool]:
        """Adds to a request what makes pieces of an object what they are in a state; gives its new length, and whether
        it exists.

        Args:
            length: what it has until now.
            hides: where it has nothing, the parent would show.
        """
        writes: list[tuple[int, memoryview]] = []
        zeroes: list[Interval] = []
        for offset, at, n in pieces:
            view = memoryview(bytearray(n))
            there = max(0, min(n, state.size - at))
            if there:
                await rw.read_into(state.source, at, view[:there], OpFlag.FADVISE_SEQUENTIAL | OpFlag.FADVISE_NOCACHE)
            end = 0
            for a, m in data_runs(view):
                zeroes.append((offset + end, offset + a))
                writes.append((offset + a, view[a : a + m]))
                end = a + m
            zeroes.append((offset + end, offset + n))
        zeroes = _union(zeroes)
        longer = max([length, *[at + len(data) for at, data in writes]])
        while zeroes and zeroes[-1][1] >= longer:  # it ends where the zeroes at its end begin
            longer = min(longer, zeroes.pop()[0])
        if longer == 0:
            if hides and not exists:
                op.create(False)
            elif hides and length:
                op.truncate(0)
            elif exists:
                op.remove()
            return 0, hides
        if longer < length:
            op.truncate(longer)
        for a, b in zeroes:
            if a < min(b, length):
                op.zero(a, min(b, length) - a)
        for at, data in writes:
            op.write(at, data).set_op_flags(OpFlag.FADVISE_SEQUENTIAL | OpFlag.FADVISE_NOCACHE)
        return longer, True

    async def _send(self, object_no: int, i: int, op: ObjectOperation) -> None:
        """Changes an object of the copy after the snapshots before a state, and before that of the state."""
        older = tuple(reversed(self.ids[:i]))
        snapc = SnapContext(older[0] if older else 0, older)
        try:
            await self.dest.data_io.submit(self.dest.object_name(object_no), op, snapc=snapc)
        except rados.ObjectNotFound:
            pass  # removed already


class _History:
    """What some objects of the source tell of their states."""

    def __init__(self, states: list[_State], object_size: int, listed: dict[int, ListSnaps]) -> None:
        self._parented = [bool(s.overlap or (i and states[i - 1].overlap)) for i, s in enumerate(states)]
        self._changes: dict[int, list[list[Interval]]] = {}
        self.exists = False
        """Whether one of them is there in one of the states."""
        whole = [(0, object_size)]
        for n, snaps in listed.items():
            before, there = 0, False
            per_state: list[list[Interval]] = []
            for i, state in enumerate(states):
                diff = snap_set_diff(snaps.clones, snaps.seq, before, state.id)
                if diff is None:
                    per_state.append(whole)
                    there = True
                else:
                    # where it is not the parent shows
                    shows = self._parented[i] and (i == 0 or diff.exists != there)
                    per_state.append(whole if shows else diff.diff)
                    there = diff.exists
                self.exists = self.exists or there
                before = state.id
            self._changes[n] = per_state

    def changes(self, i: int, object_no: int, start: int, end: int) -> list[Interval]:
        """Where an object may have changed in a state, within an interval. One that never was shows the parent."""
        per_state = self._changes.get(object_no)
        if per_state is None:
            return [(start, end)] if i == 0 and self._parented[0] else []
        return [(max(a, start), min(b, end)) for a, b in per_state[i] if max(a, start) < min(b, end)]


def _union(intervals: list[Interval]) -> list[Interval]:
    """Sorted, without overlaps, and with neighbours joined."""
    out: list[Interval] = []
    for a, b in sorted(i for i in intervals if i[0] < i[1]):
        if out and a <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], b))
        else:
            out.append((a, b))
    return out


def _joined(pieces: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Pieces sorted by their offset in the object, without overlaps; joined where they follow each other in the image
    too."""
    out: list[tuple[int, int, int]] = []
    for offset, at, n in sorted(pieces):
        if out:
            last_offset, last_at, last_n = out[-1]
            if offset < last_offset + last_n:
                cut = last_offset + last_n - offset
                if cut >= n:
                    continue
                offset, at, n = offset + cut, at + cut, n - cut
            if offset == last_offset + last_n and at == last_at + last_n:
                out[-1] = (last_offset, last_at, last_n + n)
                continue
        out.append((offset, at, n))
    return out
