"""`Ioctx`: a pool, a namespace, a locator and snapshots, to read and write objects in.

:class:`IoctxBase` is what both front doors share: the settings, what the map says of the
pool, and how a request (:mod:`pyrbd.rados.requests`) is sent. :class:`Ioctx` waits for it in
the caller's thread.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import DecodeError
from ..msgr.osdop import (
    FLAG_BALANCE_READS,
    FLAG_FULL_FORCE,
    FLAG_FULL_TRY,
    FLAG_IGNORE_CACHE,
    FLAG_IGNORE_OVERLAY,
    FLAG_IGNORE_REDIRECT,
    FLAG_LOCALIZE_READS,
    FLAG_ORDERSNAP,
    FLAG_RETURNVEC,
    FLAG_RWORDERED,
    FLAG_SKIPRWLOCKS,
    NOSNAP,
)
from . import requests
from .aiocompletion import Completion
from .completion import Event
from .exceptions import (
    ConnectionShutdown,
    Error,
    InvalidArgumentError,
    IoctxStateError,
    ObjectNotFound,
    TimedOut,
    make_ex,
)
from .io import IoContext
from .objects import ObjectIterator, Snap, SnapIterator
from .op import Op
from .opctx import OmapOps, ReadOp, WriteOp, checked_op
from .operations import OpReply
from .requests import MAX_DATA, MAX_U64, Request, data_of, int32, number, seconds, text, writable
from .target import EMPTY_SNAPC, SnapContext
from .watch import UserWatch as Watch

if TYPE_CHECKING:
    import time
    from typing import Concatenate

    from typing_extensions import ParamSpec

    from ..osdmap.pool import PgPool, PoolSnap
    from .client import Client
    from .cluster import ClusterHandle
    from .completion import Completion as Pending

    P = ParamSpec("P")

T = TypeVar("T")

LIBRADOS_SNAP_HEAD = NOSNAP
LIBRADOS_ALL_NSPACES = "\001"

LIBRADOS_OPERATION_NOFLAG = 0
LIBRADOS_OPERATION_BALANCE_READS = 1
LIBRADOS_OPERATION_LOCALIZE_READS = 2
LIBRADOS_OPERATION_ORDER_READS_WRITES = 4
LIBRADOS_OPERATION_IGNORE_CACHE = 8
LIBRADOS_OPERATION_SKIPRWLOCKS = 16
LIBRADOS_OPERATION_IGNORE_OVERLAY = 32
LIBRADOS_OPERATION_FULL_TRY = 64
LIBRADOS_OPERATION_FULL_FORCE = 128
LIBRADOS_OPERATION_IGNORE_REDIRECT = 256
LIBRADOS_OPERATION_ORDERSNAP = 512
LIBRADOS_OPERATION_RETURNVEC = 1024

_OPERATION_FLAGS = (
    FLAG_BALANCE_READS,
    FLAG_LOCALIZE_READS,
    FLAG_RWORDERED,
    FLAG_IGNORE_CACHE,
    FLAG_SKIPRWLOCKS,
    FLAG_IGNORE_OVERLAY,
    FLAG_FULL_TRY,
    FLAG_FULL_FORCE,
    FLAG_IGNORE_REDIRECT,
    FLAG_ORDERSNAP,
    FLAG_RETURNVEC,
)


def osd_flags(flags: int) -> int:
    """CEPH_OSD_FLAG_* for ``LIBRADOS_OPERATION_*``."""
    flags = int32(flags, "flags")
    return sum(osd for bit, osd in enumerate(_OPERATION_FLAGS) if flags >> bit & 1)


def blocking(
    build: Callable[Concatenate[IoctxBase, P], Request[T]],
) -> Callable[Concatenate[Ioctx, P], T]:
    """The method of `Ioctx` that sends the request and waits in the caller's thread."""

    @wraps(build)
    def method(self: Ioctx, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.perform(build(self, *args, **kwargs))

    return method


class IoctxBase(OmapOps):
    """What the ioctx of both front doors share."""

    def __init__(self, rados: ClusterHandle, pool_id: int, name: str) -> None:
        self.rados = rados
        self.name = name
        self.state = "open"
        self.locator_key = ""
        self.nspace = ""
        self._client: Client = rados.client
        self._io = IoContext(self._client, pool_id)
        self._snap_read = NOSNAP
        self._snapc = EMPTY_SNAPC
        self._last_version = 0

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.name!r} {self.state}>"

    def close(self) -> None:
        """Closes; further calls raise IoctxStateError."""
        self.state = "closed"

    def require_ioctx_open(self) -> None:
        """Raises IoctxStateError when closed."""
        if self.state != "open":
            raise IoctxStateError(f"The pool is {self.state}")

    def _copy_settings(self, other: IoctxBase) -> None:
        other.nspace, other.locator_key = self.nspace, self.locator_key
        other._io = self._io.with_namespace(self._io.namespace)

    # ------------------------------------------------------------ where, and in which snapshot

    def get_pool_id(self) -> int:
        self.require_ioctx_open()
        return self._io.pool_id

    def get_pool_name(self) -> str:
        self.require_ioctx_open()
        return self._client.osdmap.pool_names.get(self._io.pool_id, self.name)

    def set_namespace(self, nspace: str | None) -> None:
        """Objects are those of this namespace from now on: "" is the default one, and
        LIBRADOS_ALL_NSPACES all of them, for listing."""
        self.require_ioctx_open()
        self.nspace = text(nspace, "nspace", opt=True)
        self._io = self._io.with_namespace(self.nspace)

    def get_namespace(self) -> str:
        return self.nspace

    def set_locator_key(self, loc_key: str) -> None:
        """Objects are placed by this key instead of their names from now on; "" for names."""
        self.require_ioctx_open()
        self.locator_key = text(loc_key, "loc_key")
        self._io = self._io.with_key(self.locator_key)

    def get_locator_key(self) -> str:
        return self.locator_key

    def set_read(self, snap_id: int) -> None:
        """Reads are from this snapshot from now on, LIBRADOS_SNAP_HEAD for the present.
        Writes are refused (EROFS) while it is a snapshot."""
        self.require_ioctx_open()
        self._snap_read = number(snap_id, "snap_id")

    def set_self_managed_snap_write(self, snaps: Iterable[int | str] | None) -> None:
        """Writes preserve these snapshots from now on."""
        self.require_ioctx_open()
        ids = sorted({number(int(s), "snapshot id") for s in snaps or ()}, reverse=True)
        if ids and (ids[-1] < 1 or ids[0] >= NOSNAP - 1):
            raise InvalidArgumentError(f"snapshot ids {ids}", errno.EINVAL)
        self._snapc = SnapContext(ids[0], tuple(ids)) if ids else EMPTY_SNAPC

    def set_osdmap_full_try(self) -> None:
        """Writes are sent although cluster or pool are full: deletions may pass, others fail."""
        self._io.flags |= FLAG_FULL_TRY

    def unset_osdmap_full_try(self) -> None:
        """Writes wait while cluster or pool are full."""
        self._io.flags &= ~FLAG_FULL_TRY

    def get_last_version(self) -> int:
        """The version of the object that was read or written last, not asynchronously; 0 when it
        was not there."""
        self.require_ioctx_open()
        return self._last_version

    # ------------------------------------------------------------ what the map says

    def _pool(self) -> PgPool:
        self.require_ioctx_open()
        pool = self._client.osdmap.pools.get(self._io.pool_id)
        if pool is None:
            raise ObjectNotFound(f"pool '{self.name}' does not exist", errno.ENOENT)
        return pool

    def hash_of(self, oid: str, locator_key: str, nspace: str) -> int:
        """The 32-bit hash by which an object of the pool is placed and listed."""
        self._pool()
        return self._client.osdmap.object_to_raw_hash(self._io.pool_id, oid, locator_key, nspace)

    def alignment(self) -> int | None:
        """What the size of an append must be a multiple of, in bytes; None if it need not."""
        return self._pool().required_alignment

    def application_list(self) -> list[str]:
        """The applications that the pool is for, such as ``rbd``."""
        return sorted(self._pool().application_metadata)

    def application_metadata_get(self, app_name: str, key: str) -> str:
        """A value that was set for an application; KeyError if there is none."""
        try:
            return self._pool().application_metadata[text(app_name, "app_name")][text(key, "key")]
        except KeyError:
            raise KeyError(f"no metadata {key} for application {app_name}") from None

    def application_metadata_list(self, app_name: str) -> list[tuple[str, str]]:
        """[(key, value)] of an application; ObjectNotFound if it is not enabled."""
        apps = self._pool().application_metadata
        if text(app_name, "app_name") not in apps:
            raise ObjectNotFound("error listing application metadata", errno.ENOENT)
        return sorted(apps[app_name].items())

    def pool_snaps(self) -> list[tuple[int, PoolSnap]]:
        """[(id, snapshot)] of the whole pool, oldest first."""
        return sorted(self._pool().snaps.items())

    def pool_snap(self, snap_id: int) -> PoolSnap:
        try:
            return self._pool().snaps[snap_id]
        except KeyError:
            raise ObjectNotFound(f"pool '{self.name}' has no snapshot {snap_id}", errno.ENOENT) from None

    def list_snaps(self) -> SnapIterator:
        """The snapshots of the whole pool."""
        return SnapIterator(self)

    def lookup_snap(self, snap_name: str) -> Snap:
        """A snapshot of the pool by name; ObjectNotFound if there is none."""
        name = text(snap_name, "snap_name")
        for i, snap in self.pool_snaps():
            if snap.name == name:
                return Snap(self, name, i)
        raise ObjectNotFound(f"Failed to lookup snap {name}", errno.ENOENT)

    # ------------------------------------------------------------ sending

    def submit(self, request: Request[Any], *, background: bool = False, flags: int = 0, mtime: float = 0) -> Op:
        """Sends a request; the completion's result is the reply."""
        self.require_ioctx_open()
        operation = request.operation
        snapid = request.snapid
        if snapid is None:
            snapid = self._snap_read
            if operation.is_write:
                self._require_present(request)
        if not operation.is_write:
            flags |= self._client.objecter.read_flags
        return self._io.submit(
            request.oid,
            operation,
            snapid=snapid,
            snapc=self._snapc if operation.is_write else None,
            background=background,
            flags=flags,
            mtime=seconds(mtime or 0, "mtime") or None,
        )

    def _require_present(self, request: Request[Any]) -> None:
        if self._snap_read != NOSNAP:
            raise make_ex(-errno.EROFS, self.failed(request))

    def failed(self, request: Request[Any]) -> str:
        return f"Ioctx.{request.what}({self.name}): failed to {request.what} {request.oid}"

    def outcome(self, request: Request[T], pending: Pending[OpReply]) -> T:
        """The result of a request that has been answered, or raises."""
        error = pending.error
        if error is None:
            try:
                return request.finish(pending.result())
            except DecodeError as e:
                raise make_ex(-errno.EBADMSG, f"{self.failed(request)}: {e}") from e
        if not isinstance(error, Error):
            raise error
        if request.partial is not None and isinstance(pending, Op) and pending.failed is not None:
            request.partial(pending.failed)
        if request.recover is not None:
            return request.recover(error)
        if error.errno is None or isinstance(error, TimedOut | ConnectionShutdown):
            raise error
        raise make_ex(-error.errno, self.failed(request)) from error.__cause__

    def _write_request(self, write_op: WriteOp, oid: str) -> Request[None]:
        op, finish = checked_op(write_op, WriteOp).take()
        return Request("operate write op on", text(oid, "oid"), op, finish)

    def _read_request(self, read_op: ReadOp, oid: str) -> Request[None]:
        op, finish = checked_op(read_op, ReadOp).take()
        return Request("operate read op on", text(oid, "oid"), op, finish, partial=finish)

    def create_write_op(self) -> WriteOp:
        op: WriteOp = WriteOp().create()
        return op

    def create_read_op(self) -> ReadOp:
        op: ReadOp = ReadOp().create()
        return op

    def release_write_op(self, write_op: WriteOp) -> None:
        write_op.release()

    def release_read_op(self, read_op: ReadOp) -> None:
        read_op.release()


class Ioctx(IoctxBase):
    """A pool to read and write objects in; a context manager. Made by `Rados.open_ioctx`.

    Threads may share one, but not change its settings (namespace, locator, snapshots) while
    others use it: `dup` makes another.
    """

    def __init__(self, rados: ClusterHandle, pool_id: int, name: str) -> None:
        super().__init__(rados, pool_id, name)
        self.lock = threading.Lock()
        self._at: dict[tuple[str, str], Ioctx] = {}
        self._aio: dict[int, Pending[Any]] = {}

    def __enter__(self) -> Ioctx:
        return self

    def __exit__(self, *args: object) -> Literal[False]:
        self.close()
        return False

    def dup(self) -> Ioctx:
        """Another handle of the same pool, with the same namespace and locator."""
        self.require_ioctx_open()
        other = Ioctx(self.rados, self._io.pool_id, self.name)
        self._copy_settings(other)
        return other

    def at(self, nspace: str, locator_key: str | None) -> Ioctx:
        """This ioctx, for another namespace and locator (None for our own)."""
        self.require_ioctx_open()
        key = self.locator_key if locator_key is None else locator_key
        if (nspace, key) == (self.nspace, self.locator_key):
            return self
        other = self._at.get((nspace, key))
        if other is None:
            other = self._at[nspace, key] = self.dup()
            other.set_namespace(nspace)
            other.set_locator_key(key)
        other._snap_read, other._snapc = self._snap_read, self._snapc
        return other

    def perform(self, request: Request[T], *, flags: int = 0, mtime: float = 0) -> T:
        """Sends a request and waits for its result in this thread."""
        pending = self.submit(request, flags=flags, mtime=mtime)
        try:
            self._client.wait(pending)
        except Error:
            pass
        self._last_version = pending.user_version
        return self.outcome(request, pending)

    # ------------------------------------------------------------ objects

    def read(self, key: str, length: int = 8192, offset: int = 0) -> bytes:
        """Up to `length` bytes of an object from `offset`, fewer at its end. ObjectNotFound if
        there is none."""
        plain = isinstance(length, int) and isinstance(offset, int)
        if not plain or not 0 < length <= MAX_DATA or not 0 <= offset <= MAX_U64:
            return self.perform(requests.read(self, key, length, offset))
        self.require_ioctx_open()
        pending = self._io.submit_read(text(key, "key"), offset, length, snapid=self._snap_read)
        try:
            data: bytes = self._client.wait(pending)
        except Error as e:
            self._last_version = pending.user_version
            if e.errno is None or isinstance(e, TimedOut | ConnectionShutdown):
                raise
            raise make_ex(-e.errno, f"Ioctx.read({self.name}): failed to read {text(key, 'key')}") from e.__cause__
        self._last_version = pending.user_version
        return data

    def read_into(self, key: str, buffer: Any, offset: int = 0) -> int:
        """Reads into `buffer`, any writable bytes-like object, without a copy; gives how many
        bytes there were. Not in Ceph's binding."""
        self.require_ioctx_open()
        view = writable(buffer)
        if not len(view):
            return 0
        offset = number(offset, "offset")
        pending = self._io.submit_read(text(key, "key"), offset, len(view), snapid=self._snap_read, into=view)
        try:
            n: int = self._client.wait(pending)
        finally:
            self._last_version = pending.user_version
        return n

    sparse_read = blocking(requests.sparse_read)
    write = blocking(requests.write)
    write_full = blocking(requests.write_full)
    writesame = blocking(requests.writesame)
    append = blocking(requests.append)
    trunc = blocking(requests.trunc)
    zero = blocking(requests.zero)
    remove_object = blocking(requests.remove_object)
    cmpext = blocking(requests.cmpext)
    checksum = blocking(requests.checksum)
    stat = blocking(requests.stat)
    execute = blocking(requests.execute)
    get_xattr = blocking(requests.get_xattr)
    get_xattrs = blocking(requests.get_xattrs)
    set_xattr = blocking(requests.set_xattr)
    rm_xattr = blocking(requests.rm_xattr)
    list_object_snaps = blocking(requests.list_object_snaps)
    snap_rollback = blocking(requests.snap_rollback)
    rollback_self_managed_snap = blocking(requests.rollback_self_managed_snap)
    lock_exclusive = blocking(requests.lock_exclusive)
    lock_shared = blocking(requests.lock_shared)
    unlock = blocking(requests.unlock)
    break_lock = blocking(requests.break_lock)
    list_lockers = blocking(requests.list_lockers)

    def operate_write_op(
        self, write_op: WriteOp, oid: str, mtime: float = 0, flags: int = LIBRADOS_OPERATION_NOFLAG
    ) -> None:
        """Does the operations of `write_op`, which is empty afterwards.

        Args:
            mtime: what the object's time of change becomes, in seconds; 0 for now.
            flags: ``LIBRADOS_OPERATION_*``.
        """
        request = self._write_request(write_op, oid)
        self._require_present(request)
        if request.operation.ops:
            self.perform(request, flags=osd_flags(flags), mtime=mtime)

    def operate_read_op(self, read_op: ReadOp, oid: str, flag: int = LIBRADOS_OPERATION_NOFLAG) -> None:
        """Does the operations of `read_op`, which is empty afterwards; its iterators are filled."""
        request = self._read_request(read_op, oid)
        if request.operation.ops:
            self.perform(request, flags=osd_flags(flag))

    def list_objects(self) -> ObjectIterator:
        """All objects of the namespace, or of all (see :meth:`set_namespace`)."""
        self.require_ioctx_open()
        io, client = self._io, self._client
        return ObjectIterator(self, lambda cursor: client.run(io.list_page(cursor)))

    # ------------------------------------------------------------ watch and notify

    def watch(
        self,
        obj: str,
        callback: Callable[[int, int, int, bytes], Any],
        error_callback: Callable[[int, int], Any] | None = None,
        timeout: int | None = None,
    ) -> Watch:
        """Watches an object until `Watch.close`.

        Args:
            callback: called with (notify id, the notifier's client id, watch id, its message)
                in a thread of ours; it may use the cluster. What it returns (str or bytes)
                goes back to the notifier.
            error_callback: called with (watch id, a negative errno) when the watch is lost:
                -ENOTCONN means that notifications may have been missed.
            timeout: seconds of silence after which the OSD gives the watch up; None for its
                option `osd_client_watch_timeout`.
        """
        self.require_ioctx_open()
        silence = 0 if timeout is None else number(timeout, "timeout", 0, 0xFFFFFFFF)
        io = self._io.with_namespace(self._io.namespace)
        watch = Watch(self.dup(), io, text(obj, "obj"), callback, error_callback)
        self._client.run(watch.open(silence))
        return watch

    def notify(self, obj: str, msg: str | bytes = "", timeout_ms: int = 5000) -> bool:
        """Tells all watchers of an object, and waits until they have answered. TimedOut when
        one has not within `timeout_ms` milliseconds. Returns True."""
        self.require_ioctx_open()
        coro = self._io.notify(text(obj, "obj"), _message(msg), number(timeout_ms, "timeout_ms"))
        try:
            self._client.run(coro)
        except Error as e:
            if e.errno is None:
                raise
            raise make_ex(-e.errno, f"Failed to notify {obj!r}") from None
        return True

    # ------------------------------------------------------------ snapshots

    def create_snap(self, snap_name: str) -> None:
        """Makes a snapshot of the whole pool; ObjectExists if there is one of that name. A
        pool has either such snapshots or self-managed ones (InvalidArgumentError)."""
        self.require_ioctx_open()
        self._client.run(self._client.create_pool_snap(self._io.pool_id, text(snap_name, "snap_name")))

    def remove_snap(self, snap_name: str) -> None:
        """Removes a snapshot of the whole pool; ObjectNotFound if there is none."""
        self.require_ioctx_open()
        self._client.run(self._client.remove_pool_snap(self._io.pool_id, text(snap_name, "snap_name")))

    def create_self_managed_snap(self) -> int:
        """A new snapshot id; give it to :meth:`set_self_managed_snap_write`."""
        self.require_ioctx_open()
        return self._client.run(self._client.create_selfmanaged_snap(self._io.pool_id))

    def remove_self_managed_snap(self, snap_id: int) -> None:
        """Gives a snapshot id back; the OSDs remove what only it kept."""
        self.require_ioctx_open()
        self._client.run(self._client.remove_selfmanaged_snap(self._io.pool_id, number(snap_id, "snap_id")))

    # ------------------------------------------------------------ the pool

    def get_stats(self) -> dict[str, int]:
        """The pool's usage: num_bytes, num_kb, num_objects, num_object_clones, num_rd, num_wr, ..."""
        self.require_ioctx_open()
        return self._client.run(self._client.pool_stats(self._io.pool_id))

    def application_enable(self, app_name: str, force: bool = False) -> None:
        """Marks the pool as used by an application, such as ``rbd``."""
        self.require_ioctx_open()
        args = {"app": text(app_name, "app_name")} | ({"yes_i_really_mean_it": True} if force else {})
        self._application("enable", args, "error enabling application")

    def application_metadata_set(self, app_name: str, key: str, value: str) -> None:
        """Sets a value for an application."""
        args = {"app": text(app_name, "app_name"), "key": text(key, "key"), "value": text(value, "value")}
        self._application("set", args, "error setting application metadata")

    def application_metadata_remove(self, app_name: str, key: str) -> None:
        """Removes a value that was set for an application."""
        args = {"app": text(app_name, "app_name"), "key": text(key, "key")}
        self._application("rm", args, "error removing application metadata")

    def _application(self, what: str, args: dict[str, Any], message: str) -> None:
        self._client.run(self._client.pool_application(self.get_pool_name(), what, args, message))

    # ------------------------------------------------------------ asynchronously

    def _start(
        self,
        request: Request[T],
        oncomplete: Callable[..., Any] | None,
        onsafe: Callable[..., Any] | None = None,
        *,
        deliver: Callable[[Completion, T | None], tuple[Any, ...]] | None = None,
        value: Callable[[T], int] | None = None,
        flags: int = 0,
        mtime: float = 0,
    ) -> Completion:
        """Sends a request; the callbacks are called when it has been answered.

        Args:
            deliver: the callbacks' arguments, of the completion and the result (None when it failed).
            value: the completion's return value.
        """
        completion = Completion(self, oncomplete, onsafe, deliver, value)
        pending: Pending[OpReply]
        if request.operation.ops:
            pending = self.submit(request, background=True, flags=flags, mtime=mtime)
        else:  # an OSD would say so, or be aborted
            pending = Event(self._client.driver)
            pending.set_error(InvalidArgumentError("a request of no operations", errno.EINVAL))
        self._aio[id(pending)] = pending

        def forget(p: Pending[Any]) -> None:
            self._aio.pop(id(p), None)

        pending.add_done_callback(forget)
        completion.follow(pending, lambda p: self.outcome(request, p))
        self._client.wait_for_budget(pending)
        return completion

    def aio_read(
        self, object_name: str, length: int, offset: int, oncomplete: Callable[..., Any] | None = None
    ) -> Completion:
        """As :meth:`read`; calls ``oncomplete(completion, data)``, with None when it failed. The
        return value is the number of bytes."""
        request = requests.read(self, object_name, length, offset)
        return self._start(request, oncomplete, deliver=lambda c, data: (c, data), value=len)

    def aio_write(
        self,
        object_name: str,
        to_write: Any,
        offset: int = 0,
        oncomplete: Callable[[Completion], Any] | None = None,
        onsafe: Callable[[Completion], Any] | None = None,
    ) -> Completion:
        """As :meth:`write`; calls ``oncomplete(completion)``, then ``onsafe(completion)``. The
        data must not change until then."""
        return self._start(requests.write(self, object_name, to_write, offset), oncomplete, onsafe)

    def aio_write_full(
        self,
        object_name: str,
        to_write: Any,
        oncomplete: Callable[[Completion], Any] | None = None,
        onsafe: Callable[[Completion], Any] | None = None,
    ) -> Completion:
        """As :meth:`write_full`, asynchronously."""
        return self._start(requests.write_full(self, object_name, to_write), oncomplete, onsafe)

    def aio_writesame(
        self,
        object_name: str,
        to_write: Any,
        write_len: int,
        offset: int = 0,
        oncomplete: Callable[[Completion], Any] | None = None,
    ) -> Completion:
        """As :meth:`writesame`, asynchronously."""
        return self._start(requests.writesame(self, object_name, to_write, write_len, offset), oncomplete)

    def aio_append(
        self,
        object_name: str,
        to_append: Any,
        oncomplete: Callable[[Completion], Any] | None = None,
        onsafe: Callable[[Completion], Any] | None = None,
    ) -> Completion:
        """As :meth:`append`, asynchronously."""
        return self._start(requests.append(self, object_name, to_append), oncomplete, onsafe)

    def aio_remove(
        self,
        object_name: str,
        oncomplete: Callable[[Completion], Any] | None = None,
        onsafe: Callable[[Completion], Any] | None = None,
    ) -> Completion:
        """As :meth:`remove_object`, asynchronously."""
        return self._start(requests.remove_object(self, object_name), oncomplete, onsafe)

    def aio_cmpext(
        self, object_name: str, cmp_buf: Any, offset: int = 0, oncomplete: Callable[[Completion], Any] | None = None
    ) -> Completion:
        """As :meth:`cmpext`, asynchronously; the return value says where they differ."""
        return self._start(requests.cmpext(self, object_name, cmp_buf, offset), oncomplete, value=lambda r: r)

    def aio_stat(self, object_name: str, oncomplete: Callable[..., Any]) -> Completion:
        """As :meth:`stat`; calls ``oncomplete(completion, size, mtime)``, with None when it failed."""

        def deliver(c: Completion, r: tuple[int, time.struct_time] | None) -> tuple[Any, ...]:
            return (c, *(r or (None, None)))

        return self._start(requests.stat(self, object_name), oncomplete, deliver=deliver)

    def aio_execute(
        self,
        object_name: str,
        cls: str,
        method: str,
        data: Any,
        length: int = 8192,
        oncomplete: Callable[..., Any] | None = None,
        onsafe: Callable[..., Any] | None = None,
    ) -> Completion:
        """As :meth:`execute`; calls ``oncomplete(completion, output)``, with None when it failed."""
        request = requests.execute(self, object_name, cls, method, data, length)
        return self._start(
            request, oncomplete, onsafe, deliver=lambda c, r: (c, r[1] if r else None), value=lambda r: r[0]
        )

    def aio_setxattr(
        self,
        object_name: str,
        xattr_name: str,
        xattr_value: Any,
        oncomplete: Callable[[Completion], Any] | None = None,
    ) -> Completion:
        """As :meth:`set_xattr`, asynchronously."""
        return self._start(requests.set_xattr(self, object_name, xattr_name, xattr_value), oncomplete)

    def aio_rmxattr(
        self, object_name: str, xattr_name: str, oncomplete: Callable[[Completion], Any] | None = None
    ) -> Completion:
        """As :meth:`rm_xattr`, asynchronously."""
        return self._start(requests.rm_xattr(self, object_name, xattr_name), oncomplete)

    def operate_aio_write_op(
        self,
        write_op: WriteOp,
        oid: str,
        oncomplete: Callable[[Completion], Any] | None = None,
        onsafe: Callable[[Completion], Any] | None = None,
        mtime: float = 0,
        flags: int = LIBRADOS_OPERATION_NOFLAG,
    ) -> Completion:
        """As :meth:`operate_write_op`, asynchronously."""
        request = self._write_request(write_op, oid)

        self._require_present(request)
        return self._start(request, oncomplete, onsafe, flags=osd_flags(flags), mtime=mtime)

    def operate_aio_read_op(
        self,
        read_op: ReadOp,
        oid: str,
        oncomplete: Callable[[Completion], Any] | None = None,
        onsafe: Callable[[Completion], Any] | None = None,
        flag: int = LIBRADOS_OPERATION_NOFLAG,
    ) -> Completion:
        """As :meth:`operate_read_op`, asynchronously."""
        request = self._read_request(read_op, oid)

        return self._start(request, oncomplete, onsafe, flags=osd_flags(flag))

    def aio_notify(
        self, obj: str, oncomplete: Callable[..., Any], msg: str | bytes = "", timeout_ms: int = 5000
    ) -> Completion:
        """As :meth:`notify`; calls ``oncomplete(completion, return value, acks, timeouts)`` with
        [(client id, watch id, answer)] and [(client id, watch id)], or None when it failed."""
        from .watch import decode_acks

        self.require_ioctx_open()
        coro = self._io.notify(text(obj, "obj"), _message(msg), number(timeout_ms, "timeout_ms"))

        def deliver(c: Completion, payload: bytes | None) -> tuple[Any, ...]:
            if payload is None:
                return c, c.get_return_value(), None, None
            acks, missing = decode_acks(payload)
            return c, 0, [(gid, cookie, answer or "") for gid, cookie, answer in acks], missing

        completion = Completion(self, oncomplete, None, deliver, None)
        completion.follow(self._client.spawn(coro), lambda p: p.result())
        return completion

    def aio_flush(self) -> None:
        """Returns when all that was begun asynchronously on this ioctx has been answered; the
        callbacks may not have been called yet."""
        self.require_ioctx_open()
        for pending in list(self._aio.values()):
            try:
                self._client.wait(pending)
            except Error:
                pass  # told to the completion


def _message(msg: str | bytes) -> bytes:
    return msg.encode() if isinstance(msg, str) else bytes(data_of(msg, "msg"))


__all__ = ["Ioctx", "IoctxBase", "Watch"]
