"""Feature bits (`src/include/ceph_features.h`). They are reused over time, so a feature is
the bit together with the bits of its incarnation, and is tested as a mask."""

from __future__ import annotations

_INCARNATION_2 = 1 << 57  # SERVER_JEWEL
_INCARNATION_3 = (1 << 57) | (1 << 28)  # SERVER_MIMIC

FEATURE_NAMES: dict[str, int] = {
    "UID": 1 << 0,
    "NOSRCADDR": 1 << 1,
    "FLOCK": 1 << 3,
    "SUBSCRIBE2": 1 << 4,
    "MONNAMES": 1 << 5,
    "RECONNECT_SEQ": 1 << 6,
    "DIRLAYOUTHASH": 1 << 7,
    "OBJECTLOCATOR": 1 << 8,
    "PGID64": 1 << 9,
    "INCSUBOSDMAP": 1 << 10,
    "PGPOOL3": 1 << 11,
    "OSDREPLYMUX": 1 << 12,
    "OSDENC": 1 << 13,
    "MONENC": 1 << 15,
    "CRUSH_TUNABLES": 1 << 18,
    "MSG_AUTH": 1 << 23,
    "CRUSH_TUNABLES2": 1 << 25,
    "CREATEPOOLID": 1 << 26,
    "REPLY_CREATE_INODE": 1 << 27,
    "MDSENC": 1 << 29,
    "OSDHASHPSPOOL": 1 << 30,
    "OSD_CACHEPOOL": 1 << 35,
    "CRUSH_V2": 1 << 36,
    "EXPORT_PEER": 1 << 37,
    "OSDMAP_ENC": 1 << 39,
    "MDS_INLINE_DATA": 1 << 40,
    "CRUSH_TUNABLES3": 1 << 41,
    "MSGR_KEEPALIVE2": 1 << 42,
    "OSD_POOLRESEND": 1 << 43,
    "OSD_FADVISE_FLAGS": 1 << 46,
    "MDS_QUOTA": 1 << 47,
    "CRUSH_V4": 1 << 48,
    "NEW_OSDOP_ENCODING": 1 << 56,
    "SERVER_JEWEL": 1 << 57,
    "CRUSH_TUNABLES5": 1 << 58,
    "MSG_ADDR2": 1 << 59,
    "OSD_RECOVERY_DELETES": 1 << 60,
    "CEPHX_V2": 1 << 61,
    "SERVER_KRAKEN": 1 << 14 | _INCARNATION_2,
    "OSD_PGLOG_HARDLIMIT": 1 << 19 | _INCARNATION_2,
    "SERVER_LUMINOUS": 1 << 21 | _INCARNATION_2,
    "OSD_FIXED_COLLECTION_LIST": 1 << 22 | _INCARNATION_2,
    "RECOVERY_RESERVATION_2": 1 << 24 | _INCARNATION_2,
    "SERVER_MIMIC": 1 << 28 | _INCARNATION_2,
    "CRUSH_MSR": 1 << 38 | _INCARNATION_2,
    "NVMEOFHA": 1 << 44 | _INCARNATION_2,
    "NVMEOFHAMAP": 1 << 45 | _INCARNATION_2,
    "SERVER_SQUID": 1 << 49 | _INCARNATION_2,
    "SERVER_TENTACLE": 1 << 50 | _INCARNATION_2,
    "SERVER_NAUTILUS": 1 << 2 | _INCARNATION_3,
    "SERVER_OCTOPUS": 1 << 16 | _INCARNATION_3,
    "SERVER_PACIFIC": 1 << 20 | _INCARNATION_3,
    "SERVER_REEF": 1 << 31 | _INCARNATION_3,
    "STRETCH_MODE": 1 << 32 | _INCARNATION_3,
    "SERVER_QUINCY": 1 << 33 | _INCARNATION_3,
    "RANGE_BLOCKLIST": 1 << 34 | _INCARNATION_3,
}

_NOT_SPOKEN = ("SERVER_SQUID", "SERVER_TENTACLE", "NVMEOFHA", "NVMEOFHAMAP")
"""Peers choose encodings by our bits. Without SERVER_SQUID, MOSDOp stays at version 8."""


def _supported() -> int:
    bits = 0
    for name, mask in FEATURE_NAMES.items():
        if name not in _NOT_SPOKEN:
            bits |= mask
    return bits


FEATURES_SUPPORTED = _supported()
SERVER_QUINCY_BIT = 1 << 33
FEATURES_REQUIRED = FEATURE_NAMES["MSG_ADDR2"] | FEATURE_NAMES["SERVER_NAUTILUS"]


def feature_names(bits: int) -> list[str]:
    """The names of the features whose own bits are in `bits`, as those that somebody lacks, whose
    incarnation he may have; bits that have no name are given as ``bit N``."""
    found, rest = [], bits
    for name, mask in FEATURE_NAMES.items():
        own = mask & ~_INCARNATION_3 or mask & ~_INCARNATION_2 or mask
        if bits & own:
            found.append(name)
            rest &= ~own
    return found + [f"bit {i}" for i in range(64) if rest >> i & 1]
