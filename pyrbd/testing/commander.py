"""Many monitor commands over one connection of the C++ client, and waiting for a cluster with them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .base import ClusterError
from .programs import Programs, environment

# JSON lines in and out
_SCRIPT = """
import json, sys, rados
c = rados.Rados(conffile=sys.argv[1], conf={"client_mount_timeout": "30"})
c.connect()
print(json.dumps(c.get_fsid()), flush=True)
for line in iter(sys.stdin.readline, ""):
    r, out, err = c.mon_command(line.strip(), b"", timeout=60)
    print(json.dumps([r, out.decode("utf-8", "replace"), err]), flush=True)
"""


def wait_clean(command: Callable[[str], Any], osds: int, timeout: float) -> None:
    """Waits until so many OSDs are up and all placement groups active+clean; ClusterError after `timeout` seconds.

    The manager's view lags, so its count of placement groups must match the pools'.
    """
    end = time.monotonic() + timeout
    while True:
        status = command("status")
        osdmap = status["osdmap"].get("osdmap", status["osdmap"])
        pgmap = status["pgmap"]
        clean = sum(s["count"] for s in pgmap.get("pgs_by_state", []) if s["state_name"].startswith("active+clean"))
        want = sum(p["pg_num"] for p in command("osd dump")["pools"])
        if osdmap["num_up_osds"] >= osds and clean == pgmap["num_pgs"] == want:
            return
        if time.monotonic() > end:
            raise ClusterError(f"not clean after {timeout:.0f} s")
        time.sleep(0.1)


class Commander:
    """Runs monitor commands over one connection of the C++ client."""

    def __init__(self, conf: Path, programs: Programs | None = None) -> None:
        self._process = subprocess.Popen(
            (programs or Programs()).argv("python3", "-c", _SCRIPT, str(conf)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )
        if not self._line():
            raise ClusterError(f"cannot connect to the monitor: {self._stderr()}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _stderr(self) -> str:
        self._process.kill()
        return self._process.communicate()[1][-2000:]

    def command(self, prefix: str, **args: Any) -> Any:
        """The decoded JSON output; ClusterError for a failure."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prefix": prefix, "format": "json", **args}) + "\n")
        self._process.stdin.flush()
        line = self._line()
        if not line:
            raise ClusterError(f"{prefix}: lost the monitor: {self._stderr()}")
        result, out, status = json.loads(line)
        if result:
            raise ClusterError(f"{prefix} {args}: {result} {status}")
        try:
            return json.loads(out) if out.strip() else None
        except ValueError:
            return out

    def close(self) -> None:
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:  # a client whose monitor has gone does not end by itself
            self._process.kill()
            self._process.communicate()
