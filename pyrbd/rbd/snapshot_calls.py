"""What can be done with the snapshots of an image; see :mod:`.image_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import doing, number, optional_text, text, uint32
from .constants import (
    RBD_SNAP_NAMESPACE_TYPE_GROUP,
    RBD_SNAP_NAMESPACE_TYPE_MIRROR,
    RBD_SNAP_NAMESPACE_TYPE_TRASH,
)
from .properties import head_or_snap_id

if TYPE_CHECKING:
    from .properties import ImageBase

NO_LIMIT = 0xFFFFFFFFFFFFFFFF


async def create_snap(self: ImageBase, name: str, flags: int = 0) -> None:
    """Makes a snapshot: what the image has now stays readable under that name.

    Args:
        flags: ``RBD_SNAP_CREATE_*``.
    Raises:
        ImageExists, DiskQuotaExceeded (the limit of snapshots), ReadOnlyImage, InvalidArgument.
    """
    from ..image import snapshots

    core, name = self._open(), text(name, "name")
    flags = uint32(flags, "flags")
    with doing(f"error creating snapshot {name} from {self.name}"):
        await snapshots.create(core, name, flags, None)


async def remove_snap(self: ImageBase, name: str) -> None:
    """Removes a snapshot. Raises ImageNotFound, ImageBusy (it is protected, or has clones of format 1)."""
    from ..image import snapshots

    core, name = self._open(), text(name, "name")
    with doing(f"error removing snapshot {name} from {self.name}"):
        await snapshots.remove(core, name, 0, None)


async def remove_snap2(self: ImageBase, name: str, flags: int) -> None:
    """Removes a snapshot.

    Args:
        flags: ``RBD_SNAP_REMOVE_UNPROTECT`` to unprotect it first, ``RBD_SNAP_REMOVE_FLATTEN`` to flatten
            its clones first, ``RBD_SNAP_REMOVE_FORCE`` for both.
    Raises:
        ImageNotFound, ImageBusy.
    """
    from ..image import snapshots

    core, name = self._open(), text(name, "name")
    flags = uint32(flags, "flags")
    with doing(f"error removing snapshot {name} from {self.name} with flags {flags:x}"):
        await snapshots.remove(core, name, flags, None)


async def remove_snap_by_id(self: ImageBase, snap_id: int) -> None:
    """Removes a snapshot by its id, also one in the trash namespace. Raises ImageNotFound, ImageBusy."""
    from ..image import snapshots

    core, snap_id = self._open(), number(snap_id, "snap_id")
    with doing(f"error removing snapshot {snap_id} from {self.name}"):
        await snapshots.remove(core, snap_id, 0, None)


async def rename_snap(self: ImageBase, srcname: str, dstname: str) -> None:
    """Gives a snapshot another name. Raises ImageNotFound, ImageExists."""
    from ..image import snapshots

    core, source, dest = self._open(), text(srcname, "srcname"), text(dstname, "dstname")
    with doing(f"error renaming snapshot of {self.name} from {source} to {dest}"):
        await snapshots.rename(core, source, dest)


async def protect_snap(self: ImageBase, name: str) -> None:
    """Protects a snapshot from removal, so that it can be cloned in format 1. Raises ImageNotFound,
    ImageBusy (it is protected)."""
    from ..image import snapshots

    core, name = self._open(), text(name, "name")
    with doing(f"error protecting snapshot {self.name}@{name}"):
        await snapshots.protect(core, name)


async def unprotect_snap(self: ImageBase, name: str) -> None:
    """Ends the protection. Raises ImageNotFound, InvalidArgument (it is not protected), ImageBusy (it has
    clones of format 1)."""
    from ..image import snapshots

    core, name = self._open(), text(name, "name")
    with doing(f"error unprotecting snapshot {self.name}@{name}"):
        await snapshots.unprotect(core, name)


async def rollback_to_snap(self: ImageBase, name: str) -> None:
    """Makes the image what it was at a snapshot, object by object. Raises ImageNotFound, ReadOnlyImage."""
    from ..image import snapshots

    core, name = self._open(), text(name, "name")
    with doing(f"error rolling back image {self.name} to snapshot {name}"):
        await snapshots.rollback(core, name, None)


async def set_snap(self: ImageBase, name: str | None) -> None:
    """Reads are from this snapshot from now on, and writes raise ReadOnlyImage; None for the present.
    ImageNotFound if there is none of that name."""
    core, name = self._open(), optional_text(name, "name")
    with doing(f"error setting image {self.name} to snapshot {name}"):
        await core.current()
        await core.set_snapshot(name or None)


async def set_snap_by_id(self: ImageBase, snap_id: int | None) -> None:
    """As :meth:`set_snap`, by id; None or LIBRADOS_SNAP_HEAD for the present."""
    core, snap_id = self._open(), head_or_snap_id(snap_id)
    with doing(f"error setting image {self.name} to snapshot {snap_id}"):
        await core.current()
        await core.set_snapshot(snap_id)


async def get_snap_limit(self: ImageBase) -> int:
    """How many snapshots the image may have; 2**64 - 1 for no limit."""
    from ..image import snapshots

    core = self._open()
    with doing(f"error getting snapshot limit for {self.name}"):
        return await snapshots.get_limit(core)


async def set_snap_limit(self: ImageBase, limit: int) -> int:
    """Limits how many snapshots the image may have; returns 0."""
    from ..image import snapshots

    core, limit = self._open(), number(limit, "limit")
    with doing(f"error setting snapshot limit for {self.name}"):
        await snapshots.set_limit(core, limit)
    return 0


async def remove_snap_limit(self: ImageBase) -> int:
    """Ends the limit; returns 0."""
    return await set_snap_limit(self, NO_LIMIT)


async def snap_get_group_namespace(self: ImageBase, snap_id: int) -> dict[str, Any]:
    """{pool, name, snap_name} of the group that a snapshot belongs to. ImageNotFound; InvalidArgument for
    another kind of snapshot."""
    from ..image import snapshots

    core, snap_id = self._open(), number(snap_id, "snap_id")
    with doing(f"error getting snapshot group namespace for image: {self.name}, snap_id: {snap_id}"):
        await core.current()
        return await snapshots.group_namespace(core, snap_id)


async def snap_get_trash_namespace(self: ImageBase, snap_id: int) -> dict[str, Any]:
    """{original_namespace_type, original_name} of a removed snapshot that has clones. ImageNotFound;
    InvalidArgument for another kind of snapshot."""
    from ..image import snapshots

    core, snap_id = self._open(), number(snap_id, "snap_id")
    with doing(f"error getting snapshot trash namespace for image: {self.name}, snap_id: {snap_id}"):
        await core.current()
        return snapshots.trash_namespace(core, snap_id)


async def snap_get_mirror_namespace(self: ImageBase, snap_id: int) -> dict[str, Any]:
    """{state, mirror_peer_uuids, complete, primary_mirror_uuid, primary_snap_id,
    last_copied_object_number} of a mirror snapshot. ImageNotFound; InvalidArgument for another kind."""
    from ..image import snapshots

    core, snap_id = self._open(), number(snap_id, "snap_id")
    with doing(f"error getting snapshot mirror namespace for image: {self.name}, snap_id: {snap_id}"):
        await core.current()
        return snapshots.mirror_namespace(core, snap_id)


_DETAILS = {
    RBD_SNAP_NAMESPACE_TYPE_GROUP: ("group", snap_get_group_namespace),
    RBD_SNAP_NAMESPACE_TYPE_TRASH: ("trash", snap_get_trash_namespace),
    RBD_SNAP_NAMESPACE_TYPE_MIRROR: ("mirror", snap_get_mirror_namespace),
}


async def list_snaps(self: ImageBase) -> list[dict[str, Any]]:
    """{id, size, name, namespace} of each snapshot, oldest first; the size is in bytes, the namespace
    ``RBD_SNAP_NAMESPACE_TYPE_*``. Those that users did not make have {group}, {trash} or {mirror} as well,
    which is what ``snap_get_*_namespace`` gives, or None where that fails."""
    core = self._open()
    found = []
    with doing(f"error listing snapshots for image {self.name}"):
        await core.current()
        for snap in core.header.snaps:
            entry: dict[str, Any] = {
                "id": snap.id,
                "size": snap.info.image_size,
                "name": snap.name,
                "namespace": snap.info.namespace.type,
            }
            if snap.info.namespace.type in _DETAILS:
                key, detail = _DETAILS[snap.info.namespace.type]
                try:
                    entry[key] = await detail(self, snap.id)
                except Exception:
                    entry[key] = None
            found.append(entry)
    return found
