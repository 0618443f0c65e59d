"""How the command writes: sizes, tables, JSON and XML, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class CommandError(Exception):
    """Ends the command with a line on stderr and an exit code. `who` begins the line; without it, the command that
    runs tells that."""

    def __init__(self, message: str, code: int = 1, who: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.who = who


def format_size(n: int) -> str:
    """Bytes as Ceph prints them (byte_u_t): ``14 MiB``, ``1.5 GiB``."""
    index = min((max(n, 1).bit_length() - 1) // 10, len(_UNITS) - 1)
    unit = 1 << 10 * index
    if n % unit == 0:
        return f"{n // unit} {_UNITS[index]}"
    for digits in (2, 1, 0):
        text = f"{n / unit:.{digits}f} {_UNITS[index]}"
        if len(text) <= 7:
            break
    return text


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> None:
    """Columns as Ceph's TextTable has them: two blanks apart, padded to the widest."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for n, row in enumerate(table):
        cells = [f"{cell:>{w}}" if n and i in right else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(row, widths))]
        print("  ".join(cells))


def print_formatted(kind: str, pretty: bool, value: Any, root: str, item: str = "") -> None:
    """JSON or XML in the form of Ceph's formatters.

    Args:
        root, item: XML's element names for the whole and for the items of a list.
    """
    if kind == "json":
        text = json.dumps(value, indent=4) if pretty else json.dumps(value, separators=(",", ":"))
        print(text)
        return
    from xml.etree import ElementTree

    element = ElementTree.Element(root)
    _fill(element, value, item)
    if pretty:
        ElementTree.indent(element, "    ")
    print(ElementTree.tostring(element, encoding="unicode"))


def _fill(element: Any, value: Any, item: str) -> None:
    from xml.etree import ElementTree

    if isinstance(value, dict):
        for key, child in value.items():
            _fill(ElementTree.SubElement(element, key), child, key.rstrip("s"))
    elif isinstance(value, list):
        for child in value:
            _fill(ElementTree.SubElement(element, item), child, item)
    else:
        element.text = str(value).lower() if isinstance(value, bool) else str(value)


class Progress:
    """Progress of long work on stderr, when that is a terminal: a bar if `rich` is
    installed (``pip install pyrbd-ceph[cli]``), else the line that `rbd` prints."""

    def __init__(self, what: str, total: int, quiet: bool) -> None:
        self._what = what
        self._total = max(total, 1)
        self._quiet = quiet or not sys.stderr.isatty()
        self._percent = -1
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet:
            try:
                from rich.console import Console
                from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
                from rich.progress import Progress as Bar
            except ImportError:
                return self
            columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%")]
            if self._total > 1 << 16:
                columns.append(DownloadColumn(binary_units=True))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total)
        return self

    def update(self, done: int, total: int | None = None) -> int:
        """Shows that `done` of `total` is finished."""
        total = max(total or self._total, 1)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif not self._quiet:
            percent = min(100, 100 * done // total)
            if percent != self._percent:
                self._percent = percent
                sys.stderr.write(f"\r{self._what}: {percent}% complete...")
                sys.stderr.flush()
        return 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if error is None:
                self._bar.update(self._task, completed=self._bar.tasks[0].total)
            self._bar.stop()
        elif not self._quiet:
            end = "failed." if error is not None else "done."
            sys.stderr.write(f"\r{self._what}: {100 if error is None else max(self._percent, 0)}% complete...{end}\n")
