"""Networks that are shut out (``ceph osd blocklist range``, quincy and newer)."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from pyrbd import rados
from pyrbd.msgr.types import EntityAddr
from tests.conftest import own_cluster

pytestmark = pytest.mark.timeout(180)

OUR_NETWORK = "127.0.0.0/30"
"""Clients are seen as 127.0.0.1; the daemons of this cluster are elsewhere."""


def test_a_client_in_a_blocklisted_network_fails_at_once_and_stays_failed() -> None:
    with (
        own_cluster(release="reef", osds=1, address="127.0.0.9") as reef,
        rados.Rados(conffile=str(reef.conf)) as admin,
        rados.Rados(conffile=str(reef.conf)) as cluster,
        cluster.open_ioctx("rbd") as ioctx,
    ):

        def blocklist(what: str, network: str) -> None:
            cmd = {"prefix": "osd blocklist", "range": "range", "blocklistop": what, "addr": network}
            result, _, status = admin.mon_command(json.dumps(cmd), b"", timeout=30)
            assert result == 0, status

        def listed(address: str) -> bool:
            end = time.monotonic() + 30
            kind = EntityAddr.TYPE_MSGR2
            while EntityAddr(kind, 0, address, 0) not in cluster.client.osdmap.blocklist:
                if time.monotonic() > end:
                    return False
                cluster.wait_for_latest_osdmap()
            return True

        for network, inside, outside in (
            ("10.1.2.0/24", "10.1.2.77", "10.1.3.1"),
            ("fd00:1::/64", "fd00:1::77", "fd00:2::1"),
        ):
            blocklist("add", network)
            assert listed(inside)
            assert EntityAddr(EntityAddr.TYPE_MSGR2, 5, outside, 7) not in cluster.client.osdmap.blocklist
        ioctx.write_full("object", b"before")
        lost: list[int] = []
        watch = ioctx.watch("object", lambda *a: None, lambda *a: lost.append(a[-1]))
        outcomes: list[Any] = []

        def wait() -> None:
            try:
                outcomes.append(ioctx.read("object"))
            except rados.Error as e:
                outcomes.append(e)

        osd = next(d for d in reef.daemons if d.startswith("osd."))
        reef.pause(osd)
        try:
            waiting = threading.Thread(target=wait)
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()
            assert str(cluster.get_addrs()).startswith("v2:127.0.0.1:0/")
            blocklist("add", OUR_NETWORK)
            waiting.join(10)
            assert not waiting.is_alive()
        finally:
            reef.resume(osd)
        assert isinstance(outcomes[0], rados.ConnectionShutdown) and outcomes[0].errno == 108
        for call in (lambda: ioctx.read("object"), lambda: ioctx.write_full("object", b"after")):
            with pytest.raises(rados.ConnectionShutdown):
                call()
        blocklist("rm", OUR_NETWORK)
        with pytest.raises(rados.ConnectionShutdown):
            ioctx.read("object")
        end = time.monotonic() + 10
        while not lost:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(rados.Error):
            watch.check()
        with rados.Rados(conffile=str(reef.conf)) as again, again.open_ioctx("rbd") as io:
            assert io.read("object") == b"before"
