"""Python SDK for Sealos Devbox: boxes, their files, and commands in them.

`Devbox` is the synchronous client, `AsyncDevbox` the asynchronous one, for asyncio and trio alike.
What is public is named in `__all__`; modules that begin with an underscore are not.
"""

from sealos_devbox._async.box import AsyncBox
from sealos_devbox._async.client import AsyncDevbox
from sealos_devbox._async.files import AsyncFiles
from sealos_devbox._async.process import AsyncProcess, Command
from sealos_devbox._async.transfer import Source
from sealos_devbox._async.values import (
    CommandFailedError,
    CommandResult,
    CommandTimeoutError,
    FileInfo,
    FileType,
    TransferResult,
    WatchEvent,
    WatchKind,
)
from sealos_devbox._async.watch import AsyncWatch
from sealos_devbox._sync.box import Box
from sealos_devbox._sync.client import Devbox
from sealos_devbox._sync.files import Files
from sealos_devbox._sync.process import Process
from sealos_devbox._sync.watch import Watch
from sealos_devbox._transport.base import ByteChannel, CommandStream, FileTransport, RecordStream
from sealos_devbox._version import __version__
from sealos_devbox.batch import (
    ABSENT,
    ANY,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Batch,
    ContentMember,
    Precondition,
    as_left_by,
    is_inode,
    is_version,
)
from sealos_devbox.config import DevboxConfig
from sealos_devbox.errors import (
    BoxFileError,
    BoxFileExistsError,
    BoxFileNotFoundError,
    BoxIsADirectoryError,
    BoxNotADirectoryError,
    BoxNotFoundError,
    BoxPermissionError,
    CapabilityError,
    CommandNotFoundError,
    ConflictError,
    ConnectError,
    DeadlineExceededError,
    DevboxError,
    ProtocolError,
    TransportError,
    file_error,
)
from sealos_devbox.paths import BoxPath
from sealos_devbox.server.store import BoxExistsError
from sealos_devbox.types import (
    ApplyResult,
    Attributes,
    BytesContent,
    Content,
    DirectoryRecord,
    Event,
    FileSystemUsage,
    ManyRecord,
    Outcome,
    PeerInfo,
    Version,
)

__all__ = [
    "ABSENT",
    "ANY",
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "ApplyResult",
    "AsyncBox",
    "AsyncDevbox",
    "AsyncFiles",
    "AsyncProcess",
    "AsyncWatch",
    "Attributes",
    "Batch",
    "Box",
    "BoxExistsError",
    "BoxFileError",
    "BoxFileExistsError",
    "BoxFileNotFoundError",
    "BoxIsADirectoryError",
    "BoxNotADirectoryError",
    "BoxNotFoundError",
    "BoxPath",
    "BoxPermissionError",
    "ByteChannel",
    "BytesContent",
    "CapabilityError",
    "Command",
    "CommandFailedError",
    "CommandNotFoundError",
    "CommandResult",
    "CommandStream",
    "CommandTimeoutError",
    "ConflictError",
    "ConnectError",
    "Content",
    "ContentMember",
    "DeadlineExceededError",
    "Devbox",
    "DevboxConfig",
    "DevboxError",
    "DirectoryRecord",
    "Event",
    "FileInfo",
    "FileSystemUsage",
    "FileTransport",
    "FileType",
    "Files",
    "ManyRecord",
    "Outcome",
    "PeerInfo",
    "Precondition",
    "Process",
    "ProtocolError",
    "RecordStream",
    "Source",
    "TransferResult",
    "TransportError",
    "Version",
    "Watch",
    "WatchEvent",
    "WatchKind",
    "__version__",
    "as_left_by",
    "file_error",
    "is_inode",
    "is_version",
]
