"""Daemons that are processes of this machine: started, found again, signalled, ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from .base import ClusterError
from .oracle import LocalTools
from .programs import environment

_DAEMONS = {b"ceph-mon", b"ceph-mgr", b"ceph-osd"}


class DaemonProcesses(LocalTools):
    """A cluster whose daemons run here, from the configuration in one directory (`run/*.pid`, `log/`)."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.dir = directory
        self.conf = directory / "ceph.conf"
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def daemons(self) -> list[str]:
        """The names of all daemons that were started."""
        raise NotImplementedError

    def _within(self, name: str) -> list[str]:
        """The start of a command line that runs a program where this daemon is."""
        return []

    # ------------------------------------------------------------ starting

    def _spawn(self, name: str, *args: str) -> tuple[str, subprocess.Popen[bytes]]:
        kind, _, ident = name.partition(".")
        command = self.programs.argv(f"ceph-{kind}", "-i", ident, "-c", str(self.conf), *args)
        with open(self.dir / "log" / f"{name}.out", "wb") as log:
            process = subprocess.Popen(
                [*self._within(name), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.dir,
                env=environment(),
                start_new_session=True,
            )
        self._children.append(process)
        return name, process

    def _finish(self, processes: Iterable[tuple[str, subprocess.Popen[bytes]]]) -> None:
        """Waits for mkfs, or for daemons to have gone to the background."""
        for name, process in processes:
            if process.wait():
                output = self.dir / "log" / f"{name}.out"
                # what it said, without the backtraces
                lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
                said = [line for line in lines if not re.match(r" *(\d+: |NOTE: |-?\d+> )", line)]
                shown = "\n  ".join(list(dict.fromkeys(said))[-8:])
                raise ClusterError(f"{name}: exit status {process.returncode}, see {output}:\n  {shown}")
            self._children.remove(process)

    def start(self, name: str) -> None:
        """Starts a daemon again. One that was killed may hold its lock for a moment more."""
        end = time.monotonic() + 10
        while self.pid(name) is None:
            try:
                self._finish([self._spawn(name)])
            except ClusterError as e:
                if "another process locked it" not in str(e) or time.monotonic() > end:
                    raise
                time.sleep(0.2)

    # ------------------------------------------------------------ what runs

    def _processes(self) -> dict[int, str]:
        """The daemons of this cluster that run, by pid, also those that have not written their pid file yet."""
        found = {}
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if os.fsencode(self.conf) not in words:
                continue
            # the program is the first word, or after those of the dynamic linker that starts it
            programs = [os.path.basename(word) for word in words[: words.index(b"-i")]] if b"-i" in words else []
            if programs and programs[-1] in _DAEMONS:
                found[pid] = programs[-1].decode()
        return found

    def pid(self, name: str) -> int | None:
        """The pid of a daemon of this cluster that runs, else None."""
        try:
            pid = int((self.dir / "run" / f"{name}.pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError, IndexError):
            return None
        return pid if os.fsencode(self.conf) in words and state != "Z" else None

    def check_daemons(self) -> list[str]:
        problems = [f"{n} does not run, see {self.dir}/log/{n}.log" for n in self.daemons if self.pid(n) is None]
        for meta in sorted((self.dir / "crash").glob("*/meta")):  # written by a daemon's signal handler
            try:
                report = json.loads(meta.read_text())
            except ValueError:
                report = {}
            if "mgr_module" in report:  # a module without an attribute that it need not have, from reef on
                continue
            why = report.get("assert_msg", "a fatal signal").strip()
            problems.append(f"{report.get('entity_name', '?')} crashed, see {meta.parent}: {why}")
        return problems

    # ------------------------------------------------------------ signals

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a daemon; ClusterError if it does not run."""
        pid = self.pid(name)
        if pid is None:
            raise ClusterError(f"{name} does not run")
        os.kill(pid, number)

    def kill(self, name: str) -> None:
        """kill -9, and waits until it is gone."""
        self.signal(name, signal.SIGKILL)
        self._wait_gone(name, 10)

    def stop(self, name: str) -> None:
        """Ends a daemon in order."""
        self.signal(name, signal.SIGTERM)
        self._wait_gone(name, 20)

    def pause(self, name: str) -> None:
        """SIGSTOP: silent, not closed."""
        self.signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def _wait_gone(self, name: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while self.pid(name):
            if time.monotonic() > end:
                raise ClusterError(f"{name} has not ended after {timeout:.0f} s")
            time.sleep(0.02)

    def stop_daemons(self) -> None:
        """Ends what runs of this cluster, and nothing else."""
        end = time.monotonic() + 20
        # again until nothing is left, for one may be about to go to the background
        while running := self._processes():
            if time.monotonic() > end:
                raise ClusterError(f"these do not end: {running}")
            for pid in running:
                try:
                    os.kill(pid, signal.SIGKILL)  # nothing here is worth a clean shutdown
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        for process in self._children:
            process.wait()
        self._children.clear()
