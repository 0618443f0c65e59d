"""One client of a cluster: configuration, monitors, maps, OSDs, and the driver under them.

Both front doors use it: `rados.Rados` with the blocking driver, `aio.Rados` on an event loop.
"""

from __future__ import annotations

import atexit
import errno
import os
import random
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import AuthError, ProtocolError, PyrbdError
from ..log import Log
from ..msgr.cephx import Authenticator, CephxAuthorizer, NoneAuthenticator
from ..msgr.connection import Connection
from ..msgr.messages import POOL_OP_CREATE_UNMANAGED_SNAP, POOL_OP_DELETE_UNMANAGED_SNAP, MStatfsReply
from ..msgr.types import ENTITY_TYPE_OSD, EntityAddrVec
from ..osdmap import OSDMap
from .completion import Completion
from .exceptions import ConnectionShutdown, Error, ObjectNotFound, RadosStateError, make_ex
from .keyring import find_key
from .monclient import CommandReply, MonClient
from .monhost import find_monitors
from .objecter import Objecter
from .watch import Watches

if TYPE_CHECKING:
    from ..msgr.frames import Sink
    from .config import Config
    from .session import Session

T = TypeVar("T")
_log = Log("client")


class Driver(Protocol):
    """What moves bytes and time; see :mod:`pyrbd.rados.driver` and :mod:`pyrbd.rados.aiodriver`."""

    blocking: bool

    def suspend(self, completion: Completion[Any]) -> Generator[Any, Any, None]: ...
    def register(self, session: Session) -> None: ...
    def unregister(self, session: Session) -> None: ...
    def want_write(self, session: Session) -> None: ...
    def defer(self, fn: Callable[..., object], *args: Any) -> None: ...
    def call_later(self, delay: float, fn: Callable[[], object]) -> Any: ...
    def wake(self) -> None: ...
    def monotonic(self) -> float: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


MAX_AUTH_FAILURES = 5
AUTH_FAILURE_WINDOW = 60.0
"""When OSDs refuse our tickets more often than that in so many seconds, requests fail."""

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """A connection to a cluster, however many sockets it takes."""

    def __init__(self, config: Config, driver: Driver) -> None:
        self.config = config
        self.driver = driver
        self.state = "configuring"
        self.forked = False
        self.op_timeout = 0.0
        self.mon_timeout = 0.0
        self._nonce = random.getrandbits(32)
        self._global_seq = count(1)
        self._auth_failures: list[float] = []
        self.objecter = Objecter(driver, self._connect_osd, self._want_map, self._auth_failed, self._latest_map)
        self.watches = Watches(self)
        self.objecter.on_rehomed = self.watches.check
        self.objecter.on_notify = self.watches.on_notify
        self.mon: MonClient | None = None

    # ------------------------------------------------------------ state

    @property
    def closed(self) -> bool:
        return self.state == "shutdown"

    @property
    def osdmap(self) -> OSDMap:
        """The newest map that we hold."""
        self.require_connected()
        osdmap = self.objecter.osdmap
        assert osdmap is not None
        return osdmap

    @property
    def global_id(self) -> int:
        return self._mon().global_id

    @property
    def fsid(self) -> str:
        """The cluster's id as text."""
        monmap = self._mon().monmap
        assert monmap is not None
        return str(uuid.UUID(bytes=monmap.fsid))

    @property
    def addrs(self) -> EntityAddrVec:
        """Our own address, by which a cluster would blocklist us."""
        addr = self._mon().own_addr
        return EntityAddrVec((addr,) if addr else ())

    def _mon(self) -> MonClient:
        self.require_connected()
        assert self.mon is not None
        return self.mon

    def require_connected(self) -> None:
        """Raises RadosStateError unless calls to the cluster are possible."""
        if self.forked:
            raise RadosStateError("this client was connected before a fork: connect again in the child process")
        if self.state != "connected":
            raise RadosStateError(f"You cannot perform that operation on a Rados object in state {self.state}.")

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Runs one of our coroutines in the caller's thread (the blocking driver's clients)."""
        if self.forked:
            coro.close()
            self.require_connected()
        return self.driver.run(coro)  # type: ignore[attr-defined,no-any-return]

    def wait(self, completion: Completion[T]) -> T:
        """Waits for one completion in the caller's thread, and gives its result."""
        if not completion.done:
            try:
                self.driver.wait(completion)  # type: ignore[attr-defined]
            except BaseException:
                completion.abandon()
                raise
        return completion.result()

    # ------------------------------------------------------------ connecting

    async def connect(self, timeout: float | None = None) -> None:
        """Logs in and gets the maps.

        Args:
            timeout: seconds; None for the option `client_mount_timeout`.
        Raises:
            TimedOut, PermissionDeniedError (key or name refused), ObjectNotFound (no
            monitor, keyring or key is configured), and OSError for the rest.
        """
        if self.state != "configuring":
            raise RadosStateError(f"You cannot perform that operation on a Rados object in state {self.state}.")
        config = self.config
        limit = timeout if timeout else config.get_float("client_mount_timeout")
        deadline = time.monotonic() + limit if limit else None
        try:
            addrs = find_monitors(config)
            methods = config.get_list("auth_supported") or config.get_list("auth_client_required")
            key = None
            if "cephx" in methods:
                try:
                    key = find_key(config)
                except PyrbdError as e:
                    if e.errno != errno.ENOENT or "none" not in methods or self._keyring_configured():
                        raise
                    _log.info("%s; trying without authentication", e)
                    key = None
                if key is not None:
                    key.check_usable()
                elif config.get("auth_client_required") != "none":
                    # a default configuration allows both; a cluster that wants none is rare
                    key = find_key(config)
        except PyrbdError as e:
            raise make_ex(-e.errno, str(e)) from e
        self.op_timeout = config.get_float("rados_osd_op_timeout")
        self.mon_timeout = config.get_float("rados_mon_op_timeout")
        self.mon = MonClient(
            self.driver,
            addrs,
            config.id,
            key,
            nonce=self._nonce,
            on_map=self.objecter.handle_map,
            osdmap_epoch=lambda: self.objecter.osdmap.epoch if self.objecter.osdmap else 0,
        )
        _clients.add(self)
        try:
            await self.mon.connect(deadline, limit)
        except BaseException:
            self._teardown(ConnectionShutdown("the connection was not made", errno.ESHUTDOWN))
            self.state = "configuring"
            raise
        self.state = "connected"

    def _keyring_configured(self) -> bool:
        return any(self.config.get(o) for o in ("key", "keyfile"))

    def shutdown(self) -> None:
        """Ends everything; what is in flight fails with ConnectionShutdown. Never hangs."""
        if self.state == "shutdown":
            return
        connected = self.state == "connected"
        self.state = "shutdown"
        if self.forked:
            return
        if connected:
            self._teardown(ConnectionShutdown("the client was shut down", errno.ESHUTDOWN))
        self.driver.close()

    def _teardown(self, error: Error) -> None:
        self.watches.close(error)
        self.objecter.close(error)
        if self.mon is not None:
            self.mon.close(error)
        _clients.discard(self)

    # ------------------------------------------------------------ for the objecter

    def _connect_osd(self, osd: int, osdmap: OSDMap, sink: Sink) -> Connection:
        mon = self.mon
        assert mon is not None
        addr = osdmap.osd_addrs(osd).msgr2
        if addr is None:
            raise ProtocolError(
                f"osd.{osd} has no msgr2 address ({osdmap.osd_addrs(osd)})", hint="set ms_bind_msgr2 = true on the OSDs"
            )
        auth: Authenticator
        ticket = mon.tickets.get(ENTITY_TYPE_OSD)
        if ticket is not None:
            auth = CephxAuthorizer(ticket, mon.global_id)
        elif mon.tickets:
            raise AuthError(f"{self.config.name} may not talk to OSDs: the monitors gave no ticket for them")
        else:
            auth = NoneAuthenticator(self.config.id, mon.global_id, mon=False)
        return Connection(
            ENTITY_TYPE_OSD,
            addr,
            auth,
            own_nonce=self._nonce,
            global_id=mon.global_id,
            global_seq=next(self._global_seq),
            sink=sink,
        )

    def _want_map(self) -> None:
        if self.mon is not None:
            self.driver.defer(self.mon.want_map)

    def _latest_map(self, then: Callable[[int], None]) -> None:
        """Calls `then` with the newest epoch once we hold it."""
        mon = self.mon
        if mon is None:
            return

        def known(c: Completion[int]) -> None:
            if c.error is None:
                epoch = c.result()
                self.objecter.wait_for_map(epoch).add_done_callback(lambda _: then(epoch))

        def ask() -> None:
            mon.want_map()
            mon.newest_epoch().add_done_callback(known)

        self.driver.defer(ask)

    def _auth_failed(self, error: AuthError) -> bool:
        """An OSD did not accept our ticket: gets another. False when that has not helped."""
        now = time.monotonic()
        self._auth_failures = [t for t in self._auth_failures if now - t < AUTH_FAILURE_WINDOW] + [now]
        n = len(self._auth_failures)
        if n > MAX_AUTH_FAILURES or self.mon is None:
            return False
        _log.warning("%s; renewing tickets", error)
        self.driver.call_later(0.1 * n, self.mon.renew_tickets)
        return True

    # ------------------------------------------------------------ the cluster

    def _mon_deadline(self, timeout: float | None) -> float | None:
        limit = timeout or self.mon_timeout
        return time.monotonic() + limit if limit else None

    async def mon_command(self, cmd: str, inbuf: bytes = b"", timeout: float | None = None) -> CommandReply:
        """Runs a command, one JSON text. Raises TimedOut after `timeout` seconds (or the
        option `rados_mon_op_timeout`)."""
        return await self._mon().command((cmd,), inbuf, self._mon_deadline(timeout))

    async def wait_for_latest_osdmap(self) -> int:
        """Returns the newest epoch, which we hold then."""
        mon = self._mon()
        epoch = await mon.newest_epoch("osdmap", self._mon_deadline(None))
        event = self.objecter.wait_for_map(epoch, self._mon_deadline(None))
        if not event.done:
            mon.want_map()
        return await event

    async def lookup_pool(self, name: str) -> int:
        """The number of a pool; asks for a newer map before saying that there is none.

        Raises:
            ObjectNotFound: no such pool.
        """
        found = self.osdmap.lookup_pool(name)
        if found is None:
            await self.wait_for_latest_osdmap()
            found = self.osdmap.lookup_pool(name)
        if found is None:
            raise ObjectNotFound(f"error opening pool '{name}'", errno.ENOENT)
        return found

    async def statfs(self) -> MStatfsReply:
        """The cluster's usage, in KiB."""
        return await self._mon().statfs(self._mon_deadline(None))

    async def pool_op(self, op: int, name: str, pool: int = 0, rule: int = -1, snapid: int = 0) -> bytes:
        """Creates or deletes a pool, or a self-managed snapshot id in one, and waits until
        our map shows it. Returns the monitor's data."""
        mon = self._mon()
        reply = await mon.pool_op(op, name, pool, self._mon_deadline(None), rule, snapid)
        event = self.objecter.wait_for_map(reply.epoch, self._mon_deadline(None))
        if not event.done:
            mon.want_map()
        await event
        return reply.data

    async def create_selfmanaged_snap(self, pool: int) -> int:
        """A new snapshot id of a pool."""
        from ..denc import Decoder

        return Decoder(await self.pool_op(POOL_OP_CREATE_UNMANAGED_SNAP, "", pool)).u64()

    async def remove_selfmanaged_snap(self, pool: int, snapid: int) -> None:
        """Gives a snapshot id back; the OSDs remove what only it kept."""
        await self.pool_op(POOL_OP_DELETE_UNMANAGED_SNAP, "", pool, snapid=snapid)


def _after_fork() -> None:
    """In the child: the sockets are the parent's, so they are let go without a word."""
    for client in list(_clients):
        client.forked = True
        error = RadosStateError("this client was connected before a fork: connect again in the child process")
        try:
            client.driver.abandon()
            client.objecter.forget(error)
            if client.mon is not None:
                client.mon.forget(error)
        except Exception:
            _log.exception("after fork")


def _at_exit() -> None:
    for client in list(_clients):
        client.shutdown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
