"""Changing the size of an image (`src/librbd/operation/ResizeRequest.cc`, `TrimRequest.cc`).

When an image shrinks, what is beyond the new end is removed first, so that it does not come back when the image
grows again. Nobody writes there meanwhile: the image already seems to be as small as it is going to be.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..rados.operations import ObjectOperation
from . import cls_rbd, features, notify, object_map, operation
from . import io as rw
from .bulk import Report, change_header, each, window
from .errors import InvalidArgument, OutOfRangeArgument
from .io import OBJECT_EXISTS, OBJECT_NONEXISTENT, OBJECT_PENDING, Discard
from .remove import OnProgress, remove_objects

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from .image import Image

_V1_IMAGE_SIZE = 80
"""Where the size is in rbd_obj_header_ondisk."""


async def resize(image: Image, size: int, allow_shrink: bool = True, on_progress: OnProgress | None = None) -> None:
    """Makes an image larger or smaller.

    Args:
        size: the new one, in bytes.
        on_progress: called with (objects removed, objects in all) when it shrinks; a negative result cancels.
    Raises:
        InvalidArgument: it would shrink and must not, or would get more objects than an object map can have (EINVAL).
        ReadOnlyImage (EROFS), FunctionNotSupported (ENOSYS, a feature by name), OperationCanceled.
    """
    if not 0 <= size < 1 << 64:
        raise OutOfRangeArgument(f"size {size} is not that of an image", errno.EINVAL)
    await image.current()
    _check_object_map(image, size)
    payload = notify.Resize(size, allow_shrink=allow_shrink)
    await operation.invoke(image, payload, lambda report: _execute(image, size, allow_shrink, report), on_progress)


def _check_object_map(image: Image, size: int) -> None:
    if image.has(features.OBJECT_MAP) and image.layout.num_objects(size) > object_map.MAX_OBJECT_COUNT:
        raise InvalidArgument(f"image {image.name} would have too many objects for its object map", errno.EINVAL)


async def _execute(image: Image, size: int, allow_shrink: bool, report: Report) -> None:
    await image.current()
    features.check_writable(image.header.features, image.name)
    _check_object_map(image, size)
    if size < image.header.size and not allow_shrink:
        raise InvalidArgument(f"image {image.name} is larger than {size} bytes and must not shrink", errno.EINVAL)
    if size != image.header.size:
        await set_size(image, size, report)
        await image.header_changed()
    report(1, 1)


async def set_size(image: Image, size: int, report: Report) -> None:
    """Does all that belongs to another size but telling the others; `operations` is held."""
    if size > image.header.size:
        with await image.writes.block():
            if image.object_map is not None:
                await image.object_map.resize(size)
            await _write_size(image, size)
            await image.refresh()
        return
    with await image.writes.block():  # nobody who has begun to write is still busy beyond the end
        image.shrinks_to = size
    try:
        await trim(image, size, report)
        with await image.writes.block():
            await _write_size(image, size)
            if image.object_map is not None:
                await image.object_map.resize(size)
            await image.refresh()
    finally:
        image.shrinks_to = None


async def _write_size(image: Image, size: int) -> None:
    op = ObjectOperation()
    if image.old_format:
        op.write(_V1_IMAGE_SIZE, size.to_bytes(8, "little"))
    else:
        cls_rbd.set_size(op, size)
    await change_header(image, op, f"error setting the size of image {image.name}")


async def trim(image: Image, size: int, report: Report) -> None:
    """Removes the objects that are beyond `size` bytes, and cuts those that reach over it. In a clone that has
    snapshots they are copied up before, as the snapshots still need what the parent has."""
    layout, overlap = image.layout, image.overlap
    old = image.header.size
    periods = -(-size // layout.period)
    first, last = periods * layout.stripe_count, layout.num_objects(old)
    if first < last:
        if image.object_map is not None:
            await image.object_map.update(first, last, OBJECT_PENDING, OBJECT_EXISTS)
        start = first
        if image.header.snaps and image.parent is not None:
            start = max(first, layout.num_objects(overlap))
            copied_up = range(first, start)
            await each(image, copied_up, lambda n: _remove(image, n), report, window(image, layout.object_size))
        await remove_objects(image, range(start, last), report)
        if image.object_map is not None:
            await image.object_map.update(first, last, OBJECT_NONEXISTENT, OBJECT_PENDING)
    end = min(periods * layout.period, old)
    if size < end:
        cuts = {e.object_no: e for e in rw.coalesce(layout, size, end - size)}
        await each(image, cuts, lambda n: _cut(image, n, cuts[n].offset, cuts[n].length))


def _remove(image: Image, object_no: int) -> Completion[None]:
    size = image.layout.object_size
    request = Discard(object_no, 0, size, size, False, bool(image.header.snaps))
    return image.client.spawn(rw.perform(image, request))


def _cut(image: Image, object_no: int, offset: int, length: int) -> Completion[None]:
    if offset == 0:
        return _remove(image, object_no)
    hides = rw.object_overlap(image, object_no)
    request = Discard(object_no, offset, length, image.layout.object_size, hides, bool(image.header.snaps))
    return image.client.spawn(rw.perform(image, request))
