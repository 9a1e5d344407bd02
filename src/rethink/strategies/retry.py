"""Answer again after a comment on the last answer: shared by reflect, reflexion and self-refine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rethink.problems.rewards import grade
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, all_answers, keep_index, reseed, sample_followups
from rethink.types import Group, Prompt, Sample

SampleKey = tuple[str, int]
Comments = Mapping[SampleKey, Group]
"""The comment on each answer, by the answer's key: a group of one sample, () if the prompt was over-long."""

RetryPrompt = Callable[[Sample], Prompt | None]
"""A function from a comment to the prompt for another answer, or None if the answer needs no change."""


def comments_on(answers: Sequence[Sample], groups: Sequence[Group]) -> Comments:
    """Pair each answer with the comment on it."""
    return {answer.key: keep_index(answer, group) for answer, group in zip(answers, groups, strict=True)}


def wrong_answers(attempts: Sequence[Attempt]) -> list[Sample]:
    """Return the answers that the verifier grades wrong; answers that could not be graded are not among them."""
    answers = all_answers(attempts)
    graded = grade([(s,) for s in answers])
    return [answer for answer, group in zip(answers, graded, strict=True) if group[0].right is False]


def reflect_and_retry(
    setup: Setup, attempts: Sequence[Attempt], rounds: int, retry_prompt: RetryPrompt
) -> list[Attempt]:
    """Sample a reflection on every wrong answer, then another answer, `rounds` times."""
    found = list(attempts)
    for n in range(rounds):
        wrong = wrong_answers(found)
        groups = sample_followups(setup, reseed(setup.prompts, "round", n).ask_to_reflect(wrong))
        found = answer_again(setup, found, comments_on(wrong, groups), retry_prompt)
    return found


def answer_again(
    setup: Setup,
    attempts: Sequence[Attempt],
    comments: Comments,
    retry_prompt: RetryPrompt,
    count_comments: bool = True,
) -> list[Attempt]:
    """Replace each answer that has a comment by a new one; others stay. `count_comments` adds comments to the cost."""
    asks: dict[SampleKey, Prompt] = {}
    for key, group in comments.items():
        prompt = retry_prompt(group[0]) if group else None
        if prompt is not None:
            asks[key] = prompt
    replies = dict(zip(asks, sample_followups(setup, list(asks.values())), strict=True))
    return [with_replies(a, comments, replies, count_comments) for a in attempts]


def with_replies(
    attempt: Attempt, comments: Comments, replies: Mapping[SampleKey, Group], count_comments: bool
) -> Attempt:
    """Replace each answer that has a reply by it; see `answer_again`."""
    answers: list[Sample] = []
    drawn: list[Sample] = []
    n_skipped, depth = 0, 0
    for old in attempt.answers:
        comment = comments.get(old.key, ())
        reply = keep_index(old, replies.get(old.key, ()))
        answers += reply or (old,)
        new = (*comment, *reply) if count_comments else reply
        drawn += new
        no_comment = old.key in comments and not comment
        no_reply = old.key in replies and not reply
        n_skipped += no_comment or no_reply
        depth = max(depth, len(new))
    return attempt.with_answers(tuple(answers), drawn, depth=depth).with_note(OVERLONG, n_skipped)
