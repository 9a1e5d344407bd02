"""Run real code on tensors without memory (torch's device "meta") and track the bytes that they would take."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from rethink.models.forward import ModuleWeights, Weights
from rethink.models.forward.divergence import Divergences
from rethink.models.language_model import LanguageModel

COPY = "working copy of the weights"
FORWARD = "activations"
BACKWARD = "working memory of the backward pass"
GRADIENTS = "gradients"

SCALAR_READS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.is_nonzero.default,
)
"""Operations that return a Python number."""


ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
)
"""Operations that every layer runs equally often."""


@dataclass
class _Memory:
    """The label and the bytes of a storage."""

    label: str
    n_bytes: int


@dataclass
class Window:
    """The work from one layer's attention to the next, under one label: its peak in bytes, in all and by label."""

    label: str
    total: int
    items: dict[str, int]


class Tracker(TorchDispatchMode):
    """A context that counts the bytes of all live tensors on "meta", by the label that was set when they were created.

    Tensors of a backward pass get their own label. What follows it counts as gradients until the label is set again.
    Tensors with an `ignored` label are not counted. `windows` has the peak of each window, in order.

    Nothing is computed: every number that the code reads (a loss, a norm) is 1, and every condition is False.
    """

    def __init__(self, ignored: Collection[str] = ()) -> None:
        super().__init__()
        self.label = ""
        self.ignored = ignored
        self.windows: list[Window] = []
        self._total = 0
        self._by_label: Counter[str] = Counter()
        self._known: weakref.WeakKeyDictionary[Any, _Memory] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation in SCALAR_READS:
            return _fake_scalar(args[0].dtype)
        out = operation(*args, **(kwargs or {}))
        label = self.label
        if torch._C._current_graph_task_id() != -1:  # in a backward pass
            label = BACKWARD
            self.label = GRADIENTS
        if operation in ATTENTION or not self.windows or self.windows[-1].label != label:
            self.windows.append(Window(label, self._total, dict(self._by_label)))
        self._add(out, label)
        return out

    def add(self, tensors: Iterable[Tensor], label: str) -> None:
        """Count tensors that exist already."""
        self._add(list(tensors), label)

    def relabel(self, tensor: Tensor, label: str) -> None:
        """Count a tensor's memory under another label from now on."""
        memory = self._known.get(tensor.untyped_storage())
        if memory is not None:
            self._count(memory.label, -memory.n_bytes)
            memory.label = label
            self._count(memory.label, memory.n_bytes)

    def _add(self, found: Any, label: str) -> None:
        if isinstance(found, (list, tuple)):
            for item in found:
                self._add(item, label)
        elif isinstance(found, Tensor) and found.device.type == "meta":
            storage = found.untyped_storage()
            if storage not in self._known:
                memory = _Memory(label, storage.nbytes())
                self._known[storage] = memory
                weakref.finalize(storage, self._free, memory).atexit = False
                self._count(label, memory.n_bytes)

    def _free(self, memory: _Memory) -> None:
        self._count(memory.label, -memory.n_bytes)

    def _count(self, label: str, n_bytes: int) -> None:
        if label in self.ignored:
            return
        self._total += n_bytes
        self._by_label[label] += n_bytes
        if self.windows and self._total > self.windows[-1].total:
            self.windows[-1].total = self._total
            self.windows[-1].items = dict(self._by_label)


def largest_window(fewer: Sequence[Window], more: Sequence[Window], share: float) -> Window:
    """Extrapolate the largest window of a model with many layers from two runs with few layers.

    With n layers in the model, a in `fewer` and b in `more`, `share` is (n - a) / (b - a). A window grows by the same bytes
    with every layer. Windows correspond if they have the same distance from the start of their phase, or from its end;
    windows in between are never larger than both.
    """
    phases = [[list(windows) for _, windows in groupby(run, key=lambda w: w.label)] for run in (fewer, more)]
    extrapolated: list[Window] = []
    for phase, longer_phase in zip(*phases, strict=True):
        for i, window in enumerate(phase):
            other = longer_phase[i if i < len(phase) / 2 else i - len(phase)]
            items = {}
            for label in other.items:
                before = window.items.get(label, 0)
                items[label] = before + round((other.items[label] - before) * share)
            extrapolated.append(Window(window.label, sum(items.values()), items))
    return max(extrapolated, key=lambda window: window.total)


def _fake_scalar(dtype: torch.dtype) -> float | bool:
    return False if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1


class _LabeledModel(LanguageModel):
    """A model that sets the tracker's label."""

    tracker: Tracker

    def weights(self, *args: Any, **kwargs: Any) -> Weights:
        self.tracker.label = COPY
        weights = super().weights(*args, **kwargs)
        forward: Any = weights.hidden

        def hidden(*inputs: Any) -> Tensor:
            self.tracker.label = FORWARD
            out: Tensor = forward(*inputs)
            return out

        weights.hidden = hidden  # type: ignore[method-assign, assignment]
        return weights


def with_labels(model: LanguageModel, tracker: Tracker) -> LanguageModel:
    """Return the model; the tracker labels its working copies and its activations."""
    found = _LabeledModel(**{f.name: getattr(model, f.name) for f in fields(model)})
    found.tracker = tracker
    return found


@contextmanager
def on_meta_device(tracker: Tracker, model: LanguageModel, autocast: torch.dtype = torch.float32) -> Iterator[None]:
    """Track what the block does.

    Three things need a real device and are replaced in the block: the choice of an attention kernel, autocast (for a model
    that runs through its modules), and AdamW, whose averages a formula counts.
    """
    divergence_slope = Divergences.slope
    uses_autocast = not model.fused and autocast != torch.float32

    def cast_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x.to(autocast), weight.to(autocast), None if bias is None else bias.to(autocast))

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool, **rest: Any) -> Tensor:
        if uses_autocast:
            q, k, v = (x.to(autocast) for x in (q, k, v))
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out: Tensor = flash(q, k, v, 0.0, is_causal, attn_mask=attn_mask, scale=rest["scale"])[0]
        return out

    def open_sgd(parameters: Any, *_: Any, **__: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.0, foreach=False)

    def slope(self: Divergences, grads: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        label = tracker.label  # with a frozen head, this backward pass runs within the forward pass
        found = divergence_slope(self, grads)
        tracker.label = label
        return found

    with (
        patch.object(Divergences, "slope", slope),
        patch("rethink.models.forward.attention.scaled_dot_product_attention", attention),
        patch("rethink.training.trainer.open_optimizer", open_sgd),
        patch("torch.nn.functional.linear", cast_linear) if uses_autocast else nullcontext(),
        patch.object(ModuleWeights, "_autocast", lambda self: nullcontext()),
        tracker,
    ):
        yield
