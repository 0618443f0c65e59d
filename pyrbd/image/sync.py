"""What the coroutines that use one open image agree by: a mutex, and a gate.

Both work for coroutines of any driver, in any thread. What a coroutine holds is an object; if the
coroutine dies without giving it back (KeyboardInterrupt comes at any instruction), the object dies
with it, and that gives it back.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from typing import TYPE_CHECKING
from weakref import ref

from ..rados.completion import Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..rados.client import Client

_RECHECK = 0.5
"""Seconds after which who waits looks again by himself: who was to tell him may have been interrupted."""


class Patience:
    """Waits for an event, but not for ever.

    What a coroutine held that was interrupted may be kept by a cycle of its traceback, and in a process
    where nothing else goes on, nothing would ever collect that: so who waits long does.
    """

    __slots__ = ("_client", "_looks")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looks = 0

    async def wait(self, event: Event[None]) -> None:
        """Returns when the event is set, or after a while."""
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = not event.done
            event.set_result(None)

        timer = self._client.driver.call_later(_RECHECK, expire)
        try:
            await event
        finally:
            timer.cancel()
        if expired:
            self._looks += 1
            if self._looks in (4, 16, 64) or self._looks % 256 == 0:
                gc.collect()


class Hold:
    """A mutex that is held; a context manager."""

    __slots__ = ("__weakref__", "_mutex")

    def __init__(self, mutex: Mutex) -> None:
        self._mutex: Mutex | None = mutex

    def release(self) -> None:
        """Gives it to the next who waits; further calls do nothing."""
        mutex, self._mutex = self._mutex, None
        if mutex is not None:
            mutex._released(self)

    @property
    def alive(self) -> bool:
        """Whether somebody has it, or waits for it."""
        return self._mutex is not None

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        mutex, self._mutex = self._mutex, None  # for who looks now: references to us are still good
        if mutex is not None and not mutex._client.closed and not mutex._client.forked:
            # at any instruction, whatever locks this thread holds: only leave a note
            mutex._client.driver.defer(mutex._advance)


class Mutex:
    """One coroutine at a time, in the order in which they came: ``with await mutex.acquire():``."""

    __slots__ = ("_client", "_holder", "_lock", "_queue")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.RLock()
        """Guards `_holder` and `_queue`."""
        self._holder: ref[Hold] | None = None
        self._queue: deque[tuple[list[Event[None]], ref[Hold]]] = deque()

    @property
    def locked(self) -> bool:
        holder = None if self._holder is None else self._holder()
        return holder is not None and holder.alive

    async def acquire(self) -> Hold:
        hold = Hold(self)
        event: Event[None] = Event(self._client.driver)
        events = [event]
        self._queue.append((events, ref(hold)))
        patience = None
        try:
            self._advance()
            while not self._held_by(hold):
                if event.done:
                    events[0] = event = Event(self._client.driver)
                    self._advance()
                if patience is None:
                    patience = Patience(self._client)
                if not event.done and not self._held_by(hold):
                    await patience.wait(event)
        except BaseException:
            hold.release()  # the traceback keeps it, and it may be ours already
            raise
        return hold

    def _held_by(self, hold: Hold) -> bool:
        holder = self._holder
        return holder is not None and holder() is hold

    def _released(self, hold: Hold) -> None:
        with self._lock:
            holder = self._holder
            if holder is not None and holder() is hold:
                self._holder = None
        self._advance()

    def _advance(self) -> None:
        """Gives the mutex to the next, if nobody has it."""
        chosen: list[Event[None]] | None = None
        with self._lock:
            holder = None if self._holder is None else self._holder()
            if holder is None or not holder.alive:
                self._holder = None
                while self._queue and chosen is None:
                    events, waiting = self._queue.popleft()
                    hold = waiting()
                    if hold is not None and hold.alive:
                        self._holder, chosen = waiting, events
        if chosen is not None:
            chosen[0].set_result(None)


class Pass:
    """Somebody inside a gate; a context manager."""

    __slots__ = ("__weakref__", "_gate")

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate

    def leave(self) -> None:
        gate = self._gate
        if gate is not None:
            gate._inside.pop(id(self), None)
            self._gate = None
            if gate._draining:
                gate._tell(gate._draining)

    def __enter__(self) -> Pass:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Block:
    """Keeps others out of a gate until it is released; a context manager."""

    __slots__ = ("__weakref__", "_gate")

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate

    def release(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._blocks.pop(id(self), None)
            gate._opened()

    def __enter__(self) -> Block:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        gate = self._gate
        if gate is not None and not gate._client.closed and not gate._client.forked:
            gate._blocks.pop(id(self), None)
            gate._client.driver.defer(gate._opened)


class Gate:
    """Any number may be inside at a time, until somebody blocks it.

    Who enters is in the table before he looks for blocks, and who blocks is in his table before he
    looks who is inside: so one of them sees the other, without a lock.

    Args:
        push: called when somebody waits for those who are inside.
    """

    __slots__ = ("_blocks", "_client", "_draining", "_entering", "_inside", "_push")

    def __init__(self, client: Client, push: Callable[[], object] | None = None) -> None:
        self._client = client
        self._push = push
        self._inside: dict[int, ref[Pass]] = {}
        self._blocks: dict[int, ref[Block]] = {}
        self._entering: deque[Event[None]] = deque()
        self._draining: deque[Event[None]] = deque()

    def try_enter(self) -> Pass | None:
        """A pass, unless the gate is blocked."""
        p = Pass(self)
        self._inside[id(p)] = ref(p)
        if not self._blocks:
            return p
        p.leave()
        return None

    @property
    def blocked(self) -> bool:
        """Whether somebody keeps others out."""
        return bool(self._blocks)

    def join(self) -> Pass:
        """Another pass for who is inside: for what he leaves behind."""
        p = Pass(self)
        self._inside[id(p)] = ref(p)
        return p

    async def enter(self) -> Pass:
        """Waits while the gate is blocked: ``with await gate.enter():``."""
        patience = None
        while (p := self.try_enter()) is None:
            if patience is None:
                patience = Patience(self._client)
            event: Event[None] = Event(self._client.driver)
            self._entering.append(event)
            if not self._blocks:
                event.set_result(None)
            await patience.wait(event)
        return p

    async def block(self) -> Block:
        """Keeps others out, and returns when nobody is inside: ``with await gate.block():``."""
        b = Block(self)
        self._blocks[id(b)] = ref(b)
        try:
            await self.drain()
            while any(p() is not None for p in list(self._inside.values())):
                await self.drain()  # who was inside has let another one in
        except BaseException:
            b.release()  # the traceback keeps it
            raise
        return b

    async def drain(self) -> None:
        """Returns when those who are inside now have left."""
        if self._push is not None:
            self._push()
        present = list(self._inside.items())
        patience = Patience(self._client)
        while True:
            event: Event[None] = Event(self._client.driver)
            self._draining.append(event)
            present = [(i, p) for i, p in present if p() is not None and self._inside.get(i) is p]
            if not present:
                event.set_result(None)
                break
            await patience.wait(event)

    @staticmethod
    def _tell(waiting: deque[Event[None]]) -> None:
        while waiting:
            try:
                event = waiting.popleft()
            except IndexError:
                return
            event.set_result(None)

    def _opened(self) -> None:
        if not self._blocks:
            self._tell(self._entering)
