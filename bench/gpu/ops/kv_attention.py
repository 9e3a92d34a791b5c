# SPDX-License-Identifier: Apache-2.0
"""kv_attention: out = softmax(scale q K^T) V over a paged cache; decode and prefill."""
from __future__ import annotations

import ctypes
from ctypes import Structure
from typing import Any, Callable

import numpy as np

import cases
from cache_formats import FORMATS, Format
from cases import Case
from memory import Array, Memory
from paged_cache import PagedCache
from problem import Comparison, Peer, Problem, Row, Target, rows

_GATES = {"f32": 1e-5, "f16": 6e-4, "bf16": 4.5e-3}
# Folded scales of quantised caches are rounded: to fp16 on tensor cores, to whole numbers of 15 bits on CPUs.
_FOLDED_GPU, _FOLDED_CPU = 2e-3, 6e-4
# What a case calls formats; pools of different formats are not known here.
_FORMATS = {"i8": "i8", "f8": "f8", "i8b": "i8_block", "i4b": "i4_block"}


class KvAttention(Problem):
    op = "kv_attention"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        lengths, kv_heads, width = case.ints("length", [128]), case.int("kv_heads", 1), case.int("head_dim", 64)
        held = np.array([[max(0, length - h * case.int("uneven", 0)) for h in range(kv_heads)] for length in lengths], np.int32)
        self.tokens = case.ints("tokens", [1] * len(lengths))
        self.offsets = np.concatenate([[0], np.cumsum(self.tokens)]).astype(np.int32)
        self.causal, self.scale = case.int("causal", 1) != 0, case.float("scale", 0)
        self.window, self.sinks, self.softcap = case.int("window", 0), case.int("sinks", 0), case.float("softcap", 0)
        dtype, key, value = case.text("dtype", "f32"), case.text("key", "plain"), case.text("value", "plain")
        if key != value:
            case.asked.difference_update({"key", "value"})
        form = _FORMATS.get(key, dtype) if key == value else dtype
        self.cache = PagedCache(memory, case.text("format", form), held, width, case.int("page_size", 64), case.int("shared", 0) != 0,
                                case.int("padding", 0), layout=case.text("layout", "rows"), bias=case.int("bias", 0) != 0, tail=dtype,
                                rotation=case.int("rotation", 0))
        self.group = case.int("q_heads", kv_heads) // kv_heads
        heads = (kv_heads * self.group,)
        self.slopes = memory.array(memory.random.uniform(0.01, 0.3, heads), "f32") if case.int("alibi", 0) else None
        self.sink_logits = memory.gaussian(heads, "f32", 2) if case.int("sink_logits", 0) else None
        shape = (int(self.offsets[-1]), kv_heads * self.group, width)
        self.q = memory.gaussian(shape, case.text("q", "f32"))
        self.out = memory.empty(shape, case.text("out", "f32"), case.int("padding", 0))
        self.outputs = {"out": self.out}
        self.lse = memory.empty(shape[:2], "f32") if case.int("lse", 0) else None
        self.past_lse = memory.empty(shape[:2], "f32") if case.int("past", 0) else None
        optional: dict[str, Structure] = {}
        for name, array in (("lse", self.lse), ("past_lse", self.past_lse)):
            if array:
                self.outputs[name] = array
                optional[name] = array.tensor()
        for name, array in (("alibi_slopes", self.slopes), ("sink_logits", self.sink_logits)):
            if array:
                optional[name] = array.tensor()
        flags = memory.abi.constants["STRATA_ATTENTION_CAUSAL"] if self.causal else 0
        flags |= memory.abi.constants["STRATA_ATTENTION_BATCH_INVARIANT"] if case.int("invariant", 0) else 0
        self.row_offsets = memory.array(self.offsets, "i32")
        if len(lengths) > 1:
            optional["row_offsets"] = self.row_offsets.tensor()
        self.arguments = memory.abi.make(
            "strata_kv_attention_args", flags=flags, cache=self.cache.view(), q=self.q.tensor(), out=self.out.tensor(), scale=self.scale,
            softcap=self.softcap, window=self.window, window_sinks=self.sinks,
            max_length=int(held.max(initial=0)) if case.int("max_length", 0) else 0, **optional)
        place = case.text("plan", "")
        if place:
            self.plan = self._make_plan(place)
            self.arguments.plan = self.plan.tensor()
        seen = sum(float(np.sum(self._sees(b, h))) for b, h in np.ndindex(*held.shape))
        self.bytes = self.cache.live_bytes + self.q.bytes + self.out.bytes
        self.operations = 4 * seen * self.group * width
        self.roof = "fp32" if self.cache.kind == "f32" else "bf16"
        self.bind()

    def _make_plan(self, place: str) -> Array:
        """The plan as an engine makes it, once a step for all layers: on the device, or on the host from the lengths it knows."""
        library, context, words = self.device.library, self.device.context, ctypes.c_int64()
        library.call("strata_kv_attention_plan_words", context, ctypes.addressof(self.arguments), ctypes.addressof(words))
        if place == "device":
            plan = self.memory.empty((words.value,), "i32")
            library.call("strata_kv_attention_plan", context, ctypes.addressof(self.arguments), plan.address, words.value,
                         self.device.constant("STRATA_PLAN_DEVICE"), None)
            self.device.synchronize()
            return plan
        known = type(self.arguments).from_buffer_copy(self.arguments)
        lengths = np.ascontiguousarray(self.cache.lengths)
        known.cache.lengths.data = lengths.ctypes.data
        if known.row_offsets.data:
            known.row_offsets.data = self.offsets.ctypes.data
        made = np.zeros(words.value, np.int32)
        library.call("strata_kv_attention_plan", context, ctypes.addressof(known), made.ctypes.data, words.value,
                     self.device.constant("STRATA_PLAN_HOST"), None)
        return self.memory.array(made, "i32")

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
            out, lse, past, largest = self._answer(b, h, q, picked)
            where = f"sequence {b}, head {h}:"
            worst = worst.worst(rows(self.out.values(picked + self.offsets[b])[:, heads], out, self._gate(), where))
            for array, want in ((self.lse, lse), (self.past_lse, past)):
                if array:
                    worst = worst.worst(self._compare_lse(array.values(picked + self.offsets[b])[:, heads], want, largest, where))
        return worst

    def _sees(self, b: int, h: int) -> np.ndarray:
        """Slots that each query row of a sequence sees."""
        tokens, length = self.tokens[b], int(self.cache.lengths[b, h])
        return np.clip(length - tokens + np.arange(tokens) + 1, 0, length) if self.causal else np.full(tokens, length)

    def _answer(self, b: int, h: int, q: np.ndarray, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """out, lse and past lse of the picked rows of a sequence, and what bounds the rounding of their scores."""
        keys, values, bias = self.cache.key_rows(b, h), self.cache.value_rows(b, h), self.cache.bias_of(b, h)
        heads, length = slice(h * self.group, (h + 1) * self.group), keys.shape[0]
        scale = self.scale or 1 / np.sqrt(self.cache.head_dim)
        slots, positions = np.arange(length), length - self.tokens[b] + picked
        q = _turned(q, self.cache.rotation)
        scores = scale * (q @ keys.T)
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        # What bounds the rounding of a score: the largest sum of magnitudes, without building it for every slot.
        largest = abs(scale) * np.linalg.norm(q, axis=-1) * np.max(np.linalg.norm(keys, axis=-1), initial=0) + np.max(np.abs(bias), initial=0) + self.softcap
        if self.slopes:
            slopes = self.slopes.values()[heads]
            scores = scores + slopes[:, None] * (slots - positions[:, None])[:, None, :]
            largest = largest + slopes * np.max(np.abs(slots - positions[:, None]), axis=-1, initial=0)[:, None]
        ends = self._sees(b, h)[picked][:, None]
        starts = np.maximum(ends - self.window, 0) if self.window else 0
        seen = ((slots < ends) & ((slots >= starts) | (slots < self.sinks)))[:, None, :]
        scores = np.where(seen, scores + bias, -np.inf)
        past, _ = _log_sum(np.where(slots < length - self.tokens[b], scores, -np.inf))
        lse, weights = _log_sum(scores)
        if self.sink_logits:
            sink = self.sink_logits.values()[heads]
            joined = np.logaddexp(lse, sink)
            weights = weights * np.exp(lse - joined)[..., None]
            lse = joined
        return _turned(weights @ values, self.cache.rotation), lse, past, largest

    def _gate(self) -> float:
        """fp32 sums everywhere; where products are of 16 bits, the weights are rounded to the cache's type for them."""
        out = _GATES[self.out.kind]
        if not self.cache.form.plain:
            return max(out, _FOLDED_CPU if self.device.name == "cpu" else _FOLDED_GPU)
        return max(out, _GATES[self.cache.kind]) if self._narrow_products() else out

    def _narrow_products(self) -> bool:
        """On GPUs the tensor cores, on CPUs the dot products of codes and on some of bf16."""
        return self.device.name != "cpu" or not self.cache.form.plain or (self.cache.kind == "bf16" and self.device.isa.startswith(("avx512vnni", "amx")))

    def _compare_lse(self, got: np.ndarray, want: np.ndarray, largest: np.ndarray, where: str) -> Comparison:
        # There a query that is finer than the cache is the sum of two of the cache's type.
        coarse = 0.0
        if not self.cache.form.plain:
            coarse = 2.0**-14
        elif self._narrow_products() and self.q.kind != self.cache.kind:
            coarse = {"bf16": 2.0**-17, "f32": 0.0}.get(self.cache.kind, 2.0**-21)
        gate = ((4 * np.sqrt(self.cache.head_dim) + 3) * 2.0**-24 + coarse) * largest + 1e-6 * (1 + np.where(np.isfinite(want), np.abs(want), 0))
        with np.errstate(invalid="ignore"):
            share = np.where(got == want, 0.0, np.abs(got - want) / gate)
        at = int(np.argmax(np.where(np.isnan(share), np.inf, share)))
        return Comparison(float(share.flat[at]), 1.0, f"{where} lse row {at}", int(np.sum(np.isnan(got))))


def _turned(x: np.ndarray, n: int) -> np.ndarray:
    """Each n channels after a normalised Walsh-Hadamard transform, which is its own inverse; 0: as they are."""
    if n == 0:
        return x
    matrix = np.ones((1, 1))
    while matrix.shape[0] < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (x.reshape(*x.shape[:-1], -1, n) @ matrix / np.sqrt(n)).reshape(x.shape)


def _log_sum(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln sum exp over the last axis, -inf where there is nothing, and the weights exp(s - that), 0 there."""
    top = np.max(scores, axis=-1, initial=-np.inf)
    base = np.where(np.isfinite(top), top, 0)
    weights = np.exp(scores - base[..., None])
    total = weights.sum(axis=-1)
    with np.errstate(divide="ignore"):
        return base + np.log(total), weights / np.where(total == 0, 1, total)[..., None]


class MergeStates(Problem):
    """merge_states: attention over disjoint sets of keys joined by their log-sum-exps."""

    op = "merge_states"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        count, padding = case.int("parts", 2), case.int("padding", 0)
        shape = (case.int("tokens", 1), case.int("q_heads", 1), case.int("head_dim", 64))
        self.parts = memory.gaussian((count, *shape), case.text("dtype", "f32"), padding=padding)
        part_lse = 3 * memory.random.standard_normal((count, *shape[:2]))
        part_lse[memory.random.random(part_lse.shape) < 0.1] = -np.inf  # a part that saw nothing counts nothing
        self.part_lse = memory.array(part_lse, "f32")
        self.out = memory.empty(shape, case.text("out", "f32"), padding)
        self.outputs = {"out": self.out}
        optional: dict[str, Structure] = {}
        if case.int("lse", 1):
            self.lse = memory.empty(shape[:2], "f32")
            self.outputs["lse"] = self.lse
            optional["lse"] = self.lse.tensor()
        self.arguments = memory.abi.make("strata_merge_states_args", parts=self.parts.tensor(), part_lse=self.part_lse.tensor(), out=self.out.tensor(),
                                         **optional)
        self.bytes = self.parts.bytes + self.part_lse.bytes + self.out.bytes
        self.operations = 2.0 * self.parts.count
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        gate = _GATES[self.out.kind]
        picked = self.sample(self.out.shape[0], None if samples is None else 64 * samples)
        lse = self.part_lse.values(slice(None), picked)
        top = np.max(lse, axis=0, initial=-np.inf)
        weights = np.exp(lse - np.where(np.isfinite(top), top, 0))
        total = weights.sum(axis=0)
        out = (weights[..., None] * self.parts.values(slice(None), picked)).sum(axis=0) / np.where(total == 0, 1, total)[..., None]
        worst = rows(self.out.values(picked), out, gate, "out")
        if "lse" not in self.outputs:
            return worst
        with np.errstate(divide="ignore", invalid="ignore"):
            want, got = np.where(np.isfinite(top), top, 0) + np.log(total), self.lse.values(picked)
            error = np.where(got == want, 0.0, np.abs(got - want) / (1 + np.abs(np.where(np.isfinite(want), want, 0))))
        return worst.worst(Comparison(float(np.max(error, initial=0)), 1e-6, "lse", int(np.isnan(got).sum())))


# ---------------------------------------------------------------- what is timed


def _refusal(form: Format, layout: str) -> Callable[[Memory], str]:
    """Why kv_attention does not take such a cache here, in the library's sentence; "" if it does. Shapes only, no memory."""

    def ask(memory: Memory) -> str:
        abi = memory.abi
        missing = form.missing(abi)
        if missing or (layout != "rows" and f"STRATA_KV_{layout.upper()}" not in abi.constants):
            return missing or f"kv_cache: the ABI record has no layout {layout}, must have to use it; use a library that has it"

        def tensor(kind: str, *shape: int) -> Structure:
            made = abi.make("strata_tensor", dtype=memory.dtype(kind), ndim=len(shape))
            for i, extent in enumerate(shape):
                made.shape[i] = extent
            return made

        pool = tensor(form.kind, 4, 1, 64, form.width(128))
        fields: dict[str, object] = {}
        if not form.plain:
            fields = {f"{pool_name}_scales": tensor("f16", *form.scale_shape(pool_name == "key", 4, 1, 64, 128)) for pool_name in ("key", "value")}
            fields["key_format"] = fields["value_format"] = abi.constants[form.constant]
        if form.blocks:
            fields["key_tail"] = tensor("f16", 1, 32, 128)
        if layout != "rows":
            fields["layout"] = abi.constants[f"STRATA_KV_{layout.upper()}"]
        cache = abi.make("strata_kv_cache", keys=pool, values=pool, page_table=tensor("i32", 1, 1, 4), lengths=tensor("i32", 1, 1), **fields)
        arguments = abi.make("strata_kv_attention_args", cache=cache, q=tensor("bf16", 1, 4, 128), out=tensor("bf16", 1, 4, 128))
        return memory.device.refusal("kv_attention", arguments)

    return ask


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
    return cases.timed("kv_attention", name, **heads, max_length=1, **values)


def _merge_refusal(memory: Memory) -> str:
    known = "strata_merge_states_run" in memory.abi.functions
    return "" if known else "merge_states: the ABI record has no strata_merge_states_run, must have to time it; use a library that has it"


# (format, layout, whether every shape is timed or only three), and the share of the read bandwidth that "very good" means. f16 runs bf16's kernel with one
# other instruction, so bf16 stands for both.
_CACHES = ((FORMATS["bf16"], "rows", True, 0.85), (FORMATS["bf16"], "swizzled", True, 0.85), (FORMATS["i8"], "rows", False, 182 / 205),
           (FORMATS["f8"], "rows", False, 182 / 205), (FORMATS["i8"], "tiled", False, 182 / 205), (FORMATS["f8"], "tiled", False, 182 / 205),
           (FORMATS["i8_block"], "tiled", False, 182 / 205), (FORMATS["i4_block"], "tiled", True, 95 / 120))
# Batch, length in k, and what "very good" means at 16 bits where the shape has a figure of its own.
_DECODE = ((1, 4, 5.6 / 8), (1, 32, 44.7 / 50), (1, 128, None), (8, 4, 44.7 / 50), (8, 32, 358 / 380), (64, 4, 358 / 380))
_FEW = ((1, 32), (8, 4), (8, 32))
# One plan serves all layers of a step, so it is made before what is timed; these two, of bf16 rows, are timed making it as well.
_PLANNED = ((1, 4), (8, 4))


def timed(full: bool) -> list[Row]:
    """Llama-3-8B's layer: 32 query and 8 KV heads of 128. `full` is what a GPU gets, else shapes for a dry run."""
    k = 1024 if full else 4
    ragged = np.random.default_rng(20).integers(128, 8192, 64) if full else np.array([1, 17, 64, 33])
    result = []
    for form, layout, every, share in _CACHES:
        name = form.name if layout == "rows" or form.blocks else f"{form.name}-{layout}"
        types = {"format": form.name, "layout": layout, "q": "bf16", "out": "bf16", "plan": "device"}
        peers = PEERS if form.plain and layout == "rows" else ()
        for batch, length, very_good in _DECODE:
            if not every and (batch, length) not in _FEW:
                continue
            sequences = batch if full else min(batch, 4)
            case = _case(f"decode-b{batch}-{length}k-{name}", full, length="/".join([str(length * k)] * sequences), **types)
            target = Target(share=very_good if form.plain and very_good else share)
            result.append(Row(case, KvAttention, target, peers, _refusal(form, layout)))
            if peers and (batch, length) in _PLANNED:
                planning = {**types, "plan": ""}
                case = _case(f"decode-b{batch}-{length}k-{name}-plan", full, length="/".join([str(length * k)] * sequences), **planning)
                result.append(Row(case, KvAttention, target, (), _refusal(form, layout)))
        if every:
            case = _case(f"decode-b64-ragged-{name}", full, length="/".join(map(str, ragged)), **types)
            result.append(Row(case, KvAttention, Target(share=share), (), _refusal(form, layout)))
        if form.plain:
            for length, tera in ((4, 350), (16, 420)):
                case = _case(f"prefill-{length}k-{name}", full, length=length * k, tokens=length * k, **types)
                result.append(Row(case, KvAttention, Target(tera_per_second=tera), peers, _refusal(form, layout)))
    # A prefix shared by a batch, and its suffixes: two parts a row.
    tokens, heads, width = (4096, 32, 128) if full else (9, 4, 64)
    case = cases.timed("merge_states", f"2x{tokens}-bf16", parts=2, tokens=tokens, q_heads=heads, head_dim=width, dtype="bf16", out="bf16")
    result.append(Row(case, MergeStates, Target(share=0.8), (), _merge_refusal))
    return result


PROBLEMS = {"kv_attention": KvAttention, "merge_states": MergeStates}
