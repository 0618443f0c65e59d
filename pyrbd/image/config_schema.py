"""Which options of librbd a pool or an image may override, and with what
(`src/librbd/api/Config.cc`; the options themselves are in `pyrbd.rados.option_table`)."""

from __future__ import annotations

import errno

from ..errors import ConfigError
from ..rados.option_table import OPTIONS
from ..rados.options import canonical
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
    try:
        return canonical(option, value)
    except ConfigError as e:
        raise InvalidArgument(str(e), errno.EINVAL) from None
