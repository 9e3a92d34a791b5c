# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding in float64, for rope and kv_append."""
from __future__ import annotations

from ctypes import Structure

import numpy as np

from cases import Case
from strata_abi import Abi


class Rotation:
    """Pair i of `dims` channels turns by position * scale * base^(-2i/dims)."""

    def __init__(self, mode: str, dims: int, base: float, scale: float) -> None:
        self.mode, self.dims, self.base, self.scale = mode, dims, base, scale

    @staticmethod
    def of(case: Case, key: str, missing: str) -> "Rotation":
        return Rotation(case.text(key, missing), case.int("dims", 0), case.float("base", 0), case.float("scale", 0))

    def parameters(self, abi: Abi) -> Structure:
        mode = abi.constants[f"STRATA_ROPE_{self.mode.upper()}"]
        return abi.make("strata_rope_params", mode=mode, dims=self.dims, base=self.base, frequency_scale=self.scale)

    def turn(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """x [tokens, heads, head_dim] turned by the tokens' positions."""
        if self.mode == "none":
            return x
        dims = self.dims or x.shape[2]
        # The base and the scale reach the library as floats.
        base, scale = float(np.float32(self.base or 10000)), float(np.float32(self.scale or 1))
        pair = np.arange(dims // 2)
        angle = (positions[:, None] * scale * base ** (-2.0 * pair / dims))[:, None, :]
        first, second = (2 * pair, 2 * pair + 1) if self.mode == "interleaved" else (pair, pair + dims // 2)
        y = x.copy()
        y[:, :, first] = x[:, :, first] * np.cos(angle) - x[:, :, second] * np.sin(angle)
        y[:, :, second] = x[:, :, first] * np.sin(angle) + x[:, :, second] * np.cos(angle)
        return y
