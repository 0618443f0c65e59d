"""Who provides a cluster, what a test may do with it, and the plugin as other people's suites use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyrbd.testing import Cluster, ClusterError, ExternalCluster
from pyrbd.testing.base import Abilities, NotOffered
from pyrbd.testing.programs import missing_programs
from pyrbd.testing.providers import NativeProvider, make_provider
from tests.conftest import ROOT

SUITE = ROOT / "examples/test_with_ceph.py"
CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from pyrbd.testing import plugin
def pytest_addoption(pluginmanager):  # as if it was installed
    if not pluginmanager.has_plugin("pyrbd"):
        pluginmanager.register(plugin, "pyrbd")
"""


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Ceph, an engine or a known cluster."""
    monkeypatch.delenv("CEPH_CONF", raising=False)
    for name in list(os.environ):
        if name.startswith("PYRBD_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    monkeypatch.setattr("pyrbd.testing.providers.missing_programs", lambda: ["ceph-osd"])


def test_auto_says_why_there_is_none(nothing: None) -> None:
    with pytest.raises(NotOffered) as caught:
        make_provider("auto")
    for reason in ("external: CEPH_CONF does not name", "native: missing: ceph-osd", "docker: no container engine"):
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    "name, why", [("native", "missing: ceph-osd"), ("docker", "no container engine"), ("external", "CEPH_CONF")]
)
def test_who_is_asked_for_by_name_must_be_there(nothing: None, name: str, why: str) -> None:
    with pytest.raises(ClusterError, match=f"there are no {name} clusters: .*{why}") as caught:
        make_provider(name)
    assert not isinstance(caught.value, NotOffered), "or tests were skipped"


def test_auto_takes_the_first_that_is_there(nothing: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pyrbd.testing.providers.missing_programs", list)
    assert make_provider("auto").name == "native"
    conf = tmp_path / "ceph.conf"
    monkeypatch.setenv("CEPH_CONF", str(conf))
    assert make_provider("auto").name == "native"
    with pytest.raises(ClusterError, match=r"ceph\.conf \(CEPH_CONF\) does not exist"):
        make_provider("external")
    conf.touch()
    assert make_provider("auto").name == "external"


def test_a_release_is_of_native_clusters(nothing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get"):
        found = make_provider("auto", release="18")
        assert isinstance(found, NativeProvider) and found.release == "reef"
    with pytest.raises(ClusterError, match="of native clusters only, not with docker"):
        make_provider("docker", release="reef")
    with pytest.raises(ClusterError, match="unknown release"):
        make_provider("native", release="octopus")
    with pytest.raises(ClusterError, match="no provider podman"):
        make_provider("podman")


def test_abilities() -> None:
    assert Abilities(kill_daemon=True).lacking(["kill_daemon", "cut_link"]) == ["cut_link"]
    with pytest.raises(ValueError, match="no such ability: fly; there are configure, cut_link"):
        Abilities().lacking(["fly"])


def test_what_a_cluster_cannot_do_is_an_error() -> None:
    cluster = Cluster()
    for call in (cluster.kill, cluster.stop, cluster.start, cluster.pause, cluster.resume, cluster.cut_link):
        with pytest.raises(ClusterError):
            call("osd.0")


@pytest.mark.parametrize("without_tools", [False, True])
def test_an_external_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, without_tools: bool) -> None:
    """Its pool is made, used, and deleted; by our own client where Ceph's is not installed."""
    if without_tools:
        monkeypatch.setattr("pyrbd.testing.external.missing_programs", lambda: ["python3-rados"])
    elif missing_programs():
        pytest.skip("Ceph is not installed")
    monkeypatch.delenv("PYRBD_TEST_POOL", raising=False)
    external = ExternalCluster(str(cluster.conf))

    def pools() -> list[str]:
        return [pool["poolname"] for pool in external.command("osd lspools")]

    external.up()
    assert external.pool.startswith("pyrbd-test-") and external.pool in pools()
    external.down()
    assert external.pool not in pools()
    monkeypatch.setenv("PYRBD_TEST_POOL", "rbd")
    external.up()
    assert external.pool == "rbd"
    external.down()
    assert "rbd" in pools()
    assert external.can.lacking(["kill_daemon", "configure"]) == ["kill_daemon", "configure"]
    with pytest.raises(ClusterError, match="osd pool nonsense"):
        external.command("osd pool nonsense")


# ---------------------------------------------------------------- the plugin


def run_suite(pytester: pytest.Pytester, *args: str, suite: str | None = None, **env: str) -> pytest.RunResult:
    """Another suite, in a process of its own, with only these variables of ours."""
    pytester.makeconftest(CONFTEST.format(root=str(ROOT)))
    pytester.makepyfile(suite or SUITE.read_text())
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *args]
    ours = {k: v for k, v in os.environ.items() if k not in ("CEPH_CONF", "DOCKER_HOST") and "PYRBD_TEST" not in k}
    return pytester.run(*["env", "-i", *(f"{k}={v}" for k, v in {**ours, **env}.items())], *command)


def test_the_example_with_a_native_cluster(pytester: pytest.Pytester) -> None:
    if missing := missing_programs():
        pytest.skip(f"no native cluster without {', '.join(missing)}")
    result = run_suite(pytester, "--pyrbd-cluster=native")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["pyrbd: a native cluster (Ceph of the distribution, memstore), up in * s"])


def test_the_example_with_an_external_cluster(pytester: pytest.Pytester, conf: str) -> None:
    result = run_suite(pytester, "--pyrbd-cluster=external", CEPH_CONF=conf)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines_random(
        ["SKIPPED ?1? *not with this cluster: kill_daemon", "pyrbd: the cluster of *ceph.conf*"]
    )


def test_a_cluster_that_is_asked_for_by_name_and_cannot_start(pytester: pytest.Pytester) -> None:
    result = run_suite(pytester, "--pyrbd-cluster=external")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["E *ClusterError: there are no external clusters: CEPH_CONF does not name*"])


def test_auto_skips_in_one_line_with_the_reason(pytester: pytest.Pytester, tmp_path: Path) -> None:
    """A machine without anything: no program of Ceph is on its path, and no engine runs."""
    nowhere = {"PATH": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/nowhere.sock"}
    for program in ("env", Path(sys.executable).name):
        (tmp_path / program).symlink_to(shutil.which(program) or sys.executable)
    code = "import pyrbd.testing.programs as p; p.missing_programs = lambda: ['ceph-osd']\n"
    result = run_suite(pytester, suite=code + SUITE.read_text().replace("from __future__", "#"), **nowhere)
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(
        ["SKIPPED ?2? *: no Ceph cluster for tests: external: *; native: missing: *; docker: *"]
    )


def test_images_of_the_factory_are_removed(pytester: pytest.Pytester, conf: str) -> None:
    suite = """
        from pyrbd import rbd
        def test_leaves_a_lot(pyrbd_make_image, pyrbd_ioctx):
            one, two, three = (pyrbd_make_image(size=1 << 22, order=20) for _ in range(3))
            one.create_snap("plain")
            two.create_snap("protected")
            two.protect_snap("protected")
            name = three.get_name()
            three.close()
            rbd.RBD().remove(pyrbd_ioctx, name)
        def test_nothing_is_left(pyrbd_ioctx, pyrbd_cluster):
            assert rbd.RBD().list(pyrbd_ioctx) == []
            assert pyrbd_cluster.pool.startswith("pyrbd-test-")
    """
    run_suite(pytester, "--pyrbd-cluster=external", suite=suite, CEPH_CONF=conf).assert_outcomes(passed=2)


def test_a_suite_says_what_its_cluster_is_to_be_like(pytester: pytest.Pytester, conf: str) -> None:
    suite = """
        import pytest
        @pytest.fixture(scope="session")
        def pyrbd_cluster_options():
            return {"osds": 1, "modes": "plain"}
        def test(pyrbd_cluster):
            pass
    """
    result = run_suite(pytester, "--pyrbd-cluster=native", "--pyrbd-release=reef", suite=suite)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *ClusterError: modes is one of secure, crc, not plain"])


def test_the_plugin_costs_nothing_where_nobody_wants_a_cluster(pytester: pytest.Pytester) -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import pyrbd.testing.plugin; print(*set(sys.modules) - before)"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert set(out.split()) == {"pyrbd", "pyrbd._version", "pyrbd.testing", "pyrbd.testing.plugin"}
    suite = "import sys\ndef test():\n    assert 'pyrbd.testing.native' not in sys.modules\n"
    run_suite(pytester, suite=suite).assert_outcomes(passed=1)
