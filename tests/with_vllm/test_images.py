"""Images with a real vLLM server: the prompts that it computes, its log-probs, and new weights of the language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from rethink.errors import UserError
from rethink.images import has_images
from rethink.models.forward.embedding import tower_parameters
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.settings import Training
from rethink.training.trainer import Trainer
from rethink.types import Message, Problem, Prompt, Sample, Sampling, Verdict
from support.images import image
from support.vision_models import save_vision_model
from with_vllm.runs import policy_over
from with_vllm.serving import Served

pytestmark = pytest.mark.slow

FAMILY = "Idefics3"
"""vLLM needs torchvision for LLaVA and Qwen-VL. In Idefics3, an image has tokens around and between its vectors."""

HEADS = {"hidden_size": 64, "intermediate_size": 97}
"""Heads of 32 numbers, which vLLM's attention on a CPU supports."""

RED, BLUE, WIDE = image(), image("blue", (40, 50)), image("green", (90, 30))
ASKED: list[tuple[Message, ...]] = [
    (Message("user", "What color is it?", (RED,)),),
    (Message("user", "What color is it?", (BLUE,)),),
    (Message("user", "Is <image> like <image>?", (RED, WIDE)), Message("assistant", "no"), Message("user", "Sure?")),
    (Message("user", "1+1?"),),
]


def prompts() -> list[Prompt]:
    found = []
    for i, messages in enumerate(ASKED):
        problem = Problem(f"p{i}", "?", "x", lambda reply, gold: Verdict(False))
        found.append(Prompt(problem, "solve", messages, seed=i))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision_model(tmp_path_factory.mktemp("vision"), FAMILY, **HEADS)


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(folder, tmp_path_factory.mktemp("server") / "log")
    yield server.wait()
    server.kill()


@pytest.fixture
def model(folder: Path) -> LanguageModel:
    return load_model(str(folder))


def gap(model: LanguageModel, samples: Sequence[Sample], found: Sequence[Sequence[float]] | None = None) -> float:
    """Return the largest difference of log-probs (by default those of sampling) to the trainer's."""
    ours = Trainer(model, Training(), 1, lambda: model).log_probs(samples)
    theirs = [sample.log_probs for sample in samples] if found is None else found
    return max(float((own - torch.tensor(other)).abs().max()) for own, other in zip(ours, theirs, strict=True))


def test_log_probs_and_scores_equal_the_trainers(model: LanguageModel, served: Served) -> None:
    """Guards against images that are left out, exchanged, or read into other ids, and log-probs at other positions. The
    first two prompts have the same words about two images. Rounding is below 2e-4."""
    policy = policy_over(model, served, sampling=Sampling(max_tokens=21))
    policy.publish(1)
    groups = policy.sample(prompts(), 5)
    samples = [sample for group in groups for sample in group]
    assert [has_images(group[0].prompt_ids) for group in groups] == [True, True, True, False]
    assert gap(model, samples) < 2e-4
    assert model.chat.image_text is not None
    token = model.chat.image_text.token_id  # a reply with it cannot be scored, and a random model writes it
    scored = [sample for sample in samples if token not in sample.ids]
    first = [sample for sample in groups[0] if token not in sample.ids]
    assert len(scored) > len(first) > 0
    assert gap(model, scored, policy.score(scored)) < 2e-4
    exchanged = [prompts()[1]] * len(first)
    theirs, ours = (p.score(first, exchanged) for p in (policy, LocalPolicy(model, policy.sampling)))
    for other, own, sample in zip(theirs, ours, first, strict=True):
        assert other == pytest.approx(own, abs=2e-4)
        assert other != pytest.approx(sample.log_probs, abs=1e-2)


def test_new_weights_of_the_language_model(model: LanguageModel, served: Served) -> None:
    """Guards against vectors, or keys and values of an image, that stay from the old weights or are lost."""
    policy = policy_over(model, served, sampling=Sampling(max_tokens=9))
    policy.publish(1)
    old = policy.sample(prompts()[:1], 2)[0]
    tower = set(tower_parameters(model.module))
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if weight not in tower:
                weight.mul_(0.8 if "norm" not in name else 1.1)
    policy.publish(2)
    new = [sample for group in policy.sample(prompts(), 2) for sample in group]
    assert gap(model, new) < 2e-4
    assert gap(model, old) > 0.01


def test_other_ids_are_an_error(model: LanguageModel, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against replies to a prompt that the trainer does not train on."""
    policy = policy_over(model, served, sampling=Sampling(max_tokens=5))
    policy.publish(1)
    assert model.chat.image_text is not None
    shorter = model.chat.image_text.without_expansion

    def one_token_more(ids: Sequence[int]) -> object:
        found, images = shorter(ids)
        return [*found, found[-1]], images

    monkeypatch.setattr(model.chat.image_text, "without_expansion", one_token_more)
    with pytest.raises(UserError, match=r"vLLM makes \d+ ids of a prompt with images, and the trainer \d+"):
        policy.sample(prompts()[:1], 1)
