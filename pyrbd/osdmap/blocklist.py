"""The clients that a map shuts out (`src/osd/OSDMap.cc` OSDMap::is_blocklisted)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from ..denc import Decoder
from ..msgr.types import EntityAddr, Utime
from .addrs import addr_bytes, addr_from, addr_order


class Blocklist:
    """Who may not talk to the OSDs: addresses, of which port and nonce 0 mean the whole host, and networks, where the
    nonce is the length of the prefix. Kept as Ceph encodes them, each with the time until when."""

    __slots__ = ("_networks", "clients", "kind", "ranges")

    def __init__(
        self, clients: dict[bytes, bytes], ranges: dict[bytes, bytes], kind: int = EntityAddr.TYPE_ANY
    ) -> None:
        self.clients = clients
        self.ranges = ranges
        self.kind = kind
        """The type that all entries have: "any" since nautilus."""
        self._networks: list[tuple[int, int, int]] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blocklist):
            return NotImplemented
        return (self.clients, self.ranges, self.kind) == (other.clients, other.ranges, other.kind)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self.clients or self.ranges)

    def __contains__(self, addr: object) -> bool:
        if not isinstance(addr, EntityAddr) or not (self.clients or self.ranges):
            return False
        whole = addr.replace(type=self.kind, port=0, nonce=0)
        if self.clients and (
            addr_bytes(addr.replace(type=self.kind)) in self.clients
            or (addr.host and addr_bytes(whole) in self.clients)
        ):
            return True
        if not self.ranges or not addr.host:
            return False
        ip = ipaddress.ip_address(addr.host)
        return any(ip.version == version and int(ip) & mask == net for version, net, mask in self._parsed_ranges())

    def _parsed_ranges(self) -> list[tuple[int, int, int]]:
        """(IP version, network, mask) of each range (OSDMap::range_bits)."""
        if self._networks is None:
            found: list[tuple[int, int, int]] = []
            for a in map(addr_from, self.ranges):
                if a.host:
                    ip = ipaddress.ip_address(a.host)
                    bits = ip.max_prefixlen
                    if a.nonce <= bits:
                        mask = (1 << bits) - (1 << bits - a.nonce)
                        found.append((ip.version, int(ip) & mask, mask))
            self._networks = found
        return self._networks


def entries(stamped: Mapping[bytes, bytes]) -> list[tuple[EntityAddr, Utime]]:
    """Addresses and until when, in the order that the encoding has."""
    return [(addr_from(key), Utime.decode(Decoder(stamped[key]))) for key in sorted(stamped, key=addr_order)]
