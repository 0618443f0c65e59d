"""`Rados`: a connection to a cluster, its pools and commands.

:class:`ClusterHandle` is what both front doors share: configuration, state, what the maps
say. :class:`Rados` waits in the caller's thread.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

from ..errors import PyrbdError
from ..msgr.messages import LogEntry
from .client import Client
from .commands import LOG_PRIORITIES, inconsistent_pgs
from .config import Config
from .driver import ThreadDriver
from .exceptions import (
    Error,
    InvalidArgumentError,
    LogicError,
    ObjectNotFound,
    RadosStateError,
    TimedOut,
    make_ex,
)
from .ioctx import Ioctx
from .monclient import CommandReply
from .requests import data_of, int32, number, text

MONITOR_LEVELS = ["debug", "info", "warn", "warning", "err", "error", "sec"]


class Version:
    """The version of the module's API that this one follows."""

    def __init__(self, major: int, minor: int, extra: int) -> None:
        self.major = major
        self.minor = minor
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.extra}"


class ClusterHandle:
    """What the handles of both front doors share: configuration and state.

    Args:
        rados_id: of the client, as in ``admin``; `name` is the same with its type.
        clustername: what ``$cluster`` stands for in the configuration; else it is the name of
            the file without ``.conf``, or ``ceph``.
        conf_defaults: options that the file may override.
        conffile: a path, or "" for the default places (and ``$CEPH_CONF``); None reads none.
        conf: options that override the file.

    States are "configuring", "connected" and "shutdown"; a call in the wrong one raises
    :class:`RadosStateError`.
    """

    NO_CONF_FILE = -1
    DEFAULT_CONF_FILES = -2

    def __init__(
        self,
        rados_id: str | None = None,
        name: str | None = None,
        clustername: str | None = None,
        conf_defaults: Mapping[str, str] | None = None,
        conffile: str | int | None = NO_CONF_FILE,
        conf: Mapping[str, str] | None = None,
        flags: int = 0,
        context: object = None,
    ) -> None:
        self._client: Client | None = None
        self._shutdown = False
        self.monitor_callback: tuple[Callable[..., Any], Any] | None = None
        self.monitor_callback2: tuple[Callable[..., Any], Any] | None = None
        if context is not None:
            raise InvalidArgumentError("context= is a handle of librados, which is not there", errno.EINVAL)
        if rados_id and name:
            raise Error("Rados(): can't supply both rados_id and name")
        self.rados_id = rados_id
        self.parsed_args: Sequence[str] = []
        self.conf_defaults = conf_defaults
        self.conffile = conffile
        if name is None:
            name = "client.admin"
        entity = f"client.{text(rados_id, 'rados_id')}" if rados_id else text(name, "name")
        kind, dot, ident = entity.partition(".")
        if kind not in ("client", "mon", "osd", "mds", "mgr", "auth") or not dot or not ident:
            raise Error(f"rados_initialize failed with error code: {-errno.EINVAL}: {entity!r} is not a name")
        self._config: Config = _translate(
            Config, entity, text(clustername, "clustername", opt=True), defaults=conf_defaults
        )
        if conffile in (self.DEFAULT_CONF_FILES, ""):
            self.conf_read_file(None)
        elif conffile not in (self.NO_CONF_FILE, None):
            self.conf_read_file(text(conffile, "conffile"))
        for option, value in (conf or {}).items():
            self.conf_set(option, value)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self._config.name} {self.state}>"

    @property
    def client(self) -> Client:
        """The client under this handle, for code that builds on it."""
        if self._client is None:
            raise RadosStateError(f"You cannot perform that operation on a Rados object in state {self.state}.")
        return self._client

    @property
    def state(self) -> str:
        if self._shutdown:
            return "shutdown"
        return self._client.state if self._client is not None else "configuring"

    def require_state(self, *states: str) -> None:
        """Raises RadosStateError unless in one of `states`."""
        if self.state not in states:
            raise RadosStateError(f"You cannot perform that operation on a Rados object in state {self.state}.")

    def version(self) -> Version:
        """The version of librados whose API this is."""
        return Version(3, 0, 0)

    # ------------------------------------------------------------ configuration

    def conf_read_file(self, path: str | None = None) -> None:
        """Reads a ceph.conf; ObjectNotFound when there is none, InvalidArgumentError for
        its contents."""
        self.require_state("configuring", "connected")
        _translate(self._config.read_file, text(path, "path", opt=True) or None)

    def conf_parse_argv(self, args: Sequence[str]) -> list[str] | None:
        """Takes Ceph's options out of `args`; returns those that are left, None for none at all."""
        self.require_state("configuring", "connected")
        if not args:
            return None
        rest: list[str] = _translate(self._config.parse_argv, [text(a, "args") for a in args])
        self.parsed_args = args
        return rest

    def conf_parse_env(self, var: str | None = "CEPH_ARGS") -> None:
        """Takes options from an environment variable."""
        self.require_state("configuring", "connected")
        if var:
            _translate(self._config.parse_env, var)

    def conf_get(self, option: str) -> str | None:
        """The value of an option as text; None for an unknown one."""
        self.require_state("configuring", "connected")
        value: str | None = _translate(self._config.get, text(option, "option"))
        return value

    def conf_set(self, option: str, val: str) -> None:
        """Sets an option; ObjectNotFound for an unknown one, InvalidArgumentError for a
        value that is not of its type."""
        self.require_state("configuring", "connected")
        _translate(self._config.set, text(option, "option"), text(val, "val"))

    # ------------------------------------------------------------ what a connected client knows

    def get_instance_id(self) -> int:
        """The global id that the monitors gave us."""
        self.require_state("connected")
        return self.client.global_id

    def get_addrs(self) -> str:
        """Our own addresses, as the cluster sees them."""
        self.require_state("configuring", "connected")
        return str(self.client.addrs) if self.state == "connected" else "-"

    def get_fsid(self) -> str:
        """The cluster's id."""
        self.require_state("connected")
        return self.client.fsid

    def list_pools(self) -> list[str]:
        """The names of all pools."""
        self.require_state("connected")
        return [name for _, name in sorted(self.client.osdmap.pool_names.items())]

    def get_pool_base_tier(self, pool_id: int) -> int:
        """The pool that a cache tier is for; `pool_id` itself if it is not one."""
        self.require_state("connected")
        pool = self.client.osdmap.pools.get(number(pool_id, "pool_id", -1 << 63, (1 << 63) - 1))
        if pool is None:
            raise ObjectNotFound(f"get_pool_base_tier({pool_id})", errno.ENOENT)
        return pool.tier_of if pool.tier_of >= 0 else pool_id

    def pool_reverse_lookup(self, pool_id: int) -> str | None:
        """The name of a pool, or None."""
        self.require_state("connected")
        pool_id = number(pool_id, "pool_id", -1 << 63, (1 << 63) - 1)
        return self.client.osdmap.pool_names.get(pool_id)


class Rados(ClusterHandle):
    """A connection to a cluster; a context manager. See :class:`ClusterHandle` for arguments."""

    def __enter__(self) -> Rados:
        self.connect()
        return self

    def __exit__(self, *args: object) -> Literal[False]:
        self.shutdown()
        return False

    def __del__(self) -> None:
        if getattr(self, "_client", None) is not None:
            self.shutdown()

    # ------------------------------------------------------------ connection

    def connect(self, timeout: float = 0) -> None:
        """Connects.

        Args:
            timeout: seconds; 0 for the option `client_mount_timeout` (300 s). Ceph's own
                binding ignores it.
        Raises:
            TimedOut, PermissionDeniedError, ObjectNotFound, InvalidArgumentError, OSError.
        """
        self.require_state("configuring")
        client = self._client = Client(self._config, ThreadDriver())
        try:
            client.run(client.connect(timeout or None))
        except BaseException:
            self._client = None
            client.shutdown()
            raise

    def shutdown(self) -> None:
        """Disconnects; calls that other threads wait in fail with ConnectionShutdown. What was written to images that
        are open is stored before."""
        self._shutdown = True
        client = self._client
        if client is not None:
            if client.caches and client.state == "connected" and not client.forked:
                client.run(client.store())
            client.shutdown()

    def wait_for_latest_osdmap(self) -> int:
        """Returns when we hold the newest map; returns 0."""
        self.require_state("connected")
        self.client.run(self.client.wait_for_latest_osdmap())
        return 0

    # ------------------------------------------------------------ pools

    def pool_exists(self, pool_name: str) -> bool:
        """Whether a pool of that name exists, now."""
        return self.pool_lookup(pool_name) is not None

    def pool_lookup(self, pool_name: str) -> int | None:
        """The number of a pool, or None."""
        self.require_state("connected")
        try:
            return self.client.run(self.client.lookup_pool(text(pool_name, "pool_name")))
        except ObjectNotFound:
            return None

    def create_pool(self, pool_name: str, crush_rule: int | None = None, auid: int | None = None) -> None:
        """Creates a replicated pool. ObjectExists if there is one of that name. `auid` has had
        no meaning since luminous."""
        self.require_state("connected")
        rule = -1 if crush_rule is None else number(crush_rule, "crush_rule", 0, 255)
        self.client.run(self.client.create_pool(text(pool_name, "pool_name"), rule))

    def delete_pool(self, pool_name: str) -> None:
        """Deletes a pool and all that is in it. ObjectNotFound if there is none,
        PermissionError unless the monitors allow it (`mon_allow_pool_delete`)."""
        self.require_state("connected")
        self.client.run(self.client.delete_pool(text(pool_name, "pool_name")))

    def get_cluster_stats(self) -> dict[str, int]:
        """{kb, kb_used, kb_avail, num_objects}."""
        self.require_state("connected")
        return self.client.run(self.client.cluster_stats())

    def open_ioctx(self, ioctx_name: str) -> Ioctx:
        """Opens a pool by name. ObjectNotFound if there is none."""
        self.require_state("connected")
        name = text(ioctx_name, "ioctx_name")
        return Ioctx(self, self.client.run(self.client.lookup_pool(name)), name)

    def open_ioctx2(self, pool_id: int) -> Ioctx:
        """Opens a pool by number."""
        self.require_state("connected")
        pool_id = number(pool_id, "pool_id", -1 << 63, (1 << 63) - 1)
        name = self.client.osdmap.pool_names.get(pool_id)
        if name is None:
            self.wait_for_latest_osdmap()
            name = self.client.osdmap.pool_names.get(pool_id)
        if name is None:
            raise ObjectNotFound(f"error opening pool id '{pool_id}'", errno.ENOENT)
        return Ioctx(self, pool_id, name)

    # ------------------------------------------------------------ commands

    def _command(self, coro: Coroutine[Any, Any, CommandReply]) -> tuple[int, bytes, str]:
        try:
            reply = self.client.run(coro)
        except TimedOut as e:
            return -errno.ETIMEDOUT, b"", str(e)
        return reply.result, reply.output, reply.status

    def mon_command(
        self, cmd: str, inbuf: Any, timeout: float = 0, target: str | int | None = None
    ) -> tuple[int, bytes, str]:
        """Runs a command of the monitors.

        Args:
            cmd: JSON text, as in ``{"prefix": "osd pool ls"}``.
            inbuf: what the command reads, such as a map to set.
            timeout: seconds, 0 for the option `rados_mon_op_timeout` (0: no limit). Ceph's
                own binding ignores it.
            target: the name or rank of one monitor; None for any.
        Returns:
            (return code, output, a line for people). A negative code is not an exception;
            -ETIMEDOUT is one of them.
        """
        self.require_state("connected")
        one = None if target is None else str(target) if isinstance(target, int) else text(target, "target")
        return self._command(self.client.mon_command(text(cmd, "cmd"), _input(inbuf), timeout or None, one))

    def mgr_command(
        self, cmd: str, inbuf: Any, timeout: float = 0, target: str | None = None
    ) -> tuple[int, bytes, str]:
        """Runs a command of the mgr's modules, or of the mgr that `target` names (``""`` for
        the active one) itself; see :meth:`mon_command`."""
        self.require_state("connected")
        one = None if target is None else text(target, "target")
        return self._command(self.client.mgr_command(text(cmd, "cmd"), _input(inbuf), timeout or None, one))

    def osd_command(self, osdid: int, cmd: str, inbuf: Any, timeout: float = 0) -> tuple[int, bytes, str]:
        """Runs a command of an OSD; see :meth:`mon_command`. The limit is the option
        `rados_osd_op_timeout`."""
        self.require_state("connected")
        if int32(osdid, "osdid") < 0:
            return -errno.EINVAL, b"", f"there is no osd.{osdid}"
        coro = self.client.osd_command(osdid, text(cmd, "cmd"), _input(inbuf), timeout or None)
        return self._command(coro)

    def pg_command(self, pgid: str, cmd: str, inbuf: Any, timeout: float = 0) -> tuple[int, bytes, str]:
        """Runs a command of the primary OSD of a placement group such as ``2.1f``."""
        self.require_state("connected")
        try:
            return self._command(
                self.client.pg_command(text(pgid, "pgid"), text(cmd, "cmd"), _input(inbuf), timeout or None)
            )
        except InvalidArgumentError as e:
            return -errno.EINVAL, b"", str(e)

    def ping_monitor(self, mon_id: str) -> str:
        """What a monitor says of itself, as JSON; of one that is not in the quorum only when we are
        connected. ObjectNotFound for a name that is not in the monitors' map, TimedOut after
        `mon_client_ping_timeout` seconds."""
        self.require_state("configuring", "connected")
        name = text(mon_id, "mon_id")
        if self.state == "connected":
            return self.client.run(self.client.ping_monitor(name))
        client = Client(self._config, ThreadDriver())
        try:
            return client.run(client.ping_monitor(name))
        finally:
            client.shutdown()

    def get_inconsistent_pgs(self, pool_id: int) -> list[str]:
        """The placement groups of a pool in which scrubbing found differences."""
        import json

        self.require_state("connected")
        cmd = {"prefix": "pg ls", "pool": number(pool_id, "pool_id"), "states": ["inconsistent"], "format": "json"}
        result, output, status = self.mgr_command(json.dumps(cmd), b"")
        if result:
            raise make_ex(result, f"error getting inconsistent pgs of pool {pool_id}: {status}")
        found: list[str] = _translate(inconsistent_pgs, output)
        return found

    # ------------------------------------------------------------ the cluster's log, services

    def monitor_log(self, level: str, callback: Callable[..., Any] | None = None, arg: Any = None) -> None:
        """Calls ``callback(arg, line, who, sec, nsec, seq, level, msg)`` (texts as bytes) for each
        line of the cluster's log of `level` or worse; None ends it.

        Args:
            level: debug, info, sec, warn or error.
        """
        self._watch_log(level, callback, arg, self._log_line)
        self.monitor_callback = (callback, arg) if callback is not None else None
        self.monitor_callback2 = None

    def monitor_log2(self, level: str, callback: Callable[..., Any] | None = None, arg: Any = None) -> None:
        """As :meth:`monitor_log`, for ``callback(arg, line, channel, name, who, sec, nsec, seq,
        level, msg)``."""
        self._watch_log(level, callback, arg, self._log_line2)
        self.monitor_callback = None
        self.monitor_callback2 = (callback, arg) if callback is not None else None

    def _watch_log(
        self,
        level: str,
        callback: Callable[..., Any] | None,
        arg: Any,
        fields: Callable[[LogEntry], tuple[Any, ...]],
    ) -> None:
        self.require_state("connected")
        if level not in MONITOR_LEVELS:
            raise LogicError(f"invalid monitor level {level}")
        if callback is not None and not callable(callback):
            raise LogicError("callback must be a callable function or None")
        fn = callback
        self.client.commands.watch_log(level, None if fn is None else lambda entry: fn(arg, *fields(entry)))

    @staticmethod
    def _log_line(entry: LogEntry) -> tuple[Any, ...]:
        stamp = entry.stamp
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(stamp.sec))
        zone = time.strftime("%z", time.localtime(stamp.sec))
        level = LOG_PRIORITIES[entry.prio] if entry.prio < len(LOG_PRIORITIES) else "[???]"
        line = f"{when}.{stamp.nsec // 1000:06d}{zone} {entry.name} {level} {entry.text}"
        who = f"{entry.rank} {entry.addrs}"
        return line.encode(), who.encode(), stamp.sec, stamp.nsec, entry.seq, level.encode(), entry.text.encode()

    @classmethod
    def _log_line2(cls, entry: LogEntry) -> tuple[Any, ...]:
        line, who, *rest = cls._log_line(entry)
        return (line, entry.channel.encode(), str(entry.name).encode(), who, *rest)

    def service_daemon_register(self, service: str, daemon: str, metadata: Mapping[str, str]) -> None:
        """Shows this client as a daemon of a service in the cluster's service map."""
        self.require_state("connected")
        self.client.run(
            self.client.commands.register_service(
                text(service, "service"), text(daemon, "daemon"), dict(metadata), None
            )
        )

    def service_daemon_update(self, status: Mapping[str, str]) -> None:
        """Changes the status that it shows there."""
        self.require_state("connected")
        self.client.commands.update_service(dict(status))

    def blocklist_add(self, client_address: str, expire_seconds: int = 0) -> None:
        """Refuses all requests from an address from now on (`ceph osd blocklist add`).

        Args:
            expire_seconds: for how long; 0 for `mon_osd_blocklist_default_expire` (an hour).
        """
        self.require_state("connected")
        expire = number(expire_seconds, "expire_seconds", 0, 0xFFFFFFFF)
        self.client.run(self.client.blocklist_add(text(client_address, "client_address"), expire))


class MonitorLog:
    """The older way to call `Rados.monitor_log`."""

    def __init__(self, cluster: Rados, level: str, callback: Callable[..., Any] | None, arg: Any) -> None:
        self.level = level
        self.callback = callback
        self.arg = arg
        self.cluster = cluster
        self.cluster.monitor_log(level, callback, arg)


def _input(inbuf: Any) -> bytes:
    return inbuf.encode() if isinstance(inbuf, str) else bytes(data_of(inbuf or b"", "inbuf"))


def _translate(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls `fn`; what the lower layers raise becomes an exception of this module."""
    try:
        return fn(*args, **kwargs)
    except PyrbdError as e:
        raise make_ex(-e.errno, str(e)) from e
