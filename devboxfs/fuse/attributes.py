"""Nodes as pyfuse3 wants them."""

from __future__ import annotations

import os

import pyfuse3

from devboxfs.core.node import Node
from devboxfs.vfs.presentation import Presentation
from sealos_devbox import FileSystemUsage

__all__ = ["CACHE_SECONDS", "absent", "entry_attributes", "local_attributes", "statvfs_data"]

CACHE_SECONDS = 3600.0
"""How long the kernel may keep names, attributes and absence.

Every change of the table is followed by an invalidation.
"""

LOCAL_CACHE_SECONDS = 1.0
"""The same for local trees, which another mount of the same box may change."""

BLOCK_SIZE = 4096


def entry_attributes(
    node: Node, owners: Presentation, *, cacheable: bool = True
) -> pyfuse3.EntryAttributes:
    """Return the attributes that are shown of a node; `cacheable`: the kernel may keep them."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(node.ino)
    entry.st_mode = pyfuse3.ModeT(owners.show_mode(node.mode))
    entry.st_nlink = node.nlink
    entry.st_uid = owners.show_uid(node.uid)
    entry.st_gid = owners.show_gid(node.gid)
    entry.st_rdev = node.rdev
    entry.st_size = node.size
    entry.st_blksize = BLOCK_SIZE
    box = node.box
    if box is not None and box.size == node.size and node.content is None:
        entry.st_blocks = box.blocks
    else:
        # What was written into a hole must not be taken for one: tar --sparse goes by this.
        entry.st_blocks = (node.size + 511) // 512
    entry.st_atime_ns = node.atime_ns
    entry.st_mtime_ns = node.mtime_ns
    entry.st_ctime_ns = node.ctime_ns
    entry.attr_timeout = entry.entry_timeout = CACHE_SECONDS if cacheable else 0
    if owners.links is not None and node.target is not None:
        shown = owners.target(node)
        if shown is not None and shown is not node.target:
            entry.st_size = len(shown)
            entry.attr_timeout = 0  # another one where a directory above it is moved
    return entry


def local_attributes(
    ino: int, info: os.stat_result, owners: Presentation
) -> pyfuse3.EntryAttributes:
    """Return the attributes that are shown of an object of this machine."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(ino)
    entry.st_mode = pyfuse3.ModeT(owners.show_mode(info.st_mode))
    entry.st_nlink = info.st_nlink
    entry.st_uid = info.st_uid if owners.shown_uid is None else owners.shown_uid
    entry.st_gid = info.st_gid if owners.shown_gid is None else owners.shown_gid
    entry.st_rdev = info.st_rdev
    entry.st_size = info.st_size
    entry.st_blksize = info.st_blksize
    entry.st_blocks = info.st_blocks
    entry.st_atime_ns = info.st_atime_ns
    entry.st_mtime_ns = info.st_mtime_ns
    entry.st_ctime_ns = info.st_ctime_ns
    entry.attr_timeout = entry.entry_timeout = LOCAL_CACHE_SECONDS
    return entry


def absent(*, cacheable: bool) -> pyfuse3.EntryAttributes:
    """Return the answer `no such name`; `cacheable` when absence is known for sure."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = CACHE_SECONDS if cacheable else 0
    return entry


def statvfs_data(usage: FileSystemUsage) -> pyfuse3.StatvfsData:
    """Return the box's figures."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = usage.bsize
    data.f_frsize = usage.frsize
    data.f_blocks = usage.blocks
    data.f_bfree = usage.bfree
    data.f_bavail = usage.bavail
    data.f_files = usage.files
    data.f_ffree = usage.ffree
    data.f_favail = usage.favail
    data.f_namemax = usage.namemax
    return data
