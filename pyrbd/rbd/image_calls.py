"""What can be done with an image's data and with the image as a whole: the methods of `rbd.Image`
and of `aio.Image` alike, as :mod:`.pool_calls` has those of `RBD`.

Offsets, lengths and sizes are in bytes. A closed image is InvalidArgument; a number of the wrong type is
TypeError, one out of range InvalidArgument and OverflowError.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..image.errors import InvalidArgument
from ..rados import exceptions as rados
from ..rados.requests import data_of, writable
from .arguments import (
    OnProgress,
    doing,
    fadvise,
    incomplete,
    int32,
    number,
    optional_number,
    optional_text,
    progress,
    text,
    translated,
)
from .constants import RBD_WRITE_ZEROES_FLAG_THICK_PROVISION

if TYPE_CHECKING:
    from ..image.image import Image as Core
    from ..rados.ioctx import IoctxBase
    from .properties import ImageBase

THICK_PIECE = 64 << 20
"""Bytes of zeroes in memory at a time."""


# ---------------------------------------------------------------- data


async def read(self: ImageBase, offset: int, length: int, fadvise_flags: int = 0) -> bytes:
    """Reads `length` bytes, fewer only where the image ends. What was never written is
    zero. Raises InvalidArgument for an offset beyond the end."""
    core = self._open()
    offset, length = number(offset, "offset"), number(length, "length")
    flags = fadvise(fadvise_flags) if fadvise_flags else 0
    if core.in_one_object(offset, length):
        # the straight path: one request, nothing to clip
        order = core.layout.order
        object_no, inside = offset >> order, offset & (1 << order) - 1
        try:
            data: bytes = await core.submit_read_one(object_no, inside, length, flags)
        except rados.ObjectNotFound:
            with doing(f"error reading {self.name} {offset}~{length}"):
                return await core.missing(object_no, inside, length)
        except rados.Error as e:
            raise translated(e, f"error reading {self.name} {offset}~{length}") from e
        return data if len(data) == length else data + bytes(length - len(data))
    with doing(f"error reading {self.name} {offset}~{length}"):
        return await core.read(offset, length, flags)


async def read_into(self: ImageBase, offset: int, buffer: Any, fadvise_flags: int = 0) -> int:
    """Reads into a writable buffer, without a copy; returns the number of bytes, fewer than fit only
    where the image ends. Not in Ceph's binding."""
    core, view = self._open(), writable(buffer)
    offset, flags = number(offset, "offset"), fadvise(fadvise_flags)
    with doing(f"error reading {self.name} {offset}~{len(view)}"):
        return await core.read_into(offset, view, flags)


async def write(self: ImageBase, data: Any, offset: int, fadvise_flags: int = 0) -> int:
    """Writes bytes; they are safe on all replicas when this returns or, if the image's cache is in use (`rbd_cache`),
    after :func:`flush`. Returns their number.

    Raises:
        TypeError: `data` is not a bytes-like object.
        InvalidArgument: the offset is beyond the end.
        IncompleteWriteError: the data reaches over the end; what fits was written.
        ReadOnlyImage, FunctionNotSupported: before any byte is written.
    """
    core, view = self._open(), memoryview(data_of(data, "data"))
    offset, flags = number(offset, "offset"), fadvise(fadvise_flags)
    with doing(f"error writing to {self.name}"):
        written = await core.write(offset, view, flags)
    if written != len(view):
        raise incomplete(written, len(view))
    return written


async def compare_and_write(self: ImageBase, compare: Any, data: Any, offset: int, fadvise_flags: int = 0) -> int:
    """Writes `data` if the image has `compare` there, in one step. Both have the same length and lie within
    one stripe unit. Returns the number of bytes. librbd has this, and its binding for Python does not.

    Raises:
        MismatchError: the image has something else; its `offset` is that of the first byte that differs.
        InvalidArgument: the lengths differ, or a stripe unit's border lies between.
    """
    core, old, new = self._open(), memoryview(data_of(compare, "compare")), memoryview(data_of(data, "data"))
    offset, flags = number(offset, "offset"), fadvise(fadvise_flags)
    with doing(f"error comparing and writing to {self.name}"):
        return await core.compare_and_write(offset, old, new, flags)


async def discard(self: ImageBase, offset: int, length: int) -> None:
    """Gives space back. As in librbd, only whole multiples of
    `rbd_discard_granularity_bytes` (64 KiB) within an object are discarded."""
    core = self._open()
    offset, length = number(offset, "offset"), number(length, "length")
    with doing(f"error discarding region {offset}~{length}"):
        await core.discard(offset, length)


async def write_zeroes(self: ImageBase, offset: int, length: int, zero_flags: int = 0) -> None:
    """Makes a range read as zeroes.

    Args:
        zero_flags: ``RBD_WRITE_ZEROES_FLAG_THICK_PROVISION`` for zeroes that take their space.
    """
    core = self._open()
    offset, length, flags = number(offset, "offset"), number(length, "length"), int32(zero_flags, "zero_flags")
    if flags & ~RBD_WRITE_ZEROES_FLAG_THICK_PROVISION:
        raise InvalidArgument(f"error zeroing region {offset}~{length}: flags {flags:#x}", errno.EINVAL)
    with doing(f"error zeroing region {offset}~{length}"):
        if not flags:
            await core.write_zeroes(offset, length)
            return
        length = core.clip(offset, length)
        zeroes = memoryview(bytes(min(length, THICK_PIECE)))
        for at in range(offset, offset + length, THICK_PIECE):
            await core.write(at, zeroes[: offset + length - at])


async def flush(self: ImageBase) -> None:
    """Returns when everything that was begun to be written is safe."""
    core = self._open()
    with doing(f"error flushing image {self.name}"):
        await ended(self)
        await core.flush()


async def ended(self: ImageBase) -> None:
    """Returns when the asynchronous operations that have begun have ended."""
    for completion in tuple(self._in_flight):
        try:
            await completion
        except Exception:  # its own completion says so
            if not completion.done:
                raise


async def invalidate_cache(self: ImageBase) -> None:
    """Drops what the cache has for reading, which is nothing, after storing what it has for writing."""
    core = self._open()
    with doing(f"error invalidating the cache of image {self.name}"):
        await core.cache.flush()


# ---------------------------------------------------------------- size and contents


async def resize(self: ImageBase, size: int, allow_shrink: bool = True) -> None:
    """Changes the size. What is cut off is removed, and the image has zeroes there when it grows again.

    Raises:
        InvalidArgument: it would shrink and must not; ReadOnlyImage.
    """
    from ..image import resize

    core = self._open()
    new = number(size, "size")
    with doing(f"error resizing image {self.name}"):
        await core.current()
        if core.size == new:
            return
        if not allow_shrink and core.size > new:
            raise InvalidArgument("error allow_shrink is False but old_size > new_size")
        await resize.resize(core, new, bool(allow_shrink), None)


async def flatten(self: ImageBase, on_progress: OnProgress | None = None) -> None:
    """Copies from the parent what it still has for this image, and lets go of it.

    Args:
        on_progress: called with (done, total); a negative result cancels.
    Raises:
        InvalidArgument: the image has no parent; ReadOnlyImage.
    """
    from ..image import flatten

    core = self._open()
    with doing(f"error flattening {self.name}"):
        await flatten.flatten(core, progress(on_progress))


async def sparsify(self: ImageBase, sparse_size: int) -> None:
    """Gives space back where at least `sparse_size` bytes, a power of two, are zeroes."""
    from ..image import sparsify

    core, granularity = self._open(), number(sparse_size, "sparse_size")
    with doing(f"error sparsifying {self.name}"):
        await sparsify.sparsify(core, granularity, None)


async def rebuild_object_map(self: ImageBase) -> None:
    """Makes the object map anew, of the head or of the snapshot that is open, from what the pool has."""
    from ..image import rebuild

    core = self._open()
    with doing(f"error rebuilding object map {self.name}"):
        await rebuild.rebuild_object_map(core, None)


async def diff_iterate(
    self: ImageBase,
    offset: int,
    length: int,
    from_snapshot: str | int | None,
    iterate_cb: Callable[[int, int, bool], Any],
    include_parent: bool = True,
    whole_object: bool = False,
) -> None:
    """Calls ``iterate_cb(offset, length, exists)`` for each extent that has changed, in ascending order.

    An exception of the function ends the iteration and comes out of this call; a negative result
    ends it as well, with the exception for that errno.

    Args:
        from_snapshot: since when, by name or id; None for all that has ever been written.
        include_parent: with None, extents of the parent too.
        whole_object: extents of whole objects; with a valid object map (fast-diff) no object is looked at.
    Raises:
        ImageNotFound: there is no such snapshot. InvalidArgument: it is younger than what is open.
    """
    from ..image import diff

    core = self._open()
    offset, length = number(offset, "offset"), number(length, "length")
    since: str | int | None
    if from_snapshot is None or isinstance(from_snapshot, str):
        since = from_snapshot
    elif isinstance(from_snapshot, int):
        since = number(from_snapshot, "from_snapshot")
    else:
        raise TypeError("from_snapshot must be a string or an integer")

    what = f"error generating diff from snapshot {from_snapshot}"
    raised: list[BaseException] = []

    def call(at: int, n: int, exists: bool) -> int:
        try:
            answer = iterate_cb(at, n, exists)
            return 0 if answer is None else int32(answer, "the result of iterate_cb")
        except BaseException as e:
            raised.append(e)
            raise

    with doing(what, but=raised):
        await diff.diff_iterate(core, offset, length, since, call, bool(include_parent), bool(whole_object))


# ---------------------------------------------------------------- copies


async def copy(
    self: ImageBase,
    dest_ioctx: IoctxBase,
    dest_name: str,
    features: int | None = None,
    order: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
) -> None:
    """Makes an image with the data of this one, or of its snapshot that is open. Snapshots are not copied,
    and it has no parent. For the arguments see :meth:`RBD.create`; None is what this image has.

    Raises:
        ImageExists, InvalidArgument, FunctionNotSupported, ArgumentOutOfRange, TypeError.
    """
    from ..image import copy

    core, name, pool = self._open(), text(dest_name, "dest_name"), optional_text(data_pool, "data_pool")
    io = self._io_of(dest_ioctx)
    features, order = optional_number(features, "features"), optional_number(order, "order")
    unit, count = optional_number(stripe_unit, "stripe_unit"), optional_number(stripe_count, "stripe_count")
    with doing(f"error copying image {self.name} to {name}"):
        await copy.copy(core, io, name, features, order, unit, count, pool, None)


async def deep_copy(
    self: ImageBase,
    dest_ioctx: IoctxBase,
    dest_name: str,
    features: int | None = None,
    order: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
    clone_format: int | None = None,
    flatten: bool = False,
) -> None:
    """Makes an image with the data and the snapshots of this one, and the same parent. For the arguments see
    :meth:`RBD.create`; None is what this image has.

    Args:
        clone_format: of the copy of a clone, 1 or 2.
        flatten: copy the parent's data as well, so that the copy has no parent.
    Raises:
        ImageExists, InvalidArgument, FunctionNotSupported, ArgumentOutOfRange, TypeError.
    """
    from ..image import deep_copy

    core, name, pool = self._open(), text(dest_name, "dest_name"), optional_text(data_pool, "data_pool")
    io = self._io_of(dest_ioctx)
    features, order = optional_number(features, "features"), optional_number(order, "order")
    unit, count = optional_number(stripe_unit, "stripe_unit"), optional_number(stripe_count, "stripe_count")
    form, flat = optional_number(clone_format, "clone_format"), bool(number(flatten, "flatten"))
    with doing(f"error deep copying image {self.name} to {name}"):
        await deep_copy.deep_copy(core, io, name, features, order, unit, count, pool, form, flat, None)


# ---------------------------------------------------------------- relatives


async def get_parent_image_spec(self: ImageBase) -> dict[str, Any]:
    """{pool_id, pool_name, pool_namespace, image_id, image_name, trash, snap_id, snap_namespace_type,
    snap_name} of the snapshot that this image was cloned from; `trash` says whether the parent is in the
    trash. Raises ImageNotFound if there is no parent."""
    core = self._open()
    with doing(f"error getting parent info for image {self.name}"):
        await core.current()
        parent = self._parent()
        assert parent.snap is not None
        return {
            "pool_id": parent.io.pool_id,
            "pool_name": self._pool_name(parent),
            "pool_namespace": parent.io.namespace,
            "image_id": parent.id,
            "image_name": parent.name,
            "trash": await _in_trash(parent),
            "snap_id": parent.snap_id,
            "snap_namespace_type": parent.snap.info.namespace.type,
            "snap_name": parent.snap.name,
        }


async def _in_trash(core: Core) -> bool:
    from ..image import trash
    from ..image.errors import ImageNotFound

    try:
        await trash.get(core.io, core.id)
    except ImageNotFound:
        return False
    return True


async def list_children(self: ImageBase) -> list[tuple[str, str]]:
    """[(pool, image)] of the clones of the snapshot that is open, or of any; without those in the trash."""
    return [(c["pool"], c["image"]) for c in await list_children2(self) if not c["trash"]]


async def list_children2(self: ImageBase) -> list[dict[str, Any]]:
    """{pool, pool_namespace, image, id, trash} of each clone of the snapshot that is open, or of any;
    `trash` says whether it is in the trash."""
    return await _children(self, False)


async def list_descendants(self: ImageBase) -> list[dict[str, Any]]:
    """As :meth:`list_children2`, with the clones of clones."""
    return await _children(self, True)


async def _children(self: ImageBase, descendants: bool) -> list[dict[str, Any]]:
    from ..image import children

    core = self._open()
    with doing(f"error listing children of {self.name}"):
        return [child._asdict() for child in await children.list_children(core, descendants)]


# ---------------------------------------------------------------- features and membership


async def update_features(self: ImageBase, features: int, enabled: bool) -> None:
    """Switches features on or off: of exclusive-lock, object-map, fast-diff and, only off, deep-flatten.

    Args:
        features: a mask of ``RBD_FEATURE_*``.
    Raises:
        InvalidArgument: a feature that cannot be switched, that is so already, or that another one needs.
    """
    from ..image import update_features

    core, bits = self._open(), number(features, "features")
    with doing(f"error updating features for image {self.name}"):
        await update_features.update_features(core, bits, bool(enabled))


async def group(self: ImageBase) -> dict[str, Any]:
    """{pool, name} of the consistency group that the image belongs to; {-1, ""} if to none."""
    from ..image import groups

    core = self._open()
    with doing(f"error getting group for image {self.name}"):
        return (await groups.image_get_group(core))._asdict()


async def watchers_list(self: ImageBase) -> list[dict[str, Any]]:
    """{addr, id, cookie} of each client that has the image open for writing, ourselves included."""
    from ..image import watchers

    core = self._open()
    with doing(f"error listing watchers of {self.name}"):
        return [watcher._asdict() for watcher in await watchers.list_watchers(core)]
