"""Locks on images that users take by hand, and the exclusive lock as users see and take it
(`src/librbd/internal.cc`: list_lockers, lock, unlock, break_lock, lock_acquire, lock_release,
lock_get_owners, lock_break, is_exclusive_lock_owner).

All are one lock of the OSDs' lock class, on the header object.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..denc import Decoder
from ..msgr.types import ENTITY_TYPE_NAMES, EntityName
from ..rados import cls_lock
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from .errors import ReadOnlyImage, make_ex
from .exclusive_lock import (
    RBD_LOCK_NAME,
    STANDARD,
    TRANSIENT,
    ExclusiveLock,
    break_locker,
    get_locker,
    legacy_address,
    translate,
)

if TYPE_CHECKING:
    from .image import Image

RBD_LOCK_MODE_EXCLUSIVE = 0
RBD_LOCK_MODE_SHARED = 1
RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT = 2


async def list_lockers(image: Image) -> dict[str, Any] | list[Any]:
    """Who has locked the image: ``{"tag": str, "exclusive": bool, "lockers": [(client, cookie, address)]}``,
    and an empty list where nobody has."""
    info = await _info(image)
    if not info.lockers:
        return []
    return {
        "tag": info.tag,
        "exclusive": info.type == cls_lock.LOCK_EXCLUSIVE,
        "lockers": [(str(who.locker), who.cookie, legacy_address(at.addr)) for who, at in info.lockers.items()],
    }


async def _info(image: Image) -> cls_lock.LockInfo:
    reply = await _operate(image, cls_lock.get_info(RBD_LOCK_NAME), "listing lockers")
    return cls_lock.LockInfo.decode(Decoder(reply.ops[0].data))


async def lock_exclusive(image: Image, cookie: str) -> None:
    """Locks the image for ourselves.

    Raises:
        ImageBusy: somebody else, or we with another cookie, have locked it; ImageExists: we have, with this one.
    """
    await _lock(image, cls_lock.LOCK_EXCLUSIVE, cookie, "")


async def lock_shared(image: Image, cookie: str, tag: str) -> None:
    """Locks the image together with all others who name the same tag.

    Raises:
        ImageBusy: it is locked exclusively, or with another tag; ImageExists: we have locked it with this cookie.
    """
    await _lock(image, cls_lock.LOCK_SHARED, cookie, tag)


async def _lock(image: Image, kind: int, cookie: str, tag: str) -> None:
    await image.current()
    await _operate(image, cls_lock.lock(RBD_LOCK_NAME, kind, cookie, tag), "locking")
    await _changed(image)


async def unlock(image: Image, cookie: str) -> None:
    """Gives a lock of ours back. ImageNotFound if we have none with this cookie."""
    await image.current()
    await _operate(image, cls_lock.unlock(RBD_LOCK_NAME, cookie), "unlocking")
    await _changed(image)


async def break_lock(image: Image, client: str, cookie: str) -> None:
    """Takes a lock from the client of this name (``client.4123``), which is blocklisted first, so that it writes
    no more (`rbd_blocklist_on_break_lock`, `rbd_blocklist_expire_seconds`).

    Raises:
        ImageNotFound: it has no such lock. InvalidArgument: that is no name of a client.
    """
    await image.current()
    entity = parse_entity(client)
    config = image.config
    if config.get_bool("rbd_blocklist_on_break_lock"):
        info = await _info(image)
        address = next((legacy_address(at.addr) for who, at in info.lockers.items() if who.locker == entity), None)
        if address is None:
            raise make_ex(-errno.ENOENT, f"{client} has not locked image {image.name}")
        try:
            await image.client.blocklist_add(address, config.get_int("rbd_blocklist_expire_seconds"))
        except rados.Error as e:
            raise translate(e, f"blocklisting {client}") from e
    await _operate(image, cls_lock.break_lock(RBD_LOCK_NAME, entity, cookie), f"breaking the lock of {client}")
    await _changed(image)


def parse_entity(text: str) -> EntityName:
    """``client.4123``. InvalidArgument for what is no such name."""
    kind, _, number = text.partition(".")
    for code, name in ENTITY_TYPE_NAMES.items():
        if name == kind and number.isascii() and number.isdigit() and len(number) < 19:
            return EntityName(code, int(number))
    raise make_ex(-errno.EINVAL, f"{text!r} is not the name of a client")


async def _changed(image: Image) -> None:
    await image.watcher.header_update()


async def _operate(image: Image, operation: ObjectOperation, what: str) -> Any:
    try:
        return await image.io.operate(image.header_oid, operation)
    except rados.Error as e:
        raise translate(e, f"{what} image {image.name}") from e


# ---------------------------------------------------------------- the exclusive lock


def _exclusive(image: Image) -> ExclusiveLock:
    if image.lock is None:
        raise make_ex(
            -errno.EINVAL, f"image {image.name} has no exclusive-lock feature, or is open read-only or at a snapshot"
        )
    lock: ExclusiveLock = image.lock
    return lock


async def is_exclusive_lock_owner(image: Image) -> bool:
    """Whether we have the exclusive lock: the OSD is asked, as somebody may have broken it.

    Raises:
        ConnectionShutdown: this client was blocklisted.
    """
    lock = image.lock
    if lock is None:
        return False
    try:
        await image.io.operate(image.header_oid, lock.assert_locked(ObjectOperation()))
    except (rados.ObjectBusy, rados.ObjectNotFound):
        return False
    except rados.Error as e:
        raise translate(e, f"the exclusive lock of image {image.name}") from e
    return True


async def lock_acquire(image: Image, mode: int) -> None:
    """Takes the exclusive lock, and keeps it until :func:`lock_release`: from now on it is neither given up
    because others ask, nor taken because it is needed.

    Args:
        mode: RBD_LOCK_MODE_EXCLUSIVE; or RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT, with which others wait for it.
    Raises:
        ReadOnlyImage: its owner does not give it up; InvalidArgument: the image has none;
        OperationNotSupported: another mode.
    """
    lock = _exclusive(image)
    if mode == RBD_LOCK_MODE_EXCLUSIVE:
        lock.policy = STANDARD
    elif mode == RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT:
        lock.policy = TRANSIENT
    else:
        raise make_ex(-errno.EOPNOTSUPP, f"lock mode {mode}")
    await lock.acquire_now()
    if not lock.owner:
        raise ReadOnlyImage(f"image {image.name}: the exclusive lock was not acquired", errno.EROFS)


async def lock_release(image: Image) -> None:
    """Gives the exclusive lock up. InvalidArgument if we do not have it."""
    lock = _exclusive(image)
    if not lock.owner:
        raise make_ex(-errno.EINVAL, f"image {image.name}: we do not have the exclusive lock")
    await lock.release()


async def lock_get_owners(image: Image) -> list[dict[str, Any]]:
    """Who has the exclusive lock: ``[{"mode": RBD_LOCK_MODE_EXCLUSIVE, "owner": address}]``, or nothing.

    Raises:
        InvalidArgument: the image has none; ImageBusy: it is locked by other means.
    """
    _exclusive(image)
    try:
        locker = await get_locker(image.io, image.header_oid)
    except rados.Error as e:
        raise translate(e, f"the exclusive lock of image {image.name}") from e
    return [] if locker is None else [{"mode": RBD_LOCK_MODE_EXCLUSIVE, "owner": locker.address}]


async def lock_break(image: Image, mode: int, owner: str) -> None:
    """Takes the exclusive lock from the owner at this address (of :func:`lock_get_owners`), living or dead; it is
    blocklisted.

    Raises:
        ImageNotFound: nobody has the lock; ImageBusy: somebody else has, or we; ReadOnlyImage,
        InvalidArgument, OperationNotSupported.
    """
    if mode != RBD_LOCK_MODE_EXCLUSIVE:
        raise make_ex(-errno.EOPNOTSUPP, f"lock mode {mode}")
    if image.read_only:
        raise ReadOnlyImage(f"image {image.name} was opened read-only, or at a snapshot", errno.EROFS)
    lock = _exclusive(image)
    try:
        locker = await get_locker(image.io, image.header_oid)
        if locker is None:
            raise make_ex(-errno.ENOENT, f"nobody has the exclusive lock of image {image.name}")
        if locker.address != owner or lock.owner:
            raise make_ex(-errno.EBUSY, f"the exclusive lock of image {image.name} belongs to {locker.address}")
        if not await break_locker(image, locker, force=True):
            raise make_ex(-errno.EAGAIN, f"the exclusive lock of image {image.name} has another owner now")
    except rados.Error as e:
        raise translate(e, f"breaking the exclusive lock of image {image.name}") from e
