"""`Completion`: what the aio_* methods of an image give."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..image.errors import OSError
from ..log import Log
from ..rados.aiocompletion import held_lock, pass_gate
from .arguments import translated

if TYPE_CHECKING:
    from ..rados.client import Client
    from ..rados.completion import Completion as Pending

_log = Log("rbd")


class Completion:
    """An operation of an image that goes on by itself.

    Its callback is called by a thread of the client that does only this, in the order in which
    operations end; it may use the image and the cluster.
    """

    def __init__(
        self,
        client: Client,
        oncomplete: Callable[..., Any] | None,
        deliver: Callable[[Completion, Any], tuple[Any, ...]] | None = None,
        value: Callable[[Any], int] | None = None,
    ) -> None:
        self.oncomplete = oncomplete
        self._client = client
        self._deliver = deliver
        self._value = value
        self._return_value = 0
        self._pending: Pending[Any] | None = None
        self._outcome: Callable[[Pending[Any]], Any] | None = None
        self._raised: BaseException | None = None
        self._complete = False
        self._called = held_lock()
        client.driver.expect_calls()

    def __repr__(self) -> str:
        return f"<Completion {'complete' if self._complete else 'in flight'}>"

    def follow(self, pending: Pending[Any], outcome: Callable[[Pending[Any]], Any] | None = None) -> None:
        """Completes when `pending` does, with what `outcome` makes of it."""
        self._pending = pending
        self._outcome = outcome
        box, driver, called = [self], self._client.driver, self._called

        def ended(pending: Pending[Any]) -> None:
            # in whichever thread saw it end. Only the finisher's refers to the completion, and not after it
            # has let the waiters go, so that they hold the last reference, as with librbd
            driver.call_back(_finish, (box, pending), called)

        pending.add_done_callback(ended)

    def _ended(self, pending: Pending[Any]) -> None:
        result, error = None, pending.error
        if self._outcome is not None:
            try:
                result, error = self._outcome(pending), None
            except Exception as e:
                error = e
        elif error is None:
            result = pending.result()
        if error is None:
            self._return_value = self._value(result) if self._value is not None else 0
        else:
            known = translated(error, "error in an asynchronous operation")
            if not isinstance(known, OSError):
                _log.warning("an asynchronous operation: %r", error)
            self._return_value = -(getattr(known, "errno", None) or errno.EIO)
            error.__traceback__ = None  # its frames refer to us, and to what they belong to
        self._pending = None
        callback, self.oncomplete = self.oncomplete, None
        try:
            arguments = self._deliver(self, result) if self._deliver is not None else (self,)
            if callback is not None:
                callback(*arguments)
        except BaseException as e:
            self._raised = e
        self._complete = True

    def is_complete(self) -> bool:
        """Whether the operation has ended and its callback has returned."""
        return self._complete

    def wait_for_complete(self) -> None:
        """Returns when the operation has ended and its callback has returned."""
        pending = self._pending
        if pending is not None:
            try:
                self._client.attend(pending)
            except Exception:
                if not pending.done:
                    raise
        pass_gate(self._called)

    def wait_for_complete_and_cb(self) -> None:
        """As :meth:`wait_for_complete`; raises what the callback has raised."""
        self.wait_for_complete()
        if self._raised is not None:
            raise self._raised

    def get_return_value(self) -> int:
        """0 or a number of bytes, a negative errno when it failed; 0 while it is in flight."""
        return self._return_value


def _finish(arguments: tuple[list[Completion], Pending[Any]]) -> None:
    box, pending = arguments
    box.pop()._ended(pending)
