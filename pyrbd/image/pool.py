"""Preparing a pool for images, and what is provisioned in it (`src/librbd/api/Pool.cc`)."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Encoder
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, directory, metadata, trash
from .cls_rbd import SizeReply, SnapContextReply
from .errors import make_ex

if TYPE_CHECKING:
    from ..rados.completion import Completion
    from ..rados.io import IoContext
    from ..rados.operations import OpReply

APPLICATION = "rbd"
_SNAPS_PER_REQUEST = 64


class PoolStats(NamedTuple):
    """What the images of a pool and namespace have been promised; of format 1 images nothing is known."""

    image_count: int
    image_provisioned_bytes: int
    image_max_provisioned_bytes: int
    """The largest size that each image has, or had at one of its snapshots."""
    image_snap_count: int
    trash_count: int
    trash_provisioned_bytes: int
    trash_max_provisioned_bytes: int
    trash_snap_count: int


async def init(io: IoContext, force: bool = False) -> None:
    """Marks a pool as one for images, and makes sure that it can hold them.

    Args:
        force: also where it is another application's.
    Raises:
        PermissionError: it is another application's; InvalidArgument: it cannot hold images.
    """
    pool = io.client.osdmap.pool_names.get(io.pool_id)
    if pool is None:
        raise make_ex(-errno.ENOENT, f"pool {io.pool_id} does not exist")
    arguments = {"app": APPLICATION} | ({"yes_i_really_mean_it": True} if force else {})
    await io.client.pool_application(pool, "enable", arguments, "error enabling application")
    await io.operate(cls_rbd.RBD_TRASH, ObjectOperation().create(False))
    if io.client.config.get_bool("rbd_validate_pool"):  # which no pool may override
        await directory.validate_pool(io.with_namespace(""))


async def stats(io: IoContext) -> PoolStats:
    """Adds up what the headers of all images say, as many at a time as `rbd_concurrent_management_ops` says."""
    config = await metadata.load_pool_config(io)
    window = config.get_int("rbd_concurrent_management_ops")
    entries = await trash.entries(io)
    removing = [e.id for e in entries if e.source == trash.TRASH_IMAGE_SOURCE_REMOVING]
    kept = [e.id for e in entries if e.source != trash.TRASH_IMAGE_SOURCE_REMOVING]
    listed = [image_id for image_id in (await directory.list_images(io)).values() if image_id]
    images = list(dict.fromkeys(listed + removing))  # the list has most of those that are being removed
    return PoolStats(*await _sum(io, images, window), *await _sum(io, kept, window))


async def _sum(io: IoContext, image_ids: Sequence[str], window: int) -> tuple[int, int, int, int]:
    """(images, bytes, bytes at most, snapshots) of images; those that are gone meanwhile count as images only."""
    size = maximum = snaps = 0
    pending: deque[tuple[str, Completion[OpReply]]] = deque()
    todo = iter(image_ids)
    while True:
        for image_id in todo:
            pending.append((image_id, io.submit(cls_rbd.header_object(image_id), _head_operation())))
            if len(pending) >= window:
                break
        if not pending:
            return len(image_ids), size, maximum, snaps
        image_id, completion = pending.popleft()
        try:
            reply = await completion
            head = SizeReply.from_bytes(reply.ops[0].data)
            ids = SnapContextReply.from_bytes(reply.ops[1].data).snaps
            maximum += max(head.size, await _largest_snapshot(io, image_id, ids))
        except rados.ObjectNotFound:
            continue
        size += head.size
        snaps += len(ids)


def _head_operation() -> ObjectOperation:
    return _get_size(ObjectOperation(), NOSNAP).call("rbd", "get_snapcontext")


def _get_size(op: ObjectOperation, snap_id: int) -> ObjectOperation:
    e = Encoder()
    e.u64(snap_id)
    return op.call("rbd", "get_size", e.buf)


async def _largest_snapshot(io: IoContext, image_id: str, ids: tuple[int, ...]) -> int:
    oid, largest = cls_rbd.header_object(image_id), 0
    while ids:
        part = ids[:_SNAPS_PER_REQUEST]
        op = ObjectOperation()
        for snap_id in part:
            _get_size(op, snap_id)
        try:
            reply = await io.operate(oid, op)
        except rados.ObjectNotFound:  # one was removed in between, or all of it
            again = await io.operate(oid, _head_operation())
            ids, largest = SnapContextReply.from_bytes(again.ops[1].data).snaps, 0
            continue
        largest = max(largest, *(SizeReply.from_bytes(o.data).size for o in reply.ops))
        ids = ids[_SNAPS_PER_REQUEST:]
    return largest
