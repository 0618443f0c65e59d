"""What has to be known of mirroring to leave mirrored images alone
(`src/cls/rbd/cls_rbd_client.cc`, mirror_*)."""

from typing import TYPE_CHECKING, Annotated

from ..denc import Decoder, Encoder, Since, Struct, string, u8
from ..rados import exceptions as rados

if TYPE_CHECKING:
    from ..rados.io import IoContext

RBD_MIRRORING = "rbd_mirroring"

RBD_MIRROR_MODE_DISABLED = 0
RBD_MIRROR_MODE_IMAGE = 1
RBD_MIRROR_MODE_POOL = 2


class MirrorImage(Struct, version=2, compat=1):
    """cls::rbd::MirrorImage: how an image is mirrored."""

    global_image_id: string
    state: u8
    mode: Annotated[u8, Since(2)] = 0


async def mirror_image_get(io: "IoContext", image_id: str) -> MirrorImage | None:
    """How an image is mirrored; None where it is not."""
    e = Encoder()
    e.string(image_id)
    try:
        return MirrorImage.decode(Decoder(await io.call(RBD_MIRRORING, "rbd", "mirror_image_get", e.buf)))
    except rados.ObjectNotFound:
        return None


async def mirror_mode_get(io: "IoContext") -> int:
    """How the images of a pool and namespace are mirrored: RBD_MIRROR_MODE_*."""
    try:
        return Decoder(await io.call(RBD_MIRRORING, "rbd", "mirror_mode_get")).u32()
    except rados.ObjectNotFound:
        return RBD_MIRROR_MODE_DISABLED


async def has_mirror_peers(io: "IoContext") -> bool:
    """Whether a pool and namespace has peers to mirror to or from."""
    try:
        return bool(Decoder(await io.call(RBD_MIRRORING, "rbd", "mirror_peer_list")).u32())
    except rados.ObjectNotFound:
        return False
