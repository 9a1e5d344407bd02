"""Reflect on wrong answers and try again in the same conversation (Reflect, Retry, Reward, arXiv 2505.24726)."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.strategies.attempt import Attempt, Setup, reseed
from rethink.strategies.retry import RetryPrompt, answer_again, comments_on, reflect_and_retry, wrong_answers


def reflect(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Reflect on each wrong answer and answer again, up to `rounds` times. Other answers stay.

    Verdicts are an oracle: do not compare the result with strategies that do not see them."""
    return reflect_and_retry(setup, attempts, rounds, _retry_prompt(setup))


def blind_retry(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Retry as `reflect` does, but with the fixed text `prompts.blind` in place of every reflection.

    This control shows what a reflection adds to a second try. The fixed text is not sampled and costs nothing."""
    found = list(attempts)
    for n in range(rounds):
        wrong = wrong_answers(found)
        asks = reseed(setup.prompts, "round", n).ask_to_reflect(wrong)
        fixed = [(setup.policy.transcribe(ask, setup.prompts.blind),) for ask in asks]
        found = answer_again(setup, found, comments_on(wrong, fixed), _retry_prompt(setup), count_comments=False)
    return found


def _retry_prompt(setup: Setup) -> RetryPrompt:
    return lambda reflection: setup.prompts.ask_to_retry([reflection], [reflection])[0]
