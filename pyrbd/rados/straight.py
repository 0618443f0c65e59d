"""The straight path of a small read: the caller's thread sends it and takes the answer, and nothing is made for it.

Most reads find a connection that is ready and on which nothing else is in flight. Such a one needs no operation
that could be found by others: it may be asked again. As soon as anything is not as usual (no answer within a moment,
another message, an error of the connection) it becomes an operation as any other, in the session's table.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any

from ..errors import DecodeError, ProtocolError, PyrbdError
from ..msgr.frames import MODE_CRC
from ..msgr.osdop import FLAG_KNOWN_REDIR, FLAG_SUPPORTSPOOLEIO, MSG_OSD_OPREPLY, decode_reply, first_read_tail
from .exceptions import make_ex
from .objecter import REPLICA_READS
from .op import Op

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..msgr.connection import Message
    from ..osdmap import OSDMap
    from .io import IoContext
    from .session import Session
    from .target import Target

_ALWAYS = FLAG_KNOWN_REDIR | FLAG_SUPPORTSPOOLEIO
_UNUSUAL = (-errno.EAGAIN, -errno.ESHUTDOWN)


def read_now(
    io: IoContext, target: Target, ops: bytes, length: int, snapid: int, finish: Callable[..., Any]
) -> bytes | Op | None:
    """Reads up to `length` bytes of an object.

    Args:
        ops: the encoded operation, one.
        finish: makes the result of an answer, where this becomes an operation.
    Returns:
        the data; or an operation that is to be waited for; or None when the path is not free: nothing was sent.
    Raises:
        what the answer says.
    """
    objecter = io.client.objecter
    osdmap = target.map
    flags = objecter.read_flags | io.flags
    if osdmap is None or flags & REPLICA_READS or not objecter.is_usual(osdmap):
        return None
    session = objecter.session_to(target.primary)
    if session is None or session.ops or session.conn.mode != MODE_CRC:
        return None
    leader = object()
    try:
        try:
            if not session.lead(leader):
                return None
            result, data = _exchange(io, session, osdmap, target, flags, ops, length, snapid, finish)
        finally:
            session.unlead(leader)
    except BaseException:
        session.unlead(leader)  # an interrupt may have come in the way of the first
        raise
    if result < 0:
        raise make_ex(result, f"read of {target}")
    return data


def _exchange(
    io: IoContext,
    session: Session,
    osdmap: OSDMap,
    target: Target,
    flags: int,
    ops: bytes,
    length: int,
    snapid: int,
    finish: Callable[..., Any],
) -> tuple[int, bytes | Op | None]:
    """Result, and what :func:`read_now` gives."""
    objecter = io.client.objecter
    tid = objecter.next_tid()
    try:
        front = target.read_head(osdmap.epoch, flags | _ALWAYS) + ops + first_read_tail(snapid)
        if not session.send_now(tid, front):
            return 0, None
        session.lead_count += 1
        n = session.receive_now()
        message = None
        if n:
            try:
                message = session.conn.only_message(n)
            except PyrbdError as e:
                session.abort(e)
                n = None
        if message is not None:
            result, data = _answer(message, tid, length)
            if data is not None:
                session.answered = True
                return result, data
        deadline = time.monotonic() + io.client.op_timeout if io.client.op_timeout else None
        op = Op(objecter, target, ops, 1, b"", flags, finish, snapid=snapid, deadline=deadline, cost=length)
        objecter.adopt(op, session, tid, osdmap)
        if message is not None:
            session.handle([message])
        elif n is not None:
            session.take(n)
    except BaseException as e:
        session.abort(e if isinstance(e, Exception) else ProtocolError("interrupted while receiving"))
        raise
    return 0, op


def _answer(message: Message, tid: int, length: int) -> tuple[int, bytes | None]:
    """Result and data; None as the data where it is not the usual answer to a read."""
    header, data = message.header, message.data
    if header.tid == tid and header.type == MSG_OSD_OPREPLY and data is not None and len(data) <= length:
        try:
            reply = decode_reply(message.front, header.version)
        except DecodeError:
            return 0, None
        ops, result = reply.ops, reply.result
        if len(ops) == 1 and ops[0].length == len(data) and not reply.redirected and reply.attempt <= 0:
            return result, None if result in _UNUSUAL else data
    return 0, None
