# SPDX-License-Identifier: Apache-2.0
"""rms_norm, rope, elementwise and embed: what a decoder needs beside the large ops."""
from __future__ import annotations

from typing import Any, Callable

import numpy as np

import cases
import elements
from cases import Case
from memory import Memory
from problem import Comparison, Peer, Problem, Row, Target, exact, rows
from rotation import Rotation
from weights import DeviceWeight, Weight


class InPlace(Problem):
    """A problem whose output may be one of its inputs, which is then put back before a rerun."""

    def inputs_from(self, name: str, array: Any, in_place: bool) -> None:
        self._written_input = array if in_place else None
        self._original = array.stored() if in_place else None
        self.outputs = {name: array}

    def reset(self) -> None:
        super().reset()
        if self._written_input is not None:
            self._written_input.write(self._original)

    def original(self, array: Any, picked: np.ndarray) -> np.ndarray:
        """Rows of an input as they were before the run."""
        return elements.decode(self._original[picked], array.kind) if array is self._written_input else array.values(picked)

    def picked(self, samples: int | None) -> np.ndarray:
        """Rows to compare."""
        return self.sample(next(iter(self.outputs.values())).shape[0], None if samples is None else 64 * samples)


class RmsNorm(InPlace):
    op = "rms_norm"
    EPSILON = 1e-5

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        shape, padding, in_place = (case.int("rows", 1), case.int("n", 576)), case.int("padding", 0), case.int("in_place", 0) != 0
        self.x = memory.gaussian(shape, case.text("x", "f32"), padding=padding)
        self.weight = memory.array(1 + 0.1 * memory.random.standard_normal(shape[1]), "f32")
        self.y = self.x if in_place else memory.empty(shape, case.text("y", "f32"), padding)
        self.inputs_from("y", self.y, in_place)
        self.arguments = memory.abi.make("strata_rms_norm_args", x=self.x.tensor(), weight=self.weight.tensor(), y=self.y.tensor(), epsilon=self.EPSILON)
        self.bytes = self.x.bytes + self.weight.bytes + self.y.bytes
        self.operations = 4.0 * self.x.count
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        picked = self.picked(samples)
        x = self.original(self.x, picked)
        gate = {"f32": 1e-6, "f16": 6e-4, "bf16": 4.5e-3}[self.y.kind]
        if x.size == 0:
            return Comparison(0.0, gate)
        want = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + float(np.float32(self.EPSILON))) * self.weight.values()
        return rows(self.y.values(picked), want, gate, "y")


class Rope(InPlace):
    op = "rope"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        shape, kind = (case.int("tokens", 1), case.int("heads", 9), case.int("head_dim", 64)), case.text("dtype", "f32")
        padding, in_place = case.int("padding", 0), case.int("in_place", 0) != 0
        self.x = memory.gaussian(shape, kind, padding=padding)
        self.token_positions = (case.int("position", 4096) - shape[0] + 1 + np.arange(shape[0])).astype(np.int32)
        self.positions = memory.array(self.token_positions, "i32")
        self.y = self.x if in_place else memory.empty(shape, kind, padding)
        self.inputs_from("y", self.y, in_place)
        self.rotation = Rotation.of(case, "mode", "interleaved")
        self.arguments = memory.abi.make("strata_rope_args", x=self.x.tensor(), positions=self.positions.tensor(), y=self.y.tensor(),
                                         rope=self.rotation.parameters(memory.abi))
        self.bytes = self.x.bytes + self.positions.bytes + self.y.bytes
        self.operations = 3.0 * self.x.count
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        picked = self.picked(samples)
        want = self.rotation.turn(self.original(self.x, picked), self.token_positions[picked])
        return rows(self.y.values(picked), want, {"f32": 1e-6, "f16": 4e-4, "bf16": 3.2e-3}[self.y.kind], "y")


class Elementwise(InPlace):
    op = "elementwise"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        shape, kind, padding = (case.int("rows", 1), case.int("n", 576)), case.text("dtype", "f32"), case.int("padding", 0)
        self.function, in_place = case.text("function", "add"), case.text("in_place", "")
        self.a = memory.gaussian(shape, kind, padding=padding)
        self.b = memory.gaussian(shape, kind, padding=padding)
        self.y = {"a": self.a, "b": self.b}.get(in_place) or memory.empty(shape, kind, padding)
        self.inputs_from("y", self.y, in_place != "")
        constant = memory.abi.constants["STRATA_ELEMENTWISE_" + {"add": "ADD", "silumul": "SILU_MUL"}[self.function]]
        self.arguments = memory.abi.make("strata_elementwise_args", a=self.a.tensor(), b=self.b.tensor(), y=self.y.tensor(), function=constant)
        self.bytes = self.a.bytes + self.b.bytes + self.y.bytes
        self.operations = (1.0 if self.function == "add" else 4.0) * self.a.count
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        picked = self.picked(samples)
        a, b, got = self.original(self.a, picked), self.original(self.b, picked), self.y.values(picked)
        if self.function == "add":  # the correctly rounded sum
            return exact(got, elements.rounded(a + b, self.y.kind), "y")
        want = a / (1 + np.exp(-a)) * b
        # Element by element; results below the smallest normal number may be flushed.
        unit, smallest = {"f32": (6e-8, 2e-36), "f16": (4.9e-4, 6.2e-5), "bf16": (3.91e-3, 2e-36)}[self.y.kind]
        gate = 2e-6 + unit
        error = (np.abs(got - want) / np.maximum(np.abs(want), smallest / gate)).reshape(-1)
        if error.size == 0:
            return Comparison(0.0, gate)
        at = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        return Comparison(float(error[at]), gate, f"y element {at}", int(np.isnan(got).sum()))


class Embed(Problem):
    op = "embed"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        tokens, n, k, form = case.int("tokens", 1), case.int("n", 64), case.int("k", 256), case.text("format", "q8_0")
        self.weight = Weight(memory.random, form, n, k, case.int("group", 32) if form == "i4" else 0)
        host = self.weight.pack(memory.device.library)
        self.packed = DeviceWeight(memory, "weight", host)
        self.host_ids = memory.random.integers(0, n, tokens)
        self.host_ids[:1] = n - 1
        self.ids = memory.array(self.host_ids, "i32")
        self.y = memory.empty((tokens, k), case.text("y", "f32"), case.int("padding", 0))
        self.outputs = {"y": self.y}
        self.arguments = memory.abi.make("strata_embed_args", ids=self.ids.tensor(), y=self.y.tensor(), w=self.packed.view)
        self.bytes = host.nbytes / n * tokens + self.ids.bytes + self.y.bytes
        self.operations = 2.0 * self.y.count
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        """No tolerance: values are exact, rounded to fp32 and then to y's type."""
        picked = self.sample(self.host_ids.size, None if samples is None else 64 * samples)
        want = self.weight.rows(self.host_ids[picked]).astype(np.float32).astype(np.float64)
        return exact(self.y.values(picked), elements.rounded(want, self.y.kind), "y")


# ---------------------------------------------------------------- what is timed


def _rms_norm(torch: Any, problem: Any) -> Callable[[], Any]:
    x, weight = problem.x.native, problem.weight.native.to(problem.x.native.dtype)
    return lambda: torch.nn.functional.rms_norm(x, (x.shape[1],), weight, RmsNorm.EPSILON)


def _silu_mul(torch: Any, problem: Any) -> Callable[[], Any]:
    a, b = problem.a.native, problem.b.native
    return lambda: torch.nn.functional.silu(a) * b


def timed(full: bool) -> list[Row]:
    width, inner, prompt = (4096, 14336, 4096) if full else (64, 128, 9)
    share = Target(share=0.8)

    result = []
    for m in (1, prompt):
        target = share if m > 1 else Target()
        result += [
            Row(cases.timed("rms_norm", f"{m}x{width}-bf16", rows=m, n=width, x="bf16", y="bf16"), RmsNorm, target, (Peer("F.rms_norm", _rms_norm),)),
            Row(cases.timed("rope", f"{m}x{width // 64}x64-bf16", tokens=m, heads=width // 64, dtype="bf16", mode="half"), Rope, target),
            Row(cases.timed("elementwise", f"silu-mul-{m}x{inner}-bf16", rows=m, n=inner, dtype="bf16", function="silumul"), Elementwise, target,
                (Peer("silu * b", _silu_mul),)),
            Row(cases.timed("embed", f"{m}x{width}-q8_0", tokens=m, n=4 * width, k=width, y="bf16"), Embed, target),
        ]
    return sorted(result, key=lambda row: list(PROBLEMS).index(row.case.op))


PROBLEMS = {"rms_norm": RmsNorm, "rope": Rope, "elementwise": Elementwise, "embed": Embed}
