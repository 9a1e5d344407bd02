"""`rethink eval --strategy a,b,c`: what it prints and writes, how it resumes, and what it refuses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from rethink.commands.evaluate import curve_name
from support.command_line import Rethink, assert_one_message
from support.report_runs import embedded

MODEL = ["eval", "tiny-signs", "--recipe", "demo-gsr"]
SMALL = [*MODEL, "--on", "signs", "evaluation.problems.limit=5"]
FOUR = "solve,refine,merge:2,vote:3"


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def rows_of(found: dict[str, Any], suite: str = "signs") -> dict[str, dict[str, Any]]:
    return dict(found["suites"][suite]["strategies"])


def right(record: dict[str, Any]) -> float:
    verdicts = [record["steps"][place]["verdict"] == "right" for place in record["finals"]]
    return sum(verdicts) / len(verdicts)


def sums(folder: Path, name: str, answers: list[int]) -> str:
    """A file of problems the tiny model can read."""
    lines = [f'{{"question": "1 {i + 2} 7", "answer": "{answer}"}}\n' for i, answer in enumerate(answers)]
    (folder / name).write_text("".join(lines))
    return name


def test_numbers_follow_from_the_answers(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against numbers that do not follow from the answers: they are all computed again from answers.jsonl."""
    shown = rethink(*SMALL, "--strategy", FOUR, "--out", "e")
    assert shown.code == 0
    assert "warning" not in shown.err
    every = records(tmp_path / "e" / "answers.jsonl")
    names = ["solve", "refine", "merge:2", "vote:3", "vote:2"]  # the last is asked for by the gap
    by_name = {name: [r for r in every if r["strategy"] == name] for name in names}
    assert {name: len(some) for name, some in by_name.items()} == dict.fromkeys(by_name, 10)  # 5 problems, 2 repeats
    found = summary(tmp_path / "e")
    assert (found["model"], found["seed"], list(found["suites"])) == ("tiny-signs", 0, ["signs"])
    rows = rows_of(found)
    assert list(rows) == names
    accuracy = {name: sum(map(right, some)) / 10 for name, some in by_name.items()}
    tokens = {name: sum(r["n_tokens"] for r in some) / 10 for name, some in by_name.items()}
    baselines = found["suites"]["signs"]["baselines"]
    every_row = {**rows, **baselines}
    assert {name: row["accuracy"]["value"] for name, row in every_row.items()} == pytest.approx(
        {name: accuracy[name] for name in every_row}
    )
    assert {name: row["cost"]["tokens"]["value"] for name, row in rows.items()} == pytest.approx(
        {name: tokens[name] for name in names}
    )
    gains = {name: row["cost"]["gain"] for name, row in rows.items()}
    assert [name for name, gain in gains.items() if gain is None] == ["solve", "vote:3", "vote:2"]
    votes = {1: "solve", 2: "vote:2", 3: "vote:3"}
    for name in ("refine", "merge:2"):
        k = max(k for k, vote in votes.items() if tokens[vote] <= tokens[name])
        below = tokens[votes[k]]
        weight, expected = 0.0, accuracy[votes[k]]
        if tokens[name] > below:
            weight = (tokens[name] - below) / (tokens[votes[k + 1]] - below)
            expected = (1 - weight) * accuracy[votes[k]] + weight * accuracy[votes[k + 1]]
        assert rows[name]["cost"]["n_baseline"] == pytest.approx(k + weight)
        assert gains[name]["value"] == pytest.approx(accuracy[name] - expected)
        assert f"(vote of {k + weight:.1f})" in shown.out
    (gap,) = found["suites"]["signs"]["gaps"]
    assert gap["gap"]["value"] == pytest.approx(accuracy["merge:2"] - accuracy["vote:2"])
    firsts_of = [[s for s in r["steps"] if s["phase"] == "solve"] for r in by_name["merge:2"]]
    n_right = [sum(s["verdict"] == "right" for s in firsts) for firsts in firsts_of]
    assert [s["n"] for s in gap["strata"]] == [n_right.count(n) for n in range(3)]
    for word in ("minus a baseline of equal cost", "refinement gap", "all candidates wrong", "1 of 2"):
        assert word in shown.out
    for some in by_name.values():
        assert f"{100 * sum(map(right, some)) / 10:.1f} [" in shown.out
    assert ET.parse(tmp_path / "e" / "curve.svg").getroot().tag.endswith("svg")
    assert shown.err.splitlines()[-1] == "curve: e/curve.svg"


def test_votes_of_equal_cost_are_added(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a strategy without votes to compare with: refine:2 costs about three. They reuse first answers."""
    countdown = ["eval", "tiny", "--recipe", "demo-think-twice", "--on", "countdown", "evaluation.problems.limit=5"]
    shown = rethink(*countdown, "--strategy", "refine:2", "--out", "e")  # replies in signs are all of one length
    assert shown.code == 0
    cost = rows_of(summary(tmp_path / "e"), "countdown")["refine:2"]["cost"]
    k = int(cost["n_baseline"])
    every = records(tmp_path / "e" / "answers.jsonl")
    names = ["refine:2", f"vote:{k}", f"vote:{k + 1}"]
    refined, *votes = ([r for r in every if r["strategy"] == name] for name in names)
    assert [len(some) for some in (refined, *votes)] == [10, 10, 10]
    assert f"(vote of {cost['n_baseline']:.1f})" in shown.out
    weight = cost["n_baseline"] - k
    accuracy = [sum(map(right, some)) / 10 for some in (refined, *votes)]
    assert cost["gain"]["value"] == pytest.approx(accuracy[0] - (1 - weight) * accuracy[1] - weight * accuracy[2])
    firsts = [(r["problem"], r["repeat"], r["steps"][0]["text"]) for r in refined]
    for some in votes:
        assert firsts == [(r["problem"], r["repeat"], r["steps"][0]["text"]) for r in some]
    assert list(summary(tmp_path / "e")["suites"]["countdown"]["baselines"]) == names[1:]


def test_strategies_that_see_verdicts_are_compared_with_fresh_tries(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against an oracle that is compared with a vote, and tries of another cost. They are computed again from the
    longest run of fresh tries: its first k answers to each problem, of which the last one counts."""
    shown = rethink(*SMALL, "evaluation.problems.limit=20", "evaluation.n=1", "--strategy", "reflect", "--out", "e")
    assert shown.code == 0
    found = summary(tmp_path / "e")["suites"]["signs"]
    cost = found["strategies"]["reflect"]["cost"]
    every = records(tmp_path / "e" / "answers.jsonl")
    ran = list(dict.fromkeys(r["strategy"] for r in every))
    assert ran[0] == "reflect"
    assert all(name.startswith("fresh-retry:") for name in ran[1:])
    tries = [r for r in every if r["strategy"] == ran[-1]]
    k = int(cost["n_baseline"])
    steps = [[r["steps"][:n] for r in tries] for n in (k, k + 1)]
    tokens = [sum(s["n_tokens"] for some in shorter for s in some) / 20 for shorter in steps]
    accuracy = [sum(some[-1]["verdict"] == "right" for some in shorter) / 20 for shorter in steps]
    weight = cost["n_baseline"] - k
    assert tokens[0] + weight * (tokens[1] - tokens[0]) == pytest.approx(cost["tokens"]["value"])
    ours = sum(right(r) for r in every if r["strategy"] == "reflect") / 20
    assert cost["gain"]["value"] == pytest.approx(ours - accuracy[0] - weight * (accuracy[1] - accuracy[0]))
    assert f"({cost['n_baseline']:.1f} tries)" in shown.out
    rows = {name: row["accuracy"]["value"] for name, row in found["baselines"].items()}
    assert list(rows.values()) == pytest.approx(accuracy)


def test_a_vote_alone(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a vote compared with itself, and an empty table of gaps."""
    shown = rethink(*SMALL, "--strategy", "vote:3", "--out", "e")
    assert shown.code == 0
    row = rows_of(summary(tmp_path / "e"))["vote:3"]
    assert (row["cost"]["n_baseline"], row["cost"]["gain"]) == (None, None)
    assert summary(tmp_path / "e")["suites"]["signs"]["gaps"] == []
    assert "gap" not in shown.out
    assert (tmp_path / "e" / "curve.svg").exists()


def test_several_suites_have_their_tables_and_a_mean(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against suites mixed into one, and a mean weighted by problems."""
    a, b = sums(tmp_path, "a.jsonl", [10, 11]), sums(tmp_path, "b & c.jsonl", [12, 13, 14])
    shown = rethink(*MODEL, "--on", a, b, "signs", "evaluation.problems.limit=3", "--strategy", FOUR, "--out", "e")
    assert shown.code == 0
    found = summary(tmp_path / "e")
    assert list(found["suites"]) == [a, b, "signs"]
    accuracy = {suite: rows_of(found, suite)["vote:3"]["accuracy"] for suite in found["suites"]}
    assert [e["n"] for e in accuracy.values()] == [4, 6, 6]
    mean = sum(e["value"] for e in accuracy.values()) / 3
    lines = shown.out.splitlines()
    table = lines[next(n for n, line in enumerate(lines) if line.startswith("mean of 3")) :]
    (row,) = (line for line in table if line.startswith("vote:3 "))
    assert f" {100 * mean:.1f} [" in row
    assert shown.out.count("refinement gap") == 3
    curves = ["curve-1-a-jsonl.svg", "curve-2-b---c-jsonl.svg", "curve-3-signs.svg"]
    assert sorted(p.name for p in (tmp_path / "e").glob("*.svg")) == curves
    assert [line.split("/")[-1] for line in shown.err.splitlines()[-3:]] == curves
    for name in curves:
        ET.parse(tmp_path / "e" / name)


def test_names_of_curves_are_unique() -> None:
    """Guards against a curve that overwrites another, and names that leave the folder."""
    suites = ["a/b", "a b", "../c"]
    names = [curve_name(s, n) for n, s in enumerate(suites, start=1)]
    assert names == ["curve-1-a-b.svg", "curve-2-a-b.svg", "curve-3----c.svg"]
    assert curve_name("a/b", 0) == "curve.svg"


@pytest.mark.slow
def test_a_torn_evaluation_resumes_to_the_same_files(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a resume that forgets the baselines of equal cost, or draws others: torn before and among them."""
    given = [*SMALL, "evaluation.problems.limit=3", "--strategy", "refine:2,reflect:2", "evaluation.batch_size=4"]
    given += ["--out", "e"]
    whole = rethink(*given)
    folder = tmp_path / "e"
    before = (folder / "answers.jsonl").read_bytes()
    numbers = summary(folder) | {"seconds": 0}
    for share in (0.2, 0.6, 0.8, 0.98):
        (folder / "answers.jsonl").write_bytes(before[: int(len(before) * share)])
        (folder / "summary.json").unlink()
        again = rethink(*given, "--resume")
        assert (again.code, again.out) == (0, whole.out)
        assert (folder / "answers.jsonl").read_bytes() == before
        assert summary(folder) | {"seconds": 0} == numbers


def test_a_shorter_file_of_problems_keeps_the_answers(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against lost answers: the settings and the file name are the same, but the file has fewer problems."""
    name = sums(tmp_path, "a.jsonl", [10, 11, 12])
    given = [*MODEL, "--on", name, "--strategy", "solve,vote:2", "evaluation.batch_size=1", "--out", "e"]
    assert rethink(*given).code == 0
    before = (tmp_path / "e" / "answers.jsonl").read_bytes()
    sums(tmp_path, "a.jsonl", [10, 11])
    refused = rethink(*given, "--resume")
    assert (refused.code, refused.out) == (2, "")
    assert "the evaluation problems have changed since e was started: there were 3, now there are 2" in refused.err
    assert "another --out DIR" in refused.err
    assert "repeat the command" not in refused.err
    assert (tmp_path / "e" / "answers.jsonl").read_bytes() == before


VERIFIER = """
from rethink.types import Verdict

def even(reply, gold):
    return Verdict(len(reply) % 2 == 0)
"""


def test_custom_verifier_has_no_votes(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against votes among unknown answers: a requested vote is refused before anything is written."""
    (tmp_path / "mine.py").write_text(VERIFIER)
    given = [*MODEL, "--on", sums(tmp_path, "a.jsonl", [10, 11]), "evaluation.problems.verifier=mine:even"]
    refused = rethink(*given, "--strategy", "refine,solve:2+refine+vote", "--out", "e")
    assert_one_message(refused, "solve:2+refine+vote compares answers", "a.jsonl/0", "one of the built-in verifiers")
    assert not (tmp_path / "e").exists()
    shown = rethink(*given, "--strategy", "refine,merge:2", "--out", "f")
    assert shown.code == 0
    assert "no comparison with votes of equal cost, and no refinement gap" in shown.err
    assert "gap" not in shown.out
    found = summary(tmp_path / "f")
    rows = rows_of(found, "a.jsonl")
    shares = {name: (row["accuracy"]["n"], row["cost"]["gain"]) for name, row in rows.items()}
    assert shares == {"refine": (4, None), "merge:2": (4, None)}
    assert (found["suites"]["a.jsonl"]["gaps"], found["suites"]["a.jsonl"]["baselines"]) == ([], {})
    told = rethink(*given, "--strategy", "reflect", "--out", "g")
    assert (told.code, "no comparison" in told.err) == (0, False)
    row = rows_of(summary(tmp_path / "g"), "a.jsonl")["reflect"]
    assert (row["cost"]["baseline"], row["cost"]["gain"] is None) == ("tries", False)


def test_columns_that_the_verifier_reads_may_not_change(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against verdicts by two versions of a column in one file: training noticed the change, an evaluation did not.
    Columns that nothing reads may change."""
    (tmp_path / "short_replies.py").write_text("def short(reply, gold, row):\n    return len(reply) < row['most']\n")

    def write(most: int, note: str) -> None:
        row = {"question": "1 2 7", "answer": "10", "most": most, "note": note}
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")

    common = [*MODEL, "--on", "a.jsonl", "--strategy", "solve"]
    by_row = [*common, "evaluation.problems.verifier=short_replies:short", "--out", "e"]
    write(5, "")
    assert rethink(*by_row).code == 0
    write(6, "")
    message = "the evaluation problems have changed since e was started: other columns, which a reward function or the"
    assert_one_message(rethink(*by_row, "--resume"), message, "another --out DIR")
    write(5, "")
    assert rethink(*by_row, "--resume").code == 0
    assert rethink(*common, "--out", "f").code == 0
    write(5, "nothing reads this")
    assert rethink(*common, "--out", "f", "--resume").code == 0


def test_best_needs_a_judge(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against "best" without a judge, and a model that rates itself without a warning."""
    assert_one_message(rethink(*SMALL, "--strategy", "solve,best:2", "--out", "e"), "judge.path=...", '"self"')
    assert not (tmp_path / "e").exists()
    shown = rethink(*SMALL, "--strategy", "best:2", "judge.path=self", "--out", "e")
    assert shown.code == 0
    assert "warning: the model rates its own answers" in shown.err
    quiet = rethink(*SMALL, "--strategy", "vote:2", "judge.path=self", "--out", "f")
    assert "rates its own" not in quiet.err


def test_strategies_that_use_the_verifier_are_warned_of(rethink: Rethink) -> None:
    """Guards against an oracle compared with strategies that see no verdicts."""
    shown = rethink(*SMALL, "--strategy", "reflect,solve:2+reflexion,self-refine", "--out", "e")
    assert shown.code == 0
    warned = [line for line in shown.err.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warned] == ["reflect", "solve:2+reflexion"]
    assert all("uses the verifier to see which answers are wrong" in line for line in warned)


def test_a_lesser_guard_is_said_once(rethink: Rethink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an evaluation that trusts a guard that this machine has not."""
    monkeypatch.setattr("rethink.commands.evaluate.lesser_guard", lambda: "guarded by hope")
    shown = rethink(*SMALL, "--strategy", "solve")
    assert (shown.code, shown.err.count("warning: guarded by hope")) == (0, 1)


def test_greedy_candidates_are_warned_of(rethink: Rethink) -> None:
    """Guards against a vote among copies: an evaluation is greedy by default."""
    cold = [*SMALL, "evaluation.sampling.temperature=0", "evaluation.n=1"]
    for given, warning in (
        (["--strategy", "solve,refine:2,vote:3"], "vote:3: greedy answers to one prompt are all equal"),
        (
            ["--strategy", "solve,refine:2"],
            "greedy answers to one prompt are all equal, so every baseline of equal cost",
        ),
        (["--strategy", "refine"], ""),
        (["--strategy", "fresh-retry:2"], "fresh-retry:2: greedy answers to one prompt are all equal"),
        (["evaluation.n=4"], "refine: greedy answers to one prompt are all equal"),
        (["evaluation.n_refine=2"], "greedy refinements of one answer are all equal"),
        (["evaluation.n=2", "evaluation.sampling.temperature=0.5"], ""),
    ):
        shown = rethink(*cold, *given)
        assert (shown.code, shown.err.count("are all equal")) == (0, bool(warning))
        assert f"warning: {warning}" in shown.err or not warning


def test_strategies_start_from_given_drafts(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against ignored drafts. One of two drafts is right, so their vote is a tie and half right."""
    row = {"question": "1 1", "answer": "2"}
    rows = [{**row, "response": text} for text in ("\\boxed{2}", "\\boxed{3}")]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = rethink(*MODEL, "--drafts", "d.jsonl", "--strategy", "solve:2,vote:2,solve:2+refine", "--out", "e")
    assert found.code == 0
    assert "drafts are given: no comparison at equal cost" in found.err
    numbers = rows_of(summary(tmp_path / "e"), "d.jsonl")
    assert [numbers[name]["accuracy"]["value"] for name in ("solve:2", "vote:2")] == [0.5, 0.5]
    assert numbers["solve:2+refine"]["transitions"] is not None
    assert {r["repeat"] for r in records(tmp_path / "e" / "answers.jsonl")} == {0}
    few = rethink(*MODEL, "--drafts", "d.jsonl", "--strategy", "merge:3", "--out", "f")
    assert_one_message(few, "these strategies need 3 drafts per problem, but d.jsonl/0 has 2")
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_strategies_in_training(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a judge that is missed only after the first update, and strategies that a run does not log."""
    settings = ["evaluation.problems.limit=5", "updates=2", "problems_per_batch=2"]
    missing = rethink("train", "demo-grpo", "evaluation.strategy=best:3", "out=r", *settings)
    assert_one_message(missing, '"best" needs a judge')
    assert not (tmp_path / "r").exists()
    assert rethink("train", "demo-grpo", "evaluation.strategy='refine,vote:3'", "out=r", *settings).code == 0
    (logged,) = [r for r in records(tmp_path / "r" / "metrics.jsonl") if r["phase"] == "evaluation"]
    assert list(logged["strategies"]) == ["refine", "vote:3"]
    assert logged["refined"] == logged["strategies"]["refine"]
    (shown,) = embedded((tmp_path / "r" / "report.html").read_text(), "document")["runs"][0]["evaluations"]
    assert shown["strategies"].keys() == logged["strategies"].keys()


@pytest.mark.parametrize("strategy", ["solve", "refine"])
def test_one_refinement_has_the_plain_table(rethink: Rethink, tmp_path: Path, strategy: str) -> None:
    """Guards against votes of equal cost, and a curve, where no strategies are compared."""
    shown = rethink(*SMALL, "--strategy", strategy, "--out", "e")
    assert shown.code == 0
    assert not (tmp_path / "e" / "curve.svg").exists()
    keys = {"model", "weights", "suites", "mean", "graded_by", "seed", "seconds", "answers"}
    assert set(summary(tmp_path / "e")) == keys
    assert "equal cost" not in shown.out
