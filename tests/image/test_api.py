"""The names of the `rbd` module: there, with the parameters, their order and defaults, of Ceph
tentacle (`src/pybind/rbd/rbd.pyx`); the classes of exceptions and their bases."""

from __future__ import annotations

import errno
import inspect
import pickle
import subprocess
import sys

import pytest

from pyrbd import aio, rbd
from pyrbd.image.errors import make_ex

METHODS = """
Completion
    is_complete()
    wait_for_complete_and_cb()
    get_return_value()
RBD
    version()
    create(ioctx, name, size, order=None, old_format=False, features=None, stripe_unit=None, stripe_count=None,
        data_pool=None)
    clone(p_ioctx, p_name, p_snapshot, c_ioctx, c_name, features=None, order=None,
        stripe_unit=None, stripe_count=None, data_pool=None, clone_format=None)
    list(ioctx)
    list2(ioctx)
    remove(ioctx, name, on_progress=None)
    rename(ioctx, src, dest)
    trash_move(ioctx, name, delay=0)
    trash_purge(ioctx, expire_ts=None, threshold=-1)
    trash_remove(ioctx, image_id, force=False, on_progress=None)
    trash_get(ioctx, image_id)
    trash_list(ioctx)
    trash_restore(ioctx, image_id, name)
    pool_metadata_get(ioctx, key)
    pool_metadata_set(ioctx, key, value)
    pool_metadata_remove(ioctx, key)
    pool_metadata_list(ioctx)
    config_list(ioctx)
    config_get(ioctx, key)
    config_set(ioctx, key, value)
    config_remove(ioctx, key)
    namespace_create(ioctx, name)
    namespace_remove(ioctx, name)
    namespace_exists(ioctx, name)
    namespace_list(ioctx)
    pool_init(ioctx, force)
    pool_stats_get(ioctx)
    features_to_string(features)
    features_from_string(str_features)
    aio_open_image(oncomplete, ioctx, name=None, snapshot=None, read_only=False, image_id=None)
Image
    __init__(ioctx, name=None, snapshot=None, read_only=False, image_id=None)
    require_not_closed()
    close()
    aio_close(oncomplete)
    resize(size, allow_shrink=True)
    stat()
    get_name()
    id()
    block_name_prefix()
    data_pool_id()
    get_parent_image_spec()
    parent_info()
    parent_id()
    old_format()
    size()
    features()
    update_features(features, enabled)
    op_features()
    overlap()
    flags()
    group()
    is_exclusive_lock_owner()
    copy(dest_ioctx, dest_name, features=None, order=None, stripe_unit=None, stripe_count=None, data_pool=None)
    deep_copy(dest_ioctx, dest_name, features=None, order=None, stripe_unit=None, stripe_count=None,
        data_pool=None, clone_format=None, flatten=False)
    list_snaps()
    create_snap(name, flags=0)
    rename_snap(srcname, dstname)
    remove_snap(name)
    remove_snap2(name, flags)
    remove_snap_by_id(snap_id)
    rollback_to_snap(name)
    protect_snap(name)
    unprotect_snap(name)
    is_protected_snap(name)
    snap_exists(name)
    get_snap_limit()
    set_snap_limit(limit)
    get_snap_timestamp(snap_id)
    remove_snap_limit()
    set_snap(name)
    set_snap_by_id(snap_id)
    snap_get_name(snap_id)
    snap_get_id(snap_name)
    read(offset, length, fadvise_flags=0)
    diff_iterate(offset, length, from_snapshot, iterate_cb, include_parent=True, whole_object=False)
    write(data, offset, fadvise_flags=0)
    discard(offset, length)
    write_zeroes(offset, length, zero_flags=0)
    flush()
    invalidate_cache()
    stripe_unit()
    stripe_count()
    create_timestamp()
    access_timestamp()
    modify_timestamp()
    flatten(on_progress=None)
    sparsify(sparse_size)
    rebuild_object_map()
    list_children()
    list_children2()
    list_descendants()
    list_lockers()
    lock_acquire(lock_mode)
    lock_release()
    lock_get_owners()
    lock_break(lock_mode, lock_owner)
    lock_exclusive(cookie)
    lock_shared(cookie, tag)
    unlock(cookie)
    break_lock(client, cookie)
    aio_read(offset, length, oncomplete, fadvise_flags=0)
    aio_write(data, offset, oncomplete, fadvise_flags=0)
    aio_discard(offset, length, oncomplete)
    aio_write_zeroes(offset, length, oncomplete, zero_flags=0)
    aio_flush(oncomplete)
    metadata_get(key)
    metadata_set(key, value)
    metadata_remove(key)
    metadata_list()
    watchers_list()
    config_list()
    config_set(key, value)
    config_get(key)
    config_remove(key)
    snap_get_namespace_type(snap_id)
    snap_get_group_namespace(snap_id)
    snap_get_trash_namespace(snap_id)
    snap_get_mirror_namespace(snap_id)
"""


def methods() -> list[tuple[str, str, str]]:
    """(class, method, parameters) of each line."""
    rows, cls = [], ""
    for line in METHODS.strip().replace("\n        ", " ").splitlines():
        if line.startswith(" "):
            method, _, parameters = line.strip().removesuffix(")").partition("(")
            rows.append((cls, method, parameters))
        else:
            cls = line
    return rows


def shown(method: object) -> str:
    """The parameters of a method, without self."""
    assert callable(method)
    found = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in found)


@pytest.mark.parametrize(("cls", "method", "parameters"), methods())
def test_methods_have_the_parameters_of_cephs(cls: str, method: str, parameters: str) -> None:
    ours = getattr(getattr(rbd, cls), method)
    assert shown(ours) == parameters
    assert method.startswith("__") or ours.__doc__, "says what it does"


@pytest.mark.parametrize(
    ("cls", "method", "parameters"),
    [r for r in methods() if r[0] != "Completion" and not r[1].startswith("aio_")],
)
def test_asyncio_has_the_same_methods(cls: str, method: str, parameters: str) -> None:
    assert shown(getattr(getattr(aio, cls), method)) == parameters


def test_older_names_of_parameters() -> None:
    """`clone` has p_snapname in older releases."""
    with pytest.raises(TypeError, match="ioctx must be"):
        rbd.RBD().clone(None, "p", p_snapname="s", c_ioctx=None, c_name="c")  # type: ignore[call-arg, arg-type]


CONSTANTS = {
    "ECANCELED": 125,
    "MIRROR_IMAGE_STATUS_STATE_ERROR": 1,
    "MIRROR_IMAGE_STATUS_STATE_REPLAYING": 4,
    "MIRROR_IMAGE_STATUS_STATE_STARTING_REPLAY": 3,
    "MIRROR_IMAGE_STATUS_STATE_STOPPED": 6,
    "MIRROR_IMAGE_STATUS_STATE_STOPPING_REPLAY": 5,
    "MIRROR_IMAGE_STATUS_STATE_SYNCING": 2,
    "MIRROR_IMAGE_STATUS_STATE_UNKNOWN": 0,
    "RBD_CONFIG_SOURCE_CONFIG": 0,
    "RBD_CONFIG_SOURCE_IMAGE": 2,
    "RBD_CONFIG_SOURCE_POOL": 1,
    "RBD_ENCRYPTION_ALGORITHM_AES128": 0,
    "RBD_ENCRYPTION_ALGORITHM_AES256": 1,
    "RBD_ENCRYPTION_FORMAT_LUKS": 2,
    "RBD_ENCRYPTION_FORMAT_LUKS1": 0,
    "RBD_ENCRYPTION_FORMAT_LUKS2": 1,
    "RBD_FEATURES_ALL": 4095,
    "RBD_FEATURES_INCOMPATIBLE": 2179,
    "RBD_FEATURES_MUTABLE": 3164,
    "RBD_FEATURES_RW_INCOMPATIBLE": 4095,
    "RBD_FEATURES_SINGLE_CLIENT": 2140,
    "RBD_FEATURE_DATA_POOL": 128,
    "RBD_FEATURE_DEEP_FLATTEN": 32,
    "RBD_FEATURE_EXCLUSIVE_LOCK": 4,
    "RBD_FEATURE_FAST_DIFF": 16,
    "RBD_FEATURE_JOURNALING": 64,
    "RBD_FEATURE_LAYERING": 1,
    "RBD_FEATURE_MIGRATING": 512,
    "RBD_FEATURE_NON_PRIMARY": 1024,
    "RBD_FEATURE_OBJECT_MAP": 8,
    "RBD_FEATURE_OPERATIONS": 256,
    "RBD_FEATURE_STRIPINGV2": 2,
    "RBD_FLAG_FAST_DIFF_INVALID": 2,
    "RBD_FLAG_OBJECT_MAP_INVALID": 1,
    "RBD_GROUP_IMAGE_STATE_ATTACHED": 0,
    "RBD_GROUP_IMAGE_STATE_INCOMPLETE": 1,
    "RBD_GROUP_SNAP_NAMESPACE_TYPE_USER": 0,
    "RBD_GROUP_SNAP_STATE_COMPLETE": 1,
    "RBD_GROUP_SNAP_STATE_INCOMPLETE": 0,
    "RBD_IMAGE_MIGRATION_STATE_ABORTING": 5,
    "RBD_IMAGE_MIGRATION_STATE_ERROR": 0,
    "RBD_IMAGE_MIGRATION_STATE_EXECUTED": 4,
    "RBD_IMAGE_MIGRATION_STATE_EXECUTING": 3,
    "RBD_IMAGE_MIGRATION_STATE_PREPARED": 2,
    "RBD_IMAGE_MIGRATION_STATE_PREPARING": 1,
    "RBD_IMAGE_MIGRATION_STATE_UNKNOWN": -1,
    "RBD_IMAGE_OPTION_CLONE_FORMAT": 12,
    "RBD_IMAGE_OPTION_DATA_POOL": 10,
    "RBD_IMAGE_OPTION_FEATURES": 1,
    "RBD_IMAGE_OPTION_FLATTEN": 11,
    "RBD_IMAGE_OPTION_FORMAT": 0,
    "RBD_IMAGE_OPTION_ORDER": 2,
    "RBD_IMAGE_OPTION_STRIPE_COUNT": 4,
    "RBD_IMAGE_OPTION_STRIPE_UNIT": 3,
    "RBD_LOCK_MODE_EXCLUSIVE": 0,
    "RBD_LOCK_MODE_EXCLUSIVE_TRANSIENT": 2,
    "RBD_LOCK_MODE_SHARED": 1,
    "RBD_MIRROR_IMAGE_CREATING": 3,
    "RBD_MIRROR_IMAGE_DISABLED": 2,
    "RBD_MIRROR_IMAGE_DISABLING": 0,
    "RBD_MIRROR_IMAGE_ENABLED": 1,
    "RBD_MIRROR_IMAGE_MODE_JOURNAL": 0,
    "RBD_MIRROR_IMAGE_MODE_SNAPSHOT": 1,
    "RBD_MIRROR_MODE_DISABLED": 0,
    "RBD_MIRROR_MODE_IMAGE": 1,
    "RBD_MIRROR_MODE_INIT_ONLY": 3,
    "RBD_MIRROR_MODE_POOL": 2,
    "RBD_MIRROR_PEER_ATTRIBUTE_NAME_KEY": "key",
    "RBD_MIRROR_PEER_ATTRIBUTE_NAME_MON_HOST": "mon_host",
    "RBD_MIRROR_PEER_DIRECTION_RX": 0,
    "RBD_MIRROR_PEER_DIRECTION_RX_TX": 2,
    "RBD_MIRROR_PEER_DIRECTION_TX": 1,
    "RBD_OPERATION_FEATURE_CLONE_CHILD": 2,
    "RBD_OPERATION_FEATURE_CLONE_PARENT": 1,
    "RBD_OPERATION_FEATURE_GROUP": 4,
    "RBD_OPERATION_FEATURE_SNAP_TRASH": 8,
    "RBD_POOL_STAT_OPTION_IMAGES": 0,
    "RBD_POOL_STAT_OPTION_IMAGE_MAX_PROVISIONED_BYTES": 2,
    "RBD_POOL_STAT_OPTION_IMAGE_PROVISIONED_BYTES": 1,
    "RBD_POOL_STAT_OPTION_IMAGE_SNAPSHOTS": 3,
    "RBD_POOL_STAT_OPTION_TRASH_IMAGES": 4,
    "RBD_POOL_STAT_OPTION_TRASH_MAX_PROVISIONED_BYTES": 6,
    "RBD_POOL_STAT_OPTION_TRASH_PROVISIONED_BYTES": 5,
    "RBD_POOL_STAT_OPTION_TRASH_SNAPSHOTS": 7,
    "RBD_SNAP_CREATE_IGNORE_QUIESCE_ERROR": 2,
    "RBD_SNAP_CREATE_SKIP_QUIESCE": 1,
    "RBD_SNAP_MIRROR_STATE_NON_PRIMARY": 2,
    "RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED": 3,
    "RBD_SNAP_MIRROR_STATE_PRIMARY": 0,
    "RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED": 1,
    "RBD_SNAP_NAMESPACE_TYPE_GROUP": 1,
    "RBD_SNAP_NAMESPACE_TYPE_MIRROR": 3,
    "RBD_SNAP_NAMESPACE_TYPE_TRASH": 2,
    "RBD_SNAP_NAMESPACE_TYPE_USER": 0,
    "RBD_SNAP_REMOVE_FLATTEN": 2,
    "RBD_SNAP_REMOVE_FORCE": 3,
    "RBD_SNAP_REMOVE_UNPROTECT": 1,
    "RBD_WRITE_ZEROES_FLAG_THICK_PROVISION": 1,
}


def test_constants() -> None:
    assert {name: getattr(rbd, name) for name in CONSTANTS} == CONSTANTS


NOT_YET = {
    "RBD": """
        group_create
        group_list
        group_remove
        group_rename
        migration_abort
        migration_commit
        migration_execute
        migration_prepare
        migration_prepare_import
        migration_status
        mirror_image_info_list
        mirror_image_instance_id_list
        mirror_image_status_list
        mirror_image_status_summary
        mirror_mode_get
        mirror_mode_set
        mirror_peer_add
        mirror_peer_bootstrap_create
        mirror_peer_bootstrap_import
        mirror_peer_get_attributes
        mirror_peer_list
        mirror_peer_remove
        mirror_peer_set_attributes
        mirror_peer_set_client
        mirror_peer_set_cluster
        mirror_peer_set_name
        mirror_remote_namespace_get
        mirror_remote_namespace_set
        mirror_site_name_get
        mirror_site_name_set
        mirror_uuid_get
    """,
    "Image": """
        aio_mirror_image_create_snapshot
        aio_mirror_image_get_info
        aio_mirror_image_get_mode
        encryption_format
        encryption_load
        encryption_load2
        migration_source_spec
        mirror_image_create_snapshot
        mirror_image_demote
        mirror_image_disable
        mirror_image_enable
        mirror_image_get_info
        mirror_image_get_instance_id
        mirror_image_get_mode
        mirror_image_get_status
        mirror_image_promote
        mirror_image_resync
    """,
}


@pytest.mark.parametrize(("cls", "method"), [(cls, m) for cls, names in NOT_YET.items() for m in names.split()])
def test_what_is_not_there_yet_says_so_by_name(cls: str, method: str) -> None:
    for module in (rbd, aio):
        with pytest.raises(rbd.FunctionNotSupported, match=method) as raised:
            getattr(getattr(module, cls), method)(None, "anything", at="all")
        assert raised.value.errno == errno.ENOSYS


@pytest.mark.parametrize(
    "name",
    [
        "Group",
        "GroupImageIterator",
        "GroupSnapIterator",
        "MirrorPeerIterator",
        "MirrorImageStatusIterator",
        "MirrorImageInstanceIdIterator",
        "MirrorImageInfoIterator",
    ],
)
def test_classes_that_are_not_there_yet(name: str) -> None:
    with pytest.raises(rbd.FunctionNotSupported, match=name):
        getattr(rbd, name)(None, "x")


EXCEPTIONS = [
    (errno.EPERM, "PermissionError", "RBD permission error"),
    (errno.ENOENT, "ImageNotFound", "RBD image not found"),
    (errno.EIO, "IOError", "RBD I/O error"),
    (errno.EBUSY, "ImageBusy", "RBD image is busy"),
    (errno.EEXIST, "ImageExists", "RBD image already exists"),
    (errno.EINVAL, "InvalidArgument", "RBD invalid argument"),
    (errno.ENOSPC, "NoSpace", "RBD insufficient space available"),
    (errno.EROFS, "ReadOnlyImage", "RBD read-only image"),
    (errno.EMLINK, "ImageMemberOfGroup", "RBD image is member of group"),
    (errno.EDOM, "ArgumentOutOfRange", "RBD arguments out of range"),
    (errno.ENOSYS, "FunctionNotSupported", "RBD function not supported"),
    (errno.ENOTEMPTY, "ImageHasSnapshots", "RBD image has snapshots"),
    (errno.EOPNOTSUPP, "OperationNotSupported", "RBD operation not supported"),
    (errno.ESHUTDOWN, "ConnectionShutdown", "RBD connection was shutdown"),
    (errno.ETIMEDOUT, "Timeout", "RBD operation timeout"),
    (errno.EDQUOT, "DiskQuotaExceeded", "RBD disk quota exceeded"),
    (errno.ECANCELED, "OperationCanceled", "RBD operation canceled"),
    (errno.EFBIG, "OSError", "RBD error"),
]


@pytest.mark.parametrize(("code", "name", "prefix"), EXCEPTIONS)
def test_the_exception_of_an_errno(code: int, name: str, prefix: str) -> None:
    for sign in (1, -1):
        e = make_ex(sign * code, "what")
        assert type(e) is getattr(rbd, name)
        assert e.errno == code and str(e) == f"[errno {code}] {prefix} (what)"
        again = pickle.loads(pickle.dumps(e))
        assert (type(again), str(again), again.errno) == (type(e), str(e), e.errno)


def test_exceptions_form_the_tree_of_ceph() -> None:
    named = {name for _, name, _ in EXCEPTIONS} - {"OSError"}
    for name in named | {"ObjectNotFound", "ObjectExists", "IncompleteWriteError", "LogicError"}:
        assert getattr(rbd, name).__bases__ == (rbd.OSError,)
    assert rbd.OSError.__bases__ == (rbd.Error,) and rbd.Error.__bases__ == (Exception,)
    assert rbd.ArgumentOutOfRangeException is rbd.ArgumentOutOfRange
    assert str(rbd.LogicError("m")) == "RBD logic error (m)"


def test_the_version_is_that_of_tentacle() -> None:
    assert rbd.RBD().version() == (1, 20, 0)


def test_importing_is_cheap() -> None:
    heavy = ("asyncio", "argparse", "dataclasses", "inspect", "json", "logging", "ctypes", "datetime")
    code = f"import sys, pyrbd.rbd; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
