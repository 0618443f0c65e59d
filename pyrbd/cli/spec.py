"""Image-specs and sizes as the command line writes them."""

from __future__ import annotations

import argparse
import errno
from typing import NamedTuple

from ..rados.options import parse_size as _bytes
from .output import CommandError

MIB = 1 << 20


class Spec(NamedTuple):
    pool: str
    namespace: str
    image: str
    snap: str


def parse_size(text: str) -> int:
    """Bytes of a size whose default unit is MiB."""
    try:
        return int(text) * MIB if text.strip().isdigit() else _bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"the size {text!r} is not a number with a unit of M/G/T/P/E") from None


def parse_object_size(text: str) -> int:
    """Bytes of a size whose default unit is the byte."""
    try:
        return _bytes(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number with a unit of B/K/M") from None


def split_spec(text: str) -> tuple[str | None, str | None, str, str]:
    """(pool, namespace, image, snapshot) of ``[pool/[namespace/]]image[@snap]``."""
    path, _, snap = text.partition("@")
    parts = path.split("/")
    if len(parts) > 3 or any(not p for p in parts) or "@" in snap or (snap == "" and "@" in text):
        raise CommandError(f"invalid spec '{text}'", errno.EINVAL)
    pool = parts[0] if len(parts) > 1 else None
    namespace = parts[1] if len(parts) > 2 else None
    return pool, namespace, parts[-1], snap


def image_spec(args: argparse.Namespace, *, snap: bool = False, default_pool: str = "rbd") -> Spec:
    """The image that a command line names, by its spec or by options."""
    pool = namespace = None
    image = args.image or ""
    snapshot = getattr(args, "snap", None) or ""
    if args.spec:
        pool, namespace, name, at = split_spec(args.spec)
        if image and image != name:
            raise CommandError("image name was specified twice", errno.EINVAL)
        image, snapshot = name, at or snapshot
    if snapshot and not snap:
        raise CommandError("snapshot name specified for a command that doesn't use it", errno.EINVAL)
    pool = pool or args.pool or default_pool
    namespace = namespace or args.namespace or ""
    if not image and not getattr(args, "image_id", None):
        raise CommandError("image name was not specified", errno.EINVAL)
    return Spec(pool, namespace, image, snapshot)
