"""How a test suite gets a Ceph cluster from pyrbd: by asking for a fixture. Run it with ``pytest examples``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyrbd import rbd
from pyrbd.testing import Cluster


def test_what_is_written_is_read(pyrbd_make_image: Callable[..., rbd.Image]) -> None:
    image = pyrbd_make_image(size=8 << 20)
    image.write(b"hello", 4096)
    assert image.read(4096, 5) == b"hello"


@pytest.mark.pyrbd_needs("kill_daemon")
def test_an_osd_dies(pyrbd_cluster: Cluster, pyrbd_make_image: Callable[..., rbd.Image]) -> None:
    image = pyrbd_make_image(size=8 << 20)
    pyrbd_cluster.kill("osd.0")
    image.write(b"goes on", 0)
    pyrbd_cluster.start("osd.0")
    pyrbd_cluster.wait_clean()
    assert image.read(0, 7) == b"goes on"
