"""Which encoding a map has: feature bits (`src/include/ceph_features.h`) and what of them counts here
(`src/osd/OSDMap.h` SIGNIFICANT_FEATURES, `src/osd/OSDMap.cc` get_encoding_features).

The monitors encode a map for the oldest OSDs that the cluster must expect, `require_osd_release`; so the bytes, and
with them the crc, depend on these bits alone.
"""

from __future__ import annotations

_INCARNATION_2 = 1 << 57
_INCARNATION_3 = 1 << 57 | 1 << 28

PGID64 = 1 << 9
PGPOOL3 = 1 << 11
OSDENC = 1 << 13
OSDMAP_ENC = 1 << 39
OSD_POOLRESEND = 1 << 43
NEW_OSDOP_ENCODING = 1 << 56
CRUSH_CHOOSE_ARGS = 1 << 21 | _INCARNATION_2
CRUSH_MSR = 1 << 38 | _INCARNATION_2
CRUSH_TUNABLES5 = 1 << 58
MSG_ADDR2 = 1 << 59
SERVER_LUMINOUS = 1 << 21 | _INCARNATION_2
SERVER_MIMIC = 1 << 28 | _INCARNATION_2
SERVER_NAUTILUS = 1 << 2 | _INCARNATION_3
SERVER_OCTOPUS = 1 << 16 | _INCARNATION_3
SERVER_QUINCY = 1 << 33 | _INCARNATION_3
SERVER_REEF = 1 << 31 | _INCARNATION_3
SERVER_TENTACLE = 1 << 50 | _INCARNATION_2

SIGNIFICANT_FEATURES = (
    PGID64
    | PGPOOL3
    | OSDENC
    | OSDMAP_ENC
    | OSD_POOLRESEND
    | NEW_OSDOP_ENCODING
    | MSG_ADDR2
    | CRUSH_TUNABLES5
    | SERVER_LUMINOUS
    | SERVER_MIMIC
    | SERVER_NAUTILUS
    | SERVER_OCTOPUS
    | SERVER_REEF
    | SERVER_TENTACLE
)

REQUIRED = PGID64 | PGPOOL3 | OSDENC | OSDMAP_ENC | OSD_POOLRESEND | NEW_OSDOP_ENCODING | MSG_ADDR2 | SERVER_LUMINOUS
"""Without these a map has an encoding from before luminous, which is not written."""

COMMON_BITS = _INCARNATION_3
"""Part of several features: whether a field of bits is to be read as that of a recent release."""

MIMIC_BIT = 1 << 28
NAUTILUS_BIT = SERVER_NAUTILUS & ~COMMON_BITS
OCTOPUS_BIT = SERVER_OCTOPUS & ~COMMON_BITS
REEF_BIT = SERVER_REEF & ~COMMON_BITS
TENTACLE_BIT = SERVER_TENTACLE & ~COMMON_BITS

RELEASE_LUMINOUS, RELEASE_NAUTILUS, RELEASE_OCTOPUS, RELEASE_REEF, RELEASE_TENTACLE = 12, 14, 15, 18, 20

_SINCE = (
    (13, MIMIC_BIT),
    (RELEASE_NAUTILUS, NAUTILUS_BIT),
    (RELEASE_OCTOPUS, OCTOPUS_BIT),
    (RELEASE_REEF, REEF_BIT),
    (RELEASE_TENTACLE, TENTACLE_BIT),
)

RELEASES = (
    "unknown",
    "argonaut",
    "bobtail",
    "cuttlefish",
    "dumpling",
    "emperor",
    "firefly",
    "giant",
    "hammer",
    "infernalis",
    "jewel",
    "kraken",
    "luminous",
    "mimic",
    "nautilus",
    "octopus",
    "pacific",
    "quincy",
    "reef",
    "squid",
    "tentacle",
)
"""ceph_release_t (`src/common/ceph_releases.h`): a release's number is its place."""


def have(features: int, mask: int) -> bool:
    """HAVE_FEATURE."""
    return features & mask == mask


def encoding_features(require_osd_release: int) -> int:
    """What the monitors of a cluster with this `require_osd_release` (14 is nautilus) encode maps with."""
    features = SIGNIFICANT_FEATURES
    for release, bit in _SINCE:
        if require_osd_release < release:
            features &= ~bit
    return features


def at_least(release: int, other: int) -> bool:
    """Comparison of ceph_release_t, where what would be negative in a byte is no release."""
    return other <= release < 0x80


def release_name(release: int) -> str:
    """The name that Ceph's tools print (`src/common/ceph_releases.cc`)."""
    return RELEASES[release] if 0 <= release < len(RELEASES) else "unknown"
