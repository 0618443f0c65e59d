"""The one thing that everything above a connection waits for.

A :class:`Completion` is awaited by coroutines that know nothing of threads or event loops.
What `await` does while it is not done, its driver decides: the blocking driver lets the
caller's own thread do the work that completes it, the asyncio driver suspends the task.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ..log import Log

if TYPE_CHECKING:
    import _thread

    from .session import Session

T = TypeVar("T")
_log = Log("completion")

_once = Lock()
"""Held for a moment by who finishes a completion, so that only one does, and by who wants to
be told, so that none is overlooked. Nothing is called under it: a signal's handler or a
finalizer, which run between two calls, may finish completions as well."""


class Suspender(Protocol):
    """The part of a driver that completions use."""

    def suspend(self, completion: Completion[Any]) -> Generator[Any, Any, None]:
        """Yields until `completion` is done."""
        ...


class Completion(Generic[T]):
    """A result that will be there, or an exception.

    It is finished once, by whichever thread reads the answer; `add_done_callback` functions run in that
    thread and must not block.
    """

    __slots__ = ("_callbacks", "_driver", "_error", "_result", "deadline", "done", "session", "waiter")

    def __init__(self, driver: Suspender) -> None:
        self._driver = driver
        self._result: T | None = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Completion[T]], object]] = []
        self.done = False
        self.session: Session | None = None
        """The connection that will bring the answer; a waiting thread may read it."""
        self.deadline: float | None = None
        """When to give up, on the clock of `time.monotonic`."""
        self.waiter: _thread.LockType | None = None

    def expire(self) -> None:
        """Called by a waiter after the deadline; must finish the completion."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Called when the one who waited was interrupted: an operation must not be sent
        again then, or it could undo what its owner does next."""

    def attend(self) -> None:
        """Called when no thread is going to wait for it."""

    def set_result(self, result: T) -> None:
        with _once:
            if self.done:
                return
            self._result = result
            self.done = True
            waiter = self.waiter
        self._finish(waiter)

    def set_error(self, error: BaseException) -> None:
        with _once:
            if self.done:
                return
            self._error = error
            self.done = True
            waiter = self.waiter
        self._finish(waiter)

    def _finish(self, waiter: _thread.LockType | None) -> None:
        if waiter is not None:
            release(waiter)
        if self._callbacks:
            self.run_callbacks()

    def run_callbacks(self) -> None:
        """Each callback runs once, whoever calls this how often."""
        while self._callbacks:
            try:
                fn = self._callbacks.pop(0)
            except IndexError:
                return
            try:
                fn(self)
            except Exception:
                _log.exception("a callback failed")

    def add_done_callback(self, fn: Callable[[Completion[T]], object]) -> None:
        """`fn(completion)` is called when it is done, or now if it already is."""
        more = [fn]
        with _once:
            self._callbacks += more
            done = self.done
        if done:
            self.run_callbacks()

    def wake_by(self, waiter: _thread.LockType) -> None:
        """`waiter`, a held lock, is released when it is done; look at `done` afterwards."""
        with _once:
            self.waiter = waiter

    @property
    def error(self) -> BaseException | None:
        return self._error

    def result(self) -> T:
        """The result, or raises what went wrong. Only when `done`."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def __await__(self) -> Generator[Any, Any, T]:
        if not self.done:
            try:
                yield from self._driver.suspend(self)
            except BaseException:
                self.abandon()
                raise
        return self.result()


class Made(Protocol):
    """Where a completion is put before what it is for begins; `append` must be one of C, which no interrupt divides."""

    def append(self, completion: Any, /) -> object: ...


class Event(Completion[T]):
    """A completion that is not an operation of its own: a map that arrives, a connection."""

    __slots__ = ("_on_expire",)

    def __init__(
        self, driver: Suspender, *, deadline: float | None = None, on_expire: Callable[[], BaseException] | None = None
    ) -> None:
        super().__init__(driver)
        self.deadline = deadline
        self._on_expire = on_expire

    def expire(self) -> None:
        assert self._on_expire is not None
        self.set_error(self._on_expire())


def after_fork() -> None:
    """In the child: the lock may be held by a thread that does not exist here."""
    global _once
    _once = Lock()


def release(lock: _thread.LockType) -> None:
    """Releases a lock that two may want to release: who completes and who promotes."""
    try:
        lock.release()
    except RuntimeError:
        pass
