"""Blocks of contents in memory, in the order of their use."""

from __future__ import annotations

from collections import OrderedDict

from devboxfs.core.chunks import ContentKey, block_count

__all__ = ["BlockId", "BlockPool"]

BlockId = tuple[ContentKey, int]


class BlockPool:
    """Blocks in memory, the least recently used first to go."""

    def __init__(self) -> None:
        self.bytes = 0
        self.items: OrderedDict[BlockId, bytes] = OrderedDict()
        self.counts: dict[ContentKey, int] = {}

    def add(self, block: BlockId, data: bytes) -> None:
        """Take a block in, as the one used last."""
        if block in self.items:
            self.items.move_to_end(block)
            return
        self.items[block] = data
        self.bytes += len(data)
        self.counts[block[0]] = self.counts.get(block[0], 0) + 1

    def discard(self, block: BlockId) -> None:
        """Drop a block, if it is there."""
        data = self.items.pop(block, None)
        if data is not None:
            self._gone(block, data)

    def pop_oldest(self) -> tuple[BlockId, bytes]:
        """Drop the block that was used first."""
        block, data = self.items.popitem(last=False)
        self._gone(block, data)
        return block, data

    def discard_content(self, key: ContentKey) -> None:
        """Drop all blocks of a content."""
        if key in self.counts:
            for number in range(block_count(key.size)):
                self.discard((key, number))

    def _gone(self, block: BlockId, data: bytes) -> None:
        self.bytes -= len(data)
        left = self.counts[block[0]] - 1
        if left:
            self.counts[block[0]] = left
        else:
            del self.counts[block[0]]
