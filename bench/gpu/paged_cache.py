# SPDX-License-Identifier: Apache-2.0
"""A paged KV cache for the problems: pages in random order, spare pages, and poison wherever the lengths do not reach."""
from __future__ import annotations

from ctypes import Structure

import numpy as np

import elements
from memory import Array, Memory

_SPARE_PAGES = 3


class PagedCache:
    """Keys, values, page table, lengths and positions of one layer."""

    def __init__(self, memory: Memory, kind: str, lengths: np.ndarray, head_dim: int, page_size: int = 64, shared: bool = False, padding: int = 0,
                 fresh: bool = False, spread: float = 1) -> None:
        """lengths [batch, kv_heads]; shared: a page holds all heads; fresh: unused pages beside each table row, for a destination."""
        self.memory, self.kind, self.lengths = memory, kind, lengths
        self.head_dim, self.page_size, self.shared = head_dim, page_size, shared
        batch, kv_heads = lengths.shape
        self.max_pages = -(-int(lengths.max(initial=0)) // page_size) + 1
        table_rows, columns = (batch if shared else batch * kv_heads), self.max_pages * (2 if fresh else 1)
        pages = table_rows * columns + _SPARE_PAGES
        order = memory.random.permutation(pages)[: table_rows * columns].reshape(table_rows, columns)
        order = np.repeat(order[:, None], kv_heads, 1) if shared else order.reshape(batch, kv_heads, columns)
        self.table = order[:, :, : self.max_pages].astype(np.int32)
        self.fresh_table = order[:, :, self.max_pages :].astype(np.int32)

        heads = kv_heads if shared else 1
        positions = np.full((pages, heads, page_size), -1, np.int32)
        visible = self.table.copy()
        for b, h in np.ndindex(batch, kv_heads):
            used = -(-int(lengths[b, h]) // page_size)
            slots = np.arange(used * page_size, dtype=np.int32)
            positions[self.table[b, h, :used], h if shared else 0] = np.where(slots < lengths[b, h], slots, -1).reshape(used, page_size)
            visible[b, h, used:] = -1
        self.keys = memory.gaussian((pages, heads, page_size, head_dim), kind, spread, padding)
        self.values = memory.gaussian((pages, heads, page_size, head_dim), kind, 1, padding)
        for pool in (self.keys, self.values):
            pool.poison_where(positions < 0)
        self.host_positions = positions
        self.positions = memory.array(positions, "i32")
        self.page_table = memory.array(visible, "i32")
        self.device_lengths = memory.array(lengths, "i32")

    @property
    def live_bytes(self) -> int:
        """Bytes of keys (or values) that the lengths reach."""
        return int(self.lengths.sum()) * self.head_dim * elements.size(self.kind)

    def view(self, positions: bool = True) -> Structure:
        """The cache as ops take it."""
        present = {"positions": self.positions.tensor()} if positions else {}
        return self.memory.abi.make("strata_kv_cache", keys=self.keys.tensor(), values=self.values.tensor(), page_table=self.page_table.tensor(),
                                    lengths=self.device_lengths.tensor(), **present)

    def rows(self, pool: Array, b: int, h: int) -> np.ndarray:
        """What a head holds, [length, head_dim]."""
        length = int(self.lengths[b, h])
        pages = self.table[b, h, : -(-length // self.page_size)].astype(np.int64)
        return pool.values(pages, h if self.shared else 0).reshape(-1, self.head_dim)[:length]

    def places(self, table: np.ndarray, b: int, h: int, slots: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
        """Page, head in the page and row of slots under a table."""
        return table[b, h, slots // self.page_size].astype(np.int64), h if self.shared else 0, slots % self.page_size


def lengths(case_lengths: list[int], batch: int, kv_heads: int) -> np.ndarray:
    """Lengths [batch, kv_heads] from one value, or one a KV head (in turn)."""
    return np.resize(np.array(case_lengths, np.int32), (batch, kv_heads))
