"""Another try after looking back on the last one: by verdicts (Reflect-Retry-Reward, Reflexion), or by own feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rethink.problems.judging import judge
from rethink.prompts import Prompts, words_of
from rethink.strategies.attempt import Attempt, Setup, count_skipped, draw, in_place_of, in_round
from rethink.types import Group, Prompt, Sample

MEMORY = 3
"""How many reflections a new try sees, the latest ones, as in Reflexion (arXiv 2303.11366, section 3)."""


def reflect(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Wrong answers are reflected on and tried again in the same conversation, up to `rounds` times; the others stand
    (Reflect, Retry, Reward, arXiv 2505.24726). The verdicts are an oracle: not for comparison with what goes without."""
    found, ask = list(attempts), lambda r: setup.prompts.ask_to_retry([r], [r])[0]
    for n in range(rounds):
        found = _answered(setup, found, _reflections(setup, in_round(setup, n), found), ask)
    return found


def blind_retry(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """As `reflect`, with one fixed text in place of every reflection: the control that tells what a reflection is worth
    beyond another try. The text is not sampled, and costs nothing."""
    found, ask = list(attempts), lambda r: setup.prompts.ask_to_retry([r], [r])[0]
    for n in range(rounds):
        wrong = _wrong(found)
        asks = in_round(setup, n).ask_to_reflect(wrong)
        fixed = [(setup.policy.transcribe(asked, setup.prompts.blind),) for asked in asks]
        found = _answered(setup, found, _looks(wrong, fixed), ask, drawn=False)
    return found


def reflexion(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Wrong answers are reflected on; a new try begins afresh, with the latest reflections in view and no earlier try
    (Reflexion, arXiv 2303.11366), up to `rounds` times. Sees verdicts, as `reflect`."""
    found = list(attempts)
    memory: dict[tuple[str, int], list[str]] = {}

    def ask(reflection: Sample) -> Prompt:
        own = memory.setdefault((reflection.problem.id, reflection.index), [])
        own.append(setup.prompts.shown(reflection.text))
        return setup.prompts.ask_with_reflections(reflection, own[-MEMORY:])

    for n in range(rounds):
        found = _answered(setup, found, _reflections(setup, in_round(setup, n), found), ask)
    return found


def self_refine(setup: Setup, attempts: Sequence[Attempt], rounds: int = 1) -> list[Attempt]:
    """Each answer gets feedback from the model itself, then an answer that uses it, in one conversation, until the feedback
    is content or `rounds` are over (Self-Refine, arXiv 2303.17651)."""
    texts = setup.prompts
    found, asked = list(attempts), [s for a in attempts for s in a.answers]

    def ask(critique: Sample) -> Prompt | None:
        content = words_of(texts.shown(critique.text)).endswith(words_of(texts.satisfied))
        return None if content else texts.follow_up(critique, "improve", texts.improve)

    for _ in range(rounds):
        critiques = _looks(asked, draw(setup, [texts.follow_up(s, "critique", texts.critique) for s in asked]))
        before = {id(s) for a in found for s in a.answers}
        found = _answered(setup, found, critiques, ask)
        asked = [s for a in found for s in a.answers if id(s) not in before]
    return found


Looks = Mapping[int, Group]
"""What was said of an answer, by its `id`: a group of one; none where the prompt was over-long."""


def _looks(answers: Sequence[Sample], groups: Sequence[Group]) -> Looks:
    return {id(old): in_place_of(old, group) for old, group in zip(answers, groups, strict=True)}


def _reflections(setup: Setup, texts: Prompts, attempts: Sequence[Attempt]) -> Looks:
    """On all answers that are wrong."""
    wrong = _wrong(attempts)
    return _looks(wrong, draw(setup, texts.ask_to_reflect(wrong)))


def _wrong(attempts: Sequence[Attempt]) -> list[Sample]:
    answers = [s for a in attempts for s in a.answers]
    judged = [s for group in judge([a.answers for a in attempts]) for s in group]
    return [old for old, s in zip(answers, judged, strict=True) if s.right is False]


def _answered(
    setup: Setup,
    attempts: Sequence[Attempt],
    looks: Looks,
    ask: Callable[[Sample], Prompt | None],
    drawn: bool = True,
) -> list[Attempt]:
    """The answers that were looked at, answered anew; those for which `ask` has no prompt stand. Looks that were not
    `drawn` are no cost."""
    flat = [look for group in looks.values() for look in group]
    asks = {id(look): prompt for look in flat if (prompt := ask(look)) is not None}
    replies = dict(zip(asks, draw(setup, list(asks.values())), strict=True))
    return [_replaced(a, looks, replies, drawn) for a in attempts]


def _replaced(attempt: Attempt, looks: Looks, replies: Mapping[int, Group], drawn: bool) -> Attempt:
    answers: list[Sample] = []
    used: list[Sample] = []
    n_skipped, depth = 0, 0
    for old in attempt.answers:
        look = looks.get(id(old), ())
        asked = bool(look) and id(look[0]) in replies
        reply = in_place_of(old, replies[id(look[0])]) if asked else ()
        answers += reply or (old,)
        new = (*look, *reply) if drawn else reply
        used += new
        n_skipped += (id(old) in looks and not look) or (asked and not reply)
        depth = max(depth, len(new))
    return count_skipped(attempt.answered(tuple(answers), used, depth=depth), n_skipped)
