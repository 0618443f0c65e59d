"""Clusters in a container: Ceph's own image with our start script, or a demo image with its own entrypoint."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .base import Abilities, Cluster, ClusterError, NotOffered, explain
from .commander import wait_clean
from .conf import Place, Shape, ceph_conf, keyrings, monmap_command, pool_commands, write_private
from .engine import DEFAULT_IMAGE, Engine, find_engine, labels, pack, unpack
from .programs import software_of
from .providers import Provider

HOME = "/pyrbd"
"""Where a container has the cluster's directory."""
_STOPPED = "the container has ended"

# it ends at once, as threads of the C++ client may crash while the process is cleared up
_COMMAND = """
import json, os, sys, rados
c = rados.Rados(conffile=sys.argv[1], conf={"client_mount_timeout": "30"})
c.connect()
r, out, err = c.mon_command(sys.argv[2], b"", timeout=60)
print(json.dumps([r, out.decode("utf-8", "replace"), err]), flush=True)
os._exit(0)
"""


class ContainerCluster(Cluster):
    """A cluster in one container, at a fixed address of a network of its own.

    No port is published: clients learn the daemons' addresses from the cluster, and those must be reachable.
    """

    tool_conf = f"{HOME}/ceph.conf"

    def __init__(self, engine: Engine, image: Any) -> None:
        self._engine = engine
        self._image = image
        self._network: Any = None
        self._container: Any = None
        self._names: list[str] = []
        self._took = 0.0
        self.address = ""
        self.dir = Path(tempfile.mkdtemp(prefix="pyrbd-test-"))
        self.conf = self.dir / "ceph.conf"

    @property
    def can(self) -> Abilities:
        return Abilities(exec_tools=True, make_pool=True, configure=True, second_cluster=True)

    @property
    def daemons(self) -> list[str]:
        return self._names

    def describe(self) -> str:
        return f"a cluster in a container of {self._image.tags or self._image.id}, up in {self._took:.1f} s"

    # ------------------------------------------------------------ up and down

    def up(self, *, timeout: float = 120, **options: Any) -> float:
        """Starts the container and the cluster in it; waits until all placement groups are active+clean.

        Args:
            options: as of `NativeCluster.up`.
        Returns:
            seconds that it took.
        Raises:
            NotOffered: no cluster in a container is like that.
            ClusterError: it says why, with what the container said; nothing is left.
        """
        began = time.monotonic()
        try:
            shape = self._shape(**options)
            self._network, base = self._engine.make_network(labels())
            self.address = f"{base}.2"
            self._create(shape)
            self._start(shape, began + timeout)
            for command in self._pools(shape):
                self.command(**command)
            wait_clean(self.command, shape.osds, began + timeout - time.monotonic())
        except self._engine.errors.APIError as e:
            said = self._said()
            self.down()
            raise ClusterError(f"the container engine: {e}{said}") from None
        except ClusterError as e:
            said = self._said()
            self.down()
            raise type(e)(f"{e}{said}") from None
        except BaseException:
            self.down()
            raise
        self._took = time.monotonic() - began
        return self._took

    def _shape(self, **options: Any) -> Shape:
        """What `up` was asked for; NotOffered for what it cannot be."""
        raise NotImplementedError

    def _create(self, shape: Shape) -> None:
        """Makes `_container`, which is not started yet."""
        raise NotImplementedError

    def _start(self, shape: Shape, end: float) -> None:
        """Starts it, and its daemons, and writes `conf`; ClusterError when they do not until `end`."""
        raise NotImplementedError

    def _pools(self, shape: Shape) -> Sequence[dict[str, Any]]:
        return [dict(command) for command in pool_commands(shape)]

    def _new_container(self, **options: Any) -> Any:
        """A container with our address, labels and a process 1 that cares for orphans."""
        name = self._network.name
        address = self._engine.client.api.create_endpoint_config(ipv4_address=self.address)
        return self._engine.client.containers.create(
            self._image.id,
            hostname="pyrbd",
            init=True,
            labels=labels(),
            network=name,
            networking_config={name: address},
            **options,
        )

    def _said(self) -> str:
        if self._container is None:
            return ""
        try:
            text = self._container.logs(tail=40).decode(errors="replace").strip()
        except self._engine.errors.APIError:
            return ""
        return f"\nthe container said:\n{text}" if text else ""

    def _check_running(self) -> None:
        self._container.reload()
        if self._container.status != "running":
            raise ClusterError(_STOPPED)

    def down(self) -> None:
        """Removes the container, its volumes and its network."""
        errors = self._engine.errors
        problems = []
        for what in ("_container", "_network"):
            thing, how = getattr(self, what), {"force": True, "v": True} if what == "_container" else {}
            if thing is None:
                continue
            try:
                thing.remove(**how)
            except errors.NotFound:
                pass
            except errors.APIError as e:
                problems.append(str(e))
            setattr(self, what, None)
        shutil.rmtree(self.dir, ignore_errors=True)
        if problems:
            raise ClusterError(f"something is left of the container: {'; '.join(problems)}")

    def status(self) -> dict[str, Any]:
        return {
            "provider": "docker",
            "image": self._image.tags,
            "conf": str(self.conf),
            "problems": self.check_daemons(),
            "ceph": self.command("status"),
        }

    # ------------------------------------------------------------ programs

    def _exec(self, *command: str, **options: Any) -> tuple[int, bytes, bytes]:
        """Runs a program in the container: its exit status, stdout and stderr."""
        try:
            status, (out, err) = self._container.exec_run(list(command), demux=True, **options)
        except self._engine.errors.APIError as e:
            self._check_running()
            raise ClusterError(f"{command[0]}: {e}") from None
        return status, out or b"", err or b""

    def _must(self, *command: str, **options: Any) -> bytes:
        status, out, err = self._exec(*command, **options)
        if status:
            raise ClusterError(explain(command, status, out, err))
        return out

    def tool(
        self,
        program: str,
        *args: str,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> bytes:
        command = ["timeout", str(timeout), program]
        if program != "python3":
            command += ["-c", self.tool_conf]
        command += args
        if stdin is not None:
            self._container.put_archive("/tmp", pack({"stdin": stdin}))
            command = ["/bin/sh", "-c", 'exec "$@" < /tmp/stdin', "sh", *command]
        status, out, err = self._exec(*command, environment=dict(env or {}))
        if status == 124:
            raise ClusterError(f"{program} {' '.join(args)}: not done after {timeout:.0f} s")
        if check and status:
            raise ClusterError(explain([program, *args], status, out, err))
        return out

    def command(self, prefix: str, **args: Any) -> Any:
        asked = json.dumps({"prefix": prefix, "format": "json", **args})
        result, out, status = json.loads(self.tool("python3", "-c", _COMMAND, self.tool_conf, asked))
        if result:
            raise ClusterError(f"{prefix} {args}: {result} {status}")
        try:
            return json.loads(out) if out.strip() else None
        except ValueError:
            return out

    def wait_clean(self, timeout: float = 60) -> None:
        wait_clean(self.command, sum(name.startswith("osd.") for name in self.daemons), timeout)


class PlainContainer(ContainerCluster):
    """Of an image that has Ceph's programs, with the configuration of native clusters and our start script."""

    @property
    def can(self) -> Abilities:
        return replace(super().can, kill_daemon=True)

    def _shape(self, **options: Any) -> Shape:
        for name, value in options.items():
            if name in ("release", "netns", "address") and value:
                raise NotOffered(f"{name} is not for clusters in containers")
        options = {k: v for k, v in options.items() if k not in ("release", "netns", "address")}
        options["settings"] = tuple(options.get("settings", ()))
        return Shape(**options)

    def _create(self, shape: Shape) -> None:
        self._container = self._new_container(entrypoint=["/bin/sleep", "infinity"], command=[])

    def _start(self, shape: Shape, end: float) -> None:
        self._container.start()
        self._check_running()
        said = [self._must(*command).decode() for command in (("ceph-mon", "--version"), ("monmaptool", "--help"))]
        software = software_of(*said)
        shape = shape.completed(software)
        self._names = shape.daemons
        inside = Place(Path(HOME), self.address, 3300)
        arguments = monmap_command(shape, inside, Path(HOME, "monmap"), software)
        keys = keyrings(shape)
        files = {
            "ceph.conf": ceph_conf(shape, inside, {}, {}),
            "monmap.arguments": shlex.join(arguments),
            "start.sh": Path(__file__).with_name("start.sh").read_text(),
            **keys,
        }
        self._must("mkdir", "-p", HOME)
        self._container.put_archive(HOME, pack({name: text.encode() for name, text in files.items()}))
        self.conf.write_text(ceph_conf(shape, replace(inside, directory=self.dir), {}, {}))
        for name, text in keys.items():
            write_private(self.dir / name, text)
        ids = {"MONS": " ".join(shape.mon_ids), "OSDS": " ".join(map(str, range(shape.osds)))}
        left = str(max(1.0, end - time.monotonic()))
        self._must("timeout", left, "/bin/bash", f"{HOME}/start.sh", environment=ids)

    # ------------------------------------------------------------ daemons

    def pid(self, name: str) -> int | None:
        script = f'p=$(cat {HOME}/run/{name}.pid) && grep -q "^State:[[:space:]]*[^Z]" /proc/$p/status && echo $p'
        status, out, _ = self._exec("/bin/sh", "-c", script)
        return int(out) if status == 0 else None

    def signal(self, name: str, number: int) -> None:
        pid = self.pid(name)
        if pid is None:
            raise ClusterError(f"{name} does not run")
        self._must("/bin/sh", "-c", f"kill -{int(number)} {pid}")

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self._wait_gone(name, 10)

    def stop(self, name: str) -> None:
        self.signal(name, signal.SIGTERM)
        self._wait_gone(name, 20)

    def pause(self, name: str) -> None:
        self.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def start(self, name: str) -> None:
        kind, _, ident = name.partition(".")
        end = time.monotonic() + 10
        while self.pid(name) is None:
            try:
                self._must(f"ceph-{kind}", "-i", ident, "-c", self.tool_conf)
            except ClusterError as e:  # one that was killed may hold its lock for a moment more
                if "another process locked it" not in str(e) or time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def _wait_gone(self, name: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.pid(name) is not None:
            if time.monotonic() > end:
                raise ClusterError(f"{name} has not ended after {timeout:.0f} s")
            time.sleep(0.05)

    def check_daemons(self) -> list[str]:
        try:
            self._check_running()
        except ClusterError as e:
            return [str(e)]
        problems = [f"{name} does not run in the container" for name in self.daemons if self.pid(name) is None]
        _, out, _ = self._exec("/bin/sh", "-c", f"grep -L mgr_module {HOME}/crash/*/meta")
        return problems + [f"a daemon crashed, see {path} in the container" for path in out.decode().split()]


class DemoContainer(ContainerCluster):
    """Of an image whose entrypoint starts a demo cluster, such as ``quay.io/ceph/demo``, and says SUCCESS."""

    tool_conf = "/etc/ceph/ceph.conf"

    def _shape(self, **options: Any) -> Shape:
        if other := sorted(name for name, value in options.items() if name != "osds" and value):
            raise NotOffered(f"a demo image does not let one choose {', '.join(other)}")
        return Shape(osds=options.get("osds", 3), pgs=8)

    def _create(self, shape: Shape) -> None:
        environment = {
            "MON_IP": self.address,
            "CEPH_PUBLIC_NETWORK": self.address.rpartition(".")[0] + ".0/24",
            "DEMO_DAEMONS": "osd",
            "OSD_COUNT": str(shape.osds),
        }
        self._container = self._new_container(environment=environment)

    def _start(self, shape: Shape, end: float) -> None:
        self._container.start()
        while b"SUCCESS" not in self._container.logs(tail=200):
            self._check_running()
            if time.monotonic() > end:
                raise ClusterError("the demo has not said SUCCESS in time")
            time.sleep(0.2)
        self._names = ["mon.pyrbd", *(f"osd.{i}" for i in range(shape.osds))]
        keyring = self.dir / "keyring"
        write_private(keyring, self._read("/etc/ceph/ceph.client.admin.keyring"))
        self.conf.write_text(self._read("/etc/ceph/ceph.conf") + f"\n[client]\nkeyring = {keyring}\n")

    def _read(self, path: str) -> str:
        return unpack(self._container.get_archive(path)[0]).decode()

    def check_daemons(self) -> list[str]:
        try:
            self._check_running()
        except ClusterError as e:
            return [str(e)]
        return []


class DockerProvider(Provider):
    """Containers of one image."""

    name = "docker"

    def __init__(
        self,
        *,
        image: str | None = None,
        pull: str = "missing",
        find: Callable[[], Engine] = find_engine,
    ) -> None:
        self._image_name = image or DEFAULT_IMAGE
        self._pull = pull
        self._find = find
        self._engine: Engine | None = None
        self._image: Any = None

    def unavailable(self) -> str | None:
        try:
            self._engine = self._find()
            self._image = self._engine.image(self._image_name, self._pull)
        except ClusterError as e:
            return str(e)
        return None

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[Cluster]:
        if self._engine is None and (reason := self.unavailable()):
            raise ClusterError(reason)
        assert self._engine is not None
        self._engine.sweep()
        entrypoint = (self._image.attrs.get("Config") or {}).get("Entrypoint") or [""]
        kind = DemoContainer if entrypoint[-1].endswith("/demo") else PlainContainer
        cluster = kind(self._engine, self._image)
        cluster.up(**options)
        problems: list[str] = []
        try:
            yield cluster
        finally:
            try:
                problems = cluster.check_daemons()
            finally:
                cluster.down()
        if problems:
            raise ClusterError("\n".join(["the daemons did not survive the tests:", *problems]))
