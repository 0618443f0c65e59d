"""What a user writes: ceph.conf, keyrings, mon_host, values of options, arguments."""

from __future__ import annotations

from collections.abc import Iterator

from pyrbd.errors import ConfigError
from pyrbd.msgr.crypto import CryptoKey
from pyrbd.rados.config import Config, early_args, parse_conf
from pyrbd.rados.keyring import parse_keyring
from pyrbd.rados.monhost import find_monitors, parse_mon_host
from pyrbd.rados.options import OPTIONS, canonical

NAMES = sorted(OPTIONS)


def _resolve(host: str) -> list[str]:
    if len(host) % 2:
        raise ConfigError(f"cannot resolve {host!r}")
    return ["192.0.2.1", "2001:db8::1"]


def one(data: bytes) -> None:
    kind, which = data[:1], data[1:2]
    text = data[2:].decode("utf-8", "surrogateescape")
    way = kind[0] % 7 if kind else 0
    if way == 0:
        sections = parse_conf(text)
        config = Config(environ={})
        config._sections = sections
        for name in [*NAMES[:: 1 + len(NAMES) // 20], *list(sections.get("global", {}))[:20]]:
            config.get(name)
        config.crush_location()
        for option in ("rados_osd_op_timeout", "client_mount_timeout"):
            assert config.get_float(option) >= 0
        find_monitors(config, _resolve)
    elif way == 1:
        for key in parse_keyring(text).values():
            CryptoKey.from_base64(key)
    elif way == 2:
        parse_mon_host(text, _resolve)
    elif way == 3:
        name = NAMES[(which[0] if which else 0) * len(NAMES) // 256]
        value = canonical(name, text)
        assert canonical(name, value) == value, (name, text, value)
    elif way == 4:
        config = Config(environ={"CEPH_ARGS": text})
        early_args([], {"CEPH_ARGS": text})
        config.parse_env()
    elif way == 5:
        config = Config(environ={})
        config.parse_argv(text.split("\0"))
    else:
        config = Config(environ={})
        pairs = [line.partition("=") for line in text.split("\0")]
        config.set_from_monitors({name: value for name, _, value in pairs})
        for name, _, _ in pairs:
            config.get(name)


def seeds() -> Iterator[bytes]:
    conf = """[global]
    fsid = 3f2c0c2b-1e2a-4b5f-9d0a-000000000000
    mon host = [v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:[2001:db8::1]:3300]
    keyring = /etc/ceph/$cluster.$name.keyring ; a comment
    rados osd op timeout = 30
    crush location = root=default host=a
    [client.admin]
    log file = "/var/log/\\"$name\\".log" # another
    rbd cache = \\
      false
    [mon.a]
    mon addr = 10.0.0.1
    """
    yield b"\0\0" + conf.encode()
    yield b'\1\0[client.admin]\n\tkey = AQDDcVYaAAAAABAAjqcA39/dH3ge/ZmJgUEJ0Lg=\n\tcaps mon = "allow *"\n'
    for host in (
        "10.0.0.1",
        "10.0.0.1:6789,10.0.0.2:3300",
        "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0] [v2:[::1]:3300]",
        "a.example b.example;c",
        "any:10.0.0.1:1234/5",
    ):
        yield b"\2\0" + host.encode()
    for i in range(0, 256, 5):
        for value in ("5", "true", "4K", "1.5", "2m", "none"):
            yield bytes([3, i]) + value.encode()
    yield b"\4\0--mon-host 10.0.0.1 -n client.x --id=y 'a b' --no-rbd-cache"
    yield b"\6\0rbd_cache=false\0keyring=$cluster$name\0rados_osd_op_timeout=5\0nonsense=1\0mon_host=a"
    yield b"\5\0--rbd_cache\0--name\0client.a\0--\0rest\0-m\0001.2.3.4\0-c\0x"
