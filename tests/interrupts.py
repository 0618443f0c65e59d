"""KeyboardInterrupt at chosen places in the package: each at which CPython could run a signal's handler."""

from __future__ import annotations

import dis
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import pyrbd

PACKAGE = str(Path(pyrbd.__file__).parent)

known_version = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="where CPython looks for signals differs between versions"
)
_points: dict[CodeType, frozenset[int]] = {}


def interruptible(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which CPython may run a signal's handler: it looks
    after a call, at a jump backwards, and when a function begins or goes on."""
    found = _points.get(code)
    if found is None:
        offsets, after_call = set(), False
        for i in dis.get_instructions(code):
            if after_call or i.opname in ("RESUME", "JUMP_BACKWARD"):
                offsets.add(i.offset)
            after_call = i.opname.startswith("CALL")
        found = _points[code] = frozenset(offsets)
    return found


class Interrupter:
    """Raises KeyboardInterrupt at the n-th place in the package where a signal could."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.where = ""

    def __enter__(self) -> Interrupter:
        sys.settrace(self._call)
        return self

    def __exit__(self, *args: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and frame.f_lasti in interruptible(frame.f_code):
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._step
