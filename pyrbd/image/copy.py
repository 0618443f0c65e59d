"""Copying what an image has now, or had at a snapshot, into a new one (`src/librbd/internal.cc`, copy;
`src/librbd/deep_copy/MetadataCopyRequest.cc`)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..denc import Encoder, MapOf, string
from ..msgr.osdop import OpFlag
from ..rados.operations import ObjectOperation
from . import create, features, metadata
from . import io as rw
from .bulk import change_header, each
from .diff import pieces_with_data
from .directory import report
from .errors import FunctionNotSupported
from .image import Image
from .remove import OnProgress

if TYPE_CHECKING:
    from ..rados.io import IoContext

_PAIRS = MapOf(string, string)
_PAIRS_PER_REQUEST = 128
_CHUNK = 4 << 20
_BYTES = 64 << 20
"""What may be in memory."""
_HOLE = 64 << 10
"""Runs of zeroes that are at least as long are left out."""


async def copy(
    image: Image,
    dest_io: IoContext,
    dest_name: str,
    features_wanted: int | None = None,
    order: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Makes an image with the data of what is open, the head or a snapshot. Snapshots are not copied, and it has no
    parent. Zeroes are not written; metadata is copied.

    What the caller leaves out is as the source has it: features, order, striping; but for the data pool, which comes
    from `rbd_default_data_pool`.

    Args:
        on_progress: called with (bytes done, bytes in all); a negative result cancels, and what was copied stays.
    Raises:
        ImageExists (EEXIST); InvalidArgument (EINVAL); ArgumentOutOfRange (EDOM, the order); FunctionNotSupported
        (ENOSYS, a feature); ImageNotFound (ENOENT, the namespace or data pool); OperationCanceled.
    """
    await image.current()
    size = image.size
    bits = wanted_features(image, features_wanted)
    layout = image.layout
    await create.create(
        dest_io,
        dest_name,
        size,
        layout.order if order is None else order,
        bits,
        layout.stripe_unit if stripe_unit is None else stripe_unit,
        layout.stripe_count if stripe_count is None else stripe_count,
        data_pool,
    )
    await image.cache.settle()
    await image.writes.drain()
    dest = await Image.open(dest_io, dest_name)
    try:
        await copy_metadata(image, dest)
        await _copy_data(image, dest, size, on_progress)
    finally:
        await dest.close()


def wanted_features(image: Image, given: int | None) -> int:
    """The features that a copy is to have: as given, or the source's."""
    bits = image.header.features if given is None else given
    if bits & ~features.ALL or bits < 0:
        raise FunctionNotSupported(f"features {bits & ~features.ALL:#x} are not known", errno.ENOSYS)
    return bits


async def copy_metadata(image: Image, dest: Image) -> None:
    """Gives an image the metadata of another one too."""
    pairs = list((await metadata.list_(image)).items())
    for at in range(0, len(pairs), _PAIRS_PER_REQUEST):
        e = Encoder()
        _PAIRS.encode(e, dict(pairs[at : at + _PAIRS_PER_REQUEST]))
        op = ObjectOperation().call_write("rbd", "metadata_set", e.buf)
        await change_header(dest, op, f"error copying metadata to image {dest.name}")


async def _copy_data(image: Image, dest: Image, size: int, on_progress: OnProgress | None) -> None:
    chunk = min(image.layout.period, _CHUNK)
    pieces = dict(await pieces_with_data(image, chunk))
    at_a_time = max(2, min(image.config.get_int("rbd_concurrent_management_ops"), _BYTES // chunk))
    done = 0

    async def one(offset: int) -> None:
        nonlocal done
        await _copy_chunk(image, dest, offset, pieces[offset] - offset)
        done = max(done, offset)

    def tell(finished: int, total: int) -> int:
        report(on_progress, size if finished == total else done, size)
        return 0

    await each(image, pieces, lambda offset: image.client.spawn(one(offset)), tell, at_a_time)
    if not pieces and size:
        report(on_progress, size, size)


async def _copy_chunk(image: Image, dest: Image, offset: int, length: int) -> None:
    view = memoryview(bytearray(length))
    await rw.read_into(image, offset, view, OpFlag.FADVISE_SEQUENTIAL | OpFlag.FADVISE_NOCACHE)
    for at, n in data_runs(view):
        await dest.write(offset + at, view[at : at + n], OpFlag.FADVISE_DONTNEED)


def data_runs(view: memoryview) -> list[tuple[int, int]]:
    """[(offset, length)] of what has to be written: all but the long runs of zeroes, and those at the edges."""
    runs: list[tuple[int, int]] = []
    for at, n in rw.data_extents(view):
        if runs and at - (runs[-1][0] + runs[-1][1]) < _HOLE:
            runs[-1] = (runs[-1][0], at + n - runs[-1][0])
        else:
            runs.append((at, n))
    return runs
