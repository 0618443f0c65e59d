"""What a cluster is to be like, and the ceph.conf, keyrings and monitor map that say so to its daemons."""

from __future__ import annotations

import base64
import os
import struct
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .base import ClusterError
from .programs import Software

OSD_SIZE = 4 << 30
KEY_TYPES = {"aes": (1, 16), "aes256k": (2, 32)}
"""Types of keys: their number on the wire and the bytes of a secret (src/auth/Crypto.cc)."""
ALGORITHMS = ("snappy", "zlib", "zstd", "lz4")
EC_POOL, EC_PROFILE = "ecdata", "k2m1"


@dataclass(frozen=True)
class Shape:
    """What a cluster is to be like."""

    osds: int = 3
    mons: int = 1
    store: str | None = None
    """``memstore``, or ``bluestore``, which erasure-coded pools need; None: whichever serves."""
    msgr: str = "v2"
    """``both``: the monitors are to be had by the old messenger as well."""
    pgs: int = 16
    cipher: str | None = None
    """The type of all keys: ``aes`` or ``aes256k``; ``both``: the first of these for ``client.aes`` only."""
    service_cipher: str | None = None
    """The type of the secrets that tickets are made with; None: the better one of `cipher`."""
    modes: str | None = None
    """The only mode of connections, ``secure`` or ``crc``; None: Ceph's defaults."""
    compression: str | None = None
    """The algorithm with which connections to OSDs are compressed."""
    ec: bool = False
    """With a pool ``ecdata``, erasure-coded (2 + 1), in which objects may be overwritten."""
    netns: bool = False
    """Each OSD in a network namespace of its own."""
    settings: tuple[str, ...] = ()
    """``[section/]key=value`` for the configuration."""

    def completed(self, software: Software) -> Shape:
        """With what was left open, for this version of Ceph; ClusterError for what it cannot be."""
        if not (1 <= self.mons <= 9 and 1 <= self.osds <= 99):
            raise ClusterError("a cluster has 1 to 9 monitors and 1 to 99 OSDs")
        _check("modes", self.modes, ("secure", "crc"))
        _check("msgr", self.msgr, ("v2", "both"))
        _check("store", self.store, ("memstore", "bluestore"))
        _check("cipher", self.cipher, ("aes", "aes256k", "both"))
        _check("service_cipher", self.service_cipher, tuple(KEY_TYPES))
        _check("compression", self.compression, ALGORITHMS)
        store = self.store or ("bluestore" if self.ec else "memstore")
        if self.ec and (store != "bluestore" or self.osds < 3):
            raise ClusterError("an erasure-coded pool for images needs three OSDs with bluestore")
        cipher = self.cipher or software.key_types[0]
        service_cipher = self.service_cipher or ("aes" if cipher == "aes" else "aes256k")
        if "aes256k" not in software.key_types and (cipher, service_cipher) != ("aes", "aes"):
            raise ClusterError(f"this Ceph {software.major} has keys of the type aes only")
        if service_cipher != cipher != "both":
            raise ClusterError("another type for the secrets of services than for the keys needs cipher=both")
        if self.compression and software.major < 18:
            raise ClusterError(f"Ceph {software.major} does not compress connections")
        if self.netns and self.osds > 50:
            raise ClusterError("namespaces are for at most 50 OSDs")
        for setting in self.settings:
            if "=" not in setting:
                raise ClusterError(f"setting {setting}: write [section/]key=value")
        return replace(self, store=store, cipher=cipher, service_cipher=service_cipher)

    @property
    def key_type(self) -> str:
        """The type of the keys of daemons and of ``client.admin``."""
        return "aes" if self.cipher == "aes" else "aes256k"

    @property
    def mon_ids(self) -> list[str]:
        return [chr(ord("a") + i) for i in range(self.mons)]

    @property
    def daemons(self) -> list[str]:
        return [f"mon.{m}" for m in self.mon_ids] + ["mgr.x"] + [f"osd.{i}" for i in range(self.osds)]


def _check(option: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        raise ClusterError(f"{option} is one of {', '.join(allowed)}, not {value}")


@dataclass(frozen=True)
class Place:
    """Where a cluster is: its directory, as its daemons see it, and its addresses."""

    directory: Path
    address: str
    """Of monitors and the manager, and of OSDs that have no namespace."""
    port: int
    """The first one of its ports."""
    subnet: str | None = None
    """Where OSDs find an address in their own namespaces."""
    fsid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def ipv6(self) -> bool:
        return ":" in self.address

    def mon_addrs(self, shape: Shape) -> dict[str, str]:
        """The addresses of each monitor, by its id."""
        addrs = {}
        host = f"[{self.address}]" if self.ipv6 else self.address
        for i, mon in enumerate(shape.mon_ids):
            v1 = f",v1:{host}:{self.port + 2 * i + 1}" if shape.msgr == "both" else ""
            addrs[mon] = f"[v2:{host}:{self.port + 2 * i}{v1}]"
        return addrs

    def ports(self, shape: Shape) -> tuple[int, int]:
        """The first and last port of OSDs and the manager."""
        first = self.port + 2 * shape.mons
        return first, first + 8 * shape.osds + 8


def ports_needed(shape: Shape) -> int:
    """How many ports in a row a cluster takes."""
    return 2 * shape.mons + 8 * shape.osds + 9


def monmap_command(shape: Shape, place: Place, path: Path, software: Software) -> list[str]:
    """The arguments with which `monmaptool` makes the first monitor map."""
    command = ["--create", "--clobber", "--fsid", place.fsid]
    for mon, addr in place.mon_addrs(shape).items():
        command += ["--addv", mon, addr]
    if "aes256k" in software.key_types:
        assert shape.service_cipher is not None
        command += ["--auth-service-cipher", shape.service_cipher, "--auth-preferred-cipher", shape.key_type]
        command += ["--auth-allowed-ciphers", "aes,aes256k" if shape.cipher == "both" else shape.key_type]
    return [*command, str(path)]


Options = dict[str, object]


def ceph_conf(
    shape: Shape,
    place: Place,
    daemon_paths: Mapping[str, Mapping[str, Path]],
    client_paths: Mapping[str, Path],
) -> str:
    """The text of a ceph.conf for daemons and clients; `shape` is a completed one."""
    d = place.directory
    sections: dict[str, Options] = {
        "global": {
            **_common(shape, place),
            **(_modes(shape.modes) if shape.modes else {}),
            **(_compression(shape.compression) if shape.compression else {}),
        },
        "mon": {**_daemon(d), **daemon_paths.get("mon", {}), **_mon(d)},
        "mgr": {**_daemon(d), **daemon_paths.get("mgr", {}), **_mgr(place)},
        "osd": {**_daemon(d), **daemon_paths.get("osd", {}), **_osd(shape, place)},
    }
    if shape.compression:
        # only then: a client of another release has no use for these plugins
        sections["client"] = dict(client_paths)
    if shape.cipher == "both":
        sections["client.aes"] = {"keyring": d / "client.aes.keyring"}
    if shape.netns:
        for i in range(shape.osds):
            sections[f"osd.{i}"] = {"crush_location": f"root=default host=osd{i}"}
    for setting in shape.settings:
        key, _, value = setting.partition("=")
        section, _, option = key.rpartition("/")
        sections.setdefault(section or "global", {})[option] = value
    lines = []
    for name, options in sections.items():
        lines += [f"[{name}]", *(f"{key} = {value}" for key, value in options.items()), ""]
    return "\n".join(lines)


def _common(shape: Shape, place: Place) -> Options:
    size = min(shape.osds, 3)
    first, last = place.ports(shape)
    return {
        "fsid": place.fsid,
        "mon_initial_members": ",".join(shape.mon_ids),
        "mon_host": ",".join(place.mon_addrs(shape).values()),
        "auth_cluster_required": "cephx",
        "auth_service_required": "cephx",
        "auth_client_required": "cephx",
        "keyring": place.directory / "keyring",
        "auth_allow_insecure_global_id_reclaim": "false",
        "ms_bind_msgr1": "true" if shape.msgr == "both" else "false",
        "ms_bind_msgr2": "true",
        "ms_bind_ipv4": "false" if place.ipv6 else "true",
        "ms_bind_ipv6": "true" if place.ipv6 else "false",
        "ms_bind_port_min": first,
        "ms_bind_port_max": last,
        "osd_crush_chooseleaf_type": 0,
        "osd_pool_default_size": size,
        "osd_pool_default_min_size": max(1, size - 1),
        "osd_pool_default_pg_autoscale_mode": "off",
        "osd_pool_default_pg_num": 8,
    }


def _modes(mode: str) -> Options:
    who = ("cluster", "service", "client", "mon_cluster", "mon_service", "mon_client")
    return {f"ms_{name}_mode": mode for name in who}


def _compression(algorithm: str) -> Options:
    return {
        "ms_osd_compress_mode": "force",
        "ms_osd_compression_algorithm": algorithm,
        "ms_osd_compress_min_size": 1024,
        "ms_compress_secure": "true",  # or secure connections would not be compressed
    }


def _daemon(d: Path) -> Options:
    return {
        "run_dir": d / "run",
        "admin_socket": d / "run/$name.asok",
        "pid_file": d / "run/$name.pid",
        "log_file": d / "log/$name.log",
        "crash_dir": d / "crash",
    }


def _mon(d: Path) -> Options:
    return {
        "mon_data": d / "mon.$id",
        "mon_allow_pool_delete": "true",
        "mon_allow_pool_size_one": "true",
        "mon_data_avail_warn": 1,
        "mon_data_avail_crit": 1,
        "mon_max_pg_per_osd": 2000,
        "mgr_initial_modules": "",
        # one that reports is enough, and its patience is not stretched
        "mon_osd_min_down_reporters": 1,
        "mon_osd_reporter_subtree_level": "osd",
        "mon_osd_adjust_heartbeat_grace": "false",
        "osd_heartbeat_grace": 4,
        "paxos_propose_interval": 0.1,
        "paxos_min_wait": 0.02,
        # several monitors: a round of an election, and a leader's silence, take 5 s by default
        "mon_election_timeout": 1,
        "mon_lease": 2,
        "mon_warn_on_pool_no_redundancy": "false",
    }


def _mgr(place: Place) -> Options:
    return {
        "mgr_data": place.directory / "mgr.$id",
        "mgr_stats_period": 1,
        "mgr_tick_period": 1,
        "public_addr": place.address,
    }


def _osd(shape: Shape, place: Place) -> Options:
    options: Options = {
        "osd_data": place.directory / "osd.$id",
        "osd_objectstore": shape.store,
        "osd_class_load_list": "*",
        "osd_class_default_list": "*",
        "memstore_device_bytes": OSD_SIZE,
        "memstore_page_set": "true",
        "bluestore_block_size": OSD_SIZE,
        "bluestore_block_create": "true",
        "bluestore_block_db_create": "false",
        "bluestore_block_wal_create": "false",
        "bluestore_cache_autotune": "false",
        "bluestore_cache_size": 64 << 20,
        "osd_op_queue": "wpq",
        "osd_mclock_skip_benchmark": "true",
        "osd_heartbeat_interval": 1,
        "osd_heartbeat_grace": 4,
        "osd_mon_report_interval": 1,
        "osd_beacon_report_interval": 2,  # an OSD that is told to be down notices by them
        "osd_mon_heartbeat_interval": 2,
        "osd_scrub_load_threshold": 0.01,
        # an OSD with memstore that was killed comes back empty
        "osd_recovery_sleep": 0,
        "osd_recovery_sleep_hdd": 0,
        "osd_recovery_max_active": 20,
        "osd_max_backfills": 10,
        # 0 would mean that of the kind of device, which is seconds for each object on rotating ones
        **{f"osd_{work}_sleep_{device}": 0 for work in ("snap_trim", "delete") for device in ("hdd", "ssd")},
    }
    if place.subnet:
        options.update(public_network=place.subnet, cluster_network=place.subnet)
    else:
        options.update(public_addr=place.address, cluster_addr=place.address)
    if shape.store == "memstore":
        # 16.2 adds up its bytes without a lock: after one lost update of 64 KiB an OSD that is nearly
        # empty reports to be full, and writes wait. So one thread does all operations of an OSD
        options.update(osd_op_num_shards=1, osd_op_num_threads_per_shard=1)
    return options


def new_key(key_type: str = "aes") -> str:
    """A new secret key as keyrings have it."""
    number, size = KEY_TYPES[key_type]
    return base64.b64encode(struct.pack("<HIIH", number, int(time.time()), 0, size) + os.urandom(size)).decode()


def keyrings(shape: Shape) -> dict[str, str]:
    """The text of each keyring file, by its name: what the daemons start from, and what clients use.

    A client of an old release refuses a whole file for one key of a type that it does not know: so
    the other key of a cluster with both types is in a file of its own.
    """
    every = {"mon": "allow *", "mgr": "allow *", "osd": "allow *", "mds": "allow *"}
    caps: dict[str, Mapping[str, str]] = {
        "mon.": {"mon": "allow *"},
        "client.admin": every,
        "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    }
    for i in range(shape.osds):
        caps[f"osd.{i}"] = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"}
    common = "".join(_entry(entity, shape.key_type, allowed) for entity, allowed in caps.items())
    if shape.cipher != "both":
        return {"keyring": common, "mkfs.keyring": common}
    other = _entry("client.aes", "aes", every)
    return {"keyring": common, "mkfs.keyring": common + other, "client.aes.keyring": other}


def _entry(entity: str, key_type: str, caps: Mapping[str, str]) -> str:
    text = f"[{entity}]\n\tkey = {new_key(key_type)}\n"
    return text + "".join(f'\tcaps {service} = "{cap}"\n' for service, cap in caps.items())


def write_private(path: Path, text: str) -> None:
    """Writes a file that nobody else may read."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as f:
        f.write(text)


def pool_commands(shape: Shape) -> Iterable[Mapping[str, Any]]:
    """The monitor commands that make a new cluster's pools."""
    yield {"prefix": "osd pool create", "pool": "rbd", "pg_num": shape.pgs, "pgp_num": shape.pgs}
    yield {"prefix": "osd pool application enable", "pool": "rbd", "app": "rbd"}
    if not shape.ec:
        return
    yield {
        "prefix": "osd erasure-code-profile set",
        "name": EC_PROFILE,
        "profile": ["k=2", "m=1", "plugin=jerasure", "technique=reed_sol_van", "crush-failure-domain=osd"],
    }
    yield {
        "prefix": "osd pool create",
        "pool": EC_POOL,
        "pg_num": 8,
        "pgp_num": 8,
        "pool_type": "erasure",
        "erasure_code_profile": EC_PROFILE,
    }
    yield {"prefix": "osd pool set", "pool": EC_POOL, "var": "allow_ec_overwrites", "val": "true"}
    yield {"prefix": "osd pool application enable", "pool": EC_POOL, "app": "rbd"}
