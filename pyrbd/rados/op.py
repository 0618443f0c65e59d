"""One request in flight: what it asks, where it was sent, whose it is."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, Any

from ..log import Log
from ..msgr.messages import PRIO_DEFAULT
from ..msgr.osdop import (
    FLAG_KNOWN_REDIR,
    FLAG_READ,
    FLAG_RETRY,
    FLAG_SUPPORTSPOOLEIO,
    FLAG_WRITE,
    MSG_OSD_OP,
    NOSNAP,
    OP_COMPAT,
    OP_SIZE,
    OP_VERSION,
    Reply,
    encode_request,
    first_read_tail,
)
from ..msgr.osdop import Op as Code
from .completion import Completion
from .exceptions import TimedOut, make_ex
from .operations import OpOutput, OpReply
from .target import EMPTY_SNAPC, SnapContext, Target

if TYPE_CHECKING:
    from ..denc import Buffer
    from .objecter import Objecter
    from .session import Session

_log = Log("objecter")
_KIND = FLAG_READ | FLAG_WRITE | FLAG_RETRY


class Op(Completion[Any]):
    """One request in flight."""

    # what most requests never change is the class's: one is made for each read of 4 KiB
    redirect: Target | None = None
    throttled = True
    lasting = False
    """Whether it goes on when who waits for it is interrupted."""
    admitted = False
    paused = False
    tid = 0
    gid = 0
    """As whose request OSDs know it: our global id when it was sent first."""
    attempt = 0
    lost = 0
    receiving = False
    answering = False
    sunk = 0
    """Bytes of an answer that were announced, and received into `into`."""
    mtime = (0, 0)
    failed: OpReply | None = None
    """What came with an error: the operations before the one that failed may have outputs."""
    user_version = 0
    """The object's version that the answer tells, also when it tells of an error."""
    sent_seed = -1
    sent_primary = -1
    sent_role = -1
    sent_pg_num = 0
    replica_of: tuple[Any, ...] | None = None
    """The interval of the group in which it went to another OSD than the primary."""
    force_epoch = 0

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
        self.cost = cost
        """Bytes that it takes to keep it in flight; of a read, as many as are asked for."""
        self.ops = ops
        self.n_ops = n_ops
        self.data = data
        self.flags = flags
        self.finish = finish
        self.snapid = snapid
        self.snapc = snapc
        self.into = into
        self.deadline = deadline
        if flags & FLAG_WRITE:
            now = time.time_ns()
            self.mtime = (now // 1_000_000_000, now % 1_000_000_000)

    def __repr__(self) -> str:
        return f"<Op tid={self.tid} {self.target} attempt={self.attempt}{' done' if self.done else ''}>"

    def describe(self) -> str:
        """What it asks, for the log."""
        codes = [int.from_bytes(self.ops[at : at + 2], "little") for at in range(0, self.n_ops * OP_SIZE, OP_SIZE)]
        names = ", ".join(Code(c).name if c in Code._value2member_map_ else hex(c) for c in codes)
        again = f", attempt {self.attempt}" if self.attempt else ""
        epoch = self.target.map.epoch if self.target.map is not None else 0
        data = f", {len(self.data)} bytes" if self.data else ""
        return f"{names} of {self.target}{data}, by osdmap {epoch}{again}"

    def encode(self, session: Session) -> list[Buffer] | None:
        if self.session is not session or self.done:
            return None  # moved on, or given up, while it waited in the queue
        target = self.target
        osdmap = target.map
        assert osdmap is not None
        flags = self.flags | FLAG_KNOWN_REDIR | FLAG_SUPPORTSPOOLEIO
        if self.attempt:
            flags |= FLAG_RETRY
        if _log.active:
            _log.debug("[%s tid=%d] %s", session.name, self.tid, self.describe())
        gid = session.conn.global_id
        if not self.gid:
            self.gid = gid
        if flags & _KIND == FLAG_READ and self.n_ops == 1 and gid == self.gid and not self.snapc.seq:
            # most often: a read that is sent for the first time
            front = target.read_head(osdmap.epoch, flags) + self.ops + first_read_tail(self.snapid)
            return session.conn.encode_message(
                self.tid, MSG_OSD_OP, OP_VERSION, OP_COMPAT, PRIO_DEFAULT, front, self.data
            )
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
            (0, 0) if gid == self.gid else (self.gid, self.tid),
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
        if self.lasting and self.objecter.knows(self):
            self.data = bytes(self.data)  # its owner may go on with the buffer
            self.attend()
            session = self.session
            if session is not None:
                session.flush()  # it may have had a place, and not been sent
            return
        self.objecter.cancel(self, make_ex(-errno.ECANCELED, f"the wait for {self.target} was interrupted"))

    def expire(self) -> None:
        self.objecter.cancel(
            self,
            TimedOut(
                f"no answer for {self.target} in time; {self.objecter.describe(self)}",
                errno.ETIMEDOUT,
            ),
        )


def sink(ops: dict[int, Op], claims: RLock, tid: int, length: int) -> memoryview | None:
    """Where the data of a reply goes, for a read into the caller's buffer."""
    # only the first attempt: a later one could run beside what is left of the first
    op = ops.get(tid)
    if op is None or op.into is None or length > len(op.into):
        return None
    with claims:
        if op.attempt or op.done or ops.get(tid) is not op:
            return None
        op.receiving = True
        op.sunk = length
    return op.into[:length]


def finish_operation(op: Op, reply: Reply, data: bytes | None) -> OpReply:
    outputs = []
    at = 0
    data = data or b""
    for r in reply.ops:
        outputs.append(OpOutput(r.rval, data[at : at + r.length] if r.length else b""))
        at += r.length
    result = OpReply(reply.result, tuple(outputs), reply.user_version)
    if reply.result < 0:
        op.failed = result
        raise make_ex(reply.result, f"error on {op.target}")
    return result
