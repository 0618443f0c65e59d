"""The test clusters themselves: what they start they end, and what crashes is told."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pyrbd.testing.base import ClusterError
from pyrbd.testing.conf import Shape
from pyrbd.testing.native import NativeCluster, native_cluster
from pyrbd.testing.programs import Programs, missing_programs
from pyrbd.testing.releases import RELEASES, find_release

needs_ceph = pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}")


def short_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The daemons' sockets bear no long paths."""
    return tmp_path_factory.mktemp("c") / "c"


@needs_ceph
def test_a_start_that_fails_leaves_nothing_running(tmp_path_factory: pytest.TempPathFactory) -> None:
    native = NativeCluster(short_directory(tmp_path_factory))
    with pytest.raises(ClusterError, match=r"osd\.0: exit status") as caught:
        native.up(osds=1, settings=["osd/osd_data=/proc/nowhere"])
    assert str(native.dir / "log") in str(caught.value)
    assert not native._processes()
    native.down()
    assert not native.dir.exists()


@needs_ceph
def test_deaths_and_crashes_are_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    native = NativeCluster(short_directory(tmp_path_factory))
    native.up(osds=1)
    try:
        assert native.check_daemons() == []
        assert set(native._processes()) == {native.pid(name) for name in native.daemons}
        with pytest.raises(ClusterError, match="a cluster runs in"):
            native.up()
        native.signal("osd.0", signal.SIGABRT)
        end = time.monotonic() + 30
        while len(native.check_daemons()) < 2:  # it writes its report, then ends
            assert time.monotonic() < end, native.check_daemons()
            time.sleep(0.05)
        dead, crashed = native.check_daemons()
        assert "osd.0 does not run" in dead
        assert "osd.0 crashed" in crashed
        native.start("osd.0")
        assert native.pid("osd.0")
        assert native.check_daemons() == [crashed], "a crash stays known after a restart"
    finally:
        native.down()
    assert not native._processes()


@pytest.mark.parametrize(
    "options, why",
    [
        ({"mons": 0}, "1 to 9 monitors"),
        ({"osds": 100}, "1 to 99 OSDs"),
        ({"release": "octopus"}, "unknown release 'octopus': there are nautilus, pacific"),
        ({"release": "pacific", "cipher": "aes256k"}, "this Ceph 16 has keys of the type aes only"),
        ({"release": "16", "compression": "zstd"}, "Ceph 16 does not compress"),
        ({"compression": "brotli"}, "compression is one of snappy, "),
        ({"modes": "plain"}, "modes is one of secure, crc"),
        ({"ec": True, "store": "memstore"}, "three OSDs with bluestore"),
        ({"ec": True, "osds": 2}, "three OSDs with bluestore"),
        ({"release": "tentacle", "cipher": "aes", "service_cipher": "aes256k"}, "needs cipher=both"),
        ({"settings": ["osd_heartbeat_grace"]}, r"write \[section/\]key=value"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    native = NativeCluster(tmp_path / "c")
    with pytest.raises(ClusterError, match=why):
        native.up(**options)
    assert not native.dir.exists()


def test_what_a_release_decides() -> None:
    assert find_release("18") is find_release("reef") is RELEASES["reef"]
    reef, tentacle = (RELEASES[name].software for name in ("reef", "tentacle"))
    assert Shape().completed(reef).cipher == "aes"
    assert Shape().completed(tentacle).cipher == Shape().completed(tentacle).service_cipher == "aes256k"
    assert Shape(ec=True).completed(reef).store == "bluestore"


def needs_packages(release: str) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip(f"{release} is unpacked from Debian's packages, which this machine has no programs for")


@pytest.mark.parametrize(
    "release, options",
    [
        ("nautilus", {"modes": "crc", "msgr": "both"}),
        ("pacific", {"osds": 1, "mons": 2}),
        ("reef", {"modes": "secure", "compression": "zlib", "ec": True}),
        ("tentacle", {"cipher": "both"}),
    ],
)
@pytest.mark.timeout(400)  # when it is to be downloaded first
def test_releases_side_by_side(release: str, options: dict[str, Any]) -> None:
    """Ceph's own tools say that the cluster is what was asked for."""
    needs_packages(release)
    with native_cluster(release=release, **options) as native:
        versions = json.loads(native.tool("ceph", "versions"))
        (daemons,) = versions["overall"]
        assert f" {release} " in daemons
        assert f" {release} " in native.tool("rbd", "--version").decode()
        python = native.tool("python3", "-c", "import rbd; print(rbd.__file__)").decode()
        assert python.startswith(str(native.programs.argv("rbd")[-1].removesuffix("bin/rbd")))
        pool = ["--data-pool", "ecdata"] if options.get("ec") else []
        native.tool("rbd", "create", "--size", "64M", "--image-feature", "layering", *pool, "x")
        assert native.tool("rbd", "ls").split() == [b"x"]
        with pytest.raises(ClusterError, match=r"rbd info nowhere: exit status 2\n.*No such file"):
            native.tool("rbd", "info", "nowhere")
        assert Programs.software(native.programs) == RELEASES[release].software
        again = NativeCluster(native.dir)
        assert again.release == release
        assert again.check_daemons() == []
        if algorithm := options.get("compression"):
            asked = ("ms_osd_compress_mode", "ms_osd_compression_algorithm")
            got = [json.loads(native.tool("ceph", "tell", "osd.0", "config", "get", option)) for option in asked]
            assert {k: v for answer in got for k, v in answer.items()} == dict(zip(asked, ("force", algorithm)))
        if "modes" in options:
            with pytest.raises(ClusterError):
                other = {"crc": "secure", "secure": "crc"}[options["modes"]]
                native.tool("ceph", f"--ms_mon_client_mode={other}", "--connect-timeout=2", "fsid")
        if options.get("cipher") == "both":
            assert native.tool("rbd", "--id", "aes", "ls").split() == native.tool("rbd", "ls").split()
            keys = {e: native.command("auth get-key", entity=f"client.{e}")["key"] for e in ("admin", "aes")}
            assert {e: key[:2] for e, key in keys.items()} == {"admin": "Ag", "aes": "AQ"}


def test_an_archive_without_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_packages("reef")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYRBD_TEST_MIRROR", f"file://{tmp_path}/nothing/")
    with pytest.raises(ClusterError, match=r"no Ceph 18 at file://.*/nothing \(PYRBD_TEST_MIRROR"):
        NativeCluster(tmp_path / "c").up(release="reef")
    assert [p.name for p in (tmp_path / "cache/pyrbd/ceph").iterdir()] == ["reef.lock"]


def test_the_command_runs_with_the_bare_interpreter(tmp_path: Path) -> None:
    """Nothing is installed for it, and pyrbd's own dependencies are not there."""
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-I", "-S", str(root / "ci/cluster"), "conf", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "ceph.conf")
