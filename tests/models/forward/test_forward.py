"""The forward pass against that of transformers: hidden states, and gradients of every parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.errors import UserError
from rethink.models.forward import FusedWeights, ModuleWeights, PackedAttention, PackedRow, Span, Weights
from rethink.models.forward.fused import is_llama_like
from rethink.models.forward.ops import add_product, apply_rope, normalize, swiglu
from rethink.models.forward.weights import logits
from rethink.models.language_model import LanguageModel
from rethink.models.load import choose_forward_pass
from rethink.policies.local.prefill import _Recorded
from support.samples import sdpa_attention

LIKE_LLAMA: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 10}),
    "llama": ("llama", {}),
    "llama, no groups": ("llama", {"num_key_value_heads": 4}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, no padding": ("llama", {"pad_token_id": None}),
    "llama3 positions": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "yarn positions": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "qwen2, with biases": ("qwen2", {}),
    "qwen3, tied": ("qwen3", {"head_dim": 6, "tie_word_embeddings": True}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "qwen3, one window": (
        "qwen3",
        {
            "head_dim": 6,
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
}

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {}),
    "phi3, window": ("phi3", {"sliding_window": 5}),
    "llama, bias behind attention": ("llama", {"attention_bias": True}),
    "llama, bias of the mlp": ("llama", {"mlp_bias": True}),
    "llama, gelu": ("llama", {"hidden_act": "gelu"}),
    "longer positions": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}),
    # The parts of Llama, put together in another way: only the comparison of logits can tell.
    "granite": ("granite", {"residual_multiplier": 0.4, "embedding_multiplier": 3.0}),
}

ALL = {**LIKE_LLAMA, **OTHERS}


def build(name: str) -> Any:
    """A random module of float32. Norms and biases are random as well: ones and zeros would hide their absence."""
    kind, changes = ALL[name]
    common = {
        "vocab_size": 31,
        "hidden_size": 24,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    config = AutoConfig.for_model(kind, **{**common, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        module = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        for p in module.parameters():
            if p.dim() == 1:
                p.data.add_(0.3 * torch.randn_like(p))
    return module


def form_of(name: str) -> Callable[..., Weights]:
    return FusedWeights if name in LIKE_LLAMA else ModuleWeights


def draw(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_ids(n: int, seed: int = 3) -> Tensor:
    """Ids, among them 0, which is padding for most models here."""
    ids = torch.randint(0, 31, (n,), generator=torch.Generator().manual_seed(seed))
    ids[n // 2] = 0
    return ids


def loss_of(hidden_T_H: Tensor, logits_T_V: Tensor) -> Tensor:
    """Something in which every hidden state and every logit has a weight of its own."""
    n = len(hidden_T_H)
    ids_T_1 = some_ids(n, seed=7)[:, None]
    picked_T = logits_T_V.log_softmax(-1).gather(-1, ids_T_1)[:, 0] * draw(n, seed=11)
    return picked_T.sum() + (hidden_T_H * draw(*hidden_T_H.shape)).mean()


def plain_hidden(module: Any, ids_T: Tensor) -> Tensor:
    """By transformers alone, with its own attention."""
    ids = ids_T[None]
    with sdpa_attention(module):
        hidden: Tensor = module.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0][0]
    return hidden


def alone(n: int) -> PackedAttention:
    return PackedAttention([[PackedRow((Span(0, n),), n)]])


def hidden_of(weights: Weights, ids_T: Tensor) -> Tensor:
    return weights.hidden(ids_T, torch.arange(len(ids_T)), alone(len(ids_T)))


def carried(module: Any, weights: Weights, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of all parameters, by the way the trainer takes."""
    weights.backward_to_parameters(torch.autograd.grad(loss, weights.leaves, allow_unused=True))
    return taken(module)


def taken(module: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_near(ours: dict[str, Tensor], theirs: dict[str, Tensor], share: float = 1e-4) -> None:
    """Within a share of the largest entry of each tensor: sums of float32 numbers run in another order."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert tensor.abs().max() > 0, f"{name} must count, or this shows nothing"
        gap, size = float((ours[name] - tensor).abs().max()), float(tensor.abs().max())
        assert gap <= share * size, f"{name} is off by {gap / size}"


@pytest.mark.parametrize("name", ALL)
def test_hidden_states_and_gradients_are_those_of_transformers(name: str) -> None:
    """Guards against a weight that is left out, or multiplied in at the wrong place, on the way there or back."""
    module = build(name)
    ids_T = some_ids(23)
    theirs = copy.deepcopy(module)
    hidden_T_H = plain_hidden(theirs, ids_T)
    loss_of(hidden_T_H, theirs.lm_head(hidden_T_H)).backward()
    weights = form_of(name)(module, torch.float32, trainable=True)
    ours_T_H = hidden_of(weights, ids_T)
    torch.testing.assert_close(ours_T_H, hidden_T_H, rtol=0, atol=1e-4)
    assert_near(carried(module, weights, loss_of(ours_T_H, logits(ours_T_H, weights.head))), taken(theirs))
    for untrained in (form_of(name), ModuleWeights):
        with torch.no_grad():
            again_T_H = hidden_of(untrained(module, torch.float32), ids_T)
        torch.testing.assert_close(again_T_H, hidden_T_H, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "qwen3, tied", "qwen2, with biases"])
def test_the_padding_row_is_not_trained_by_the_embedding(name: str) -> None:
    """Guards against a row that transformers leaves alone and we train. With a tied head it still gets the head's part."""
    module = build(name)
    ids_T = some_ids(23)
    assert module.base_model.embed_tokens.padding_idx == 0
    assert (ids_T == 0).any()
    weights = FusedWeights(module, torch.float32, trainable=True)
    hidden_T_H = hidden_of(weights, ids_T)
    carried(module, weights, hidden_T_H.square().sum())
    rows_V = module.base_model.embed_tokens.weight.grad.abs().amax(-1)
    assert rows_V[0] == 0
    assert all(rows_V[i] > 0 for i in ids_T.tolist() if i)
    module.zero_grad()
    weights = FusedWeights(module, torch.float32, trainable=True)
    hidden_T_H = hidden_of(weights, ids_T)
    carried(module, weights, logits(hidden_T_H, weights.head).sum())
    assert (module.base_model.embed_tokens.weight.grad[0].abs().max() > 0) == ("tied" in name)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "gpt2"])
def test_gradients_are_added_to_those_there_are(name: str) -> None:
    """Guards against a step that forgets what an earlier one left."""
    module = build(name)
    ids_T = some_ids(7)
    results = []
    for start in (0.0, 2.0):
        for p in module.parameters():
            p.grad = torch.full_like(p, start)
        weights = form_of(name)(module, torch.float32, trainable=True)
        results.append({key: g.clone() - start for key, g in carried(module, weights, loss(weights, ids_T)).items()})
    for key, gradient in results[0].items():
        torch.testing.assert_close(results[1][key], gradient, rtol=0, atol=1e-4)


def loss(weights: Weights, ids_T: Tensor) -> Tensor:
    hidden_T_H = hidden_of(weights, ids_T)
    return loss_of(hidden_T_H, logits(hidden_T_H, weights.head))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_frozen_parameters_stay_as_they_are(name: str) -> None:
    """Guards against a gradient for what is not trained, and a step that fails because of it."""
    module, free = build(name), build(name)
    module.get_input_embeddings().requires_grad_(False)
    ids_T = some_ids(7)
    results = []
    for each in (module, free):
        weights = form_of(name)(each, torch.float32, trainable=True)
        results.append(carried(each, weights, loss(weights, ids_T)))
    frozen = {key for key, p in module.named_parameters() if not p.requires_grad}
    assert_near(results[0], {key: g for key, g in results[1].items() if key not in frozen}, share=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_which_way_a_model_takes(name: str) -> None:
    """Guards against layers that are taken for Llama's and are not, and Llama's that go the slow way."""
    model = choose_forward_pass(LanguageModel(build(name), None, path=name))  # type: ignore[arg-type]
    assert model.fused == (name in LIKE_LLAMA)
    assert is_llama_like(model.module) == (name in LIKE_LLAMA or name == "granite")
    assert isinstance(model.weights(), FusedWeights if model.fused else ModuleWeights)


# Rows that share tokens.


class Layout:
    """Prompts, each once, then replies to them; the block of each."""

    def __init__(self, prompts: Sequence[int], replies: Sequence[tuple[int, int]]) -> None:
        self.n = sum(prompts) + sum(n for _, n in replies)
        starts = [0, *accumulate([*prompts, *(n for _, n in replies)])]
        spans = [Span(start, n) for start, n in zip(starts, [*prompts, *(n for _, n in replies)], strict=False)]
        self.prompts = [PackedRow((s,), s.length) for s in spans[: len(prompts)]]
        own = spans[len(prompts) :]
        self.replies = [PackedRow((spans[p], s), s.length) for (p, _), s in zip(replies, own, strict=True)]
        self.packed = PackedAttention([self.prompts, self.replies])
        self.positions_T = torch.cat([*map(torch.arange, prompts), *(prompts[p] + torch.arange(n) for p, n in replies)])

    def places(self) -> list[Tensor]:
        """Where the tokens of each row are; rows without replies are prompts alone."""
        return [
            torch.cat([torch.arange(s.start, s.start + s.length) for s in row.spans])
            for row in (*self.prompts, *self.replies)
        ]


LAYOUT = Layout([5, 1, 13], [(0, 7), (0, 2), (2, 11), (1, 3), (0, 1)])


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral, window", "qwen3, one window", "gpt2", "phi3, window"])
def test_rows_that_share_a_prompt_are_those_alone(name: str) -> None:
    """Guards against tokens that see another row's, positions that go on from the row before, and a prompt that is told
    of one reply's gradient only."""
    module = build(name)
    ids_T = some_ids(LAYOUT.n)
    theirs = copy.deepcopy(module)
    weights = form_of(name)(module, torch.float32, trainable=True)
    hidden_T_H = weights.hidden(ids_T, LAYOUT.positions_T, LAYOUT.packed)
    total, expected = torch.zeros(()), torch.zeros(())
    for row, places in zip((*LAYOUT.prompts, *LAYOUT.replies), LAYOUT.places(), strict=True):
        alone_T_H = plain_hidden(theirs, ids_T[places])
        torch.testing.assert_close(hidden_T_H[places], alone_T_H, rtol=0, atol=1e-4)
        asked = places[-row.n_queries :]
        target = draw(len(asked), 24, seed=int(places[-1]))
        total = total + (hidden_T_H[asked] * target).sum()
        expected = expected + (alone_T_H[-row.n_queries :] * target).sum()
    expected.backward()
    assert_near(carried(module, weights, total), taken(theirs))


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral, window", "qwen3, one window", "gpt2", "phi3, window"])
def test_a_past_counts_like_tokens_that_are_computed(name: str) -> None:
    """Guards against spans that are counted from the first new token, and a window that forgets the past. The first
    prompt has a past of 5, the second none, the third all but the last token, and a span that it shares with the
    first."""
    module = build(name)
    weights = form_of(name)(module, torch.float32)
    ids_T, others_T = some_ids(17), some_ids(6, seed=19)
    wholes = [torch.cat([ids_T[:5], others_T]), others_T, ids_T]
    with torch.no_grad():
        recorded = _Recorded(alone(16))
        weights.hidden(ids_T[:16], torch.arange(16), recorded)
        rows = [
            PackedRow((Span(0, 5), Span(16, 6)), 6),
            PackedRow((Span(22, 6),), 6),
            PackedRow((Span(0, 5), Span(5, 11), Span(28, 1)), 1),
        ]
        new = torch.cat([others_T, others_T, ids_T[16:]])
        positions_T = torch.cat([torch.arange(5, 11), torch.arange(6), torch.tensor([16])])
        attend = PackedAttention([rows], past=lambda layer: recorded.layers[layer], n_past=16)
        ours = weights.hidden(new, positions_T, attend).split([6, 6, 1])
        for ours_T_H, whole in zip(ours, wholes, strict=True):
            theirs_T_H = plain_hidden(module, whole)[-len(ours_T_H) :]
            torch.testing.assert_close(ours_T_H, theirs_T_H, rtol=0, atol=1e-4)


def slow_attention(
    row: PackedRow, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, n_past: int
) -> Tensor:
    """Query by query, head by head: [n_queries, A, D]."""
    places = [s.start + i for s in row.spans for i in range(s.length)]
    out = []
    for t in range(len(places) - row.n_queries, len(places)):
        seen = places[: t + 1] if window is None else places[max(0, t + 1 - window) : t + 1]
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // k.shape[1])
            weights = (k[seen, group] @ q[places[t] - n_past, head] * scale).softmax(0)
            out.append(weights @ v[seen, group])
    return torch.stack(out).view(row.n_queries, q.shape[1], -1)


@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    replies=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=6),
    window=st.sampled_from([None, 1, 2, 5, 100]),
    n_keys=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_attention_is_that_of_a_loop(
    prompts: list[int], replies: list[tuple[int, int]], window: int | None, n_keys: int
) -> None:
    """Guards against rows of other lengths that take each other's padding, groups of heads in the wrong order, and queries
    that come back in another order than they went in."""
    layout = Layout(prompts, [(p % len(prompts), n) for p, n in replies])
    q = draw(layout.n, 4, 6, seed=1).double()
    k, v = (draw(layout.n, n_keys, 6, seed=seed).double() for seed in (2, 3))
    out = layout.packed(0, q, k, v, scale=0.7, window=window)
    rows = [*layout.prompts, *layout.replies]
    slow = torch.cat([slow_attention(row, q, k, v, 0.7, window, 0) for row in rows])
    torch.testing.assert_close(out, slow, rtol=0, atol=1e-12)


# Modules of transformers, with our attention in them.


class Waiting:
    """Attention that stops in its first layer until it may go on."""

    def __init__(self, n: int) -> None:
        self.packed = alone(n)
        self.arrived, self.go_on = Event(), Event()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None) -> Tensor:
        if layer == 0:
            self.arrived.set()
            assert self.go_on.wait(60)
        return self.packed(layer, q, k, v, scale=scale, window=window)


def test_threads_may_use_a_module_at_once() -> None:
    """Guards against a thread that changes the module's attention while another is in it."""
    module = build("gpt2")
    ids_T, positions_T = some_ids(7), torch.arange(7)
    expected = plain_hidden(module, ids_T).detach()
    weights = ModuleWeights(module, torch.float32)
    attend = Waiting(7)

    @torch.no_grad()
    def slowly() -> Tensor:
        return weights.hidden(ids_T, positions_T, attend)

    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        future = pool.submit(slowly)
        assert attend.arrived.wait(60)
        try:
            for form in (weights, ModuleWeights(module, torch.float32)):
                torch.testing.assert_close(hidden_of(form, ids_T), expected, rtol=0, atol=1e-5)
        finally:
            attend.go_on.set()
        torch.testing.assert_close(future.result(), expected, rtol=0, atol=1e-5)


def test_a_module_with_our_attention_is_not_called_without_it() -> None:
    """Guards against tokens that attend across rows, or to none, where nobody said which see which."""
    module = build("gpt2")
    ModuleWeights(module, torch.float32)
    with pytest.raises(UserError, match="do not pass on keyword arguments"):
        module(input_ids=some_ids(7)[None])


def test_layers_of_an_unknown_kind_are_refused() -> None:
    """Guards against windows that we do not know and would take for none."""
    module = build("olmo2")
    module.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(UserError, match="chunked_attention layers are not supported"):
        ModuleWeights(module, torch.float32)


# Precision.


@pytest.mark.parametrize("name", ["llama", "llama, tied", "qwen3", "qwen2, with biases", "gpt2", "phi3"])
def test_bfloat16_is_near_float32(name: str) -> None:
    """Guards against sums, norms or gradients in bfloat16: matrices alone are to be rounded, to 8 bits each."""
    module = build(name)
    ids_T = some_ids(23)
    results, hiddens = [], []
    for dtype in (torch.float32, torch.bfloat16):
        module.zero_grad()
        weights = form_of(name)(module, dtype, trainable=True)
        hiddens.append(hidden_of(weights, ids_T))
        gradients = carried(module, weights, loss_of(hiddens[-1], logits(hiddens[-1], weights.head)))
        assert all(g.dtype == torch.float32 for g in gradients.values())
        results.append({key: g.clone() for key, g in gradients.items()})
    with torch.no_grad():
        hiddens.append(hidden_of(form_of(name)(module, torch.bfloat16), ids_T).float())
    for near_T_H in hiddens[1:]:
        gap = (near_T_H - hiddens[0]).norm() / hiddens[0].norm()
        # Each of about ten roundings on the way is off by up to 2^-9.
        assert 1e-4 < gap < 0.03
    exact, near = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in results)
    assert results[0].keys() == results[1].keys()
    assert (near - exact).norm() / exact.norm() < 0.05


# Single operations.


def numbers(*shape: int, seed: int) -> Tensor:
    return draw(*shape, seed=seed).double().requires_grad_()


def test_gradients_of_norm_and_gate_are_those_of_numbers() -> None:
    """Guards against backward passes that are wrong in a term, written out as they are: against differences in float64."""
    assert torch.autograd.gradcheck(lambda x: normalize(x, 0.1), [numbers(3, 7, seed=1)])
    assert torch.autograd.gradcheck(lambda x: normalize(x, 1e-6), [numbers(2, 3, 5, seed=2)])
    assert torch.autograd.gradcheck(swiglu, [3 * numbers(5, 6, seed=3)])
    x, y, weight = numbers(3, 5, seed=4), numbers(3, 7, seed=5), numbers(5, 7, seed=6)
    assert torch.autograd.gradcheck(add_product, [x, y, weight])


def test_operations_are_those_of_their_papers() -> None:
    """Guards against the quicker way without gradients, or with them, that gives something else."""
    x = numbers(3, 8, seed=1)
    gate, up = x.chunk(2, -1)
    for mode in (torch.no_grad(), torch.enable_grad()):
        with mode:
            norm = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt()
            torch.testing.assert_close(normalize(x, 0.1), norm, rtol=0, atol=1e-12)
            torch.testing.assert_close(swiglu(x), gate * torch.sigmoid(gate) * up, rtol=0, atol=1e-12)
    zero = torch.zeros(2, 3, requires_grad=True)
    normalize(zero, 1e-6).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_turns_neighbours(dtype: torch.dtype) -> None:
    """Guards against pairs that are taken apart, a turn the wrong way, and angles in bfloat16. Gradients turn back."""
    x = draw(5, 3, 4).to(dtype).requires_grad_()
    angles = draw(5, 1, 2, seed=9)
    out = apply_rope(x, torch.polar(torch.ones_like(angles), angles))
    a, b = x.detach().double().unflatten(-1, (2, 2)).unbind(-1)
    cos, sin = angles.double().cos(), angles.double().sin()
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), turned, rtol=0, atol=1e-6)
    out.backward(out.detach())
    assert x.grad is not None
    torch.testing.assert_close(
        x.grad.float(), x.detach().float(), rtol=0, atol=1e-6 if dtype == torch.float32 else 0.02
    )


def test_products_are_added_in_float32() -> None:
    """Guards against a residual stream that is rounded with each layer: 1 + 2^-12 is no bfloat16 number."""
    x, y, weight = torch.full((1, 1), 1 + 2**-12), torch.ones(1, 1), torch.ones(1, 1).bfloat16()
    assert add_product(x, y, weight).item() == 2 + 2**-12
    assert add_product(x, y, weight.float()).item() == 2 + 2**-12
