"""Hypothesis strategies for declared structs, made from their declarations."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from pyrbd.denc import InBlob, MapOf, Nested, Scalar, Struct, Vector, WireType, _Blob, _String
from pyrbd.image.cls_rbd import SnapNamespace
from pyrbd.image.notify import OptionalString
from pyrbd.msgr.crypto import CryptoKey, Secret, _SecretBlob
from pyrbd.msgr.messages import MOSDBackoff
from pyrbd.msgr.osdop import MOSDOp, MOSDOpReply, RawOp, Trace
from pyrbd.msgr.types import (
    EntityAddr,
    EntityAddrVec,
    Eversion,
    HObject,
    ObjectLocator,
    OsdReqId,
    PgId,
    SpgId,
    Utime,
)

Values = st.SearchStrategy[Any]
U8, U16, U32, U64 = (st.integers(0, 2**n - 1) for n in (8, 16, 32, 64))
S32, S64 = (st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (32, 64))
TEXT = st.binary(max_size=20).map(lambda b: b.decode("utf-8", "surrogateescape"))
BLOB = st.binary(max_size=20)
HOSTS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str).filter(lambda host: "%" not in host)
ADDRS = st.one_of(st.builds(EntityAddr, U32, U32, HOSTS, U16), st.builds(EntityAddr, U32, U32, st.just(""), st.just(0)))


def _scalars(t: Scalar) -> Values:
    if t.convert is bool:
        return st.booleans()
    if t.fmt.endswith("s"):
        return st.binary(min_size=t.min_size, max_size=t.min_size)
    bits = 8 * t.min_size
    return st.integers(0, 2**bits - 1) if t.fmt.isupper() else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def of_type(t: WireType) -> Values:
    """Values that a wire type encodes."""
    if isinstance(t, Scalar):
        return _scalars(t)
    if isinstance(t, _String):
        return TEXT
    if isinstance(t, _Blob):
        return BLOB
    if isinstance(t, _SecretBlob):
        return BLOB.map(Secret)
    if isinstance(t, Vector):
        return st.lists(of_type(t.item), max_size=3).map(tuple)
    if isinstance(t, MapOf):
        return st.dictionaries(of_type(t.key), of_type(t.value), max_size=3)
    if isinstance(t, InBlob):
        return of_type(t.item)
    if isinstance(t, Nested):
        return of(t.cls)
    if isinstance(t, OptionalString):
        return st.none() | TEXT
    raise TypeError(f"no values for {t!r}")


def _irregular(cls: type[Struct]) -> Values | None:
    """Values of what is encoded by code of its own."""
    ops = st.builds(RawOp, U16, U32, st.binary(min_size=28, max_size=28), U32)
    if cls is EntityAddr:
        return ADDRS
    if cls is EntityAddrVec:
        return st.lists(ADDRS, max_size=3).map(lambda addrs: EntityAddrVec(tuple(addrs)))
    if cls is PgId:
        return st.builds(PgId, S64, U32)
    if cls is SnapNamespace:
        return st.builds(SnapNamespace, U32, BLOB)
    if cls is CryptoKey:
        return st.builds(CryptoKey, U16, of(Utime), st.binary(max_size=32).map(Secret))
    if cls is MOSDBackoff:
        bounds = of(HObject).map(Struct.to_bytes)
        return st.builds(MOSDBackoff, of(SpgId), U32, U8, U64, bounds, bounds)
    if cls is RawOp:
        return ops
    if cls is MOSDOp:
        parts = (of(SpgId), U32, U32, U32, of(OsdReqId), of(Trace), U32, of(Utime), of(ObjectLocator), BLOB)
        several = (st.lists(ops, max_size=3).map(tuple), U64, U64, st.lists(U64, max_size=3).map(tuple), S32, U64)
        return st.builds(MOSDOp, *parts, *several)
    if cls is MOSDOpReply:

        def reply(pairs: list[tuple[RawOp, int]], head: Any, tail: Any) -> MOSDOpReply:
            return MOSDOpReply(*head[:6], tuple([p[0] for p in pairs]), head[6], tuple([p[1] for p in pairs]), *tail)

        head = st.tuples(BLOB, of(PgId), U64, S32, of(Eversion), U32, S32)
        tail = st.tuples(of(Eversion), U64, st.booleans(), of(Trace))
        return st.builds(reply, st.lists(st.tuples(ops, S32), max_size=3), head, tail)
    return None


def known(cls: type[Struct]) -> bool:
    """Whether there are values of a struct."""
    return bool(cls.wire_fields) or _irregular(cls) is not None


@cache
def of(cls: type[Struct]) -> Values:
    """Values of a struct. Raises TypeError where it does not know how."""
    found = _irregular(cls)
    if found is not None:
        return found
    if not cls.wire_fields:
        raise TypeError(f"{cls.__name__} is not declared field by field, so it needs a line in values.py")
    return st.builds(lambda values: cls(*values), st.tuples(*[of_type(f.type) for f in cls.wire_fields]))
