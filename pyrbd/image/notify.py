"""What clients of an image tell each other through its header object
(`src/librbd/WatchNotifyTypes.h`): a NotifyMessage to all watchers, a ResponseMessage as the
acknowledgement of the one that owns the exclusive lock."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ..denc import Decoder, Encoder, Since, Struct, WireType, boolean, s32, string, u32, u64
from ..errors import DecodeError
from .cls_rbd import SNAP_NAMESPACE_USER, SnapNamespace

ACQUIRED_LOCK = 0
RELEASED_LOCK = 1
REQUEST_LOCK = 2
HEADER_UPDATE = 3
ASYNC_PROGRESS = 4
ASYNC_COMPLETE = 5
FLATTEN = 6
RESIZE = 7
SNAP_CREATE = 8
SNAP_REMOVE = 9
REBUILD_OBJECT_MAP = 10
SNAP_RENAME = 11
SNAP_PROTECT = 12
SNAP_UNPROTECT = 13
RENAME = 14
UPDATE_FEATURES = 15
MIGRATE = 16
SPARSIFY = 17
QUIESCE = 18
UNQUIESCE = 19
METADATA_UPDATE = 20

NOTIFY_TIMEOUT_MS = 5000
"""How long watchers have to answer (`src/librbd/watcher/Notifier.cc`)."""
_VERSION = 7
_COMPAT = 1


class ClientId(Struct):
    """watcher::ClientId: an open image of a client, by the client's global id and the cookie of its watch."""

    gid: u64 = 0
    handle: u64 = 0

    def __bool__(self) -> bool:
        return self.gid != 0 or self.handle != 0

    def __str__(self) -> str:
        return f"[{self.gid},{self.handle}]"


class AsyncRequestId(Struct):
    """Names a request to the owner of the lock; all zeroes where there is none."""

    client_id: ClientId = ClientId()
    request_id: u64 = 0

    def __bool__(self) -> bool:
        return bool(self.client_id) or self.request_id != 0


class OptionalString(WireType):
    """std::optional<std::string>."""

    min_size = 1

    def decode(self, d: Decoder) -> "str | None":
        return d.string() if d.u8() else None

    def encode(self, e: Encoder, v: "str | None") -> None:
        e.u8(v is not None)
        if v is not None:
            e.string(v)


_NO_REQUEST = AsyncRequestId()
_USER = SnapNamespace(SNAP_NAMESPACE_USER)


class Payload(Struct):
    """What a NotifyMessage says. `Since` in a field is the version of the message that brought it."""

    op: ClassVar[int] = -1


class AcquiredLock(Payload):
    """Somebody got the exclusive lock."""

    op = ACQUIRED_LOCK
    client_id: Annotated[ClientId, Since(2)] = ClientId()


class ReleasedLock(Payload):
    """Somebody gave the exclusive lock up."""

    op = RELEASED_LOCK
    client_id: Annotated[ClientId, Since(2)] = ClientId()


class RequestLock(Payload):
    """Asks the owner to give the exclusive lock up."""

    op = REQUEST_LOCK
    client_id: Annotated[ClientId, Since(2)] = ClientId()
    force: Annotated[boolean, Since(3)] = False


class HeaderUpdate(Payload):
    """The header has changed. A notification without a payload says the same."""

    op = HEADER_UPDATE


class AsyncProgress(Payload):
    """How far the owner of the lock is with a request."""

    op = ASYNC_PROGRESS
    async_request_id: AsyncRequestId
    offset: u64
    total: u64


class AsyncComplete(Payload):
    """The owner of the lock has finished a request: 0 or a negative errno."""

    op = ASYNC_COMPLETE
    async_request_id: AsyncRequestId
    result: s32


class Request(Payload):
    """A request to the owner of the lock."""

    if TYPE_CHECKING:

        @property
        def async_request_id(self) -> AsyncRequestId: ...


class Flatten(Request):
    op = FLATTEN
    async_request_id: AsyncRequestId = _NO_REQUEST


class Resize(Request):
    op = RESIZE
    size: u64
    async_request_id: AsyncRequestId = _NO_REQUEST
    allow_shrink: Annotated[boolean, Since(4)] = True


class SnapCreate(Request):
    op = SNAP_CREATE
    snap_name: string
    snap_namespace: Annotated[SnapNamespace, Since(5)] = _USER
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST
    flags: Annotated[u64, Since(7)] = 0


class SnapRemove(Request):
    op = SNAP_REMOVE
    snap_name: string
    snap_namespace: Annotated[SnapNamespace, Since(6)] = _USER
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class SnapRename(Request):
    """`snap_name` is the new name."""

    op = SNAP_RENAME
    snap_id: u64
    snap_name: string
    snap_namespace: Annotated[SnapNamespace, Since(6)] = _USER
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class SnapProtect(Request):
    op = SNAP_PROTECT
    snap_name: string
    snap_namespace: Annotated[SnapNamespace, Since(6)] = _USER
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class SnapUnprotect(Request):
    op = SNAP_UNPROTECT
    snap_name: string
    snap_namespace: Annotated[SnapNamespace, Since(6)] = _USER
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class RebuildObjectMap(Request):
    op = REBUILD_OBJECT_MAP
    async_request_id: AsyncRequestId = _NO_REQUEST


class Rename(Request):
    op = RENAME
    image_name: string
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class UpdateFeatures(Request):
    op = UPDATE_FEATURES
    features: u64
    enabled: boolean
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class Migrate(Request):
    op = MIGRATE
    async_request_id: AsyncRequestId = _NO_REQUEST


class Sparsify(Request):
    op = SPARSIFY
    async_request_id: AsyncRequestId = _NO_REQUEST
    sparse_size: u64 = 0


class MetadataUpdate(Request):
    """Sets a key of the image's metadata, or removes it: `value` None."""

    op = METADATA_UPDATE
    key: string
    value: Annotated["str | None", OptionalString()]
    async_request_id: Annotated[AsyncRequestId, Since(7)] = _NO_REQUEST


class Quiesce(Payload):
    """Asks all who have the image open to come to rest before a snapshot."""

    op = QUIESCE
    async_request_id: AsyncRequestId


class Unquiesce(Payload):
    op = UNQUIESCE
    async_request_id: AsyncRequestId


class Unknown(Payload):
    """A message of a newer client."""

    number: u32


PAYLOADS: dict[int, type[Payload]] = {
    cls.op: cls
    for cls in (
        AcquiredLock,
        ReleasedLock,
        RequestLock,
        HeaderUpdate,
        AsyncProgress,
        AsyncComplete,
        Flatten,
        Resize,
        SnapCreate,
        SnapRemove,
        RebuildObjectMap,
        SnapRename,
        SnapProtect,
        SnapUnprotect,
        Rename,
        UpdateFeatures,
        Migrate,
        Sparsify,
        Quiesce,
        Unquiesce,
        MetadataUpdate,
    )
}


def encode_message(payload: Payload) -> bytes:
    """NotifyMessage with this payload."""
    e = Encoder()
    mark = e.start(_VERSION, _COMPAT)
    e.u32(payload.op)
    for f in payload.wire_fields:
        f.type.encode(e, getattr(payload, f.name))
    e.finish(mark)
    return bytes(e.buf)


def decode_message(data: bytes) -> Payload:
    """The payload of a NotifyMessage of any version.

    Raises:
        DecodeError.
    """
    if not data:
        return HeaderUpdate()
    version, body = Decoder(data).envelope(_COMPAT, "NotifyMessage")
    number = body.u32()
    cls = PAYLOADS.get(number)
    if cls is None:
        return Unknown(number)
    values: dict[str, Any] = {f.name: f.type.decode(body) for f in cls.wire_fields if f.since <= version}
    try:
        return cls(**values)
    except TypeError as e:  # a field without a default that this version does not have
        raise DecodeError(f"NotifyMessage version {version}, op {number}: {e}") from None


class ResponseMessage(Struct, version=1, compat=1):
    """The lock owner's answer: 0 or a negative errno."""

    result: s32
