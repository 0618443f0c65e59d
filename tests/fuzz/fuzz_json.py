"""JSON that monitors and managers send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from pyrbd.image import trash
from pyrbd.image.errors import Error
from pyrbd.rados.commands import inconsistent_pgs
from pyrbd.rados.exceptions import Error as RadosError
from pyrbd.rados.monclient import CommandReply


class _Io:
    pool_id = 1

    def __init__(self, output: bytes) -> None:
        self.client = SimpleNamespace(mon_command=self._command)
        self._output = output

    async def _command(self, cmd: str) -> CommandReply:
        return CommandReply(0, self._output, "")

    async def call(self, *args: Any) -> bytes:
        return (1).to_bytes(8, "little")


def one(data: bytes) -> None:
    kind, output = data[:1], data[1:]
    try:
        if kind == b"\1":
            for pgid in inconsistent_pgs(output):
                assert isinstance(pgid, str)
        else:
            asyncio.run(trash._to_free(_Io(output), [], 0.5))  # type: ignore[arg-type]
    except (Error, RadosError):
        pass


def seeds() -> Iterator[bytes]:
    yield b"\1" + json.dumps([{"pgid": "1.2"}]).encode()
    yield b"\1" + json.dumps({"pg_stats": [{"pgid": "1.2", "state": "active"}]}).encode()
    stats = {"percent_used": 0.9, "max_avail": 1000, "bytes_used": 9000}
    yield b"\0" + json.dumps({"stats": {}, "pools": [{"id": 1, "name": "rbd", "stats": stats}]}).encode()
    yield b"\1" + b"[" * 2000
    yield b"\0" + b'{"pools":[{"id":1,"stats":{"percent_used":1e999,"max_avail":1e308,"bytes_used":1e308}}]}'
