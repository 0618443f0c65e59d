"""pyrbd on asyncio: the same operations, from the same core, on the running event loop.

    async with aio.Rados(conffile="/etc/ceph/ceph.conf") as cluster:
        ioctx = await cluster.open_ioctx("rbd")
        await aio.RBD().create(ioctx, "myimage", 4 * 1024**3)
        async with aio.Image(ioctx, "myimage") as image:
            await image.write(b"foo" * 200, 0)
            parts = await asyncio.gather(*(image.read(i * 4096, 4096) for i in range(16)))

No thread is started. Objects belong to the loop on which they were connected. Names,
arguments, results and exceptions are those of `pyrbd.rados` and `pyrbd.rbd`.
"""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from .errors import PyrbdError
from .image import directory
from .image.image import Image as _Core
from .rados import ClusterHandle, _data, _text
from .rados import exceptions as _rados
from .rados.aiodriver import AsyncioDriver
from .rados.client import Client
from .rados.io import IoContext
from .rados.operations import ObjectOperation
from .rbd import (
    _FADVISE_MASK,
    ImageProperties,
    InvalidArgument,
    OnProgress,
    _name,
    _number,
    _wrap,
    incomplete,
)

T = TypeVar("T")

__all__ = ["RBD", "Image", "Ioctx", "Rados"]


async def _call(coro: Coroutine[Any, Any, T], what: str) -> T:
    try:
        return await coro
    except (_rados.Error, PyrbdError) as e:
        raise _wrap(e, what) from e


class Rados(ClusterHandle):
    """A connection to a cluster; an asynchronous context manager."""

    async def __aenter__(self) -> Rados:
        await self.connect()
        return self

    async def __aexit__(self, *args: object) -> Literal[False]:
        await self.shutdown()
        return False

    async def connect(self, timeout: float = 0) -> None:
        """Connects, from the running loop; see `rados.Rados.connect`."""
        self.require_state("configuring")
        client = self._client = Client(self._config, AsyncioDriver())
        try:
            await client.connect(timeout or None)
        except BaseException:
            self._client = None
            client.shutdown()
            raise

    async def shutdown(self) -> None:
        """Disconnects; what is in flight fails with ConnectionShutdown."""
        self._shutdown = True
        if self._client is not None:
            self._client.shutdown()

    async def mon_command(self, cmd: str, inbuf: bytes = b"", timeout: float = 0) -> tuple[int, bytes, str]:
        """Runs a command of the monitors; (return code, output, a line for people)."""
        self.require_state("connected")
        reply = await self.client.mon_command(_text(cmd, "cmd"), inbuf, timeout or None)
        return reply.result, reply.output, reply.status

    async def wait_for_latest_osdmap(self) -> int:
        self.require_state("connected")
        return await self.client.wait_for_latest_osdmap()

    async def open_ioctx(self, ioctx_name: str) -> Ioctx:
        """Opens a pool by name. ObjectNotFound if there is none."""
        self.require_state("connected")
        name = _text(ioctx_name, "ioctx_name")
        return Ioctx(self, await self.client.lookup_pool(name), name)


class Ioctx:
    """A pool, and a namespace in it. Made by `Rados.open_ioctx`."""

    def __init__(self, rados: Rados, pool_id: int, name: str) -> None:
        self.rados = rados
        self.name = name
        self.state = "open"
        self._client = rados.client
        self._io = IoContext(self._client, pool_id)

    def close(self) -> None:
        """Closes; further calls raise IoctxStateError."""
        self.state = "closed"

    def require_ioctx_open(self) -> None:
        if self.state != "open":
            raise _rados.IoctxStateError(f"The pool is {self.state}")

    def set_namespace(self, nspace: str) -> None:
        """Objects are those of this namespace from now on."""
        self.require_ioctx_open()
        self._io = self._io.with_namespace(_text(nspace, "nspace", opt=True))

    async def read(self, key: str, length: int = 8192, offset: int = 0) -> bytes:
        """Up to `length` bytes of an object."""
        self.require_ioctx_open()
        if length <= 0 or offset < 0:
            raise _rados.InvalidArgumentError(f"read of {length} bytes at {offset}", errno.EINVAL)
        data: bytes = await self._io.submit_read(_text(key, "key"), offset, length)
        return data

    async def write(self, key: str, data: Any, offset: int = 0) -> int:
        """Writes `data` at `offset`; returns 0."""
        await self._operate(key, ObjectOperation().write(offset, _data(data, "data")))
        return 0

    async def write_full(self, key: str, data: Any) -> int:
        """Replaces the whole object; returns 0."""
        await self._operate(key, ObjectOperation().write_full(_data(data, "data")))
        return 0

    async def remove_object(self, key: str) -> bool:
        await self._operate(key, ObjectOperation().remove())
        return True

    async def _operate(self, key: str, op: ObjectOperation) -> None:
        self.require_ioctx_open()
        await self._io.submit(_text(key, "key"), op)


def _ioctx(ioctx: Any) -> Ioctx:
    if not isinstance(ioctx, Ioctx):
        raise TypeError(f"ioctx must be a pyrbd.aio.Ioctx, not {type(ioctx).__name__}")
    ioctx.require_ioctx_open()
    return ioctx


class RBD:
    """What concerns the images of a pool; see `rbd.RBD`."""

    async def create(
        self,
        ioctx: Ioctx,
        name: str,
        size: int,
        order: int | None = None,
        features: int | None = None,
        stripe_unit: int | None = None,
        stripe_count: int | None = None,
        data_pool: str | None = None,
    ) -> None:
        io, image = _ioctx(ioctx)._io, _name(name, "name")
        coro = directory.create(io, image, _number(size, "size"), order, features, stripe_unit, stripe_count, data_pool)
        await _call(coro, f"error creating image {image}")

    async def list(self, ioctx: Ioctx) -> list[str]:
        return sorted(await _call(directory.list_images(_ioctx(ioctx)._io), "error listing images"))

    async def remove(self, ioctx: Ioctx, name: str, on_progress: OnProgress | None = None) -> None:
        image = _name(name, "name")
        await _call(directory.remove(_ioctx(ioctx)._io, image, on_progress), f"error removing image {image}")

    async def rename(self, ioctx: Ioctx, src: str, dest: str) -> None:
        source, target = _name(src, "src"), _name(dest, "dest")
        coro = directory.rename(_ioctx(ioctx)._io, source, target)
        await _call(coro, f"error renaming image {source} to {target}")


class Image(ImageProperties):
    """An image; opened by ``async with`` or :meth:`open`. See `rbd.Image` for arguments.

    What the methods of :class:`ImageProperties` say is of the header as it was when the
    last data operation looked at it; :meth:`refresh` reads it again.
    """

    def __init__(
        self,
        ioctx: Ioctx,
        name: str | None = None,
        snapshot: str | int | None = None,
        read_only: bool = False,
        image_id: str | None = None,
    ) -> None:
        io = _ioctx(ioctx)
        if (name is None) == (image_id is None):
            raise InvalidArgument("one of name and image_id must be given", errno.EINVAL)
        self.closed = True
        self.name = name if name is not None else ""
        self._client = io._client
        self._arguments = (io._io, name, image_id, snapshot, read_only)

    async def open(self) -> Image:
        """Opens the image; returns it."""
        io, name, image_id, snapshot, read_only = self._arguments
        coro = _Core.open(io, name, image_id=image_id, snapshot=snapshot, read_only=read_only)
        self._core = await _call(coro, f"error opening image {name or image_id} at snapshot {snapshot}")
        self.name = self._core.name
        self.closed = False
        return self

    async def __aenter__(self) -> Image:
        return await self.open()

    async def __aexit__(self, *args: object) -> Literal[False]:
        await self.close()
        return False

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self._client.closed:
                await _call(self._core.close(), f"error closing image {self.name}")

    async def refresh(self) -> None:
        """Reads the header again."""
        await _call(self._open().refresh(), f"error refreshing image {self.name}")

    async def read(self, offset: int, length: int, fadvise_flags: int = 0) -> bytes:
        at, n = _number(offset, "offset"), _number(length, "length")
        coro = self._open().read(at, n, fadvise_flags & _FADVISE_MASK)
        return await _call(coro, f"error reading from image {self.name}")

    async def read_into(self, offset: int, buffer: Any, fadvise_flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("buffer must be writable")
        coro = self._open().read_into(_number(offset, "offset"), view, fadvise_flags & _FADVISE_MASK)
        return await _call(coro, f"error reading from image {self.name}")

    async def write(self, data: Any, offset: int, fadvise_flags: int = 0) -> int:
        view = memoryview(_data(data, "data"))
        coro = self._open().write(_number(offset, "offset"), view, fadvise_flags & _FADVISE_MASK)
        written = await _call(coro, f"error writing to image {self.name}")
        if written != len(view):
            raise incomplete(written, len(view))
        return written

    async def discard(self, offset: int, length: int) -> None:
        coro = self._open().discard(_number(offset, "offset"), _number(length, "length"))
        await _call(coro, f"error discarding from image {self.name}")

    async def flush(self) -> None:
        await _call(self._open().flush(), f"error flushing image {self.name}")

    async def resize(self, size: int, allow_shrink: bool = True) -> None:
        coro = directory.resize(self._open(), _number(size, "size"), allow_shrink)
        await _call(coro, f"error resizing image {self.name}")
