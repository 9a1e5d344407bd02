"""What is counted of tensors without memory, and what few layers say about many."""

from __future__ import annotations

import torch

from rethink.plan.memory_tracker import Tracker, Window, largest_window


def test_bytes_of_live_tensors() -> None:
    """4,000 bytes each, at most two of the three at a time; ignored tensors and views count nothing."""
    tracker = Tracker(ignored={"theirs"})
    with tracker:
        tracker.label = "ours"
        a = torch.ones(1000, device="meta")
        b = a * 2
        _view = a[:10]
        del a, _view
        c = b * 3
        tracker.label = "theirs"
        _d = torch.ones(10**6, device="meta")
        assert float(c.sum()) == 1.0
        assert not bool(c.isnan().any())
    assert max(window.total for window in tracker.windows) == 8000
    assert {window.label for window in tracker.windows} == {"ours", "theirs"}


def test_windows_of_more_layers() -> None:
    """At the end of phase a two layers hold 5, three 8, so seven 5 + 5 * 3 = 20. Phase b has 6 and 7 in its middle: 11."""

    def windows(label: str, *totals: int) -> list[Window]:
        return [Window(label, total, {"x": total}) for total in totals]

    fewer = [*windows("a", 1, 5), *windows("b", 5, 6, 1)]
    more = [*windows("a", 1, 4, 8), *windows("b", 8, 7, 1, 1)]
    found = largest_window(fewer, more, 5.0)
    assert (found.label, found.total, found.items) == ("a", 20, {"x": 20})
    assert largest_window([*windows("b", 5, 6, 1)], [*windows("b", 5, 7, 1, 1)], 5.0).total == 11
