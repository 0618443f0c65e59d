"""What every test cluster has, whoever provides it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ClusterError(Exception):
    """The cluster could not be started or used; the message says what to do."""


def say(text: str) -> None:
    """Tells of progress, on stderr."""
    print(f"[cluster] {text}", file=sys.stderr, flush=True)


class Cluster:
    """What tests need of any cluster."""

    conf: Path
    """The ceph.conf that clients use."""

    def down(self) -> None:
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """What `ceph status` says, and the daemons that this provider started."""
        raise NotImplementedError

    def check_daemons(self) -> list[str]:
        """What went wrong with the daemons since they were started, a line each: deaths and crashes."""
        return []

    def argv(self, program: str, *args: str) -> list[str]:
        """The command line that runs a program of Ceph (or ``python3``, with Ceph's modules) as it fits the daemons."""
        raise NotImplementedError

    def tool(
        self, program: str, *args: str, check: bool = True, stdin: bytes | None = None, timeout: float = 300
    ) -> bytes:
        """Runs a program of Ceph against this cluster: ``cluster.tool("rbd", "info", "x")`` gives stdout.

        ``python3`` is the Python with Ceph's own `rados` and `rbd`; any other program is told of the ceph.conf.

        Args:
            check: a failure is a ClusterError with what the program said on stderr.
            timeout: in seconds; ClusterError when it is over.
        """
        raise NotImplementedError

    def command(self, prefix: str, **args: Any) -> Any:
        """Runs a monitor command; the decoded JSON output. ClusterError for a failure."""
        raise NotImplementedError


def explain(command: Sequence[str], status: int, out: bytes, err: bytes) -> str:
    """What to say of a program that failed."""
    said = b"\n".join(part.strip()[-2000:] for part in (out, err) if part.strip())
    return f"{' '.join(command)}: exit status {status}\n{said.decode(errors='replace')}"
