"""Tickets that run out in seconds are renewed under load, and no operation is lost."""

from __future__ import annotations

import time

import pytest

from pyrbd import rados, rbd
from tests.conftest import native_cluster


@pytest.mark.timeout(120)
def test_tickets_are_renewed_under_load() -> None:
    settings = ["auth_service_ticket_ttl=4"]
    with native_cluster(osds=2, settings=settings) as native, rados.Rados(conffile=str(native.conf)) as cluster:
        mon = cluster.client.mon
        assert mon is not None
        global_id, issued, renewals, rounds = cluster.get_instance_id(), mon.tickets.renewals, 0, 0
        with cluster.open_ioctx("rbd") as io:
            rbd.RBD().create(io, "tickets", 64 << 20)
            with rbd.Image(io, "tickets") as image:
                end = time.monotonic() + 60
                while renewals < 3:
                    assert time.monotonic() < end, f"{renewals} renewals"
                    block = b"%8d" % rounds
                    image.write(block, rounds % 60 * 1000000)
                    assert image.read(rounds % 60 * 1000000, 8) == block
                    rounds += 1
                    renewals += mon.tickets.renewals != issued
                    issued = mon.tickets.renewals
                    if rounds % 500 == 0:  # new connections need the new tickets
                        for session in list(cluster.client.objecter._sessions.values()):
                            session.abort(rados.OSError("cut by the test"))
        assert cluster.get_instance_id() == global_id, "the old ticket proved who we are"
