"""Addresses in maps, as the monitors write them (`src/msg/msg_types.h` entity_addr_t::encode).

There can be tens of thousands of them, so their bytes are gone over by regular expressions and decoded one by one
when they are asked for.
"""

from __future__ import annotations

import re

from ..denc import Buffer, Decoder, Encoder
from ..msgr.types import EntityAddr, EntityAddrVec
from .features import SERVER_NAUTILUS, have

_ADDR = (
    rb"\x01\x01\x01"
    rb"(?:\x1c\0\0\0.{8}\x10\0\0\0\x02\0.{14}"  # IPv4
    rb"|\x28\0\0\0.{8}\x1c\0\0\0[\x0a\0]\0.{26})"  # IPv6, or blank
)
_ADDRVEC = (
    rb"\x02(?:\0\0\0\0"
    + b"".join([b"|" + bytes([n]) + rb"\0\0\0(?:" + _ADDR + b"){" + str(n).encode() + b"}" for n in (1, 2, 3, 4)])
    + b")"
)
_BLANK = b"\0" * 28

STAMPED = re.compile(b"(" + _ADDR + b")(.{8})", re.DOTALL)
ADDRVEC = re.compile(_ADDRVEC, re.DOTALL)

NO_ADDRS = EntityAddrVec()


def addr_bytes(addr: EntityAddr, features: int = SERVER_NAUTILUS) -> bytes:
    """The encoding of an address with MSG_ADDR2."""
    if addr.type == EntityAddr.TYPE_ANY and not have(features, SERVER_NAUTILUS):
        addr = addr.replace(type=EntityAddr.TYPE_LEGACY)
    e = Encoder()
    addr.encode(e)
    if not addr.host:  # ours says that there is no sockaddr; Ceph's is a blank one
        del e.buf[:]
        e.raw(b"\x01\x01\x01\x28\0\0\0")
        e.u32(addr.type)
        e.u32(addr.nonce)
        e.blob(_BLANK)
    return bytes(e.buf)


def addr_from(data: Buffer) -> EntityAddr:
    return EntityAddr.decode(Decoder(data))


def addr_order(data: bytes) -> bytes:
    """What std::map sorts encoded addresses by: the struct's memory (entity_addr_t::operator<)."""
    return data[7:15] + data[19:].ljust(28, b"\0")


def addrvec_bytes(vec: EntityAddrVec, features: int = SERVER_NAUTILUS) -> bytes:
    """The encoding of a daemon's addresses; before nautilus that is one, the legacy address."""
    if not have(features, SERVER_NAUTILUS):
        legacy = next((a for a in vec.addrs if a.type == EntityAddr.TYPE_LEGACY), EntityAddr(0, 0, "", 0))
        return addr_bytes(legacy, features)
    return b"".join([b"\x02", len(vec.addrs).to_bytes(4, "little"), *[addr_bytes(a) for a in vec.addrs]])


def decode_addrvec(d: Decoder) -> EntityAddrVec:
    """entity_addrvec_t; what was encoded as a lone address is one address, a blank one too."""
    if d.remaining and d.buf[d.pos] in (0, 1):
        return EntityAddrVec((EntityAddr.decode(d),))
    return EntityAddrVec.decode(d)


def decode_stamped(d: Decoder) -> dict[bytes, bytes]:
    """map<entity_addr_t, utime_t>, by encoded address: until when."""
    n = d.count(9)
    found: dict[bytes, bytes] = {}
    match = STAMPED.match
    for _ in range(n):
        m = match(d.buf, d.pos, d.end)
        if m is not None:
            key, stamp = m.groups()
            d.pos = m.end()
        else:
            key = addr_bytes(EntityAddr.decode(d))
            stamp = d.raw(8)
        found[key] = stamp
    return found


def encode_stamped(e: Encoder, entries: dict[bytes, bytes], features: int) -> None:
    e.u32(len(entries))
    if not have(features, SERVER_NAUTILUS):
        entries = {addr_bytes(addr_from(key), features): stamp for key, stamp in entries.items()}
    for key in sorted(entries, key=addr_order):
        e.raw(key)
        e.raw(entries[key])
