"""How much may be in flight: `objecter_inflight_ops` and `objecter_inflight_op_bytes`.

What is more waits in the order in which it came. One operation is always let through, however
large it is.
"""

from __future__ import annotations

import _thread
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING

from .completion import release

if TYPE_CHECKING:
    from .op import Op

WAIT = 0.1
"""Seconds after which who waits for room looks again."""


class Throttle:
    """Counts operations and their bytes. A lock of its own guards all of it: reentrant, as a signal's
    handler may finish operations, and no Condition, which KeyboardInterrupt can leave locked."""

    def __init__(self) -> None:
        self.max_ops = 1024
        self.max_bytes = 100 << 20
        self._lock = RLock()
        self._waiters: list[_thread.LockType] = []
        self._ops = 0
        self._bytes = 0
        self._queue: deque[Op] = deque()

    @property
    def in_flight(self) -> tuple[int, int]:
        """Operations that have been sent or are about to be, and their bytes."""
        with self._lock:
            return self._ops, self._bytes

    @property
    def has_room(self) -> bool:
        """Whether one more is not worth counting: nothing waits, and much more may be sent."""
        return not self._queue and self._ops < self.max_ops

    @property
    def queued(self) -> list[Op]:
        """What waits for others to be finished."""
        with self._lock:
            queued = list(self._queue)
        return queued  # noqa: RET504  (from within, an interrupt after the call would leave the lock held)

    def admit(self, op: Op) -> bool:
        """Whether `op` may be in flight now; it is counted then, and else it is queued."""
        with self._lock:
            ops = self._ops
            if not self._queue and (not ops or (ops < self.max_ops and self._bytes + op.cost <= self.max_bytes)):
                self._ops += 1
                self._bytes += op.cost
                op.admitted = True
                return True
            self._queue.append(op)
            return False

    def _count(self, op: Op) -> bool:
        if self._ops and (self._ops >= self.max_ops or self._bytes + op.cost > self.max_bytes):
            return False
        self._ops += 1
        self._bytes += op.cost
        op.admitted = True
        return True

    def release(self, op: Op) -> bool:
        """`op` is finished: makes room for others. Returns whether there are any."""
        with self._lock:
            if not op.admitted:
                return False
            op.admitted = False
            self._ops -= 1
            self._bytes -= op.cost
            more = len(self._queue) > 0
        return more  # noqa: RET504

    def head(self) -> Op | None:
        """The first that waits, if it may be in flight now; call :meth:`pop` when it is."""
        with self._lock:
            while self._queue:
                op = self._queue[0]
                if op.done:
                    self._queue.popleft()
                elif op.admitted or self._count(op):
                    return op
                else:
                    return None
            return None

    def pop(self, op: Op) -> None:
        """Takes the head away and lets threads know that there was room."""
        with self._lock:
            if self._queue and self._queue[0] is op:
                self._queue.popleft()
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            release(waiter)

    def wait(self) -> None:
        """Waits a moment for queued operations to be admitted; the caller looks again."""
        waiter = _thread.allocate_lock()
        waiter.acquire()
        with self._lock:
            self._waiters.append(waiter)
        if not waiter.acquire(True, WAIT):
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def clear(self) -> None:
        """Empties the queue."""
        with self._lock:
            self._queue.clear()
