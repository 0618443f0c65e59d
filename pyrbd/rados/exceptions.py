"""The exception classes of the `rados` module, with its errno map."""

from __future__ import annotations

import errno as _errno

MAX_ERRNO = 4095


class Error(Exception):
    """Base of all errors of this module.

    Args:
        message: what went wrong; `prefix` of the class goes before it.
        errno: positive, or None.
    """

    prefix = ""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(f"{self.prefix} ({message})" if self.prefix else message)
        self.message = message
        self.errno = errno

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.errno is None else f"[errno {self.errno}] {text}"

    def __reduce__(self) -> tuple[type[Error], tuple[object, ...]]:
        return type(self), (self.message, self.errno)


class OSError(Error):
    """An errno without a class of its own, and the base of most that have one."""


class InvalidArgumentError(Error):
    prefix = "RADOS invalid argument"


class OutOfRangeArgument(InvalidArgumentError, OverflowError):
    """A negative or too large number: an OverflowError too, which is what Ceph's binding raises."""


class InterruptedOrTimeoutError(OSError):
    prefix = "RADOS interrupted or timeout"


class PermissionError(OSError):
    prefix = "RADOS permission error"


class PermissionDeniedError(OSError):
    prefix = "RADOS permission denied"


class ObjectNotFound(OSError):
    prefix = "RADOS object not found"


class NoData(OSError):
    prefix = "RADOS no data"


class ObjectExists(OSError):
    prefix = "RADOS object exists"


class ObjectBusy(OSError):
    prefix = "RADOS object busy"


class IOError(OSError):
    prefix = "RADOS I/O error"


class NoSpace(OSError):
    prefix = "RADOS no space"


class NotConnected(OSError):
    prefix = "RADOS not connected"


class ConnectionShutdown(OSError):
    prefix = "RADOS connection was shutdown"


class TimedOut(OSError):
    prefix = "RADOS timed out"


class InProgress(Error):
    prefix = "RADOS in progress error"


class IsConnected(Error):
    prefix = "RADOS is connected error"


class ExtendMismatch(Error):
    """A comparison that failed; `offset` is the first byte that differs."""

    prefix = "object content does not match"

    def __init__(self, message: str, errno: int, offset: int) -> None:
        super().__init__(message, errno)
        self.offset = offset

    def __reduce__(self) -> tuple[type[Error], tuple[object, ...]]:
        return type(self), (self.message, self.errno, self.offset)


class RadosStateError(Error):
    """A call that the state of the cluster handle does not allow."""

    prefix = "RADOS rados state"


class IoctxStateError(Error):
    """A call on a closed ioctx."""

    prefix = "RADOS Ioctx state error"


class ObjectStateError(Error):
    """A call on an object that has been removed."""

    prefix = "RADOS object state error"


class LogicError(Error):
    """The library did something that it should not."""

    prefix = "RADOS logic error"


_BY_ERRNO: dict[int, type[Error]] = {
    _errno.EPERM: PermissionError,
    _errno.ENOENT: ObjectNotFound,
    _errno.EINTR: InterruptedOrTimeoutError,
    _errno.EIO: IOError,
    _errno.EACCES: PermissionDeniedError,
    _errno.EBUSY: ObjectBusy,
    _errno.EEXIST: ObjectExists,
    _errno.EINVAL: InvalidArgumentError,
    _errno.ENOSPC: NoSpace,
    _errno.EINPROGRESS: InProgress,
    _errno.EISCONN: IsConnected,
    _errno.ENODATA: NoData,
    _errno.ENOTCONN: NotConnected,
    _errno.ESHUTDOWN: ConnectionShutdown,
    _errno.ETIMEDOUT: TimedOut,
}


def make_ex(ret: int, message: str) -> Error:
    """The exception for a return code of Ceph, negative or positive."""
    code = abs(ret)
    cls = _BY_ERRNO.get(code)
    if cls is not None:
        return cls(message, code)
    if code > MAX_ERRNO:
        return ExtendMismatch(message, code, code - MAX_ERRNO)
    return OSError(message, code)
