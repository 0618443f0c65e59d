"""Making an image, of either format (`src/librbd/image/CreateRequest.cc`, `ValidatePoolRequest.cc`,
`src/librbd/internal.cc`, create and create_v1)."""

from __future__ import annotations

import errno
import random
from typing import TYPE_CHECKING

from ..log import Log
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, features, object_map
from .errors import (
    ArgumentOutOfRange,
    ImageExists,
    ImageNotFound,
    InvalidArgument,
    OutOfRangeArgument,
    make_ex,
)
from .header import V1_HEADER, V1_SIGNATURE, V1_TEXT, V1_VERSION
from .layout import MAX_ORDER, MIN_ORDER, Layout
from .metadata import ImageConfig, load_pool_config

if TYPE_CHECKING:
    from ..rados.io import IoContext

_log = Log("image")

_VALIDATE = b"validate"
_VALIDATED = b"overwrite validated"
MIN_STRIPE_UNIT = 512

Undo = list[tuple["IoContext", str, ObjectOperation]]
"""What takes back the steps of a creation, in the order of the steps."""


def check_name(name: str) -> None:
    """Refuses names that no tool could name in an image-spec."""
    if not name:
        raise InvalidArgument("an image's name must not be empty", errno.EINVAL)
    for c in ("@", "/", "\0"):
        if c in name:
            raise InvalidArgument(f"image name {name!r} must not contain {c!r}", errno.EINVAL)


async def exists(io: IoContext, name: str) -> bool:
    """Whether there is an image of that name, of either format (internal.cc, detect_format)."""
    probes = [io.submit(oid, _op().stat()) for oid in (name + cls_rbd.V1_SUFFIX, cls_rbd.id_object(name))]
    found = False
    for probe in probes:
        try:
            await probe
            found = True
        except rados.ObjectNotFound:
            pass
    return found


async def create(
    io: IoContext,
    name: str,
    size: int,
    order: int | None = None,
    features_wanted: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
    *,
    old_format: bool = False,
) -> str:
    """Creates an image and gives its id, "" for one of format 1.

    What the caller leaves out (or gives as 0) comes from the options `rbd_default_*` and their
    overrides in the pool's metadata.

    Args:
        size: in bytes.
        order: objects have 2**order bytes.
        features_wanted: a mask; see :func:`features.for_new_image` for what becomes of it.
        stripe_unit, stripe_count: in bytes, in objects.
        data_pool: where the data goes, if not into the pool of `io`.
        old_format: an image of format 1, which has none of the above but size and order.
    Raises:
        ImageExists, InvalidArgument, ArgumentOutOfRange (the order), FunctionNotSupported (a
        feature, by name), ImageNotFound (the namespace, or the data pool, EEXIST, EINVAL, EDOM, ENOSYS,
        ENOENT). After any error nothing of the image is left.
    """
    check_name(name)
    if not 0 <= size < 1 << 64:
        raise OutOfRangeArgument(f"size {size} is not that of an image", errno.EINVAL)
    if await exists(io, name):
        raise ImageExists(f"error creating image {name}", errno.EEXIST)
    if old_format:
        await _create_v1(io, name, size, order or io.client.config.get_int("rbd_default_order"))
        return ""
    _check_order(order or io.client.config.get_int("rbd_default_order"))
    undo: Undo = []
    try:
        return await create_v2(
            io,
            name,
            size,
            await load_pool_config(io),
            undo,
            order,
            features_wanted,
            stripe_unit,
            stripe_count,
            data_pool,
        )
    except BaseException:
        await take_back(undo, name)
        raise


async def take_back(undo: Undo, name: str) -> None:
    """After a failure: removes what has been made of an image."""
    for io, oid, op in reversed(undo):
        try:
            await io.operate(oid, op)
        except rados.Error as failed:
            if failed.errno != errno.ENOENT:
                _log.warning("after a failed creation of %s: %s: %s", name, oid, failed)


def _op() -> ObjectOperation:
    return ObjectOperation()


async def _step(io: IoContext, oid: str, op: ObjectOperation, undo: Undo, back: ObjectOperation) -> None:
    """One step of a creation. An outcome that is not known counts as done."""
    try:
        await io.operate(oid, op)
    except rados.Error as e:
        if isinstance(e, rados.TimedOut | rados.ConnectionShutdown):
            undo.append((io, oid, back))
        raise
    except BaseException:
        undo.append((io, oid, back))
        raise
    undo.append((io, oid, back))


# ---------------------------------------------------------------- arguments


def _check_order(order: int) -> None:
    if not MIN_ORDER <= order <= MAX_ORDER:
        raise ArgumentOutOfRange(f"order {order} is not between {MIN_ORDER} and {MAX_ORDER}", errno.EDOM)


def _check_striping(object_size: int, unit: int, count: int) -> None:
    """CreateRequest's validate_striping."""
    if bool(unit) != bool(count):
        raise InvalidArgument("stripe unit and stripe count must be given together", errno.EINVAL)
    if unit and (unit > object_size or unit < 0 or count < 0 or object_size % unit):
        raise InvalidArgument(f"stripe unit {unit} is not a factor of the object size {object_size}", errno.EINVAL)
    if unit and unit < MIN_STRIPE_UNIT:
        raise InvalidArgument(f"stripe unit {unit} is less than {MIN_STRIPE_UNIT}", errno.EINVAL)


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
                await io.operate(cls_rbd.RBD_INFO, _op().create(True).write(0, _VALIDATE))
            except rados.ObjectExists:
                pass
            finally:
                await client.remove_selfmanaged_snap(io.pool_id, snap_id)
        await io.operate(cls_rbd.RBD_INFO, _op().write(0, _VALIDATED))
    except rados.InvalidArgumentError as e:
        raise InvalidArgument(f"{unusable}: it uses pool snapshots", errno.EINVAL) from e
    except rados.OSError as e:
        if e.errno != errno.EOPNOTSUPP:
            raise
        raise InvalidArgument(f"{unusable}: erasure-coded, without allow_ec_overwrites", errno.EINVAL) from e


def generate_image_id(global_id: int) -> str:
    """util::generate_image_id: our global id and a random number, in hex."""
    return f"{global_id:x}{random.SystemRandom().getrandbits(32):x}"[-cls_rbd.MAX_IMAGE_ID :]


# ---------------------------------------------------------------- format 2


async def create_v2(
    io: IoContext,
    name: str,
    size: int,
    options: ImageConfig,
    undo: Undo,
    order: int | None,
    features_wanted: int | None,
    stripe_unit: int | None,
    stripe_count: int | None,
    data_pool: str | None,
) -> str:
    """Creates an image of format 2 and gives its id; see :func:`create`.

    Args:
        undo: gets what takes the steps back; whoever calls does that after a failure.
    """
    if features_wanted is None:
        features_wanted = features.features_from_string(options.get("rbd_default_features") or "")
    bits = features.for_new_image(features_wanted)
    order = order or options.get_int("rbd_default_order")
    stripe_unit = stripe_unit or options.get_int("rbd_default_stripe_unit")
    stripe_count = stripe_count or options.get_int("rbd_default_stripe_count")
    _check_order(order)
    object_size = 1 << order
    _check_striping(object_size, stripe_unit, stripe_count)
    num_objects = Layout(order, stripe_unit or object_size, stripe_count or 1).num_objects(size)
    if bits & features.OBJECT_MAP and num_objects > object_map.MAX_OBJECT_COUNT:
        raise InvalidArgument(f"an object map cannot have {num_objects} objects", errno.EINVAL)
    striped = (stripe_unit not in (0, object_size)) or stripe_count not in (0, 1)
    if striped:
        bits |= features.STRIPINGV2
    data_pool = data_pool if data_pool is not None else options.get("rbd_default_data_pool")
    data_pool_id = -1
    data_io = io
    if data_pool and data_pool != io.client.osdmap.pool_names.get(io.pool_id):
        try:
            data_pool_id = await io.client.lookup_pool(data_pool)
        except rados.ObjectNotFound:
            raise ImageNotFound(f"data pool {data_pool} does not exist", errno.ENOENT) from None
        data_io = io.with_pool(data_pool_id)
        bits |= features.DATA_POOL
    if options.get_bool("rbd_validate_pool"):
        await validate_pool(data_io.with_namespace(""))

    image_id = generate_image_id(io.client.global_id)
    header_oid = cls_rbd.header_object(image_id)
    prefix = cls_rbd.DATA_PREFIX + (f"{io.pool_id}." if data_pool_id != -1 else "") + image_id
    directory = _op()
    if io.namespace:
        cls_rbd.dir_state_assert(directory, cls_rbd.DIRECTORY_STATE_READY)
    cls_rbd.dir_add_image(directory, name, image_id)
    remove_entry = cls_rbd.dir_remove_image(_op(), name, image_id)
    try:
        await _step(io, cls_rbd.RBD_DIRECTORY, directory, undo, remove_entry)
        id_op = cls_rbd.set_id(_op().create(True), image_id)
        await _step(io, cls_rbd.id_object(name), id_op, undo, _op().remove())
    except rados.ObjectExists:
        raise ImageExists(f"error creating image {name}", errno.EEXIST) from None
    except rados.ObjectNotFound:
        raise ImageNotFound(f"namespace {io.namespace} does not exist", errno.ENOENT) from None
    try:
        header = cls_rbd.create(_op().create(True), size, order, bits, prefix, data_pool_id)
        await _step(io, header_oid, header, undo, _op().remove())
    except rados.ObjectExists:
        raise make_ex(-errno.EBADF, f"image id {image_id} is in use already") from None
    if striped:  # on its own: the class looks up the features that the request before wrote
        await io.operate(header_oid, cls_rbd.set_stripe_unit_count(_op(), stripe_unit, stripe_count))
    if bits & features.OBJECT_MAP:
        map_oid = object_map.object_map_object(image_id)
        await _step(io, map_oid, object_map.resize_operation(num_objects), undo, _op().remove())
    return image_id


# ---------------------------------------------------------------- format 1


async def _create_v1(io: IoContext, name: str, size: int, order: int) -> None:
    """create_v1: an entry in the directory, which is a map in the object's data, and a header object."""
    _check_order(order)
    if io.namespace:
        raise InvalidArgument("there are no images of format 1 in namespaces", errno.EINVAL)
    if io.client.config.get_bool("rbd_validate_pool"):
        await validate_pool(io)
    random_part = random.SystemRandom().getrandbits(32)
    global_id = io.client.global_id
    block_name = f"rb.{global_id >> 32:x}.{global_id & 0xFFFFFFFF:x}.{random_part:x}".encode()
    header = V1_HEADER.pack(V1_TEXT, block_name, V1_SIGNATURE, V1_VERSION, order, 0, 0, 0, size, 0, 0, 0, 0)
    raw = name.encode("utf-8", "surrogateescape")
    undo: Undo = []
    try:
        entry = _op().tmap_update({raw: b""})
        await _step(io, cls_rbd.RBD_DIRECTORY, entry, undo, _op().tmap_update(removed=[raw]))
        op = _op().create(True).write(0, header)
        await _step(io, name + cls_rbd.V1_SUFFIX, op, undo, _op().remove())
    except rados.ObjectExists:  # somebody else's, and so is the entry
        raise ImageExists(f"error creating image {name}", errno.EEXIST) from None
    except BaseException:
        await take_back(undo, name)
        raise
