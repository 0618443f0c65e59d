"""Object I/O in one pool and namespace: what the image layer and `rados.Ioctx` build on."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..denc import Decoder
from ..errors import DecodeError
from ..msgr.osdop import FLAG_WRITE, NOSNAP, OP_EXTENT, SNAPDIR, Reply
from ..msgr.osdop import Op as OpCode
from ..msgr.types import HObject, PgListResponse
from .exceptions import Error, make_ex
from .op import Op
from .operations import ObjectOperation, OpOutput, OpReply
from .straight import read_now
from .target import EMPTY_SNAPC, PgTarget, SnapContext, Target
from .watch import answering

if TYPE_CHECKING:
    from ..denc import Buffer
    from .client import Client
    from .completion import Made
    from .watch import Watch

__all__ = ["NOSNAP", "SNAPDIR", "IoContext", "ObjectOperation", "OpOutput", "OpReply", "SnapContext"]

_READ = int(OpCode.READ)
_WRITE = int(OpCode.WRITE)
_TARGETS_MAX = 4096


class IoContext:
    """A pool and a namespace of a connected client. Cheap; make as many as you like.

    Methods that begin with `submit` send at once and give a completion, so that many
    requests can be in flight; await them, or wait with `client.wait`.
    """

    __slots__ = ("_targets", "client", "flags", "key", "namespace", "pool_id")

    def __init__(self, client: Client, pool_id: int, namespace: str = "", key: str = "") -> None:
        self.client = client
        self.pool_id = pool_id
        self.namespace = namespace
        self.key = key
        """The locator key: hashed in place of the object's name."""
        self.flags = 0
        """Extra CEPH_OSD_FLAG_* for every request."""
        self._targets: dict[str, Target] = {}

    def __repr__(self) -> str:
        return f"<IoContext pool={self.pool_id} namespace={self.namespace!r}>"

    def with_namespace(self, namespace: str) -> IoContext:
        io = IoContext(self.client, self.pool_id, namespace, self.key)
        io.flags = self.flags
        return io

    def with_key(self, key: str) -> IoContext:
        io = IoContext(self.client, self.pool_id, self.namespace, key)
        io.flags = self.flags
        return io

    def with_pool(self, pool_id: int) -> IoContext:
        return IoContext(self.client, pool_id, self.namespace)

    def _target(self, oid: str) -> Target:
        target = self._targets.get(oid)
        if target is None:
            target = Target(self.pool_id, oid, self.namespace, self.key)
            if len(self._targets) >= _TARGETS_MAX:
                self._targets.clear()
            self._targets[oid] = target
        return target

    def _deadline(self) -> float | None:
        timeout = self.client.op_timeout
        return time.monotonic() + timeout if timeout else None

    # ------------------------------------------------------------ requests

    def submit(
        self,
        oid: str,
        operation: ObjectOperation,
        *,
        snapid: int = NOSNAP,
        snapc: SnapContext | None = None,
        background: bool = False,
        flags: int = 0,
        mtime: float | None = None,
        throttled: bool = True,
        made: Made | None = None,
    ) -> Op:
        """Sends a built operation; the result is an :class:`OpReply`, a failure the
        exception for its errno.

        Args:
            flags: more CEPH_OSD_FLAG_* for this request.
            mtime: what a write sets as the time of change, in seconds; None for now.
            throttled: False for what must not wait until others are finished.
            snapid: the snapshot to read from.
            snapc: the snapshots that a write must preserve.
            background: True when no thread is going to wait for the completion.
            made: gets the operation before it is sent, which then goes on when who waits for it is interrupted:
                even an interrupt of this call leaves it in the hands of the caller.
        """
        objecter = self.client.objecter
        op = objecter.operation(
            self._target(oid),
            operation,
            snapid=snapid,
            snapc=snapc or EMPTY_SNAPC,
            flags=self.flags | flags,
            deadline=self._deadline(),
        )
        op.throttled = throttled
        if made is not None:
            op.lasting = True
            made.append(op)
        if mtime is not None:
            op.mtime = (int(mtime), 0)
        return objecter.submit(op, background=background)

    def submit_read(
        self,
        oid: str,
        offset: int,
        length: int,
        *,
        snapid: int = NOSNAP,
        into: memoryview | None = None,
        background: bool = False,
        op_flags: int = 0,
    ) -> Op:
        """Reads up to `length` bytes (more than 0), fewer at the object's end.

        The result is `bytes`; or, when `into` (at least `length` writable bytes) is given,
        their number. `into` must stay untouched until the completion is done.
        """
        if offset < 0 or length <= 0:
            raise ValueError(f"read of {length} bytes at {offset}")
        objecter = self.client.objecter
        op = Op(
            objecter,
            self._target(oid),
            OP_EXTENT.pack(_READ, op_flags, offset, length, 0, 0, 0),
            1,
            b"",
            objecter.read_flags | self.flags,
            _finish_read,
            snapid=snapid,
            into=into,
            deadline=self._deadline() if self.client.op_timeout else None,
            cost=length,
        )
        return objecter.submit(op, background=background)

    def read_now(self, oid: str, offset: int, length: int, *, snapid: int = NOSNAP, op_flags: int = 0) -> bytes | Op:
        """As :meth:`submit_read`, for a caller who waits for nothing else: gives the data at once, or the operation."""
        if offset < 0 or length <= 0:
            raise ValueError(f"read of {length} bytes at {offset}")
        ops = OP_EXTENT.pack(_READ, op_flags, offset, length, 0, 0, 0)
        found = read_now(self, self._target(oid), ops, length, snapid, _finish_read)
        return self.submit_read(oid, offset, length, snapid=snapid, op_flags=op_flags) if found is None else found

    def submit_write(
        self,
        oid: str,
        offset: int,
        data: Buffer,
        *,
        snapc: SnapContext | None = None,
        background: bool = False,
        op_flags: int = 0,
        made: Made | None = None,
    ) -> Op:
        """Writes `data`, which must not change until the completion is done; result None. See :meth:`submit`."""
        if offset < 0 or not len(data):
            raise ValueError(f"write of {len(data)} bytes at {offset}")
        objecter = self.client.objecter
        op = Op(
            objecter,
            self._target(oid),
            OP_EXTENT.pack(_WRITE, op_flags, offset, len(data), 0, 0, len(data)),
            1,
            data,
            FLAG_WRITE | self.flags,
            _finish_write,
            snapc=snapc or EMPTY_SNAPC,
            deadline=self._deadline() if self.client.op_timeout else None,
            cost=len(data),
        )
        if made is not None:
            op.lasting = True
            made.append(op)
        return objecter.submit(op, background=background)

    async def operate(self, oid: str, operation: ObjectOperation, **kwargs: Any) -> OpReply:
        """:meth:`submit` and await."""
        reply: OpReply = await self.submit(oid, operation, **kwargs)
        return reply

    async def call(self, oid: str, cls: str, method: str, data: Buffer = b"", **kwargs: Any) -> bytes:
        """Runs one class method and gives its output."""
        reply: OpReply = await self.submit(oid, ObjectOperation().call(cls, method, data), **kwargs)
        return reply.ops[0].data

    async def list_page(self, cursor: HObject, count: int = 1024) -> PgListResponse:
        """The names of some objects of the namespace, from `cursor` on; go on from the
        response's `handle` until that is `max`. Begin with ``HObject()``."""
        client = self.client
        op = client.objecter.operation(
            PgTarget(self.pool_id, cursor.hash, self.namespace),
            ObjectOperation().pg_list(count, cursor.to_bytes(), client.osdmap.epoch),
            deadline=self._deadline(),
        )
        reply: OpReply = await client.objecter.submit(op)
        try:
            page = PgListResponse.decode(Decoder(reply.ops[0].data))
        except DecodeError as e:
            raise make_ex(-errno.EBADMSG, f"a listing of pool {self.pool_id}: {e}") from e
        if page.handle == cursor:
            raise make_ex(-errno.EBADMSG, f"a listing of pool {self.pool_id} does not go on after {cursor}")
        return page

    # ------------------------------------------------------------ watch and notify

    async def watch(
        self,
        oid: str,
        on_notify: Callable[[int, int, int, bytes], bytes | None],
        on_error: Callable[[Error], None] | None = None,
    ) -> Watch:
        """Watches an object until `Watch.close`.

        Args:
            on_notify: called with (notify id, cookie, the notifier's global id, payload);
                what it returns goes back to the notifier.
            on_error: called when the watch is lost for good.
        """
        return await self.client.watches.add(self, oid, answering(on_notify), on_error)

    async def notify(self, oid: str, payload: Buffer = b"", timeout_ms: int = 5000) -> bytes:
        """Tells all watchers and waits for their acknowledgements (or the timeout).

        Returns the encoded acknowledgements: map<(gid, cookie), blob>, vector<(gid, cookie)>
        of those that did not answer. Raises TimedOut when somebody did not.
        """
        return await self.client.watches.notify(self, oid, payload, timeout_ms)


def _finish_read(op: Op, reply: Reply, data: bytes | None) -> bytes | int:
    if reply.result < 0:
        raise make_ex(reply.result, f"read of {op.target}")
    into = op.into
    if into is None:
        data = data or b""
        if len(data) > op.cost:
            raise DecodeError(f"the OSD sent {len(data)} bytes, more than were asked for")
        return data
    if data is None:  # it is already there
        return reply.ops[0].length
    if len(data) > len(into):
        raise DecodeError(f"the OSD sent {len(data)} bytes, more than were asked for")
    into[: len(data)] = data
    return len(data)


def _finish_write(op: Op, reply: Reply, data: bytes | None) -> None:
    if reply.result < 0:
        raise make_ex(reply.result, f"write to {op.target}")
