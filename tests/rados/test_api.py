"""The names of the `rados` module: there, with the parameters, their order and defaults, of Ceph
tentacle (`src/pybind/rados/rados.pyx`); the classes of exceptions and their bases."""

from __future__ import annotations

import errno
import inspect
import pickle

import pytest

from pyrbd import rados

METHODS = """
Rados
    get_addrs()
    shutdown()
    version()
    conf_read_file(path=None)
    conf_parse_argv(args)
    conf_parse_env(var='CEPH_ARGS')
    conf_get(option)
    conf_set(option, val)
    ping_monitor(mon_id)
    connect(timeout=0)
    get_instance_id()
    get_cluster_stats()
    pool_exists(pool_name)
    pool_lookup(pool_name)
    pool_reverse_lookup(pool_id)
    create_pool(pool_name, crush_rule=None, auid=None)
    get_pool_base_tier(pool_id)
    delete_pool(pool_name)
    get_inconsistent_pgs(pool_id)
    list_pools()
    get_fsid()
    open_ioctx(ioctx_name)
    open_ioctx2(pool_id)
    mon_command(cmd, inbuf, timeout=0, target=None)
    osd_command(osdid, cmd, inbuf, timeout=0)
    mgr_command(cmd, inbuf, timeout=0, target=None)
    pg_command(pgid, cmd, inbuf, timeout=0)
    wait_for_latest_osdmap()
    blocklist_add(client_address, expire_seconds=0)
    monitor_log(level, callback=None, arg=None)
    monitor_log2(level, callback=None, arg=None)
    service_daemon_register(service, daemon, metadata)
    service_daemon_update(status)
Snap
    get_timestamp()
Completion
    is_safe()
    is_complete()
    wait_for_safe()
    wait_for_complete()
    wait_for_safe_and_cb()
    wait_for_complete_and_cb()
    get_return_value()
WriteOp
    create()
    release()
    new(exclusive=None)
    remove()
    set_flags(flags=0)
    set_xattr(xattr_name, xattr_value)
    rm_xattr(xattr_name)
    append(to_write)
    write_full(to_write)
    write(to_write, offset=0)
    assert_version(version)
    zero(offset, length)
    truncate(offset)
    execute(cls, method, data)
    writesame(to_write, write_len, offset=0)
    cmpext(cmp_buf, offset=0)
    omap_cmp(key, val, cmp_op=1)
ReadOp
    create()
    release()
    cmpext(cmp_buf, offset=0)
    set_flags(flags=0)
Watch
    get_id()
    check()
    close()
Ioctx
    dup()
    aio_stat(object_name, oncomplete)
    aio_write(object_name, to_write, offset=0, oncomplete=None, onsafe=None)
    aio_write_full(object_name, to_write, oncomplete=None, onsafe=None)
    aio_writesame(object_name, to_write, write_len, offset=0, oncomplete=None)
    aio_append(object_name, to_append, oncomplete=None, onsafe=None)
    aio_flush()
    aio_cmpext(object_name, cmp_buf, offset=0, oncomplete=None)
    aio_rmxattr(object_name, xattr_name, oncomplete=None)
    aio_read(object_name, length, offset, oncomplete=None)
    aio_execute(object_name, cls, method, data, length=8192, oncomplete=None, onsafe=None)
    aio_setxattr(object_name, xattr_name, xattr_value, oncomplete=None)
    aio_remove(object_name, oncomplete=None, onsafe=None)
    require_ioctx_open()
    set_locator_key(loc_key)
    get_locator_key()
    set_read(snap_id)
    set_namespace(nspace)
    get_namespace()
    close()
    write(key, data, offset=0)
    write_full(key, data)
    writesame(key, data, write_len, offset=0)
    append(key, data)
    read(key, length=8192, offset=0)
    execute(key, cls, method, data, length=8192)
    get_stats()
    remove_object(key)
    trunc(key, size)
    cmpext(key, cmp_buf, offset=0)
    stat(key)
    get_xattr(key, xattr_name)
    get_xattrs(oid)
    set_xattr(key, xattr_name, xattr_value)
    rm_xattr(key, xattr_name)
    notify(obj, msg='', timeout_ms=5000)
    aio_notify(obj, oncomplete, msg='', timeout_ms=5000)
    watch(obj, callback, error_callback=None, timeout=None)
    list_objects()
    list_snaps()
    get_pool_id()
    get_pool_name()
    create_snap(snap_name)
    remove_snap(snap_name)
    lookup_snap(snap_name)
    snap_rollback(oid, snap_name)
    create_self_managed_snap()
    remove_self_managed_snap(snap_id)
    set_self_managed_snap_write(snaps)
    rollback_self_managed_snap(oid, snap_id)
    get_last_version()
    create_write_op()
    create_read_op()
    release_write_op(write_op)
    release_read_op(read_op)
    set_omap(write_op, keys, values)
    operate_write_op(write_op, oid, mtime=0, flags=0)
    operate_aio_write_op(write_op, oid, oncomplete=None, onsafe=None, mtime=0, flags=0)
    operate_read_op(read_op, oid, flag=0)
    operate_aio_read_op(read_op, oid, oncomplete=None, onsafe=None, flag=0)
    get_omap_vals(read_op, start_after, filter_prefix, max_return, omap_key_type=bytes.decode)
    get_omap_keys(read_op, start_after, max_return, omap_key_type=bytes.decode)
    get_omap_vals_by_keys(read_op, keys, omap_key_type=bytes.decode)
    remove_omap_keys(write_op, keys)
    clear_omap(write_op)
    remove_omap_range2(write_op, key_begin, key_end)
    lock_exclusive(key, name, cookie, desc='', duration=None, flags=0)
    lock_shared(key, name, cookie, tag, desc='', duration=None, flags=0)
    unlock(key, name, cookie)
    break_lock(key, name, client, cookie)
    list_lockers(key, name)
    set_osdmap_full_try()
    unset_osdmap_full_try()
    application_enable(app_name, force=False)
    application_list()
    application_metadata_get(app_name, key)
    application_metadata_set(app_name, key, value)
    application_metadata_remove(app_name, key)
    application_metadata_list(app_name)
    alignment()
Object
    require_object_exists()
    read(length=1048576)
    write(string_to_write)
    remove()
    stat()
    seek(position)
    get_xattr(xattr_name)
    get_xattrs()
    set_xattr(xattr_name, xattr_value)
    rm_xattr(xattr_name)
"""


def methods() -> list[tuple[str, str, str]]:
    """(class, method, parameters) of each line."""
    rows, cls = [], ""
    for line in METHODS.strip().splitlines():
        if line.startswith(" "):
            method, _, parameters = line.strip().removesuffix(")").partition("(")
            rows.append((cls, method, parameters))
        else:
            cls = line
    return rows


@pytest.mark.parametrize(("cls", "method", "parameters"), methods())
def test_methods_have_the_parameters_of_cephs(cls: str, method: str, parameters: str) -> None:
    def shown(p: inspect.Parameter) -> str:
        if p.default is p.empty:
            return p.name
        return f"{p.name}={'bytes.decode' if p.default is bytes.decode else repr(p.default)}"

    ours = inspect.signature(getattr(getattr(rados, cls), method)).parameters
    assert ", ".join(shown(p) for p in ours.values() if p.name != "self") == parameters


CONSTANTS = {
    "LIBRADOS_OP_FLAG_EXCL": 1,
    "LIBRADOS_OP_FLAG_FAILOK": 2,
    "LIBRADOS_OP_FLAG_FADVISE_RANDOM": 4,
    "LIBRADOS_OP_FLAG_FADVISE_SEQUENTIAL": 8,
    "LIBRADOS_OP_FLAG_FADVISE_WILLNEED": 16,
    "LIBRADOS_OP_FLAG_FADVISE_DONTNEED": 32,
    "LIBRADOS_OP_FLAG_FADVISE_NOCACHE": 64,
    "LIBRADOS_CMPXATTR_OP_EQ": 1,
    "LIBRADOS_CMPXATTR_OP_NE": 2,
    "LIBRADOS_CMPXATTR_OP_GT": 3,
    "LIBRADOS_CMPXATTR_OP_GTE": 4,
    "LIBRADOS_CMPXATTR_OP_LT": 5,
    "LIBRADOS_CMPXATTR_OP_LTE": 6,
    "LIBRADOS_SNAP_HEAD": 2**64 - 2,
    "LIBRADOS_OPERATION_NOFLAG": 0,
    "LIBRADOS_OPERATION_BALANCE_READS": 1,
    "LIBRADOS_OPERATION_LOCALIZE_READS": 2,
    "LIBRADOS_OPERATION_ORDER_READS_WRITES": 4,
    "LIBRADOS_OPERATION_IGNORE_CACHE": 8,
    "LIBRADOS_OPERATION_SKIPRWLOCKS": 16,
    "LIBRADOS_OPERATION_IGNORE_OVERLAY": 32,
    "LIBRADOS_ALL_NSPACES": "\x01",
    "LIBRADOS_CREATE_EXCLUSIVE": 1,
    "LIBRADOS_CREATE_IDEMPOTENT": 0,
    "MAX_ERRNO": 4095,
    "ANONYMOUS_AUID": 2**64 - 1,
    "ADMIN_AUID": 0,
    "MONITOR_LEVELS": ["debug", "info", "warn", "warning", "err", "error", "sec"],
}


def test_constants() -> None:
    assert {name: getattr(rados, name) for name in CONSTANTS} == CONSTANTS
    assert rados.Rados.NO_CONF_FILE == -1 and rados.Rados.DEFAULT_CONF_FILES == -2


EXCEPTIONS = [
    (errno.EPERM, "PermissionError", "OSError"),
    (errno.ENOENT, "ObjectNotFound", "OSError"),
    (errno.EINTR, "InterruptedOrTimeoutError", "OSError"),
    (errno.EIO, "IOError", "OSError"),
    (errno.EACCES, "PermissionDeniedError", "OSError"),
    (errno.EBUSY, "ObjectBusy", "OSError"),
    (errno.EEXIST, "ObjectExists", "OSError"),
    (errno.EINVAL, "InvalidArgumentError", "Error"),
    (errno.ENOSPC, "NoSpace", "OSError"),
    (errno.ENODATA, "NoData", "OSError"),
    (errno.EISCONN, "IsConnected", "Error"),
    (errno.ENOTCONN, "NotConnected", "OSError"),
    (errno.ESHUTDOWN, "ConnectionShutdown", "OSError"),
    (errno.ETIMEDOUT, "TimedOut", "OSError"),
    (errno.EINPROGRESS, "InProgress", "Error"),
    (errno.EFBIG, "OSError", "Error"),
    (4100, "ExtendMismatch", "Error"),
]


@pytest.mark.parametrize(("code", "name", "base"), EXCEPTIONS)
def test_the_exception_of_an_errno(code: int, name: str, base: str) -> None:
    for sign in (1, -1):
        e = rados.make_ex(sign * code, "what")
        assert type(e) is getattr(rados, name) and type(e).__bases__ == (getattr(rados, base),)
        assert e.errno == code and str(e).startswith(f"[errno {code}] ") and "what" in str(e)
        again = pickle.loads(pickle.dumps(e))
        assert (type(again), str(again), again.errno) == (type(e), str(e), e.errno)
    if name == "ExtendMismatch":
        assert isinstance(e, rados.ExtendMismatch) and e.offset == 5


def test_exceptions_without_an_errno() -> None:
    for cls in (rados.RadosStateError, rados.IoctxStateError, rados.ObjectStateError, rados.LogicError):
        assert cls.__bases__ == (rados.Error,) and cls("what").errno is None
    assert rados.Error.__bases__ == (Exception,)
