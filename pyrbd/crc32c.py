"""CRC-32C as Ceph computes it (`src/common/crc32c.h`): the seed is the raw register and the
result is not inverted, unlike the standard checksum of the same polynomial.

Two libraries can do the work: `crc32c` (hardware speed, 30 GB/s) and `crcmod` (portable,
0.5 GB/s with its C part). The first that is there is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .denc import Buffer

MASK = 0xFFFFFFFF

StandardCrc = Callable[["Buffer", int], int]
"""`f(data, previous standard crc) -> standard crc`"""


def _from_crc32c() -> StandardCrc:
    """The extension module of the package `crc32c`, without the package around it: that reads
    its own metadata when it is imported, which takes longer than all of pyrbd."""
    import importlib.machinery
    import importlib.util
    import os

    package = importlib.util.find_spec("crc32c")
    for directory in (package.submodule_search_locations or ()) if package is not None else ():
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            path = os.path.join(directory, f"_crc32c{suffix}")
            if os.path.exists(path):
                spec = importlib.util.spec_from_file_location("_crc32c", path)
                if spec is not None and spec.loader is not None:
                    module = importlib.util.module_from_spec(spec)
                    spec.loader.exec_module(module)
                    extension: StandardCrc = module.crc32c
                    return extension
    import crc32c as lib

    f: StandardCrc = lib.crc32c
    return f


def _from_crcmod() -> StandardCrc:
    from crcmod.predefined import mkPredefinedCrcFun

    crc = mkPredefinedCrcFun("crc-32c")

    def standard(data: Buffer, prev: int = 0) -> int:
        return int(crc(data if isinstance(data, bytes) else bytes(data), prev))

    return standard


CHOICES: dict[str, Callable[[], StandardCrc]] = {"crc32c": _from_crc32c, "crcmod": _from_crcmod}


def load(choice: str | None = None) -> tuple[str, StandardCrc]:
    """The named implementation, or the first that can be imported, with its name."""
    names = [choice] if choice else list(CHOICES)
    for i, name in enumerate(names):
        try:
            return name, CHOICES[name]()
        except ImportError:
            if i == len(names) - 1:
                raise ImportError(
                    f"no CRC-32C library: install one of {', '.join(CHOICES)} (pip install crc32c)"
                ) from None
    raise AssertionError("unreachable")


implementation, standard_crc32c = load()


def crc32c(data: Buffer, seed: int = MASK) -> int:
    """Ceph's `crc32c(seed, data)`; feed the result back as seed to go on."""
    return standard_crc32c(data, seed ^ MASK) ^ MASK
