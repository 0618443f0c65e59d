"""An open image: its header, and what is done with its data
(`src/librbd/image/OpenRequest.cc`, `RefreshRequest.cc`)."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, Any

from ..denc import Decoder
from ..log import Log
from ..msgr.buffers import BytesBuffer
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, features, header
from . import io as rw
from .cache import Cache
from .cls_rbd import ListWatchResponse, WatchItem
from .errors import (
    FunctionNotSupported,
    ImageNotFound,
    InvalidArgument,
    OutOfRangeArgument,
    ReadOnlyImage,
    Timeout,
)
from .header import Header, Snap
from .layout import Layout, ObjectExtent, object_name, v1_object_name
from .metadata import ImageConfig, load_config
from .sync import Block, Gate, Hold, Mutex, Pass
from .watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..rados.client import Client
    from ..rados.completion import Completion
    from ..rados.io import IoContext
    from .exclusive_lock import ExclusiveLock
    from .object_map import ObjectMap

_log = Log("image")

MAX_PARENTS = 16
_COPYUP_LOCKS = 64


class Image:
    """An open image. Make it with :meth:`open`, and :meth:`close` it.

    Offsets, lengths and sizes are in bytes. Coroutines raise what `pyrbd.image.errors`
    defines for what the image layer understands, and the exceptions of `rados` for the rest.

    Attributes:
        id: "" for an image of format 1.
        writable: whether it has no feature that forbids that we change it.
        shrinks_to: the size that it is going to have, in bytes, while a smaller one is being made of it.
        ancestry: the parent, open at its snapshot, and how many bytes from the begin overlap with it.
        watcher: the watch of the header; it stands while the image is open for writing.
        config: the options in effect for it, with what its metadata and its pool override.
        news: another object each time that somebody tells that the header may have changed;
        news_read: the one that was there when the header in use was asked for.
        writes: whoever changes data is inside.
        leftovers: changes of objects, with the numbers of these, that go on though who began them was interrupted.
        operations: held by a maintenance operation (a snapshot, a change of the size, ...).
        lock: the exclusive lock; None where the image has none, or is not open for writing.
        object_map: the head's, while we hold the exclusive lock; None otherwise.
    """

    def __init__(self, io: IoContext, name: str, image_id: str, read_only: bool, old_format: bool = False) -> None:
        self.io = io
        self.client: Client = io.client
        self.name = name
        self.id = image_id
        self.old_format = old_format
        self.read_only = read_only
        self.closed = False
        self.news = object()
        self.news_read: object = None
        self.writable = False
        self.header: Header
        self.header_lock = threading.RLock()
        """Held by who replaces `header` by what it makes of it."""
        self.layout: Layout
        self.config = ImageConfig(self.client.config)
        self.client.config.observe(self._config_changed)
        self.data_io: IoContext = io
        self.snap: Snap | None = None
        self.snap_id = NOSNAP
        self.shrinks_to: int | None = None
        self.ancestry: tuple[Image | None, int] = (None, 0)
        self.cache = Cache(self)
        self.writes = Gate(self.client, self.cache.push)
        self.leftovers: dict[int, tuple[Collection[int], Completion[Any]]] = {}
        self.operations = Mutex(self.client)
        self.watcher = Watcher(self)
        self.lock: ExclusiveLock | None = None
        self.object_map: ObjectMap | None = None
        self._skip_parent = False
        self._refreshing = Mutex(self.client)
        self._copyups = tuple(Mutex(self.client) for _ in range(_COPYUP_LOCKS))
        self._released: Block | None = None
        self._accessed_at = 0.0
        self._modified_at = 0.0

    def __repr__(self) -> str:
        return f"<Image {self.name!r} id={self.id}>"

    @property
    def header_oid(self) -> str:
        return self.name + cls_rbd.V1_SUFFIX if self.old_format else cls_rbd.header_object(self.id)

    @property
    def parent(self) -> Image | None:
        """The parent, open at its snapshot; None where nothing overlaps with it."""
        return self.ancestry[0]

    @property
    def overlap(self) -> int:
        """How many bytes from the begin may still come from the parent."""
        return self.ancestry[1]

    def has(self, bits: int) -> bool:
        """Whether the image has all of these features."""
        return self.header.features & bits == bits

    # ------------------------------------------------------------ open and close

    @classmethod
    async def open(
        cls,
        io: IoContext,
        name: str | None = None,
        *,
        image_id: str | None = None,
        snapshot: str | int | None = None,
        read_only: bool = False,
        skip_parent: bool = False,
        depth: int = 0,
    ) -> Image:
        """Opens an image by name or id.

        Args:
            snapshot: name or id of the snapshot to read; data cannot be written until another one is set.
            read_only: do not register as a watcher; writes raise ReadOnlyImage.
            skip_parent: do not open the parent, for who does not use the image's data.
        Raises:
            ImageNotFound: no such image or snapshot.
            FunctionNotSupported: it cannot be read correctly; the message says why.
        """
        old_format = False
        if image_id is None:
            if name is None:
                raise InvalidArgument("an image is opened by name or by id", errno.EINVAL)
            image_id, old_format = await find(io, name)
        image = cls(io, name or "", image_id, read_only, old_format)
        image._skip_parent = skip_parent
        if not image.read_only:
            await image.watcher.register()
        try:
            await image.refresh(depth)
            image.cache.configure()
            if name is None:
                image.name = await image._lookup_name()
            if snapshot is not None:
                await image.set_snapshot(snapshot, depth)
        except BaseException:
            await image.close()
            raise
        return image

    async def close(self) -> None:
        """Closes the image and its parents, after storing what was written. Raises the error of a late write."""
        if self.closed:
            return
        try:
            await self.cache.close()
        finally:
            self.closed = True
            lock, self.lock = self.lock, None
            try:
                if lock is not None:
                    await self._close_lock(lock)
            finally:
                try:
                    await self.watcher.close()
                finally:
                    if self.parent is not None:
                        await self.parent.close()

    async def _close_lock(self, lock: ExclusiveLock) -> None:
        try:
            await lock.close()
        except Timeout as e:
            _log.info("%r: giving up the exclusive lock: %s", self, e)

    def abandon(self) -> None:
        """Lets go of an image that nobody closed, without waiting for anything: this may run
        in a garbage collection, anywhere. What was written is stored all the same."""
        if self.cache.objects:
            self.client.driver.defer(lambda: self.client.spawn(self._abandon_late()))
            return
        self.closed = True
        if self.lock is not None:
            self.lock.abandon()
        self.watcher.abandon()
        if self.parent is not None:
            self.parent.abandon()

    async def _abandon_late(self) -> None:
        try:
            await self.cache.close()
        except Exception as e:
            _log.warning("%r: closed by the garbage collection: %s", self, e)
        self.cache.objects.clear()
        self.abandon()

    async def _lookup_name(self) -> str:
        """From the directory, or from the trash."""
        encoded = len(self.id.encode()).to_bytes(4, "little") + self.id.encode()
        try:
            return cls_rbd.decode_string(await self.io.call(cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_name", encoded))
        except rados.ObjectNotFound:
            pass
        try:
            _, spec = Decoder(await self.io.call(cls_rbd.RBD_TRASH, "rbd", "trash_get", encoded)).envelope(
                1, "TrashImageSpec"
            )
        except rados.ObjectNotFound:
            raise ImageNotFound(f"image {self.id} has no name", errno.ENOENT) from None
        spec.u8()  # who moved it there
        return spec.string()

    async def refresh(self, depth: int = 0) -> None:
        """Reads the header again."""
        with await self._refreshing.acquire():
            await self._refresh(depth)

    def _config_changed(self, names: frozenset[str]) -> None:
        """An option of the client has changed, perhaps that by which a pool tells that its own have."""
        if any(name.startswith("rbd_") for name in names):
            self.mark_stale()

    @property
    def stale(self) -> bool:
        """Whether the header may have changed since the one in use was asked for: until another one is in use."""
        return self.news is not self.news_read

    def mark_stale(self) -> None:
        """The header may have changed: who comes from now on reads it again first."""
        self.news = object()

    async def current(self) -> None:
        """Refreshes the header if somebody said that it has changed."""
        if self.stale:
            with await self._refreshing.acquire():
                if self.stale:
                    await self._refresh(0)

    async def _refresh(self, depth: int) -> None:
        news = self.news
        try:
            new = await header.load(self.io, self.header_oid, self.old_format, self.name or self.id)
            features.check_readable(new.features, self.name or self.id)
            if depth == 0:
                self.config = await load_config(self)
            self._take(new)
            self._choose_lock()
            await self._refresh_parent(depth)
        except BaseException:
            self.mark_stale()
            raise
        self.news_read = news

    def _take(self, new: Header) -> None:
        raw = new.raw
        with self.header_lock:
            self.header = new
        self.writable = features.is_writable(raw.features)
        self.layout = Layout(raw.order, raw.stripe_unit, raw.stripe_count)
        if raw.data_pool_id not in (-1, self.data_io.pool_id):
            self.data_io = self.io.with_pool(raw.data_pool_id)
        if self.snap_id != NOSNAP:
            try:
                self.snap = self.find_snapshot(self.snap_id)
            except ImageNotFound:  # it was removed: the image has nothing until another one is set
                self.snap = None

    def _choose_lock(self) -> None:
        """An image has an exclusive lock if that is one of its features, and it may be written to."""
        wanted = self.has(features.EXCLUSIVE_LOCK) and not self.read_only and self.snap_id == NOSNAP and not self.closed
        if wanted and self.lock is None:
            from .exclusive_lock import ExclusiveLock

            self.lock = ExclusiveLock(self)
        elif not wanted and self.lock is not None:
            lock, self.lock = self.lock, None
            self.client.spawn(self._close_lock(lock))

    def find_snapshot(self, snapshot: str | int) -> Snap:
        """A snapshot by its id, or by its name among those that users made.

        Raises:
            ImageNotFound.
        """
        for s in self.header.snaps:
            if isinstance(snapshot, int):
                if s.info.id == snapshot:
                    return s
            elif s.info.name == snapshot and s.info.namespace.type == cls_rbd.SNAP_NAMESPACE_USER:
                return s
        raise ImageNotFound(f"image {self.name} has no snapshot {snapshot!r}", errno.ENOENT)

    async def set_snapshot(self, snapshot: str | int | None, depth: int = 0) -> None:
        """Reads from a snapshot from now on, by its name or id; None for the head.

        Raises:
            ImageNotFound: there is no such snapshot; the image stays where it was.
        """
        found = None if snapshot is None else self.find_snapshot(snapshot)
        await self.cache.settle()
        lock = self.lock
        if found is not None and lock is not None:
            self.lock = None
            await self._close_lock(lock)
        with await self._refreshing.acquire():
            self.snap = found
            self.snap_id = NOSNAP if found is None else found.info.id
            self._choose_lock()
            await self._refresh_parent(depth)

    async def _refresh_parent(self, depth: int) -> None:
        """Opens or closes the parent, as the head or the snapshot wants it."""
        spec = self.header.parent
        overlap = (self.header.raw.parent_overlap if self.snap is None else self.snap.parent_overlap) or 0
        wanted = spec if spec is not None and overlap and not self._skip_parent else None
        old, parent = self.parent, self.parent
        if parent is not None and (
            wanted is None
            or (parent.id, parent.snap_id, parent.io.pool_id, parent.io.namespace)
            != (wanted.image_id, wanted.snap_id, wanted.pool_id, wanted.pool_namespace)
        ):
            parent = None
        if wanted is not None and parent is None:
            if depth >= MAX_PARENTS:
                raise FunctionNotSupported(f"image {self.name} has more than {MAX_PARENTS} ancestors", errno.ENOSYS)
            io = self.io.with_pool(wanted.pool_id).with_namespace(wanted.pool_namespace)
            parent = await Image.open(
                io, image_id=wanted.image_id, snapshot=wanted.snap_id, read_only=True, depth=depth + 1
            )
        self.ancestry = (parent, overlap if parent is not None else 0)
        if old is not None and old is not parent:
            await old.close()

    # ------------------------------------------------------------ the header, and the lock

    async def header_changed(self) -> None:
        """We changed the header: reads it again, and tells the others."""
        self.mark_stale()
        await self.watcher.header_update()  # we hear of it too
        await self.current()

    async def renamed(self, name: str) -> None:
        """The image has another name from now on. The header of format 1 is called like it, and is watched there."""
        if not self.old_format or not self.watcher.cookie:
            self.name = name
            return
        watcher, self.watcher = self.watcher, Watcher(self)
        await watcher.close()
        self.name = name
        await self.watcher.register()

    async def watchers(self) -> list[WatchItem]:
        """Who watches the header, without ourselves."""
        reply = await self.io.operate(self.header_oid, ObjectOperation().list_watchers())
        own = self.watcher.cookie
        gid = self.client.global_id
        entries = ListWatchResponse.from_bytes(reply.ops[0].data).entries
        return [w for w in entries if not (w.cookie == own and w.name.num == gid)]

    async def prepare_write(self) -> None:
        """Everything that has to hold before something is changed.

        Raises:
            ReadOnlyImage, FunctionNotSupported.
        """
        if self.read_only or self.snap_id != NOSNAP:
            raise ReadOnlyImage(f"image {self.name} was opened read-only, or at a snapshot", errno.EROFS)
        if not self.watcher.cookie:
            await self.watcher.registered()
        await self.current()
        features.check_writable(self.header.features, self.name)
        if self.lock is not None and not self.lock.owner:
            await self.lock.acquire()

    def try_enter_write(self) -> Pass | None:
        """:meth:`enter_write`, where nothing has to be waited for."""
        if (
            self.news is not self.news_read
            or self.read_only
            or self.snap_id != NOSNAP
            or not self.watcher.cookie
            or not self.writable
        ):
            return None
        inside = self.writes.try_enter()
        if inside is None or (self.news is self.news_read and (self.lock is None or self.lock.owner)):
            return inside
        inside.leave()
        return None

    async def enter_write(self) -> Pass:
        """A pass for who changes data: while he has it, the size, the snapshots and the exclusive lock stay.

        Raises:
            ReadOnlyImage, FunctionNotSupported.
        """
        while True:
            await self.prepare_write()
            inside = await self.writes.enter()
            if not self.stale and (self.lock is None or self.lock.owner):
                return inside
            inside.leave()

    async def lock_acquired(self) -> None:
        """We have just got the exclusive lock: another client may have changed everything."""
        await self.refresh()
        features.check_writable(self.header.features, self.name)
        if self.has(features.OBJECT_MAP):
            from .object_map import ObjectMap

            self.object_map = await ObjectMap.open(self)

    async def before_release(self, operating: bool = False) -> None:
        """We are about to give the exclusive lock up: nothing may be in flight then, nor begin.

        Args:
            operating: who wants that holds `operations` already.
        """
        hold = None if operating else await self.operations.acquire()
        try:
            self._released = await self.writes.block()
            object_map, self.object_map = self.object_map, None
            if object_map is not None:
                await object_map.close()
        finally:
            if hold is not None:
                hold.release()

    async def after_release(self) -> None:
        """We gave it up, or failed to."""
        released, self._released = self._released, None
        if released is not None:
            released.release()

    async def copyup_lock(self, object_no: int) -> Hold:
        """Held while an object is copied up, so that those who write to it do that once."""
        return await self._copyups[object_no % _COPYUP_LOCKS].acquire()

    # ------------------------------------------------------------ sizes and names

    @property
    def size(self) -> int:
        """Of the head, or of the snapshot that is open; 0 when that was removed."""
        if self.snap_id != NOSNAP:
            return self.snap.info.image_size if self.snap is not None else 0
        return self.header.size if self.shrinks_to is None else min(self.header.size, self.shrinks_to)

    def object_name(self, object_no: int) -> str:
        prefix = self.header.raw.object_prefix
        return v1_object_name(prefix, object_no) if self.old_format else object_name(prefix, object_no)

    def clip(self, offset: int, length: int) -> int:
        """io::util::clip_request: how much of an extent is in the image.

        Raises:
            InvalidArgument: it begins beyond the end. ImageNotFound: the snapshot that is open was removed.
        """
        if self.snap_id != NOSNAP and self.snap is None:
            raise ImageNotFound(f"the snapshot of image {self.name} was removed", errno.ENOENT)
        if offset < 0 or length < 0 or offset + length >= 1 << 64:
            raise OutOfRangeArgument(f"offset {offset}, length {length}", errno.EINVAL)
        if not length:
            return 0
        size = self.size
        if offset >= size:
            raise InvalidArgument(f"offset {offset} is beyond the end of image {self.name}, {size}", errno.EINVAL)
        return min(length, size - offset)

    # ------------------------------------------------------------ reading

    def in_one_object(self, offset: int, length: int) -> bool:
        """Whether an extent is inside the image and a piece of one object, and may be read at once."""
        layout = self.layout
        return (
            self.news is self.news_read
            and not self.cache.objects
            and layout.stripe_count == 1
            and offset >= 0
            and length > 0
            and (offset & (1 << layout.order) - 1) + length <= 1 << layout.order
            and offset + length <= self.size
        )

    async def read(self, offset: int, length: int, op_flags: int = 0) -> bytes:
        """Up to `length` bytes, fewer only at the image's end; what was never written is zero."""
        await self.current()
        length = self.clip(offset, length)
        if not length:
            return b""
        if self.cache.objects:
            await self.cache.settle_extent(offset, length)
        if self.layout.simple:
            object_no, inside = divmod(offset, self.layout.object_size)
            if inside + length <= self.layout.object_size:
                completion = self.submit_read_one(object_no, inside, length, op_flags)
                try:
                    data: bytes = await completion
                except rados.ObjectNotFound:
                    data = await self.missing(object_no, inside, length)
                return data if len(data) == length else data + bytes(length - len(data))
        buffer = BytesBuffer(length)
        await rw.read_into(self, offset, buffer.view, op_flags)
        return buffer.take()

    async def read_into(self, offset: int, buffer: memoryview, op_flags: int = 0) -> int:
        """Reads as much as `buffer` holds; gives the number of bytes, fewer at the end."""
        await self.current()
        length = self.clip(offset, len(buffer))
        if self.cache.objects:
            await self.cache.settle_extent(offset, length)
        if length:
            await rw.read_into(self, offset, buffer[:length], op_flags)
        return length

    def submit_read_one(
        self, object_no: int, offset: int, length: int, op_flags: int = 0, *, background: bool = False
    ) -> Completion[Any]:
        """Sends the read of a piece of one object. `background`: no thread is going to wait for it."""
        if time.monotonic() >= self._accessed_at:
            self._accessed()
        return self.data_io.submit_read(
            self.object_name(object_no),
            offset,
            length,
            snapid=self.snap_id,
            op_flags=op_flags,
            background=background,
        )

    def read_one_now(self, object_no: int, offset: int, length: int, op_flags: int = 0) -> Any:
        """Reads a small piece of one object in the caller's thread: the data, or what is to be waited for."""
        if time.monotonic() >= self._accessed_at:
            self._accessed()
        return self.data_io.read_now(
            self.object_name(object_no), offset, length, snapid=self.snap_id, op_flags=op_flags
        )

    async def missing(self, object_no: int, offset: int, length: int) -> bytes:
        """What an image shows where an object is not there: the parent's data, or zeroes."""
        if self.parent is None:
            return bytes(length)
        buffer = bytearray(length)
        await rw.read_parent(self, ObjectExtent(object_no, offset, length, 0), memoryview(buffer))
        return bytes(buffer)

    # ------------------------------------------------------------ writing

    async def write(self, offset: int, data: memoryview, op_flags: int = 0) -> int:
        """Writes; the data is safe on all replicas when this returns.

        Returns the bytes written: fewer than given only where the image ends.
        """
        return await rw.write(self, offset, data, op_flags)

    async def discard(self, offset: int, length: int) -> int:
        """Gives space back; the range then reads as zeroes, where it was really discarded.

        As librbd does by default (`rbd_skip_partial_discard`), the part of each object is
        narrowed to multiples of `rbd_discard_granularity_bytes`; what is left over keeps its data.
        """
        granularity = 0
        if self.config.get_bool("rbd_skip_partial_discard"):
            granularity = self.config.get_int("rbd_discard_granularity_bytes")
        return await rw.discard(self, offset, length, granularity)

    async def write_zeroes(self, offset: int, length: int) -> int:
        """Makes a range read as zeroes, exactly."""
        return await rw.discard(self, offset, length, 0)

    async def compare_and_write(self, offset: int, compare: memoryview, data: memoryview, op_flags: int = 0) -> int:
        """Writes `data` if the image has `compare` there; see :func:`pyrbd.image.io.compare_and_write`."""
        return await rw.compare_and_write(self, offset, compare, data, op_flags)

    async def flush(self) -> None:
        """Returns when all writes that have begun are on the OSDs.

        Raises:
            OSError: one that had returned could not be stored.
        """
        self.cache.user_flushed()
        try:
            await self.cache.settle()
            await self.writes.drain()
        finally:
            self.cache.check(forget=True)

    # ------------------------------------------------------------ timestamps

    def modified(self) -> None:
        """Notes in the header when data was changed, at most every `rbd_mtime_update_interval` seconds."""
        now = time.monotonic()
        if now >= self._modified_at and not self.old_format:
            interval = self.config.get_int("rbd_mtime_update_interval")
            self._modified_at = now + interval if interval else float("inf")
            stamp = self.header.raw.modify_timestamp
            if interval and time.time() >= stamp.sec + interval:
                self._touch("set_modify_timestamp")

    def _accessed(self) -> None:
        """The same for reads and `rbd_atime_update_interval`."""
        interval = self.config.get_int("rbd_atime_update_interval")
        self._accessed_at = time.monotonic() + interval if interval else float("inf")
        stamp = self.header.raw.access_timestamp
        if interval and not self.read_only and not self.old_format and time.time() >= stamp.sec + interval:
            self._touch("set_access_timestamp")

    def _touch(self, method: str) -> None:
        op = ObjectOperation().call_write("rbd", method)
        self.io.submit(self.header_oid, op, background=True, throttled=False)


async def find(io: IoContext, name: str) -> tuple[str, bool]:
    """The id of an image, and whether it is of format 1, which has none.

    Raises:
        ImageNotFound.
    """
    try:
        return cls_rbd.decode_string(await io.call(cls_rbd.id_object(name), "rbd", "get_id")), False
    except rados.ObjectNotFound:
        pass
    try:
        await io.operate(name + cls_rbd.V1_SUFFIX, ObjectOperation().stat())
    except rados.ObjectNotFound:
        raise ImageNotFound(f"error opening image {name}: no such image", errno.ENOENT) from None
    return "", True
