"""Another try after looking back on the last one: by verdicts (Reflect-Retry-Reward, Reflexion), or by own feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rethink.problems.rewards import grade
from rethink.prompts import words_of
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, answers_of, draw, in_place_of, reseeded
from rethink.types import Group, Prompt, Sample

MEMORY = 3
"""How many reflections a new try sees, the latest ones, as in Reflexion (arXiv 2303.11366, section 3)."""

SampleKey = tuple[str, int]
Comments = Mapping[SampleKey, Group]
"""What was said of an answer, by the answer's key: a group of one; none where the prompt was over-long."""


def reflect(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Wrong answers are reflected on and tried again in the same conversation, up to `rounds` times; the others stand
    (Reflect, Retry, Reward, arXiv 2505.24726). The verdicts are an oracle: not for comparison with what goes without."""
    return _reflected(setup, attempts, rounds, _retry(setup))


def blind_retry(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """As `reflect`, with one fixed text in place of every reflection: the control that tells what a reflection is worth
    beyond another try. The text is not sampled, and costs nothing."""
    found = list(attempts)
    for n in range(rounds):
        wrong = _wrong(found)
        asks = reseeded(setup.prompts, "round", n).ask_to_reflect(wrong)
        fixed = [(setup.policy.transcribe(asked, setup.prompts.blind),) for asked in asks]
        found = _answered(setup, found, _comments(wrong, fixed), _retry(setup), drawn=False)
    return found


def _retry(setup: Setup) -> Callable[[Sample], Prompt]:
    """What asks for another answer after a reflection."""
    return lambda reflection: setup.prompts.ask_to_retry([reflection], [reflection])[0]


def reflexion(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Wrong answers are reflected on; a new try begins afresh, with the latest reflections in view and no earlier try
    (Reflexion, arXiv 2303.11366), up to `rounds` times. Sees verdicts, as `reflect`."""
    memory: dict[tuple[str, int], list[str]] = {}

    def ask(reflection: Sample) -> Prompt:
        learned = memory.setdefault((reflection.problem.id, reflection.index), [])
        learned.append(setup.prompts.shown(reflection.text))
        return setup.prompts.ask_with_reflections(reflection, learned[-MEMORY:])

    return _reflected(setup, attempts, rounds, ask)


def self_refine(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Each answer gets feedback from the model itself, then an answer that uses it, in one conversation, until the feedback
    is content or `rounds` are over (Self-Refine, arXiv 2303.17651)."""
    texts = setup.prompts

    def ask(critique: Sample) -> Prompt | None:
        content = words_of(texts.shown(critique.text)).endswith(words_of(texts.satisfied))
        return None if content else texts.follow_up(critique, "improve", texts.improve)

    found = list(attempts)
    asked = answers_of(found)
    for _ in range(rounds):
        asks = [texts.follow_up(s, "critique", texts.critique) for s in asked]
        critiques = _comments(asked, draw(setup, asks))
        before = answers_of(found)
        found = _answered(setup, found, critiques, ask)
        asked = _new(answers_of(found), before)
    return found


def _new(answers: Sequence[Sample], before: Sequence[Sample]) -> list[Sample]:
    old = {s.key for s in before}
    return [s for s in answers if s.key not in old]


def _comments(answers: Sequence[Sample], groups: Sequence[Group]) -> Comments:
    return {old.key: in_place_of(old, group) for old, group in zip(answers, groups, strict=True)}


def _reflected(
    setup: Setup, attempts: Sequence[Attempt], rounds: int, ask: Callable[[Sample], Prompt | None]
) -> list[Attempt]:
    """Reflect on all answers that are wrong, and answer again, in each round."""
    found = list(attempts)
    for n in range(rounds):
        wrong = _wrong(found)
        reflections = _comments(wrong, draw(setup, reseeded(setup.prompts, "round", n).ask_to_reflect(wrong)))
        found = _answered(setup, found, reflections, ask)
    return found


def _wrong(attempts: Sequence[Attempt]) -> list[Sample]:
    answers = answers_of(attempts)
    graded = grade([(s,) for s in answers])
    return [old for old, group in zip(answers, graded, strict=True) if group[0].right is False]


def _answered(
    setup: Setup,
    attempts: Sequence[Attempt],
    comments: Comments,
    ask: Callable[[Sample], Prompt | None],
    drawn: bool = True,
) -> list[Attempt]:
    """Answer again where an answer was commented on; answers for which `ask` has no prompt stand. Comments that were not
    `drawn` are no cost."""
    asks: dict[SampleKey, Prompt] = {}
    for key, group in comments.items():
        prompt = ask(group[0]) if group else None
        if prompt is not None:
            asks[key] = prompt
    replies = dict(zip(asks, draw(setup, list(asks.values())), strict=True))
    return [_replaced(a, comments, replies, drawn) for a in attempts]


def _replaced(attempt: Attempt, comments: Comments, replies: Mapping[SampleKey, Group], drawn: bool) -> Attempt:
    answers: list[Sample] = []
    used: list[Sample] = []
    n_skipped, depth = 0, 0
    for old in attempt.answers:
        comment = comments.get(old.key, ())
        reply = in_place_of(old, replies.get(old.key, ()))
        answers += reply or (old,)
        new = (*comment, *reply) if drawn else reply
        used += new
        no_comment = old.key in comments and not comment
        no_reply = old.key in replies and not reply
        n_skipped += no_comment or no_reply
        depth = max(depth, len(new))
    return attempt.answered(tuple(answers), used, depth=depth).noted(OVERLONG, n_skipped)
