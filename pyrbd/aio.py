"""pyrbd on asyncio: the same operations, from the same core, on the running event loop.

    async with aio.Rados(conffile="/etc/ceph/ceph.conf") as cluster:
        ioctx = await cluster.open_ioctx("rbd")
        await aio.RBD().create(ioctx, "myimage", 4 * 1024**3)
        async with aio.Image(ioctx, "myimage") as image:
            await image.write(b"foo" * 200, 0)
            parts = await asyncio.gather(*(image.read(i * 4096, 4096) for i in range(16)))

No thread is started. Objects belong to the loop on which they were connected. Names,
arguments, results and exceptions are those of `pyrbd.rados` and `pyrbd.rbd`.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeVar

from .image.errors import InvalidArgument
from .image.image import Image as Core
from .msgr.types import HObject, ListedObject
from .rados import ClusterHandle, requests
from .rados import exceptions as _rados
from .rados.aiodriver import AsyncioDriver
from .rados.client import Client
from .rados.ioctx import LIBRADOS_OPERATION_NOFLAG, IoctxBase, osd_flags
from .rados.opctx import ReadOp, WriteOp
from .rados.requests import Request, data_of, number, text, writable
from .rados.watch import UserWatch, decode_acks
from .rbd import image_calls, lock_calls, metadata_calls, pool_calls, snapshot_calls, unsupported
from .rbd.arguments import doing, optional_text
from .rbd.pool_calls import RBDBase, io_of
from .rbd.properties import ImageBase

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    from .msgr.messages import MWatchNotify
    from .rados.monclient import CommandReply
    from .rados.watch import Watch as _Watch

    P = ParamSpec("P")

T = TypeVar("T")

__all__ = ["RBD", "Image", "Ioctx", "Rados", "Watch"]


class Rados(ClusterHandle):
    """A connection to a cluster; an asynchronous context manager."""

    async def __aenter__(self) -> Rados:
        await self.connect()
        return self

    async def __aexit__(self, *args: object) -> Literal[False]:
        await self.shutdown()
        return False

    async def connect(self, timeout: float = 0) -> None:
        """Connects, from the running loop; see `rados.Rados.connect`."""
        self.require_state("configuring")
        client = self._client = Client(self._config, AsyncioDriver())
        try:
            await client.connect(timeout or None)
        except BaseException:
            self._client = None
            client.shutdown()
            raise

    async def shutdown(self) -> None:
        """Disconnects; what is in flight fails with ConnectionShutdown. What was written to images that are open is
        stored before."""
        self._shutdown = True
        client = self._client
        if client is not None:
            if client.caches and client.state == "connected" and not client.forked:
                await client.store()
            client.shutdown()

    async def mon_command(
        self, cmd: str, inbuf: bytes = b"", timeout: float = 0, target: str | int | None = None
    ) -> tuple[int, bytes, str]:
        """Runs a command of the monitors; (return code, output, a line for people). See
        `rados.Rados.mon_command`."""
        self.require_state("connected")
        one = None if target is None else str(target)
        return await _command(self.client.mon_command(text(cmd, "cmd"), inbuf, timeout or None, one))

    async def mgr_command(
        self, cmd: str, inbuf: bytes = b"", timeout: float = 0, target: str | None = None
    ) -> tuple[int, bytes, str]:
        """Runs a command of the mgr."""
        self.require_state("connected")
        return await _command(self.client.mgr_command(text(cmd, "cmd"), inbuf, timeout or None, target))

    async def osd_command(self, osdid: int, cmd: str, inbuf: bytes = b"", timeout: float = 0) -> tuple[int, bytes, str]:
        """Runs a command of an OSD."""
        self.require_state("connected")
        return await _command(self.client.osd_command(osdid, text(cmd, "cmd"), inbuf, timeout or None))

    async def pg_command(self, pgid: str, cmd: str, inbuf: bytes = b"", timeout: float = 0) -> tuple[int, bytes, str]:
        """Runs a command of the primary OSD of a placement group."""
        self.require_state("connected")
        return await _command(self.client.pg_command(text(pgid, "pgid"), text(cmd, "cmd"), inbuf, timeout or None))

    async def pool_lookup(self, pool_name: str) -> int | None:
        """The number of a pool, or None."""
        self.require_state("connected")
        try:
            return await self.client.lookup_pool(text(pool_name, "pool_name"))
        except _rados.ObjectNotFound:
            return None

    async def create_pool(self, pool_name: str, crush_rule: int | None = None) -> None:
        """Creates a replicated pool. ObjectExists if there is one of that name."""
        self.require_state("connected")
        await self.client.create_pool(text(pool_name, "pool_name"), -1 if crush_rule is None else crush_rule)

    async def delete_pool(self, pool_name: str) -> None:
        """Deletes a pool and all that is in it."""
        self.require_state("connected")
        await self.client.delete_pool(text(pool_name, "pool_name"))

    async def get_cluster_stats(self) -> dict[str, int]:
        """{kb, kb_used, kb_avail, num_objects}."""
        self.require_state("connected")
        return await self.client.cluster_stats()

    async def blocklist_add(self, client_address: str, expire_seconds: int = 0) -> None:
        """Refuses all requests from an address from now on."""
        self.require_state("connected")
        await self.client.blocklist_add(text(client_address, "client_address"), expire_seconds)

    async def wait_for_latest_osdmap(self) -> int:
        self.require_state("connected")
        return await self.client.wait_for_latest_osdmap()

    async def open_ioctx(self, ioctx_name: str) -> Ioctx:
        """Opens a pool by name. ObjectNotFound if there is none."""
        self.require_state("connected")
        name = text(ioctx_name, "ioctx_name")
        return Ioctx(self, await self.client.lookup_pool(name), name)


async def _command(coro: Coroutine[Any, Any, CommandReply]) -> tuple[int, bytes, str]:
    try:
        reply = await coro
    except _rados.TimedOut as e:
        return -errno.ETIMEDOUT, b"", str(e)
    return reply.result, reply.output, reply.status


def awaiting(build: Callable[Concatenate[IoctxBase, P], Request[T]]) -> Callable[Concatenate[Ioctx, P], Awaitable[T]]:
    """The method of `Ioctx` that sends the request and awaits its result."""

    @wraps(build)
    async def method(self: Ioctx, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.perform(build(self, *args, **kwargs))

    return method


class Ioctx(IoctxBase):
    """A pool to read and write objects in; see `rados.Ioctx`. Made by `Rados.open_ioctx`.

    Cancelling a task that awaits a write leaves open whether it is done: it was sent already,
    and the OSD does it or does not, once; writes of the same object that are sent later come
    after it. The client is as usable as before.
    """

    def dup(self) -> Ioctx:
        """Another handle of the same pool, with the same namespace and locator."""
        self.require_ioctx_open()
        other = Ioctx(self.rados, self._io.pool_id, self.name)
        self._copy_settings(other)
        return other

    async def perform(self, request: Request[T], *, flags: int = 0, mtime: float = 0) -> T:
        """Sends a request and awaits its result."""
        pending = self.submit(request, flags=flags, mtime=mtime)
        try:
            await pending
        except _rados.Error:
            pass
        self._last_version = pending.user_version
        return self.outcome(request, pending)

    read = awaiting(requests.read)
    sparse_read = awaiting(requests.sparse_read)
    write = awaiting(requests.write)
    write_full = awaiting(requests.write_full)
    writesame = awaiting(requests.writesame)
    append = awaiting(requests.append)
    trunc = awaiting(requests.trunc)
    zero = awaiting(requests.zero)
    remove_object = awaiting(requests.remove_object)
    cmpext = awaiting(requests.cmpext)
    checksum = awaiting(requests.checksum)
    stat = awaiting(requests.stat)
    execute = awaiting(requests.execute)
    get_xattr = awaiting(requests.get_xattr)
    get_xattrs = awaiting(requests.get_xattrs)
    set_xattr = awaiting(requests.set_xattr)
    rm_xattr = awaiting(requests.rm_xattr)
    list_object_snaps = awaiting(requests.list_object_snaps)
    snap_rollback = awaiting(requests.snap_rollback)
    rollback_self_managed_snap = awaiting(requests.rollback_self_managed_snap)
    lock_exclusive = awaiting(requests.lock_exclusive)
    lock_shared = awaiting(requests.lock_shared)
    unlock = awaiting(requests.unlock)
    break_lock = awaiting(requests.break_lock)
    list_lockers = awaiting(requests.list_lockers)

    async def read_into(self, key: str, buffer: Any, offset: int = 0) -> int:
        """Reads into `buffer`, any writable bytes-like object; gives how many bytes there were.
        The buffer must be left alone until then, also by who cancels."""
        self.require_ioctx_open()
        view = writable(buffer)
        if not len(view):
            return 0
        offset = number(offset, "offset")
        pending = self._io.submit_read(text(key, "key"), offset, len(view), snapid=self._snap_read, into=view)
        n: int = await pending
        self._last_version = pending.user_version
        return n

    async def operate_write_op(
        self, write_op: WriteOp, oid: str, mtime: float = 0, flags: int = LIBRADOS_OPERATION_NOFLAG
    ) -> None:
        """Does the operations of `write_op`, which is empty afterwards."""
        request = self._write_request(write_op, oid)
        self._require_present(request)
        if request.operation.ops:
            await self.perform(request, flags=osd_flags(flags), mtime=mtime)

    async def operate_read_op(self, read_op: ReadOp, oid: str, flag: int = LIBRADOS_OPERATION_NOFLAG) -> None:
        """Does the operations of `read_op`, which is empty afterwards; its iterators are filled."""
        request = self._read_request(read_op, oid)
        if request.operation.ops:
            await self.perform(request, flags=osd_flags(flag))

    async def list_objects(self) -> AsyncIterator[ListedObject]:
        """All objects of the namespace, or of all, as entries with `nspace`, `oid`, `locator`."""
        self.require_ioctx_open()
        io, cursor = self._io, HObject()
        while not cursor.max:
            page = await io.list_page(cursor)
            cursor = page.handle
            for entry in page.entries:
                yield entry

    async def watch(
        self,
        obj: str,
        callback: Callable[[int, int, int, bytes], Any],
        error_callback: Callable[[int, int], Any] | None = None,
        timeout: int | None = None,
    ) -> Watch:
        """Watches an object until `Watch.close`; see `rados.Ioctx.watch`. The callbacks may be
        coroutine functions; their results go back to the notifier."""
        self.require_ioctx_open()
        io = self._io.with_namespace(self._io.namespace)
        watch = Watch(self.dup(), io, text(obj, "obj"), callback, error_callback)
        await watch.open(timeout or 0)
        return watch

    async def notify(self, obj: str, msg: str | bytes = "", timeout_ms: int = 5000) -> list[tuple[int, int, bytes]]:
        """Tells all watchers of an object and waits for their answers: [(client id, watch id,
        answer)]. TimedOut when one has not answered in time."""
        self.require_ioctx_open()
        payload = msg.encode() if isinstance(msg, str) else bytes(data_of(msg, "msg"))
        acks, _ = decode_acks(await self._io.notify(text(obj, "obj"), payload, timeout_ms))
        return acks

    async def create_snap(self, snap_name: str) -> None:
        """Makes a snapshot of the whole pool."""
        self.require_ioctx_open()
        await self._client.create_pool_snap(self._io.pool_id, text(snap_name, "snap_name"))

    async def remove_snap(self, snap_name: str) -> None:
        """Removes a snapshot of the whole pool."""
        self.require_ioctx_open()
        await self._client.remove_pool_snap(self._io.pool_id, text(snap_name, "snap_name"))

    async def create_self_managed_snap(self) -> int:
        """A new snapshot id; give it to `set_self_managed_snap_write`."""
        self.require_ioctx_open()
        return await self._client.create_selfmanaged_snap(self._io.pool_id)

    async def remove_self_managed_snap(self, snap_id: int) -> None:
        """Gives a snapshot id back; the OSDs remove what only it kept."""
        self.require_ioctx_open()
        await self._client.remove_selfmanaged_snap(self._io.pool_id, snap_id)

    async def get_stats(self) -> dict[str, int]:
        """The pool's usage; see `rados.Ioctx.get_stats`."""
        self.require_ioctx_open()
        return await self._client.pool_stats(self._io.pool_id)

    async def application_enable(self, app_name: str, force: bool = False) -> None:
        """Marks the pool as used by an application, such as ``rbd``."""
        args = {"app": text(app_name, "app_name")} | ({"yes_i_really_mean_it": True} if force else {})
        await self._client.pool_application(self.get_pool_name(), "enable", args, "error enabling application")


class Watch(UserWatch):
    """A watch of :meth:`Ioctx.watch`; an asynchronous context manager."""

    def __enter__(self) -> NoReturn:
        raise TypeError("use async with")

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *args: object) -> Literal[False]:
        await self.close()
        return False

    def _notified(self, arguments: tuple[_Watch, MWatchNotify]) -> None:
        watch, message = arguments

        async def answer() -> None:
            value = None
            try:
                value = self._call(message)
                if isinstance(value, Awaitable):
                    value = await value
            finally:
                self._answer(watch, message, value)

        self._client.spawn(answer())

    async def close(self) -> None:  # type: ignore[override]
        """Ends the watch."""
        await self.unwatch()


class RBD(RBDBase):
    """What concerns the images of a pool; see `rbd.RBD`. What is an iterator there is a list here."""

    _ioctx_type: ClassVar[type[IoctxBase]] = Ioctx

    create = pool_calls.create
    clone = pool_calls.clone
    list = pool_calls.list
    list2 = pool_calls.list2
    remove = pool_calls.remove
    rename = pool_calls.rename
    trash_move = pool_calls.trash_move
    trash_purge = pool_calls.trash_purge
    trash_remove = pool_calls.trash_remove
    trash_get = pool_calls.trash_get
    trash_list = pool_calls.trash_list
    trash_restore = pool_calls.trash_restore
    namespace_create = pool_calls.namespace_create
    namespace_remove = pool_calls.namespace_remove
    namespace_exists = pool_calls.namespace_exists
    namespace_list = pool_calls.namespace_list
    pool_metadata_get = pool_calls.pool_metadata_get
    pool_metadata_set = pool_calls.pool_metadata_set
    pool_metadata_remove = pool_calls.pool_metadata_remove
    pool_metadata_list = pool_calls.pool_metadata_list
    config_get = pool_calls.config_get
    config_set = pool_calls.config_set
    config_remove = pool_calls.config_remove
    config_list = pool_calls.config_list
    pool_init = pool_calls.pool_init
    pool_stats_get = pool_calls.pool_stats_get


class Image(ImageBase):
    """An image; opened by ``async with`` or :meth:`open`. See `rbd.Image` for arguments. What is an iterator
    there is a list here.

    What the methods of :class:`ImageBase` say, those that are not awaited, is of the header as it was when the
    last other operation looked at it; :meth:`refresh` reads it again.
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
        self._in_flight = set()
        name, image_id = optional_text(name, "name"), optional_text(image_id, "image_id")
        snapshot = optional_text(snapshot, "snapshot")
        if (name is None) == (image_id is None):
            raise InvalidArgument("one of name and image_id must be given", errno.EINVAL)
        self.name = name or image_id or ""
        io = io_of(ioctx, Ioctx)
        self.ioctx = ioctx
        self._client = io.client
        self._arguments = (io, name, image_id, snapshot or None, bool(read_only))

    async def open(self) -> Image:
        """Opens the image; returns it."""
        io, name, image_id, snapshot, read_only = self._arguments
        with doing(f"error opening image {self.name} at snapshot {snapshot}"):
            self._core = await Core.open(io, name, image_id=image_id, snapshot=snapshot, read_only=read_only)
        self.name = self._core.name
        self.closed = False
        return self

    async def __aenter__(self) -> Image:
        return await self.open()

    async def __aexit__(self, *args: object) -> Literal[False]:
        await self.close()
        return False

    async def close(self) -> None:
        """Closes the image; further calls do nothing."""
        if not self.closed:
            self.closed = True
            if not self._client.closed:
                with doing(f"error while closing image {self.name}"):
                    await self._core.close()

    async def refresh(self) -> None:
        """Reads the header again."""
        core = self._open()
        with doing(f"error refreshing image {self.name}"):
            await core.refresh()

    read = image_calls.read
    read_into = image_calls.read_into
    write = image_calls.write
    compare_and_write = image_calls.compare_and_write
    discard = image_calls.discard
    write_zeroes = image_calls.write_zeroes
    flush = image_calls.flush
    invalidate_cache = image_calls.invalidate_cache
    resize = image_calls.resize
    flatten = image_calls.flatten
    sparsify = image_calls.sparsify
    rebuild_object_map = image_calls.rebuild_object_map
    diff_iterate = image_calls.diff_iterate
    copy = image_calls.copy
    deep_copy = image_calls.deep_copy
    update_features = image_calls.update_features
    group = image_calls.group
    get_parent_image_spec = image_calls.get_parent_image_spec
    list_children = image_calls.list_children
    list_children2 = image_calls.list_children2
    list_descendants = image_calls.list_descendants
    watchers_list = image_calls.watchers_list
    create_snap = snapshot_calls.create_snap
    remove_snap = snapshot_calls.remove_snap
    remove_snap2 = snapshot_calls.remove_snap2
    remove_snap_by_id = snapshot_calls.remove_snap_by_id
    rename_snap = snapshot_calls.rename_snap
    protect_snap = snapshot_calls.protect_snap
    unprotect_snap = snapshot_calls.unprotect_snap
    rollback_to_snap = snapshot_calls.rollback_to_snap
    set_snap = snapshot_calls.set_snap
    set_snap_by_id = snapshot_calls.set_snap_by_id
    get_snap_limit = snapshot_calls.get_snap_limit
    set_snap_limit = snapshot_calls.set_snap_limit
    remove_snap_limit = snapshot_calls.remove_snap_limit
    snap_get_group_namespace = snapshot_calls.snap_get_group_namespace
    snap_get_trash_namespace = snapshot_calls.snap_get_trash_namespace
    snap_get_mirror_namespace = snapshot_calls.snap_get_mirror_namespace
    list_snaps = snapshot_calls.list_snaps
    is_exclusive_lock_owner = lock_calls.is_exclusive_lock_owner
    lock_acquire = lock_calls.lock_acquire
    lock_release = lock_calls.lock_release
    lock_break = lock_calls.lock_break
    lock_get_owners = lock_calls.lock_get_owners
    list_lockers = lock_calls.list_lockers
    lock_exclusive = lock_calls.lock_exclusive
    lock_shared = lock_calls.lock_shared
    unlock = lock_calls.unlock
    break_lock = lock_calls.break_lock
    metadata_get = metadata_calls.metadata_get
    metadata_set = metadata_calls.metadata_set
    metadata_remove = metadata_calls.metadata_remove
    metadata_list = metadata_calls.metadata_list
    config_get = metadata_calls.config_get
    config_set = metadata_calls.config_set
    config_remove = metadata_calls.config_remove
    config_list = metadata_calls.config_list


unsupported.refuse(RBD, unsupported.RBD_METHODS)
unsupported.refuse(Image, unsupported.IMAGE_METHODS)
