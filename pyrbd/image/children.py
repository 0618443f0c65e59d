"""Who was cloned from an image (`src/librbd/api/Image.cc`, list_children, list_descendants)."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..denc import Decoder, Encoder
from ..msgr.osdop import OpFlag
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, features, header, trash
from .clone import ChildSpec, get_children_request
from .cls_rbd import ParentSpec
from .errors import ImageNotFound

if TYPE_CHECKING:
    from ..rados.client import Client
    from ..rados.io import IoContext, OpReply
    from ..rados.op import Op
    from .image import Image

T = TypeVar("T")

_PER_REQUEST = 32
"""Calls of the class in one request."""


class Child(NamedTuple):
    """A clone, by the names of its pool, its namespace and itself. A pool that is gone has none."""

    pool: str
    pool_namespace: str
    image: str
    id: str
    trash: bool
    """It is in the trash."""


class _Found(NamedTuple):
    pool_id: int
    pool_namespace: str
    id: str


async def list_children(image: Image, descendants: bool = False) -> list[Child]:
    """The clones of an open image: of the snapshot that is open, or of all. In the order of pool, namespace, name.

    Args:
        descendants: with their clones, and so on.
    """
    await image.current()
    head = image.header
    if not head.features & features.LAYERING:
        return []
    snap_ids = [image.snap_id] if image.snap is not None else [s.id for s in head.snaps]
    found: list[_Found] = []
    layer = [(image.io, image.id, snap_ids)]
    while layer:
        new: list[_Found] = []
        for io, image_id, ids in layer:
            new += await _children(io, image_id, ids)
        found += new
        layer = [x for c in new if (x := await _snapshots(image.io, c)) is not None] if descendants else []
    return sorted(await _named(image.io, found))


async def _snapshots(io: IoContext, child: _Found) -> tuple[IoContext, str, list[int]] | None:
    """Where to look for clones of a clone."""
    if child.pool_id not in io.client.osdmap.pools:
        return None
    io = io.with_pool(child.pool_id).with_namespace(child.pool_namespace)
    try:
        head = await header.load(io, cls_rbd.header_object(child.id), False, child.id)
    except ImageNotFound:
        return None
    if not head.features & features.LAYERING:
        return None
    return io, child.id, [s.id for s in head.snaps]


async def _children(io: IoContext, image_id: str, snap_ids: list[int]) -> list[_Found]:
    """The children of some snapshots: those of format 1 from all pools, in the namespace of the parent; those of
    format 2 from its header."""
    client, found = io.client, []
    pools = [i for i, pool in sorted(client.osdmap.pools.items()) if pool.tier_of < 0]  # no caches
    requests = []
    for at in range(0, len(snap_ids), _PER_REQUEST):
        part = snap_ids[at : at + _PER_REQUEST]
        for pool_id in pools:
            op = ObjectOperation()
            for snap_id in part:
                get_children_request(op, ParentSpec(io.pool_id, io.namespace, image_id, snap_id))
                op.set_op_flags(OpFlag.FAILOK)
            requests.append((io.with_pool(pool_id), cls_rbd.RBD_CHILDREN, op))
        op = ObjectOperation()
        for snap_id in part:
            op.call("rbd", "children_list", snap_id.to_bytes(8, "little")).set_op_flags(OpFlag.FAILOK)
        requests.append((io, cls_rbd.header_object(image_id), op))
    for (at_io, oid, _), reply in zip(requests, await _ask(client, requests)):
        for output in reply.ops if reply is not None else ():
            if output.rval < 0:
                if -output.rval in (errno.ENOENT, errno.EOPNOTSUPP):
                    continue
                raise rados.make_ex(output.rval, f"error listing the children of image {image_id} in {oid}")
            d = Decoder(output.data)
            if oid == cls_rbd.RBD_CHILDREN:
                found += [_Found(at_io.pool_id, io.namespace, d.string()) for _ in range(d.count(4))]
            else:
                specs = [ChildSpec.decode(d) for _ in range(d.count(6))]
                found += [_Found(s.pool_id, s.pool_namespace, s.image_id) for s in specs]
    return found


async def _ask(client: Client, requests: Iterable[tuple[IoContext, str, ObjectOperation]]) -> list[OpReply | None]:
    """The answers of many objects, a window at a time; None of one that is not there, or whose pool is not."""
    window = max(1, client.config.get_int("rbd_concurrent_management_ops"))
    pending: deque[Op] = deque()
    answers: list[OpReply | None] = []

    async def take() -> None:
        try:
            answers.append(await pending.popleft())
        except rados.ObjectNotFound:
            answers.append(None)

    try:
        for io, oid, op in requests:
            if len(pending) >= window:
                await take()
            pending.append(io.submit(oid, op))
        while pending:
            await take()
    finally:
        given_up = rados.make_ex(-errno.ECANCELED, "given up after another request of the same call failed")
        for p in pending:
            client.objecter.cancel(p, given_up)
    return answers


async def _named(io: IoContext, found: list[_Found]) -> list[Child]:
    """The names of images whose ids are known: from their directory, or from the trash."""
    client = io.client
    places: dict[tuple[int, str], list[str]] = {}
    for c in found:
        places.setdefault((c.pool_id, c.pool_namespace), []).append(c.id)
    children: list[Child] = []
    for (pool_id, namespace), ids in places.items():
        pool = client.osdmap.pool_names.get(pool_id)
        if pool is None:
            children += [Child("", namespace, "", i, False) for i in ids]
            continue
        at = io.with_pool(pool_id).with_namespace(namespace)
        names = await _look_up(at, cls_rbd.RBD_DIRECTORY, "dir_get_name", ids, Decoder.string)
        rest = [i for i in ids if i not in names]
        trashed = await _look_up(at, cls_rbd.RBD_TRASH, "trash_get", rest, trash.TrashImageSpec.decode)
        for i in ids:
            if i in names:
                children.append(Child(pool, namespace, names[i], i, False))
            elif i in trashed:
                removing = trashed[i].source == trash.TRASH_IMAGE_SOURCE_REMOVING
                children.append(Child(pool, namespace, trashed[i].name, i, not removing))
            else:
                raise ImageNotFound(f"the child with id {i} in pool {pool} has no name", errno.ENOENT)
    return children


async def _look_up(
    io: IoContext, oid: str, method: str, ids: list[str], decode: Callable[[Decoder], T]
) -> dict[str, T]:
    """What a method that takes an id gives for each; those that it does not know are left out."""
    requests = []
    for at in range(0, len(ids), _PER_REQUEST):
        op = ObjectOperation()
        for i in ids[at : at + _PER_REQUEST]:
            e = Encoder()
            e.string(i)
            op.call("rbd", method, e.buf).set_op_flags(OpFlag.FAILOK)
        requests.append((io, oid, op))
    found: dict[str, T] = {}
    for n, reply in enumerate(await _ask(io.client, requests)):
        for k, output in enumerate(reply.ops if reply is not None else ()):
            if output.rval >= 0:
                found[ids[n * _PER_REQUEST + k]] = decode(Decoder(output.data))
            elif output.rval != -errno.ENOENT:
                raise rados.make_ex(output.rval, f"error looking up the name of an image in {oid}")
    return found
