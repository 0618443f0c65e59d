"""The clients that a map shuts out: in the section of a map that is for OSDs
(`src/osd/OSDMap.cc`, OSDMap::encode "osd-only data", OSDMap::is_blocklisted).

Only the blocklist, and which clients the cluster must serve, is taken from that section; the rest is gone over.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from ..denc import Decoder, MapOf, Vector, s32, u32
from ..msgr.types import EntityAddr, EntityAddrVec

_addrvecs = Vector(EntityAddrVec)
_addrs = Vector(EntityAddr)
_osd_addrvecs = MapOf(s32, EntityAddrVec)
_osd_u32 = MapOf(s32, u32)

OSD_INFO_SIZE = 25
NO_RELEASE = 0xFF
"""In an incremental: the release is not changed."""


class Client(NamedTuple):
    """An address in a blocklist. Port and nonce 0 mean the whole host; in a range the nonce
    is the length of the network's prefix."""

    host: str
    port: int
    nonce: int

    @classmethod
    def of(cls, addr: EntityAddr) -> Client:
        return cls(addr.host, addr.port, addr.nonce)

    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """What a range covers; None where it is no range."""
        try:
            return ipaddress.ip_network(f"{self.host}/{self.nonce}", strict=False)
        except ValueError:
            return None


class Blocklist(NamedTuple):
    """Who may not talk to the OSDs."""

    clients: frozenset[Client] = frozenset()
    ranges: frozenset[Client] = frozenset()

    def __contains__(self, addr: object) -> bool:
        if not isinstance(addr, EntityAddr):
            return False
        if not self.clients and not self.ranges:
            return False
        client = Client.of(addr)
        if client in self.clients or Client(addr.host, 0, 0) in self.clients:
            return True
        if not self.ranges or not addr.host:
            return False
        host = ipaddress.ip_address(addr.host)
        return any(host in network for r in self.ranges if (network := r.network()) is not None)


class OsdSection(NamedTuple):
    """What is taken from the section for OSDs."""

    blocklist: Blocklist = Blocklist()
    require_min_compat_client: int = 0
    """The release (13 is mimic) of the oldest clients that must be able to use the cluster; 0 when nobody said."""


class Changes(NamedTuple):
    """What an incremental does to that section."""

    added: frozenset[Client] = frozenset()
    removed: frozenset[Client] = frozenset()
    added_ranges: frozenset[Client] = frozenset()
    removed_ranges: frozenset[Client] = frozenset()
    require_min_compat_client: int = 0
    """0 when it stays."""

    def apply(self, old: OsdSection) -> OsdSection:
        clients = (old.blocklist.clients | self.added) - self.removed
        ranges = (old.blocklist.ranges | self.added_ranges) - self.removed_ranges
        release = self.require_min_compat_client or old.require_min_compat_client
        return OsdSection(Blocklist(clients, ranges), release)


def _stamped(d: Decoder) -> frozenset[Client]:
    """map<entity_addr_t, utime_t>: until when; the monitors remove them then."""
    clients = []
    for _ in range(d.count(9)):
        clients.append(Client.of(EntityAddr.decode(d)))
        d.skip(8)
    return frozenset(clients)


def _listed(d: Decoder) -> frozenset[Client]:
    return frozenset([Client.of(a) for a in _addrs.decode(d)])


def _skip_xinfo(d: Decoder) -> None:
    d.skip(2)
    d.skip(d.u32())


def decode_full(v: int, d: Decoder) -> OsdSection:
    """From the section of a full map, of version `v`."""
    _addrvecs.decode(d)  # hb_back_addrs
    d.skip(OSD_INFO_SIZE * d.count(OSD_INFO_SIZE))
    clients = _stamped(d)
    if v < 5:
        return OsdSection(Blocklist(clients))
    _addrvecs.decode(d)  # cluster_addrs
    d.skip(4)
    d.blob()  # cluster_snapshot
    d.skip(16 * d.count(16))  # osd_uuid
    for _ in range(d.count(6)):
        _skip_xinfo(d)
    _addrvecs.decode(d)  # hb_front_addrs
    d.skip(3 * 4)  # the ratios
    release = d.u8()
    d.skip(1)  # require_osd_release
    if v < 11:
        return OsdSection(Blocklist(clients), release)
    for _ in range(d.count(12)):  # removed_snaps_queue
        d.skip(8)
        d.skip(16 * d.count(16))
    _osd_u32.decode(d)  # crush_node_flags
    _osd_u32.decode(d)  # device_class_flags
    d.skip(1 + 4 + 4 + 4 + 4)  # stretch mode
    return OsdSection(Blocklist(clients, _stamped(d)), release)


def decode_incremental(v: int, d: Decoder) -> Changes:
    """From the section of an incremental, of version `v`."""
    _osd_addrvecs.decode(d)  # new_hb_back_up
    _osd_u32.decode(d)  # new_up_thru
    d.skip(12 * d.count(12))  # new_last_clean_interval
    _osd_u32.decode(d)  # new_lost
    added, removed = _stamped(d), _listed(d)
    if v < 6:
        return Changes(added, removed)
    _osd_addrvecs.decode(d)  # new_up_cluster
    d.blob()  # cluster_snapshot
    d.skip(20 * d.count(20))  # new_uuid
    for _ in range(d.count(10)):  # new_xinfo
        d.skip(4)
        _skip_xinfo(d)
    _osd_addrvecs.decode(d)  # new_hb_front_up
    d.skip(8 + 3 * 4)  # features, the ratios
    release = d.u8() % NO_RELEASE
    d.skip(1)  # new_require_osd_release
    if v < 11:
        return Changes(added, removed, require_min_compat_client=release)
    _osd_u32.decode(d)  # new_crush_node_flags
    _osd_u32.decode(d)  # new_device_class_flags
    d.skip(1 + 4 + 4 + 4 + 4 + 1)  # stretch mode
    return Changes(added, removed, _stamped(d), _listed(d), release)
