"""MOSDOp and MOSDOpReply (`src/messages/MOSDOp.h`, `src/messages/MOSDOpReply.h`), version 8.

These two messages carry all data, so they are packed by a few precompiled structs instead
of field by field. :class:`MOSDOp` and :class:`MOSDOpReply` are the plain declarations of
the same bytes; the tests hold both against each other and against recorded traffic.
"""

import struct as _struct
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple

from ..denc import Buffer, Decoder, Encoder, Struct, Vector, blob, s32, string, u32, u64
from ..errors import DecodeError
from .features import FEATURES_SUPPORTED
from .types import ENTITY_TYPE_CLIENT, Eversion, ObjectLocator, OsdReqId, PgId, SpgId, Utime

if TYPE_CHECKING:
    from typing_extensions import Self

MSG_OSD_OP = 42
MSG_OSD_OPREPLY = 43
OP_VERSION = 8
OP_COMPAT = 3

NOSNAP = 0xFFFFFFFFFFFFFFFE
"""CEPH_NOSNAP: the head of an object."""
SNAPDIR = 0xFFFFFFFFFFFFFFFF

MODE_MASK = 0xF000
MODE_RD = 0x1000
MODE_WR = 0x2000
_TYPE_DATA, _TYPE_ATTR, _TYPE_EXEC, _TYPE_PG = 0x200, 0x300, 0x400, 0x500


class Op(IntEnum):
    """CEPH_OSD_OP_*: mode, kind of target and number."""

    READ = 0x1201
    STAT = 0x1202
    MAPEXT = 0x1203
    SPARSE_READ = 0x1205
    NOTIFY = 0x1206
    NOTIFY_ACK = 0x1207
    ASSERT_VER = 0x1208
    LIST_WATCHERS = 0x1209
    LIST_SNAPS = 0x120A
    OMAPGETKEYS = 0x1211
    OMAPGETVALS = 0x1212
    OMAPGETHEADER = 0x1213
    OMAPGETVALSBYKEYS = 0x1214
    OMAP_CMP = 0x1219
    CHECKSUM = 0x121F
    CMPEXT = 0x1220
    WRITE = 0x2201
    WRITEFULL = 0x2202
    TRUNCATE = 0x2203
    ZERO = 0x2204
    DELETE = 0x2205
    APPEND = 0x2206
    CREATE = 0x220D
    ROLLBACK = 0x220E
    WATCH = 0x220F
    OMAPSETVALS = 0x2215
    OMAPSETHEADER = 0x2216
    OMAPCLEAR = 0x2217
    OMAPRMKEYS = 0x2218
    SETALLOCHINT = 0x2223
    WRITESAME = 0x2226
    OMAPRMKEYRANGE = 0x222C
    TMAPUP = 0x320A
    GETXATTR = 0x1301
    GETXATTRS = 0x1302
    CMPXATTR = 0x1303
    SETXATTR = 0x2301
    RMXATTR = 0x2304
    CALL = 0x1401
    PGNLS = 0x1505


class OpFlag(IntEnum):
    """CEPH_OSD_OP_FLAG_*: of one operation."""

    EXCL = 0x1
    FAILOK = 0x2
    FADVISE_RANDOM = 0x4
    FADVISE_SEQUENTIAL = 0x8
    FADVISE_WILLNEED = 0x10
    FADVISE_DONTNEED = 0x20
    FADVISE_NOCACHE = 0x40


# CEPH_OSD_FLAG_*: of a request
FLAG_ACK = 0x1
FLAG_ONDISK = 0x4
FLAG_RETRY = 0x8
FLAG_READ = 0x10
FLAG_WRITE = 0x20
FLAG_ORDERSNAP = 0x40
FLAG_BALANCE_READS = 0x100
FLAG_PGOP = 0x400
FLAG_EXEC = 0x800
FLAG_LOCALIZE_READS = 0x2000
FLAG_RWORDERED = 0x4000
FLAG_IGNORE_CACHE = 0x8000
FLAG_SKIPRWLOCKS = 0x10000
FLAG_IGNORE_OVERLAY = 0x20000
FLAG_REDIRECTED = 0x200000
FLAG_KNOWN_REDIR = 0x400000
FLAG_FULL_TRY = 0x800000
FLAG_FULL_FORCE = 0x1000000
FLAG_IGNORE_REDIRECT = 0x2000000
FLAG_RETURNVEC = 0x4000000
FLAG_SUPPORTSPOOLEIO = 0x8000000

OP_EXTENT = _struct.Struct("<HIQQQII")
"""ceph_osd_op with the `extent` member of its union: op, flags, offset, length,
truncate_size, truncate_seq, payload_len."""

OP_SIZE = OP_EXTENT.size  # 38

# spg_t | raw hash | epoch | flags | osd_reqid_t | blkin trace | client_inc | mtime
_HEAD = _struct.Struct("<BBI BqIi b  I I I  BBI BqQi  QQQ  I  II".replace(" ", ""))
_HEAD_SIZE = _HEAD.size
_SNAPS = _struct.Struct("<QQI")
_TAIL = _struct.Struct("<iQ")
_U16 = _struct.Struct("<H")


def encode_object(pool: int, oid: bytes, nspace: bytes = b"", key: bytes = b"") -> bytes:
    """object_locator_t and object name: the part of a request that names its object."""
    e = Encoder()
    mark = e.start(6, 3)
    e.s64(pool)
    e.s32(-1)
    e.blob(key)
    e.blob(nspace)
    e.s64(-1)
    e.finish(mark)
    e.blob(oid)
    return bytes(e.buf)


def encode_request(
    pool: int,
    seed: int,
    shard: int,
    raw_hash: int,
    epoch: int,
    flags: int,
    mtime: tuple[int, int],
    named: bytes,
    ops: bytes,
    n_ops: int,
    snapid: int,
    snap_seq: int,
    snaps: Sequence[int],
    attempt: int,
    reqid: tuple[int, int] = (0, 0),
) -> bytes:
    """The front segment of an MOSDOp.

    Args:
        seed, shard: the placement group of the object in `epoch`; shard -1 if replicated.
        raw_hash: the full hash of the object's name.
        mtime: (seconds, nanoseconds) for writes.
        named: from :func:`encode_object`.
        ops: `n_ops` encoded operations of 38 bytes.
        snapid: the snapshot to read; `snap_seq` and `snaps` are the write's snap context.
        attempt: 0 for the first time that the request is sent.
        reqid: (global id, tid) by which the OSD knows the request when it comes as another client's; else
            it takes the connection's name and the message's tid.
    """
    gid, tid = reqid
    head = encode_head(pool, seed, shard, raw_hash, epoch, flags, mtime, gid, tid)
    if snaps:
        tail = _SNAPS.pack(snapid, snap_seq, len(snaps)) + _struct.pack(f"<{len(snaps)}Q", *snaps)
    else:
        tail = _SNAPS.pack(snapid, snap_seq, 0)
    return b"".join((head, named, _U16.pack(n_ops), ops, tail, _TAIL.pack(attempt, FEATURES_SUPPORTED)))


def encode_head(
    pool: int,
    seed: int,
    shard: int,
    raw_hash: int,
    epoch: int,
    flags: int,
    mtime: tuple[int, int] = (0, 0),
    gid: int = 0,
    tid: int = 0,
) -> bytes:
    """The begin of an MOSDOp: up to the object's name."""
    return _HEAD.pack(
        *(1, 1, 18, 1, pool, seed, -1, shard),
        *(raw_hash, epoch, flags),
        *(2, 2, 21, ENTITY_TYPE_CLIENT if gid else 0, gid, tid, 0),
        *(0, 0, 0),
        *(0, *mtime),
    )


_tails: dict[int, bytes] = {}


def first_read_tail(snapid: int) -> bytes:
    """The end of an MOSDOp that reads, when it is sent for the first time: after the operations."""
    found = _tails.get(snapid)
    if found is None:
        if len(_tails) >= 1024:
            _tails.clear()
        found = _tails[snapid] = _SNAPS.pack(snapid, 0, 0) + _TAIL.pack(0, FEATURES_SUPPORTED)
    return found


class OpReply(NamedTuple):
    """What the OSD says of one operation of a request."""

    op: int
    rval: int
    length: int
    """Bytes that it has in the data segment."""


class Reply(NamedTuple):
    """An MOSDOpReply, the part that is used."""

    result: int
    epoch: int
    flags: int
    ops: tuple[OpReply, ...]
    attempt: int
    user_version: int
    redirected: bool


# after the object's name: pg_t | flags | result | bad_replay | epoch | number of ops
_REPLY_HEAD = _struct.Struct("<17x Q i 12x I I".replace(" ", ""))
_REPLY_OP = _struct.Struct("<H 32x I".replace(" ", ""))
# replay version | user version | do_redirect
_REPLY_TAIL = _struct.Struct("<12x Q B".replace(" ", ""))
_REPLY_ONE = _struct.Struct("<17x Q i 12x I I H 32x I i i 12x Q B".replace(" ", ""))
_REPLY_ONE_TRACED = _REPLY_ONE.size + 24

MAX_OPS = 4096


def decode_reply(front: Buffer, version: int) -> Reply:
    """The front segment of an MOSDOpReply of `version` 6 to 8.

    Raises:
        DecodeError: truncated, or a version that our features should have excluded.
    """
    if not 6 <= version <= 8:
        raise DecodeError(f"MOSDOpReply version {version} is not known")
    try:
        start = 4 + int.from_bytes(front[:4], "little")
        if len(front) - start == _REPLY_ONE_TRACED:
            flags, result, epoch, n, op, length, attempt, rval, user_version, redirect = _REPLY_ONE.unpack_from(
                front, start
            )
            if n == 1:
                return Reply(result, epoch, flags, (OpReply(op, rval, length),), attempt, user_version, bool(redirect))
        flags, result, epoch, n = _REPLY_HEAD.unpack_from(front, start)
        if n > MAX_OPS:
            raise DecodeError(f"MOSDOpReply with {n} operations")
        at = start + _REPLY_HEAD.size
        ops = [_REPLY_OP.unpack_from(front, at + i * OP_SIZE) for i in range(n)]
        at += n * OP_SIZE
        attempt, *rvals = _struct.unpack_from(f"<i{n}i", front, at)
        at += 4 + 4 * n
        if version == 6:
            user_version, redirect = _struct.unpack_from("<12xQ", front, at)[0], 0
        else:
            user_version, redirect = _REPLY_TAIL.unpack_from(front, at)
    except _struct.error as e:
        raise DecodeError(f"MOSDOpReply of {len(front)} bytes is truncated") from e
    replies = tuple([OpReply(op, rval, length) for (op, length), rval in zip(ops, rvals)])
    return Reply(result, epoch, flags, replies, attempt, user_version, bool(redirect))


class Redirect(Struct, version=1, compat=1):
    """request_redirect_t: where an object is instead. A pool of -1, and empty names, mean that
    the request's own stand."""

    locator: ObjectLocator
    oid: string
    instructions: blob = b""


def decode_redirect(front: Buffer, version: int) -> tuple[ObjectLocator, str]:
    """The new locator and name of an MOSDOpReply with `redirected`."""
    d = Decoder(front)
    d.blob()
    d.skip(_REPLY_HEAD.size - 4)
    n = d.count(OP_SIZE)
    d.skip(n * OP_SIZE + 4 + 4 * n + _REPLY_TAIL.size)
    redirect = Redirect.decode(d)
    return redirect.locator, redirect.oid


# ---------------------------------------------------------------- the same, declared


class RawOp(Struct):
    """ceph_osd_op; the union is kept as its 28 bytes."""

    op: int
    flags: int
    union: bytes
    payload_len: int

    @classmethod
    def wire_min_size(cls) -> int:
        return OP_SIZE

    @classmethod
    def decode(cls, d: Decoder) -> "RawOp":
        return cls(d.u16(), d.u32(), d.raw(28), d.u32())

    def encode(self, e: Encoder) -> None:
        e.u16(self.op)
        e.u32(self.flags)
        e.raw(self.union)
        e.u32(self.payload_len)


class Trace(Struct):
    """blkin_trace_info, always zero here."""

    trace_id: u64 = 0
    span_id: u64 = 0
    parent_span_id: u64 = 0


class MOSDOp(Struct):
    """A request to an OSD, field by field. `tid` and data are outside of the front."""

    pgid: SpgId
    raw_hash: u32
    epoch: u32
    flags: u32
    reqid: OsdReqId
    trace: Trace
    client_inc: u32
    mtime: Utime
    locator: ObjectLocator
    oid: bytes
    ops: tuple[RawOp, ...]
    snapid: int
    snap_seq: int
    snaps: tuple[int, ...]
    retry_attempt: int
    features: int

    @classmethod
    def decode(cls, d: Decoder) -> "Self":
        return cls(
            SpgId.decode(d),
            d.u32(),
            d.u32(),
            d.u32(),
            OsdReqId.decode(d),
            Trace.decode(d),
            d.u32(),
            Utime.decode(d),
            ObjectLocator.decode(d),
            d.blob(),
            tuple([RawOp.decode(d) for _ in range(d.u16())]),
            d.u64(),
            d.u64(),
            Vector(u64).decode(d),
            d.s32(),
            d.u64(),
        )

    def encode(self, e: Encoder) -> None:
        self.pgid.encode(e)
        e.u32(self.raw_hash)
        e.u32(self.epoch)
        e.u32(self.flags)
        self.reqid.encode(e)
        self.trace.encode(e)
        e.u32(self.client_inc)
        self.mtime.encode(e)
        self.locator.encode(e)
        e.blob(self.oid)
        e.u16(len(self.ops))
        for op in self.ops:
            op.encode(e)
        e.u64(self.snapid)
        e.u64(self.snap_seq)
        Vector(u64).encode(e, self.snaps)
        e.s32(self.retry_attempt)
        e.u64(self.features)


class MOSDOpReply(Struct):
    """A reply of version 8, field by field (without a redirect)."""

    oid: bytes
    pgid: PgId
    flags: u64
    result: s32
    bad_replay: Eversion
    epoch: u32
    ops: Annotated[tuple[RawOp, ...], Vector(RawOp)]
    retry_attempt: s32
    rvals: tuple[int, ...]
    replay: Eversion
    user_version: u64
    do_redirect: bool
    trace: Trace

    @classmethod
    def decode(cls, d: Decoder) -> "Self":
        head = (d.blob(), PgId.decode(d), d.u64(), d.s32(), Eversion.decode(d), d.u32())
        ops: tuple[RawOp, ...] = Vector(RawOp).decode(d)
        return cls(
            *head,
            ops,
            d.s32(),
            tuple([d.s32() for _ in ops]),
            Eversion.decode(d),
            d.u64(),
            bool(d.u8()),
            Trace.decode(d),
        )

    def encode(self, e: Encoder) -> None:
        e.blob(self.oid)
        self.pgid.encode(e)
        e.u64(self.flags)
        e.s32(self.result)
        self.bad_replay.encode(e)
        e.u32(self.epoch)
        Vector(RawOp).encode(e, self.ops)
        e.s32(self.retry_attempt)
        for r in self.rvals:
            e.s32(r)
        self.replay.encode(e)
        e.u64(self.user_version)
        e.u8(self.do_redirect)
        self.trace.encode(e)
