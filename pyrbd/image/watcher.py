"""The watch of an image's header, and what the clients that have the image open tell each other through
it (`src/librbd/ImageWatcher.cc`, `Watcher.cc`, `image_watcher/NotifyLockOwner.cc`).

A client that is told of a change marks its header as stale. The owner of the exclusive lock is asked
for it, or to carry out a maintenance operation for somebody else: it acknowledges that at once, tells
how far it is, and at the end what became of it.

Notifications are handled in the client's background thread (or in the loop), one after the other.
"""

from __future__ import annotations

import errno
import time
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from ..denc import Decoder
from ..errors import DecodeError
from ..log import Log
from ..rados import exceptions as rados
from ..rados.completion import Event
from ..rados.operations import WATCH_OP_UNWATCH, ObjectOperation
from ..rados.watch import decode_acks
from . import notify
from .errors import ConnectionShutdown, ImageNotFound, OSError, ReadOnlyImage, make_ex
from .notify import AsyncRequestId, ClientId, Payload, Request, ResponseMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..msgr.messages import MWatchNotify
    from ..rados.client import Client
    from ..rados.watch import Watch
    from .image import Image

R = TypeVar("R", bound=Request)
OnProgress = "Callable[[int, int], int | None]"

_log = Log("watcher")

_REWATCH_DELAY = 1.0
_RECHECK = 0.5
_REMEMBER = 600.0
"""Seconds for which the results of requests are kept for those who ask again."""
_UNHEARD = 64
_EMPTY = b""
_request_ids = count(1)


def _response(result: int) -> bytes:
    return ResponseMessage(result).to_bytes()


def next_request_id() -> int:
    """A number that names a request of this process."""
    return next(_request_ids)


class Waiter(Event[None]):
    """An event for which a caller's thread waits, and which nobody sets any more once the client was shut down."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        super().__init__(client.driver, deadline=time.monotonic() + _RECHECK)
        self._client = client

    def expire(self) -> None:
        if self._client.closed:
            self.set_error(ConnectionShutdown("the client was shut down", errno.ESHUTDOWN))
        else:
            self.deadline = time.monotonic() + _RECHECK


class _Asked:
    """A request of ours to the owner of the lock."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.result: int | None = None
        self.progress: tuple[int, int] | None = None
        self._news = Waiter(client)

    def tell(self, result: int | None = None, progress: tuple[int, int] | None = None) -> None:
        if result is not None and self.result in (None, -errno.ERESTART):
            self.result = result
        if progress is not None:
            self.progress = progress
        self._news.set_result(None)

    async def news(self, seconds: float) -> bool:
        """Waits until there is something new; False after so many seconds."""
        event = self._news
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = not event.done
            event.set_result(None)

        timer = self._client.driver.call_later(seconds, expire)
        try:
            await event
        finally:
            timer.cancel()
        self._news = Waiter(self._client)
        return not expired or self.result is not None or self.progress is not None


class _Progress:
    """Tells the one who asked how far we are: the newest figures only, one notification at a time."""

    def __init__(self, watcher: Watcher, request: AsyncRequestId) -> None:
        self._watcher = watcher
        self._request = request
        self._next: tuple[int, int] | None = None
        self._sending = False

    def __call__(self, done: int, total: int) -> int:
        self._next = (done, total)
        if not self._sending:
            self._sending = True
            self._watcher.client.spawn(self._send())
        return 0

    async def _send(self) -> None:
        try:
            while self._next is not None:
                (done, total), self._next = self._next, None
                await self._watcher.tell(notify.AsyncProgress(self._request, done, total))
        finally:
            self._sending = False


class Watcher:
    """The watch of an open image's header.

    Attributes:
        owner: who said last that he has the exclusive lock, and not since that he gave it up.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.client: Client = image.client
        self.owner = ClientId()
        self._watch: Watch | None = None
        self._closed = False
        self._failed: OSError | None = None
        """Why there is no watch, and will be none."""
        self._waiting: list[Event[None]] = []
        self._asked: dict[AsyncRequestId, _Asked] = {}
        self._unheard: dict[AsyncRequestId, int] = {}
        """Results of requests of ours that came when nobody waited: between two times that it was asked."""
        self._serving: set[AsyncRequestId] = set()
        self._served: dict[AsyncRequestId, tuple[int, float]] = {}
        """The results of what others have asked of us, and until when they are kept."""

    # ------------------------------------------------------------ the watch

    @property
    def cookie(self) -> int:
        """Names the watch; 0 while there is none."""
        watch = self._watch
        return watch.cookie if watch is not None else 0

    @property
    def client_id(self) -> ClientId:
        return ClientId(self.client.global_id, self.cookie)

    async def register(self) -> None:
        """Begins to watch.

        Raises:
            ImageNotFound: there is no header. ReadOnlyImage: this client may not watch.
        """
        image = self.image
        what = image.name or image.id
        try:
            self._watch = await self.client.watches.add(image.io, image.header_oid, self._on_message, self._on_error)
        except rados.ObjectNotFound:
            raise ImageNotFound(f"error opening image {what}: no header", errno.ENOENT) from None
        except (rados.PermissionError, rados.PermissionDeniedError):
            # a client that may only read; librbd then opens read-only images only
            raise ReadOnlyImage(f"image {what}: this client may not write; open it read-only", errno.EROFS) from None

    async def registered(self) -> int:
        """The cookie, when the watch stands.

        Raises:
            ConnectionShutdown: it does not any more, because this client was blocklisted.
        """
        while not (cookie := self.cookie):
            if self._failed is not None:
                raise make_ex(-(self._failed.errno or errno.EIO), self._failed.message)
            event = Waiter(self.client)
            self._waiting.append(event)
            if not self.cookie and self._failed is None:
                await event
        return cookie

    async def close(self) -> None:
        """Ends the watch."""
        self._end()
        watch, self._watch = self._watch, None
        if watch is not None:
            try:
                await watch.close()
            except (rados.TimedOut, rados.ConnectionShutdown) as e:
                _log.info("%r: unwatch: %s", self.image, e)

    def abandon(self) -> None:
        """Ends the watch without waiting for anything; from anywhere, also a finalizer."""
        self._closed = True
        watch, self._watch = self._watch, None
        if watch is not None:
            self.client.driver.defer(watch.abandon)

    def _end(self) -> None:
        self._closed = True
        self._fail(ConnectionShutdown(f"image {self.image.name} was closed", errno.ESHUTDOWN))
        self._restart_requests()

    def _fail(self, error: OSError) -> None:
        self._failed = error
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            self._waiting.pop().set_result(None)

    def _on_error(self, error: rados.Error) -> None:
        watch, self._watch = self._watch, None
        self.owner = ClientId()
        self.image.mark_stale()
        if not self._closed:
            self.client.spawn(self._rewatch(error, watch.cookie if watch is not None else 0))

    async def _rewatch(self, error: rados.Error, cookie: int) -> None:
        """Watches again (`watcher/RewatchRequest.cc`)."""
        image = self.image
        while not self._closed:
            try:
                if isinstance(error, rados.ConnectionShutdown):
                    raise error
                if cookie:
                    op = ObjectOperation().watch(cookie, WATCH_OP_UNWATCH)
                    cookie = 0
                    try:
                        await image.io.operate(image.header_oid, op)
                    except (rados.ObjectNotFound, rados.NotConnected):
                        pass
                await self.register()
            except (rados.ConnectionShutdown, ImageNotFound, ReadOnlyImage) as e:
                lost = make_ex(-(e.errno or errno.EIO), f"image {image.name}: the watch of the header is lost: {e}")
                self._fail(lost)
                if image.lock is not None:
                    image.lock.lost(lost)
                self._restart_requests()
                return
            except rados.Error as e:
                _log.warning("%r: watching the header again: %s", image, e)
                event: Event[None] = Event(self.client.driver)
                self.client.driver.call_later(_REWATCH_DELAY, lambda event=event: event.set_result(None))  # type: ignore[misc]
                await event
            else:
                break
        if self._closed:
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.abandon()
            return
        image.mark_stale()  # it may have changed while nobody told us
        self._wake()
        if image.lock is not None:
            image.lock.reacquire()

    # ------------------------------------------------------------ telling others

    async def tell(self, payload: Payload) -> bool:
        """Tells all watchers; whether all have heard it."""
        image = self.image
        try:
            done = await self.client.watches.gather(
                image.io, image.header_oid, notify.encode_message(payload), notify.NOTIFY_TIMEOUT_MS
            )
        except rados.Error as e:
            _log.info("%r: %r: %s", image, payload, e)
            return isinstance(e, rados.ObjectNotFound)
        if done.return_code < 0:
            _log.info("%r: not all watchers heard %r: %d", image, payload, done.return_code)
        return done.return_code >= 0

    async def header_update(self) -> None:
        """Tells all watchers, ourselves too, that the header has changed."""
        await self.tell(notify.HeaderUpdate())

    def announce_owner(self, payload: notify.AcquiredLock | notify.ReleasedLock) -> None:
        """Tells all that we have the lock, or have it no more; waits for nobody."""
        self.owner = payload.client_id if isinstance(payload, notify.AcquiredLock) else ClientId()
        self.client.spawn(self.tell(payload))

    async def notify_owner(self, payload: Payload) -> int:
        """Tells all, and gives what the lock's owner has answered: 0 or a negative errno.

        -ETIMEDOUT: no owner has answered. Raises errors of the cluster.
        """
        image = self.image
        try:
            done = await self.client.watches.gather(
                image.io, image.header_oid, notify.encode_message(payload), notify.NOTIFY_TIMEOUT_MS
            )
            answers = [answer for _, _, answer in decode_acks(done.payload)[0] if answer]
            if done.return_code < 0 and done.return_code != -errno.ETIMEDOUT:
                return done.return_code
            if len(answers) > 1:
                _log.warning("%r: more than one client says that it owns the lock", image)
                return -errno.EINVAL
            if not answers:
                return -errno.ETIMEDOUT
            return ResponseMessage.decode(Decoder(answers[0])).result
        except rados.TimedOut:
            return -errno.ETIMEDOUT
        except DecodeError as e:
            _log.warning("%r: an answer of the lock's owner: %s", image, e)
            return -errno.EINVAL

    async def request(self, payload: Request, number: int, on_progress: Callable[[int, int], object]) -> int:
        """Asks the owner of the lock for a maintenance operation, and waits for its end.

        Args:
            number: of :func:`next_request_id`; the same one when it is asked for again.
            on_progress: called with (done, total); what it raises ends the waiting.
        Returns:
            0 or a negative errno; -ERESTART when the owner has changed meanwhile, -ETIMEDOUT when there
            is none, or nothing was heard of it for `rbd_request_timed_out_seconds`.
        """
        request_id = AsyncRequestId(self.client_id, number)
        asked = self._asked[request_id] = _Asked(self.client)
        early = self._unheard.pop(request_id, -errno.ERESTART)
        if early != -errno.ERESTART:
            # The owner that took our first request (and of which we thought that it is not the owner any more) has
            # done it; librbd of 16.2 and older would take the second for one that it still works on, and be silent.
            del self._asked[request_id]
            return early
        patience = self.image.config.get_float("rbd_request_timed_out_seconds")
        try:
            answer = await self.notify_owner(payload.replace(async_request_id=request_id))
            while asked.result is None:
                if answer < 0:
                    return answer
                progress, asked.progress = asked.progress, None
                if progress is not None:
                    on_progress(*progress)
                elif not await asked.news(patience):
                    return -errno.ETIMEDOUT
            return asked.result
        finally:
            del self._asked[request_id]

    def _restart_requests(self) -> None:
        for asked in list(self._asked.values()):
            asked.tell(result=-errno.ERESTART)

    async def quiesce(self, on_progress: Callable[[int, int], object] | None = None) -> int:
        """Asks all who have the image open to come to rest; the number for :meth:`unquiesce`.

        Raises:
            an image error when one of them cannot, or did not answer often enough
            (`rbd_quiesce_notification_attempts`).
        """
        image = self.image
        number = next_request_id()
        message = notify.encode_message(notify.Quiesce(AsyncRequestId(self.client_id, number)))
        attempts = self.image.config.get_int("rbd_quiesce_notification_attempts")
        result = -errno.ETIMEDOUT
        for attempt in range(1, attempts + 1):
            done = await self.client.watches.gather(image.io, image.header_oid, message, notify.NOTIFY_TIMEOUT_MS)
            if on_progress is not None:
                on_progress(attempt, attempts)
            result = done.return_code
            if result == -errno.ETIMEDOUT:
                continue
            for _, _, answer in decode_acks(done.payload)[0]:
                if answer and result >= 0:
                    response = ResponseMessage.decode(Decoder(answer)).result
                    if response != -errno.EOPNOTSUPP:
                        result = min(0, response)
            break
        if result < 0:
            await self.unquiesce(number)
            raise make_ex(result, f"image {image.name}: not all who have it open came to rest")
        return number

    async def unquiesce(self, number: int) -> None:
        """The rest is over."""
        await self.tell(notify.Unquiesce(AsyncRequestId(self.client_id, number)))

    # ------------------------------------------------------------ hearing from others

    def _on_message(self, watch: Watch, message: MWatchNotify) -> None:
        answer: bytes | None = _EMPTY
        try:
            payload = notify.decode_message(message.payload)
            handler = _HANDLERS.get(type(payload))
            if handler is not None and not self._closed:
                answer = handler(self, payload, message.notify_id)
        except DecodeError as e:
            _log.warning("%r: a notification of client.%d: %s", self.image, message.notifier_gid, e)
        except Exception:
            _log.exception("a notification of %r", self.image)
        if answer is not None:
            watch.acknowledge(message.notify_id, answer)

    def _header_update(self, payload: notify.HeaderUpdate, notify_id: int) -> bytes:
        self.image.mark_stale()
        return _response(0)

    def _acquired_lock(self, payload: notify.AcquiredLock, notify_id: int) -> bytes:
        changed = not payload.client_id or payload.client_id != self.owner
        if payload.client_id:
            self.owner = payload.client_id
        lock = self.image.lock
        if lock is not None:
            lock.peer_notification()
            if changed and not lock.owner:
                self._restart_requests()
        return _EMPTY

    def _released_lock(self, payload: notify.ReleasedLock, notify_id: int) -> bytes:
        changed = not payload.client_id or payload.client_id == self.owner
        if changed:
            self.owner = ClientId()
        lock = self.image.lock
        if lock is not None and not lock.owner:
            if changed:
                self._restart_requests()
            lock.peer_notification()
        return _EMPTY

    def _request_lock(self, payload: notify.RequestLock, notify_id: int) -> bytes:
        lock = self.image.lock
        if lock is None or payload.client_id == self.client_id:
            return _EMPTY
        result = lock.requested()
        return _EMPTY if result is None else _response(result)

    def _async_progress(self, payload: notify.AsyncProgress, notify_id: int) -> bytes:
        asked = self._asked.get(payload.async_request_id)
        if asked is not None:
            asked.tell(progress=(payload.offset, payload.total))
        return _EMPTY

    def _async_complete(self, payload: notify.AsyncComplete, notify_id: int) -> bytes:
        asked = self._asked.get(payload.async_request_id)
        if asked is not None:
            asked.tell(result=payload.result)
        elif payload.async_request_id.client_id == self.client_id:
            self._unheard[payload.async_request_id] = payload.result
            while len(self._unheard) > _UNHEARD:
                del self._unheard[next(iter(self._unheard))]
        return _EMPTY

    def _quiesce(self, payload: notify.Quiesce, notify_id: int) -> bytes:
        return _response(0)  # nothing here would have to come to rest

    def _unknown(self, payload: Payload, notify_id: int) -> bytes:
        lock = self.image.lock
        return _response(-errno.EOPNOTSUPP) if lock is not None and lock.accepts else _EMPTY

    def _request(self, payload: Request, notify_id: int) -> bytes | None:
        """Somebody asks for a maintenance operation; only the owner of the lock answers."""
        lock = self.image.lock
        if lock is None or not lock.accepts:
            return _EMPTY
        request_id = payload.async_request_id
        if not request_id:  # a client before pacific: it waits for the acknowledgement
            self.client.spawn(self._serve_and_acknowledge(payload, notify_id))
            return None
        if request_id.client_id == self.client_id:
            return _response(-errno.ERESTART)
        if request_id in self._serving:
            return _response(0)
        if request_id in self._served:
            result, _ = self._served[request_id]
            self._remember(request_id, result)
            return _response(result)
        self._serving.add(request_id)
        self.client.spawn(self._serve(payload))
        return _response(0)

    async def _serve(self, payload: Request) -> None:
        from . import operation

        request_id = payload.async_request_id
        result = await operation.serve(self.image, payload, _Progress(self, request_id))
        while not await self.tell(notify.AsyncComplete(request_id, result)):
            if self._closed or self.client.closed or self._failed is not None:
                break
        self._serving.discard(request_id)
        self._remember(request_id, result)

    async def _serve_and_acknowledge(self, payload: Request, notify_id: int) -> None:
        from . import operation

        result = await operation.serve(self.image, payload, lambda done, total: 0)
        watch = self._watch
        if watch is not None:
            watch.acknowledge(notify_id, _response(result))

    def _remember(self, request_id: AsyncRequestId, result: int) -> None:
        now = time.monotonic()
        self._served.pop(request_id, None)
        self._served[request_id] = (result, now + _REMEMBER)
        for old in list(self._served):  # in the order of their time
            if self._served[old][1] > now:
                break
            del self._served[old]


_HANDLERS: dict[type[Payload], Callable[[Watcher, Any, int], bytes | None]] = {
    notify.HeaderUpdate: Watcher._header_update,
    notify.AcquiredLock: Watcher._acquired_lock,
    notify.ReleasedLock: Watcher._released_lock,
    notify.RequestLock: Watcher._request_lock,
    notify.AsyncProgress: Watcher._async_progress,
    notify.AsyncComplete: Watcher._async_complete,
    notify.Quiesce: Watcher._quiesce,
    notify.Unknown: Watcher._unknown,
    **{cls: Watcher._request for cls in notify.PAYLOADS.values() if issubclass(cls, Request)},
}
