"""Snapshots of an image (`src/librbd/operation/Snapshot*Request.cc`, `src/librbd/api/Snapshot.cc`,
`src/librbd/Operations.cc`).

A snapshot is an id that the monitors give, and an entry in the image's header. Every write carries the ids of all
snapshots that exist, and the OSDs keep for each what it needs. So between the entry and the next write everybody
who writes has to hear of a new snapshot: those who write here wait while it is made, others hold no lock then.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

from ..denc import Decoder, Encoder
from ..log import Log
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import clone, cls_rbd, features, notify, object_map, operation, resize
from .bulk import Report, change_header, each
from .cls_rbd import ParentSpec, SnapNamespace, SnapshotInfo
from .errors import FunctionNotSupported, ImageBusy, ImageExists, ImageNotFound, InvalidArgument, ReadOnlyImage, make_ex
from .groups import RBD_GROUP_DIRECTORY
from .listing import LIST_INSTEAD, existing_objects
from .object_map import ObjectMap
from .remove import OnProgress

if TYPE_CHECKING:
    from collections.abc import Collection

    from .header import Snap
    from .image import Image

_log = Log("image")

RBD_SNAP_CREATE_SKIP_QUIESCE = 1
RBD_SNAP_CREATE_IGNORE_QUIESCE_ERROR = 2
"""What users may ask for,"""
SNAP_CREATE_FLAG_SKIP_OBJECT_MAP = 1
SNAP_CREATE_FLAG_SKIP_NOTIFY_QUIESCE = 2
SNAP_CREATE_FLAG_IGNORE_NOTIFY_QUIESCE_ERROR = 4
"""and what clients ask of each other (`src/librbd/Types.h`)."""

RBD_SNAP_REMOVE_UNPROTECT = 1
RBD_SNAP_REMOVE_FLATTEN = 2

NO_LIMIT = 0xFFFFFFFFFFFFFFFF
_GROUP_HEADER_PREFIX = "rbd_group_header."
_Q = struct.Struct("<Q")
USER = SnapNamespace(cls_rbd.SNAP_NAMESPACE_USER)


# ---------------------------------------------------------------- requests


def _snapshot_add(old_format: bool, snap_id: int, name: str) -> ObjectOperation:
    e = Encoder()
    e.string(name)
    e.u64(snap_id)
    if old_format:
        return ObjectOperation().call_write("rbd", "snap_add", e.buf)
    USER.encode(e)
    return ObjectOperation().call_write("rbd", "snapshot_add", e.buf)


def _snapshot_remove(old_format: bool, snap: Snap) -> ObjectOperation:
    if not old_format:
        return ObjectOperation().call_write("rbd", "snapshot_remove", _Q.pack(snap.id))
    e = Encoder()
    e.string(snap.name)
    return ObjectOperation().call_write("rbd", "snap_remove", e.buf)


def _snapshot_rename(old_format: bool, snap_id: int, name: str) -> ObjectOperation:
    e = Encoder()
    e.u64(snap_id)
    e.string(name)
    return ObjectOperation().call_write("rbd", "snap_rename" if old_format else "snapshot_rename", e.buf)


def _set_protection(snap_id: int, status: int) -> ObjectOperation:
    return ObjectOperation().call_write("rbd", "set_protection_status", _Q.pack(snap_id) + bytes([status]))


# ---------------------------------------------------------------- what they all check


def _check_writable(image: Image) -> None:
    if image.read_only:
        raise ReadOnlyImage(f"image {image.name} was opened read-only", errno.EROFS)


def _exists(image: Image, name: str) -> bool:
    try:
        image.find_snapshot(name)
    except ImageNotFound:
        return False
    return True


def _check_new_name(image: Image, name: str) -> None:
    if _exists(image, name):
        raise ImageExists(f"image {image.name} has a snapshot {name} already", errno.EEXIST)


# ---------------------------------------------------------------- create


async def create(image: Image, name: str, flags: int = 0, on_progress: OnProgress | None = None) -> None:
    """Makes a snapshot of what the image has now.

    Args:
        flags: RBD_SNAP_CREATE_*: not to ask those who have the image open to come to rest, or to go on if they don't.
        on_progress: called with (attempts, attempts in all) to bring them to rest.
    Raises:
        ImageExists (EEXIST); DiskQuotaExceeded (EDQUOT): the image's limit of snapshots; InvalidArgument (EINVAL): the
        flags; ReadOnlyImage (EROFS); FunctionNotSupported (ENOSYS, a feature by name); what those who have the image
        open answered.
    """
    internal = 0
    if flags & RBD_SNAP_CREATE_SKIP_QUIESCE:
        internal, flags = SNAP_CREATE_FLAG_SKIP_NOTIFY_QUIESCE, flags & ~RBD_SNAP_CREATE_SKIP_QUIESCE
    elif flags & RBD_SNAP_CREATE_IGNORE_QUIESCE_ERROR:
        internal, flags = SNAP_CREATE_FLAG_IGNORE_NOTIFY_QUIESCE_ERROR, flags & ~RBD_SNAP_CREATE_IGNORE_QUIESCE_ERROR
    if flags:
        raise InvalidArgument(f"there are no flags {flags:#x} of a new snapshot", errno.EINVAL)
    await create_with(image, name, internal, on_progress)


async def create_with(image: Image, name: str, flags: int, on_progress: OnProgress | None = None) -> None:
    """As :func:`create`, with the SNAP_CREATE_FLAG_* that other clients send."""
    _check_writable(image)
    await image.current()
    _check_new_name(image, name)
    payload = notify.SnapCreate(name, flags=flags)
    await operation.invoke(image, payload, lambda report: execute_create(image, name, flags, report), on_progress)


async def execute_create(image: Image, name: str, flags: int, report: Report) -> int:
    """Makes a snapshot, with `operations` held, and gives its id."""
    await image.current()
    features.check_writable(image.header.features, image.name)
    _check_new_name(image, name)
    _check_data_pool(image)
    quiesced = None
    if not flags & SNAP_CREATE_FLAG_SKIP_NOTIFY_QUIESCE:
        try:
            quiesced = await image.watcher.quiesce(report)
        except Exception as e:
            if isinstance(e, operation.Restart) or not flags & SNAP_CREATE_FLAG_IGNORE_NOTIFY_QUIESCE_ERROR:
                raise
            _log.warning("%r: a snapshot is made although not everybody is at rest: %s", image, e)
    try:
        with await image.writes.block():
            image.cache.check()
            try:
                snap_id = await _add(image, name)
                await image.refresh()
            except BaseException:
                image.mark_stale()  # before anybody writes again: he must not miss the snapshot
                raise
            if image.object_map is not None and not flags & SNAP_CREATE_FLAG_SKIP_OBJECT_MAP:
                await image.object_map.snap_add(snap_id)
    finally:
        if quiesced is not None:
            await image.watcher.unquiesce(quiesced)
    await image.header_changed()
    return snap_id


def _check_data_pool(image: Image) -> None:
    if image.data_io.pool_id not in image.client.osdmap.pools:
        raise make_ex(-errno.ENODEV, f"the pool with the data of image {image.name} is gone")


async def _add(image: Image, name: str) -> int:
    """Gets an id and enters the snapshot into the header."""
    client, pool = image.client, image.data_io.pool_id
    while True:
        try:
            snap_id = await client.create_selfmanaged_snap(pool)
        except rados.Error as e:
            raise make_ex(-(e.errno or errno.EIO), f"no snapshot id for image {image.name}: {e}") from e
        try:
            await image.io.operate(image.header_oid, _snapshot_add(image.old_format, snap_id, name))
        except (rados.TimedOut, rados.ConnectionShutdown) as e:
            raise make_ex(-(e.errno or errno.EIO), f"error creating snapshot {name} of image {image.name}: {e}") from e
        except rados.Error as e:
            await client.remove_selfmanaged_snap(pool, snap_id)
            if e.errno == errno.ESTALE:  # somebody has made one with a newer id meanwhile
                continue
            raise make_ex(-(e.errno or errno.EIO), f"error creating snapshot {name} of image {image.name}: {e}") from e
        return snap_id


# ---------------------------------------------------------------- remove


async def remove(image: Image, snapshot: str | int, flags: int = 0, on_progress: OnProgress | None = None) -> None:
    """Removes a snapshot. One that has clones of format 2 is moved to the namespace of the trash instead, and goes
    with the last of them.

    Args:
        snapshot: the name of one that users made, or the id of any.
        flags: RBD_SNAP_REMOVE_UNPROTECT to unprotect it before; RBD_SNAP_REMOVE_FLATTEN to flatten its clones.
        on_progress: called with (clones flattened, clones in all).
    Raises:
        ImageNotFound (ENOENT); ImageBusy (EBUSY): it is protected, or in the trash and has clones; ReadOnlyImage
        (EROFS); FunctionNotSupported (ENOSYS): a feature, by name; a snapshot of mirroring.
    """
    await image.current()
    snap = image.find_snapshot(snapshot)
    if flags & RBD_SNAP_REMOVE_FLATTEN:
        await _flatten_children(image, snap, on_progress)
    if flags & RBD_SNAP_REMOVE_UNPROTECT and snap.protection != cls_rbd.PROTECTION_STATUS_UNPROTECTED:
        await unprotect(image, snap.name)
    _check_writable(image)
    payload = notify.SnapRemove(snap.name, snap.info.namespace)
    await operation.invoke(image, payload, lambda report: _execute_remove(image, snap.id))


async def _flatten_children(image: Image, snap: Snap, on_progress: OnProgress | None) -> None:
    """Image::flatten_children."""
    from .children import list_children
    from .directory import report
    from .flatten import flatten
    from .image import Image

    view = await Image.open(image.io, image.name, image_id=image.id, snapshot=snap.id, skip_parent=True)
    try:
        found = await list_children(view)
    finally:
        await view.close()
    for i, c in enumerate(found, 1):
        io = image.io.with_pool(await image.client.lookup_pool(c.pool)).with_namespace(c.pool_namespace)
        child = await Image.open(io, c.image, image_id=c.id)
        try:
            if child.header.snaps and not child.has(features.DEEP_FLATTEN):
                raise ImageBusy(f"the snapshots of image {c.pool}/{c.image} need snapshot {snap.name}", errno.EBUSY)
            await flatten(child)
        finally:
            await child.close()
        report(on_progress, i, len(found))


async def _execute_remove(image: Image, snap_id: int) -> None:
    await image.current()
    snap = image.find_snapshot(snap_id)
    if snap.protected:
        raise ImageBusy(f"snapshot {snap.name} of image {image.name} is protected", errno.EBUSY)
    features.check_writable(image.header.features, image.name)
    if snap.info.namespace.type == cls_rbd.SNAP_NAMESPACE_MIRROR:
        raise FunctionNotSupported(f"snapshot {snap.name} of image {image.name} is one of mirroring", errno.ENOSYS)
    if not image.old_format and await _move_to_trash(image, snap):
        await image.header_changed()
        return
    await _remove_object_map(image, snap_id)
    if image.data_io.pool_id in image.client.osdmap.pools:
        try:
            await image.client.remove_selfmanaged_snap(image.data_io.pool_id, snap_id)
        except rados.ObjectNotFound:
            pass
    what = f"error removing snapshot {snap.name} of image {image.name}"
    await change_header(image, _snapshot_remove(image.old_format, snap), what)
    await image.header_changed()


async def _move_to_trash(image: Image, snap: Snap) -> bool:
    """Moves a snapshot to the trash, and lets go of the parent if it is the last that needs it. True if clones keep
    the snapshot there."""
    in_trash = snap.info.namespace.type == cls_rbd.SNAP_NAMESPACE_TRASH
    what = f"error removing snapshot {snap.name} of image {image.name}"
    if not in_trash:
        try:
            await change_header(
                image, ObjectOperation().call_write("rbd", "snapshot_trash_add", _Q.pack(snap.id)), what
            )
        except ImageExists:
            pass  # somebody else did
    attached = await _has_children(image, snap.id, what)
    if _is_last_with_parent(image, snap):
        try:
            await clone.detach_child(image)
        except rados.Error as e:
            raise make_ex(-(e.errno or errno.EIO), f"{what}: {e}") from e
    if attached and in_trash:
        raise ImageBusy(f"snapshot {snap.name} of image {image.name} has clones", errno.EBUSY)
    return attached


async def _has_children(image: Image, snap_id: int, what: str) -> bool:
    """Whether a snapshot has clones of format 2. Those in pools that are gone do not count, and are forgotten."""
    op = ObjectOperation().call("rbd", "snapshot_get", _Q.pack(snap_id))
    info = SnapshotInfo.from_bytes((await change_header(image, op, what)).ops[0].data)
    if not info.child_count:
        return False
    try:
        reply = await change_header(image, ObjectOperation().call("rbd", "children_list", _Q.pack(snap_id)), what)
    except ImageNotFound:
        return False
    d = Decoder(reply.ops[0].data)
    children = [clone.ChildSpec.decode(d) for _ in range(d.count(6))]
    left = len(children)
    for spec in children:
        if spec.pool_id not in image.client.osdmap.pools:
            e = Encoder()
            e.u64(snap_id)
            spec.encode(e)
            try:
                await change_header(image, ObjectOperation().call_write("rbd", "child_detach", e.buf), what)
            except ImageNotFound:
                pass
            left -= 1
    return left > 0


def _is_last_with_parent(image: Image, snap: Snap) -> bool:
    """Whether neither the head nor another snapshot shows data of the parent."""
    header = image.header
    if snap.parent_overlap is None or header.parent is None or header.raw.parent_overlap is not None:
        return False
    return all(s.parent_overlap is None for s in header.snaps if s.id != snap.id)


async def _remove_object_map(image: Image, snap_id: int) -> None:
    if image.object_map is not None:
        await image.object_map.snap_remove(snap_id)
    elif image.has(features.OBJECT_MAP):
        try:
            oid = object_map.object_map_object(image.id, snap_id)
            await image.io.operate(oid, ObjectOperation().remove())
        except rados.ObjectNotFound:
            pass


# ---------------------------------------------------------------- rename


async def rename(image: Image, source: str, dest: str) -> None:
    """Gives a snapshot another name.

    Raises:
        ImageNotFound (ENOENT); ImageExists (EEXIST); ReadOnlyImage (EROFS); FunctionNotSupported (ENOSYS).
    """
    _check_writable(image)
    await image.current()
    snap_id = image.find_snapshot(source).id
    _check_new_name(image, dest)
    payload = notify.SnapRename(snap_id, dest)
    await operation.invoke(image, payload, lambda report: _execute_rename(image, snap_id, dest))


async def _execute_rename(image: Image, snap_id: int, name: str) -> None:
    await image.current()
    features.check_writable(image.header.features, image.name)
    _check_new_name(image, name)
    what = f"error renaming snapshot {snap_id} of image {image.name} to {name}"
    await change_header(image, _snapshot_rename(image.old_format, snap_id, name), what)
    await image.header_changed()


# ---------------------------------------------------------------- protect, unprotect


def _check_layering(image: Image) -> None:
    if not image.has(features.LAYERING):
        raise FunctionNotSupported(f"image {image.name} has no layering", errno.ENOSYS)


def _find_unprotected(image: Image, name: str) -> Snap:
    snap = image.find_snapshot(name)
    if snap.protected:
        raise ImageBusy(f"snapshot {name} of image {image.name} is protected already", errno.EBUSY)
    return snap


def _find_protected(image: Image, name: str) -> Snap:
    snap = image.find_snapshot(name)
    if snap.protection == cls_rbd.PROTECTION_STATUS_UNPROTECTED:
        raise InvalidArgument(f"snapshot {name} of image {image.name} is not protected", errno.EINVAL)
    return snap


async def protect(image: Image, name: str) -> None:
    """Protects a snapshot from being removed, so that it can be cloned in format 1.

    Raises:
        ImageNotFound (ENOENT); ImageBusy (EBUSY): it is protected; FunctionNotSupported (ENOSYS): the image has no
        layering, or a feature by name; ReadOnlyImage (EROFS).
    """
    _check_writable(image)
    _check_layering(image)
    await image.current()
    _find_unprotected(image, name)
    await operation.invoke(image, notify.SnapProtect(name), lambda report: execute_protect(image, name))


async def execute_protect(image: Image, name: str) -> None:
    """Protects a snapshot, with `operations` held."""
    await image.current()
    features.check_writable(image.header.features, image.name)
    snap = _find_unprotected(image, name)
    _check_layering(image)
    what = f"error protecting snapshot {name} of image {image.name}"
    await change_header(image, _set_protection(snap.id, cls_rbd.PROTECTION_STATUS_PROTECTED), what)
    await image.header_changed()


async def unprotect(image: Image, name: str) -> None:
    """Ends the protection of a snapshot.

    Raises:
        ImageNotFound (ENOENT); InvalidArgument (EINVAL): it is not protected; ImageBusy (EBUSY): it has clones of
        format 1, in whatever pool; ReadOnlyImage (EROFS); FunctionNotSupported (ENOSYS).
    """
    _check_writable(image)
    await image.current()
    _find_protected(image, name)
    await operation.invoke(image, notify.SnapUnprotect(name), lambda report: _execute_unprotect(image, name))


async def _execute_unprotect(image: Image, name: str) -> None:
    """First nobody can make a clone any more, then we look for those that are there."""
    await image.current()
    features.check_writable(image.header.features, image.name)
    _check_layering(image)
    snap = _find_protected(image, name)
    what = f"error unprotecting snapshot {name} of image {image.name}"
    await change_header(image, _set_protection(snap.id, cls_rbd.PROTECTION_STATUS_UNPROTECTING), what)
    try:
        await image.client.wait_for_latest_osdmap()
        await _check_no_children(image, snap)
        await change_header(image, _set_protection(snap.id, cls_rbd.PROTECTION_STATUS_UNPROTECTED), what)
    except Exception:
        image.mark_stale()
        await change_header(image, _set_protection(snap.id, cls_rbd.PROTECTION_STATUS_PROTECTED), what)
        raise
    await image.header_changed()


async def _check_no_children(image: Image, snap: Snap) -> None:
    client = image.client
    spec = ParentSpec(image.io.pool_id, image.io.namespace, image.id, snap.id)
    found: list[str] = []

    async def look(pool_id: int) -> None:
        op = clone.get_children_request(ObjectOperation(), spec)
        d = Decoder((await image.io.with_pool(pool_id).operate(cls_rbd.RBD_CHILDREN, op)).ops[0].data)
        ids = [d.string() for _ in range(d.count(4))]
        found.append(f"{', '.join(ids)} in pool {client.osdmap.pool_names.get(pool_id)}")

    pools = [i for i, pool in sorted(client.osdmap.pools.items()) if pool.tier_of < 0]  # no caches
    try:
        await each(image, pools, lambda pool_id: client.spawn(look(pool_id)))
    except rados.Error as e:
        raise make_ex(-(e.errno or errno.EIO), f"error looking for clones of {image.name}@{snap.name}: {e}") from e
    if found:
        raise ImageBusy(f"snapshot {snap.name} of image {image.name} has clones: {'; '.join(found)}", errno.EBUSY)


# ---------------------------------------------------------------- limit


async def get_limit(image: Image) -> int:
    """How many snapshots the image may have; NO_LIMIT for any number."""
    try:
        return Decoder(await image.io.call(image.header_oid, "rbd", "snapshot_get_limit")).u64()
    except rados.Error as e:
        if e.errno == errno.EOPNOTSUPP:
            return NO_LIMIT
        raise make_ex(-(e.errno or errno.EIO), f"error getting the snapshot limit of image {image.name}: {e}") from e


async def set_limit(image: Image, limit: int) -> None:
    """Limits how many snapshots the image may have; NO_LIMIT for any number.

    Raises:
        OSError (ERANGE): it has more already; ReadOnlyImage (EROFS).
    """
    _check_writable(image)
    await image.current()
    if image.lock is not None and not image.lock.owner:
        await image.lock.acquire_now()
    op = ObjectOperation().call_write("rbd", "snapshot_set_limit", _Q.pack(limit))
    await change_header(image, op, f"error setting the snapshot limit of image {image.name}")


# ---------------------------------------------------------------- rollback


async def rollback(image: Image, name: str, on_progress: OnProgress | None = None) -> None:
    """Makes the image what it was at a snapshot: its size, and the data of every object.

    Args:
        on_progress: called with (objects, objects in all); a negative result cancels, and leaves the image a
            mixture of both.
    Raises:
        ImageNotFound (ENOENT); ReadOnlyImage (EROFS): it is open read-only or at a snapshot, or somebody else has the
        exclusive lock, which is not asked for; FunctionNotSupported (ENOSYS); OperationCanceled.
    """
    await image.current()
    if image.read_only or image.snap_id != NOSNAP:
        raise ReadOnlyImage(f"image {image.name} was opened read-only, or at a snapshot", errno.EROFS)
    image.find_snapshot(name)
    await operation.invoke(image, None, lambda report: _execute_rollback(image, name, report), on_progress, ask=False)


async def _execute_rollback(image: Image, name: str, report: Report) -> None:
    await image.current()
    features.check_writable(image.header.features, image.name)
    snap = image.find_snapshot(name)
    with await image.writes.block():
        if image.header.size != snap.info.image_size:
            await resize.set_size(image, snap.info.image_size, _unheard)
        numbers = await _rolled_back(image, snap)
        if image.object_map is not None:
            await image.object_map.begin_rollback(snap.id)
        io, snapc = image.data_io, image.header.snap_context
        request = ObjectOperation().rollback(snap.id)
        start = lambda n: io.submit(image.object_name(n), request, snapc=snapc)  # noqa: E731
        await each(image, numbers, start, report)
        if image.object_map is not None:
            await image.object_map.rollback(snap.id)
        await image.refresh()
    await image.header_changed()


def _unheard(done: int, total: int) -> int:
    return 0


async def _rolled_back(image: Image, snap: Snap) -> Collection[int]:
    """The objects that may be there, now or at the snapshot."""
    everything = range(image.layout.num_objects(snap.info.image_size))
    head = image.object_map
    if head is not None and head.valid and not object_map.flags(image, snap.id) & object_map.OBJECT_MAP_INVALID:
        old = await ObjectMap.open(image, snap.id)
        if old is not None and old.valid:
            return sorted({*head.vector.nonzero(0, len(everything)), *old.vector.nonzero(0, len(everything))})
    return await existing_objects(image, everything) if len(everything) > LIST_INSTEAD else everything


# ---------------------------------------------------------------- details of what users did not make


async def group_namespace(image: Image, snap_id: int) -> dict[str, Any]:
    """{pool, name, snap_name} of the group that a snapshot belongs to: its pool's id, its name, and that of its
    snapshot. ImageNotFound (ENOENT); InvalidArgument (EINVAL) for another kind of snapshot."""
    d = _detail(image, snap_id, cls_rbd.SNAP_NAMESPACE_GROUP)
    pool_id, group_id, group_snapshot_id = d.s64(), d.string(), d.string()
    io = image.io.with_pool(pool_id)
    try:
        name = Decoder(await io.call(RBD_GROUP_DIRECTORY, "rbd", "dir_get_name", _string(group_id))).string()
        oid = _GROUP_HEADER_PREFIX + group_id
        data = await io.call(oid, "rbd", "group_snap_get_by_id", _string(group_snapshot_id))
    except rados.Error as e:
        raise make_ex(-(e.errno or errno.EIO), f"the group of snapshot {snap_id} of image {image.name}: {e}") from e
    _, body = Decoder(data).envelope(1, "GroupSnapshot")
    body.string()  # its id
    return {"pool": pool_id, "name": name, "snap_name": body.string()}


def trash_namespace(image: Image, snap_id: int) -> dict[str, Any]:
    """{original_namespace_type, original_name} of a removed snapshot that clones keep. ImageNotFound (ENOENT);
    InvalidArgument (EINVAL) for another kind of snapshot."""
    d = _detail(image, snap_id, cls_rbd.SNAP_NAMESPACE_TRASH)
    name, kind = d.string(), d.u32()
    return {"original_namespace_type": kind, "original_name": name}


def mirror_namespace(image: Image, snap_id: int) -> dict[str, Any]:
    """{state, mirror_peer_uuids, complete, primary_mirror_uuid, primary_snap_id, last_copied_object_number} of a
    snapshot of mirroring. ImageNotFound (ENOENT); InvalidArgument (EINVAL) for another kind of snapshot."""
    d = _detail(image, snap_id, cls_rbd.SNAP_NAMESPACE_MIRROR)
    state, complete = d.u8(), bool(d.u8())
    return {
        "state": state,
        "mirror_peer_uuids": [d.string() for _ in range(d.count(4))],
        "complete": complete,
        "primary_mirror_uuid": d.string(),
        "primary_snap_id": d.u64(),
        "last_copied_object_number": d.u64(),
    }


def _detail(image: Image, snap_id: int, kind: int) -> Decoder:
    namespace = image.find_snapshot(snap_id).info.namespace
    if namespace.type != kind:
        raise InvalidArgument(f"snapshot {snap_id} of image {image.name} is of another kind", errno.EINVAL)
    return Decoder(namespace.detail)


def _string(value: str) -> bytes:
    e = Encoder()
    e.string(value)
    return bytes(e.buf)
