"""Loggers that cost nothing until somebody uses logging.

`import logging` takes as long as connecting to a cluster, and a program that has not
imported it has configured no handler that could show anything. So `logging` is not imported for
messages below warning level unless the program has done so itself.
"""

from __future__ import annotations

import sys
from typing import Any

_all: list[Log] = []


class Log:
    """The logger ``pyrbd.NAME``, looked up when it is first used."""

    __slots__ = ("_found", "active", "name")

    def __init__(self, name: str) -> None:
        self.name = f"pyrbd.{name}"
        self._found: Any = None
        self.active = False
        """Whether debug messages are shown, as :func:`refresh` saw it last: to be looked at before
        what is done for each operation of users."""
        _all.append(self)

    def debug(self, message: str, *args: Any) -> None:
        logger = self._logger()
        if logger is not None:
            logger.debug(message, *args)

    def info(self, message: str, *args: Any) -> None:
        logger = self._logger()
        if logger is not None:
            logger.info(message, *args)

    def _logger(self) -> Any:
        if self._found is None:
            # another thread may be in the middle of importing it
            get = getattr(sys.modules.get("logging"), "getLogger", None)
            if get is not None:
                self._found = get(self.name)
        return self._found

    def warning(self, message: str, *args: Any) -> None:
        import logging

        logging.getLogger(self.name).warning(message, *args)

    def exception(self, message: str, *args: Any) -> None:
        import logging

        logging.getLogger(self.name).exception(message, *args)


def refresh() -> None:
    """Looks whether debug messages are wanted; called when a connection is made, and now and then."""
    for log in list(_all):
        logger = log._logger()
        log.active = logger is not None and logger.isEnabledFor(10)


def prime() -> None:
    """Looks all loggers up, and whether they are enabled, which `logging` then remembers. Each is
    done once under a lock of `logging` that KeyboardInterrupt can leave locked: so it is done by a
    thread that never sees one."""
    for log in list(_all):
        logger = log._logger()
        if logger is not None:
            logger.isEnabledFor(10)
            logger.isEnabledFor(20)
