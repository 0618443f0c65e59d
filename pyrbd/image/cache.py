"""The write-around cache of an open image: writes return before the OSDs have them, until somebody has to know.

As librbd's with ``rbd_cache_policy = writearound`` (`src/librbd/cache/WriteAroundObjectDispatch.cc`, and the merging of
`src/librbd/io/SimpleSchedulerObjectDispatch.cc`): nothing is read from it, nothing stays in it longer than a request
takes. An object has one request in flight; what is written to it meanwhile is merged, and travels in the next one.

Writers only put what they write into a queue. All the rest is done where KeyboardInterrupt does not come, in the
client's background thread or the loop: a write that has returned is not lost on the way, and who waits for it is told.
"""

from __future__ import annotations

import errno
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING

from ..log import Log
from ..msgr.osdop import NOSNAP
from ..rados import exceptions as rados
from ..rados.completion import Event
from . import io as rw
from .errors import OSError, make_ex
from .sync import Patience

if TYPE_CHECKING:
    from .image import Image
    from .sync import Pass

_log = Log("cache")

Piece = bytes | bytearray | memoryview
"""Nobody else changes it."""

_PIECES = 16
"""Extents of an object in one request, where they do not touch."""


class Dirty:
    """Extents of one object that wait to be written, or are being written: ascending, and apart from each other."""

    __slots__ = ("_end", "_last", "pieces", "starts", "taken")

    def __init__(self) -> None:
        self._last = bytearray()
        self._end = -1
        """Of the last extent, when `_last` is that."""
        self.starts: list[int] = []
        self.pieces: list[Piece] = []
        self.taken = 0
        """Bytes that were written, also where they hide each other."""

    def add(self, at: int, data: Piece) -> None:
        """Another write, which is later than those before."""
        self.taken += len(data)
        starts, pieces = self.starts, self.pieces
        if at == self._end:  # one after the other
            self._last += data
            self._end += len(data)
            return
        self._end = -1
        i = bisect_right(starts, at) - 1
        if i < 0 or starts[i] + len(pieces[i]) < at:
            i += 1
            starts.insert(i, at)
            pieces.insert(i, data)
            if i + 1 == len(starts) or at + len(data) < starts[i + 1]:
                return
            merged = pieces[i] = bytearray(data)
        else:
            found = pieces[i]
            merged = found if isinstance(found, bytearray) else bytearray(found)
            pieces[i] = merged
            start = at - starts[i]
            merged[start : start + len(data)] = data
        end = starts[i] + len(merged)
        j = i + 1
        while j < len(starts) and starts[j] <= end:
            merged += pieces[j][end - starts[j] :]
            end = starts[i] + len(merged)
            j += 1
        del starts[i + 1 : j], pieces[i + 1 : j]
        if i + 1 == len(starts):
            self._last, self._end = merged, end


class _Barrier:
    """Somebody waits until all that was written before is stored: of some objects, or of all."""

    def __init__(self, numbers: Collection[int] | None, event: Event[None]) -> None:
        self.numbers = numbers
        self.event = event
        self.left: set[Dirty] = set()


class Cache:
    """What was written to an image and is not stored yet.

    Attributes:
        active: writes may return early.
        objects: those of which something may not be stored; too many rather than too few.
        errors: (offset, length, error) of writes that were acknowledged and could not be stored, until that is told.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._driver = image.client.driver
        self.active = False
        self.objects: set[int] = set()
        self.errors: list[tuple[int, int, Exception]] = []
        self._until_flush = False
        self._limit = 0
        self._target = 0
        self._order = self._object_size = 0
        self._lock = threading.RLock()
        """Guards `objects`, `_arrived`, `_bytes`, `_inside`, `_scheduled`."""
        self._arrived: deque[tuple[int, int, Piece] | _Barrier] = deque()
        self._bytes = 0
        """That are not stored, in the queue or beyond."""
        self._inside: Pass | None = None
        """Ours of the image's gate, while anything is not stored."""
        self._scheduled = False
        self._room: deque[Event[None]] = deque()
        # the rest belongs to the background thread, or the loop
        self._held = 0
        self._dirty: dict[int, Dirty] = {}
        self._writing: dict[int, Dirty] = {}
        self._barriers: list[_Barrier] = []

    # ------------------------------------------------------------ on and off

    def configure(self) -> None:
        """Takes the options as they are when the image is opened."""
        image = self._image
        config = image.config
        policy = config.get("rbd_cache_policy")
        if image.read_only or not config.get_bool("rbd_cache") or policy == "writethrough":
            return
        self._limit = config.get_int("rbd_cache_max_dirty")
        self._target = min(config.get_int("rbd_cache_target_dirty"), self._limit)
        if self._limit <= 0:
            return
        image.client.caches.add(self)
        if image.layout.simple:  # else nothing is straight
            self._order = image.layout.order
            self._object_size = image.layout.object_size
        if config.get_bool("rbd_cache_writethrough_until_flush"):
            self._until_flush = True
        else:
            self.active = True

    def user_flushed(self) -> None:
        """Who flushes knows that writes are not safe before: from now on they return early."""
        if self._until_flush:
            self._until_flush = False
            self.active = True

    async def close(self) -> None:
        """Nothing is taken any more, and what there is is stored. Raises the error of a late write."""
        self._until_flush = self.active = False
        await self.flush()

    # ------------------------------------------------------------ the writers' side

    def take(self, offset: int, data: bytes) -> bool:
        """Takes a write of a piece of one object, if that needs no waiting."""
        if not self.active:
            return False
        image = self._image
        length = len(data)
        at = offset & (self._object_size - 1)
        if not length or at + length > self._object_size or offset < 0 or image.leftovers:
            return False
        with self._lock:
            if self._bytes and self._bytes + length > self._limit:
                return False
            if self._inside is None:
                self._inside = image.try_enter_write()
                if self._inside is None:
                    return False
            elif (
                image.news is not image.news_read
                or image.writes.blocked
                or image.snap_id != NOSNAP
                or (image.lock is not None and not image.lock.owner)
            ):
                return False
            if offset + length > image.header.size or image.shrinks_to is not None or image.client.forked:
                return False
            object_no = offset >> self._order
            self.objects.add(object_no)  # before it is there: who reads must not miss it
            self._bytes += length
            self._arrived.append((object_no, at, data))
            if not self._scheduled:
                self._schedule()
        return True

    async def write(self, offset: int, data: memoryview) -> bool:
        """Takes a write within the image, by who is inside its gate. False for what is too large: that is best
        written at once."""
        image, length = self._image, len(data)
        if length > self._limit // 2:
            return False
        patience = None
        while self._bytes and self._bytes + length > self._limit:
            image.client.require_connected()
            patience = patience or Patience(image.client)
            event: Event[None] = Event(self._driver)
            self._room.append(event)
            if not self._bytes:
                event.set_result(None)
            await patience.wait(event)
        if type(data.obj) is not bytes:
            data = memoryview(bytes(data))  # the caller may change his
        items = [
            (e.object_no, e.offset, data[e.buffer_offset : e.buffer_offset + e.length])
            for e in image.layout.map(offset, length)
        ]
        with self._lock:
            if self._inside is None:
                self._inside = image.writes.join()
            self.objects.update(n for n, _, _ in items)
            self._bytes += length
            self._arrived.extend(items)
            self._schedule()
        return True

    async def settle(self, numbers: Collection[int] | None = None) -> None:
        """Returns when all that was written before is stored, or has failed: of some objects, or of all."""
        image = self._image
        if not self.objects or (numbers is not None and self.objects.isdisjoint(numbers)):
            return
        image.client.require_connected()
        event: Event[None] = Event(self._driver)
        with self._lock:
            self._arrived.append(_Barrier(numbers, event))
            self._schedule()
        await event

    async def settle_extent(self, offset: int, length: int) -> None:
        """:meth:`settle` for who reads or changes an extent."""
        if self.objects:
            await self.settle({e.object_no for e in self._image.layout.map(offset, length)})

    async def flush(self) -> None:
        """Returns when all that was written before is stored.

        Raises:
            OSError: a write that had returned could not be stored; it is told once.
        """
        await self.settle()
        self.check(forget=True)

    def check(self, forget: bool = False) -> None:
        """Raises the error of a write that had returned and could not be stored, if there was one.

        Args:
            forget: it is not told again.
        """
        errors = list(self.errors)
        if not errors:
            return
        error = errors[0][2]
        extents = ", ".join(f"{offset}~{length}" for offset, length, _ in errors[:8])
        more = f" and {len(errors) - 8} more" if len(errors) > 8 else ""
        if forget:
            del self.errors[: len(errors)]
        number = getattr(error, "errno", None) or errno.EIO
        what = f"writes to image {self._image.name} that had returned were lost, at {extents}{more}: {error}"
        raise make_ex(-number, what) from error

    def push(self) -> None:
        """Somebody waits until we have left the gate. Never waits itself."""
        if self._inside is not None:
            with self._lock:
                self._schedule()

    def _schedule(self) -> None:
        """Has the background look at what has arrived. Under the lock."""
        if not self._scheduled:
            self._driver.defer(self._work)
            self._scheduled = True

    # ------------------------------------------------------------ in the background

    def _work(self) -> None:
        with self._lock:
            self._scheduled = False
            arrived = list(self._arrived)
            self._arrived.clear()
            self._held += sum(len(item[2]) for item in arrived if not isinstance(item, _Barrier))
            self._bytes = self._held  # so that an interrupt of a writer leaves nothing uncounted
        dirty, image = self._dirty, self._image
        for item in arrived:
            if isinstance(item, _Barrier):
                self._set_up(item)
                continue
            object_no, at, data = item
            waiting = dirty.get(object_no)
            if waiting is None:
                waiting = dirty[object_no] = Dirty()
            waiting.add(at, data)
        for object_no in [n for n in dirty if n not in self._writing]:
            self._writing[object_no] = dirty.pop(object_no)
            image.client.spawn(self._store(object_no))
        self._leave_if_done()

    def _set_up(self, barrier: _Barrier) -> None:
        numbers = barrier.numbers
        for table in (self._writing, self._dirty):
            barrier.left.update(d for n, d in table.items() if numbers is None or n in numbers)
        if barrier.left:
            self._barriers.append(barrier)
        else:
            self._forget(numbers)
            barrier.event.set_result(None)

    def _forget(self, numbers: Collection[int] | None) -> None:
        """Takes objects of which all is stored out of `objects`."""
        with self._lock:
            busy = {item[0] for item in self._arrived if not isinstance(item, _Barrier)}
            for n in list(self.objects if numbers is None else self.objects.intersection(numbers)):
                if n not in busy and n not in self._dirty and n not in self._writing:
                    self.objects.discard(n)

    async def _store(self, object_no: int) -> None:
        """Writes an object, until nothing of it waits."""
        while True:
            dirty = self._writing[object_no]
            done = 0
            try:
                for first in range(0, len(dirty.starts), _PIECES):
                    done = first
                    await self._send(
                        object_no, dirty.starts[first : first + _PIECES], dirty.pieces[first : first + _PIECES]
                    )
            except Exception as e:
                self._failed(object_no, dirty, done, e)
            more = self._dirty.pop(object_no, None)
            if more is not None:
                self._writing[object_no] = more
            else:
                del self._writing[object_no]
            self._stored(object_no, dirty)
            if more is None:
                self._leave_if_done()
                return

    async def _send(self, object_no: int, starts: list[int], pieces: list[Piece]) -> None:
        image = self._image
        if image.news is not image.news_read:
            await image.current()  # there may be a snapshot that must not miss what is overwritten
        image.modified()
        await rw.perform(image, rw.DataWrites(object_no, starts, pieces))

    def _stored(self, object_no: int, dirty: Dirty) -> None:
        self._held -= dirty.taken
        with self._lock:
            self._bytes -= dirty.taken
        if object_no not in self._writing:
            self._forget((object_no,))
        for barrier in self._barriers[:]:
            barrier.left.discard(dirty)
            if not barrier.left:
                self._barriers.remove(barrier)
                barrier.event.set_result(None)
        if self._bytes <= self._target:
            while self._room:
                try:
                    event = self._room.popleft()
                except IndexError:
                    break
                event.set_result(None)

    def _failed(self, object_no: int, dirty: Dirty, done: int, error: Exception) -> None:
        _log.warning("%r: object %d: a write that had returned was lost: %s", self._image, object_no, error)
        if not isinstance(error, (OSError, rados.Error)):
            _log.exception("storing what was written")
        for at, piece in list(zip(dirty.starts, dirty.pieces, strict=True))[done:]:
            for offset, length in self._image.layout.unmap(object_no, at, len(piece)):
                self.errors.append((offset, length, error))

    def _leave_if_done(self) -> None:
        if self._dirty or self._writing:
            return
        with self._lock:
            if self._arrived:
                return
            inside, self._inside = self._inside, None
            self.objects.clear()
            self._held = self._bytes = 0
        if inside is not None:
            inside.leave()
        while self._room:
            self._room.popleft().set_result(None)
