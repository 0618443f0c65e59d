"""Watches and notifications (`src/osdc/Objecter.cc` LingerOp, `src/osd/Watch.cc`).

A watch lives on the connection to the primary of its object. When that changes, or another
interval of the group begins with the same primary, it is registered again under the same cookie:
until then notifications wait for it. The OSD forgets a watcher that has been silent for
`osd_client_watch_timeout` (30 s), so each one is pinged.
"""

from __future__ import annotations

import errno
import random
import weakref
from collections.abc import Callable
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from ..denc import Decoder
from ..log import Log
from ..msgr.messages import (
    WATCH_EVENT_DISCONNECT,
    WATCH_EVENT_NOTIFY,
    WATCH_EVENT_NOTIFY_COMPLETE,
    MWatchNotify,
)
from .completion import Completion, Event
from .exceptions import Error, ObjectNotFound, TimedOut, make_ex
from .operations import WATCH_OP_PING, WATCH_OP_RECONNECT, WATCH_OP_UNWATCH, WATCH_OP_WATCH, ObjectOperation

if TYPE_CHECKING:
    from datetime import timedelta

    from ..denc import Buffer
    from ..osdmap import OSDMap
    from .client import Client
    from .io import IoContext
    from .ioctx import IoctxBase
    from .session import Session

_log = Log("watch")

PING_INTERVAL = 5.0
OnNotify = Callable[[int, int, int, bytes], "bytes | None"]
OnMessage = Callable[["Watch", MWatchNotify], None]
OnError = Callable[[Error], None]


class Watch:
    """One watched object. `cookie` names it among the watchers of the object."""

    def __init__(
        self, table: Watches, io: IoContext, oid: str, on_message: OnMessage, on_error: OnError | None, timeout: int
    ) -> None:
        self.io = io
        self.oid = oid
        self.cookie = table.new_cookie()
        self.timeout = timeout
        self.confirmed = 0.0
        """When the OSD last said that it has the watch, on the driver's clock."""
        self.heard: list[float] = []
        """Since when notifications wait for their acknowledgement."""
        self.error: Error | None = None
        self.closed = False
        self._table = table
        self.on_message = on_message
        self.on_error = on_error
        self.session: Session | None = None
        self.interval: object = None
        self.stale = False
        """Another interval has begun since it was registered."""
        self.generation = 0
        self.pending: Completion[Any] | None = None

    def __repr__(self) -> str:
        return f"<Watch {self.oid!r} cookie={self.cookie}>"

    def acknowledge(self, notify_id: int, answer: Buffer = b"") -> None:
        """Answers a notification; the notifier waits for it."""
        op = ObjectOperation().notify_ack(notify_id, self.cookie, answer)
        try:
            self.io.submit(self.oid, op, background=True, throttled=False)
        except Error as e:
            _log.info("acknowledgement for %r: %s", self, e)

    def age(self, now: float) -> float:
        """Seconds since the watch was known to be good; raises what ended it."""
        if self.error is not None:
            raise self.error
        return now - min([self.confirmed, *self.heard])

    async def close(self) -> None:
        """Ends the watch; the object may be gone already."""
        if self.closed:
            return
        self.closed = True
        self._table.remove(self)
        if self.error is None:
            try:
                await self.io.submit(self.oid, ObjectOperation().watch(self.cookie, WATCH_OP_UNWATCH))
            except ObjectNotFound:
                pass
            except Error:
                raise
            except BaseException:
                self._leave()  # the request that was given up may not have been sent
                raise

    def abandon(self) -> None:
        """Ends the watch without waiting for the OSD."""
        if not self.closed:
            self.closed = True
            self._table.remove(self)
            self._leave()

    def _leave(self) -> None:
        try:
            op = ObjectOperation().watch(self.cookie, WATCH_OP_UNWATCH)
            self.io.submit(self.oid, op, background=True, throttled=False)
        except Error as e:
            _log.info("%r: %s", self, e)

    def fail(self, error: Error) -> None:
        """The watch is lost: a notification may have been missed."""
        if self.error is not None or self.closed:
            return
        self.error = error
        self._table.remove(self)
        _log.warning("%r lost: %s", self, error)
        if self.on_error is not None:
            self.on_error(error)


class _Notify:
    """A notification of ours that has not been answered by all."""

    def __init__(
        self, event: Event[MWatchNotify], io: IoContext, oid: str, cookie: int, payload: Buffer, seconds: int
    ) -> None:
        self.event = event
        self.io = io
        self.oid = oid
        self.cookie = cookie
        self.payload = payload
        self.seconds = seconds
        self.session: Session | None = None
        self.interval: object = None
        self.stale = False


def answering(on_notify: OnNotify) -> OnMessage:
    """For a callback that is quick and does not use the cluster: it is called in the driver,
    with (notify id, cookie, notifier's global id, payload), and its result is the answer."""

    def on_message(watch: Watch, message: MWatchNotify) -> None:
        answer = None
        try:
            answer = on_notify(message.notify_id, message.cookie, message.notifier_gid, message.payload)
        except Exception:
            _log.exception("on_notify of %r", watch)
        watch.acknowledge(message.notify_id, answer or b"")

    return on_message


class UserWatch:
    """A watch of `Ioctx.watch`: its callbacks are users' code and run in the client's thread
    for those. A context manager."""

    def __init__(
        self,
        ioctx: IoctxBase,
        io: IoContext,
        oid: str,
        callback: Callable[[int, int, int, bytes], Any],
        error_callback: Callable[[int, int], Any] | None,
    ) -> None:
        self.ioctx = ioctx
        self.oid = oid
        self.callback = callback
        self.error_callback = error_callback
        self.id = 0
        self._io = io
        self._client = io.client
        self._watch: Watch | None = None

    def __repr__(self) -> str:
        return f"<Watch {self.oid!r} id={self.id}>"

    def __enter__(self) -> UserWatch:
        return self

    def __exit__(self, *args: object) -> Literal[False]:
        self.close()
        return False

    def __del__(self) -> None:
        watch = self._watch
        if watch is not None and not watch.closed and not self._client.closed and not self._client.forked:
            # at any instruction, in any thread, whatever locks it holds: only leave a note
            self._client.driver.defer(watch.abandon)

    async def open(self, timeout: int) -> None:
        """Registers the watch; see `Ioctx.watch`."""
        self._client.driver.expect_calls()
        this = weakref.ref(self)  # so that the watch ends when nobody has it any more

        def on_message(watch: Watch, message: MWatchNotify) -> None:
            user = this()
            if user is not None:
                watch.heard.append(user._client.driver.monotonic())
                user._client.driver.call_back(user._notified, (watch, message), None)

        def on_error(error: Error) -> None:
            user = this()
            if user is not None and user.error_callback is not None:
                user._client.driver.call_back(user._failed, (error,), None)

        self._watch = await self._client.watches.add(self._io, self.oid, on_message, on_error, timeout)
        self.id = self._watch.cookie

    def _notified(self, arguments: tuple[Watch, MWatchNotify]) -> None:
        watch, message = arguments
        answer: Any = None
        try:
            answer = self._call(message)
        except Exception:
            _log.exception("the callback of %r", self)
        self._answer(watch, message, answer)

    def _call(self, message: MWatchNotify) -> Any:
        return self.callback(message.notify_id, message.notifier_gid, message.cookie, message.payload)

    @staticmethod
    def _answer(watch: Watch, message: MWatchNotify, answer: Any) -> None:
        del watch.heard[0]
        if isinstance(answer, str):
            answer = answer.encode()
        if not isinstance(answer, bytes | bytearray | memoryview):
            answer = b""
        watch.acknowledge(message.notify_id, answer)

    def _failed(self, arguments: tuple[Error]) -> None:
        assert self.error_callback is not None
        self.error_callback(self.id, -(arguments[0].errno or errno.EIO))

    def get_id(self) -> int:
        """The watch id: names it among the watchers of the object."""
        return self.id

    def check(self) -> timedelta:
        """How long ago the watch was known to be good, or raises what it was lost by:
        NotConnected when notifications may have been missed."""
        from datetime import timedelta

        self.ioctx.require_ioctx_open()
        if self._watch is None or self._watch.closed:
            raise make_ex(-errno.ENOTCONN, "check error: the watch is closed")
        return timedelta(seconds=self._watch.age(self._client.driver.monotonic()))

    def close(self) -> None:
        """Ends the watch; no callback is called after that, unless it is running."""
        watch, self._watch = self._watch, None
        if watch is None or self._client.closed or self._client.forked:
            return
        self.id = 0
        self._client.run(watch.close())

    async def unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None and not self._client.closed and not self._client.forked:
            self.id = 0
            await watch.close()


class Watches:
    """All watches and pending notifications of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cookies = count(random.getrandbits(48) | 1)
        self._cookie_lock = Lock()
        self._watches: dict[int, Watch] = {}
        self._notifies: dict[int, _Notify] = {}
        self._timer: Any = None

    def new_cookie(self) -> int:
        with self._cookie_lock:
            cookie = next(self._cookies)
        return cookie  # noqa: RET504  (a return from the call would leave the lock's protection)

    async def add(
        self, io: IoContext, oid: str, on_message: OnMessage, on_error: OnError | None, timeout: int = 0
    ) -> Watch:
        watch = Watch(self, io, oid, on_message, on_error, timeout)
        with self._client.objecter.lock:
            watch.interval = self._client.objecter.interval(io._target(oid))
            self._watches[watch.cookie] = watch
        self._client.driver.listening = True
        sent = self._client.driver.monotonic()
        op = ObjectOperation().watch(watch.cookie, WATCH_OP_WATCH, timeout=timeout)
        try:
            watch.pending = completion = io.submit(oid, op)
            await completion
        except BaseException as e:
            if isinstance(e, Error) and not isinstance(e, TimedOut):
                self.remove(watch)
            else:  # given up by us: the OSD may have it, and notifications would wait for us
                watch.abandon()
            raise
        watch.session = completion.session
        watch.confirmed = sent
        watch.pending = None
        if watch.stale:
            self._client.driver.defer(self.check)
        if self._timer is None:
            self._timer = self._client.driver.call_later(PING_INTERVAL, self._ping)
        return watch

    def remove(self, watch: Watch) -> None:
        self._watches.pop(watch.cookie, None)
        self._client.driver.listening = bool(self._watches)

    # ------------------------------------------------------------ keeping them (in the driver)

    def _ping(self) -> None:
        self._timer = None
        if not self._watches or self._client.closed:
            return
        self._timer = self._client.driver.call_later(PING_INTERVAL, self._ping)
        for watch in list(self._watches.values()):
            if watch.pending is None:
                op = ObjectOperation().watch(watch.cookie, WATCH_OP_PING, watch.generation)
                self._send(watch, op, self._pinged)

    def _send(self, watch: Watch, op: ObjectOperation, then: Callable[[Watch, Completion[Any]], None]) -> None:
        sent = self._client.driver.monotonic()
        try:
            watch.pending = c = watch.io.submit(watch.oid, op, background=True, throttled=False)
        except Error as e:
            watch.fail(e)
            return

        def finished(c: Completion[Any]) -> None:
            if c.error is None:
                watch.confirmed = sent
            self._client.driver.defer(then, watch, c)

        c.add_done_callback(finished)

    def _pinged(self, watch: Watch, c: Completion[Any]) -> None:
        watch.pending = None
        if c.error is None:
            if watch.session is not c.session or watch.stale:
                self._reconnect(watch)
        elif isinstance(c.error, Error):
            # ETIMEDOUT: the OSD has the watch, but not on this connection
            if c.error.errno == errno.ETIMEDOUT or (c.error.errno == errno.ENOTCONN and c.session is not watch.session):
                self._reconnect(watch)
            else:
                watch.fail(c.error)

    def note(self, osdmap: OSDMap, skipped: bool) -> None:
        """A new epoch: notes for which of them another interval begins. Under the objecter's lock."""
        objecter = self._client.objecter
        waiting: list[Watch | _Notify] = [*self._watches.values(), *self._notifies.values()]
        for one in waiting:
            interval = objecter.interval(one.io._target(one.oid))
            if interval is not None and (skipped or interval != one.interval):
                one.interval = interval
                one.stale = True

    def check(self) -> None:
        """A map came or a connection was lost: registers again where that was the watch's."""
        for watch in list(self._watches.values()):
            if watch.pending is None and watch.session is not None and (watch.stale or not watch.session.alive):
                self._reconnect(watch)
        for notify in list(self._notifies.values()):
            if notify.session is not None and (notify.stale or not notify.session.alive):
                self._notify_again(notify)

    def _reconnect(self, watch: Watch) -> None:
        watch.generation += 1
        watch.stale = False
        op = ObjectOperation().watch(watch.cookie, WATCH_OP_RECONNECT, watch.generation, watch.timeout)
        self._send(watch, op, self._reconnected)

    def _reconnected(self, watch: Watch, c: Completion[Any]) -> None:
        watch.pending = None
        if c.error is None:
            watch.session = c.session
            if watch.stale or (c.session is not None and not c.session.alive):
                self._reconnect(watch)
        elif isinstance(c.error, Error):
            # ENOTCONN: the OSD had already dropped us; somebody may have been told that we did not answer
            watch.fail(c.error)

    # ------------------------------------------------------------ events (in the driver)

    def on_notify(self, message: MWatchNotify) -> None:
        if message.opcode == WATCH_EVENT_NOTIFY_COMPLETE:
            notify = self._notifies.get(message.cookie)
            if notify is not None:
                notify.event.set_result(message)
            return
        watch = self._watches.get(message.cookie)
        if watch is None:
            return
        if message.opcode == WATCH_EVENT_DISCONNECT:
            watch.fail(make_ex(-errno.ENOTCONN, f"the OSD ended the watch of {watch.oid}"))
        elif message.opcode == WATCH_EVENT_NOTIFY:
            watch.on_message(watch, message)

    def fail_all(self, error: Error) -> None:
        """Tells all owners of watches that they are lost."""
        for watch in list(self._watches.values()):
            watch.fail(error)
        for notify in list(self._notifies.values()):
            notify.event.set_error(error)

    # ------------------------------------------------------------ notifying

    async def notify(self, io: IoContext, oid: str, payload: Buffer, timeout_ms: int) -> bytes:
        complete = await self.gather(io, oid, payload, timeout_ms)
        if complete.return_code < 0:
            raise make_ex(complete.return_code, f"notification of {oid}")
        return complete.payload

    async def gather(self, io: IoContext, oid: str, payload: Buffer, timeout_ms: int) -> MWatchNotify:
        """As :meth:`notify`, but with the answers of those who gave one also where others did not:
        then the `return_code` is -ETIMEDOUT."""
        cookie = self.new_cookie()
        seconds = max(1, (timeout_ms + 999) // 1000)
        event: Event[MWatchNotify] = Event(
            self._client.driver,
            deadline=self._client.driver.monotonic() + seconds + 10,
            on_expire=lambda: TimedOut(f"notification of {oid}: no end of it was heard", errno.ETIMEDOUT),
        )
        notify = _Notify(event, io, oid, cookie, payload, seconds)
        with self._client.objecter.lock:
            notify.interval = self._client.objecter.interval(io._target(oid))
            self._notifies[cookie] = notify
        try:
            completion = io.submit(oid, ObjectOperation().notify(cookie, payload, seconds))
            await completion
            notify.session = completion.session
            if notify.session is not None and (notify.stale or not notify.session.alive):
                self._client.driver.defer(self.check)
            complete = await event
        finally:
            del self._notifies[cookie]
        return complete

    def _notify_again(self, notify: _Notify) -> None:
        """The OSD that was to say when all have answered is gone: the next one asks all again."""
        op = ObjectOperation().notify(notify.cookie, notify.payload, notify.seconds)
        notify.session = None
        notify.stale = False

        def sent(c: Completion[Any]) -> None:
            if c.error is not None:
                notify.event.set_error(c.error)
            else:
                notify.session = c.session
                if notify.stale:
                    self._client.driver.defer(self.check)

        try:
            notify.io.submit(notify.oid, op, background=True, throttled=False).add_done_callback(sent)
        except Error as e:
            notify.event.set_error(e)

    def close(self, error: Error) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for notify in list(self._notifies.values()):
            notify.event.set_error(error)
        self._watches.clear()


def decode_acks(payload: Buffer) -> tuple[list[tuple[int, int, bytes]], list[tuple[int, int]]]:
    """What :meth:`IoContext.notify` gave: [(gid, cookie, answer)], [(gid, cookie) that did not answer]."""
    if not len(payload):
        return [], []
    d = Decoder(payload)
    acks = [(d.u64(), d.u64(), d.blob()) for _ in range(d.count(20))]
    missing = [(d.u64(), d.u64()) for _ in range(d.count(16))]
    return acks, missing
