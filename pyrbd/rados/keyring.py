"""The client's key: from the options `key` and `keyfile`, or a keyring file
(`src/auth/KeyRing.cc`). No message of this module contains a secret, nor do the local
variables of a traceback."""

from __future__ import annotations

import errno

from ..errors import AuthError, ConfigError
from ..msgr.crypto import CryptoKey, SecretText
from .config import Config, parse_conf, split_list

MAX_SIZE = 1 << 20


def _read(path: str, what: str) -> SecretText:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as f:
            text = SecretText(f.read(MAX_SIZE + 1))
    except OSError as e:
        hint = "is it readable for this user?" if e.errno == errno.EACCES else ""
        raise ConfigError(
            f"cannot read the {what} {path}: {e.strerror}", errno=e.errno or errno.EIO, hint=hint
        ) from None
    if len(text) > MAX_SIZE:
        raise ConfigError(f"the {what} {path} is larger than {MAX_SIZE} bytes")
    return text


def parse_keyring(text: str, where: str = "keyring") -> dict[str, SecretText]:
    """{entity: key in base64} of a keyring file's text.

    Raises:
        ConfigError: EIO with the line's number.
    """
    text = SecretText(text)
    try:
        sections = parse_conf(text, where)
    except ConfigError as e:
        broken = ConfigError(e.message, errno=errno.EIO, hint=e.hint)
    else:
        return {entity: SecretText(values["key"]) for entity, values in sections.items() if "key" in values}
    raise broken  # without the traceback, in which the file can be read


def find_key(config: Config) -> CryptoKey:
    """The key of the configuration's entity.

    Raises:
        ConfigError: ENOENT when no keyring is there, EACCES when it cannot be read or has no key
            for the entity, EIO when it cannot be parsed.
        AuthError: when what is there is not a key: EINVAL, or EIO in a keyring.
    """
    given = SecretText(config.get("key") or "")
    if given:
        return CryptoKey.from_base64(given)
    keyfile = config.get("keyfile")
    if keyfile:
        return _parse_key(_read(keyfile, "keyfile"), keyfile, errno.EINVAL)
    paths = split_list(config.get("keyring") or "")
    seen: list[str] = []
    for path in paths:
        try:
            keys = parse_keyring(_read(path, "keyring"), path)
        except ConfigError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        if config.name in keys:
            return _parse_key(keys[config.name], path, errno.EIO)
        seen.append(path)
        break  # Ceph uses the first keyring that exists, and no other
    if seen:
        raise ConfigError(
            f"the keyring {seen[0]} has no key for {config.name}",
            errno=errno.EACCES,
            hint=f"add it: ceph auth get {config.name}",
        )
    raise ConfigError(
        f"no keyring for {config.name}: looked for {', '.join(paths) or 'none'}",
        errno=errno.ENOENT,
        hint="set keyring in ceph.conf, or CEPH_KEYRING",
    )


def _parse_key(text: SecretText, path: str, code: int) -> CryptoKey:
    try:
        return CryptoKey.from_base64(text)
    except AuthError as e:
        raise AuthError(f"{path}: {e}", errno=code) from None
