"""Who has an image open (`src/librbd/internal.cc`, list_watchers)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..rados.operations import ObjectOperation
from .cls_rbd import ListWatchResponse
from .exclusive_lock import legacy_address

if TYPE_CHECKING:
    from .image import Image


class ImageWatcher(NamedTuple):
    """image_watcher_t."""

    addr: str
    """As librados shows addresses: ``host:port/nonce``."""
    id: int
    """The client's global id."""
    cookie: int


async def list_watchers(image: Image) -> list[ImageWatcher]:
    """All who watch an image's header, ourselves too."""
    reply = await image.io.operate(image.header_oid, ObjectOperation().list_watchers())
    entries = ListWatchResponse.from_bytes(reply.ops[0].data).entries
    return [ImageWatcher(legacy_address(w.addr), w.name.num, w.cookie) for w in entries]
