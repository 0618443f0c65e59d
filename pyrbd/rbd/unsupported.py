"""The part of Ceph's module that pyrbd does not have: consistency groups, mirroring, live migration
and encryption. Its names are there, and refuse by name, so that programs which import or look for
them say what is missing."""

from __future__ import annotations

import errno
from typing import Any, NoReturn

from ..image.errors import FunctionNotSupported

_GROUPS = "consistency groups"
_MIRRORING = "mirroring"
_MIGRATION = "live migration"
_ENCRYPTION = "encryption"

RBD_METHODS = {
    _GROUPS: ("group_create", "group_remove", "group_list", "group_rename"),
    _MIGRATION: (
        "migration_prepare",
        "migration_prepare_import",
        "migration_execute",
        "migration_commit",
        "migration_abort",
        "migration_status",
    ),
    _MIRRORING: (
        "mirror_site_name_get",
        "mirror_site_name_set",
        "mirror_mode_get",
        "mirror_mode_set",
        "mirror_remote_namespace_get",
        "mirror_remote_namespace_set",
        "mirror_uuid_get",
        "mirror_peer_bootstrap_create",
        "mirror_peer_bootstrap_import",
        "mirror_peer_add",
        "mirror_peer_remove",
        "mirror_peer_list",
        "mirror_peer_set_client",
        "mirror_peer_set_name",
        "mirror_peer_set_cluster",
        "mirror_peer_get_attributes",
        "mirror_peer_set_attributes",
        "mirror_image_status_list",
        "mirror_image_status_summary",
        "mirror_image_instance_id_list",
        "mirror_image_info_list",
    ),
}
IMAGE_METHODS = {
    _MIGRATION: ("migration_source_spec",),
    _ENCRYPTION: ("encryption_format", "encryption_load", "encryption_load2"),
    _MIRRORING: (
        "mirror_image_enable",
        "mirror_image_disable",
        "mirror_image_promote",
        "mirror_image_demote",
        "mirror_image_resync",
        "mirror_image_create_snapshot",
        "aio_mirror_image_create_snapshot",
        "mirror_image_get_info",
        "aio_mirror_image_get_info",
        "mirror_image_get_mode",
        "aio_mirror_image_get_mode",
        "mirror_image_get_status",
        "mirror_image_get_instance_id",
    ),
}


def _refusing(name: str, subject: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise FunctionNotSupported(f"{name}: pyrbd does not have {subject} yet", errno.ENOSYS)

    method.__name__ = name
    method.__qualname__ = name
    method.__doc__ = f"Raises FunctionNotSupported: pyrbd does not have {subject} yet."
    return method


def refuse(cls: type, methods: dict[str, tuple[str, ...]]) -> None:
    """Gives a class methods that say that they are not supported."""
    for subject, names in methods.items():
        for name in names:
            setattr(cls, name, _refusing(name, subject))


class Unsupported:
    """Raises FunctionNotSupported when it is made."""

    _subject = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        raise FunctionNotSupported(f"{name}: pyrbd does not have {self._subject} yet", errno.ENOSYS)


class Group(Unsupported):
    """A consistency group of images."""

    _subject = _GROUPS


class GroupImageIterator(Unsupported):
    """The images of a group."""

    _subject = _GROUPS


class GroupSnapIterator(Unsupported):
    """The snapshots of a group."""

    _subject = _GROUPS


class MirrorPeerIterator(Unsupported):
    """The peers of a mirrored pool."""

    _subject = _MIRRORING


class MirrorImageStatusIterator(Unsupported):
    """The state of mirrored images."""

    _subject = _MIRRORING


class MirrorImageInstanceIdIterator(Unsupported):
    """Which rbd-mirror daemon has which image."""

    _subject = _MIRRORING


class MirrorImageInfoIterator(Unsupported):
    """How images are mirrored."""

    _subject = _MIRRORING
