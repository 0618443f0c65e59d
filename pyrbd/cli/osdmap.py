"""`pyrbd osdmap`: what is in a map, and where it puts things; in a file, or in the cluster as it is now.

Output is that of `osdmaptool` (`src/tools/osdmaptool.cc`) for maps in files and of `ceph osd map`
(`src/mon/OSDMonitor.cc`) for the cluster's.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import DecodeError
from .output import CommandError
from .parser import MapParser, cluster_options, suppress_cluster_defaults

if TYPE_CHECKING:
    from ..osdmap import OSDMap

MAX_MAP = 1 << 28
"""Bytes of the largest map that is read; one of 10,000 OSDs has a few MiB."""

CRUSH_MAGIC = b"\x00\x00\x01\x00"


def register(sub: Any) -> None:
    """Adds `osdmap` to the commands of a parser."""
    text = "Show a map of the OSDs, and where it puts objects."
    group = sub.add_parser("osdmap", help=text, description=text)
    group.set_defaults(run=lambda args: no_command(group), who="pyrbd osdmap")
    commands = group.add_subparsers(metavar="<command>", dest="osdmap_command", parser_class=MapParser)

    def add(name: str, run: object, text: str, more: str = "") -> argparse.ArgumentParser:
        p: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=f"{text} {more}".strip(),
            parents=[cluster_options()[0]],
        )
        p.set_defaults(run=run, who="pyrbd osdmap")
        return p

    p = add("dump", dump, "Print the map.", "As `osdmaptool FILE --dump plain|json` does, or `ceph osd dump`.")
    map_options(p)
    p.add_argument("--format", choices=["plain", "json", "json-pretty"], default="plain", help="output format")
    suppress_cluster_defaults(p)

    p = add(
        "dump-pgs",
        dump_pgs,
        "Print the OSDs of every placement group, and how many groups each OSD has.",
        "As `osdmaptool FILE --test-map-pgs-dump` does, or --test-map-pgs-dump-all.",
    )
    map_options(p)
    p.add_argument("-p", "--pool", metavar="POOL", help="only the groups of this pool (name or number)")
    p.add_argument("--all", action="store_true", help="print raw, up and acting set of each group")
    suppress_cluster_defaults(p)

    p = add(
        "locate",
        locate,
        "Print the placement group of an object, and its OSDs.",
        "In a file, as `osdmaptool FILE --test-map-object` does: the acting set. With --live as `ceph osd map` does: "
        "the group before and after the number of groups is taken into account, up and acting set. "
        "As JSON, the latter in both cases.",
    )
    map_options(p)
    _object_options(p)
    p.add_argument("--format", choices=["plain", "json", "json-pretty"], default="plain", help="output format")
    suppress_cluster_defaults(p)

    p = add(
        "explain",
        explain,
        "Show how the name of an object leads to OSDs, step by step.",
        "The hash of the name, the placement group, each draw of CRUSH, and what the map changes after it. "
        "See docs/placement.md for what the steps are.",
    )
    map_options(p)
    _object_options(p)
    p.add_argument("--all-draws", action="store_true", help="show all items of each bucket, not only the best")
    p.add_argument("--format", choices=["plain", "json", "json-pretty"], default="plain", help="output format")
    suppress_cluster_defaults(p)

    p = add("getmap", getmap, "Fetch the map of the cluster, as `ceph osd getmap` does.")
    p.add_argument("--epoch", type=_epoch, metavar="N", help="the map of this epoch [default: the newest]")
    p.add_argument("-o", "--out-file", metavar="FILE", help="where to write it [default: stdout]")
    suppress_cluster_defaults(p)


def map_options(p: argparse.ArgumentParser, what: str = "a map as `ceph osd getmap` writes it, '-' for stdin") -> None:
    """Adds what :func:`read_osdmap` reads."""
    p.add_argument("file", nargs="?", metavar="FILE", help=what)
    p.add_argument("--live", action="store_true", help="take the map of the cluster instead of FILE")
    p.add_argument("--epoch", type=_epoch, metavar="N", help="with --live: the map of this epoch [default: the newest]")


def _object_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("pool", metavar="POOL", help="name or number of a pool")
    p.add_argument("object", metavar="OBJECT", help="name of an object, which need not be there")
    p.add_argument("-N", "--namespace", metavar="N", help="namespace of the object")
    p.add_argument(
        "--key", metavar="K", default="", help="locator key of the object, which is hashed instead of its name"
    )


def _epoch(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 0 < number < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no epoch")
    return number


def no_command(group: argparse.ArgumentParser) -> None:
    group.print_help(sys.stderr)
    raise CommandError("which command?", 1)


# ---------------------------------------------------------------- where maps come from


def read_osdmap(args: argparse.Namespace) -> OSDMap:
    """The map that the command line names: FILE, ``-``, or the cluster's with --live.

    Raises:
        CommandError: none is named, or it cannot be read.
    """
    if args.live:
        if args.file is not None:
            raise CommandError("a FILE, or --live, but not both", errno.EINVAL)
        return _live_osdmap(args)
    return decode_osdmap(*read_file(args))


def read_file(args: argparse.Namespace, crush: bool = False) -> tuple[bytes, str]:
    """What is in FILE, and how to call it.

    Args:
        crush: may it be a CRUSH map as well?
    Raises:
        CommandError: no file is named, or it is no map.
    """
    if args.epoch is not None:
        raise CommandError("--epoch goes with --live", errno.EINVAL)
    if args.file is None:
        raise CommandError("which FILE? ('-' for stdin, --live for the map of the cluster)", errno.EINVAL)
    if args.file == "-":
        return _read_map(sys.stdin.buffer, "stdin", crush), "stdin"
    try:
        with open(args.file, "rb") as f:
            return _read_map(f, args.file, crush), args.file
    except OSError as e:
        raise CommandError(f"{args.file}: {e.strerror}", e.errno or errno.EIO) from None


def _read_map(f: BinaryIO, name: str, crush: bool) -> bytes:
    """As many bytes as the head of a map announces: what is no map is not read at all."""
    head = f.read(6)
    if crush and head.startswith(CRUSH_MAGIC):
        data = head + f.read(MAX_MAP)
        if len(data) > MAX_MAP:
            raise CommandError(f"{name}: a CRUSH map of more than {MAX_MAP} bytes", errno.EFBIG)
        return data
    if head.startswith(CRUSH_MAGIC):
        raise CommandError(f"{name}: a CRUSH map, not an osdmap (see `pyrbd crush`)", errno.EINVAL)
    length = int.from_bytes(head[2:], "little")
    if len(head) < 6 or head[0] < head[1] or not 0 < head[1] < 64:
        raise CommandError(f"{name}: not an osdmap", errno.EINVAL)
    if length > MAX_MAP:
        raise CommandError(f"{name}: not an osdmap, or one of {length} bytes", errno.EFBIG)
    return head + f.read(length)


def decode_osdmap(data: bytes, name: str) -> OSDMap:
    """A full map; what is none ends the command."""
    from ..osdmap import Incremental, OSDMap

    try:
        osdmap = OSDMap.decode_full(data)
    except DecodeError as e:
        try:
            epoch = Incremental.decode(data).epoch
        except DecodeError:
            raise CommandError(f"{name}: {e}", e.errno) from None
        raise CommandError(
            f"{name}: an incremental osdmap, of what is new in epoch {epoch}; a full one is needed", errno.EINVAL
        ) from None
    try:
        osdmap.crush  # noqa: B018 - which is decoded when it is first used
    except DecodeError as e:
        raise CommandError(f"{name}: {e}", e.errno) from None
    return osdmap


def _live_osdmap(args: argparse.Namespace) -> OSDMap:
    """The map that this client has; that of another epoch it asks a monitor for."""
    from .commands import cluster

    with cluster(args) as handle:
        handle.wait_for_latest_osdmap()
        osdmap = handle.client.osdmap
        if args.epoch in (None, osdmap.epoch):
            return osdmap
        return decode_osdmap(_getmap(handle, args.epoch), f"epoch {args.epoch}")


def _getmap(handle: Any, epoch: int | None) -> bytes:
    command = {"prefix": "osd getmap"} | ({} if epoch is None else {"epoch": epoch})
    code, data, text = handle.mon_command(json.dumps(command), b"")
    if code < 0:
        raise CommandError(f"no map: {text or os.strerror(-code)}", -code)
    return bytes(data)


def find_pool(osdmap: OSDMap, spec: str) -> int:
    """A pool's number, by name, else by number."""
    found = osdmap.lookup_pool(spec)
    if found is None and spec.isdecimal() and int(spec) in osdmap.pools:
        found = int(spec)
    if found is None or found not in osdmap.pools:
        raise CommandError(f"there is no pool {spec}", errno.ENOENT)
    return found


# ---------------------------------------------------------------- commands


def dump(args: argparse.Namespace) -> None:
    from ..osdmap import dump as dumps

    sys.stdout.write(dumps.dump(read_osdmap(args), args.format))


def dump_pgs(args: argparse.Namespace) -> None:
    from .pgs import print_pgs

    osdmap = read_osdmap(args)
    pool = getattr(args, "pool", None)
    pools = sorted(osdmap.pools) if pool is None else [find_pool(osdmap, pool)]
    print_pgs(osdmap, pools, args.all, sys.stdout.write)


def locate(args: argparse.Namespace) -> None:
    any_name()
    osdmap = read_osdmap(args)
    pool = find_pool(osdmap, args.pool)
    namespace = args.namespace or ""
    raw = osdmap.object_to_raw_hash(pool, args.object, args.key, namespace)
    pg = osdmap.raw_hash_to_pg(pool, raw)
    up, up_primary, acting, acting_primary = osdmap.pg_to_up_acting(pool, pg.seed)
    name = f"{namespace}/{args.object}" if namespace else args.object
    pool_name = osdmap.pool_names.get(pool, "")
    raw_pg = f"{pool}.{raw:x}"
    if args.format != "plain":
        found = {
            "epoch": osdmap.epoch,
            "pool": pool_name,
            "pool_id": pool,
            "objname": name,
            "raw_pgid": raw_pg,
            "pgid": str(pg),
            "up": list(up),
            "up_primary": up_primary,
            "acting": list(acting),
            "acting_primary": acting_primary,
        }
        print_json(found, args.format)
    elif args.live:
        print(
            f"osdmap e{osdmap.epoch} pool '{pool_name}' ({pool}) object '{name}' -> pg {raw_pg} ({pg})"
            f" -> up ({_osds(up)}, p{up_primary}) acting ({_osds(acting)}, p{acting_primary})"
        )
    else:
        print(f" object '{args.object}' -> {pg} -> [{','.join(map(str, acting))}]")


def explain(args: argparse.Namespace) -> None:
    from ..osdmap.explain import explain
    from .explain import print_explanation

    any_name()
    osdmap = read_osdmap(args)
    found = explain(osdmap, find_pool(osdmap, args.pool), args.object, args.key, args.namespace or "")
    if args.format == "plain":
        print_explanation(found, args.all_draws, sys.stdout.write)
    else:
        print_json(found.as_dict(), args.format)


def getmap(args: argparse.Namespace) -> None:
    from .commands import cluster

    with cluster(args) as handle:
        data = _getmap(handle, args.epoch)
    if args.out_file in (None, "-"):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with open(args.out_file, "wb") as f:
        f.write(data)
    epoch = decode_osdmap(data, "the map").epoch
    print(f"got osdmap epoch {epoch}", file=sys.stderr)


def print_json(value: Any, form: str) -> None:
    """JSON as Ceph's formatter lays it out, for --format json or json-pretty."""
    layout: dict[str, Any] = {"indent": 4} if form == "json-pretty" else {"separators": (",", ":")}
    print(json.dumps(value, ensure_ascii=False, **layout).replace("\x7f", "\\u007f"))


def any_name() -> None:
    """Names of objects are bytes: what is no text is printed as it was given."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _osds(osds: tuple[int, ...]) -> str:
    """`src/osd/osd_types.cc` pg_vector_string."""
    from ..osdmap.crush import CRUSH_ITEM_NONE

    return f"[{','.join('NONE' if osd == CRUSH_ITEM_NONE else str(osd) for osd in osds)}]"
