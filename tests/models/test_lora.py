"""LoRA: a new adapter changes nothing, gradients equal `peft`'s, folders that `peft` can read, and bad input."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rethink.errors import UserError
from rethink.models import lora
from rethink.models.chat import Chat
from rethink.models.forward import ModuleWeights, Weights
from rethink.models.forward.token_log_probs import token_log_probs
from rethink.models.forward.weights import Head, logits
from rethink.models.language_model import LanguageModel
from rethink.models.load import choose_forward_pass, load_model
from rethink.policies.local import LocalPolicy
from rethink.problems import countdown
from rethink.prompts import Prompts
from rethink.settings import Lora
from rethink.types import Group, Problem, Sampling
from support.forward import (
    LLAMA_LIKE,
    assert_gradients_close,
    build,
    draw,
    hidden_of,
    loss_of,
    parameter_gradients,
    reference_hidden,
    some_ids,
)
from support.processes import light
from support.random_models import save_random_model

peft = pytest.importorskip("peft", reason="the extra peft is not installed")

# `peft`'s own wrapper, which only the tests use, asks transformers for something deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

_light = pytest.fixture(scope="module", autouse=True)(light)


def with_adapter(model: LanguageModel, *targets: str, rank: int = 3, seed: int = 5) -> LanguageModel:
    """Return the model with an adapter whose B is not 0."""
    adapted = lora.add_adapter(model, Lora(rank, 7.0, targets or "all-linear"), seed)
    for n, (name, p) in enumerate(adapters(adapted).items()):
        if ".lora_B." in name:
            p.data.copy_(0.1 * draw(*p.shape, seed=100 + n))
    return adapted


def adapters(model: LanguageModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.module.named_parameters() if ".lora_" in name}


def built(name: str) -> LanguageModel:
    """Return a random model of an architecture, without a chat."""
    return choose_forward_pass(LanguageModel(build(name), Chat.__new__(Chat), path=name))


def asked(model: LanguageModel) -> list[Group]:
    problem = Problem("p", "3 7 5 -> 26", "", countdown.verify)
    policy = LocalPolicy(model, Sampling(max_tokens=7))
    return policy.sample(Prompts(solve="{question}").ask([problem]), 5)


def tokens(groups: list[Group]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(s.ids, s.log_probs) for group in groups for s in group]


def test_a_new_adapter_changes_nothing(any_model: LanguageModel) -> None:
    """Guards against a B that is not 0, merged weights, a second copy of them, and a base that can be trained."""
    before = tokens(asked(any_model))
    adapted = lora.add_adapter(any_model, Lora(rank=3), 5)
    assert adapted.fused == any_model.fused
    assert adapted.base is any_model
    assert tokens(asked(adapted)) == before
    assert tokens(asked(with_adapter(any_model))) != before
    ids_T = some_ids(23)
    for trained in (False, True):
        ours, theirs = (hidden_of(m.weights(trainable=trained), ids_T) for m in (adapted, any_model))
        assert torch.equal(ours, theirs)
    frozen = {p.data_ptr() for p in adapted.module.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in any_model.module.parameters()} == frozen
    assert not any(m.training for m in adapted.module.modules())


def test_a_depends_only_on_the_seed(qwen: LanguageModel) -> None:
    """Guards against using or changing the global generator, and one A for all layers; A is uniform in +-1 / sqrt(20)."""
    state = torch.get_rng_state()
    first = adapters(lora.add_adapter(qwen, Lora(rank=3), 5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    same, other = (adapters(lora.add_adapter(qwen, Lora(rank=3), seed)) for seed in (5, 7))
    assert all(torch.equal(first[name], same[name]) for name in first)
    drawn = [name for name in first if ".lora_A." in name]
    assert len(drawn) == 14  # seven linear layers in each of two
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    q, k = (first[next(name for name in drawn if part in name)] for part in ("0.self_attn.q", "0.self_attn.k"))
    assert not torch.equal(q, k)
    assert 0.1 < float(torch.cat([first[name].detach().flatten() for name in drawn if "q_proj" in name]).std()) < 0.16


CASES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LLAMA_LIKE, ()),
    "gpt2": (),
    "phi3": (),
    "llama": ("q_proj", "v_proj"),
    "qwen3": ("k_proj", "down_proj", "up_proj"),
    "qwen3, tied": ("o_proj",),
}


def peft_model(model: LanguageModel, targets: tuple[str, ...]) -> Any:
    """Return the base with the same adapter, added by `peft` alone."""
    assert model.base is not None
    config = peft.LoraConfig(
        r=3,
        lora_alpha=7.0,
        target_modules=list(targets) or "all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out="GPT2" in type(model.module).__name__,
    )
    theirs = peft.get_peft_model(copy.deepcopy(model.base.module), config).eval()
    found = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    ours = adapters(model)
    assert {name.removeprefix("base_model.model.") for name in found} == set(ours)
    for name, p in found.items():
        p.data.copy_(ours[name.removeprefix("base_model.model.")])
    return theirs


def trainable_weights(model: LanguageModel) -> list[Weights]:
    """Return every form in which the model can be trained."""
    plain = ModuleWeights(model.module, torch.float32, trainable=True)
    return [plain, model.weights(trainable=True)] if model.fused else [plain]


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_pefts(name: str) -> None:
    """Guards against an adapter that is left out, scaled differently, added twice or joined to the wrong rows."""
    targets = CASES[name]
    model = with_adapter(built(name), *targets)
    assert model.fused == (name in LLAMA_LIKE)
    ids_T = some_ids(23)
    theirs = peft_model(model, targets)
    hidden_T_H = reference_hidden(theirs.base_model.model, ids_T)
    loss_of(hidden_T_H, theirs.base_model.model.lm_head(hidden_T_H)).backward()
    wanted = {key.removeprefix("base_model.model."): g for key, g in parameter_gradients(theirs).items()}
    assert wanted.keys() == adapters(model).keys()
    for weights in trainable_weights(model):
        model.module.zero_grad()
        ours_T_H = hidden_of(weights, ids_T)
        torch.testing.assert_close(ours_T_H, hidden_T_H, rtol=0, atol=1e-4)
        loss = loss_of(ours_T_H, logits(ours_T_H, weights.head))
        weights.backward_to_parameters(torch.autograd.grad(loss, weights.leaves, allow_unused=True))
        assert_gradients_close(parameter_gradients(model.module), wanted)
    with torch.no_grad():
        first, again = (hidden_of(model.weights(), ids_T) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first, hidden_T_H, rtol=0, atol=1e-4)


def test_no_gradient_has_the_size_of_a_weight() -> None:
    """Guards against gradients of merged weights, and a gradient of the frozen head."""
    model = with_adapter(built("qwen3"))
    trained = model.weights(trainable=True)
    n_adapter = sum(p.numel() for p in adapters(model).values())
    # B of joined layers is block-diagonal: three times the columns for queries, keys and values.
    assert sum(leaf.numel() for leaf in trained.leaves) < 3 * n_adapter
    frozen, ids_T = model.module.lm_head.weight, some_ids(5)
    results: list[tuple[Any, Any]] = []
    for head in (frozen, frozen.detach().clone().requires_grad_()):
        hidden = draw(5, 24).requires_grad_()
        token_log_probs(hidden, Head(head, None), ids_T, torch.ones(5), 2).sum().backward()
        results.append((hidden.grad, head.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert (results[0][1] is None, results[1][1] is None) == (True, False)


def test_adapters_of_a_bfloat16_base_are_float32(model_folders: dict[str, Path]) -> None:
    """Guards against an adapter in bfloat16, in which small steps are lost."""
    model = with_adapter(load_model(str(model_folders["qwen3"]), dtype="bfloat16"))
    assert {p.dtype for p in adapters(model).values()} == {torch.float32}
    weights = model.weights(trainable=True)
    hidden_T_H = hidden_of(weights, some_ids(11))
    weights.backward_to_parameters(torch.autograd.grad(hidden_T_H.square().sum(), weights.leaves))
    assert {g.dtype for g in parameter_gradients(model.module).values()} == {torch.float32}
    assert parameter_gradients(model.module).keys() == adapters(model).keys()


@pytest.mark.parametrize("name", ["qwen3", "llama, tied", "gpt2", "phi3"])
def test_named_weights_equal_pefts_merged_model(name: str) -> None:
    """Guards against `peft`'s names, doubled tied weights, a transposed sum, and a base that drifts."""
    base = built(name)
    kept = copy.deepcopy(base.module)
    assert [n for n, _ in lora.named_weights(base)] == [n for n, _ in base.module.named_parameters()]
    assert all(torch.equal(t, base.module.get_parameter(n)) for n, t in lora.named_weights(base))
    model = with_adapter(base)
    for _ in range(3):
        given = list(lora.named_weights(model))
    assert all(map(torch.equal, base.module.parameters(), kept.parameters()))
    assert [n for n, _ in given] == [n for n, _ in kept.named_parameters()]
    merged = peft_model(model, ()).merge_and_unload()
    for n, tensor in given:
        # float32: W + B A in one operation or two
        torch.testing.assert_close(tensor, merged.get_parameter(n), rtol=0, atol=1e-6)


@pytest.fixture
def saved(any_model: LanguageModel, model_folders: dict[str, Path], tmp_path: Path) -> tuple[LanguageModel, Path]:
    """A model with an adapter, and the adapter's folder."""
    model = with_adapter(any_model)
    folder = tmp_path / "adapter"
    folder.mkdir()
    model.module.peft_config["default"].base_model_name_or_path = str(model_folders[any_model.config.model_type])
    lora.save(model, folder)
    model.chat.tokenizer.save_pretrained(folder)
    return model, folder


def test_saved_adapters_load_unchanged(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against rounded or confused tensors, and evaluating the base; other people's folders have only two files."""
    model, folder = saved
    again = load_model(str(folder))
    ours, theirs = adapters(model), adapters(again)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(p.requires_grad for p in theirs.values()), "a resumed run trains on"
    assert tokens(asked(again)) == tokens(asked(model))
    assert again.fused == model.fused
    (folder / "again").mkdir()
    lora.save(again, folder / "again")
    for file in (folder / "again").iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes(), "targets are written in one order"
    for file in folder.iterdir():
        if file.name not in ("again", "adapter_config.json", "adapter_model.safetensors"):
            file.unlink()
    assert tokens(asked(load_model(str(folder)))) == tokens(asked(model)), "tokenizer of the base"


def test_peft_reads_our_folder(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against a format that is almost `peft`'s."""
    _, folder = saved
    base = AutoModelForCausalLM.from_pretrained(
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"], dtype=torch.float32
    )
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    ids_T = some_ids(13)
    ones = torch.ones_like(ids_T[None])
    with torch.no_grad():
        wanted = theirs(input_ids=ids_T[None], attention_mask=ones, use_cache=False).logits[0]
        weights = load_model(str(folder)).weights()
        ours = logits(hidden_of(weights, ids_T), weights.head)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(path))
    return str(caught.value)


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_unknown_targets_are_refused(any_model: LanguageModel) -> None:
    """Guards against adapting fewer layers than asked for, and the output layer."""
    wrong: list[str | tuple[str, ...]] = [("q_prj",), "lm_head", ("layers",), (), ("",), ("wte", "embed_tokens")]
    for targets in wrong:
        with pytest.raises(UserError, match="no linear layer") as caught:
            lora.add_adapter(any_model, Lora(3, targets=targets), 5)
        assert ("c_attn" if any_model.config.model_type == "gpt2" else "gate_proj, k_proj") in str(caught.value)


def test_another_base_is_refused(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against adding an adapter to other weights, and tracebacks; another dtype is the same base."""
    model, folder = saved
    load_model(str(folder), dtype="bfloat16")
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(folder / "gone"))
    assert f"{folder}/adapter_config.json names as base_model_name_or_path" in refused(folder)
    assert model.base is not None
    last = list(model.base.module.parameters())[-1]
    with torch.no_grad():
        last.add_(0.1)
    model.base.module.save_pretrained(folder / "other")
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(folder / "other"))
    assert "the weights of the base have changed" in refused(folder)
    other = save_random_model(folder / "wide", model.config.model_type, hidden_size=28)
    (folder / "adapter_base.json").unlink()
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(other))
    assert f"the adapter {folder} does not fit the model {other}" in refused(folder)


ODD: list[dict[str, Any]] = [
    {"use_dora": True},
    {"modules_to_save": ["lm_head"]},
    {"bias": "all"},
    {"peft_type": "IA3"},
    {"init_lora_weights": "pissa_niter_4"},
    {"setting_of_next_year": [1]},
]


def test_other_kinds_of_adapters_and_damaged_folders_are_refused(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against silently ignoring parts of an adapter, and tracebacks for truncated files."""
    _, folder = saved
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole, text = weights.read_bytes(), config.read_text()
    for changes in ODD:
        rewrite(config, **changes)
        assert next(iter(changes)) in refused(folder)
        config.write_text(text)
    weights.write_bytes(whole[:100])
    assert f"{weights} is damaged or cut short" in refused(folder)
    weights.write_bytes(whole)
    config.write_text("{")
    assert f"cannot read {config}" in refused(folder)
    config.write_text("{}")
    assert "lacks peft_type or base_model" in refused(folder)


def without_first(tensors: dict[str, Tensor]) -> None:
    del tensors[min(tensors)]


def with_another_layer(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.ones(3, 20)


def with_nan(tensors: dict[str, Tensor]) -> None:
    tensors[min(tensors)][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(without_first, "it lacks base_model"), (with_another_layer, "does not have"), (with_nan, "contains NaN")],
)
def test_tensors_that_do_not_fit_are_named(
    saved: tuple[LanguageModel, Path], change: Callable[[dict[str, Tensor]], None], complaint: str
) -> None:
    """Guards against an adapter that is only half there, or of no use."""
    file = saved[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    assert complaint in refused(saved[1])


def test_adapters_without_weights_or_with_code(saved: tuple[LanguageModel, Path], tmp_path: Path) -> None:
    """Guards against a question to the hub, and against a pickle that runs code."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "marker",)

    (saved[1] / "adapter_model.safetensors").unlink()
    assert "has no adapter_model.safetensors" in refused(saved[1])
    torch.save({"a": Payload()}, saved[1] / "adapter_model.bin")
    assert "damaged or contain code, which is never run" in refused(saved[1])
    assert not (tmp_path / "marker").exists()


def test_missing_peft_names_the_remedy(
    qwen: LanguageModel, saved: tuple[LanguageModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an ImportError instead of the command to install it."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'rethink-rl\[peft\]'"):
        lora.add_adapter(qwen, Lora(rank=3), 5)
    assert "rethink-rl[peft]" in refused(saved[1])
    shutil.rmtree(saved[1])
    assert "there is no model folder" in refused(saved[1]), "only adapters need it"
