"""`training.vision`: the tower in training, and everything that has computed images with earlier weights of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.forward.embedding import tower_parameters
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.open_vision import share_tower, train_tower
from rethink.objectives import Clip, PolicyGradient, Update
from rethink.policies.local import LocalPolicy
from rethink.recipe import load_recipe
from rethink.settings import Training
from rethink.training.losses.forward import trained_log_probs
from rethink.training.micro_batch import TrainingSample, lay_out
from rethink.training.open_trainer import why_unsupported
from rethink.training.reference import whole_copy
from rethink.training.trainer import Trainer
from rethink.types import Message, Problem, Prompt, Sample, Sampling, Verdict
from support.images import image
from support.trained import bits, same
from support.vision_models import save_vision_model
from support.vision_passes import own_log_probs

Open = Callable[..., tuple[LanguageModel, Trainer, LocalPolicy]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("Idefics3", "Qwen2.5-VL")
    return {name: save_vision_model(tmp_path_factory.mktemp("vision") / name, name) for name in names}


@pytest.fixture
def opened(folders: dict[str, Path]) -> Open:
    """A function that returns a model with its trainer and its policy."""

    def open_(name: str, vision: str, **more: object) -> tuple[LanguageModel, Trainer, LocalPolicy]:
        model = load_model(str(folders[name]))
        train_tower(model.module, vision)
        settings = Training(**{"lr": 0.01, "micro_batch_tokens": 60, **more})  # type: ignore[arg-type]
        trainer = Trainer(model, settings, 9, partial(load_model, str(folders[name])))
        return model, trainer, LocalPolicy(model, Sampling(temperature=0.9, max_tokens=5))

    return open_


def prompts() -> list[Prompt]:
    found = []
    for i, color in enumerate(("red", "blue", "green")):
        message = Message("user", "What color is it?", (image(color),))
        problem = Problem(f"p{i}", message.content, "x", lambda reply, gold: Verdict(False), images=message.images)
        found.append(Prompt(problem, "solve", (message,), seed=i))
    return found


def drawn(policy: LocalPolicy) -> list[Sample]:
    return [sample for group in policy.sample(prompts(), 3) for sample in group]


def update_of(samples: list[Sample], kl_coef: float = 0.0) -> Update:
    advantages = tuple((-1.0) ** i for i in range(len(samples)))
    return Update("solve", (PolicyGradient(tuple(samples), advantages, surrogate=Clip(0.2, 0.2), kl_coef=kl_coef),))


def tower(model: LanguageModel) -> list[Tensor]:
    return [p.detach().clone() for p in tower_parameters(model.module)]


def reference_log_probs(trainer: Trainer, samples: list[Sample]) -> Tensor:
    """Return the log-probs of all samples under the weights that KL terms compare with."""
    weights = trainer.reference_weights
    micro = lay_out([TrainingSample(sample) for sample in samples], image_vectors=weights.image_vectors)
    with torch.no_grad():
        return torch.cat(micro.by_sample(trained_log_probs(weights, 16, micro)))


@pytest.mark.parametrize("name", ["Idefics3", "Qwen2.5-VL"])
@pytest.mark.parametrize("vision", ["frozen", "projector", "all"])
def test_the_sampler_sees_through_the_trained_tower(name: str, vision: str, opened: Open) -> None:
    """Guards against a sampler, a scorer and a trainer that keep vectors of earlier weights, against a frozen tower that
    moves, and against one that computes images again. Their log-probs are those of the module's own pass over pixels."""
    model, trainer, policy = opened(name, vision)
    vectors = model.image_vectors
    assert vectors is not None
    with policy.reuse_prefixes():
        for version in (1, 2):
            before, seen = tower(model), vectors.vectors(image()).clone()
            trainer.apply(update_of(drawn(policy)))
            policy.publish(version)
            n_moved = sum(not torch.equal(a, b) for a, b in zip(before, tower(model), strict=True))
            assert (n_moved == 0) == (vision == "frozen")
            assert vision != "projector" or n_moved < len(before) / 2
            assert torch.equal(vectors.vectors(image()), seen) == (vision == "frozen")
            samples = drawn(policy)
            scores, trained = policy.score(samples), trainer.log_probs(samples)
            n_compared = 0
            for sample, score, own in zip(samples, scores, trained, strict=True):
                if vectors.text.token_id in sample.ids:  # transformers would look for one more image
                    continue
                n_compared += 1
                with torch.no_grad():
                    expected = own_log_probs(model, sample, sample.prompt.messages)
                for found in (torch.tensor(sample.log_probs), torch.tensor(score), own):
                    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)
            assert n_compared > len(samples) / 2
    assert vectors.n_computed == (4 if vision == "frozen" else 10)  # with the example: again after each update


def test_the_start_model_keeps_its_tower(opened: Open) -> None:
    """Guards against KL terms and roles that see images through the tower in training."""
    model, trainer, policy = opened("Idefics3", "all")
    samples = drawn(policy)
    start, at_start = tower(model), reference_log_probs(trainer, samples)
    metrics = trainer.apply(update_of(samples, kl_coef=0.1))
    assert metrics["kl_to_reference_nats"] == pytest.approx(0, abs=1e-6)
    assert torch.equal(reference_log_probs(trainer, samples), at_start)
    assert same(tower(trainer.initial), start)
    assert not torch.allclose(torch.cat(trainer.log_probs(samples)), at_start, atol=1e-3)


@pytest.mark.parametrize("vision", ["frozen", "all"])
def test_a_moving_reference_moves_its_tower(vision: str, opened: Open, tmp_path: Path) -> None:
    """Guards against a reference that has the trained weights, but the start's tower, and against a checkpoint of it
    without the tower. A frozen tower computes each image once, also after a move."""
    _, trainer, policy = opened("Idefics3", vision, reference_every=1)
    samples = drawn(policy)
    at_start = reference_log_probs(trainer, samples)
    for version in (1, 2):
        trainer.apply(update_of(samples))
        moved = reference_log_probs(trainer, samples)
        torch.testing.assert_close(moved, torch.cat(trainer.log_probs(samples)), rtol=0, atol=1e-5)
        policy.publish(version)
        samples = drawn(policy)
    moved = reference_log_probs(trainer, samples)
    assert not torch.allclose(moved[: len(at_start)], at_start[: len(moved)], atol=1e-3)
    vectors = trainer.reference_weights.image_vectors
    assert vision == "all" or vectors.n_computed == 4  # type: ignore[union-attr]
    trainer.reference.write(tmp_path)
    _, again, _ = opened("Idefics3", vision, reference_every=1)
    again.reference.read(tmp_path)
    assert torch.equal(reference_log_probs(again, samples), moved)


@pytest.mark.parametrize("vision", ["frozen", "projector", "all"])
@pytest.mark.parametrize("reference_every", [0, 2])
def test_a_frozen_tower_is_held_once(vision: str, reference_every: int, opened: Open) -> None:
    """Guards against the same tower and the same vectors twice in memory, and against a start model or a reference that
    sees images through the tower in training."""
    model, trainer, policy = opened("Idefics3", vision, reference_every=reference_every)
    for _ in range(2):
        trainer.apply(update_of(drawn(policy), kl_coef=0.1))
        policy.publish(trainer.version)
    trained = {p.data_ptr() for p in model.module.parameters()}
    frozen = {p.data_ptr() for p in tower_parameters(model.module)}
    for other in (trainer.reference.model, trainer.initial) if reference_every else (trainer.initial,):
        shared = {p.data_ptr() for p in other.module.parameters()} & trained
        assert shared == (frozen if vision == "frozen" else set())
        assert (other.image_vectors is model.image_vectors) == (vision == "frozen")


@pytest.mark.parametrize("reference_every", [0, 1])
def test_a_shared_tower_changes_no_result(
    reference_every: int, opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against a reference that a shared tower changes: weights and metrics have the same bits as with two towers,
    also after a checkpoint of the reference is read."""
    found: list[list[Tensor]] = []
    for shares in (False, True):
        if not shares:
            monkeypatch.setattr("rethink.training.trainer.share_tower", lambda model, owner: model)
        model, trainer, policy = opened("Idefics3", "frozen", reference_every=reference_every, reference_mixup=0.5)
        monkeypatch.undo()
        metrics: dict[str, float] = {}
        for version in (1, 2, 3):
            metrics |= trainer.apply(update_of(drawn(policy), kl_coef=0.1))
            policy.publish(version)
            trainer.reference.write(tmp_path)
            trainer.reference.read(tmp_path)
        assert metrics["kl_to_reference_nats"] > 0
        whole = [p.detach().clone() for p in model.module.parameters()]
        found.append(
            [*bits(trainer), *whole, reference_log_probs(trainer, drawn(policy)), torch.tensor([*metrics.values()])]
        )
    assert same(*found)


def test_another_tower_is_not_shared(opened: Open, folders: dict[str, Path]) -> None:
    """Guards against a start model that loses the tower it was loaded with."""
    model, _, _ = opened("Idefics3", "frozen")
    other = load_model(str(folders["Idefics3"]))
    with torch.no_grad():
        tower_parameters(other.module)[0][0] += 1
    own = tower(other)
    assert share_tower(other, model) is other
    assert same(tower(other), own)


def test_a_moving_copy_in_float32_keeps_the_shared_tower(folders: dict[str, Path]) -> None:
    """Guards against a tower in bfloat16 that the copy makes larger, for the model in training as well."""
    start = load_model(str(folders["Idefics3"]), dtype="bfloat16")
    copied = whole_copy(start, torch.float32).model
    assert [p.data_ptr() for p in tower_parameters(copied.module)] == [
        p.data_ptr() for p in tower_parameters(start.module)
    ]
    for model, dtype in ((start, torch.bfloat16), (copied, torch.float32)):
        shared = {p.data_ptr() for p in tower_parameters(model.module)}
        for p in model.module.parameters():
            assert p.dtype == (torch.bfloat16 if p.data_ptr() in shared else dtype)


@pytest.mark.parametrize("name", ["Idefics3", "Qwen2.5-VL"])
def test_checkpointing_recomputes_the_tower(name: str, opened: Open) -> None:
    """Guards against a tower whose activations stay in memory, and gradients that checkpointing changes."""
    found: list[list[Tensor]] = []
    calls: list[int] = []
    for checkpointing in (False, True):
        model, trainer, policy = opened(name, "all", gradient_checkpointing=checkpointing)
        part = next(part for key, part in model.module.named_modules() if "vi" in key and key.endswith("mlp"))
        samples = drawn(policy)
        calls.append(0)
        part.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1))
        trainer.apply(update_of(samples))
        found.append(bits(trainer))
    assert same(*found)
    assert calls[1] == 2 * calls[0] > 0


@pytest.mark.parametrize(
    ("vision", "known", "message"),
    [("all", True, 'it has no vision tower; set it to "frozen"'), ("projector", False, 'set it to "all" or "frozen"')],
)
def test_a_model_without_these_parts_is_refused(
    vision: str,
    known: bool,
    message: str,
    opened: Open,
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against runs that train less than their recipe says."""
    monkeypatch.setattr("rethink.models.forward.embedding.PROJECTORS", ())
    model = load_model(str(model_folders["qwen3"])) if known else opened("Idefics3", "all")[0]
    with pytest.raises(UserError, match=message):
        train_tower(model.module, vision)


def test_several_ranks_keep_the_tower_frozen() -> None:
    """Guards against ranks whose towers drift apart."""
    recipe = load_recipe(None, ["training.vision=projector"])
    assert why_unsupported(recipe, 1) == ""
    assert 'training.vision = "projector" needs a single process' in why_unsupported(recipe, 2)
