"""The test clusters themselves: what they start they end, and what crashes is told."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from ci.cluster import ClusterError, NativeCluster, missing_programs

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


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="1 to 9 monitors"):
        NativeCluster(tmp_path / "c").up(mons=0)
