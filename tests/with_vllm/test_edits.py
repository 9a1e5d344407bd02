"""Replies that vLLM continues, that are cut, or that get another prompt: `make test-vllm`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy
from rethink.recipe import load_recipe
from rethink.training import loop
from rethink.training.run import open_run
from rethink.types import Sample, Sampling
from with_vllm.runs import LONG, PROMPTS, gaps, mismatches, policy_over, settings_for, trainer_log_probs
from with_vllm.serving import Served

pytestmark = pytest.mark.slow


def sampled_gap(model: LanguageModel, sample: Sample) -> float:
    """Return the largest difference of the sampled tokens' log-probs to the model's own."""
    (wanted,) = trainer_log_probs(model, (sample,))
    is_sampled = ~torch.tensor(sample.forced)
    return float((torch.tensor(sample.log_probs) - wanted)[is_sampled].abs().max())


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_continued_replies(temperature: float, model: LanguageModel, served: Served) -> None:
    """Guards against ids that are tokenized again, keys and values of an end token in vLLM's cache, log-probs of another
    context, and another choice than our own sampler's."""
    how = Sampling(temperature, max_tokens=61)
    policy = policy_over(model, served, sampling=how)
    policy.publish(1)
    drawn = [sample for group in policy.sample([*PROMPTS, LONG], 5) for sample in group]
    starts = [policy.cut(s, len(s.text) // 2) if s.index % 2 else s for s in drawn]
    assert all(0 < len(start.ids) < len(s.ids) for start, s in zip(starts, drawn, strict=True) if s.index % 2)
    texts = [f" {3 + s.index} 7" for s in drawn]
    found = policy.extend(starts, texts)
    n_continued = 0
    for start, text, new in zip(starts, texts, found, strict=True):
        kept = len(start.ids) - (start.stop == "stop")
        added = model.chat.encode_reply(text)[:-1]
        first = kept + len(added)
        assert (new is None) == (first >= 61)
        if new is None:
            continue
        n_continued += 1
        assert new.ids[:first] == start.ids[:kept] + added
        assert new.log_probs[:kept] == start.log_probs[:kept]
        assert all(map(math.isnan, new.log_probs[kept:first]))
        assert new.forced == (False,) * kept + (True,) * len(added) + (False,) * (len(new.ids) - first)
        assert first < len(new.ids) <= 61
        assert new.stop == ("stop" if new.ids[-1] in model.chat.stop_ids else "length")
        assert (new.text, new.version, new.index) == (model.chat.decode(new.ids), 1, start.index)
        assert temperature == 0 or sampled_gap(model, new) < 1e-4
    assert n_continued > 10
    again = policy.extend(starts, texts)
    assert [s and s.ids for s in again] == [s and s.ids for s in found]
    if temperature == 0:
        ours = LocalPolicy(model, how).extend(starts, texts)
        assert [s and (s.ids, s.stop, s.text) for s in ours] == [s and (s.ids, s.stop, s.text) for s in found]


def test_replies_to_another_prompt(model: LanguageModel, served: Served) -> None:
    """Guards against log-probs after the first prompt, whose keys and values vLLM has in its cache."""
    policy = policy_over(model, served)
    policy.publish(1)
    drawn = [sample for group in policy.sample([LONG, *PROMPTS], 2) for sample in group]
    moved = [policy.reprompt(s, drawn[i - 2].prompt) for i, s in enumerate(drawn)]
    for old, new in zip(drawn, moved, strict=True):
        assert new.prompt_ids == model.chat.encode(new.prompt.messages) != old.prompt_ids
        assert (new.ids, new.text, new.forced) == (old.ids, old.text, (True,) * len(old.ids))
    assert max(gaps(model, tuple(moved), policy.score(moved))) < 1e-4


METHODS = {
    "vl_rethinker": [
        "method.rethink={share = 1.0, easy = 1.0, cut_before = ['1'], min_tokens = 1, max_kept = 9, triggers = [' 7']}",
        *("method.replay.updates=0", "problems_per_batch=7", "sampling.max_tokens=61"),
    ],
    "critique_grpo": [
        *("prompts.critique=why", "prompts.improve=again", "method.critic.source=policy", "method.n_kept=2"),
    ],
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_edit_replies(method: str, folder: Path, tmp_path: Path, served: Served) -> None:
    """Guards against edited replies of old weights or with other ids than the trainer's, in every update."""
    given = settings_for(tmp_path / "run", f'sampler.urls=["{served.url}"]', f"model.path={folder}")
    general = [setting for setting in given if not setting.startswith(("method.", "updates="))]
    more = [f"method.name={method}", "method.n_solve=11", "method.solve.n_steps=1", "updates=2", *METHODS[method]]
    run = open_run(load_recipe(None, [*general, *more]), warn=pytest.fail)
    records = list(loop.train(run))
    print(f"{method}: edited replies by update {[record['method/n_kept'] for record in records]}")
    assert sum(record["method/n_kept"] for record in records) > 1
    assert all(record["mismatch/log_prob_gap_max"] < 1e-3 for record in records)
    assert mismatches(records) == []
    assert records[-1]["optimizer_steps"] == 2
