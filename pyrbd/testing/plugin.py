"""The pytest plugin: a real Ceph cluster by one fixture.

It is loaded in every run of pytest where pyrbd is installed, so it imports nothing until a test
wants a cluster.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyrbd.rados import Ioctx, Rados
    from pyrbd.rbd import Image

    from .base import Cluster
    from .providers import Provider

_numbers = itertools.count(1)
_started = pytest.StashKey[str]()
_provider = pytest.StashKey["Provider | Exception"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pyrbd", "Ceph clusters for tests (pyrbd)")
    group.addoption(
        "--pyrbd-cluster",
        choices=("auto", "native", "docker", "external"),
        help="who provides the cluster (PYRBD_TEST_CLUSTER; default: auto, the first that is there)",
    )
    group.addoption(
        "--pyrbd-release",
        metavar="NAME",
        help="nautilus, pacific, reef or tentacle, for native clusters (PYRBD_TEST_RELEASE)",
    )
    group.addoption(
        "--pyrbd-image", metavar="IMAGE", help="the image of docker clusters (PYRBD_TEST_IMAGE; default: Ceph's own)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "pyrbd_needs(*abilities): skipped where the cluster of pyrbd_cluster cannot be used so, "
        "such as kill_daemon; see pyrbd.testing.base.Abilities",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("pyrbd_needs") and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "_pyrbd_abilities")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    report, missing = outcome.get_result(), item.config.stash.get(_provider, None)
    if report.skipped and call.excinfo is not None and str(call.excinfo.value) == str(missing):
        # the same place for all, so that they are counted in one line
        report.longrepr = (__file__, provider_of.__code__.co_firstlineno, f"Skipped: {missing}")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if text := config.stash.get(_started, None):
        terminalreporter.write_line(f"pyrbd: {text}")


def provider_of(config: pytest.Config) -> Provider:
    """The provider that was asked for; a test is skipped only where ``auto`` finds none."""
    from .base import ClusterError, NotOffered
    from .providers import make_provider, options_of_environment

    if _provider not in config.stash:
        options = options_of_environment(os.environ)
        chosen = {name: config.getoption(f"pyrbd_{name}") for name in ("cluster", "release", "image")}
        chosen["name"] = chosen.pop("cluster")
        options.update({name: value for name, value in chosen.items() if value})
        try:
            config.stash[_provider] = make_provider(**options)
        except ClusterError as e:
            config.stash[_provider] = e
    found = config.stash[_provider]
    if isinstance(found, NotOffered):
        pytest.skip(str(found))
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def _pyrbd_abilities(request: pytest.FixtureRequest, pyrbd_cluster: Cluster) -> None:
    wanted = [name for mark in request.node.iter_markers("pyrbd_needs") for name in mark.args]
    if lacking := pyrbd_cluster.can.lacking(wanted):
        pytest.skip(f"not with this cluster: {', '.join(lacking)}")


@pytest.fixture(scope="session")
def pyrbd_cluster_options() -> dict[str, Any]:
    """What the cluster is to be like, as `pyrbd.testing.NativeCluster.up` takes it; to be overridden."""
    return {}


@pytest.fixture(scope="session")
def pyrbd_cluster(pytestconfig: pytest.Config, pyrbd_cluster_options: dict[str, Any]) -> Iterator[Cluster]:
    """A running Ceph cluster for the whole session."""
    with provider_of(pytestconfig).cluster(**pyrbd_cluster_options) as cluster:
        pytestconfig.stash[_started] = cluster.describe()
        yield cluster


@pytest.fixture(scope="session")
def pyrbd_conf(pyrbd_cluster: Cluster) -> str:
    """The path of the cluster's ceph.conf."""
    return str(pyrbd_cluster.conf)


@pytest.fixture(scope="session")
def pyrbd_rados(pyrbd_conf: str) -> Iterator[Rados]:
    """A connected client (`pyrbd.rados.Rados`)."""
    from pyrbd.rados import Rados

    with Rados(conffile=pyrbd_conf) as connected:
        yield connected


@pytest.fixture
def pyrbd_ioctx(pyrbd_rados: Rados, pyrbd_cluster: Cluster) -> Iterator[Ioctx]:
    """The cluster's pool for images."""
    with pyrbd_rados.open_ioctx(pyrbd_cluster.pool) as ioctx:
        yield ioctx


@pytest.fixture
def pyrbd_make_image(pyrbd_ioctx: Ioctx) -> Iterator[Callable[..., Image]]:
    """Makes images: ``pyrbd_make_image(size=64 << 20, **options of RBD.create)`` gives an open one.

    They are closed and removed after the test, with their snapshots.
    """
    from pyrbd import rbd

    made: dict[str, rbd.Image] = {}

    def make(size: int = 64 << 20, **options: Any) -> rbd.Image:
        name = f"pyrbd-{os.getpid()}-{next(_numbers)}"
        rbd.RBD().create(pyrbd_ioctx, name, size, **options)
        made[name] = rbd.Image(pyrbd_ioctx, name)
        return made[name]

    yield make
    for name, image in reversed(made.items()):
        image.close()
        try:
            _remove_image(pyrbd_ioctx, name)
        except rbd.ImageNotFound:
            pass  # the test has removed it


def _remove_image(ioctx: Ioctx, name: str) -> None:
    from pyrbd import rbd

    with rbd.Image(ioctx, name) as image:
        for snapshot in list(image.list_snaps()):
            if image.is_protected_snap(snapshot["name"]):
                image.unprotect_snap(snapshot["name"])
            image.remove_snap(snapshot["name"])
    rbd.RBD().remove(ioctx, name)
