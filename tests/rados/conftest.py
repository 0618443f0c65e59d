"""Two clients that play the same steps: ours, and Ceph's binding."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyrbd import rados
from tests import oracle
from tests.rados.play import Player


class Librados:
    """Ceph's binding in a process of its own."""

    def __init__(self, conf: str, pools: tuple[str, str]) -> None:
        play = str(Path(__file__).with_name("play.py"))
        self.process = subprocess.Popen(
            oracle.argv(conf, "python3", play, conf, *pools),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def play(self, *sequence: Any) -> list[Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{sequence!r}\n")
        line = self.process.stdout.readline()
        assert line, "Ceph's binding has died"
        outcomes: list[Any] = ast.literal_eval(line)
        return outcomes

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def both(bluestore: str) -> Iterator[tuple[Player, Librados]]:
    """Our player and theirs, on the same cluster."""
    with rados.Rados(conffile=bluestore, conf={"rados_osd_op_timeout": "60"}) as cluster:
        pools = [f"{who}-{kind}" for who in ("ours", "theirs") for kind in ("pool", "self")]
        for pool in pools:
            cluster.create_pool(pool)
        theirs = Librados(bluestore, (pools[2], pools[3]))
        try:
            yield Player(rados, cluster, pools[0], pools[1]), theirs
        finally:
            theirs.close()
            for pool in pools:
                cluster.delete_pool(pool)
