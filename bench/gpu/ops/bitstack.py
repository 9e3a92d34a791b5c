# SPDX-License-Identifier: Apache-2.0
"""bitstack: W = sum over levels of sign o (U V^T); y = x W^T without building W, or W itself."""
from __future__ import annotations

import ctypes
from typing import Any, Callable

import numpy as np

import cases
from cases import Case
from device import Library
from memory import Memory
from problem import Comparison, Peer, Problem, Row, Target
from weights import DeviceWeight, packed


class Level:
    """One level as its authors store it."""

    def __init__(self, random: np.random.Generator, n: int, k: int, rank: int, spread: float) -> None:
        self.n, self.k, self.rank = n, k, rank
        self.signs = random.integers(0, 256, n * k // 8, np.uint8)
        self.u = (spread * random.standard_normal((n, rank))).astype(np.float16)
        self.vt = (spread * random.standard_normal((rank, k))).astype(np.float16)

    @property
    def bytes(self) -> int:
        return self.signs.nbytes + self.u.nbytes + self.vt.nbytes

    def plus(self) -> np.ndarray:
        """+1 or -1, [n, k]."""
        return (np.unpackbits(self.signs).astype(np.int8) * 2 - 1).reshape(self.n, self.k)

    def pack(self, library: Library) -> np.ndarray:
        source = library.abi.make("strata_bitstack_source", rank=self.rank, n=self.n, k=self.k, signs=self.signs.ctypes.data, signs_bytes=self.signs.nbytes,
                                  u=self.u.ctypes.data, u_bytes=self.u.nbytes, vt=self.vt.ctypes.data, vt_bytes=self.vt.nbytes)
        return packed(library, "bitstack", source)


# The levels made last: rows of one shape differ in m and in how many levels they use.
_last: tuple[tuple[object, ...], list[Level], list[np.ndarray]] | None = None


def _levels(memory: Memory, n: int, k: int, ranks: tuple[int, ...]) -> tuple[list[Level], list[np.ndarray]]:
    global _last
    key = (n, k)
    if _last is None or _last[0] != key or tuple(level.rank for level in _last[1][: len(ranks)]) != ranks:
        # Residuals shrink from level to level.
        levels = [Level(memory.random, n, k, rank, 0.5 ** (i / 2)) for i, rank in enumerate(ranks)]
        _last = (key, levels, [level.pack(memory.device.library) for level in levels])
    return _last[1][: len(ranks)], _last[2][: len(ranks)]


class BitStack(Problem):
    op = "bitstack"
    roof = "bf16"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        m, n, k, padding = case.int("m", 1), case.int("n", 576), case.int("k", 576), case.int("padding", 0)
        self.decodes = case.int("decode", 0) != 0
        ranks = case.ints("rank", [16])
        self.levels, hosts = _levels(memory, n, k, tuple(ranks[i % len(ranks)] for i in range(case.int("levels", 4))))
        self.packed = [DeviceWeight(memory, "bitstack", host) for host in hosts]
        view = memory.abi.struct("strata_bitstack_level")
        self._views = (view * len(self.packed))(*[level.view for level in self.packed])
        self.y = memory.empty((n, k) if self.decodes else (m, n), case.text("y", "f32"), padding)
        self.outputs = {"y": self.y}
        optional = {}
        self.x = None
        if not self.decodes:
            self.x = memory.gaussian((m, k), case.text("x", "f32"), padding=padding)
            optional["x"] = self.x.tensor()
        self.arguments = memory.abi.make("strata_bitstack_args", levels=ctypes.addressof(self._views), level_count=len(self.packed), y=self.y.tensor(),
                                         **optional)
        self.bytes = sum(level.bytes for level in self.levels) + (self.x.bytes if self.x else 0) + self.y.bytes
        self.operations = float(n) * k * (2.0 * sum(level.rank for level in self.levels) + (0 if self.decodes else 2.0 * m))
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        gate = {"f16": 6e-4, "bf16": 4.5e-3}.get(self.y.kind, 1e-5 if self.device.name == "cpu" or self.decodes else 3e-5)
        columns = self.sample(self.levels[0].n, None if samples is None else 64 * samples)
        w = np.zeros((columns.size, self.levels[0].k))
        for level in self.levels:
            signs = np.unpackbits(level.signs).reshape(level.n, level.k)[columns] if samples is None else self._signs(level, columns)
            w += (signs * 2.0 - 1) * (level.u[columns].astype(np.float64) @ level.vt.astype(np.float64))
        if self.x is None:
            return self._worst(self.y.values(columns), w, np.zeros(columns.size), gate)
        picked = self.sample(self.x.shape[0], samples)
        if picked.size == 0:
            return Comparison(0.0, gate)
        x = self.x.values(picked)
        # Where a row of few elements happens to cancel, against what its terms would typically add up to.
        typical = np.sqrt(np.sum((np.abs(x) @ np.abs(w).T) ** 2, axis=1) / w.shape[1])
        return self._worst(self.y.values(picked)[:, columns], x @ w.T, typical, gate)

    @staticmethod
    def _signs(level: Level, rows: np.ndarray) -> np.ndarray:
        bits = rows[:, None] * level.k + np.arange(level.k)
        return (level.signs[bits // 8] >> (7 - bits % 8).astype(np.uint8)) & 1

    @staticmethod
    def _worst(got: np.ndarray, want: np.ndarray, typical: np.ndarray, gate: float) -> Comparison:
        error = np.sqrt(np.sum((got - want) ** 2, axis=1)) / np.maximum(np.maximum(np.sqrt(np.sum(want**2, axis=1)), typical), 1e-30)
        at = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        return Comparison(float(error[at]), gate, f"y row {at}", int(np.isnan(got).sum()))


# ---------------------------------------------------------------- what is timed


def _eager(torch: Any, problem: Any) -> Callable[[], Any]:
    """The definition in PyTorch: build W in the activations' type, then a product."""
    x = problem.x.native
    levels = [[torch.from_numpy(part).to(x.device).to(x.dtype) for part in (level.plus(), level.u, level.vt)] for level in problem.levels]

    def call() -> Any:
        w = sum(signs * (u @ vt) for signs, u, vt in levels)
        return x @ w.t()

    return call


def _mm(torch: Any, problem: Any) -> Callable[[], Any]:
    """cuBLAS on the dense weight: the reference of speed."""
    x, level = problem.x.native, problem.levels[0]
    w = torch.randn(level.n, level.k, device=x.device, dtype=x.dtype)
    return lambda: torch.mm(x, w.t())


def timed(full: bool) -> list[Row]:
    peers = (Peer("mm", _mm, compares=False), Peer("eager", _eager))
    result = []
    for n, k in ((4096, 4096), (14336, 4096)) if full else ((64, 128),):
        for levels in (8, 4, 2):  # most first: the fewer are the first of them
            for m in (1, 8):
                case = cases.timed("bitstack", f"{n}x{k}-l{levels}-m{m}", n=n, k=k, m=m, levels=levels, x="bf16", y="bf16")
                result.append(Row(case, BitStack, Target(share=3.2 / 6) if levels == 4 and m == 1 else Target(), peers))
    return result


PROBLEMS = {"bitstack": BitStack}
