"""Samples as plain data: what a checkpoint holds is restored bit for bit."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.sample_data import sample_from_data, sample_to_data
from rethink.types import Message, Problem, RewardTerm, Verdict

PROBLEM = Problem(
    "p",
    "3 7 5 -> 26",
    "26",
    lambda reply, gold: Verdict(reply.endswith(gold)),
    solve="Solve {question}",
    suite="s",
    failure="7",
    earlier=(Message("system", "Be brief."),),
)


def test_a_sample_is_restored_with_prompt_and_drafts() -> None:
    """Guards against a field that is lost or changed by JSON: tuples, marks, log-probs to the last bit, NaN, drafts."""
    policy = FakePolicy(lambda p, i, v: "3 7", log_prob=None)
    policy.publish(3)
    prompts = Prompts(seed=5)
    ((draft,),) = policy.sample(prompts.ask([PROBLEM]), 1)
    draft = replace(draft, log_probs=(-0.1, -1 / 3, -1e-300))
    draft = draft.with_verdict(Verdict(False, "no", "7", True, 0.25), 0.125)
    ((reply,),) = policy.sample([prompts.follow_up(draft, "check", "?")], 1)
    (extended,) = policy.extend([reply], [" wait"])
    assert extended is not None
    extended = replace(
        extended, mask=(False, *extended.mask[1:]), terms=(RewardTerm("a", None, "why"),), usage=(5, None)
    )
    restored = sample_from_data(json.loads(json.dumps(sample_to_data(extended), allow_nan=False)))
    assert repr(restored) == repr(extended)  # all but the problem's functions; NaN differs from itself
    assert restored.prompt.draft == draft
    assert math.isnan(restored.log_probs[2])
    assert restored.prompt.group == extended.prompt.group


def test_a_restored_sample_asks_again_but_is_not_graded() -> None:
    """Guards against prompts that lack the opening, and against a verdict of a verifier that is gone."""
    ((sample,),) = FakePolicy(lambda *_: "26").sample(Prompts(seed=5).ask([PROBLEM]), 1)
    restored = sample_from_data(sample_to_data(sample))
    assert Prompts(seed=7).ask([restored.problem]) == Prompts(seed=7).ask([PROBLEM])
    assert restored.problem.grade("26") == Verdict(None, "restored from a checkpoint, without its verifier")
