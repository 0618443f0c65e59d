"""An open image: its header, and the way to its data
(`src/librbd/image/OpenRequest.cc`, `RefreshRequest.cc`, `src/librbd/io/`)."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from ..denc import Decoder
from ..log import Log
from ..msgr.buffers import BytesBuffer
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.op import Op
from ..rados.operations import ObjectOperation
from ..rados.target import SnapContext
from . import cls_rbd, features
from .cls_rbd import ListWatchResponse, ParentSpec, RawHeader, SnapshotInfo, WatchItem
from .errors import FunctionNotSupported, ImageNotFound, InvalidArgument, OutOfRangeArgument, ReadOnlyImage
from .layout import Layout, ObjectExtent, object_name

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from ..rados.io import IoContext
    from ..rados.watch import Watch

_log = Log("image")

WINDOW = 32
"""Object requests of one call that are in flight at a time,"""
WINDOW_BYTES = 16 << 20
"""and the bytes that these may read or write."""
MAX_PARENTS = 16
_SNAPS_PER_REQUEST = 64


class Snap(NamedTuple):
    """A snapshot, as the header lists it."""

    info: SnapshotInfo
    flags: int
    parent_overlap: int | None
    protected: bool


class Header(NamedTuple):
    """All of an image's metadata that matters for its data; a refresh makes a new one."""

    raw: RawHeader
    snaps: tuple[Snap, ...]
    """Oldest first."""
    snap_context: SnapContext

    @property
    def size(self) -> int:
        return self.raw.size

    @property
    def features(self) -> int:
        return self.raw.features

    @property
    def parent(self) -> ParentSpec | None:
        return self.raw.parent if self.raw.parent.exists else None

    @property
    def in_group(self) -> bool:
        """Whether it belongs to a consistency group (image_group_get: GroupSpec)."""
        data = self.raw.group
        if not data:
            return False
        _, body = Decoder(data).envelope(1, "GroupSpec")
        return body.s64() != -1  # the group's pool


class Image:
    """An open image. Make it with :meth:`open`, and :meth:`close` it.

    Offsets, lengths and sizes are in bytes. Coroutines raise what `pyrbd.image.errors`
    defines for what the image layer understands, and the exceptions of `rados` for the rest.
    """

    def __init__(self, io: IoContext, name: str, image_id: str, read_only: bool) -> None:
        self.io = io
        self.name = name
        self.id = image_id
        self.read_only = read_only
        self.header_oid = cls_rbd.header_object(image_id)
        self.closed = False
        self.stale = False
        """The header may have changed since we read it."""
        self.header: Header
        self.layout: Layout
        self.data_io: IoContext = io
        self.snap: Snap | None = None
        self.parent: Image | None = None
        self.overlap = 0
        self.snap_id = NOSNAP
        self._watch: Watch | None = None

    def __repr__(self) -> str:
        return f"<Image {self.name!r} id={self.id}>"

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
        depth: int = 0,
    ) -> Image:
        """Opens an image by name or id.

        Args:
            snapshot: name or id of the snapshot to read; such an image is read-only.
            read_only: do not register as a watcher; writes raise ReadOnlyImage.
        Raises:
            ImageNotFound: no such image or snapshot.
            FunctionNotSupported: it cannot be read correctly; the message says why.
        """
        from .directory import find_id

        if image_id is None:
            if not name:
                raise InvalidArgument("an image is opened by name or by id", errno.EINVAL)
            image_id = await find_id(io, name)
        image = cls(io, name or "", image_id, read_only or snapshot is not None)
        if not image.read_only:
            await image._register_watch()
        try:
            await image.refresh(depth)
            if name is None:
                image.name = await image._lookup_name()
            if snapshot is not None:
                await image._set_snapshot(snapshot, depth)
        except BaseException:
            await image.close()
            raise
        return image

    async def close(self) -> None:
        """Closes the image and its parents."""
        if self.closed:
            return
        self.closed = True
        watch, self._watch = self._watch, None
        try:
            if watch is not None:
                try:
                    await watch.close()
                except (rados.TimedOut, rados.ConnectionShutdown) as e:
                    _log.info("%r: unwatch: %s", self, e)
        finally:
            if self.parent is not None:
                await self.parent.close()

    def abandon(self) -> None:
        """Lets go of an image that nobody closed, without waiting for anything: this may run
        in a garbage collection, anywhere."""
        self.closed = True
        watch, self._watch = self._watch, None
        if watch is not None:
            self.io.client.driver.defer(watch.abandon)
        if self.parent is not None:
            self.parent.abandon()

    async def _lookup_name(self) -> str:
        data = await self.io.call(
            cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_name", len(self.id).to_bytes(4, "little") + self.id.encode()
        )
        return cls_rbd.decode_string(data)

    async def refresh(self, depth: int = 0) -> None:
        """Reads the header again."""
        self.stale = False
        try:
            reply = await self.io.operate(self.header_oid, cls_rbd.header_operation())
        except rados.ObjectNotFound:
            raise ImageNotFound(f"error opening image {self.name or self.id}: no header", errno.ENOENT) from None
        except BaseException:
            self.stale = True
            raise
        raw = RawHeader.from_outputs([o.data if o.rval >= 0 else b"" for o in reply.ops])
        features.check_readable(raw.features, self.name or self.id)
        snaps = await self._read_snapshots(raw.snap_ids)
        self.header = Header(raw, snaps, SnapContext(raw.snap_seq, raw.snap_ids))
        self.layout = Layout(raw.order, raw.stripe_unit, raw.stripe_count)
        if raw.data_pool_id != -1 and self.data_io.pool_id != raw.data_pool_id:
            self.data_io = self.io.with_pool(raw.data_pool_id)
        if self.snap_id != NOSNAP:
            self.snap = self._find_snapshot(self.snap_id)
        await self._refresh_parent(depth)

    async def _read_snapshots(self, ids: tuple[int, ...]) -> tuple[Snap, ...]:
        found: list[Snap] = []
        ordered = tuple(sorted(ids))
        for at in range(0, len(ordered), _SNAPS_PER_REQUEST):
            part = ordered[at : at + _SNAPS_PER_REQUEST]
            reply = await self.io.operate(self.header_oid, cls_rbd.snapshots_operation(part))
            for i in range(len(part)):
                info, overlap, flags, protection = reply.ops[4 * i : 4 * i + 4]
                found.append(
                    Snap(
                        SnapshotInfo.from_bytes(info.data),
                        Decoder(flags.data).u64() if flags.data else 0,
                        cls_rbd.decode_optional_u64(Decoder(overlap.data)) if overlap.data else None,
                        protection.data[:1] == bytes([cls_rbd.PROTECTION_STATUS_PROTECTED]),
                    )
                )
        return tuple(found)

    def _find_snapshot(self, snapshot: str | int) -> Snap:
        for s in self.header.snaps:
            if isinstance(snapshot, int):
                if s.info.id == snapshot:
                    return s
            elif s.info.name == snapshot and s.info.namespace.type == cls_rbd.SNAP_NAMESPACE_USER:
                return s
        raise ImageNotFound(f"image {self.name} has no snapshot {snapshot!r}", errno.ENOENT)

    async def _set_snapshot(self, snapshot: str | int, depth: int) -> None:
        self.snap = self._find_snapshot(snapshot)
        self.snap_id = self.snap.info.id
        await self._refresh_parent(depth)

    async def _refresh_parent(self, depth: int) -> None:
        """Opens or closes the parent, as the head or the snapshot wants it."""
        spec = self.header.parent
        overlap = self.header.raw.parent_overlap if self.snap is None else self.snap.parent_overlap
        self.overlap = overlap or 0
        wanted = spec if spec is not None and self.overlap else None
        if self.parent is not None and (wanted is None or self.parent.id != wanted.image_id):
            parent, self.parent = self.parent, None
            await parent.close()
        if wanted is not None and self.parent is None:
            if depth >= MAX_PARENTS:
                raise FunctionNotSupported(f"image {self.name} has more than {MAX_PARENTS} ancestors", errno.ENOSYS)
            io = self.io.with_pool(wanted.pool_id).with_namespace(wanted.pool_namespace)
            self.parent = await Image.open(
                io, image_id=wanted.image_id, snapshot=wanted.snap_id, read_only=True, depth=depth + 1
            )

    # ------------------------------------------------------------ watching the header

    async def _register_watch(self) -> None:
        try:
            self._watch = await self.io.watch(self.header_oid, self._on_notify, self._on_watch_error)
        except rados.ObjectNotFound:
            raise ImageNotFound(f"error opening image {self.name or self.id}: no header", errno.ENOENT) from None
        except (rados.PermissionError, rados.PermissionDeniedError):
            # a client that may only read; librbd then opens read-only images only
            raise ReadOnlyImage(
                f"image {self.name or self.id}: this client may not write; open it read-only", errno.EROFS
            ) from None

    def _on_notify(self, notify_id: int, cookie: int, gid: int, payload: bytes) -> bytes | None:
        self.stale = True
        return None

    def _on_watch_error(self, error: rados.Error) -> None:
        self._watch = None
        self.stale = True

    async def header_changed(self) -> None:
        """We changed the header: reads it again, and tells the others."""
        await self.refresh()
        try:
            await self.io.notify(self.header_oid, _HEADER_UPDATE)
        except (rados.TimedOut, rados.ObjectNotFound) as e:
            _log.info("%r: not all watchers heard of the change: %s", self, e)

    async def watchers(self) -> list[WatchItem]:
        """Who watches the header, without ourselves."""
        reply = await self.io.operate(self.header_oid, ObjectOperation().list_watchers())
        own = self._watch.cookie if self._watch is not None else None
        gid = self.io.client.global_id
        entries = ListWatchResponse.from_bytes(reply.ops[0].data).entries
        return [w for w in entries if not (w.cookie == own and w.name.num == gid)]

    async def current(self) -> None:
        """Refreshes the header if somebody said that it has changed."""
        if self.stale:
            await self.refresh()

    async def prepare_write(self) -> None:
        """Everything that has to hold before a byte is written.

        Raises:
            ReadOnlyImage, FunctionNotSupported.
        """
        if self.read_only:
            raise ReadOnlyImage(f"image {self.name} was opened read-only", errno.EROFS)
        features.check_writable(self.header.features, self.name)
        if self._watch is None:
            await self._register_watch()
            self.stale = True
        if self.stale:
            await self.refresh()
            features.check_writable(self.header.features, self.name)
        if self.parent is not None:
            raise FunctionNotSupported(
                f"image {self.name} is a clone: pyrbd does not yet write to images with a parent (copy-up)",
                errno.ENOSYS,
            )

    # ------------------------------------------------------------ sizes and names

    @property
    def size(self) -> int:
        """Of the head, or of the snapshot that is open."""
        return self.header.size if self.snap is None else self.snap.info.image_size

    def object_name(self, object_no: int) -> str:
        return object_name(self.header.raw.object_prefix, object_no)

    def clip(self, offset: int, length: int) -> int:
        """io::util::clip_request: how much of an extent is in the image.

        Raises:
            InvalidArgument: it begins beyond the end.
        """
        if offset < 0 or length < 0 or offset + length >= 1 << 64:
            raise OutOfRangeArgument(f"offset {offset}, length {length}", errno.EINVAL)
        if not length:
            return 0
        size = self.size
        if offset >= size:
            raise InvalidArgument(f"offset {offset} is beyond the end of image {self.name}, {size}", errno.EINVAL)
        return min(length, size - offset)

    # ------------------------------------------------------------ reading

    async def read(self, offset: int, length: int, op_flags: int = 0) -> bytes:
        """Up to `length` bytes, fewer only at the image's end; what was never written is zero."""
        await self.current()
        length = self.clip(offset, length)
        if not length:
            return b""
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
        await self._read_into(offset, buffer.view, op_flags)
        return buffer.take()

    async def read_into(self, offset: int, buffer: memoryview, op_flags: int = 0) -> int:
        """Reads as much as `buffer` holds; gives the number of bytes, fewer at the end."""
        await self.current()
        length = self.clip(offset, len(buffer))
        if length:
            await self._read_into(offset, buffer[:length], op_flags)
        return length

    def submit_read_one(self, object_no: int, offset: int, length: int, op_flags: int = 0) -> Completion[Any]:
        """Sends the read of a piece of one object."""
        return self.data_io.submit_read(
            self.object_name(object_no), offset, length, snapid=self.snap_id, op_flags=op_flags
        )

    async def missing(self, object_no: int, offset: int, length: int) -> bytes:
        """What an image shows where an object is not there: the parent's data, or zeroes."""
        if self.parent is None:
            return bytes(length)
        buffer = bytearray(length)
        await self._read_parent(ObjectExtent(object_no, offset, length, 0), memoryview(buffer))
        return bytes(buffer)

    async def _read_into(self, offset: int, view: memoryview, op_flags: int) -> None:
        pending: deque[tuple[ObjectExtent, Op]] = deque()
        io, snap_id = self.data_io, self.snap_id
        window = self._window()
        try:
            for extent in self.layout.map(offset, len(view)):
                if len(pending) >= window:
                    await self._received(*pending[0], view)
                    pending.popleft()
                at = extent.buffer_offset
                into = view[at : at + extent.length]
                name = self.object_name(extent.object_no)
                c = io.submit_read(name, extent.offset, extent.length, snapid=snap_id, into=into, op_flags=op_flags)
                pending.append((extent, c))
            while pending:
                await self._received(*pending[0], view)
                pending.popleft()
        except BaseException as e:
            # nothing may write into the buffer after we have given up
            error = rados.make_ex(-errno.ECANCELED, "the read was given up")
            for _, c in pending:
                io.client.objecter.cancel(c, error)
            raise e

    def _window(self) -> int:
        """How many object requests of one call to have in flight."""
        return max(2, min(WINDOW, WINDOW_BYTES // self.layout.object_size))

    async def _received(self, extent: ObjectExtent, completion: Completion[Any], view: memoryview) -> None:
        """Waits for one piece; fills what the object does not have."""
        at, end = extent.buffer_offset, extent.buffer_offset + extent.length
        try:
            got: int = await completion
        except rados.ObjectNotFound:
            if self.parent is not None:
                await self._read_parent(extent, view[at:end])
                return
            got = 0
        if got < extent.length:
            view[at + got : end] = bytes(extent.length - got)

    async def _read_parent(self, extent: ObjectExtent, view: memoryview) -> None:
        """Reads what a missing object shows from the parent, as far as it overlaps."""
        assert self.parent is not None
        at = 0
        for offset, length in self.layout.unmap(extent.object_no, extent.offset, extent.length):
            n = max(0, min(length, min(self.overlap, self.parent.size) - offset))
            if n:
                await self.parent.read_into(offset, view[at : at + n])
            view[at + n : at + length] = bytes(length - n)
            at += length

    # ------------------------------------------------------------ writing

    async def write(self, offset: int, data: memoryview, op_flags: int = 0) -> int:
        """Writes; the data is safe on all replicas when this returns.

        Returns the bytes written: fewer than given only where the image ends.
        """
        await self.prepare_write()
        length = self.clip(offset, len(data))
        if not length:
            return 0
        io, snapc = self.data_io, self.header.snap_context
        async with _Window(self) as window:
            for extent in self.layout.map(offset, length):
                await window.room()
                piece = data[extent.buffer_offset : extent.buffer_offset + extent.length]
                name = self.object_name(extent.object_no)
                window.add(io.submit_write(name, extent.offset, piece, snapc=snapc, op_flags=op_flags))
        return length

    async def flush(self) -> None:
        """Nothing waits here: a write that has returned is on the OSDs."""

    async def discard(self, offset: int, length: int) -> int:
        """Gives space back; the range then reads as zeroes, where it was really discarded.

        As librbd does by default (`rbd_skip_partial_discard`), the part of each object is
        narrowed to multiples of `rbd_discard_granularity_bytes`; what is left over keeps its data.
        """
        await self.prepare_write()
        length = self.clip(offset, length)
        if length:
            granularity = self.io.client.config.get_int("rbd_discard_granularity_bytes")
            if not self.io.client.config.get_bool("rbd_skip_partial_discard"):
                granularity = 0
            await self._zero(offset, length, granularity)
        return length

    async def write_zeroes(self, offset: int, length: int) -> int:
        """Makes a range read as zeroes, exactly."""
        await self.prepare_write()
        length = self.clip(offset, length)
        if length:
            await self._zero(offset, length, 0)
        return length

    async def _zero(self, offset: int, length: int, granularity: int) -> None:
        object_size = self.layout.object_size
        snapc = self.header.snap_context
        async with _Window(self) as window:
            for extent in _coalesce(self.layout, offset, length):
                start, end = extent.offset, extent.offset + extent.length
                if granularity >= object_size:
                    if end != object_size:
                        continue
                elif granularity:
                    start = -(-start // granularity) * granularity
                    end = end // granularity * granularity
                    if start >= end:
                        continue
                op = ObjectOperation()
                if start == 0 and end == object_size:
                    op.remove()
                elif end == object_size:
                    op.truncate(start)
                else:
                    op.zero(start, end - start)
                await window.room()
                window.add(self.data_io.submit(self.object_name(extent.object_no), op, snapc=snapc))


class _Window:
    """Requests of one call in flight: at the end, or after an error, none is left."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._size = image._window()
        self._pending: deque[Completion[Any]] = deque()

    async def __aenter__(self) -> _Window:
        return self

    def add(self, completion: Completion[Any]) -> None:
        self._pending.append(completion)

    async def room(self) -> None:
        """Waits until another request may be sent."""
        if len(self._pending) >= self._size:
            await self._next()

    async def _next(self) -> None:
        try:
            await self._pending[0]
        except rados.ObjectNotFound:
            pass  # a discard of what is not there
        self._pending.popleft()

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            while error is None and self._pending:
                await self._next()
        finally:
            given_up = rados.make_ex(-errno.ECANCELED, "given up after another request of the same call failed")
            for c in self._pending:
                self._image.io.client.objecter.cancel(c, given_up)  # type: ignore[arg-type]


def _coalesce(layout: Layout, offset: int, length: int) -> list[ObjectExtent]:
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


# librbd::watch_notify::NotifyMessage of NOTIFY_OP_HEADER_UPDATE
_HEADER_UPDATE = bytes.fromhex("07010400000003000000")
