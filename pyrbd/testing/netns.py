"""A network namespace per OSD, on one bridge: links that can be cut and healed. It needs root."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from .base import ClusterError

_PREFIX = "pyrbd"


def missing_abilities() -> str | None:
    """Why there can be no namespaces here; None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the program ip"
    probe = f"{_PREFIX}-probe-{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except ClusterError as e:
        return f"network namespaces are not allowed here: {e}"
    return None


class Network:
    """A bridge with an address of this machine, and a namespace with a link to it for each of some daemons."""

    def __init__(self, number: int, names: list[str]) -> None:
        self.number = number
        self.names = names
        self.bridge = f"{_PREFIX}{number}"
        base = f"10.{214 + number // 250}.{number % 250}"
        self.address = f"{base}.1"
        """Of the bridge: what runs outside of the namespaces listens there."""
        self.subnet = f"{base}.0/24"
        self._addresses = {name: f"{base}.{10 + i}/24" for i, name in enumerate(names)}

    @classmethod
    def create(cls, names: list[str]) -> Network:
        """Makes a bridge and a namespace for each name, at most 200; ClusterError where that is not allowed."""
        if reason := missing_abilities():
            raise ClusterError(reason)
        for _ in range(100):
            network = cls(random.randrange(2500), names)
            if not Path("/sys/class/net", network.bridge).exists() and not _ip("route", "show", network.subnet):
                break
        else:
            raise ClusterError("no address range is free for a bridge")
        try:
            network._up()
        except BaseException:
            network.down()
            raise
        return network

    def namespace(self, name: str) -> str:
        """The name of a daemon's namespace."""
        return f"{self.bridge}-{self.names.index(name)}"

    def _link(self, name: str) -> str:
        return f"{self.bridge}v{self.names.index(name)}"

    def _up(self) -> None:
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        for name in self.names:
            namespace, link = self.namespace(name), self._link(name)
            _ip("netns", "add", namespace)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", link, "master", self.bridge, "up")
            _ip("-n", namespace, "link", "set", "lo", "up")
            _ip("-n", namespace, "addr", "add", self._addresses[name], "dev", "eth0")
            _ip("-n", namespace, "link", "set", "eth0", "up")

    def within(self, name: str) -> list[str]:
        """The start of a command line that runs a program in a daemon's namespace."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def cut(self, name: str) -> None:
        """Lets all packets from and to a daemon vanish: it is silent, its connections stay open."""
        _ip("link", "set", self._link(name), "down")

    def heal(self, name: str) -> None:
        """Undoes `cut`."""
        _ip("link", "set", self._link(name), "up")

    def down(self) -> None:
        """Removes what there is of it."""
        for name in self.names:
            # the namespace would take its link along, but some time later
            _remove(Path("/sys/class/net", self._link(name)), "link", "del", self._link(name))
            _remove(Path("/run/netns", self.namespace(name)), "netns", "del", self.namespace(name))
        _remove(Path("/sys/class/net", self.bridge), "link", "del", self.bridge)


def _ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def _remove(path: Path, *args: str) -> None:
    if path.exists():
        try:
            _ip(*args)
        except ClusterError:
            if path.exists():
                raise
