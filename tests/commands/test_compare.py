"""`rethink compare`, and `rethink cross`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from rethink.commands.compare import compare as command
from rethink.errors import UserError
from rethink.evaluation.answers import Answer, read_answers
from rethink.evaluation.stored import load_evaluation
from rethink.jsonl import append
from support.command_line import PLAIN, Rethink, assert_one_message
from support.evaluations import answer, answers
from support.fake_endpoint import Answer as Reply
from support.fake_endpoint import Asked, FakeEndpoint, completion, refusal

R, W, N = True, False, None


def write(file: Path, some: list[Answer]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    append(file, [asdict(one) for one in some])
    return file


def test_the_command_prints_and_writes_the_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against numbers on the screen that are not those of the file; undefined ones are a word and null."""
    after = write(tmp_path / "a" / "answers.jsonl", answers([(R, R), (R, R), (W, R)])).parent
    before = write(tmp_path / "b" / "answers.jsonl", [*answers([(W, R), (W, W), (W, W)]), answer("x", W, W)])
    command([(before, after)], [1], tmp_path / "out.json")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{after} minus {before}, in points, paired by problem, with 95% intervals and p-values"
    rows = {line[:18].strip(): line[18:].split() for line in shown[2:]}
    assert rows["solve, s"][0] == "+66.7"
    assert 0.05 < float(rows["solve, s"][-2]) < 1
    assert rows["solve, s"][-1] == "3"
    assert rows["damage rate, s"] == ["undefined", "0"]
    assert shown[-2].endswith(
        "They do not cover another training seed; give more runs of each method with --pair BEFORE AFTER."
    )
    assert shown[-1] == "problems left out because some of the evaluations have no answers: 1"
    record = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert record["differences"]["solve"]["s"]["value"] == pytest.approx(2 / 3)
    undefined = {"value": None, "low": None, "high": None, "n": 0, "p": None, "at_least": None, "at_most": None}
    assert record["differences"]["damage rate"]["s"] == undefined
    assert (record["n_shared"], record["n_unshared"], record["pairs"][0]["n_not_graded"]) == (3, 1, [0, 0])
    assert record["over_seeds"]["solve"]["s"] == {**undefined, "value": pytest.approx(2 / 3), "n": 1}


def test_replies_that_were_not_graded_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a difference between the answers that happened to be graded, without a word about the others."""
    before = write(tmp_path / "before.jsonl", answers([(R, R), (W, R), (W, W)]))
    after = write(tmp_path / "after.jsonl", answers([(R, N), (N, N), (W, W)]))
    command([(before, after)], [], None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == f"replies in {after} that were not graded, and are left out: 3"
    # Refined: 0 or 2 of 3, minus 2 of 3. Solve: 1 or 2 of 3, minus 1 of 3.
    rows = {line[:14].strip(): line for line in lines[2:]}
    assert "(-66.7 to +0.0)" in rows["refined, s"]
    assert "(+0.0 to +33.3)" in rows["solve, s"]
    assert lines[-2].startswith("in parentheses: the accuracy if all replies that were not graded are wrong, ")
    wanted = "the sign depends on the replies that were not graded: solve, s; refined, s; fix rate, s"
    assert lines[-1].startswith(wanted)


def test_the_same_drafts_differ_in_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against drafts that two evaluations share, were not graded in either, and seem to decide between them."""
    before = write(tmp_path / "before.jsonl", answers([(R, R), (N, R), (W, R)]))
    after = write(tmp_path / "after.jsonl", answers([(R, R), (N, W), (W, W)]))
    command([(before, after)], [1], None)
    lines = capsys.readouterr().out.splitlines()
    (solve,) = [line for line in lines if line.startswith("solve, s")]
    assert "(" not in solve
    (refined,) = [line for line in lines if line.startswith("refined, s")]
    assert refined.split()[2] == "-66.7"
    assert "(" not in refined


def test_a_run_is_a_file_a_folder_or_a_training_run(tmp_path: Path) -> None:
    """Guards against the first evaluation of a training run in place of its last."""
    first, last = answers([(R, R)]), answers([(W, W)])
    write(tmp_path / "run" / "eval" / "000100.jsonl", first)
    file = write(tmp_path / "run" / "eval" / "000200.jsonl", last)
    assert load_evaluation(tmp_path / "run").answers == load_evaluation(file).answers == last
    write(tmp_path / "evaluation" / "answers.jsonl", first)
    assert load_evaluation(tmp_path / "evaluation").answers == first


@pytest.mark.parametrize("written", [[], [(W, W)]])
def test_an_evaluation_under_way_is_not_the_last(tmp_path: Path, written: list[tuple[bool, bool]]) -> None:
    """Guards against the first answers of an evaluation that goes on in place of all answers of the one before."""
    whole = answers([(R, R), (W, R)])
    write(tmp_path / "eval" / "000100.jsonl", whole)
    write(tmp_path / "eval" / "000200.jsonl", answers(written))
    append(tmp_path / "metrics.jsonl", [{"update": 100, "phase": "evaluation"}, {"update": 200, "phase": "solve"}])
    assert load_evaluation(tmp_path).answers == whole
    (tmp_path / "eval" / "000100.jsonl").unlink()
    with pytest.raises(UserError, match="holds no answers of an evaluation that has ended"):
        load_evaluation(tmp_path)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """Guards against tracebacks, and against an evaluation without answers that equals every other."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "answers.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"question": "?"}\n')
    for name in ("empty", "missing", "answers.jsonl"):
        with pytest.raises(UserError, match=f"{name} holds no answers of an evaluation"):
            load_evaluation(tmp_path / name)
    with pytest.raises(UserError, match="has no answers of an evaluation"):
        load_evaluation(tmp_path / "other.jsonl")
    good, other = (write(tmp_path / f"{n}.jsonl", [answer(n, R, R)]) for n in "ab")
    with pytest.raises(UserError, match=r"a\.jsonl and .*b\.jsonl: the two evaluations have no problem in common"):
        command([(good, other)], [], None)


def test_a_damaged_line_is_not_passed_over(tmp_path: Path) -> None:
    """Guards against a comparison of the first answers alone; a last line that a crash cut short is left out."""
    file = tmp_path / "answers.jsonl"
    append(file, [asdict(a) for a in answers([(R, R), (W, R), (W, W)])])
    whole = file.read_text(encoding="utf-8")
    first, second, _ = whole.splitlines()
    file.write_text(f"{first}\n{second}\n{second[:40]}", encoding="utf-8")
    assert len(load_evaluation(tmp_path).answers) == 2
    file.write_text(f"{first}\n{second[:40]}\n{second}\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2 of 3 is damaged"):
        load_evaluation(tmp_path)


BEFORE = [[(W, W), (W, W), (W, W)], [(R, W), (W, W), (W, W)], [(R, W), (R, W), (W, W)]]
AFTER = [[(W, R), (W, R), (W, W)], [(W, W), (W, W), (W, W)], [(W, W), (W, R), (W, W)]]


def test_several_runs(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against pairs that are read in another order than they are given, and intervals that do not say what they are
    about. Refined: 2, 0 and 1 of 3 more; Student's limits are 1/3 -+ 4.3027 / sqrt(27)."""
    given: list[str] = []
    for n in range(3):
        write(tmp_path / f"b{n}.jsonl", answers(BEFORE[n]))
        write(tmp_path / f"a{n}.jsonl", answers(AFTER[n]))
        given += [*(["--pair"] if n else []), f"b{n}.jsonl", f"a{n}.jsonl"]
    lines = rethink("compare", *given, "--out", "out.json").out.splitlines()
    assert lines[0] == "after minus before, in points, with 95% intervals and p-values"
    assert lines[1:4] == [f"pair {n + 1}: a{n}.jsonl minus b{n}.jsonl" for n in range(3)]
    assert lines[5].split() == ["over", "problems", "p", "problems", "over", "seeds", "p", "each", "pair"]
    (refined,) = [line.split() for line in lines if line.startswith("refined, s")]
    assert refined[7:] == ["+33.3", "[-49.5,", "+116.1]", "0.2254", "+66.7", "+0.0", "+33.3"]
    assert [line.split(":")[0] for line in lines[-3:-1]] == ["over problems", "over seeds"]
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["over_seeds"]["refined"]["s"]["value"] == pytest.approx(1 / 3)
    assert [pair["differences"]["refined"]["s"]["value"] for pair in record["pairs"]] == pytest.approx(
        [2 / 3, 0, 1 / 3]
    )
    assert [(pair["before"], pair["after"]) for pair in record["pairs"]] == [
        (f"b{n}.jsonl", f"a{n}.jsonl") for n in range(3)
    ]
    fixed = rethink("compare", "b0.jsonl", "a0.jsonl", "--pair", "b0.jsonl", "a1.jsonl")
    assert "pair 2: a1.jsonl minus b0.jsonl" in fixed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["b", "a", "--pair", "b"], "--pair takes two runs: --pair BEFORE AFTER"),
        (["b", "a", "--pair=c"], "--pair takes two runs"),
        (["b", "a", "--pair", "b", "a"], "a is in several pairs; each pair needs other runs"),
    ],
)
def test_mistakes_with_pairs(rethink: Rethink, tmp_path: Path, words: list[str], message: str) -> None:
    """Guards against runs that are paired with those of another seed."""
    for name in "ab":
        write(tmp_path / name, answers([(name == "a", W)]))
    assert_one_message(rethink("compare", *words), message)


# rethink cross


def skills() -> Callable[[Asked], Reply]:
    """`odd` does odd sums, and spoils even ones; `even` the reverse, but keeps right odd ones, and refines every other."""
    times: Counter[str] = Counter()

    def script(asked: Asked) -> Reply:
        messages, model = asked.body["messages"], asked.body["model"]
        n, refining = int(messages[0]["content"]), len(messages) > 1
        times[f"{model} {messages}"] += 1
        if model == "odd":
            right = n % 2 == 1
        elif n % 2 == 0:
            right = not refining or times[f"{model} {messages}"] % 2 == 0
        else:
            right = refining and f"{{{2 * n}}}" in messages[1]["content"]
        return completion(f"\\boxed{{{2 * n if right else -1}}}")

    return script


def cross(endpoint: FakeEndpoint, *more: str) -> list[str]:
    given = ["--on", "n.jsonl", "--endpoint", endpoint.url, "--out", "c", "prompts.solve={question}"]
    given += ["evaluation.n_refine=2", "evaluation.refine_sampling.temperature=0.5", "endpoint.concurrency=1"]
    return ["cross", "odd", "a/even", *given, *more]


@pytest.mark.slow
def test_the_matrix_by_hand(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against rows and columns that are exchanged. `odd` gets 1 and 3 right whosever the drafts are (2/5), `even`
    three, and odd's two drafts (5/5)."""
    rows = [{"question": str(n), "answer": str(2 * n)} for n in range(5)]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint.script = skills()
    shown = rethink(*cross(endpoint))
    assert shown.code == 0
    matrix = json.loads((tmp_path / "c" / "matrix.json").read_text())
    assert {s: {r: e["value"] for r, e in row.items()} for s, row in matrix.items()} == {
        "odd": {"odd": 0.4, "even": 1.0},
        "even": {"odd": 0.4, "even": 0.6},
    }
    header, first, second = (line.split() for line in shown.out.splitlines()[2:5])
    assert header == ["drafts", "of", "\\", "refined", "by", "odd", "even"]
    assert (first[0], first[1], first[4]) == ("odd", "40.0", "100.0")
    assert (second[0], second[1], second[4]) == ("even", "40.0", "60.0")
    assert len(endpoint.asked) == 2 * 5 + 4 * 5 * 2
    drafts = [a.firsts[0].text for a in read_answers(tmp_path / "c" / "odd-solves" / "answers.jsonl")]
    again = read_answers(tmp_path / "c" / "even-refines-odd" / "answers.jsonl")
    assert [a.firsts[0].text for a in again] == drafts

    before = (tmp_path / "c" / "matrix.json").read_bytes()
    assert rethink(*cross(endpoint)).out == shown.out
    assert len(endpoint.asked) == 50
    # What a kill has left undone is done: one cell is gone, one is cut short.
    shutil.rmtree(tmp_path / "c" / "odd-refines-even")
    cut = tmp_path / "c" / "even-refines-even" / "answers.jsonl"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:700])
    (tmp_path / "c" / "matrix.json").unlink()
    assert rethink(*cross(endpoint)).code == 0
    assert (cut.read_bytes(), (tmp_path / "c" / "matrix.json").read_bytes()) == (whole, before)
    assert len(endpoint.asked) == 50 + 10 + 10
    assert "seed was 0, now 1" in rethink(*cross(endpoint, "seed=1")).err


@pytest.mark.slow
def test_cells_are_about_the_same_problems(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against rows that cannot be compared, because a solver's server refused a problem: here `odd`'s, 2."""
    (tmp_path / "n.jsonl").write_text("".join(f'{{"question": "{n}", "answer": "{2 * n}"}}\n' for n in range(5)))
    known = skills()

    def script(asked: Asked) -> Reply:
        is_two = asked.body["model"] == "odd" and asked.body["messages"][0]["content"] == "2"
        return refusal(400, "This model's maximum context length is 9 tokens") if is_two else known(asked)

    endpoint.script = script
    shown = rethink(*cross(endpoint))
    assert "1 of 5 problems lack drafts of a model, and are left out" in shown.err
    matrix = json.loads((tmp_path / "c" / "matrix.json").read_text())
    assert {cell["n"] for row in matrix.values() for cell in row.values()} == {4}


def test_cross_with_the_recipe_of_the_paper(rethink: Rethink, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Guards against a preset that does not run, and against checkpoints of two runs that have one name."""
    for name in ("aime", "amc", "math500", "minerva", "olympiad"):
        (tmp_path / f"{name}.jsonl").write_text('{"question": "1 3 7", "answer": "11"}\n')
    for run in ("x", "y"):
        shutil.copytree(model_folders["qwen3"], tmp_path / "runs" / run / "000100")
    small = ["evaluation.sampling.max_tokens=3", "evaluation.refine_sampling.max_tokens=3", *PLAIN]
    shown = rethink("cross", "runs/x/000100", "runs/y/000100", "--recipe", "thinktwice-cross", "--data", ".", *small)
    assert shown.code == 0
    assert "warning" not in shown.err
    folder = tmp_path / "runs" / "cross"
    answers = read_answers(folder / "runs-x-000100-refines-runs-y-000100" / "answers.jsonl")
    assert [len(a.finals) for a in answers] == [4] * 5
    matrix = json.loads((folder / "matrix.json").read_text())
    assert [list(row) for row in matrix.values()] == [["runs-x-000100", "runs-y-000100"]] * 2


def test_the_matrix_has_bounds(rethink: Rethink, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Guards against a matrix of those refinements alone that could be graded."""
    (tmp_path / "q.jsonl").write_text('{"question": "1 3 7", "answer": "11"}\n' * 3)
    (tmp_path / "own.py").write_text("def check(reply, gold):\n    return None, 'the answer cannot be read: ?'\n")
    for run in ("x", "y"):
        shutil.copytree(model_folders["qwen3"], tmp_path / run)
    small = ["evaluation.sampling.max_tokens=3", "evaluation.problems.verifier=own:check", *PLAIN]
    shown = rethink("cross", "x", "y", "--on", "q.jsonl", "--out", "c", *small)
    assert shown.code == 0
    assert shown.out.count("undefined (0.0 to 100.0)") == 4
    assert shown.out.endswith(
        "\nin parentheses: the accuracy if all replies that were not graded are wrong, and if all are right\n"
    )


def test_mistakes_of_cross(rethink: Rethink) -> None:
    """`cross A B --on aime amc` once looked for a model called amc."""
    assert_one_message(rethink("cross", "tiny", "amc", "--on", "aime"), "amc is a suite, not a model", "with commas")
    assert_one_message(rethink("cross", "tiny", "--on", "countdown"), "at least two different models")
    assert_one_message(rethink("cross", "tiny", "tiny", "--on", "countdown"), "at least two different models")
    assert_one_message(rethink("cross", "tiny", "other"), "name a suite or a file with --on")
