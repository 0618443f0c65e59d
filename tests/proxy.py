"""A TCP proxy that does to connections what networks do.

A test redirects the client's connections through it (:func:`redirected`); the client goes
on believing that it talks to the daemon's own address. What is done to the bytes is said by a
:class:`Fault`, asked for each new connection, or afterwards by :class:`Pipe`'s methods.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyrbd.msgr.types import EntityAddr
from pyrbd.rados import session

CHUNK = 1 << 16


@dataclass
class Fault:
    """What happens to one connection. Bytes are counted for each direction from 0.

    Attributes:
        cut_up, cut_down: the connection is reset after so many bytes to, from the daemon.
        half_close_up, half_close_down: that direction ends after so many bytes; the other stays.
        stall_up, stall_down: after so many bytes, no more are forwarded in that direction.
        delay: seconds that all bytes are late.
        alter: what becomes of a piece of the stream: ``alter(up, at, data)`` gives the bytes that are forwarded, `up`
            says whether to the daemon, `at` how many bytes were before.
        refuse: the connection is closed at once.
    """

    cut_up: int | None = None
    cut_down: int | None = None
    half_close_up: int | None = None
    half_close_down: int | None = None
    stall_up: int | None = None
    stall_down: int | None = None
    delay: float = 0.0
    refuse: bool = False
    alter: Callable[[bool, int, bytes], bytes] | None = None


class _Direction:
    """One way through the proxy."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, cut: int | None, half: int | None, stall: int | None
    ):
        self.source = source
        self.sink = sink
        self.limit = min((x for x in (cut, half, stall) if x is not None), default=None)
        self.kind = "cut" if self.limit == cut else "half" if self.limit == half else "stall"
        self.seen = 0
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.held = False
        self.ended = False
        self.done = False

    def take(self, data: bytes, due: float) -> bool:
        """Takes bytes in; True when this direction has come to its limit."""
        if self.limit is not None and self.seen + len(data) >= self.limit:
            data = data[: self.limit - self.seen]
            self.seen = self.limit
            if data:
                self.waiting.append((due, data))
            return True
        self.seen += len(data)
        if data:
            self.waiting.append((due, data))
        return False

    def push(self, now: float) -> float | None:
        """Forwards what is due; seconds until the next is."""
        while self.waiting and not self.held:
            due, data = self.waiting[0]
            if due > now:
                return due - now
            try:
                n = self.sink.send(data)
            except BlockingIOError:
                return 0.005
            if n < len(data):
                self.waiting[0] = (due, data[n:])
                return 0.001
            self.waiting.popleft()
        return None


class Pipe:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, target: EntityAddr, client: socket.socket, daemon: socket.socket, fault: Fault):
        self.proxy = proxy
        self.target = target
        self.fault = fault
        self.client = client
        self.daemon = daemon
        self.up = _Direction(client, daemon, fault.cut_up, fault.half_close_up, fault.stall_up)
        self.down = _Direction(daemon, client, fault.cut_down, fault.half_close_down, fault.stall_down)
        self.closed = False

    def reset(self) -> None:
        """Ends the connection with an RST to both."""
        self.proxy.do(lambda: self._end(True))

    def hold(self, held: bool = True) -> None:
        """Keeps back what comes from the daemon, while other connections go on; False lets it go."""

        def change() -> None:
            self.down.held = held

        self.proxy.do(change)

    def hold_up(self, held: bool = True) -> None:
        """Keeps back what goes to the daemon; False lets it go."""

        def change() -> None:
            self.up.held = held

        self.proxy.do(change)

    def choke(self) -> None:
        """Takes no more bytes from the client, which finds its socket full after a while."""
        self.proxy.do(lambda: self.proxy.forget(self.client))

    def _end(self, reset: bool) -> None:
        if self.closed:
            return
        self.closed = True
        for s in (self.client, self.daemon):
            self.proxy.forget(s)
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()

    def step(self, now: float) -> float | None:
        waits = []
        for direction in (self.up, self.down):
            if self.closed:
                return None
            try:
                wait = direction.push(now)
            except OSError:
                self._end(True)
                return None
            if wait is not None:
                waits.append(wait)
            elif direction.ended and not direction.done and not direction.held and not direction.waiting:
                direction.done = True
                if direction.kind == "cut" and direction.limit is not None and direction.seen >= direction.limit:
                    self._end(True)
                elif direction.kind != "stall" or direction.limit is None or direction.seen < direction.limit:
                    try:
                        direction.sink.shutdown(socket.SHUT_WR)
                    except OSError:
                        self._end(True)
                    if self.up.ended and self.down.ended and not self.closed:
                        self._end(False)
        return min(waits, default=None)

    def readable(self, source: socket.socket) -> None:
        if self.closed:
            return
        direction = self.up if source is self.client else self.down
        try:
            data = source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._end(True)
            return
        if direction.ended:
            if not data:
                self.proxy.forget(source)
            return  # beyond its limit: nobody hears it
        if not data:
            self.proxy.forget(source)
            direction.ended = True
            if direction.limit is not None:
                direction.limit = None  # it did not come to it
        else:
            if self.fault.alter is not None:
                data = self.fault.alter(direction is self.up, direction.seen, data)
            if direction.take(data, time.monotonic() + self.fault.delay):
                direction.ended = True


class Proxy:
    """Runs in a thread of its own until it is closed.

    Attributes:
        plan: gives the fault of the next connection to a daemon.
        pipes: all connections there were, in order.
    """

    def __init__(self) -> None:
        self.plan: Callable[[EntityAddr], Fault] = lambda _addr: Fault()
        self.pipes: list[Pipe] = []
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._rx, self._tx = socket.socketpair()
        self._rx.setblocking(False)
        self._selector.register(self._rx, selectors.EVENT_READ, None)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def address_for(self, target: EntityAddr) -> tuple[str, int]:
        """Where to connect instead."""
        key = (target.host, target.port)
        with self._lock:
            listener = self._listeners.get(key)
            if listener is None:
                listener = self._listeners[key] = socket.create_server(("127.0.0.1", 0), backlog=512)
                listener.setblocking(False)
                self.do(lambda: self._listen(listener, target))
            host, port = listener.getsockname()[:2]
            return host, port

    def _listen(self, listener: socket.socket, target: EntityAddr) -> None:
        self._selector.register(listener, selectors.EVENT_READ, target)

    def do(self, call: Callable[[], None]) -> None:
        """Has the proxy's thread call something."""
        self._calls.append(call)
        self._tx.send(b"\0")

    def forget(self, s: socket.socket) -> None:
        try:
            self._selector.unregister(s)
        except (KeyError, ValueError):
            pass

    def reset_all(self) -> int:
        """Ends all connections that there are; gives how many there were."""
        alive = [p for p in self.pipes if not p.closed]
        for p in alive:
            p.reset()
        return len(alive)

    def close(self) -> None:
        def stop() -> None:
            self._stopping = True

        self.do(stop)
        self._thread.join(5)

    def _accept(self, listener: socket.socket, target: EntityAddr) -> None:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            return
        fault = self.plan(target)
        if fault.refuse:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            return
        try:
            daemon = socket.create_connection((target.host, target.port), timeout=1)
        except OSError:
            client.close()
            return
        pipe = Pipe(self, target, client, daemon, fault)
        for s in (client, daemon):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(s, selectors.EVENT_READ, pipe)
        self.pipes.append(pipe)

    def _run(self) -> None:
        timeout: float | None = None
        while not self._stopping:
            for key, _ in self._selector.select(timeout):
                if isinstance(key.data, EntityAddr):
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                elif isinstance(key.data, Pipe):
                    key.data.readable(key.fileobj)  # type: ignore[arg-type]
                else:
                    self._rx.recv(4096)
            while self._calls:
                self._calls.popleft()()
            now = time.monotonic()
            waits = [p.step(now) for p in self.pipes if not p.closed]
            timeout = min((w for w in waits if w is not None), default=None)
        for p in self.pipes:
            p._end(False)
        for listener in self._listeners.values():
            listener.close()
        self._selector.close()
        self._rx.close()
        self._tx.close()


@contextmanager
def redirected() -> Iterator[Proxy]:
    """A proxy through which all new connections of this process's clients go meanwhile."""
    proxy = Proxy()
    before = session.socket_address
    setattr(session, "socket_address", proxy.address_for)  # noqa: B010 - mypy sees a function there
    try:
        yield proxy
    finally:
        session.socket_address = before
        proxy.close()
