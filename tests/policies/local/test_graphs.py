"""Recorded and replayed decoding steps, with a stand-in for CUDA graphs that runs on any device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rethink.models.forward import FusedWeights
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy, decode, kv_cache
from rethink.policies.local import policy as policy_module
from rethink.policies.local.graphs import Graphs, Recorded, Work
from rethink.policies.token_policy import Request
from rethink.types import Group, Message
from support.images import image
from support.local_sampling import (
    CAP,
    LONG,
    PROMPTS,
    SAMPLED,
    SHORT,
    decode_all,
    requests_of,
    tokens_for_groups,
    with_many_stop_ids,
)
from support.random_models import save_random_model
from support.vision_models import save_vision_model

READS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "_unique2")
COPIES = ("lift_fresh", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
WAITS = {f"aten::{name}" for name in (*READS, *COPIES)}
"""Operations that wait for a GPU: Python or a shape needs a number, or Python's number is copied to the device first."""


class Tape(TorchDispatchMode):
    """Records torch operations with their tensors; replaying writes to the recorded tensors, like a CUDA graph."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = ".".join(filter(None, (func._schema.name, func._schema.overload_name)))
        chosen = [x for x in tree_leaves(args[1:2]) if isinstance(x, Tensor) and x.dtype == torch.bool]
        assert not WAITS & {func._schema.name, name}, f"{name} waits for the device"
        assert not (name.startswith("aten::index") and chosen), f"{name} by a mask waits for the device"
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def again(self) -> None:
        for func, args, kwargs, out in self.operations:
            new = func(*args, **kwargs)
            for old, now in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != now.data_ptr():
                    old.copy_(now)


class Recorder:
    """Records like `graphs.gpu_graphs`, and leaves the tensors of the batch as they were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_recorded = self.n_repeated = 0
        self.batch: decode.Decoder | None = None
        init = decode.Decoder.__init__

        def remember(batch: decode.Decoder, *args: Any) -> None:
            init(batch, *args)
            self.batch = batch

        monkeypatch.setattr(decode.Decoder, "__init__", remember)

    def __call__(self, work: Work) -> Recorded:
        self.n_recorded += 1
        tensors = self._tensors()
        before = [tensor.clone() for tensor in tensors]
        with Tape() as tape:
            result = work()
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(old)

        def again() -> None:
            self.n_repeated += 1
            tape.again()

        return again, result

    def _tensors(self) -> list[Tensor]:
        assert self.batch is not None
        assert self.batch.cache is not None
        own = [x for x in vars(self.batch).values() if isinstance(x, Tensor)]
        return [*own, *self.batch.cache.prompts, *self.batch.cache.replies, self.batch.cache.positions]


@pytest.fixture(scope="module", params=["qwen3", "llama", "mistral"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """With query and key norms, without them, and with a window shorter than the prompts."""
    changes = {"num_key_value_heads": 2, "sliding_window": 7} if request.param == "mistral" else {}
    folder = save_random_model(tmp_path_factory.mktemp("graphs"), request.param, **changes)
    found = with_many_stop_ids(load_model(str(folder)))
    assert isinstance(found.weights(), FusedWeights)
    return found


@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
def test_replayed_steps_equal_steps(
    model: LanguageModel, requests: Sequence[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against Python numbers and new tensors in a step, and waiting for the device: bit for bit."""
    room = tokens_for_groups(requests, 1)
    monkeypatch.setattr(kv_cache, "BUCKET", 5)
    monkeypatch.setattr(kv_cache, "GRAPH_BUCKET", 5)
    plain = decode_all(model, requests, room)
    recorder = Recorder(monkeypatch)
    assert decode_all(model, requests, room, graphs=Graphs(recorder)) == plain
    assert recorder.n_repeated > recorder.n_recorded > 1


def test_steps_after_images_are_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against decoding steps that look for images, which waits for the device, and vision-language models that do
    without graphs."""
    vision = load_model(str(save_vision_model(tmp_path, "LLaVA")))
    vision.chat.stop_ids = frozenset({-1})  # replies of a random model may end before a step occurs twice
    requests: list[Request] = []
    for n, color in enumerate(("red", "blue")):
        shown = image(color)
        ids = vision.chat.encode((Message("user", "What color?", (shown,)),))
        requests.append(Request(ids, 3, seed=n, keep=(shown,)))
    monkeypatch.setattr(kv_cache, "GRAPH_BUCKET", 5)
    monkeypatch.setattr(kv_cache, "BUCKET", 5)
    plain = decode_all(vision, requests, 10**6)
    recorder = Recorder(monkeypatch)
    graphs = Graphs(recorder)
    assert decode_all(vision, requests, 10**6, graphs=graphs) == plain
    assert recorder.n_repeated > recorder.n_recorded > 0
    monkeypatch.setattr(LanguageModel, "device", torch.device("cuda"))
    monkeypatch.setattr(policy_module, "gpu_graphs", lambda _: nullcontext(graphs))
    with LocalPolicy(vision, SAMPLED, cuda_graphs=True)._graphs() as used:
        assert used is graphs


def test_the_second_step_of_a_layout_is_recorded(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against recording steps that run once, and steps that are never replayed."""
    monkeypatch.setattr(kv_cache, "GRAPH_BUCKET", 5)
    endless = replace(model, chat=replace(model.chat, stop_ids=frozenset({-1})))
    recorder = Recorder(monkeypatch)
    decode_all(endless, requests_of([7, 5], [3, 2]), 10**6, graphs=Graphs(recorder))
    n_steps = CAP - 1  # the first token comes from the prompt
    n_layouts = -(-n_steps // 5)
    assert n_steps - recorder.n_repeated == n_layouts == recorder.n_recorded


def test_a_graph_lives_until_the_next_is_recorded() -> None:
    """Guards against freeing the memory pool with its last graph."""
    alive: list[int] = []
    seen: list[list[int]] = []

    def record(work: Work) -> Recorded:
        seen.append([*alive])

        def again() -> None:
            pass

        alive.append(len(seen))
        weakref.finalize(again, alive.remove, len(seen))
        return again, work()

    graphs = Graphs(record)
    for layout in (1, 1, 1, 2, 2, 3, 3, 3):
        graphs.run(layout, lambda: torch.zeros(1))
    assert seen == [[], [1], [2]]
    assert alive == [3]


def sampled(model: LanguageModel, *, cuda_graphs: bool) -> list[Group]:
    policy = LocalPolicy(model, SAMPLED, cache_bytes=300_000, cuda_graphs=cuda_graphs)
    return policy.with_sampling(SAMPLED).sample(PROMPTS, 4)


def test_cuda_graphs_are_ignored_on_a_cpu(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a GPU recipe that fails on a laptop."""
    monkeypatch.setattr(policy_module, "gpu_graphs", lambda _: pytest.fail("there is no GPU to record on"))
    assert sampled(qwen, cuda_graphs=True) == sampled(qwen, cuda_graphs=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_cuda_graphs_on_a_gpu(kind: str, model_folders: dict[str, Path]) -> None:
    """Guards against other samples with CUDA graphs; models that are not fused do without."""
    model = with_many_stop_ids(load_model(str(model_folders[kind]), device="cuda"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "GRAPH_BUCKET", 5)
        patch.setattr(kv_cache, "BUCKET", 5)
        plain = sampled(model, cuda_graphs=False)
        layouts: list[int] = []
        run = Graphs.run

        def counted(graphs: Graphs, layout: int, work: Work) -> Tensor:
            layouts.append(layout)
            return run(graphs, layout, work)

        patch.setattr(Graphs, "run", counted)
        assert sampled(model, cuda_graphs=True) == plain
    assert bool(layouts) == (kind == "qwen3")
