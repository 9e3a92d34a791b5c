# SPDX-License-Identifier: Apache-2.0
"""What an op brings to the GPU run: a problem (inputs, one call, its fp64 answer), the rows to time, and who else to time."""
from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar

import numpy as np

from cases import Case
from ctypes import Structure
from memory import Array, Memory


@dataclass(frozen=True)
class Comparison:
    """The worst row of a comparison with fp64."""

    error: float = 0.0
    gate: float = 0.0
    where: str = ""
    unwritten: int = 0

    @property
    def share(self) -> float:
        """Error over gate; above one fails. NaN fails."""
        if self.gate > 0:
            share = self.error / self.gate
        else:
            share = 0.0 if self.error == 0 else float("inf")
        return float("inf") if np.isnan(share) else share

    @property
    def passes(self) -> bool:
        return self.share <= 1 and self.unwritten == 0

    def worst(self, other: "Comparison") -> "Comparison":
        worse = other if other.share > self.share or (not self.where and other.share == self.share) else self
        return Comparison(worse.error, worse.gate, worse.where, self.unwritten + other.unwritten)


def rows(got: np.ndarray, want: np.ndarray, gate: float, name: str) -> Comparison:
    """The worst row, normwise: |got - want| / |want| over the last axis."""
    got, want = got.reshape(-1, got.shape[-1]), want.reshape(-1, want.shape[-1])
    if got.size == 0:
        return Comparison(0.0, gate, "")
    difference = np.where(got == want, 0.0, got - np.where(np.isfinite(want), want, 0.0))
    norm = np.sqrt(np.sum(np.where(np.isfinite(want), want, 0.0) ** 2, axis=1))
    error = np.sqrt(np.sum(difference**2, axis=1)) / np.maximum(norm, 1e-30)
    at = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    return Comparison(float(error[at]), gate, f"{name} row {at}", int(np.sum(np.isnan(got) & ~np.isnan(want))))


def exact(got: np.ndarray, want: np.ndarray, name: str) -> Comparison:
    """Equal in every element; NaN equals NaN."""
    different = ~((got == want) | (np.isnan(got) & np.isnan(want))) if got.dtype.kind == "f" else got != want
    if not different.any():
        return Comparison(0.0, 0.0, "")
    at = tuple(int(i) for i in np.argwhere(different)[0])
    return Comparison(float(np.count_nonzero(different)), 0.0, f"{name} {list(at)}")


@dataclass(frozen=True)
class Target:
    """What the row is measured against: a share of the time that its bytes need at the measured read bandwidth, a rate, or a time."""

    share: float | None = None
    tera_per_second: float | None = None
    microseconds: float | None = None

    def time(self, problem: "Problem", read_bytes_per_second: float | None) -> float | None:
        """The time to reach, in microseconds."""
        if self.microseconds is not None:
            return self.microseconds
        if self.tera_per_second is not None:
            return problem.operations / self.tera_per_second / 1e6
        if self.share is not None and read_bytes_per_second:
            return problem.bytes / read_bytes_per_second / self.share * 1e6
        return None


@dataclass(frozen=True)
class Peer:
    """Another library's way to the same result. `make` takes torch and a problem in TorchMemory and returns a call whose result has the
    shape of the problem's output; `compares` says whether the numbers are the same problem's and must agree."""

    name: str
    make: Callable[[Any, "Problem"], Callable[[], Any]]
    compares: bool = True


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: Case
    make: Callable[[Memory, Case], "Problem"]
    target: Target = Target()
    peers: tuple[Peer, ...] = ()
    refusal: Callable[[Memory], str] = field(default=lambda memory: "")


class Problem(ABC):
    """One call of an op with its memory. Every array it makes is an attribute, so that it lives as long as the problem."""

    op: ClassVar[str]
    roof: str = "fp32"
    arguments: Structure
    outputs: dict[str, Array]
    bytes: float
    operations: float

    def __init__(self, memory: Memory, case: Case) -> None:
        self.memory, self.device, self.case = memory, memory.device, case
        self._workspace: Array | None = None
        self._workspace_bytes = 0

    def bind(self) -> None:
        """Allocates the workspace and poisons what the op must write; the constructor's last step."""
        self._workspace_bytes = self.device.workspace_bytes(self.op, self.arguments)
        if self._workspace_bytes:
            self._workspace = self.memory.empty((self._workspace_bytes,), "u8")
        self.reset()

    def run(self, stream: int = 0) -> None:
        self.device.run(self.op, self.arguments, self._workspace.address if self._workspace else 0, self._workspace_bytes, stream)

    def reset(self) -> None:
        """Poisons outputs and workspace, and restores inputs that a run changes."""
        for array in self.outputs.values():
            array.poison()
        if self._workspace:
            self._workspace.poison()

    @abstractmethod
    def check(self, samples: int | None = None) -> Comparison:
        """Compares the outputs of the last run with fp64: everywhere, or at about `samples` independent places."""

    def result(self) -> Any:
        """In TorchMemory: the tensor that a peer's result is compared with."""
        return next(iter(self.outputs.values())).native  # type: ignore[attr-defined]

    def fingerprint(self) -> bytes:
        """The outputs' bytes, to compare reruns."""
        return b"".join(array.stored().tobytes() for array in self.outputs.values())

    def sample(self, count: int, samples: int | None) -> np.ndarray:
        """Indices to check: all, or the first, the last and random ones between them."""
        if samples is None or samples >= count:
            return np.arange(count)
        middle = self.memory.random.integers(0, count, max(0, samples - 2))
        return np.unique(np.concatenate([[0, count - 1], middle])).astype(np.int64)
