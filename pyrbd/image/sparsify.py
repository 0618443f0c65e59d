"""Giving back the space of zeroes that were written (`src/librbd/operation/SparsifyRequest.cc`)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import features, notify, operation
from . import io as rw
from .bulk import Report, each
from .errors import InvalidArgument
from .io import OBJECT_EXISTS, OBJECT_NONEXISTENT, OBJECT_PENDING
from .remove import OnProgress

if TYPE_CHECKING:
    from .image import Image

_MIN_SIZE = 4096


async def sparsify(image: Image, sparse_size: int, on_progress: OnProgress | None = None) -> None:
    """Punches holes into the objects where they have zeroes, and removes those that have nothing else.

    Args:
        sparse_size: how many bytes of zeroes make a hole: a power of two, from 4096 to the size of an object.
        on_progress: called with (objects done, objects in all); a negative result cancels.
    Raises:
        InvalidArgument (EINVAL): `sparse_size`; ReadOnlyImage (EROFS); FunctionNotSupported (ENOSYS, a feature by
        name); OperationCanceled.
    """
    if not _MIN_SIZE <= sparse_size <= image.layout.object_size or sparse_size & sparse_size - 1:
        raise InvalidArgument(
            f"sparse size {sparse_size} is no power of two between {_MIN_SIZE} and the size of an object", errno.EINVAL
        )
    payload = notify.Sparsify(sparse_size=sparse_size)
    await operation.invoke(image, payload, lambda report: _execute(image, sparse_size, report), on_progress)


async def _execute(image: Image, sparse_size: int, report: Report) -> None:
    await image.current()
    features.check_writable(image.header.features, image.name)
    objects = range(image.layout.num_objects(image.header.size))
    object_map = image.object_map
    numbers = (
        objects if object_map is None or not object_map.valid else list(object_map.vector.nonzero(0, len(objects)))
    )
    await each(image, numbers, lambda n: image.client.spawn(_sparsify(image, n, sparse_size)), report)
    await image.header_changed()


async def _sparsify(image: Image, object_no: int, sparse_size: int) -> None:
    """One object. It may go only where nothing of the parent would show in its place.

    Who has begun to write before the map says that the object may go is waited for; who begins after that says first
    that it is there.
    """
    io, name, may_go = image.data_io, image.object_name(object_no), not rw.object_overlap(image, object_no)
    op = ObjectOperation().call_write("rbd", "sparsify", struct.pack("<Q?", sparse_size, may_go))
    try:
        await io.submit(name, op, snapc=image.header.snap_context)
    except rados.Error as e:
        if e.errno != errno.EOPNOTSUPP:  # as in an erasure-coded pool
            raise
        await _trim(image, object_no, sparse_size, may_go)
    if not may_go or image.object_map is None:
        return
    await image.object_map.update(object_no, object_no + 1, OBJECT_PENDING, OBJECT_EXISTS)
    await image.writes.drain()
    try:
        await io.submit(name, ObjectOperation().stat())
        state = OBJECT_EXISTS
    except rados.ObjectNotFound:
        state = OBJECT_NONEXISTENT
    await image.object_map.update(object_no, object_no + 1, state, OBJECT_PENDING)


async def _trim(image: Image, object_no: int, sparse_size: int, may_go: bool) -> None:
    """Cuts off the zeroes at an object's end, in units of `sparse_size`; one that is all zeroes goes if it may."""
    io, name, size = image.data_io, image.object_name(object_no), image.layout.object_size
    while True:
        try:
            data: bytes = await io.submit_read(name, 0, size)
            end = min(-(-len(data.rstrip(b"\0")) // sparse_size) * sparse_size, len(data))
            if end == len(data) and (end or not may_go):
                return
            op = ObjectOperation().cmpext(end, bytes(size - end))  # nobody has written there meanwhile
            op = op.truncate(end) if end or not may_go else op.remove()
            await io.submit(name, op, snapc=image.header.snap_context)
        except rados.ExtendMismatch:
            continue
        except rados.ObjectNotFound:
            pass
        return
