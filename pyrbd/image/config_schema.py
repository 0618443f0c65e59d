"""Which options of librbd a pool or an image may override, and with what
(`src/librbd/api/Config.cc`; the options themselves are in `pyrbd.rados.options`)."""

from __future__ import annotations

import errno

from ..errors import ConfigError
from ..rados.options import OPTIONS, canonical
from . import features
from .errors import InvalidArgument

_NEVER = frozenset(
    (
        "rbd_auto_exclusive_lock_until_manual_request",
        "rbd_config_pool_override_update_timestamp",
        "rbd_default_format",
        "rbd_default_pool",
        "rbd_discard_on_zeroed_write_same",
        "rbd_mirror_pool_replayers_refresh_interval",
        "rbd_op_thread_timeout",
        "rbd_op_threads",
        "rbd_tracing",
        "rbd_validate_names",
        "rbd_validate_pool",
    )
)
_NOT_OF_IMAGES = frozenset(
    (
        "rbd_default_clone_format",
        "rbd_default_data_pool",
        "rbd_default_features",
        "rbd_default_order",
        "rbd_default_stripe_count",
        "rbd_default_stripe_unit",
        "rbd_journal_order",
        "rbd_journal_pool",
        "rbd_journal_splay_width",
    )
)
_INTERNAL_FEATURES = features.OPERATIONS | features.MIGRATING | features.NON_PRIMARY | features.DIRTY_CACHE
_IO_OPERATIONS = {"read": 1, "write": 2, "discard": 4, "write_same": 8, "compare_and_write": 16}


def pool_options() -> list[str]:
    """The options that a pool may override, in their order."""
    return sorted(o for o in OPTIONS if o.startswith("rbd_") and o not in _NEVER)


def image_options() -> list[str]:
    """The options that an image may override, in their order."""
    return [o for o in pool_options() if o not in _NOT_OF_IMAGES and not o.startswith("rbd_mirror_")]


def check(option: str, value: str) -> str:
    """The value as it takes effect.

    Raises:
        InvalidArgument: it is not a value of the option.
    """
    if option == "rbd_default_features":
        return str(_default_features(value))
    if option == "rbd_qos_exclude_ops":
        return str(_bits(option, value, _IO_OPERATIONS))
    try:
        return canonical(option, value)
    except ConfigError as e:
        raise InvalidArgument(str(e), errno.EINVAL) from None


def _default_features(value: str) -> int:
    if not value.strip():
        return features.features_from_string(OPTIONS["rbd_default_features"][1])
    bits = _bits("rbd_default_features", value, {name: bit for bit, name in features.NAMES.items()})
    if value.strip().isdigit() and bits & _INTERNAL_FEATURES:
        raise InvalidArgument(f"features {features.names(bits & _INTERNAL_FEATURES)} are set by librbd", errno.EINVAL)
    return bits


def _bits(option: str, value: str, names: dict[str, int]) -> int:
    """The bits of names joined by commas, or of a number."""
    text = value.strip()
    if not text:
        return 0
    if text.isascii() and text.isdigit():
        bits = int(text)
        unknown = bits & ~sum(names.values())
        if unknown:
            raise InvalidArgument(f"option {option}: bits {unknown:#x} are not known", errno.EINVAL)
        return bits
    bits = 0
    for word in text.split(","):
        if word.strip() not in names:
            raise InvalidArgument(f"option {option}: {word.strip()!r} is not one of {', '.join(names)}", errno.EINVAL)
        bits |= names[word.strip()]
    return bits
