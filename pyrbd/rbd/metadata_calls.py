"""Metadata and configuration of an image; see :mod:`.image_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import doing, text
from .pool_calls import config_key

if TYPE_CHECKING:
    from .properties import ImageBase


async def metadata_get(self: ImageBase, key: str) -> str:
    """A value that was set; KeyError if there is none."""
    from ..image import metadata

    core, key = self._open(), text(key, "key")
    with doing(f"error getting metadata {key} for image {self.name}"):
        return await metadata.get(core, key)


async def metadata_set(self: ImageBase, key: str, value: str) -> None:
    """Sets a value. Raises ReadOnlyImage; InvalidArgument for a ``conf_*`` that it cannot have."""
    from ..image import metadata

    core, key, value = self._open(), text(key, "key"), text(value, "value")
    with doing(f"error setting metadata {key} for image {self.name}"):
        await metadata.set(core, key, value)


async def metadata_remove(self: ImageBase, key: str) -> None:
    """Removes a value; KeyError if there is none. Raises ReadOnlyImage."""
    from ..image import metadata

    core, key = self._open(), text(key, "key")
    with doing(f"error removing metadata {key} for image {self.name}"):
        await metadata.remove(core, key)


async def metadata_list(self: ImageBase) -> list[tuple[str, str]]:
    """(key, value) of all that was set, sorted."""
    from ..image import metadata

    core = self._open()
    with doing(f"error listing metadata for image {self.name}"):
        return [*(await metadata.list_(core)).items()]


async def config_get(self: ImageBase, key: str) -> str:
    """A configuration option that was overridden for the image; KeyError if it was not."""
    from ..image import metadata

    core, key = self._open(), config_key(key)
    with doing(f"error getting config {key} for image {self.name}"):
        return await metadata.config_get(core, key)


async def config_set(self: ImageBase, key: str, value: str) -> None:
    """Overrides a configuration option (``rbd_*``) for the image. Raises ReadOnlyImage; InvalidArgument
    for a value that it cannot have."""
    from ..image import metadata

    core, key, value = self._open(), config_key(key), text(value, "value")
    with doing(f"error setting config {key} for image {self.name}"):
        await metadata.config_set(core, key, value)


async def config_remove(self: ImageBase, key: str) -> None:
    """Removes an override; KeyError if there is none. Raises ReadOnlyImage."""
    from ..image import metadata

    core, key = self._open(), config_key(key)
    with doing(f"error removing config {key} for image {self.name}"):
        await metadata.config_remove(core, key)


async def config_list(self: ImageBase) -> list[dict[str, Any]]:
    """{name, value, source} of each option, source being one of ``RBD_CONFIG_SOURCE_*``."""
    from ..image import metadata

    core = self._open()
    with doing(f"error listing config options of image {self.name}"):
        return [option._asdict() for option in await metadata.config_list(core)]
