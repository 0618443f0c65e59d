"""The API of Ceph's Python module `rados`, without librados.

`import pyrbd.rados as rados`, or `pyrbd.install_as_ceph()` and then `import rados`. Names,
arguments and exceptions are those of Ceph's binding; what differs is said where it does,
and in `docs/compatibility.md`.

A :class:`Rados` may be used by several threads. After `fork`, the child must connect again.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..errors import PyrbdError
from .client import Client
from .config import Config
from .driver import ThreadDriver
from .exceptions import (
    MAX_ERRNO,
    ConnectionShutdown,
    Error,
    ExtendMismatch,
    InProgress,
    InterruptedOrTimeoutError,
    InvalidArgumentError,
    IoctxStateError,
    IOError,
    IsConnected,
    LogicError,
    NoData,
    NoSpace,
    NotConnected,
    ObjectBusy,
    ObjectExists,
    ObjectNotFound,
    ObjectStateError,
    OSError,
    PermissionDeniedError,
    PermissionError,
    RadosStateError,
    TimedOut,
    make_ex,
)
from .io import IoContext
from .operations import ObjectOperation

__all__ = [
    "ADMIN_AUID",
    "ANONYMOUS_AUID",
    "LIBRADOS_ALL_NSPACES",
    "LIBRADOS_SNAP_HEAD",
    "MAX_ERRNO",
    "ConnectionShutdown",
    "Error",
    "ExtendMismatch",
    "IOError",
    "InProgress",
    "InterruptedOrTimeoutError",
    "InvalidArgumentError",
    "Ioctx",
    "IoctxStateError",
    "IsConnected",
    "LogicError",
    "NoData",
    "NoSpace",
    "NotConnected",
    "OSError",
    "ObjectBusy",
    "ObjectExists",
    "ObjectNotFound",
    "ObjectStateError",
    "PermissionDeniedError",
    "PermissionError",
    "Rados",
    "RadosStateError",
    "TimedOut",
    "Version",
    "make_ex",
]

ANONYMOUS_AUID = 0xFFFFFFFFFFFFFFFF
ADMIN_AUID = 0
LIBRADOS_SNAP_HEAD = 0xFFFFFFFFFFFFFFFE
LIBRADOS_ALL_NSPACES = "\001"

POOL_OP_CREATE = 1
POOL_OP_DELETE = 2


class Version(NamedTuple):
    """The version of the module's API that this one follows."""

    major: int
    minor: int
    extra: int


def _text(value: Any, name: str, *, opt: bool = False) -> str:
    """A str from str or UTF-8 bytes; TypeError for anything else, as in Ceph's binding."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    if value is None and opt:
        return ""
    raise TypeError(f"{name} must be a string")


def _data(value: Any, name: str) -> bytes | bytearray | memoryview:
    """Any contiguous bytes-like object; TypeError for str and the rest."""
    if isinstance(value, bytes | bytearray):
        return value
    try:
        view = memoryview(value)
    except TypeError:
        raise TypeError(f"{name} must be a bytes-like object, not {type(value).__name__}") from None
    return view if view.contiguous and view.format == "B" and view.ndim == 1 else view.cast("B")


class ClusterHandle:
    """What the handles of both front doors share: configuration and state.

    Args:
        rados_id: of the client, as in ``admin``; `name` is the same with its type.
        clustername: what ``$cluster`` stands for in the configuration; ``ceph``.
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
        if context is not None:
            raise InvalidArgumentError("context= is a handle of librados, which is not there", errno.EINVAL)
        if rados_id and name:
            raise Error("Rados(): can't supply both rados_id and name")
        self.rados_id = rados_id
        self.parsed_args: list[str] = []
        self.conf_defaults = conf_defaults
        self.conffile = conffile
        entity = f"client.{_text(rados_id, 'rados_id')}" if rados_id else _text(name or "client.admin", "name")
        self._config: Config = _translate(
            Config, entity, _text(clustername, "clustername", opt=True) or "ceph", defaults=conf_defaults
        )
        if conffile in (self.DEFAULT_CONF_FILES, ""):
            self.conf_read_file(None)
        elif conffile not in (self.NO_CONF_FILE, None):
            self.conf_read_file(_text(conffile, "conffile"))
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
        _translate(self._config.read_file, _text(path, "path", opt=True) or None)

    def conf_parse_argv(self, args: Sequence[str]) -> list[str]:
        """Takes Ceph's options out of `args`; returns those that are left."""
        self.require_state("configuring", "connected")
        rest: list[str] = _translate(self._config.parse_argv, list(args))
        return rest

    def conf_parse_env(self, var: str | None = "CEPH_ARGS") -> None:
        """Takes options from an environment variable."""
        self.require_state("configuring", "connected")
        if var:
            _translate(self._config.parse_env, var)

    def conf_get(self, option: str) -> str | None:
        """The value of an option as text; None for an unknown one."""
        self.require_state("configuring", "connected")
        value: str | None = _translate(self._config.get, _text(option, "option"))
        return value

    def conf_set(self, option: str, val: str) -> None:
        """Sets an option; ObjectNotFound for an unknown one, InvalidArgumentError for a
        value that is not of its type."""
        self.require_state("configuring", "connected")
        _translate(self._config.set, _text(option, "option"), _text(val, "val"))

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

    def pool_reverse_lookup(self, pool_id: int) -> str | None:
        """The name of a pool, or None."""
        self.require_state("connected")
        if not isinstance(pool_id, int):
            raise TypeError("pool_id must be an integer")
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
        """Disconnects; calls that other threads wait in fail with ConnectionShutdown."""
        self._shutdown = True
        if self._client is not None:
            self._client.shutdown()

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
            return self.client.run(self.client.lookup_pool(_text(pool_name, "pool_name")))
        except ObjectNotFound:
            return None

    def create_pool(self, pool_name: str, crush_rule: int | None = None, auid: int | None = None) -> None:
        """Creates a replicated pool. ObjectExists if there is one of that name."""
        self.require_state("connected")
        name = _text(pool_name, "pool_name")
        rule = -1 if crush_rule is None else crush_rule
        if not -1 <= rule <= 255:
            raise InvalidArgumentError(f"crush_rule {crush_rule} is not between 0 and 255", errno.EINVAL)
        if self.pool_exists(name):
            raise make_ex(-errno.EEXIST, f"error creating pool '{name}'")
        self.client.run(self.client.pool_op(POOL_OP_CREATE, name, 0, rule))

    def delete_pool(self, pool_name: str) -> None:
        """Deletes a pool and all that is in it. ObjectNotFound if there is none,
        PermissionError unless the monitors allow it (`mon_allow_pool_delete`)."""
        self.require_state("connected")
        name = _text(pool_name, "pool_name")
        pool = self.client.run(self.client.lookup_pool(name))
        # without the name: the monitors do nothing for a deletion that names an existing pool
        self.client.run(self.client.pool_op(POOL_OP_DELETE, "", pool))

    def get_cluster_stats(self) -> dict[str, int]:
        """{kb, kb_used, kb_avail, num_objects}."""
        self.require_state("connected")
        s = self.client.run(self.client.statfs())
        return {"kb": s.kb, "kb_used": s.kb_used, "kb_avail": s.kb_avail, "num_objects": s.num_objects}

    def open_ioctx(self, ioctx_name: str) -> Ioctx:
        """Opens a pool by name. ObjectNotFound if there is none."""
        self.require_state("connected")
        name = _text(ioctx_name, "ioctx_name")
        return Ioctx(self, self.client.run(self.client.lookup_pool(name)), name)

    def open_ioctx2(self, pool_id: int) -> Ioctx:
        """Opens a pool by number."""
        self.require_state("connected")
        if not isinstance(pool_id, int):
            raise TypeError("pool_id must be an integer")
        name = self.client.osdmap.pool_names.get(pool_id)
        if name is None:
            self.wait_for_latest_osdmap()
            name = self.client.osdmap.pool_names.get(pool_id)
        if name is None:
            raise ObjectNotFound(f"error opening pool id '{pool_id}'", errno.ENOENT)
        return Ioctx(self, pool_id, name)

    # ------------------------------------------------------------ commands

    def mon_command(
        self, cmd: str, inbuf: bytes, timeout: float = 0, target: str | int | None = None
    ) -> tuple[int, bytes, str]:
        """Runs a command of the monitors.

        Args:
            cmd: JSON text, as in ``{"prefix": "osd pool ls"}``.
            timeout: seconds, 0 for the option `rados_mon_op_timeout` (0: no limit).
            target: a named monitor; not supported yet.
        Returns:
            (return code, output, a line for people); a negative code is not an exception.
        """
        self.require_state("connected")
        if target is not None:
            raise make_ex(-errno.EOPNOTSUPP, "mon_command to a named monitor")
        text = _text(cmd, "cmd")
        reply = self.client.run(self.client.mon_command(text, bytes(inbuf or b""), timeout or None))
        return reply.result, reply.output, reply.status

    def blocklist_add(self, client_address: str, expire_seconds: int = 0) -> None:
        """Refuses all requests from an address from now on (`ceph osd blocklist add`)."""
        import json

        self.require_state("connected")
        address = _text(client_address, "client_address")
        for word in ("blocklist", "blacklist"):  # pacific renamed it
            cmd: dict[str, Any] = {"prefix": f"osd {word}", f"{word}op": "add", "addr": address}
            if expire_seconds:
                cmd["expire"] = float(expire_seconds)
            result, _, status = self.mon_command(json.dumps(cmd), b"")
            if result != -errno.EINVAL:
                break
        if result:
            raise make_ex(result, f"error blocklisting client '{address}': {status}")


class Ioctx:
    """A pool, and a namespace in it, to read and write objects. Made by `Rados.open_ioctx`."""

    def __init__(self, rados: Rados, pool_id: int, name: str) -> None:
        self.rados = rados
        self.name = name
        self.state = "open"
        self._client = rados.client
        self._io = IoContext(self._client, pool_id)
        self._last_version = 0
        self._pool_name = name
        self._locator = ""

    def __repr__(self) -> str:
        return f"<pyrbd.rados.Ioctx {self._pool_name!r} {self.state}>"

    def __enter__(self) -> Ioctx:
        return self

    def __exit__(self, *args: object) -> Literal[False]:
        self.close()
        return False

    def close(self) -> None:
        """Closes; further calls raise IoctxStateError."""
        self.state = "closed"

    def require_ioctx_open(self) -> None:
        """Raises IoctxStateError when closed."""
        if self.state != "open":
            raise IoctxStateError(f"The pool is {self.state}")

    def dup(self) -> Ioctx:
        """Another handle with the same settings."""
        self.require_ioctx_open()
        other = Ioctx(self.rados, self._io.pool_id, self.name)
        other._io = self._io.with_namespace(self._io.namespace)
        return other

    def get_pool_id(self) -> int:
        self.require_ioctx_open()
        return self._io.pool_id

    def get_pool_name(self) -> str:
        self.require_ioctx_open()
        return self._client.osdmap.pool_names.get(self._io.pool_id, self._pool_name)

    def set_namespace(self, nspace: str) -> None:
        """Objects are those of this namespace from now on; "" is the default one."""
        self.require_ioctx_open()
        text = _text(nspace, "nspace", opt=True)
        if text == LIBRADOS_ALL_NSPACES:
            raise make_ex(-errno.EOPNOTSUPP, "all namespaces at once")
        self._io = self._io.with_namespace(text)

    def get_namespace(self) -> str:
        self.require_ioctx_open()
        return self._io.namespace

    def get_last_version(self) -> int:
        """The version of the object that was read or written last."""
        self.require_ioctx_open()
        return self._last_version

    def application_enable(self, app_name: str, force: bool = False) -> None:
        """Marks the pool as used by an application, such as ``rbd``."""
        import json

        self.require_ioctx_open()
        cmd: dict[str, Any] = {
            "prefix": "osd pool application enable",
            "pool": self.get_pool_name(),
            "app": _text(app_name, "app_name"),
        }
        if force:
            cmd["yes_i_really_mean_it"] = True
        result, _, status = self.rados.mon_command(json.dumps(cmd), b"")
        if result:
            raise make_ex(result, f"error enabling application: {status}")
        self.rados.wait_for_latest_osdmap()

    def application_list(self) -> list[str]:
        self.require_ioctx_open()
        return sorted(self._client.osdmap.pools[self._io.pool_id].application_metadata)

    # ------------------------------------------------------------ objects

    def _operate(self, key: str, op: ObjectOperation, what: str) -> Any:
        self.require_ioctx_open()
        name = _text(key, "key")
        try:
            reply = self._client.wait(self._io.submit(name, op))
        except Error as e:
            raise _named(e, f"Ioctx.{what}({self._pool_name}): failed to {what} {name}") from None
        self._last_version = reply.user_version
        return reply

    def read(self, key: str, length: int = 8192, offset: int = 0) -> bytes:
        """Up to `length` bytes of an object from `offset`. ObjectNotFound if there is none."""
        self.require_ioctx_open()
        if length < 0 or offset < 0:
            raise InvalidArgumentError(f"read of {length} bytes at {offset}", errno.EINVAL)
        if length == 0:
            self.stat(key)
            return b""
        name = _text(key, "key")
        client = self._client
        try:
            data: bytes = client.wait(self._io.submit_read(name, offset, length))
        except Error as e:
            raise _named(e, f"Ioctx.read({self._pool_name}): failed to read {name}") from None
        return data

    def write(self, key: str, data: Any, offset: int = 0) -> int:
        """Writes `data` at `offset`; returns 0."""
        self._operate(key, _checked(lambda: ObjectOperation().write(offset, _data(data, "data"))), "write")
        return 0

    def write_full(self, key: str, data: Any) -> int:
        """Replaces the whole object; returns 0."""
        self._operate(key, ObjectOperation().write_full(_data(data, "data")), "write_full")
        return 0

    def append(self, key: str, data: Any) -> bool:
        """Appends; returns True."""
        self._operate(key, ObjectOperation().append(_data(data, "data")), "append")
        return True

    def trunc(self, key: str, size: int) -> int:
        """Cuts or extends the object to `size` bytes; returns 0."""
        self._operate(key, _checked(lambda: ObjectOperation().truncate(size)), "trunc")
        return 0

    def remove_object(self, key: str) -> bool:
        """Removes the object; ObjectNotFound if there is none. Returns True."""
        self._operate(key, ObjectOperation().remove(), "remove")
        return True

    def stat(self, key: str) -> tuple[int, time.struct_time]:
        """(size in bytes, time of last change)."""
        from ..denc import Decoder

        reply = self._operate(key, ObjectOperation().stat(), "stat")
        d = Decoder(reply.ops[0].data)
        return d.u64(), time.localtime(d.u32())

    def execute(self, key: str, cls: str, method: str, data: Any, length: int = 8192) -> tuple[int, bytes]:
        """Runs a method of an object class; (return value, output)."""
        op = _checked(lambda: ObjectOperation().call(_text(cls, "cls"), _text(method, "method"), _data(data, "data")))
        reply = self._operate(key, op, "execute")
        return reply.ops[0].rval, reply.ops[0].data

    def get_xattr(self, key: str, xattr_name: str) -> bytes:
        """An extended attribute; NoData if the object has none of that name."""
        op = ObjectOperation().getxattr(_text(xattr_name, "xattr_name"))
        data: bytes = self._operate(key, op, "get_xattr").ops[0].data
        return data

    def get_xattrs(self, oid: str) -> Iterator[tuple[str, bytes]]:
        """(name, value) of all extended attributes."""
        from ..denc import Decoder

        d = Decoder(self._operate(oid, ObjectOperation().getxattrs(), "get_xattrs").ops[0].data)
        return iter([(d.string(), d.blob()) for _ in range(d.count(8))] if d.remaining else [])

    def set_xattr(self, key: str, xattr_name: str, xattr_value: Any) -> bool:
        """Sets an extended attribute; returns True."""
        op = ObjectOperation().setxattr(_text(xattr_name, "xattr_name"), _data(xattr_value, "xattr_value"))
        self._operate(key, op, "set_xattr")
        return True

    def rm_xattr(self, key: str, xattr_name: str) -> bool:
        """Removes an extended attribute; returns True."""
        self._operate(key, ObjectOperation().rmxattr(_text(xattr_name, "xattr_name")), "rm_xattr")
        return True


def _named(e: Error, what: str) -> Error:
    """The same error, saying what was being done."""
    if e.errno is None or isinstance(e, TimedOut | ConnectionShutdown):
        return e
    return make_ex(-e.errno, what)


def _checked(build: Callable[[], ObjectOperation]) -> ObjectOperation:
    try:
        return build()
    except ValueError as e:
        raise InvalidArgumentError(str(e), errno.EINVAL) from None


def _translate(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls `fn`; what the lower layers raise becomes an exception of this module."""
    try:
        return fn(*args, **kwargs)
    except PyrbdError as e:
        raise make_ex(-e.errno, str(e)) from e
