# SPDX-License-Identifier: Apache-2.0
"""Times of calls: replays of a CUDA graph on a GPU, the wall clock on devices that run at once."""
from __future__ import annotations

import gc
import math
import statistics
import time
from dataclasses import dataclass
from typing import Any, Callable, Protocol

# Milliseconds of work between two events: shorter is mostly the graph's own start, longer is waiting for nothing.
_LEAST, _MOST = 0.5, 250.0


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

    def measure(self, calls: list[Callable[[], Any]]) -> Times: ...

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

    def measure(self, calls: list[Callable[[], Any]]) -> Times:
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):  # modules load and workspaces are made in the first round; the second is timed
                pair = self._events()
                pair[0].record()
                for call in calls:
                    call()
                pair[1].record()
            torch.cuda.synchronize()
            once = pair[0].elapsed_time(pair[1])
            rounds = max(1, math.ceil(_LEAST / once))
            graph = torch.cuda.CUDAGraph()
            gc.disable()  # nothing may be freed while a graph is recorded
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                for _ in range(rounds):
                    for call in calls:
                        call()
            finally:
                graph.capture_end()
                gc.enable()
        graph.replay()
        pairs = [self._events() for _ in range(int(min(self.REPLAYS, max(5, _MOST / (rounds * once)))))]
        for start, end in pairs:
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return _times([1e3 * start.elapsed_time(end) / (rounds * len(calls)) for start, end in pairs])

    def _events(self) -> tuple[Any, Any]:
        return self._torch.cuda.Event(enable_timing=True), self._torch.cuda.Event(enable_timing=True)


class WallTimer:
    """For devices whose calls are done when they return."""

    REPLAYS = 3

    def stream(self) -> int:
        return 0

    def measure(self, calls: list[Callable[[], Any]]) -> Times:
        samples = []
        for _ in range(self.REPLAYS):
            start = time.perf_counter()
            for call in calls:
                call()
            samples.append(1e6 * (time.perf_counter() - start) / len(calls))
        return _times(samples)
