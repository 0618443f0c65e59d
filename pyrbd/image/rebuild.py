"""Making object maps anew from the objects, and comparing them with the objects
(`src/librbd/operation/RebuildObjectMapRequest.cc`, `ObjectMapIterate.cc`)."""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..denc import Decoder
from ..msgr.osdop import NOSNAP, SNAPDIR
from ..msgr.types import ListSnaps
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import bulk, features, object_map
from .bit_vector import BitVector
from .directory import OnProgress, report
from .errors import InvalidArgument, ReadOnlyImage
from .io import OBJECT_EXISTS, OBJECT_EXISTS_CLEAN, OBJECT_NONEXISTENT, OBJECT_PENDING
from .listing import LIST_INSTEAD, existing_objects
from .notify import RebuildObjectMap
from .object_map import ObjectMap
from .operation import Progress, invoke

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from .image import Image

_INVALID = object_map.OBJECT_MAP_INVALID | object_map.FAST_DIFF_INVALID


async def rebuild_object_map(image: Image, on_progress: OnProgress | None = None) -> None:
    """Makes the object map of the head and of every snapshot anew, or that of the snapshot which is open, and takes
    the flags away that say that they are invalid. The image may be written to meanwhile.

    Args:
        on_progress: called with (objects looked at, objects in all); a negative result cancels.
    Raises:
        InvalidArgument: the image has no object map, or too many objects for one. ReadOnlyImage, OperationCanceled.
    """
    if image.snap_id != NOSNAP:
        await image.current()
        if image.read_only:
            raise ReadOnlyImage(f"image {image.name} was opened read-only", errno.EROFS)
        with await image.operations.acquire():
            await _rebuild(image, [image.snap_id], None, on_progress)
            await image.header_changed()
    else:
        await invoke(image, RebuildObjectMap(), lambda progress: _rebuild_head(image, progress), on_progress)


async def _rebuild_head(image: Image, progress: Progress) -> None:
    _check(image)
    if image.object_map is None:
        raise InvalidArgument(f"image {image.name} has too many objects for an object map", errno.EINVAL)
    await _rebuild(image, [NOSNAP, *[s.id for s in image.header.snaps]], image.object_map, progress)
    await image.header_changed()


async def check_object_map(image: Image, on_progress: OnProgress | None = None) -> bool:
    """Compares the object map of what is open with the objects, and flags it when an object is there, or was
    changed, of which it does not tell. Writes that go on meanwhile may be taken for such.

    Args:
        on_progress: called with (objects looked at, objects in all); a negative result cancels.
    Returns:
        whether it may be believed.
    Raises:
        InvalidArgument: the image has no object map. OperationCanceled.
    """
    if image.snap_id != NOSNAP:
        await image.current()
        return await _agrees(image, on_progress)
    return await invoke(image, None, lambda progress: _agrees(image, progress), on_progress) or False


async def _agrees(image: Image, on_progress: OnProgress | None) -> bool:
    _check(image)
    snap_id = image.snap_id
    known = image.object_map if image.object_map is not None and image.object_map.snap_id == snap_id else None
    stored = known.vector.copy() if known is not None else await object_map.load(image.io, image.id, snap_id)
    count = image.layout.num_objects(image.size)
    found = {snap_id: BitVector(count)}
    await _look(image, range(count), found, on_progress)
    bad = stored.size < count
    for n in range(0 if bad else count):
        had, has = stored[n], found[snap_id][n]
        # more than there is does not harm
        harmless = had in (OBJECT_EXISTS, OBJECT_EXISTS_CLEAN) and has in (OBJECT_NONEXISTENT, OBJECT_PENDING)
        if had != has and not harmless:
            bad = True
            break
    if bad:
        await object_map.invalidate(image, snap_id)
    return not object_map.flags(image, snap_id) & object_map.OBJECT_MAP_INVALID


def _check(image: Image) -> None:
    if not image.has(features.OBJECT_MAP):
        raise InvalidArgument(f"image {image.name} has no object map", errno.EINVAL)


async def _rebuild(image: Image, ids: list[int], head: ObjectMap | None, on_progress: OnProgress | None) -> None:
    _check(image)
    layout = image.layout
    sizes = {s.id: s.info.image_size for s in image.header.snaps} | {NOSNAP: image.header.size}
    found = {i: BitVector(layout.num_objects(sizes[i])) for i in ids}
    everything = range(max(v.size for v in found.values()))
    if len(everything) > object_map.MAX_OBJECT_COUNT:
        raise InvalidArgument(f"image {image.name} has too many objects for an object map", errno.EINVAL)
    if head is None:
        await _look(image, everything, found, on_progress)
    else:
        # Who writes says so from now on, and those who have begun before are waited for.
        touched = head.touched = BitVector(found[NOSNAP].size)
        try:
            await image.writes.drain()
            await _look(image, everything, found, on_progress)
            with await image.writes.block():
                await _look(image, list(touched.nonzero()), {NOSNAP: found[NOSNAP]}, None)
                await _remove_beyond(image, head.vector, found[NOSNAP].size)
                await head.replace(found[NOSNAP])
                await object_map.set_flags(image, NOSNAP, 0, _INVALID)
        finally:
            head.touched = None
    snapshots = [i for i in ids if i != NOSNAP]
    await object_map.in_window(
        image, ((object_map.object_map_object(image.id, i), object_map.save_operation(found[i])) for i in snapshots)
    )
    await object_map.in_window(
        image, ((image.header_oid, object_map.set_flags_operation(i, 0, _INVALID)) for i in snapshots)
    )


async def _remove_beyond(image: Image, old: BitVector, count: int) -> None:
    """What a shrinking that was interrupted has left would show when the image grows again."""
    operation = ObjectOperation().remove()
    pending: deque[Completion[Any]] = deque()
    numbers = list(old.nonzero(count))
    for n in reversed(numbers):
        if len(pending) >= bulk.window(image):
            await _gone(pending.popleft())
        pending.append(image.data_io.submit(image.object_name(n), operation, snapc=image.header.snap_context))
    while pending:
        await _gone(pending.popleft())


async def _gone(completion: Completion[Any]) -> None:
    try:
        await completion
    except rados.ObjectNotFound:
        pass


async def _look(
    image: Image, numbers: Iterable[int], found: dict[int, BitVector], on_progress: OnProgress | None
) -> None:
    """Asks objects in which snapshots they are, and notes their states there."""
    numbers = numbers if isinstance(numbers, range) else list(numbers)
    if isinstance(numbers, range) and len(numbers) > LIST_INSTEAD:
        numbers = await existing_objects(image, numbers)
    window, total = bulk.window(image), len(numbers)
    snap_ids = [s.id for s in image.header.snaps]
    fast_diff = image.has(features.FAST_DIFF)
    listing = ObjectOperation().list_snaps()
    pending: deque[tuple[int, Completion[Any]]] = deque()
    done = 0

    async def receive() -> None:
        nonlocal done
        n, completion = pending.popleft()
        try:
            listed = ListSnaps.decode(Decoder((await completion).ops[0].data))
        except rados.ObjectNotFound:
            listed = None
        for snap_id, vector in found.items():
            if n < vector.size:
                state = OBJECT_NONEXISTENT
                if listed is not None:
                    state = object_state(listed, snap_id, snap_ids, fast_diff)
                vector[n] = state
        done += 1
        report(on_progress, done, total)

    for n in numbers:
        if len(pending) >= window:
            await receive()
        pending.append((n, image.data_io.submit(image.object_name(n), listing, snapid=SNAPDIR)))
    while pending:
        await receive()


def object_state(listed: ListSnaps, snap_id: int, snap_ids: list[int], fast_diff: bool) -> int:
    """OBJECT_* of an object in a snapshot, or in the head (C_VerifyObjectCallback::get_object_state).

    Args:
        snap_ids: of all snapshots of the image, ascending.
    """

    def next_valid(snap_id: int) -> int:
        i = bisect_left(snap_ids, snap_id)
        return snap_ids[i] if i < len(snap_ids) else NOSNAP

    for clone in listed.clones:
        if clone.id == NOSNAP:
            first, last = next_valid(listed.seq + 1), NOSNAP
        elif clone.snaps:
            first, last = next_valid(clone.snaps[0]), clone.snaps[-1]
        else:
            continue  # of removed snapshots only
        if last < snap_id:
            continue
        if snap_id < first:
            break
        return OBJECT_EXISTS_CLEAN if fast_diff and first != snap_id else OBJECT_EXISTS
    return OBJECT_NONEXISTENT
