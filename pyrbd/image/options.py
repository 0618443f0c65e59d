"""The options that decide what a new image is: what follows from several at once. Their values come from
:func:`pyrbd.image.metadata.load_pool_config`."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from .errors import InvalidArgument

if TYPE_CHECKING:
    from ..rados.client import Client
    from .metadata import ImageConfig

RELEASE_MIMIC = 13
"""The first release whose clients understand clones of format 2."""


def clone_format(client: Client, options: ImageConfig, wanted: int | None = None) -> int:
    """Which format a clone gets: 1 (the parent's snapshot is protected, and its children are listed in their pools)
    or 2 (the parent knows its children). By default it is 2, unless the cluster is to serve clients that do not
    understand that (`src/librbd/image/CloneRequest.cc`, validate_options).

    Raises:
        InvalidArgument: there is no such format.
    """
    if wanted is None:
        default = options.get("rbd_default_clone_format")
        old = default == "1" or (default == "auto" and client.osdmap.min_compat_client < RELEASE_MIMIC)
        return 1 if old else 2
    if wanted not in (1, 2):
        raise InvalidArgument(f"there are no clones of format {wanted}", errno.EINVAL)
    return wanted
