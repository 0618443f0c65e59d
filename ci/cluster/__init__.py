"""Test clusters for pyrbd: real Ceph daemons behind one small interface.

Two providers: :class:`NativeCluster` starts monitors, a manager and OSDs as plain processes
on loopback from the distribution's packages; :class:`ExternalCluster` uses the cluster of
``$CEPH_CONF``. On the command line: ``python3 ci/cluster up|down|status|conf``.

Only the standard library is used, so that it runs before anything is installed.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PACKAGES = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph-common", "python3-rados", "python3-rbd"]
PROGRAMS = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd", "rados", "monmaptool"]
DAEMONS = {b"ceph-mon", b"ceph-mgr", b"ceph-osd"}
SYSTEM_PYTHON = "/usr/bin/python3"
OSD_SIZE = 4 << 30

# one connection to the monitors for many commands: JSON lines in and out
_COMMANDER = """
import json, sys, rados
c = rados.Rados(conffile=sys.argv[1], conf={"client_mount_timeout": "30"})
c.connect()
print(json.dumps(c.get_fsid()), flush=True)
for line in iter(sys.stdin.readline, ""):
    r, out, err = c.mon_command(line.strip(), b"", timeout=60)
    print(json.dumps([r, out.decode("utf-8", "replace"), err]), flush=True)
"""


class ClusterError(Exception):
    """The cluster could not be started or used; the message says what to do."""


def say(text: str) -> None:
    print(f"[cluster] {text}", file=sys.stderr, flush=True)


def missing_programs() -> list[str]:
    """What this machine lacks for a native cluster; empty when it can start one."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"
    missing = [p for p in PROGRAMS if shutil.which(p, path=path) is None]
    try:
        probe = subprocess.run([SYSTEM_PYTHON, "-c", "import rados, rbd"], capture_output=True, check=False).returncode
    except OSError:
        probe = 1
    return missing + ["python3-rados and python3-rbd"] * bool(probe)


def install_packages() -> None:
    """Installs Ceph from the distribution when something of it is missing."""
    what = ", ".join(missing_programs())
    if not what:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"missing: {what}; install Ceph ({' '.join(PACKAGES)}) with your package manager")
    prefix: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise ClusterError(f"missing: {what}; run as root: apt-get install {' '.join(PACKAGES)}")
        prefix = ["sudo", "-n"]
    # through env, as sudo keeps none of the caller's; a fresh machine may be busy with its own updates
    prefix += ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    say(f"installing {' '.join(PACKAGES)}")
    for args in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run([*prefix, *args], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"apt-get {args[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    if left := missing_programs():
        raise ClusterError(f"apt-get installed {' '.join(PACKAGES)}, and there is still no {', '.join(left)}")


def _new_key() -> str:
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


def _free_ports(n: int) -> int:
    """The first of `n` ports in a row of which none is in use."""
    for _ in range(200):
        base = random.randrange(20000, 32000, 8)
        sockets = []
        try:
            for port in range(base, base + n):
                s = socket.socket()
                sockets.append(s)
                s.bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
        return base
    raise ClusterError(f"no {n} free ports in a row")


class Cluster:
    """What tests need of any cluster."""

    conf: Path
    """The ceph.conf that clients use."""

    def down(self) -> None:
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """What `ceph status` says, and the daemons that this provider started."""
        raise NotImplementedError

    def check_daemons(self) -> list[str]:
        """What went wrong with the daemons since they were started, a line each: deaths and crashes."""
        return []


class ExternalCluster(Cluster):
    """The cluster of ``$CEPH_CONF``; nothing of it is started or stopped."""

    def __init__(self, conf: str | None = None) -> None:
        path = conf or os.environ.get("CEPH_CONF")
        if not path:
            raise ClusterError("the external cluster is the one that CEPH_CONF names")
        self.conf = Path(path)
        if not self.conf.exists():
            raise ClusterError(f"{path} does not exist")

    def down(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        commander = Commander(self.conf)
        try:
            return {"provider": "external", "conf": str(self.conf), "ceph": commander.command("status")}
        finally:
            commander.close()


class Commander:
    """Runs monitor commands over one connection of the C++ client."""

    def __init__(self, conf: Path) -> None:
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, "-c", _COMMANDER, str(conf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        if not self._line():
            raise ClusterError(f"cannot connect to the monitor: {self._stderr()}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _stderr(self) -> str:
        self._process.kill()
        return self._process.communicate()[1][-2000:]

    def command(self, prefix: str, **args: Any) -> Any:
        """The decoded JSON output; ClusterError for a failure."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prefix": prefix, "format": "json", **args}) + "\n")
        self._process.stdin.flush()
        line = self._line()
        if not line:
            raise ClusterError(f"{prefix}: lost the monitor: {self._stderr()}")
        result, out, status = json.loads(line)
        if result:
            raise ClusterError(f"{prefix} {args}: {result} {status}")
        try:
            return json.loads(out) if out.strip() else None
        except ValueError:
            return out

    def close(self) -> None:
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:  # a client whose monitor has gone does not end by itself
            self._process.kill()
            self._process.communicate()


class NativeCluster(Cluster):
    """Daemons of the distribution's packages, on loopback, in a directory of their own.

    The state is in that directory (`cluster.json`, `run/*.pid`, `log/`), so that another process
    can go on with it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory).resolve()
        self.conf = self.dir / "ceph.conf"
        self._state_file = self.dir / "cluster.json"
        self.state: dict[str, Any] = {}
        self.address = "127.0.0.1"
        """Where the daemons listen; to be changed before `up`."""
        self._children: list[subprocess.Popen[bytes]] = []
        if self._state_file.exists():
            self.state = json.loads(self._state_file.read_text())

    @property
    def daemons(self) -> list[str]:
        names: list[str] = self.state.get("daemons", [])
        return names

    # ------------------------------------------------------------ up

    def up(
        self,
        *,
        osds: int = 3,
        mons: int = 1,
        store: str = "memstore",
        msgr: str = "v2",
        pgs: int = 16,
        settings: Iterable[str] = (),
        timeout: float = 90,
    ) -> float:
        """Starts everything and waits until all placement groups are active+clean.

        Args:
            settings: ``[section/]key=value`` for the configuration.
        Returns:
            seconds that it took, without the installation of packages.
        """
        if not (1 <= mons <= 9 and 1 <= osds <= 99):
            raise ClusterError("a cluster has 1 to 9 monitors and 1 to 99 OSDs")
        install_packages()
        if self._processes():
            raise ClusterError(f"a cluster runs in {self.dir}: take it down first")
        if self.dir.exists() and any(self.dir.iterdir()) and not self._state_file.exists():
            raise ClusterError(f"{self.dir} is not empty, and not a cluster's directory")
        if len(str(self.dir)) > 80:
            raise ClusterError(f"{self.dir}: too long for the daemons' sockets")
        started = time.monotonic()
        shutil.rmtree(self.dir, ignore_errors=True)
        mon_ids = [chr(ord("a") + i) for i in range(mons)]
        names = [f"mon.{m}" for m in mon_ids] + ["mgr.x"] + [f"osd.{i}" for i in range(osds)]
        for sub in ["run", "log", "crash", *names]:
            (self.dir / sub).mkdir(parents=True)
        port = _free_ports(2 * mons + 8 * osds + 8)
        self.state = {"daemons": names, "port": port, "store": store, "started": time.time()}
        self._save()
        try:
            self._start(mon_ids, osds, store, msgr, pgs, settings, port, timeout)
        except BaseException:
            self.stop_daemons()
            raise
        took = time.monotonic() - started
        self.state["up_seconds"] = round(took, 1)
        self._save()
        return took

    def _save(self) -> None:
        temporary = self._state_file.with_suffix(".new")
        temporary.write_text(json.dumps(self.state, indent=1))
        temporary.replace(self._state_file)

    def _start(
        self,
        mon_ids: list[str],
        osds: int,
        store: str,
        msgr: str,
        pgs: int,
        settings: Iterable[str],
        port: int,
        timeout: float,
    ) -> None:
        fsid = str(uuid.uuid4())
        both = msgr == "both"
        addrs = {}
        for i, m in enumerate(mon_ids):
            v1 = f",v1:{self.address}:{port + 2 * i + 1}" if both else ""
            addrs[m] = f"[v2:{self.address}:{port + 2 * i}{v1}]"
        self._write_conf(fsid, mon_ids, addrs, osds, store, both, port, settings)
        self._write_keyrings(osds)
        monmap = self.dir / "monmap"
        add = [word for m, a in addrs.items() for word in ("--addv", m, a)]
        self._call(["monmaptool", "--create", "--clobber", "--fsid", fsid, *add, str(monmap)])
        uuids = [str(uuid.uuid4()) for _ in range(osds)]
        mkfs_mons = [
            self._spawn(f"mon.{m}", "--mkfs", "--monmap", str(monmap), "--keyring", str(self.dir / "mkfs.keyring"))
            for m in mon_ids
        ]
        mkfs_osds = [
            self._spawn(f"osd.{i}", "--mkfs", "--osd-uuid", uuids[i], "--no-mon-config", "--monmap", str(monmap))
            for i in range(osds)
        ]
        self._finish(mkfs_mons)
        self._finish([self._spawn(f"mon.{m}") for m in mon_ids])
        commander = Commander(self.conf)
        try:
            manager = self._spawn("mgr.x")
            for i in range(osds):
                commander.command("osd new", uuid=uuids[i], id=i)
            self._finish(mkfs_osds)
            self._finish([manager, *(self._spawn(f"osd.{i}") for i in range(osds))])
            commander.command("osd pool create", pool="rbd", pg_num=pgs, pgp_num=pgs)
            commander.command("osd pool application enable", pool="rbd", app="rbd")
            self._wait_clean(commander, osds, timeout)
        finally:
            commander.close()

    def _wait_clean(self, commander: Commander, osds: int, timeout: float) -> None:
        """The manager's view lags, so its count of placement groups must match the pools'."""
        end = time.monotonic() + timeout
        while True:
            status = commander.command("status")
            osdmap = status["osdmap"].get("osdmap", status["osdmap"])
            pgmap = status["pgmap"]
            clean = sum(s["count"] for s in pgmap.get("pgs_by_state", []) if s["state_name"].startswith("active+clean"))
            want = sum(p["pg_num"] for p in commander.command("osd dump")["pools"])
            if osdmap["num_up_osds"] >= osds and clean == pgmap["num_pgs"] == want:
                return
            if time.monotonic() > end:
                raise ClusterError(f"not clean after {timeout:.0f} s; the daemons' logs are in {self.dir / 'log'}")
            time.sleep(0.1)

    def wait_clean(self, timeout: float = 60) -> None:
        """Waits until all OSDs are up and all placement groups active+clean."""
        commander = Commander(self.conf)
        try:
            self._wait_clean(commander, sum(n.startswith("osd.") for n in self.daemons), timeout)
        finally:
            commander.close()

    def _write_conf(
        self,
        fsid: str,
        mon_ids: list[str],
        addrs: Mapping[str, str],
        osds: int,
        store: str,
        both: bool,
        port: int,
        settings: Iterable[str],
    ) -> None:
        d = self.dir
        first_osd_port = port + 2 * len(mon_ids)
        size = min(osds, 3)
        sections: dict[str, dict[str, object]] = {
            "global": {
                "fsid": fsid,
                "mon_initial_members": ",".join(mon_ids),
                "mon_host": ",".join(addrs.values()),
                "auth_cluster_required": "cephx",
                "auth_service_required": "cephx",
                "auth_client_required": "cephx",
                "keyring": d / "keyring",
                "auth_allow_insecure_global_id_reclaim": "false",
                "ms_bind_msgr1": "true" if both else "false",
                "ms_bind_msgr2": "true",
                "ms_bind_port_min": first_osd_port,
                "ms_bind_port_max": first_osd_port + 8 * osds + 8,
                "osd_crush_chooseleaf_type": 0,
                "osd_pool_default_size": size,
                "osd_pool_default_min_size": max(1, size - 1),
                "osd_pool_default_pg_autoscale_mode": "off",
                "osd_pool_default_pg_num": 8,
            },
            "mon": {
                "mon_data": d / "mon.$id",
                "mon_allow_pool_delete": "true",
                "mon_allow_pool_size_one": "true",
                "mon_data_avail_warn": 1,
                "mon_data_avail_crit": 1,
                "mon_max_pg_per_osd": 2000,
                "mgr_initial_modules": "",
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
            },
            "mgr": {
                "mgr_data": d / "mgr.$id",
                "mgr_stats_period": 1,
                "mgr_tick_period": 1,
                "public_addr": self.address,
            },
            "osd": {
                "osd_data": d / "osd.$id",
                "osd_objectstore": store,
                "public_addr": self.address,
                "cluster_addr": self.address,
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
            },
        }
        if store == "memstore":
            # 16.2 adds up its bytes without a lock: after one lost update of 64 KiB an OSD that is nearly
            # empty reports to be full, and writes wait. So one thread does all operations of an OSD
            sections["osd"].update(osd_op_num_shards=1, osd_op_num_threads_per_shard=1)
        common: dict[str, object] = {
            "run_dir": d / "run",
            "admin_socket": d / "run/$name.asok",
            "pid_file": d / "run/$name.pid",
            "log_file": d / "log/$name.log",
            "crash_dir": d / "crash",
        }
        for name in ("mon", "mgr", "osd"):
            sections[name] = {**common, **sections[name]}
        for setting in settings:
            key, eq, value = setting.partition("=")
            if not eq:
                raise ClusterError(f"--set {setting}: write [section/]key=value")
            section, _, option = key.rpartition("/")
            sections.setdefault(section or "global", {})[option] = value
        lines = []
        for name, options in sections.items():
            lines += [f"[{name}]", *(f"{k} = {v}" for k, v in options.items()), ""]
        self.conf.write_text("\n".join(lines))

    def _write_keyrings(self, osds: int) -> None:
        every = {"mon": "allow *", "mgr": "allow *", "osd": "allow *", "mds": "allow *"}
        caps = {
            "mon.": {"mon": "allow *"},
            "client.admin": every,
            "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
        }
        for i in range(osds):
            caps[f"osd.{i}"] = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"}
        text = ""
        for entity, allowed in caps.items():
            text += f"[{entity}]\n\tkey = {_new_key()}\n"
            text += "".join(f'\tcaps {service} = "{cap}"\n' for service, cap in allowed.items())
        for name in ("keyring", "mkfs.keyring"):
            fd = os.open(self.dir / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w") as f:
                f.write(text)

    # ------------------------------------------------------------ processes

    def _call(self, args: list[str]) -> None:
        done = subprocess.run(args, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{args[0]} failed:\n{done.stdout}{done.stderr}")

    def _spawn(self, name: str, *args: str) -> tuple[str, subprocess.Popen[bytes]]:
        kind, _, ident = name.partition(".")
        env = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
        for var in ("CEPH_ARGS", "CEPH_CONF", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            env.pop(var, None)
        with open(self.dir / "log" / f"{name}.out", "wb") as log:
            process = subprocess.Popen(
                [f"ceph-{kind}", "-i", ident, "-c", str(self.conf), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                env=env,
                start_new_session=True,
            )
        self._children.append(process)
        return name, process

    def _finish(self, processes: Iterable[tuple[str, subprocess.Popen[bytes]]]) -> None:
        """Waits for mkfs, or for daemons to have gone to the background."""
        for name, process in processes:
            if process.wait():
                output = self.dir / "log" / f"{name}.out"
                # what it said, without the backtraces
                lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
                said = [line for line in lines if not re.match(r" *(\d+: |NOTE: |-?\d+> )", line)]
                shown = "\n  ".join(list(dict.fromkeys(said))[-8:])
                raise ClusterError(f"{name}: exit status {process.returncode}, see {output}:\n  {shown}")
            self._children.remove(process)

    def _processes(self) -> dict[int, str]:
        """The daemons of this cluster that run, by pid, also those that have not written their pid file yet."""
        found = {}
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if os.path.basename(words[0]) in DAEMONS and os.fsencode(self.conf) in words:
                found[pid] = words[0].decode()
        return found

    def pid(self, name: str) -> int | None:
        """The pid of a daemon of this cluster that runs, else None."""
        try:
            pid = int((self.dir / "run" / f"{name}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError, IndexError):
            return None
        return pid if os.fsencode(self.conf) in words and state != "Z" else None

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a daemon; ClusterError if it does not run."""
        pid = self.pid(name)
        if pid is None:
            raise ClusterError(f"{name} does not run")
        os.kill(pid, number)

    def kill(self, name: str) -> None:
        """kill -9, and waits until it is gone."""
        self.signal(name, signal.SIGKILL)
        self._wait_gone(name, 10)

    def stop(self, name: str) -> None:
        """Ends a daemon in order."""
        self.signal(name, signal.SIGTERM)
        self._wait_gone(name, 20)

    def start(self, name: str) -> None:
        """Starts a daemon again. One that was killed may hold its lock for a moment more."""
        end = time.monotonic() + 10
        while self.pid(name) is None:
            try:
                self._finish([self._spawn(name)])
            except ClusterError as e:
                if "another process locked it" not in str(e) or time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def pause(self, name: str) -> None:
        """SIGSTOP: silent, not closed."""
        self.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def _wait_gone(self, name: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.pid(name):
            if time.monotonic() > end:
                raise ClusterError(f"{name} has not ended after {timeout:.0f} s")
            time.sleep(0.02)

    def check_daemons(self) -> list[str]:
        problems = [f"{n} does not run, see {self.dir}/log/{n}.log" for n in self.daemons if self.pid(n) is None]
        for meta in sorted((self.dir / "crash").glob("*/meta")):  # written by a daemon's signal handler
            try:
                report = json.loads(meta.read_text())
            except ValueError:
                report = {}
            why = report.get("assert_msg", "a fatal signal").strip()
            problems.append(f"{report.get('entity_name', '?')} crashed, see {meta.parent}: {why}")
        return problems

    # ------------------------------------------------------------ down

    def stop_daemons(self) -> None:
        """Ends what runs of this cluster, and nothing else."""
        end = time.monotonic() + 20
        # again until nothing is left, for one may be about to go to the background
        while running := self._processes():
            if time.monotonic() > end:
                raise ClusterError(f"these do not end: {running}")
            for pid in running:
                try:
                    os.kill(pid, signal.SIGKILL)  # nothing here is worth a clean shutdown
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        for process in self._children:
            process.wait()
        self._children.clear()

    def down(self) -> None:
        """Stops the daemons and removes the directory."""
        self.stop_daemons()  # also when somebody has removed their directory
        if self._state_file.exists():
            shutil.rmtree(self.dir, ignore_errors=True)
        self.state = {}

    def status(self) -> dict[str, Any]:
        if not self.state:
            return {"provider": "native", "dir": str(self.dir), "daemons": {}}
        result: dict[str, Any] = {
            "provider": "native",
            "dir": str(self.dir),
            "conf": str(self.conf),
            "store": self.state.get("store"),
            "daemons": {n: self.pid(n) for n in self.daemons},
            "problems": self.check_daemons(),
        }
        if any(self.pid(n) for n in self.daemons if n.startswith("mon.")):
            commander = Commander(self.conf)
            try:
                result["ceph"] = commander.command("status")
            finally:
                commander.close()
        return result
