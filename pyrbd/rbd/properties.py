"""What an open image says of itself without asking the cluster: the same for both front doors."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, ClassVar

from ..image.cls_rbd import SNAP_NAMESPACE_USER
from ..image.errors import ImageNotFound, InvalidArgument
from ..msgr.osdop import NOSNAP
from .arguments import doing, number, text, when
from .pool_calls import io_of

if TYPE_CHECKING:
    import datetime

    from ..image.header import Snap
    from ..image.image import Image as Core
    from ..rados.client import Client
    from ..rados.completion import Completion
    from ..rados.io import IoContext
    from ..rados.ioctx import IoctxBase


class ImageBase:
    """An image; its front door opens and closes it.

    Attributes:
        name: of the image, as it was when it was opened.
        closed: calls raise InvalidArgument then.
    """

    closed: bool
    name: str
    ioctx: IoctxBase
    _ioctx_type: ClassVar[type[IoctxBase]]
    _client: Client
    _core: Core
    _in_flight: set[Completion[Any]]
    """Asynchronous operations that have begun and not ended."""

    def _open(self) -> Core:
        if self.closed:
            raise InvalidArgument("image is closed")
        return self._core

    def require_not_closed(self) -> None:
        """Raises InvalidArgument on a closed image."""
        self._open()

    def _current(self, what: str) -> Core:
        """The image below, with its newest header if that can be had without waiting; `what` is being done."""
        return self._open()

    def _io_of(self, ioctx: Any) -> IoContext:
        """The pool of an open ioctx of this front door."""
        return io_of(ioctx, self._ioctx_type)

    # ------------------------------------------------------------ the image

    def size(self) -> int:
        """In bytes; of the snapshot, if one is open."""
        return self._current("getting size for").size

    def stat(self) -> dict[str, Any]:
        """{size, obj_size, num_objs, order, block_name_prefix, parent_pool, parent_name}; the latter two
        are always -1 and ""."""
        core = self._current("getting info for")
        layout = core.layout
        return {
            "size": core.size,
            "obj_size": layout.object_size,
            "num_objs": layout.num_objects(core.size),
            "order": layout.order,
            "block_name_prefix": core.header.raw.object_prefix[:23],  # a fixed field of librbd's
            "parent_pool": -1,
            "parent_name": "",
        }

    def id(self) -> str:
        """The image's id, which does not change with its name. InvalidArgument for an image of format 1,
        which has none."""
        core = self._open()
        if core.old_format:
            raise InvalidArgument(f"error getting id for image {self.name}", errno.EINVAL)
        return core.id

    def get_name(self) -> str:
        """The image's name."""
        return self._open().name

    def block_name_prefix(self) -> str:
        """What the names of the data objects begin with."""
        return self._open().header.raw.object_prefix

    def data_pool_id(self) -> int:
        """The pool with the data objects."""
        return self._open().data_io.pool_id

    def old_format(self) -> bool:
        """Whether the image is of format 1."""
        return self._open().old_format

    def features(self) -> int:
        """A mask of ``RBD_FEATURE_*``."""
        return self._current("getting features for").header.features

    def op_features(self) -> int:
        """A mask of ``RBD_OPERATION_FEATURE_*``."""
        return self._current("getting op features for").header.raw.op_features

    def flags(self) -> int:
        """A mask of ``RBD_FLAG_*``; of the snapshot, if one is open."""
        core = self._current("getting flags for")
        return core.snap.flags if core.snap is not None else core.header.raw.flags

    def stripe_unit(self) -> int:
        """In bytes."""
        return self._open().layout.stripe_unit

    def stripe_count(self) -> int:
        """In objects."""
        return self._open().layout.stripe_count

    def overlap(self) -> int:
        """How many bytes from its begin may still come from the parent; 0 without one."""
        return self._current("getting overlap for").overlap

    def parent_info(self) -> tuple[str, str, str]:
        """(pool, image, snapshot) that this image was cloned from; ImageNotFound if none."""
        parent = self._parent()
        assert parent.snap is not None
        return self._pool_name(parent), parent.name, parent.snap.name

    def parent_id(self) -> str:
        """The id of the parent image; ImageNotFound if none."""
        return self._parent().id

    def _parent(self) -> Core:
        core = self._current("getting parent info for")
        if core.parent is None or core.parent.snap is None:
            raise ImageNotFound(f"error getting parent info for image {self.name}", errno.ENOENT)
        return core.parent

    def _pool_name(self, core: Core) -> str:
        return self._client.osdmap.pool_names.get(core.io.pool_id, "")

    def create_timestamp(self) -> datetime.datetime:
        """When the image was created, in UTC."""
        return when(self._open().header.raw.create_timestamp)

    def access_timestamp(self) -> datetime.datetime:
        """When the image was last read, in UTC; noted every `rbd_atime_update_interval` seconds at most."""
        return when(self._current("getting access timestamp for").header.raw.access_timestamp)

    def modify_timestamp(self) -> datetime.datetime:
        """When the image was last written, in UTC; noted every `rbd_mtime_update_interval` seconds at most."""
        return when(self._current("getting modify timestamp for").header.raw.modify_timestamp)

    # ------------------------------------------------------------ snapshots

    def _snap(self, snapshot: str | int, what: str) -> Snap:
        core = self._current(what)
        with doing(f"error {what} image {self.name}"):
            return core.find_snapshot(snapshot)

    def is_protected_snap(self, name: str) -> bool:
        """Whether a snapshot is protected from removal. ImageNotFound if there is none."""
        name = text(name, "name")
        return self._snap(name, f"checking if snapshot {name} is protected of").protected

    def snap_exists(self, name: str) -> bool:
        """Whether there is a snapshot of that name."""
        name = text(name, "name")
        snaps = self._current("getting snapshot exists for").header.snaps
        return any(s.name == name and s.info.namespace.type == SNAP_NAMESPACE_USER for s in snaps)

    def snap_get_name(self, snap_id: int) -> str:
        """The name of a snapshot. ImageNotFound if there is none of that id."""
        return self._snap(_snap_id(snap_id), "getting name of a snapshot of").name

    def snap_get_id(self, snap_name: str) -> int:
        """The id of a snapshot. ImageNotFound if there is none of that name."""
        return self._snap(text(snap_name, "snap_name"), "getting id of a snapshot of").id

    def snap_get_namespace_type(self, snap_id: int) -> int:
        """Which kind of snapshot it is, ``RBD_SNAP_NAMESPACE_TYPE_*``. ImageNotFound."""
        return self._snap(number(snap_id, "snap_id"), "getting snapshot namespace type for").info.namespace.type

    def get_snap_timestamp(self, snap_id: int) -> datetime.datetime:
        """When a snapshot was made, in UTC. ImageNotFound if there is none of that id."""
        return when(self._snap(number(snap_id, "snap_id"), "getting snapshot timestamp for").info.timestamp)


def _snap_id(value: Any) -> int:
    """A snapshot's id from a signed number of 64 bits."""
    return number(value, "snap_id", -1 << 63, (1 << 63) - 1) & 0xFFFFFFFFFFFFFFFF


def head_or_snap_id(value: Any) -> int | None:
    """As :func:`_snap_id`; None for the head, which is None, 0 or LIBRADOS_SNAP_HEAD."""
    if not value or value == NOSNAP:
        return None
    found = _snap_id(value)
    return None if found == NOSNAP else found
