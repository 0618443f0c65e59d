"""The part of a full map that is for OSDs (`src/osd/OSDMap.cc` OSDMap::encode "osd-only data"): what clients ask of
it is whom it shuts out; all of it is shown, and counts for the crc.
"""

from __future__ import annotations

import struct as _struct

from ..denc import Decoder, Encoder, MapOf, s32, u32
from ..msgr.types import EntityAddr, EntityAddrVec
from .addrs import decode_stamped, encode_stamped
from .blocklist import Blocklist
from .columns import ADDRS, INFOS, UUIDS, XINFOS, Column, OsdInfo, OsdXInfo
from .features import SERVER_MIMIC, SERVER_NAUTILUS, have
from .lazy import decode_pool_intervals, encode_pool_intervals
from .pool_types import IntervalSet

VERSION = 12

RELEASE_NAUTILUS = 14

_RATIOS = _struct.Struct("<3f")
_STRETCH = _struct.Struct("<BIIIi")
_flags = MapOf(s32, u32)


class OsdSection:
    """A value; the fields have Ceph's names."""

    __slots__ = (
        "_blocklist",
        "allow_crimson",
        "backfillfull_ratio",
        "blocklist_stamps",
        "cluster_addrs",
        "cluster_snapshot",
        "cluster_snapshot_epoch",
        "crush_node_flags",
        "degraded_stretch_mode",
        "device_class_flags",
        "full_ratio",
        "hb_back_addrs",
        "hb_front_addrs",
        "nearfull_ratio",
        "osd_info",
        "osd_uuid",
        "osd_xinfo",
        "range_blocklist_stamps",
        "recovering_stretch_mode",
        "removed_snaps_queue",
        "require_min_compat_client",
        "require_osd_release",
        "stretch_bucket_count",
        "stretch_mode_bucket",
        "stretch_mode_enabled",
    )

    hb_back_addrs: Column[EntityAddrVec]
    osd_info: Column[OsdInfo]
    blocklist_stamps: dict[bytes, bytes]
    cluster_addrs: Column[EntityAddrVec]
    cluster_snapshot_epoch: int
    cluster_snapshot: str
    osd_uuid: Column[bytes]
    osd_xinfo: Column[OsdXInfo]
    hb_front_addrs: Column[EntityAddrVec]
    nearfull_ratio: float
    full_ratio: float
    backfillfull_ratio: float
    require_min_compat_client: int
    require_osd_release: int
    removed_snaps_queue: dict[int, IntervalSet]
    crush_node_flags: dict[int, int]
    device_class_flags: dict[int, int]
    stretch_mode_enabled: bool
    stretch_bucket_count: int
    degraded_stretch_mode: int
    recovering_stretch_mode: int
    stretch_mode_bucket: int
    range_blocklist_stamps: dict[bytes, bytes]
    allow_crimson: bool
    _blocklist: Blocklist | None

    @classmethod
    def decode(cls, v: int, d: Decoder) -> OsdSection:
        """From the bytes of a section of version `v`. Raises DecodeError."""
        s = cls()
        s.hb_back_addrs = Column.decode(ADDRS, d)
        s.osd_info = Column.decode(INFOS, d)
        s.blocklist_stamps = decode_stamped(d)
        s.cluster_addrs = Column.decode(ADDRS, d)
        s.cluster_snapshot_epoch = d.u32()
        s.cluster_snapshot = d.string()
        s.osd_uuid = Column.decode(UUIDS, d)
        s.osd_xinfo = Column.decode(XINFOS, d)
        s.hb_front_addrs = Column.decode(ADDRS, d)
        ratios = d.unpack(_RATIOS) if v >= 3 else (0.0, 0.0, 0.0)
        s.nearfull_ratio, s.full_ratio, s.backfillfull_ratio = ratios
        s.require_min_compat_client, s.require_osd_release = (d.u8(), d.u8()) if v >= 5 else (0, 0)
        s.removed_snaps_queue = decode_pool_intervals(d) if v >= 6 else {}
        s.crush_node_flags = _flags.decode(d) if v >= 8 else {}
        s.device_class_flags = _flags.decode(d) if v >= 9 else {}
        enabled, *rest = d.unpack(_STRETCH) if v >= 10 else (0, 0, 0, 0, 0)
        s.stretch_mode_enabled = bool(enabled)
        s.stretch_bucket_count, s.degraded_stretch_mode, s.recovering_stretch_mode, s.stretch_mode_bucket = rest
        s.range_blocklist_stamps = decode_stamped(d) if v >= 11 else {}
        s.allow_crimson = bool(d.u8()) if v >= 12 else False
        s._blocklist = None
        return s

    def encoding_version(self, features: int) -> int:
        """The section's version for these features, from luminous on."""
        v = 9
        if not have(features, SERVER_MIMIC):
            v = 5
        elif not have(features, SERVER_NAUTILUS):
            v = 6
        if self.stretch_mode_enabled:
            v = max(10, v)
        if self.range_blocklist_stamps:
            v = max(11, v)
        if self.allow_crimson:
            v = max(12, v)
        return v

    def encode(self, e: Encoder, features: int) -> None:
        v = self.encoding_version(features)
        # before version 7 a daemon has one address
        addr_features = features if v >= 7 else features & ~SERVER_NAUTILUS
        mark = e.start(v, 1)
        e.raw(self.hb_back_addrs.encode(addr_features))
        e.raw(self.osd_info.encode(features))
        encode_stamped(e, self.blocklist_stamps, features)
        e.raw(self.cluster_addrs.encode(addr_features))
        e.u32(self.cluster_snapshot_epoch)
        e.string(self.cluster_snapshot)
        e.raw(self.osd_uuid.encode(features))
        e.raw(self.osd_xinfo.encode(features))
        e.raw(self.hb_front_addrs.encode(addr_features))
        e.pack(_RATIOS, self.nearfull_ratio, self.full_ratio, self.backfillfull_ratio)
        e.u8(self.require_min_compat_client)
        e.u8(self.require_osd_release)
        if v >= 6:
            encode_pool_intervals(e, self.removed_snaps_queue)
        if v >= 8:
            _flags.encode(e, self.crush_node_flags)
        if v >= 9:
            _flags.encode(e, self.device_class_flags)
        if v >= 10:
            e.pack(
                _STRETCH,
                self.stretch_mode_enabled,
                self.stretch_bucket_count,
                self.degraded_stretch_mode,
                self.recovering_stretch_mode,
                self.stretch_mode_bucket,
            )
        if v >= 11:
            encode_stamped(e, self.range_blocklist_stamps, features)
        if v >= 12:
            e.u8(self.allow_crimson)
        e.finish(mark)

    def copy(self) -> OsdSection:
        """One that may be changed, field by field, before anybody else sees it."""
        s = OsdSection()
        for name in self.__slots__:
            setattr(s, name, getattr(self, name))
        s._blocklist = None
        return s

    @property
    def blocklist(self) -> Blocklist:
        if self._blocklist is None:
            kind = EntityAddr.TYPE_ANY if self.require_osd_release >= RELEASE_NAUTILUS else EntityAddr.TYPE_LEGACY
            self._blocklist = Blocklist(self.blocklist_stamps, self.range_blocklist_stamps, kind)
        return self._blocklist
