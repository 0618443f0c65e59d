"""A minute of `ci/thrash`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from ci.thrash import run, succeeded
from pyrbd.testing.programs import missing_programs


@pytest.mark.timeout(420)
def test_nothing_is_lost_wrong_or_done_twice_while_a_cluster_is_thrashed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if missing := missing_programs():
        pytest.skip(f"no cluster without {', '.join(missing)}")
    report = run(60, 20261124, directory=Path(tempfile.mkdtemp(prefix="pyrbd-test-", dir="/tmp")) / "c", scale=0.25)
    assert succeeded(report), report
    assert report["operations"] > 1000
    assert report["resends"] > 0
    assert report["seen in maps"]["pg_temp"] > 0, "nothing was backfilled"
