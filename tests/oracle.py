"""Ceph's own programs on this machine, as they fit the cluster of a ceph.conf: the oracle of the tests.

What runs and ends is easier had by the fixtures `rbd_cli`, `librbd` and their like; this is for what goes on.
"""

from __future__ import annotations

import shutil

import pytest

from pyrbd.testing import Cluster
from pyrbd.testing.programs import Programs

_clusters: dict[str, Cluster] = {}


def know(cluster: Cluster) -> None:
    """Notes a cluster that was started, so that its own programs are found."""
    _clusters[str(cluster.conf)] = cluster


def programs(conf: str) -> Programs:
    """The programs of the cluster with this ceph.conf, else those of the distribution."""
    found = getattr(_clusters.get(conf), "programs", None)
    return found if isinstance(found, Programs) else Programs()


def argv(conf: str, program: str, *args: str) -> list[str]:
    """The command line of a program (``python3``: with Ceph's modules; others are told of `conf`)."""
    told = args if program == "python3" else ("-c", conf, *args)
    command = programs(conf).argv(program, *told)
    if shutil.which(command[0]) is None:
        pytest.skip(f"{program} is not installed: there is no oracle for this test")
    return command
