"""Steps of the sampler recorded and repeated: one launch of a CUDA graph in place of one for each operation.

A step of a small model has hundreds of operations that a GPU does faster than Python can ask for them. What is recorded
works on the same tensors each time, so that a graph serves until rows move or columns are opened (`Cache.n_layouts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import torch
from torch import Tensor

Work = Callable[[], Tensor]
"""Operations on the same tensors each time, of the same shapes, none of which waits for the device."""

Recorded = tuple[Callable[[], None], Tensor]
"""What does the work again, and its result, which is overwritten each time."""

Recorder = Callable[[Work], Recorded]
"""Takes the work down, without doing it."""


class Graphs:
    """Does work, and repeats it while the layout stays the same."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._layout = -1
        self._recorded: Recorded | None = None
        self._is_stale = True

    def run(self, layout: int, work: Work) -> Tensor:
        """The work's result, to be read before the next call."""
        if layout != self._layout:
            self._layout, self._is_stale = layout, True
            return work()  # libraries set up for these shapes what could not be recorded
        if self._is_stale or self._recorded is None:
            # The old graph goes after the new one is there: with the last graph of a pool its memory would go.
            self._recorded, self._is_stale = self._record(work), False
        again, result = self._recorded
        again()
        return result

    def clear(self) -> None:
        """Drop what is recorded."""
        self._recorded, self._layout = None, -1


@contextmanager
def gpu_graphs(device: torch.device) -> Iterator[Graphs]:
    """Graphs of this GPU. Their memory goes at the end: torch would keep it, for no one, until none is left."""
    graphs = Graphs(_recorder(device))
    try:
        yield graphs
    finally:
        graphs.clear()
        torch.cuda.empty_cache()


_capture_lock = Lock()


def _recorder(device: torch.device) -> Recorder:
    """Records CUDA graphs, all in one pool of memory. What cannot be recorded raises RuntimeError, and ends the run: after
    it, torch's memory is not to be relied on."""
    pool, side_stream = torch.cuda.graph_pool_handle(), _capture_stream(device)

    def record(work: Work) -> Recorded:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
        with _capture_lock, torch.cuda.device(device):
            torch.cuda.empty_cache()  # while something is recorded, torch gives nothing back to make room
            side_stream.wait_stream(here)
            with torch.cuda.stream(side_stream):
                # Only this thread is held to what can be recorded: another one may be training.
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
    """One stream for all recordings: cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device)
