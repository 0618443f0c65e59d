"""The exclusive lock of an image: held by the one client that writes, handed over when another asks
(`src/librbd/ManagedLock.cc`, `ExclusiveLock.cc`, `managed_lock/`, `exclusive_lock/`).

It is a lock of the OSDs' lock class on the header object, whose cookie names the owner's watch of the
header: so everybody can see whether the owner is still there. One that is not is fenced: blocklisted,
so that what it may still have in flight is refused, and its lock is broken.

The states and what may follow on what:

======================  ==================================================================================
UNLOCKED                we do not have it
ACQUIRING               the OSD is asked for it; a dead owner is fenced
WAITING                 the owner is alive and was asked to give it up
POST_ACQUIRING          we have it, the image gets ready to write
LOCKED                  we have it
REACQUIRING             the watch is a new one, and the lock gets its cookie
PRE_RELEASING           we have it, writes are drained
RELEASING               the OSD is told that we give it up
CLOSED                  the image does not use it any more
======================  ==================================================================================

All changes of the state are made by one coroutine that takes its orders from a queue. It runs in the
client's background thread (or in the loop), so it is alone, and no interrupt of a user's thread can tear it
apart; others only put an order into the queue and wait.
"""

from __future__ import annotations

import atexit
import errno
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Decoder
from ..log import Log
from ..msgr.types import ENTITY_TYPE_CLIENT, EntityAddr, EntityName
from ..rados import cls_lock
from ..rados import exceptions as rados
from ..rados.completion import Event
from ..rados.operations import ObjectOperation
from .cls_rbd import ListWatchResponse
from .errors import ConnectionShutdown, ImageBusy, OSError, ReadOnlyImage, make_ex
from .notify import AcquiredLock, ReleasedLock, RequestLock
from .watcher import Waiter

if TYPE_CHECKING:
    from ..rados.client import Client
    from ..rados.io import IoContext
    from .image import Image

_log = Log("lock")

RBD_LOCK_NAME = "rbd_lock"
WATCHER_LOCK_TAG = "internal"
WATCHER_LOCK_COOKIE_PREFIX = "auto"

UNLOCKED = "unlocked"
ACQUIRING = "acquiring"
WAITING = "waiting for the owner"
POST_ACQUIRING = "post-acquiring"
LOCKED = "locked"
REACQUIRING = "reacquiring"
PRE_RELEASING = "pre-releasing"
RELEASING = "releasing"
CLOSED = "closed"

TRANSITIONS: dict[str, tuple[str, ...]] = {
    UNLOCKED: (ACQUIRING, CLOSED),
    ACQUIRING: (POST_ACQUIRING, WAITING, UNLOCKED, CLOSED),
    WAITING: (ACQUIRING, UNLOCKED, CLOSED),
    POST_ACQUIRING: (LOCKED, UNLOCKED, CLOSED),
    LOCKED: (REACQUIRING, PRE_RELEASING, CLOSED),
    REACQUIRING: (LOCKED, CLOSED),
    PRE_RELEASING: (RELEASING, LOCKED, CLOSED),
    RELEASING: (UNLOCKED, CLOSED),
    CLOSED: (),
}
_OWNER = (LOCKED, REACQUIRING, PRE_RELEASING)

ACQUIRE = "acquire"
TRY = "try"
REACQUIRE = "reacquire"
RELEASE = "release"
CLOSE = "close"

AUTOMATIC = "automatic"
"""Taken when it is needed, given up when somebody asks."""
STANDARD = "standard"
"""Taken and given up only by the user's word; who asks is refused."""
TRANSIENT = "transient"
"""As STANDARD, but who asks is told to wait."""

RETRY_DELAY = 1.0
"""Seconds until an owner that could not be asked is asked again."""
OWNER_PATIENCE = 10.0
"""Seconds (`client_notify_timeout`) until an owner that said yes is asked again."""
_HANDOVER_RECHECK = 0.02
_EXIT_PATIENCE = 3.0
_GRANT_PATIENCE = 1.0
"""Seconds that a release waits for those to go on who have waited for the lock."""

_held: weakref.WeakSet[ExclusiveLock] = weakref.WeakSet()
"""The locks of this process that are, or may be, held."""


class Locker(NamedTuple):
    """Who holds the lock: the client, the cookie, the watch that this names, and the address."""

    entity: EntityName
    cookie: str
    handle: int
    address: str


def legacy_address(addr: EntityAddr) -> str:
    """``192.0.2.1:0/123``, as lists of lockers and blocklists have it."""
    host = f"[{addr.host}]" if ":" in addr.host else addr.host
    return f"{host}:{addr.port}/{addr.nonce}"


def encode_cookie(handle: int) -> str:
    return f"{WATCHER_LOCK_COOKIE_PREFIX} {handle}"


def decode_cookie(cookie: str) -> int | None:
    """The watch that a cookie of ours or librbd's names; None for those of others."""
    prefix, _, handle = cookie.partition(" ")
    if prefix != WATCHER_LOCK_COOKIE_PREFIX or not (handle.isascii() and handle.isdigit()):
        return None
    value = int(handle) if len(handle) <= 20 else 1 << 64
    return value if value < 1 << 64 else None


async def get_locker(io: IoContext, oid: str) -> Locker | None:
    """Who holds the exclusive lock (`managed_lock/GetLockerRequest.cc`).

    Raises:
        ImageBusy: it is locked by somebody who does not watch (``rbd lock add``).
    """
    reply = await io.operate(oid, cls_lock.get_info(RBD_LOCK_NAME))
    info = cls_lock.LockInfo.decode(Decoder(reply.ops[0].data))
    if not info.lockers:
        return None
    (who, detail), *_ = info.lockers.items()
    handle = decode_cookie(who.cookie)
    if info.tag != WATCHER_LOCK_TAG or info.type == cls_lock.LOCK_SHARED or handle is None or detail.addr.is_blank:
        raise ImageBusy(f"{oid} is locked by {who.locker} with cookie {who.cookie!r}", errno.EBUSY)
    return Locker(who.locker, who.cookie, handle, legacy_address(detail.addr))


async def break_locker(image: Image, locker: Locker, force: bool = False) -> bool:
    """Takes the lock from an owner that has gone, or from a living one too (`managed_lock/BreakRequest.cc`).

    False when the owner is alive, or not the owner any more.
    """
    client, io, oid = image.client, image.io, image.header_oid
    ours = locker.entity.type == ENTITY_TYPE_CLIENT and client.known_as(locker.entity.num)
    # the watch of who we were, before we became a new client, stays for half a minute
    left_over = ours and locker.entity.num != client.global_id
    if not force and not left_over:
        reply = await io.operate(oid, ObjectOperation().list_watchers())
        watchers = ListWatchResponse.from_bytes(reply.ops[0].data).entries
        if any(w.cookie == locker.handle and legacy_address(w.addr) == locker.address for w in watchers):
            return False
    try:
        again = await get_locker(io, oid)
    except ImageBusy:
        return False
    if again is None:
        return True
    if again != locker:
        return False
    if ours and not force and any(other.holds(client, locker.cookie) for other in list(_held)):
        return False
    if image.config.get_bool("rbd_blocklist_on_break_lock"):
        if not ours:
            _log.warning("%r: fencing %s at %s, which holds the lock", image, locker.entity, locker.address)
            await client.blocklist_add(locker.address, image.config.get_int("rbd_blocklist_expire_seconds"))
        elif force:
            raise make_ex(-errno.EINVAL, f"image {image.name}: this client would blocklist itself")
    try:
        await io.operate(oid, cls_lock.break_lock(RBD_LOCK_NAME, locker.entity, locker.cookie))
    except rados.ObjectNotFound:
        pass
    return True


class _Waiter(Waiter):
    """Somebody who waits until an order is carried out."""

    __slots__ = ("resumed",)

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.resumed: Event[None] = Event(client.driver)
        """He has gone on."""


class ExclusiveLock:
    """The exclusive lock of an open image.

    Attributes:
        owner: we have it, and may write.
        cookie: that of our lock; "" while we have none.
        state, policy: see the module's text.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.client: Client = image.client
        self.state = UNLOCKED
        self.owner = False
        self.cookie = ""
        automatic = image.config.get_bool("rbd_auto_exclusive_lock_until_manual_request")
        self.policy = AUTOMATIC if automatic else STANDARD
        self._orders: deque[tuple[str, list[_Waiter]]] = deque()
        self._running = False
        self._closing = False
        self._operating = False
        """Who closes us is a maintenance operation itself."""
        self._peer: Event[None] | None = None
        """Set when a peer says that it has the lock, or has it no more."""
        self._granted: list[_Waiter] = []
        self._lost: OSError | None = None

    def __repr__(self) -> str:
        return f"<ExclusiveLock of {self.image!r}: {self.state}>"

    # ------------------------------------------------------------ what it is

    @property
    def accepts(self) -> bool:
        """Whether maintenance operations may begin here."""
        return self.state == LOCKED and not self._closing

    @property
    def giving_up(self) -> bool:
        """Whether maintenance operations should end soon: another client waits for the lock."""
        return self.state == PRE_RELEASING

    def holds(self, client: Client, cookie: str) -> bool:
        return self.client is client and self.cookie == cookie

    def assert_locked(self, op: ObjectOperation) -> ObjectOperation:
        """Adds the condition that we hold the lock to a request for the header object: EBUSY when not."""
        return cls_lock.assert_locked(op, RBD_LOCK_NAME, cls_lock.LOCK_EXCLUSIVE, self.cookie, WATCHER_LOCK_TAG)

    # ------------------------------------------------------------ orders, from anywhere

    async def acquire(self) -> None:
        """Gets the lock in order to write: asks its owner for it, and waits.

        It may be gone again when this returns: look at `owner` where it matters.

        Raises:
            ReadOnlyImage: the owner does not give it up, or we take it only by the user's word.
            ImageBusy: it is locked by other means; ConnectionShutdown: this client was blocklisted.
        """
        if self.owner:
            return
        self._check_lost()
        if self.policy != AUTOMATIC:
            raise ReadOnlyImage(
                f"image {self.image.name}: the exclusive lock is needed, and is to be acquired by lock_acquire",
                errno.EROFS,
            )
        await self._order(ACQUIRE)

    async def acquire_now(self) -> None:
        """As :meth:`acquire`, whatever the policy."""
        if not self.owner:
            await self._order(ACQUIRE)

    async def try_acquire(self) -> bool:
        """Gets the lock if nobody has it who is alive; whether we have it then."""
        if not self.owner:
            await self._order(TRY)
        return self.owner

    async def release(self) -> None:
        """Gives the lock up, when nothing is in flight any more."""
        await self._order(RELEASE)

    async def close(self, operating: bool = False) -> None:
        """Gives the lock up for good; who waits for it gets ConnectionShutdown.

        Args:
            operating: the caller holds `image.operations`.
        """
        if self.state == CLOSED or self.client.closed:
            return
        self._operating = operating
        await self._order(CLOSE)

    def abandon(self) -> None:
        """Gives the lock up without waiting for anything; from anywhere, also a finalizer."""
        self.client.driver.defer(self._abandon)

    async def _order(self, action: str) -> None:
        self._check_lost(action)
        waiter = _Waiter(self.client)
        try:
            self.client.driver.defer(self._take_order, action, waiter)
            await waiter
        finally:
            waiter.resumed.set_result(None)

    def _check_lost(self, action: str = ACQUIRE) -> None:
        if self._lost is not None and action in (ACQUIRE, TRY):
            raise make_ex(-(self._lost.errno or errno.EIO), self._lost.message)

    # ------------------------------------------------------------ news, in the background

    def peer_notification(self) -> None:
        """A peer has the lock, or has it no more: looks again."""
        peer = self._peer
        if peer is not None:
            peer.set_result(None)

    def requested(self) -> int | None:
        """A peer asks for the lock: 0 if we are going to give it up, -EROFS if not; None unless it is ours."""
        if self.state not in (*_OWNER, POST_ACQUIRING):
            return None
        if self.policy == STANDARD:
            return -errno.EROFS
        if self.policy == AUTOMATIC and self.state != PRE_RELEASING:
            self._take_order(RELEASE, None)
        return 0

    def reacquire(self) -> None:
        """The watch is another one now."""
        self.peer_notification()
        self._take_order(REACQUIRE, None)

    def lost(self, error: OSError) -> None:
        """We are not served any more (blocklisted): others may have the lock."""
        self._lost = error
        self.peer_notification()
        self._take_order(RELEASE, None)

    # ------------------------------------------------------------ carrying orders out, in the background

    def _take_order(self, action: str, waiter: _Waiter | None) -> None:
        waiters = [] if waiter is None else [waiter]
        if self.state == CLOSED or self._closing:
            if action == RELEASE or (action == CLOSE and self.state == CLOSED):
                for w in waiters:
                    w.set_result(None)
                return
            if action != CLOSE:
                for w in waiters:
                    w.set_error(self._closed_error())
                return
        if action == CLOSE:
            self._closing = True
            self.peer_notification()
        if self._orders and self._orders[-1][0] == action and action != REACQUIRE:
            self._orders[-1][1].extend(waiters)
            return
        self._orders.append((action, waiters))
        if not self._running:
            self._running = True
            self.client.spawn(self._run())

    async def _run(self) -> None:
        while self._orders:
            action, waiters = self._orders[0]
            error: Exception | None = None
            try:
                if action in (ACQUIRE, TRY):
                    await self._acquire(action == ACQUIRE)
                elif action == REACQUIRE:
                    await self._reacquire()
                else:
                    await self._release()
                    if action == CLOSE:
                        self._to(CLOSED)
            except rados.Error as e:
                error = make_ex(-(e.errno or errno.EIO), f"the exclusive lock of image {self.image.name}: {e}")
            except Exception as e:
                error = e
            if error is not None:
                _log.info("%r: %s: %s", self, action, error)
                if action == CLOSE:
                    self._to(CLOSED)
            self._orders.popleft()
            self._granted = waiters
            for w in waiters:
                if error is None:
                    w.set_result(None)
                else:
                    w.set_error(error)
        self._running = False

    def _to(self, state: str) -> None:
        if state != self.state:
            if self.state == CLOSED:  # abandoned, while an order was carried out
                raise self._closed_error()
            assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
            self.state = state
            self.owner = state in _OWNER

    def _closed_error(self) -> OSError:
        return ConnectionShutdown(f"image {self.image.name} was closed", errno.ESHUTDOWN)

    async def _acquire(self, cooperative: bool) -> None:
        if self.owner:
            return
        asked = 0
        try:
            while True:
                self._check_lost()
                if self._closing:
                    raise self._closed_error()
                cookie = encode_cookie(await self.image.watcher.registered())
                self._to(ACQUIRING)
                if await self._take(cookie):
                    break
                if not cooperative:
                    self._to(UNLOCKED)
                    return
                await self._ask(asked)
                asked += 1
            await self._acquired(cookie)
        except BaseException:
            if self.state != CLOSED:
                self._to(UNLOCKED)
            raise

    async def _take(self, cookie: str) -> bool:
        """managed_lock/AcquireRequest.cc. False when another client has the lock and is alive."""
        io, oid = self.image.io, self.image.header_oid
        while any(other is not self and other.holds(self.client, cookie) for other in list(_held)):
            # The feature went and came back: the OSD would take us for the one who is still giving the lock up.
            await self._pause(_HANDOVER_RECHECK, Event(self.client.driver))
        while True:
            try:
                await io.operate(oid, cls_lock.lock(RBD_LOCK_NAME, cls_lock.LOCK_EXCLUSIVE, cookie, WATCHER_LOCK_TAG))
            except rados.ObjectExists:  # an earlier attempt of ours of which we did not hear
                return True
            except rados.ObjectBusy:
                pass
            except rados.TimedOut:
                self._unlock_blindly(cookie)
                raise
            else:
                return True
            locker = await get_locker(io, oid)
            if locker is not None and not await break_locker(self.image, locker):
                return False

    def _unlock_blindly(self, cookie: str) -> None:
        try:
            op = cls_lock.unlock(RBD_LOCK_NAME, cookie)
            self.image.io.submit(self.image.header_oid, op, background=True, throttled=False)
        except rados.Error as e:
            _log.info("%r: %s", self, e)

    async def _ask(self, asked: int) -> None:
        """Asks the owner for the lock; returns when it is worth to look again.

        Raises:
            ReadOnlyImage: the owner refuses.
        """
        self._to(WAITING)
        watcher = self.image.watcher
        peer = self._peer = Event(self.client.driver)
        try:
            if self._closing:
                raise self._closed_error()
            answer = await watcher.notify_owner(RequestLock(watcher.client_id))
            if answer == -errno.EROFS:
                raise ReadOnlyImage(
                    f"image {self.image.name}: the owner of the exclusive lock does not give it up", errno.EROFS
                )
            if answer == 0:
                delay = OWNER_PATIENCE
            elif answer == -errno.ETIMEDOUT and not asked:
                return  # nobody has answered: perhaps it was given up in this moment
            else:
                delay = RETRY_DELAY
            await self._pause(delay, peer)
        finally:
            self._peer = None

    async def _pause(self, seconds: float, event: Event[None]) -> None:
        """Until something has happened, or for so long."""
        timer = self.client.driver.call_later(seconds, lambda: event.set_result(None))
        try:
            await event
        finally:
            timer.cancel()

    async def _acquired(self, cookie: str) -> None:
        self.cookie = cookie
        _held.add(self)
        try:
            if self._closing:
                raise self._closed_error()
            self._to(POST_ACQUIRING)
            await self.image.lock_acquired()
            self._to(LOCKED)
        except BaseException:
            self._unlock_blindly(cookie)
            self._gone()
            raise
        self.image.watcher.announce_owner(AcquiredLock(self.image.watcher.client_id))

    def _gone(self) -> None:
        self.cookie = ""
        _held.discard(self)

    async def _release(self) -> None:
        if not self.owner:
            return
        await self._let_go_on()
        self._to(PRE_RELEASING)
        try:
            await self.image.before_release(self._operating)
        except rados.ConnectionShutdown:
            pass
        except BaseException:
            self._to(LOCKED)
            await self.image.after_release()
            raise
        self._to(RELEASING)
        cookie = self.cookie
        try:
            await self.image.io.operate(self.image.header_oid, cls_lock.unlock(RBD_LOCK_NAME, cookie))
        except (rados.ObjectNotFound, rados.ConnectionShutdown) as e:
            _log.info("%r: %s", self, e)
        finally:
            # Whatever became of the request, we write no more without asking for the lock again.
            self._gone()
            if self.state == RELEASING:
                self._to(UNLOCKED)
            await self.image.after_release()
        self.image.watcher.announce_owner(ReleasedLock(self.image.watcher.client_id))

    async def _let_go_on(self) -> None:
        """Those who have waited for the lock use it before it is given up again, or two clients that
        want it would hand it to and fro without writing a byte."""
        granted, self._granted = self._granted, []
        end = time.monotonic() + _GRANT_PATIENCE
        for w in granted:
            if not w.resumed.done and (left := end - time.monotonic()) > 0:
                await self._pause(left, w.resumed)

    async def _reacquire(self) -> None:
        if self.state != LOCKED:
            return
        watcher = self.image.watcher
        handle = watcher.cookie
        if not handle:
            return  # it is lost again, and this order will come again
        new = encode_cookie(handle)
        if new != self.cookie:
            self._to(REACQUIRING)
            op = cls_lock.set_cookie(RBD_LOCK_NAME, cls_lock.LOCK_EXCLUSIVE, self.cookie, WATCHER_LOCK_TAG, new)
            try:
                await self.image.io.operate(self.image.header_oid, op)
            except rados.Error as e:
                _log.warning("%r: the lock could not be given its new cookie: %s", self, e)
                self._to(LOCKED)
                await self._release()
                if self.policy != AUTOMATIC:
                    await self._acquire(True)
                return
            self.cookie = new
            self._to(LOCKED)
        watcher.announce_owner(AcquiredLock(watcher.client_id))

    def _abandon(self) -> None:
        self._closing = True
        self.peer_notification()
        if self.cookie:
            self._unlock_blindly(self.cookie)
            self._gone()
        self._to(CLOSED)


@atexit.register
def _at_exit() -> None:
    """Gives up the locks of images that nobody has closed, or others would have to wait until our watch is forgotten,
    and blocklist us. Runs before clients are shut down."""
    for lock in list(_held):
        client = lock.client
        if client.state != "connected" or client.forked or not client.driver.blocking:
            continue
        event: Event[None] = Event(
            client.driver, deadline=time.monotonic() + _EXIT_PATIENCE, on_expire=lambda: rados.TimedOut("at exit")
        )
        try:
            client.spawn(lock.image.close()).add_done_callback(lambda _, event=event: event.set_result(None))  # type: ignore[misc]
            client.wait(event)
        except Exception as e:
            _log.info("%r: at exit: %s", lock, e)


def translate(error: rados.Error, message: str) -> OSError:
    """The image layer's exception for one of the cluster's."""
    return make_ex(-(error.errno or errno.EIO), f"{message}: {error}")
