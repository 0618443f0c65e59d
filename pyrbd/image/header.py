"""An image's header, of either format, as a value (`src/librbd/image/RefreshRequest.cc`)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Decoder
from ..errors import DecodeError
from ..msgr.types import Utime
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from ..rados.target import SnapContext
from . import cls_rbd
from .cls_rbd import ParentSpec, RawHeader, SnapNamespace, SnapshotInfo, V1Snapshot
from .errors import FunctionNotSupported, ImageNotFound, InvalidArgument

if TYPE_CHECKING:
    from ..rados.io import IoContext

_SNAPS_PER_REQUEST = 64
_MAX_ENOENT_RETRIES = 10
"""How often a header is read again that names a snapshot which is not there (`RefreshRequest.h`)."""

V1_TEXT = b"<<< Rados Block Device Image >>>\n"
V1_MIGRATING_TEXT = b"<<< Migrating RBD Image      >>>\n"
V1_SIGNATURE = b"RBD\0"
V1_VERSION = b"001.005\0"
V1_HEADER = struct.Struct("<40s24s4s8s4BQQIIQ")
"""rbd_obj_header_ondisk (`src/include/rbd_types.h`): text, block_name, signature, version, options (order, crypt_type,
comp_type, unused), image_size, snap_seq, snap_count, reserved, snap_names_len; then the snapshots."""


class Snap(NamedTuple):
    """A snapshot, as the header lists it."""

    info: SnapshotInfo
    flags: int
    """RBD_FLAG_*: what is wrong with its object map."""
    parent_overlap: int | None
    """How many bytes from the begin may still come from the parent; None without one."""
    protection: int
    """cls_rbd.PROTECTION_STATUS_*."""

    @property
    def id(self) -> int:
        return self.info.id

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def protected(self) -> bool:
        return self.protection == cls_rbd.PROTECTION_STATUS_PROTECTED


class Header(NamedTuple):
    """All of an image's metadata that matters for its data; a refresh makes a new one."""

    raw: RawHeader
    snaps: tuple[Snap, ...]
    """Oldest first."""
    snap_context: SnapContext
    old_format: bool = False

    @property
    def size(self) -> int:
        return self.raw.size

    @property
    def features(self) -> int:
        return self.raw.features

    @property
    def parent(self) -> ParentSpec | None:
        """The snapshot that the image, or one of its snapshots, was cloned from."""
        return self.raw.parent if self.raw.parent.exists else None

    @property
    def in_group(self) -> bool:
        """Whether it belongs to a consistency group (image_group_get: GroupSpec)."""
        data = self.raw.group
        if not data:
            return False
        _, body = Decoder(data).envelope(1, "GroupSpec")
        return body.s64() != -1  # the group's pool


async def load(io: IoContext, oid: str, old_format: bool, image: str) -> Header:
    """Reads a header; `image` is what errors call it.

    Raises:
        ImageNotFound: there is none.
    """
    try:
        return await (_load_v1(io, oid, image) if old_format else _load_v2(io, oid))
    except rados.ObjectNotFound:
        raise ImageNotFound(f"error opening image {image}: no header", errno.ENOENT) from None


async def _load_v2(io: IoContext, oid: str) -> Header:
    retries = 0
    while True:
        reply = await io.operate(oid, cls_rbd.header_operation())
        raw = RawHeader.from_outputs([o.data if o.rval >= 0 else b"" for o in reply.ops])
        try:
            snaps = await _read_snapshots(io, oid, raw.snap_ids)
        except rados.ObjectNotFound:  # a snapshot was removed in between, or all of it
            await io.operate(oid, ObjectOperation().stat())
            retries += 1
            if retries > _MAX_ENOENT_RETRIES:
                raise DecodeError(f"the image header {oid} names snapshots that are not there") from None
            continue
        return Header(raw, snaps, SnapContext(raw.snap_seq, raw.snap_ids))


async def _read_snapshots(io: IoContext, oid: str, ids: tuple[int, ...]) -> tuple[Snap, ...]:
    found: list[Snap] = []
    ordered = tuple(sorted(ids))
    for at in range(0, len(ordered), _SNAPS_PER_REQUEST):
        part = ordered[at : at + _SNAPS_PER_REQUEST]
        reply = await io.operate(oid, cls_rbd.snapshots_operation(part))
        for i in range(len(part)):
            info, overlap, flags, protection = reply.ops[4 * i : 4 * i + 4]
            found.append(
                Snap(
                    SnapshotInfo.from_bytes(info.data),
                    Decoder(flags.data).u64() if flags.data else 0,
                    cls_rbd.decode_optional_u64(Decoder(overlap.data)) if overlap.data else None,
                    protection.data[0] if protection.data else cls_rbd.PROTECTION_STATUS_UNPROTECTED,
                )
            )
    return tuple(found)


async def _load_v1(io: IoContext, oid: str, image: str) -> Header:
    op = ObjectOperation().read(0, V1_HEADER.size).call("rbd", "snap_list")
    reply = await io.operate(oid, op)
    data = reply.ops[0].data
    if len(data) != V1_HEADER.size:
        raise DecodeError(f"the header of image {image} has {len(data)} bytes")
    text, block_name, signature, _, order, _, _, _, size, _, _, _, _ = V1_HEADER.unpack(data)
    if text.startswith(V1_MIGRATING_TEXT):
        raise FunctionNotSupported(f"image {image} is being migrated, which pyrbd does not handle", errno.ENOSYS)
    if not text.startswith(V1_TEXT) or signature != V1_SIGNATURE:
        raise InvalidArgument(f"image {image} has no header of format 1", errno.EINVAL)
    if not 9 <= order <= 62:
        raise DecodeError(f"image header with order {order}")
    d = Decoder(reply.ops[1].data)
    snap_seq = d.u64()
    infos = [V1Snapshot.decode(d) for _ in range(d.count(20))]
    raw = RawHeader(
        size=size,
        order=order,
        features=0,
        incompatible=0,
        snap_seq=snap_seq,
        snap_ids=tuple(i.id for i in infos),
        object_prefix=block_name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"),
        flags=0,
        stripe_unit=1 << order,
        stripe_count=1,
        data_pool_id=-1,
        op_features=0,
        create_timestamp=Utime(),
        access_timestamp=Utime(),
        modify_timestamp=Utime(),
        parent=ParentSpec(),
        parent_overlap=None,
        group=b"",
    )
    snaps = tuple(
        Snap(
            SnapshotInfo(i.id, SnapNamespace(cls_rbd.SNAP_NAMESPACE_USER), i.name, i.size, Utime(), 0),
            0,
            None,
            cls_rbd.PROTECTION_STATUS_UNPROTECTED,
        )
        for i in sorted(infos, key=lambda i: i.id)
    )
    return Header(raw, snaps, SnapContext(snap_seq, raw.snap_ids), True)
