"""The messages of a client, declared (`src/messages/*.h`).

Each class is the front segment of one message type; `Since` is the version of the
message. What travels in the data segment is not part of the declaration. The OSD's
operations have a file of their own (:mod:`pyrbd.msgr.osdop`).
"""

from typing import TYPE_CHECKING, Annotated, ClassVar

from ..denc import (
    Buffer,
    Decoder,
    Encoder,
    MapOf,
    Since,
    Struct,
    Vector,
    blob,
    boolean,
    s16,
    s32,
    s64,
    string,
    u8,
    u16,
    u32,
    u64,
    uuid,
)
from .types import ENTITY_TYPE_NAMES, EntityAddr, EntityAddrVec, EntityName, SpgId, Utime

if TYPE_CHECKING:
    from typing_extensions import Self

PRIO_DEFAULT = 127
PRIO_HIGH = 196


class Message(Struct):
    """Base of message fronts."""

    TYPE: ClassVar[int] = 0
    VERSION: ClassVar[int] = 1
    COMPAT: ClassVar[int] = 1
    registry: ClassVar[dict[int, "type[Message]"]] = {}

    def __init_subclass__(cls, *, type: int, head: int = 1, oldest: int = 1) -> None:
        super().__init_subclass__()
        cls.TYPE, cls.VERSION, cls.COMPAT = type, head, oldest
        Message.registry[type] = cls

    @classmethod
    def decode_front(cls, front: Buffer, version: int) -> "Self":
        """Decodes the front segment of a message of header version `version`; what a newer
        sender appended is skipped."""
        d = Decoder(front)
        return cls(**{f.name: f.type.decode(d) for f in cls.wire_fields if f.since <= version})


class MMonMap(Message, type=4):
    monmap: blob


# Messages for a service of the monitors (PaxosServiceMessage) begin with a version and two
# fields that are no longer used: `version`, `session_mon`, `session_mon_tid`.


class MAuth(Message, type=17):
    """Asks for tickets on a session with a monitor; see :mod:`pyrbd.msgr.cephx`."""

    version: u64 = 0
    session_mon: s16 = -1
    session_mon_tid: u64 = 0
    protocol: u32 = 0
    """The method of authentication."""
    auth_payload: blob = b""
    monmap_epoch: u32 = 0


class MAuthReply(Message, type=18):
    protocol: u32
    result: s32
    global_id: u64
    result_bl: blob
    result_msg: string


class MStatfs(Message, type=13, head=2, oldest=1):
    version: u64 = 0
    session_mon: s16 = -1
    session_mon_tid: u64 = 0
    fsid: uuid = bytes(16)
    has_data_pool: u8 = 0


class MStatfsReply(Message, type=14):
    fsid: uuid
    version: u64
    kb: u64
    kb_used: u64
    kb_avail: u64
    num_objects: u64


SUBSCRIBE_ONETIME = 1


class SubscribeItem(Struct):
    """From which epoch on, and whether once or for ever."""

    start: u64
    flags: u8 = 0


class MMonSubscribe(Message, type=15, head=3, oldest=1):
    what: Annotated[dict[str, SubscribeItem], MapOf(string, SubscribeItem)]
    hostname: string = ""


class MMonSubscribeAck(Message, type=16):
    interval: u32
    fsid: uuid


class MMonGetVersion(Message, type=19):
    handle: u64
    what: string


class MMonGetVersionReply(Message, type=20, head=2):
    handle: u64
    version: u64
    oldest_version: Annotated[u64, Since(2)] = 0


class MOSDMap(Message, type=41, head=4, oldest=3):
    fsid: uuid
    incremental_maps: Annotated[dict[int, bytes], MapOf(u32, blob)]
    maps: Annotated[dict[int, bytes], MapOf(u32, blob)]
    oldest_map: u32 = 0
    newest_map: u32 = 0


WATCH_EVENT_NOTIFY = 1
WATCH_EVENT_NOTIFY_COMPLETE = 2
WATCH_EVENT_DISCONNECT = 3


class MConfig(Message, type=62):
    """The options of the monitors' configuration that are for us: all of them, each time."""

    config: Annotated[dict[str, str], MapOf(string, string)]


class MWatchNotify(Message, type=44, head=3, oldest=1):
    struct_v: u8
    opcode: u8
    cookie: u64
    ver: u64
    notify_id: u64
    payload: blob = b""
    return_code: Annotated[s32, Since(2)] = 0
    notifier_gid: Annotated[u64, Since(3)] = 0


class MMonCommand(Message, type=50, head=1, oldest=1):
    version: u64 = 0
    session_mon: s16 = -1
    session_mon_tid: u64 = 0
    fsid: uuid = bytes(16)
    cmd: Annotated[tuple[str, ...], Vector(string)] = ()


class MMonCommandAck(Message, type=51):
    version: u64
    session_mon: s16
    session_mon_tid: u64
    result: s32
    status: string
    cmd: Annotated[tuple[str, ...], Vector(string)]


BACKOFF_OP_BLOCK = 1
BACKOFF_OP_ACK_BLOCK = 2
BACKOFF_OP_UNBLOCK = 3


class MOSDBackoff(Message, type=61):
    """`begin` and `end` (hobject_t) are kept as encoded: they are sent back unchanged."""

    pgid: SpgId
    map_epoch: u32
    op: u8
    id: u64
    begin: bytes
    end: bytes

    @classmethod
    def decode(cls, d: Decoder) -> "MOSDBackoff":
        pgid, epoch, op, ident = SpgId.decode(d), d.u32(), d.u8(), d.u64()
        return cls(pgid, epoch, op, ident, _raw_struct(d), _raw_struct(d))

    @classmethod
    def decode_front(cls, front: Buffer, version: int) -> "MOSDBackoff":
        return cls.decode(Decoder(front))

    def encode(self, e: Encoder) -> None:
        self.pgid.encode(e)
        e.u32(self.map_epoch)
        e.u8(self.op)
        e.u64(self.id)
        e.raw(self.begin)
        e.raw(self.end)


def _raw_struct(d: Decoder) -> bytes:
    """A struct with an envelope, as its bytes."""
    start = d.pos
    d.skip(2)
    d.skip(d.u32())
    return bytes(d.buf[start : d.pos])


# ---------------------------------------------------------------- inside messages


class MonInfo(Struct, version=6, compat=1):
    """mon_info_t: one monitor."""

    name: string
    public_addrs: EntityAddrVec
    priority: Annotated[u16, Since(2)] = 0
    """Those of the lowest are asked first."""
    weight: Annotated[u16, Since(4)] = 0
    """How often, among those of one priority."""


class MonFeatures(Struct, version=1, compat=1):
    """mon_feature_t."""

    features: u64 = 0


class MonMap(Struct, version=10, compat=6):
    """The monitors of a cluster (`src/mon/MonMap.h`)."""

    fsid: uuid
    epoch: u32
    last_changed: Utime
    created: Utime
    persistent_features: int
    optional_features: int
    mons: dict[str, MonInfo]
    ranks: tuple[str, ...] = ()
    """Names, in the order of their ranks."""
    min_mon_release: int = 0
    """14 is nautilus; 0 when it is not told."""
    removed_ranks: tuple[int, ...] = ()
    auth_epoch: int = 0
    """Grows when all service secrets were thrown away (squid 19.2.6, tentacle 20.2.4)."""

    @classmethod
    def decode(cls, d: Decoder) -> "MonMap":
        struct_v, body = d.envelope(10, "MonMap")
        fs, epoch = body.raw(16), body.u32()
        if struct_v < 6:
            MapOf(string, EntityAddrVec).decode(body)  # addresses only, of v1
        changed, created = Utime.decode(body), Utime.decode(body)
        persistent = optional = 0
        if struct_v >= 4:
            persistent, optional = MonFeatures.decode(body).features, MonFeatures.decode(body).features
        mons: dict[str, MonInfo] = MapOf(string, MonInfo).decode(body) if struct_v >= 5 else {}
        ranks: tuple[str, ...] = Vector(string).decode(body) if struct_v >= 6 else tuple(sorted(mons))
        release = body.u8() if struct_v >= 7 else 0
        removed: tuple[int, ...] = ()
        if struct_v >= 8:
            removed = Vector(u32).decode(body)
            body.skip(1)  # strategy
            Vector(string).decode(body)  # disallowed_leaders
        auth_epoch = 0
        if struct_v >= 10:
            body.skip(1)  # stretch_mode_enabled
            body.string()  # tiebreaker_mon
            Vector(string).decode(body)  # stretch_marked_down_mons
            auth_epoch = body.u32()
        return cls(fs, epoch, changed, created, persistent, optional, mons, ranks, release, removed, auth_epoch)

    def name_of(self, addr: EntityAddr | None) -> str | None:
        """The name of the monitor at a msgr2 address."""
        return next((name for name, info in self.mons.items() if addr in info.public_addrs.addrs), None)

    def encode(self, e: Encoder) -> None:
        raise NotImplementedError("a client does not write monitor maps")


# ---------------------------------------------------------------- pools

POOL_OP_CREATE = 0x01
POOL_OP_DELETE = 0x02
POOL_OP_CREATE_SNAP = 0x11
POOL_OP_DELETE_SNAP = 0x12
POOL_OP_CREATE_UNMANAGED_SNAP = 0x21
POOL_OP_DELETE_UNMANAGED_SNAP = 0x22


class MPoolOp(Message, type=49, head=4, oldest=2):
    """Creates or deletes a pool (and more that is not used here)."""

    version: u64 = 0
    session_mon: s16 = -1
    session_mon_tid: u64 = 0
    fsid: uuid = bytes(16)
    pool: u32 = 0
    op: u32 = 0
    auid: u64 = 0
    snapid: u64 = 0
    name: string = ""
    pad: u8 = 0
    crush_rule: s16 = -1


class MPoolOpReply(Message, type=48):
    version: u64
    session_mon: s16
    session_mon_tid: u64
    fsid: uuid
    result: u32
    epoch: u32
    data: bytes = b""

    @classmethod
    def decode_front(cls, front: Buffer, version: int) -> "MPoolOpReply":
        d = Decoder(front)
        version_, session_mon, tid = d.u64(), d.u16(), d.u64()
        fs, result, epoch = d.raw(16), d.u32(), d.u32()
        return cls(version_, session_mon, tid, fs, result, epoch, d.blob() if d.remaining and d.u8() else b"")

    @classmethod
    def decode(cls, d: Decoder) -> "MPoolOpReply":
        return cls.decode_front(d.buf[d.pos : d.end], 1)

    def encode(self, e: Encoder) -> None:
        raise NotImplementedError("a client does not send this")


class ObjectStatSum(Struct, version=20, compat=14):
    """object_stat_sum_t: the counters of a pool's objects; those that librados shows."""

    num_bytes: s64 = 0
    num_objects: s64 = 0
    num_object_clones: s64 = 0
    num_object_copies: s64 = 0
    num_objects_missing_on_primary: s64 = 0
    num_objects_degraded: s64 = 0
    num_objects_unfound: s64 = 0
    num_rd: s64 = 0
    num_rd_kb: s64 = 0
    num_wr: s64 = 0
    num_wr_kb: s64 = 0


class ObjectStats(Struct, version=2, compat=2):
    """object_stat_collection_t; the categories that follow are no longer used."""

    sum: ObjectStatSum


class PoolStat(Struct, version=7, compat=5):
    """pool_stat_t; what follows the objects' counters is not used here."""

    stats: ObjectStats


class MGetPoolStats(Message, type=58):
    version: u64 = 0
    session_mon: s16 = -1
    session_mon_tid: u64 = 0
    fsid: uuid = bytes(16)
    pools: Annotated[tuple[str, ...], Vector(string)] = ()


class MGetPoolStatsReply(Message, type=59, head=2, oldest=1):
    version: u64
    session_mon: s16
    session_mon_tid: u64
    fsid: uuid
    pool_stats: Annotated[dict[str, PoolStat], MapOf(string, PoolStat)]
    per_pool: Annotated[u8, Since(2)] = 0


class MPing(Message, type=2):
    """Asks a monitor for its health, as JSON; the answer is in the front."""

    text: string = ""

    @classmethod
    def decode_front(cls, front: Buffer, version: int) -> "MPing":
        d = Decoder(front)
        return cls(d.string() if d.remaining else "")

    def encode(self, e: Encoder) -> None:
        if self.text:
            e.string(self.text)


class MCommand(Message, type=97):
    """A command for the daemon that gets it; what it reads is in the data segment."""

    fsid: uuid = bytes(16)
    cmd: Annotated[tuple[str, ...], Vector(string)] = ()


class MCommandReply(Message, type=98):
    result: s32
    status: string


class MgrMap(Struct, version=14, compat=6):
    """Which mgr is active (`src/mon/MgrMap.h`); the part that clients use."""

    epoch: u32
    active_addrs: EntityAddrVec
    active_gid: u64
    available: boolean
    active_name: string


class MMgrMap(Message, type=0x704):
    map: MgrMap


class MMgrCommand(Message, type=0x709):
    """A command of the mgr's modules; MCommand is one for the daemon (octopus and newer)."""

    fsid: uuid = bytes(16)
    cmd: Annotated[tuple[str, ...], Vector(string)] = ()


class MMgrCommandReply(Message, type=0x70A):
    result: s32
    status: string


class MMgrOpen(Message, type=0x700, head=3, oldest=1):
    """Says to a mgr who we are: a daemon of a service, with what it wants to show."""

    daemon_name: string
    service_name: string = ""
    service_daemon: boolean = True
    daemon_metadata: Annotated[dict[str, str], MapOf(string, string)] = {}  # noqa: RUF012 - never changed
    daemon_status: Annotated[dict[str, str], MapOf(string, string)] = {}  # noqa: RUF012
    config: blob = b""
    config_defaults: blob = b""


class MMgrConfigure(Message, type=0x701, head=4, oldest=1):
    """How often a mgr wants a report, in seconds (what else it wants is not for clients)."""

    stats_period: u32


class MMgrReport(Message, type=0x702, head=9, oldest=1):
    """The state of a daemon, without performance counters."""

    daemon_name: string
    declare_types: u32 = 0
    packed: blob = b""
    undeclare_types: u32 = 0
    service_name: string = ""
    has_status: boolean = True
    daemon_status: Annotated[dict[str, str], MapOf(string, string)] = {}  # noqa: RUF012 - never changed
    health_metrics: u32 = 0
    config: blob = b""
    osd_perf_metric_reports: u32 = 0
    has_task_status: boolean = False
    has_metric_report: boolean = False


class LogEntity(Struct):
    """EntityName: who, by name."""

    type: u32
    id: string

    def __str__(self) -> str:
        return f"{ENTITY_TYPE_NAMES.get(self.type, self.type)}.{self.id}"


class LogEntry(Struct, version=5, compat=5):
    """A line of the cluster's log (`src/common/LogEntry.cc`)."""

    name: LogEntity
    rank: EntityName
    addrs: EntityAddrVec
    stamp: Utime
    seq: u64
    prio: u16
    text: string
    channel: string


class MLog(Message, type=52):
    version: u64
    session_mon: s16
    session_mon_tid: u64
    fsid: uuid
    entries: Annotated[tuple[LogEntry, ...], Vector(LogEntry)]
