"""A socket and the protocol on it: one connection to one daemon, from connect to close.

A session lives once. It goes through CONNECTING, HANDSHAKE and READY to CLOSED, and who
needs another connection to the same daemon makes another session.

Who may touch what:

* Receiving (the protocol's receive state, the handling of what came, closing) belongs to
  the *leader*: one waiting caller's thread, or the driver when nobody waits. Leadership
  is :attr:`Session.leader`, taken and given up under :attr:`Session.mutex`, which is also
  what orders who follows, or adds work for the driver, against who leaves or looks.
* Sending, and the socket's life, belongs to who holds :attr:`Session.send_lock`. The queue
  of requests is appended to under the lock of the owner, which gives the order.
* Everybody else asks: :meth:`Session.abort` wakes the leader, who then closes.

If anything, KeyboardInterrupt included, breaks into the handling of received bytes, the
stream's position cannot be trusted any more: the session is closed, and what was in flight is sent again.
"""

from __future__ import annotations

import errno
import socket
import struct as _struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ProtocolError, PyrbdError
from ..log import Log, refresh
from ..msgr.connection import Connection, Event, KeepaliveAck, Message, Ready
from ..msgr.messages import PRIO_DEFAULT
from ..msgr.osdop import MSG_OSD_OP, OP_COMPAT, OP_VERSION
from ..msgr.types import Utime
from .completion import release

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.types import EntityAddr

_log = Log("session")

DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
WAITALL: int = getattr(socket, "MSG_WAITALL", 0)
_NOSIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)
_IOV_LIMIT = 64
_SEND_CHUNK = 4 << 20

READY_TIMEOUT = 10.0
"""Seconds that a connection may take until it is READY, unless `ms_connection_ready_timeout` says otherwise."""
TICK = 0.05
"""Seconds that a leader waits in one receive call before it looks at the clock."""


def socket_address(addr: EntityAddr) -> tuple[str, int]:
    """Where to connect to for a daemon's address; tests put a proxy there."""
    return addr.host, addr.port


class State(Enum):
    CONNECTING = "connecting"
    HANDSHAKE = "handshake"
    READY = "ready"
    CLOSED = "closed"


class Request(Protocol):
    """What waits in a session's queue."""

    def encode(self, session: Session) -> list[Buffer] | None:
        """The frame to send now, or None when it is not to be sent here any more."""
        ...


class Owner(Protocol):
    """Who made the session and handles what comes from it. The calls come from the leader, but
    for `on_closed`, which the driver makes."""

    def on_ready(self, session: Session, ready: Ready) -> None: ...

    def on_message(self, session: Session, message: Message) -> None: ...

    def on_closed(self, session: Session, error: BaseException) -> None: ...


class Host(Protocol):
    """The driver, as the session sees it."""

    def register(self, session: Session) -> None: ...

    def unwatch(self, session: Session) -> None: ...

    def unregister(self, session: Session) -> None: ...

    def defer(self, fn: Callable[..., object], *args: Any) -> None: ...

    def want_write(self, session: Session) -> None: ...

    def wake(self) -> None: ...

    def call_later(self, delay: float, fn: Callable[[], object]) -> Any: ...

    def monotonic(self) -> float: ...

    @property
    def ready_timeout(self) -> float: ...


class Session:
    """One connection.

    Args:
        name: of the peer, as in ``osd.3``.
        blocking: whether a leader may wait in a receive call (the blocking driver).
    """

    __slots__ = (
        "_backlog",
        "_ended",
        "_error",
        "_owner",
        "_ready_timer",
        "_sending",
        "aio",
        "answered",
        "blocking",
        "conn",
        "driver",
        "followers",
        "last_heard",
        "last_sent",
        "lead_count",
        "leader",
        "mutex",
        "name",
        "ops",
        "pinged",
        "queue",
        "seen_count",
        "send_lock",
        "since",
        "sock",
        "state",
        "unattended",
        "watched",
    )

    def __init__(self, name: str, conn: Connection, owner: Owner, driver: Host, *, blocking: bool) -> None:
        self.name = name
        self.conn = conn
        conn.label = name
        self.driver = driver
        self.blocking = blocking and bool(DONTWAIT)
        self.state = State.CONNECTING
        self.leader: object | None = None
        self.mutex = threading.Lock()
        """Guards `leader` and `watched`; nothing is called under it, so that no signal's handler
        and no finalizer runs there."""
        self.send_lock = threading.RLock()
        """Reentrant, for a shutdown from a signal's handler in the middle of sending."""
        self.followers: deque[Any] = deque()
        self.queue: deque[Request] = deque()
        self.ops: dict[int, Any] = {}
        """In flight here: tid -> operation. Written under the owner's lock."""
        self.aio: set[int] = set()
        """The tids among them that no thread waits for."""
        self.answered = False
        """Whether an operation was answered here."""
        self.lead_count = 0
        self.seen_count = 0
        self.unattended = True
        self.watched = False
        self.last_heard = driver.monotonic()
        """When something came, or when the session began."""
        self.since = 0.0
        """When it became READY."""
        self.last_sent = 0.0
        """When the peer last took bytes of those that had to wait for it."""
        self.pinged = 0.0
        """When a keepalive was sent after which nothing has come."""
        self._owner = owner
        self._backlog: deque[memoryview] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._ready_timer: Any = None
        self._sending = False
        family = socket.AF_INET6 if ":" in conn.target.host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)

    def __repr__(self) -> str:
        return f"<Session {self.name} at {self.conn.target} {self.state.value}>"

    @property
    def alive(self) -> bool:
        return self.state is not State.CLOSED and self._error is None

    @property
    def backlog(self) -> bool:
        """True while bytes wait for the socket to take them."""
        return bool(self._backlog)

    def start(self) -> None:
        """Begins to connect; a failure comes through the owner's `on_closed`, as any other."""
        addr = self.conn.target
        sock = self.sock
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass
        result = sock.connect_ex(socket_address(addr))
        if result not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)):
            self._error = OSError(result, f"connect to {addr}: {errno.errorcode.get(result, result)}")
        refresh()
        _log.debug("[%s] connecting to %s", self.name, addr)
        self.driver.register(self)
        limit = self.driver.ready_timeout
        if limit:
            self._ready_timer = self.driver.call_later(limit, lambda: self._not_ready(limit))

    # ------------------------------------------------------------ leadership

    def lead(self, who: object) -> bool:
        """Takes the leadership for `who`, unless somebody has it."""
        with self.mutex:
            free = self.leader is None
            if free:
                self.leader = who
        return free

    def unlead(self, who: object) -> None:
        """Gives it up, and wakes one follower to take over."""
        if self.leader is not who:
            return
        try:
            if self._error is not None and not self._ended:
                self.close(self._error)
        finally:
            with self.mutex:
                self.leader = None
                watched = self.watched
        while self.followers:
            try:
                follower = self.followers.popleft()
            except IndexError:
                break
            if not follower.done and follower.waiter is not None:
                release(follower.waiter)
                return
        if (self.aio and not watched) or self._error is not None:
            self.driver.wake()

    def follow(self, op: Any) -> bool:
        """Has `op`'s waiter woken when the leader leaves. False when there is none any more."""
        self.followers.append(op)
        with self.mutex:
            # either who leaves finds the operation in the list, or we see that he has left
            return self.leader is not None

    def attended(self) -> bool:
        """Whether the driver has looked at what is in flight here since it was added, or will."""
        with self.mutex:
            return self.watched

    # ------------------------------------------------------------ sending

    def flush(self) -> bool:
        """Sends what is queued, as far as the socket takes it without waiting.

        Returns whether all of it went out; else the driver or the leader goes on.
        """
        try:
            with self.send_lock:
                if self.state is State.CLOSED or self.state is State.CONNECTING:
                    return True
                if self._sending:
                    # A signal's handler came in between. What it wants to send must not overtake what
                    # it interrupted, and that goes on only when it returns: another connection.
                    raise ProtocolError("a signal came in the middle of sending")
                self._sending = True
                try:
                    done = self._send_one()
                    if not done:
                        self._collect()
                        done = self._write()
                finally:
                    self._sending = False
        except ProtocolError as e:
            self.abort(e)
            return True
        except OSError as e:
            self.abort(e)
            return True
        except BaseException as e:
            # a frame may be out by half
            self.abort(e if isinstance(e, Exception) else ProtocolError("interrupted while sending"))
            raise
        if not done:
            self.driver.want_write(self)
        return done

    def _send_one(self) -> bool:
        """The usual case: one small request, and nothing else waits. False leaves it to the
        general way, or leaves it the rest."""
        queue = self.queue
        if len(queue) != 1 or self._backlog or self.state is not State.READY or self.conn.has_data_to_send:
            return False
        try:
            request = queue.popleft()
        except IndexError:
            return False
        buffers = request.encode(self)
        if buffers is None:
            return True
        if len(buffers) == 1:
            only = buffers[0]
            try:
                n = self.sock.send(only, DONTWAIT | _NOSIGNAL)
            except BlockingIOError:
                n = 0
            if n == len(only):
                return not queue
            self._backlog.append(memoryview(only)[n:])
        else:
            self._backlog.extend(memoryview(b) for b in buffers)
        return False

    def _collect(self) -> None:
        backlog = self._backlog
        for b in self.conn.data_to_send():
            backlog.append(memoryview(b))
        if self.state is State.READY:
            queue = self.queue
            while queue:
                try:
                    request = queue.popleft()
                except IndexError:
                    break
                buffers = request.encode(self)
                if buffers is not None:
                    for b in buffers:
                        backlog.append(memoryview(b))

    def _write(self) -> bool:
        backlog, sock = self._backlog, self.sock
        while backlog:
            try:
                if len(backlog) == 1 or not hasattr(sock, "sendmsg"):
                    n = sock.send(backlog[0], DONTWAIT | _NOSIGNAL)
                else:
                    iov = []
                    for i, b in enumerate(backlog):
                        if i == _IOV_LIMIT:
                            break
                        iov.append(b)
                    n = sock.sendmsg(iov, (), DONTWAIT | _NOSIGNAL)
            except BlockingIOError:
                return False
            self.last_sent = self.driver.monotonic()
            while n:
                first = backlog[0]
                if n >= len(first):
                    n -= len(first)
                    backlog.popleft()
                else:
                    backlog[0] = first[n:]
                    n = 0
        return True

    # ------------------------------------------------------------ receiving, by the leader

    def pump(self, wait: bool) -> bool:
        """Receives once and handles what came. The leader's.

        Args:
            wait: up to :data:`TICK` for something to come.
        Returns:
            whether something came; always False once the session is closed.
        """
        try:
            if self._error is not None:
                self.close(self._error)
                return False
            if self.state is State.CLOSED:
                return False
            if self.state is State.CONNECTING:
                return self._pump_connect(wait)
            if wait and (self._backlog or not self.blocking or self.state is State.HANDSHAKE):
                readable = self._wait_both()
                if self._backlog:
                    self.flush()
                if not readable:
                    return False
                wait = False
            conn = self.conn
            if wait:
                flags = WAITALL if conn.in_bulk else 0
            else:
                flags = DONTWAIT
            try:
                n = self.sock.recv_into(conn.get_buffer(), 0, flags)
            except BlockingIOError:
                return False
            self.last_heard = self.driver.monotonic()
            self._handle(conn.received(n))
            return True
        except (OSError, PyrbdError) as e:
            self.close(self._error or e)
            return False
        except BaseException as e:
            self.close(e if isinstance(e, Exception) else ProtocolError("interrupted while receiving"))
            raise

    def _handle(self, events: Sequence[Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is Message:
                self._owner.on_message(self, event)  # type: ignore[arg-type]
            elif kind is Ready:
                self._on_ready(event)  # type: ignore[arg-type]
            elif kind is KeepaliveAck:
                pass  # that something came is all that it says
        if self.conn.has_data_to_send:
            self.flush()

    # ------------------------------------------------------------ the straight path of reads

    def send_now(self, tid: int, front: bytes) -> bool:
        """Sends a small request to an OSD, if nothing else is to be sent; the leader's. False: it was not begun."""
        with self.send_lock:
            if (
                self.state is not State.READY
                or self.queue
                or self._backlog
                or self._sending
                or self._error is not None
                or not self.blocking
                or self.conn.has_data_to_send
            ):
                return False
            self._sending = True
            try:
                (frame,) = self.conn.encode_message(tid, MSG_OSD_OP, OP_VERSION, OP_COMPAT, PRIO_DEFAULT, front)
                try:
                    n = self.sock.send(frame, DONTWAIT | _NOSIGNAL)
                except BlockingIOError:
                    n = 0
                if n < len(frame):
                    self._backlog.append(memoryview(frame)[n:])
            except OSError as e:
                self.abort(e)
            finally:
                self._sending = False
        return True

    def receive_now(self) -> int | None:
        """How many bytes came into the connection's buffer, 0 at its end; None if none came within a moment."""
        if self._backlog or self._error is not None:
            return None
        try:
            n = self.sock.recv_into(self.conn.get_buffer(), 0, 0)
        except BlockingIOError:
            return None
        except OSError as e:
            self.abort(e)
            return None
        self.last_heard = self.driver.monotonic()
        return n

    def take(self, n: int) -> None:
        """Handles `n` bytes that :meth:`receive_now` gave."""
        try:
            self._handle(self.conn.received(n))
        except (OSError, PyrbdError) as e:
            self.close(self._error or e)

    def handle(self, events: Sequence[Event]) -> None:
        """Handles what was received already."""
        try:
            self._handle(events)
        except (OSError, PyrbdError) as e:
            self.close(self._error or e)

    def _on_ready(self, ready: Ready) -> None:
        _log.debug("[%s] ready", self.name)
        self.state = State.READY
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        self.last_heard = self.since = self.driver.monotonic()
        if self.blocking:
            self.sock.setblocking(True)
            # the kernel keeps the time, so that a receive is one system call
            tick = _struct.pack("@ll", 0, int(TICK * 1e6))
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
        self._owner.on_ready(self, ready)
        self.flush()

    def _pump_connect(self, wait: bool) -> bool:
        if wait:
            _select(self.sock, read=False, write=True, timeout=TICK)
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"connect to {self.conn.target}: {errno.errorcode.get(code, code)}")
        try:
            self.sock.getpeername()
        except OSError:
            return False  # not yet
        self.state = State.HANDSHAKE
        self.flush()
        return True

    def _wait_both(self) -> bool:
        return _select(self.sock, read=True, write=bool(self._backlog), timeout=TICK)

    # ------------------------------------------------------------ is there anybody

    def _not_ready(self, limit: float) -> None:
        """A peer may not keep us in the handshake, in silence or by sending a little now and then."""
        if self.alive and self.state is not State.READY:
            at = self.conn.state.value if self.state is State.HANDSHAKE else self.state.value
            self.abort(ProtocolError(f"{self.name} was not ready within {limit:g} s (at {at})", errno=errno.ETIMEDOUT))

    def check_alive(self, interval: float, timeout: float) -> None:
        """Called now and then while an answer is awaited: asks for a sign of life after
        `interval` seconds of silence, and gives the connection up when there is none within
        `timeout` more. Neither the kernel nor the peer's map says that packets are lost."""
        now = self.driver.monotonic()
        if not self.alive or self.state is not State.READY:
            return
        if self.last_heard > self.pinged:
            self.pinged = 0.0
        if not self.pinged:
            if now - self.last_heard > interval:
                self.pinged = now
                with self.send_lock:
                    self.conn.send_keepalive(Utime.from_float(time.time()))
                self.flush()
        elif now - max(self.pinged, self.last_sent if self._backlog else 0.0) > timeout:
            self.abort(ProtocolError(f"{self.name} was silent for {now - self.last_heard:.0f} s", errno=110))

    # ------------------------------------------------------------ the end

    def abort(self, error: BaseException) -> None:
        """Ends the session from any thread: the leader closes it, or the driver does."""
        if self._error is None:
            self._error = error
        with self.send_lock:  # or the descriptor could be somebody else's by now
            live = self.state is not State.CLOSED
            if live:
                try:
                    self.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        if live:
            self.driver.wake()

    def close(self, error: BaseException) -> None:
        """Closes and tells the owner. The leader's, or nobody else's business any more."""
        with self.send_lock:
            if self._ended:
                return
            self.state = State.CLOSED
            if self._error is None:
                self._error = error
            self._backlog.clear()
        # Whatever KeyboardInterrupt leaves undone here, the driver does: until it is all done
        # the session stays registered. Telling the owner is the background thread's business.
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        self.driver.unwatch(self)
        self.sock.close()
        _log.debug("[%s] closed: %s", self.name, error)
        self.driver.defer(self._owner.on_closed, self, self._error)
        self._ended = True
        self.driver.unregister(self)


def _select(sock: socket.socket, *, read: bool, write: bool, timeout: float) -> bool:
    """Waits for the socket; True when it can be read (or has failed)."""
    import select

    if hasattr(select, "poll"):
        p = select.poll()
        p.register(sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
        return any(ev & ~select.POLLOUT for _, ev in p.poll(timeout * 1000))
    r, _, x = select.select([sock] if read else [], [sock] if write else [], [sock], timeout)
    return bool(r or x)
