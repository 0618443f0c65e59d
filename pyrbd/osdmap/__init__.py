"""Placement: object name -> placement group -> OSDs. Pure functions of a map, no I/O."""

from .incremental import Incremental
from .osdmap import OSDMap
from .pool import PgPool

__all__ = ["Incremental", "OSDMap", "PgPool"]
