"""Errors below the drop-in modules.

The `rados` and `rbd` modules have the exception classes of Ceph's bindings
(:mod:`pyrbd.rados.exceptions`, :mod:`pyrbd.rbd`). The layers below raise only what is
defined here; the object layer translates it in one place.
"""

from __future__ import annotations

import errno as _errno
import os


class PyrbdError(Exception):
    """Base of what the lower layers raise: an errno, what happened, and what to do about it."""

    errno: int = _errno.EIO

    def __init__(self, message: str, *, errno: int | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        if errno is not None:
            self.errno = errno
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class DecodeError(PyrbdError):
    """Bytes that are not what the encoding rules allow: truncated, too long, too new."""

    errno = _errno.EBADMSG


class ProtocolError(PyrbdError):
    """The peer broke the messenger protocol; the connection cannot be used any more."""

    errno = _errno.EPROTO


class IncompatibleError(ProtocolError):
    """The peer is none that can be talked to: another program, another messenger, features that
    one of us lacks. Another connection will not do better."""


class ConfigError(PyrbdError):
    """A ceph.conf, keyring or option that cannot be used as written."""

    errno = _errno.EINVAL


class AuthError(PyrbdError):
    """The cluster did not accept who we say we are, or did not prove who it is."""

    errno = _errno.EACCES


def errno_name(code: int) -> str:
    """``ENOENT (No such file or directory)`` for 2; the number for codes without a name."""
    code = abs(code)
    name = _errno.errorcode.get(code)
    return f"{name} ({os.strerror(code)})" if name else f"errno {code}"
