"""Where Ceph's programs come from: the distribution's packages, or an unpacked release.

The programs of a release are in :mod:`.releases`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .base import ClusterError, say

PACKAGES = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph-common", "python3-rados", "python3-rbd"]
PROGRAMS = ["ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd", "rados", "monmaptool"]
SYSTEM_PYTHON = "/usr/bin/python3"
_FOREIGN = ("CEPH_ARGS", "CEPH_CONF", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def environment() -> dict[str, str]:
    """This process's environment without what would lead Ceph's programs astray."""
    env = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
    for name in _FOREIGN:
        env.pop(name, None)
    return env


class Software(NamedTuple):
    """What decides what a cluster can be like."""

    major: int
    """16 for pacific."""
    key_types: tuple[str, ...]
    """The types of keys that there are, the one of new clusters first."""


def software_of(version: str, monmaptool_help: str) -> Software:
    """From what ``ceph-mon --version`` and ``monmaptool --help`` say."""
    found = re.search(r"version (\d+)\.", version)
    if found is None:
        raise ClusterError(f"ceph-mon --version says {version.strip()!r}")
    # the point releases that came with the newer type of keys tell by this
    newer = "--auth-allowed-ciphers" in monmaptool_help
    return Software(int(found[1]), ("aes256k", "aes") if newer else ("aes",))


class Programs:
    """The programs that ``PATH`` finds, and the system's Python."""

    release: str | None = None
    """The release's name when it was asked for by name."""

    daemon_paths: Mapping[str, Mapping[str, Path]] = {}
    """Options that tell daemons where their plugins are: by kind of daemon ("mon", "mgr", "osd")."""

    client_paths: Mapping[str, Path] = {}
    """Likewise for clients, when they need plugins."""

    def argv(self, program: str, *args: str) -> list[str]:
        """The command line of a program with these arguments."""
        return [SYSTEM_PYTHON if program == "python3" else program, *args]

    def software(self) -> Software:
        """What these programs can make."""
        said = []
        for command in (self.argv("ceph-mon", "--version"), self.argv("monmaptool", "--help")):
            done = subprocess.run(command, capture_output=True, env=environment(), check=False)
            said.append((done.stdout + done.stderr).decode(errors="replace"))
        return software_of(*said)

    def prepare(self) -> None:
        """Installs what is missing."""
        install_packages()


def missing_programs() -> list[str]:
    """What this machine lacks for a cluster of the distribution's Ceph; empty when it can start one."""
    path = environment()["PATH"]
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
