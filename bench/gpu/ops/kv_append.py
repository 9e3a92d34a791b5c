# SPDX-License-Identifier: Apache-2.0
"""kv_append: K and V rows of new tokens, rotated on the way, into the last slots of their sequences."""
from __future__ import annotations

import numpy as np

import cases
import elements
from cases import Case
from memory import Memory
from paged_cache import PagedCache
from problem import Comparison, Problem, Row, Target, exact, rows
from rotation import Rotation

_GATES = {"f32": 1e-6, "f16": 4e-4, "bf16": 3.2e-3}


class KvAppend(Problem):
    op = "kv_append"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        tokens, kv_heads = case.ints("tokens", [1]), case.int("kv_heads", 1)
        before, uneven, padding = case.int("before", 0), case.int("uneven", 0), case.int("padding", 0)
        held = np.array([[before + h * uneven + t for h in range(kv_heads)] for t in tokens], np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(tokens)]).astype(np.int32)
        self.cache = PagedCache(memory, case.text("dtype", "f32"), held, case.int("head_dim", 64), case.int("page_size", 64),
                                case.int("shared", 0) != 0, padding)
        shape = (int(self.offsets[-1]), kv_heads, self.cache.head_dim)
        self.keys = memory.gaussian(shape, case.text("input", "f32"), padding=padding)
        self.values = memory.gaussian(shape, case.text("input", "f32"), padding=padding)
        self.token_positions = (case.int("position", before) + np.arange(shape[0])).astype(np.int32)
        self.positions = memory.array(self.token_positions, "i32")
        self.row_offsets = memory.array(self.offsets, "i32")
        self.rotation = Rotation.of(case, "rope", "none")
        self.stores_positions = case.int("positions", 1) != 0
        optional = {}
        if self.stores_positions or self.rotation.mode != "none":
            optional["positions"] = self.positions.tensor()
        if len(tokens) > 1:
            optional["row_offsets"] = self.row_offsets.tensor()
        self.arguments = memory.abi.make("strata_kv_append_args", cache=self.cache.view(self.stores_positions), keys=self.keys.tensor(),
                                         values=self.values.tensor(), rope=self.rotation.parameters(memory.abi), **optional)
        self.outputs = {"keys": self.cache.keys, "values": self.cache.values, "positions": self.cache.positions}
        # Small caches are compared whole, so what was there before must be known; large ones at the rows alone.
        self._before = {name: array.stored() for name, array in self.outputs.items()} if self.cache.live_bytes < 1 << 24 else None
        self.bytes = 2 * self.keys.bytes + 2 * self.keys.count * elements.size(self.cache.kind) + self.positions.bytes
        self.operations = 0.0 if self.rotation.mode == "none" else 3.0 * self.keys.count
        self.bind()

    def reset(self) -> None:
        # The outputs are the cache: what it held before is an input. A second run writes the same rows again.
        if self._before is not None:
            for name, array in self.outputs.items():
                array.write(self._before[name])

    def check(self, samples: int | None = None) -> Comparison:
        kind = self.cache.kind
        worst = Comparison(0.0, _GATES[kind])
        got = {name: array.stored() for name, array in self.outputs.items()} if self._before is not None else None
        keys, values = self.rotation.turn(self.keys.values(), self.token_positions), self.values.values()
        for b, h in np.ndindex(*self.cache.lengths.shape):
            tokens = np.arange(self.offsets[b], self.offsets[b + 1])
            if got is None:
                tokens = tokens[self.sample(tokens.size, samples)]
            if tokens.size == 0:
                continue
            place = self.cache.places(self.cache.table, b, h, self.cache.lengths[b, h] - (self.offsets[b + 1] - tokens))
            where = f"sequence {b}, head {h}:"
            written_keys = self.cache.keys.values(*place) if got is None else elements.decode(got["keys"][place], kind)
            written_values = self.cache.values.stored(*place) if got is None else got["values"][place]
            worst = worst.worst(rows(written_keys, keys[tokens, h], _GATES[kind], f"{where} keys"))
            worst = worst.worst(exact(written_values, elements.encode(values[tokens, h], kind), f"{where} values"))
            if got is not None:
                if self.stores_positions:
                    worst = worst.worst(exact(got["positions"][place], self.token_positions[tokens], f"{where} positions"))
                for name in got:  # what was compared is made as before, so that the rest can be
                    if name != "positions" or self.stores_positions:
                        got[name][place] = self._before[name][place]
        for name, array in (got or {}).items():
            worst = worst.worst(exact(array.view(np.uint8), self._before[name].view(np.uint8), f"{name} that no row goes to, byte"))
        return worst


def timed(full: bool) -> list[Row]:
    heads = dict(kv_heads=8, head_dim=128, base=500000) if full else dict(kv_heads=2, head_dim=64)

    def case(name: str, **values: object) -> Case:
        return cases.timed("kv_append", name, **heads, dtype="bf16", input="bf16", rope="half", **values)

    prompt = 4096 if full else 33
    return [
        Row(case("decode-b64-bf16", tokens="/".join(["1"] * (64 if full else 4)), before=127), KvAppend),
        Row(case(f"prefill-{prompt}-bf16", tokens=prompt), KvAppend, Target(share=0.8)),
    ]


PROBLEMS = {"kv_append": KvAppend}
