"""Reading and writing an image's data: what becomes of an extent of the image at its objects
(`src/librbd/io/ImageRequest.cc`, `ObjectRequest.cc`, `CopyupRequest.cc`).

An object of a clone that is not there yet shows the parent's data. Before a part of it is
written, the parent's data is copied up into it, with the OSDs' class method of that name, which
does nothing where the object is there already: so copying up twice is harmless.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any

from ..denc import Encoder
from ..rados import exceptions as rados
from ..rados.completion import Event
from ..rados.operations import ObjectOperation
from ..rados.target import EMPTY_SNAPC, SnapContext
from . import features
from .bulk import settle
from .errors import InvalidArgument, OSError
from .layout import Layout, ObjectExtent
from .sync import Patience

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ..denc import Buffer
    from ..rados.completion import Completion
    from ..rados.op import Op
    from .image import Image
    from .sync import Pass


WINDOW = 32
"""Object requests of one call that are in flight at a time,"""
WINDOW_BYTES = 16 << 20
"""and the bytes that these may read or write."""
_ZERO_BLOCK = 4096
_ZEROES = bytes(_ZERO_BLOCK)
_ZERO_RUN = bytes(64 * _ZERO_BLOCK)

OBJECT_NONEXISTENT = 0
OBJECT_EXISTS = 1
OBJECT_PENDING = 2
OBJECT_EXISTS_CLEAN = 3
"""States of an object in the object map (`src/include/rbd/object_map_types.h`)."""


class MismatchError(OSError):
    """A compare-and-write found other data.

    Attributes:
        offset: of the first byte that differs, in the image.
    """

    prefix = "RBD compare and write mismatch"

    def __init__(self, message: str, errno: int | None = errno.EILSEQ, offset: int = 0) -> None:
        super().__init__(message, errno)
        self.offset = offset


def window_size(layout: Layout) -> int:
    """How many object requests of one call to have in flight."""
    return max(2, min(WINDOW, WINDOW_BYTES // layout.object_size))


# ---------------------------------------------------------------- reading


async def read_into(image: Image, offset: int, view: memoryview, op_flags: int) -> None:
    """Fills `view` from an extent that is inside the image."""
    pending: deque[tuple[ObjectExtent, Op]] = deque()
    missing: deque[Completion[None]] = deque()
    io, snap_id, client = image.data_io, image.snap_id, image.client
    window = window_size(image.layout)

    async def received() -> None:
        extent, op = pending[0]
        at, end = extent.buffer_offset, extent.buffer_offset + extent.length
        try:
            got: int = await op
        except rados.ObjectNotFound:
            if image.parent is not None:
                pending.popleft()
                if len(missing) >= window:
                    await missing.popleft()
                missing.append(client.spawn(read_parent(image, extent, view[at:end])))
                return
            got = 0
        if got < extent.length:
            view[at + got : end] = bytes(extent.length - got)
        pending.popleft()

    try:
        for extent in image.layout.map(offset, len(view)):
            if len(pending) >= window:
                await received()
            at = extent.buffer_offset
            into = view[at : at + extent.length]
            name = image.object_name(extent.object_no)
            op = io.submit_read(name, extent.offset, extent.length, snapid=snap_id, into=into, op_flags=op_flags)
            pending.append((extent, op))
        while pending:
            await received()
        while missing:
            await missing.popleft()
    except BaseException as e:
        # nothing may write into the buffer after we have given up
        error = rados.make_ex(-errno.ECANCELED, "the read was given up")
        for _, op in pending:
            client.objecter.cancel(op, error)
        if isinstance(e, Exception):
            await settle(missing)
        raise


async def read_parent(image: Image, extent: ObjectExtent, view: memoryview) -> None:
    """Reads what a missing object shows from the parent, as far as it overlaps; zeroes beyond."""
    parent, overlap = image.ancestry
    at = 0
    for offset, length in image.layout.unmap(extent.object_no, extent.offset, extent.length):
        n = 0
        if parent is not None:
            n = max(0, min(length, min(overlap, parent.size) - offset))
            if n:
                await read_into(parent, offset, view[at : at + n], 0)
        if n < length:
            view[at + n : at + length] = bytes(length - n)
        at += length


# ---------------------------------------------------------------- what is to be done with an object


class ObjectWrite:
    """A change of a piece of one object."""

    pre_state = OBJECT_EXISTS
    """Its state in the object map before the change is sent."""
    removes = False
    """The object is not there afterwards."""
    skips_missing = False
    """Nothing is to be done where there is no object."""
    after_copyup = False
    """It is sent by itself after a copy-up, not in one request with it."""

    def __init__(self, object_no: int, offset: int, length: int) -> None:
        self.object_no = object_no
        self.offset = offset
        self.length = length

    def add(self, op: ObjectOperation) -> ObjectOperation:
        """Adds what has to be done to a request."""
        raise NotImplementedError


class DataWrite(ObjectWrite):
    """Writes data."""

    def __init__(self, object_no: int, offset: int, data: Buffer, op_flags: int) -> None:
        super().__init__(object_no, offset, len(data))
        self.data = data
        self.op_flags = op_flags

    def add(self, op: ObjectOperation) -> ObjectOperation:
        op.write(self.offset, self.data)
        return op.set_op_flags(self.op_flags) if self.op_flags else op


class DataWrites(ObjectWrite):
    """Writes several pieces, that do not overlap."""

    def __init__(self, object_no: int, starts: Sequence[int], pieces: Sequence[Buffer]) -> None:
        super().__init__(object_no, starts[0], len(pieces[0]) if len(pieces) == 1 else 0)
        self.starts = starts
        self.pieces = pieces

    def add(self, op: ObjectOperation) -> ObjectOperation:
        for start, piece in zip(self.starts, self.pieces, strict=True):
            op.write(start, piece)
        return op


class Discard(ObjectWrite):
    """Makes a piece read as zeroes, and gives its space back.

    Args:
        hides: the object of a clone, of which the parent's data must not show again: it stays, empty.
    """

    def __init__(self, object_no: int, offset: int, length: int, object_size: int, hides: bool, guarded: bool) -> None:
        super().__init__(object_no, offset, length)
        whole = offset == 0 and length == object_size
        self.removes = whole and not hides
        self._create = whole and hides and not guarded
        self._truncate = offset + length == object_size
        self.skips_missing = not hides
        if self.removes:
            self.pre_state = OBJECT_PENDING

    def add(self, op: ObjectOperation) -> ObjectOperation:
        if self.removes:
            return op.remove()
        if self._create:
            op.create(False)
        if self._truncate:
            return op.truncate(self.offset)
        return op.zero(self.offset, self.length)


class CompareAndWrite(ObjectWrite):
    """Writes data where the object has other data; MismatchError when it has not."""

    after_copyup = True

    def __init__(self, object_no: int, offset: int, compare: Buffer, data: Buffer, op_flags: int) -> None:
        super().__init__(object_no, offset, len(data))
        self.compare = compare
        self.data = data
        self.op_flags = op_flags

    def add(self, op: ObjectOperation) -> ObjectOperation:
        op.cmpext(self.offset, self.compare).write(self.offset, self.data)
        return op.set_op_flags(self.op_flags) if self.op_flags else op


# ---------------------------------------------------------------- doing it


def object_overlap(image: Image, object_no: int) -> bool:
    """Whether a part of an object lies within the overlap with the parent."""
    parent, overlap = image.ancestry
    if parent is None or not overlap:
        return False
    offset, _ = next(image.layout.unmap(object_no, 0, 1))
    return offset < overlap


async def perform(image: Image, request: ObjectWrite) -> None:
    """Does one change of an object, with all that belongs to it: the object map before and after it,
    and the copy-up from the parent."""
    object_no = request.object_no
    snapc = image.header.snap_context
    overlaps = object_overlap(image, object_no)
    whole = request.offset == 0 and request.length == image.layout.object_size
    guarded = overlaps and not (whole and not snapc.snaps and not request.after_copyup)
    object_map = image.object_map
    if object_map is not None:
        may_exist = object_map.may_exist(object_no)
        if not may_exist and request.skips_missing and not overlaps:
            return
        if not may_exist and guarded:
            await _copyup(image, request)
            return
        await object_map.update(object_no, object_no + 1, request.pre_state)
    op = ObjectOperation()
    if guarded:
        op.assert_exists()
    request.add(op)
    try:
        await _send(image, object_no, op, snapc)
    except rados.ObjectNotFound:
        if guarded:
            await _copyup(image, request)
            return
        if not request.skips_missing:
            raise
    await _afterwards(image, request)


def keep(image: Image, objects: Collection[int], made: Iterable[Completion[Any]]) -> None:
    """What goes on after an interrupt stays inside the image's gate, so that nothing is on its way when the lock is
    given up; and what changes the same objects next waits for it, or it could be undone."""
    for completion in made:
        completion.abandon()
        if not completion.done:
            _keep(image, objects, completion)


def _keep(image: Image, objects: Collection[int], completion: Completion[Any]) -> None:
    inside = image.writes.join()
    image.leftovers[id(completion)] = objects, completion
    if image.client.driver.blocking:
        image.client.spawn(_stay(image, completion, inside))
        return

    def finished(c: Completion[Any]) -> None:
        image.leftovers.pop(id(c), None)
        inside.leave()

    completion.add_done_callback(finished)


async def _stay(image: Image, completion: Completion[Any], inside: Pass) -> None:
    """A coroutine is resumed even if who was to tell it is interrupted; a callback would be lost."""
    with inside:
        try:
            await completion
        except Exception:
            pass  # who began it was told that he does not know
        finally:
            image.leftovers.pop(id(completion), None)


async def _after_others(image: Image, offset: int, length: int) -> None:
    """Waits for what an interrupt has left behind, and for what the cache has, at the objects of an extent."""
    numbers = {e.object_no for e in image.layout.map(offset, length)}
    await image.cache.settle(numbers)
    for objects, completion in list(image.leftovers.values()):
        patience = Patience(image.client)
        while not completion.done and not numbers.isdisjoint(objects):
            event: Event[None] = Event(image.client.driver)
            completion.add_done_callback(lambda _, event=event: event.set_result(None))  # type: ignore[misc]
            await patience.wait(event)


async def _send(image: Image, object_no: int, op: ObjectOperation, snapc: SnapContext) -> None:
    name = image.object_name(object_no)
    made: list[Op] = []
    try:
        await image.data_io.submit(name, op, snapc=snapc, made=made)
    except BaseException:
        keep(image, (object_no,), made)
        raise


async def _afterwards(image: Image, request: ObjectWrite) -> None:
    if request.removes and image.object_map is not None:
        n = request.object_no
        await image.object_map.update(n, n + 1, OBJECT_NONEXISTENT, OBJECT_PENDING)


async def copyup(image: Image, object_no: int) -> None:
    """Copies the parent's data of an object up, unless the object is there; for flatten."""
    if not object_overlap(image, object_no):
        return
    with await image.copyup_lock(object_no):
        if image.object_map is None or image.object_map.may_exist(object_no):
            try:
                await image.data_io.submit(image.object_name(object_no), ObjectOperation().stat())
            except rados.ObjectNotFound:
                pass
            else:
                return  # and the object maps are as they should be
        await _copyup_locked(image, None, object_no)


async def _copyup(image: Image, request: ObjectWrite) -> None:
    """Copies an object up and does what was to be done with it."""
    with await image.copyup_lock(request.object_no):
        await _copyup_locked(image, request, request.object_no)
    await _afterwards(image, request)


async def _copyup_locked(image: Image, request: ObjectWrite | None, object_no: int) -> None:
    snapc = image.header.snap_context
    object_map = image.object_map
    data, extents = await _parent_object(image, object_no)
    if request is None and not extents:
        return
    fast_diff = image.has(features.FAST_DIFF)
    if object_map is not None:
        if extents:
            for i, snap in enumerate(image.header.snaps):
                # the first snapshot has the data, which the later ones inherit
                state = OBJECT_EXISTS_CLEAN if fast_diff and i else OBJECT_EXISTS
                await object_map.update(object_no, object_no + 1, state, snap_id=snap.id)
        head = OBJECT_EXISTS_CLEAN if fast_diff and image.header.snaps else OBJECT_EXISTS
        await object_map.update(object_no, object_no + 1, head if request is None else request.pre_state)
    separate = request is None or request.after_copyup or (bool(snapc.snaps) and bool(extents))
    if separate:
        # With an empty snapshot context, so that the data belongs to all snapshots.
        alone = EMPTY_SNAPC if request is None or not request.after_copyup or extents else snapc
        await _send_copyup(image, object_no, data, extents, None, alone)
        if request is None:
            return
        try:
            await _send(image, object_no, request.add(ObjectOperation()), snapc)
        except rados.ObjectNotFound:
            if not request.skips_missing:
                raise
        return
    await _send_copyup(image, object_no, data, extents, request, snapc)


async def _send_copyup(
    image: Image,
    object_no: int,
    data: memoryview,
    extents: list[tuple[int, int]],
    request: ObjectWrite | None,
    snapc: Any,
) -> None:
    """One request: what is there is copied up as it is, then `request` is done."""
    sparse = image.client.sparse_copyup
    while True:
        op = ObjectOperation()
        if sparse:
            e = Encoder()
            e.u32(len(extents))
            for offset, length in extents:
                e.u64(offset)
                e.u64(length)
            e.u32(sum(length for _, length in extents))
            for offset, length in extents:
                e.raw(data[offset : offset + length])
            op.call_write("rbd", "sparse_copyup", e.buf)
        else:
            end = extents[-1][0] + extents[-1][1] if extents else 0
            op.call_write("rbd", "copyup", data[:end])
        if request is not None:
            request.add(op)
        try:
            await _send(image, object_no, op, snapc)
        except rados.OSError as e:
            if e.errno != errno.EOPNOTSUPP or not sparse:
                raise
            sparse = image.client.sparse_copyup = False  # nautilus
        else:
            return


async def _parent_object(image: Image, object_no: int) -> tuple[memoryview, list[tuple[int, int]]]:
    """What the parent has of an object, and the pieces of that which are not zero."""
    buffer = bytearray(image.layout.object_size)
    view = memoryview(buffer)
    await read_parent(image, ObjectExtent(object_no, 0, len(buffer), 0), view)
    return view, data_extents(view)


def data_extents(view: memoryview) -> list[tuple[int, int]]:
    """[(offset, length)] of what is not zero, in whole blocks of 4 KiB."""
    found: list[tuple[int, int]] = []
    at, size = 0, len(view)
    while at < size:
        if view[at : at + len(_ZERO_RUN)] == _ZERO_RUN[: size - at]:
            at += len(_ZERO_RUN)
            continue
        end = min(size, at + len(_ZERO_RUN))
        while at < end:
            n = min(_ZERO_BLOCK, size - at)
            if view[at : at + n] != _ZEROES[:n]:
                if found and found[-1][0] + found[-1][1] == at:
                    found[-1] = (found[-1][0], found[-1][1] + n)
                else:
                    found.append((at, n))
            at += n
    return found


# ---------------------------------------------------------------- the image's writes


async def write(image: Image, offset: int, data: memoryview, op_flags: int) -> int:
    """Writes; when this returns the data is safe on all replicas, or the cache has it. Gives the number of bytes
    written: fewer than given only where the image ends."""
    with image.try_enter_write() or await image.enter_write():
        length = image.clip(offset, len(data))
        if not length:
            return 0
        if length < len(data):
            data = data[:length]
        cache = image.cache
        if cache.active and not op_flags and not image.leftovers and await cache.write(offset, data):
            return length
        image.modified()
        if image.leftovers or cache.objects:
            await _after_others(image, offset, length)
        object_map = image.object_map
        layout, io, snapc = image.layout, image.data_io, image.header.snap_context
        if layout.simple:
            first, last = offset >> layout.order, (offset + length - 1) >> layout.order
            if first == last:
                at = offset & layout.object_size - 1
                if image.parent is None and (object_map is None or object_map.state(first) == OBJECT_EXISTS):
                    made: list[Op] = []
                    try:
                        await io.submit_write(
                            image.object_name(first), at, data, snapc=snapc, op_flags=op_flags, made=made
                        )
                    except BaseException:
                        keep(image, (first,), made)
                        raise
                else:
                    await perform(image, DataWrite(first, at, data, op_flags))
                return length
            if object_map is not None and image.parent is None:
                await object_map.update(first, last + 1, OBJECT_EXISTS)  # one for all
        async with Window(image) as window:
            for extent in layout.map(offset, length):
                n = extent.object_no
                await window.room(n)
                piece = data[extent.buffer_offset : extent.buffer_offset + extent.length]
                if image.parent is None and (object_map is None or object_map.state(n) == OBJECT_EXISTS):
                    name = image.object_name(n)
                    io.submit_write(name, extent.offset, piece, snapc=snapc, op_flags=op_flags, made=window.pending)
                else:
                    image.client.spawn(perform(image, DataWrite(n, extent.offset, piece, op_flags)), window.pending)
        return length


async def discard(image: Image, offset: int, length: int, granularity: int) -> int:
    """Makes an extent read as zeroes; with a granularity (bytes), only its multiples within each object,
    what is left over keeps its data. Gives the length within the image."""
    with image.try_enter_write() or await image.enter_write():
        length = image.clip(offset, length)
        if not length:
            return 0
        image.modified()
        if image.leftovers or image.cache.objects:
            await _after_others(image, offset, length)
        size = image.layout.object_size
        granularity = min(granularity, size)
        snapc = image.header.snap_context
        async with Window(image) as window:
            for extent in coalesce(image.layout, offset, length):
                start, end = extent.offset, extent.offset + extent.length
                if granularity and (granularity < size or end < size):
                    start = -(-start // granularity) * granularity
                    end = end // granularity * granularity
                    if start >= end:
                        continue
                await window.room(extent.object_no)
                hides = object_overlap(image, extent.object_no)
                request = Discard(extent.object_no, start, end - start, size, hides, bool(snapc.snaps))
                if image.object_map is None and not hides:
                    name = image.object_name(extent.object_no)
                    image.data_io.submit(name, request.add(ObjectOperation()), snapc=snapc, made=window.pending)
                else:
                    image.client.spawn(perform(image, request), window.pending)
        return length


async def compare_and_write(image: Image, offset: int, compare: memoryview, data: memoryview, op_flags: int) -> int:
    """Writes `data` if the image has `compare` there, in one step; both lie in one stripe unit.

    Raises:
        MismatchError (EILSEQ): it has not. InvalidArgument: the lengths differ, or the extent crosses the border
            of a stripe unit.
    """
    if len(compare) != len(data):
        raise InvalidArgument(f"{len(compare)} bytes to compare, {len(data)} to write", errno.EINVAL)
    with image.try_enter_write() or await image.enter_write():
        length = image.clip(offset, len(data))
        if not length:
            return 0
        extents = list(image.layout.map(offset, length))
        unit = image.layout.stripe_unit
        if len(extents) > 1 or extents[0].offset % unit + length > unit:
            raise InvalidArgument(f"{length} bytes at {offset} cross the border of a stripe unit", errno.EINVAL)
        image.modified()
        if image.leftovers or image.cache.objects:
            await _after_others(image, offset, length)
        n, at = extents[0].object_no, extents[0].offset
        try:
            await perform(image, CompareAndWrite(n, at, compare[:length], data[:length], op_flags))
        except rados.ExtendMismatch as e:
            where = offset + e.offset
            raise MismatchError(f"the data at {where} is not what was expected", errno.EILSEQ, where) from None
        return length


class Window:
    """Requests of one call that change data, in flight: at the end none is left. After an error, or an interrupt, those
    that are left go on, inside the image's gate.

    Attributes:
        pending: who begins a request puts its completion here.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._size = window_size(image.layout)
        self._objects: set[int] = set()
        self.pending: deque[Completion[Any]] = deque()

    async def __aenter__(self) -> Window:
        return self

    async def room(self, object_no: int) -> None:
        """Waits until another request may be sent, to this object."""
        self._objects.add(object_no)
        if len(self.pending) >= self._size:
            await self._next()

    async def _next(self) -> None:
        try:
            await self.pending[0]
        except rados.ObjectNotFound:
            pass  # a discard of what is not there
        self.pending.popleft()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            while error is None and self.pending:
                await self._next()
        finally:
            keep(self._image, self._objects, self.pending)


def coalesce(layout: Layout, offset: int, length: int) -> list[ObjectExtent]:
    """Object extents with neighbouring pieces of one object joined."""
    if layout.simple:
        return list(layout.map(offset, length))
    last: dict[int, ObjectExtent] = {}
    out: list[ObjectExtent] = []
    for e in layout.map(offset, length):
        seen = last.get(e.object_no)
        if seen is not None and seen.offset + seen.length == e.offset:
            last[e.object_no] = seen._replace(length=seen.length + e.length)
        else:
            if seen is not None:
                out.append(seen)
            last[e.object_no] = e
    return [*out, *last.values()]
