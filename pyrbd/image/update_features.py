"""Switching features of an image on and off (`src/librbd/operation/EnableFeaturesRequest.cc`,
`DisableFeaturesRequest.cc`)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import features, notify, object_map, operation
from .bulk import change_header
from .errors import FunctionNotSupported, InvalidArgument, ReadOnlyImage, make_ex
from .features import DEEP_FLATTEN, EXCLUSIVE_LOCK, FAST_DIFF, JOURNALING, OBJECT_MAP
from .object_map import FAST_DIFF_INVALID, OBJECT_MAP_INVALID, ObjectMap

if TYPE_CHECKING:
    from .image import Image

MUTABLE = EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | JOURNALING
"""RBD_FEATURES_MUTABLE: those that can be switched on and off,"""
DISABLE_ONLY = DEEP_FLATTEN
"""and those that can only be switched off."""
_WITH_MAPS = OBJECT_MAP | FAST_DIFF


async def update_features(image: Image, bits: int, enabled: bool) -> None:
    """Switches features on or off: exclusive-lock, object-map, fast-diff and, only off, deep-flatten. Object-map and
    fast-diff go together. A new object map is flagged as one not to be believed until it is rebuilt.

    Args:
        bits: a mask of features.
    Raises:
        InvalidArgument (EINVAL): a feature that cannot be switched, that is so already, or that another one needs; an
        image of format 1, or with too many objects for an object map; ReadOnlyImage (EROFS); FunctionNotSupported
        (ENOSYS): journaling.
    """
    await image.current()
    if image.read_only:
        raise ReadOnlyImage(f"image {image.name} was opened read-only, or at a snapshot", errno.EROFS)
    if image.old_format:
        raise InvalidArgument(f"image {image.name} is of format 1, and has no features", errno.EINVAL)
    bad = bits & ~(MUTABLE if enabled else MUTABLE | DISABLE_ONLY)
    if bad:
        raise InvalidArgument(
            f"features that cannot be {'enabled' if enabled else 'disabled'}: {features.names(bad)}", errno.EINVAL
        )
    current = image.header.features
    if enabled:
        together = (bits & OBJECT_MAP and not current & FAST_DIFF) or (bits & FAST_DIFF and not current & OBJECT_MAP)
    else:
        together = bool(bits & OBJECT_MAP and current & FAST_DIFF)
    if together:
        bits |= _WITH_MAPS
    if not bits:
        raise InvalidArgument("there is no feature to be updated", errno.EINVAL)
    already = bits & current if enabled else bits & ~current
    if already:
        raise InvalidArgument(
            f"image {image.name} {'has' if enabled else 'does not have'} {features.names(already)}", errno.EINVAL
        )
    if bits & JOURNALING:
        raise FunctionNotSupported("pyrbd does not switch journaling on or off", errno.ENOSYS)
    if enabled and bits & OBJECT_MAP:
        object_map.check_object_count(image)
    payload = notify.UpdateFeatures(bits, enabled)
    lock = image.lock
    await operation.invoke(image, payload, lambda report: _execute(image, bits, enabled))
    if lock is not None and image.lock is not lock:
        await lock.close()  # the refresh has begun that, and it could not end before the operation


async def _execute(image: Image, bits: int, enabled: bool) -> None:
    await image.current()
    features.check_writable(image.header.features, image.name)
    with await image.writes.block():
        bits &= ~image.header.features if enabled else image.header.features
        if bits & _WITH_MAPS:
            bits |= _WITH_MAPS
        try:
            await (_enable if enabled else _disable)(image, bits)
        except rados.Error as e:
            raise make_ex(-(e.errno or errno.EIO), f"error updating the features of image {image.name}: {e}") from e
        finally:
            await _settle(image)
    await image.header_changed()


async def _settle(image: Image) -> None:
    """Nobody writes before we know which features there are now, and have the object map open if that is one of them:
    also after a failure, which may have come before or after the change."""
    await image.refresh()
    lock = image.lock
    if image.has(OBJECT_MAP) and lock is not None and lock.owner and image.object_map is None:
        image.object_map = await ObjectMap.open(image)


def _set_features(new: int, mask: int) -> ObjectOperation:
    return ObjectOperation().call_write("rbd", "set_features", struct.pack("<QQ", new, mask))


async def _set_flags(image: Image, new: int, mask: int) -> None:
    """SetFlagsRequest: of the head and all snapshots."""
    ids = [NOSNAP, *[s.id for s in image.header.snaps]]
    requests = ((image.header_oid, object_map.set_flags_operation(i, new, mask)) for i in ids)
    await object_map.in_window(image, requests)


async def _enable(image: Image, bits: int) -> None:
    new = image.header.features | bits
    mask = bits
    if bits & OBJECT_MAP:
        if not new & EXCLUSIVE_LOCK:
            raise InvalidArgument("object-map needs exclusive-lock", errno.EINVAL)
        mask |= EXCLUSIVE_LOCK | _WITH_MAPS
        flags = OBJECT_MAP_INVALID | FAST_DIFF_INVALID
        await _set_flags(image, flags, flags)
    what = f"error enabling features of image {image.name}"
    await change_header(image, _set_features(new, mask), what)
    if bits & OBJECT_MAP:
        await object_map.create_object_maps(image)


async def _disable(image: Image, bits: int) -> None:
    new = image.header.features & ~bits
    mask = bits
    if bits & EXCLUSIVE_LOCK:
        needy = new & (OBJECT_MAP | JOURNALING)
        if needy:
            raise InvalidArgument(f"exclusive-lock is needed by {features.names(needy)}", errno.EINVAL)
        mask |= _WITH_MAPS | JOURNALING
    if bits & OBJECT_MAP:
        opened, image.object_map = image.object_map, None
        if opened is not None:
            await opened.close()
        await object_map.remove_object_maps(image)
    what = f"error disabling features of image {image.name}"
    await change_header(image, _set_features(new, mask), what)
    if bits & _WITH_MAPS:
        await _set_flags(image, 0, OBJECT_MAP_INVALID | FAST_DIFF_INVALID)
