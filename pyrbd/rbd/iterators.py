"""What the listing methods give: all entries as they were when the iterator was made."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ..rados import Ioctx
from . import image_calls, lock_calls, metadata_calls, pool_calls, snapshot_calls
from .pool_calls import RBDBase, io_of

if TYPE_CHECKING:
    from .image import Image

T = TypeVar("T")


class Listing(Generic[T]):
    """Can be walked more than once."""

    _entries: list[T]

    def __iter__(self) -> Iterator[T]:
        yield from self._entries


class PoolListing(Listing[T]):
    """Entries of a pool and namespace."""

    _call: ClassVar[Callable[..., Coroutine[Any, Any, Any]]]

    def __init__(self, ioctx: Ioctx) -> None:
        client = io_of(ioctx, Ioctx).client
        self._entries = client.run(type(self)._call(_ANY, ioctx))


class ImageListing(Listing[T]):
    """Entries of an open image."""

    _call: ClassVar[Callable[..., Coroutine[Any, Any, Any]]]

    def __init__(self, image: Image) -> None:
        self._entries = image._run(type(self)._call(image))


_ANY = RBDBase()


class ImageIterator(PoolListing["dict[str, str]"]):
    """The images of a pool, sorted by name: {id, name}."""

    _call = staticmethod(pool_calls.list2)


class TrashIterator(PoolListing["dict[str, Any]"]):
    """The images in the trash: {id, name, source, deletion_time, deferment_end_time}."""

    _call = staticmethod(pool_calls.trash_list)


class PoolMetadataIterator(PoolListing["tuple[str, str]"]):
    """Metadata of a pool: (key, value)."""

    _call = staticmethod(pool_calls.pool_metadata_list)


class ConfigPoolIterator(PoolListing["dict[str, Any]"]):
    """Configuration of a pool: {name, value, source}."""

    _call = staticmethod(pool_calls.config_list)


class SnapIterator(ImageListing["dict[str, Any]"]):
    """The snapshots of an image, oldest first: {id, size, name, namespace}, and {group}, {trash} or
    {mirror} for those that users did not make."""

    _call = staticmethod(snapshot_calls.list_snaps)


class ChildIterator(Listing["dict[str, Any]"]):
    """The clones of an image or snapshot: {pool, pool_namespace, image, id, trash}."""

    def __init__(self, image: Image, descendants: bool = False) -> None:
        call = image_calls.list_descendants if descendants else image_calls.list_children2
        self._entries = image._run(call(image))


class WatcherIterator(ImageListing["dict[str, Any]"]):
    """Who has an image open for writing: {addr, id, cookie}."""

    _call = staticmethod(image_calls.watchers_list)


class LockOwnerIterator(ImageListing["dict[str, Any]"]):
    """Who holds the exclusive lock: {mode, owner}."""

    _call = staticmethod(lock_calls.lock_get_owners)


class MetadataIterator(ImageListing["tuple[str, str]"]):
    """Metadata of an image: (key, value)."""

    _call = staticmethod(metadata_calls.metadata_list)


class ConfigImageIterator(ImageListing["dict[str, Any]"]):
    """Configuration of an image: {name, value, source}."""

    _call = staticmethod(metadata_calls.config_list)
