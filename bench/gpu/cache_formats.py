# SPDX-License-Identifier: Apache-2.0
"""How a KV cache stores numbers: formats (codes and scales) and layouts (their order in a page), as strata_kv_format and strata_kv_layout say.

Caches are made as random codes and scales, not by quantising: every code is then as likely as any other, and the kernel that reads them is what is asked."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import elements
from strata_abi import Abi

BLOCK = 32


@dataclass(frozen=True)
class Format:
    """A strata_kv_format. Plain ones hold numbers of `kind`; the others codes of `kind`, `mask` being the bits of a byte that may be set."""

    name: str
    kind: str
    constant: str = "STRATA_KV_PLAIN"
    per_byte: int = 1
    blocks: bool = False
    mask: int = 0xFF
    scale: tuple[float, float] = (0.0, 0.0)
    zero: tuple[float, float] = (0.0, 0.0)

    @property
    def plain(self) -> bool:
        return self.constant == "STRATA_KV_PLAIN"

    def width(self, head_dim: int) -> int:
        """Elements of a stored row."""
        return head_dim // self.per_byte

    def scale_shape(self, keys: bool, pages: int, heads: int, page_size: int, head_dim: int) -> tuple[int, ...]:
        if not self.blocks:
            return (pages, heads, page_size)
        return (pages, heads, page_size // BLOCK, 2 * head_dim) if keys else (pages, heads, 2 * groups(head_dim), page_size)

    def slot_bytes(self, head_dim: int) -> float:
        """Bytes that a slot of keys and values takes, scales included."""
        codes = 2 * self.width(head_dim) * elements.size(self.kind)
        return codes + (0 if self.plain else 4 if not self.blocks else 4 * head_dim / BLOCK + 4 * groups(head_dim))

    def missing(self, abi: Abi) -> str:
        """"" if the ABI record knows the format, else a sentence."""
        if self.plain or (self.constant in abi.constants and abi.has("strata_kv_cache", "key_format")):
            return ""
        return f"kv_cache: the ABI record has no {self.constant}, must have to store {self.name}; use a library that has it"


FORMATS = {form.name: form for form in (
    Format("f32", "f32"), Format("f16", "f16"), Format("bf16", "bf16"),
    Format("i8", "i8", "STRATA_KV_I8", scale=(0.008, 0.014)),
    # Without the highest exponent bit, numbers stay below 2 and none is NaN.
    Format("f8", "f8e4m3", "STRATA_KV_F8", mask=0xBF, scale=(0.7, 1.3)),
    Format("i8_block", "u8", "STRATA_KV_I8_BLOCK", blocks=True, scale=(0.008, 0.014), zero=(-1.6, -1.2)),
    Format("i4_block", "u8", "STRATA_KV_I4_BLOCK", per_byte=2, blocks=True, scale=(0.14, 0.22), zero=(-1.6, -1.2)),
)}


def groups(head_dim: int) -> int:
    return -(-head_dim // BLOCK)


def codes(raw: np.ndarray, form: Format, layout: str, keys: bool) -> np.ndarray:
    """Stored pages [n, page_size, width] as codes or stored numbers [n, page_size, head_dim], slot after slot."""
    n, page_size, width = raw.shape
    head_dim = width * form.per_byte
    if layout == "rows":
        return raw
    if n == 0:
        return np.zeros((0, page_size, head_dim), raw.dtype)
    if layout == "swizzled":  # [d / 64][page_size][64]; chunk c of 8 numbers of slot r lies at c ^ (r & 7)
        chunks = raw.reshape(n, head_dim // 64, page_size, 8, 8)
        place = np.arange(8)[None, :] ^ (np.arange(page_size) & 7)[:, None]
        found = np.take_along_axis(chunks, place[None, None, :, :, None], axis=3)
        return found.transpose(0, 2, 1, 3, 4).reshape(n, page_size, head_dim)
    neighbours = 8 if form.per_byte == 2 else 4 // raw.itemsize
    if form.per_byte == 2:  # byte i of a word holds neighbour i low and neighbour i + 4 high
        words = raw.reshape(n, -1, 4)
        split = np.concatenate([words & 15, words >> 4], axis=2)
    else:
        split = raw.reshape(n, -1, neighbours)
    if keys:  # words [page_size / 16][d / E][16 slots], a word = E channels of a slot
        tiles = split.reshape(n, page_size // 16, head_dim // neighbours, 16, neighbours)
        return tiles.transpose(0, 1, 3, 2, 4).reshape(n, page_size, head_dim)
    tiles = split.reshape(n, page_size // neighbours, head_dim, neighbours)  # words [page_size / E][d], a word = E slots of a channel
    return tiles.transpose(0, 1, 3, 2).reshape(n, page_size, head_dim)


def numbers(stored: np.ndarray, form: Format, scales: np.ndarray | None, keys: bool) -> np.ndarray:
    """Values [n, page_size, head_dim] of codes or stored numbers."""
    values = elements.decode(stored, form.kind)
    if scales is None:
        return values
    if not form.blocks:
        return values * scales[..., None]
    head_dim, page_size = stored.shape[2], stored.shape[1]
    if keys:  # scales [n, page_size / 32, 2 d]: scales, then zeros
        of_slot = np.repeat(scales, BLOCK, axis=1)
        return values * of_slot[..., :head_dim] + of_slot[..., head_dim:]
    pairs = scales.reshape(scales.shape[0], scales.shape[1] // 2, 2, page_size)  # row 2g scale, row 2g + 1 zero of group g
    of_channel = np.repeat(pairs, BLOCK, axis=1)[:, :head_dim].transpose(0, 3, 1, 2)
    return values * of_channel[..., 0] + of_channel[..., 1]
