"""What the options say about connections: modes, compression, checksums
(`src/auth/AuthRegistry.cc`, `src/msg/compressor_registry.cc`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import ConfigError
from ..log import Log
from ..msgr.connection import MODE_OPTIONS
from ..msgr.frames import MODE_NAMES
from ..msgr.types import ENTITY_TYPE_OSD

if TYPE_CHECKING:
    from ..msgr.compression import Offer
    from .config import Config

_log = Log("messenger")

MODES = {name: mode for mode, name in MODE_NAMES.items()}


class MessengerOptions(NamedTuple):
    """How a client connects."""

    client_modes: tuple[int, ...]
    """`ms_client_mode`: to OSDs, in order of preference."""
    mon_modes: tuple[int, ...]
    """`ms_mon_client_mode`: to monitors and the manager."""
    compression: Offer | None
    """Asked of OSDs when `ms_osd_compress_mode` is force."""
    crc_data: bool
    """`ms_crc_data`. `ms_crc_header` means nothing in messenger v2, as with librados."""

    def modes(self, kind: int) -> tuple[int, ...]:
        """For connections to this kind of daemon."""
        return self.mon_modes if kind in MODE_OPTIONS else self.client_modes

    def offer(self, kind: int) -> Offer | None:
        return self.compression if kind == ENTITY_TYPE_OSD else None

    @classmethod
    def from_config(cls, config: Config) -> MessengerOptions:
        """Reads the options.

        Raises:
            ConfigError: EINVAL for a mode that does not exist, or none at all.
        """
        return cls(
            _modes(config, "ms_client_mode"),
            _modes(config, "ms_mon_client_mode"),
            _compression(config),
            config.get_bool("ms_crc_data"),
        )


def _modes(config: Config, option: str) -> tuple[int, ...]:
    modes: list[int] = []
    for name in config.get_list(option):
        mode = MODES.get(name)
        if mode is None:
            raise ConfigError(f"{option} = {config.get(option)!r}: {name!r} is no connection mode", hint="crc, secure")
        if mode not in modes:
            modes.append(mode)
    if not modes:
        raise ConfigError(f"{option} is empty", hint="crc, secure")
    return tuple(modes)


def _compression(config: Config) -> Offer | None:
    wanted = config.get("ms_osd_compress_mode")
    if wanted not in ("none", "force"):
        raise ConfigError(f"ms_osd_compress_mode = {wanted!r}", hint="none, force")
    if wanted == "none":
        return None
    from ..msgr.compression import Offer, available

    methods, problems = available(config.get_list("ms_osd_compression_algorithm"))
    for problem in problems:
        _log.warning("ms_osd_compression_algorithm: %s", problem)
    if not methods:
        return None
    return Offer(methods, config.get_int("ms_osd_compress_min_size"), config.get_bool("ms_compress_secure"))
