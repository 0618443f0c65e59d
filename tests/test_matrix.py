"""The core of `ci/matrix`: every release, its connection modes and types of keys."""

from __future__ import annotations

import pytest

from ci.matrix import SETTINGS, Setting, run, table


@pytest.mark.pyrbd_needs("second_cluster")
@pytest.mark.timeout(900)  # the first time, the release is downloaded
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_all_works_with_this_release(setting: Setting) -> None:
    rows = run(setting)
    assert len(rows) == len(setting.ways)
    assert all(row.ok for row in rows), f"\n{table(rows)}"
