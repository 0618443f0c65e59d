"""Images of a pool: the directory, listing and renaming (`src/librbd/api/Image.cc`, list_images;
`src/librbd/operation/RenameRequest.cc`). Images of format 2 are entries of the directory's omap, those of format 1 of
a map in its data. How an image is made and removed: :mod:`.create`, :mod:`.remove`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ..denc import Decoder
from ..log import Log
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from . import cls_rbd, features, notify, operation, trash
from .create import check_name, create, exists, validate_pool
from .errors import ImageExists, ImageNotFound
from .image import Image
from .remove import OnProgress, remove, remove_image, remove_objects, report

if TYPE_CHECKING:
    from ..rados.io import IoContext

__all__ = [
    "OnProgress",
    "check_name",
    "create",
    "list_images",
    "remove",
    "remove_image",
    "remove_objects",
    "rename",
    "rename_open",
    "report",
    "validate_pool",
]

_log = Log("image")

_LIST_PAGE = 1024


async def list_images(io: IoContext) -> dict[str, str]:
    """{name: id} of the images of a pool and namespace, in librbd's order: those of format 1, whose id is "", those of
    format 2, each sorted by name, then those of which a removal was interrupted: they can be removed."""
    found = {} if io.namespace else dict.fromkeys(sorted(await _list_v1(io)), "")
    found.update(sorted((await _list_v2(io)).items()))
    for e in await trash.entries(io):
        if e.source == trash.TRASH_IMAGE_SOURCE_REMOVING:
            found.setdefault(e.name, e.id)
    return found


async def _list_v2(io: IoContext) -> dict[str, str]:
    found: dict[str, str] = {}
    last = ""
    while True:
        try:
            reply = await io.operate(cls_rbd.RBD_DIRECTORY, cls_rbd.dir_list(last, _LIST_PAGE))
        except rados.ObjectNotFound:
            return found
        page = cls_rbd.decode_dir_list(reply.ops[0].data)
        found.update(page)
        if len(page) < _LIST_PAGE:
            return found
        last = cls_rbd.listed_up_to(last, page)


async def _list_v1(io: IoContext) -> list[str]:
    """Names of format 1 images: blob header, map<string, blob> in the directory's data."""
    try:
        reply = await io.operate(cls_rbd.RBD_DIRECTORY, ObjectOperation().read(0, 0))
    except rados.ObjectNotFound:
        return []
    data = reply.ops[0].data
    if not data:
        return []
    d = Decoder(data)
    d.blob()
    names = []
    for _ in range(d.count(8)):
        names.append(d.string())
        d.blob()
    return names


def _op() -> ObjectOperation:
    return ObjectOperation()


async def rename(io: IoContext, source: str, dest: str) -> None:
    """Gives an image another name, also one that is open elsewhere.

    Raises:
        ImageNotFound, ImageExists, InvalidArgument (the name), FunctionNotSupported (a feature, by name).
    """
    check_name(dest)
    image = await Image.open(io, source, skip_parent=True)
    try:
        features.check_manageable(image.header.features, image.header.raw.op_features, source)
        if await exists(io, dest):
            raise ImageExists(f"error renaming image {source} to {dest}", errno.EEXIST)
        await operation.invoke(image, notify.Rename(dest), lambda _: rename_open(image, dest))
    finally:
        await image.close()


async def rename_open(image: Image, dest: str) -> None:
    """Gives an open image another name, and tells its other users.

    The new id object (format 1: header) is there before the directory knows the name, and the old one goes last:
    so the image has a name at any time.

    Raises:
        ImageExists, ImageNotFound: somebody removed it meanwhile.
    """
    source = await _current_name(image)
    if image.old_format:
        source_oid, dest_oid = source + cls_rbd.V1_SUFFIX, dest + cls_rbd.V1_SUFFIX
        raw = [n.encode("utf-8", "surrogateescape") for n in (dest, source)]
        directory = _op().tmap_update({raw[0]: b""}, raw[1:])
    else:
        source_oid, dest_oid = cls_rbd.id_object(source), cls_rbd.id_object(dest)
        directory = cls_rbd.dir_rename_image(_op(), source, dest, image.id)
    try:
        data = (await image.io.operate(source_oid, _op().read(0, 0))).ops[0].data
        await image.io.operate(dest_oid, _op().create(True).write_full(data))
    except rados.ObjectExists:
        raise ImageExists(f"error renaming image {source} to {dest}", errno.EEXIST) from None
    except rados.ObjectNotFound:
        raise ImageNotFound(f"image {source} was removed", errno.ENOENT) from None
    try:
        await image.io.operate(cls_rbd.RBD_DIRECTORY, directory)
    except (rados.TimedOut, rados.ConnectionShutdown):
        raise  # nobody knows what has been done
    except rados.Error as e:
        await image.io.operate(dest_oid, _op().remove())
        if isinstance(e, rados.ObjectExists):
            raise ImageExists(f"error renaming image {source} to {dest}", errno.EEXIST) from None
        raise
    await image.renamed(dest)
    try:
        await image.io.operate(source_oid, _op().remove())
    except rados.Error as e:
        _log.info("%r: its old name's object %s stays: %s", image, source_oid, e)
    await image.header_changed()


async def _current_name(image: Image) -> str:
    """Somebody else may have renamed it since we opened it."""
    if image.old_format:
        return image.name
    encoded = len(image.id.encode()).to_bytes(4, "little") + image.id.encode()
    try:
        return cls_rbd.decode_string(await image.io.call(cls_rbd.RBD_DIRECTORY, "rbd", "dir_get_name", encoded))
    except rados.ObjectNotFound:
        raise ImageNotFound(f"image {image.name} is not in the directory any more", errno.ENOENT) from None
