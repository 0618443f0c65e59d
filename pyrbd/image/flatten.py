"""Flattening a clone: it gets all that it shows of its parent, and needs it no more
(`src/librbd/operation/FlattenRequest.cc`).

Others may read and write the clone meanwhile, and read the parent: an object that is there already is left alone.
The data is copied up for the snapshots as well, so that they do not need the parent either; but only with the
feature deep-flatten they are told so.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..rados import exceptions as rados
from . import clone, features, notify, operation
from . import io as rw
from .bulk import Report, each, window
from .errors import InvalidArgument, ReadOnlyImage, make_ex
from .remove import OnProgress

if TYPE_CHECKING:
    from .image import Image


async def flatten(image: Image, on_progress: OnProgress | None = None) -> None:
    """Copies up what a clone shows of its parent, and ends the relation.

    Args:
        on_progress: called with (objects done, objects in all); a negative result cancels.
    Raises:
        InvalidArgument (EINVAL): it is no clone, or none any more; ReadOnlyImage (EROFS): it is open read-only or at a
        snapshot; FunctionNotSupported (ENOSYS, a feature by name); OperationCanceled.
    """
    await image.current()
    if image.read_only:
        raise ReadOnlyImage(f"image {image.name} was opened read-only, or at a snapshot", errno.EROFS)
    _check_parent(image)
    await operation.invoke(image, notify.Flatten(), lambda report: _execute(image, report), on_progress)


def _check_parent(image: Image) -> None:
    if image.header.parent is None or image.header.raw.parent_overlap is None:
        raise InvalidArgument(f"image {image.name} has no parent", errno.EINVAL)


async def _execute(image: Image, report: Report) -> None:
    await image.current()
    features.check_writable(image.header.features, image.name)
    _check_parent(image)
    objects = range(image.layout.num_objects(image.overlap))
    at_a_time = window(image, image.layout.object_size)
    await each(image, objects, lambda n: image.client.spawn(rw.copyup(image, n)), report, at_a_time)
    await image.current()
    try:
        if image.has(features.DEEP_FLATTEN) or not image.header.snaps:
            # otherwise the last snapshot that needs the parent takes leave of it
            await clone.detach_child(image)
        await clone.detach_parent(image)
    except rados.Error as e:
        raise make_ex(-(e.errno or errno.EIO), f"image {image.name} keeps its parent: {e}") from e
    await image.header_changed()
