"""The asyncio driver: the same sessions and the same coroutines, on an event loop.

Sockets are watched with `add_reader`; sends go straight to the socket and only what it
does not take waits for `add_writer`. Everything runs in the loop's thread.
"""

from __future__ import annotations

import _thread
import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from ..log import Log
from .completion import Completion, Event, Made
from .exceptions import make_ex
from .session import READY_TIMEOUT, Session, State

T = TypeVar("T")
_log = Log("driver")


class _Timer:
    __slots__ = ("cancelled", "handle")

    def __init__(self) -> None:
        self.cancelled = False
        self.handle: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self.handle is not None:
            self.handle.cancel()


class AsyncioDriver:
    """Drives sessions on the loop that runs when it is made."""

    blocking = False
    listening = False
    ready_timeout = READY_TIMEOUT

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.get_running_loop()
        self._thread = _thread.get_ident()
        self._sessions: dict[int, Session] = {}
        self._writers: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    monotonic = staticmethod(time.monotonic)

    def suspend(self, completion: Completion[Any]) -> Generator[Any, Any, None]:
        future: asyncio.Future[None] = self.loop.create_future()

        def finished(_c: Completion[Any]) -> None:
            if not future.done() and not self.loop.is_closed():
                future.set_result(None)

        completion.add_done_callback(finished)
        timer = None
        if completion.deadline is not None:
            delay = max(0.0, completion.deadline - time.monotonic())
            timer = self.loop.call_later(delay, lambda: None if completion.done else completion.expire())
        try:
            yield from future.__await__()
        finally:
            if timer is not None:
                timer.cancel()

    def register(self, session: Session) -> None:
        self._sessions[id(session)] = session
        if not session.alive:
            self.wake()
            return
        self.loop.add_writer(session.sock.fileno(), self._connected, session)

    def unregister(self, session: Session) -> None:
        self._sessions.pop(id(session), None)

    def unwatch(self, session: Session) -> None:
        if id(session) in self._sessions:
            fd = session.sock.fileno()
            if fd >= 0 and not self.loop.is_closed():
                self.loop.remove_reader(fd)
                self.loop.remove_writer(fd)
            self._writers.discard(id(session))

    def _connected(self, session: Session) -> None:
        fd = session.sock.fileno()
        session.pump(False)
        if session.state is State.CONNECTING or not session.alive:
            return
        self.loop.remove_writer(fd)
        self.loop.add_reader(fd, self._readable, session)
        if session.backlog:
            self.want_write(session)

    def _readable(self, session: Session) -> None:
        session.pump(False)

    def want_write(self, session: Session) -> None:
        if id(session) in self._sessions and id(session) not in self._writers:
            self._writers.add(id(session))
            self.loop.add_writer(session.sock.fileno(), self._writable, session)

    def _writable(self, session: Session) -> None:
        fd = session.sock.fileno()
        self._writers.discard(id(session))
        self.loop.remove_writer(fd)
        session.flush()

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        if self.loop.is_closed():
            return
        if _thread.get_ident() == self._thread:
            self.loop.call_soon(self._call, fn, args)
        else:  # a finalizer runs in any thread
            self.loop.call_soon_threadsafe(self._call, fn, args)

    @staticmethod
    def _call(fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            fn(*args)
        except Exception:
            _log.exception("deferred call")

    def spawn(self, coro: Coroutine[Any, Any, T], made: Made | None = None) -> Completion[T]:
        """Runs a coroutine of ours as a task of the loop."""
        event: Event[T] = Event(self)
        if made is not None:
            made.append(event)

        async def run() -> None:
            try:
                event.set_result(await coro)
            except asyncio.CancelledError:
                event.set_error(make_ex(-errno.ECANCELED, "the task was cancelled"))
                raise
            except Exception as e:
                event.set_error(e)

        task = self.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return event

    def expect_calls(self) -> None:
        pass

    def call_back(self, fn: Callable[..., object], arguments: tuple[Any, ...], done: _thread.LockType | None) -> None:
        """Has the loop call `fn(arguments)`, then releases `done`."""

        def call() -> None:
            self._call(fn, (arguments,))
            if done is not None:
                done.release()

        self.loop.call_soon(call)

    def call_later(self, delay: float, fn: Callable[[], object]) -> _Timer:
        timer = _Timer()
        timer.handle = self.loop.call_later(delay, self._call, fn, ())
        return timer

    def wake(self) -> None:
        """Closes, from the loop, the sessions that somebody has given up."""
        if not self.loop.is_closed():
            self.loop.call_soon(self._reap)

    def _reap(self) -> None:
        for s in list(self._sessions.values()):
            if not s.alive:
                s.pump(False)

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        for s in list(self._sessions.values()):
            s.state = State.CLOSED
            s.sock.close()
        self._sessions.clear()
