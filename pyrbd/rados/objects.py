"""What an ioctx gives out: listed objects, snapshots of the pool, iterators."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..msgr.osdop import NOSNAP
from ..msgr.types import HObject, ListedObject
from .exceptions import InvalidArgumentError, LogicError, ObjectStateError

if TYPE_CHECKING:
    import time
    from datetime import datetime

    from .ioctx import Ioctx, IoctxBase

T = TypeVar("T")


class Snap:
    """A snapshot of a whole pool."""

    def __init__(self, ioctx: IoctxBase, name: str, snap_id: int) -> None:
        self.ioctx = ioctx
        self.name = name
        self.snap_id = snap_id

    def __str__(self) -> str:
        return f"rados.Snap(ioctx={self.ioctx},name={self.name},snap_id={self.snap_id})"

    def get_timestamp(self) -> datetime:
        """When it was made, in local time."""
        from datetime import datetime

        return datetime.fromtimestamp(self.ioctx.pool_snap(self.snap_id).stamp.sec)


class SnapIterator:
    """The snapshots of a pool, as :class:`Snap`, oldest first."""

    def __init__(self, ioctx: IoctxBase) -> None:
        self.ioctx = ioctx
        self._snaps = iter([Snap(ioctx, snap.name, i) for i, snap in ioctx.pool_snaps()])

    def __iter__(self) -> SnapIterator:
        return self

    def __next__(self) -> Snap:
        return next(self._snaps)


class XattrIterator:
    """The extended attributes of an object, as (name, value)."""

    def __init__(self, ioctx: IoctxBase, oid: str, pairs: Iterable[tuple[str, bytes]]) -> None:
        self.ioctx = ioctx
        self.oid = oid
        self._pairs = iter(pairs)

    def __iter__(self) -> XattrIterator:
        return self

    def __next__(self) -> tuple[str, bytes]:
        return next(self._pairs)


class Object:
    """One object of a pool, with its locator and namespace, and a position to read and write.

    Made by `Ioctx.list_objects`, or by hand.
    """

    def __init__(self, ioctx: Ioctx, key: str, locator_key: str | None = None, nspace: str | None = None) -> None:
        self.key = key
        self.ioctx = ioctx
        self.offset = 0
        self.state = "exists"
        self.locator_key = locator_key
        self.nspace = "" if nspace is None else nspace

    def __str__(self) -> str:
        where = self.nspace or "--default--"
        return f"rados.Object(ioctx={self.ioctx},key={self.key},nspace={where},locator={self.locator_key})"

    def require_object_exists(self) -> None:
        if self.state != "exists":
            raise ObjectStateError(f"The object is {self.state}")

    def _io(self) -> Ioctx:
        """An ioctx that finds this object; the one it came from stays as it is."""
        self.require_object_exists()
        if self.nspace is None:
            raise LogicError("Namespace not set properly in context")
        return self.ioctx.at(self.nspace, self.locator_key)

    def read(self, length: int = 1024 * 1024) -> bytes:
        """Up to `length` bytes from the position on, which moves."""
        data: bytes = self._io().read(self.key, length, self.offset)
        self.offset += len(data)
        return data

    def write(self, string_to_write: Any) -> int:
        """Writes at the position, which moves; returns 0."""
        ret = self._io().write(self.key, string_to_write, self.offset)
        self.offset += len(memoryview(string_to_write))
        return ret

    def remove(self) -> None:
        self._io().remove_object(self.key)
        self.state = "removed"

    def stat(self) -> tuple[int, time.struct_time]:
        return self._io().stat(self.key)

    def seek(self, position: int) -> None:
        self.require_object_exists()
        self.offset = position

    def get_xattr(self, xattr_name: str) -> bytes:
        return self._io().get_xattr(self.key, xattr_name)

    def get_xattrs(self) -> XattrIterator:
        return self._io().get_xattrs(self.key)

    def set_xattr(self, xattr_name: str, xattr_value: Any) -> bool:
        return self._io().set_xattr(self.key, xattr_name, xattr_value)

    def rm_xattr(self, xattr_name: str) -> bool:
        return self._io().rm_xattr(self.key, xattr_name)


class ObjectIterator:
    """The objects of a pool, as :class:`Object`, read page by page in the order of their
    hashes. Objects that come or go meanwhile may or may not be seen; all others are, once,
    also when placement groups split or merge on the way.
    """

    def __init__(self, ioctx: Ioctx, page: Callable[[HObject], Any]) -> None:
        self.ioctx = ioctx
        self._page = page
        self._cursor = HObject()
        self._entries: list[ListedObject] = []

    def __iter__(self) -> ObjectIterator:
        return self

    def get_pg_hash_position(self) -> int | None:
        """The hash of the object that comes next, to go on from there another time; None at the
        end. As in librados' C++ `NObjectIterator`; not in Ceph's binding."""
        if not self._entries:
            return None if self._cursor.max else self._cursor.hash
        entry = self._entries[-1]
        return self.ioctx.hash_of(entry.oid, entry.locator, entry.nspace)

    def seek(self, pos: int) -> None:
        """Goes on with the first object at or behind a hash, in the order of their reversed bits."""
        if not 0 <= pos <= 0xFFFFFFFF:
            raise InvalidArgumentError(f"hash position {pos}", errno.EINVAL)
        self._entries = []
        self._cursor = HObject(snap=NOSNAP, hash=pos, pool=self.ioctx.get_pool_id())

    def __next__(self) -> Object:
        while not self._entries:
            if self._cursor.max:
                raise StopIteration
            response = self._page(self._cursor)
            self._entries = list(reversed(response.entries))
            self._cursor = response.handle
        entry = self._entries.pop()
        return Object(self.ioctx, entry.oid, entry.locator or None, entry.nspace)


__all__ = ["Object", "ObjectIterator", "Snap", "SnapIterator", "XattrIterator"]
