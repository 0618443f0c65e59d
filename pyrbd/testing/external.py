"""A cluster that somebody else runs."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from .base import Abilities, ClusterError
from .oracle import LocalTools
from .programs import missing_programs


class ExternalCluster(LocalTools):
    """The cluster of ``$CEPH_CONF``; nothing of it is started or stopped, and no other pool than `pool` is used."""

    def __init__(self, conf: str | None = None) -> None:
        super().__init__()
        path = conf or os.environ.get("CEPH_CONF")
        if not path:
            raise ClusterError("the external cluster is the one that CEPH_CONF names")
        self.conf = Path(path)
        if not self.conf.exists():
            raise ClusterError(f"{path} does not exist")
        self._made_pool = False

    @property
    def can(self) -> Abilities:
        tools = shutil.which("rbd") is not None
        return Abilities(exec_tools=tools, local_tools=tools, make_pool=True)

    def up(self) -> None:
        """Takes the pool of ``$PYRBD_TEST_POOL``, or makes one that `down` deletes."""
        self.pool = os.environ.get("PYRBD_TEST_POOL") or f"pyrbd-test-{secrets.token_hex(4)}"
        if "PYRBD_TEST_POOL" not in os.environ:
            self.command("osd pool create", pool=self.pool, pg_num=8)
            self._made_pool = True
            self.command("osd pool application enable", pool=self.pool, app="rbd")

    def down(self) -> None:
        """Deletes the pool that `up` has made; ClusterError where the cluster does not let us."""
        if self._made_pool:
            self._made_pool = False
            self.command("osd pool delete", pool=self.pool, pool2=self.pool, yes_i_really_really_mean_it=True)

    def command(self, prefix: str, **args: Any) -> Any:
        """By Ceph's own client where that is installed, else by ours."""
        if not missing_programs():
            return super().command(prefix, **args)
        from pyrbd import rados

        with rados.Rados(conffile=str(self.conf)) as client:
            result, out, status = client.mon_command(json.dumps({"prefix": prefix, "format": "json", **args}), b"")
        if result:
            raise ClusterError(f"{prefix} {args}: {result} {status}")
        return json.loads(out) if out.strip() else None

    def describe(self) -> str:
        return f"the cluster of {self.conf}, pool {self.pool}"

    def status(self) -> dict[str, Any]:
        return {"provider": "external", "conf": str(self.conf), "ceph": self.command("status")}
