# SPDX-License-Identifier: Apache-2.0
"""Element types: how they are stored, read and written. Values are float64 everywhere else."""
from __future__ import annotations

import numpy as np

# How NumPy holds each type: those that it does not have travel as their bits.
_NAMES = {"f32": "float32", "f16": "float16", "bf16": "uint16", "i32": "int32", "i8": "int8", "u8": "uint8", "f8e4m3": "uint8"}
STORAGE = {kind: np.dtype(name) for kind, name in _NAMES.items()}


def _e4m3() -> np.ndarray:
    """The value of each byte: 1 sign, 4 exponent, 3 mantissa bits, bias 7; no infinity."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return np.where(code & 127 == 127, np.nan, np.where(code & 128, -size, size))


_E4M3 = _e4m3()


def size(kind: str) -> int:
    """Bytes of an element."""
    return STORAGE[kind].itemsize


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """Values as they are stored, rounded to the nearest, ties to even."""
    if kind != "bf16":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(values).astype(STORAGE[kind])
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def decode(stored: np.ndarray, kind: str) -> np.ndarray:
    """The values of stored elements, exactly."""
    if kind == "f8e4m3":
        return _E4M3[stored]
    floats = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32) if kind == "bf16" else stored
    with np.errstate(invalid="ignore"):  # poison is a NaN that signals
        return floats.astype(np.float64)


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """Values after one rounding to a type."""
    return decode(encode(values, kind), kind)
