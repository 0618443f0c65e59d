"""Where the monitors are, in all the ways in which it can be written
(`src/mon/MonMap.cc` build_initial, `src/msg/msg_types.cc` parse_ip_port_vec)."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

from ..errors import ConfigError
from ..msgr.types import EntityAddr, EntityAddrVec
from .config import Config

MON_PORT_V2 = 3300
MON_PORT_V1 = 6789

Resolve = Callable[[str], "list[str]"]


def resolve_dns(host: str) -> list[str]:
    """All addresses of a host name.

    Raises:
        ConfigError: ENOENT when it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as e:
        raise ConfigError(f"mon_host: cannot resolve {host!r}: {e}", errno=errno.ENOENT) from None
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def parse_mon_host(text: str, resolve: Resolve = resolve_dns) -> list[EntityAddrVec]:
    """The monitors of a `mon_host` value: one vector of addresses for each.

    An address without ``v1:`` or ``v2:`` is of both kinds if it has no port (3300 and
    6789), of the kind of its port if that is one of the two, and else of messenger v2.

    Raises:
        ConfigError: EINVAL for what is no address, ENOENT for a name that has none.
    """
    mons: list[EntityAddrVec] = []
    for item in _items(text):
        if item.startswith("[") and not _is_bracketed_v6(item):
            if not item.endswith("]"):
                raise ConfigError(f"mon_host: {item!r} lacks its closing bracket")
            addrs: list[EntityAddr] = []
            for part in item[1:-1].split(","):
                if part.strip():
                    addrs += _parse_one(part.strip(), resolve)[0].addrs
            if addrs:
                mons.append(EntityAddrVec(tuple(addrs)))
        else:
            mons += _parse_one(item, resolve)
    return mons


def _items(text: str) -> list[str]:
    """Splits at commas, semicolons and blanks that are outside of brackets."""
    items, depth, word = [], 0, ""
    for c in text:
        depth += (c == "[") - (c == "]")
        if c in ",; \t\n" and depth <= 0:
            if word:
                items.append(word)
            word = ""
        elif not c.isspace():
            word += c
    return [*items, word] if word else items


def _is_bracketed_v6(item: str) -> bool:
    end = item.find("]")
    try:
        ipaddress.IPv6Address(item[1:end])
    except ValueError:
        return False
    return True


def _parse_one(item: str, resolve: Resolve) -> list[EntityAddrVec]:
    kind = EntityAddr.TYPE_ANY
    rest = item
    for prefix, value in (("v1:", EntityAddr.TYPE_LEGACY), ("v2:", EntityAddr.TYPE_MSGR2), ("any:", kind)):
        if rest.startswith(prefix):
            kind, rest = value, rest[len(prefix) :]
    rest, slash, nonce = rest.partition("/")
    if slash and not nonce.isdigit():
        raise ConfigError(f"mon_host: {item!r}: {nonce!r} is not a nonce")
    port_text = ""
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        if tail and not tail.startswith(":"):
            raise ConfigError(f"mon_host: {item!r} is not an address")
        port_text = tail[1:]
    elif rest.count(":") > 1:
        host = rest
    else:
        host, _, port_text = rest.partition(":")
    if not host or (port_text and not (port_text.isdigit() and int(port_text) <= 65535)):
        raise ConfigError(f"mon_host: {item!r} is not an address")
    port = int(port_text or 0)
    try:
        hosts = [str(ipaddress.ip_address(host))]
    except ValueError:
        hosts = resolve(host)
    return [EntityAddrVec(_addrs(kind, h, port, int(nonce or 0))) for h in hosts]


def _addrs(kind: int, host: str, port: int, nonce: int) -> tuple[EntityAddr, ...]:
    v1, v2 = EntityAddr.TYPE_LEGACY, EntityAddr.TYPE_MSGR2
    if kind == EntityAddr.TYPE_ANY:
        if not port:
            return (EntityAddr(v2, nonce, host, MON_PORT_V2), EntityAddr(v1, nonce, host, MON_PORT_V1))
        kind = v1 if port == MON_PORT_V1 else v2
    return (EntityAddr(kind, nonce, host, port or (MON_PORT_V1 if kind == v1 else MON_PORT_V2)),)


def find_monitors(config: Config, resolve: Resolve = resolve_dns) -> list[EntityAddr]:
    """The msgr2 addresses of the monitors that a configuration names.

    Raises:
        ConfigError: ENOENT when there are none, EINVAL when they cannot be parsed,
            EPROTONOSUPPORT when all are addresses of messenger v1.
    """
    text = config.get("mon_host_override") or config.get("mon_host") or ""
    mons = parse_mon_host(text, resolve)
    if not mons:
        for name in config.section_names():
            addr = config.section(name).get("mon_addr") if name.startswith("mon.") else None
            if addr:
                mons += parse_mon_host(addr, resolve)
    if not mons:
        raise ConfigError(
            "no monitor address is known",
            errno=errno.ENOENT,
            hint="set mon_host in ceph.conf, or name the right file with conffile= or CEPH_CONF",
        )
    found = [a for m in mons for a in m.addrs if a.type == EntityAddr.TYPE_MSGR2]
    if not found:
        raise ConfigError(
            f"mon_host names only messenger v1 addresses ({text})",
            errno=errno.EPROTONOSUPPORT,
            hint="pyrbd speaks messenger v2: add the monitors' v2 addresses, port 3300 unless set otherwise",
        )
    return found
