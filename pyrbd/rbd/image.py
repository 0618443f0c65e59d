"""`Image`: an open image, in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from ..image.errors import InvalidArgument
from ..image.image import Image as Core
from ..msgr.frames import BULK_SIZE
from ..rados import Ioctx
from ..rados import exceptions as rados
from ..rados.ioctx import IoctxBase
from ..rados.requests import data_of
from . import image_calls, lock_calls, metadata_calls, snapshot_calls, unsupported
from .arguments import (
    doing,
    fadvise,
    incomplete,
    int32,
    number,
    optional_text,
    translated,
)
from .completion import Completion
from .iterators import (
    ChildIterator,
    ConfigImageIterator,
    LockOwnerIterator,
    MetadataIterator,
    SnapIterator,
    WatcherIterator,
)
from .pool_calls import io_of
from .properties import ImageBase

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    from ..rados.completion import Completion as Pending

    P = ParamSpec("P")

T = TypeVar("T")


def blocking(
    call: Callable[Concatenate[ImageBase, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Image, P], T]:
    """The method of `Image` that runs a call in the caller's thread."""

    @wraps(call)
    def method(self: Image, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.require_not_closed()
        return self._client.run(call(self, *args, **kwargs))

    return method


def _with_data(completion: Completion, data: Any) -> tuple[Any, ...]:
    return completion, data


class Image(ImageBase):
    """An open image; a context manager.

    Args:
        ioctx: the pool.
        name: of the image; or `image_id`.
        snapshot: name of a snapshot to read; writes raise ReadOnlyImage.
        read_only: writes then raise ReadOnlyImage, and nobody sees that we have it open.
    Raises:
        ImageNotFound: no such image or snapshot.
        FunctionNotSupported: an image that pyrbd cannot read; the message names the feature.
            Images that it can only read open as well, and refuse a write by the feature's name.

    Offsets and lengths are in bytes. Calls on a closed image raise InvalidArgument.
    """

    _ioctx_type: ClassVar[type[IoctxBase]] = Ioctx

    def __init__(
        self,
        ioctx: Ioctx,
        name: str | None = None,
        snapshot: str | None = None,
        read_only: bool = False,
        image_id: str | None = None,
    ) -> None:
        self.closed = True
        opening, what = self._opening(ioctx, name, snapshot, read_only, image_id)
        with doing(what):
            self._opened(self._client.run(opening))

    def _opening(
        self, ioctx: Ioctx, name: str | None, snapshot: str | None, read_only: bool, image_id: str | None
    ) -> tuple[Coroutine[Any, Any, Core], str]:
        """What opens the image, and what that is called in an error."""
        name, image_id = optional_text(name, "name"), optional_text(image_id, "image_id")
        snapshot = optional_text(snapshot, "snapshot")
        if name is not None and image_id is not None:
            raise InvalidArgument("only need to specify image name or image id")
        if name is None and image_id is None:
            raise InvalidArgument("image name or image id was not specified")
        io = io_of(ioctx, Ioctx)
        self._client = io.client
        self.ioctx = ioctx
        self.name = name or image_id or ""
        self._in_flight = set()
        what = f"error opening image {self.name} at snapshot {snapshot}"
        return Core.open(io, name, image_id=image_id, snapshot=snapshot or None, read_only=bool(read_only)), what

    def _opened(self, core: Core) -> None:
        self._core = core
        self.name = core.name
        self.closed = False

    def __repr__(self) -> str:
        return f"rbd.Image(ioctx, {getattr(self, 'name', None)!r})"

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *args: object) -> Literal[False]:
        self.close()
        return False

    def __del__(self) -> None:
        if not self.closed and not self._client.closed and not self._client.forked:
            self.closed = True
            self._core.abandon()

    def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        return self._client.run(coro)

    def _current(self, what: str) -> Core:
        """The image below, with a header that is not known to be stale."""
        core = self._open()
        if core.stale:
            with doing(f"error {what} image {self.name}"):
                self._client.run(core.current())
        return core

    def close(self) -> None:
        """Waits for what is in flight, and closes the image; further calls do nothing."""
        if not self.closed:
            self.closed = True
            if not self._client.closed:
                self._client.run(self._closing())

    async def _closing(self) -> None:
        with doing(f"error while closing image {self.name}"):
            await image_calls.ended(self)
            await self._core.close()

    # ------------------------------------------------------------ data

    def read(self, offset: int, length: int, fadvise_flags: int = 0) -> bytes:
        """Reads `length` bytes, fewer only where the image ends. What was never written is
        zero. Raises InvalidArgument for an offset beyond the end."""
        if self.closed:
            raise InvalidArgument("image is closed")
        core = self._core
        if (
            core.news is core.news_read
            and not core.cache.objects
            and type(offset) is int
            and type(length) is int
            and offset >= 0
        ):
            layout = core.layout
            inside = offset & (1 << layout.order) - 1
            end = inside + length
            # the straight path: one object, nothing to clip
            if length > 0 and end <= 1 << layout.order and layout.stripe_count == 1 and offset + length <= core.size:
                object_no = offset >> layout.order
                client = self._client
                try:
                    flags = 0 if fadvise_flags == 0 else fadvise(fadvise_flags)
                    if length < BULK_SIZE:
                        found = core.read_one_now(object_no, inside, length, flags)
                    else:
                        found = core.submit_read_one(object_no, inside, length, flags)
                    data: bytes = found if type(found) is bytes else client.wait(found)
                except rados.ObjectNotFound:
                    with doing(f"error reading {self.name} {offset}~{length}"):
                        return client.run(core.missing(object_no, inside, length))
                except rados.Error as e:
                    raise translated(e, f"error reading {self.name} {offset}~{length}") from e
                return data if len(data) == length else data + bytes(length - len(data))
        return self._client.run(image_calls.read(self, offset, length, fadvise_flags))

    def write(self, data: Any, offset: int, fadvise_flags: int = 0) -> int:
        """Writes bytes; they are safe on all replicas when this returns or, if the image's cache is in use
        (`rbd_cache`), after :meth:`flush`. Returns their number.

        Raises:
            TypeError: `data` is not a bytes-like object.
            InvalidArgument: the offset is beyond the end.
            IncompleteWriteError: the data reaches over the end; what fits was written.
            ReadOnlyImage, FunctionNotSupported: before any byte is written.
        """
        if self.closed:
            raise InvalidArgument("image is closed")
        # the straight path: the cache takes it as it is
        if type(data) is bytes and type(offset) is int and fadvise_flags == 0 and self._core.cache.take(offset, data):
            return len(data)
        view = memoryview(data_of(data, "data"))
        if type(offset) is not int or offset < 0:
            offset = number(offset, "offset")
        try:
            written = self._client.run(
                self._core.write(offset, view, 0 if fadvise_flags == 0 else fadvise(fadvise_flags))
            )
        except Exception as e:
            raise translated(e, f"error writing to {self.name}")  # noqa: B904 - it may be the same one
        if written != len(view):
            raise incomplete(written, len(view))
        return written

    read_into = blocking(image_calls.read_into)
    compare_and_write = blocking(image_calls.compare_and_write)
    discard = blocking(image_calls.discard)
    write_zeroes = blocking(image_calls.write_zeroes)
    flush = blocking(image_calls.flush)
    invalidate_cache = blocking(image_calls.invalidate_cache)

    # ------------------------------------------------------------ the image as a whole

    resize = blocking(image_calls.resize)
    flatten = blocking(image_calls.flatten)
    sparsify = blocking(image_calls.sparsify)
    rebuild_object_map = blocking(image_calls.rebuild_object_map)
    diff_iterate = blocking(image_calls.diff_iterate)
    copy = blocking(image_calls.copy)
    deep_copy = blocking(image_calls.deep_copy)
    update_features = blocking(image_calls.update_features)
    group = blocking(image_calls.group)
    get_parent_image_spec = blocking(image_calls.get_parent_image_spec)
    list_children = blocking(image_calls.list_children)

    def list_children2(self) -> ChildIterator:
        """{pool, pool_namespace, image, id, trash} of each clone of the snapshot that is open, or of any."""
        self.require_not_closed()
        return ChildIterator(self)

    def list_descendants(self) -> ChildIterator:
        """As :meth:`list_children2`, with the clones of clones."""
        self.require_not_closed()
        return ChildIterator(self, True)

    def watchers_list(self) -> WatcherIterator:
        """{addr, id, cookie} of each client that has the image open for writing, ourselves included."""
        self.require_not_closed()
        return WatcherIterator(self)

    # ------------------------------------------------------------ snapshots

    create_snap = blocking(snapshot_calls.create_snap)
    remove_snap = blocking(snapshot_calls.remove_snap)
    remove_snap2 = blocking(snapshot_calls.remove_snap2)
    remove_snap_by_id = blocking(snapshot_calls.remove_snap_by_id)
    rename_snap = blocking(snapshot_calls.rename_snap)
    protect_snap = blocking(snapshot_calls.protect_snap)
    unprotect_snap = blocking(snapshot_calls.unprotect_snap)
    rollback_to_snap = blocking(snapshot_calls.rollback_to_snap)
    set_snap = blocking(snapshot_calls.set_snap)
    set_snap_by_id = blocking(snapshot_calls.set_snap_by_id)
    get_snap_limit = blocking(snapshot_calls.get_snap_limit)
    set_snap_limit = blocking(snapshot_calls.set_snap_limit)
    remove_snap_limit = blocking(snapshot_calls.remove_snap_limit)
    snap_get_group_namespace = blocking(snapshot_calls.snap_get_group_namespace)
    snap_get_trash_namespace = blocking(snapshot_calls.snap_get_trash_namespace)
    snap_get_mirror_namespace = blocking(snapshot_calls.snap_get_mirror_namespace)

    def list_snaps(self) -> SnapIterator:
        """The snapshots, oldest first: {id, size, name, namespace}."""
        self.require_not_closed()
        return SnapIterator(self)

    # ------------------------------------------------------------ locks

    is_exclusive_lock_owner = blocking(lock_calls.is_exclusive_lock_owner)
    lock_acquire = blocking(lock_calls.lock_acquire)
    lock_release = blocking(lock_calls.lock_release)
    lock_break = blocking(lock_calls.lock_break)
    list_lockers = blocking(lock_calls.list_lockers)
    lock_exclusive = blocking(lock_calls.lock_exclusive)
    lock_shared = blocking(lock_calls.lock_shared)
    unlock = blocking(lock_calls.unlock)
    break_lock = blocking(lock_calls.break_lock)

    def lock_get_owners(self) -> LockOwnerIterator:
        """{mode, owner} of who holds the exclusive lock. InvalidArgument if the image has none."""
        self.require_not_closed()
        return LockOwnerIterator(self)

    # ------------------------------------------------------------ metadata and configuration

    metadata_get = blocking(metadata_calls.metadata_get)
    metadata_set = blocking(metadata_calls.metadata_set)
    metadata_remove = blocking(metadata_calls.metadata_remove)
    config_get = blocking(metadata_calls.config_get)
    config_set = blocking(metadata_calls.config_set)
    config_remove = blocking(metadata_calls.config_remove)

    def metadata_list(self) -> MetadataIterator:
        """(key, value) of all that was set, sorted."""
        self.require_not_closed()
        return MetadataIterator(self)

    def config_list(self) -> ConfigImageIterator:
        """{name, value, source} of each option, source being one of ``RBD_CONFIG_SOURCE_*``."""
        self.require_not_closed()
        return ConfigImageIterator(self)

    # ------------------------------------------------------------ without waiting

    def _begin(
        self,
        coro: Coroutine[Any, Any, Any],
        oncomplete: Callable[..., Any] | None,
        deliver: Callable[[Completion, Any], tuple[Any, ...]] | None = None,
        value: Callable[[Any], int] | None = None,
    ) -> Completion:
        """Has an operation go on by itself; flush and close wait for it."""
        completion = Completion(self._client, oncomplete, deliver, value)
        return self._follow(completion, self._client.spawn(coro))

    def _follow(
        self, completion: Completion, pending: Pending[Any], outcome: Callable[[Pending[Any]], Any] | None = None
    ) -> Completion:
        self._in_flight.add(pending)
        pending.add_done_callback(self._in_flight.discard)
        completion.follow(pending, outcome)
        return completion

    def aio_read(
        self, offset: int, length: int, oncomplete: Callable[[Completion, bytes | None], Any], fadvise_flags: int = 0
    ) -> Completion:
        """Begins to read; ``oncomplete(completion, data)`` is called when it has ended, with None as the data
        when it has failed. The return value is the number of bytes."""
        core = self._open()
        offset, length, flags = number(offset, "offset"), number(length, "length"), fadvise(fadvise_flags)
        if core.parent is not None or not core.in_one_object(offset, length):
            return self._begin(core.read(offset, length, flags), oncomplete, _with_data, len)

        # the straight path: one request, and nothing that goes on by itself
        def whole(pending: Pending[Any]) -> bytes:
            data: bytes = b"" if isinstance(pending.error, rados.ObjectNotFound) else pending.result()
            return data if len(data) == length else data + bytes(length - len(data))

        completion = Completion(self._client, oncomplete, _with_data, len)
        order = core.layout.order
        op = core.submit_read_one(offset >> order, offset & (1 << order) - 1, length, flags, background=True)
        return self._follow(completion, op, whole)

    def aio_write(
        self, data: Any, offset: int, oncomplete: Callable[[Completion], Any] | None, fadvise_flags: int = 0
    ) -> Completion:
        """Begins to write; ``oncomplete(completion)`` is called when it has ended. `data` must not change
        until then."""
        core = self._open()
        view = memoryview(data_of(data, "data"))
        offset, flags = number(offset, "offset"), fadvise(fadvise_flags)
        return self._begin(core.write(offset, view, flags), oncomplete)

    def aio_discard(self, offset: int, length: int, oncomplete: Callable[[Completion], Any] | None) -> Completion:
        """Begins to :meth:`discard`; ``oncomplete(completion)`` is called when that has ended."""
        core = self._open()
        offset, length = number(offset, "offset"), number(length, "length")
        return self._begin(core.discard(offset, length), oncomplete)

    def aio_write_zeroes(
        self, offset: int, length: int, oncomplete: Callable[[Completion], Any] | None, zero_flags: int = 0
    ) -> Completion:
        """Begins to :meth:`write_zeroes`; ``oncomplete(completion)`` is called when that has ended."""
        self.require_not_closed()
        offset, length, flags = number(offset, "offset"), number(length, "length"), int32(zero_flags, "zero_flags")
        return self._begin(image_calls.write_zeroes(self, offset, length, flags), oncomplete)

    def aio_flush(self, oncomplete: Callable[[Completion], Any] | None) -> Completion:
        """Begins to :meth:`flush`; ``oncomplete(completion)`` is called when everything is safe that was begun
        to be written before."""
        self.require_not_closed()
        return self._begin(image_calls.flush(self), oncomplete)

    def aio_close(self, oncomplete: Callable[[Completion], Any] | None) -> Completion:
        """Begins to close the image; ``oncomplete(completion)`` is called when it is. Further calls raise
        InvalidArgument at once."""
        self.require_not_closed()
        self.closed = True
        return self._begin(self._closing(), oncomplete)

    @classmethod
    def _begin_open(
        cls,
        oncomplete: Callable[[Completion, Image], Any],
        ioctx: Ioctx,
        name: str | None,
        snapshot: str | None,
        read_only: bool,
        image_id: str | None,
    ) -> Completion:
        """RBD.aio_open_image."""
        image = cls.__new__(cls)
        image.closed = True
        opening, _ = image._opening(ioctx, name, snapshot, read_only, image_id)

        def deliver(completion: Completion, core: Core | None) -> tuple[Any, ...]:
            if core is not None:
                image._opened(core)
            return completion, image

        completion = Completion(image._client, oncomplete, deliver)
        completion.follow(image._client.spawn(opening))
        return completion


unsupported.refuse(Image, unsupported.IMAGE_METHODS)
