"""A cluster that somebody else runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .base import ClusterError
from .oracle import LocalTools


class ExternalCluster(LocalTools):
    """The cluster of ``$CEPH_CONF``; nothing of it is started or stopped."""

    def __init__(self, conf: str | None = None) -> None:
        super().__init__()
        path = conf or os.environ.get("CEPH_CONF")
        if not path:
            raise ClusterError("the external cluster is the one that CEPH_CONF names")
        self.conf = Path(path)
        if not self.conf.exists():
            raise ClusterError(f"{path} does not exist")

    def down(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"provider": "external", "conf": str(self.conf), "ceph": self.command("status")}
