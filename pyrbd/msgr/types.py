"""The small types that messages and maps share (`src/msg/msg_types.h`,
`src/osd/osd_types.h`, `src/include/utime.h`)."""

import ipaddress
import struct as _struct
from typing import Annotated, ClassVar

from ..denc import (
    Decoder,
    Encoder,
    Since,
    Struct,
    Vector,
    boolean,
    s8,
    s32,
    s64,
    string,
    u8,
    u32,
    u64,
)
from ..errors import DecodeError

ENTITY_TYPE_MON = 0x01
ENTITY_TYPE_MDS = 0x02
ENTITY_TYPE_OSD = 0x04
ENTITY_TYPE_CLIENT = 0x08
ENTITY_TYPE_MGR = 0x10
ENTITY_TYPE_AUTH = 0x20

ENTITY_TYPE_NAMES = {
    ENTITY_TYPE_MON: "mon",
    ENTITY_TYPE_MDS: "mds",
    ENTITY_TYPE_OSD: "osd",
    ENTITY_TYPE_CLIENT: "client",
    ENTITY_TYPE_MGR: "mgr",
    ENTITY_TYPE_AUTH: "auth",
}

AF_INET = 2  # on the wire these are Linux's numbers, whatever the machine
AF_INET6 = 10

# struct_v 1, compat 1, length, then type and nonce and the length of the sockaddr
_ADDR2 = _struct.Struct("<BBIIII")
_SOCKADDR_IN = _struct.Struct("<H2s4s8x")
_SOCKADDR_IN6 = _struct.Struct("<H2sI16sI")


class Utime(Struct):
    """utime_t: seconds and nanoseconds since the epoch."""

    sec: u32 = 0
    nsec: u32 = 0

    def __float__(self) -> float:
        return self.sec + self.nsec / 1e9

    @classmethod
    def from_float(cls, t: float) -> "Utime":
        sec = int(t)
        return cls(sec & 0xFFFFFFFF, int((t - sec) * 1e9))


class EntityName(Struct):
    """entity_name_t: the kind of a daemon or client and its number."""

    type: u8
    num: s64

    def __str__(self) -> str:
        return f"{ENTITY_TYPE_NAMES.get(self.type, self.type)}.{self.num}"


class EntityAddr(Struct):
    """entity_addr_t: where a daemon listens or from where a client speaks.

    `host` is an IPv4 or IPv6 address in its usual text form, or "" for a blank address.
    """

    type: u32
    nonce: u32
    host: string
    port: u32

    TYPE_NONE: ClassVar[int] = 0
    TYPE_LEGACY: ClassVar[int] = 1
    TYPE_MSGR2: ClassVar[int] = 2
    TYPE_ANY: ClassVar[int] = 3

    def __str__(self) -> str:
        kind = {0: "-", 1: "v1", 2: "v2", 3: "any"}.get(self.type, str(self.type))
        if not self.host:
            return "-" if self.type == 0 else f"{kind}:-/{self.nonce}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{kind}:{host}:{self.port}/{self.nonce}"

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def is_blank(self) -> bool:
        return not self.host or (self.port == 0 and self.host in ("0.0.0.0", "::"))

    @classmethod
    def wire_min_size(cls) -> int:
        return 1

    @classmethod
    def decode(cls, d: Decoder) -> "EntityAddr":
        marker = d.u8()
        if marker == 0:  # the encoding before MSG_ADDR2: always a v1 address
            d.skip(3)
            nonce = d.u32()
            return cls._sockaddr(cls.TYPE_LEGACY, nonce, d.raw(128), big_endian_family=True)
        if marker != 1:
            raise DecodeError(f"entity_addr_t: marker {marker} is neither 0 nor 1")
        _, body = d.envelope(1, "entity_addr_t")
        kind, nonce, length = body.u32(), body.u32(), body.u32()
        return cls._sockaddr(kind, nonce, body.raw(length))

    @classmethod
    def _sockaddr(cls, kind: int, nonce: int, sa: bytes, big_endian_family: bool = False) -> "EntityAddr":
        if len(sa) < 2:
            return cls(kind, nonce, "", 0)
        family = int.from_bytes(sa[:2], "big" if big_endian_family else "little")
        if family == AF_INET and len(sa) >= 8:
            host = str(ipaddress.IPv4Address(sa[4:8]))
        elif family == AF_INET6 and len(sa) >= 24:
            host = str(ipaddress.IPv6Address(sa[8:24]))
        elif family == 0:
            return cls(cls.TYPE_NONE if big_endian_family else kind, nonce, "", 0)
        else:
            raise DecodeError(f"entity_addr_t: address family {family} with {len(sa)} bytes")
        return cls(kind, nonce, host, int.from_bytes(sa[2:4], "big"))

    def encode(self, e: Encoder) -> None:
        e.u8(1)
        if not self.host:
            sa = b""
        elif ":" in self.host:
            sa = _SOCKADDR_IN6.pack(
                AF_INET6, self.port.to_bytes(2, "big"), 0, ipaddress.IPv6Address(self.host).packed, 0
            )
        else:
            sa = _SOCKADDR_IN.pack(AF_INET, self.port.to_bytes(2, "big"), ipaddress.IPv4Address(self.host).packed)
        e.pack(_ADDR2, 1, 1, 12 + len(sa), self.type, self.nonce, len(sa))
        e.raw(sa)


class EntityAddrVec(Struct):
    """entity_addrvec_t: all addresses of one daemon."""

    addrs: Annotated[tuple[EntityAddr, ...], Vector(EntityAddr)] = ()

    def __str__(self) -> str:
        if len(self.addrs) == 1:
            return str(self.addrs[0])
        return "[" + ",".join(map(str, self.addrs)) + "]"

    @classmethod
    def wire_min_size(cls) -> int:
        return 1

    @classmethod
    def decode(cls, d: Decoder) -> "EntityAddrVec":
        marker = d.buf[d.pos] if d.remaining else d.u8()
        if marker in (0, 1):  # a lone entity_addr_t
            addr = EntityAddr.decode(d)
            return cls((addr,) if addr.type else ())
        if marker != 2:
            raise DecodeError(f"entity_addrvec_t: marker {marker}")
        d.skip(1)
        return cls(tuple([EntityAddr.decode(d) for _ in range(d.count(1))]))

    def encode(self, e: Encoder) -> None:
        e.u8(2)
        e.u32(len(self.addrs))
        for a in self.addrs:
            a.encode(e)

    @property
    def msgr2_addrs(self) -> "tuple[EntityAddr, ...]":
        """The msgr2 addresses: none with `ms_bind_msgr2 = false`, several with IPv4 and IPv6."""
        return tuple([a for a in self.addrs if a.type == EntityAddr.TYPE_MSGR2])

    @property
    def msgr2(self) -> "EntityAddr | None":
        """The first msgr2 address, if there is one."""
        return next(iter(self.msgr2_addrs), None)

    def choose(self, like: "EntityAddr | None", failures: int = 0) -> "EntityAddr | None":
        """The msgr2 address to connect to: first those of the family of `like`, our own, and the
        next one after each failure. None if there is none."""
        found = self.msgr2_addrs
        if len(found) > 1 and like is not None:
            found = tuple(sorted(found, key=lambda a: a.is_ipv6 != like.is_ipv6))
        return found[failures % len(found)] if found else None


class Eversion(Struct):
    """eversion_t: a position in a placement group's log."""

    version: u64 = 0
    epoch: u32 = 0


class PgId(Struct):
    """pg_t: a placement group, written `pool.seed` with the seed in hex."""

    pool: s64
    seed: u32

    def __str__(self) -> str:
        return f"{self.pool}.{self.seed:x}"

    @classmethod
    def wire_min_size(cls) -> int:
        return 17

    @classmethod
    def decode(cls, d: Decoder) -> "PgId":
        v = d.u8()
        if v != 1:
            raise DecodeError(f"pg_t: version {v}")
        pool, seed = d.s64(), d.u32()
        d.skip(4)  # "preferred", no longer used
        return cls(pool, seed)

    def encode(self, e: Encoder) -> None:
        e.u8(1)
        e.s64(self.pool)
        e.u32(self.seed)
        e.s32(-1)


class SpgId(Struct, version=1, compat=1):
    """spg_t: a placement group and, for erasure-coded pools, the shard."""

    pgid: PgId
    shard: s8 = -1


class OsdReqId(Struct, version=2, compat=2):
    """osd_reqid_t: what makes a write recognisable when it is sent again."""

    name: EntityName
    tid: u64
    inc: s32


class ObjectLocator(Struct, version=6, compat=3):
    """object_locator_t: pool, locator key, namespace."""

    pool: s64
    preferred: s32 = -1
    key: string = ""
    nspace: Annotated[string, Since(5)] = ""
    hash: Annotated[s64, Since(6)] = -1


class HObject(Struct, version=4, compat=3):
    """hobject_t: an object and its place in the order in which a pool is listed."""

    key: string = ""
    oid: string = ""
    snap: u64 = 0
    hash: u32 = 0
    max: boolean = False
    nspace: string = ""
    pool: s64 = -(1 << 63)


class ListedObject(Struct):
    """An entry of pg_nls_response_t."""

    nspace: string
    oid: string
    locator: string


class PgListResponse(Struct, version=1, compat=1):
    """pg_nls_response_t: names, and where to go on."""

    handle: HObject
    entries: Annotated[tuple[ListedObject, ...], Vector(ListedObject)]


class SnapInterval(Struct):
    """A pair of a start and a length."""

    start: u64
    length: u64


class CloneInfo(Struct, version=1, compat=1):
    """clone_info: a state of an object; `id` is CEPH_NOSNAP for the head."""

    id: u64
    snaps: Annotated[tuple[int, ...], Vector(u64)]
    overlap: Annotated[tuple[SnapInterval, ...], Vector(SnapInterval)]
    size: u64


class ListSnaps(Struct, version=2, compat=1):
    """obj_list_snap_response_t."""

    clones: Annotated[tuple[CloneInfo, ...], Vector(CloneInfo)]
    seq: u64
