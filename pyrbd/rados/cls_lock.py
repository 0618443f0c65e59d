"""The OSDs' lock class: advisory locks on objects (`src/cls/lock/cls_lock_ops.h`,
`src/cls/lock/cls_lock_types.h`). Requests and replies."""

from typing import Annotated

from ..denc import Decoder, MapOf, Struct, string, u8
from ..msgr.types import EntityAddr, EntityName, Utime
from .operations import ObjectOperation

LOCK_NONE = 0
LOCK_EXCLUSIVE = 1
LOCK_SHARED = 2
LOCK_EXCLUSIVE_EPHEMERAL = 3

LOCK_FLAG_MAY_RENEW = 1
LOCK_FLAG_MUST_RENEW = 2


class LockOp(Struct, version=1, compat=1):
    """cls_lock_lock_op: takes (or renews) a lock."""

    name: string
    type: u8
    cookie: string
    tag: string = ""
    description: string = ""
    duration: Utime = Utime(0, 0)
    flags: u8 = 0


class UnlockOp(Struct, version=1, compat=1):
    """cls_lock_unlock_op: our own lock."""

    name: string
    cookie: string


class BreakOp(Struct, version=1, compat=1):
    """cls_lock_break_op: somebody's lock."""

    name: string
    locker: EntityName
    cookie: string


class GetInfoOp(Struct, version=1, compat=1):
    """cls_lock_get_info_op."""

    name: string


class AssertOp(Struct, version=1, compat=1):
    """cls_lock_assert_op: fails the request unless we hold the lock."""

    name: string
    type: u8
    cookie: string
    tag: string = ""


class SetCookieOp(Struct, version=1, compat=1):
    """cls_lock_set_cookie_op: gives our lock another cookie."""

    name: string
    type: u8
    cookie: string
    tag: string
    new_cookie: string


class LockerId(Struct, version=1, compat=1):
    """locker_id_t: who, and under which cookie."""

    locker: EntityName
    cookie: string


class LockerInfo(Struct, version=1, compat=1):
    """locker_info_t; `expiration` is zero for a lock that does not expire."""

    expiration: Utime
    addr: EntityAddr
    description: string


class LockInfo(Struct, version=1, compat=1):
    """cls_lock_get_info_reply."""

    lockers: Annotated[dict[LockerId, LockerInfo], MapOf(LockerId, LockerInfo)]
    type: u8
    tag: string


def lock(
    name: str, kind: int, cookie: str, tag: str = "", description: str = "", duration: float = 0.0, flags: int = 0
) -> ObjectOperation:
    """Takes a lock: EBUSY when others hold it, EEXIST when we do and `flags` do not say renew.

    Args:
        kind: one of ``LOCK_*``.
        duration: seconds until it expires, 0 for never.
    """
    args = LockOp(name, kind, cookie, tag, description, Utime.from_float(duration), flags)
    return ObjectOperation().call_write("lock", "lock", args.to_bytes())


def unlock(name: str, cookie: str) -> ObjectOperation:
    """Gives our lock back; ENOENT when we do not hold it."""
    return ObjectOperation().call_write("lock", "unlock", UnlockOp(name, cookie).to_bytes())


def break_lock(name: str, locker: EntityName, cookie: str) -> ObjectOperation:
    """Takes a lock away from `locker`; ENOENT when it does not hold it."""
    return ObjectOperation().call_write("lock", "break_lock", BreakOp(name, locker, cookie).to_bytes())


def set_cookie(name: str, kind: int, cookie: str, tag: str, new_cookie: str) -> ObjectOperation:
    """Gives our lock another cookie; EBUSY when we do not hold it under the old one."""
    args = SetCookieOp(name, kind, cookie, tag, new_cookie)
    return ObjectOperation().call_write("lock", "set_cookie", args.to_bytes())


def get_info(name: str) -> ObjectOperation:
    """Who holds a lock; :func:`decode_info` for the reply."""
    return ObjectOperation().call("lock", "get_info", GetInfoOp(name).to_bytes())


def decode_info(data: bytes) -> LockInfo:
    return LockInfo.decode(Decoder(data))


def assert_locked(op: ObjectOperation, name: str, kind: int, cookie: str, tag: str = "") -> ObjectOperation:
    """Adds to `op` the condition that we hold the lock; EBUSY when not."""
    return op.call("lock", "assert_locked", AssertOp(name, kind, cookie, tag).to_bytes())
