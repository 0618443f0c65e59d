"""Watches and notifications (`src/osdc/Objecter.cc` LingerOp, `src/osd/Watch.cc`).

A watch lives on the connection to the primary of its object. When that changes it is
registered again under the same cookie; the OSD forgets a watcher that has been silent for
`osd_client_watch_timeout` (30 s), so each one is pinged.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

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
    from ..denc import Buffer
    from .client import Client
    from .io import IoContext
    from .session import Session

_log = Log("watch")

PING_INTERVAL = 5.0
OnNotify = Callable[[int, int, int, bytes], "bytes | None"]
OnError = Callable[[Error], None]


class Watch:
    """One watched object. `cookie` names it among the watchers of the object."""

    def __init__(self, table: Watches, io: IoContext, oid: str, on_notify: OnNotify, on_error: OnError | None) -> None:
        self.io = io
        self.oid = oid
        self.cookie = table.new_cookie()
        self.error: Error | None = None
        self.closed = False
        self._table = table
        self.on_notify = on_notify
        self.on_error = on_error
        self.session: Session | None = None
        self.generation = 0
        self.pending: Completion[Any] | None = None

    def __repr__(self) -> str:
        return f"<Watch {self.oid!r} cookie={self.cookie}>"

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

    def abandon(self) -> None:
        """Ends the watch without waiting for the OSD."""
        if not self.closed:
            self.closed = True
            self._table.remove(self)
            try:
                self.io.submit(self.oid, ObjectOperation().watch(self.cookie, WATCH_OP_UNWATCH), background=True)
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


class Watches:
    """All watches and pending notifications of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cookies = count(random.getrandbits(48) | 1)
        self._watches: dict[int, Watch] = {}
        self._notifies: dict[int, Event[MWatchNotify]] = {}
        self._timer: Any = None

    def new_cookie(self) -> int:
        return next(self._cookies)

    async def add(self, io: IoContext, oid: str, on_notify: OnNotify, on_error: OnError | None) -> Watch:
        watch = Watch(self, io, oid, on_notify, on_error)
        self._watches[watch.cookie] = watch
        completion = io.submit(oid, ObjectOperation().watch(watch.cookie, WATCH_OP_WATCH))
        watch.pending = completion
        try:
            await completion
        except BaseException:
            self.remove(watch)
            raise
        watch.session = completion.session
        watch.pending = None
        if self._timer is None:
            self._timer = self._client.driver.call_later(PING_INTERVAL, self._ping)
        return watch

    def remove(self, watch: Watch) -> None:
        self._watches.pop(watch.cookie, None)

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
        try:
            watch.pending = c = watch.io.submit(watch.oid, op, background=True)
        except Error as e:
            watch.fail(e)
            return

        def finished(c: Completion[Any]) -> None:
            self._client.driver.defer(then, watch, c)

        c.add_done_callback(finished)

    def _pinged(self, watch: Watch, c: Completion[Any]) -> None:
        watch.pending = None
        if c.error is None:
            if watch.session is not c.session:
                self._reconnect(watch)
        elif isinstance(c.error, Error):
            # ETIMEDOUT: the OSD has the watch, but not on this connection
            if c.error.errno == errno.ETIMEDOUT or (c.error.errno == errno.ENOTCONN and c.session is not watch.session):
                self._reconnect(watch)
            else:
                watch.fail(c.error)

    def check(self) -> None:
        """A map came or a connection was lost: registers again where that was the watch's."""
        for watch in list(self._watches.values()):
            if watch.pending is None and watch.session is not None and not watch.session.alive:
                self._reconnect(watch)

    def _reconnect(self, watch: Watch) -> None:
        watch.generation += 1
        op = ObjectOperation().watch(watch.cookie, WATCH_OP_RECONNECT, watch.generation)
        self._send(watch, op, self._reconnected)

    def _reconnected(self, watch: Watch, c: Completion[Any]) -> None:
        watch.pending = None
        if c.error is None:
            watch.session = c.session
            if c.session is not None and not c.session.alive:
                self._reconnect(watch)
        elif isinstance(c.error, Error):
            # ENOTCONN: the OSD had already dropped us; somebody may have been told that we did not answer
            watch.fail(c.error)

    # ------------------------------------------------------------ events (in the driver)

    def on_notify(self, message: MWatchNotify) -> None:
        if message.opcode == WATCH_EVENT_NOTIFY_COMPLETE:
            event = self._notifies.get(message.cookie)
            if event is not None:
                event.set_result(message)
            return
        watch = self._watches.get(message.cookie)
        if watch is None:
            return
        if message.opcode == WATCH_EVENT_DISCONNECT:
            watch.fail(make_ex(-errno.ENOTCONN, f"the OSD ended the watch of {watch.oid}"))
        elif message.opcode == WATCH_EVENT_NOTIFY:
            try:
                answer = watch.on_notify(message.notify_id, message.cookie, message.notifier_gid, message.payload)
            except Exception:
                _log.exception("on_notify of %r", watch)
                answer = None
            op = ObjectOperation().notify_ack(message.notify_id, message.cookie, answer or b"")
            try:
                watch.io.submit(watch.oid, op, background=True)
            except Error as e:
                _log.info("acknowledgement for %r: %s", watch, e)

    # ------------------------------------------------------------ notifying

    async def notify(self, io: IoContext, oid: str, payload: Buffer, timeout_ms: int) -> bytes:
        cookie = self.new_cookie()
        seconds = max(1, (timeout_ms + 999) // 1000)
        event: Event[MWatchNotify] = Event(
            self._client.driver,
            deadline=self._client.driver.monotonic() + seconds + 10,
            on_expire=lambda: TimedOut(f"notification of {oid}: no end of it was heard", errno.ETIMEDOUT),
        )
        self._notifies[cookie] = event
        try:
            await io.submit(oid, ObjectOperation().notify(cookie, payload, seconds))
            complete = await event
        finally:
            del self._notifies[cookie]
        if complete.return_code < 0:
            raise make_ex(complete.return_code, f"notification of {oid}")
        return complete.payload

    def close(self, error: Error) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for event in list(self._notifies.values()):
            event.set_error(error)
        self._watches.clear()


def decode_acks(payload: Buffer) -> tuple[list[tuple[int, int, bytes]], list[tuple[int, int]]]:
    """What :meth:`IoContext.notify` gave: [(gid, cookie, answer)], [(gid, cookie) that did not answer]."""
    if not len(payload):
        return [], []
    d = Decoder(payload)
    acks = [(d.u64(), d.u64(), d.blob()) for _ in range(d.count(20))]
    missing = [(d.u64(), d.u64()) for _ in range(d.count(16))]
    return acks, missing
