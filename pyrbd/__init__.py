"""pyrbd: a native client for Ceph RBD images in pure Python.

    import pyrbd.rados as rados
    import pyrbd.rbd as rbd

    with rados.Rados(conffile="/etc/ceph/ceph.conf") as cluster:
        with cluster.open_ioctx("rbd") as ioctx:
            rbd.RBD().create(ioctx, "myimage", 4 * 1024**3)
            with rbd.Image(ioctx, "myimage") as image:
                image.write(b"foo" * 200, 0)

`pyrbd.aio` has the same for asyncio. Programs that `import rados, rbd` get ours after
:func:`install_as_ceph`.
"""

from __future__ import annotations

from ._version import __version__

__all__ = ["__version__", "install_as_ceph"]


def install_as_ceph(*, force: bool = False) -> None:
    """Makes `import rados` and `import rbd` give pyrbd's modules in this process.

    Args:
        force: also when Ceph's own modules have been imported already. Objects that these
            have made cannot be mixed with ours.
    Raises:
        RuntimeError: Ceph's modules are loaded, and not `force`.
    """
    import sys

    from . import rados, rbd

    ours = {"rados": rados, "rbd": rbd}
    for name, module in ours.items():
        loaded = sys.modules.get(name)
        if loaded is not None and loaded is not module and not force:
            raise RuntimeError(
                f"{name} has already been imported from {getattr(loaded, '__file__', 'elsewhere')}: "
                "call pyrbd.install_as_ceph() before that, or with force=True"
            )
    sys.modules.update(ours)
