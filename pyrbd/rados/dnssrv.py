"""Monitors by DNS SRV records (`src/common/dns_resolve.cc`, `src/mon/MonMap.cc` init_with_dns_srv,
`doc/rados/configuration/mon-lookup-dns.rst`). Needs dnspython: the extra ``dns``."""

from __future__ import annotations

import errno
from typing import NamedTuple

from ..errors import ConfigError
from ..log import Log

_log = Log("dns")

LIFETIME = 10.0
"""Seconds for one question, with all servers."""


class Record(NamedTuple):
    """One monitor; `addresses` are those that the resolver told for its name."""

    target: str
    port: int
    priority: int
    weight: int
    addresses: tuple[str, ...]


def lookup(service: str, domain: str = "") -> list[Record]:
    """The monitors of ``_SERVICE._tcp``, in a domain or in those that the resolver searches.

    Raises:
        ConfigError: ENOENT when there is no such record, or no resolver.
    """
    try:
        import dns.exception
        import dns.resolver
    except ImportError:
        raise ConfigError("the DNS is not asked without dnspython", errno=errno.ENOENT) from None
    name = f"_{service}._tcp" + (f".{domain}" if domain else "")
    try:
        resolver = dns.resolver.get_default_resolver()
        answer = resolver.resolve(name, "SRV", search=True, lifetime=LIFETIME)
        records = []
        for srv in answer:
            addresses: list[str] = []
            for kind in ("A", "AAAA"):
                try:
                    addresses += [str(a.address) for a in resolver.resolve(srv.target, kind, lifetime=LIFETIME)]
                except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
                    continue
            target = srv.target.to_text(omit_final_dot=True)
            records.append(Record(target, srv.port, srv.priority, srv.weight, tuple(addresses)))
    except dns.exception.DNSException as e:
        raise ConfigError(f"no DNS record {name}: {e}", errno=errno.ENOENT) from None
    _log.debug("%s: %s", name, ", ".join(f"{r.target}:{r.port}" for r in records))
    return records
