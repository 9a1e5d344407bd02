"""Adapters: a start that changes nothing, gradients against `peft` and autograd, folders that others can read."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from models.forward.test_forward import (
    LIKE_LLAMA,
    assert_near,
    build,
    draw,
    hidden_of,
    loss_of,
    plain_hidden,
    some_ids,
    taken,
)
from rethink.errors import UserError
from rethink.models import lora
from rethink.models.chat import Chat
from rethink.models.forward import ModuleWeights, Weights
from rethink.models.forward.token_log_probs import token_log_probs
from rethink.models.forward.weights import logits
from rethink.models.language_model import LanguageModel
from rethink.models.load import choose_forward_pass, load_model
from rethink.policies.local import LocalPolicy
from rethink.problems import countdown
from rethink.prompts import Prompts
from rethink.settings import Lora
from rethink.types import Group, Problem, Sampling
from support.processes import light
from support.random_models import save_random_model
from support.samples import sdpa_attention

peft = pytest.importorskip("peft", reason="the extra peft is not installed")

# `peft`'s own wrapper, which only the tests use, asks transformers for something deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

_light = pytest.fixture(scope="module", autouse=True)(light)


def with_adapter(model: LanguageModel, *targets: str, rank: int = 3, seed: int = 5) -> LanguageModel:
    """An adapter whose B is not 0, so that it counts."""
    adapted = lora.add_adapter(model, Lora(rank, 7.0, targets or "all-linear"), seed)
    for n, (name, p) in enumerate(adapters(adapted).items()):
        if ".lora_B." in name:
            p.data.copy_(0.1 * draw(*p.shape, seed=100 + n))
    return adapted


def adapters(model: LanguageModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.module.named_parameters() if ".lora_" in name}


def built(name: str) -> LanguageModel:
    """A random model of `test_forward`, without a chat."""
    chat = copy.copy(Chat.__new__(Chat))
    return choose_forward_pass(LanguageModel(build(name), chat, path=name))


def asked(model: LanguageModel) -> list[Group]:
    problem = Problem("p", "3 7 5 -> 26", "", countdown.verify)
    policy = LocalPolicy(model, Sampling(max_tokens=7))
    return policy.sample(Prompts(solve="{question}").ask([problem]), 5)


def tokens(groups: list[Group]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(s.ids, s.log_probs) for group in groups for s in group]


# --------------------------------------------------------------------------------------------------- the start


def test_the_start_answers_as_the_base(any_model: LanguageModel) -> None:
    """Guards against a B that is not 0, and against weights that are merged or cast on the way: equal to the last bit."""
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


def test_the_start_derives_from_the_seed_alone(qwen: LanguageModel) -> None:
    """Guards against draws that depend on, or change, the global generator, and against one A for all layers."""
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
    # Uniform in +-1 / sqrt(20): its deviation is that over sqrt(3), 0.129.
    assert 0.1 < float(torch.cat([first[name].detach().flatten() for name in drawn if "q_proj" in name]).std()) < 0.16


def test_the_base_stays_beside_it_and_costs_nothing(any_model: LanguageModel) -> None:
    """Guards against a second copy of the weights, and against a base that changes with its adapter."""
    adapted = with_adapter(any_model)
    assert adapted.base is not None
    theirs = {p.data_ptr() for p in adapted.module.parameters() if not p.requires_grad}
    assert {p.data_ptr() for p in adapted.base.module.parameters()} == theirs
    assert not any(p.requires_grad for p in adapted.base.module.parameters())
    assert not any(m.training for m in adapted.module.modules())


# ------------------------------------------------------------------------------------------------- the gradients

CASES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LIKE_LLAMA, ()),
    "gpt2": (),
    "phi3": (),
    "llama": ("q_proj", "v_proj"),
    "qwen3": ("k_proj", "down_proj", "up_proj"),
    "qwen3, tied": ("o_proj",),
}


def of_peft(model: LanguageModel, targets: tuple[str, ...]) -> Any:
    """The same adapter, put into the base by `peft` alone."""
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


def forms(model: LanguageModel) -> list[Weights]:
    """Every way in which the model is trained."""
    plain = ModuleWeights(model.module, torch.float32, trainable=True)
    return [plain, model.weights(trainable=True)] if model.fused else [plain]


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_peft(name: str) -> None:
    """Guards against an adapter that is left out, scaled otherwise or joined to the wrong rows, there or back."""
    targets = CASES[name]
    model = with_adapter(built(name), *targets)
    assert model.fused == (name in LIKE_LLAMA)
    ids_T = some_ids(23)
    theirs = of_peft(model, targets)
    hidden_T_H = plain_hidden(theirs.base_model.model, ids_T)
    loss_of(hidden_T_H, theirs.base_model.model.lm_head(hidden_T_H)).backward()
    wanted = {key.removeprefix("base_model.model."): g for key, g in taken(theirs).items()}
    assert wanted.keys() == adapters(model).keys()
    for weights in forms(model):
        model.module.zero_grad()
        ours_T_H = hidden_of(weights, ids_T)
        torch.testing.assert_close(ours_T_H, hidden_T_H, rtol=0, atol=1e-4)
        loss = loss_of(ours_T_H, logits(ours_T_H, weights.head))
        weights.backward_to_parameters(torch.autograd.grad(loss, weights.leaves, allow_unused=True))
        assert_near(taken(model.module), wanted)


@pytest.mark.parametrize("name", CASES)
def test_the_sampler_has_the_merged_weights(name: str) -> None:
    """Guards against a sampler that does without the adapter, or has it twice after publishing twice."""
    model = with_adapter(built(name), *CASES[name])
    ids_T = some_ids(23)
    with torch.no_grad():
        trained_T_H = hidden_of(model.weights(trainable=True), ids_T)
        first, again = (hidden_of(model.weights(), ids_T) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first, trained_T_H, rtol=0, atol=1e-4)


def test_no_leaf_has_the_size_of_a_weight() -> None:
    """Guards against gradients of merged weights, as large as the model; and the frozen head gets none either."""
    model = with_adapter(built("qwen3"))
    trained = model.weights(trainable=True)
    n_adapter = sum(p.numel() for p in adapters(model).values())
    # B of joined layers lies in blocks, with zeros beside them: three times the columns for queries, keys and values.
    assert sum(leaf.numel() for leaf in trained.leaves) < 3 * n_adapter
    frozen, ids_T = model.module.lm_head.weight, some_ids(5)
    results: list[tuple[Any, Any]] = []
    for head in (frozen, frozen.detach().clone().requires_grad_()):
        hidden = draw(5, 24).requires_grad_()
        token_log_probs(hidden, (head, None), ids_T, torch.ones(5), 2).sum().backward()
        results.append((hidden.grad, head.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert (results[0][1] is None, results[1][1] is None) == (True, False)


def test_a_frozen_base_may_be_bfloat16(model_folders: dict[str, Path]) -> None:
    """Guards against an adapter that takes the dtype of its base, in which small steps are lost."""
    model = with_adapter(load_model(str(model_folders["qwen3"]), dtype="bfloat16"))
    assert {p.dtype for p in adapters(model).values()} == {torch.float32}
    weights = model.weights(trainable=True)
    hidden_T_H = hidden_of(weights, some_ids(11))
    weights.backward_to_parameters(torch.autograd.grad(hidden_T_H.square().sum(), weights.leaves))
    assert {g.dtype for g in taken(model.module).values()} == {torch.float32}
    assert taken(model.module).keys() == adapters(model).keys()


# ------------------------------------------------------------------------------------------------ names and folders


@pytest.mark.parametrize("name", ["qwen3", "llama, tied", "gpt2", "phi3"])
def test_named_weights_are_those_of_the_plain_model(name: str) -> None:
    """Guards against names of `peft`'s, a tied weight given twice, a transposed sum, and a base that drifts."""
    base = built(name)
    kept = copy.deepcopy(base.module)
    assert [n for n, _ in lora.named_weights(base)] == [n for n, _ in base.module.named_parameters()]
    assert all(torch.equal(t, base.module.get_parameter(n)) for n, t in lora.named_weights(base))
    model = with_adapter(base)
    for _ in range(3):
        given = list(lora.named_weights(model))
    assert all(map(torch.equal, base.module.parameters(), kept.parameters()))
    assert [n for n, _ in given] == [n for n, _ in kept.named_parameters()]
    merged = of_peft(model, ()).merge_and_unload()
    for n, tensor in given:
        # float32: W + B A in one operation or two
        torch.testing.assert_close(tensor, merged.get_parameter(n), rtol=0, atol=1e-6)


@pytest.fixture
def saved(any_model: LanguageModel, model_folders: dict[str, Path], tmp_path: Path) -> tuple[LanguageModel, Path]:
    """A model with an adapter, and the adapter's folder."""
    kind = any_model.config.model_type
    model = with_adapter(any_model)
    folder = tmp_path / "adapter"
    folder.mkdir()
    model.module.peft_config["default"].base_model_name_or_path = str(model_folders[kind])
    lora.save(model, folder)
    model.chat.tokenizer.save_pretrained(folder)
    return model, folder


def test_an_adapter_comes_back_as_it_was(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against tensors that are rounded or mixed up, and against an evaluation of the base in place of the model."""
    model, folder = saved
    again = load_model(str(folder))
    ours, theirs = adapters(model), adapters(again)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(p.requires_grad for p in theirs.values()), "a resumed run trains on"
    assert tokens(asked(again)) == tokens(asked(model))
    assert again.fused == model.fused


def test_an_adapter_without_a_tokenizer_has_its_base_s(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against adapters of others' being refused: most folders hold two files."""
    model, folder = saved
    for file in folder.iterdir():
        if file.name not in ("adapter_config.json", "adapter_model.safetensors"):
            file.unlink()
    assert tokens(asked(load_model(str(folder)))) == tokens(asked(model))


def test_peft_reads_our_folder(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against a format that is almost `peft`'s."""
    model, folder = saved
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
    with torch.no_grad(), sdpa_attention(model.base.module):  # type: ignore[union-attr]
        without = model.base.module(input_ids=ids_T[None], attention_mask=ones).logits[0]  # type: ignore[union-attr]
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)
    assert (without - wanted).abs().max() > 0.1


def test_the_same_adapter_gives_the_same_bytes(saved: tuple[LanguageModel, Path], tmp_path: Path) -> None:
    """Guards against a set that is written in another order each time."""
    _, folder = saved
    (tmp_path / "again").mkdir()
    lora.save(load_model(str(folder)), tmp_path / "again")
    for file in sorted((tmp_path / "again").iterdir()):
        assert file.read_bytes() == (folder / file.name).read_bytes()
    names = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)


# ----------------------------------------------------------------------------------------------------- bad input


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(str(path), **options)
    return str(caught.value)


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_layers_that_are_not_there(any_model: LanguageModel) -> None:
    """Guards against an adapter on fewer layers than was asked for, and against one on the output layer."""
    wrong: list[str | tuple[str, ...]] = [("q_prj",), "lm_head", ("layers",), (), ("",), ("wte", "embed_tokens")]
    for targets in wrong:
        with pytest.raises(UserError, match="no linear layer") as caught:
            lora.add_adapter(any_model, Lora(3, targets=targets), 5)
        assert ("c_attn" if any_model.config.model_type == "gpt2" else "gate_proj, k_proj") in str(caught.value)


def test_a_base_that_is_gone(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against the library's own traceback."""
    _, folder = saved
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(folder / "gone"))
    assert f"{folder}/adapter_config.json names as base_model_name_or_path" in refused(folder)


def test_a_base_with_other_weights(saved: tuple[LanguageModel, Path], model_folders: dict[str, Path]) -> None:
    """Guards against an adapter that is added to what it was not trained on; another dtype is no other base."""
    model, folder = saved
    load_model(str(folder), dtype="bfloat16")
    assert model.base is not None
    last = list(model.base.module.parameters())[-1]
    with torch.no_grad():
        last.add_(0.1)
    model.base.module.save_pretrained(folder / "other")
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(folder / "other"))
    assert "the weights of the base have changed" in refused(folder)


def test_a_base_of_another_shape(saved: tuple[LanguageModel, Path], tmp_path: Path) -> None:
    """Guards against a traceback for an adapter that nothing but its shapes tells from a fitting one."""
    model, folder = saved
    other = save_random_model(tmp_path / "wide", model.config.model_type, hidden_size=28)
    (folder / "adapter_base.json").unlink()
    rewrite(folder / "adapter_config.json", base_model_name_or_path=str(other))
    assert f"the adapter {folder} does not fit the model {other}" in refused(folder)


ODD = [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"peft_type": "IA3"}]


@pytest.mark.parametrize("changes", ODD, ids=str)
def test_adapters_of_another_kind(saved: tuple[LanguageModel, Path], changes: dict[str, Any]) -> None:
    """Guards against parts of an adapter that are left out without a word."""
    _, folder = saved
    rewrite(folder / "adapter_config.json", **changes)
    message = refused(folder)
    assert next(iter(changes)) in message
    assert "with peft" in message


def test_damaged_folders(saved: tuple[LanguageModel, Path]) -> None:
    """Guards against tracebacks for files that were cut short."""
    _, folder = saved
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    assert "cannot load the adapter" in refused(folder)
    weights.write_bytes(whole)
    config.write_text("{")
    assert f"cannot read {config}" in refused(folder)
    config.write_text("{}")
    assert "lacks peft_type or base_model" in refused(folder)


def test_without_peft(qwen: LanguageModel, saved: tuple[LanguageModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError in place of the command that mends it."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'rethink-rl\[peft\]'"):
        lora.add_adapter(qwen, Lora(rank=3), 5)
    assert "rethink-rl[peft]" in refused(saved[1])
    shutil.rmtree(saved[1])
    assert "cannot load the model" in refused(saved[1]), "only adapters need it"
