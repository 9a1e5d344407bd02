"""Families of vision-language models: our log-probs, gradients and replies after images against those of transformers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from rethink.errors import UserError
from rethink.images import FIRST_ID, find, without_images
from rethink.models import lora
from rethink.models.forward.embedding import has_vision_tower
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.model_info import read_model_info
from rethink.models.open_vision import freeze_tower, train_tower
from rethink.models.read_weights import opened_config
from rethink.models.vision.images_only import ImagesOnly
from rethink.policies.local import LocalPolicy
from rethink.settings import Lora, ModelSource
from rethink.training.losses.forward import trained_log_probs
from rethink.training.micro_batch import TrainingSample, lay_out
from rethink.types import Message, Problem, Prompt, Sample, Sampling, Verdict
from support.images import image
from support.samples import make_sample, sdpa_attention
from support.vision_models import VISION, save_vision_model
from support.vision_passes import images_of, own_inputs, own_log_probs

RED, BLUE, WIDE = image(), image("blue", (40, 50)), image("green", (90, 30))
STRIP = image("purple", (500, 120))
"""For Qwen-VL, a grid with one row: it takes as many positions as it has vectors."""

ASKED: list[tuple[Message, ...]] = [
    (Message("user", "What color is it?", (RED,)),),
    (Message("user", "What color is it?", (BLUE,)),),
    (Message("user", "Is <image> like <image>?", (RED, WIDE)), Message("assistant", "no"), Message("user", "Sure?")),
    (Message("user", "1+1?"),),
    (Message("user", "What color is it?", (STRIP,)),),
]
N_NEW = 9


@cache
def family(name: str) -> LanguageModel:
    with TemporaryDirectory() as folder:
        return load_model(str(save_vision_model(Path(folder), name)))


def samples(model: LanguageModel) -> list[Sample]:
    """Return two replies of different lengths to each conversation."""
    found = []
    for i, messages in enumerate(ASKED):
        for n in (4, 7):
            ids = [(11 * k + i + n) % 80 + 60 for k in range(n)]
            prompt_ids = model.chat.encode(messages)
            found.append(make_sample(ids, group=str(i), prompt_ids=prompt_ids, temperature=0.7))
    return found


@pytest.mark.parametrize("name", VISION)
def test_prompts_are_those_of_the_processor(name: str) -> None:
    """Guards against places that the processor fills with other tokens, and images in another order."""
    model = family(name)
    assert model.image_vectors is not None
    for messages in ASKED:
        ids = model.chat.encode(messages)
        theirs = own_inputs(model, messages)["input_ids"][0].tolist()
        token = model.image_vectors.text.token_id
        assert [i if i < FIRST_ID else token for i in ids] == theirs
        n_vectors = sum(map(model.image_vectors.text.n_vectors, images_of(messages)))
        assert len(ids) - len(without_images(ids)) == n_vectors
    first, second = (model.chat.encode(messages) for messages in ASKED[:2])
    assert first != second
    assert without_images(first) == without_images(second)


TRAINED = ("frozen", "projector", "all")
PROJECTOR = {"Qwen2.5-VL": "merger", "Qwen3-VL": "merger", "Idefics3": "connector"}


@contextmanager
def trained(module: Any, vision: str) -> Iterator[None]:
    """Train these parts of the tower inside the context."""
    train_tower(module, vision)
    try:
        yield
    finally:
        module.zero_grad()
        freeze_tower(module)


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("vision", TRAINED)
def test_log_probs_and_gradients_of_a_packed_pass(name: str, vision: str) -> None:
    """Guards against vectors at the wrong places of a packed sequence, prompts that are shared although their images
    differ, gradients of the embedding that image places disturb, and a tower that gets no or another gradient."""
    model, parts = family(name), samples(family(name))
    with trained(model.module, vision):
        compare_gradients(name, model, parts, vision)


def compare_gradients(name: str, model: LanguageModel, parts: list[Sample], vision: str) -> None:
    """Compare log-probs and gradients of one packed pass with those of the module's own pass over each sample."""
    weights = model.weights(trainable=True)
    micro = lay_out([TrainingSample(sample) for sample in parts], image_vectors=model.image_vectors)
    ours = micro.by_sample(trained_log_probs(weights, 16, micro))
    factors = [torch.linspace(-1, 2, len(sample.ids)) for sample in parts]
    loss = sum(((own * f).sum() for own, f in zip(ours, factors, strict=True)), torch.zeros(()))
    model.module.zero_grad()
    weights.backward_to_parameters(torch.autograd.grad(loss, weights.leaves, allow_unused=True))
    found = {key: p.grad for key, p in model.module.named_parameters() if p.grad is not None}
    model.module.zero_grad()
    for n, (sample, own, f) in enumerate(zip(parts, ours, factors, strict=True)):
        theirs = own_log_probs(model, sample, ASKED[n // 2])
        torch.testing.assert_close(own, theirs, rtol=0, atol=2e-4)
        (theirs * f).sum().backward()
    largest = max(float(g.abs().max()) for g in found.values())
    compared = set()
    for key, p in model.module.named_parameters():
        is_tower = any(part in key for part in ("vision", "visual", "connector", "projector"))
        is_projector = PROJECTOR.get(name, "projector") in key
        assert p.requires_grad == (not is_tower or vision == "all" or (vision == "projector" and is_projector)), key
        if p.grad is not None and float(p.grad.abs().max()) > 1e-4 * largest:
            gap = float((found[key] - p.grad).abs().max())
            assert gap <= 1e-3 * float(p.grad.abs().max()) + 1e-5 * largest, f"{key} is off by {gap}"
            compared.add("projector" if is_projector else "all" if is_tower else "frozen")  # the first that trains it
    assert compared == set(TRAINED[: TRAINED.index(vision) + 1])


def prompts() -> list[Prompt]:
    found = []
    for i, messages in enumerate(ASKED):
        problem = Problem(
            f"p{i}", messages[-1].content, "x", lambda reply, gold: Verdict(False), images=messages[-1].images
        )
        found.append(Prompt(problem, "solve", messages, seed=i))
    return found


@cache
def generated(name: str) -> list[list[int]]:
    """Return the replies that transformers generates greedily."""
    found: list[list[int]] = []
    module: Any = family(name).module
    for messages in ASKED:
        inputs = own_inputs(family(name), messages)
        with sdpa_attention(module):
            out = module.generate(**inputs, max_new_tokens=N_NEW, do_sample=False, eos_token_id=1, pad_token_id=0)
        found.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("cached", [False, True])
def test_greedy_replies_and_their_scores(name: str, cached: bool) -> None:
    """Guards against a cache that confuses images, and log-probs that differ between sampler and scorer. Prompts of other
    images have the same words here, and with `cached` they are looked up in the prefix cache."""
    model = family(name)
    policy = LocalPolicy(model, Sampling(temperature=0.0, max_tokens=N_NEW))
    with policy.reuse_prefixes():
        rounds = [policy.sample(prompts(), 2) for _ in range(1 + cached)]
    assert policy.n_reused_tokens > 0 or not cached
    for reply, group in zip(generated(name), rounds[-1], strict=True):
        assert [list(sample.ids) for sample in group] == [reply] * 2
    for group in policy.sample(prompts(), 2, Sampling(temperature=0.9, max_tokens=N_NEW)):
        for sample, scores in zip(group, policy.score(group), strict=True):
            assert sample.log_probs == pytest.approx(scores, abs=2e-4)


def test_an_image_is_computed_once() -> None:
    """Guards against a tower that runs for every prompt, and a cache that grows without limit."""
    model = family("LLaVA")
    assert model.image_vectors is not None
    for _ in range(2):
        for shown in (RED, BLUE):
            model.image_vectors.vectors(shown)
    before = model.image_vectors.n_computed
    LocalPolicy(model, Sampling(max_tokens=3)).sample(prompts()[:2], 2)
    assert model.image_vectors.n_computed == before
    kept = model.image_vectors.vectors(RED).clone()
    limit, model.image_vectors.limit_bytes = model.image_vectors.limit_bytes, 1
    model.image_vectors.vectors(image("black"))
    assert model.image_vectors.n_bytes == kept.nbytes
    assert torch.equal(model.image_vectors.vectors(RED), kept)
    assert model.image_vectors.n_computed == before + 2
    model.image_vectors.limit_bytes = limit


def test_adapters_leave_the_tower_alone() -> None:
    """Guards against adapters in the tower, whose vectors are constants and would never train them."""
    pytest.importorskip("peft")
    adapted = lora.add_adapter(family("Idefics3"), Lora(rank=2), 0)
    names = {key for key, p in adapted.module.named_parameters() if p.requires_grad}
    assert names
    assert all("text_model" in name for name in names)
    assert adapted.chat.encode(ASKED[0]) == family("Idefics3").chat.encode(ASKED[0])


def test_a_model_without_a_processor_says_that_it_takes_no_images(tmp_path: Path) -> None:
    """Guards against prompts that lose their image without a word."""
    folder = save_vision_model(tmp_path, "LLaVA")
    for file in folder.glob("*processor_config.json"):
        file.unlink()
    model = load_model(str(folder))
    assert model.chat.encode(ASKED[3])
    with pytest.raises(UserError, match=r"a prompt has images, but this model takes none: .* no image processor"):
        model.chat.encode(ASKED[0])


def test_a_text_model_is_asked_for_nothing_about_images(qwen: LanguageModel) -> None:
    """Guards against a teacher without a vision tower that looks an image's ids up in its embedding, and fails there."""
    policy = LocalPolicy(family("LLaVA"), Sampling(max_tokens=3))
    ((sample,),) = policy.sample(prompts()[:1], 1)
    teacher = LocalPolicy(qwen, Sampling(max_tokens=9))
    asks: list[Callable[[], object]] = [
        lambda: teacher.score([sample]),
        lambda: teacher.score([sample], prompts()[:1]),
        lambda: teacher.sample(prompts()[:1], 1),
        lambda: teacher.extend([sample], ["so"], Sampling(max_tokens=9)),
    ]
    for ask in asks:
        with pytest.raises(
            UserError, match=r"solve prompt of problem p0 has images, but .* takes none: it has no vision"
        ):
            ask()


def test_text_that_spells_the_image_token_stays_text() -> None:
    """Guards against a question whose words take an image's place."""
    model = family("LLaVA")
    assert model.image_vectors is not None
    token = model.image_vectors.text.token_id
    assert token not in model.chat.encode((Message("user", "What does <image> mean?"),))


def test_a_processor_that_cannot_be_opened_leaves_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against runs of text that end because the package of an image processor is missing."""
    folder = str(save_vision_model(tmp_path, "LLaVA"))

    def fail(*args: object, **how: object) -> None:
        raise ImportError("it needs the torchvision library")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fail)
    info = read_model_info(ModelSource(folder))
    assert info is not None
    for chat in (info.chat, load_model(folder).chat):
        assert chat.encode(ASKED[3])
        with pytest.raises(UserError, match=r"takes none: its image processor needs a package: .*torchvision"):
            chat.encode(ASKED[0])


@pytest.mark.parametrize(
    ("kind", "takes_images"), [("llama4", False), ("qwen3_5", False), ("gemma3", True), ("llava", True)]
)
def test_models_that_are_opened_for_text_alone_take_no_images(kind: str, takes_images: bool) -> None:
    """Guards against problems with images that pass the check before a run, and fail when the model is loaded."""
    config = AutoConfig.for_model(kind)
    assert has_vision_tower(config)
    assert has_vision_tower(opened_config(config)) == takes_images


def test_a_request_keeps_its_images() -> None:
    """Guards against a prefill whose image is gone because the client that sent it has left."""
    policy = LocalPolicy(family("LLaVA"), Sampling(max_tokens=3))
    shown = image("orange")
    digest, problem = shown.digest, Problem("p", "?", "x", lambda reply, gold: Verdict(False))
    asked = Prompt(problem, "solve", (Message("user", "What?", (shown,)),), seed=0)
    requests = policy.make_requests([asked], 1, policy.sampling)
    del shown, asked
    gc.collect()
    assert [kept.digest for kept in requests[0].keep] == [digest]
    assert find(digest) is requests[0].keep[0]


def test_an_image_processor_of_the_hub_is_saved(tmp_path: Path) -> None:
    """Guards against checkpoints of a hub's model that take no images, because there is no folder to copy from."""
    processor = ImagesOnly(str(save_vision_model(tmp_path / "model", "Qwen2.5-VL")), "<image>")
    processor.folder = tmp_path / "not" / "here"
    (tmp_path / "saved").mkdir()
    processor.tokenizer.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again = ImagesOnly(str(tmp_path / "saved"), "<image>")
    pil_image = RED.open()
    before, after = (p.image_processor(images=[pil_image], return_tensors="pt") for p in (processor, again))
    assert torch.equal(before["pixel_values"], after["pixel_values"])


def test_decode_steps_do_not_look_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a step of decoding that waits for the GPU to learn that a reply has no images."""
    n_asked: list[int] = []

    def count(ids_T: Tensor, table: object, images: object, attend: object) -> None:
        n_asked.append(getattr(attend, "only_tokens", False))

    monkeypatch.setattr("rethink.models.forward.fused.embed_images", count)
    monkeypatch.setattr("rethink.models.forward.modules.embed_images", count)
    LocalPolicy(family("LLaVA"), Sampling(max_tokens=4)).sample(prompts()[3:4], 1)
    assert n_asked[0] is False
    assert set(n_asked[1:]) == {True}
