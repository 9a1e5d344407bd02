"""Steps of the sampler that are recorded once and repeated, as CUDA graphs are; here by a stand-in for any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policies.local.test_cache import CAP, GREEDY, LONG, SAMPLED, SHORT, decoded, little, requests_of
from policies.local.test_policy import PROMPTS, with_many_ends
from rethink.models.forward import FusedWeights
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy, cache, decode
from rethink.policies.local import policy as policy_module
from rethink.policies.local.graphs import Graphs, Recorded, Work
from rethink.policies.token_policy import Request
from rethink.types import Group
from support.random_models import save_random_model

WAITS = {
    *(
        "aten::_local_scalar_dense",
        "aten::item",
        "aten::is_nonzero",
        "aten::nonzero",
        "aten::masked_select",
        "aten::_unique2",
    ),
    *("aten::lift_fresh", "aten::where.ScalarOther", "aten::where.ScalarSelf", "aten::where.Scalar"),
}
"""Operations that wait for a GPU: numbers that Python reads or that decide about a shape, and numbers from Python that
are not handed over with the operation, but copied to the device first."""


class Tape(TorchDispatchMode):
    """Takes down torch's operations with the very tensors that they work on. Repeating them writes results to where they
    were at first: what Python decided in between, and tensors made anew, are as they were. So does a CUDA graph."""

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
    """Like `graphs.gpu_graphs`; taking down leaves all tensors of the batch as they were."""

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
    """With norms of queries and keys, without them, and with a window that is shorter than the prompts."""
    changes = {"num_key_value_heads": 2, "sliding_window": 7} if request.param == "mistral" else {}
    folder = save_random_model(tmp_path_factory.mktemp("graphs"), request.param, **changes)
    found = with_many_ends(load_model(str(folder)))
    assert isinstance(found.weights(), FusedWeights)
    return found


@pytest.mark.parametrize("sampling", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
@pytest.mark.parametrize("n_groups", [1, 3, 1000])
@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
def test_repeated_steps_are_steps(
    model: LanguageModel, requests: Sequence[Request], n_groups: int, sampling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against numbers that Python puts into a step, tensors that are made anew for one, and waiting for the device:
    every sample and log-prob is the same, to the bit, as without records, through refills and compaction."""
    room = little(requests, n_groups)
    monkeypatch.setattr(cache, "BUCKET", 5)
    monkeypatch.setattr(cache, "GRAPH_BUCKET", 5)
    plain = decoded(model, requests, room, sampling)
    recorder = Recorder(monkeypatch)
    assert decoded(model, requests, room, sampling, graphs=Graphs(recorder)) == plain
    assert recorder.n_repeated > recorder.n_recorded > 1


def test_a_step_is_recorded_when_it_comes_back(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against records of steps that come once, and against steps that are done by hand for ever: of replies that
    never end, the first step of each layout is done, and all others are repeated."""
    monkeypatch.setattr(cache, "GRAPH_BUCKET", 5)
    endless = replace(model, chat=replace(model.chat, stop_ids=frozenset({-1})))
    recorder = Recorder(monkeypatch)
    decoded(endless, requests_of([7, 5], [3, 2]), 10**6, graphs=Graphs(recorder))
    n_steps = CAP - 1  # the first token comes from the prompt
    n_layouts = -(-n_steps // 5)
    assert n_steps - recorder.n_repeated == n_layouts == recorder.n_recorded


def test_a_graph_outlives_the_next_recording() -> None:
    """Guards against memory that goes with the last graph of its pool: the old one is dropped once the new one is there."""
    alive: list[str] = []

    class Graph:
        def __init__(self, name: str) -> None:
            self.name = name
            alive.append(name)

        def again(self) -> None:
            pass

        def __del__(self) -> None:
            alive.remove(self.name)

    seen: list[list[str]] = []

    def record(work: Work) -> Recorded:
        seen.append([*alive])
        return Graph(f"graph {len(seen)}").again, work()

    graphs = Graphs(record)
    for layout in (1, 1, 1, 2, 2, 3, 3, 3):
        graphs.run(layout, lambda: torch.zeros(1))
    assert seen == [[], ["graph 1"], ["graph 2"]]
    assert alive == ["graph 3"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.nonzero(),
        lambda x: int(x.sum()),
        lambda x: bool(x.any()),
        lambda x: x[x > 1],
        lambda x: x.where(x > 1, 7),
        lambda x: x + torch.tensor([1, 2, 3]),
    ],
)
@torch.inference_mode()
def test_what_waits_is_seen(wait: Callable[[Tensor], object]) -> None:
    """Guards against a stand-in that lets everything pass."""
    numbers = torch.arange(3)
    with pytest.raises(AssertionError, match="waits"), Tape():
        wait(numbers)


def test_a_number_from_python_is_seen() -> None:
    """Guards against a stand-in that runs Python again."""
    here, total = [1], torch.zeros(())

    def work() -> Tensor:
        return total.add_(here[0])

    with Tape() as tape:
        work()
    here[0] = 100
    tape.again()
    assert float(total) == 2


def sampled(model: LanguageModel, *, cuda_graphs: bool) -> list[Group]:
    policy = LocalPolicy(model, SAMPLED, cache_bytes=300_000, cuda_graphs=cuda_graphs)
    return policy.with_sampling(SAMPLED).sample(PROMPTS, 4)


def test_without_a_gpu_nothing_is_recorded(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a recipe for a GPU that fails on the laptop where it is tried."""
    monkeypatch.setattr(policy_module, "gpu_graphs", lambda _: pytest.fail("there is no GPU to record on"))
    assert sampled(qwen, cuda_graphs=True) == sampled(qwen, cuda_graphs=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_on_a_gpu(kind: str, model_folders: dict[str, Path]) -> None:
    """The same with CUDA's graphs; models that run through their modules do without."""
    model = with_many_ends(load_model(str(model_folders[kind]), device="cuda"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "GRAPH_BUCKET", 5)
        patch.setattr(cache, "BUCKET", 5)
        plain = sampled(model, cuda_graphs=False)
        layouts: list[int] = []
        run = Graphs.run

        def counted(graphs: Graphs, layout: int, work: Work) -> Tensor:
            layouts.append(layout)
            return run(graphs, layout, work)

        patch.setattr(Graphs, "run", counted)
        assert sampled(model, cuda_graphs=True) == plain
    assert bool(layouts) == (kind == "qwen3")
