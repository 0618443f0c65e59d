"""Removing an image with all its data (`src/librbd/api/Image.cc`, remove; `src/librbd/image/PreRemoveRequest.cc`,
`RemoveRequest.cc`, `src/librbd/operation/TrimRequest.cc`).

As in librbd, an image is moved to the trash before the first of its objects goes. So nobody opens by its name what
has lost a part of its data, and a removal that was interrupted is finished by the next one of that name, ours or
librbd's: until then the trash has it, and the lists of images name it.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..denc import Encoder
from ..errors import DecodeError
from ..log import Log
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import bulk, cls_rbd, features, object_map, trash
from .clone import detach_child
from .errors import Error, ImageBusy, ImageHasSnapshots, ImageMemberOfGroup, ImageNotFound, OSError, make_ex
from .exclusive_lock import STANDARD
from .image import Image
from .listing import LIST_INSTEAD, existing_objects
from .metadata import load_pool_config

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from ..rados.io import IoContext, OpReply
    from .bit_vector import BitVector
    from .cls_rbd import WatchItem

_log = Log("image")

OnProgress = Callable[[int, int], "int | None"]


class ImageHasChildren(ImageHasSnapshots):
    """Only snapshots in the trash are left, which clones need (ECHILD)."""


async def remove(io: IoContext, name: str, on_progress: OnProgress | None = None) -> None:
    """Removes an image and all its data.

    Its objects go as many at a time as `rbd_concurrent_management_ops` says. If this is interrupted, it can be
    repeated. With `rbd_move_to_trash_on_remove` the image is only moved to the trash, and with
    `rbd_move_parent_to_trash_on_remove` one that clones need stays there until they are gone.

    Args:
        on_progress: called with (objects done, objects in all); a negative result cancels.
    Raises:
        ImageNotFound, ImageBusy (somebody has it open, or holds its exclusive lock; it is being migrated),
        ImageMemberOfGroup, ImageHasSnapshots, FunctionNotSupported (a feature, by name), OperationCanceled.
    """
    image_id = await find_in_directory(io, name)
    if image_id is None:
        await _remove_unlisted(io, name, on_progress)
        return
    options = await load_pool_config(io)
    source, delay = trash.TRASH_IMAGE_SOURCE_REMOVING, 0
    if options.get_bool("rbd_move_to_trash_on_remove"):
        source = trash.TRASH_IMAGE_SOURCE_USER
        delay = options.get_int("rbd_move_to_trash_on_remove_expire_seconds")
    else:
        try:
            await _check_removable(io, name, image_id)
        except ImageNotFound:
            pass  # only its entry is left
        except ImageHasChildren:
            if not options.get_bool("rbd_move_parent_to_trash_on_remove"):
                raise
            source = trash.TRASH_IMAGE_SOURCE_USER_PARENT
    await trash.move_image(io, name, image_id, source, delay)
    if source != trash.TRASH_IMAGE_SOURCE_REMOVING:
        return
    try:
        await trash.remove(io, image_id, True, on_progress)
    except OSError as e:
        if e.errno in (errno.ENOTEMPTY, errno.EBUSY, errno.EMLINK):
            try:
                await trash.restore(io, image_id, name, (source,))
            except (Error, rados.Error) as failed:
                _log.warning("image %s, which cannot be removed, stays in the trash: %s", name, failed)
        raise


async def find_in_directory(io: IoContext, name: str) -> str | None:
    """The id of an image of format 2 that the directory lists."""
    e = Encoder()
    e.string(name)
    try:
        return cls_rbd.decode_string(await io.call(cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_id", e.buf))
    except rados.ObjectNotFound:
        return None


async def _check_removable(io: IoContext, name: str, image_id: str) -> None:
    """What forbids the removal is found before the image is moved (Image.cc, pre_remove_image)."""
    image = await Image.open(io, name, image_id=image_id, skip_parent=True)
    try:
        _check_use(image, await image.watchers())
        await _remove_trashed_snapshots(image)
    finally:
        await image.close()


async def _remove_unlisted(io: IoContext, name: str, on_progress: OnProgress | None) -> None:
    """What the directory of format 2 does not have: a removal that was interrupted, an image of format 1, remains."""
    for entry in await trash.entries(io):
        if (entry.name, entry.source) == (name, trash.TRASH_IMAGE_SOURCE_REMOVING):
            if entry.spec.state == trash.TRASH_IMAGE_STATE_MOVING:
                await trash.move_image(io, name, entry.id, entry.source)
            await trash.remove(io, entry.id, True, on_progress)
            return
    raw = name.encode("utf-8", "surrogateescape")
    try:
        image = await Image.open(io, name, skip_parent=True)
    except ImageNotFound as missing:
        try:
            await io.operate(cls_rbd.RBD_DIRECTORY, ObjectOperation().tmap_update(removed=[raw]))
        except rados.Error:
            raise missing from None
        return
    if not image.old_format:
        image_id = image.id
        await image.close()
        await remove_image(io, image_id, name, on_progress)
        await _gone(io.submit(cls_rbd.id_object(name), ObjectOperation().remove()))
        return
    try:
        await _pre_remove(image, False)
        await remove_objects(image, range(image.layout.num_objects(image.header.size)), on_progress)
    finally:
        await image.close()
    await _gone(io.submit(image.header_oid, ObjectOperation().remove()))
    await _gone(io.submit(cls_rbd.RBD_DIRECTORY, ObjectOperation().tmap_update(removed=[raw])))


async def remove_image(
    io: IoContext, image_id: str, name: str, on_progress: OnProgress | None = None, force: bool = False
) -> None:
    """Removes an image of format 2 but for its name: data, its place among its parent's children, header, object map.

    Args:
        force: also when the exclusive lock cannot be had.
    Raises:
        ImageBusy, ImageMemberOfGroup, ImageHasSnapshots, FunctionNotSupported, OperationCanceled. What is not there
        any more is no error.
    """
    try:
        image = await Image.open(io, name, image_id=image_id, skip_parent=True)
    except ImageNotFound:
        pass
    else:
        try:
            await _pre_remove(image, force)
            if image.data_io.pool_id in io.client.osdmap.pools:
                await remove_objects(image, range(image.layout.num_objects(image.header.size)), on_progress)
            await detach_child(image)
        finally:
            await image.close()
    await _gone(io.submit(cls_rbd.header_object(image_id), ObjectOperation().remove()))
    await _gone(io.submit(object_map.object_map_object(image_id), ObjectOperation().remove()))


async def _pre_remove(image: Image, force: bool) -> None:
    """PreRemoveRequest: nobody else uses the image, and it has no snapshots but those that only clones kept, which
    go now.

    We look for snapshots and watchers before we ask the lock's owner, so that he is not disturbed for nothing.
    """
    _check_use(image, await image.watchers())
    if image.lock is not None:
        image.lock.policy = STANDARD  # who asks for it while the image goes does not get it
        try:
            await image.lock.acquire_now()
        except (Error, rados.Error) as e:
            if not force:
                raise ImageBusy(f"image {image.name}: cannot obtain its exclusive lock: {e}", errno.EBUSY) from e
        await image.current()
        _check_use(image, await image.watchers())
    await _remove_trashed_snapshots(image)


def _check_use(image: Image, watchers: list[WatchItem]) -> None:
    header, name = image.header, image.name
    features.check_manageable(header.features, header.raw.op_features, name)
    if any(s.info.namespace.type != cls_rbd.SNAP_NAMESPACE_TRASH for s in header.snaps):
        raise ImageHasSnapshots(f"image {name} has snapshots", errno.ENOTEMPTY)
    if watchers:
        who = ", ".join(f"{w.name} at {w.addr}" for w in watchers)
        raise ImageBusy(f"image {name} is open: {who}", errno.EBUSY)
    if header.in_group:
        raise ImageMemberOfGroup(f"image {name} is in a group", errno.EMLINK)


async def _remove_trashed_snapshots(image: Image) -> None:
    from . import snapshots

    needed = False
    for snap in image.header.snaps:
        try:
            await snapshots.remove(image, snap.id)
        except ImageNotFound:
            pass
        except ImageBusy:
            needed = True
    if needed:
        raise ImageHasChildren(f"image {image.name} has snapshots that clones need", errno.ENOTEMPTY)


# ---------------------------------------------------------------- the data


async def remove_objects(image: Image, objects: range, on_progress: OnProgress | None = None) -> None:
    """Removes data objects; those that are not there are skipped.

    An object map tells which can be there. Without one, when the range is much larger than what
    can be there, the pool is listed, and only what it has is removed: an image of 1 PiB may have
    2**28 objects, and has few.
    """
    io, window = image.data_io, bulk.window(image)
    snapc = image.header.snap_context
    numbers: Sequence[int] = objects
    vector = await _load_object_map(image)
    if vector is not None and vector.size >= objects.stop:
        numbers = list(vector.nonzero(objects.start, objects.stop))
    elif len(objects) > LIST_INSTEAD:
        numbers = await existing_objects(image, objects)
    pending: deque[Completion[OpReply]] = deque()
    total, finished = len(numbers), 0
    removal = ObjectOperation().remove()
    try:
        for object_no in reversed(numbers):
            if len(pending) >= window:
                await _gone(pending.popleft())
                finished += 1
                report(on_progress, finished, total)
            pending.append(io.submit(image.object_name(object_no), removal, snapc=snapc))
    finally:
        while pending:
            await _gone(pending.popleft())
            finished += 1
    report(on_progress, finished, total)


async def _load_object_map(image: Image) -> BitVector | None:
    """The object map of the head, where it is to be believed: nobody can change it meanwhile."""
    if not image.has(features.OBJECT_MAP) or object_map.flags(image) & object_map.OBJECT_MAP_INVALID:
        return None
    if image.object_map is not None:
        vector: BitVector = image.object_map.vector
        return vector
    if image.lock is not None and not image.lock.owner:
        return None
    try:
        return await object_map.load(image.io, image.id)
    except (rados.ObjectNotFound, rados.InvalidArgumentError, DecodeError) as e:
        _log.info("%r: its object map is of no use: %s", image, e)
        return None


async def _gone(completion: Completion[OpReply]) -> None:
    try:
        await completion
    except rados.ObjectNotFound:
        pass


def report(on_progress: OnProgress | None, done: int, total: int) -> None:
    """Tells the caller; a negative answer cancels."""
    if on_progress is not None:
        answer = on_progress(done, total)
        if isinstance(answer, int) and answer < 0:
            raise make_ex(-errno.ECANCELED, "canceled by on_progress")
