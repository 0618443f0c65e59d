"""What fuzzing found, replayed: the inputs that reach most, and all that once broke something. Also, without atheris,
the inputs that each target begins with."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from tests.fuzz import harness


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a hostile peer makes us log is not looked at here."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", harness.names())
def test_inputs_of(name: str) -> None:
    target = harness.load(name)
    inputs = [*target.seeds(), *[p.read_bytes() for p in harness.kept(name)]]
    slowest = 0.0
    for data in inputs:
        begun = time.monotonic()
        harness.check(target.one, data)
        slowest = max(slowest, time.monotonic() - begun)
    assert len(inputs) > 3
    assert slowest < 5
