"""One reply to each prompt, in groups."""

from __future__ import annotations

from rethink.methods.one_each import one_each
from rethink.prompts import Prompts
from support.method_runs import PROBLEMS, SkippingPolicy

TEXTS = Prompts("{question}", "again")


def test_replies_stay_with_their_problem() -> None:
    """Guards against replies that move to another problem if a prompt is too long, or if a problem has no prompts."""
    policy = SkippingPolicy(
        lambda prompt, index, version: f"{prompt.phase} {prompt.problem.id} {prompt.seed}",
        lambda prompt: prompt.phase == "refine" and prompt.draft is not None and prompt.draft.index == 1,
    )
    solved = policy.sample(TEXTS.ask(PROBLEMS[:3]), 3)
    asks = [TEXTS.ask_to_refine(solved[0]), [], TEXTS.ask_to_refine(solved[2][:1])]
    found = one_each(asks, policy.sample)
    assert [[sample.prompt for sample in group] for group in found] == [[asks[0][0], asks[0][2]], [], [asks[2][0]]]
    assert one_each([[], []], policy.sample) == [(), ()]
