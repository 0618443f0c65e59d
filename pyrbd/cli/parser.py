"""Parsers of the command line: errors as `rbd` has them, options for the cluster, operands between options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .output import CommandError

MAP_COMMANDS = frozenset(("osdmap", "crush"))
"""Commands that have commands of their own, and that `rbd` does not have."""


class Parser(argparse.ArgumentParser):
    """Errors in the form and with the exit code of `rbd`."""

    def error(self, message: str) -> None:  # type: ignore[override]
        words = self.prog.split()
        raise CommandError(message, 1, " ".join(words[:2]) if MAP_COMMANDS.intersection(words[1:2]) else "")


class MapParser(Parser):
    """For commands on maps: options may stand between the operands, of which the first one may be left out."""

    _within = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._within or any(action.nargs == argparse.PARSER for action in self._actions):
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            found, rest = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def cluster_options() -> tuple[Parser, Any]:
    """Options that say which cluster, to be a parent of other parsers; and the group that they are in."""
    p = Parser(add_help=False)
    g = p.add_argument_group("cluster")
    g.add_argument("-c", "--conf", metavar="FILE", help="path to the cluster's configuration")
    g.add_argument("--cluster", metavar="NAME", help="cluster name")
    g.add_argument("--id", "--user", metavar="ID", dest="client_id", help="client id (without the 'client.' prefix)")
    g.add_argument("-n", "--name", metavar="NAME", dest="client_name", help="client name")
    g.add_argument("-m", "--mon_host", "--mon-host", metavar="HOST", dest="mon_host", help="monitor host")
    g.add_argument("-k", "--keyring", metavar="FILE", help="path to the keyring")
    g.add_argument("-K", "--keyfile", metavar="FILE", help="path to the secret key")
    return p, g


def image_cluster_options() -> Parser:
    """The options for the cluster, and for where in it images are."""
    p, g = cluster_options()
    g.add_argument("-p", "--pool", help="pool name")
    g.add_argument("--namespace", help="namespace name")
    return p


_CLUSTER_DESTS = frozenset(
    ("conf", "cluster", "client_id", "client_name", "mon_host", "keyring", "keyfile", "pool", "namespace")
)


def suppress_cluster_defaults(parser: argparse.ArgumentParser) -> None:
    """The options for the cluster may stand before the command as well: where they do not stand behind it, they
    leave alone what was said there."""
    for action in parser._actions:
        if action.dest in _CLUSTER_DESTS:
            action.default = argparse.SUPPRESS
