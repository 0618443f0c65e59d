"""The API of Ceph's Python module `rbd`, without librbd.

`import pyrbd.rbd as rbd`, or `pyrbd.install_as_ceph()` and then `import rbd`. Names,
arguments and exceptions are those of Ceph's binding (tentacle); what is not there yet, and
what differs, is listed in `docs/compatibility.md`.
"""

# ruff: noqa: I001 - each name is exported

from __future__ import annotations

from ..image.errors import (
    ArgumentOutOfRange as ArgumentOutOfRange,
    ArgumentOutOfRangeException as ArgumentOutOfRangeException,
    ConnectionShutdown as ConnectionShutdown,
    DiskQuotaExceeded as DiskQuotaExceeded,
    Error as Error,
    FunctionNotSupported as FunctionNotSupported,
    ImageBusy as ImageBusy,
    ImageExists as ImageExists,
    ImageHasSnapshots as ImageHasSnapshots,
    ImageMemberOfGroup as ImageMemberOfGroup,
    ImageNotFound as ImageNotFound,
    IncompleteWriteError as IncompleteWriteError,
    InterruptedOrTimeoutError as InterruptedOrTimeoutError,
    InvalidArgument as InvalidArgument,
    IOError as IOError,
    LogicError as LogicError,
    NoSpace as NoSpace,
    ObjectExists as ObjectExists,
    ObjectNotFound as ObjectNotFound,
    OperationCanceled as OperationCanceled,
    OperationNotSupported as OperationNotSupported,
    OSError as OSError,
    PermissionError as PermissionError,
    ReadOnlyImage as ReadOnlyImage,
    Timeout as Timeout,
)
from ..image.io import MismatchError as MismatchError
from .arguments import OnProgress as OnProgress
from .completion import Completion as Completion
from .constants import *  # noqa: F403
from .image import Image as Image
from .iterators import (
    ChildIterator as ChildIterator,
    ConfigImageIterator as ConfigImageIterator,
    ConfigPoolIterator as ConfigPoolIterator,
    ImageIterator as ImageIterator,
    LockOwnerIterator as LockOwnerIterator,
    MetadataIterator as MetadataIterator,
    PoolMetadataIterator as PoolMetadataIterator,
    SnapIterator as SnapIterator,
    TrashIterator as TrashIterator,
    WatcherIterator as WatcherIterator,
)
from .pool import RBD as RBD
from .unsupported import (
    Group as Group,
    GroupImageIterator as GroupImageIterator,
    GroupSnapIterator as GroupSnapIterator,
    MirrorImageInfoIterator as MirrorImageInfoIterator,
    MirrorImageInstanceIdIterator as MirrorImageInstanceIdIterator,
    MirrorImageStatusIterator as MirrorImageStatusIterator,
    MirrorPeerIterator as MirrorPeerIterator,
)
