"""Metadata of images and pools, and the configuration that is kept there
(`src/librbd/api/PoolMetadata.cc`, `Config.cc`, `src/librbd/operation/MetadataSetRequest.cc`,
`src/librbd/image/GetMetadataRequest.cc`).

A key that begins with ``conf_`` overrides an option: an image's goes before its pool's, and that before the
client's own configuration. The functions for pools take the pool's namespace from the IoContext, as librbd does,
but what takes effect is always that of the default namespace.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, NamedTuple

from ..denc import Decoder, Encoder, MapOf, blob
from ..log import Log
from ..rados import exceptions as rados
from ..rados.operations import ObjectOperation
from ..rados.option_table import OPTIONS
from ..rados.options import parse_seconds
from . import cls_rbd, config_schema, features
from .errors import InvalidArgument, ReadOnlyImage
from .notify import MetadataUpdate

if TYPE_CHECKING:
    from ..rados.client import Client
    from ..rados.config import Config
    from ..rados.io import IoContext
    from .image import Image

_log = Log("image")

CONF_PREFIX = "conf_"
_PAGE = 1024

RBD_CONFIG_SOURCE_CONFIG = 0
RBD_CONFIG_SOURCE_POOL = 1
RBD_CONFIG_SOURCE_IMAGE = 2

_PAIRS = MapOf(blob, blob)


class ConfigOption(NamedTuple):
    """An option in effect."""

    name: str
    value: str
    source: int
    """RBD_CONFIG_SOURCE_*."""


# ---------------------------------------------------------------- the class's methods


def _metadata_list(start: str, count: int) -> ObjectOperation:
    e = Encoder()
    e.string(start)
    e.u64(count)
    return ObjectOperation().call("rbd", "metadata_list", e.buf)


async def _get(io: IoContext, oid: str, key: str) -> str | None:
    """None where there is no such key, or no such object."""
    e = Encoder()
    e.string(key)
    try:
        return Decoder(await io.call(oid, "rbd", "metadata_get", e.buf)).string()
    except rados.ObjectNotFound:
        return None


def _set_operation(key: str, value: str) -> ObjectOperation:
    e = Encoder()
    _PAIRS.encode(e, {_raw(key): _raw(value)})
    return ObjectOperation().call_write("rbd", "metadata_set", e.buf)


def _remove_operation(key: str) -> ObjectOperation:
    e = Encoder()
    e.string(key)
    return ObjectOperation().call_write("rbd", "metadata_remove", e.buf)


async def _page(io: IoContext, oid: str, start: str) -> dict[str, str]:
    try:
        reply = await io.operate(oid, _metadata_list(start, _PAGE))
    except rados.Error as e:
        if e.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            return {}
        raise
    return _decode_page(reply.ops[0].data)


def _decode_page(data: bytes) -> dict[str, str]:
    return {_text(k): _text(v) for k, v in _PAIRS.decode(Decoder(data)).items()}


async def _list(io: IoContext, oid: str) -> dict[str, str]:
    found: dict[str, str] = {}
    start = ""
    while True:
        page = await _page(io, oid, start)
        found.update(page)
        if len(page) < _PAGE:
            return found
        start = cls_rbd.listed_up_to(start, page)


async def _overrides(io: IoContext, oid: str) -> dict[str, str]:
    """{option: value} of the keys that begin with ``conf_``."""
    found: dict[str, str] = {}
    start = CONF_PREFIX
    while True:
        page = await _page(io, oid, start)
        for key, value in page.items():
            if not key.startswith(CONF_PREFIX):
                return found
            found[key.removeprefix(CONF_PREFIX)] = value
        if len(page) < _PAGE:
            return found
        start = cls_rbd.listed_up_to(start, page)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _option_of(key: str) -> str | None:
    """is_metadata_config_override: the option that a key overrides."""
    return key.removeprefix(CONF_PREFIX) if key.startswith(CONF_PREFIX) and key != CONF_PREFIX else None


# ---------------------------------------------------------------- an image's


async def get(image: Image, key: str) -> str:
    """The value of a key. KeyError if there is none."""
    return await _get_of_image(image, key, f"no metadata {key} for image {image.name}")


async def set(image: Image, key: str, value: str) -> None:
    """Sets a key; what begins with ``conf_`` must name an option, and be a value of it.

    Raises:
        InvalidArgument, ReadOnlyImage, FunctionNotSupported.
    """
    option = _option_of(key)
    if option is not None:
        if option not in config_schema.image_options():
            raise InvalidArgument(f"{key}: no option that an image may override", errno.EINVAL)
        config_schema.check(option, value)
    await _check_writable(image)
    await execute_update(image, key, value)


async def remove(image: Image, key: str) -> None:
    """Removes a key. KeyError if there is none; ReadOnlyImage, FunctionNotSupported."""
    await _remove_of_image(image, key, f"no metadata {key} for image {image.name}")


async def list_(image: Image) -> dict[str, str]:
    """{key: value}, in the order of the keys."""
    await image.current()
    return await _list(image.io, image.header_oid)


async def execute_update(image: Image, key: str, value: str | None) -> None:
    """Sets a key, or removes it (None): here, or by the owner of the exclusive lock (MetadataUpdatePayload).

    Raises:
        ReadOnlyImage, FunctionNotSupported.
    """
    from .operation import invoke

    async def here(progress: object) -> None:
        features.check_manageable(image.header.features, image.header.raw.op_features, image.name)
        operation = _remove_operation(key) if value is None else _set_operation(key, value)
        await image.io.operate(image.header_oid, operation)
        await image.header_changed()

    await invoke(image, MetadataUpdate(key, value), here)


async def config_get(image: Image, option: str) -> str:
    """An image's own override of an option. KeyError if it has none."""
    return await _get_of_image(image, CONF_PREFIX + option, f"no config {option} for image {image.name}")


async def config_set(image: Image, option: str, value: str) -> None:
    """Overrides an option for an image, wherever it is open.

    Raises:
        InvalidArgument: no option that an image may override, or not a value of it.
        ReadOnlyImage, FunctionNotSupported.
    """
    await set(image, CONF_PREFIX + option, value)


async def config_remove(image: Image, option: str) -> None:
    """Removes an override. KeyError if there is none; ReadOnlyImage, FunctionNotSupported."""
    await _remove_of_image(image, CONF_PREFIX + option, f"no config {option} for image {image.name}")


async def config_list(image: Image) -> list[ConfigOption]:
    """All options that an image may override, as they are in effect for it."""
    pool, own = await _both_overrides(image)
    return _listed(image.client, config_schema.image_options(), pool, own)


async def _get_of_image(image: Image, key: str, missing: str) -> str:
    await image.current()
    value = await _get(image.io, image.header_oid, key)
    if value is None:
        raise KeyError(missing)
    return value


async def _remove_of_image(image: Image, key: str, missing: str) -> None:
    await _check_writable(image)
    if await _get(image.io, image.header_oid, key) is None:
        raise KeyError(missing)
    await execute_update(image, key, None)


async def _check_writable(image: Image) -> None:
    await image.current()
    if image.read_only:
        raise ReadOnlyImage(f"image {image.name} was opened read-only, or at a snapshot", errno.EROFS)


# ---------------------------------------------------------------- a pool's


async def pool_get(io: IoContext, key: str) -> str:
    """The value of a key of a pool. KeyError if there is none."""
    return await _get_of_pool(io, key, f"no metadata {key}")


async def pool_set(io: IoContext, key: str, value: str) -> None:
    """Sets a key of a pool; what begins with ``conf_`` must name an option, and be a value of it.

    Raises:
        InvalidArgument.
    """
    option = _option_of(key)
    if option is not None:
        if option not in config_schema.pool_options():
            raise InvalidArgument(f"{key}: no option that a pool may override", errno.EINVAL)
        config_schema.check(option, value)
    await io.operate(cls_rbd.RBD_INFO, _set_operation(key, value))
    if option is not None:
        await _update_pool_timestamp(io.client)


async def pool_remove(io: IoContext, key: str) -> None:
    """Removes a key of a pool. KeyError if there is none."""
    await _remove_of_pool(io, key, f"no metadata {key}")


async def pool_list(io: IoContext) -> dict[str, str]:
    """{key: value} of a pool, in the order of the keys."""
    return await _list(io, cls_rbd.RBD_INFO)


async def pool_config_get(io: IoContext, option: str) -> str:
    """A pool's override of an option. KeyError if it has none."""
    return await _get_of_pool(io, CONF_PREFIX + option, f"no config {option} for pool {_pool_name(io)}")


async def pool_config_set(io: IoContext, option: str, value: str) -> None:
    """Overrides an option for all images of a pool, which open ones see when they are refreshed.

    Raises:
        InvalidArgument: no option that a pool may override, or not a value of it.
    """
    await pool_set(io, CONF_PREFIX + option, value)


async def pool_config_remove(io: IoContext, option: str) -> None:
    """Removes an override. KeyError if there is none."""
    await _remove_of_pool(io, CONF_PREFIX + option, f"no config {option} for pool {_pool_name(io)}")


async def pool_config_list(io: IoContext) -> list[ConfigOption]:
    """All options that a pool may override, as they are in effect for it."""
    pool = await _overrides(io.with_namespace(""), cls_rbd.RBD_INFO)
    return _listed(io.client, config_schema.pool_options(), pool, {})


async def _get_of_pool(io: IoContext, key: str, missing: str) -> str:
    value = await _get(io, cls_rbd.RBD_INFO, key)
    if value is None:
        raise KeyError(missing)
    return value


async def _remove_of_pool(io: IoContext, key: str, missing: str) -> None:
    await _get_of_pool(io, key, missing)
    await io.operate(cls_rbd.RBD_INFO, _remove_operation(key))
    if _option_of(key) is not None:
        await _update_pool_timestamp(io.client)


def _pool_name(io: IoContext) -> str:
    return io.client.osdmap.pool_names.get(io.pool_id, str(io.pool_id))


async def _update_pool_timestamp(client: Client) -> None:
    """Has the monitors tell all clients that some pool's configuration has changed: librbd's images are refreshed
    then. A client that may not do that changes the pool all the same."""
    import json

    command = {
        "prefix": "config set",
        "who": "global",
        "name": "rbd_config_pool_override_update_timestamp",
        "value": str(int(time.time())),
    }
    reply = await client.mon_command(json.dumps(command))
    if reply.result:
        _log.warning("clients are not told of the pool's new configuration: %s", reply.status)


# ---------------------------------------------------------------- what is in effect


class ImageConfig:
    """The options in effect for a pool or an image: read like the client's configuration, which it falls back to."""

    __slots__ = ("_client", "_own")

    def __init__(self, client: Config, overrides: dict[str, str] | None = None) -> None:
        self._client = client
        self._own: dict[str, str] = {}
        for option, value in (overrides or {}).items():
            if option not in OPTIONS or not option.startswith("rbd_"):
                _log.info("the override of %s, which is no option of an image, is ignored", option)
                continue
            try:
                self._own[option] = config_schema.check(option, value)
            except InvalidArgument as e:
                _log.warning("an override is ignored: %s", e)

    def __repr__(self) -> str:
        return f"<ImageConfig {self._own}>"

    def get(self, option: str) -> str | None:
        """The value as text; None for an unknown option."""
        value = self._own.get(option)
        return self._client.get(option) if value is None else value

    def get_bool(self, option: str) -> bool:
        return self.get(option) == "true"

    def get_int(self, option: str) -> int:
        return int(self.get(option) or 0)

    def get_float(self, option: str) -> float:
        """A number, or a time span in seconds."""
        return parse_seconds(self.get(option) or "0")


async def load_config(image: Image) -> ImageConfig:
    """What is in effect for an image, in one round trip. An image of format 1 has no overrides, and takes none from
    its pool."""
    if image.old_format:
        return ImageConfig(image.client.config)
    pool, own = await _both_overrides(image)
    return ImageConfig(image.client.config, pool | own)


async def load_pool_config(io: IoContext) -> ImageConfig:
    """What is in effect for a pool: for what is created or removed there."""
    return ImageConfig(io.client.config, await _overrides(io.with_namespace(""), cls_rbd.RBD_INFO))


async def _both_overrides(image: Image) -> tuple[dict[str, str], dict[str, str]]:
    """Those of an image's pool, and its own: asked for at the same time."""
    first = image.io.submit(image.header_oid, _metadata_list(CONF_PREFIX, _PAGE))
    pool = await _overrides(image.io.with_namespace(""), cls_rbd.RBD_INFO)
    try:
        page = _decode_page((await first).ops[0].data)
    except rados.ObjectNotFound:
        page = {}
    own = {k.removeprefix(CONF_PREFIX): v for k, v in page.items() if k.startswith(CONF_PREFIX)}
    if len(own) == _PAGE:
        own = await _overrides(image.io, image.header_oid)
    return pool, own


def _listed(client: Client, names: list[str], pool: dict[str, str], own: dict[str, str]) -> list[ConfigOption]:
    found = []
    for name in names:
        if name in own:
            found.append(ConfigOption(name, own[name], RBD_CONFIG_SOURCE_IMAGE))
        elif name in pool:
            found.append(ConfigOption(name, pool[name], RBD_CONFIG_SOURCE_POOL))
        else:
            found.append(ConfigOption(name, client.config.get(name) or "", RBD_CONFIG_SOURCE_CONFIG))
    return found
