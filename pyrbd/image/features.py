"""Features of images (`src/include/rbd/features.h`) and what pyrbd makes of them."""

from __future__ import annotations

import errno

from .errors import FunctionNotSupported, ImageBusy, InvalidArgument, ReadOnlyImage

LAYERING = 1 << 0
STRIPINGV2 = 1 << 1
EXCLUSIVE_LOCK = 1 << 2
OBJECT_MAP = 1 << 3
FAST_DIFF = 1 << 4
DEEP_FLATTEN = 1 << 5
JOURNALING = 1 << 6
DATA_POOL = 1 << 7
OPERATIONS = 1 << 8
MIGRATING = 1 << 9
NON_PRIMARY = 1 << 10
DIRTY_CACHE = 1 << 11

NAMES: dict[int, str] = {
    LAYERING: "layering",
    STRIPINGV2: "striping",
    EXCLUSIVE_LOCK: "exclusive-lock",
    OBJECT_MAP: "object-map",
    FAST_DIFF: "fast-diff",
    DEEP_FLATTEN: "deep-flatten",
    JOURNALING: "journaling",
    DATA_POOL: "data-pool",
    OPERATIONS: "operations",
    MIGRATING: "migrating",
    NON_PRIMARY: "non-primary",
    DIRTY_CACHE: "dirty-cache",
}

ALL = sum(NAMES)
IMPLICIT_ENABLE = STRIPINGV2 | DATA_POOL | FAST_DIFF | OPERATIONS | MIGRATING | NON_PRIMARY | DIRTY_CACHE
"""Bits that librbd sets by itself; ignored in what a caller asks for."""

DEFAULT = LAYERING | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN
"""RBD_FEATURES_DEFAULT."""
CREATABLE = LAYERING | STRIPINGV2 | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN | DATA_POOL
"""What an image that pyrbd makes may have."""
MANAGEABLE = CREATABLE | OPERATIONS
"""What an image may have that pyrbd clones, renames and removes: the others have more to them than that."""
OPERATION_FEATURES_ALL = 0xF
"""RBD_OPERATION_FEATURES_ALL: clone-parent, clone-child, group, snap-trash."""
WRITABLE = MANAGEABLE
"""What an image may have that pyrbd writes to."""
READABLE = ALL & ~(MIGRATING | DIRTY_CACHE)
"""What an image may have that pyrbd reads: the others keep data elsewhere."""


def names(features: int) -> str:
    """``layering, exclusive-lock``; bits without a name as ``bit N``."""
    found = [name for bit, name in NAMES.items() if features & bit]
    found += [f"bit {i}" for i in range(64) if features >> i & 1 and 1 << i not in NAMES]
    return ", ".join(found)


def features_to_string(features: int) -> str:
    """Names joined by commas, as librbd has them; InvalidArgument for unknown bits
    (`src/librbd/Features.cc` rbd_features_to_string)."""
    if features & ~ALL or features < 0:
        raise InvalidArgument(f"features {features:#x} are not all known", errno.EINVAL)
    return ",".join(sorted(name for bit, name in NAMES.items() if features & bit))


def features_from_string(text: str) -> int:
    """The bits of names joined by commas, or of a number; the default ones for "". InvalidArgument for what
    is neither, or not known (rbd_features_from_string)."""
    if not text:
        return DEFAULT
    if (number := text.strip()).isascii() and number.isdigit():
        if int(number) & ~ALL:
            raise InvalidArgument(f"features {number} are not all known", errno.EINVAL)
        return int(number)
    by_name = {name: bit for bit, name in NAMES.items()}
    bits = 0
    for word in text.split(","):
        if word.strip() not in by_name:
            raise InvalidArgument(f"there is no feature {word.strip()!r}", errno.EINVAL)
        bits |= by_name[word.strip()]
    return bits


def check_readable(features: int, image: str) -> None:
    """Refuses, by name, images whose data we could misread."""
    bad = features & ~READABLE
    if bad:
        raise FunctionNotSupported(f"image {image} has features that pyrbd does not handle: {names(bad)}", errno.ENOSYS)


def is_writable(features: int) -> bool:
    """Whether images with these features may be changed."""
    return not features & ~WRITABLE


def check_writable(features: int, image: str) -> None:
    """Refuses, by name, images that must not be changed without what we do not have."""
    bad = features & ~WRITABLE
    if bad:
        raise FunctionNotSupported(
            f"image {image} can only be read: pyrbd does not yet handle for writing: {names(bad)}", errno.ENOSYS
        )


def for_new_image(wanted: int) -> int:
    """What an image gets for which these features are asked (`src/librbd/image/CreateRequest.cc`,
    validate_features): without those that follow from other arguments, with those that are implied.

    Raises:
        FunctionNotSupported: a feature that does not exist, or one (journaling) that pyrbd does not handle.
        InvalidArgument: one without another that it needs.
    """
    if wanted & ~ALL or wanted < 0:
        raise FunctionNotSupported(f"features {wanted & ~ALL:#x} are not known", errno.ENOSYS)
    bits = wanted & ~IMPLICIT_ENABLE
    if bits & OBJECT_MAP:
        bits |= FAST_DIFF
    needy = bits & (OBJECT_MAP | JOURNALING)
    if needy and not bits & EXCLUSIVE_LOCK:
        raise InvalidArgument(f"{names(needy)} cannot be used without exclusive-lock", errno.EINVAL)
    bad = bits & ~CREATABLE
    if bad:
        raise FunctionNotSupported(f"pyrbd does not create images with {names(bad)}", errno.ENOSYS)
    return bits


def check_manageable(features: int, op_features: int, image: str) -> None:
    """Refuses, by name, to clone, rename or remove images of which we would leave something behind.

    Raises:
        ImageBusy: it is being migrated; FunctionNotSupported; ReadOnlyImage: operations that we do not know.
    """
    if features & MIGRATING:
        raise ImageBusy(f"image {image} is being migrated", errno.EBUSY)
    bad = features & ~MANAGEABLE
    if bad:
        raise FunctionNotSupported(f"image {image} has features that pyrbd does not handle: {names(bad)}", errno.ENOSYS)
    if op_features & ~OPERATION_FEATURES_ALL:
        raise ReadOnlyImage(f"image {image}: its operation features {op_features:#x} are not all known", errno.EROFS)
