# SPDX-License-Identifier: Apache-2.0
"""Arrays on a device, in two kinds of memory behind one face.

BufferMemory   strata_buffer_create and strata_copy, values from NumPy: every device, no framework. Correctness, sanitizers, dry runs.
TorchMemory    PyTorch's own allocations, values made on the GPU: the timed problems, whose gigabytes no host should generate."""
from __future__ import annotations

from abc import ABC, abstractmethod
from ctypes import Structure
from typing import Any

import numpy as np

import elements
from device import Buffer, Device


def _strides(shape: tuple[int, ...], padding: int) -> tuple[int, ...]:
    """Row-major strides whose innermost rows lie `padding` elements apart; an empty extent counts as one."""
    strides, step = [0] * len(shape), 1
    for i in reversed(range(len(shape))):
        strides[i] = step
        step *= max(1, shape[i]) + (padding if i == len(shape) - 1 else 0)
    return tuple(strides)


class Array(ABC):
    """A strided array on a device. Between rows and behind the end lies poison."""

    def __init__(self, memory: "Memory", kind: str, shape: tuple[int, ...], padding: int) -> None:
        self.memory, self.kind, self.shape = memory, kind, tuple(int(extent) for extent in shape)
        self.strides = _strides(self.shape, padding)
        self.room = max(1, self.strides[0] * max(1, self.shape[0])) if self.shape else 1
        self.count = int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Bytes of the elements, padding not counted."""
        return self.count * elements.size(self.kind)

    @property
    @abstractmethod
    def address(self) -> int: ...

    @abstractmethod
    def write(self, stored: np.ndarray) -> None:
        """Sets all elements, and poisons the rest."""

    @abstractmethod
    def stored(self, *index: Any) -> np.ndarray:
        """A host copy of the elements at a NumPy index, as stored."""

    @abstractmethod
    def fill(self, value: int) -> None:
        """Sets every byte, padding included."""

    @abstractmethod
    def poison_where(self, mask: np.ndarray) -> None:
        """Poisons the elements whose leading indices a mask names."""

    @abstractmethod
    def set_uniform(self, index: tuple[Any, ...], low: float, high: float) -> None:
        """Sets the elements at an index of slices to evenly distributed values."""

    def values(self, *index: Any) -> np.ndarray:
        """The values at a NumPy index, exactly."""
        return elements.decode(self.stored(*index), self.kind)

    def poison(self) -> None:
        """NaN in every float type, -1 in every integer."""
        self.fill(0xFF)

    def tensor(self) -> Structure:
        """The array as the ABI takes it."""
        tensor = self.memory.abi.make("strata_tensor", data=self.address, dtype=self.memory.dtype(self.kind), ndim=len(self.shape))
        for i, (extent, stride) in enumerate(zip(self.shape, self.strides)):
            tensor.shape[i], tensor.stride[i] = extent, stride
        return tensor


class Memory(ABC):
    """Where arrays of a device live, and the random numbers they are filled with."""

    def __init__(self, device: Device, seed: int) -> None:
        self.device, self.abi = device, device.library.abi
        self.random = np.random.default_rng(seed)

    def dtype(self, kind: str) -> int:
        return self.abi.constants[f"STRATA_DTYPE_{kind.upper()}"]

    @abstractmethod
    def empty(self, shape: tuple[int, ...], kind: str, padding: int = 0) -> Array:
        """An array of poison."""

    @abstractmethod
    def gaussian(self, shape: tuple[int, ...], kind: str, spread: float = 1, padding: int = 0) -> Array:
        """Normally distributed values."""

    @abstractmethod
    def codes(self, shape: tuple[int, ...], kind: str, mask: int) -> Array:
        """Random bytes of which only the bits of a mask are set."""

    def array(self, values: np.ndarray, kind: str, padding: int = 0) -> Array:
        """Host values, rounded to the type."""
        made = self.empty(values.shape, kind, padding)
        made.write(elements.encode(values, kind))
        return made

    def raw(self, stored: np.ndarray) -> Array:
        """Bytes as they are: packed weights and the like."""
        made = self.empty((stored.nbytes,), "u8")
        made.write(np.ascontiguousarray(stored).view(np.uint8).reshape(-1))
        return made


class _BufferArray(Array):
    def __init__(self, memory: "BufferMemory", kind: str, shape: tuple[int, ...], padding: int) -> None:
        super().__init__(memory, kind, shape, padding)
        self._buffer = Buffer(memory.device, self.room * elements.size(kind))

    @property
    def address(self) -> int:
        return self._buffer.address

    def write(self, stored: np.ndarray) -> None:
        base = np.full(self._buffer.bytes, 0xFF, np.uint8).view(elements.STORAGE[self.kind])
        self._view(base)[...] = stored
        self._buffer.write(base.ctypes.data, base.nbytes)

    def stored(self, *index: Any) -> np.ndarray:
        return self._view(self._download())[index].copy()

    def fill(self, value: int) -> None:
        self._buffer.fill(value)

    def set_uniform(self, index: tuple[Any, ...], low: float, high: float) -> None:
        base = self._download()
        place = self._view(base)
        place[index] = elements.encode(self.memory.random.uniform(low, high, place[index].shape), self.kind)
        self._buffer.write(base.ctypes.data, base.nbytes)

    def poison_where(self, mask: np.ndarray) -> None:
        base = self._download()
        self._view(base)[mask] = np.full(base.itemsize, 0xFF, np.uint8).view(base.dtype)[0]
        self._buffer.write(base.ctypes.data, base.nbytes)

    def _download(self) -> np.ndarray:
        base = np.empty(self.room, elements.STORAGE[self.kind])
        self._buffer.read(base.ctypes.data)
        return base

    def _view(self, base: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(base, self.shape, tuple(s * base.itemsize for s in self.strides))


class BufferMemory(Memory):
    """The library's own buffers."""

    def empty(self, shape: tuple[int, ...], kind: str, padding: int = 0) -> Array:
        made = _BufferArray(self, kind, shape, padding)
        made.poison()
        return made

    def gaussian(self, shape: tuple[int, ...], kind: str, spread: float = 1, padding: int = 0) -> Array:
        return self.array(spread * self.random.standard_normal(shape), kind, padding)


    def codes(self, shape: tuple[int, ...], kind: str, mask: int) -> Array:
        made = self.empty(shape, kind)
        made.write((self.random.integers(0, 256, shape, np.uint8) & np.uint8(mask)).view(elements.STORAGE[kind]))
        return made


class _TorchArray(Array):
    def __init__(self, memory: "TorchMemory", kind: str, shape: tuple[int, ...], padding: int) -> None:
        super().__init__(memory, kind, shape, padding)
        self._torch = memory.torch
        self._base = memory.torch.empty(self.room, dtype=memory.types[kind], device=memory.place)
        self.native = memory.torch.as_strided(self._base, self.shape, self.strides)

    @property
    def address(self) -> int:
        return int(self._base.data_ptr())

    def write(self, stored: np.ndarray) -> None:
        torch = self._torch
        self.poison()
        host = torch.from_numpy(np.ascontiguousarray(stored.view(np.int16) if self.kind == "bf16" else stored))
        self.native.copy_((host.view(torch.bfloat16) if self.kind == "bf16" else host).to(self.native.device))

    def stored(self, *index: Any) -> np.ndarray:
        host = (self.native[self._index(index)] if index else self.native).contiguous().cpu()
        return host.view(self._torch.int16).numpy().view(np.uint16).copy() if self.kind == "bf16" else host.numpy().copy()

    def fill(self, value: int) -> None:
        self._base.view(self._torch.uint8).fill_(value)

    def set_uniform(self, index: tuple[Any, ...], low: float, high: float) -> None:
        place = self.native[index]
        place.copy_(self._torch.empty(place.shape, device=place.device).uniform_(low, high))

    def poison_where(self, mask: np.ndarray) -> None:
        poison = float("nan") if self.native.is_floating_point() else 255 if self.native.dtype == self._torch.uint8 else -1
        self.native[self._torch.from_numpy(mask).to(self.native.device)] = poison

    def _index(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._torch.from_numpy(part.astype(np.int64)).to(self.native.device) if isinstance(part, np.ndarray) else part for part in index)


class TorchMemory(Memory):
    """PyTorch's allocations on the same device; `native` of an array is the tensor."""

    def __init__(self, device: Device, seed: int) -> None:
        super().__init__(device, seed)
        import torch
        self.torch = torch
        self.place = device.name if device.is_gpu else "cpu"
        self.types = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "i32": torch.int32, "i8": torch.int8,
                      "u8": torch.uint8, "f8e4m3": torch.uint8}
        torch.manual_seed(seed)

    def empty(self, shape: tuple[int, ...], kind: str, padding: int = 0) -> Array:
        made = _TorchArray(self, kind, shape, padding)
        made.poison()
        return made

    def gaussian(self, shape: tuple[int, ...], kind: str, spread: float = 1, padding: int = 0) -> Array:
        made = _TorchArray(self, kind, shape, padding)
        if padding:
            made.poison()
        made.native.normal_(0, spread)
        return made

    def codes(self, shape: tuple[int, ...], kind: str, mask: int) -> Array:
        made = _TorchArray(self, kind, shape, 0)
        made.native.view(self.torch.uint8).random_(0, 256).bitwise_and_(mask)
        return made
