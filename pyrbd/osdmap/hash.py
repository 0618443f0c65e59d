"""The hashes of placement: Robert Jenkins' mix over integers (`src/crush/hash.c`) and over
names (`src/common/ceph_hash.cc`), and the modulo that keeps most of it when a pool grows."""

from __future__ import annotations

from functools import lru_cache

_M = 0xFFFFFFFF
_SEED = 1315423911
_X = 231232
_Y = 1232


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = (a - b - c) & _M ^ (c >> 13)
    b = (b - c - a) & _M ^ ((a << 8) & _M)
    c = (c - a - b) & _M ^ (b >> 13)
    a = (a - b - c) & _M ^ (c >> 12)
    b = (b - c - a) & _M ^ ((a << 16) & _M)
    c = (c - a - b) & _M ^ (b >> 5)
    a = (a - b - c) & _M ^ (c >> 3)
    b = (b - c - a) & _M ^ ((a << 10) & _M)
    c = (c - a - b) & _M ^ (b >> 15)
    return a, b, c


def crush_hash32(a: int) -> int:
    a &= _M
    h = _SEED ^ a
    _b, _x, h = _mix(a, _X, h)
    return _mix(_Y, a, h)[2]


def crush_hash32_2(a: int, b: int) -> int:
    a &= _M
    b &= _M
    h = _SEED ^ a ^ b
    a, b, h = _mix(a, b, h)
    _x, a, h = _mix(_X, a, h)
    return _mix(b, _Y, h)[2]


def crush_hash32_3(a: int, b: int, c: int) -> int:
    a &= _M
    b &= _M
    c &= _M
    h = _SEED ^ a ^ b ^ c
    a, b, h = _mix(a, b, h)
    c, x, h = _mix(c, _X, h)
    y, a, h = _mix(_Y, a, h)
    b, x, h = _mix(b, x, h)
    y, c, h = _mix(y, c, h)
    return h


def crush_hash32_4(a: int, b: int, c: int, d: int) -> int:
    a &= _M
    b &= _M
    c &= _M
    d &= _M
    h = _SEED ^ a ^ b ^ c ^ d
    a, b, h = _mix(a, b, h)
    c, d, h = _mix(c, d, h)
    a, x, h = _mix(a, _X, h)
    y, b, h = _mix(_Y, b, h)
    c, x, h = _mix(c, x, h)
    y, d, h = _mix(y, d, h)
    return h


def ceph_str_hash_rjenkins(name: bytes) -> int:
    """The 32-bit hash of an object's name (CEPH_STR_HASH_RJENKINS)."""
    length = len(name)
    a = b = 0x9E3779B9
    c = 0
    at = 0
    while length - at >= 12:
        a = (a + int.from_bytes(name[at : at + 4], "little")) & _M
        b = (b + int.from_bytes(name[at + 4 : at + 8], "little")) & _M
        c = (c + int.from_bytes(name[at + 8 : at + 12], "little")) & _M
        a, b, c = _mix(a, b, c)
        at += 12
    tail = name[at:]
    a = (a + int.from_bytes(tail[:4], "little")) & _M
    b = (b + int.from_bytes(tail[4:8], "little")) & _M
    # the lowest byte of c is the length
    c = (c + length + (int.from_bytes(tail[8:11], "little") << 8)) & _M
    return _mix(a, b, c)[2]


def ceph_str_hash_linux(name: bytes) -> int:
    """The hash of Linux's dcache (CEPH_STR_HASH_LINUX), of old pools."""
    h = 0
    for c in name:
        h = (h + (c << 4) + (c >> 4)) * 11 & _M
    return h


STR_HASH_LINUX = 1
STR_HASH_RJENKINS = 2


@lru_cache(1 << 14)
def ceph_str_hash(kind: int, name: bytes) -> int:
    """The hash of a name by the function that a pool has; those of the last names are kept."""
    return ceph_str_hash_linux(name) if kind == STR_HASH_LINUX else ceph_str_hash_rjenkins(name)


def ceph_stable_mod(x: int, b: int, bmask: int) -> int:
    """`x` modulo `b` such that growing `b` moves only what must move; `bmask` is the power
    of two at or above `b`, less one."""
    return x & bmask if x & bmask < b else x & (bmask >> 1)


def mask_for(n: int) -> int:
    """The mask for :func:`ceph_stable_mod` (pg_pool_t::calc_pg_masks)."""
    return (1 << (n - 1).bit_length()) - 1 if n > 0 else 0
