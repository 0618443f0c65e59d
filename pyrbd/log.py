"""Loggers that cost nothing until somebody uses logging.

`import logging` takes as long as connecting to a cluster, and a program that has not
imported it has configured no handler that could show anything. So `logging` is not imported for
messages below warning level unless the program has done so itself.
"""

from __future__ import annotations

import sys
from typing import Any


class Log:
    """The logger ``pyrbd.NAME``, looked up when it is used."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = f"pyrbd.{name}"

    def debug(self, message: str, *args: Any) -> None:
        logger = self._logger()
        if logger is not None:
            logger.debug(message, *args)

    def info(self, message: str, *args: Any) -> None:
        logger = self._logger()
        if logger is not None:
            logger.info(message, *args)

    def _logger(self) -> Any:
        # another thread may be in the middle of importing it
        get = getattr(sys.modules.get("logging"), "getLogger", None)
        return get(self.name) if get is not None else None

    def warning(self, message: str, *args: Any) -> None:
        import logging

        logging.getLogger(self.name).warning(message, *args)

    def exception(self, message: str, *args: Any) -> None:
        import logging

        logging.getLogger(self.name).exception(message, *args)
