"""What every test cluster has, whoever provides it, and what tests may ask of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class ClusterError(Exception):
    """The cluster could not be started or used; the message says what to do."""


class NotOffered(ClusterError):
    """This provider has no such clusters."""


def say(text: str) -> None:
    """Tells of progress, on stderr."""
    print(f"[cluster] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Abilities:
    """What tests may do with a cluster besides using it as any client does.

    Tests ask for these, and never who provides the cluster.
    """

    exec_tools: bool = False
    """Run Ceph's own programs on it: `Cluster.tool`, `Cluster.command`."""
    make_pool: bool = False
    """Create and delete pools."""
    configure: bool = False
    """Change options, flags and weights that hold for the whole cluster."""
    kill_daemon: bool = False
    """Kill, stop, pause and start daemons."""
    cut_link: bool = False
    """Let the packets of one OSD vanish."""
    local_tools: bool = False
    """Programs of Ceph run on this machine and see its files: `Cluster.argv`."""
    second_cluster: bool = False
    """Have another cluster beside it, of any shape."""

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Which of these are not there; ValueError for a name that is none."""
        known = {field.name for field in fields(self)}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"no such ability: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return [name for name in names if not getattr(self, name)]


class Cluster:
    """What tests need of any cluster. What it cannot do (see `can`) is a ClusterError."""

    conf: Path
    """The ceph.conf that clients use."""

    @property
    def tool_conf(self) -> str:
        """The path of the ceph.conf where programs that `tool` runs see it."""
        return str(self.conf)

    pool = "rbd"
    """The pool for images."""

    @property
    def can(self) -> Abilities:
        """What tests may do with it."""
        return Abilities()

    @property
    def daemons(self) -> list[str]:
        """The names of the daemons: ``mon.a``, ``mgr.x``, ``osd.0``, ...; none when they are not known."""
        return []

    def describe(self) -> str:
        """A few words for a report."""
        raise NotImplementedError

    def down(self) -> None:
        """Stops what was started for it."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """What `ceph status` says, and the daemons that this provider started."""
        raise NotImplementedError

    def check_daemons(self) -> list[str]:
        """What went wrong with the daemons since they were started, a line each: deaths and crashes."""
        return []

    # ------------------------------------------------------------ exec_tools

    def argv(self, program: str, *args: str) -> list[str]:
        """The command line, for this machine, that runs a program of Ceph on this cluster.

        ``python3`` is the Python that has Ceph's own `rados` and `rbd`; any other program is told of the ceph.conf.
        """
        raise ClusterError(f"{program} cannot be run on this cluster")

    def tool(
        self,
        program: str,
        *args: str,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> bytes:
        """Runs a program of Ceph on this cluster: ``cluster.tool("rbd", "info", "x")`` gives stdout.

        Args:
            check: a failure is a ClusterError with what the program said on stderr.
            env: more variables for it.
            timeout: in seconds; ClusterError when it is over.
        """
        raise ClusterError(f"{program} cannot be run on this cluster")

    def command(self, prefix: str, **args: Any) -> Any:
        """Runs a monitor command; the decoded JSON output. ClusterError for a failure."""
        raise ClusterError("monitor commands cannot be run on this cluster")

    def wait_clean(self, timeout: float = 60) -> None:
        """Waits until all OSDs are up and all placement groups active+clean; ClusterError after `timeout` seconds."""
        raise ClusterError("this cluster's state is not known")

    # ------------------------------------------------------------ kill_daemon

    def pid(self, name: str) -> int | None:
        """The pid of a daemon that runs, else None."""
        raise ClusterError(f"{name} is not ours")

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a daemon; ClusterError if it does not run."""
        raise ClusterError(f"{name} is not ours")

    def kill(self, name: str) -> None:
        """kill -9, and waits until it is gone."""
        raise ClusterError(f"{name} is not ours")

    def stop(self, name: str) -> None:
        """Ends a daemon in order."""
        raise ClusterError(f"{name} is not ours")

    def start(self, name: str) -> None:
        """Starts a daemon again."""
        raise ClusterError(f"{name} is not ours")

    def pause(self, name: str) -> None:
        """SIGSTOP: silent, not closed."""
        raise ClusterError(f"{name} is not ours")

    def resume(self, name: str) -> None:
        """Undoes `pause`."""
        raise ClusterError(f"{name} is not ours")

    # ------------------------------------------------------------ cut_link

    def cut_link(self, name: str) -> None:
        """Lets an OSD's packets vanish: silence, and connections stay open."""
        raise ClusterError(f"{name} has no link of its own")

    def heal_link(self, name: str) -> None:
        """Undoes `cut_link`."""
        raise ClusterError(f"{name} has no link of its own")


def explain(command: Sequence[str], status: int, out: bytes, err: bytes) -> str:
    """What to say of a program that failed."""
    said = b"\n".join(part.strip()[-2000:] for part in (out, err) if part.strip())
    return f"{' '.join(command)}: exit status {status}\n{said.decode(errors='replace')}"
