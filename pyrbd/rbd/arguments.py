"""What both front doors do with arguments, and with what the layers below raise."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import wraps
from operator import index
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import PyrbdError
from ..image.errors import IncompleteWriteError, InvalidArgument, OSError, OutOfRangeArgument, make_ex
from ..log import Log
from ..rados import exceptions as rados
from ..rados.requests import MAX_U64

if TYPE_CHECKING:
    import datetime

    from typing_extensions import ParamSpec

    from ..msgr.types import Utime

    P = ParamSpec("P")

T = TypeVar("T")
_log = Log("rbd")
OnProgress = Callable[[int, int], "int | None"]
"""Called with (done, total); a negative result cancels the call."""

FADVISE_MASK = 0x7C
"""LIBRADOS_OP_FLAG_FADVISE_*, the same bits as the OSD's."""


def formerly(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For calls whose parameters had other names in older releases: {older: today's}."""

    def decorate(call: Callable[P, T]) -> Callable[P, T]:
        @wraps(call)
        def renaming(*args: P.args, **kwargs: P.kwargs) -> T:
            for older, today in names.items():
                if older in kwargs and today not in kwargs:
                    kwargs[today] = kwargs.pop(older)
            return call(*args, **kwargs)

        return renaming

    return decorate


def text(value: Any, name: str) -> str:
    """A str from str or bytes; InvalidArgument for anything else, as in Ceph's binding."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    raise InvalidArgument(f"{name} must be a string")


def optional_text(value: Any, name: str) -> str | None:
    """As :func:`text`; None stays None."""
    return None if value is None else text(value, name)


def number(value: Any, name: str, low: int = 0, high: int = MAX_U64) -> int:
    """An int. Ceph's binding takes what C makes a number of: a float loses its fraction. TypeError for
    what is none; OutOfRangeArgument, which is an OverflowError as well, for what is not from `low` to `high`."""
    if type(value) is not int:
        if isinstance(value, float):
            value = int(value)
        else:
            try:
                value = index(value)
            except TypeError:
                raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if low <= value <= high:
        return value  # type: ignore[no-any-return]
    raise OutOfRangeArgument(f"{name} {value} is not from {low} to {high}", errno.EINVAL)


def optional_number(value: Any, name: str, low: int = 0, high: int = MAX_U64) -> int | None:
    """As :func:`number`; None stays None."""
    return None if value is None else number(value, name, low, high)


def int32(value: Any, name: str) -> int:
    """A number that is an int in C."""
    return number(value, name, -1 << 31, (1 << 31) - 1)


def uint32(value: Any, name: str) -> int:
    """A number that is an unsigned int in C."""
    return number(value, name, 0, (1 << 32) - 1)


def fraction(value: Any, name: str) -> float:
    """A float from any number; TypeError for anything else."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    return float(value)


def fadvise(flags: Any) -> int:
    """The flags of one operation that OSDs know."""
    return int32(flags, "fadvise_flags") & FADVISE_MASK


def progress(on_progress: Any) -> OnProgress | None:
    """What the layers below call. As in Ceph's binding an exception of the caller's function is reported and
    ignored; only a negative result cancels."""
    if not on_progress:
        return None

    def report(done: int, total: int) -> int:
        try:
            answer = on_progress(done, total)
            return 0 if answer is None else index(answer)
        except Exception:
            _log.exception("on_progress: an exception that is ignored")
            return 0

    return report


def translated(e: BaseException, what: str) -> BaseException:
    """What the layers below raise, as an exception of this module that says what was being done."""
    if isinstance(e, OSError):
        if not e.message.startswith("error "):
            e.message = f"{what}: {e.message}"
        return e
    if isinstance(e, rados.Error) and e.errno is not None:
        return make_ex(-e.errno, f"{what}: {e.message}")
    if isinstance(e, PyrbdError):
        return make_ex(-e.errno, f"{what}: {e}")
    return e


class doing:
    """``with doing("error removing image x"):``: errors inside become exceptions of this module, with
    that in front; not those in `but`, which users' functions have raised."""

    __slots__ = ("_but", "_what")

    def __init__(self, what: str, but: Sequence[BaseException] = ()) -> None:
        self._what = what
        self._but = but

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> Literal[False]:
        if isinstance(error, OSError | rados.Error | PyrbdError) and error not in self._but:
            new = translated(error, self._what)
            if new is not error:
                raise new from error
        return False


def incomplete(written: int, length: int) -> IncompleteWriteError:
    """A write that reached over the end of the image."""
    return IncompleteWriteError(f"Wrote only {written} out of {length} bytes")


def when(t: Utime) -> datetime.datetime:
    """A time of a header, in UTC."""
    return when_seconds(t.sec)


def when_seconds(seconds: int) -> datetime.datetime:
    """Seconds since 1970, in UTC."""
    import datetime

    return datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
