"""What works with which release of Ceph: the table of docs/compatibility.md.

Each row is a way to be connected (release, type of key and of the services' secrets, connection mode, compression), and
each column a check that is made in that way against a cluster of that release. The rows of one cluster are checked at
the same time, as most of it is waiting for tickets to run out.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pyrbd.testing.base import ClusterError
from pyrbd.testing.native import NativeCluster, native_cluster
from pyrbd.testing.programs import Programs, missing_programs

from .checks import CHECKS, Way

TICKET_TTL = 6
"""Seconds that the tickets of services are good for in these clusters."""


class Setting(NamedTuple):
    """A cluster and the ways to connect to it."""

    release: str
    shape: dict[str, Any]
    ways: tuple[Way, ...]

    @property
    def name(self) -> str:
        return "-".join([self.release, *(str(v) for v in self.shape.values())])


class Row(NamedTuple):
    """A way, and what came of each check: ``ok``, or what went wrong."""

    release: str
    way: Way
    results: dict[str, str]

    @property
    def ok(self) -> bool:
        return all(r == "ok" for r in self.results.values())


def _ways(keys: Iterable[tuple[str, str, str]], compress: str | None, modes: Iterable[str]) -> tuple[Way, ...]:
    return tuple(
        Way(name, key, secrets, mode, algorithm)
        for name, key, secrets in keys
        for mode in modes
        for algorithm in (None, *([compress] if compress else []))
    )


AES = [("admin", "aes", "aes")]
BOTH = ("crc", "secure")
SETTINGS = (
    Setting("nautilus", {}, _ways(AES, None, BOTH)),
    Setting("pacific", {}, _ways(AES, None, BOTH)),
    Setting("reef", {"compression": "zstd"}, _ways(AES, "zstd", BOTH)),
    Setting(
        "tentacle",
        {"cipher": "both", "compression": "snappy"},
        _ways([("admin", "aes256k", "aes256k"), ("aes", "aes", "aes256k")], "snappy", BOTH),
    ),
    Setting(
        "tentacle",
        {"cipher": "both", "service_cipher": "aes"},
        _ways([("admin", "aes256k", "aes"), ("aes", "aes", "aes")], None, BOTH),
    ),
)
"""What continuous integration runs each time."""

FORCED = tuple(
    Setting(release, {"modes": mode, **shape}, _ways([("admin", key, key)], algorithm, [mode]))
    for release, key, algorithms in (
        ("nautilus", "aes", (None,)),
        ("pacific", "aes", (None,)),
        ("reef", "aes", ("snappy", "zlib", "lz4")),
        ("tentacle", "aes256k", ("snappy",)),  # the others end the OSDs of Debian's 20.2.4
    )
    for mode in BOTH
    for algorithm in algorithms
    for shape in ([{"compression": algorithm}] if algorithm else [{}])
)
"""Clusters that allow nothing but one mode, and the other algorithms."""


def release_of(name: str) -> str | None:
    """What to ask test clusters for: the distribution's own packages when they are of that release."""
    majors = {"nautilus": 14, "pacific": 16, "reef": 18, "tentacle": 20}
    if not missing_programs() and Programs().software().major == majors[name]:
        return None
    return name


def run(setting: Setting, say: Callable[[str], None] = lambda text: None) -> list[Row]:
    """Starts a cluster and makes all checks in each way."""
    settings = [f"auth_service_ticket_ttl={TICKET_TTL}"]
    say(f"{setting.name}: {len(setting.ways)} ways")
    with (
        native_cluster(release=release_of(setting.release), settings=settings, **setting.shape) as cluster,
        ThreadPoolExecutor(len(setting.ways)) as pool,
    ):
        return list(pool.map(lambda way: _row(setting.release, cluster, way), setting.ways))


def _row(release: str, cluster: NativeCluster, way: Way) -> Row:
    results = {}
    for name, check in CHECKS.items():
        try:
            check(cluster, way)
            results[name] = "ok"
        except Exception as e:
            traceback.print_exc()
            results[name] = f"{type(e).__name__}: {e}".splitlines()[0][:120]
    return Row(release, way, results)


def table(rows: Iterable[Row]) -> str:
    """The table, in Markdown."""
    lines = [
        "| release | client's key | services' secrets | mode | asks for compression | " + " | ".join(CHECKS) + " |",
        "| --- " * (5 + len(CHECKS)) + "|",
    ]
    for release, way, results in rows:
        cells = [release, way.key, way.secrets, way.mode, way.compression or "-", *results.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


__all__ = ["FORCED", "SETTINGS", "ClusterError", "Row", "Setting", "run", "table"]
