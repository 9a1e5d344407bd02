"""The printed tables of an evaluation."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from rethink.commands.tables import cost_table, gap_table, strata_table, tables
from rethink.evaluation.answers import Answer
from rethink.evaluation.costs import with_baseline_gain
from rethink.evaluation.fresh import NO_CONTROL
from rethink.evaluation.gap import refinement_gap
from rethink.evaluation.results import SuiteResult, compute_results
from rethink.evaluation.summary import summarize
from rethink.strategies import parse_all
from support.evaluations import answer, answers, case, drafts, made, step

R, W, N = True, False, None


def shown_of(some: list[Answer], strategies: str = "") -> str:
    """The tables of an evaluation."""
    return tables("m", compute_results(some, parse_all(strategies or some[0].strategy)))


def cells(table: str, row: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith(f"{row}  ")]
    return " ".join(line.removeprefix(row).split())


def test_the_tables_by_hand() -> None:
    """Guards against columns in another order than their headings. 2 right, 2 wrong drafts: one damaged, two fixed."""
    shown = shown_of(answers([(R, R), (R, W), (W, R), (W, R)], suite="a"))
    top = shown.split("\n\n")[1]
    assert top.splitlines()[0].split() == ["solve", "refined", "gain", "fix", "rate", "damage", "rate"]
    assert cells(top, "a").startswith("50.0 [15.0, 85.0] 75.0 [30.1, 95.4] +25.0 [")
    assert " 100.0 [34.2, 100.0] 50.0 [9.5, 90.5]" in cells(top, "a")
    assert "right>right  right>wrong  wrong>right  wrong>wrong" in shown
    assert cells(shown.split("\n\n")[-1], "a") == "1 1 2 0"
    assert "pass@1" not in shown
    assert "not graded" not in shown


def test_the_tables_of_fresh_answers_by_hand() -> None:
    """Guards against columns in another order than their headings. p: drafts R W W W, refined to R R R W: fixed 2 of 3,
    fresh answers 1/3 of each; damaged 0 of 1, fresh answers 3/3. q: three wrong drafts. The mean of two equal suites."""
    verdicts = [(R, R), (W, R), (W, R), (W, W)]
    some = [answer("p", *pair, index=n, suite=suite) for suite in "ab" for n, pair in enumerate(verdicts)]
    some += [answer("q", W, W, index=n, suite=suite) for suite in "ab" for n in range(3)]
    parts = shown_of(some).split("\n\n")
    assert re.split("  +", parts[1].splitlines()[0].strip()) == [
        *("solve", "refined", "gain", "fix rate", "fresh", "damage rate", "fresh")
    ]
    for title in ("a", "mean of 2"):
        rates = ["14.3", "42.9", "+28.6", "33.3", "16.7", "0.0", "100.0"]
        assert re.findall(r"(?<!\S)[+-]?[\d.]+(?!\S)", cells(parts[1], title)) == rates
        assert re.findall(r"(?<!\S)[+-]?[\d.]+(?!\S)", cells(parts[2], title)) == ["16.7", "+16.7", "100.0", "-100.0"]
    assert parts[2].splitlines()[0].startswith("a fresh answer instead ")
    assert NO_CONTROL not in "\n".join(parts)


@pytest.mark.parametrize("strategies", ["refine", "solve,refine"])
def test_the_tables_say_why_there_are_no_fresh_answers(strategies: str) -> None:
    """Guards against rates without a control; with two drafts that are compared at equal cost, it is there as well."""
    firsts = drafts("p0", R) if "solve" in strategies else []
    assert NO_CONTROL in shown_of([*firsts, *answers([(R, R)])], strategies).split("\n\n")
    more = [*answers([(R, R)]), answer("p0", W, R, index=1)]
    assert "a fresh answer instead" in shown_of([*firsts, *more], strategies)
    assert "fresh" not in shown_of(drafts("p0", R, W))


def test_the_entropy_of_replies() -> None:
    """Guards against "unknown" for all rows of a greedy evaluation, and entropy in one decimal."""
    known = [made(p, "solve", [R], [step("solve", R, log_prob=x)]) for p, x in (("p", -1.25), ("q", -1.27))]
    head, row = shown_of(known).split("\n\n")[2].splitlines()
    assert head.endswith("entropy, nats")
    assert " 1.26 [" in row
    assert "entropy" not in shown_of(drafts("p", R, W))


@pytest.mark.parametrize("refined", [True, False])
def test_the_tables_count_what_the_rates_leave_out(refined: bool) -> None:
    """Regression: without refinement they were not printed."""
    strategy = "refine" if refined else "solve"
    some = answers([(N, N), (R, R)]) if refined else [*drafts("p0", N), *drafts("p1", R)]
    notes = {"over-long prompts": 1}
    some.append(made("x", strategy, [R], [step("solve", R, lenient=True)], notes=notes))
    some += [made("y", strategy, (), repeat=n, notes=notes) for n in range(2)]
    last, notes_of_bounds = shown_of(some).split("\n\n")[-2:]
    assert last.splitlines()[0].split("  ")[0] == "counts"
    assert cells(last, "s") == ("1 1 2 of 5 1" if refined else "1 0 1 of 3 1")
    assert last.splitlines()[-1] == f"not graded, s: {2 if refined else 1} other reasons"
    assert notes_of_bounds.startswith("in parentheses: the accuracy if all replies that were not graded are wrong, ")


def test_the_tables_have_bounds_if_something_was_not_graded() -> None:
    """Guards against an accuracy of those replies alone that could be graded. Of 4 drafts 1 is right and 1 is unknown; of
    their refinements 2 and 1. One draft was made right; the unknown one was made wrong, right, or neither."""
    some = [*answers([(R, R), (W, R), (W, W)]), answer("p3", N, N)]
    reason = "the answer cannot be read: an unknown sign"
    steps = [replace(one, reason=reason) for one in some[3].steps]
    some[3] = replace(some[3], steps=tuple(steps))
    shown = shown_of(some)
    row = cells(shown.split("\n\n")[1], "s")
    assert row.startswith("33.3 [")
    bounds = re.findall(r"\([^)]*\)", row)
    assert bounds == ["(25.0 to 50.0)", "(50.0 to 75.0)", "(+0.0 to +50.0)", "(33.3 to 66.7)", "(0.0 to 50.0)"]
    count, notes = shown.split("\n\n")[-2:]
    assert count.endswith("not graded, s: 2 the answer cannot be read (most often: an unknown sign)")
    assert notes.endswith("possible value\nthe sign depends on the replies that were not graded: gain, s")
    graded = shown_of(answers([(R, R), (W, R)]))
    assert "(" not in graded
    assert "parentheses" not in graded


def test_undefined_is_a_word_in_the_tables() -> None:
    """Guards against "nan" and "0.0" on the screen: all drafts wrong, over-long to refine, and of unknown length."""
    bare = step("solve", W, None, stop=None, shown=None, extracted="")
    some = [made(p, "refine", [W], [bare], suite="a", notes={"over-long prompts": 1}) for p in "pq"]
    shown = shown_of(some)
    assert "nan" not in shown
    assert cells(shown.split("\n\n")[1], "a") == "0.0 [0.0, 65.8] " + " ".join(["undefined"] * 4)
    assert cells(shown, "a, solve") == cells(shown, "a, refine") == "undefined undefined unknown unknown"


def test_the_mean_has_a_row() -> None:
    """Guards against a table without the number that papers report."""
    shown = shown_of([*answers([(R, R), (W, W)], suite="a"), *answers([(R, W), (R, W)], suite="b")])
    assert cells(shown, "mean of 2").startswith("75.0 [")
    assert " 25.0 [" in cells(shown, "mean of 2")


def test_several_strategies_have_the_tables_at_cost() -> None:
    """Guards against a strategy without its row: accuracy of all, fix rates of those that look back."""
    some = [*drafts("p0", R), *drafts("p1", W), *answers([(R, R), (W, R)])]
    shown = shown_of(some, "solve,refine")
    assert cells(shown, "solve").startswith("50.0 [")
    assert cells(shown, "refine").startswith("100.0 [")
    assert " 100.0 [" in cells(shown.split("\n\n")[2], "s, refine")
    assert "s, solve" not in shown


def test_the_table_of_costs_by_hand() -> None:
    """2 of 2 right against 0 of 2; 3 + 4 tokens and 5 shown; what was left out is named."""
    merged = [made(f"p{n}", "merge:2", [True], [step("merge", True, n_tokens=7)], depth=2) for n in range(2)]
    skipped = made("p2", "merge:2", (), notes={"over-long prompts": 1})
    vote = [made(f"p{n}", "vote:2", [False], [step("solve", False)] * 2) for n in range(2)]
    more = [made(f"p{n}", "vote:3", [False], [step("solve", False)] * 3) for n in range(2)]
    outcomes = {"merge:2": [*merged, skipped], "vote:2": vote, "vote:3": more}
    merge = with_baseline_gain(summarize(outcomes["merge:2"]), outcomes)
    text = cost_table("s", SuiteResult({"merge:2": merge}, {"vote:2": summarize(vote)}, []))
    head, first, second, left = (" ".join(line.split()) for line in text.splitlines())
    assert head == "s accuracy minus a baseline of equal cost prompt tokens sampled tokens calls"
    assert first.startswith("merge:2 100.0 [")
    assert "+100.0 [" in first
    assert first.endswith("] (vote of 2.3) 5.0 [5.0, 5.0] 7.0 [7.0, 7.0] 2.0")
    assert second.endswith("] - 5.0 [5.0, 5.0] 6.0 [6.0, 6.0] 1.0")
    assert left == "counts: merge:2: 1 problems not answered; merge:2: 1 over-long prompts"


def test_the_tables_of_the_gap_by_hand() -> None:
    """The specification's example: 66.7 - 50.0 = +16.7 points, or +33.3%."""
    cases = [
        case("p0", [True, True, True], [True], [True], [True]),
        case("p1", [True, False, True], [True], [True, False], [True]),
        case("p2", [False, False, True], [False], [False, False], [True]),
    ]
    gap = refinement_gap(2, *zip(*cases, strict=True))
    values = [[word for word in line.split() if word[-1].isdigit()] for line in gap_table([gap]).splitlines()]
    assert values[1] == ["2", "66.7", "50.0", "+16.7", "+33.3", "100.0", "-33.3"]
    assert [line.split()[:4] for line in strata_table([gap]).splitlines()[1:]] == [
        [str(n), "of", "2", "1"] for n in range(3)
    ]
