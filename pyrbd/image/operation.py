"""Maintenance operations: carried out here, or by the client that owns the exclusive lock
(`src/librbd/Operations.cc`, C_InvokeAsyncRequest).

An operation that changes the image belongs to who owns its exclusive lock. We take the lock if it is
free; otherwise its owner is asked to do the operation for us, and tells how far it is. If we are the
owner, others ask us.

When somebody asks for the lock while an operation runs here, the operation stops at the next step of its
progress, and who wanted it asks the new owner for it: with as much done as had been done.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from ..log import Log
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from . import features, notify
from .cls_rbd import SNAP_NAMESPACE_TRASH, SNAP_NAMESPACE_USER
from .errors import ImageBusy, ImageNotFound, OSError, ReadOnlyImage, make_ex
from .watcher import next_request_id

if TYPE_CHECKING:
    from .image import Image
    from .notify import Request

T = TypeVar("T")
Progress = Callable[[int, int], int]
Local = Callable[[Progress], Awaitable[T]]

_log = Log("operation")

_WITHOUT_LOCK: dict[type[Request], int] = {
    notify.SnapRemove: features.FAST_DIFF | features.JOURNALING,
    notify.SnapRename: features.JOURNALING,
    notify.SnapProtect: features.JOURNALING,
    notify.SnapUnprotect: features.JOURNALING,
}
"""Operations that anybody may do, without the exclusive lock, unless the image has one of these features."""
_AT_SNAPSHOT = (
    notify.RebuildObjectMap,
    notify.Rename,
    notify.SnapCreate,
    notify.SnapRemove,
    notify.SnapRename,
    notify.SnapProtect,
    notify.SnapUnprotect,
)
"""Operations that may be begun on an image that is open at a snapshot (permit_snapshot)."""


class Restart(OSError):
    """The exclusive lock went to another client: the operation is to be done there."""

    prefix = "RBD operation restarted"

    def __init__(self, message: str, errno: int | None = errno.ERESTART) -> None:
        super().__init__(message, errno)


_serving: ContextVar[bool] = ContextVar("_serving", default=False)


class _Serving:
    """Awaits a coroutine in which :func:`invoke` knows that it was asked for by another client."""

    def __init__(self, coro: Coroutine[Any, Any, object]) -> None:
        self._coro = coro

    def __await__(self) -> Generator[Any, Any, object]:
        context = copy_context()
        context.run(_serving.set, True)
        error: BaseException | None = None
        while True:
            try:
                if error is None:
                    waiting = context.run(self._coro.send, None)
                else:
                    waiting = context.run(self._coro.throw, error)
            except StopIteration as e:
                return e.value
            try:
                yield waiting
                error = None
            except BaseException as e:
                error = e


async def invoke(
    image: Image,
    payload: Request | None,
    local: Local[T],
    on_progress: Callable[[int, int], int | None] | None = None,
    *,
    ask: bool = True,
) -> T | None:
    """Does a maintenance operation where it belongs.

    One operation is done at a time: `local` runs with `image.operations` held, and must not take it.

    Args:
        payload: how the owner of the lock is asked for it; None for what librbd does not ask of others, but
            takes the lock for.
        local: called with a function to report progress to, (done, total), when it is to be done here.
            That function may raise, at any call: what was done so far must be in order then.
        on_progress: told (done, total), also when it is done elsewhere; a negative result cancels. What the
            owner of the lock does for us it finishes all the same.
        ask: the owner of the lock for it, where there is no payload; else the lock is taken from nobody.
    Returns:
        what `local` gave; None when another client did it.
    Raises:
        ReadOnlyImage: the image is open read-only, or nobody gives us the lock;
        OperationCanceled; whatever the operation fails with, here or there.
    """
    from .directory import report

    number = next_request_id()
    take_lock = payload is None and ask
    serving = _serving.get()
    while True:
        await image.current()
        if image.read_only or (image.snap_id != NOSNAP and not isinstance(payload, _AT_SNAPSHOT)):
            raise ReadOnlyImage(f"image {image.name} was opened read-only, or at a snapshot", errno.EROFS)
        lock = image.lock
        needed = _WITHOUT_LOCK.get(type(payload)) if payload is not None else None
        if lock is None or (needed is not None and not image.header.features & needed):
            return await _run(image, local, on_progress, False)
        if not lock.accepts and not serving:
            try:
                if take_lock:
                    await lock.acquire_now()
                else:
                    await lock.try_acquire()
            except ImageBusy as e:
                raise ReadOnlyImage(f"image {image.name}: {e.message}", errno.EROFS) from e
            if image.lock is not lock:
                continue
        if lock.accepts or lock.owner:
            try:
                return await _run(image, local, on_progress, True)
            except Restart:
                if serving:
                    raise
                continue
        if serving:
            raise Restart(f"image {image.name}: this client does not own the exclusive lock any more")
        if payload is None:
            if not ask:
                raise ReadOnlyImage(f"image {image.name}: another client owns its exclusive lock", errno.EROFS)
            continue
        take_lock = False
        result = await image.watcher.request(payload, number, lambda done, total: report(on_progress, done, total))
        if result >= 0:
            image.mark_stale()
            return None
        if result == -errno.EOPNOTSUPP:
            _log.info("%r: the owner of the lock does not know %r: doing it here", image, payload)
            take_lock = True
        elif result not in (-errno.ETIMEDOUT, -errno.ERESTART):
            image.mark_stale()
            raise make_ex(result, f"image {image.name}: {type(payload).__name__} by the owner of its exclusive lock")


async def _run(image: Image, local: Local[T], on_progress: Callable[[int, int], int | None] | None, locked: bool) -> T:
    from .directory import report

    lock = image.lock

    def progress(done: int, total: int) -> int:
        report(on_progress, done, total)
        if done < total and locked and lock is not None and lock.giving_up:
            raise Restart(f"image {image.name}: another client wants the exclusive lock")
        return 0

    with await image.operations.acquire():
        if locked and (lock is None or image.lock is not lock or not lock.owner):
            raise Restart(f"image {image.name}: the exclusive lock was given up")
        await image.cache.settle()
        try:
            return await local(progress)
        except BaseException:
            image.mark_stale()  # it may have changed the header, and not come to tell
            raise


# ---------------------------------------------------------------- for others


async def serve(image: Image, payload: Request, progress: Progress) -> int:
    """Does what another client asks of us as the owner of the lock: 0 or a negative errno."""
    handler = _SERVED.get(type(payload))
    if handler is None:
        return -errno.EOPNOTSUPP
    try:
        await _Serving(handler(image, payload, progress))
    except (OSError, rados.Error) as e:
        _log.info("%r: %r for another client: %s", image, payload, e)
        return -(e.errno or errno.EIO)
    except Exception:
        _log.exception("%r for another client", payload)
        return -errno.EIO
    return 0


async def _flatten(image: Image, payload: notify.Flatten, progress: Progress) -> None:
    from . import flatten

    await flatten.flatten(image, progress)


async def _resize(image: Image, payload: notify.Resize, progress: Progress) -> None:
    from . import resize

    await resize.resize(image, payload.size, payload.allow_shrink, progress)


async def _snap_create(image: Image, payload: notify.SnapCreate, progress: Progress) -> None:
    from . import snapshots

    if payload.snap_namespace.type != SNAP_NAMESPACE_USER:
        raise make_ex(-errno.EOPNOTSUPP, f"snapshots of type {payload.snap_namespace.type}")
    await snapshots.create_with(image, payload.snap_name, payload.flags, progress)


async def _snap_remove(image: Image, payload: notify.SnapRemove, progress: Progress) -> None:
    from . import snapshots

    kind = payload.snap_namespace.type
    if kind == SNAP_NAMESPACE_USER:
        await snapshots.remove(image, payload.snap_name, 0, progress)
        return
    if kind != SNAP_NAMESPACE_TRASH:
        raise make_ex(-errno.EOPNOTSUPP, f"snapshots of type {kind}")
    await image.current()
    for snap in image.header.snaps:
        if snap.name == payload.snap_name and snap.info.namespace.type == kind:
            await snapshots.remove(image, snap.id, 0, progress)
            return
    raise ImageNotFound(f"image {image.name} has no snapshot {payload.snap_name!r} in the trash", errno.ENOENT)


async def _snap_rename(image: Image, payload: notify.SnapRename, progress: Progress) -> None:
    from . import snapshots

    await image.current()
    await snapshots.rename(image, image.find_snapshot(payload.snap_id).name, payload.snap_name)


async def _snap_protect(image: Image, payload: notify.SnapProtect, progress: Progress) -> None:
    from . import snapshots

    await snapshots.protect(image, payload.snap_name)


async def _snap_unprotect(image: Image, payload: notify.SnapUnprotect, progress: Progress) -> None:
    from . import snapshots

    await snapshots.unprotect(image, payload.snap_name)


async def _rebuild_object_map(image: Image, payload: notify.RebuildObjectMap, progress: Progress) -> None:
    from . import rebuild

    await rebuild.rebuild_object_map(image, progress)


async def _rename(image: Image, payload: notify.Rename, progress: Progress) -> None:
    from . import directory

    await directory.rename_open(image, payload.image_name)


async def _update_features(image: Image, payload: notify.UpdateFeatures, progress: Progress) -> None:
    from . import update_features

    await update_features.update_features(image, payload.features, payload.enabled)


async def _sparsify(image: Image, payload: notify.Sparsify, progress: Progress) -> None:
    from . import sparsify

    await sparsify.sparsify(image, payload.sparse_size, progress)


async def _metadata_update(image: Image, payload: notify.MetadataUpdate, progress: Progress) -> None:
    from . import metadata

    await metadata.execute_update(image, payload.key, payload.value)


_SERVED: dict[type[Request], Callable[[Image, Any, Progress], Coroutine[Any, Any, None]]] = {
    notify.Flatten: _flatten,
    notify.Resize: _resize,
    notify.SnapCreate: _snap_create,
    notify.SnapRemove: _snap_remove,
    notify.SnapRename: _snap_rename,
    notify.SnapProtect: _snap_protect,
    notify.SnapUnprotect: _snap_unprotect,
    notify.RebuildObjectMap: _rebuild_object_map,
    notify.Rename: _rename,
    notify.UpdateFeatures: _update_features,
    notify.Sparsify: _sparsify,
    notify.MetadataUpdate: _metadata_update,
}
"""What others may ask for; the rest is answered with -EOPNOTSUPP, and they do it themselves."""
