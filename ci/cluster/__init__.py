"""Test clusters, as the tools of this tree use them: they are in :mod:`pyrbd.testing`."""

from __future__ import annotations

from pyrbd.testing.base import Cluster, ClusterError, say
from pyrbd.testing.commander import Commander
from pyrbd.testing.external import ExternalCluster
from pyrbd.testing.native import NativeCluster, native_cluster
from pyrbd.testing.programs import PACKAGES, SYSTEM_PYTHON, install_packages, missing_programs

__all__ = [
    "PACKAGES",
    "SYSTEM_PYTHON",
    "Cluster",
    "ClusterError",
    "Commander",
    "ExternalCluster",
    "NativeCluster",
    "install_packages",
    "missing_programs",
    "native_cluster",
    "say",
]
