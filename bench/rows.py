"""What is measured: each row is a workload by pyrbd beside the same by librbd's Python binding."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the page.

    Attributes:
        name: for ``--only``.
        text: what is done.
        call: the method of both workers, or ``process`` for a whole process of its own.
        goal: pyrbd is to be so many times as fast as librbd.
        unit: of the figure: a rate, or ``ms`` for the time of one.
        theirs: librbd's method where it has another.
        options: of both clients.
    """

    name: str
    text: str
    call: str
    goal: float
    unit: str = "op/s"
    theirs: str = ""
    options: tuple[str, ...] = ()


_OFF = ("rbd_cache=false",)
_SECURE = ("ms_client_mode=secure", "ms_mon_client_mode=secure")

_SMALL = [
    Row("read_4k", "4 KiB random read, depth 1", "read_4k", 1.8),
    Row("read_4k_aio", "4 KiB random read, 16 in flight, callbacks", "read_4k_aio", 1.8),
    Row(
        "read_4k_asyncio",
        "4 KiB random read, 16 tasks of asyncio (librbd: callbacks)",
        "read_4k_asyncio",
        2.0,
        theirs="read_4k_aio",
    ),
    Row("read_4k_threads", "4 KiB random read, 16 threads", "read_4k_threads", 1.1),
    Row("write_4k", "4 KiB random write, depth 1, and a flush", "write_4k", 1.1),
    Row("write_4k_aio", "4 KiB random write, 16 in flight, and a flush", "write_4k_aio", 1.1),
    Row("write_4k_sequential", "4 KiB sequential write, and a flush", "write_4k_sequential", 3.0),
    Row("write_4k_off", "4 KiB random write, depth 1, cache off", "write_4k", 1.2, options=_OFF),
    Row("write_4k_aio_off", "4 KiB random write, 16 in flight, cache off", "write_4k_aio", 1.2, options=_OFF),
]
_LARGE = [
    Row("read_4m", "4 MiB sequential read", "read_4m", 1.3, "MiB/s"),
    Row("write_4m", "4 MiB sequential write, and a flush", "write_4m", 1.0, "MiB/s"),
    Row("read_128m", "128 MiB read in one call", "read_128m", 1.4, "MiB/s"),
    Row("write_128m", "128 MiB write in one call", "write_128m", 1.2, "MiB/s"),
]
_SECURE_GOALS = {"read_4k": 1.8, "read_4k_aio": 1.8, "read_4k_asyncio": 1.8, "read_4m": 1.15}
_IN_SECURE_MODE = [
    row._replace(
        name=f"secure_{row.name}",
        text=f"secure mode: {row.text}",
        goal=_SECURE_GOALS.get(row.name, row.goal),
        options=(*row.options, *_SECURE),
    )
    for row in [*_SMALL, *_LARGE]
]
_WHOLE = [
    Row("process", "process: import, connect, open, 4 KiB read, shutdown", "process", 1.2, "ms"),
    Row("connect", "connect and shut down", "connect", 1.2, "ms"),
    Row("open", "open and close an image", "open", 1.2, "ms"),
]
_MANAGEMENT = [
    Row("diff_fast", "diff of 1 TiB with 1000 objects written, by the object maps", "diff_fast", 1.5, "ms"),
    Row("diff_list", "diff of 1 TiB with 1000 objects written, by listing", "diff_list", 1.5, "ms"),
    Row("flatten", "flatten a clone of 1 GiB", "flatten", 1.2, "ms"),
    Row("copy", "copy 1 GiB", "copy", 1.2, "ms"),
    Row("export", "read 1 GiB from begin to end, 4 MiB at a time", "export", 1.2, "ms"),
    Row("import", "write 1 GiB from begin to end, 4 MiB at a time, close", "import_", 1.2, "ms"),
    Row("remove", "remove an image of 1 GiB", "remove", 1.2, "ms"),
]

GROUPS = {"small": _SMALL, "large": _LARGE, "whole": _WHOLE, "management": _MANAGEMENT, "secure": _IN_SECURE_MODE}
ROWS = {row.name: row for rows in GROUPS.values() for row in rows}

CPU = [("read_4k", "client CPU per 4 KiB read", 0.4), ("read_128m", "client CPU per GiB read", 0.8)]
"""(row, text, the largest part of librbd's that is aimed at)."""
MEMORY_GOAL = 0.5
"""Peak memory of the process, as a part of librbd's."""
