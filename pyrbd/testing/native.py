"""A cluster of plain processes: monitors, a manager and OSDs in a directory of their own."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .base import Abilities, ClusterError, explain
from .commander import wait_clean
from .conf import Place, Shape, ceph_conf, keyrings, monmap_command, pool_commands, ports_needed, write_private
from .netns import Network
from .processes import DaemonProcesses
from .programs import Programs, environment
from .releases import ReleasePrograms


def programs_of(release: str | None) -> Programs:
    """The programs of a release, or of the distribution."""
    return ReleasePrograms(release) if release else Programs()


class NativeCluster(DaemonProcesses):
    """Daemons of the distribution's packages or of a named release, in a directory of their own.

    The state is in that directory (`cluster.json`, `run/*.pid`, `log/`), so that another process
    can go on with it.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__(Path(directory).resolve())
        self._state_file = self.dir / "cluster.json"
        self.state: dict[str, Any] = {}
        self.address = "127.0.0.1"
        """Where the daemons listen; to be changed before `up`."""
        self._network: Network | None = None
        if self._state_file.exists():
            self.state = json.loads(self._state_file.read_text())
            self.programs = programs_of(self.state.get("release"))
            if "network" in self.state:
                self._network = Network(self.state["network"], self._osds)

    @property
    def can(self) -> Abilities:
        return Abilities(
            exec_tools=True,
            make_pool=True,
            configure=True,
            kill_daemon=True,
            cut_link=self._network is not None,
            local_tools=True,
            second_cluster=True,
        )

    @property
    def daemons(self) -> list[str]:
        names: list[str] = self.state.get("daemons", [])
        return names

    @property
    def _osds(self) -> list[str]:
        return [name for name in self.daemons if name.startswith("osd.")]

    @property
    def release(self) -> str | None:
        """The release's name; None for the distribution's packages."""
        return self.programs.release

    def describe(self) -> str:
        what = f"Ceph {self.release or 'of the distribution'}, {self.state.get('store')}"
        return f"a native cluster ({what}), up in {self.state.get('up_seconds')} s"

    # ------------------------------------------------------------ up

    def up(
        self,
        *,
        release: str | None = None,
        osds: int = 3,
        mons: int = 1,
        store: str | None = None,
        msgr: str = "v2",
        pgs: int = 16,
        cipher: str | None = None,
        service_cipher: str | None = None,
        modes: str | None = None,
        compression: str | None = None,
        ec: bool = False,
        netns: bool = False,
        settings: Iterable[str] = (),
        timeout: float = 90,
    ) -> float:
        """Starts everything and waits until all placement groups are active+clean.

        Args:
            release: ``nautilus``, ``pacific``, ``reef`` or ``tentacle``, which is installed into the cache
                directory first; None: the distribution's packages.
            store: ``memstore`` (if not `ec`) or ``bluestore``.
            msgr: ``both``: the monitors speak the old messenger as well.
            cipher: the type of keys: ``aes``, ``aes256k`` (tentacle, and its default), or ``both``: all are
                aes256k, and there is ``client.aes`` with a key of the other type.
            service_cipher: with ``both``: the type of the secrets of tickets.
            modes: ``secure`` or ``crc``: nothing else is spoken.
            compression: ``snappy``, ``zlib``, ``zstd`` or ``lz4``: connections to OSDs are compressed (reef on).
            ec: there is an erasure-coded pool ``ecdata`` for the data of images.
            netns: each OSD is in a network namespace of its own, see `cut_link`; needs root.
            settings: ``[section/]key=value`` for the configuration.
            timeout: how long to wait for the placement groups, in seconds.
        Returns:
            seconds that it took, without the installation of packages.
        Raises:
            ClusterError: it says why, and nothing is left running.
        """
        shape = Shape(
            osds, mons, store, msgr, pgs, cipher, service_cipher, modes, compression, ec, netns, tuple(settings)
        )
        programs = programs_of(release)
        if release:
            shape.completed(programs.software())  # before anything is installed
        programs.prepare()
        self._software = programs.software()
        shape = shape.completed(self._software)
        self._check_directory()
        started = time.monotonic()
        shutil.rmtree(self.dir, ignore_errors=True)
        for sub in ["run", "log", "crash", *shape.daemons]:
            (self.dir / sub).mkdir(parents=True)
        self.programs = programs
        self.state = {
            "release": release and programs.release,
            "daemons": shape.daemons,
            "store": shape.store,
            "started": time.time(),
        }
        try:
            self._start(shape, self._make_place(shape), timeout)
        except BaseException:
            self._stop_all()
            raise
        took = time.monotonic() - started
        self.state["up_seconds"] = round(took, 1)
        self._save()
        return took

    def _check_directory(self) -> None:
        if self._processes():
            raise ClusterError(f"a cluster runs in {self.dir}: take it down first")
        if self.dir.exists() and any(self.dir.iterdir()) and not self._state_file.exists():
            raise ClusterError(f"{self.dir} is not empty, and not a cluster's directory")
        if len(str(self.dir)) > 80:
            raise ClusterError(f"{self.dir}: too long for the daemons' sockets")

    def _save(self) -> None:
        temporary = self._state_file.with_suffix(".new")
        temporary.write_text(json.dumps(self.state, indent=1))
        temporary.replace(self._state_file)

    def _make_place(self, shape: Shape) -> Place:
        self._save()
        if not shape.netns:
            return Place(self.dir, self.address, _free_ports(ports_needed(shape), self.address))
        self._network = Network.create(self._osds)
        self.state["network"] = self._network.number
        self._save()
        return Place(self.dir, self._network.address, 6800, subnet=self._network.subnet)

    def _start(self, shape: Shape, place: Place, timeout: float) -> None:
        paths = self.programs.daemon_paths, self.programs.client_paths
        self.conf.write_text(ceph_conf(shape, place, *paths))
        for name, text in keyrings(shape).items():
            write_private(self.dir / name, text)
        monmap, keys = self.dir / "monmap", self.dir / "mkfs.keyring"
        self._call("monmaptool", *monmap_command(shape, place, monmap, self._software))
        uuids = [str(uuid.uuid4()) for _ in self._osds]
        mons = [f"mon.{mon}" for mon in shape.mon_ids]
        mkfs_mons = [self._spawn(mon, "--mkfs", "--monmap", str(monmap), "--keyring", str(keys)) for mon in mons]
        mkfs_osds = [
            self._spawn(osd, "--mkfs", "--osd-uuid", uuids[i], "--no-mon-config", "--monmap", str(monmap))
            for i, osd in enumerate(self._osds)
        ]
        self._finish(mkfs_mons)
        self._finish([self._spawn(mon) for mon in mons])
        commander = self.commander()
        try:
            manager = self._spawn("mgr.x")
            for i, osd_uuid in enumerate(uuids):
                commander.command("osd new", uuid=osd_uuid, id=i)
            self._finish(mkfs_osds)
            self._finish([manager, *(self._spawn(osd) for osd in self._osds)])
            for command in pool_commands(shape):
                commander.command(**command)
            wait_clean(commander.command, shape.osds, timeout)
        except ClusterError as e:
            raise ClusterError(f"{e}; the daemons' logs are in {self.dir / 'log'}") from None
        finally:
            commander.close()

    def _call(self, program: str, *args: str) -> None:
        done = subprocess.run(self.programs.argv(program, *args), capture_output=True, env=environment(), check=False)
        if done.returncode:
            raise ClusterError(explain([program, *args], done.returncode, done.stdout, done.stderr))

    def wait_clean(self, timeout: float = 60) -> None:
        """Waits until all OSDs are up and all placement groups active+clean."""
        commander = self.commander()
        try:
            wait_clean(commander.command, len(self._osds), timeout)
        finally:
            commander.close()

    # ------------------------------------------------------------ links

    def _within(self, name: str) -> list[str]:
        if self._network is None or name not in self._network.names:
            return []
        return self._network.within(name)

    def cut_link(self, name: str) -> None:
        """Lets an OSD's packets vanish, in a cluster with namespaces: silence, and connections stay open."""
        self._network_of(name).cut(name)

    def heal_link(self, name: str) -> None:
        """Undoes `cut_link`."""
        self._network_of(name).heal(name)

    def _network_of(self, name: str) -> Network:
        if self._network is None or name not in self._network.names:
            raise ClusterError(f"{name} has no network namespace of its own")
        return self._network

    # ------------------------------------------------------------ down

    def _stop_all(self) -> None:
        self.stop_daemons()
        if self._network is not None:
            self._network.down()
            self._network = None

    def down(self) -> None:
        """Stops the daemons and removes the directory."""
        self._stop_all()  # also when somebody has removed their directory
        if self._state_file.exists():
            shutil.rmtree(self.dir, ignore_errors=True)
        self.state = {}

    def status(self) -> dict[str, Any]:
        if not self.state:
            return {"provider": "native", "dir": str(self.dir), "daemons": {}}
        result: dict[str, Any] = {
            "provider": "native",
            "release": self.release,
            "dir": str(self.dir),
            "conf": str(self.conf),
            "store": self.state.get("store"),
            "daemons": {n: self.pid(n) for n in self.daemons},
            "problems": self.check_daemons(),
        }
        if any(self.pid(n) for n in self.daemons if n.startswith("mon.")):
            result["ceph"] = self.command("status")
        return result


@contextmanager
def native_cluster(*, address: str | None = None, **options: Any) -> Iterator[NativeCluster]:
    """A cluster for as long as it is needed, in a directory of its own.

    Args:
        address: where the daemons listen instead of loopback.
        options: what `NativeCluster.up` takes.
    Raises:
        ClusterError: it cannot start; or, at the end, daemons have died without being asked to, and their logs
            are left.
    """
    directory = Path(tempfile.mkdtemp(prefix="pyrbd-test-", dir="/tmp"))
    cluster = NativeCluster(directory / "c")
    cluster.address = address or cluster.address
    cluster.up(**options)
    try:
        yield cluster
    finally:
        problems = cluster.check_daemons()
        if problems:
            cluster._stop_all()
        else:
            cluster.down()
            shutil.rmtree(directory, ignore_errors=True)
    if problems:
        raise ClusterError("\n".join(["the daemons did not survive the tests:", *problems]))


def _free_ports(n: int, address: str) -> int:
    """The first of `n` ports in a row of which none is in use."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(200):
        base = random.randrange(20000, 32000, 8)
        sockets = []
        try:
            for port in range(base, base + n):
                s = socket.socket(family)
                sockets.append(s)
                s.bind((address, port))
        except OSError:
            continue
        finally:
            for s in sockets:
                s.close()
        return base
    raise ClusterError(f"no {n} free ports in a row")
