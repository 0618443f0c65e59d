"""Clones: an image that shows the data of another one's snapshot until it is written
(`src/librbd/image/CloneRequest.cc`, `AttachParentRequest.cc`, `AttachChildRequest.cc`, `DetachParentRequest.cc`,
`DetachChildRequest.cc`).

The child's header names its parent. The parent knows its children in one of two ways: clones of format 1 are
listed in the object rbd_children of their own pool, which is why all pools are searched for them and the snapshot
has to be protected meanwhile; clones of format 2 are listed in the parent's header, which keeps a snapshot that is
removed in the trash until its last child goes.
"""

import errno
import struct
import time

from ..denc import Encoder, MapOf, Struct, s64, string
from ..log import Log
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.io import IoContext
from ..rados.operations import ObjectOperation
from . import cls_rbd, features, metadata
from .cls_rbd import ParentSpec, SnapshotInfo
from .create import Undo, check_name, create_v2, take_back
from .errors import (
    FunctionNotSupported,
    ImageExists,
    ImageNotFound,
    InvalidArgument,
    OSError,
    make_ex,
)
from .image import Image
from .metadata import load_pool_config
from .options import clone_format

_log = Log("image")

OPERATION_CLONE_CHILD = 1 << 1
"""RBD_OPERATION_FEATURE_CLONE_CHILD."""
_INTERNAL_METADATA = ".rbd"
_PAIRS = MapOf(string, string)
_Q = struct.Struct("<Q")
_QQ = struct.Struct("<QQ")


class ChildSpec(Struct, version=2, compat=1):
    """cls::rbd::ChildImageSpec."""

    pool_id: s64
    image_id: string
    pool_namespace: string = ""


def add_child_request(method: str, spec: ParentSpec, child_id: str) -> ObjectOperation:
    """`add_child` and `remove_child` of rbd_children; spec without its namespace, which is the object's."""
    return ObjectOperation().call_write("rbd", method, _v1_spec(spec, child_id))


def _v1_spec(spec: ParentSpec, child_id: str | None = None) -> bytearray:
    e = Encoder()
    e.s64(spec.pool_id)
    e.string(spec.image_id)
    e.u64(spec.snap_id)
    if child_id is not None:
        e.string(child_id)
    return e.buf


def get_children_request(op: ObjectOperation, spec: ParentSpec) -> ObjectOperation:
    """`get_children` of rbd_children: set<string>, the ids of the children."""
    return op.call("rbd", "get_children", _v1_spec(spec))


def _child_request(method: str, snap_id: int, child: Image) -> ObjectOperation:
    """`child_attach` and `child_detach` of the parent's header."""
    e = Encoder()
    e.u64(snap_id)
    ChildSpec(child.io.pool_id, child.id, child.io.namespace).encode(e)
    return ObjectOperation().call_write("rbd", method, e.buf)


def _parent_io(image: Image, spec: ParentSpec) -> IoContext:
    return image.io.with_pool(spec.pool_id).with_namespace(spec.pool_namespace)


def parent_spec(image: Image) -> ParentSpec | None:
    """The parent of an image's oldest snapshot, or of its head (DetachChildRequest::send)."""
    return image.header.parent


# ---------------------------------------------------------------- attach and detach


def parent_attach(op: ObjectOperation, spec: ParentSpec, overlap: int, reattach: bool = False) -> ObjectOperation:
    """Adds to a request on a header: its image has this parent, and `overlap` bytes come from it."""
    e = Encoder()
    spec.encode(e)
    e.u64(overlap)
    e.u8(reattach)
    return op.call_write("rbd", "parent_attach", e.buf)


async def attach_parent(image: Image, spec: ParentSpec, overlap: int, reattach: bool = False) -> None:
    """Writes into an image's header what its parent is (AttachParentRequest).

    Args:
        overlap: bytes from the begin that come from the parent, more than 0.
        reattach: it may have one already.
    Raises:
        InvalidArgument, ImageExists (another parent is there already).
    """
    try:
        await image.io.operate(image.header_oid, parent_attach(ObjectOperation(), spec, overlap, reattach))
    except rados.Error as e:
        raise make_ex(-(e.errno or errno.EIO), f"image {image.name} cannot get a parent: {e}") from e


async def detach_parent(image: Image) -> None:
    """The head has no parent any more (DetachParentRequest); snapshots keep theirs. Nothing where it has none."""
    try:
        await image.io.operate(image.header_oid, ObjectOperation().call_write("rbd", "parent_detach"))
    except rados.ObjectNotFound:
        pass


async def attach_child(
    child: Image, parent: Image, snap_id: int, format: int, old_parent: tuple[Image, int] | None = None
) -> None:
    """Lets the parent know its child (AttachChildRequest).

    Args:
        format: of the clone, 1 or 2.
        old_parent: another one, with its snapshot, which had the child until now.
    Raises:
        InvalidArgument: (format 1) the snapshot is not protected; ImageNotFound: (format 2) there is no such
        snapshot.
    """
    spec = ParentSpec(parent.io.pool_id, parent.io.namespace, parent.id, snap_id)
    try:
        if format == 1:
            await _attach_v1(child, parent, spec, old_parent)
        else:
            bits = _QQ.pack(OPERATION_CLONE_CHILD, OPERATION_CLONE_CHILD)
            await child.io.operate(child.header_oid, ObjectOperation().call_write("rbd", "op_features_set", bits))
            await _unless(
                rados.ObjectExists if old_parent else (),
                parent.io,
                parent.header_oid,
                _child_request("child_attach", snap_id, child),
            )
            if old_parent is not None:
                old, old_id = old_parent
                request = _child_request("child_detach", old_id, child)
                await _unless(rados.ObjectNotFound, old.io, old.header_oid, request)
    except rados.Error as e:
        raise make_ex(-(e.errno or errno.EIO), f"image {parent.name} cannot get child {child.name}: {e}") from e


async def _attach_v1(child: Image, parent: Image, spec: ParentSpec, old_parent: tuple[Image, int] | None) -> None:
    expected = rados.ObjectExists if old_parent else ()
    await _unless(expected, child.io, cls_rbd.RBD_CHILDREN, add_child_request("add_child", spec, child.id))
    await parent.refresh()  # who unprotects looks for children after that: so one of us sees the other
    try:
        protected = parent.find_snapshot(spec.snap_id).protected
    except ImageNotFound:
        protected = False
    if not protected:
        raise InvalidArgument(f"the snapshot of image {parent.name} is not protected", errno.EINVAL)
    if old_parent is not None:
        old, old_id = old_parent
        old_spec = ParentSpec(old.io.pool_id, old.io.namespace, old.id, old_id)
        request = add_child_request("remove_child", old_spec, child.id)
        await _unless(rados.ObjectNotFound, child.io, cls_rbd.RBD_CHILDREN, request)


async def _unless(
    expected: type[rados.Error] | tuple[type[rados.Error], ...], io: IoContext, oid: str, op: ObjectOperation
) -> None:
    try:
        await io.operate(oid, op)
    except expected:
        pass


async def detach_child(image: Image) -> None:
    """Takes an image out of its parent's children (DetachChildRequest). If it was the last one of a snapshot in the
    trash, that snapshot goes, and the parent with it if it was moved to the trash because of that.

    Raises:
        OSError: the parent keeps its child. What the end of the snapshot or of the parent fails of is only logged,
        as they can be removed by themselves.
    """
    spec = parent_spec(image)
    if spec is None:
        return
    if not image.header.raw.op_features & OPERATION_CLONE_CHILD:
        request = add_child_request("remove_child", spec, image.id)
        await _unless(rados.ObjectNotFound, image.io, cls_rbd.RBD_CHILDREN, request)
        return
    if spec.pool_id not in image.client.osdmap.pools:
        return
    io, oid = _parent_io(image, spec), cls_rbd.header_object(spec.image_id)
    await _unless(rados.ObjectNotFound, io, oid, _child_request("child_detach", spec.snap_id, image))
    try:
        info = SnapshotInfo.from_bytes(await io.call(oid, "rbd", "snapshot_get", _Q.pack(spec.snap_id)))
    except rados.ObjectNotFound:
        return
    if info.namespace.type == cls_rbd.SNAP_NAMESPACE_TRASH and not info.child_count:
        try:
            await _remove_trash_snapshot(io, spec)
        except (OSError, rados.Error) as e:
            _log.info("%r: snapshot %d of its parent stays in the trash: %s", image, spec.snap_id, e)


async def _remove_trash_snapshot(io: IoContext, spec: ParentSpec) -> None:
    """Removes a snapshot in the trash that has no children any more, and its image if that waits for it."""
    from . import snapshots, trash

    parent = await Image.open(io, image_id=spec.image_id, skip_parent=True)
    try:
        await snapshots.remove(parent, spec.snap_id)
        await parent.current()
        last = not parent.header.snaps
    finally:
        await parent.close()
    if not last:
        return
    try:
        entry = (await trash.get(io, spec.image_id)).spec
    except ImageNotFound:
        return
    waits = (entry.source, entry.state) == (trash.TRASH_IMAGE_SOURCE_USER_PARENT, trash.TRASH_IMAGE_STATE_NORMAL)
    if waits and float(entry.deferment_end_time) <= time.time():
        await trash.remove(io, spec.image_id)


# ---------------------------------------------------------------- clone


async def clone(
    p_io: IoContext,
    p_name: str | None,
    p_snapshot: str | int,
    c_io: IoContext,
    c_name: str,
    features_wanted: int | None = None,
    order: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
    format: int | None = None,
    *,
    p_id: str | None = None,
) -> str:
    """Clones a snapshot, and gives the clone's id.

    What the caller leaves out is as the parent has it: features, order, striping. What he gives as 0 comes from
    the options `rbd_default_*`, as for a new image; so does the data pool, which is not the parent's.

    Args:
        p_name, p_id: the parent, of format 2, by its name or its id.
        p_snapshot: a snapshot's name or id.
        format: 1, which needs a protected snapshot, or 2; None for `rbd_default_clone_format`.
    Raises:
        ImageNotFound: the parent, its snapshot, a namespace or a data pool (ENOENT); ImageExists (EEXIST);
        InvalidArgument: format, striping, features that need others, a snapshot of no bytes, or (format 1) one that
        is not protected (EINVAL); ArgumentOutOfRange: the order (EDOM); FunctionNotSupported: a feature that is not
        known or handled, or no layering in the parent or in `features_wanted` (ENOSYS); OSError: format 1 across
        namespaces (EXDEV). After any error nothing of the clone is left.
    """
    if p_id is None:
        p_id = await _parent_id(p_io, p_name or "")
    check_name(c_name)
    if features_wanted is not None and features_wanted & ~features.ALL:
        raise FunctionNotSupported(f"features {features_wanted & ~features.ALL:#x} are not known", errno.ENOSYS)
    options = await load_pool_config(c_io)
    format = clone_format(c_io.client, options, format)
    if format == 1 and p_io.namespace != c_io.namespace:
        raise make_ex(-errno.EXDEV, "clones across namespaces are of format 2")
    parent = await Image.open(p_io, image_id=p_id, snapshot=p_snapshot, read_only=True, skip_parent=True)
    try:
        features_wanted = _check_parent(parent, format, features_wanted)
        await _check_child_name(c_io, c_name)
        layout = parent.layout
        undo: Undo = []
        try:
            image_id = await create_v2(
                c_io,
                c_name,
                parent.size,
                options,
                undo,
                layout.order if order is None else order,
                features_wanted,
                layout.stripe_unit if stripe_unit is None else stripe_unit,
                layout.stripe_count if stripe_count is None else stripe_count,
                data_pool,
            )
            await _attach(parent, c_io, c_name, image_id, format, undo)
        except BaseException:
            await take_back(undo, c_name)
            raise
    finally:
        await parent.close()
    return image_id


async def _parent_id(io: IoContext, name: str) -> str:
    e = Encoder()
    e.string(name)
    try:
        return cls_rbd.decode_string(await io.call(cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_id", e.buf))
    except rados.ObjectNotFound:
        raise ImageNotFound(f"there is no image {name} of format 2", errno.ENOENT) from None


def _check_parent(parent: Image, format: int, wanted: int | None) -> int:
    """validate_parent and validate_child; gives the features of the child."""
    if parent.snap is None or parent.snap_id == NOSNAP:
        raise InvalidArgument("only a snapshot can be cloned", errno.EINVAL)
    header = parent.header
    features.check_manageable(header.features & features.OPERATIONS, header.raw.op_features, parent.name)
    if not parent.has(features.LAYERING):
        raise FunctionNotSupported(f"image {parent.name} has no layering, so it cannot be cloned", errno.ENOSYS)
    if format == 1 and not parent.snap.protected:
        raise InvalidArgument(f"snapshot {parent.snap.name} of image {parent.name} is not protected", errno.EINVAL)
    bits = header.features if wanted is None else wanted
    if not bits & features.LAYERING:
        raise FunctionNotSupported("a clone needs layering", errno.ENOSYS)
    return bits


async def _check_child_name(io: IoContext, name: str) -> None:
    """One of format 1 would not be noticed by the creation."""
    try:
        await io.operate(name + cls_rbd.V1_SUFFIX, ObjectOperation().stat())
    except rados.ObjectNotFound:
        return
    raise ImageExists(f"error creating clone {name}", errno.EEXIST)


async def _attach(parent: Image, io: IoContext, name: str, image_id: str, format: int, undo: Undo) -> None:
    """Makes an empty image the child of an open snapshot: the child first, so that nobody finds a child in the
    parent that does not know of it."""
    child = Image(io, name, image_id, False)
    spec = ParentSpec(parent.io.pool_id, parent.io.namespace, parent.id, parent.snap_id)
    await attach_parent(child, spec, parent.size)
    if format == 1:
        undo.append((io, cls_rbd.RBD_CHILDREN, add_child_request("remove_child", spec, image_id)))
    else:
        undo.append((parent.io, parent.header_oid, _child_request("child_detach", spec.snap_id, child)))
    await attach_child(child, parent, spec.snap_id, format)
    pairs = {k: v for k, v in (await metadata.list_(parent)).items() if not k.startswith(_INTERNAL_METADATA)}
    if pairs:
        e = Encoder()
        _PAIRS.encode(e, pairs)
        await io.operate(child.header_oid, ObjectOperation().call_write("rbd", "metadata_set", e.buf))
