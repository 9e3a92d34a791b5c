# SPDX-License-Identifier: Apache-2.0
"""Weight matrices in their file formats: random blocks, their exact values, and the library's packed form."""
from __future__ import annotations

import ctypes
from ctypes import Structure

import numpy as np

from device import Library
from memory import Array, Memory

# Columns and bytes of a block, by format. I4 keeps its scales in a table of their own.
_BLOCKS = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q4_0": (32, 18), "q4_1": (32, 20), "q8_0": (32, 34), "q4_k": (256, 144),
           "q6_k": (256, 210), "i4": (2, 1)}


class Weight:
    """W [n, k] on the host, as a model file stores it."""

    def __init__(self, random: np.random.Generator, form: str, n: int, k: int, group: int = 0) -> None:
        self.form, self.n, self.k, self.group = form, n, k, group
        columns, size = _BLOCKS[form]
        self.blocks = random.integers(0, 256, (n, k // columns, size), np.uint8)
        self.scales = np.zeros((n, 0), np.float16)
        # Values of about 1 / sqrt(k), as trained weights have.
        spread = 1 / np.sqrt(k)

        def halves(size_of: float, at: int) -> None:
            values = size_of * random.uniform(0.5, 1.5, self.blocks.shape[:2]) * random.choice([-1.0, 1.0], self.blocks.shape[:2])
            self.blocks[:, :, at : at + 2] = values.astype(np.float16)[..., None].view(np.uint8)

        if form in ("f32", "f16", "bf16"):
            plain = random.uniform(-spread, spread, (n, k)).astype(np.float32)
            stored = {"f32": plain, "f16": plain.astype(np.float16), "bf16": (plain.view(np.uint32) >> 16).astype(np.uint16)}[form]
            self.blocks = stored[..., None].view(np.uint8)
        elif form == "i4":
            self.scales = (random.uniform(0.1, 0.3, (n, k // group)) * random.choice([-1.0, 1.0], (n, k // group)) * spread).astype(np.float16)
        elif form == "q4_0":
            halves(spread / 5, 0)
        elif form == "q4_1":
            halves(spread / 5, 0)
            halves(spread, 2)
        elif form == "q8_0":
            halves(spread / 74, 0)
        elif form == "q4_k":
            halves(spread / 160, 0)
            halves(spread / 24, 2)
        else:
            halves(spread / 1400, 208)

    def rows(self, picked: np.ndarray) -> np.ndarray:
        """The exact values of some rows."""
        blocks = self.blocks[picked]

        def half(at: int) -> np.ndarray:
            return np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16).astype(np.float64)

        def nibbles(codes: np.ndarray, run: int) -> np.ndarray:
            """Each run of bytes holds the first columns in its low nibbles, the next in its high ones."""
            runs = codes.reshape(*codes.shape[:2], -1, run)
            return np.stack([runs & 15, runs >> 4], axis=3).reshape(*codes.shape[:2], -1).astype(np.float64)

        if self.form in ("f32", "f16", "bf16"):
            stored = np.ascontiguousarray(blocks)
            if self.form == "bf16":
                values = (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
            else:
                values = stored.view(np.float32 if self.form == "f32" else np.float16).astype(np.float64)
        elif self.form == "i4":
            codes = np.stack([blocks[..., 0] & 15, blocks[..., 0] >> 4], axis=2).reshape(picked.size, -1).astype(np.float64)
            values = np.repeat(self.scales[picked].astype(np.float64), self.group, axis=1) * (codes - 8)
        elif self.form == "q4_0":
            values = half(0) * (nibbles(blocks[:, :, 2:], 16) - 8)
        elif self.form == "q4_1":
            values = half(0) * nibbles(blocks[:, :, 4:], 16) + half(2)
        elif self.form == "q8_0":
            values = half(0) * blocks[:, :, 2:].view(np.int8).astype(np.float64)
        elif self.form == "q4_k":
            low, high, mixed = (blocks[:, :, at : at + 4].astype(np.int64) for at in (4, 8, 12))
            scale = np.concatenate([low & 63, (mixed & 15) | (low >> 6 << 4)], axis=2)
            minimum = np.concatenate([high & 63, (mixed >> 4) | (high >> 6 << 4)], axis=2)
            values = half(0) * np.repeat(scale, 32, axis=2) * nibbles(blocks[:, :, 16:], 32) - half(2) * np.repeat(minimum, 32, axis=2)
        else:
            values = self._six_bits(blocks, half(208))
        return values.reshape(picked.size, self.k)

    @staticmethod
    def _six_bits(blocks: np.ndarray, d: np.ndarray) -> np.ndarray:
        column = np.arange(256)
        part, quarter, at = column // 128, column // 32 % 4, column % 32
        low = blocks[:, :, 64 * part + 32 * (quarter % 2) + at] >> (4 * (quarter // 2)).astype(np.uint8) & 15
        high = blocks[:, :, 128 + 32 * part + at] >> (2 * quarter).astype(np.uint8) & 3
        scale = np.repeat(blocks[:, :, 192:208].view(np.int8), 16, axis=2).astype(np.float64)
        return d * scale * ((low | high << 4).astype(np.float64) - 32)

    def pack(self, library: Library) -> np.ndarray:
        """The library's packed bytes, in host memory."""
        abi = library.abi
        source = abi.make("strata_weight_source", format=abi.constants[f"STRATA_FORMAT_{self.form.upper()}"], n=self.n, k=self.k, group=self.group,
                          data=self.blocks.ctypes.data, data_bytes=self.blocks.nbytes)
        if self.form == "i4":
            source.scales, source.scales_bytes = self.scales.ctypes.data, self.scales.nbytes
        return packed(library, "weight", source)


def packed(library: Library, family: str, source: Structure) -> np.ndarray:
    """What strata_<family>_pack writes, at a 64-byte boundary."""
    size = ctypes.c_size_t()
    library.call(f"strata_{family}_packed_bytes", ctypes.addressof(source), ctypes.addressof(size))
    base = np.zeros(size.value + 64, np.uint8)
    start = -base.ctypes.data % 64
    view = library.abi.make({"weight": "strata_weight", "bitstack": "strata_bitstack_level"}[family])
    library.call(f"strata_{family}_pack", ctypes.addressof(source), base.ctypes.data + start, size.value, ctypes.addressof(view))
    return base[start : start + size.value]


class DeviceWeight:
    """Packed bytes on a device, and how an op names them."""

    def __init__(self, memory: Memory, family: str, host: np.ndarray) -> None:
        self.array: Array = memory.raw(host)
        self.view = memory.abi.make({"weight": "strata_weight", "bitstack": "strata_bitstack_level"}[family])
        memory.device.library.call(f"strata_{family}_open", host.ctypes.data, host.nbytes, ctypes.addressof(self.view))
        self.view.data = self.array.address
