"""Fixtures: a real cluster for the session, Ceph's own tools as the oracle.

The cluster is a native one, started once; with ``PYRBD_TEST_CLUSTER=external`` the one of
``$CEPH_CONF`` is used instead. Tests are skipped for what this machine lacks (Ceph's daemons,
its tools), never for what fails.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pyrbd import rados, rbd  # noqa: E402
from pyrbd.testing.base import Cluster  # noqa: E402
from pyrbd.testing.external import ExternalCluster  # noqa: E402
from pyrbd.testing.native import NativeCluster  # noqa: E402
from pyrbd.testing.native import native_cluster as start_native_cluster  # noqa: E402
from pyrbd.testing.programs import SYSTEM_PYTHON, missing_programs  # noqa: E402

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that stop daemons come last, so that a failure of theirs does not hide others."""
    items.sort(key=lambda item: "test_faults" in item.nodeid)


@contextmanager
def native_cluster(**options: Any) -> Iterator[NativeCluster]:
    """A cluster of one's own for a test; daemons that died without being asked to are a failure."""
    if not options.get("release") and (missing := missing_programs()):
        pytest.skip(f"no cluster without {', '.join(missing)}")
    with start_native_cluster(**options) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The running cluster that the tests share."""
    if os.environ.get("PYRBD_TEST_CLUSTER") == "external":
        yield ExternalCluster()
        return
    with native_cluster() as native:
        yield native


@pytest.fixture(scope="module")
def monitors() -> Iterator[NativeCluster]:
    """A cluster of its own with three monitors and one OSD, for tests that stop monitors."""
    with native_cluster(mons=3, osds=1) as native:
        yield native


@pytest.fixture(scope="session")
def native(cluster: Cluster) -> NativeCluster:
    """The cluster, when its daemons may be stopped."""
    if not isinstance(cluster, NativeCluster):
        pytest.skip("this test stops daemons, which it may not do to an external cluster")
    return cluster


@pytest.fixture(scope="session")
def conf(cluster: Cluster) -> str:
    """The path of the cluster's ceph.conf."""
    return str(cluster.conf)


@pytest.fixture(scope="session")
def handle(conf: str) -> Iterator[rados.Rados]:
    """A connected client that the tests share."""
    with rados.Rados(conffile=conf) as connected:
        yield connected


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


def _tool(program: str, conf: str) -> Run:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: there is no oracle for this test")

    def run(*args: str, check: bool = True, stdin: bytes | None = None) -> bytes:
        done = subprocess.run([program, "-c", conf, *args], capture_output=True, input=stdin, check=False)
        if check and done.returncode:
            raise AssertionError(f"{program} {' '.join(args)}: {done.returncode}\n{done.stderr.decode()}")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def rbd_cli(conf: str) -> Run:
    """Ceph's `rbd`: ``rbd_cli("info", "x")`` gives stdout."""
    return _tool("rbd", conf)


@pytest.fixture(scope="session")
def ceph_cli(conf: str) -> Run:
    """Ceph's `ceph`."""
    return _tool("ceph", conf)


@pytest.fixture(scope="session")
def rados_cli(conf: str) -> Run:
    """Ceph's `rados`."""
    return _tool("rados", conf)


@pytest.fixture(scope="session")
def bluestore() -> Iterator[str]:
    """The ceph.conf of a cluster with three bluestore OSDs and one monitor, for what the store
    in memory does not do well."""
    with native_cluster(store="bluestore", settings=("osd/osd_max_markdown_count=100000",)) as native:
        yield str(native.conf)


@pytest.fixture
def librados(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """As `librbd`; for the bluestore cluster where a test uses that."""
    name = "bluestore" if "bluestore" in request.fixturenames else "conf"
    run: Callable[[str], Any] = _cpp_modules(request.getfixturevalue(name))
    return run


@pytest.fixture(scope="session")
def librbd(conf: str) -> Callable[[str], Any]:
    """Runs code with Ceph's Python modules, with `cluster`, `ioctx`, `rados`, `rbd` at hand;
    gives what it assigns to `result`, through JSON."""
    return _cpp_modules(conf)


def _cpp_modules(conf: str) -> Callable[[str], Any]:
    if any("python3" in missing for missing in missing_programs()):
        pytest.skip("python3-rbd is not installed: there is no oracle for this test")

    def run(code: str) -> Any:
        script = (
            "import json, rados, rbd, sys\n"
            f"cluster = rados.Rados(conffile={conf!r}); cluster.connect()\n"
            "ioctx = cluster.open_ioctx('rbd')\n"
            f"{code}\n"
            "print(json.dumps(result))\n"
        )
        done = subprocess.run([SYSTEM_PYTHON, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
