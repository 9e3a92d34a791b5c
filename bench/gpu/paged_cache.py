# SPDX-License-Identifier: Apache-2.0
"""A paged KV cache for the problems: pages in random order, spare pages, and poison wherever the lengths do not reach."""
from __future__ import annotations

from ctypes import Structure

import numpy as np

import cache_formats
from cache_formats import FORMATS
from memory import Array, Memory

_SPARE_PAGES = 3


class PagedCache:
    """Keys, values, page table, lengths and positions of one layer, and scales where the format has them."""

    def __init__(self, memory: Memory, form: str, lengths: np.ndarray, head_dim: int, page_size: int = 64, shared: bool = False, padding: int = 0,
                 fresh: bool = False, layout: str = "rows", bias: bool = False, tail: str = "f16", rotation: int = 0) -> None:
        """lengths [batch, kv_heads]; shared: a page holds all heads; fresh: unused pages beside each table row, for a destination; bias: a logit bias
        a slot; tail: the type of keys whose block is not full; rotation: channels of a Hadamard transform that what is stored has gone through."""
        self.memory, self.form, self.layout, self.lengths = memory, FORMATS[form], layout, lengths
        self.kind, self.head_dim, self.page_size, self.shared, self.rotation = self.form.kind, head_dim, page_size, shared, rotation
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
        gap = padding if layout == "rows" else 0  # the other layouts' pages are dense
        self.keys, self.key_scales = self._pool(True, (pages, heads), gap, positions)
        self.values, self.value_scales = self._pool(False, (pages, heads), gap, positions)
        self.tail = memory.gaussian((batch * kv_heads, cache_formats.BLOCK, head_dim), tail) if self.form.blocks else None
        self.logit_bias = memory.gaussian(positions.shape, "f32") if bias else None
        if self.logit_bias is not None:
            self.logit_bias.poison_where(positions < 0)
        self.positions = memory.array(positions, "i32")
        self.page_table = memory.array(visible, "i32")
        self.device_lengths = memory.array(lengths, "i32")

    @property
    def live_bytes(self) -> int:
        """Bytes of keys and values that the lengths reach, with their scales."""
        return int(int(self.lengths.sum()) * self.form.slot_bytes(self.head_dim))

    def view(self, positions: bool = True) -> Structure:
        """The cache as ops take it."""
        fields: dict[str, object] = {"positions": self.positions.tensor()} if positions else {}
        for name, array in (("key_scales", self.key_scales), ("value_scales", self.value_scales), ("key_tail", self.tail),
                            ("logit_bias", self.logit_bias)):
            if array is not None:
                fields[name] = array.tensor()
        if not self.form.plain:
            fields["key_format"] = fields["value_format"] = self.memory.abi.constants[self.form.constant]
        if self.rotation:
            fields["rotation"] = self.rotation
        if self.layout != "rows":
            fields["layout"] = self.memory.abi.constants[f"STRATA_KV_{self.layout.upper()}"]
        return self.memory.abi.make("strata_kv_cache", keys=self.keys.tensor(), values=self.values.tensor(), page_table=self.page_table.tensor(),
                                    lengths=self.device_lengths.tensor(), **fields)

    def key_rows(self, b: int, h: int) -> np.ndarray:
        """The keys that a head holds, [length, head_dim]."""
        rows = self._rows(self.keys, self.key_scales, True, b, h)
        if self.tail is not None:  # the last block is quantised when it is full
            whole = rows.shape[0] // cache_formats.BLOCK * cache_formats.BLOCK
            rows[whole:] = self.tail.values(b * self.lengths.shape[1] + h)[: rows.shape[0] - whole]
        return rows

    def value_rows(self, b: int, h: int) -> np.ndarray:
        """The values that a head holds, [length, head_dim]."""
        return self._rows(self.values, self.value_scales, False, b, h)

    def bias_of(self, b: int, h: int) -> np.ndarray:
        """The logit biases of a head's slots, [length]."""
        length = int(self.lengths[b, h])
        if self.logit_bias is None:
            return np.zeros(length)
        pages = self.table[b, h, : -(-length // self.page_size)].astype(np.int64)
        return self.logit_bias.values(pages, h if self.shared else 0).reshape(-1)[:length]

    def _pool(self, keys: bool, pages: tuple[int, int], padding: int, positions: np.ndarray) -> tuple[Array, Array | None]:
        """Numbers or codes, with poison in slots that nobody may read, and their scales."""
        shape = (*pages, self.page_size, self.form.width(self.head_dim))
        if self.form.plain:
            pool, scales = self.memory.gaussian(shape, self.kind, padding=padding), None
        else:
            pool = self.memory.codes(shape, self.kind, self.form.mask)
            scales = self.memory.empty(self.form.scale_shape(keys, *pages, self.page_size, self.head_dim), "f16")
            if not self.form.blocks:
                scales.set_uniform((), *self.form.scale)
                scales.poison_where(positions < 0)
            elif keys:
                scales.set_uniform((..., slice(0, self.head_dim)), *self.form.scale)
                scales.set_uniform((..., slice(self.head_dim, None)), *self.form.zero)
            else:
                scales.set_uniform((slice(None), slice(None), slice(0, None, 2)), *self.form.scale)
                scales.set_uniform((slice(None), slice(None), slice(1, None, 2)), *self.form.zero)
        # Where a slot's numbers do not lie together, whole unused pages have to do.
        unused = positions < 0
        pool.poison_where(unused if self.layout == "rows" else unused.all(axis=(1, 2)))
        return pool, scales

    def _rows(self, pool: Array, scales: Array | None, keys: bool, b: int, h: int) -> np.ndarray:
        length = int(self.lengths[b, h])
        pages = self.table[b, h, : -(-length // self.page_size)].astype(np.int64)
        head = h if self.shared else 0
        stored = cache_formats.codes(pool.stored(pages, head), self.form, self.layout, keys)
        return cache_formats.numbers(stored, self.form, None if scales is None else scales.values(pages, head), keys).reshape(-1, self.head_dim)[:length]

    def places(self, table: np.ndarray, b: int, h: int, slots: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
        """Page, head in the page and row of slots under a table."""
        return table[b, h, slots // self.page_size].astype(np.int64), h if self.shared else 0, slots % self.page_size


def lengths(case_lengths: list[int], batch: int, kv_heads: int) -> np.ndarray:
    """Lengths [batch, kv_heads] from one value, or one a KV head (in turn)."""
    return np.resize(np.array(case_lengths, np.int32), (batch, kv_heads))
