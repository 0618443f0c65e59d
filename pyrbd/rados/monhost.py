"""Where the monitors are, in all the ways in which it can be written
(`src/mon/MonMap.cc` build_initial, `src/msg/msg_types.cc` parse_ip_port_vec)."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

from ..errors import ConfigError, DecodeError
from ..log import Log
from ..msgr.messages import MonMap
from ..msgr.types import EntityAddr, EntityAddrVec
from .config import Config
from .hunt import Candidate

_log = Log("monhost")

MON_PORT_V2 = 3300
MON_PORT_V1 = 6789
MAX_MONMAP_SIZE = 1 << 20

Resolve = Callable[[str], "list[str]"]


def resolve_dns(host: str) -> list[str]:
    """All addresses of a host name.

    Raises:
        ConfigError: EINVAL when it has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise ConfigError(f"mon_host: cannot resolve {host!r}: {e}") from None
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def parse_mon_host(text: str, resolve: Resolve = resolve_dns) -> list[EntityAddrVec]:
    """The monitors of a `mon_host` value: one vector of addresses for each.

    An address without ``v1:`` or ``v2:`` is of both kinds if it has no port (3300 and
    6789), of the kind of its port if that is one of the two, and else of messenger v2.
    Names may have several addresses; one that has none is passed over if others have.

    Raises:
        ConfigError: EINVAL for what is no address, or when no name has one.
    """
    mons: list[EntityAddrVec] = []
    unresolved: ConfigError | None = None
    for item in _items(text):
        if item.startswith("[") and "]" not in item:
            raise ConfigError(f"mon_host: {item!r} lacks its closing bracket")
        if item.startswith("[") and item.endswith("]") and not _is_bracketed_v6(item):
            addrs: list[EntityAddr] = []
            for part in item[1:-1].split(","):
                if part.strip():
                    addrs += _parse_one(part.strip(), resolve)[0].addrs
            if addrs:
                mons.append(EntityAddrVec(tuple(addrs)))
        else:
            try:
                mons += _parse_one(item, resolve)
            except Unresolved as e:
                unresolved = e
                _log.warning("%s", e)
    if not mons and text.strip():
        raise unresolved or ConfigError(f"mon_host: there is no address in {text!r}")
    return mons


class Unresolved(ConfigError):
    """A name without an address."""


def _is_name(host: str) -> bool:
    """Whether it can be the name of a host. ``1.2.3`` can: the C library makes an address of it."""
    return all(c.isalnum() or c in "-._" for c in host)


def _items(text: str) -> list[str]:
    """Splits at commas, semicolons and blanks that are outside of brackets."""
    items, depth, word = [], 0, ""
    for c in text:
        if c == "[" and not depth and word.endswith("]"):
            items.append(word)
            word = ""
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
        hosts = [str(ipaddress.ip_address("" if "%" in host else host))]
    except ValueError:
        if not _is_name(host):
            raise ConfigError(f"mon_host: {item!r} is not an address") from None
        try:
            hosts = resolve(host)
        except ConfigError as e:
            raise Unresolved(e.message) from None
    return [EntityAddrVec(_addrs(kind, h, port, int(nonce or 0))) for h in hosts]


def _addrs(kind: int, host: str, port: int, nonce: int) -> tuple[EntityAddr, ...]:
    v1, v2 = EntityAddr.TYPE_LEGACY, EntityAddr.TYPE_MSGR2
    if kind == EntityAddr.TYPE_ANY:
        if not port:
            return (EntityAddr(v2, nonce, host, MON_PORT_V2), EntityAddr(v1, nonce, host, MON_PORT_V1))
        kind = v1 if port == MON_PORT_V1 else v2
    return (EntityAddr(kind, nonce, host, port or (MON_PORT_V1 if kind == v1 else MON_PORT_V2)),)


def _of_mon_host(text: str, resolve: Resolve) -> list[Candidate]:
    found = []
    for i, mon in enumerate(parse_mon_host(text, resolve)):
        name = f"noname-{chr(ord('a') + i) if i < 26 else i}"
        found += [Candidate(name, a) for a in mon.addrs]
    return found


def _of_file(path: str) -> list[Candidate]:
    """The monitors of a map that `ceph mon getmap` wrote."""
    try:
        with open(path, "rb") as f:
            monmap = MonMap.from_bytes(f.read(MAX_MONMAP_SIZE))
    except OSError as e:
        raise ConfigError(f"cannot read the monmap {path}: {e.strerror}", errno=e.errno or errno.EIO) from None
    except DecodeError as e:
        raise ConfigError(f"{path} is no monmap: {e}") from None
    return [
        Candidate(name, addr, m.priority, m.weight) for name, m in monmap.mons.items() for addr in m.public_addrs.addrs
    ]


def _of_sections(config: Config, resolve: Resolve) -> list[Candidate]:
    """``[mon.NAME]`` with `mon_addr`, `mon_priority`, `mon_weight`."""
    found = []
    for section in config.section_names():
        addr = config.section(section).get("mon_addr") if section.startswith("mon.") else None
        if addr:
            number = {}
            for option in ("mon_priority", "mon_weight"):
                text = next((v for s in (section, "mon", "global") if (v := config.section(s).get(option))), "0")
                if not (text.isascii() and text.isdigit()):
                    raise ConfigError(f"[{section}]: {option} = {text!r} is not a number")
                number[option] = int(text)
            found += [
                Candidate(section[4:], a, number["mon_priority"], number["mon_weight"])
                for mon in parse_mon_host(addr, resolve)
                for a in mon.addrs
            ]
    return found


def needs_dns(config: Config) -> bool:
    """Whether finding the monitors takes a look into the DNS, which may take long."""

    def asked(host: str) -> list[str]:
        raise _Asked

    try:
        return not _configured(config, asked)
    except _Asked:
        return True
    except ConfigError:
        return False  # and find_monitors says so


class _Asked(Exception):
    """A name had to be resolved."""


def _configured(config: Config, resolve: Resolve) -> list[Candidate]:
    """The monitors that options name, whatever messenger they speak."""
    override, monmap = config.get("mon_host_override"), config.get("monmap")
    if override:
        return _of_mon_host(override, resolve)
    if monmap:
        return _of_file(monmap)
    return _of_mon_host(config.get("mon_host") or "", resolve) or _of_sections(config, resolve)


def find_monitors(config: Config, resolve: Resolve = resolve_dns) -> list[Candidate]:
    """The monitors that a configuration names, or else the DNS, at their msgr2 addresses.

    Raises:
        ConfigError: ENOENT when there are none, EINVAL when they cannot be parsed,
            EPROTONOSUPPORT when all are addresses of messenger v1.
    """
    mons = _configured(config, resolve)
    source = f"mon_host names only messenger v1 addresses ({config.get('mon_host')})"
    if not mons:
        mons = _of_dns(config, resolve)
        source = "the DNS names only monitors at the port of messenger v1"
    found = list({c.addr: c for c in mons if c.addr.type == EntityAddr.TYPE_MSGR2}.values())
    if not found:
        raise ConfigError(
            source,
            errno=errno.EPROTONOSUPPORT,
            hint="pyrbd speaks messenger v2: add the monitors' v2 addresses, port 3300 unless set otherwise",
        )
    return found


def _of_dns(config: Config, resolve: Resolve) -> list[Candidate]:
    """The monitors of the SRV records for `mon_dns_srv_name`."""
    from .dnssrv import lookup

    service, _, domain = (config.get("mon_dns_srv_name") or "").partition("_")
    problem = "mon_dns_srv_name is empty"
    found: list[Candidate] = []
    if service:
        try:
            for record in lookup(service, domain):
                try:
                    hosts = record.addresses or resolve(record.target)
                except ConfigError as e:
                    _log.warning("%s", e)
                    continue
                name = record.target.partition(".")[0]
                for host in hosts:
                    addrs = _addrs(EntityAddr.TYPE_ANY, host, record.port, 0)
                    found += [Candidate(name, a, record.priority, record.weight) for a in addrs]
            problem = f"the DNS has no monitor for {service}"
        except ConfigError as e:
            problem = e.message
    if not found:
        raise ConfigError(
            f"no monitor address is known; {problem}",
            errno=errno.ENOENT,
            hint="set mon_host in ceph.conf, or name the right file with conffile= or CEPH_CONF",
        )
    return found
