"""The workers of both clients: processes of their own that answer JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).parent / "worker.py"
SYSTEM_PYTHON = "/usr/bin/python3"
"""The Python that has Ceph's own modules."""

_PROCESS = """
import {0}rados as rados, {0}rbd as rbd, sys
conf = dict(option.split("=", 1) for option in sys.argv[3:])
with rados.Rados(conffile=sys.argv[1], conf=conf) as cluster, cluster.open_ioctx("rbd") as ioctx:
    with rbd.Image(ioctx, sys.argv[2], read_only=True) as image:
        assert len(image.read(0, 4096)) == 4096
"""


class Figure(NamedTuple):
    """Of one round."""

    rate: float
    """Calls in a second, or MiB,"""
    cpu: float
    """CPU seconds of the client for one of these,"""
    memory: float
    """and its process's peak, in MiB; 0 where that is not known."""


class Client(NamedTuple):
    """One of those who are compared."""

    label: str
    python: str
    backend: str
    """``pyrbd`` or ``librbd``."""
    tree: str = str(ROOT)
    """Where pyrbd's source is."""


def librbd() -> Client | None:
    """Ceph's binding, where it is installed."""
    found = subprocess.run([SYSTEM_PYTHON, "-c", "import rados, rbd"], capture_output=True, check=False)
    return None if found.returncode else Client("librbd", SYSTEM_PYTHON, "librbd")


def pyrbd(tree: str = str(ROOT), label: str = "pyrbd") -> Client:
    return Client(label, sys.executable, "pyrbd", tree)


class Side:
    """A client with options, connected, and with the image of the benchmark open."""

    def __init__(self, client: Client, conf: str, options: tuple[str, ...], image: str, size: int) -> None:
        self.client = client
        self._conf = conf
        self._options = options
        self._image = image
        self._env = {**os.environ, "PYTHONPATH": client.tree} if client.backend == "pyrbd" else None
        self._process = subprocess.Popen(
            [client.python, str(WORKER), client.backend, conf, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=self._env,
        )
        self._answer()
        self._call("setup", image, size)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self.client.label} died")
        return json.loads(line)

    def _call(self, *words: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        return self._answer()

    def measure(self, call: str, seconds: float) -> Figure:
        if call == "process":
            return self._whole_process()
        self._reset_peak()
        rate, cpu = self._call(call, seconds)
        return Figure(rate, cpu, self._peak())

    def _whole_process(self) -> Figure:
        prefix = "pyrbd." if self.client.backend == "pyrbd" else ""
        program = [self.client.python, "-c", _PROCESS.format(prefix), self._conf, self._image, *self._options]
        before, start = os.times(), time.perf_counter()
        subprocess.run(program, check=True, env=self._env)
        took, after = time.perf_counter() - start, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return Figure(1 / took, cpu, 0)

    def _reset_peak(self) -> None:
        try:
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        except OSError:
            pass  # the peak is then that of all that was before as well

    def _peak(self) -> float:
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def close(self) -> None:
        self._call("close")
        self._process.communicate(timeout=60)
