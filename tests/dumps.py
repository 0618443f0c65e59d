"""What tools show of an exception that print all local variables (faulthandlers, pytest --showlocals)."""

from __future__ import annotations

import traceback


def dumped(error: BaseException | None) -> str:
    """The texts and frames of an exception and of all that led to it, with the local variables of
    pyrbd's and the libraries' own functions: not those of tests, which know what they look for."""
    out = []
    seen: set[int] = set()
    todo = [error]
    while todo:
        e = todo.pop()
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        todo += [e.__cause__, e.__context__]
        out += [repr(e), str(e), repr(e.args)]
        for frame in traceback.TracebackException.from_exception(e, capture_locals=True).stack:
            if "/tests/" not in frame.filename:
                out += [f"{frame.name}:", *(f"{k} = {v}" for k, v in (frame.locals or {}).items())]
    return "\n".join(out)
