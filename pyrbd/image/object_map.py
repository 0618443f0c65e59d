"""The object map: which objects of an image may exist (`src/librbd/ObjectMap.cc`, `src/librbd/object_map/`,
the `object_map_*` methods in `src/cls/rbd/cls_rbd.cc`).

An object `rbd_object_map.ID` holds the map of the head, and `rbd_object_map.ID.SNAP` that of each
snapshot. Who owns the image's exclusive lock also holds a lock on the head's map, and every change of
it asserts that lock: so a former owner that nobody heard of for long cannot spoil it. A map that may be
wrong is flagged in the header, and nobody believes it until it has been rebuilt.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import ref

from ..errors import DecodeError
from ..log import Log
from ..msgr.osdop import NOSNAP
from ..rados import cls_lock
from ..rados import exceptions as rados
from ..rados.completion import Event
from ..rados.operations import ObjectOperation
from . import bulk, features
from .bit_vector import BitVector, PairTable
from .errors import InvalidArgument
from .io import OBJECT_EXISTS, OBJECT_EXISTS_CLEAN, OBJECT_NONEXISTENT, OBJECT_PENDING
from .sync import Patience

if TYPE_CHECKING:
    from ..rados.client import Client
    from ..rados.completion import Completion
    from ..rados.io import IoContext
    from .image import Image

_log = Log("image")

PREFIX = "rbd_object_map."
RBD_LOCK_NAME = "rbd_lock"
MAX_OBJECT_COUNT = 256_000_000
"""cls::rbd::MAX_OBJECT_MAP_OBJECT_COUNT: images with more objects have no map."""
OBJECT_MAP_INVALID = 1
FAST_DIFF_INVALID = 2
"""RBD_FLAG_*, of the head and of each snapshot."""
_MAX_PER_UPDATE = 256 << 10
"""Objects of one object_map_update; a multiple of the blocks of a map."""
_WINDOW = 8

_STATES = (OBJECT_NONEXISTENT, OBJECT_EXISTS, OBJECT_PENDING, OBJECT_EXISTS_CLEAN)
_CLEANED = (OBJECT_NONEXISTENT, OBJECT_EXISTS_CLEAN, OBJECT_PENDING, OBJECT_EXISTS_CLEAN)
_DIRTIED = (OBJECT_NONEXISTENT, OBJECT_EXISTS, OBJECT_PENDING, OBJECT_EXISTS)


def _without(state: int, removed: int) -> int:
    return OBJECT_EXISTS if state == OBJECT_EXISTS_CLEAN and removed == OBJECT_EXISTS else state


_SNAP_REMOVED = PairTable(_without)
_ROLLED_BACK = PairTable(lambda a, b: OBJECT_EXISTS if a or b else OBJECT_NONEXISTENT)


def object_map_object(image_id: str, snap_id: int = NOSNAP) -> str:
    """ObjectMap::object_map_name: the object with the map of the head, or of a snapshot."""
    return PREFIX + image_id + ("" if snap_id == NOSNAP else f".{snap_id:016x}")


# ---------------------------------------------------------------- requests


def resize_operation(object_count: int, default_state: int = OBJECT_NONEXISTENT) -> ObjectOperation:
    """Makes a map, or gives it another size; ESTALE when objects are cut off that are not in `default_state`."""
    return _resize(ObjectOperation(), object_count, default_state)


def _resize(op: ObjectOperation, object_count: int, default_state: int) -> ObjectOperation:
    return op.call_write("rbd", "object_map_resize", struct.pack("<QB", object_count, default_state))


def save_operation(vector: BitVector, op: ObjectOperation | None = None) -> ObjectOperation:
    """Stores all of a map."""
    data = vector.encode(checksums=False)
    return (ObjectOperation() if op is None else op).call_write("rbd", "object_map_save", data)


def _update(op: ObjectOperation, first: int, last: int, new_state: int, expected: int | None) -> ObjectOperation:
    data = struct.pack("<QQB", first, last, new_state)
    data += b"\0" if expected is None else bytes([1, expected])
    return op.call_write("rbd", "object_map_update", data)


def _assert_locked(op: ObjectOperation) -> ObjectOperation:
    return cls_lock.assert_locked(op, RBD_LOCK_NAME, cls_lock.LOCK_EXCLUSIVE, "")


async def load(io: IoContext, image_id: str, snap_id: int = NOSNAP) -> BitVector:
    """Reads a map as it is stored.

    Raises:
        ObjectNotFound; InvalidArgumentError: the OSD found it to be damaged; DecodeError.
    """
    return BitVector.decode(await io.call(object_map_object(image_id, snap_id), "rbd", "object_map_load"))


def check_object_count(image: Image) -> dict[int, int]:
    """How many objects the maps of the head and of the snapshots tell of.

    Raises:
        InvalidArgument: they are too many.
    """
    sizes = {NOSNAP: image.header.size, **{s.id: s.info.image_size for s in image.header.snaps}}
    counts = {snap_id: image.layout.num_objects(size) for snap_id, size in sizes.items()}
    if max(counts.values()) > MAX_OBJECT_COUNT:
        raise InvalidArgument(f"image {image.name} has too many objects for an object map", errno.EINVAL)
    return counts


async def create_object_maps(image: Image) -> None:
    """Makes maps of the head and all snapshots in which no object exists (object_map::CreateRequest).

    Raises:
        InvalidArgument: the image has too many objects.
    """
    counts = check_object_count(image)
    await in_window(
        image, ((object_map_object(image.id, snap_id), resize_operation(n)) for snap_id, n in counts.items())
    )


async def remove_object_maps(image: Image) -> None:
    """Removes the maps of the head and all snapshots (object_map::RemoveRequest)."""
    ids = [NOSNAP, *[s.id for s in image.header.snaps]]
    await in_window(image, ((object_map_object(image.id, i), ObjectOperation().remove()) for i in ids), missing=True)


async def in_window(image: Image, requests: Iterable[tuple[str, ObjectOperation]], missing: bool = False) -> None:
    """Sends requests for objects of the image's pool, some at a time; `missing` ones may be."""
    window = bulk.window(image)
    pending: deque[Completion[object]] = deque()

    async def next_one() -> None:
        try:
            await pending.popleft()
        except rados.ObjectNotFound:
            if not missing:
                raise

    for oid, op in requests:
        if len(pending) >= window:
            await next_one()
        pending.append(image.io.submit(oid, op))
    while pending:
        await next_one()


# ---------------------------------------------------------------- flags in the header


def flags(image: Image, snap_id: int = NOSNAP) -> int:
    """RBD_FLAG_* of the head or a snapshot, as we know the header; those of a snapshot that is not there are 0."""
    if snap_id == NOSNAP:
        return image.header.raw.flags
    return next((s.flags for s in image.header.snaps if s.id == snap_id), 0)


def _set_known_flags(image: Image, snap_id: int, new: int) -> None:
    with image.header_lock:
        header = image.header
        if snap_id == NOSNAP:
            image.header = header._replace(raw=header.raw.replace(flags=new))
        else:
            image.header = header._replace(
                snaps=tuple(s._replace(flags=new) if s.id == snap_id else s for s in header.snaps)
            )


def set_flags_operation(snap_id: int, new: int, mask: int) -> ObjectOperation:
    """Changes the flags within `mask`, of the head or a snapshot; to be sent to the header."""
    return ObjectOperation().call_write("rbd", "set_flags", struct.pack("<QQQ", new, mask, snap_id))


async def set_flags(image: Image, snap_id: int, new: int, mask: int) -> None:
    """Changes flags in the header, and in what we know of it. Nobody is told."""
    await image.io.operate(image.header_oid, set_flags_operation(snap_id, new, mask))
    _set_known_flags(image, snap_id, flags(image, snap_id) & ~mask | new & mask)


async def invalidate(image: Image, snap_id: int = NOSNAP) -> None:
    """Flags a map as one not to be believed (object_map::InvalidateRequest); that of the head only who owns the
    exclusive lock, or has compared it with the objects. For an image that is open read-only it stays our secret.

    Raises:
        what made writing the flag impossible: then nothing may be changed that the map does not tell.
    """
    if flags(image, snap_id) & OBJECT_MAP_INVALID:
        return
    bad = OBJECT_MAP_INVALID | (FAST_DIFF_INVALID if image.has(features.FAST_DIFF) else 0)
    _log.warning("%r: the object map of snapshot %x is not to be believed from now on", image, snap_id)
    _set_known_flags(image, snap_id, flags(image, snap_id) | bad)
    if image.read_only:
        return
    try:
        await image.io.operate(image.header_oid, set_flags_operation(snap_id, bad, bad))
    except rados.ObjectNotFound:
        if snap_id == NOSNAP:
            raise
        _log.info("%r: snapshot %x is gone", image, snap_id)
    except BaseException:
        _set_known_flags(image, snap_id, flags(image, snap_id) & ~bad)  # to be tried again
        raise
    _set_known_flags(image, snap_id, flags(image, snap_id) | bad)  # a header of before may have come meanwhile


# ---------------------------------------------------------------- one at a time


class _Cell:
    """A range of objects whose states are being changed; a context manager."""

    __slots__ = ("__weakref__", "_guard", "first", "last")

    def __init__(self, guard: _Guard, first: int, last: int) -> None:
        self._guard: _Guard | None = guard
        self.first = first
        self.last = last

    def __enter__(self) -> _Cell:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.release(self)

    @property
    def alive(self) -> bool:
        """Whether somebody has it, or waits for it."""
        return self._guard is not None

    def __del__(self) -> None:
        guard, self._guard = self._guard, None  # for who looks now: references to us are still good
        if guard is not None and not guard.client.closed and not guard.client.forked:
            guard.client.driver.defer(guard.wake, self.first, self.last)


class _Guard:
    """BlockGuard (`src/librbd/BlockGuard.h`): ranges that overlap take turns, in the order in which they came."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = threading.RLock()
        """Guards the lists."""
        self._cells: list[ref[_Cell]] = []
        self._waiting: list[tuple[Event[None], int, int]] = []

    async def enter(self, first: int, last: int) -> _Cell:
        """Returns when nobody before us changes a part of the range."""
        cell = _Cell(self, first, last)
        patience = Patience(self.client)
        try:
            with self._lock:
                self._cells.append(ref(cell))
            while True:
                event: Event[None] = Event(self.client.driver)
                with self._lock:
                    free = self._is_next(cell)
                    if not free:
                        self._waiting.append((event, first, last))
                if free:
                    return cell
                await patience.wait(event)
                with self._lock:
                    self._waiting = [w for w in self._waiting if w[0] is not event]
        except BaseException:
            cell.leave()  # the traceback keeps it
            raise

    def _is_next(self, cell: _Cell) -> bool:
        for other in self._cells:
            c = other()
            if c is cell:
                break
            if c is not None and c.alive and c.first < cell.last and cell.first < c.last:
                return False
        return True

    def release(self, cell: _Cell) -> None:
        with self._lock:
            self._cells = [c for c in self._cells if c() is not None and c() is not cell]
        self.wake(cell.first, cell.last)

    def wake(self, first: int, last: int) -> None:
        """Has those look again who wait for a part of this range."""
        with self._lock:
            woken = [w for w in self._waiting if w[1] < last and first < w[2]]
            self._waiting = [w for w in self._waiting if not (w[1] < last and first < w[2])]
        for event, _, _ in woken:
            event.set_result(None)


# ---------------------------------------------------------------- the map


class ObjectMap:
    """The map of an open image's head, which we may change, or of a snapshot. Make it with :meth:`open`.

    Attributes:
        touched: 1 for each object that somebody asked about or changed, while that is noted; None otherwise.
    """

    def __init__(self, image: Image, snap_id: int, vector: BitVector) -> None:
        self.image = image
        self.snap_id = snap_id
        self.oid = object_map_object(image.id, snap_id)
        self.vector = vector
        self.touched: BitVector | None = None
        self._guard = _Guard(image.client)
        self._lock = threading.RLock()
        """Guards `vector` against changes of neighbours, which share a byte."""

    def __repr__(self) -> str:
        return f"<ObjectMap {self.oid} of {self.vector.size} objects>"

    @classmethod
    async def open(cls, image: Image, snap_id: int = NOSNAP) -> ObjectMap | None:
        """Reads the map (object_map::RefreshRequest); that of the head is locked first, as only who owns
        the image's exclusive lock may open it. A map that is missing, damaged or too short is flagged.

        Returns None, as it cannot be kept, where the image has more than 256 million objects.

        Raises:
            TimedOut, when `rbd_invalidate_object_map_on_timeout` is off; what made it impossible to flag it.
        """
        size = image.header.size if snap_id == NOSNAP else image.find_snapshot(snap_id).info.image_size
        count = image.layout.num_objects(size)
        self = cls(image, snap_id, BitVector())
        if count > MAX_OBJECT_COUNT:
            await invalidate(image, snap_id)
            return None
        if snap_id == NOSNAP:
            await self._acquire()
        repair = damaged = False
        try:
            vector = await load(image.io, image.id, snap_id)
            if vector.size < count:
                _log.warning("%r: %d objects, its map has %d", image, count, vector.size)
                repair = True
        except (rados.OSError, rados.InvalidArgumentError, DecodeError) as e:
            self._unless_timeout(e)
            _log.warning("%r: object map %s: %s", image, self.oid, e)
            repair = damaged = isinstance(e, rados.InvalidArgumentError)
            vector = BitVector()
        if vector.size < count:
            vector = BitVector(count, OBJECT_EXISTS)
            await invalidate(image, snap_id)
            if repair and not image.read_only:
                await self._repair(count, damaged)
        self.vector = vector
        return self

    async def _repair(self, count: int, damaged: bool) -> None:
        """Makes a map of which nobody believes anything one in which changes can be kept."""
        op = self._operation()
        if damaged:
            op.truncate(0)
        try:
            await self.image.io.operate(self.oid, _resize(op, count, OBJECT_NONEXISTENT))
        except rados.Error as e:
            if isinstance(e, rados.ConnectionShutdown):
                raise
            _log.warning("%r: cannot be repaired: %s", self, e)

    def _operation(self) -> ObjectOperation:
        """A change of this map: of the head's, under the condition that we have it locked."""
        return _assert_locked(ObjectOperation()) if self.snap_id == NOSNAP else ObjectOperation()

    async def _acquire(self) -> None:
        """object_map::LockRequest: takes the lock of the map; who still has it is an owner of the image's
        lock that is no more, so it is taken away from him. If that fails, the changes will."""
        io = self.image.io
        for attempt in (1, 2):
            try:
                await io.operate(self.oid, cls_lock.lock(RBD_LOCK_NAME, cls_lock.LOCK_EXCLUSIVE, ""))
                return
            except rados.ObjectExists:
                return  # it is ours
            except rados.ObjectBusy as e:
                if attempt == 2:
                    _log.warning("%r: cannot lock: %s", self, e)
                    return
            except rados.Error as e:
                if isinstance(e, rados.ConnectionShutdown):
                    raise
                _log.warning("%r: cannot lock: %s", self, e)
                return
            try:
                reply = await io.operate(self.oid, cls_lock.get_info(RBD_LOCK_NAME))
                info = cls_lock.decode_info(reply.ops[0].data)
                op = ObjectOperation()
                for who in info.lockers:
                    args = cls_lock.BreakOp(RBD_LOCK_NAME, who.locker, who.cookie)
                    op.call_write("lock", "break_lock", args.to_bytes())
                if info.lockers:
                    await io.operate(self.oid, op)
            except rados.ObjectNotFound:
                pass

    async def close(self) -> None:
        """Waits for changes in flight, and gives the lock of the map back (object_map::UnlockRequest)."""
        if self.snap_id != NOSNAP:
            return
        with await self._guard.enter(0, 1 << 64):
            try:
                await self.image.io.operate(self.oid, cls_lock.unlock(RBD_LOCK_NAME, ""))
            except rados.Error as e:
                if e.errno != errno.ENOENT:
                    _log.info("%r: unlock: %s", self, e)

    # ------------------------------------------------------------ looking

    @property
    def size(self) -> int:
        """How many objects it tells of."""
        return self.vector.size

    @property
    def valid(self) -> bool:
        """Whether it is to be believed."""
        return not flags(self.image, self.snap_id) & OBJECT_MAP_INVALID

    def state(self, object_no: int) -> int:
        """OBJECT_* of an object; of one beyond the end, that it exists, as nothing is kept of it."""
        if self.touched is not None:
            self._touch(object_no, object_no + 1)
        vector = self.vector
        try:
            return vector.data[object_no >> 2] >> 2 * (3 - (object_no & 3)) & 3 if object_no < vector.size else 1
        except IndexError:  # it has just become shorter
            return OBJECT_EXISTS

    def may_exist(self, object_no: int) -> bool:
        """Whether an object may be there; of a map that is not to be believed, always."""
        return self.state(object_no) != OBJECT_NONEXISTENT or not self.valid

    def _touch(self, first: int, last: int) -> None:
        with self._lock:
            touched = self.touched
            if touched is not None:
                touched.apply(first, min(last, touched.size), (1, 1, 1, 1))

    # ------------------------------------------------------------ changing

    def _unless_timeout(self, error: BaseException) -> None:
        """Raises what does not count as a damage of the map."""
        if isinstance(error, rados.ConnectionShutdown):
            raise error
        on_timeout = self.image.config.get_bool("rbd_invalidate_object_map_on_timeout")
        if isinstance(error, rados.TimedOut) and not on_timeout:
            raise error

    async def _failed(self, error: rados.Error, snap_id: int) -> None:
        """A change of a map did not succeed: after this nobody believes it, or this raises."""
        if error.errno is None:
            raise error
        self._unless_timeout(error)
        _log.warning("%r: a change of the object map of %x failed: %s", self.image, snap_id, error)
        await invalidate(self.image, snap_id)

    async def update(
        self, first: int, last: int, new_state: int, expected_state: int | None = None, snap_id: int = NOSNAP
    ) -> None:
        """Sets the state of the objects from `first` up to, without, `last`; it is stored when this returns.
        If it cannot be, the map has been flagged.

        Args:
            expected_state: change only objects in this state; EXISTS means EXISTS_CLEAN too.
            snap_id: whose map to change: the head's, or that of a snapshot, where the request is always sent.
        Raises:
            ConnectionShutdown; TimedOut, when `rbd_invalidate_object_map_on_timeout` is off; and what made
            it impossible to flag the map. Then the objects must not be changed.
        """
        if self.touched is not None and snap_id == NOSNAP:
            self._touch(first, last)
        if snap_id != NOSNAP:
            try:
                await self._send_update(first, last, new_state, expected_state, snap_id)
            except rados.ObjectNotFound:
                pass  # the snapshot is gone
            except rados.Error as e:
                await self._failed(e, snap_id)
            return
        wanted = _REQUIRED[new_state]
        last = min(last, self.vector.size)
        if first >= last or not self._required(first, last, wanted):
            return
        with await self._guard.enter(first, last):
            last = min(last, self.vector.size)
            if first >= last or not self._required(first, last, wanted):
                return
            values = _changed(new_state, expected_state)
            known = False
            try:
                try:
                    await self._send_update(first, last, new_state, expected_state, NOSNAP)
                except rados.Error as e:
                    await self._failed(e, NOSNAP)
                known = True
            finally:
                if not known:
                    values = _uncertain(values)
                with self._lock:
                    self.vector.apply(first, min(last, self.vector.size), values)

    def _required(self, first: int, last: int, wanted: tuple[bool, bool, bool, bool]) -> bool:
        if last - first == 1 and self.touched is None:
            return wanted[self.state(first)]
        try:
            return self.vector.contains(first, min(last, self.vector.size), wanted)
        except IndexError:  # it has just become shorter
            return True

    async def _send_update(self, first: int, last: int, new_state: int, expected: int | None, snap_id: int) -> None:
        """One request for each 256 Ki objects."""
        oid = object_map_object(self.image.id, snap_id)
        pending: deque[Completion[object]] = deque()
        for at in range(first, last, _MAX_PER_UPDATE):
            if len(pending) >= _WINDOW:
                await pending.popleft()
            op = ObjectOperation()
            if snap_id == NOSNAP:
                _assert_locked(op)
            _update(op, at, min(last, at + _MAX_PER_UPDATE), new_state, expected)
            pending.append(self.image.io.submit(oid, op))
        while pending:
            await pending.popleft()

    async def resize(self, size: int, default_state: int = OBJECT_NONEXISTENT) -> None:
        """The map for an image of `size` bytes (object_map::ResizeRequest): new objects are in `default_state`,
        and those that are cut off must be, or the map is flagged."""
        count = self.image.layout.num_objects(size)
        with await self._guard.enter(0, 1 << 64):
            op = self._operation()
            try:
                if count > MAX_OBJECT_COUNT:
                    raise rados.make_ex(-errno.EFBIG, f"{count} objects")
                await self.image.io.operate(self.oid, _resize(op, count, default_state))
            except rados.Error as e:
                await self._failed(e, self.snap_id)
                return
            with self._lock:
                self.vector.resize(count, default_state)

    async def snap_add(self, snap_id: int) -> None:
        """A snapshot was made (object_map::SnapshotCreateRequest): its map is the head's, and what the head
        has is unchanged since, where the image has fast-diff. Nothing may be written meanwhile.

        The header must have the snapshot already, so that its map can be flagged if this fails.
        """
        io = self.image.io
        with await self._guard.enter(0, 1 << 64):
            try:
                stored = (await io.operate(self.oid, ObjectOperation().read(0, 0))).ops[0].data
                await io.operate(object_map_object(self.image.id, snap_id), ObjectOperation().write_full(stored))
            except rados.Error as e:
                await self._failed(e, snap_id)
                return
            if not self.image.has(features.FAST_DIFF):
                return
            with self._lock:  # first: who writes after this tells the map, whatever becomes of the request
                self.vector.apply(0, self.vector.size, _CLEANED)
            op = _assert_locked(ObjectOperation()).call_write("rbd", "object_map_snap_add")
            try:
                await io.operate(self.oid, op)
            except rados.Error as e:
                await self._failed(e, NOSNAP)

    async def snap_remove(self, snap_id: int) -> None:
        """A snapshot is going to be removed (object_map::SnapshotRemoveRequest): what was changed up to it counts
        as changed up to the next one; then its map is removed. The header must still have the snapshot."""
        image = self.image
        oid = object_map_object(image.id, snap_id)
        if image.has(features.FAST_DIFF):
            later = [s.id for s in image.header.snaps if s.id > snap_id]
            next_id = min(later, default=NOSNAP)
            with await self._guard.enter(0, 1 << 64):
                try:
                    removed = await load(image.io, image.id, snap_id)
                except rados.ObjectNotFound:
                    return  # it was done before
                except (rados.OSError, rados.InvalidArgumentError, DecodeError) as e:
                    if isinstance(e, rados.ConnectionShutdown):
                        raise
                    _log.warning("%r: object map %s: %s", image, oid, e)
                    await invalidate(image, next_id)
                else:
                    if flags(image, snap_id) & OBJECT_MAP_INVALID:
                        await invalidate(image, next_id)
                    else:
                        await self._merge(removed, next_id)
        try:
            await image.io.operate(oid, ObjectOperation().remove())
        except rados.ObjectNotFound:
            pass

    async def _merge(self, removed: BitVector, next_id: int) -> None:
        """Objects that the next map has as unchanged count as changed where `removed` has them so."""
        op = _assert_locked(ObjectOperation()) if next_id == NOSNAP else ObjectOperation()
        op.call_write("rbd", "object_map_snap_remove", removed.encode(checksums=False))
        try:
            await self.image.io.operate(object_map_object(self.image.id, next_id), op)
        except rados.ObjectNotFound:
            pass
        except rados.Error as e:
            await self._failed(e, next_id)
            return
        if next_id == NOSNAP:
            with self._lock:
                if removed.size < self.vector.size:
                    self.vector.apply(removed.size, self.vector.size, _DIRTIED)
                if removed.size > self.vector.size:
                    removed.resize(self.vector.size)
                self.vector.fold(removed, _SNAP_REMOVED)

    async def begin_rollback(self, snap_id: int) -> None:
        """The image is going to be rolled back to a snapshot, and nothing is written meanwhile: what is in one of both
        may exist, so that this holds wherever the rollback may end."""
        await self._roll_back(snap_id, self.vector.copy())

    async def rollback(self, snap_id: int) -> None:
        """The image was rolled back (object_map::SnapshotRollbackRequest), nothing was written since: what the snapshot
        has exists in the head, and counts as changed since the last snapshot.

        librbd takes over the snapshot's map as it is. Objects that were unchanged before that snapshot, and were
        changed after it, would then seem to be unchanged since the last one.
        """
        await self._roll_back(snap_id, BitVector())

    async def _roll_back(self, snap_id: int, kept: BitVector) -> None:
        with await self._guard.enter(0, 1 << 64):
            try:
                vector = await load(self.image.io, self.image.id, snap_id)
            except (rados.OSError, rados.InvalidArgumentError, DecodeError) as e:
                if isinstance(e, rados.ConnectionShutdown):
                    raise
                _log.warning("%r: object map of %x: %s", self.image, snap_id, e)
                await invalidate(self.image, snap_id)
                await invalidate(self.image)
                return
            vector.fold(kept, _ROLLED_BACK)
            if flags(self.image, snap_id) & OBJECT_MAP_INVALID:
                await invalidate(self.image)
            try:
                await self._save(vector)
            except rados.Error as e:
                await self._failed(e, NOSNAP)

    async def save(self) -> None:
        """Stores all of it, as we have it. Raises what went wrong."""
        await self.replace(self.vector)

    async def replace(self, vector: BitVector) -> None:
        """Stores another map in place of this one. Raises what went wrong."""
        with await self._guard.enter(0, 1 << 64):
            await self._save(vector)

    async def _save(self, vector: BitVector) -> None:
        known = False
        try:
            await self.image.io.operate(self.oid, save_operation(vector, self._operation()))
            known = True
        finally:
            with self._lock:
                self.vector = vector if known else BitVector(vector.size, OBJECT_PENDING)


_REQUIRED = tuple(
    (
        # an object that was never there is not going to be removed, and one that is not going to be stays
        new not in (OBJECT_NONEXISTENT, OBJECT_PENDING),
        new not in (OBJECT_EXISTS, OBJECT_NONEXISTENT),
        new != OBJECT_PENDING,
        new not in (OBJECT_EXISTS_CLEAN, OBJECT_NONEXISTENT),
    )
    for new in _STATES
)
"""ObjectMap::update_required: whether a new state is worth a request, by the state that an object is in."""


def _changed(new: int, expected: int | None) -> tuple[int, int, int, int]:
    """What object_map_update makes of each state."""
    also = OBJECT_EXISTS_CLEAN if expected == OBJECT_EXISTS else expected
    a, b, c, d = (new if expected is None or s in (expected, also) else s for s in _STATES)
    return a, b, c, d


def _uncertain(values: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """What we take the states for when nobody knows whether they were changed: each that may be has to be told anew,
    which is so for PENDING, before an object is written."""
    a, b, c, d = (s if values[s] == s else OBJECT_PENDING for s in _STATES)
    return a, b, c, d
