"""What can be done with the images of a pool: the methods of `rbd.RBD` and of `aio.RBD` alike.

Each function is a coroutine that checks its arguments as Ceph's binding does and asks the image
layer. `rbd.RBD` makes methods of them that wait in the caller's thread (:func:`.pool.blocking`);
`aio.RBD` has them as they are. So a function's signature, docstring and checks stand once.

A wrong type of a name is InvalidArgument, of a number TypeError.
"""

from __future__ import annotations

import errno
from builtins import list as List
from typing import TYPE_CHECKING, Any, ClassVar

from ..image import features as _features
from ..image.errors import InvalidArgument
from ..msgr.osdop import NOSNAP
from ..rados.ioctx import IoctxBase
from .arguments import (
    OnProgress,
    doing,
    formerly,
    fraction,
    number,
    optional_number,
    optional_text,
    progress,
    text,
)

if TYPE_CHECKING:
    import datetime

    from ..rados.io import IoContext


class RBDBase:
    """What the front doors share; it has no state."""

    _ioctx_type: ClassVar[type[IoctxBase]] = IoctxBase

    def _io(self, ioctx: Any) -> IoContext:
        """The pool of an open ioctx of this front door."""
        return io_of(ioctx, self._ioctx_type)

    def version(self) -> tuple[int, int, int]:
        """The version of librbd whose API this is."""
        return (1, 20, 0)

    def features_to_string(self, features: int) -> str:
        """The names of feature bits, joined by commas. InvalidArgument for unknown bits."""
        bits = number(features, "features")
        with doing("error converting features bitmask to str"):
            return _features.features_to_string(bits)

    def features_from_string(self, str_features: str) -> int:
        """The bits of names joined by commas, or of a number; those of new images by default for "".
        InvalidArgument for what is neither."""
        names = text(str_features, "str_features")
        with doing("error getting features bitmask from str"):
            return _features.features_from_string(names)


def io_of(ioctx: Any, kind: type[IoctxBase]) -> IoContext:
    """The pool of an open ioctx; TypeError if it is not of that kind."""
    if not isinstance(ioctx, kind):
        raise TypeError(f"ioctx must be a {kind.__module__}.{kind.__name__}, not {type(ioctx).__name__}")
    ioctx.require_ioctx_open()
    return ioctx._io


# ---------------------------------------------------------------- images


async def create(
    self: RBDBase,
    ioctx: IoctxBase,
    name: str,
    size: int,
    order: int | None = None,
    old_format: bool = False,
    features: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
) -> None:
    """Creates an image.

    Args:
        size: in bytes.
        order: objects have 2**order bytes, 12 to 25; None for `rbd_default_order`.
        old_format: make it of format 1, which has none of what the arguments below ask for.
        features: a mask of ``RBD_FEATURE_*``; None for `rbd_default_features`.
        stripe_unit, stripe_count: in bytes, in objects; None for no striping.
        data_pool: where the data goes, if not into the pool of `ioctx`.
    Raises:
        ImageExists, InvalidArgument, ArgumentOutOfRange, FunctionNotSupported, TypeError. After a
        failure nothing of the image is left.
    """
    from ..image import create

    image, pool = text(name, "name"), optional_text(data_pool, "data_pool")
    io = self._io(ioctx)
    size = number(size, "size")
    order = None if order is None else number(order, "order", -1 << 31, (1 << 31) - 1)
    features = optional_number(features, "features")
    unit, count = optional_number(stripe_unit, "stripe_unit"), optional_number(stripe_count, "stripe_count")
    if old_format and (features or unit or count or pool):
        raise InvalidArgument("format 1 images do not support feature masks, non-default striping, nor data pool")
    with doing(f"error creating image {image}"):
        await create.create(io, image, size, order, features, unit, count, pool, old_format=bool(old_format))


@formerly(p_snapname="p_snapshot")
async def clone(
    self: RBDBase,
    p_ioctx: IoctxBase,
    p_name: str,
    p_snapshot: str | int,
    c_ioctx: IoctxBase,
    c_name: str,
    features: int | None = None,
    order: int | None = None,
    stripe_unit: int | None = None,
    stripe_count: int | None = None,
    data_pool: str | None = None,
    clone_format: int | None = None,
) -> None:
    """Makes an image that has the data of a snapshot of another one until it is written to.

    Args:
        p_ioctx, p_name, p_snapshot: the snapshot, by name or id, of the image in the pool.
        c_ioctx, c_name: the new image.
        features: a mask of ``RBD_FEATURE_*``, with layering; None for `rbd_default_features`.
        order: objects have 2**order bytes; None for as many as the parent's.
        stripe_unit, stripe_count: in bytes, in objects; None for the parent's.
        data_pool: where the data goes, if not into the pool of `c_ioctx`.
        clone_format: 1, which needs a protected snapshot, or 2, which needs OSDs and clients of mimic;
            None for `rbd_default_clone_format`.
    Raises:
        ImageNotFound, ImageExists, InvalidArgument, FunctionNotSupported, ArgumentOutOfRange, TypeError.
    """
    from ..image import clone

    parent, child = text(p_name, "p_name"), text(c_name, "c_name")
    pool = optional_text(data_pool, "data_pool")
    p_io, c_io = self._io(p_ioctx), self._io(c_ioctx)
    if not isinstance(p_snapshot, str | int):
        raise TypeError("p_snapshot must be a string or an integer")
    snapshot = p_snapshot if isinstance(p_snapshot, str) else number(p_snapshot, "p_snapshot")
    features, order = optional_number(features, "features"), optional_number(order, "order")
    unit, count = optional_number(stripe_unit, "stripe_unit"), optional_number(stripe_count, "stripe_count")
    form = optional_number(clone_format, "clone_format")
    if snapshot == NOSNAP:
        raise InvalidArgument(f"error creating clone {child}: the parent's head, not a snapshot", errno.EINVAL)
    with doing(f"error creating clone {child}"):
        await clone.clone(p_io, parent, snapshot, c_io, child, features, order, unit, count, pool, form)


async def list(self: RBDBase, ioctx: IoctxBase) -> List[str]:
    """The names of the images in the pool and namespace of `ioctx`: those of format 1, then those of format 2, each
    sorted."""
    from ..image import directory

    io = self._io(ioctx)
    with doing("error listing images"):
        return [*await directory.list_images(io)]


async def list2(self: RBDBase, ioctx: IoctxBase) -> List[dict[str, str]]:
    """{id, name} of each image in the pool and namespace of `ioctx`, in the order of :func:`list`. The id is "" for
    format 1."""
    from ..image import directory

    io = self._io(ioctx)
    with doing("error listing images"):
        return [{"id": i, "name": name} for name, i in (await directory.list_images(io)).items()]


async def remove(self: RBDBase, ioctx: IoctxBase, name: str, on_progress: OnProgress | None = None) -> None:
    """Removes an image; this takes a while for large ones.

    Args:
        on_progress: called with (done, total); a negative result cancels.
    Raises:
        ImageNotFound, ImageBusy (it is open somewhere), ImageHasSnapshots, OperationCanceled.
    """
    from ..image import remove

    image, io = text(name, "name"), self._io(ioctx)
    with doing(f"error removing image {image}"):
        await remove.remove(io, image, progress(on_progress))


async def rename(self: RBDBase, ioctx: IoctxBase, src: str, dest: str) -> None:
    """Renames an image. Raises ImageNotFound, ImageExists."""
    from ..image import directory

    source, target = text(src, "src"), text(dest, "dest")
    io = self._io(ioctx)
    with doing(f"error renaming image {source} to {target}"):
        await directory.rename(io, source, target)


# ---------------------------------------------------------------- the trash


async def trash_move(self: RBDBase, ioctx: IoctxBase, name: str, delay: int = 0) -> None:
    """Moves an image to the trash, from which it can be restored.

    Args:
        delay: for so many seconds it is not removed but by force.
    Raises:
        ImageNotFound, ImageBusy.
    """
    from ..image import trash

    image, io = text(name, "name"), self._io(ioctx)
    seconds = number(delay, "delay")
    with doing(f"error moving image {image} to trash"):
        await trash.move(io, image, seconds)


async def trash_purge(
    self: RBDBase, ioctx: IoctxBase, expire_ts: datetime.datetime | None = None, threshold: float = -1
) -> None:
    """Removes the images of the trash whose delay has passed.

    Args:
        expire_ts: whose delay had passed then, a time in the zone of this machine; None for now.
        threshold: remove, oldest first, until the pool is used to this part (0 to 1) only; -1 for all.
    """
    from ..image import trash

    io = self._io(ioctx)
    expire = 0
    if expire_ts:
        import time

        expire = int(time.mktime(expire_ts.timetuple()))
    until = fraction(threshold, "threshold")
    with doing("error purging images from trash"):
        await trash.purge(io, expire, until)


async def trash_remove(
    self: RBDBase, ioctx: IoctxBase, image_id: str, force: bool = False, on_progress: OnProgress | None = None
) -> None:
    """Removes an image from the trash, with its data.

    Args:
        force: although its delay has not passed.
        on_progress: called with (done, total); a negative result cancels.
    Raises:
        ImageNotFound, PermissionError (the delay), ImageBusy, ImageHasSnapshots.
    """
    from ..image import trash

    key, io = text(image_id, "image_id"), self._io(ioctx)
    forced = bool(number(force, "force", -1 << 31, (1 << 31) - 1))
    with doing(f"error deleting image {key} from trash"):
        await trash.remove(io, key, forced, progress(on_progress))


async def trash_get(self: RBDBase, ioctx: IoctxBase, image_id: str) -> dict[str, Any]:
    """{id, name, source, deletion_time, deferment_end_time} of an image in the trash, the times in UTC.
    Raises ImageNotFound."""
    from ..image import trash

    key, io = text(image_id, "image_id"), self._io(ioctx)
    with doing(f"error retrieving image {key} from trash"):
        return (await trash.get(io, key)).info()


async def trash_list(self: RBDBase, ioctx: IoctxBase) -> List[dict[str, Any]]:
    """{id, name, source, deletion_time, deferment_end_time} of each image in the trash, the times in UTC."""
    from ..image import trash

    io = self._io(ioctx)
    with doing("error listing trash entries"):
        return [entry.info() for entry in await trash.list_(io)]


async def trash_restore(self: RBDBase, ioctx: IoctxBase, image_id: str, name: str) -> None:
    """Takes an image out of the trash, under a name. Raises ImageNotFound, ImageExists."""
    from ..image import trash

    key, image = text(image_id, "image_id"), text(name, "name")
    io = self._io(ioctx)
    with doing(f"error restoring image {key} from trash"):
        await trash.restore(io, key, image)


# ---------------------------------------------------------------- namespaces


async def namespace_create(self: RBDBase, ioctx: IoctxBase, name: str) -> None:
    """Adds a namespace to the pool; `Ioctx.set_namespace` enters it. Raises ImageExists, InvalidArgument."""
    from ..image import namespaces

    namespace, io = text(name, "name"), self._io(ioctx)
    with doing(f"error creating namespace {namespace}"):
        await namespaces.create(io, namespace)


async def namespace_remove(self: RBDBase, ioctx: IoctxBase, name: str) -> None:
    """Removes a namespace. Raises ImageNotFound, ImageBusy (it has images)."""
    from ..image import namespaces

    namespace, io = text(name, "name"), self._io(ioctx)
    with doing(f"error removing namespace {namespace}"):
        await namespaces.remove(io, namespace)


async def namespace_exists(self: RBDBase, ioctx: IoctxBase, name: str) -> bool:
    """Whether the pool has a namespace."""
    from ..image import namespaces

    namespace, io = text(name, "name"), self._io(ioctx)
    with doing(f"error verifying namespace {namespace}"):
        return await namespaces.exists(io, namespace)


async def namespace_list(self: RBDBase, ioctx: IoctxBase) -> List[str]:
    """The names of the pool's namespaces, without the default one."""
    from ..image import namespaces

    io = self._io(ioctx)
    with doing("error listing namespaces"):
        return await namespaces.list_(io)


# ---------------------------------------------------------------- metadata and configuration


async def pool_metadata_get(self: RBDBase, ioctx: IoctxBase, key: str) -> str:
    """A value that was set; KeyError if there is none."""
    from ..image import metadata

    key, io = text(key, "key"), self._io(ioctx)
    with doing(f"error getting metadata {key}"):
        return await metadata.pool_get(io, key)


async def pool_metadata_set(self: RBDBase, ioctx: IoctxBase, key: str, value: str) -> None:
    """Sets a value of the pool. InvalidArgument for a ``conf_*`` that it cannot have."""
    from ..image import metadata

    key, value = text(key, "key"), text(value, "value")
    io = self._io(ioctx)
    with doing(f"error setting metadata {key}"):
        await metadata.pool_set(io, key, value)


async def pool_metadata_remove(self: RBDBase, ioctx: IoctxBase, key: str) -> None:
    """Removes a value of the pool; KeyError if there is none."""
    from ..image import metadata

    key, io = text(key, "key"), self._io(ioctx)
    with doing(f"error removing metadata {key}"):
        await metadata.pool_remove(io, key)


async def pool_metadata_list(self: RBDBase, ioctx: IoctxBase) -> List[tuple[str, str]]:
    """(key, value) of all that was set, sorted."""
    from ..image import metadata

    io = self._io(ioctx)
    with doing("error listing metadata"):
        return [*(await metadata.pool_list(io)).items()]


async def config_get(self: RBDBase, ioctx: IoctxBase, key: str) -> str:
    """A configuration option of the pool that was overridden; KeyError if it was not."""
    from ..image import metadata

    key, io = config_key(key), self._io(ioctx)
    with doing(f"error getting config {key} for pool {ioctx.get_pool_name()}"):
        return await metadata.pool_config_get(io, key)


async def config_set(self: RBDBase, ioctx: IoctxBase, key: str, value: str) -> None:
    """Overrides a configuration option (``rbd_*``) for the images of the pool. InvalidArgument for a
    value that it cannot have."""
    from ..image import metadata

    key, value = config_key(key), text(value, "value")
    io = self._io(ioctx)
    with doing(f"error setting config {key} for pool {ioctx.get_pool_name()}"):
        await metadata.pool_config_set(io, key, value)


async def config_remove(self: RBDBase, ioctx: IoctxBase, key: str) -> None:
    """Removes an override; KeyError if there is none."""
    from ..image import metadata

    key, io = config_key(key), self._io(ioctx)
    with doing(f"error removing config {key} for pool {ioctx.get_pool_name()}"):
        await metadata.pool_config_remove(io, key)


async def config_list(self: RBDBase, ioctx: IoctxBase) -> List[dict[str, Any]]:
    """{name, value, source} of each option, source being one of ``RBD_CONFIG_SOURCE_*``."""
    from ..image import metadata

    io = self._io(ioctx)
    with doing("error listing config options"):
        return [option._asdict() for option in await metadata.pool_config_list(io)]


def config_key(key: Any) -> str:
    """An option's name; TypeError for what is no str."""
    if not isinstance(key, str):
        raise TypeError(f"key must be a string, not {type(key).__name__}")
    return key


# ---------------------------------------------------------------- the pool


async def pool_init(self: RBDBase, ioctx: IoctxBase, force: bool) -> None:
    """Prepares a pool for images: enables the application ``rbd`` and validates it.

    Args:
        force: although the pool is used by another application.
    """
    from ..image import pool

    io = self._io(ioctx)
    with doing("error initializing pool"):
        await pool.init(io, bool(force))


async def pool_stats_get(self: RBDBase, ioctx: IoctxBase) -> dict[str, int]:
    """{image_count, image_provisioned_bytes, image_max_provisioned_bytes, image_snap_count, trash_count,
    trash_provisioned_bytes, trash_max_provisioned_bytes, trash_snap_count} of a pool and namespace; the
    largest size that an image or one of its snapshots has counts as its `max`."""
    from ..image import pool

    io = self._io(ioctx)
    with doing("error retrieving pool stats"):
        return (await pool.stats(io))._asdict()
