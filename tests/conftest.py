"""Fixtures: a real cluster for the session, Ceph's own tools as the oracle.

Who provides the cluster is the business of `pyrbd.testing`; tests ask what may be done with it
(`pytest.mark.pyrbd_needs`). They are skipped for what there is not, never for what fails.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pyrbd import rados, rbd  # noqa: E402
from pyrbd.testing import plugin  # noqa: E402
from pyrbd.testing.base import Cluster, NotOffered  # noqa: E402
from tests import oracle  # noqa: E402

_numbers = itertools.count(1)
_configs: list[pytest.Config] = []


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """The fixtures of `pyrbd.testing`, also where pyrbd is not installed but used from its source."""
    if not pluginmanager.has_plugin("pyrbd"):
        pluginmanager.register(plugin, "pyrbd")
    pluginmanager.import_plugin("pytester")


def pytest_configure(config: pytest.Config) -> None:
    _configs.append(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    _configs.remove(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that stop daemons come last, so that a failure of theirs does not hide others."""
    items.sort(key=lambda item: "test_faults" in item.nodeid)


@contextmanager
def own_cluster(**options: Any) -> Iterator[Cluster]:
    """A cluster of one's own for a test; daemons that died without being asked to are a failure.

    Its options are those of `NativeCluster.up`, and an `address`; a test for whose options there is no cluster is
    skipped.
    """
    provider = plugin.provider_of(_configs[-1])
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(provider.cluster(**options))
        except NotOffered as e:
            pytest.skip(str(e))
        oracle.know(cluster)
        yield cluster


@pytest.fixture(scope="session")
def cluster(pyrbd_cluster: Cluster) -> Cluster:
    """The running cluster that the tests share."""
    oracle.know(pyrbd_cluster)
    return pyrbd_cluster


@pytest.fixture(scope="session")
def daemons(cluster: Cluster) -> Cluster:
    """The cluster, when its daemons may be killed."""
    if cluster.can.lacking(["kill_daemon"]):
        pytest.skip("the daemons of this cluster may not be killed")
    return cluster


@pytest.fixture(scope="module")
def monitors() -> Iterator[Cluster]:
    """A cluster of its own with three monitors and one OSD, for tests that stop monitors."""
    with own_cluster(mons=3, osds=1) as several:
        yield several


@pytest.fixture(scope="session")
def conf(cluster: Cluster) -> str:
    """The path of the cluster's ceph.conf."""
    return str(cluster.conf)


@pytest.fixture(scope="session")
def handle(pyrbd_rados: rados.Rados) -> rados.Rados:
    """A connected client that the tests share."""
    return pyrbd_rados


@pytest.fixture
def ioctx(handle: rados.Rados) -> Iterator[rados.Ioctx]:
    """The pool ``rbd``."""
    with handle.open_ioctx("rbd") as opened:
        yield opened


@pytest.fixture
def name(ioctx: rados.Ioctx) -> Iterator[str]:
    """A name for an image (or object) that nobody else uses; an image of it is removed."""
    unique = f"test-{os.getpid()}-{next(_numbers)}"
    yield unique
    if unique in rbd.RBD().list(ioctx):
        try:
            rbd.RBD().remove(ioctx, unique)
        except rbd.Error:
            pass  # a test that leaves snapshots removes them itself


@pytest.fixture
def image(ioctx: rados.Ioctx, name: str) -> Iterator[rbd.Image]:
    """An open image of 64 MiB with objects of 1 MiB."""
    rbd.RBD().create(ioctx, name, 64 << 20, order=20)
    with rbd.Image(ioctx, name) as opened:
        yield opened


Run = Callable[..., bytes]


def tool_of(cluster: Cluster, program: str) -> Run:
    """A program of Ceph on this cluster."""
    if not cluster.can.exec_tools:
        pytest.skip(f"{program} cannot be run on this cluster: there is no oracle for this test")

    def run(*args: str, check: bool = True, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
        return cluster.tool(program, *args, check=check, stdin=stdin, env=env)

    return run


@pytest.fixture(scope="session")
def rbd_cli(cluster: Cluster) -> Run:
    """Ceph's `rbd`: ``rbd_cli("info", "x")`` gives stdout."""
    return tool_of(cluster, "rbd")


@pytest.fixture(scope="session")
def ceph_cli(cluster: Cluster) -> Run:
    """Ceph's `ceph`."""
    return tool_of(cluster, "ceph")


@pytest.fixture(scope="session")
def rados_cli(cluster: Cluster) -> Run:
    """Ceph's `rados`."""
    return tool_of(cluster, "rados")


@pytest.fixture(scope="session")
def bluestore_cluster() -> Iterator[Cluster]:
    """A cluster with three bluestore OSDs and one monitor, for what the store in memory does not do well."""
    with own_cluster(store="bluestore", settings=("osd/osd_max_markdown_count=100000",)) as other:
        yield other


@pytest.fixture(scope="session")
def bluestore(bluestore_cluster: Cluster) -> str:
    """The ceph.conf of `bluestore_cluster`."""
    return str(bluestore_cluster.conf)


@pytest.fixture
def librados(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """As `librbd`; for the bluestore cluster where a test uses that."""
    name = "bluestore_cluster" if "bluestore" in request.fixturenames else "cluster"
    return _cpp_modules(request.getfixturevalue(name))


@pytest.fixture(scope="session")
def librbd(cluster: Cluster) -> Callable[[str], Any]:
    """Runs code with Ceph's Python modules, with `cluster`, `ioctx`, `rados`, `rbd` at hand;
    gives what it assigns to `result`, through JSON."""
    return _cpp_modules(cluster)


def _cpp_modules(cluster: Cluster) -> Callable[[str], Any]:
    python = tool_of(cluster, "python3")

    def run(code: str) -> Any:
        script = (
            "import json, rados, rbd, sys\n"
            f"cluster = rados.Rados(conffile={cluster.tool_conf!r}); cluster.connect()\n"
            "ioctx = cluster.open_ioctx('rbd')\n"
            f"{code}\n"
            "print(json.dumps(result))\n"
        )
        return json.loads(python("-c", script).splitlines()[-1])

    return run
