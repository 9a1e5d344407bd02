"""Later turns: one reply to each prompt, and the order of what is trained."""

from __future__ import annotations

from rethink.methods.turns import by_problem, one_each
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


def test_samples_are_sorted_by_problem_only() -> None:
    """Guards against an order by id, and turns of one problem that change places."""
    policy = SkippingPolicy(lambda prompt, index, version: f"{prompt.problem.id} {index}", lambda prompt: False)
    problems = [PROBLEMS[5], PROBLEMS[0], PROBLEMS[3]]
    pairs = []
    for group in policy.sample(TEXTS.ask([PROBLEMS[0], PROBLEMS[5], PROBLEMS[3], PROBLEMS[5]]), 2):
        pairs += [(sample, float(sample.index)) for sample in group]
    assert [sample.text for sample, _ in by_problem(pairs, problems)] == [
        "p5 0", "p5 1", "p5 0", "p5 1", "p0 0", "p0 1", "p3 0", "p3 1"
    ]  # fmt: skip
    assert [advantage for _, advantage in by_problem(pairs, problems)] == [0, 1] * 4
