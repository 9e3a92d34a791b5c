# SPDX-License-Identifier: Apache-2.0
"""qgemm: y = x W^T with packed weights."""
from __future__ import annotations

from typing import Any, Callable

import numpy as np

import cases
from cases import Case
from memory import Memory
from problem import Comparison, Peer, Problem, Row, Target
from weights import DeviceWeight, Weight

_GATES = {"f32": (2e-6, 0.0), "f16": (4e-4, 4.88e-4), "bf16": (3.2e-3, 3.91e-3)}

# The weight made last: the rows of one shape differ in m alone, and packing tens of megabytes for each would outlast their timing.
_last: tuple[tuple[object, ...], Weight, np.ndarray] | None = None


def _weight(memory: Memory, form: str, n: int, k: int, group: int) -> tuple[Weight, np.ndarray]:
    global _last
    key = (form, n, k, group)
    if _last is None or _last[0] != key:
        weight = Weight(memory.random, form, n, k, group)
        _last = (key, weight, weight.pack(memory.device.library))
    return _last[1], _last[2]


class Qgemm(Problem):
    op = "qgemm"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        m, n, k, form = case.int("m", 1), case.int("n", 64), case.int("k", 256), case.text("format", "q4_0")
        self.int8, padding = case.int("int8", 0) != 0, case.int("padding", 0)
        self.weight, host = _weight(memory, form, n, k, case.int("group", 32) if form == "i4" else 0)
        self.packed = DeviceWeight(memory, "weight", host)
        self.x = memory.gaussian((m, k), case.text("x", "f32"), padding=padding)
        self.y = memory.empty((m, n), case.text("y", "f32"), padding)
        self.outputs = {"y": self.y}
        self.arguments = memory.abi.make("strata_qgemm_args", flags=memory.abi.constants["STRATA_QGEMM_INT8_ACTIVATIONS"] if self.int8 else 0,
                                         x=self.x.tensor(), y=self.y.tensor(), w=self.packed.view)
        self.bytes = host.nbytes + self.x.bytes + self.y.bytes
        self.operations = 2.0 * m * n * k
        self.roof = "int8" if self.int8 else "fp32" if form in ("f32", "f16", "bf16") else "fp16"
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        gate, unit = _GATES[self.y.kind]
        m, k = self.x.shape
        picked, columns = self.sample(m, samples), self.sample(self.weight.n, None if samples is None else 64 * samples)
        if picked.size == 0:
            return Comparison(0.0, gate)
        x, w = self._activations(self.x.values(picked)), self.weight.rows(columns)
        got, want = self.y.values(picked)[:, columns], x @ w.T
        error = np.abs(got - want)
        relative = np.sqrt(np.sum(error**2, axis=1)) / np.maximum(np.sqrt(np.sum(want**2, axis=1)), 1e-30)
        # Few columns may all cancel; then every element must keep to what its own terms allow.
        chain = (4 * np.sqrt(256 + k / 256) + 2) * 5.96e-8
        share = np.max(error / (unit * np.abs(want) + chain * (np.abs(x) @ np.abs(w).T) + 1e-60), axis=1)
        relative = np.where((relative > gate) & (share <= 1), gate * share, relative)
        at = int(np.argmax(np.where(np.isnan(relative), np.inf, relative)))
        return Comparison(float(relative[at]), gate, f"y row {picked[at]}", int(np.isnan(got).sum()))

    def _activations(self, x: np.ndarray) -> np.ndarray:
        """x as the op multiplies it: as stored, or quantised to int8 in fp32 by groups of 32 columns."""
        if not self.int8:
            return x
        groups = x.astype(np.float32).reshape(x.shape[0], -1, 32)
        largest = np.max(np.abs(groups), axis=2, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            codes = np.rint(groups * (np.float32(127) / largest))
        values = (largest / np.float32(127)).astype(np.float64) * codes
        return np.where(largest < 2.0**-100, 0.0, values).reshape(x.shape)


# ---------------------------------------------------------------- what is timed


def _mm(torch: Any, problem: Any) -> Callable[[], Any]:
    """cuBLAS on a dense weight of the activations' type: what the packed weight replaces."""
    x = problem.x.native
    w = torch.randn(problem.weight.n, problem.weight.k, device=x.device, dtype=x.dtype)
    return lambda: torch.mm(x, w.t())


def _int4pack(torch: Any, problem: Any) -> Callable[[], Any]:
    """PyTorch's own int4 kernel on the same codes and scales."""
    weight, x = problem.weight, problem.x.native
    codes = torch.from_numpy(weight.blocks.reshape(weight.n, -1)).to(x.device)
    swapped = (codes << 4) | (codes >> 4)  # it keeps the even column in the high nibble
    w = torch.ops.aten._convert_weight_to_int4pack(swapped, 8)
    scale = torch.from_numpy(weight.scales).to(x.device).to(torch.bfloat16).t().contiguous()
    scales_and_zeros = torch.stack([scale, torch.zeros_like(scale)], dim=2).contiguous()
    return lambda: torch.ops.aten._weight_int4pack_mm(x, w, weight.group, scales_and_zeros)


def _int8pack(torch: Any, problem: Any) -> Callable[[], Any]:
    """PyTorch's int8 kernel, one scale a row; other numbers, the same bytes less the scales."""
    weight, x = problem.weight, problem.x.native
    w = torch.randint(-127, 128, (weight.n, weight.k), device=x.device, dtype=torch.int8)
    scales = torch.full((weight.n,), 0.01, device=x.device, dtype=x.dtype)
    return lambda: torch.ops.aten._weight_int8pack_mm(x, w, scales)


def timed(full: bool) -> list[Row]:
    mm = Peer("mm", _mm, compares=False)
    formats = (("w4-g128", dict(format="i4", group=128), (mm, Peer("int4pack", _int4pack))),
               ("w8", dict(format="q8_0"), (mm, Peer("int8pack", _int8pack, compares=False))))
    # (n, k) and the share of the read bandwidth that "very good" means for few rows of 4-bit weights.
    shapes = ((4096, 4096, 2.9 / 5.5), (14336, 4096, 10.1 / 13), (4096, 14336, 10.1 / 13)) if full else ((128, 256, 2.9 / 5.5), (256, 128, 10.1 / 13))
    result = []
    for n, k, share in shapes:
        for name, values, peers in formats:
            for m in (1, 4, 16, 32, 64, 128) if full else (1, 16, 64):
                case = cases.timed("qgemm", f"{name}-{n}x{k}-m{m}", m=m, n=n, k=k, x="bf16", y="bf16", **values)
                result.append(Row(case, Qgemm, Target(share=share) if m <= 16 else Target(), peers))
    return result


PROBLEMS = {"qgemm": Qgemm}
