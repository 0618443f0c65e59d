"""The options that clients of RADOS and RBD read, with Ceph's types and defaults
(`src/common/options/*.yaml.in`). Options that only daemons read are not listed; those that
a ceph.conf shared with daemons contains are kept as text, and `conf_get` gives them back."""

from __future__ import annotations

import errno

from ..errors import ConfigError

STR, INT, UINT, FLOAT, BOOL, SIZE, SECS = "str", "int", "uint", "float", "bool", "size", "secs"

OPTIONS: dict[str, tuple[str, str]] = {
    "admin_socket": (STR, ""),
    "auth_client_required": (STR, "cephx, none"),
    "auth_cluster_required": (STR, "cephx"),
    "auth_service_required": (STR, "cephx"),
    "auth_supported": (STR, ""),
    "client_mount_timeout": (SECS, "300"),
    "crush_location": (STR, ""),
    "debug_ms": (STR, "0/0"),
    "debug_objecter": (STR, "0/1"),
    "debug_rados": (STR, "0/5"),
    "debug_rbd": (STR, "0/5"),
    "err_to_stderr": (BOOL, "false"),
    "fsid": (STR, "00000000-0000-0000-0000-000000000000"),
    "host": (STR, ""),
    "key": (STR, ""),
    "keyfile": (STR, ""),
    "keyring": (
        STR,
        "/etc/ceph/$cluster.$name.keyring,/etc/ceph/$cluster.keyring,/etc/ceph/keyring,/etc/ceph/keyring.bin,",
    ),
    "log_file": (STR, ""),
    "log_to_file": (BOOL, "true"),
    "log_to_stderr": (BOOL, "false"),
    "mon_client_hunt_interval": (FLOAT, "3"),
    "mon_client_hunt_interval_backoff": (FLOAT, "1.5"),
    "mon_client_hunt_parallel": (UINT, "3"),
    "mon_client_ping_interval": (FLOAT, "10"),
    "mon_client_ping_timeout": (FLOAT, "30"),
    "mon_dns_srv_name": (STR, "ceph-mon"),
    "mon_host": (STR, ""),
    "mon_host_override": (STR, ""),
    "mon_initial_members": (STR, ""),
    "monmap": (STR, ""),
    "ms_bind_ipv4": (BOOL, "true"),
    "ms_bind_ipv6": (BOOL, "false"),
    "ms_client_mode": (STR, "crc secure"),
    "ms_connection_ready_timeout": (UINT, "10"),
    "ms_crc_data": (BOOL, "true"),
    "ms_crc_header": (BOOL, "true"),
    "ms_mon_client_mode": (STR, "secure crc"),
    "objecter_inflight_op_bytes": (SIZE, "104857600"),
    "objecter_inflight_ops": (UINT, "1024"),
    "objecter_tick_interval": (FLOAT, "5"),
    "objecter_timeout": (FLOAT, "10"),
    "osd_client_watch_timeout": (UINT, "30"),
    "osd_pool_default_crush_rule": (INT, "-1"),
    "osd_pool_default_pg_num": (UINT, "32"),
    "osd_pool_default_size": (UINT, "3"),
    "public_addr": (STR, "-"),
    "rados_mon_op_timeout": (SECS, "0"),
    "rados_osd_op_timeout": (SECS, "0"),
    "rados_replica_read_policy": (STR, "default"),
    "rbd_atime_update_interval": (UINT, "60"),
    "rbd_auto_exclusive_lock_until_manual_request": (BOOL, "true"),
    "rbd_balance_snap_reads": (BOOL, "false"),
    "rbd_blocklist_expire_seconds": (UINT, "0"),
    "rbd_blocklist_on_break_lock": (BOOL, "true"),
    "rbd_cache": (BOOL, "true"),
    "rbd_cache_max_dirty": (SIZE, "25165824"),
    "rbd_cache_max_dirty_age": (FLOAT, "1"),
    "rbd_cache_policy": (STR, "writearound"),
    "rbd_cache_size": (SIZE, "33554432"),
    "rbd_cache_target_dirty": (SIZE, "16777216"),
    "rbd_cache_writethrough_until_flush": (BOOL, "true"),
    "rbd_concurrent_management_ops": (UINT, "10"),
    "rbd_default_clone_format": (STR, "auto"),
    "rbd_default_data_pool": (STR, ""),
    "rbd_default_features": (STR, "61"),
    "rbd_default_format": (UINT, "2"),
    "rbd_default_map_options": (STR, ""),
    "rbd_default_order": (UINT, "22"),
    "rbd_default_pool": (STR, "rbd"),
    "rbd_default_stripe_count": (UINT, "0"),
    "rbd_default_stripe_unit": (SIZE, "0"),
    "rbd_discard_granularity_bytes": (UINT, "65536"),
    "rbd_enable_alloc_hint": (BOOL, "true"),
    "rbd_move_to_trash_on_remove": (BOOL, "false"),
    "rbd_mtime_update_interval": (UINT, "60"),
    "rbd_non_blocking_aio": (BOOL, "true"),
    "rbd_quiesce_notification_attempts": (UINT, "10"),
    "rbd_readahead_disable_after_bytes": (SIZE, "52428800"),
    "rbd_readahead_max_bytes": (SIZE, "524288"),
    "rbd_readahead_trigger_requests": (UINT, "10"),
    "rbd_request_timed_out_seconds": (UINT, "30"),
    "rbd_skip_partial_discard": (BOOL, "true"),
    "rbd_sparse_read_threshold_bytes": (SIZE, "65536"),
    "rbd_validate_names": (BOOL, "true"),
    "rbd_validate_pool": (BOOL, "true"),
}

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50, "e": 1 << 60}
_SPANS = {"": 1.0, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def normalize(name: str) -> str:
    """The canonical spelling of an option's name: blanks between words are underscores."""
    return "_".join(name.split())


def parse_size(text: str) -> int:
    """A number of bytes with Ceph's (and rbd's) binary units: ``4096``, ``4K``, ``4KiB``.

    Raises:
        ValueError: not of that form.
    """
    t = text.strip().lower()
    digits = t.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = t[len(digits) :].strip()
    unit = unit[:-2] if unit.endswith("ib") else unit[:-1] if len(unit) == 2 and unit.endswith("b") else unit
    if unit not in _UNITS or not digits.isdigit():
        raise ValueError(f"{text!r} is not a size")
    return int(digits) * _UNITS[unit]


def parse_seconds(text: str) -> float:
    """A time span: ``5``, ``0.5``, ``5s``, ``2m``."""
    t = text.strip().lower()
    number = t.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = t[len(number) :].strip()
    if unit not in _SPANS:
        raise ValueError(f"{text!r} is not a time span")
    value = float(number) * _SPANS[unit]
    if not 0 <= value < 1e12:
        raise ValueError(f"{text!r} is not a time span")
    return value


def canonical(name: str, value: str) -> str:
    """The value as `conf_get` shows it.

    Raises:
        ConfigError: EINVAL, not a value of the option's type.
    """
    kind = OPTIONS[name][0] if name in OPTIONS else STR
    try:
        if kind == BOOL:
            low = value.strip().lower()
            if low in ("true", "false"):
                return low
            return "true" if int(value) else "false"
        if kind in (INT, UINT):
            number = parse_size(value) if not value.strip().startswith("-") else int(value)
            if kind == UINT and number < 0:
                raise ValueError
            return str(number)
        if kind == SIZE:
            return str(parse_size(value))
        if kind == FLOAT:
            return f"{float(value):f}"
        if kind == SECS:
            return f"{parse_seconds(value):g}"
    except ValueError:
        raise ConfigError(f"option {name}: {value!r} is not a value of type {kind}", errno=errno.EINVAL) from None
    return value
