"""The `pyrbd` command: arguments, output and exit codes as those of Ceph's `rbd`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import ConfigError, DecodeError
from . import commands, crush, osdmap
from .output import CommandError
from .parser import Parser, image_cluster_options, suppress_cluster_defaults
from .spec import parse_object_size, parse_size


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    cluster = image_cluster_options()
    parser = Parser(
        prog="pyrbd",
        description="Manages Ceph RBD images, without librados and librbd.",
        parents=[cluster],
        allow_abbrev=False,  # else what a command calls --key is taken for the beginning of --keyring
    )
    parser.add_argument("-v", "--version", action="version", version=f"pyrbd {__version__}")
    sub = parser.add_subparsers(metavar="<command>", dest="command", parser_class=Parser)

    image = Parser(add_help=False)
    image.add_argument("spec", nargs="?", metavar="[POOL/[NAMESPACE/]]IMAGE[@SNAP]")
    image.add_argument("--image", help="image name")
    progress = Parser(add_help=False)
    progress.add_argument("--no-progress", action="store_true", help="disable progress output")
    formatted = Parser(add_help=False)
    formatted.add_argument("--format", choices=["plain", "json", "xml"], default="plain", help="output format")
    formatted.add_argument("--pretty-format", action="store_true", help="pretty formatting (json and xml)")
    layout = Parser(add_help=False)
    layout.add_argument("--order", type=int, help="object order [12 <= order <= 25]")
    layout.add_argument("--object-size", type=parse_object_size, help="object size in B/K/M [4K <= size <= 32M]")
    layout.add_argument("--image-feature", action="append", default=[], metavar="FEATURE[,...]", help="image features")
    layout.add_argument("--image-format", choices=["1", "2"], help="image format")
    layout.add_argument("--stripe-unit", type=parse_object_size, help="stripe unit in B/K/M")
    layout.add_argument("--stripe-count", type=int, help="stripe count")
    layout.add_argument("--data-pool", help="data pool")

    def add(names: Sequence[str], run: object, text: str, parents: Sequence[Parser]) -> argparse.ArgumentParser:
        # options of the cluster may stand before or after the command
        p = sub.add_parser(
            names[0], aliases=names[1:], help=text, description=text, parents=[image_cluster_options(), *parents]
        )
        suppress_cluster_defaults(p)
        p.set_defaults(run=run)
        return p

    p = add(["create"], commands.create, "Create an empty image.", [image, layout])
    p.add_argument("-s", "--size", type=parse_size, help="image size (in M/G/T/P/E [default: M])")
    p = add(["list", "ls"], commands.list_images, "List rbd images.", [formatted])
    p.add_argument("pool_spec", nargs="?", metavar="POOL[/NAMESPACE]")
    p.add_argument("-l", "--long", action="store_true", help="long listing format")
    p = add(["info"], commands.info, "Show information about an image.", [image, formatted])
    p.add_argument("--image-id", help="image id")
    p.add_argument("--snap", help="snapshot name")
    add(["remove", "rm"], commands.remove, "Delete an image.", [image, progress])
    p = add(["rename", "mv"], commands.rename, "Rename an image within its pool.", [image])
    p.add_argument("dest_spec", nargs="?", metavar="DEST")
    p.add_argument("--dest-pool", help="destination pool name")
    p.add_argument("--dest", help="destination image name")
    p = add(["resize"], commands.resize, "Resize (expand or shrink) an image.", [image, progress])
    p.add_argument("-s", "--size", type=parse_size, help="image size (in M/G/T/P/E [default: M])")
    p.add_argument("--allow-shrink", action="store_true", help="permit shrinking")
    p = add(["export"], commands.export, "Export an image to a file.", [image, progress])
    p.add_argument("path_spec", nargs="?", metavar="PATH", help="export file (or '-' for stdout)")
    p.add_argument("--path", help="export file (or '-' for stdout)")
    p.add_argument("--snap", help="snapshot name")
    p.add_argument("--export-format", choices=["1", "2"], default="1", help="format of the export")
    p = add(["import"], commands.import_image, "Import an image from a file.", [layout, progress])
    p.add_argument("path_spec", nargs="?", metavar="PATH", help="import file (or '-' for stdin)")
    p.add_argument("spec", nargs="?", metavar="[POOL/[NAMESPACE/]]IMAGE")
    p.add_argument("--path", help="import file (or '-' for stdin)")
    p.add_argument("--dest", "--image", dest="image", help="destination image name")
    p.add_argument("--dest-pool", help="destination pool name")
    p.add_argument("--sparse-size", type=parse_object_size, default=4096, help="sparse size in B/K/M [default: 4K]")
    p.add_argument("--export-format", choices=["1", "2"], default="1", help="format of the file")
    osdmap.register(sub)
    crush.register(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    from .. import rados, rbd

    args: argparse.Namespace | None = None
    try:
        parser = build_parser()
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return 1
        args.run(args)
        sys.stdout.flush()
    except CommandError as e:
        print(f"{e.who or _who(args)}: {e}", file=sys.stderr)
        return e.code
    except (rados.Error, rbd.Error, ConfigError, DecodeError) as e:
        code = getattr(e, "errno", None) or errno.EIO
        print(f"{_who(args)}: {getattr(e, 'message', e)}: ({code}) {os.strerror(code)}", file=sys.stderr)
        return int(code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errno.EPIPE
    except OSError as e:
        print(f"{_who(args)}: {e.filename or 'error'}: ({e.errno}) {e.strerror}", file=sys.stderr)
        return e.errno or 1
    except KeyboardInterrupt:
        return 130
    return 0


def _who(args: argparse.Namespace | None) -> str:
    """What a line on stderr begins with."""
    return getattr(args, "who", "rbd")
