"""Loading a model, and the two things read from it: hidden states and a head."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from rethink.errors import UserError
from rethink.models import make_tiny
from rethink.models.forward import FusedWeights, ModuleWeights, PackedAttention, PackedRow, Span
from rethink.models.forward.fused import is_llama_like
from rethink.models.forward.weights import logits
from rethink.models.language_model import LanguageModel, pick_head_dtype
from rethink.models.load import choose_forward_pass, load_model
from rethink.policies.local import LocalPolicy
from rethink.policies.local.decode import Decoder
from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Request
from rethink.types import Sampling
from support import random_models
from support.forward import ARCHITECTURES, LLAMA_LIKE, build
from support.model_families import FAMILIES, build_module
from support.samples import make_prompt, sdpa_attention

IDS_N_T = torch.tensor([[5, 11, 2, 17, 3], [7, 3, 23, 2, 29], [31, 2, 5, 13, 11]])


def hidden_states(model: LanguageModel, ids_N_T: Tensor) -> Tensor:
    n, length = ids_N_T.shape
    rows = [PackedRow((Span(k * length, length),), length) for k in range(n)]
    hidden_T_H = model.weights().hidden(ids_N_T.flatten(), torch.arange(length).repeat(n), PackedAttention([rows]))
    return hidden_T_H.view(n, length, -1)


def our_logits(model: LanguageModel, ids_N_T: Tensor) -> Tensor:
    return logits(hidden_states(model, ids_N_T), model.weights().head)


@torch.no_grad()
def test_bias_of_the_head_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against dropping the bias of an output layer (Phi has one)."""
    monkeypatch.setitem(random_models.SHAPES, "phi", {})
    model = load_model(str(random_models.save_random_model(tmp_path, "phi", partial_rotary_factor=0.4)))
    model.module.lm_head.bias.copy_(torch.linspace(-3, 3, model.config.vocab_size))
    with sdpa_attention(model.module):
        theirs = model.module(input_ids=IDS_N_T, attention_mask=torch.ones_like(IDS_N_T), use_cache=False).logits
    torch.testing.assert_close(our_logits(model, IDS_N_T), theirs, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_bfloat16_models_have_float32_logits(model_folders: dict[str, Path], kind: str) -> None:
    """Guards against a bfloat16 head: its logits are multiples of 2^-8, which changes samples."""
    model = load_model(str(model_folders[kind]), dtype="bfloat16")
    hidden_N_T_H = hidden_states(model, IDS_N_T)
    head = model.module.lm_head.weight
    assert model.dtype == head.dtype == torch.bfloat16
    assert model.weights().head[0].dtype == torch.float32
    assert model.weights(trainable=True).head[0].dtype == torch.bfloat16
    exact_N_T_V = hidden_N_T_H.double() @ head.double().T
    ours_N_T_V = logits(hidden_N_T_H, model.weights().head)
    assert ours_N_T_V.dtype == torch.float32
    torch.testing.assert_close(ours_N_T_V.double(), exact_N_T_V, rtol=0, atol=1e-5)
    assert (model.module.lm_head(hidden_N_T_H.bfloat16()).double() - exact_N_T_V).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_a_bfloat16_head_rounds_factors_and_keeps_float32_logits(model_folders: dict[str, Path], kind: str) -> None:
    """Guards against a setting without effect, a head that sampler and trainer multiply differently, and rounded logits."""
    model = load_model(str(model_folders[kind]), head_dtype="bfloat16")
    hidden_N_T_H = hidden_states(model, IDS_N_T)
    head = model.weights().head
    assert head.weight.dtype == torch.bfloat16
    assert model.weights(trainable=True).head.weight.dtype == torch.float32
    ours_N_T_V = logits(hidden_N_T_H, head)
    exact_N_T_V = hidden_N_T_H.bfloat16().double() @ model.module.lm_head.weight.bfloat16().double().T
    torch.testing.assert_close(ours_N_T_V.double(), exact_N_T_V, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours_N_T_V, logits(hidden_N_T_H, model.weights(trainable=True).head), rtol=0, atol=1e-6)


def test_the_default_head_dtype_is_that_of_the_matrices_except_on_a_cpu() -> None:
    """Guards against float32 products on a GPU, at a tenth of its rate, and emulated bfloat16 on a CPU."""
    cpu, other = torch.device("cpu"), torch.device("meta")
    for matrices in (torch.bfloat16, torch.float32):
        assert pick_head_dtype("auto", matrices, cpu) == torch.float32
        assert pick_head_dtype("auto", matrices, other) == matrices
        assert pick_head_dtype("float32", matrices, other) == torch.float32


def test_loaded_models_have_no_dropout_and_are_trainable(any_model: LanguageModel) -> None:
    """Guards against active dropout, frozen weights, and one family's config key (GPT-2 has n_positions)."""
    assert not any(m.training for m in any_model.module.modules())
    assert all(p.requires_grad for p in any_model.module.parameters())
    assert any_model.max_positions == 128


@pytest.mark.parametrize("random_seed", [None, 3])
def test_all_stop_ids_are_found(tmp_path: Path, random_seed: int | None) -> None:
    """Guards against one stop id where the generation config has several, also with random weights."""
    folder = random_models.save_random_model(tmp_path, "qwen3")
    GenerationConfig(eos_token_id=[3, 5]).save_pretrained(folder)
    model = load_model(str(folder), random_seed=random_seed)
    assert model.chat.stop_ids == {1, 3, 5}
    # What a checkpoint says must be what the run had, or a resumed run stops elsewhere.
    model.module.save_pretrained(folder / "checkpoint")
    model.chat.tokenizer.save_pretrained(folder / "checkpoint")
    assert load_model(str(folder / "checkpoint")).chat.stop_ids == {1, 3, 5}


def weights(model: LanguageModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.module.parameters()])


def test_random_weights_depend_only_on_the_seed(model_folders: dict[str, Path]) -> None:
    """Guards against using or changing the global generator."""
    folder = str(model_folders["qwen3"])
    before = torch.get_rng_state()
    first = load_model(folder, random_seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(weights(first), weights(load_model(folder, random_seed=3)))
    assert not torch.equal(weights(first), weights(load_model(folder, random_seed=5)))
    assert not torch.equal(weights(first), weights(load_model(folder)))


def test_missing_and_damaged_files_are_named(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against tracebacks, and weights that are taken for a template."""
    folder = shutil.copytree(model_folders["llama"], tmp_path / "cut")
    file = folder / "model.safetensors"
    with pytest.raises(UserError, match="not a chat template"):
        load_model(str(folder), template=str(file))
    file.write_bytes(file.read_bytes()[:1000])
    for path in (folder, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"is damaged or cut short|there is no model folder"):
            load_model(str(path))


def test_a_model_with_nan_weights_cannot_sample(any_model: LanguageModel) -> None:
    """Guards against 0% accuracy of a broken model: sampling from NaN still returns tokens."""
    broken = LanguageModel(copy.deepcopy(any_model.module), any_model.chat, any_model.fused)
    with torch.no_grad():
        next(broken.module.parameters()).fill_(float("nan"))
    request, greedy = Request((3, 5), n=2, seed=7), Sampling(temperature=0.0, max_tokens=3)
    with pytest.raises(UserError, match="logits are NaN"):
        Decoder(broken.weights(), broken.chat, [request], greedy, Prefiller(), 1000).step()


@pytest.mark.parametrize("kind", list(random_models.SHAPES))
def test_loaded_weights_are_aligned(model_folders: dict[str, Path], kind: str) -> None:
    """Guards against products that differ in the last bit after loading: a resumed run would differ."""
    found = load_model(str(model_folders[kind]))
    tensors = (*found.module.parameters(), *found.module.buffers())
    assert {t.data_ptr() % 64 for t in tensors} == {0}
    assert torch.equal(our_logits(found, IDS_N_T), our_logits(copy.deepcopy(found), IDS_N_T))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_choice_of_the_forward_pass(name: str) -> None:
    """Guards against taking other layers for Llama's, and Llama's through the slow path."""
    model = choose_forward_pass(LanguageModel(build(name), None, path=name))  # type: ignore[arg-type]
    assert model.fused == (name in LLAMA_LIKE)
    assert is_llama_like(model.module) == (name in LLAMA_LIKE or name == "granite")
    assert isinstance(model.weights(), FusedWeights if model.fused else ModuleWeights)


def test_models_that_change_their_logits_in_another_way_are_refused() -> None:
    """Guards against log-probs that are silently not the model's: this class ignores the cap of its configuration."""
    kind, changes, _ = FAMILIES["Gemma 3 with images"]
    text = {**changes["text_config"], "final_logit_softcapping": 2.0}
    module = build_module(kind, {**changes, "text_config": text})
    with pytest.raises(UserError, match=r"is not supported \(Gemma3ForConditionalGeneration\): it changes its logits"):
        choose_forward_pass(LanguageModel(module, None, path="capped"))  # type: ignore[arg-type]


def test_the_plain_path_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a slow run without a reason, and a refusal (Falcon's attention cannot be replaced)."""
    monkeypatch.setitem(random_models.SHAPES, "falcon", {})
    folder = random_models.save_random_model(tmp_path, "falcon")
    with pytest.warns(UserWarning, match="runs with its own attention and cache, which is slower"):
        model = load_model(str(folder))
    assert model.path_name == "plain"


def test_end_tokens_must_be_ids(tmp_path: Path) -> None:
    """Guards against a TypeError for a generation config that names a token."""
    folder = random_models.save_random_model(tmp_path, "qwen3")
    (folder / "generation_config.json").write_text('{"eos_token_id": "<end>"}')
    with pytest.raises(UserError, match=r"must be ids of tokens .*not '<end>'"):
        load_model(str(folder))


GEMMAS: dict[str, dict[str, Any]] = {
    "gemma3": {},
    # Full attention has larger heads; the last two layers use the keys of earlier ones.
    "gemma4": {
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": 120,
        "num_kv_shared_layers": 2,
    },
}


@torch.no_grad()
@pytest.mark.parametrize("kind", GEMMAS)
def test_models_that_also_see(kind: str, tmp_path: Path) -> None:
    """Regression: an AttributeError, as the vocabulary's size is in the text part of the configuration."""
    words = make_tiny.tokenizer()
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": 120,
        "hidden_size": 20,
        "intermediate_size": 31,
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 5,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "eos_token_id": words.eos_token_id,
        **GEMMAS[kind],
    }
    config = AutoConfig.for_model(kind, text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    if kind == "gemma4":
        config.audio_config = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert (model.n_embeddings, model.max_positions) == (120, 128)
    ((sample, _),) = LocalPolicy(model, Sampling(max_tokens=23)).sample([make_prompt()], 2)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids_1_T = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    log_probs_T_V = theirs(input_ids=ids_1_T).logits[0].log_softmax(-1)
    n = len(sample.prompt_ids)
    expected = log_probs_T_V[n - 1 : -1].gather(1, ids_1_T[0, n:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(sample.log_probs), expected, rtol=0, atol=2e-4)
