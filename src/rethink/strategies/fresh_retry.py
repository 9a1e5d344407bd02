"""A fresh answer in place of each wrong one: the control for everything that sees which answers are wrong."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.strategies.attempt import Attempt, Setup, reseed
from rethink.strategies.retry import with_replies, wrong_answers


def fresh_retry(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Replace each wrong answer by a new answer to the same prompt, drawn as first answers are, up to `rounds` times.

    The new answer sees neither the wrong one nor its verdict. From first answers, this is right as often as one of
    `rounds` + 1 first answers (pass@k with k = `rounds` + 1), but stops at the first right one. Like `reflect`, it uses
    verdicts."""
    found = list(attempts)
    for n in range(rounds):
        wrong = wrong_answers(found)
        asks = reseed(setup.prompts, "round", n).ask_afresh(wrong)
        groups = setup.policy.sample(asks, 1, setup.sampling) if asks else []
        fresh = {answer.key: group for answer, group in zip(wrong, groups, strict=True)}
        found = [with_replies(attempt, {}, fresh, count_comments=False) for attempt in found]
    return found
