"""Images of a pool: the directory, creating, renaming and removing
(`src/librbd/image/CreateRequest.cc`, `RemoveRequest.cc`, `ValidatePoolRequest.cc`,
`src/librbd/operation/RenameRequest.cc`)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..log import Log
from ..msgr.types import HObject
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, features
from .errors import (
    ArgumentOutOfRange,
    FunctionNotSupported,
    ImageBusy,
    ImageExists,
    ImageHasSnapshots,
    ImageMemberOfGroup,
    ImageNotFound,
    InvalidArgument,
    OutOfRangeArgument,
    make_ex,
)
from .image import Image, find
from .layout import MAX_ORDER, MIN_ORDER, Layout

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from ..rados.io import IoContext, OpReply

_log = Log("image")

_VALIDATE = b"validate"
_VALIDATED = b"overwrite validated"
_LIST_PAGE = 1024
LIST_INSTEAD = 1 << 15
"""From so many possible objects on, those that exist are looked up before they are removed."""
OnProgress = Callable[[int, int], "int | None"]


async def list_images(io: IoContext) -> dict[str, str]:
    """{name: id} of the images of a pool and namespace; an id is "" for format 1."""
    found: dict[str, str] = {}
    last = ""
    while True:
        try:
            reply = await io.operate(cls_rbd.RBD_DIRECTORY, cls_rbd.dir_list(last, _LIST_PAGE))
        except rados.ObjectNotFound:
            break
        page = cls_rbd.decode_dir_list(reply.ops[0].data)
        found.update(page)
        if len(page) < _LIST_PAGE:
            break
        last = max(page)
    found.update(dict.fromkeys(await _list_v1(io), ""))
    return found


async def _list_v1(io: IoContext) -> list[str]:
    """Names of format 1 images: keys of the directory's own omap."""
    names: list[str] = []
    last = b""
    while True:
        try:
            op = ObjectOperation().omap_get_keys(last, _LIST_PAGE)
            reply = await io.operate(cls_rbd.RBD_DIRECTORY, op)
        except rados.ObjectNotFound:
            return names
        from ..denc import Decoder

        d = Decoder(reply.ops[0].data)
        keys = [d.blob() for _ in range(d.count(4))]
        # format 2 keeps its entries under name_ and id_ in the same omap
        names += [k.decode("utf-8", "surrogateescape") for k in keys if not k.startswith((b"name_", b"id_", b"state"))]
        if len(keys) < _LIST_PAGE:
            return names
        last = keys[-1]


def check_name(name: str) -> None:
    """Refuses names that no tool could name in an image-spec."""
    if not name:
        raise InvalidArgument("an image's name must not be empty", errno.EINVAL)
    for c in ("@", "/", "\0"):
        if c in name:
            raise InvalidArgument(f"image name {name!r} must not contain {c!r}", errno.EINVAL)


async def validate_pool(io: IoContext) -> None:
    """Makes sure once that the pool can hold images: self-managed snapshots and overwrites.

    Raises:
        InvalidArgument: the pool is in pool-snapshot mode, or erasure-coded without overwrites.
    """
    client = io.client
    try:
        seen = await io.submit_read(cls_rbd.RBD_INFO, 0, 64)
    except rados.ObjectNotFound:
        seen = b""
    if seen == _VALIDATED:
        return
    unusable = f"pool {client.osdmap.pool_names.get(io.pool_id, io.pool_id)} cannot hold RBD images"
    try:
        if seen != _VALIDATE:
            snap_id = await client.create_selfmanaged_snap(io.pool_id)
            try:
                await io.operate(cls_rbd.RBD_INFO, ObjectOperation().create(True).write(0, _VALIDATE))
            except rados.ObjectExists:
                pass
            finally:
                await client.remove_selfmanaged_snap(io.pool_id, snap_id)
        await io.operate(cls_rbd.RBD_INFO, ObjectOperation().write(0, _VALIDATED))
    except rados.InvalidArgumentError as e:
        raise InvalidArgument(f"{unusable}: it uses pool snapshots", errno.EINVAL) from e
    except rados.OSError as e:
        if e.errno != errno.EOPNOTSUPP:
            raise
        raise InvalidArgument(f"{unusable}: erasure-coded, without allow_ec_overwrites", errno.EINVAL) from e


def generate_image_id(global_id: int) -> str:
    """util::generate_image_id: our global id and a random number, in hex."""
    return f"{global_id:x}{random.SystemRandom().getrandbits(32):x}"[-cls_rbd.MAX_IMAGE_ID :]


async def create(
    io: IoContext,
    name: str,
    size: int,
    order: int | None = None,
    features_wanted: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
) -> str:
    """Creates a format 2 image and gives its id.

    What the caller leaves out comes from the options `rbd_default_*`; of
    `rbd_default_features`, only those that pyrbd can write to.

    Raises:
        ImageExists, InvalidArgument, ArgumentOutOfRange (the order), FunctionNotSupported (a
        feature, by name). After any error nothing of the image is left.
    """
    config = io.client.config
    check_name(name)
    if not 0 <= size < 1 << 64:
        raise OutOfRangeArgument(f"size {size} is not that of an image", errno.EINVAL)
    order = order or config.get_int("rbd_default_order")
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise ArgumentOutOfRange(f"order {order} is not between {MIN_ORDER} and {MAX_ORDER}", errno.EDOM)
    object_size = 1 << order
    stripe_unit = stripe_unit or config.get_int("rbd_default_stripe_unit")
    stripe_count = stripe_count or config.get_int("rbd_default_stripe_count")
    _check_striping(object_size, stripe_unit, stripe_count)
    if features_wanted is None:
        bits = features.features_from_string(config.get("rbd_default_features") or "0") & features.CREATABLE
    else:
        bits = features_wanted
        if bits & ~features.ALL or bits < 0:
            raise FunctionNotSupported(f"features {bits & ~features.ALL:#x} are not known", errno.ENOSYS)
        bits &= ~features.IMPLICIT_ENABLE
        bad = bits & ~features.CREATABLE
        if bad:
            raise FunctionNotSupported(f"pyrbd does not yet create images with {features.names(bad)}", errno.ENOSYS)
    bits &= ~features.IMPLICIT_ENABLE
    pool_name = io.client.osdmap.pool_names.get(io.pool_id)
    data_pool = data_pool if data_pool is not None else config.get("rbd_default_data_pool")
    data_pool_id = -1
    data_io = io
    if data_pool and data_pool != pool_name:
        data_pool_id = await io.client.lookup_pool(data_pool)
        data_io = io.with_pool(data_pool_id)
        bits |= features.DATA_POOL
    striped = (stripe_unit not in (0, object_size)) or stripe_count not in (0, 1)
    if striped:
        bits |= features.STRIPINGV2
    if config.get_bool("rbd_validate_pool"):
        await validate_pool(data_io.with_namespace(""))
    image_id = generate_image_id(io.client.global_id)
    prefix = cls_rbd.DATA_PREFIX + (f"{io.pool_id}." if data_pool_id != -1 else "") + image_id

    directory = ObjectOperation()
    if io.namespace:
        cls_rbd.dir_state_assert(directory, cls_rbd.DIRECTORY_STATE_READY)
    cls_rbd.dir_add_image(directory, name, image_id)
    id_op = cls_rbd.set_id(ObjectOperation().create(True), image_id)
    header_op = cls_rbd.create(ObjectOperation().create(True), size, order, bits, prefix, data_pool_id)

    done: list[tuple[str, ObjectOperation]] = []
    try:
        await _step(io, cls_rbd.RBD_DIRECTORY, directory, done, cls_rbd.dir_remove_image(_op(), name, image_id))
        await _step(io, cls_rbd.id_object(name), id_op, done, _op().remove())
        await _step(io, cls_rbd.header_object(image_id), header_op, done, _op().remove())
        if striped:  # on its own: the class looks up the features that the request before wrote
            await io.operate(
                cls_rbd.header_object(image_id), cls_rbd.set_stripe_unit_count(_op(), stripe_unit, stripe_count)
            )
    except BaseException as e:
        for oid, undo in reversed(done):
            try:
                await io.operate(oid, undo)
            except rados.Error as failed:
                if failed.errno != errno.ENOENT:
                    _log.warning("after a failed create of %s: %s: %s", name, oid, failed)
        if isinstance(e, rados.ObjectExists):
            raise ImageExists(f"error creating image {name}", errno.EEXIST) from None
        if isinstance(e, rados.ObjectNotFound) and io.namespace:
            raise ImageNotFound(f"namespace {io.namespace} does not exist", errno.ENOENT) from None
        raise
    return image_id


def _op() -> ObjectOperation:
    return ObjectOperation()


async def _step(
    io: IoContext, oid: str, op: ObjectOperation, done: list[tuple[str, ObjectOperation]], undo: ObjectOperation
) -> None:
    """One step of a creation. An outcome that is not known counts as done."""
    try:
        await io.operate(oid, op)
    except rados.Error as e:
        if not isinstance(e, rados.TimedOut | rados.ConnectionShutdown):
            raise
        done.append((oid, undo))
        raise
    except BaseException:
        done.append((oid, undo))
        raise
    done.append((oid, undo))


def _check_striping(object_size: int, unit: int, count: int) -> None:
    """CreateRequest's validate_striping."""
    if bool(unit) != bool(count):
        raise InvalidArgument("stripe unit and stripe count must be given together", errno.EINVAL)
    if unit and (unit > object_size or object_size % unit or unit < 0 or count < 0):
        raise InvalidArgument(f"stripe unit {unit} is not a factor of the object size {object_size}", errno.EINVAL)


async def rename(io: IoContext, source: str, dest: str) -> None:
    """Gives an image another name.

    Raises:
        ImageNotFound, ImageExists, InvalidArgument, FunctionNotSupported (a feature, by name).
    """
    check_name(dest)
    image = await Image.open(io, name=source, read_only=True)
    try:
        features.check_writable(image.header.features, source)
        image_id = image.id
    finally:
        await image.close()
    if source == dest:
        raise ImageExists(f"image {source} cannot be renamed to its own name", errno.EEXIST)
    try:
        await io.operate(cls_rbd.id_object(dest), cls_rbd.set_id(_op().create(True), image_id))
    except rados.ObjectExists:
        raise ImageExists(f"error renaming image {source} to {dest}", errno.EEXIST) from None
    try:
        await io.operate(cls_rbd.RBD_DIRECTORY, cls_rbd.dir_rename_image(_op(), source, dest, image_id))
    except rados.Error as e:
        await io.operate(cls_rbd.id_object(dest), _op().remove())
        if isinstance(e, rados.ObjectExists):
            raise ImageExists(f"error renaming image {source} to {dest}", errno.EEXIST) from None
        raise
    try:
        await io.operate(cls_rbd.id_object(source), _op().remove())
    except rados.ObjectNotFound:
        pass


async def remove(io: IoContext, name: str, on_progress: OnProgress | None = None) -> None:
    """Removes an image and all its data.

    Its objects are removed first, as many at a time as `rbd_concurrent_management_ops` says.
    If this is interrupted, the image is still in the directory, and can be removed again.

    Args:
        on_progress: called with (objects done, objects in all); a negative result cancels.
    Raises:
        ImageNotFound, ImageBusy (somebody has it open, or it is in a group),
        ImageHasSnapshots, FunctionNotSupported (a feature, by name), OperationCanceled.
    """
    try:
        image_id, old_format = await find(io, name)
        if old_format:
            raise FunctionNotSupported(f"image {name} is of format 1: pyrbd does not yet remove it", errno.ENOSYS)
        await remove_image(io, image_id, name, on_progress)
    except ImageNotFound:
        if not await _remove_remains(io, name):
            raise
        return
    try:
        await io.operate(cls_rbd.id_object(name), _op().remove())
    except rados.ObjectNotFound:
        pass
    await io.operate(cls_rbd.RBD_DIRECTORY, cls_rbd.dir_remove_image(_op(), name, image_id))


async def remove_image(
    io: IoContext, image_id: str, name: str, on_progress: OnProgress | None = None, force: bool = False
) -> None:
    """Removes an image but for its name."""
    try:
        image = await Image.open(io, image_id=image_id, read_only=True)
    except ImageNotFound:
        return
    try:
        header = image.header
        features.check_writable(header.features, name)
        if header.snaps:
            raise ImageHasSnapshots(f"error removing image {name}", errno.ENOTEMPTY)
        if header.parent is not None:
            raise FunctionNotSupported(f"image {name} is a clone: pyrbd does not yet remove clones", errno.ENOSYS)
        if header.in_group:
            raise ImageMemberOfGroup(f"image {name} is in a group", errno.EMLINK)
        watchers = await image.watchers()
        if watchers:
            who = ", ".join(f"{w.name} at {w.addr}" for w in watchers)
            raise ImageBusy(f"image {name} is open: {who}", errno.EBUSY)
        await remove_objects(image, range(image.layout.num_objects(header.size)), on_progress)
    finally:
        await image.close()
    try:
        await io.operate(cls_rbd.header_object(image_id), _op().remove())
    except rados.ObjectNotFound:
        pass


async def _remove_remains(io: IoContext, name: str) -> bool:
    """Takes an entry out of the directory whose header or id object has gone already."""
    image_id = (await list_images(io)).get(name)
    if not image_id:
        return False
    try:
        await io.operate(cls_rbd.header_object(image_id), _op().stat())
        return False  # that is not what a removal leaves behind
    except rados.ObjectNotFound:
        pass
    try:
        await io.operate(cls_rbd.id_object(name), _op().remove())
    except rados.ObjectNotFound:
        pass
    await io.operate(cls_rbd.RBD_DIRECTORY, cls_rbd.dir_remove_image(_op(), name, image_id))
    return True


async def remove_objects(image: Image, objects: range, on_progress: OnProgress | None = None) -> None:
    """Removes data objects; those that are not there are skipped.

    When the range is much larger than what can be there, the pool is listed, and only what
    it has is removed: an image of 1 PiB may have 2**28 objects, and has few.
    """
    from collections import deque

    io, window = image.data_io, max(1, image.io.client.config.get_int("rbd_concurrent_management_ops"))
    snapc = image.header.snap_context
    numbers: Sequence[int] = objects
    if len(objects) > LIST_INSTEAD:
        numbers = [n for n in await _existing_objects(image) if n in objects]
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


async def _existing_objects(image: Image) -> list[int]:
    """The numbers of the data objects that the pool has."""
    prefix = image.header.raw.object_prefix + "."
    cursor = HObject()
    found = []
    while not cursor.max:
        page = await image.data_io.list_page(cursor)
        cursor = page.handle
        found += [int(e.oid[len(prefix) :], 16) for e in page.entries if e.oid.startswith(prefix)]
    return sorted(found)


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


async def resize(image: Image, size: int, allow_shrink: bool = True, on_progress: OnProgress | None = None) -> None:
    """Makes an image larger or smaller (`src/librbd/operation/ResizeRequest.cc`).

    When it shrinks, the data beyond the new end is removed first, so that it does not come
    back when the image grows again.

    Raises:
        InvalidArgument: it would shrink and must not; FunctionNotSupported, ReadOnlyImage.
    """
    if not 0 <= size < 1 << 64:
        raise OutOfRangeArgument(f"size {size} is not that of an image", errno.EINVAL)
    await image.prepare_write()
    header = image.header
    if size < header.size and not allow_shrink:
        raise InvalidArgument(f"image {image.name} is larger than {size} bytes and must not shrink", errno.EINVAL)
    if size < header.size:
        await _trim(image, size, header.size, on_progress)
    await image.io.operate(image.header_oid, cls_rbd.set_size(ObjectOperation(), size))
    await image.header_changed()
    report(on_progress, 1, 1)


async def _trim(image: Image, size: int, old_size: int, on_progress: OnProgress | None) -> None:
    """TrimRequest: removes the objects that are beyond the end, cuts those that reach over it."""
    layout: Layout = image.layout
    period_end = -(-size // layout.period) * layout.period
    keep = layout.num_objects(size)
    whole = range(keep, layout.num_objects(old_size))
    # what is beyond the end in the objects that stay
    edge = {e.object_no: e.offset for e in reversed(list(layout.map(size, max(0, min(period_end, old_size) - size))))}
    for object_no, offset in edge.items():
        if object_no < keep:
            op = ObjectOperation().truncate(offset)
            await _gone(image.data_io.submit(image.object_name(object_no), op, snapc=image.header.snap_context))
    await remove_objects(image, whole, on_progress)
