# SPDX-License-Identifier: Apache-2.0
"""kv_attention: out = softmax(scale q K^T) V over a paged cache; decode and prefill."""
from __future__ import annotations

from ctypes import Structure
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from cases import Case
from memory import Memory
from paged_cache import PagedCache
from problem import Comparison, Peer, Problem, Row, Target, rows

_GATES = {"f32": 1e-5, "f16": 6e-4, "bf16": 4.5e-3}


class KvAttention(Problem):
    op = "kv_attention"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        lengths, kv_heads, width = case.ints("length", [128]), case.int("kv_heads", 1), case.int("head_dim", 64)
        held = np.array([[max(0, length - h * case.int("uneven", 0)) for h in range(kv_heads)] for length in lengths], np.int32)
        self.tokens = case.ints("tokens", [1] * len(lengths))
        self.offsets = np.concatenate([[0], np.cumsum(self.tokens)]).astype(np.int32)
        self.causal, self.scale = case.int("causal", 1) != 0, case.float("scale", 0)
        self.cache = PagedCache(memory, _stored(case.text("dtype", "f32")), held, width, case.int("page_size", 64), case.int("shared", 0) != 0, case.int("padding", 0))
        self.group = case.int("q_heads", kv_heads) // kv_heads
        shape = (int(self.offsets[-1]), kv_heads * self.group, width)
        self.q = memory.gaussian(shape, case.text("q", "f32"))
        self.out = memory.empty(shape, case.text("out", "f32"), case.int("padding", 0))
        self.outputs = {"out": self.out}
        self.lse = memory.empty(shape[:2], "f32") if case.int("lse", 0) else None
        optional: dict[str, Structure] = {}
        if self.lse:
            self.outputs["lse"] = self.lse
            optional["lse"] = self.lse.tensor()
        self.row_offsets = memory.array(self.offsets, "i32")
        if len(lengths) > 1:
            optional["row_offsets"] = self.row_offsets.tensor()
        self.arguments = memory.abi.make(
            "strata_kv_attention_args", flags=memory.abi.constants["STRATA_ATTENTION_CAUSAL"] if self.causal else 0, cache=self.cache.view(), q=self.q.tensor(),
            out=self.out.tensor(), scale=self.scale, max_length=int(held.max(initial=0)) if case.int("max_length", 0) else 0, **optional)
        seen = sum(float(np.sum(self._sees(b, h))) for b, h in np.ndindex(*held.shape))
        self.bytes = 2 * self.cache.live_bytes + self.q.bytes + self.out.bytes
        self.operations = 4 * seen * self.group * width
        self.roof = "fp32" if self.cache.kind == "f32" else "bf16"
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        batch, kv_heads = self.cache.lengths.shape
        worst = Comparison(0.0, self._gate())
        for pair in self.sample(batch * kv_heads, samples):
            b, h = divmod(int(pair), kv_heads)
            picked = self.sample(self.tokens[b], None if samples is None else 8 * samples)
            if picked.size == 0:
                continue
            heads = slice(h * self.group, (h + 1) * self.group)
            q = self.q.values(picked + self.offsets[b])[:, heads]
            out, lse, largest = self._answer(b, h, q, self._sees(b, h)[picked])
            where = f"sequence {b}, head {h}:"
            worst = worst.worst(rows(self.out.values(picked + self.offsets[b])[:, heads], out, self._gate(), where))
            if self.lse:
                worst = worst.worst(self._compare_lse(self.lse.values(picked + self.offsets[b])[:, heads], lse, largest, where))
        return worst

    def _sees(self, b: int, h: int) -> np.ndarray:
        """Slots that each query row of a sequence sees."""
        tokens, length = self.tokens[b], int(self.cache.lengths[b, h])
        return np.clip(length - tokens + np.arange(tokens) + 1, 0, length) if self.causal else np.full(tokens, length)

    def _answer(self, b: int, h: int, q: np.ndarray, sees: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keys, values = self.cache.rows(self.cache.keys, b, h), self.cache.rows(self.cache.values, b, h)
        scale = self.scale or 1 / np.sqrt(self.cache.head_dim)
        scores = scale * (q @ keys.T)
        hidden = (np.arange(keys.shape[0]) >= sees[:, None])[:, None, :]
        scores = np.where(hidden, -np.inf, scores)
        top = np.max(scores, axis=-1, initial=-np.inf)
        weights = np.exp(scores - np.where(np.isfinite(top), top, 0)[..., None])
        total = weights.sum(axis=-1)
        with np.errstate(divide="ignore"):
            lse = np.where(np.isfinite(top), top, 0) + np.log(total)
        out = weights @ values / np.where(total == 0, 1, total)[..., None]
        # What bounds the rounding of a score: the largest sum of magnitudes, without building it for every slot.
        largest = abs(scale) * np.linalg.norm(q, axis=-1) * np.max(np.linalg.norm(keys, axis=-1), initial=0)
        return out, lse, largest

    def _gate(self) -> float:
        """fp32 sums everywhere; GPUs round the weights to a 16-bit cache's type for the tensor cores."""
        out = _GATES[self.out.kind]
        return out if self.device.name == "cpu" else max(out, _GATES[self.cache.kind])

    def _compare_lse(self, got: np.ndarray, want: np.ndarray, largest: np.ndarray, where: str) -> Comparison:
        # On the GPU a query that is finer than the cache is the sum of two of the cache's type.
        coarse = {"bf16": 2.0**-17, "f16": 2.0**-21, "f32": 0.0}[self.cache.kind] if self.device.name != "cpu" and self.q.kind != self.cache.kind else 0.0
        gate = ((4 * np.sqrt(self.cache.head_dim) + 3) * 2.0**-24 + coarse) * largest + 1e-6 * (1 + np.where(np.isfinite(want), np.abs(want), 0))
        with np.errstate(invalid="ignore"):
            share = np.where(got == want, 0.0, np.abs(got - want) / gate)
        at = int(np.argmax(np.where(np.isnan(share), np.inf, share)))
        return Comparison(float(share.flat[at]), 1.0, f"{where} lse row {at}", int(np.sum(np.isnan(got))))


# ---------------------------------------------------------------- cache formats


@dataclass(frozen=True)
class Format:
    """How a cache stores keys and values: elements of a dtype, `per_byte` codes in a byte where it packs them."""

    name: str
    dtype: str
    per_byte: int = 1

    def refusal(self, memory: Memory) -> str:
        """"" if kv_attention takes such a cache here, else its sentence; shapes only, no memory."""
        abi, dtype = memory.abi, memory.dtype(self.dtype)

        def tensor(kind: int, *shape: int) -> Structure:
            made = abi.make("strata_tensor", dtype=kind, ndim=len(shape))
            for i, extent in enumerate(shape):
                made.shape[i] = extent
            return made

        rows_ = tensor(dtype, 4, 1, 64, 128 // self.per_byte)
        integer, half = memory.dtype("i32"), memory.dtype("bf16")
        cache = abi.make("strata_kv_cache", keys=rows_, values=rows_, page_table=tensor(integer, 1, 1, 4), lengths=tensor(integer, 1, 1))
        arguments = abi.make("strata_kv_attention_args", cache=cache, q=tensor(half, 1, 4, 128), out=tensor(half, 1, 4, 128))
        return memory.device.refusal("kv_attention", arguments)


# f16 runs bf16's kernel with one other instruction, so bf16 stands for both in the table.
FORMATS = (Format("bf16", "bf16"), Format("int8", "i8"), Format("int4", "u8", per_byte=2))
_PLAIN = {"f32", "f16", "bf16"}


def _stored(name: str) -> str:
    if name not in _PLAIN:
        raise ValueError(f"kv_attention: the cache format {name} has no generator here, must be one of {', '.join(sorted(_PLAIN))}; "
                         "extend paged_cache.py when the library takes it")
    return name


# ---------------------------------------------------------------- what is timed


def _dense(problem: Any) -> tuple[Any, Any, Any]:
    """The problem's queries [batch, heads, rows, d] and its cache without pages [batch, kv_heads, length, d]."""
    cache = problem.cache
    batch, kv_heads = cache.lengths.shape
    length = int(cache.lengths.max())
    pages = cache.page_table.native[:, :, : -(-length // cache.page_size)].long()

    def gather(pool: Any) -> Any:
        return pool.native[pages, 0].reshape(batch, kv_heads, -1, cache.head_dim)[:, :, :length].contiguous()

    q = problem.q.native.reshape(batch, problem.tokens[0], -1, cache.head_dim).transpose(1, 2).contiguous()
    return q, gather(cache.keys), gather(cache.values)


def _sdpa(backend: str) -> Callable[[Any, Problem], Callable[[], Any]]:
    """PyTorch's scaled_dot_product_attention with one backend, on dense copies of the problem's own cache."""

    def make(torch: Any, problem: Any) -> Callable[[], Any]:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        q, k, v = _dense(problem)
        causal = problem.tokens[0] > 1
        shape = tuple(problem.out.shape)

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            return out.transpose(1, 2).reshape(shape)

        return call

    return make


PEERS = (Peer("sdpa flash", _sdpa("FLASH_ATTENTION")), Peer("sdpa cudnn", _sdpa("CUDNN_ATTENTION")))


def _case(name: str, full: bool, **values: object) -> Case:
    heads = dict(q_heads=32, kv_heads=8, head_dim=128) if full else dict(q_heads=8, kv_heads=2, head_dim=64)
    return Case("kv_attention", name, frozenset({"bench"}), {key: str(value) for key, value in {**heads, "max_length": 1, **values}.items()})


def timed(full: bool) -> list[Row]:
    """Llama-3-8B's layer: 32 query and 8 KV heads of 128. `full` is what a GPU gets, else shapes for a dry run."""
    k = 1024 if full else 4
    # The share of the read bandwidth that "very good" means, by bits of a cache element.
    share = {"bf16": 0.85, "int8": 182 / 205, "int4": 95 / 120}
    decode = [(1, 4, 5.6 / 8), (1, 32, 44.7 / 50), (1, 128, None), (8, 4, 44.7 / 50), (8, 32, 358 / 380), (64, 4, 358 / 380)]
    ragged = np.random.default_rng(20).integers(128, 8192, 64) if full else np.array([1, 17, 64, 33])
    result = []
    for form in FORMATS:
        quantised = form.name not in _PLAIN
        types = {"dtype": form.name, "q": "bf16", "out": "bf16"}
        refusal = form.refusal if quantised else (lambda memory: "")
        for batch, length, very_good in decode:
            if batch == 64 and not full:
                batch = 4
            case = _case(f"decode-b{batch}-{length}k-{form.name}", full, length="/".join([str(length * k)] * batch), **types)
            result.append(Row(case, KvAttention, Target(share=share[form.name] if quantised or very_good is None else very_good), () if quantised else PEERS, refusal))
        case = _case(f"decode-b{len(ragged)}-ragged-{form.name}", full, length="/".join(map(str, ragged)), **types)
        result.append(Row(case, KvAttention, Target(share=share[form.name]), (), refusal))
    for length, tera in ((4, 350), (16, 420)):
        case = _case(f"prefill-{length}k-bf16", full, length=length * k, tokens=length * k, dtype="bf16", q="bf16", out="bf16")
        result.append(Row(case, KvAttention, Target(tera_per_second=tera), PEERS))
    return result


PROBLEMS = {"kv_attention": KvAttention}
