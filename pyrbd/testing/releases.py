"""Releases of Ceph side by side, without containers, mounts or root.

apt resolves what a release's servers need, for the Debian suite that has this release, in a directory
of its own: the machine's package database is neither read nor written. The packages are downloaded and
unpacked below a prefix in the cache directory; nothing is configured, no maintainer script runs. Programs
of a prefix are started by its own dynamic linker with its own libraries.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .base import ClusterError, explain, say
from .programs import PACKAGES, Programs, Software, environment


class Release(NamedTuple):
    """A release, and Debian's suites that have it, the best one first."""

    name: str
    software: Software
    suites: tuple[str, ...]

    @property
    def major(self) -> int:
        return self.software.major


RELEASES = {
    release.name: release
    for release in (
        Release("nautilus", Software(14, ("aes",)), ("bullseye",)),
        Release("pacific", Software(16, ("aes",)), ("bookworm",)),
        Release("reef", Software(18, ("aes",)), ("trixie",)),
        Release("tentacle", Software(20, ("aes256k", "aes")), ("forky", "sid")),
    )
}
# Debian's name of an architecture: the directory of its libraries and its dynamic linker
ARCHITECTURES = {
    "amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# not needed to run anything: a fifth of the size
_LEFT_OUT = [
    f"./usr/share/{name}/*"
    for name in ("doc", "man", "locale", "info", "bash-completion", "lintian", "zoneinfo", "i18n")
] + [f"./{root}/{name}/*" for root in ("lib", "usr/lib") for name in ("systemd", "udev")]
# the manager loads each module there is; others than those that are always on cost it seconds
_MANAGER_MODULES = {
    "balancer", "crash", "devicehealth", "orchestrator", "orchestrator_cli", "pg_autoscaler",
    "progress", "rbd_support", "status", "telemetry", "volumes",
}  # fmt: skip


def find_release(name: str) -> Release:
    """A release by its name or major version; ClusterError for one that is not known."""
    for release in RELEASES.values():
        if name.lower() in (release.name, str(release.major)):
            return release
    raise ClusterError(f"unknown release {name!r}: there are {', '.join(RELEASES)}")


def cache_directory() -> Path:
    """Where unpacked releases are kept: ``$XDG_CACHE_HOME/pyrbd/ceph``, or in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyrbd" / "ceph"


class ReleasePrograms(Programs):
    """The programs of one release, unpacked in the cache directory."""

    def __init__(self, name: str) -> None:
        self._release = find_release(name)
        self.release = self._release.name
        self.prefix = cache_directory() / self._release.name
        self._triplet, self._linker = ARCHITECTURES[_architecture()]
        plugins = self._libraries / "ceph"
        every = {"plugin_dir": plugins, "erasure_code_dir": plugins / "erasure-code"}
        self.daemon_paths = {
            "mon": every,
            "mgr": {**every, "mgr_module_path": self._modules},
            "osd": {**every, "osd_class_dir": self._libraries / "rados-classes"},
        }
        self.client_paths = {"plugin_dir": plugins}

    @property
    def _libraries(self) -> Path:
        return self.prefix / "usr/lib" / self._triplet

    @property
    def _modules(self) -> Path:
        return self.prefix / "usr/share/ceph/mgr"

    def software(self) -> Software:
        return self._release.software

    def argv(self, program: str, *args: str) -> list[str]:
        return self._argv(self.prefix, program, *args)

    def _argv(self, prefix: Path, program: str, *args: str) -> list[str]:
        """The command line that starts a program below a prefix, which need not be where it stays."""
        for directory in ("usr/bin", "usr/sbin"):
            path = prefix / directory / program
            if path.exists():
                break
        else:
            raise ClusterError(f"{self._release.name} has no program {program}")
        libraries = prefix / "usr/lib" / self._triplet
        where = [libraries, libraries / "ceph", prefix / "usr/lib/ceph", libraries / "blas", libraries / "lapack"]
        # PYTHONHOME is for the manager and for programs in Python
        clean = ["/usr/bin/env", "-u", "PYTHONPATH", "-u", "VIRTUAL_ENV", f"PYTHONHOME={prefix / 'usr'}"]
        start = [
            *clean,
            "PYTHONNOUSERSITE=1",
            str(libraries / self._linker),
            "--library-path",
            ":".join(map(str, where)),
        ]
        with open(path, "rb") as f:
            first = f.read(100).partition(b"\n")[0]
        if first.startswith(b"#!"):
            if b"python" not in first:
                raise ClusterError(f"{program} is a script for {first[2:].decode(errors='replace')}")
            start.append(str(prefix / "usr/bin/python3"))
        return [*start, str(path), *args]

    def installed(self) -> dict[str, Any] | None:
        """What was installed: version, suite, sizes; None when it was not."""
        try:
            found: dict[str, Any] = json.loads((self.prefix / "release.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def prepare(self) -> None:
        """Downloads and unpacks the release, if nobody has yet; others who want it wait."""
        if self.installed():
            return
        for program in ("apt-get", "dpkg-deb", "tar"):
            if shutil.which(program) is None:
                raise ClusterError(
                    f"to install {self.release}, {program} is needed: use a machine of the Debian family"
                )
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        with open(self.prefix.parent / f"{self.release}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.installed():
                state, new = (self.prefix.with_suffix(suffix) for suffix in (".apt", ".new"))
                with _own_directory(state), _own_directory(new):
                    self._install(state, new)

    def _install(self, state: Path, new: Path) -> None:
        began = time.monotonic()
        suite, version, apt = self._resolve(state)
        say(f"{self.release}: downloading Ceph {version} ({suite})")
        _call([*apt, "-y", "--download-only", "install", *PACKAGES])
        packages = sorted((state / "cache/archives").glob("*.deb"))
        for name in ("bin", "sbin", "lib", "lib64"):  # as if /usr was merged, whatever the suite does
            (new / "usr" / name).mkdir(parents=True)
            (new / name).symlink_to(f"usr/{name}")
        say(f"{self.release}: unpacking {len(packages)} packages")
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            list(pool.map(lambda package: _unpack(package, new), packages))
        self._adapt(new)
        for program in ("ceph-mon", "ceph-mgr", "ceph-osd", "rbd", "ceph"):
            said = _call(self._argv(new, program, "--version"))
            if f"version {self._release.major}." not in said:
                raise ClusterError(f"{program} --version says {said}")
        report = {
            "release": self.release,
            "version": version,
            "suite": suite,
            "packages": len(packages),
            "download_bytes": sum(p.stat().st_size for p in packages),
            "seconds": round(time.monotonic() - began, 1),
        }
        (new / "release.json").write_text(json.dumps(report, indent=1))
        shutil.rmtree(self.prefix, ignore_errors=True)  # one that was left half-way
        new.rename(self.prefix)
        say(f"{self.release}: Ceph {version} is in {self.prefix}, after {report['seconds']} s")

    def _resolve(self, state: Path) -> tuple[str, str, list[str]]:
        """The first suite that has this release, its version there, and apt-get's command line for it."""
        mirror, reasons = _mirror(), []
        for suite in self._release.suites:
            say(f"{self.release}: reading the list of packages of {suite}")
            apt = ["apt-get", *_apt_options(state, mirror, suite)]
            try:
                _call([*apt, "update"])
                plan = _call([*apt, "--simulate", "install", *PACKAGES])
            except ClusterError as e:
                reasons.append(str(e))
                continue
            found = re.search(r"^Inst ceph-osd \((?:\d+:)?((\d+)\.[\w.]+)", plan, re.MULTILINE)
            if found is not None and int(found[2]) == self._release.major:
                return suite, found[1], apt
            reasons.append(f"{suite} has Ceph {found[1] if found else 'not at all'}")
        raise ClusterError(
            f"no Ceph {self._release.major} at {mirror} (PYRBD_TEST_MIRROR names another Debian archive): "
            + "; ".join(reasons)
        )

    def _adapt(self, new: Path) -> None:
        modules = new / self._modules.relative_to(self.prefix)
        for module in modules.iterdir():
            if module.is_dir() and module.name not in _MANAGER_MODULES:
                shutil.rmtree(module)
        # An extension that cannot be loaded in the manager's subinterpreters, and then no module is. It serves
        # the passwords of the dashboard only, so an empty one does.
        bcrypt = new / "usr/lib/python3/dist-packages/bcrypt"
        if bcrypt.is_dir():
            shutil.rmtree(bcrypt)
            bcrypt.with_suffix(".py").touch()
        # compiled once and here, or the first start is a slow one; a few of the files are not for this Python
        compiling = self._argv(new, "python3", "-m", "compileall", "-q", str(modules), str(bcrypt.parent))
        subprocess.run(compiling, capture_output=True, check=False)


@contextmanager
def _own_directory(path: Path) -> Iterator[None]:
    """An empty directory for as long as it is needed."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _call(command: list[str]) -> str:
    env = dict(environment(), LC_ALL="C.UTF-8")
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=env, check=False)
    if done.returncode:
        raise ClusterError(explain([*command[:1], "...", *command[-2:]], done.returncode, done.stdout, done.stderr))
    return done.stdout.decode(errors="replace")


def _architecture() -> str:
    try:
        name = subprocess.run(
            ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise ClusterError("releases of Ceph are unpacked from Debian's packages: dpkg is needed") from None
    if name not in ARCHITECTURES:
        raise ClusterError(f"no releases of Ceph for the architecture {name}: there are {', '.join(ARCHITECTURES)}")
    return name


def _mirror() -> str:
    """The Debian archive: what the environment says, else what this machine's apt uses, else Debian's own."""
    if chosen := os.environ.get("PYRBD_TEST_MIRROR"):
        return chosen.rstrip("/")
    for line in _call(["apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(COMPONENT)"]).splitlines():
        kind, _, rest = line.partition(" ")
        address, _, component = rest.partition(" ")
        if kind == "Packages" and component == "main" and re.search(r"/debian/?$", address):
            return address.rstrip("/")
    return MIRROR


def _apt_options(state: Path, mirror: str, suite: str) -> list[str]:
    """Options that keep apt-get in a directory of its own, for one suite."""
    architecture = _architecture()
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    signed = f" signed-by={KEYRING}" if KEYRING.exists() else ""
    (state / "sources.list").write_text(f"deb [arch={architecture}{signed}] {mirror} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Install-Recommends": "false",
        "APT::Keep-Downloaded-Packages": "true",
        "APT::Sandbox::User": "",  # it need not be root, and its own user could not write here
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dpkg::Use-Pty": "false",
    }
    return ["-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _unpack(package: Path, prefix: Path) -> None:
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    assert archive.stdout is not None
    with archive.stdout:
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        extract = ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(prefix), *left_out]
        done = subprocess.run(extract, stdin=archive.stdout, capture_output=True, check=False)
    if archive.wait() or done.returncode:
        raise ClusterError(explain(["unpacking", package.name], done.returncode, done.stdout, done.stderr))
