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
        if "logging" in sys.modules:
            sys.modules["logging"].getLogger(self.name).debug(message, *args)

    def info(self, message: str, *args: Any) -> None:
        if "logging" in sys.modules:
            sys.modules["logging"].getLogger(self.name).info(message, *args)

    def warning(self, message: str, *args: Any) -> None:
        import logging

        logging.getLogger(self.name).warning(message, *args)

    def exception(self, message: str, *args: Any) -> None:
        import logging

        logging.getLogger(self.name).exception(message, *args)
