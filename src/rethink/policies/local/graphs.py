"""CUDA graphs of decoding steps: one launch per step instead of one per operation.

A step of a small model has hundreds of operations, which a GPU runs faster than Python can launch them. A graph works on
the same tensors each time, so it is valid until rows move or columns are opened (`Cache.n_layouts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch
from torch import Tensor

Work = Callable[[], Tensor]
"""Operations on the same tensors with the same shapes at each call, none of which waits for the device."""

Recorded = tuple[Callable[[], None], Tensor]
"""A function that replays the work, and the result tensor, which each replay overwrites."""

Recorder = Callable[[Work], Recorded]
"""Records the work without running it."""


class Graphs:
    """Runs work, and replays a recording of it while the layout stays the same."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._layout = -1
        self._recorded: Recorded | None = None
        self._is_stale = True

    def run(self, layout: int, work: Work) -> Tensor:
        """Return the work's result, valid until the next call."""
        if layout != self._layout:
            self._layout, self._is_stale = layout, True
            return work()  # a warm-up: libraries initialize things that cannot be recorded
        if self._is_stale or self._recorded is None:
            # Replace the old graph only now: a pool is freed with its last graph.
            self._recorded, self._is_stale = self._record(work), False
        replay, result = self._recorded
        replay()
        return result

    def clear(self) -> None:
        """Drop the recording."""
        self._recorded, self._layout = None, -1


@contextmanager
def gpu_graphs(device: torch.device) -> Iterator[Graphs]:
    """Yield the graphs of this GPU, and free their memory at the end; torch would keep it until memory runs out."""
    graphs = Graphs(_recorder(device))
    try:
        yield graphs
    finally:
        graphs.clear()
        torch.cuda.empty_cache()


_capture_lock = Lock()


def _recorder(device: torch.device) -> Recorder:
    """Return a function that records CUDA graphs in one memory pool.

    It raises RuntimeError for work that cannot be recorded. Do not continue after that: torch's memory is unreliable."""
    pool, side_stream = torch.cuda.graph_pool_handle(), _capture_stream(device)

    def record(work: Work) -> Recorded:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        with _capture_lock, torch.cuda.device(device):
            torch.cuda.empty_cache()  # torch frees no cached memory while recording
            side_stream.wait_stream(here)
            with torch.cuda.stream(side_stream):
                # "thread_local", because another thread may be training.
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    result = work()
                finally:
                    graph.capture_end()
            here.wait_stream(side_stream)
        return graph.replay, result

    return record


@cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return one stream for all recordings: cuBLAS keeps a workspace for each stream that it sees."""
    return torch.cuda.Stream(device)
