"""The numbers of an evaluation, each by hand; what is undefined is NaN, null or a word, and never 0."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from looks import answer, answers, reply
from rethink.commands.evaluate import tables
from rethink.evaluate.answers import Answer
from rethink.evaluate.summary import by_suite, macro_summary, passes, summarize
from rethink.jsonl import to_json

R, W, N = True, False, None


def drafts(name: str, *rights: bool | None, suite: str = "s") -> list[Answer]:
    """Drafts of one problem that were not refined, as with strategy = "solve"."""
    return [replace(answer(name, right, index=n, suite=suite), refinements=None) for n, right in enumerate(rights)]


# -------------------------------------------------------------------------------------------------------- pass@k


def test_pass_at_k_of_drafts_by_hand() -> None:
    """Guards against pass@k over all replies at once. a: 2 of 4 right, pass@2 = 1 - C(2,2)/C(4,2) = 5/6; b: 1 of 4,
    1 - C(3,2)/C(4,2) = 1/2; c: none."""
    found = summarize([*drafts("a", R, R, W, W), *drafts("b", W, R, W, W), *drafts("c", W, W, W, W)])
    values = {k: (e.value, e.n) for k, e in found.solve.pass_at_k.items()}
    assert values["1"] == pytest.approx((3 / 12, 3))
    assert values["2"] == pytest.approx(((5 / 6 + 1 / 2) / 3, 3))
    assert values["4"] == pytest.approx((2 / 3, 3))
    assert list(values) == ["1", "2", "4"]


def test_the_k_that_are_asked_for() -> None:
    """Guards against powers of two in place of the list; pass@3 of 1 right among 4 is 1 - C(3,3)/C(4,3) = 3/4."""
    found = summarize(drafts("a", R, W, W, W), ks=[3])
    assert {k: e.value for k, e in found.solve.pass_at_k.items()} == {"3": 0.75}


def test_a_k_beyond_the_answers_is_undefined() -> None:
    """Guards against pass@4 from two answers; the second problem has only one that was judged."""
    found = summarize([*drafts("a", R, W), *drafts("b", R, N)], ks=[2, 4])
    assert (found.solve.pass_at_k["2"].value, found.solve.pass_at_k["2"].n) == (1.0, 1)
    assert math.isnan(found.solve.pass_at_k["4"].value)


def test_pass_at_k_after_refinement_draws_from_the_refinements_of_different_drafts() -> None:
    """Guards against pass@2 that is undefined where each draft has one refinement: 1 of 3 right, 1 - C(2,2)/C(3,2)."""
    some = [answer("a", W, right, index=n) for n, right in enumerate((R, W, W))]
    assert dict(passes(some, "refine", 2)) == pytest.approx({"a": 2 / 3})


def test_pass_at_k_with_several_refinements_draws_from_those_of_one_draft() -> None:
    """Guards against refinements of different drafts in one draw. Drafts: R W, pass@2 1; W W, 0; R R, 1; mean 2/3. Of
    all six together it would be 1 - C(3,2)/C(6,2) = 4/5."""
    some = [answer("a", W, R, W), answer("a", W, W, W, index=1), answer("a", R, R, R, index=2)]
    assert dict(passes(some, "refine", 2)) == pytest.approx({"a": 2 / 3})
    assert list(summarize(some).refine.pass_at_k) == ["1", "2"]  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------- counts and shares


def test_lengths_and_cuts_by_hand() -> None:
    """Guards against means over drafts and refinements together: lengths 2 and 5, then 7 and 13; one draft cut."""
    pairs = [
        replace(answer("a", R), draft=reply(R, 2, "length", shown=3), refinements=(reply(R, 7, shown=11),)),
        replace(answer("b", R), draft=reply(R, 5, shown=4), refinements=(reply(R, 13, shown=12),)),
    ]
    found = summarize(pairs)
    assert found.refine is not None
    assert (found.solve.tokens.value, found.refine.tokens.value) == (3.5, 10.0)
    assert (found.solve.prompt_tokens.value, found.refine.prompt_tokens.value) == (3.5, 11.5)
    assert (found.solve.truncated.value, found.refine.truncated.value) == (0.5, 0.0)


def test_unknown_lengths_and_cuts_are_left_out() -> None:
    """Guards against None as 0: of a, nothing is known; b has 5 tokens and was cut."""
    known = replace(answer("b", R), draft=reply(R, 5, "length", shown=7))
    unknown = replace(answer("a", R), draft=reply(R, None, None, shown=None))
    solve = summarize([unknown, known]).solve
    assert [(e.value, e.n) for e in (solve.tokens, solve.prompt_tokens, solve.truncated)] == [(5, 1), (7, 1), (1, 1)]
    solve = summarize([unknown]).solve
    assert all(math.isnan(e.value) for e in (solve.tokens, solve.prompt_tokens, solve.truncated))


def test_replies_without_an_answer() -> None:
    """Guards against a share of 0 where the verifier does not say what it found (""): of the three that say, one."""
    texts = [None, "7", "", "8"]
    some = [replace(answer(f"p{n}", W), draft=reply(W, extracted=text)) for n, text in enumerate(texts)]
    assert (summarize(some).solve.no_answer.value, summarize(some).solve.no_answer.n) == (1 / 3, 3)
    silent = replace(answer("p", W), draft=reply(W, extracted=""))
    assert math.isnan(summarize([silent]).solve.no_answer.value)


def test_gain_is_paired() -> None:
    """Guards against a gain over other drafts than those that were refined: of 2 right and 2 wrong, only wrong ones were
    refined, one to right: 0/2 to 1/2, not 2/4 to 1/2."""
    some = [answer("a", R), answer("b", R), answer("c", W, R), answer("d", W, W)]
    found = summarize(some)
    assert (found.gain.value, found.gain.n, found.n_not_refined) == (0.5, 2, 2)
    # Each draft counts once for each of its refinements: before 0/4, after 3/4.
    assert summarize([answer("a", W, R, R), answer("b", W, R, W)]).gain.value == 0.75


def test_intervals_respect_problems() -> None:
    """Guards against intervals that take four answers to one problem for four problems: twice as wide with all alike."""
    one = [a for n in range(8) for a in drafts(f"p{n}", *[n % 2 == 0] * 4)]
    many = [a for n in range(32) for a in drafts(f"p{n}", n % 2 == 0)]
    wide, narrow = (summarize(some).solve.accuracy for some in (one, many))
    assert (wide.value, wide.n, narrow.value, narrow.n) == (0.5, 32, 0.5, 32)
    assert wide.high - wide.low > 1.6 * (narrow.high - narrow.low)


# ------------------------------------------------------------------------------------------------- several suites


def test_the_mean_over_benchmarks_is_unweighted() -> None:
    """Guards against a mean over all answers: 1 of 2 and 1 of 4 are 3/8, not 2/6; refined 2 of 2 and 2 of 4 are 3/4."""
    first = answers([(R, R), (W, R)], suite="a")
    second = answers([(R, R), (W, R), (W, W), (W, W)], suite="b")
    mean = macro_summary(by_suite([*first, *second]))
    assert (mean.solve.value, mean.refined.value, mean.gain.value) == (3 / 8, 3 / 4, 3 / 8)
    assert (mean.fix.value, mean.damage.value) == pytest.approx(((1 + 1 / 3) / 2, 0.0))
    assert {k: e.value for k, e in mean.pass_at_k.items()} == {"1": 3 / 8}


def test_the_mean_is_undefined_where_a_benchmark_is() -> None:
    """Guards against a mean over the other benchmarks: b has no right draft, so that nothing can be damaged."""
    mean = macro_summary(by_suite([*answers([(R, W)], suite="a"), *answers([(W, W)], suite="b")]))
    assert math.isnan(mean.damage.value)
    assert (mean.solve.value, mean.refined.value) == (0.5, 0.0)


def test_benchmarks_keep_their_order_and_their_answers() -> None:
    """Guards against problems of equal names in two benchmarks that are taken for one."""
    mixed = [answer("p", R, R, suite="b"), answer("p", W, W, suite="a"), answer("q", R, R, suite="b")]
    assert {suite: len(some) for suite, some in by_suite(mixed).items()} == {"b": 2, "a": 1}
    assert list(by_suite(mixed)) == ["b", "a"]


# ---------------------------------------------------------------------------------------------- files and tables


def test_what_a_training_run_logs_without_refinement() -> None:
    """The lengths and cuts of refinements that never were once were those of the drafts."""
    found = summarize(drafts("a", R, W)).headline()
    assert (found["solve"]["value"], found["solve_tokens"], found["solve_truncated_frac"]) == (0.5, 3, 0)
    undefined = (
        found["refined"]["value"],
        found["refine_tokens"],
        found["refine_truncated_frac"],
        found["gain"]["value"],
    )
    assert all(math.isnan(value) for value in undefined)


def test_what_is_undefined_is_null_in_json() -> None:
    """Guards against NaN, which is no JSON, and against 0."""
    record = json.loads(to_json(summarize(answers([(W, W)])).as_dict()), parse_constant=pytest.fail)
    assert record["damage"] == {"value": None, "low": None, "high": None, "n": 0}
    assert record["fix"]["value"] == 0.0
    assert json.loads(to_json(summarize(drafts("a", R)).as_dict()))["refine"] is None


def cells(table: str, row: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith(f"{row}  ")]
    return " ".join(line.removeprefix(row).split())


def test_the_tables_by_hand() -> None:
    """Guards against columns in another order than their headings. 2 right, 2 wrong drafts: one damaged, two fixed."""
    found = summarize(answers([(R, R), (R, W), (W, R), (W, R)], suite="a"))
    shown = tables("m", {"a": found}, None)
    top = shown.split("\n\n")[1]
    assert top.splitlines()[0].split() == ["solve", "refined", "gain", "fix", "rate", "damage", "rate"]
    assert cells(top, "a").startswith("50.0 [15.0, 85.0] 75.0 [30.1, 95.4] +25.0 [")
    assert " 100.0 [34.2, 100.0] 50.0 [9.5, 90.5]" in cells(top, "a")
    assert "right>right  right>wrong  wrong>right  wrong>wrong" in shown
    assert cells(shown.split("\n\n")[-1], "a") == "1 1 2 0"
    assert "pass@1" not in shown
    assert "not judged" not in shown


@pytest.mark.parametrize("refined", [True, False])
def test_the_tables_count_what_the_rates_leave_out(refined: bool) -> None:
    """Without refinement they once were not printed: one problem skipped, two replies not judged (or one), one lenient."""
    some = [*answers([(N, N), (R, R)]), replace(answer("x", R), draft=reply(R, lenient=True), refinements=())]
    some.append(replace(answer("y", R), draft=None, refinements=None))
    if not refined:
        some = [replace(one, refinements=None) for one in some]
    last = tables("m", {"s": summarize(some)}, None).split("\n\n")[-1]
    assert last.splitlines()[0].split("  ")[0] == "numbers of"
    assert cells(last, "s") == ("1 1 2 1" if refined else "1 0 1 1")


def test_undefined_is_a_word_in_the_tables() -> None:
    """Guards against "nan" and "0.0" on the screen: all drafts wrong and over-long to refine, and nothing known of them."""
    bare = reply(W, None, None, None, extracted="")
    shown = tables("m", {"a": summarize([replace(answer(p, W), draft=bare, refinements=()) for p in "pq"])}, None)
    assert "nan" not in shown
    assert cells(shown.split("\n\n")[1], "a") == "0.0 [0.0, 65.8] " + " ".join(["undefined"] * 4)
    assert cells(shown, "a, solve") == cells(shown, "a, refine") == "undefined undefined unknown unknown"


def test_the_mean_has_a_row() -> None:
    """Guards against a table without the number that papers report."""
    suites = by_suite([*answers([(R, R), (W, W)], suite="a"), *answers([(R, W), (R, W)], suite="b")])
    shown = tables("m", {name: summarize(some) for name, some in suites.items()}, macro_summary(suites))
    assert cells(shown, "mean of 2").startswith("75.0 [")
    assert " 25.0 [" in cells(shown, "mean of 2")
