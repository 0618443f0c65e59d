"""Ceph's own tools, run on this machine: what they say of a cluster is what tests compare with."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

from .base import Cluster, ClusterError, explain
from .commander import Commander
from .programs import Programs, environment


class LocalTools(Cluster):
    """A cluster that is asked by programs of this machine."""

    def __init__(self) -> None:
        self.programs = Programs()

    def argv(self, program: str, *args: str) -> list[str]:
        if program == "python3":
            return self.programs.argv(program, *args)
        return self.programs.argv(program, "-c", str(self.conf), *args)

    def tool(
        self,
        program: str,
        *args: str,
        check: bool = True,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> bytes:
        command = self.argv(program, *args)
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                input=stdin,
                timeout=timeout,
                env={**environment(), **(env or {})},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{program} {' '.join(args)}: not done after {timeout:.0f} s") from None
        except FileNotFoundError:
            raise ClusterError(f"{command[0]} is not installed") from None
        if check and done.returncode:
            raise ClusterError(explain([program, *args], done.returncode, done.stdout, done.stderr))
        return done.stdout

    def commander(self) -> Commander:
        """A connection for many monitor commands, to be closed."""
        return Commander(self.conf, self.programs)

    def command(self, prefix: str, **args: Any) -> Any:
        commander = self.commander()
        try:
            return commander.command(prefix, **args)
        finally:
            commander.close()
