"""What each command does, on the API that programs use."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import rados, rbd
from ..image import features as _features
from ..rados.config import early_args
from . import transfer
from .output import CommandError, Progress, format_size, print_formatted, print_table
from .spec import Spec, image_spec, split_spec

if TYPE_CHECKING:
    import datetime


@contextmanager
def cluster(args: argparse.Namespace) -> Iterator[rados.Rados]:
    """A connected cluster, as the command line and the environment configure it."""
    early = early_args(())  # what CEPH_ARGS says; the command line goes before it
    name = getattr(args, "client_name", None)
    ident = getattr(args, "client_id", None)
    if not name and not ident:
        name, ident = early.get("name"), early.get("id")
    if name and ident:
        raise CommandError("can't supply both --id and --name", errno.EINVAL)
    conf = getattr(args, "conf", None) or early.get("conf")
    handle = rados.Rados(
        rados_id=ident, name=name, clustername=getattr(args, "cluster", None) or early.get("cluster"), conffile=None
    )
    try:
        handle.conf_read_file(conf)
    except rados.ObjectNotFound as e:
        # without a file the command line may say all that is needed
        if conf or not getattr(args, "mon_host", None):
            raise CommandError(f"couldn't read the configuration: {e.message}", errno.ENOENT) from None
    handle.conf_parse_env()
    for option in ("mon_host", "keyring", "keyfile"):
        value = getattr(args, option, None)
        if value:
            handle.conf_set(option, value)
    try:
        handle.connect()
    except rados.Error as e:
        code = e.errno or errno.EIO
        raise CommandError(f"couldn't connect to the cluster! {e}", code) from e
    try:
        yield handle
    finally:
        handle.shutdown()


@contextmanager
def pool(args: argparse.Namespace, spec: Spec) -> Iterator[rados.Ioctx]:
    """The pool and namespace of an image."""
    with cluster(args) as handle:
        try:
            ioctx = handle.open_ioctx(spec.pool)
        except rados.ObjectNotFound:
            raise CommandError(
                f"error opening pool '{spec.pool}': ({errno.ENOENT}) {os.strerror(errno.ENOENT)}", errno.ENOENT
            ) from None
        if spec.namespace:
            ioctx.set_namespace(spec.namespace)
        with ioctx:
            yield ioctx


def _fail(what: str, e: rbd.OSError) -> CommandError:
    code = e.errno or errno.EIO
    detail = f"\nrbd: {e.message}" if e.message and isinstance(e, rbd.FunctionNotSupported) else ""
    return CommandError(f"{what}: ({code}) {os.strerror(code)}{detail}", code)


@contextmanager
def open_image(ioctx: rados.Ioctx, spec: Spec, **kwargs: Any) -> Iterator[rbd.Image]:
    try:
        image = rbd.Image(ioctx, spec.image or None, snapshot=spec.snap or None, **kwargs)
    except rbd.OSError as e:
        raise _fail(f"error opening image {spec.image or kwargs.get('image_id')}", e) from e
    with image:
        yield image


# ---------------------------------------------------------------- create


def _layout(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `RBD.create` that the options of the layout ask for."""
    order = args.order
    if args.object_size:
        if args.object_size & (args.object_size - 1) or not 1 << 12 <= args.object_size <= 1 << 25:
            raise CommandError("the object size must be a power of two from 4K to 32M", errno.EINVAL)
        order = args.object_size.bit_length() - 1
    wanted = None
    if args.image_feature:
        try:
            wanted = _features.features_from_string(",".join(args.image_feature))
        except rbd.InvalidArgument as e:
            raise CommandError(e.message, errno.EINVAL) from None
    return {
        "order": order,
        "old_format": args.image_format == "1",
        "features": wanted,
        "stripe_unit": args.stripe_unit,
        "stripe_count": args.stripe_count,
        "data_pool": args.data_pool,
    }


def create(args: argparse.Namespace) -> None:
    spec = image_spec(args)
    if args.size is None:
        raise CommandError("must specify --size <M/G/T>", errno.EINVAL)
    layout = _layout(args)
    with pool(args, spec) as ioctx:
        try:
            rbd.RBD().create(ioctx, spec.image, args.size, **layout)
        except rbd.OSError as e:
            raise _fail("create error", e) from e


# ---------------------------------------------------------------- list


def list_images(args: argparse.Namespace) -> None:
    pool_name, namespace = args.pool, args.namespace
    if args.pool_spec:
        pool_name, _, rest = args.pool_spec.partition("/")
        namespace = rest or namespace
    spec = Spec(pool_name or "rbd", namespace or "", "", "")
    with pool(args, spec) as ioctx:
        images = rbd.RBD().list(ioctx)
        if args.long:
            _list_long(args, ioctx, images)
        elif args.format == "plain":
            for name in images:
                print(name)
        else:
            print_formatted(args.format, args.pretty_format, images, "images", "name")


def _list_long(args: argparse.Namespace, ioctx: rados.Ioctx, names: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for name in names:
        try:
            with rbd.Image(ioctx, name, read_only=True) as image:
                rows += _long_rows(ioctx, image)
        except rbd.ImageNotFound:
            continue  # removed since it was listed
    if args.format != "plain":
        print_formatted(args.format, args.pretty_format, rows, "images", "image")
        return
    table = []
    for r in rows:
        snap = f"@{r['snapshot']}" if "snapshot" in r else ""
        p = r.get("parent")
        parent = ""
        if p:
            where = f"{p['pool']}/" + (f"{p['pool_namespace']}/" if p["pool_namespace"] else "")
            parent = f"{where}{p['image']}@{p['snapshot']}"
        protected = "yes" if r.get("protected") == "true" else ""
        lock = {"exclusive": "excl", "shared": "shr"}.get(str(r.get("lock_type")), "")
        table.append([r["image"] + snap, format_size(r["size"]), parent, str(r["format"]), protected, lock])
    if table:
        print_table(["NAME", "SIZE", "PARENT", "FMT", "PROT", "LOCK"], table, right={1, 3})


def _long_rows(ioctx: rados.Ioctx, image: rbd.Image) -> Iterator[dict[str, Any]]:
    """A row for the image and each snapshot of users, as `src/tools/rbd/action/List.cc` has them."""
    old = image.old_format()
    form = {"format": 1 if old else 2}
    known = {"image": image.name, "id": "" if old else image.id()}

    def parent() -> dict[str, Any]:
        found = _parent(image)
        return {"parent": {k: found[k] for k in ("pool", "pool_namespace", "image", "snapshot")}} if found else {}

    lockers: Any = image.list_lockers()
    lock = {"lock_type": "exclusive" if lockers["exclusive"] else "shared"} if lockers else {}
    yield {**known, "size": image.size(), **parent(), **form, **lock}
    for snap in image.list_snaps():
        if snap["namespace"] != rbd.RBD_SNAP_NAMESPACE_TYPE_USER:
            continue
        image.set_snap(snap["name"])
        protected = "true" if image.is_protected_snap(snap["name"]) else "false"
        entry = {**known, "snapshot": snap["name"], "snapshot_id": snap["id"], "size": snap["size"]}
        yield {**entry, **parent(), **form, "protected": protected}


def _parent(image: rbd.Image) -> dict[str, Any] | None:
    core = image._core
    if core.parent is None or core.parent.snap is None:
        return None
    pool_name, name, snap = image.parent_info()
    return {
        "pool": pool_name,
        "pool_namespace": core.parent.io.namespace,
        "image": name,
        "id": image.parent_id(),
        "snapshot": snap,
        "trash": False,
        "overlap": image.overlap(),
    }


# ---------------------------------------------------------------- info


def _ctime(t: datetime.datetime) -> str:
    return t.astimezone().strftime("%a %b %e %H:%M:%S %Y")


_OP_FEATURES = {1: "clone-parent", 2: "clone-child", 4: "group", 8: "snap-trash"}
_FLAGS = {1: "object map invalid", 2: "fast diff invalid"}


def _names(bits: int, names: dict[int, str]) -> list[str]:
    return [name for bit, name in names.items() if bits & bit]


def info(args: argparse.Namespace) -> None:
    spec = image_spec(args, snap=True)
    kwargs = {"image_id": args.image_id} if args.image_id else {}
    with pool(args, spec) as ioctx, open_image(ioctx, spec, read_only=True, **kwargs) as image:
        d = _describe(ioctx, image, spec)
        if args.format != "plain":
            print_formatted(args.format, args.pretty_format, d, "image")
            return
        print(f"rbd image '{d['name']}':")
        print(f"\tsize {format_size(d['size'])} in {d['objects']} objects")
        print(f"\torder {d['order']} ({format_size(d['object_size'])} objects)")
        for key in ("snapshot_count", "id", "data_pool", "block_name_prefix", "format"):
            if key in d:
                print(f"\t{key}: {d[key]}")
        for key in ("features", "op_features", "flags"):
            print(f"\t{key}: {', '.join(d[key])}")
        for key in ("create_timestamp", "access_timestamp", "modify_timestamp"):
            if key in d:
                print(f"\t{key}: {d[key]}")
        if spec.snap:
            print(f"\tprotected: {'True' if d['protected'] == 'true' else 'False'}")
        parent = d.get("parent")
        if parent:
            where = f"{parent['pool']}/" + (f"{parent['pool_namespace']}/" if parent["pool_namespace"] else "")
            print(f"\tparent: {where}{parent['image']}@{parent['snapshot']}")
            print(f"\toverlap: {format_size(parent['overlap'])}")
        if "stripe_unit" in d:
            print(f"\tstripe unit: {format_size(d['stripe_unit'])}")
            print(f"\tstripe count: {d['stripe_count']}")


def _describe(ioctx: rados.Ioctx, image: rbd.Image, spec: Spec) -> dict[str, Any]:
    """What `rbd info` knows, with its names and in its order."""
    stat = image.stat()
    bits = image.features()
    d: dict[str, Any] = {
        "name": image.name,
        "id": image.id(),
        "size": stat["size"],
        "objects": stat["num_objs"],
        "order": stat["order"],
        "object_size": stat["obj_size"],
        "snapshot_count": sum(1 for _ in image.list_snaps()),
    }
    if bits & rbd.RBD_FEATURE_DATA_POOL:
        d["data_pool"] = ioctx.rados.pool_reverse_lookup(image.data_pool_id()) or "<missing data pool>"
    d["block_name_prefix"] = image.block_name_prefix()
    d["format"] = 2
    d["features"] = _names(bits, _features.NAMES)
    d["op_features"] = _names(image.op_features(), _OP_FEATURES)
    d["flags"] = _names(image.flags(), _FLAGS)
    for key, when in (
        ("create_timestamp", image.create_timestamp()),
        ("access_timestamp", image.access_timestamp()),
        ("modify_timestamp", image.modify_timestamp()),
    ):
        if when.timestamp():
            d[key] = _ctime(when)
    if spec.snap:
        d["protected"] = "true" if image.is_protected_snap(spec.snap) else "false"
    parent = _parent(image)
    if parent:
        d["parent"] = parent
    if bits & rbd.RBD_FEATURE_STRIPINGV2 and (image.stripe_count() != 1 or image.stripe_unit() != stat["obj_size"]):
        d["stripe_unit"] = image.stripe_unit()
        d["stripe_count"] = image.stripe_count()
    return d


# ---------------------------------------------------------------- remove, rename, resize


def remove(args: argparse.Namespace) -> None:
    spec = image_spec(args)
    with pool(args, spec) as ioctx:
        try:
            with Progress("Removing image", 100, args.no_progress) as progress:
                rbd.RBD().remove(ioctx, spec.image, on_progress=progress.update)
        except rbd.ImageHasSnapshots as e:
            raise CommandError(
                "image has snapshots - these must be deleted with 'rbd snap purge' before the image can be removed.",
                e.errno or errno.ENOTEMPTY,
            ) from e
        except rbd.ImageBusy as e:
            raise CommandError(
                "error: image still has watchers\nThis means the image is still open or the client using it crashed. "
                "Try again after closing/unmapping it or waiting 30s for the crashed client to timeout.\n"
                f"rbd: {e.message}",
                e.errno or errno.EBUSY,
            ) from e
        except rbd.OSError as e:
            raise _fail("delete error", e) from e


def rename(args: argparse.Namespace) -> None:
    spec = image_spec(args)
    dest_pool = dest_namespace = None
    dest = args.dest or ""
    if args.dest_spec:
        dest_pool, dest_namespace, dest, snap = split_spec(args.dest_spec)
        if snap:
            raise CommandError("destination snapname specified for a command that doesn't use it", errno.EINVAL)
    if not dest:
        raise CommandError("destination image name was not specified", errno.EINVAL)
    if (dest_pool or args.dest_pool or spec.pool) != spec.pool:
        raise CommandError("mv/rename across pools not supported", errno.EINVAL)
    if (dest_namespace or spec.namespace) != spec.namespace:
        raise CommandError("mv/rename across namespaces not supported", errno.EINVAL)
    with pool(args, spec) as ioctx:
        try:
            rbd.RBD().rename(ioctx, spec.image, dest)
        except rbd.OSError as e:
            raise _fail("rename error", e) from e


def resize(args: argparse.Namespace) -> None:
    spec = image_spec(args)
    if args.size is None:
        raise CommandError("must specify --size <M/G/T>", errno.EINVAL)
    with pool(args, spec) as ioctx, open_image(ioctx, spec) as image:
        if args.size < image.size() and not args.allow_shrink:
            raise CommandError("shrinking an image is only allowed with the --allow-shrink flag", errno.EINVAL)
        with Progress("Resizing image", 100, args.no_progress):
            try:
                image.resize(args.size, args.allow_shrink)
            except rbd.OSError as e:
                raise _fail("resize error", e) from e


# ---------------------------------------------------------------- export and import


def _only_format_1(args: argparse.Namespace) -> None:
    if args.export_format != "1":
        raise CommandError("export format 2 is not supported by pyrbd yet", errno.EOPNOTSUPP)


def export(args: argparse.Namespace) -> None:
    spec = image_spec(args, snap=True)
    _only_format_1(args)
    path = args.path or args.path_spec or spec.image
    with (
        pool(args, spec) as ioctx,
        open_image(ioctx, spec, read_only=True) as image,
        Progress("Exporting image", image.size(), args.no_progress) as progress,
    ):
        transfer.export_image(image, path, progress)


def import_image(args: argparse.Namespace) -> None:
    path = args.path or args.path_spec
    if args.path and args.path_spec and not args.spec:
        args.spec = args.path_spec
    if not path:
        raise CommandError("import path was not specified", errno.EINVAL)
    _only_format_1(args)
    if args.dest_pool:
        args.pool = args.dest_pool
    if not args.spec and not args.image:
        if path == "-":
            raise CommandError("destination image name was not specified", errno.EINVAL)
        args.image = os.path.basename(path.rstrip("/"))
    spec = image_spec(args)
    layout = _layout(args)
    with (
        transfer.open_source(path) as source,
        pool(args, spec) as ioctx,
        Progress("Importing image", source.size or 0, args.no_progress) as progress,
    ):
        try:
            transfer.import_image(ioctx, spec.image, source, layout, args.sparse_size, progress)
        except rbd.OSError as e:
            raise _fail("import failed", e) from e
