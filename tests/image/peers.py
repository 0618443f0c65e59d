"""Other clients, each in a process of its own: librbd's or ours, told what to do line by line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests import oracle

_LOOP = """
import json, sys, threading, time
cluster = rados.Rados(conffile=sys.argv[1]); cluster.connect()
ioctx = cluster.open_ioctx("rbd")
print("ready", flush=True)
for line in sys.stdin:
    try:
        text = json.loads(line)
        try:
            answer = eval(text)
        except SyntaxError:
            answer = exec(text)
        answer = [True, answer if isinstance(answer, (int, str, list, dict, type(None))) else repr(answer)]
    except Exception as e:
        answer = [False, type(e).__name__, getattr(e, "errno", None), str(e)]
    print(json.dumps(answer), flush=True)
"""


class Failed(Exception):
    """What a peer was told raised something there."""

    def __init__(self, kind: str, errno: int | None, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.errno = errno


class Peer:
    """Another client; `peer.do("image.size()")` gives what that gives there."""

    def __init__(self, conf: str, librbd: bool) -> None:
        if librbd:
            command = oracle.argv(conf, "python3", "-c", "import rados, rbd\n" + _LOOP, conf)
        else:
            command = [sys.executable, "-c", "from pyrbd import rados, rbd\n" + _LOOP, conf]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *args: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def begin(self, code: str) -> None:
        """Tells it to do something, and does not wait for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def end(self, timeout: float = 60) -> Any:
        """What the thing that was begun gave."""
        watchdog = threading.Timer(timeout, self.process.kill)
        watchdog.start()
        try:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, "the peer died, or took too long"
        good, *rest = json.loads(line)
        if not good:
            raise Failed(*rest)
        return rest[0]

    def do(self, code: str, timeout: float = 60) -> Any:
        self.begin(code)
        return self.end(timeout)

    def kill(self) -> None:
        """As kill -9: nothing is given up, nothing is said."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)
