"""vLLM's CPU build that gets only the adapter of a LoRA model, compared with our own sampler: `make test-vllm`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rethink.models import lora
from rethink.models.bundled import MODELS
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.policies.vllm.policy import VllmPolicy
from rethink.recipe import load_recipe
from rethink.settings import Lora
from rethink.training import loop
from rethink.training.run import open_run
from rethink.types import Sample, Sampling
from with_vllm.runs import LONG, PROMPTS, gaps, mismatches, policy_over, settings_for
from with_vllm.serving import Served

pytestmark = pytest.mark.slow

ROUNDING = 1e-4
"""Largest difference of log-probs to the trainer's. vLLM's CPU kernels compute a float32 model's adapter in float32."""


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for adapters up to rank 8."""
    log = tmp_path_factory.mktemp("server") / "log"
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    server = Served(folder, log, "--enable-lora", "--max-lora-rank", "8", "--lora-target-modules", *modules)
    yield server.wait()
    server.kill()


@pytest.fixture
def adapted(model: LanguageModel) -> LanguageModel:
    """A model whose adapter, padded by vLLM from rank 3 to 8, changes log-probs by several nats."""
    found = lora.add_adapter(model, Lora(rank=3), seed=5)
    draw(found, 7)
    return found


def draw(model: LanguageModel, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lora.adapter_parameters(model.module).items():
            if ".lora_B." in name:
                weight.copy_(torch.randn(weight.shape, generator=draws) / 10)


def opened(model: LanguageModel, served: Served, sampling: Sampling | None = None) -> VllmPolicy:
    policy = policy_over(model, served, sampling=sampling)
    assert policy.fleet.adapter is not None
    return policy


def test_greedy_tokens_of_an_adapter(adapted: LanguageModel, served: Served) -> None:
    """Guards against an adapter that vLLM scales, rounds or pads in another way, and keys and values of the version before
    (only the last prompt fills a block of the prefix cache). Greedy tokens may differ only once two tokens tie up to
    rounding: for version 2, one reply has a lead of 2.4e-6 nats."""
    greedy = Sampling(0.0, max_tokens=61)
    prompts = [*PROMPTS, LONG]
    policy = opened(adapted, served, greedy)
    n_whole = 0
    for version in (1, 2, 3):
        draw(adapted, version)
        policy.publish(version)
        ours = LocalPolicy(adapted, greedy).sample(prompts, 1)
        for (one,), (two,) in zip(policy.sample(prompts, 1), ours, strict=True):
            clear = [lead > ROUNDING for lead in leads(adapted, one)]
            n = clear.index(False) if False in clear else len(one.ids)
            assert one.ids[:n] == two.ids[:n]
            assert one.version == version
            if n == len(one.ids):
                n_whole += 1
                assert (one.text, one.stop) == (two.text, two.stop)
    print(f"{n_whole} of {3 * len(prompts)} replies without a tie, all equal")
    assert n_whole > 2 * len(prompts)


@torch.no_grad()
def leads(model: LanguageModel, sample: Sample) -> list[float]:
    """Return by how many nats the best token leads at each position of a reply."""
    ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
    logits = model.module(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1]
    best, second = logits.topk(2).values.T
    return [float(lead) for lead in best - second]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_of_an_adapter(temperature: float, adapted: LanguageModel, served: Served) -> None:
    """Guards against samples of the base or of an older version, and keys and values of those in the prefix cache."""
    policy = opened(adapted, served, Sampling(temperature, max_tokens=61))
    policy.publish(1)
    old = tuple(s for group in policy.sample([*PROMPTS, LONG], 3) for s in group)
    print(f"temperature {temperature}: largest gap of log-probs {max(gaps(adapted, old)):.2e}")
    assert max(gaps(adapted, old)) < ROUNDING
    hits = served.metric("vllm:prefix_cache_hits_total")
    policy.sample([LONG], 3)
    assert served.metric("vllm:prefix_cache_hits_total") >= hits + 3 * 256
    draw(adapted, 11)
    policy.publish(2)
    hits = served.metric("vllm:prefix_cache_hits_total")
    (first,) = policy.sample([LONG], 1)
    assert served.metric("vllm:prefix_cache_hits_total") == hits
    (new,) = policy.sample([LONG], 3)
    assert max(gaps(adapted, (*first, *new))) < ROUNDING
    assert max(gaps(adapted, old)) > 0.1
    assert adapted.base is not None
    assert max(gaps(adapted.base, new)) > 0.1


def test_scores_of_an_adapter(adapted: LanguageModel, served: Served) -> None:
    """Guards against scores of the base model."""
    policy = opened(adapted, served)
    policy.publish(1)
    samples = [s for group in policy.sample([*PROMPTS, LONG], 2) for s in group]
    assert max(gaps(adapted, tuple(samples), policy.score(samples))) < ROUNDING


def test_merged_weights_reach_a_server_with_adapters(adapted: LanguageModel, served: Served) -> None:
    """Guards against weights that layers wrapped for LoRA never get, and base weights that are taken for the start's."""
    adapter = lora.add_adapter(adapted.base or adapted, Lora(rank=9), seed=5)  # above --max-lora-rank
    draw(adapter, 13)
    policy = policy_over(adapter, served)
    assert "LoRA rank 9" in policy.fleet.merged_because
    policy.publish(1)
    samples = tuple(s for group in policy.sample([*PROMPTS, LONG], 2) for s in group)
    assert max(gaps(adapter, samples)) < ROUNDING
    assert "replaced its base model's weights" in policy_over(adapted, served).fleet.merged_because
    served.kill()
    served.start()
    served.wait()
    again = opened(adapted, served)
    again.publish(2)
    assert max(gaps(adapted, tuple(s for group in again.sample(PROMPTS, 2) for s in group))) < ROUNDING


def test_a_run_with_an_adapter_resumes(tmp_path: Path) -> None:
    """Guards against a colocated vLLM without the adapter after a resume, evaluations of the base model, and samples of the
    wrong weights: vLLM's log-probs equal the trainer's in every update."""
    more = ["evaluation.problems.source=countdown", "evaluation.problems.limit=11", "evaluation.sampling.max_tokens=24"]
    adapter = ["lora.rank=3", "training.lr=0.01", "sampler.transfer=adapter", "method.solve={kl_coef = 0.1}"]
    records = []
    for updates, resume in ((4, False), (8, True)):
        recipe = load_recipe(None, settings_for(tmp_path / "run", *more, *adapter, f"updates={updates}"))
        lines: list[str] = []
        run = open_run(recipe, resume=resume, warn=lines.append)
        assert (run.policy.fleet.adapter.rank, lines) == (3, [])  # type: ignore[attr-defined]
        try:
            records += list(loop.train(run))
        finally:
            run.policy.close()  # type: ignore[attr-defined]
    trained = [record for record in records if record["phase"] != "evaluation"]
    assert [record["update"] for record in trained] == list(range(1, 9))
    print(f"largest gap of log-probs {max(record['mismatch/log_prob_gap_max'] for record in trained):.2e}")
    assert all(record["mismatch/log_prob_gap_max"] < 1e-3 for record in trained)
    assert mismatches(trained) == []
    assert [record["solve"]["n"] for record in records if record["phase"] == "evaluation"] == [11, 11]
    base, end = load_model(str(MODELS["tiny"])), load_model(str(tmp_path / "run" / "checkpoints" / "000008"))
    (group,) = LocalPolicy(end, Sampling(max_tokens=24)).sample(PROMPTS[:1], 3)
    assert max(gaps(base, group)) > 0.05
