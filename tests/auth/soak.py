"""Hours of I/O in one: tickets that are good for seconds, new connections all the time, and the same memory at the end.

``python -m tests.auth.soak --seconds 300 --ttl 10 --mode secure``
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import time
from pathlib import Path
from typing import NamedTuple

from pyrbd import rados, rbd
from tests.auth import checks


class Soaked(NamedTuple):
    """What happened."""

    operations: int
    renewals: int
    logins: int
    connections: int
    memory: tuple[int, ...]
    """KiB that the process has, after each tenth of the time."""

    @property
    def growth(self) -> int:
        """KiB, from the middle of it (when all caches are warm) to the end."""
        return self.memory[-1] - self.memory[len(self.memory) // 2]


def resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def soak(cluster: rados.Rados, seconds: float, anew: float = 0.5) -> Soaked:
    """Writes and reads an image and appends records to an object, all of it verified.

    Args:
        anew: seconds after which all connections to OSDs end, and others begin with the tickets of then.
    """
    tickets = checks.tickets_of(cluster)
    renewals, logins = tickets.renewals, tickets.logins
    memory: list[int] = []
    cuts = 0
    name = f"soaked-{cluster.get_instance_id()}"
    with cluster.open_ioctx("rbd") as io:
        rbd.RBD().create(io, name, 32 << 20, order=20)
        io.write_full(name, b"")
        with rbd.Image(io, name) as image:
            started = time.monotonic()
            cut_at = started + anew
            blocks = [os.urandom(4096) for _ in range(16)]
            for n in itertools.count():
                now = time.monotonic()
                if now >= started + seconds * (len(memory) + 1) / 10:
                    memory.append(resident())
                    if len(memory) == 10:
                        break
                if now >= cut_at:
                    checks.connect_anew(cluster)
                    cut_at = now + anew
                    cuts += 1
                at = n % 500 * 65536
                image.write(blocks[n % 16], at)
                assert image.read(at, 4096) == blocks[n % 16]
                if n % 50 == 0:
                    io.append(name, b"%07d\n" % (n // 50))
        lines = io.read(name, 8 << 20).split()
        assert [int(line) for line in lines] == list(range(len(lines))) and len(lines) == (n - 1) // 50 + 1
        io.remove_object(name)
        rbd.RBD().remove(io, name)
    return Soaked(2 * n, tickets.renewals - renewals, tickets.logins - logins, cuts, tuple(memory))


def main() -> None:
    from pyrbd.testing.native import native_cluster

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--ttl", type=float, default=10, help="of tickets of services, in seconds")
    parser.add_argument("--mode", choices=["secure", "crc"], default="secure")
    parser.add_argument("--release", help="of the cluster")
    arguments = parser.parse_args()
    settings = [f"auth_service_ticket_ttl={arguments.ttl}", f"auth_mon_ticket_ttl={2 * arguments.ttl}"]
    options = {"release": arguments.release, "settings": settings, "modes": arguments.mode}
    with native_cluster(**options) as native, checks.login(str(native.conf)) as cluster:
        print(soak(cluster, arguments.seconds))


if __name__ == "__main__":
    main()
