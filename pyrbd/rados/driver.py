"""The blocking driver: the caller's thread does the work.

A synchronous call sends, receives and decodes in its own thread. Of several threads that
wait on one connection, one leads: it receives for all, completes the others' operations,
and hands the leadership on when its own is done. No other thread stands in the path of a
read; on one core-to-core wake-up per operation everything else depends (`docs/performance.md`).

One background thread per client does what nobody waits for: connecting, the monitor's
connection, timers, maps, and the connections on which only asynchronous operations are
in flight or where no call has led for a while. It never sees KeyboardInterrupt, so what
must not be torn apart (the handling of a new map) is deferred to it.
"""

from __future__ import annotations

import _thread
import heapq
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any, TypeVar

from ..log import Log, prime, refresh
from .aiocompletion import Finisher
from .completion import Completion, Event, Made
from .session import READY_TIMEOUT, TICK, Session, State

T = TypeVar("T")
_log = Log("driver")

IDLE_TICK = 0.5
"""Seconds after which the background thread attends a connection that no caller led,"""
LISTEN_TICK = 0.05
"""and while there are watches: who notifies us waits for our answer."""


class Timer:
    """A call in the future; cancel it by :meth:`cancel`."""

    __slots__ = ("cancelled", "fn")

    def __init__(self, fn: Callable[[], object]) -> None:
        self.fn = fn
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self.fn = _nothing  # it stays in the heap until it is due, but keeps nothing alive


def _nothing() -> None:
    pass


_NOTHING_YET = object()


class _Task:
    """A coroutine that goes on by itself: in the background thread, when what it awaits is done."""

    __slots__ = ("_coro", "_driver", "_event", "waiting")

    def __init__(self, driver: ThreadDriver, coro: Coroutine[Any, Any, Any], event: Event[Any]) -> None:
        self._driver = driver
        self._coro = coro
        self._event = event
        self.waiting: Any = _NOTHING_YET

    def resume(self, waiting: Completion[Any]) -> None:
        """What it waited for is done; it may be told so more than once."""
        if self.waiting is waiting:
            self.waiting = None
            self._driver.suspended.pop(id(self), None)
            self.step()

    def step(self) -> None:
        try:
            waiting: Completion[Any] = self._coro.send(None)
        except StopIteration as e:
            self._event.set_result(e.value)
        except BaseException as e:
            self._event.set_error(e)
            if not isinstance(e, Exception):
                raise
        else:
            timer = None
            if waiting.deadline is not None:
                delay = max(0.0, waiting.deadline - time.monotonic())
                timer = self._driver.call_later(delay, lambda: None if waiting.done else waiting.expire())

            def finished(_c: Completion[Any]) -> None:
                if timer is not None:
                    timer.cancel()
                self._driver.defer(self.resume, waiting)

            self._driver.suspended[id(self)] = self
            self.waiting = waiting
            waiting.attend()
            waiting.add_done_callback(finished)


class ThreadDriver:
    """See the module's text."""

    blocking = True

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._sessions: dict[int, Session] = {}
        self.suspended: dict[int, _Task] = {}
        """Coroutines that go on by themselves, while they wait. The background thread looks at them now and then: who
        was to tell that they can go on may have been interrupted by KeyboardInterrupt."""
        self._deferred: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_seq = count()
        self._lock = threading.RLock()
        """Guards sessions, timers, and the start of the thread. Reentrant, because a finalizer may
        run at any allocation and shut a client down."""
        self._wake_lock = threading.Lock()
        """Guards `_woken`; nothing is called under it."""
        self._stopping = False
        self._woken = False
        self._rx, self._tx = socket.socketpair()
        self._rx.setblocking(False)
        self._tx.setblocking(False)
        self._thread: threading.Thread | None = None
        self._last_tick = 0.0
        self.listening = False
        """Notifications may come at any time."""
        self.ready_timeout = READY_TIMEOUT
        """Seconds that a connection may take until messages can be sent; 0 for any time."""
        self._finisher = Finisher()

    monotonic = staticmethod(time.monotonic)

    # ------------------------------------------------------------ the caller's side

    def suspend(self, completion: Completion[Any]) -> Generator[Any, Any, None]:
        yield completion

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine of ours to its end in this thread."""
        send: Callable[[Any], Any] = coro.send
        try:
            waiting = send(None)
            while True:
                try:
                    self.wait(waiting)
                except BaseException as e:
                    waiting = coro.throw(e)
                else:
                    waiting = send(None)
        except StopIteration as e:
            return e.value  # type: ignore[no-any-return]

    def spawn(self, coro: Coroutine[Any, Any, T], made: Made | None = None) -> Completion[T]:
        """Runs a coroutine of ours by itself; its first step at once, so that what it sends
        first keeps its place."""
        event: Event[T] = Event(self)
        task = _Task(self, coro, event)
        try:
            if made is not None:
                made.append(event)
            task.step()
        except BaseException as e:
            if task.waiting is _NOTHING_YET:  # it does not go on
                self.suspended.pop(id(task), None)
                coro.close()
                event.set_error(e)
            raise
        return event

    def expect_calls(self) -> None:
        """:meth:`call_back` is going to be used."""
        self._finisher.start()

    def call_back(self, fn: Callable[..., object], arguments: tuple[Any, ...], done: _thread.LockType | None) -> None:
        """Has the thread for users' callbacks call `fn(arguments)`, then releases `done`."""
        self._finisher.call(fn, arguments, done)

    def wait(self, op: Completion[Any]) -> None:
        """Returns when `op` is done, after doing what has to be done for it."""
        while not op.done:
            session = op.session
            if session is None or session.state is State.CLOSED:
                self._follow(op, None)
                continue
            if session.leader is None:
                try:
                    try:
                        if session.lead(op):
                            session.lead_count += 1
                            while not op.done and op.session is session and session.alive:
                                if not session.pump(True) or op.deadline is not None:
                                    self._check_deadline(op)
                    finally:
                        session.unlead(op)
                except BaseException:
                    # KeyboardInterrupt may have come in the way of unlead itself, and a session
                    # whose leader has gone would never be read again
                    session.unlead(op)
                    raise
            else:
                self._follow(op, session)

    def _follow(self, op: Completion[Any], session: Session | None) -> None:
        lock = op.waiter
        if lock is None:
            lock = _thread.allocate_lock()
            lock.acquire()
            op.wake_by(lock)
        if session is not None and not session.follow(op):
            return
        if op.done:
            return
        timeout = IDLE_TICK
        if op.deadline is not None:
            timeout = min(timeout, max(0.0, op.deadline - time.monotonic()))
        lock.acquire(True, timeout)
        self._check_deadline(op)

    @staticmethod
    def _check_deadline(op: Completion[Any]) -> None:
        if op.deadline is not None and not op.done and time.monotonic() >= op.deadline:
            op.expire()

    # ------------------------------------------------------------ for sessions and their owners

    def register(self, session: Session) -> None:
        with self._lock:
            self._sessions[id(session)] = session
        self.wake()

    def unwatch(self, session: Session) -> None:
        """The session's socket is about to be closed."""

    def unregister(self, session: Session) -> None:
        with self._lock:
            self._sessions.pop(id(session), None)

    def want_write(self, session: Session) -> None:
        self.wake()

    def defer(self, fn: Callable[..., object], *args: Any) -> None:
        """Has the background thread call `fn` soon; calls keep their order."""
        self._deferred.append((fn, args))
        self.wake()

    def call_later(self, delay: float, fn: Callable[[], object]) -> Timer:
        """Has the background thread call `fn` in `delay` seconds."""
        timer = Timer(fn)
        with self._lock:
            heapq.heappush(self._timers, (time.monotonic() + delay, next(self._timer_seq), timer))
        self.wake()
        return timer

    def wake(self) -> None:
        """Makes the background thread look again at what there is to do."""
        if self._thread is None:
            self._start()
        # The lock orders this against the thread's own look: either it sees all that was done
        # before this call, or we see that it has begun to look, and wake it again.
        with self._wake_lock:
            woken, self._woken = self._woken, True
        if not woken:
            try:
                self._tx.send(b"\0")
            except OSError:
                pass

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._background, name="pyrbd", daemon=True)
                self._thread.start()

    # ------------------------------------------------------------ the background thread

    def close(self) -> None:
        """Ends the background thread; sessions must have been closed. Never hangs."""
        self._stopping = True
        with self._wake_lock:
            self._woken = False
        self.wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and os.getpid() == self.pid:
            thread.join(2.0)
        if os.getpid() == self.pid:
            self._finisher.close()
        if thread is None or not thread.is_alive():
            self._rx.close()
            self._tx.close()

    def abandon(self) -> None:
        """In a child after fork: lets go of the sockets without a word on them."""
        self._stopping = True
        for s in list(self._sessions.values()):
            s.state = State.CLOSED
            s.sock.close()
        self._sessions.clear()
        self._rx.close()
        self._tx.close()

    def _background(self) -> None:
        prime()
        me = object()
        while not self._stopping:
            try:
                self._turn(me)
            except Exception:
                _log.exception("background thread")
                time.sleep(TICK)
        self._run_deferred()
        with self._lock:
            left = list(self._sessions.values())
        for s in left:
            # aborted (a monitor that was slower than another), and the end came before a turn that closes it
            if not s.alive and s.lead(me):
                try:
                    s.pump(False)
                finally:
                    s.unlead(me)
        self._run_deferred()

    def _run_deferred(self) -> None:
        while self._deferred:
            try:
                fn, args = self._deferred.popleft()
            except IndexError:
                return
            try:
                fn(*args)
            except Exception:
                _log.exception("deferred call")

    @property
    def _tick(self) -> float:
        return LISTEN_TICK if self.listening else IDLE_TICK

    def _run_timers(self) -> float:
        """Runs what is due; gives the seconds until the next."""
        while True:
            with self._lock:
                if not self._timers:
                    return self._tick
                due = self._timers[0][0] - time.monotonic()
                if due > 0 and not self._timers[0][2].cancelled:
                    return min(due, self._tick)
                timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                try:
                    timer.fn()
                except Exception:
                    _log.exception("timer")

    def _turn(self, me: object) -> None:
        with self._wake_lock:
            self._woken = False
        self._run_deferred()
        timeout = self._run_timers()
        if self._deferred:
            timeout = 0
        now = time.monotonic()
        with self._lock:
            sessions = list(self._sessions.values())
        if now - self._last_tick >= self._tick:
            self._last_tick = now
            refresh()
            for task in list(self.suspended.values()):
                waiting = task.waiting
                if isinstance(waiting, Completion) and waiting.done:
                    self._deferred.append((task.resume, (waiting,)))
            for s in sessions:
                s.unattended = s.seen_count == s.lead_count
                s.seen_count = s.lead_count
        poll: dict[int, tuple[Session, bool]] = {}
        poller = _Poller()
        poller.add(self._rx.fileno(), True, False)
        for s in sessions:
            # set before it is asked for: who adds work after the question sees False and wakes us
            with s.mutex:
                s.watched = False
            if not s.alive:
                if s.lead(me):
                    try:
                        s.pump(False)
                    finally:
                        s.unlead(me)
                continue
            receive = s.state is State.READY and s.leader is None and (s.unattended or bool(s.aio))
            if s.state is not State.READY:
                receive = s.leader is None and s.state is State.HANDSHAKE
            write = (s.state is State.CONNECTING and s.leader is None) or s.backlog
            if receive or write:
                s.watched = receive
                try:
                    fd = s.sock.fileno()
                except OSError:
                    continue
                if fd >= 0:
                    poll[fd] = (s, receive)
                    poller.add(fd, receive, write)
        for fd, readable, writable in poller.wait(timeout):
            if fd == self._rx.fileno():
                try:
                    self._rx.recv(4096)
                except BlockingIOError:
                    pass
                continue
            s, _ = poll[fd]
            if writable and s.state is not State.CONNECTING:
                s.flush()
            if readable or s.state is State.CONNECTING:
                if s.lead(me):
                    try:
                        while s.pump(False):
                            pass
                    finally:
                        s.unlead(me)
                else:
                    s.unattended = False


class _Poller:
    """poll(2) where it exists, else select(2)."""

    def __init__(self) -> None:
        self._read: list[int] = []
        self._write: list[int] = []
        self._poll = select.poll() if hasattr(select, "poll") else None

    def add(self, fd: int, read: bool, write: bool) -> None:
        if self._poll is not None:
            self._poll.register(fd, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
            return
        if read:
            self._read.append(fd)
        if write:
            self._write.append(fd)

    def wait(self, timeout: float) -> list[tuple[int, bool, bool]]:
        if self._poll is not None:
            out = select.POLLOUT
            return [(fd, bool(ev & ~out), bool(ev & out)) for fd, ev in self._poll.poll(timeout * 1000)]
        both = [*self._read, *self._write]
        r, w, x = select.select(self._read, self._write, both, timeout)
        return [(fd, fd in r or fd in x, fd in w) for fd in set(r) | set(w) | set(x)]
