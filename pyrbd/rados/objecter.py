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
from collections.abc import Callable, Iterable
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any

from ..errors import AuthError, DecodeError, ProtocolError, errno_name
from ..log import Log
from ..msgr.messages import (
    BACKOFF_OP_BLOCK,
    BACKOFF_OP_UNBLOCK,
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
    FLAG_LOCALIZE_READS,
    FLAG_PGOP,
    FLAG_READ,
    FLAG_REDIRECTED,
    FLAG_RWORDERED,
    FLAG_WRITE,
    MSG_OSD_OPREPLY,
    NOSNAP,
    decode_redirect,
    decode_reply,
)
from ..msgr.types import EntityAddr
from ..osdmap import Incremental, OSDMap
from ..osdmap.pool import FLAG_EIO
from .backoff import Acknowledgement, Backoffs, group_of
from .completion import Event
from .exceptions import ConnectionShutdown, Error, TimedOut, make_ex
from .op import Op, finish_operation, sink
from .operations import ObjectOperation
from .target import EMPTY_SNAPC, SnapContext, Target
from .throttle import Throttle

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.connection import Connection, Message, Ready
    from ..msgr.frames import Sink
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


class Objecter:
    """The operations in flight of one client. See the module's text.

    Args:
        connect: makes a connection to an OSD (ticket and addresses are the client's business).
        want_map: called when a newer map is needed than the one we have; with True, when a whole one is, as what
            changes could not be decoded.
    """

    def __init__(
        self,
        driver: Driver,
        connect: Callable[[int, OSDMap, Sink], Connection],
        want_map: Callable[..., None],
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
        self.throttle = Throttle()
        self._claims = RLock()
        """Guards whose an operation is: the leader's, who is receiving or handling its answer
        (`Op.receiving`, `Op.answering`), or who holds `lock` and takes it out of its session."""
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
        self.backoffs = Backoffs()
        self._rehome_timer: Any = None
        self._rehome_due = 0.0
        self._rehome_soon = False
        self.on_epoch: Callable[[OSDMap, bool], None] | None = None
        """Called for each epoch under the lock; True when epochs before it were skipped."""
        self.on_rehomed: Callable[[], None] | None = None
        self.on_notify: Callable[[MWatchNotify], None] | None = None
        self.on_accepted: Callable[[], None] | None = None
        """Called when an OSD has let us in."""
        self.on_blocklisted: Callable[[Error], None] | None = None
        self.resends = 0
        """How often an operation was sent again, for those who want to know."""
        self._closed: Error | None = None

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
                if op.throttled and not self.throttle.admit(op):
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

    # ------------------------------------------------------------ the straight path of reads

    def is_usual(self, osdmap: OSDMap) -> bool:
        """Whether a read, of an object that was located by `osdmap`, needs nothing but to be sent."""
        return (
            self.osdmap is osdmap
            and self._closed is None
            and self.blocklisted is None
            and not self._homeless
            and not self.backoffs
            and not osdmap.any_pool_special
            and not osdmap.flags & OSDMap.PAUSERD
            and self.throttle.has_room
            and not _log.active
        )

    def session_to(self, osd: int) -> Session | None:
        """The connection to an OSD, where there is one."""
        return self._sessions.get(osd)

    def next_tid(self) -> int:
        return next(self._tids)

    def adopt(self, op: Op, session: Session, tid: int, osdmap: OSDMap) -> None:
        """`op` was sent as `tid` by who leads `session`: from now on it is known to everybody."""
        op.throttled = False
        with self.lock:
            if self._closed is not None:
                raise self._closed
            known = self.osdmap is osdmap and session.alive
            if known:
                target = op.target
                op.tid = tid
                op.gid = session.conn.global_id
                op.sent_seed = target.seed
                op.sent_primary = target.primary
                op.sent_role = target.role
                op.sent_pg_num = target.pg_num
                op.session = session
                session.ops[tid] = op
        if not known:
            self.submit(op)  # asked again

    # ------------------------------------------------------------ how much is in flight

    def release(self, op: Op) -> None:
        """`op` is finished: makes room for others."""
        if self.throttle.release(op):
            self.driver.defer(self._admit_queued)

    def _admit_queued(self) -> None:
        touched: dict[int, Session] = {}
        with self.lock:
            while (op := self.throttle.head()) is not None:
                if op.session is None and op.tid not in self._homeless:  # else it was, and an interrupt came
                    session = self._place_new(op, True)  # whoever waits for it may be asleep
                    if session is not None:
                        touched[id(session)] = session
                self.throttle.pop(op)
        self._flush(touched)

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

    def knows(self, op: Op) -> bool:
        """Whether `op` goes on by itself; not so when an interrupt came before it had a place."""
        with self.lock:
            return any(other is op for other in self._unfinished())

    def _unfinished(self) -> list[Op]:
        """All operations, wherever they are. Under the lock."""
        sent = [op for s in self._sessions.values() for op in list(s.ops.values())]
        return [*self.throttle.queued, *self._homeless.values(), *sent]

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
            finish_operation,
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
            conn = self._connect(osd, osdmap, lambda tid, length: sink(ops, self._claims, tid, length))
            session = Session(f"osd.{osd}", conn, self, self.driver, blocking=self.driver.blocking)
        except (ProtocolError, AuthError, OSError) as e:  # OSError: no file descriptor is left
            _log.warning("[osd.%d] %s", osd, e)
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

    def failures(self, osd: int) -> int:
        """How many connections to this OSD have failed since one did not."""
        return self._failures.get(osd, 0)

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
                self._retry_at.pop(osd, None)
        if self.on_accepted is not None:
            self.on_accepted()

    def on_closed(self, session: Session, error: BaseException) -> None:
        known = id(session) in self._osd_of
        refused = known and isinstance(error, AuthError) and not self._auth_failed(error)
        touched: dict[int, Session] = {}
        # in one go, or an operation that is submitted meanwhile would overtake those that are sent again
        with self.lock:
            osd = self._osd_of.pop(id(session), None)
            if osd is None:
                return
            held_back = self.backoffs.forget(session)
            if self._sessions.get(osd) is session:
                del self._sessions[osd]
            ops = [op for op in session.ops.values() if op.session is session]
            session.ops.clear()
            was_ready = bool(session.conn.features)
            if session.answered:  # else it may let us in for ever, and never serve us
                self._failures.pop(osd, None)
            if not refused:
                if not was_ready or any(op.lost >= MAX_LOST_REQUESTS for op in ops):
                    self._failed(osd)
                for op in ops:
                    op.lost += was_ready
                    if op.lost == MAX_LOST_REQUESTS:
                        _log.warning(
                            "[osd.%d] closed the connection %d times without an answer to %r", osd, op.lost, op
                        )
                self._take_back(ops)
            if not refused or held_back:  # the OSD's backoffs have ended with the connection
                self._place_homeless(touched)
        if self._closed is None:
            _log.info("[osd.%d] connection lost: %s", osd, error)
        if refused:
            assert isinstance(error, AuthError)
            _log.warning("osd.%d: %s", osd, error)
            for op in ops:
                refusal = make_ex(-error.errno, str(error))
                refusal.__cause__ = error
                op.set_error(refusal)
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
        if _log.active:
            size = f", {len(message.data)} bytes" if message.data else ""
            _log.debug(
                "[%s tid=%d] answer: %s%s",
                session.name,
                tid,
                errno_name(reply.result) if reply.result else "done",
                size,
            )
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
        ops = reply.ops
        length = ops[0].length if len(ops) == 1 else sum([r.length for r in ops])
        if length != (op.sunk if message.data is None else len(message.data)) or (
            len(reply.ops) != op.n_ops and reply.result >= 0
        ):
            op.answering = False
            raise ProtocolError(f"{session.name} answered {op!r} with operations or lengths that do not fit it")
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
        session.answered = True
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
            before = op.redirect
            op.redirect = Target(
                locator.pool if locator.pool >= 0 else base.pool,
                oid or base.oid,
                locator.nspace or base.nspace,
                locator.key or base.key,
            )
            _log.debug("[%s] %r is redirected to %s", session.name, op, op.redirect)
            op.flags |= FLAG_REDIRECTED | FLAG_IGNORE_CACHE | FLAG_IGNORE_OVERLAY
            op.session = None
            op.answering = op.receiving = False
            op.attempt = 0
            op.tid = next(self._tids)
            self._homeless[op.tid] = op
            if before is not None:  # from one place to the next, and perhaps for ever
                self._rehome_in(RECONNECT_DELAY)
        if before is None:
            self.driver.defer(self._rehome)

    def _on_backoff(self, session: Session, message: MOSDBackoff) -> None:
        """The OSD cannot take requests for a group now, or can again."""
        if message.op == BACKOFF_OP_BLOCK:
            with self.lock:
                if not session.alive:
                    return
                self.backoffs.begin(session, message)
                group = group_of(message)
                held = [op for op in list(session.ops.values()) if (op.target.pool, op.target.seed) == group]
                self._take_back([op for op in held if self._take(session, op)])
                session.queue.append(Acknowledgement(message))
            session.flush()
        elif message.op == BACKOFF_OP_UNBLOCK:
            touched: dict[int, Session] = {}
            with self.lock:
                self.backoffs.end(session, message)
                self._place_homeless(touched)
            self._flush(touched)

    def _backed_off(self, op: Op, osd: int) -> bool:
        return bool(self.backoffs) and self.backoffs.hold(self._sessions.get(osd), op.target.pool, op.target.seed)

    # ------------------------------------------------------------ maps

    def handle_map(self, message: MOSDMap) -> None:
        """Goes through the epochs of a message, and sends again what has a new place."""
        touched: dict[int, Session] = {}
        damaged = False
        with self.lock:
            if self._closed is not None:
                return
            if self.osdmap is not None and message.fsid != self.osdmap.fsid:
                _log.warning("osdmaps of another cluster, %s, are not heard", message.fsid.hex())
                return
            own = self._own_addr()
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
                    if new.epoch != epoch or new.fsid != message.fsid:
                        raise DecodeError(f"it says that it is epoch {new.epoch} of {new.fsid.hex()}")
                    new.crush  # noqa: B018 - decoded here, while there is still another map
                    shut_out = own is not None and own in new.blocklist
                except DecodeError as e:
                    _log.warning("osdmap %d cannot be decoded: %s", epoch, e)
                    damaged = True
                    break
                self.osdmap = new
                self._take_back(self._scan(new, skipped))
                self.backoffs.drop_stale(new, self._osd_of)
                if self.on_epoch is not None:
                    self.on_epoch(new, skipped)
                if shut_out:
                    self.driver.defer(self._shut_out)
            osdmap = self.osdmap
            if damaged:
                self._want_map(True)
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
        if message.newest_map > osdmap.epoch and not damaged:
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

    def _close_stale(self, osdmap: OSDMap) -> None:
        """Connections to OSDs that are down or have come back elsewhere."""
        for osd, session in list(self._sessions.items()):
            if not osdmap.is_up(osd) or session.conn.target not in osdmap.osd_addrs(osd).msgr2_addrs:
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
            return f"{self.throttle.in_flight[0]} others are in flight before it"
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
        self.throttle = Throttle()
        self._closed = error
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
            self.throttle.clear()
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
