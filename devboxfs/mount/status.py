"""What a mount says of itself."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from devboxfs.mount.parts import Parts
from devboxfs.way import way
from devboxfs.writeback.conflict_log import Conflict

__all__ = ["MountStatus", "status_of"]

Json = dict[str, Any]

MEASURE = 1.5
"""Seconds that `status` takes to measure local trees: it is given up after five."""


@dataclass(frozen=True, slots=True)
class MountStatus:
    """What `devboxfs status` is told; sizes in bytes, times in seconds."""

    mountpoint: str
    box: str
    box_uid: str
    location: str
    pid: int
    state: str
    state_seconds: float
    read_only: bool
    consistency: str
    pending_operations: int
    pending_bytes: int
    oldest_pending_seconds: float | None
    trouble: str
    refused: list[Json] = field(default_factory=list)
    """What the box does not take for now, while the rest goes on."""
    conflicts: list[Json] = field(default_factory=list)
    link: Json = field(default_factory=dict)
    cache: Json = field(default_factory=dict)
    journal: Json = field(default_factory=dict)
    tree: Json = field(default_factory=dict)
    reader: Json = field(default_factory=dict)
    watchers: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    """What was asked for that changes what is shown; only what is not the default."""
    local_trees: list[Json] = field(default_factory=list)
    """Directories of this box that live on this machine."""
    locks: Json = field(default_factory=dict)
    """Of git: how many were made, how many the box refused, how often one was waited for."""

    def to_json(self) -> Json:
        """Return it as a JSON object."""
        return asdict(self)


async def status_of(parts: Parts) -> MountStatus:
    """Look at everything; raises MountError while the mount is starting."""
    filesystem = parts.require_filesystem()
    figures = parts.writeback.statistics()
    link = parts.link.statistics()
    trouble = filesystem.pending.trouble_errno
    remote = filesystem.remote.statistics()
    trees = await trio.to_thread.run_sync(filesystem.local.store.sizes, MEASURE)
    return MountStatus(
        mountpoint=str(parts.config.mountpoint),
        box=parts.box.name,
        box_uid=parts.box.uid,
        location=parts.box.location,
        pid=os.getpid(),
        state=link.state,
        state_seconds=trio.current_time() - link.since,
        read_only=parts.read_only,
        consistency=parts.config.consistency,
        pending_operations=figures.pending_operations,
        pending_bytes=figures.pending_bytes,
        oldest_pending_seconds=figures.oldest_pending_age,
        trouble=f"the box refuses changes: {os.strerror(trouble)}" if trouble else "",
        refused=[
            {
                "path": os.fsdecode(one.path),
                "errno": errno.errorcode.get(one.errno, str(one.errno)),
                "text": os.strerror(one.errno),
                "seconds": one.age,
                "operations": one.operations,
            }
            for one in parts.writeback.refusals()
        ],
        conflicts=[_conflict(one) for one in parts.writeback.conflict_log.list()],
        link={
            **way(parts.box.rung),
            "connections": link.connections,
            "round_trips": link.round_trips,
            "bytes_sent": link.bytes_sent,
            "bytes_received": link.bytes_received,
            "last_error": link.last_error,
        },
        cache=asdict(parts.cache.statistics()),
        journal={
            "path": str(parts.writeback.path),
            "bytes": figures.journal_bytes,
            "batches_sent": figures.batches_sent,
            "batches_in_flight": figures.batches_in_flight,
            "wire_operations_sent": figures.wire_operations_sent,
            "last_error": figures.last_error or "",
        },
        tree={"nodes": len(filesystem.table.nodes), **asdict(remote)},
        watchers=asdict(parts.notifier.tokens.statistics()),
        reader=asdict(filesystem.reader.statistics()),
        locks=asdict(filesystem.locks.statistics()),
        options=parts.config.presentation,
        local_trees=[
            {
                **asdict(tree),
                "path": os.fsdecode(tree.path),
                "stored_at": str(tree.stored_at.parent),
            }
            for tree in trees
        ],
    )


def _conflict(one: Conflict) -> Json:
    return {**asdict(one), "errno": errno.errorcode.get(one.errno, str(one.errno))}
