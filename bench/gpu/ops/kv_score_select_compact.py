# SPDX-License-Identifier: Apache-2.0
"""Eviction: kv_score (scores of the slots), kv_select (which stay), kv_compact (moves them)."""
from __future__ import annotations

from typing import Any, Callable

import numpy as np

import cases
import elements
from cases import Case
from memory import Memory
from paged_cache import PagedCache, lengths
from problem import Comparison, Peer, Problem, Row, Target, exact


class KvScore(Problem):
    op = "kv_score"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        batch, q_heads, kv_heads, width = case.int("batch", 1), case.int("q_heads", 9), case.int("kv_heads", 3), case.int("head_dim", 64)
        self.window, self.group, padding = case.int("window", 8), q_heads // kv_heads, case.int("padding", 0)
        held = lengths(case.ints("length", [64]), batch, kv_heads)
        kind = case.text("dtype", "f32")
        self.cache = PagedCache(memory, kind, held, width, case.int("page_size", 64), case.int("shared", 0) != 0, padding)
        self.q = memory.gaussian((batch, self.window, q_heads, width), case.text("q", kind), padding=padding)
        self.statistic, self.pool, self.pool_width = case.text("statistic", "sum"), case.text("pool", "none"), case.int("width", 0)
        self.heads, self.reduce_first = case.text("heads", "groupmean"), case.int("reduce_first", 0) != 0
        self.exclude, self.gamma = case.int("exclude", self.window), case.float("gamma", 0)
        longest, bounded = int(held.max(initial=0)), case.int("bound", 0) != 0
        capacity = longest if bounded else self.cache.max_pages * self.cache.page_size
        self.scores = memory.empty((batch, kv_heads, max(1, capacity)), "f32", 3)
        self.outputs = {"scores": self.scores}
        optional = {}
        if case.int("lse", 0):
            of_head = [[self._probabilities(b, h)[1] for h in range(kv_heads)] for b in range(batch)]  # [group, window] each
            self.lse = memory.array(np.array(of_head).reshape(batch, q_heads, self.window).transpose(0, 2, 1), "f32")
            optional["lse"] = self.lse.tensor()
        constant = memory.abi.constants
        self.arguments = memory.abi.make(
            "strata_kv_score_args", cache=self.cache.view(), q=self.q.tensor(), scores=self.scores.tensor(),
            statistic=constant["STRATA_SCORE_" + {"meanvariance": "MEAN_VARIANCE"}.get(self.statistic, self.statistic.upper())],
            pool=constant[f"STRATA_POOL_{self.pool.upper()}"], pool_width=self.pool_width,
            heads=constant["STRATA_HEADS_" + {"groupmean": "GROUP_MEAN", "groupmax": "GROUP_MAX", "layermean": "LAYER_MEAN"}[self.heads]],
            reduce_first=int(self.reduce_first), exclude_last=self.exclude, gamma=self.gamma, max_length=longest if bounded else 0, **optional)
        columns = np.maximum(0, held - self.exclude).sum()
        self.bytes = self.cache.live_bytes // 2 + self.q.bytes + 4 * int(columns)
        self.operations = 2.0 * self.window * self.group * width * float(held.sum()) * (1 if optional else 2)
        self.roof = "fp32" if kind == "f32" else "bf16"
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        # Per key, because a small score decides as much as a large one; below 1e-12 nothing counts.
        gate, floor = 5e-4, 1e-12
        worst = Comparison(0.0, gate)
        batch, kv_heads = self.cache.lengths.shape
        for pair in self.sample(batch * kv_heads, samples):
            b, h = divmod(int(pair), kv_heads)
            got, want = self.scores.values(b, h), self._answer(b, h)
            error = np.maximum(0, np.abs(got[: want.size] - want) - floor) / np.maximum(np.abs(want), 1e-300)
            if error.size:
                at = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
                worst = worst.worst(Comparison(float(error[at]), gate, f"sequence {b}, head {h}, slot {at}", int(np.isnan(error).sum())))
            if not np.isnan(got[want.size :]).all():
                worst = worst.worst(Comparison(1.0, 0.0, f"sequence {b}, head {h}: a column from {want.size} on, which must be left alone"))
        return worst

    def result(self) -> Any:
        return self.scores.native[..., : int(self.cache.lengths.max()) - self.exclude]  # type: ignore[attr-defined]

    def _probabilities(self, b: int, h: int) -> tuple[np.ndarray, np.ndarray]:
        """[group, window, slots] and their log-sum-exp [group, window]; rows that see nothing are zeros."""
        keys = self.cache.key_rows(b, h)
        q = self.q.values(b)[:, h * self.group : (h + 1) * self.group].transpose(1, 0, 2)
        scores = q @ keys.T / np.sqrt(self.cache.head_dim)
        length = keys.shape[0]
        hidden = np.arange(length) > length - self.window + np.arange(self.window)[:, None]
        scores = np.where(hidden, -np.inf, scores)
        top = np.max(scores, axis=-1, initial=-np.inf, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        weights = np.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        with np.errstate(divide="ignore"):
            return weights / np.where(total == 0, 1, total), (top + np.log(total))[..., 0]

    def _answer(self, b: int, h: int) -> np.ndarray:
        columns = max(0, int(self.cache.lengths[b, h]) - self.exclude)
        heads = range(self.cache.lengths.shape[1]) if self.heads == "layermean" else [h]
        planes = [plane for head in heads for plane in self._statistics(b, head)]
        if not self.reduce_first:
            planes = [self._pooled(plane) for plane in planes]
        # A head without the slot counts as 0.
        stack = np.stack([np.concatenate([plane[:columns], np.zeros(max(0, columns - plane.size))]) for plane in planes])
        reduced = stack.max(axis=0) if self.heads == "groupmax" else stack.mean(axis=0)
        return self._pooled(reduced) if self.reduce_first else reduced

    def _statistics(self, b: int, h: int) -> np.ndarray:
        """One plane [columns] a query head of the group."""
        p = self._probabilities(b, h)[0][:, :, : max(0, int(self.cache.lengths[b, h]) - self.exclude)]
        if self.statistic == "sum":
            return p.sum(axis=1)
        if self.statistic == "max":
            return p.max(axis=1)
        mean = p.mean(axis=1)
        if self.statistic == "mean" or self.window == 1:
            return mean
        return mean + float(np.float32(self.gamma)) * p.var(axis=1, ddof=1)

    def _pooled(self, plane: np.ndarray) -> np.ndarray:
        if self.pool == "none" or plane.size == 0:
            return plane
        half = self.pool_width // 2
        edge = 0.0 if self.pool == "average" else -np.inf
        padded = np.concatenate([np.full(half, edge), plane, np.full(half, edge)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.pool_width)
        return windows.sum(axis=1) / self.pool_width if self.pool == "average" else windows.max(axis=1)


class KvSelect(Problem):
    op = "kv_select"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        batch, kv_heads, padding = case.int("batch", 1), case.int("kv_heads", 3), case.int("padding", 0)
        self.lengths = lengths(case.ints("length", [64]), batch, kv_heads)
        budget = case.ints("budget", [16])
        self.budgets = lengths(budget, batch, kv_heads)
        self.first, self.last = case.int("first", 0), case.int("last", 0)
        longest = int(self.lengths.max())
        capacity = case.int("capacity", longest)
        self.host_scores = self._scores(case.text("scores", "gaussian"), (batch, kv_heads, capacity))
        optional = {}
        if self.host_scores is not None:
            self.scores = memory.array(self.host_scores, "f32", padding)
            optional["scores"] = self.scores.tensor()
        if len(budget) > 1:
            self.budget_array = memory.array(self.budgets, "i32", padding)
            optional["budgets"] = self.budget_array.tensor()
        self.length_array = memory.array(self.lengths, "i32", padding)
        self.kept = memory.empty((batch, kv_heads, max(budget)), "i32", 2)
        self.counts = memory.empty((batch, kv_heads), "i32")
        self.outputs = {"kept": self.kept, "kept_counts": self.counts}
        self.arguments = memory.abi.make(
            "strata_kv_select_args", lengths=self.length_array.tensor(), kept=self.kept.tensor(), kept_counts=self.counts.tensor(),
            budget=budget[0] if len(budget) == 1 else 0, protect_first=self.first, protect_last=self.last,
            max_length=max(capacity, longest) if self.host_scores is None or capacity < longest else 0, **optional)
        self.bytes = (self.scores.bytes if self.host_scores is not None else 0) + 4 * int(np.minimum(self.budgets, self.lengths).sum())
        self.operations = float(self.host_scores.size) if self.host_scores is not None else 0.0
        self.bind()

    def check(self, samples: int | None = None) -> Comparison:
        worst = Comparison()
        kept, counts = self.kept.stored(), self.counts.stored()
        for pair in self.sample(self.lengths.size, samples):
            b, h = divmod(int(pair), self.lengths.shape[1])
            want = self._answer(b, h)
            whole = np.full(kept.shape[2], -1, np.int32)
            whole[: want.size] = want
            worst = worst.worst(exact(kept[b, h], whole, f"kept of sequence {b}, head {h}"))
            worst = worst.worst(exact(counts[b, h : h + 1], np.array([want.size], np.int32), f"count of sequence {b}, head {h}"))
        return worst

    def _scores(self, kind: str, shape: tuple[int, ...]) -> np.ndarray | None:
        random = self.memory.random
        if kind == "none":
            return None
        if kind == "few":
            scores = random.integers(-1, 2, shape).astype(np.float32)
        elif kind == "equal":
            scores = np.full(shape, 0.25, np.float32)
        elif kind == "special":
            limits = np.finfo(np.float32)
            tiny = limits.smallest_subnormal
            scores = random.choice(np.array([np.nan, -np.inf, np.inf, 0.0, -0.0, tiny, -tiny, limits.max, limits.min, 1, -1], np.float32), shape)
        else:
            scores = random.standard_normal(shape).astype(np.float32)
        # Protected slots and slots past the end have no score that counts.
        slots = np.arange(shape[2])
        scores[(slots < self.first) | (slots >= (self.lengths - self.last)[..., None])] = np.nan
        return scores

    def _answer(self, b: int, h: int) -> np.ndarray:
        length, budget = int(self.lengths[b, h]), int(self.budgets[b, h])
        if budget >= length:
            return np.arange(length)
        first = min(self.first, length)
        last = min(self.last, length - first)
        middle = np.arange(first, length - last)
        if self.host_scores is not None:
            scores = self.host_scores[b, h, middle]
            # Higher first, NaN last, equal ones by slot; -0 equals +0.
            middle = middle[np.lexsort((middle, -np.where(np.isnan(scores), 0, scores.astype(np.float64)), np.isnan(scores)))]
        first = min(first, budget)
        last = min(last, budget - first)
        return np.concatenate([np.arange(first), np.sort(middle[: budget - first - last]), np.arange(length - last, length)])


class KvCompact(Problem):
    op = "kv_compact"

    def __init__(self, memory: Memory, case: Case) -> None:
        super().__init__(memory, case)
        batch, kv_heads = case.int("batch", 1), case.int("kv_heads", 3)
        held = lengths(case.ints("length", [64]), batch, kv_heads)
        self.fresh = case.int("fresh", 0) != 0
        self.cache = PagedCache(memory, case.text("dtype", "f16"), held, case.int("head_dim", 64), case.int("page_size", 64), case.int("shared", 0) != 0,
                                case.int("padding", 0), self.fresh)
        self.slots = [[self._kept(case, int(held[b, h])) for h in range(kv_heads)] for b in range(batch)]
        kept = np.full((batch, kv_heads, max(1, int(held.max(initial=0)))), -1, np.int32)
        for b, h in np.ndindex(batch, kv_heads):
            kept[b, h, : self.slots[b][h].size] = self.slots[b][h]
        self.kept = memory.array(kept, "i32", 1)
        self.host_counts = np.array([[slots.size for slots in row] for row in self.slots], np.int32)
        self.counts = memory.array(self.host_counts, "i32")
        self.new_lengths = memory.empty((batch, kv_heads), "i32")
        optional = {}
        if self.fresh:
            self.to_table = memory.array(self.cache.fresh_table, "i32")
            optional["to_page_table"] = self.to_table.tensor()
        self.arguments = memory.abi.make("strata_kv_compact_args", cache=self.cache.view(), kept=self.kept.tensor(), kept_counts=self.counts.tensor(),
                                         new_lengths=self.new_lengths.tensor(), **optional)
        self._pools = {"keys": self.cache.keys, "values": self.cache.values, "positions": self.cache.positions}
        self.outputs = {**self._pools, "new_lengths": self.new_lengths}
        self._before = {name: array.stored() for name, array in self._pools.items()}
        self._first_run = True
        moved = sum(int(np.sum(slots != np.arange(slots.size))) if not self.fresh else slots.size for row in self.slots for slots in row)
        self.bytes = 4 * moved * self.cache.head_dim * elements.size(self.cache.kind)
        self.operations = 0.0
        self.bind()

    def reset(self) -> None:
        self.new_lengths.poison()
        if self._workspace:
            self._workspace.poison()
        if not self._first_run:
            for name, array in self._pools.items():
                array.write(self._before[name])
        self._first_run = False

    def check(self, samples: int | None = None) -> Comparison:
        """Bit for bit, whole pools: what is not a destination must be as it was."""
        worst = exact(self.new_lengths.stored(), self.host_counts, "new_lengths")
        target = self.cache.fresh_table if self.fresh else self.cache.table
        for name, array in self._pools.items():
            before, want = self._before[name], self._before[name].copy()
            for b, h in np.ndindex(*self.host_counts.shape):
                slots = self.slots[b][h]
                want[self.cache.places(target, b, h, np.arange(slots.size))] = before[self.cache.places(self.cache.table, b, h, slots)]
            worst = worst.worst(exact(array.stored().view(np.uint8), want.view(np.uint8), f"{name}, byte"))
        return worst

    def _kept(self, case: Case, length: int) -> np.ndarray:
        slots = np.arange(length)
        if case.has("count"):
            return np.sort(self.memory.random.permutation(length)[: case.int("count", 0)])
        return slots[(slots >= length - case.int("tail", 0)) | (self.memory.random.integers(1, 101, length) <= case.int("keep", 25))]


# ---------------------------------------------------------------- what is timed


def _eager_scores(torch: Any, problem: Any) -> Callable[[], Any]:
    """The window's softmax, its statistic, pooling and the mean of the group, as an expression of PyTorch."""
    cache = problem.cache
    batch, kv_heads = cache.lengths.shape
    length, window, group = int(cache.lengths.max()), problem.window, problem.group
    pages = cache.page_table.native[:, :, : -(-length // cache.page_size)].long()
    keys = cache.keys.native[pages, 0].reshape(batch, kv_heads, -1, cache.head_dim)[:, :, :length].contiguous()
    q = problem.q.native.permute(0, 2, 1, 3).reshape(batch, kv_heads, group * window, cache.head_dim).contiguous()
    slots = torch.arange(length, device=q.device)
    hidden = slots > (length - window + torch.arange(window, device=q.device))[:, None]

    def call() -> Any:
        scores = (q @ keys.transpose(-1, -2)).float().reshape(batch, kv_heads, group, window, length) / cache.head_dim**0.5
        p = torch.softmax(scores.masked_fill(hidden, float("-inf")), -1)[..., : length - problem.exclude]
        mean = p.mean(-2)
        if problem.statistic == "meanvariance":
            mean = mean + problem.gamma * p.var(-2)
        return mean.mean(2)

    return call


def _eager_topk(torch: Any, problem: Any) -> Callable[[], Any]:
    scores, budget = problem.scores.native.nan_to_num(float("inf")), int(problem.budgets.max())
    return lambda: torch.topk(scores, budget, dim=-1, sorted=False).indices.sort(-1).values.int()


def _eager_gather(torch: Any, problem: Any) -> Callable[[], Any]:
    cache = problem.cache
    batch, kv_heads = cache.lengths.shape
    shape = (batch, kv_heads, int(cache.lengths.max()), cache.head_dim)
    keys, values = (torch.randn(shape, device=cache.keys.native.device, dtype=cache.keys.native.dtype) for _ in range(2))
    index = problem.kept.native[:, :, : int(problem.host_counts.max())].long()[..., None].expand(-1, -1, -1, cache.head_dim)
    return lambda: (keys.gather(2, index), values.gather(2, index))


def timed(full: bool) -> list[Row]:
    heads = dict(q_heads=32, kv_heads=8, head_dim=128) if full else dict(q_heads=4, kv_heads=2, head_dim=64)
    k = 1024 if full else 8

    def case(op: str, name: str, **values: object) -> Case:
        return cases.timed(op, name, **heads, **values)

    def score(length: int, window: int, statistic: str = "mean", **more: object) -> Row:
        target = Target(share=22 / 27) if length == 32 and window == 32 else Target()
        window = window if full else window // 4
        name = f"{length}k-w{window}-{statistic}" + "".join(f"-{key}" for key in more if key == "lse")
        values = dict(length=length * k, window=window, statistic=statistic, dtype="bf16", q="bf16", exclude=window, bound=1, **more)
        peers = (Peer("eager", _eager_scores),)
        return Row(case("kv_score", name, **values), KvScore, target, peers)

    result = [score(4, 32), *(score(length, window) for length in (32, 128) for window in (8, 32, 64))]
    result += [score(32, 32, lse=1), score(32, 32, "meanvariance", gamma=200)]
    for length, budget in ((4, 1), (32, 1), (32, 4), (128, 4)):
        selected = case("kv_select", f"{budget}k-of-{length}k-x8", length=length * k, budget=budget * k)
        result.append(Row(selected, KvSelect, Target(microseconds=8) if (length, budget) == (32, 1) else Target(), (Peer("topk + sort", _eager_topk),)))
    for fresh in (0, 1):
        moved = case("kv_compact", f"4k-of-32k-{'fresh' if fresh else 'in-place'}", length=32 * k, count=4 * k, dtype="bf16", fresh=fresh)
        result.append(Row(moved, KvCompact, Target(share=11.2 / 13), (Peer("gather", _eager_gather, compares=False),)))
    return result


PROBLEMS = {"kv_score": KvScore, "kv_select": KvSelect, "kv_compact": KvCompact}
