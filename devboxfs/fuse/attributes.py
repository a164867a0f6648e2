"""Nodes as pyfuse3 wants them."""

from __future__ import annotations

import pyfuse3

from devboxfs.core.node import Node
from devboxfs.vfs.ownership import Ownership
from sealos_devbox import FileSystemUsage

__all__ = ["CACHE_SECONDS", "absent", "entry_attributes", "statvfs_data"]

CACHE_SECONDS = 3600.0
"""How long the kernel may keep names, attributes and absence.

Every change of the table is followed by an invalidation.
"""

BLOCK_SIZE = 4096


def entry_attributes(
    node: Node, owners: Ownership, *, cacheable: bool = True
) -> pyfuse3.EntryAttributes:
    """Return the attributes that are shown of a node; `cacheable`: the kernel may keep them."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(node.ino)
    entry.st_mode = pyfuse3.ModeT(node.mode)
    entry.st_nlink = node.nlink
    entry.st_uid = owners.uid(node.uid)
    entry.st_gid = owners.gid(node.gid)
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
