"""Who provides test clusters: processes of this machine, an engine for containers, or somebody else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .base import Cluster, ClusterError, NotOffered
from .programs import PACKAGES, missing_programs
from .releases import find_release

NAMES = ("auto", "native", "docker", "external")


class Provider:
    """Starts clusters of one kind."""

    name: str

    def unavailable(self) -> str | None:
        """Why it has no clusters here and now; None when it does."""
        raise NotImplementedError

    def cluster(self, **options: Any) -> AbstractContextManager[Cluster]:
        """A context manager with a cluster of this shape, see `NativeCluster.up`.

        Raises:
            NotOffered: it has none of such a shape.
            ClusterError: it cannot start, or its daemons died without being asked to.
        """
        raise NotImplementedError


class NativeProvider(Provider):
    """Processes of this machine."""

    name = "native"

    def __init__(self, release: str | None = None) -> None:
        self.release = release and find_release(release).name

    def unavailable(self) -> str | None:
        if self.release:
            return None if shutil.which("apt-get") else f"{self.release} is unpacked by apt-get, which is missing"
        missing = missing_programs()
        return f"missing: {', '.join(missing)} (packages: {' '.join(PACKAGES)})" if missing else None

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[Cluster]:
        from .native import native_cluster
        from .netns import missing_abilities

        if options.get("netns") and (reason := missing_abilities()):
            raise NotOffered(reason)
        options.setdefault("release", self.release)
        if options["release"] is None and (reason := self.unavailable()):
            raise NotOffered(reason)
        with native_cluster(**options) as cluster:
            yield cluster


class ExternalProvider(Provider):
    """The one cluster that somebody else runs."""

    name = "external"

    def unavailable(self) -> str | None:
        path = os.environ.get("CEPH_CONF")
        if not path:
            return "CEPH_CONF does not name a cluster's ceph.conf"
        return None if os.path.exists(path) else f"{path} (CEPH_CONF) does not exist"

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[Cluster]:
        from .external import ExternalCluster

        if options:
            raise NotOffered("no second cluster beside the one of CEPH_CONF")
        cluster = ExternalCluster()
        cluster.up()
        try:
            yield cluster
        finally:
            cluster.down()


def make_provider(
    name: str, *, release: str | None = None, image: str | None = None, pull: str = "missing"
) -> Provider:
    """A provider by its name; ``auto`` is the first that is available: external, native, docker.

    Raises:
        NotOffered: ``auto``, and there is none; the message has all reasons.
        ClusterError: the provider that was asked for is not available.
    """
    if name not in NAMES:
        raise ClusterError(f"no provider {name}: there are {', '.join(NAMES)}")
    if release and name not in ("auto", "native"):
        raise ClusterError(f"a release is chosen of native clusters only, not with {name}")
    if name == "auto":
        return _first_available(release, image, pull)
    provider = _make(name, release, image, pull)
    if reason := provider.unavailable():
        raise ClusterError(f"there are no {name} clusters: {reason}")
    return provider


def _make(name: str, release: str | None, image: str | None, pull: str) -> Provider:
    if name == "docker":
        from .containers import DockerProvider

        return DockerProvider(image=image, pull=pull)
    return NativeProvider(release) if name == "native" else ExternalProvider()


def _first_available(release: str | None, image: str | None, pull: str) -> Provider:
    reasons = []
    for name in ("native",) if release else ("external", "native", "docker"):
        provider = _make(name, release, image, pull)
        reason = provider.unavailable()
        if reason is None:
            return provider
        reasons.append(f"{name}: {reason}")
    raise NotOffered(f"no Ceph cluster for tests: {'; '.join(reasons)}")


def options_of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the environment says of `make_provider`'s arguments."""
    return {
        "name": environ.get("PYRBD_TEST_CLUSTER") or "auto",
        "release": environ.get("PYRBD_TEST_RELEASE") or None,
        "image": environ.get("PYRBD_TEST_IMAGE") or None,
        "pull": environ.get("PYRBD_TEST_PULL") or "missing",
    }
