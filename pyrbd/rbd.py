"""The API of Ceph's Python module `rbd`, without librbd.

`import pyrbd.rbd as rbd`, or `pyrbd.install_as_ceph()` and then `import rbd`. Names,
arguments and exceptions are those of Ceph's binding (tentacle); what is not there yet, and
what differs, is listed in `docs/compatibility.md`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .errors import PyrbdError
from .image import cls_rbd, directory
from .image import features as _features
from .image.errors import (
    ArgumentOutOfRange,
    ArgumentOutOfRangeException,
    ConnectionShutdown,
    DiskQuotaExceeded,
    Error,
    FunctionNotSupported,
    ImageBusy,
    ImageExists,
    ImageHasSnapshots,
    ImageMemberOfGroup,
    ImageNotFound,
    IncompleteWriteError,
    InterruptedOrTimeoutError,
    InvalidArgument,
    IOError,
    LogicError,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    OperationCanceled,
    OperationNotSupported,
    OSError,
    PermissionError,
    ReadOnlyImage,
    Timeout,
    make_ex,
)
from .image.image import Image as _Core
from .rados import Ioctx
from .rados import exceptions as _rados
from .rados.requests import data_of, text

if TYPE_CHECKING:
    import datetime

    from .rados.client import Client

T = TypeVar("T")
OnProgress = Callable[[int, int], "int | None"]

__all__ = [
    "RBD",
    "ArgumentOutOfRange",
    "ArgumentOutOfRangeException",
    "ConnectionShutdown",
    "DiskQuotaExceeded",
    "Error",
    "FunctionNotSupported",
    "IOError",
    "Image",
    "ImageBusy",
    "ImageExists",
    "ImageHasSnapshots",
    "ImageIterator",
    "ImageMemberOfGroup",
    "ImageNotFound",
    "IncompleteWriteError",
    "InterruptedOrTimeoutError",
    "InvalidArgument",
    "LogicError",
    "NoSpace",
    "OSError",
    "ObjectExists",
    "ObjectNotFound",
    "OperationCanceled",
    "OperationNotSupported",
    "PermissionError",
    "ReadOnlyImage",
    "SnapIterator",
    "Timeout",
]

ECANCELED = errno.ECANCELED

RBD_FEATURE_LAYERING = _features.LAYERING
RBD_FEATURE_STRIPINGV2 = _features.STRIPINGV2
RBD_FEATURE_EXCLUSIVE_LOCK = _features.EXCLUSIVE_LOCK
RBD_FEATURE_OBJECT_MAP = _features.OBJECT_MAP
RBD_FEATURE_FAST_DIFF = _features.FAST_DIFF
RBD_FEATURE_DEEP_FLATTEN = _features.DEEP_FLATTEN
RBD_FEATURE_JOURNALING = _features.JOURNALING
RBD_FEATURE_DATA_POOL = _features.DATA_POOL
RBD_FEATURE_OPERATIONS = _features.OPERATIONS
RBD_FEATURE_MIGRATING = _features.MIGRATING
RBD_FEATURE_NON_PRIMARY = _features.NON_PRIMARY
RBD_FEATURES_INCOMPATIBLE = 2179
RBD_FEATURES_RW_INCOMPATIBLE = 4095
RBD_FEATURES_MUTABLE = 3164
RBD_FEATURES_SINGLE_CLIENT = 2140
RBD_FEATURES_ALL = 4095

RBD_OPERATION_FEATURE_CLONE_PARENT = 1
RBD_OPERATION_FEATURE_CLONE_CHILD = 2
RBD_OPERATION_FEATURE_GROUP = 4
RBD_OPERATION_FEATURE_SNAP_TRASH = 8

RBD_FLAG_OBJECT_MAP_INVALID = 1
RBD_FLAG_FAST_DIFF_INVALID = 2

RBD_SNAP_NAMESPACE_TYPE_USER = cls_rbd.SNAP_NAMESPACE_USER
RBD_SNAP_NAMESPACE_TYPE_GROUP = cls_rbd.SNAP_NAMESPACE_GROUP
RBD_SNAP_NAMESPACE_TYPE_TRASH = cls_rbd.SNAP_NAMESPACE_TRASH
RBD_SNAP_NAMESPACE_TYPE_MIRROR = cls_rbd.SNAP_NAMESPACE_MIRROR

RBD_WRITE_ZEROES_FLAG_THICK_PROVISION = 1

_FADVISE_MASK = 0x7C  # LIBRADOS_OP_FLAG_FADVISE_*, the same bits as the OSD's


def _wrap(e: BaseException, what: str) -> BaseException:
    """What the layers below raise, as an exception of this module."""
    if isinstance(e, _rados.Error) and e.errno is not None:
        return make_ex(-e.errno, f"{what}: {e.message}")
    if isinstance(e, PyrbdError):
        return make_ex(-e.errno, f"{what}: {e}")
    return e


def _call(client: Client, coro: Coroutine[Any, Any, T], what: str) -> T:
    try:
        return client.run(coro)
    except (_rados.Error, PyrbdError) as e:
        raise _wrap(e, what) from e


def _ioctx(ioctx: Any) -> Ioctx:
    if not isinstance(ioctx, Ioctx):
        raise TypeError(f"ioctx must be a pyrbd.rados.Ioctx, not {type(ioctx).__name__}")
    ioctx.require_ioctx_open()
    return ioctx


def _name(value: Any, what: str) -> str:
    """A str; InvalidArgument for anything else, as in Ceph's binding."""
    try:
        return text(value, what)
    except TypeError as e:
        raise InvalidArgument(str(e)) from None


def _number(value: Any, name: str) -> int:
    """An int from anything that is one; TypeError for the rest, bool and float included."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    return int(value.__index__())


class RBD:
    """What concerns the images of a pool; it has no state."""

    def version(self) -> tuple[int, int, int]:
        """The version of librbd whose API this is."""
        return (1, 20, 0)

    def features_to_string(self, features: int) -> str:
        """The names of feature bits, joined by commas."""
        return _features.features_to_string(features)

    def features_from_string(self, str_features: str) -> int:
        """The bits of names joined by commas."""
        return _features.features_from_string(str_features)

    def create(
        self,
        ioctx: Ioctx,
        name: str,
        size: int,
        order: int | None = None,
        old_format: bool = False,
        features: int | None = None,
        stripe_unit: int | None = None,
        stripe_count: int | None = None,
        data_pool: str | None = None,
    ) -> None:
        """Creates an image.

        Args:
            size: in bytes.
            order: objects have 2**order bytes, 12 to 25; None for `rbd_default_order`.
            features: a mask of ``RBD_FEATURE_*``; None for those of `rbd_default_features`
                that pyrbd can write to, at present layering alone.
            stripe_unit, stripe_count: in bytes, in objects; None for no striping.
            data_pool: where the data goes, if not into the pool of `ioctx`.
        Raises:
            ImageExists, InvalidArgument, ArgumentOutOfRange, FunctionNotSupported,
            TypeError. After a failure nothing of the image is left.
        """
        io = _ioctx(ioctx)
        image = _name(name, "name")
        if old_format:
            if features or stripe_unit or stripe_count:
                raise InvalidArgument(
                    "format 1 images do not support feature masks or non-default striping", errno.EINVAL
                )
            raise FunctionNotSupported("pyrbd does not yet create images of format 1", errno.ENOSYS)
        _call(
            io._client,
            directory.create(
                io._io,
                image,
                _number(size, "size"),
                None if order is None else _number(order, "order"),
                None if features is None else _number(features, "features"),
                None if stripe_unit is None else _number(stripe_unit, "stripe_unit"),
                None if stripe_count is None else _number(stripe_count, "stripe_count"),
                None if data_pool is None else _name(data_pool, "data_pool"),
            ),
            f"error creating image {image}",
        )

    def list(self, ioctx: Ioctx) -> list[str]:
        """The names of the images in the pool and namespace of `ioctx`."""
        io = _ioctx(ioctx)
        return sorted(_call(io._client, directory.list_images(io._io), "error listing images"))

    def list2(self, ioctx: Ioctx) -> ImageIterator:
        """As :meth:`list`, as an iterator of {'id', 'name'}."""
        return ImageIterator(ioctx)

    def remove(self, ioctx: Ioctx, name: str, on_progress: OnProgress | None = None) -> None:
        """Removes an image; this takes a while for large ones.

        Args:
            on_progress: called with (done, total); a negative result cancels.
        Raises:
            ImageNotFound, ImageBusy (it is open somewhere), ImageHasSnapshots,
            FunctionNotSupported, OperationCanceled.
        """
        io = _ioctx(ioctx)
        image = _name(name, "name")
        _call(io._client, directory.remove(io._io, image, on_progress), f"error removing image {image}")

    def rename(self, ioctx: Ioctx, src: str, dest: str) -> None:
        """Renames an image. Raises ImageNotFound, ImageExists, FunctionNotSupported."""
        io = _ioctx(ioctx)
        source, target = _name(src, "src"), _name(dest, "dest")
        _call(io._client, directory.rename(io._io, source, target), f"error renaming image {source} to {target}")


class ImageIterator:
    """{'id', 'name'} of each image of a pool."""

    def __init__(self, ioctx: Ioctx) -> None:
        io = _ioctx(ioctx)
        self._images = _call(io._client, directory.list_images(io._io), "error listing images")

    def __iter__(self) -> Iterator[dict[str, str]]:
        for name, image_id in sorted(self._images.items()):
            yield {"id": image_id, "name": name}


class ImageProperties:
    """What an open image says of itself, the same for both front doors."""

    closed: bool
    name: str
    _client: Client
    _core: _Core

    def _open(self) -> _Core:
        if self.closed:
            raise InvalidArgument("image is closed")
        return self._core

    def require_not_closed(self) -> None:
        """Raises InvalidArgument on a closed image."""
        self._open()

    def _current(self, what: str) -> _Core:
        """The image below, with its newest header if that can be had without waiting."""
        return self._open()

    def size(self) -> int:
        """In bytes; of the snapshot, if one is open."""
        return self._current("getting size of").size

    def stat(self) -> dict[str, Any]:
        """{size, obj_size, num_objs, order, block_name_prefix, parent_pool, parent_name}."""
        core = self._current("getting info of")
        layout = core.layout
        return {
            "size": core.size,
            "obj_size": layout.object_size,
            "num_objs": layout.num_objects(core.size),
            "order": layout.order,
            "block_name_prefix": core.header.raw.object_prefix[:23],  # a fixed field of librbd's
            "parent_pool": -1,
            "parent_name": "",
        }

    def id(self) -> str:
        """The image's id, which does not change with its name."""
        return self._open().id

    def get_name(self) -> str:
        return self._open().name

    def block_name_prefix(self) -> str:
        """What the names of the data objects begin with."""
        return self._open().header.raw.object_prefix

    def data_pool_id(self) -> int:
        """The pool with the data objects."""
        return self._open().data_io.pool_id

    def old_format(self) -> bool:
        """False: format 1 images do not open."""
        self._open()
        return False

    def features(self) -> int:
        """A mask of ``RBD_FEATURE_*``."""
        return self._current("getting features of").header.features

    def op_features(self) -> int:
        """A mask of ``RBD_OPERATION_FEATURE_*``."""
        return self._current("getting features of").header.raw.op_features

    def flags(self) -> int:
        """A mask of ``RBD_FLAG_*``; of the snapshot, if one is open."""
        core = self._current("getting flags of")
        return core.snap.flags if core.snap is not None else core.header.raw.flags

    def stripe_unit(self) -> int:
        """In bytes."""
        return self._open().layout.stripe_unit

    def stripe_count(self) -> int:
        """In objects."""
        return self._open().layout.stripe_count

    def overlap(self) -> int:
        """How many bytes from its begin may still come from the parent; 0 without one."""
        return self._current("getting overlap of").overlap

    def parent_info(self) -> tuple[str, str, str]:
        """(pool, image, snapshot) that this image was cloned from; ImageNotFound if none."""
        core = self._current("getting parent of")
        if core.parent is None or core.parent.snap is None:
            raise ImageNotFound(f"error getting parent info for image {self.name}", errno.ENOENT)
        pool = self._client.osdmap.pool_names.get(core.parent.io.pool_id, "")
        return pool, core.parent.name, core.parent.snap.info.name

    def parent_id(self) -> str:
        """The id of the parent image; ImageNotFound if none."""
        core = self._current("getting parent of")
        if core.parent is None:
            raise ImageNotFound(f"error getting parent id for image {self.name}", errno.ENOENT)
        return core.parent.id

    def create_timestamp(self) -> datetime.datetime:
        """When the image was created, in UTC."""
        return _when(self._open().header.raw.create_timestamp)

    def access_timestamp(self) -> datetime.datetime:
        """When the image was last read, as far as that was recorded (pyrbd does not)."""
        return _when(self._current("getting timestamp of").header.raw.access_timestamp)

    def modify_timestamp(self) -> datetime.datetime:
        """When the image was last written, as far as that was recorded (pyrbd does not)."""
        return _when(self._current("getting timestamp of").header.raw.modify_timestamp)

    def is_protected_snap(self, name: str) -> bool:
        """Whether a snapshot is protected from removal. ImageNotFound if there is none."""
        core = self._current("getting snapshots of")
        return core.find_snapshot(_name(name, "name")).protected

    def list_snaps(self) -> SnapIterator:
        """The snapshots, as {id, size, name, namespace}."""
        return SnapIterator(self)


class Image(ImageProperties):
    """An open image; a context manager.

    Args:
        ioctx: the pool.
        name: of the image; or `image_id`.
        snapshot: name or id of a snapshot to read.
        read_only: writes then raise ReadOnlyImage, and nobody sees that we have it open.
    Raises:
        ImageNotFound: no such image or snapshot.
        FunctionNotSupported: an image that pyrbd cannot read; the message names the feature.
            Images that it can only read open as well, and refuse a write by the feature's name.

    Offsets and lengths are in bytes. Calls on a closed image raise InvalidArgument.
    """

    def __init__(
        self,
        ioctx: Ioctx,
        name: str | None = None,
        snapshot: str | int | None = None,
        read_only: bool = False,
        image_id: str | None = None,
    ) -> None:
        self.closed = True
        io = _ioctx(ioctx)
        if name is None and image_id is None:
            raise InvalidArgument("only one of name or image_id must be given", errno.EINVAL)
        if name is not None and image_id is not None:
            raise InvalidArgument("only need to specify image name or image id", errno.EINVAL)
        self._client = io._client
        self.ioctx = ioctx
        self._read_only = read_only
        wanted = snapshot if snapshot is None or isinstance(snapshot, int) else _name(snapshot, "snapshot")
        text = _name(name if name is not None else image_id, "name")
        coro = _Core.open(
            io._io,
            text if name is not None else None,
            image_id=text if name is None else None,
            snapshot=wanted,
            read_only=read_only,
        )
        self._core: _Core = _call(self._client, coro, f"error opening image {text} at snapshot {snapshot}")
        self.name = self._core.name
        self.closed = False

    def __repr__(self) -> str:
        return f"<pyrbd.rbd.Image {getattr(self, 'name', '?')!r}{' closed' if self.closed else ''}>"

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *args: object) -> Literal[False]:
        self.close()
        return False

    def __del__(self) -> None:
        if not self.closed and not self._client.closed and not self._client.forked:
            self.closed = True
            self._core.abandon()

    def _run(self, coro: Coroutine[Any, Any, T], what: str) -> T:
        return _call(self._client, coro, f"error {what} image {self.name}")

    def _current(self, what: str) -> _Core:
        """The image below, with a header that is not known to be stale."""
        core = self._open()
        if core.stale:
            self._run(core.refresh(), what)
        return core

    def close(self) -> None:
        """Closes the image; further calls do nothing."""
        if not self.closed:
            self.closed = True
            if not self._client.closed:
                self._run(self._core.close(), "closing")

    # ------------------------------------------------------------ data

    def read(self, offset: int, length: int, fadvise_flags: int = 0) -> bytes:
        """Reads `length` bytes, fewer only where the image ends. What was never written is
        zero. Raises InvalidArgument for an offset beyond the end."""
        core = self._core
        if not self.closed and not core.stale and type(offset) is int and type(length) is int and offset >= 0:
            layout = core.layout
            inside = offset & (1 << layout.order) - 1
            end = inside + length
            # the straight path: one object, nothing to clip
            if length > 0 and end <= 1 << layout.order and layout.stripe_count == 1 and offset + length <= core.size:
                object_no = offset >> layout.order
                client = self._client
                try:
                    data: bytes = client.wait(
                        core.submit_read_one(object_no, inside, length, fadvise_flags & _FADVISE_MASK)
                    )
                except _rados.ObjectNotFound:
                    return self._run(core.missing(object_no, inside, length), "reading from")
                except _rados.Error as e:
                    raise _wrap(e, f"error reading from image {self.name}") from e
                return data if len(data) == length else data + bytes(length - len(data))
        core = self._open()
        at, n = _number(offset, "offset"), _number(length, "length")
        return self._run(core.read(at, n, fadvise_flags & _FADVISE_MASK), "reading from")

    def read_into(self, offset: int, buffer: Any, fadvise_flags: int = 0) -> int:
        """Reads into a writable buffer, without a copy; returns the number of bytes.

        (Not part of Ceph's binding.)
        """
        core = self._open()
        view = memoryview(buffer)
        if view.readonly:
            raise TypeError("buffer must be writable")
        at = _number(offset, "offset")
        return self._run(core.read_into(at, view.cast("B"), fadvise_flags & _FADVISE_MASK), "reading from")

    def write(self, data: Any, offset: int, fadvise_flags: int = 0) -> int:
        """Writes bytes; they are safe on all replicas when this returns. Returns their number.

        Raises:
            TypeError: `data` is not a bytes-like object.
            InvalidArgument: the offset is beyond the end.
            IncompleteWriteError: the data reaches over the end; what fits was written.
            ReadOnlyImage, FunctionNotSupported: before any byte is written.
        """
        core = self._open()
        view = memoryview(data_of(data, "data"))
        at = _number(offset, "offset")
        written = self._run(core.write(at, view, fadvise_flags & _FADVISE_MASK), "writing to")
        if written != len(view):
            raise incomplete(written, len(view))
        return written

    def discard(self, offset: int, length: int) -> None:
        """Gives space back. As in librbd, only whole multiples of
        `rbd_discard_granularity_bytes` (64 KiB) within an object are discarded."""
        core = self._open()
        self._run(core.discard(_number(offset, "offset"), _number(length, "length")), "discarding from")

    def write_zeroes(self, offset: int, length: int, zero_flags: int = 0) -> None:
        """Makes a range read as zeroes."""
        core = self._open()
        if zero_flags & ~RBD_WRITE_ZEROES_FLAG_THICK_PROVISION:
            raise InvalidArgument(f"zero_flags {zero_flags:#x}", errno.EINVAL)
        at, n = _number(offset, "offset"), _number(length, "length")
        if zero_flags:  # zeroes that take their space
            done = 0
            while done < n:
                piece = bytes(min(n - done, 4 << 20))
                done += self._run(core.write(at + done, memoryview(piece)), "writing zeroes to")
            return
        self._run(core.write_zeroes(at, n), "writing zeroes to")

    def flush(self) -> None:
        """Returns when everything written is safe; it already is."""
        self._run(self._open().flush(), "flushing")

    def invalidate_cache(self) -> None:
        """There is no cache to drop."""
        self._open()

    def resize(self, size: int, allow_shrink: bool = True) -> None:
        """Changes the size. InvalidArgument if it would shrink and must not."""
        core = self._current("resizing")
        new = _number(size, "size")
        if not allow_shrink and core.header.size > new:
            raise InvalidArgument("error allow_shrink is False but old_size > new_size")
        self._run(directory.resize(core, new, allow_shrink), "resizing")


class SnapIterator:
    """The snapshots of an image, oldest first: {id, size, name, namespace}."""

    def __init__(self, image: ImageProperties) -> None:
        self._snaps = image._current("listing snapshots of").header.snaps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for snap in self._snaps:
            i = snap.info
            yield {"id": i.id, "size": i.image_size, "name": i.name, "namespace": i.namespace.type}


def incomplete(written: int, length: int) -> IncompleteWriteError:
    """A write that reached over the end of the image."""
    return IncompleteWriteError(f"Wrote only {written} out of {length} bytes")


def _when(t: Any) -> datetime.datetime:
    import datetime

    return datetime.datetime.fromtimestamp(t.sec, tz=datetime.timezone.utc)
