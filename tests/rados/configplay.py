"""The same calls on either `rados` module: for our tests, and, as a program, for Ceph's module in a
process of its own, which reads cases as JSON from stdin and writes what came out."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def play(rados: Any, case: list[Any]) -> list[Any]:
    """Makes a handle in an environment, calls its methods, and asks for options."""
    env, arguments, steps, asked = case
    for name in ("CEPH_ARGS", "CEPH_CONF", "CEPH_KEYRING", "CEPH_LIB"):
        os.environ.pop(name, None)
    os.environ.update(env)
    outcomes: list[Any] = []

    def call(fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except rados.Error as e:
            outcomes.append(["error", getattr(e, "errno", None)])
            return None

    handle = call(rados.Rados, **arguments)
    if handle is not None:
        for method, *args in steps:
            if method == "expect":
                outcomes.append(expect(handle, *args))
            elif method == "mon_command":
                outcomes.append(handle.mon_command(json.dumps(args[0]), b"")[0])
            else:
                outcomes.append(call(getattr(handle, method), *args))
        outcomes.append([call(handle.conf_get, option) for option in asked])
    return outcomes


def expect(handle: Any, option: str, value: str) -> str:
    """What an option is when it has had time to become `value`."""
    end = time.monotonic() + 10
    while handle.conf_get(option) != value and time.monotonic() < end:
        time.sleep(0.02)
    result: str = handle.conf_get(option)
    return result


def main() -> None:
    import rados

    answers = []
    for case in json.load(sys.stdin):
        r, w = os.pipe()
        if not os.fork():  # the environment of one case is not that of the next
            os.write(w, json.dumps(play(rados, case)).encode())
            os._exit(0)
        os.close(w)
        with os.fdopen(r) as out:
            answers.append(json.load(out))
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
