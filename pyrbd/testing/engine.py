"""An engine for containers, by the Python package `docker`: found, asked for images and networks, swept."""

from __future__ import annotations

import io
import os
import random
import socket
import sys
import tarfile
import time
from collections.abc import Mapping
from typing import Any

from .base import ClusterError, say

DEFAULT_IMAGE = "quay.io/ceph/ceph:v19"
LABEL = "pyrbd.test"
PULL = ("missing", "never")


class Engine:
    """A container engine on this machine."""

    def __init__(self, client: Any, errors: Any) -> None:
        self.client = client
        self.errors = errors
        """The module with the package's exceptions."""

    def image(self, name: str, pull: str) -> Any:
        """The image, pulled when it is absent and `pull` is ``missing``; ClusterError says why there is none."""
        if pull not in PULL:
            raise ClusterError(f"pull is one of {', '.join(PULL)}, not {pull}")
        try:
            return self.client.images.get(name)
        except self.errors.ImageNotFound:
            if pull == "never":
                raise ClusterError(f"image {name} is absent, and none is to be pulled") from None
        except self.errors.APIError as e:
            raise ClusterError(f"image {name}: {e}") from None
        say(f"pulling {name}")
        try:
            return self.client.images.pull(name)
        except self.errors.ImageNotFound as e:
            raise ClusterError(f"image {name} does not exist: {e}") from None
        except self.errors.APIError as e:
            raise ClusterError(f"image {name} is absent and the registry unreachable: {e}") from None

    def make_network(self, labels: Mapping[str, str]) -> tuple[Any, str]:
        """A bridge with a free range of addresses, and the part of them that all have in common (``10.231.7``)."""
        from docker.types import IPAMConfig, IPAMPool

        last: Exception | None = None
        for _ in range(10):
            base = f"10.231.{random.randrange(256)}"
            pool = IPAMPool(subnet=f"{base}.0/24", gateway=f"{base}.1")
            name = f"pyrbd-{os.getpid()}-{random.randrange(1 << 32):08x}"
            try:
                ipam = IPAMConfig(pool_configs=[pool])
                return self.client.networks.create(name, driver="bridge", ipam=ipam, labels=dict(labels)), base
            except self.errors.APIError as e:
                if "overlap" not in str(e):
                    raise ClusterError(f"no network for containers: {e}") from None
                last = e
        raise ClusterError(f"no network for containers: no range of addresses was free: {last}")

    def sweep(self) -> None:
        """Removes what processes that have ended without doing it have left."""
        found = {"label": LABEL}
        for container in self.client.containers.list(all=True, filters=found):
            if _has_ended(container.labels):
                self._quietly(container.remove, force=True, v=True)
        for network in self.client.networks.list(filters=found):
            if _has_ended((network.attrs or {}).get("Labels") or {}):
                self._quietly(network.remove)

    def _quietly(self, remove: Any, **how: Any) -> None:
        try:
            remove(**how)
        except self.errors.APIError as e:  # somebody else sweeps as well
            say(f"cannot remove what is left of an earlier run: {e}")


def find_engine() -> Engine:
    """The engine that this machine has; ClusterError with the reason when there is none."""
    if not sys.platform.startswith("linux"):
        # the addresses of containers, which Ceph's clients must reach, are within a virtual machine
        raise ClusterError("clusters in containers are reached from Linux only")
    try:
        import docker
        from docker import errors
    except ImportError:
        raise ClusterError("the Python package docker is missing (pip install 'pyrbd-ceph[docker]')") from None
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not where.startswith("unix://"):
        raise ClusterError(f"the engine of DOCKER_HOST={where} is on another machine, its containers are not reached")
    try:
        # the package says it less clearly when nobody listens there, and leaves its socket open
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(where.removeprefix("unix://"))
        client = docker.from_env()
    except (OSError, errors.DockerException) as e:
        raise ClusterError(f"no container engine (DOCKER_HOST={where}): {e}") from None
    return Engine(client, errors)


def labels() -> dict[str, str]:
    """What marks a container or network as one of this process."""
    return {LABEL: "1", f"{LABEL}.pid": str(os.getpid()), f"{LABEL}.host": os.uname().nodename}


def _has_ended(marks: Mapping[str, str]) -> bool:
    if marks.get(f"{LABEL}.host") != os.uname().nodename:
        return False
    try:
        os.kill(int(marks[f"{LABEL}.pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, PermissionError):
        return False
    return False


def pack(files: Mapping[str, bytes]) -> bytes:
    """An archive of files, as `put_archive` takes it; scripts and secrets alike are for their owner only."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o700, int(time.time())
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(chunks: Any) -> bytes:
    """The content of the only file of an archive, as `get_archive` gives it."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                return content.read()
    raise ClusterError("the container has an empty archive for a file")
