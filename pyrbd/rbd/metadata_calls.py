"""Metadata and configuration of an image; see :mod:`.image_calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .arguments import doing, text
from .pool_calls import CONF_PREFIX, config_key

if TYPE_CHECKING:
    from .properties import ImageBase


async def metadata_get(self: ImageBase, key: str) -> str:
    """A value that was set; KeyError if there is none."""
    key = text(key, "key")
    return await _get(self, key, f"metadata {key}")


async def metadata_set(self: ImageBase, key: str, value: str) -> None:
    """Sets a value. Raises ReadOnlyImage; InvalidArgument for a ``conf_*`` that it cannot have."""
    key, value = text(key, "key"), text(value, "value")
    await _set(self, key, value, f"metadata {key}")


async def metadata_remove(self: ImageBase, key: str) -> None:
    """Removes a value; KeyError if there is none. Raises ReadOnlyImage."""
    key = text(key, "key")
    await _remove(self, key, f"metadata {key}")


async def metadata_list(self: ImageBase) -> list[tuple[str, str]]:
    """(key, value) of all that was set, sorted."""
    from ..image import metadata

    core = self._open()
    with doing(f"error listing metadata for image {self.name}"):
        return sorted((await metadata.image_list(core)).items())


async def config_get(self: ImageBase, key: str) -> str:
    """A configuration option that was overridden for the image; KeyError if it was not."""
    key = config_key(key)
    return await _get(self, CONF_PREFIX + key, f"config {key}")


async def config_set(self: ImageBase, key: str, value: str) -> None:
    """Overrides a configuration option (``rbd_*``) for the image. Raises ReadOnlyImage; InvalidArgument
    for a value that it cannot have."""
    key, value = config_key(key), text(value, "value")
    await _set(self, CONF_PREFIX + key, value, f"config {key}")


async def config_remove(self: ImageBase, key: str) -> None:
    """Removes an override; KeyError if there is none. Raises ReadOnlyImage."""
    key = config_key(key)
    await _remove(self, CONF_PREFIX + key, f"config {key}")


async def config_list(self: ImageBase) -> list[dict[str, Any]]:
    """{name, value, source} of each option, source being one of ``RBD_CONFIG_SOURCE_*``."""
    from ..image import metadata

    core = self._open()
    with doing(f"error listing config options of image {self.name}"):
        return [{"name": n, "value": v, "source": s} for n, v, s in await metadata.image_config_list(core)]


async def _get(self: ImageBase, key: str, about: str) -> str:
    from ..image import metadata

    core = self._open()
    with doing(f"error getting {about} for image {self.name}"):
        value = await metadata.image_get(core, key)
    if value is None:
        raise KeyError(f"no {about} for image {self.name}")
    return value


async def _set(self: ImageBase, key: str, value: str, about: str) -> None:
    from ..image import metadata

    core = self._open()
    with doing(f"error setting {about} for image {self.name}"):
        await metadata.image_set(core, key, value)


async def _remove(self: ImageBase, key: str, about: str) -> None:
    from ..image import metadata

    core = self._open()
    with doing(f"error removing {about} for image {self.name}"):
        there = await metadata.image_remove(core, key)
    if not there:
        raise KeyError(f"no {about} for image {self.name}")
