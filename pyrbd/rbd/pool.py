"""`RBD`: what concerns the images of a pool, in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..rados import Ioctx
from ..rados.ioctx import IoctxBase
from . import pool_calls, unsupported
from .completion import Completion
from .image import Image
from .iterators import ConfigPoolIterator, ImageIterator, PoolMetadataIterator, TrashIterator
from .pool_calls import RBDBase

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")


def blocking(
    call: Callable[Concatenate[RBDBase, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[RBD, P], T]:
    """The method of `RBD` that runs a call in the caller's thread, by the client of its ioctx."""

    @wraps(call)
    def method(self: RBD, /, *args: P.args, **kwargs: P.kwargs) -> T:
        coro = call(self, *args, **kwargs)
        for value in (*args, *kwargs.values()):
            if isinstance(value, Ioctx):
                return value._client.run(coro)
        try:
            coro.send(None)
        except StopIteration as e:
            return e.value  # type: ignore[no-any-return]
        raise AssertionError("a call without an ioctx waits for something")

    return method


class RBD(RBDBase):
    """What concerns the images of a pool; it has no state."""

    _ioctx_type: ClassVar[type[IoctxBase]] = Ioctx

    create = blocking(pool_calls.create)
    clone = blocking(pool_calls.clone)
    list = blocking(pool_calls.list)
    remove = blocking(pool_calls.remove)
    rename = blocking(pool_calls.rename)

    def list2(self, ioctx: Ioctx) -> ImageIterator:
        """{id, name} of each image in the pool and namespace of `ioctx`, sorted by name."""
        return ImageIterator(ioctx)

    trash_move = blocking(pool_calls.trash_move)
    trash_purge = blocking(pool_calls.trash_purge)
    trash_remove = blocking(pool_calls.trash_remove)
    trash_get = blocking(pool_calls.trash_get)
    trash_restore = blocking(pool_calls.trash_restore)

    def trash_list(self, ioctx: Ioctx) -> TrashIterator:
        """{id, name, source, deletion_time, deferment_end_time} of each image in the trash."""
        return TrashIterator(ioctx)

    namespace_create = blocking(pool_calls.namespace_create)
    namespace_remove = blocking(pool_calls.namespace_remove)
    namespace_exists = blocking(pool_calls.namespace_exists)
    namespace_list = blocking(pool_calls.namespace_list)

    pool_metadata_get = blocking(pool_calls.pool_metadata_get)
    pool_metadata_set = blocking(pool_calls.pool_metadata_set)
    pool_metadata_remove = blocking(pool_calls.pool_metadata_remove)
    config_get = blocking(pool_calls.config_get)
    config_set = blocking(pool_calls.config_set)
    config_remove = blocking(pool_calls.config_remove)

    def pool_metadata_list(self, ioctx: Ioctx) -> PoolMetadataIterator:
        """(key, value) of all that was set for the pool, sorted."""
        return PoolMetadataIterator(ioctx)

    def config_list(self, ioctx: Ioctx) -> ConfigPoolIterator:
        """{name, value, source} of each option, source being one of ``RBD_CONFIG_SOURCE_*``."""
        return ConfigPoolIterator(ioctx)

    pool_init = blocking(pool_calls.pool_init)
    pool_stats_get = blocking(pool_calls.pool_stats_get)

    def aio_open_image(
        self,
        oncomplete: Callable[[Completion, Image], Any],
        ioctx: Ioctx,
        name: str | None = None,
        snapshot: str | None = None,
        read_only: bool = False,
        image_id: str | None = None,
    ) -> Completion:
        """Begins to open an image; ``oncomplete(completion, image)`` is called when it is open, or when that
        has failed: the completion's return value says so, and the image is closed."""
        return Image._begin_open(oncomplete, ioctx, name, snapshot, read_only, image_id)


unsupported.refuse(RBD, unsupported.RBD_METHODS)
