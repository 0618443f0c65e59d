"""Namespaces of a pool that hold images (`src/librbd/api/Namespace.cc`)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..denc import Decoder, Encoder
from ..log import Log
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, groups, mirroring
from .errors import FunctionNotSupported, ImageBusy, ImageExists, ImageNotFound, InvalidArgument

if TYPE_CHECKING:
    from ..rados.io import IoContext

_log = Log("image")

RBD_NAMESPACE = "rbd_namespace"
RBD_TASK = "rbd_task"

DIRECTORY_STATE_ADD_DISABLED = 1

_POOL_OBJECTS = (
    cls_rbd.RBD_CHILDREN,
    groups.RBD_GROUP_DIRECTORY,
    cls_rbd.RBD_INFO,
    mirroring.RBD_MIRRORING,
    RBD_TASK,
    cls_rbd.RBD_TRASH,
    cls_rbd.RBD_DIRECTORY,
)
_PAGE = 1024


def _name_operation(method: str, name: str) -> ObjectOperation:
    e = Encoder()
    e.string(name)
    return ObjectOperation().call_write("rbd", method, e.buf)


def _dir_state_set(state: int) -> ObjectOperation:
    return ObjectOperation().call_write("rbd", "dir_state_set", bytes((state,)))


def _check_name(name: str) -> None:
    if not name:
        raise InvalidArgument("the name of a namespace must not be empty", errno.EINVAL)


async def create(io: IoContext, name: str) -> None:
    """Creates a namespace.

    Raises:
        InvalidArgument (an empty name), ImageExists. After an error that the cluster gave nothing of it is left.
    """
    _check_name(name)
    pool, inside = io.with_namespace(""), io.with_namespace(name)
    try:
        await pool.operate(RBD_NAMESPACE, _name_operation("namespace_add", name))
    except rados.ObjectExists:
        raise ImageExists(f"namespace {name} exists", errno.EEXIST) from None
    try:
        await inside.operate(cls_rbd.RBD_TRASH, ObjectOperation().create(False))
        await inside.operate(cls_rbd.RBD_DIRECTORY, _dir_state_set(cls_rbd.DIRECTORY_STATE_READY))
    except BaseException:
        for context, oid, undo in (
            (inside, cls_rbd.RBD_DIRECTORY, ObjectOperation().remove()),
            (inside, cls_rbd.RBD_TRASH, ObjectOperation().remove()),
            (pool, RBD_NAMESPACE, _name_operation("namespace_remove", name)),
        ):
            try:
                await context.operate(oid, undo)
            except rados.Error as e:
                if e.errno != errno.ENOENT:
                    _log.warning("after a failed create of namespace %s: %s: %s", name, oid, e)
        raise


async def remove(io: IoContext, name: str) -> None:
    """Removes a namespace that has no images, in its trash neither.

    Raises:
        InvalidArgument (an empty name), ImageNotFound, ImageBusy (it is not empty, or has peers to mirror to),
        FunctionNotSupported (its images are mirrored). After ImageBusy it is as it was; after another error it may
        be gone by half, and can be removed again.
    """
    _check_name(name)
    pool, inside = io.with_namespace(""), io.with_namespace(name)
    if await mirroring.has_mirror_peers(inside):
        raise ImageBusy(f"namespace {name} has mirror peers", errno.EBUSY)
    if await mirroring.mirror_mode_get(inside) != mirroring.RBD_MIRROR_MODE_DISABLED:
        raise FunctionNotSupported(f"the images of namespace {name} are mirrored: disable that first", errno.ENOSYS)
    try:
        try:
            await inside.operate(cls_rbd.RBD_DIRECTORY, _dir_state_set(DIRECTORY_STATE_ADD_DISABLED).remove())
        except rados.ObjectNotFound:
            pass
        if await _has_trash(inside):
            raise rados.ObjectBusy("the trash is not empty", errno.EBUSY)
    except rados.ObjectBusy:
        await inside.operate(cls_rbd.RBD_DIRECTORY, _dir_state_set(cls_rbd.DIRECTORY_STATE_READY))
        raise ImageBusy(f"namespace {name} has images", errno.EBUSY) from None
    for oid in _POOL_OBJECTS:
        try:
            await inside.operate(oid, ObjectOperation().remove())
        except rados.ObjectNotFound:
            pass
    try:
        await pool.operate(RBD_NAMESPACE, _name_operation("namespace_remove", name))
    except rados.ObjectNotFound:
        raise ImageNotFound(f"namespace {name} does not exist", errno.ENOENT) from None


async def _has_trash(io: IoContext) -> bool:
    e = Encoder()
    e.string("")
    e.u64(1)
    try:
        return bool(Decoder(await io.call(cls_rbd.RBD_TRASH, "rbd", "trash_list", e.buf)).u32())
    except rados.ObjectNotFound:
        return False


async def exists(io: IoContext, name: str) -> bool:
    """Whether there is a namespace of that name. InvalidArgument for an empty one."""
    _check_name(name)
    op = cls_rbd.dir_state_assert(ObjectOperation(), cls_rbd.DIRECTORY_STATE_READY)
    try:
        await io.with_namespace(name).operate(cls_rbd.RBD_DIRECTORY, op)
    except rados.ObjectNotFound:
        return False
    return True


async def list_(io: IoContext) -> list[str]:
    """The names of a pool's namespaces, in their order; the default one, which has none, is not among them."""
    pool, found = io.with_namespace(""), list[str]()
    last = ""
    while True:
        e = Encoder()
        e.string(last)
        e.u64(_PAGE)
        try:
            d = Decoder(await pool.call(RBD_NAMESPACE, "rbd", "namespace_list", e.buf))
        except rados.ObjectNotFound:
            return found
        page = [d.string() for _ in range(d.count(4))]
        found += page
        if len(page) < _PAGE:
            return found
        last = cls_rbd.listed_up_to(last, page)
