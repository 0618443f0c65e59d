"""Placement: object name -> placement group -> OSDs. Pure functions of a map, no I/O."""

from .osdmap import Incremental, OSDMap
from .pool import PgPool

__all__ = ["Incremental", "OSDMap", "PgPool"]
