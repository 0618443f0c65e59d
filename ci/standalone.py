"""Uses an installed pyrbd and proves that no library of Ceph was loaded for it."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pyrbd

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    package = Path(pyrbd.__file__).parent
    assert not package.is_relative_to(ROOT), "this must be the installed package"
    assert (package / "py.typed").exists(), "the types are not installed"
    pyrbd.install_as_ceph()
    rados = importlib.import_module("rados")
    rbd = importlib.import_module("rbd")

    data = os.urandom(5 << 20)
    with rados.Rados(conffile=sys.argv[1]) as cluster, cluster.open_ioctx("rbd") as ioctx:
        rbd.RBD().create(ioctx, "standalone", 1 << 30)
        with rbd.Image(ioctx, "standalone") as image:
            image.write(data, 12345)
            assert image.read(12345, len(data)) == data
        rbd.RBD().remove(ioctx, "standalone")
    maps = Path("/proc/self/maps").read_text()
    for library in ("librados", "librbd", "libceph", "/rados.cpython", "/rbd.cpython"):
        assert library not in maps, f"{library} is loaded"
    for module in (rados, rbd):
        assert module.__file__ is not None and Path(module.__file__).is_relative_to(package), module
    for name in sys.modules:
        assert not name.startswith(("ceph", "cephfs")), f"{name} is loaded"
    print(f"pyrbd {pyrbd.__version__} wrote and read an image; no library of Ceph is loaded")


if __name__ == "__main__":
    main()
