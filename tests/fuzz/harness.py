"""What a fuzz target is, and how it is run.

A target is a module ``tests.fuzz.fuzz_NAME`` with

* ``one(data)``: reads `data` as a hostile peer's, or a careless user's. It may raise the exceptions of
  :class:`~pyrbd.errors.PyrbdError`'s family, which :func:`check` swallows; everything else is a defect;
* ``seeds()``: inputs to begin with, made of real bytes.

Inputs worth keeping are in ``corpus/NAME``, those that once broke something in ``crashes/NAME``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from pyrbd.errors import PyrbdError

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
CRASHES = HERE / "crashes"

MAX_LENGTH = 4096
SECONDS_PER_INPUT = 10
RSS_LIMIT_MB = 1024


def names() -> list[str]:
    """All targets."""
    return sorted(p.stem.removeprefix("fuzz_") for p in HERE.glob("fuzz_*.py"))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.fuzz_{name}")


def check(one: Callable[[bytes], object], data: bytes) -> None:
    """Runs a target on one input; what it must not raise comes out."""
    try:
        one(data)
    except PyrbdError:
        pass


def kept(name: str) -> list[Path]:
    """The files with a target's inputs."""
    return sorted(p for top in (CORPUS, CRASHES) for p in (top / name).glob("*") if p.is_file())


def write_seeds(name: str, seeds: Iterable[bytes], where: Path) -> None:
    for i, seed in enumerate(seeds):
        (where / f"seed-{name}-{i}").write_bytes(seed)


def fuzz(name: str, argv: list[str]) -> None:
    """Runs a target under atheris with libFuzzer's arguments; does not return. Ours alone is
    instrumented: the coverage of libraries guides nobody."""
    import logging

    import atheris

    logging.disable()
    with atheris.instrument_imports(include=["pyrbd"]):
        import pyrbd.aio
        import pyrbd.rbd  # noqa: F401

        target = load(name)
    one = target.one
    # for a merge, libFuzzer starts its first argument again
    atheris.Setup([os.environ.get("PYRBD_FUZZ_SELF", sys.argv[0]), *argv], lambda data: check(one, data))
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2:])
