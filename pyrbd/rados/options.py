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
    "ms_compress_secure": (BOOL, "false"),
    "ms_connection_ready_timeout": (UINT, "10"),
    "ms_crc_data": (BOOL, "true"),
    "ms_crc_header": (BOOL, "true"),
    "ms_mon_client_mode": (STR, "secure crc"),
    "ms_osd_compress_min_size": (SIZE, "1024"),
    "ms_osd_compress_mode": (STR, "none"),
    "ms_osd_compression_algorithm": (STR, "snappy"),
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
    "rbd_balance_parent_reads": (BOOL, "false"),
    "rbd_balance_snap_reads": (BOOL, "false"),
    "rbd_blkin_trace_all": (BOOL, "false"),
    "rbd_blocklist_expire_seconds": (UINT, "0"),
    "rbd_blocklist_on_break_lock": (BOOL, "true"),
    "rbd_cache": (BOOL, "true"),
    "rbd_cache_block_writes_upfront": (BOOL, "false"),
    "rbd_cache_max_dirty": (SIZE, "25165824"),
    "rbd_cache_max_dirty_age": (FLOAT, "1"),
    "rbd_cache_max_dirty_object": (UINT, "0"),
    "rbd_cache_policy": (STR, "writearound"),
    "rbd_cache_size": (SIZE, "33554432"),
    "rbd_cache_target_dirty": (SIZE, "16777216"),
    "rbd_cache_writethrough_until_flush": (BOOL, "true"),
    "rbd_clone_copy_on_read": (BOOL, "false"),
    "rbd_compression_hint": (STR, "none"),
    "rbd_concurrent_management_ops": (UINT, "10"),
    "rbd_config_pool_override_update_timestamp": (UINT, "0"),
    "rbd_default_clone_format": (STR, "auto"),
    "rbd_default_data_pool": (STR, ""),
    "rbd_default_features": (STR, "61"),
    "rbd_default_format": (UINT, "2"),
    "rbd_default_map_options": (STR, ""),
    "rbd_default_order": (UINT, "22"),
    "rbd_default_pool": (STR, "rbd"),
    "rbd_default_snapshot_quiesce_mode": (STR, "required"),
    "rbd_default_stripe_count": (UINT, "0"),
    "rbd_default_stripe_unit": (SIZE, "0"),
    "rbd_disable_zero_copy_writes": (BOOL, "true"),
    "rbd_discard_granularity_bytes": (UINT, "65536"),
    "rbd_discard_on_zeroed_write_same": (BOOL, "true"),
    "rbd_enable_alloc_hint": (BOOL, "true"),
    "rbd_invalidate_object_map_on_timeout": (BOOL, "true"),
    "rbd_io_scheduler": (STR, "simple"),
    "rbd_io_scheduler_simple_max_delay": (UINT, "0"),
    "rbd_journal_commit_age": (FLOAT, "5"),
    "rbd_journal_max_concurrent_object_sets": (UINT, "0"),
    "rbd_journal_max_payload_bytes": (SIZE, "16384"),
    "rbd_journal_object_flush_age": (FLOAT, "0"),
    "rbd_journal_object_flush_bytes": (SIZE, "1048576"),
    "rbd_journal_object_flush_interval": (UINT, "0"),
    "rbd_journal_object_max_in_flight_appends": (UINT, "0"),
    "rbd_journal_object_writethrough_until_flush": (BOOL, "true"),
    "rbd_journal_order": (UINT, "24"),
    "rbd_journal_pool": (STR, ""),
    "rbd_journal_splay_width": (UINT, "4"),
    "rbd_localize_parent_reads": (BOOL, "false"),
    "rbd_localize_snap_reads": (BOOL, "false"),
    "rbd_mirror_concurrent_image_deletions": (UINT, "1"),
    "rbd_mirror_concurrent_image_syncs": (UINT, "5"),
    "rbd_mirror_delete_retry_interval": (FLOAT, "30"),
    "rbd_mirror_image_perf_stats_prio": (INT, "5"),
    "rbd_mirror_image_policy_migration_throttle": (UINT, "300"),
    "rbd_mirror_image_policy_rebalance_timeout": (FLOAT, "0"),
    "rbd_mirror_image_policy_type": (STR, "simple"),
    "rbd_mirror_image_policy_update_throttle_interval": (FLOAT, "1"),
    "rbd_mirror_image_state_check_interval": (UINT, "30"),
    "rbd_mirror_journal_commit_age": (FLOAT, "5"),
    "rbd_mirror_journal_poll_age": (FLOAT, "5"),
    "rbd_mirror_leader_heartbeat_interval": (UINT, "5"),
    "rbd_mirror_leader_max_acquire_attempts_before_break": (UINT, "3"),
    "rbd_mirror_leader_max_missed_heartbeats": (UINT, "2"),
    "rbd_mirror_memory_autotune": (BOOL, "true"),
    "rbd_mirror_memory_base": (SIZE, "805306368"),
    "rbd_mirror_memory_cache_autotune_interval": (FLOAT, "30"),
    "rbd_mirror_memory_cache_min": (SIZE, "134217728"),
    "rbd_mirror_memory_cache_resize_interval": (FLOAT, "5"),
    "rbd_mirror_memory_expected_fragmentation": (FLOAT, "0.15"),
    "rbd_mirror_memory_target": (SIZE, "4294967296"),
    "rbd_mirror_perf_stats_prio": (INT, "5"),
    "rbd_mirror_pool_replayers_refresh_interval": (UINT, "30"),
    "rbd_mirror_sync_point_update_age": (FLOAT, "30"),
    "rbd_mirroring_delete_delay": (UINT, "0"),
    "rbd_mirroring_max_mirroring_snapshots": (UINT, "5"),
    "rbd_mirroring_replay_delay": (UINT, "0"),
    "rbd_mirroring_resync_after_disconnect": (BOOL, "false"),
    "rbd_move_parent_to_trash_on_remove": (BOOL, "false"),
    "rbd_move_to_trash_on_remove": (BOOL, "false"),
    "rbd_move_to_trash_on_remove_expire_seconds": (UINT, "0"),
    "rbd_mtime_update_interval": (UINT, "60"),
    "rbd_non_blocking_aio": (BOOL, "true"),
    "rbd_op_thread_timeout": (UINT, "60"),
    "rbd_op_threads": (UINT, "1"),
    "rbd_parent_cache_enabled": (BOOL, "false"),
    "rbd_persistent_cache_mode": (STR, "disabled"),
    "rbd_persistent_cache_path": (STR, "/tmp"),
    "rbd_persistent_cache_size": (UINT, "1073741824"),
    "rbd_plugins": (STR, ""),
    "rbd_qos_bps_burst": (UINT, "0"),
    "rbd_qos_bps_burst_seconds": (UINT, "1"),
    "rbd_qos_bps_limit": (UINT, "0"),
    "rbd_qos_exclude_ops": (STR, ""),
    "rbd_qos_iops_burst": (UINT, "0"),
    "rbd_qos_iops_burst_seconds": (UINT, "1"),
    "rbd_qos_iops_limit": (UINT, "0"),
    "rbd_qos_read_bps_burst": (UINT, "0"),
    "rbd_qos_read_bps_burst_seconds": (UINT, "1"),
    "rbd_qos_read_bps_limit": (UINT, "0"),
    "rbd_qos_read_iops_burst": (UINT, "0"),
    "rbd_qos_read_iops_burst_seconds": (UINT, "1"),
    "rbd_qos_read_iops_limit": (UINT, "0"),
    "rbd_qos_schedule_tick_min": (UINT, "50"),
    "rbd_qos_write_bps_burst": (UINT, "0"),
    "rbd_qos_write_bps_burst_seconds": (UINT, "1"),
    "rbd_qos_write_bps_limit": (UINT, "0"),
    "rbd_qos_write_iops_burst": (UINT, "0"),
    "rbd_qos_write_iops_burst_seconds": (UINT, "1"),
    "rbd_qos_write_iops_limit": (UINT, "0"),
    "rbd_quiesce_notification_attempts": (UINT, "10"),
    "rbd_read_from_replica_policy": (STR, "default"),
    "rbd_readahead_disable_after_bytes": (SIZE, "52428800"),
    "rbd_readahead_max_bytes": (SIZE, "524288"),
    "rbd_readahead_trigger_requests": (UINT, "10"),
    "rbd_request_timed_out_seconds": (UINT, "30"),
    "rbd_skip_partial_discard": (BOOL, "true"),
    "rbd_sparse_read_threshold_bytes": (SIZE, "65536"),
    "rbd_tracing": (BOOL, "false"),
    "rbd_validate_names": (BOOL, "true"),
    "rbd_validate_pool": (BOOL, "true"),
}

LIMITS: dict[str, tuple[float, float | None]] = {
    "rbd_concurrent_management_ops": (1, None),
    "rbd_discard_granularity_bytes": (4096, 32 << 20),
    "rbd_journal_order": (12, 26),
    "rbd_mirror_concurrent_image_deletions": (1, None),
    "rbd_mirror_image_perf_stats_prio": (0, 11),
    "rbd_mirror_image_policy_update_throttle_interval": (1, None),
    "rbd_mirror_image_state_check_interval": (1, None),
    "rbd_mirror_leader_heartbeat_interval": (1, None),
    "rbd_mirror_memory_expected_fragmentation": (0, 1),
    "rbd_mirror_perf_stats_prio": (0, 11),
    "rbd_mirroring_max_mirroring_snapshots": (3, None),
    "rbd_persistent_cache_size": (1 << 30, None),
    "rbd_qos_bps_burst_seconds": (1, None),
    "rbd_qos_iops_burst_seconds": (1, None),
    "rbd_qos_read_bps_burst_seconds": (1, None),
    "rbd_qos_read_iops_burst_seconds": (1, None),
    "rbd_qos_schedule_tick_min": (1, None),
    "rbd_qos_write_bps_burst_seconds": (1, None),
    "rbd_qos_write_iops_burst_seconds": (1, None),
    "rbd_quiesce_notification_attempts": (1, None),
}
"""The least value, and the greatest."""

VALUES: dict[str, tuple[str, ...]] = {
    "rbd_cache_policy": ("writethrough", "writeback", "writearound"),
    "rbd_compression_hint": ("none", "compressible", "incompressible"),
    "rbd_default_clone_format": ("1", "2", "auto"),
    "rbd_default_snapshot_quiesce_mode": ("required", "ignore-error", "skip"),
    "rbd_io_scheduler": ("none", "simple"),
    "rbd_mirror_image_policy_type": ("none", "simple"),
    "rbd_persistent_cache_mode": ("disabled", "rwl", "ssd"),
    "rbd_read_from_replica_policy": ("default", "balance", "localize"),
}
"""The only values."""

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
        ConfigError: EINVAL, not a value of the option's type, or not one that it may have.
    """
    kind = OPTIONS[name][0] if name in OPTIONS else STR
    try:
        if kind == BOOL:
            low = value.lower()
            if low in ("true", "false"):
                return low
            return "true" if _decimal(value, -(1 << 31), (1 << 31) - 1) else "false"
        if kind in (INT, UINT, SIZE):
            number = _iec(value) if kind == SIZE else _si(value, kind == UINT)
            _check_limits(name, number)
            return str(number)
        if kind == FLOAT:
            if "_" in value or value != value.rstrip():
                raise ValueError(f"{value!r} is not a number")
            _check_limits(name, float(value))
            return f"{float(value):f}"
        if kind == SECS:
            return f"{parse_seconds(value):g}"
    except ValueError as e:
        raise ConfigError(f"option {name}: {e}", errno=errno.EINVAL) from None
    if name in VALUES and value not in VALUES[name]:
        raise ConfigError(f"option {name}: {value!r} is not one of {', '.join(VALUES[name])}", errno=errno.EINVAL)
    return value


def _check_limits(name: str, number: float) -> None:
    least, greatest = LIMITS.get(name, (None, None))
    if least is not None and number < least:
        raise ValueError(f"{number} is less than {least}")
    if greatest is not None and number > greatest:
        raise ValueError(f"{number} is more than {greatest}")
    if name == "rbd_discard_granularity_bytes" and int(number) & (int(number) - 1):
        raise ValueError(f"{number} is not a power of two")


_SI = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
_IEC = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}


def _decimal(text: str, least: int, greatest: int) -> int:
    """strict_strtoll: blanks, a sign, digits."""
    number = text.lstrip(" \t\n\v\f\r")
    digits = number[1:] if number[:1] in ("+", "-") else number
    if not (digits.isascii() and digits.isdigit()) or not least <= int(number) <= greatest:
        raise ValueError(f"{text!r} is not a number, or not in the range")
    return int(number)


def _si(text: str, unsigned: bool) -> int:
    """strict_si_cast: a number whose unit counts in thousands."""
    factor = _SI.get(text[-1:], 1)
    number = _decimal(text[:-1] if factor > 1 else text, -(1 << 63), (1 << 64) - 1) * factor
    if not (0 if unsigned else -(1 << 63)) <= number < (1 << 64 if unsigned else 1 << 63):
        raise ValueError(f"{text!r} is not in the range")
    return number


def _iec(text: str) -> int:
    """strict_iec_cast: a number of bytes whose unit counts in 1024s."""
    digits = text.lstrip("+-0123456789")
    number, unit = text[: len(text) - len(digits)], digits
    if len(unit) > 1 and unit.endswith("B"):
        unit = unit[:-1]
    if len(unit) == 2 and unit[1] == "i" and unit[0] != "B":
        unit = unit[0]
    if unit and unit not in _IEC:
        raise ValueError(f"{text!r} is not a size")
    value = _decimal(number, 0, (1 << 64) - 1) << _IEC.get(unit, 0)
    if value >= 1 << 64:
        raise ValueError(f"{text!r} is not in the range")
    return value
