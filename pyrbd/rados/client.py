"""One client of a cluster: configuration, monitors, maps, OSDs, and the driver under them.

Both front doors use it: `rados.Rados` with the blocking driver, `aio.Rados` on an event loop.
"""

from __future__ import annotations

import _thread
import atexit
import errno
import os
import random
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..errors import AuthError, ProtocolError, PyrbdError
from ..log import Log
from ..msgr.connection import Connection
from ..msgr.features import FEATURES_SUPPORTED
from ..msgr.frames import no_sink
from ..msgr.messages import (
    POOL_OP_CREATE,
    POOL_OP_CREATE_SNAP,
    POOL_OP_CREATE_UNMANAGED_SNAP,
    POOL_OP_DELETE,
    POOL_OP_DELETE_SNAP,
    POOL_OP_DELETE_UNMANAGED_SNAP,
    MonMap,
    MStatfsReply,
    ObjectStatSum,
)
from ..msgr.osdop import FLAG_BALANCE_READS, FLAG_LOCALIZE_READS, FLAG_READ
from ..msgr.types import ENTITY_TYPE_MON, ENTITY_TYPE_OSD, EntityAddr, EntityAddrVec
from ..osdmap import OSDMap
from .commands import Commands, Dialog, parse_pgid
from .completion import Completion, Event, Made, after_fork
from .exceptions import ConnectionShutdown, Error, ObjectNotFound, RadosStateError, TimedOut, make_ex
from .hunt import Candidate
from .messenger import MessengerOptions
from .monclient import CommandReply, MonClient, features_for_commands
from .monhost import find_monitors, needs_dns
from .objecter import Objecter
from .op import Op
from .tickets import Tickets
from .watch import Watches

if TYPE_CHECKING:
    from ..denc import Buffer
    from ..msgr.auth import Authenticator
    from ..msgr.frames import Sink
    from .config import Config
    from .session import Session

T = TypeVar("T")
_log = Log("client")


STORE_TIMEOUT = 30.0
"""Seconds that a shutdown may wait for what was written to images that are open."""


class Stores(Protocol):
    """What has something that is not stored yet."""

    async def settle(self) -> None: ...


class Driver(Protocol):
    """What moves bytes and time; see :mod:`pyrbd.rados.driver` and :mod:`pyrbd.rados.aiodriver`."""

    blocking: bool
    listening: bool
    ready_timeout: float

    def suspend(self, completion: Completion[Any]) -> Generator[Any, Any, None]: ...
    def register(self, session: Session) -> None: ...
    def unwatch(self, session: Session) -> None: ...
    def unregister(self, session: Session) -> None: ...
    def want_write(self, session: Session) -> None: ...
    def defer(self, fn: Callable[..., object], *args: Any) -> None: ...
    def call_later(self, delay: float, fn: Callable[[], object]) -> Any: ...
    def spawn(self, coro: Coroutine[Any, Any, T], made: Made | None = None) -> Completion[T]: ...
    def expect_calls(self) -> None: ...
    def call_back(
        self, fn: Callable[..., object], arguments: tuple[Any, ...], done: _thread.LockType | None
    ) -> None: ...
    def wake(self) -> None: ...
    def monotonic(self) -> float: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


READ_POLICIES = {"balance": FLAG_BALANCE_READS, "localize": FLAG_LOCALIZE_READS}
"""`rados_replica_read_policy`: what every read asks for."""

OBSERVED = frozenset(
    """
    crush_location rados_mon_op_timeout rados_osd_op_timeout rados_replica_read_policy
    ms_client_mode ms_crc_data ms_mon_client_mode
    ms_compress_secure ms_osd_compress_min_size ms_osd_compress_mode ms_osd_compression_algorithm
    """.split()  # noqa: SIM905
)
"""Options that take effect when they change."""

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """A connection to a cluster, however many sockets it takes."""

    def __init__(self, config: Config, driver: Driver) -> None:
        self.config = config
        self.driver = driver
        self.state = "configuring"
        self.forked = False
        self._ended = False
        """Whether a shutdown has come to its end."""
        self.op_timeout = 0.0
        self.sparse_copyup = True
        """Whether the OSDs have the class method of that name (octopus); False after one said no."""
        self.mon_timeout = 0.0
        self._nonce = random.getrandbits(32)
        self._global_seq = 0
        self._seq_lock = threading.Lock()
        self._messenger: MessengerOptions | None = None
        self.objecter = Objecter(
            driver, self._connect_osd, self._want_map, self._auth_failed, self._latest_map, self._own_addr
        )
        self.caches: weakref.WeakSet[Stores] = weakref.WeakSet()
        """Of open images."""
        self.watches = Watches(self)
        self.objecter.on_epoch = self.watches.note
        self.objecter.on_rehomed = self._map_changed
        self.objecter.on_notify = self.watches.on_notify
        self.objecter.on_accepted = lambda: self.accepted("osd")
        self.objecter.on_blocklisted = self.watches.fail_all
        self.mon: MonClient | None = None
        self.commands = Commands(self)
        self.dialogs: set[Dialog] = set()
        """Connections for single commands, while they last."""
        self.on_map: list[Callable[[], None]] = []
        """Called, in the driver, after the osdmap has changed or an OSD's connection was lost."""

    def _map_changed(self) -> None:
        self.watches.check()
        for fn in list(self.on_map):
            fn()

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

    def known_as(self, global_id: int) -> bool:
        """Whether that is, or was, our global id."""
        return global_id in self._mon().tickets.known_as

    @property
    def fsid(self) -> str:
        """The cluster's id as text."""
        monmap = self._mon().monmap
        assert monmap is not None
        return str(uuid.UUID(bytes=monmap.fsid))

    @property
    def addrs(self) -> EntityAddrVec:
        """Our own address, by which a cluster would blocklist us."""
        self._mon()
        addr = self._own_addr()
        return EntityAddrVec((addr,) if addr else ())

    def _own_addr(self) -> EntityAddr | None:
        return self.mon.own_addr if self.mon is not None else None

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

    def attend(self, completion: Completion[Any]) -> None:
        """Waits as :meth:`wait`, for an operation that goes on if the waiting is interrupted."""
        if not completion.done:
            self.driver.wait(completion)  # type: ignore[attr-defined]

    def spawn(self, coro: Coroutine[Any, Any, T], made: Made | None = None) -> Completion[T]:
        """Has one of our coroutines go on by itself.

        Args:
            made: gets the completion before the coroutine begins: even an interrupt of this call, which may leave
                it going on, leaves it in the hands of the caller.
        """
        if self.forked:
            coro.close()
            self.require_connected()
        return self.driver.spawn(coro, made)

    def wait_for_budget(self, op: Completion[Any]) -> None:
        """Holds up a thread that begins operations faster than the cluster ends them, until
        the one it began last may be sent."""
        while isinstance(op, Op) and self.objecter.is_queued(op):
            self.objecter.throttle.wait()

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
        mon = await self._prepare(deadline, limit)
        mon.on_subscribed = self.commands.on_front
        _clients.add(self)
        try:
            await mon.connect(deadline, limit)
        except BaseException:
            self._teardown(ConnectionShutdown("the connection was not made", errno.ESHUTDOWN))
            self.state = "configuring"
            raise
        self.state = "connected"
        self._configure()

    async def _prepare(self, deadline: float | None, limit: float) -> MonClient:
        """Reads what has to be known before a monitor is asked anything."""
        config = self.config
        try:
            self._messenger = MessengerOptions.from_config(config)
            monitors = await self._find_monitors(deadline, limit)
            tickets = Tickets.of(config)
        except PyrbdError as e:
            raise make_ex(-e.errno, str(e)) from e
        self.driver.ready_timeout = config.get_float("ms_connection_ready_timeout")
        self.mon = MonClient(
            self.driver,
            config,
            monitors,
            tickets,
            connect=self.connection,
            on_map=self.objecter.handle_map,
            on_config=config.set_from_monitors,
            osdmap_epoch=lambda: self.objecter.osdmap.epoch if self.objecter.osdmap else 0,
        )
        return self.mon

    async def _find_monitors(self, deadline: float | None, limit: float) -> list[Candidate]:
        """Where the monitors may be. The DNS is asked by a thread of its own: nobody says how long it
        takes, or that it can be interrupted."""
        if not needs_dns(self.config):
            return find_monitors(self.config)
        event: Event[list[Candidate]] = Event(
            self.driver,
            deadline=deadline,
            on_expire=lambda: TimedOut(
                f"the DNS did not say within {limit:g} s where the monitors are", errno.ETIMEDOUT
            ),
        )

        def ask() -> None:
            try:
                found = find_monitors(self.config)
            except Exception as e:
                self.driver.defer(event.set_error, e)
            else:
                self.driver.defer(event.set_result, found)

        threading.Thread(target=ask, name="pyrbd-dns", daemon=True).start()
        return await event

    def _configure(self) -> None:
        """Takes the options as they are now, those from the monitors among them. From now on some of
        them cannot be changed, and others only by reconnecting."""
        config, objecter = self.config, self.objecter
        config.set("fsid", self.fsid)
        objecter.throttle.max_ops = config.get_int("objecter_inflight_ops")
        objecter.throttle.max_bytes = config.get_int("objecter_inflight_op_bytes")
        self._config_changed(OBSERVED)
        config.observe(self._config_changed)
        config.started = True

    def _config_changed(self, names: frozenset[str]) -> None:
        """Some options are heeded when they change (`get_tracked_keys` in librados)."""
        config = self.config
        if not names & OBSERVED:
            return
        try:
            self._messenger = MessengerOptions.from_config(config)
        except PyrbdError as e:
            _log.warning("%s; connections are made as before", e)
        self.driver.ready_timeout = config.get_float("ms_connection_ready_timeout")
        self.op_timeout = config.get_float("rados_osd_op_timeout")
        self.mon_timeout = config.get_float("rados_mon_op_timeout")
        self.objecter.crush_location = config.crush_location()
        policy = config.get("rados_replica_read_policy") or "default"
        self.objecter.read_flags = FLAG_READ | READ_POLICIES.get(policy, 0)

    def shutdown(self) -> None:
        """Ends everything; what is in flight fails with ConnectionShutdown. Never hangs."""
        if self.forked:  # the lock may be held by a thread that does not exist here
            self.state = "shutdown"
            return
        if self._ended:
            return
        self.state = "shutdown"
        # All of it may be done twice: by several threads at once, or again after an interrupt.
        self._teardown(ConnectionShutdown("the client was shut down", errno.ESHUTDOWN))
        self.driver.close()
        self._ended = True
        _clients.discard(self)

    async def store(self) -> None:
        """Returns when what was written to open images is stored; not later than after `STORE_TIMEOUT`."""
        event: Event[None] = Event(self.driver)
        left = [self.spawn(cache.settle()) for cache in list(self.caches)]
        timer = self.driver.call_later(STORE_TIMEOUT, lambda: event.set_result(None))
        try:
            for settled in left:
                settled.add_done_callback(lambda _: event.set_result(None) if all(c.done for c in left) else None)
            if left:
                await event
        finally:
            timer.cancel()
        if not all(c.done for c in left):
            _log.warning("what was written to %d images was not stored in time, and is lost", len(left))

    def _teardown(self, error: Error) -> None:
        self.watches.close(error)
        self.commands.close(error)
        self.objecter.close(error)
        if self.mon is not None:
            self.mon.close(error)
        self.config.started = False
        if self.state != "shutdown":
            _clients.discard(self)

    # ------------------------------------------------------------ for the objecter

    def _connect_osd(self, osd: int, osdmap: OSDMap, sink: Sink) -> Connection:
        mon = self.mon
        assert mon is not None
        addrs = osdmap.osd_addrs(osd)
        addr = addrs.choose(self._own_addr(), self.objecter.failures(osd))
        if addr is None:
            raise ProtocolError(
                f"osd.{osd} has no msgr2 address ({addrs})",
                hint="set ms_bind_msgr2 = true on the OSDs; nautilus 14.2.11 or newer is needed",
            )
        return self.connection(ENTITY_TYPE_OSD, addr, mon.tickets.authorizer(ENTITY_TYPE_OSD), sink)

    def connection(self, kind: int, addr: EntityAddr, auth: Authenticator, sink: Sink = no_sink) -> Connection:
        """A new connection to a daemon, not started. Raises AuthError when no mode is left for it."""
        options = self._messenger
        assert options is not None
        return Connection(
            kind,
            addr,
            auth,
            own_nonce=self._nonce,
            global_id=self.mon.global_id if self.mon is not None else 0,
            global_seq=self._next_global_seq(0),
            next_global_seq=self._next_global_seq,
            modes=options.modes(kind),
            features=features_for_commands() if kind == ENTITY_TYPE_MON else FEATURES_SUPPORTED,
            compression=options.offer(kind),
            crc_data=options.crc_data,
            sink=sink,
        )

    def _next_global_seq(self, above: int) -> int:
        """Numbers our connections, each higher than those before and than `above`."""
        with self._seq_lock:
            self._global_seq = seq = max(self._global_seq, above) + 1
        return seq

    def _want_map(self, full: bool = False) -> None:
        if self.mon is not None:
            self.driver.defer(self.mon.want_map, full)

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
        """An OSD did not accept our ticket: see :meth:`renew_tickets`."""
        return self.renew_tickets(error, "osd")

    def accepted(self, kind: str) -> None:
        """A daemon of that kind, as in ``osd``, let us in."""
        if self.mon is not None:
            self.mon.tickets.accepted(kind)

    def renew_tickets(self, error: AuthError, kind: str) -> bool:
        """A daemon of that kind did not accept our ticket: gets another. False when that cannot help: it never
        let us in, the monitors do not have us any more, or we have no connection mode in common."""
        mon = self.mon
        if mon is None or error.errno == errno.EOPNOTSUPP or mon.tickets.hopeless(kind, time.monotonic()):
            return False
        _log.warning("%s; renewing tickets", error)
        self.driver.defer(mon.renew_tickets)
        return True

    # ------------------------------------------------------------ the cluster

    def _mon_deadline(self, timeout: float | None) -> float | None:
        limit = timeout or self.mon_timeout
        return time.monotonic() + limit if limit else None

    async def mon_command(
        self, cmd: str, inbuf: Buffer = b"", timeout: float | None = None, target: str | None = None
    ) -> CommandReply:
        """Runs a command, one JSON text, of the monitors, or of the one that `target` names or
        gives the rank of. Raises TimedOut after `timeout` seconds (or the option
        `rados_mon_op_timeout`)."""
        if target:
            return await self.commands.mon(target, cmd, inbuf, self._mon_deadline(timeout))
        return await self._mon().command((cmd,), inbuf, self._mon_deadline(timeout))

    async def mgr_command(
        self, cmd: str, inbuf: Buffer = b"", timeout: float | None = None, target: str | None = None
    ) -> CommandReply:
        """Runs a command of the active mgr's modules, or of the mgr itself if `target` names it."""
        self._mon()
        return await self.commands.mgr(target, cmd, inbuf, self._mon_deadline(timeout))

    async def osd_command(self, osd: int, cmd: str, inbuf: Buffer = b"", timeout: float | None = None) -> CommandReply:
        """Runs a command of an OSD."""
        self._mon()
        return await self.commands.osd(osd, cmd, inbuf, self._osd_deadline(timeout))

    async def pg_command(self, pgid: str, cmd: str, inbuf: Buffer = b"", timeout: float | None = None) -> CommandReply:
        """Runs a command of the primary OSD of a placement group, named as in ``2.1f``."""
        self._mon()
        pool, seed = parse_pgid(pgid)
        return await self.commands.pg(pool, seed, cmd, inbuf, self._osd_deadline(timeout))

    def _osd_deadline(self, timeout: float | None) -> float | None:
        limit = timeout or self.op_timeout
        return time.monotonic() + limit if limit else None

    async def ping_monitor(self, mon_id: str) -> str:
        """What a monitor says of itself, as JSON; before we are connected too. One without a quorum
        answers those who are.

        Raises:
            ObjectNotFound: there is none of that name; TimedOut after `rados_mon_op_timeout` seconds, or else
                `mon_client_ping_timeout`.
        """
        limit = self.mon_timeout or self.config.get_float("mon_client_ping_timeout")
        deadline = time.monotonic() + limit
        if self.state == "connected":
            return await self.commands.ping(mon_id, deadline)
        mon = await self._prepare(deadline, limit)
        return await self.commands.ping_any(mon_id, mon.known, deadline)

    @property
    def monmap(self) -> MonMap:
        """The newest map of the monitors that we hold."""
        monmap = self._mon().monmap
        assert monmap is not None
        return monmap

    def subscribe(self, what: str, start: int) -> None:
        self._mon().subscribe(what, start)

    def subscribed(self, what: str, start: int) -> None:
        self._mon().subscribed(what, start)

    def unsubscribe(self, what: str) -> None:
        self._mon().unsubscribe(what)

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

    async def create_pool(self, name: str, crush_rule: int = -1) -> None:
        """Creates a replicated pool. ObjectExists if there is one of that name."""
        if not -1 <= crush_rule <= 255:
            raise make_ex(-errno.EINVAL, f"crush_rule {crush_rule} is not between 0 and 255")
        try:
            await self.lookup_pool(name)
        except ObjectNotFound:
            await self.pool_op(POOL_OP_CREATE, name, 0, crush_rule)
        else:
            raise make_ex(-errno.EEXIST, f"error creating pool '{name}'")

    async def delete_pool(self, name: str) -> None:
        """Deletes a pool. ObjectNotFound if there is none, PermissionError unless the
        monitors allow it (`mon_allow_pool_delete`)."""
        pool = await self.lookup_pool(name)
        # without the name: the monitors do nothing for a deletion that names an existing pool
        await self.pool_op(POOL_OP_DELETE, "", pool)

    async def cluster_stats(self) -> dict[str, int]:
        s = await self.statfs()
        return {"kb": s.kb, "kb_used": s.kb_used, "kb_avail": s.kb_avail, "num_objects": s.num_objects}

    async def blocklist_add(self, client_address: str, expire_seconds: int = 0) -> None:
        """``osd blocklist add``; returns when our map shows it."""
        import json

        for word in ("blocklist", "blacklist"):  # pacific renamed it
            cmd: dict[str, Any] = {"prefix": f"osd {word}", f"{word}op": "add", "addr": client_address}
            if expire_seconds:
                cmd["expire"] = float(expire_seconds)
            reply = await self.mon_command(json.dumps(cmd))
            if reply.result != -errno.EINVAL:
                break
        if reply.result:
            raise make_ex(reply.result, f"error blocklisting client '{client_address}': {reply.status}")
        await self.wait_for_latest_osdmap()

    async def pool_stats(self, pool: int) -> dict[str, int]:
        """The usage of a pool, under librados' names."""
        name = self.osdmap.pool_names.get(pool)
        if name is None:
            raise ObjectNotFound(f"pool {pool} does not exist", errno.ENOENT)
        stats = (await self._mon().pool_stats(name, self._mon_deadline(None))).pool_stats.get(name)
        # a new pool has not been counted yet
        s = stats.stats.sum if stats is not None else ObjectStatSum()
        return {
            "num_bytes": s.num_bytes,
            "num_kb": (s.num_bytes + 1023) // 1024,
            "num_objects": s.num_objects,
            "num_object_clones": s.num_object_clones,
            "num_object_copies": s.num_object_copies,
            "num_objects_missing_on_primary": s.num_objects_missing_on_primary,
            "num_objects_unfound": s.num_objects_unfound,
            "num_objects_degraded": s.num_objects_degraded,
            "num_rd": s.num_rd,
            "num_rd_kb": s.num_rd_kb,
            "num_wr": s.num_wr,
            "num_wr_kb": s.num_wr_kb,
        }

    async def pool_application(self, pool: str, what: str, args: dict[str, Any], message: str) -> None:
        """``osd pool application enable|set|rm``; returns when our map shows it."""
        import json

        cmd = {"prefix": f"osd pool application {what}", "pool": pool, **args}
        reply = await self.mon_command(json.dumps(cmd))
        if reply.result:
            raise make_ex(reply.result, f"{message}: {reply.status}")
        await self.wait_for_latest_osdmap()

    async def create_pool_snap(self, pool: int, name: str) -> None:
        """A snapshot of a whole pool. ObjectExists if there is one of that name."""
        if self._pool_snap(pool, name) is not None:
            raise make_ex(-errno.EEXIST, f"Failed to create snap {name}")
        await self.pool_op(POOL_OP_CREATE_SNAP, name, pool)

    async def remove_pool_snap(self, pool: int, name: str) -> None:
        """ObjectNotFound if there is none of that name."""
        if self._pool_snap(pool, name) is None:
            await self.wait_for_latest_osdmap()
        if self._pool_snap(pool, name) is None:
            raise make_ex(-errno.ENOENT, f"Failed to remove snap {name}")
        await self.pool_op(POOL_OP_DELETE_SNAP, name, pool)

    def _pool_snap(self, pool: int, name: str) -> int | None:
        info = self.osdmap.pools.get(pool)
        if info is None:
            raise ObjectNotFound(f"pool {pool} does not exist", errno.ENOENT)
        return next((i for i, snap in info.snaps.items() if snap.name == name), None)

    async def create_selfmanaged_snap(self, pool: int) -> int:
        """A new snapshot id of a pool."""
        data = await self.pool_op(POOL_OP_CREATE_UNMANAGED_SNAP, "", pool)
        if len(data) != 8:
            raise make_ex(-errno.EBADMSG, f"a snapshot id of {len(data)} bytes")
        return int.from_bytes(data, "little")

    async def remove_selfmanaged_snap(self, pool: int, snapid: int) -> None:
        """Gives a snapshot id back; the OSDs remove what only it kept."""
        await self.pool_op(POOL_OP_DELETE_UNMANAGED_SNAP, "", pool, snapid=snapid)


def _before_fork() -> None:
    """Waits, not long, for imports of ours in other threads: in the child nobody would ever finish them, and who
    needs the same module would wait for its lock."""
    imported: dict[str, object] = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    end = time.monotonic() + 0.5
    while _clients and time.monotonic() < end:
        if not any(name.startswith(("pyrbd.", "cryptography.")) for name in list(imported)):
            break
        time.sleep(0.0005)


def _after_fork() -> None:
    """In the child: the sockets are the parent's, so they are let go without a word."""
    after_fork()
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
        if client.driver.blocking and client.state == "connected" and not client.forked and client.caches:
            client.run(client.store())
        client.shutdown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
atexit.register(_at_exit)
