"""Real Ceph clusters for tests; for pytest by the fixtures of :mod:`.plugin`.

    from pyrbd.testing import native_cluster

    with native_cluster(release="reef", modes="secure") as cluster:
        print(cluster.tool("ceph", "status").decode())

Only the standard library is used, so that ``python3 -m pyrbd.testing up`` runs before anything is
installed. Nothing of this is imported by pyrbd itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Cluster, ClusterError
    from .external import ExternalCluster
    from .native import NativeCluster, native_cluster

__all__ = ["Cluster", "ClusterError", "ExternalCluster", "NativeCluster", "native_cluster"]

_MODULES = {
    "Cluster": "base",
    "ClusterError": "base",
    "ExternalCluster": "external",
    "NativeCluster": "native",
    "native_cluster": "native",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: the pytest plugin is loaded also where no test wants a cluster."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
