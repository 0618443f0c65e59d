"""Consistency groups: which one an image belongs to (`src/librbd/api/Group.cc`)."""

from typing import TYPE_CHECKING, NamedTuple

from ..denc import Decoder, Encoder, Struct, s64, string

if TYPE_CHECKING:
    from .image import Image

RBD_GROUP_DIRECTORY = "rbd_group_directory"
RBD_GROUP_INVALID_POOL = -1


class GroupSpec(Struct, version=1, compat=1):
    """cls::rbd::GroupSpec: a group, by its pool and id."""

    pool_id: s64 = RBD_GROUP_INVALID_POOL
    group_id: string = ""


class GroupInfo(NamedTuple):
    """rbd_group_info_t."""

    pool: int
    """RBD_GROUP_INVALID_POOL without a group."""
    name: str


async def image_get_group(image: "Image") -> GroupInfo:
    """The group that an image belongs to."""
    await image.current()
    data = image.header.raw.group
    spec = GroupSpec.decode(Decoder(data)) if data else GroupSpec()
    if spec.pool_id == RBD_GROUP_INVALID_POOL:
        return GroupInfo(RBD_GROUP_INVALID_POOL, "")
    io = image.io if spec.pool_id == image.io.pool_id else image.io.with_pool(spec.pool_id)
    e = Encoder()
    e.string(spec.group_id)
    return GroupInfo(spec.pool_id, Decoder(await io.call(RBD_GROUP_DIRECTORY, "rbd", "dir_get_name", e.buf)).string())
