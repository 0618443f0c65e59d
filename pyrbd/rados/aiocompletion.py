"""`Completion`: what the aio_* methods give, and the thread that calls their callbacks."""

from __future__ import annotations

import _thread
import errno
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..log import Log
from .exceptions import Error

if TYPE_CHECKING:
    from .completion import Completion as Pending
    from .ioctx import Ioctx

_log = Log("finisher")


class Completion:
    """An operation that goes on by itself.

    Its callbacks are called one after the other by one thread of the client, in the order in
    which the operations were answered; they may use the cluster. `onsafe` is called right
    after `oncomplete`: an answer has always meant that the data are safe on all replicas.
    """

    def __init__(
        self,
        ioctx: Ioctx,
        oncomplete: Callable[..., Any] | None,
        onsafe: Callable[..., Any] | None,
        deliver: Callable[[Completion, Any], tuple[Any, ...]] | None = None,
        value: Callable[[Any], int] | None = None,
    ) -> None:
        self.oncomplete = oncomplete
        self.onsafe = onsafe
        self.ioctx = ioctx
        self._client = client = ioctx.rados.client
        self._deliver = deliver
        self._value = value
        self._pending: Pending[Any] | None = None
        self._outcome: Callable[[Pending[Any]], Any] | None = None
        self._return_value = 0
        self._complete = False
        self._answer = held_lock()
        self._called = held_lock()
        if oncomplete is not None or onsafe is not None:
            client.driver.expect_calls()

    def __repr__(self) -> str:
        return f"<Completion {'complete' if self.is_complete() else 'in flight'}>"

    def follow(self, pending: Pending[Any], outcome: Callable[[Pending[Any]], Any]) -> None:
        """Completes when `pending` does, with what `outcome` makes of it."""
        self._pending = pending
        self._outcome = outcome
        pending.add_done_callback(self._answered)

    def _answered(self, pending: Pending[Any]) -> None:
        """In the thread that read the answer, which must not be held up."""
        outcome, self._outcome = self._outcome, None
        result = None
        try:
            assert outcome is not None
            result = outcome(pending)
            self._return_value = self._value(result) if self._value is not None else 0
        except Error as e:
            self._return_value = -(e.errno or errno.EIO)
        except Exception:
            _log.exception("the reply to an asynchronous operation")
            self._return_value = -errno.EIO
        self._complete = True
        self._pending = None
        self._answer.release()
        if self.oncomplete is None and self.onsafe is None:
            self._called.release()
            return
        arguments = self._deliver(self, result) if self._deliver is not None else (self,)
        self._client.driver.call_back(self._run, arguments, self._called)

    def _run(self, arguments: tuple[Any, ...]) -> None:
        callbacks, self.oncomplete, self.onsafe = (self.oncomplete, self.onsafe), None, None
        for callback in callbacks:
            if callback is not None:
                try:
                    callback(*arguments)
                except Exception:
                    _log.exception("the callback of an asynchronous operation")

    def is_complete(self) -> bool:
        """Whether the operation has been answered; its callbacks may not have returned."""
        return self._complete

    def is_safe(self) -> bool:
        """The same: an answer means that the data are safe."""
        return self._complete

    def wait_for_complete(self) -> None:
        """Returns when the operation has been answered."""
        pending = self._pending
        if pending is not None:
            try:
                self._client.attend(pending)
            except Error:
                pass  # the return value says it
        pass_gate(self._answer)

    def wait_for_safe(self) -> None:
        """The same."""
        self.wait_for_complete()

    def wait_for_complete_and_cb(self) -> int:
        """Returns when the operation has been answered and the callbacks have returned."""
        self.wait_for_complete()
        pass_gate(self._called)
        return 0

    def wait_for_safe_and_cb(self) -> int:
        """The same."""
        return self.wait_for_complete_and_cb()

    def get_return_value(self) -> int:
        """0 or a number of bytes, a negative errno when it failed; 0 while it is in flight."""
        return self._return_value


def held_lock() -> _thread.LockType:
    """A gate: who passes waits until it is released, once. Cheaper than an Event."""
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


def pass_gate(gate: _thread.LockType) -> None:
    gate.acquire()
    gate.release()


class Finisher:
    """A thread that makes calls, in order, so that those who read answers need not wait for
    what users do with them. It is started when there is a first call."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.RLock()
        """Guards the thread's start and end. Reentrant: a finalizer may shut a client down."""
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ended = False

    def call(self, fn: Callable[..., object], arguments: tuple[Any, ...], done: _thread.LockType | None) -> None:
        """Has `fn(arguments)` called; releases `done` when nothing refers to the call any more."""
        with self._lock:
            self._calls.put((fn, arguments, done))
            ended = self._ended
        if ended:  # an answer that was handled while the client was shut down
            self._calls.put(None)
            self._run()
        elif self._thread is None:
            self.start()

    def start(self) -> None:
        """Starts the thread before there is a call, so that no reader of answers has to."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="pyrbd-finisher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        get = self._calls.get
        while True:
            call = get()
            while call is None:  # the end, unless calls came after it was said
                with self._lock:
                    if self._calls.empty():
                        self._ended = True
                        return
                    try:
                        call = self._calls.get_nowait()
                    except queue.Empty:  # another late caller was faster
                        continue
            fn, arguments, done = call
            del call
            try:
                fn(arguments)
            except Exception:
                _log.exception("a call")
            del fn, arguments
            if done is not None:
                done.release()
            del done

    def close(self, timeout: float = 2.0) -> None:
        """Ends the thread after the calls that wait, but does not wait longer than that."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            while not self._calls.empty():  # nobody will call them: at least nobody waits for ever
                call = self._calls.get()
                if call is not None and call[2] is not None:
                    call[2].release()
            return
        self._calls.put(None)
        if thread is not threading.current_thread():
            thread.join(timeout)


__all__ = ["Completion", "Finisher", "held_lock", "pass_gate"]
