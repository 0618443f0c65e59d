"""Random work with one image after the other against a buffer, for a minute; `python -m tests.image.fsx` does it
for as long as it is told to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SEED = os.environ.get("PYRBD_SEED", "20261125")


def _run(module: str, *args: str) -> str:
    command = [sys.executable, "-m", module, "--seed", SEED, *args]
    environment = {k: v for k, v in os.environ.items() if k != "CEPH_CONF"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.timeout(600)
def test_random_io_resizes_clones_and_flattens_match_a_buffer() -> None:
    out = _run("tests.image.fsx", "--seconds", "60")
    print(out)
    assert f"seed {SEED}: " in out
