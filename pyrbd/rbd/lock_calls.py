"""Locks of an image: the exclusive lock, which librbd manages, and advisory ones; see :mod:`.image_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import doing, text, uint32

if TYPE_CHECKING:
    from .properties import ImageBase


# ---------------------------------------------------------------- the exclusive lock


async def is_exclusive_lock_owner(self: ImageBase) -> bool:
    """Whether we hold the image's exclusive lock. The OSD is asked: it may have been taken from us."""
    from ..image import advisory

    core = self._open()
    with doing(f"error getting lock status for image {self.name}"):
        return await advisory.is_exclusive_lock_owner(core)


async def lock_acquire(self: ImageBase, lock_mode: int) -> None:
    """Takes the exclusive lock and keeps it until :meth:`lock_release`: from now on it is neither given up
    because others ask, nor taken because it is needed.

    Args:
        lock_mode: ``RBD_LOCK_MODE_EXCLUSIVE``; or ``RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT``, with which others who
            ask wait until it is released, and are not refused.
    Raises:
        ReadOnlyImage: its owner does not give it up. InvalidArgument: the image has no exclusive lock.
        OperationNotSupported: another mode.
    """
    from ..image import advisory

    core, mode = self._open(), uint32(lock_mode, "lock_mode")
    with doing(f"error acquiring lock on image {self.name}"):
        await advisory.lock_acquire(core, mode)


async def lock_release(self: ImageBase) -> None:
    """Gives the exclusive lock up. InvalidArgument when we do not hold it."""
    from ..image import advisory

    core = self._open()
    with doing(f"error releasing lock on image {self.name}"):
        await advisory.lock_release(core)


async def lock_get_owners(self: ImageBase) -> list[dict[str, Any]]:
    """{mode, owner} of who holds the exclusive lock, at most one: ``RBD_LOCK_MODE_*`` and its address.
    InvalidArgument if the image has none."""
    from ..image import advisory

    core = self._open()
    with doing(f"error listing lock owners for image {self.name}"):
        return await advisory.lock_get_owners(core)


async def lock_break(self: ImageBase, lock_mode: int, lock_owner: str) -> None:
    """Takes the exclusive lock away from its owner, whose client is blocklisted.

    Args:
        lock_mode: ``RBD_LOCK_MODE_EXCLUSIVE``.
        lock_owner: as :meth:`lock_get_owners` names it.
    Raises:
        ImageBusy: another one owns it. ImageNotFound: nobody does. InvalidArgument, OperationNotSupported,
        ReadOnlyImage.
    """
    from ..image import advisory

    core, owner, mode = self._open(), text(lock_owner, "lock_owner"), uint32(lock_mode, "lock_mode")
    with doing(f"error breaking lock on image {self.name}"):
        await advisory.lock_break(core, mode, owner)


# ---------------------------------------------------------------- advisory locks


async def list_lockers(self: ImageBase) -> dict[str, Any] | list[Any]:
    """{tag, exclusive, lockers}: the lockers are [(client, cookie, address)]. [] when nobody has locked the
    image. The exclusive lock is shown as well."""
    from ..image import advisory

    core = self._open()
    with doing(f"error listing lockers of image {self.name}"):
        return await advisory.list_lockers(core)


async def lock_exclusive(self: ImageBase, cookie: str) -> None:
    """Locks the image for us alone. Nothing prevents others from writing who do not look at the lock.
    ImageBusy when others have locked it, ImageExists when we have with this cookie."""
    from ..image import advisory

    core, cookie = self._open(), text(cookie, "cookie")
    with doing("error acquiring exclusive lock on image"):
        await advisory.lock_exclusive(core, cookie)


async def lock_shared(self: ImageBase, cookie: str, tag: str) -> None:
    """As :meth:`lock_exclusive`, together with others who give the same tag."""
    from ..image import advisory

    core, cookie, tag = self._open(), text(cookie, "cookie"), text(tag, "tag")
    with doing("error acquiring shared lock on image"):
        await advisory.lock_shared(core, cookie, tag)


async def unlock(self: ImageBase, cookie: str) -> None:
    """Gives our lock back. ImageNotFound when we do not hold it."""
    from ..image import advisory

    core, cookie = self._open(), text(cookie, "cookie")
    with doing("error unlocking image"):
        await advisory.unlock(core, cookie)


async def break_lock(self: ImageBase, client: str, cookie: str) -> None:
    """Takes a lock away from another client, which is blocklisted (`rbd_blocklist_on_break_lock`).

    Args:
        client, cookie: as :meth:`list_lockers` names them.
    Raises:
        ImageNotFound, InvalidArgument (what is no client).
    """
    from ..image import advisory

    core, client, cookie = self._open(), text(client, "client"), text(cookie, "cookie")
    with doing("error breaking lock of image"):
        await advisory.break_lock(core, client, cookie)
