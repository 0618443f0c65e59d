"""The trash: images that were removed, but for their name (`src/librbd/api/Trash.cc`, `src/librbd/trash/`).

An image in the trash has an entry in the object ``rbd_trash``, with a state that tells which change of it has begun.
A change that was interrupted is completed by doing it again.
"""

import errno
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from ..denc import Decoder, Encoder, MapOf, Since, Struct, string, u8
from ..log import Log
from ..msgr.osdop import NOSNAP
from ..msgr.types import Utime
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, features, mirroring
from . import header as headers
from .errors import (
    ConnectionShutdown,
    Error,
    FunctionNotSupported,
    ImageBusy,
    ImageExists,
    ImageMemberOfGroup,
    ImageNotFound,
    InvalidArgument,
    OperationNotSupported,
    OSError,
    OutOfRangeArgument,
    PermissionError,
    make_ex,
)
from .image import Image

if TYPE_CHECKING:
    from ..rados.io import IoContext

_log = Log("image")

TRASH_IMAGE_SOURCE_USER = 0
TRASH_IMAGE_SOURCE_MIRRORING = 1
TRASH_IMAGE_SOURCE_MIGRATION = 2
TRASH_IMAGE_SOURCE_REMOVING = 3
TRASH_IMAGE_SOURCE_USER_PARENT = 4
SOURCE_NAMES = ("USER", "MIRRORING", "MIGRATION", "REMOVING", "USER_PARENT")

TRASH_IMAGE_STATE_NORMAL = 0
TRASH_IMAGE_STATE_MOVING = 1
TRASH_IMAGE_STATE_REMOVING = 2
TRASH_IMAGE_STATE_RESTORING = 3

RESTORABLE = (TRASH_IMAGE_SOURCE_USER, TRASH_IMAGE_SOURCE_MIRRORING, TRASH_IMAGE_SOURCE_USER_PARENT)
"""Sources of what a user may restore."""

NOTIFY_OP_IMAGE_ADDED = 0
NOTIFY_OP_IMAGE_REMOVED = 1
_NOTIFY_TIMEOUT_MS = 5000
_PAGE = 1024
_MAX_TIME = 0xFFFFFFFF

OnProgress = Callable[[int, int], "int | None"]


class TrashImageSpec(Struct, version=2, compat=1):
    """cls::rbd::TrashImageSpec: an entry of the trash."""

    source: u8
    """TRASH_IMAGE_SOURCE_*: who moved it there."""
    name: string
    deletion_time: Utime
    deferment_end_time: Utime
    """When it may be removed."""
    state: Annotated[u8, Since(2)] = TRASH_IMAGE_STATE_NORMAL
    """TRASH_IMAGE_STATE_*."""


class TrashEntry(NamedTuple):
    """An entry of the trash with its image's id."""

    id: str
    spec: TrashImageSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def source(self) -> int:
        return self.spec.source

    def info(self) -> dict[str, Any]:
        """As the `rbd` module shows it: id, name, source, deletion_time and deferment_end_time, both in UTC."""
        import datetime

        def when(t: Utime) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(t.sec, tz=datetime.timezone.utc)

        source = self.spec.source
        return {
            "id": self.id,
            "name": self.spec.name,
            "source": SOURCE_NAMES[source] if source < len(SOURCE_NAMES) else str(source),
            "deletion_time": when(self.spec.deletion_time),
            "deferment_end_time": when(self.spec.deferment_end_time),
        }


_ENTRIES = MapOf(string, TrashImageSpec)


# ---------------------------------------------------------------- the class's methods


def _trash_add(image_id: str, spec: TrashImageSpec) -> ObjectOperation:
    e = Encoder()
    e.string(image_id)
    spec.encode(e)
    return ObjectOperation().call_write("rbd", "trash_add", e.buf)


def _trash_remove(image_id: str) -> ObjectOperation:
    e = Encoder()
    e.string(image_id)
    return ObjectOperation().call_write("rbd", "trash_remove", e.buf)


async def _set_state(io: "IoContext", image_id: str, state: int, expected: int) -> None:
    """trash_state_set; OSDs older than nautilus have no states."""
    e = Encoder()
    e.string(image_id)
    e.u8(state)
    e.u8(expected)
    try:
        await io.operate(cls_rbd.RBD_TRASH, ObjectOperation().call_write("rbd", "trash_state_set", e.buf))
    except rados.ObjectNotFound:
        raise ImageNotFound(f"image {image_id} is not in the trash any more", errno.ENOENT) from None
    except rados.Error as error:
        if error.errno == errno.ESTALE:
            raise make_ex(-errno.ESTALE, f"image {image_id} is being moved or removed by somebody else") from None
        if error.errno != errno.EOPNOTSUPP:
            raise


async def _reset_state(io: "IoContext", image_id: str, expected: int) -> None:
    """Back to normal after a failure, as far as possible."""
    try:
        await _set_state(io, image_id, TRASH_IMAGE_STATE_NORMAL, expected)
    except (rados.Error, Error) as e:
        _log.warning("trash entry %s: its state stays: %s", image_id, e)


async def entries(io: "IoContext") -> list[TrashEntry]:
    """All entries of the trash of a pool and namespace, those too whose image is being removed."""
    found: list[TrashEntry] = []
    last = ""
    while True:
        e = Encoder()
        e.string(last)
        e.u64(_PAGE)
        try:
            data = await io.call(cls_rbd.RBD_TRASH, "rbd", "trash_list", e.buf)
        except rados.ObjectNotFound:
            return found
        page = _ENTRIES.decode(Decoder(data))
        found += [TrashEntry(image_id, spec) for image_id, spec in page.items()]
        if len(page) < _PAGE:
            return found
        last = cls_rbd.listed_up_to(last, page)


async def _notify(io: "IoContext", op: int, image_id: str, spec: TrashImageSpec | None = None) -> None:
    """trash_watcher::NotifyMessage, to who watches the trash (rbd-mirror)."""
    e = Encoder()
    mark = e.start(1, 1)
    e.u32(op)
    e.string(image_id)
    if spec is not None:
        spec.encode(e)
    e.finish(mark)
    try:
        await io.notify(cls_rbd.RBD_TRASH, e.buf, _NOTIFY_TIMEOUT_MS)
    except rados.Error as error:
        _log.info("not all watchers of the trash heard of image %s: %s", image_id, error)


# ---------------------------------------------------------------- what users see


async def list_(io: "IoContext") -> list[TrashEntry]:
    """The entries of the trash, without images that are being removed at once."""
    return [e for e in await entries(io) if e.source != TRASH_IMAGE_SOURCE_REMOVING]


async def get(io: "IoContext", image_id: str) -> TrashEntry:
    """One entry. ImageNotFound if there is none."""
    e = Encoder()
    e.string(image_id)
    try:
        data = await io.call(cls_rbd.RBD_TRASH, "rbd", "trash_get", e.buf)
    except rados.ObjectNotFound:
        raise ImageNotFound(f"image {image_id} is not in the trash", errno.ENOENT) from None
    return TrashEntry(image_id, TrashImageSpec.decode(Decoder(data)))


async def move(io: "IoContext", name: str, delay: int = 0) -> None:
    """Moves an image to the trash, from where it can be restored, with its snapshots and clones.

    Args:
        delay: for so many seconds from now it is removed from there by force only.
    Raises:
        ImageNotFound, ImageBusy (its owner does not give the exclusive lock up, or it is being migrated),
        ImageMemberOfGroup, OperationNotSupported (it is of format 1), FunctionNotSupported (it is mirrored, or has a
        journal).
        After an error that the cluster gave the image is where it was; a move that was interrupted is completed
        by another.
    """
    if not 0 <= delay < 1 << 64:
        raise OutOfRangeArgument(f"a delay of {delay} seconds", errno.EINVAL)
    e = Encoder()
    e.string(name)
    try:
        image_id = cls_rbd.decode_string(await io.call(cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_id", e.buf))
    except rados.ObjectNotFound:
        image_id = await _half_moved(io, name)
    await move_image(io, name, image_id, TRASH_IMAGE_SOURCE_USER, delay)


async def _half_moved(io: "IoContext", name: str) -> str:
    """The id of an image whose move to the trash was interrupted."""
    try:
        await io.operate(name + cls_rbd.V1_SUFFIX, ObjectOperation().stat())
    except rados.ObjectNotFound:
        pass
    else:
        raise OperationNotSupported(f"image {name} is of format 1, and cannot be in the trash", errno.EOPNOTSUPP)
    for entry in await entries(io):
        if (entry.name, entry.source, entry.spec.state) == (name, TRASH_IMAGE_SOURCE_USER, TRASH_IMAGE_STATE_MOVING):
            return entry.id
    raise ImageNotFound(f"error moving image {name} to trash: no such image", errno.ENOENT)


async def move_image(io: "IoContext", name: str, image_id: str, source: int, delay: int = 0) -> None:
    """Trash::move: :func:`move` for an image that was looked up, with who does it (TRASH_IMAGE_SOURCE_*)."""
    await _prepare_move(io, name, image_id, source)
    now = Utime.from_float(time.time())
    end = now.replace(sec=min(now.sec + delay, _MAX_TIME))
    spec = TrashImageSpec(source, name, now, end, TRASH_IMAGE_STATE_MOVING)
    ours = True
    try:
        await io.operate(cls_rbd.RBD_TRASH, _trash_add(image_id, spec))
    except rados.ObjectExists:
        ours = False  # an earlier attempt's
    done: list[tuple[str, ObjectOperation]] = []
    try:
        for oid, op, undo in (
            (
                cls_rbd.id_object(name),
                ObjectOperation().remove(),
                cls_rbd.set_id(ObjectOperation().create(True), image_id),
            ),
            (cls_rbd.RBD_DIRECTORY, cls_rbd.dir_remove_image(ObjectOperation(), name, image_id), None),
        ):
            try:
                await io.operate(oid, op)
            except rados.ObjectNotFound:
                continue
            if undo is not None:
                done.append((oid, undo))
    except (rados.TimedOut, rados.ConnectionShutdown):
        raise  # nobody knows what has been done: another attempt completes it
    except rados.Error:
        if ours:
            done.insert(0, (cls_rbd.RBD_TRASH, _trash_remove(image_id)))
        await _undo(io, name, done)
        raise
    await _set_state(io, image_id, TRASH_IMAGE_STATE_NORMAL, TRASH_IMAGE_STATE_MOVING)
    await _notify(io, NOTIFY_OP_IMAGE_ADDED, image_id, spec.replace(state=TRASH_IMAGE_STATE_NORMAL))


async def _undo(io: "IoContext", name: str, done: list[tuple[str, ObjectOperation]]) -> None:
    for oid, undo in reversed(done):
        try:
            await io.operate(oid, undo)
        except rados.Error as e:
            if e.errno not in (errno.ENOENT, errno.EEXIST):
                _log.warning("after a failed move of %s: %s: %s", name, oid, e)
                return


async def _prepare_move(io: "IoContext", name: str, image_id: str, source: int) -> None:
    """Refuses what must not be moved, and has the owner of the exclusive lock give it up."""
    oid = cls_rbd.header_object(image_id)
    try:
        header = await headers.load(io, oid, False, name)
    except ImageNotFound:
        return  # all that is left of it is the entry
    if header.features & ~features.ALL:
        features.check_readable(header.features, name)
    if await mirroring.mirror_image_get(io, image_id) is not None:
        raise FunctionNotSupported(f"image {name} is mirrored: disable that first", errno.ENOSYS)
    if header.features & features.MIGRATING:
        raise ImageBusy(f"image {name} is being migrated", errno.EBUSY)
    if header.in_group and source != TRASH_IMAGE_SOURCE_MIGRATION:
        raise ImageMemberOfGroup(f"image {name} is in a group", errno.EMLINK)
    if not header.features & features.EXCLUSIVE_LOCK:
        return
    image = await Image.open(io, name, image_id=image_id, skip_parent=True)
    try:
        if image.lock is not None:
            await image.lock.acquire_now()
    except (rados.TimedOut, rados.ConnectionShutdown, ConnectionShutdown, FunctionNotSupported):
        raise
    except (Error, rados.Error) as e:
        raise ImageBusy(f"image {name}: cannot obtain its exclusive lock: {e}", errno.EBUSY) from e
    finally:
        await image.close()


async def restore(io: "IoContext", image_id: str, name: str = "", sources: Iterable[int] = RESTORABLE) -> None:
    """Puts an image back into the directory.

    Args:
        name: what it is called from now on; "" for what it was called.
        sources: what may have been the reason to move it there.
    Raises:
        ImageNotFound: there is no such entry; ImageExists: there is an image of that name;
        ImageBusy: it is being removed; InvalidArgument (the name, or it was not a user who moved it there).
        After these it is in the trash as before; a restore that was interrupted is completed by another.
    """
    from .directory import check_name

    entry = await get(io, image_id)
    if entry.source not in sources:
        raise InvalidArgument(f"image {image_id} was not moved to the trash to be restored", errno.EINVAL)
    if name:
        check_name(name)
    else:
        name = entry.name
    if entry.spec.state not in (TRASH_IMAGE_STATE_NORMAL, TRASH_IMAGE_STATE_RESTORING):
        raise ImageBusy(f"image {image_id} is pending deletion", errno.EBUSY)
    await _check_not_mirrored(io, image_id)
    await _set_state(io, image_id, TRASH_IMAGE_STATE_RESTORING, TRASH_IMAGE_STATE_NORMAL)
    try:
        await _give_name(io, image_id, name)
    except (rados.TimedOut, rados.ConnectionShutdown):
        raise  # nobody knows what has been done: another attempt completes it
    except (rados.Error, Error):
        await _reset_state(io, image_id, TRASH_IMAGE_STATE_RESTORING)
        raise
    try:
        await io.operate(cls_rbd.RBD_TRASH, _trash_remove(image_id))
    except rados.ObjectNotFound:
        pass
    await _notify(io, NOTIFY_OP_IMAGE_REMOVED, image_id)


async def _give_name(io: "IoContext", image_id: str, name: str) -> None:
    """Makes the id object and the directory's entry. If one fails, the other is not left."""
    taken = ImageExists(f"an image with the name {name} already exists", errno.EEXIST)
    try:
        await io.operate(name + cls_rbd.V1_SUFFIX, ObjectOperation().stat())
        raise taken
    except rados.ObjectNotFound:
        pass
    created = True
    try:
        await io.operate(cls_rbd.id_object(name), cls_rbd.set_id(ObjectOperation().create(True), image_id))
    except rados.ObjectExists:
        created = False
        if cls_rbd.decode_string(await io.call(cls_rbd.id_object(name), "rbd", "get_id")) != image_id:
            raise taken from None
    try:
        await io.operate(cls_rbd.RBD_DIRECTORY, cls_rbd.dir_add_image(ObjectOperation(), name, image_id))
    except (rados.TimedOut, rados.ConnectionShutdown):
        raise
    except rados.Error as e:
        if isinstance(e, rados.ObjectExists):
            encoded = Encoder()
            encoded.string(name)
            held = cls_rbd.decode_string(await io.call(cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_id", encoded.buf))
            if held == image_id:
                return  # an earlier attempt's
        if created:
            await io.operate(cls_rbd.id_object(name), ObjectOperation().remove())
        if isinstance(e, rados.ObjectExists):
            raise taken from None
        raise


async def _check_not_mirrored(io: "IoContext", image_id: str) -> None:
    """librbd mirrors an image with a journal again in a pool that mirrors all of these."""
    e = Encoder()
    e.u64(NOSNAP)
    e.u8(1)
    try:
        reply = await io.call(cls_rbd.header_object(image_id), "rbd", "get_features", e.buf)
    except rados.ObjectNotFound:
        return
    if not cls_rbd.FeaturesReply.from_bytes(reply).features & features.JOURNALING:
        return
    if await mirroring.mirror_mode_get(io) == mirroring.RBD_MIRROR_MODE_POOL:
        raise FunctionNotSupported(
            f"image {image_id} has a journal and its pool is mirrored: pyrbd does not yet restore it", errno.ENOSYS
        )


async def remove(io: "IoContext", image_id: str, force: bool = False, on_progress: OnProgress | None = None) -> None:
    """Removes an image from the trash for good.

    Args:
        force: also before its time, and when the exclusive lock's owner does not give it up.
        on_progress: called with (objects done, objects in all); a negative result cancels.
    Raises:
        ImageNotFound, PermissionError (it is not time yet), ImageBusy (it is open, or being restored),
        ImageHasSnapshots, ImageMemberOfGroup, OSError with EUCLEAN (it is being moved there), OperationCanceled,
        FunctionNotSupported (a feature, by name). After an error it is in the trash, and can be removed again.
    """
    from . import directory

    spec = (await get(io, image_id)).spec
    if time.time() < float(spec.deferment_end_time) and not force:
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(spec.deferment_end_time.sec))
        raise PermissionError(f"image {image_id} is kept until {until}", errno.EPERM)
    if spec.state == TRASH_IMAGE_STATE_MOVING:
        raise make_ex(-errno.EUCLEAN, f"image {image_id} is pending moving to the trash")
    if spec.state not in (TRASH_IMAGE_STATE_NORMAL, TRASH_IMAGE_STATE_REMOVING):
        raise ImageBusy(f"image {image_id} is pending restoration", errno.EBUSY)
    await _set_state(io, image_id, TRASH_IMAGE_STATE_REMOVING, TRASH_IMAGE_STATE_NORMAL)
    try:
        await directory.remove_image(io, image_id, spec.name, on_progress, force=force)
    except BaseException:
        await _reset_state(io, image_id, TRASH_IMAGE_STATE_REMOVING)
        raise
    try:
        await io.operate(cls_rbd.RBD_TRASH, _trash_remove(image_id))
    except rados.ObjectNotFound:
        pass
    await _notify(io, NOTIFY_OP_IMAGE_REMOVED, image_id)


_LATER = (errno.ENOTEMPTY, errno.EBUSY, errno.EMLINK, errno.EUCLEAN)
"""What may go away when other images are removed first."""


async def purge(
    io: "IoContext", expire_ts: float = 0, threshold: float = -1, on_progress: OnProgress | None = None
) -> None:
    """Removes images from the trash whose time has come, parents after their clones.

    Args:
        expire_ts: seconds since the epoch: what may be removed since then; 0 for now.
        threshold: from 0 to 1: only if a pool is fuller than that, and then also images whose time has not come, the
            next ones first, until what they occupy would bring it below. -1 for no threshold.
        on_progress: called with (images done, images in all).
    Raises:
        InvalidArgument: the threshold; and what :func:`remove` raises of the images that are left.
    """
    candidates = [e for e in await list_(io) if e.source in (TRASH_IMAGE_SOURCE_USER, TRASH_IMAGE_SOURCE_USER_PARENT)]
    chosen: dict[str, None] = {}
    if threshold != -1:
        if not 0 <= threshold <= 1:
            raise InvalidArgument(f"threshold {threshold} is not between 0 and 1", errno.EINVAL)
        chosen = await _to_free(io, candidates, threshold)
        if not chosen:
            return
    now = expire_ts or time.time()
    chosen |= dict.fromkeys(e.id for e in candidates if now >= e.spec.deferment_end_time.sec)
    todo, done = sorted(chosen), 0
    while todo:
        failed: list[str] = []
        first: OSError | None = None
        for image_id in todo:
            try:
                await remove(io, image_id, True)
            except ImageNotFound:
                pass  # with its last clone
            except OSError as e:
                if e.errno not in _LATER:
                    raise
                failed.append(image_id)
                first = first or e
                continue
            done += 1
            if on_progress is not None:
                on_progress(done, len(chosen))
        if first is not None and len(failed) == len(todo):
            raise first
        todo = failed


async def _to_free(io: "IoContext", candidates: list[TrashEntry], threshold: float) -> dict[str, None]:
    """The images to remove so that no pool is fuller than `threshold`."""
    import json

    from ..rados.commands import decode_json

    client = io.client
    by_pool: dict[int, list[TrashEntry]] = {}
    for entry in sorted(candidates, key=lambda e: (e.spec.deferment_end_time.sec, e.id)):
        try:
            reply = await io.call(cls_rbd.header_object(entry.id), "rbd", "get_data_pool")
            pool_id = Decoder(reply).s64()
        except rados.ObjectNotFound:
            pool_id = -1
        by_pool.setdefault(io.pool_id if pool_id == -1 else pool_id, []).append(entry)
    answer = await client.mon_command(json.dumps({"prefix": "df", "format": "json"}))
    if answer.result:
        raise make_ex(answer.result, f"error getting the usage of pools: {answer.status}")
    chosen: dict[str, None] = {}
    freed_at_all = False

    def too_full(found: Any) -> list[tuple[int, int]]:
        """[(pool, bytes that are too many)]"""
        pools = [(int(p["id"]), p["stats"]) for p in found["pools"]]
        return [
            (pool_id, int((s["max_avail"] + s["bytes_used"]) * (s["percent_used"] - threshold)))
            for pool_id, s in pools
            if pool_id in by_pool and s["percent_used"] > threshold
        ]

    for pool_id, wanted in decode_json(answer.output, too_full):
        freed = 0
        for entry in by_pool[pool_id]:
            try:
                freed += await _used_bytes(io, entry.id)
            except ImageNotFound:
                continue
            chosen[entry.id] = None
            if freed >= wanted:
                break
        freed_at_all = freed_at_all or bool(freed)
    return chosen if freed_at_all else {}


async def _used_bytes(io: "IoContext", image_id: str) -> int:
    """What the objects of an image occupy, without what its parent gives."""
    from .diff import diff_iterate

    used = 0

    def add(offset: int, length: int, exists: bool) -> None:
        nonlocal used
        used += length if exists else 0

    image = await Image.open(io, image_id=image_id, read_only=True, skip_parent=True)
    try:
        await diff_iterate(image, 0, image.size, None, add, include_parent=False, whole_object=True)
    finally:
        await image.close()
    return used
