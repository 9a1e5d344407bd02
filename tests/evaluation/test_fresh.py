"""Fresh answers as the control of fix and damage rates, against hand computations and enumeration."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.evaluation.answers import Answer, by_suite
from rethink.evaluation.evaluate import EvaluationSpec, make_setup, resumable_answers, run_evaluation
from rethink.evaluation.fresh import fresh_outcomes
from rethink.evaluation.summary import evaluation_metrics, macro_summary, summarize
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings
from rethink.strategies import parse_all
from support.evaluations import answer, answers, drafts, made, pair, problem, step

R, W, N = True, False, None


def refined(name: str, *pairs: tuple[bool | None, bool | None], suite: str = "s") -> list[Answer]:
    """Drafts of one problem, each with one refinement."""
    return [answer(name, *verdicts, index=n, suite=suite) for n, verdicts in enumerate(pairs)]


def test_the_control_by_hand() -> None:
    """p has drafts R W W W: of the others of a wrong one 1/3 is right, of the right one all are wrong. q has R R W: 2/2 and
    1/2. Wrong drafts: 3 x 1/3 + 1 = 2 of 4. Right drafts: 1 + 2 x 1/2 = 2 of 3. Refining fixes 1 of 4, damages 1 of 3."""
    found = summarize([*refined("p", (R, R), (W, R), (W, W), (W, W)), *refined("q", (R, W), (R, R), (W, W))])
    assert pair(found.fix_fresh) == pytest.approx((2 / 4, 4))
    assert pair(found.damage_fresh) == pytest.approx((2 / 3, 3))
    assert pair(found.fix_minus_fresh) == pytest.approx((1 / 4 - 2 / 4, 2))
    assert pair(found.damage_minus_fresh) == pytest.approx((1 / 3 - 2 / 3, 2))
    lines = str(found).splitlines()
    assert lines[3].startswith("with a fresh answer in place of the refinement: 50.0 [")
    assert " and 66.7 [" in lines[3]


VERDICTS = st.lists(st.sampled_from([R, W, N]), min_size=1, max_size=5)


@given(st.lists(VERDICTS, min_size=1, max_size=4))
def test_the_control_against_enumeration(problems: list[list[bool | None]]) -> None:
    """Guards against the draft itself, or ungraded answers, among the fresh ones: every ordered pair of graded drafts."""
    some = [a for n, own in enumerate(problems) for a in refined(f"p{n}", *((verdict, W) for verdict in own))]
    for before in (R, W):
        shares: list[float] = []
        for own in problems:
            graded = [verdict for verdict in own if verdict is not None]
            for first in range(len(graded)):
                seconds = [j for i, j in permutations(range(len(graded)), 2) if i == first]
                if graded[first] == before and seconds:
                    shares.append(sum(graded[j] != before for j in seconds) / len(seconds))
        assert [value for _, value in fresh_outcomes(some, before)[1]] == pytest.approx(shares)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_fresh_answer_to_every_failure_is_pass_at_2(problems: list[list[bool]]) -> None:
    """The chance of a right answer at the first or at the second try is pass@2. And in place of every refinement, fresh
    answers gain nothing: as many wrong drafts become right as right ones wrong."""
    found = summarize([a for n, own in enumerate(problems) for a in refined(f"p{n}", *((v, W) for v in own))], ks=[2])
    solved = found.solve.accuracy.value
    fixed = (1 - solved) * pair(found.fix_fresh)[0] if solved < 1 else 0.0
    damaged = solved * pair(found.damage_fresh)[0] if solved else 0.0
    assert solved + fixed == pytest.approx(found.solve.pass_at_k["2"].value)
    assert fixed == pytest.approx(damaged)


def test_the_control_is_over_the_drafts_of_the_rate() -> None:
    """Guards against other drafts than those that were refined and graded. Of three wrong drafts and a right one, one was
    too long to refine and one has an ungraded refinement: the last one counts, once for each of its two refinements."""
    some = [answer("p", R, R), answer("p", W, overlong=True, index=1), answer("p", W, N, index=2)]
    some.append(answer("p", W, R, W, index=3))
    found = summarize(some)
    assert pair(found.fix)[1] == pair(found.fix_fresh)[1] == 2
    assert pair(found.fix_fresh)[0] == pytest.approx(1 / 3)
    assert found.fix_fresh is not None
    assert (found.fix_fresh.at_least, found.fix_fresh.at_most) == (None, None)


def test_one_draft_has_no_control() -> None:
    """Guards against a fresh answer from nowhere, and 0 for it; the rates themselves keep such drafts."""
    found = summarize(answers([(W, R), (R, R)]))
    assert (pair(found.fix), pair(found.damage)) == ((1.0, 1), (0.0, 1))
    for control in (found.fix_fresh, found.damage_fresh, found.fix_minus_fresh, found.damage_minus_fresh):
        assert math.isnan(pair(control)[0])
    assert "fresh" not in str(found)
    # One of two drafts was not graded: the same. A problem with two drafts counts alone, also in the difference.
    found = summarize([*refined("p", (W, R), (N, R)), *refined("q", (W, W), (R, R))])
    assert (pair(found.fix), pair(found.fix_fresh), pair(found.fix_minus_fresh)) == ((0.5, 2), (1.0, 1), (-1.0, 1))


def test_strategies_that_do_not_revise_have_no_control() -> None:
    found = summarize(drafts("p", R, W))
    assert (found.fix_fresh, found.damage_fresh, found.fix_minus_fresh, found.damage_minus_fresh) == (None,) * 4
    record = evaluation_metrics(drafts("p", R, W))
    assert math.isnan(record["fix_fresh"]["value"])
    assert math.isnan(record["damage_fresh"]["value"])


def test_a_kept_answer_is_a_draft_too() -> None:
    """Where a strategy lets right answers stand, it damages none; fresh answers in their place would damage 1 of 1."""
    again = [step("solve", W, index=1), step("reflect"), step("retry", R, draft=0)]
    some = [made("p", "reflect", [R], [step("solve", R)]), made("p", "reflect", [R], again, repeat=1)]
    found = summarize(some)
    assert (pair(found.damage), pair(found.damage_fresh)) == ((0.0, 1), (1.0, 1))
    assert (pair(found.fix), pair(found.fix_fresh)) == ((1.0, 1), (1.0, 1))


def test_drafts_of_one_attempt_are_fresh_answers_to_one_another() -> None:
    """With solve:2+refine, one attempt has two drafts."""
    steps = [step("solve", W), step("solve", R, index=1)]
    steps += [step("refine", W, draft=0), step("refine", R, index=1, draft=1)]
    found = summarize([made("p", "solve:2+refine", [W, R], steps, tied=False)])
    assert (pair(found.fix_fresh), pair(found.damage_fresh)) == ((1.0, 1), (1.0, 1))


def test_drafts_that_a_vote_chose_have_fresh_answers_in_other_attempts_only() -> None:
    """A vote prefers drafts like the others, so others of its attempt are no fresh answers. The first attempt chooses a
    wrong draft of R W W, the second a right one of R R W: 2/3 of the second are right, 2/3 of the first wrong."""
    attempts: list[Answer] = []
    for repeat, verdicts in enumerate(([R, W, W], [R, R, W])):
        steps = [step("solve", right, index=2 * n + repeat) for n, right in enumerate(verdicts)]
        steps.append(step("refine", R, index=repeat, draft=1))
        attempts.append(made("p", "vote:3+refine", [R], steps, repeat=repeat))
    found = summarize(attempts)
    assert pair(found.fix_fresh) == pytest.approx((2 / 3, 1))
    assert pair(found.damage_fresh) == pytest.approx((2 / 3, 1))
    alone = summarize(attempts[:1])
    assert (pair(alone.fix), pair(alone.fix_fresh)[1]) == ((1.0, 1), 0)


def test_suites_do_not_mix() -> None:
    """Guards against fresh answers from another suite's problem of the same id, in metrics over all suites and in means.
    Fresh answers fix 1 of 1 draft in a (2/2 right) and 0 of 2 in b, refinements 0 and 1. In a, they damage 2 x 1/2 of 2."""
    some = [*refined("p", (W, W), (R, R), (R, R), suite="a"), *refined("p", (W, W), (W, R), suite="b")]
    record = evaluation_metrics(some)
    assert (record["fix_fresh"]["value"], record["fix_fresh"]["n"]) == pytest.approx((1 / 3, 3))
    assert (record["damage_fresh"]["value"], record["damage_fresh"]["n"]) == pytest.approx((1 / 2, 2))
    suites = list(by_suite(some).values())
    mean = macro_summary([summarize(own) for own in suites], suites)
    assert pair(mean.fix_fresh)[0] == pytest.approx(1 / 2)
    assert pair(mean.fix_minus_fresh)[0] == pytest.approx((-1 + 1 / 2) / 2)
    assert math.isnan(pair(mean.damage_fresh)[0])  # b has no right draft


def test_given_drafts_have_a_control() -> None:
    """Given drafts have no seed, so only their index tells them apart."""
    policy = FakePolicy(lambda prompt, index, version: "right")
    spec = EvaluationSpec([problem("p0")], parse_all("refine"), drafts={"p0": ["wrong a", "wrong a", "right"]})
    found = summarize(run_evaluation(make_setup(policy, Prompts(), AnswerSettings()), spec, resumable_answers(None)))
    assert (pair(found.fix), pair(found.fix_fresh)) == ((1.0, 2), (1 / 2, 2))
