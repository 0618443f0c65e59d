"""The methods of the OSDs' `rbd` object class that are called here
(`src/cls/rbd/cls_rbd.cc`, `src/cls/rbd/cls_rbd_client.cc`): requests and replies."""

import struct as _struct
from collections.abc import Iterable
from typing import Annotated

from ..denc import Decoder, Encoder, Struct, Vector, s64, string, u8, u32, u64
from ..errors import DecodeError
from ..msgr.osdop import NOSNAP, OpFlag
from ..msgr.types import EntityAddr, EntityName, Utime
from ..rados.operations import ObjectOperation

RBD_DIRECTORY = "rbd_directory"
RBD_INFO = "rbd_info"
RBD_TRASH = "rbd_trash"
RBD_CHILDREN = "rbd_children"
ID_PREFIX = "rbd_id."
HEADER_PREFIX = "rbd_header."
DATA_PREFIX = "rbd_data."
V1_SUFFIX = ".rbd"

MAX_IMAGE_ID = 14

DIRECTORY_STATE_READY = 0

SNAP_NAMESPACE_USER = 0
SNAP_NAMESPACE_GROUP = 1
SNAP_NAMESPACE_TRASH = 2
SNAP_NAMESPACE_MIRROR = 3

_Q = _struct.Struct("<Q")


def id_object(name: str) -> str:
    return ID_PREFIX + name


def header_object(image_id: str) -> str:
    return HEADER_PREFIX + image_id


def _strings(*values: str) -> bytes:
    e = Encoder()
    for v in values:
        e.string(v)
    return bytes(e.buf)


# ---------------------------------------------------------------- values


class ParentSpec(Struct, version=1, compat=1):
    """ParentImageSpec: the snapshot that an image was cloned from."""

    pool_id: s64 = -1
    pool_namespace: string = ""
    image_id: string = ""
    snap_id: u64 = NOSNAP

    @property
    def exists(self) -> bool:
        return self.pool_id >= 0 and bool(self.image_id) and self.snap_id != NOSNAP


class SnapNamespace(Struct):
    """Which kind of snapshot it is; the fields of kinds other than the user's are kept encoded."""

    type: int
    detail: bytes = b""

    @classmethod
    def wire_min_size(cls) -> int:
        return 10

    @classmethod
    def decode(cls, d: Decoder) -> "SnapNamespace":
        _, body = d.envelope(1, "SnapshotNamespace")
        return cls(body.u32(), body.rest())

    def encode(self, e: Encoder) -> None:
        mark = e.start(1, 1)
        e.u32(self.type)
        e.raw(self.detail)
        e.finish(mark)


class SnapshotInfo(Struct, version=1, compat=1):
    """cls::rbd::SnapshotInfo."""

    id: u64
    namespace: SnapNamespace
    name: string
    image_size: u64
    timestamp: Utime
    child_count: u32


class V1Snapshot(Struct):
    """A snapshot of an image of format 1, as the method snap_list tells."""

    id: u64
    size: u64
    name: string


class WatchItem(Struct, version=2, compat=1):
    """watch_item_t: one watcher of an object."""

    name: EntityName
    cookie: u64
    timeout_seconds: u32
    addr: EntityAddr


class ListWatchResponse(Struct, version=1, compat=1):
    entries: Annotated[tuple[WatchItem, ...], Vector(WatchItem)]


class SizeReply(Struct):
    order: u8
    size: u64


class FeaturesReply(Struct):
    features: u64
    incompatible: u64


class SnapContextReply(Struct):
    seq: u64
    snaps: Annotated[tuple[int, ...], Vector(u64)]


class StripeReply(Struct):
    stripe_unit: u64
    stripe_count: u64


def listed_up_to(before: str, names: Iterable[str]) -> str:
    """Where a listing goes on: behind the last of the names that it gave for `before`.

    Raises:
        DecodeError: they are not behind it, so that there would be no end.
    """
    last = max((name.encode("utf-8", "surrogateescape") for name in names), default=b"")
    if last <= before.encode("utf-8", "surrogateescape"):
        raise DecodeError(f"a listing does not go on after {before!r}")
    return last.decode("utf-8", "surrogateescape")


def decode_optional_u64(d: Decoder) -> int | None:
    """std::optional<uint64_t>."""
    return d.u64() if d.u8() else None


# ---------------------------------------------------------------- requests


def create(op: ObjectOperation, size: int, order: int, features: int, prefix: str, data_pool: int) -> ObjectOperation:
    e = Encoder()
    e.u64(size)
    e.u8(order)
    e.u64(features)
    e.string(prefix)
    e.s64(data_pool)
    return op.call_write("rbd", "create", e.buf)


def set_stripe_unit_count(op: ObjectOperation, unit: int, count: int) -> ObjectOperation:
    return op.call_write("rbd", "set_stripe_unit_count", _Q.pack(unit) + _Q.pack(count))


def set_size(op: ObjectOperation, size: int) -> ObjectOperation:
    return op.call_write("rbd", "set_size", _Q.pack(size))


def set_id(op: ObjectOperation, image_id: str) -> ObjectOperation:
    return op.call_write("rbd", "set_id", _strings(image_id))


def dir_add_image(op: ObjectOperation, name: str, image_id: str) -> ObjectOperation:
    return op.call_write("rbd", "dir_add_image", _strings(name, image_id))


def dir_remove_image(op: ObjectOperation, name: str, image_id: str) -> ObjectOperation:
    return op.call_write("rbd", "dir_remove_image", _strings(name, image_id))


def dir_rename_image(op: ObjectOperation, source: str, dest: str, image_id: str) -> ObjectOperation:
    return op.call_write("rbd", "dir_rename_image", _strings(source, dest, image_id))


def dir_state_assert(op: ObjectOperation, state: int) -> ObjectOperation:
    return op.call("rbd", "dir_state_assert", _struct.pack("<B", state))


def dir_list(start_after: str, max_return: int) -> ObjectOperation:
    return ObjectOperation().call("rbd", "dir_list", _strings(start_after) + _Q.pack(max_return))


def decode_dir_list(data: bytes) -> dict[str, str]:
    """{name: id}."""
    d = Decoder(data)
    return {d.string(): d.string() for _ in range(d.count(8))}


def decode_string(data: bytes) -> str:
    return Decoder(data).string()


# ---------------------------------------------------------------- the header in one request

_HEADER_CALLS = (
    ("get_size", _Q.pack(NOSNAP), True),
    ("get_features", _Q.pack(NOSNAP) + b"\1", True),
    ("get_snapcontext", b"", True),
    ("get_object_prefix", b"", True),
    ("get_flags", _Q.pack(NOSNAP), True),
    ("get_stripe_unit_count", b"", False),
    ("get_data_pool", b"", False),
    ("op_features_get", b"", False),
    ("get_create_timestamp", b"", False),
    ("get_access_timestamp", b"", False),
    ("get_modify_timestamp", b"", False),
    ("parent_get", b"", False),
    ("parent_overlap_get", _Q.pack(NOSNAP), False),
    ("image_group_get", b"", False),
)


def header_operation() -> ObjectOperation:
    """Asks for all of a header at once; what is optional may fail by itself."""
    op = ObjectOperation()
    for method, data, required in _HEADER_CALLS:
        op.call("rbd", method, data)
        if not required:
            op.set_op_flags(OpFlag.FAILOK)
    return op


class RawHeader(Struct):
    """The answers to :func:`header_operation`."""

    size: int
    order: int
    features: int
    incompatible: int
    snap_seq: int
    snap_ids: tuple[int, ...]
    object_prefix: str
    flags: int
    stripe_unit: int
    stripe_count: int
    data_pool_id: int
    op_features: int
    create_timestamp: Utime
    access_timestamp: Utime
    modify_timestamp: Utime
    parent: ParentSpec
    parent_overlap: int | None
    group: bytes

    @classmethod
    def decode(cls, d: Decoder) -> "RawHeader":
        raise NotImplementedError("made by from_outputs")

    @classmethod
    def from_outputs(cls, outputs: list[bytes]) -> "RawHeader":
        """Raises DecodeError for answers that no such class gives."""
        got = dict(zip((m for m, _, _ in _HEADER_CALLS), outputs))
        size = SizeReply.from_bytes(got["get_size"])
        features = FeaturesReply.from_bytes(got["get_features"])
        snapc = SnapContextReply.from_bytes(got["get_snapcontext"])
        if got["get_stripe_unit_count"]:
            stripe = StripeReply.from_bytes(got["get_stripe_unit_count"])
        else:
            stripe = StripeReply(1 << size.order, 1)
        if not stripe.stripe_unit or not stripe.stripe_count or (1 << size.order) % stripe.stripe_unit:
            raise DecodeError(f"image header with stripe unit {stripe.stripe_unit}, count {stripe.stripe_count}")
        if not 9 <= size.order <= 62:
            raise DecodeError(f"image header with order {size.order}")

        def number(method: str, default: int) -> int:
            return Decoder(got[method]).u64() if got[method] else default

        def when(method: str) -> Utime:
            return Utime.from_bytes(got[method]) if got[method] else Utime()

        parent = ParentSpec.from_bytes(got["parent_get"]) if got["parent_get"] else ParentSpec()
        overlap = decode_optional_u64(Decoder(got["parent_overlap_get"])) if got["parent_overlap_get"] else None
        return cls(
            size.size,
            size.order,
            features.features,
            features.incompatible,
            snapc.seq,
            snapc.snaps,
            decode_string(got["get_object_prefix"]),
            number("get_flags", 0),
            stripe.stripe_unit,
            stripe.stripe_count,
            Decoder(got["get_data_pool"]).s64() if got["get_data_pool"] else -1,
            number("op_features_get", 0),
            when("get_create_timestamp"),
            when("get_access_timestamp"),
            when("get_modify_timestamp"),
            parent,
            overlap,
            got["image_group_get"],
        )


def snapshots_operation(snap_ids: tuple[int, ...]) -> ObjectOperation:
    """Asks for what is known of some snapshots: four calls for each."""
    op = ObjectOperation()
    for snap_id in snap_ids:
        op.call("rbd", "snapshot_get", _Q.pack(snap_id))
        op.call("rbd", "parent_overlap_get", _Q.pack(snap_id)).set_op_flags(OpFlag.FAILOK)
        op.call("rbd", "get_flags", _Q.pack(snap_id))
        op.call("rbd", "get_protection_status", _Q.pack(snap_id)).set_op_flags(OpFlag.FAILOK)
    return op


PROTECTION_STATUS_UNPROTECTED = 0
PROTECTION_STATUS_UNPROTECTING = 1
PROTECTION_STATUS_PROTECTED = 2
