"""The exception classes of the `rbd` module, with its errno map."""

from __future__ import annotations

import errno as _errno


class Error(Exception):
    """Base of all errors of this module."""


class OSError(Error):
    """An error with an errno (positive).

    `str` is ``[errno N] WHAT (message)`` as in Ceph's binding.
    """

    prefix = "RBD error"

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.errno = errno

    def __str__(self) -> str:
        text = f"{self.prefix} ({self.message})" if self.prefix else self.message
        return text if self.errno is None else f"[errno {self.errno}] {text}"

    def __reduce__(self) -> tuple[type[OSError], tuple[object, ...]]:
        return type(self), (self.message, self.errno)


class InterruptedOrTimeoutError(OSError):
    prefix = "RBD interrupted or timeout"


class PermissionError(OSError):
    prefix = "RBD permission error"


class ImageNotFound(OSError):
    prefix = "RBD image not found"


class ObjectNotFound(OSError):
    prefix = "RBD object not found"


class ImageExists(OSError):
    prefix = "RBD image already exists"


class ObjectExists(OSError):
    prefix = "RBD object already exists"


class IOError(OSError):
    prefix = "RBD I/O error"


class NoSpace(OSError):
    prefix = "RBD insufficient space available"


class IncompleteWriteError(OSError):
    prefix = "RBD incomplete write"


class InvalidArgument(OSError):
    prefix = "RBD invalid argument"


class OutOfRangeArgument(InvalidArgument, OverflowError):
    """A negative or too large number: InvalidArgument, and OverflowError for programs that
    expect what Ceph's binding raises."""


class LogicError(OSError):
    prefix = "RBD logic error"


class ReadOnlyImage(OSError):
    prefix = "RBD read-only image"


class ImageBusy(OSError):
    prefix = "RBD image is busy"


class ImageHasSnapshots(OSError):
    prefix = "RBD image has snapshots"


class ImageMemberOfGroup(OSError):
    prefix = "RBD image is member of group"


class FunctionNotSupported(OSError):
    prefix = "RBD function not supported"


class OperationNotSupported(OSError):
    prefix = "RBD operation not supported"


class ArgumentOutOfRange(OSError):
    prefix = "RBD arguments out of range"


ArgumentOutOfRangeException = ArgumentOutOfRange


class ConnectionShutdown(OSError):
    prefix = "RBD connection was shutdown"


class Timeout(OSError):
    prefix = "RBD operation timeout"


class DiskQuotaExceeded(OSError):
    prefix = "RBD disk quota exceeded"


class OperationCanceled(OSError):
    prefix = "RBD operation canceled"


_BY_ERRNO: dict[int, type[OSError]] = {
    _errno.EPERM: PermissionError,
    _errno.ENOENT: ImageNotFound,
    _errno.EIO: IOError,
    _errno.EBUSY: ImageBusy,
    _errno.EEXIST: ImageExists,
    _errno.EINVAL: InvalidArgument,
    _errno.ENOSPC: NoSpace,
    _errno.EROFS: ReadOnlyImage,
    _errno.EMLINK: ImageMemberOfGroup,
    _errno.EDOM: ArgumentOutOfRange,
    _errno.ENOSYS: FunctionNotSupported,
    _errno.ENOTEMPTY: ImageHasSnapshots,
    _errno.EOPNOTSUPP: OperationNotSupported,
    _errno.ESHUTDOWN: ConnectionShutdown,
    _errno.ETIMEDOUT: Timeout,
    _errno.EDQUOT: DiskQuotaExceeded,
    _errno.ECANCELED: OperationCanceled,
}


def make_ex(ret: int, message: str) -> OSError:
    """The exception for a return code of librbd, negative or positive."""
    code = abs(ret)
    return _BY_ERRNO.get(code, OSError)(message, code)
