"""Sends operations to the OSDs that have their objects, again and again until they are
answered (`src/osdc/Objecter.cc`).

An operation is sent to the primary of its placement group in the newest map we hold. It
is sent again, with the same tid, when its connection breaks, when the map gives its group
another primary or splits it, and when the pool says so. By the tid the OSDs recognise a
write that they have already done. Operations of one object keep the order in which they
were submitted.

What is in flight is bounded in number and bytes (`objecter_inflight_ops`,
`objecter_inflight_op_bytes`): what is more waits in the order in which it came.

`Objecter.lock` guards the map, the table of sessions, and where each operation is. The
answer to an operation is handled by the leader of its session without that lock.
"""

from __future__ import annotations

import errno
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from threading import Condition, Lock, RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AuthError, DecodeError, ProtocolError
from ..log import Log
from ..msgr.messages import (
    BACKOFF_OP_ACK_BLOCK,
    BACKOFF_OP_BLOCK,
    BACKOFF_OP_UNBLOCK,
    PRIO_DEFAULT,
    MOSDBackoff,
    MOSDMap,
    MWatchNotify,
)
from ..msgr.osdop import (
    FLAG_BALANCE_READS,
    FLAG_EXEC,
    FLAG_FULL_FORCE,
    FLAG_FULL_TRY,
    FLAG_IGNORE_CACHE,
    FLAG_IGNORE_OVERLAY,
    FLAG_KNOWN_REDIR,
    FLAG_LOCALIZE_READS,
    FLAG_PGOP,
    FLAG_READ,
    FLAG_REDIRECTED,
    FLAG_RETRY,
    FLAG_RWORDERED,
    FLAG_SUPPORTSPOOLEIO,
    FLAG_WRITE,
    MSG_OSD_OP,
    MSG_OSD_OPREPLY,
    NOSNAP,
    OP_COMPAT,
    OP_VERSION,
    Reply,
    decode_redirect,
    decode_reply,
    encode_object,
    encode_request,
)
from ..msgr.types import EntityAddr
from ..osdmap import Incremental, OSDMap
from ..osdmap.pool import FLAG_EIO
from .completion import Completion, Event
from .exceptions import ConnectionShutdown, Error, TimedOut, make_ex
from .operations import ObjectOperation, OpOutput, OpReply

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.connection import Connection, Message, Ready
    from ..msgr.frames import Sink
    from ..osdmap.pool import PgPool
    from .client import Driver
    from .session import Session

_log = Log("objecter")

RECONNECT_DELAY = 0.1
RECONNECT_DELAY_MAX = 5.0
PING_INTERVAL = 5.0
PING_TIMEOUT = 15.0
"""An OSD that owes us an answer, and says nothing for so many seconds, is asked whether it is
there, and has so many more."""
EXPIRY_INTERVAL = 0.1
"""Seconds between looks at operations with a deadline for which no thread waits."""
MAX_LETTING_GO = 1.0
"""Seconds that who gives up a read waits for the thread that is receiving into its buffer."""
REPLICA_READS = FLAG_BALANCE_READS | FLAG_LOCALIZE_READS
_PRIMARY_ONLY = FLAG_WRITE | FLAG_EXEC | FLAG_PGOP | FLAG_RWORDERED
"""What only the primary does: the OSD alone knows whether a class method writes, and a replica
that was asked for what it may not do does not answer."""
MAX_LOST_REQUESTS = 2
"""A request that cost so many connections without an answer is sent more slowly: it may be
what kills the daemon."""


class SnapContext(NamedTuple):
    """What a write must preserve: the newest snapshot id, and all that exist, newest first."""

    seq: int = 0
    snaps: tuple[int, ...] = ()


EMPTY_SNAPC = SnapContext()


class Target:
    """An object, and the place that a map gives it."""

    __slots__ = (
        "_elsewhere",
        "acting",
        "key",
        "map",
        "named",
        "nspace",
        "oid",
        "pg_num",
        "pool",
        "primary",
        "raw_hash",
        "role",
        "seed",
        "shard",
    )

    def __init__(self, pool: int, oid: str, nspace: str = "", key: str = "") -> None:
        self.pool = pool
        self.oid = oid
        self.nspace = nspace
        self.key = key
        self.named = encode_object(
            pool,
            oid.encode("utf-8", "surrogateescape"),
            nspace.encode("utf-8", "surrogateescape"),
            key.encode("utf-8", "surrogateescape"),
        )
        self.map: OSDMap | None = None  # for which the rest holds
        self.raw_hash = 0
        self.seed = 0
        self.pg_num = 0
        self.shard = -1
        self.acting: tuple[int, ...] = ()
        self.role = -1  # the primary's place in the acting set
        self.primary = -1
        self._elsewhere: dict[int, Target] = {}

    def __str__(self) -> str:
        where = f"{self.pool}:" + (f"{self.nspace}/" if self.nspace else "")
        return where + self.oid

    def locate(self, osdmap: OSDMap) -> bool:
        """Finds group and primary in `osdmap`; False if the pool is not there."""
        pool = osdmap.pools.get(self.pool)
        if pool is None:
            return False
        self.raw_hash = osdmap.object_to_raw_hash(self.pool, self.oid, self.key, self.nspace)
        self.seed = osdmap.raw_hash_to_pg(self.pool, self.raw_hash).seed
        self._find_primary(osdmap, pool)
        return True

    def _find_primary(self, osdmap: OSDMap, pool: PgPool) -> None:
        self.pg_num = pool.pg_num
        self.primary, acting = osdmap.pg_acting_primary(self.pool, self.seed)
        self.acting = acting
        self.role = acting.index(self.primary) if self.primary in acting else -1
        self.shard = self.role if pool.is_erasure else -1
        self.map = osdmap

    def in_pool(self, pool: int) -> Target:
        """The object of the same name in another pool, a cache tier."""
        target = self._elsewhere.get(pool)
        if target is None:
            target = self._elsewhere[pool] = Target(pool, self.oid, self.nspace, self.key)
        return target


class PgTarget(Target):
    """A placement group itself, for listing: the one that has objects of a hash. Which that is
    changes when groups split or merge."""

    __slots__ = ()

    def __init__(self, pool: int, raw_hash: int, nspace: str = "") -> None:
        super().__init__(pool, "", nspace)
        self.raw_hash = raw_hash

    def locate(self, osdmap: OSDMap) -> bool:
        pool = osdmap.pools.get(self.pool)
        if pool is None:
            return False
        self.seed = pool.raw_pg_to_pg(self.raw_hash)
        self._find_primary(osdmap, pool)
        return True


class Op(Completion[Any]):
    """One request in flight."""

    __slots__ = (
        "admitted",
        "answering",
        "attempt",
        "base",
        "cost",
        "data",
        "failed",
        "finish",
        "flags",
        "force_epoch",
        "into",
        "lost",
        "mtime",
        "n_ops",
        "objecter",
        "ops",
        "paused",
        "receiving",
        "redirect",
        "replica_of",
        "sent_pg_num",
        "sent_primary",
        "sent_role",
        "sent_seed",
        "snapc",
        "snapid",
        "target",
        "throttled",
        "tid",
        "user_version",
    )

    def __init__(
        self,
        objecter: Objecter,
        target: Target,
        ops: bytes,
        n_ops: int,
        data: Buffer,
        flags: int,
        finish: Callable[[Op, Reply, bytes | None], Any],
        *,
        snapid: int = NOSNAP,
        snapc: SnapContext = EMPTY_SNAPC,
        into: memoryview | None = None,
        deadline: float | None = None,
        cost: int = 0,
    ) -> None:
        super().__init__(objecter.driver)
        self.objecter = objecter
        self.base = target
        """The object that was asked for; `target` is where it is in the newest map."""
        self.target = target
        self.redirect: Target | None = None
        self.cost = cost
        """Bytes that it takes to keep it in flight."""
        self.throttled = True
        self.admitted = False
        self.paused = False
        self.ops = ops
        self.n_ops = n_ops
        self.data = data
        self.flags = flags
        self.finish = finish
        self.snapid = snapid
        self.snapc = snapc
        self.into = into
        self.deadline = deadline
        self.tid = 0
        self.attempt = 0
        self.lost = 0
        self.receiving = False
        self.answering = False
        self.mtime = (0, 0)
        self.failed: OpReply | None = None
        """What came with an error: the operations before the one that failed may have outputs."""
        self.user_version = 0
        """The object's version that the answer tells, also when it tells of an error."""
        self.sent_seed = -1
        self.sent_primary = -1
        self.sent_role = -1
        self.sent_pg_num = 0
        self.replica_of: tuple[Any, ...] | None = None
        """The interval of the group in which it went to another OSD than the primary."""
        self.force_epoch = 0
        if flags & FLAG_WRITE:
            now = time.time_ns()
            self.mtime = (now // 1_000_000_000, now % 1_000_000_000)

    def __repr__(self) -> str:
        return f"<Op tid={self.tid} {self.target} attempt={self.attempt}{' done' if self.done else ''}>"

    def encode(self, session: Session) -> list[Buffer] | None:
        if self.session is not session or self.done:
            return None  # moved on, or given up, while it waited in the queue
        target = self.target
        osdmap = target.map
        assert osdmap is not None
        flags = self.flags | FLAG_KNOWN_REDIR | FLAG_SUPPORTSPOOLEIO
        if self.attempt:
            flags |= FLAG_RETRY
        front = encode_request(
            target.pool,
            target.seed,
            target.shard,
            target.raw_hash,
            osdmap.epoch,
            flags,
            self.mtime,
            target.named,
            self.ops,
            self.n_ops,
            self.snapid,
            self.snapc.seq,
            self.snapc.snaps,
            self.attempt,
        )
        return session.conn.encode_message(self.tid, MSG_OSD_OP, OP_VERSION, OP_COMPAT, PRIO_DEFAULT, front, self.data)

    # The room is given back first: if something breaks in between, the operation is not done
    # yet and will be finished again; the other way round it would be counted for ever.

    def set_result(self, result: Any) -> None:
        if self.admitted:
            self.objecter.release(self)
        super().set_result(result)

    def set_error(self, error: BaseException) -> None:
        if self.admitted:
            self.objecter.release(self)
        super().set_error(error)

    def attend(self) -> None:
        self.objecter.attend(self)

    def abandon(self) -> None:
        self.objecter.cancel(self, make_ex(-errno.ECANCELED, f"the wait for {self.target} was interrupted"))

    def expire(self) -> None:
        self.objecter.cancel(
            self,
            TimedOut(
                f"no answer for {self.target} in time; {self.objecter.describe(self)}",
                errno.ETIMEDOUT,
            ),
        )


class Objecter:
    """The operations in flight of one client. See the module's text.

    Args:
        connect: makes a connection to an OSD (ticket and addresses are the client's business).
        want_map: called when a newer map is needed than the one we have.
    """

    def __init__(
        self,
        driver: Driver,
        connect: Callable[[int, OSDMap, Sink], Connection],
        want_map: Callable[[], None],
        auth_failed: Callable[[AuthError], bool],
        latest_map: Callable[[Callable[[int], None]], None],
        own_addr: Callable[[], EntityAddr | None] = lambda: None,
    ) -> None:
        self.driver = driver
        self.lock = RLock()
        self.osdmap: OSDMap | None = None
        self._connect = connect
        self._want_map = want_map
        self._auth_failed = auth_failed
        self._latest_map = latest_map
        self._own_addr = own_addr
        self.crush_location: frozenset[tuple[str, str]] = frozenset()
        """Where we are among the OSDs, {(type of bucket, name)}, for reads with LOCALIZE_READS."""
        self.read_flags = FLAG_READ
        """Of every read: with what `rados_replica_read_policy` adds."""
        self.max_ops = 1024
        self.max_bytes = 100 << 20
        self._claims = RLock()
        """Guards whose an operation is: the leader's, who is receiving or handling its answer
        (`Op.receiving`, `Op.answering`), or who holds `lock` and takes it out of its session."""
        self._budget = Lock()
        self._room = Condition(self._budget)
        self._n_admitted = 0
        self._bytes_admitted = 0
        self._queued: deque[Op] = deque()
        self._expiry: Any = None
        self._pinger: Any = None
        self.blocklisted: Error | None = None
        self._tids = count(1)
        self._sessions: dict[int, Session] = {}
        self._osd_of: dict[int, int] = {}
        self._failures: dict[int, int] = {}
        self._retry_at: dict[int, float] = {}
        self._homeless: dict[int, Op] = {}
        self._map_waiters: list[tuple[int, Event[int]]] = []
        self._backoffs: dict[int, dict[tuple[int, int], set[int]]] = {}
        """Of each session: the groups that it cannot serve now, with the ids of the backoffs."""
        self.backoffs = 0
        """How often an OSD has told us to hold back."""
        self._watchers: dict[int, Callable[[MWatchNotify], None]] = {}
        self._rehome_timer: Any = None
        self._rehome_due = 0.0
        self._rehome_soon = False
        self.on_epoch: Callable[[OSDMap, bool], None] | None = None
        """Called for each epoch under the lock; True when epochs before it were skipped."""
        self.on_rehomed: Callable[[], None] | None = None
        self.on_notify: Callable[[MWatchNotify], None] | None = None
        self.on_blocklisted: Callable[[Error], None] | None = None
        self.resends = 0
        """How often an operation was sent again, for those who want to know."""
        self._closed: Error | None = None
        self._requested_map = 0

    # ------------------------------------------------------------ submitting

    def submit(self, op: Op, *, background: bool = False) -> Op:
        """Sends `op`, now if it can be sent. `background`: no thread is going to wait for it."""
        try:
            with self.lock:
                if self._closed is not None:
                    raise self._closed
                if self.blocklisted is not None:
                    raise self.blocklisted
                op.tid = next(self._tids)
                if op.throttled and not self._admit(op):
                    self._queued.append(op)
                    session = None
                else:
                    session = self._place_new(op, background)
                if background and op.deadline is not None:
                    self._watch_deadlines()
            if session is not None:
                if background and not session.attended():
                    self.driver.wake()
                session.flush()
        except BaseException:
            op.abandon()
            raise
        return op

    # ------------------------------------------------------------ how much is in flight

    def _admit(self, op: Op) -> bool:
        """Whether `op` may be in flight now; it is counted then. Under the lock."""
        with self._budget:
            n = self._n_admitted
            if self._queued or (n and (n >= self.max_ops or self._bytes_admitted + op.cost > self.max_bytes)):
                return False
            self._n_admitted = n + 1
            self._bytes_admitted += op.cost
            op.admitted = True
            return True

    def release(self, op: Op) -> None:
        """`op` is finished: makes room for others."""
        with self._budget:
            if not op.admitted:
                return
            op.admitted = False
            self._n_admitted -= 1
            self._bytes_admitted -= op.cost
        if self._queued:
            self.driver.defer(self._admit_queued)

    def _admit_queued(self) -> None:
        touched: dict[int, Session] = {}
        with self.lock:
            queued, self._queued = self._queued, deque()
            while queued:
                op = queued[0]
                if not op.done:
                    if not self._admit(op):
                        break
                    session = self._place_new(op, True)  # whoever waits for it may be asleep
                    if session is not None:
                        touched[id(session)] = session
                queued.popleft()
            queued.extend(self._queued)
            self._queued = queued
        with self._room:
            self._room.notify_all()
        self._flush(touched)

    def wait_for_room(self) -> None:
        """Waits a moment for queued operations to be admitted; the caller looks again."""
        with self._room:
            self._room.wait(EXPIRY_INTERVAL)

    @property
    def in_flight(self) -> tuple[int, int]:
        """Operations that have been sent or are about to be, and their bytes."""
        with self._budget:
            return self._n_admitted, self._bytes_admitted

    def is_queued(self, op: Op) -> bool:
        """Whether `op` waits for others to finish before it may be sent."""
        return not op.done and not op.admitted and op.throttled

    def attend(self, op: Op) -> None:
        """No thread is going to wait for `op`: the background thread sees to it."""
        with self.lock:
            session = op.session
            if session is None:
                return
            session.aio.add(op.tid)
            if op.done:  # and nobody else would take it out again
                session.aio.discard(op.tid)
                return
        if not session.attended():
            self.driver.wake()

    def _unfinished(self) -> list[Op]:
        """All operations, wherever they are. Under the lock."""
        sent = [op for s in self._sessions.values() for op in list(s.ops.values())]
        return [*self._queued, *self._homeless.values(), *sent]

    def _watch_deadlines(self) -> None:
        if self._expiry is None and self.driver.blocking:
            self._expiry = self.driver.call_later(EXPIRY_INTERVAL, self._expire)

    def _expire(self) -> None:
        """Gives up what nobody waits for when its time is over."""
        now = self.driver.monotonic()
        with self.lock:
            self._expiry = None
            ops = self._unfinished()
            timed = [op for op in ops if op.deadline is not None and not op.done]
            if timed:
                self._watch_deadlines()
        for op in timed:
            if op.deadline is not None and now >= op.deadline:
                op.expire()

    def operation(
        self,
        target: Target,
        operation: ObjectOperation,
        *,
        snapid: int = NOSNAP,
        snapc: SnapContext = EMPTY_SNAPC,
        flags: int = 0,
        deadline: float | None = None,
    ) -> Op:
        """An Op for a built operation; its result is an :class:`OpReply`."""
        if not operation.ops:
            raise ValueError("a request without an operation")
        data: Buffer = operation.indata[0] if len(operation.indata) == 1 else b"".join(operation.indata)
        return Op(
            self,
            target,
            b"".join(operation.ops),
            len(operation.ops),
            data,
            operation.flags | flags,
            _finish_operation,
            snapid=snapid,
            snapc=snapc,
            deadline=deadline,
            cost=len(data) + operation.read_bytes,
        )

    def _aim(self, op: Op, osdmap: OSDMap) -> bool:
        """Finds where `op` goes in `osdmap` (Objecter::_calc_target); False if there is no such
        pool. Under the lock."""
        target = op.redirect or op.base
        if osdmap.any_pool_special and not op.flags & FLAG_IGNORE_OVERLAY:
            pool = osdmap.pools.get(target.pool)
            if pool is None:
                return False
            tier = -1
            if op.flags & FLAG_READ and pool.read_tier >= 0:
                tier = pool.read_tier
            if op.flags & FLAG_WRITE and pool.write_tier >= 0:
                tier = pool.write_tier
            if tier >= 0:
                target = target.in_pool(tier)
        op.target = target
        return target.map is osdmap or target.locate(osdmap)

    def _place_new(self, op: Op, background: bool) -> Session | None:
        """:meth:`_place`, behind what waits for the same object. Under the lock."""
        if self._homeless and self._is_overtaking(op):
            self._homeless[op.tid] = op
            if not self._rehome_soon:
                self.driver.defer(self._rehome)
                self._rehome_soon = True
            return None
        return self._place(op, background)

    def _is_overtaking(self, op: Op) -> bool:
        """Whether an earlier request for its object waits. One that the cluster's flags hold back
        does not count: they would hold back this one as well, or let it pass on purpose."""
        base = op.base
        for other in self._homeless.values():
            if (other.base.oid, other.base.pool) != (base.oid, base.pool) or other.base.nspace != base.nspace:
                continue
            if not other.done and not other.paused:
                return True
        return False

    def _place(self, op: Op, background: bool = False) -> Session | None:
        """Gives `op` to the session of its primary, or makes it wait. `background`: no thread
        waits for it, or none that is awake. Under the lock."""
        osdmap = self.osdmap
        target = op.target
        if osdmap is None:
            self._homeless[op.tid] = op
            return None
        if target.map is not osdmap or osdmap.any_pool_special or op.redirect is not None or target is not op.base:
            if not self._aim(op, osdmap):
                self._homeless[op.tid] = op
                self._check_pool(op)
                return None
            target = op.target
        if osdmap.any_pool_special and osdmap.pools[op.base.pool].flags & FLAG_EIO:
            op.set_error(make_ex(-errno.EIO, f"pool {op.base.pool} is set to fail all requests (eio)"))
            return None
        op.paused = self._paused(op, osdmap)
        osd = target.primary
        op.replica_of = None
        if op.flags & REPLICA_READS and osd >= 0:
            osd = self._choose_replica(op, osdmap)
        if osd < 0 or op.paused or self._backed_off(op, osd):
            self._homeless[op.tid] = op
            op.session = None
            if osd < 0:
                self._want_map()
            return None
        session = self._sessions.get(osd)
        if session is None:
            session = self._open(osd, osdmap)
            if session is None:
                self._homeless[op.tid] = op
                op.session = None
                return None
        op.sent_seed = target.seed
        op.sent_primary = target.primary
        op.sent_role = target.role
        op.sent_pg_num = target.pg_num
        op.session = session
        session.ops[op.tid] = op
        if background:  # before anybody can send it: the answer takes it out again
            session.aio.add(op.tid)
        session.queue.append(op)
        return session

    def _choose_replica(self, op: Op, osdmap: OSDMap) -> int:
        """The OSD for a read that need not go to the primary: any, or the nearest."""
        target = op.target
        primary, acting = target.primary, target.acting
        pool = osdmap.pools[target.pool]
        if op.flags & _PRIMARY_ONLY or pool.is_erasure or len(acting) < 2:
            return primary
        if op.flags & FLAG_BALANCE_READS:
            osd = random.choice(acting)
        else:
            osd = self._nearest(osdmap, primary, acting)
        if osd != primary:
            op.replica_of = osdmap.pg_interval(target.pool, target.seed)
        return osd

    def _nearest(self, osdmap: OSDMap, primary: int, acting: tuple[int, ...]) -> int:
        """The primary, unless another is nearer to `crush_location`."""
        best, at = primary, osdmap.crush.common_ancestor_distance(primary, self.crush_location)
        for osd in acting:
            distance = osdmap.crush.common_ancestor_distance(osd, self.crush_location)
            if distance is not None and (at is None or distance < at):
                best, at = osd, distance
        return best

    def interval(self, target: Target) -> object:
        """The interval of the group that writes of an object go to; None if there is no such pool.
        An OSD forgets the connections of watches when another begins. Under the lock."""
        osdmap = self.osdmap
        pool = osdmap.pools.get(target.pool) if osdmap is not None else None
        if pool is None or osdmap is None:
            return None
        if pool.write_tier >= 0:
            target = target.in_pool(pool.write_tier)
        if target.map is not osdmap and not target.locate(osdmap):
            return None
        return osdmap.pg_interval(target.pool, target.seed)

    @staticmethod
    def _paused(op: Op, osdmap: OSDMap) -> bool:
        """Whether the cluster's flags say to wait (Objecter::target_should_be_paused)."""
        flags = osdmap.flags
        if not flags & OSDMap.PAUSE_MASK and not osdmap.any_pool_full:
            return False
        if op.flags & FLAG_READ and flags & OSDMap.PAUSERD:
            return True
        if not op.flags & FLAG_WRITE:
            return False
        if flags & OSDMap.PAUSEWR:
            return True
        if op.flags & (FLAG_FULL_TRY | FLAG_FULL_FORCE):
            return False
        return bool(flags & OSDMap.FULL) or osdmap.pools[op.target.pool].is_full

    def _check_pool(self, op: Op) -> None:
        """The pool is not in our map: it does not exist if it is not in the newest either."""

        def newest(epoch: int) -> None:
            with self.lock:
                if op.done or op.tid not in self._homeless:
                    return
                osdmap = self.osdmap
                if osdmap is not None and osdmap.epoch >= epoch and not self._aim(op, osdmap):
                    del self._homeless[op.tid]
                else:
                    return
            op.set_error(make_ex(-errno.ENOENT, f"pool {op.target.pool} does not exist"))

        self._latest_map(newest)

    # ------------------------------------------------------------ sessions

    def _open(self, osd: int, osdmap: OSDMap) -> Session | None:
        """A new connection to an OSD, or None while it should be let alone for a moment."""
        from .session import Session

        wait = self._retry_at.get(osd, 0.0) - time.monotonic()
        if wait > 0:
            self._rehome_in(wait)
            return None
        ops: dict[int, Op] = {}
        try:
            conn = self._connect(osd, osdmap, lambda tid, length: _sink(ops, self._claims, tid, length))
            session = Session(f"osd.{osd}", conn, self, self.driver, blocking=self.driver.blocking)
        except (ProtocolError, AuthError, OSError) as e:  # OSError: no file descriptor is left
            _log.warning("osd.%d: %s", osd, e)
            self._failed(osd)
            self._want_map()
            return None
        session.ops = ops
        try:
            session.start()
            self._osd_of[id(session)] = osd
            self._sessions[osd] = session
        except BaseException:
            session.abort(ProtocolError("interrupted while it was made"))
            raise
        if self._pinger is None:
            self._pinger = self.driver.call_later(PING_INTERVAL, self._ping)
        return session

    def _ping(self) -> None:
        """Finds connections on which nothing comes any more."""
        with self.lock:
            sessions = list(self._sessions.values())
            live = sessions and self._closed is None
            self._pinger = self.driver.call_later(PING_INTERVAL, self._ping) if live else None
        for session in sessions:
            if session.ops:
                session.check_alive(PING_INTERVAL, PING_TIMEOUT)

    def _failed(self, osd: int) -> None:
        n = self._failures[osd] = self._failures.get(osd, 0) + 1
        delay = min(RECONNECT_DELAY * 2 ** (n - 1), RECONNECT_DELAY_MAX) * random.uniform(0.5, 1.0)
        self._retry_at[osd] = time.monotonic() + delay
        self._rehome_in(delay)

    def _rehome_in(self, delay: float) -> None:
        """Tries again what waits, in `delay` seconds or before. One timer serves all operations:
        with one each, every one that is due would start as many anew. Under the lock."""
        due = time.monotonic() + delay
        before = self._rehome_timer
        if before is not None and self._rehome_due <= due:
            return
        # in this order: KeyboardInterrupt may leave one timer too many, but never none
        self._rehome_timer = self.driver.call_later(delay, self._rehome_is_due)
        self._rehome_due = due
        if before is not None:
            before.cancel()

    def _rehome_is_due(self) -> None:
        with self.lock:
            self._rehome_timer = None
        self._rehome()

    def on_ready(self, session: Session, ready: Ready) -> None:
        with self.lock:
            osd = self._osd_of.get(id(session))
            if osd is not None:
                self._failures.pop(osd, None)
                self._retry_at.pop(osd, None)

    def on_closed(self, session: Session, error: BaseException) -> None:
        known = id(session) in self._osd_of
        refused = known and isinstance(error, AuthError) and not self._auth_failed(error)
        touched: dict[int, Session] = {}
        # in one go, or an operation that is submitted meanwhile would overtake those that are sent again
        with self.lock:
            osd = self._osd_of.pop(id(session), None)
            if osd is None:
                return
            held_back = self._backoffs.pop(id(session), None)
            if self._sessions.get(osd) is session:
                del self._sessions[osd]
            ops = [op for op in session.ops.values() if op.session is session]
            session.ops.clear()
            was_ready = bool(session.conn.features)
            if self._closed is None:
                _log.info("osd.%d: connection lost: %s", osd, error)
            if not refused:
                if not was_ready or any(op.lost >= MAX_LOST_REQUESTS for op in ops):
                    self._failed(osd)
                for op in ops:
                    op.lost += was_ready
                    if op.lost == MAX_LOST_REQUESTS:
                        _log.warning("%r: osd.%d closed the connection %d times without an answer", op, osd, op.lost)
                self._take_back(ops)
            if not refused or held_back:  # the OSD's backoffs have ended with the connection
                self._place_homeless(touched)
        if refused:
            assert isinstance(error, AuthError)
            for op in ops:
                op.set_error(make_ex(-error.errno, str(error)))
        self._want_map()
        self._flush(touched)
        if self.on_rehomed is not None:
            self.driver.defer(self.on_rehomed)

    def _take_back(self, ops: Iterable[Op]) -> None:
        """What was sent, or about to be, has to be sent again: it waits. Under the lock."""
        for op in ops:
            if op.done:
                op.run_callbacks()
                continue
            self.resends += 1
            if op.session is not None:
                op.session.aio.discard(op.tid)
            op.attempt += 1
            op.answering = op.receiving = False
            op.session = None
            self._homeless[op.tid] = op

    def _place_homeless(self, touched: dict[int, Session]) -> None:
        """Tries again what could not be sent, in the order in which it was submitted. Under the lock."""
        for op in sorted(self._homeless.values(), key=lambda o: o.tid):
            if self._homeless.pop(op.tid, None) is None or op.done:
                continue
            session = self._place(op, True)  # whoever waits for it may be asleep
            if session is not None:
                touched[id(session)] = session

    def _flush(self, touched: dict[int, Session]) -> None:
        for session in touched.values():
            session.flush()
        if touched:
            self.driver.wake()

    def _rehome(self) -> None:
        """Tries again what could not be sent."""
        touched: dict[int, Session] = {}
        with self.lock:
            self._rehome_soon = False
            self._place_homeless(touched)
        self._flush(touched)

    # ------------------------------------------------------------ what OSDs say

    def on_message(self, session: Session, message: Message) -> None:
        header = message.header
        if header.type == MSG_OSD_OPREPLY:
            self._on_reply(session, message)
        elif header.type == MOSDMap.TYPE:
            self.driver.defer(self.handle_map, MOSDMap.decode_front(bytes(message.front), header.version))
        elif header.type == MOSDBackoff.TYPE:
            backoff = MOSDBackoff.decode_front(message.front, header.version)
            self.driver.defer(self._on_backoff, session, backoff)
        elif header.type == MWatchNotify.TYPE:
            notify = MWatchNotify.decode_front(message.front, header.version)
            if message.data:  # the acknowledgements, at the end of a notification of ours
                notify = notify.replace(payload=message.data)
            if self.on_notify is not None:
                self.driver.defer(self.on_notify, notify)
        else:
            _log.debug("[%s] message of type %d is not for clients", session.name, header.type)

    def _on_reply(self, session: Session, message: Message) -> None:
        tid = message.header.tid
        reply = decode_reply(message.front, message.header.version)
        with self._claims:
            op: Op | None = session.ops.get(tid)
            if op is None:
                return
            if op.done:  # of one that was given up while it was sent again
                session.ops.pop(tid, None)
                session.aio.discard(tid)
                return
            if reply.attempt >= 0 and reply.attempt != op.attempt:
                return  # of an earlier attempt
            op.answering = True
        if reply.result == -errno.EAGAIN:
            with self.lock:
                session.ops.pop(op.tid, None)
                session.aio.discard(op.tid)
                op.session = None
                op.answering = op.receiving = False
                op.tid = next(self._tids)  # as a new request, or the same answer would be repeated
                op.paused = False
                self._homeless[op.tid] = op
                from_replica = op.replica_of is not None
                op.flags &= ~REPLICA_READS
                if from_replica:
                    self.driver.defer(self._rehome)  # it cannot answer now; the primary can
                else:
                    self._rehome_in(RECONNECT_DELAY)
            return
        if reply.redirected:
            self._redirect(session, op, message)
            return
        op.user_version = reply.user_version
        try:
            op.set_result(op.finish(op, reply, message.data))
        except Error as e:
            op.set_error(e)
        except DecodeError as e:
            op.set_error(make_ex(-errno.EBADMSG, str(e)))
        session.ops.pop(op.tid, None)
        session.aio.discard(op.tid)
        if reply.result == -errno.ESHUTDOWN:
            self.driver.defer(self._shut_out)

    def _redirect(self, session: Session, op: Op, message: Message) -> None:
        """The object is elsewhere: asks there, as a new request."""
        try:
            locator, oid = decode_redirect(message.front, message.header.version)
        except DecodeError as e:
            session.ops.pop(op.tid, None)
            session.aio.discard(op.tid)
            op.set_error(make_ex(-errno.EBADMSG, str(e)))
            return
        with self.lock:
            session.ops.pop(op.tid, None)
            session.aio.discard(op.tid)
            base = op.base
            op.redirect = Target(
                locator.pool if locator.pool >= 0 else base.pool,
                oid or base.oid,
                locator.nspace or base.nspace,
                locator.key or base.key,
            )
            _log.debug("%r is redirected to %s", op, op.redirect)
            op.flags |= FLAG_REDIRECTED | FLAG_IGNORE_CACHE | FLAG_IGNORE_OVERLAY
            op.session = None
            op.answering = op.receiving = False
            op.attempt = 0
            op.tid = next(self._tids)
            self._homeless[op.tid] = op
        self.driver.defer(self._rehome)

    def _on_backoff(self, session: Session, message: MOSDBackoff) -> None:
        """The OSD cannot take requests for a group, or for some objects of it, now
        (doc/dev/osd_internals/backoff.rst). We hold back the whole group until all of its
        backoffs have ended: requests that could have gone wait with those that could not."""
        key = (message.pgid.pgid.pool, message.pgid.pgid.seed)
        if message.op == BACKOFF_OP_BLOCK:
            with self.lock:
                if not session.alive:
                    return
                self.backoffs += 1
                self._backoffs.setdefault(id(session), {}).setdefault(key, set()).add(message.id)
                held = [op for op in list(session.ops.values()) if (op.target.pool, op.target.seed) == key]
                self._take_back([op for op in held if self._take(session, op)])
                session.queue.append(_BackoffAck(message))
            session.flush()
        elif message.op == BACKOFF_OP_UNBLOCK:
            touched: dict[int, Session] = {}
            with self.lock:
                held_back = self._backoffs.get(id(session), {})
                ids = held_back.get(key, set())
                ids.discard(message.id)
                if not ids:
                    held_back.pop(key, None)
                self._place_homeless(touched)
            self._flush(touched)

    def _backed_off(self, op: Op, osd: int) -> bool:
        if not self._backoffs:
            return False
        session = self._sessions.get(osd)
        return session is not None and (op.target.pool, op.target.seed) in self._backoffs.get(id(session), {})

    # ------------------------------------------------------------ maps

    def handle_map(self, message: MOSDMap) -> None:
        """Goes through the epochs of a message, and sends again what has a new place."""
        touched: dict[int, Session] = {}
        with self.lock:
            if self._closed is not None:
                return
            for epoch in sorted({*message.incremental_maps, *message.maps}):
                current = self.osdmap
                if current is not None and epoch <= current.epoch:
                    continue
                try:
                    if current is not None and epoch == current.epoch + 1 and epoch in message.incremental_maps:
                        new = current.apply(Incremental.decode(message.incremental_maps[epoch]))
                        skipped = False
                    elif epoch in message.maps:
                        new = OSDMap.decode_full(message.maps[epoch])
                        skipped = current is not None and epoch != current.epoch + 1
                    else:
                        continue
                except DecodeError as e:
                    _log.warning("osdmap %d cannot be decoded: %s", epoch, e)
                    break
                self.osdmap = new
                self._take_back(self._scan(new, skipped))
                self._drop_backoffs(new)
                if self.on_epoch is not None:
                    self.on_epoch(new, skipped)
                own = self._own_addr()
                if own is not None and own in new.blocklist:
                    self.driver.defer(self._shut_out)
            osdmap = self.osdmap
            if osdmap is None:
                return
            _log.debug("osdmap %d", osdmap.epoch)
            ready = [e for epoch, e in self._map_waiters if epoch <= osdmap.epoch]
            self._map_waiters = [(epoch, e) for epoch, e in self._map_waiters if epoch > osdmap.epoch]
            self._close_stale(osdmap)
            self._place_homeless(touched)
        self._flush(touched)
        for event in ready:
            event.set_result(osdmap.epoch)
        if message.newest_map > osdmap.epoch:
            self._want_map()
        if self.on_rehomed is not None:
            self.on_rehomed()

    def _scan(self, osdmap: OSDMap, skipped: bool) -> list[Op]:
        """Takes from their sessions the operations that must be sent again in `osdmap`."""
        moved = []
        for session in list(self._sessions.values()):
            for op in list(session.ops.values()):
                if op.done:
                    continue
                if not self._must_resend(op, osdmap, skipped):
                    continue
                if self._take(session, op):
                    moved.append(op)
                elif op.receiving and not op.answering:
                    # its answer is just being received into the caller's buffer, to which an answer
                    # from elsewhere must not be added
                    session.abort(ProtocolError("the map moved an operation whose answer was coming in"))
        return moved

    def _take(self, session: Session, op: Op) -> bool:
        """Takes `op` out of its session to send it elsewhere; False when its answer is there
        already, or coming into the caller's buffer. Under the lock."""
        with self._claims:
            if op.done or op.receiving or op.answering:
                return False
            session.ops.pop(op.tid, None)
        return True

    def _must_resend(self, op: Op, osdmap: OSDMap, skipped: bool) -> bool:
        """Objecter::_calc_target: another group, another primary, or the pool's wish."""
        if not self._aim(op, osdmap):
            return True
        target = op.target
        pool = osdmap.pools[op.base.pool]
        if pool.flags & FLAG_EIO:
            return True
        was_paused, op.paused = op.paused, self._paused(op, osdmap)
        if was_paused and not op.paused:
            return True  # it may have come to the OSD while that was not to serve it
        if pool.last_force_op_resend == osdmap.epoch and op.force_epoch < osdmap.epoch:
            op.force_epoch = osdmap.epoch
            return True
        if skipped:
            return True  # its group may have been elsewhere in between, and the OSD have dropped it
        if op.replica_of is not None and op.replica_of != osdmap.pg_interval(target.pool, target.seed):
            return True  # a replica drops what is from before the interval
        return (
            target.seed != op.sent_seed
            or target.primary != op.sent_primary
            or target.role != op.sent_role
            or target.pg_num != op.sent_pg_num  # a split or merge; perhaps not of this group
        )

    def _drop_backoffs(self, osdmap: OSDMap) -> None:
        """Those of groups that their OSD does not serve any more. It says when a backoff ends, but
        not for a group that it drops, as one that was merged into another; which may be made again."""
        for ident, held_back in self._backoffs.items():
            for pool, seed in list(held_back):
                info = osdmap.pools.get(pool)
                if (
                    info is None
                    or seed >= info.pg_num
                    or osdmap.pg_acting_primary(pool, seed)[0] != self._osd_of.get(ident)
                ):
                    del held_back[pool, seed]

    def _close_stale(self, osdmap: OSDMap) -> None:
        """Connections to OSDs that are down or have come back elsewhere."""
        for osd, session in list(self._sessions.items()):
            addr = osdmap.osd_addrs(osd).msgr2 if osdmap.is_up(osd) else None
            if addr != session.conn.target:
                session.abort(ProtocolError(f"osd.{osd} is not at {session.conn.target} in epoch {osdmap.epoch}"))

    def wait_for_map(self, epoch: int, deadline: float | None = None) -> Event[int]:
        """Done when we hold `epoch` or a newer one."""
        event: Event[int] = Event(
            self.driver,
            deadline=deadline,
            on_expire=lambda: TimedOut(f"no osdmap of epoch {epoch} in time", errno.ETIMEDOUT),
        )
        with self.lock:
            if self._closed is not None:
                event.set_error(self._closed)
            elif self.osdmap is not None and self.osdmap.epoch >= epoch:
                event.set_result(self.osdmap.epoch)
            else:
                self._map_waiters.append((epoch, event))
        return event

    def _shut_out(self) -> None:
        """The cluster does not serve us any more: everything fails, now and later. A blocklist
        is how others make sure that we do not write: an end of it must not let us go on as if
        nothing had been."""
        error = ConnectionShutdown("this client was blocklisted by the cluster; connect anew", errno.ESHUTDOWN)
        with self.lock:
            if self.blocklisted is not None or self._closed is not None:
                return
            self.blocklisted = error
            ops = self._unfinished()
        _log.warning("%s", error)
        for op in ops:
            self.cancel(op, error)
        if self.on_blocklisted is not None:
            self.on_blocklisted(error)

    # ------------------------------------------------------------ giving up

    def cancel(self, op: Op, error: Error) -> None:
        """Takes `op` out; a write may have happened all the same."""
        with self.lock:
            session = op.session
            if session is not None:
                session.ops.pop(op.tid, None)
                session.aio.discard(op.tid)
                if op.receiving and not op.done:
                    session.abort(ProtocolError("gave up an operation whose answer was coming in"))
            self._homeless.pop(op.tid, None)
        if session is not None and op.into is not None and self.driver.blocking:
            self._wait_for_buffer(session, op)
        op.set_error(error)

    @staticmethod
    def _wait_for_buffer(session: Session, op: Op) -> None:
        """Another thread may be receiving into the buffer of an operation that is given up, which
        its owner uses again afterwards. It stops as soon as it sees that the session is aborted."""
        end = time.monotonic() + MAX_LETTING_GO
        while (
            (op.receiving or op.answering)
            and not op.done
            and session.leader not in (None, op)
            and time.monotonic() < end
        ):
            time.sleep(0.0005)

    def describe(self, op: Op) -> str:
        """Where `op` is stuck, for an error message."""
        osdmap = self.osdmap
        if osdmap is None:
            return "there is no osdmap yet"
        where = f"epoch {osdmap.epoch}"
        if self.is_queued(op):
            return f"{self.in_flight[0]} others are in flight before it"
        if op.target.pool not in osdmap.pools:
            return f"pool {op.target.pool} is not in {where}"
        if self._paused(op, osdmap):
            return f"the cluster or pool is full or paused in {where}"
        if op.target.primary < 0:
            return f"placement group {op.target.pool}.{op.target.seed:x} has no OSD in {where}"
        session = op.session
        if session is None:
            return f"osd.{op.target.primary} (not connected, {where}) did not answer"
        return f"{session.name} ({session.state.value}, {where}) did not answer"

    def forget(self, error: Error) -> None:
        """In a child after fork: everything in flight is the parent's. The lock may be held
        by a thread that does not exist here."""
        self.lock = RLock()
        self._claims = RLock()
        self._budget = Lock()
        self._room = Condition(self._budget)
        self._closed = error
        self._queued.clear()
        self._sessions.clear()
        self._homeless.clear()

    def close(self, error: Error) -> None:
        """Fails everything that is in flight; later submits raise `error`."""
        with self.lock:
            self._closed = error
            sessions = list(self._sessions.values())
            ops = self._unfinished()
            waiters = [e for _, e in self._map_waiters]
            self._homeless.clear()
            self._queued.clear()
            self._map_waiters.clear()
            for timer in (self._expiry, self._pinger, self._rehome_timer):
                if timer is not None:
                    timer.cancel()
            self._sessions.clear()
            self._osd_of.clear()
        for c in (*ops, *waiters):
            c.set_error(error)
        for s in sessions:
            close_session(s, error)


def close_session(session: Session, error: BaseException) -> None:
    """Closes a session from outside: at once if nobody leads it, else by its leader."""
    me = object()
    session.abort(error)
    if session.lead(me):
        session.unlead(me)  # closes, as there is an error


class _BackoffAck(NamedTuple):
    message: MOSDBackoff

    def encode(self, session: Session) -> list[Buffer]:
        ack = self.message.replace(op=BACKOFF_OP_ACK_BLOCK)  # in the OSD's own epoch
        return session.conn.encode_message(0, ack.TYPE, ack.VERSION, ack.COMPAT, PRIO_DEFAULT, ack.to_bytes())


def _sink(ops: dict[int, Op], claims: RLock, tid: int, length: int) -> memoryview | None:
    """Where the data of a reply goes, for a read into the caller's buffer."""
    # only the first attempt: a later one could run beside what is left of the first
    op = ops.get(tid)
    if op is None or op.into is None or length > len(op.into):
        return None
    with claims:
        if op.attempt or op.done or ops.get(tid) is not op:
            return None
        op.receiving = True
    return op.into[:length]


def _finish_operation(op: Op, reply: Reply, data: bytes | None) -> OpReply:
    outputs = []
    at = 0
    data = data or b""
    for r in reply.ops:
        outputs.append(OpOutput(r.rval, data[at : at + r.length] if r.length else b""))
        at += r.length
    if at > len(data):
        raise DecodeError(f"the OSD announced {at} bytes and sent {len(data)}")
    result = OpReply(reply.result, tuple(outputs), reply.user_version)
    if reply.result < 0:
        op.failed = result
        raise make_ex(reply.result, f"error on {op.target}")
    return result
