# SPDX-License-Identifier: Apache-2.0
"""Times of calls: replays of a CUDA graph on a GPU, the wall clock on devices that run at once."""
from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Protocol

# A graph shorter than this is mostly its own start: calls go round more than once.
_FEWEST_CALLS = 48


@dataclass(frozen=True)
class Times:
    """Microseconds of one call."""

    median: float
    p20: float
    p80: float


def _times(samples: list[float]) -> Times:
    ordered = sorted(samples)
    return Times(statistics.median(ordered), ordered[int(0.2 * (len(ordered) - 1))], ordered[int(0.8 * (len(ordered) - 1) + 0.999)])


class Timer(Protocol):
    """`measure` takes calls over distinct memory and returns the time of one."""

    def measure(self, calls: list[Callable[[], Any]], milliseconds_each: float = 0) -> Times: ...

    def stream(self) -> int:
        """The stream that a call must use now."""
        ...


class GraphTimer:
    """Replays of a graph that holds all calls in turn, between two events."""

    REPLAYS = 20

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def stream(self) -> int:
        return int(self._torch.cuda.current_stream().cuda_stream)

    def measure(self, calls: list[Callable[[], Any]], milliseconds_each: float = 0) -> Times:
        torch = self._torch
        rounds = max(1, -(-_FEWEST_CALLS // len(calls))) if milliseconds_each < 0.2 else 1
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls:  # modules load, workspaces are made
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            for _ in range(rounds):
                for call in calls:
                    call()
        graph.replay()
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(self.REPLAYS)]
        for start, end in events:
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return _times([1e3 * start.elapsed_time(end) / (rounds * len(calls)) for start, end in events])


class WallTimer:
    """For devices whose calls are done when they return."""

    REPLAYS = 3

    def stream(self) -> int:
        return 0

    def measure(self, calls: list[Callable[[], Any]], milliseconds_each: float = 0) -> Times:
        samples = []
        for _ in range(self.REPLAYS):
            start = time.perf_counter()
            for call in calls:
                call()
            samples.append(1e6 * (time.perf_counter() - start) / len(calls))
        return _times(samples)
