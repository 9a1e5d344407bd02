"""Grading groups, in what process and at once, and reward terms that add up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.evaluation.grade import GradeSettings, grade_rows
from rethink.grading.pool import user_pool
from rethink.grading.user_function import find_function
from rethink.objectives import Objective, Update
from rethink.problems.answer_format import read_after
from rethink.problems.mathematics import FORMAT
from rethink.problems.rewards import Grader, build_grader, grade, runs_in_workers
from rethink.problems.rows import Row
from rethink.problems.source import ANSWER_FORMATS, find_answer_format, load_problems
from rethink.recipe import load_recipe
from rethink.settings import ProblemSource, Reward
from rethink.training.alarms import find_alarms
from rethink.training.loop import train
from rethink.training.metrics import describe_groups
from rethink.training.run import open_run
from rethink.types import Group, Message, Problem, Prompt, RewardTerm, Sample, Sampling
from support.command_line import Rethink, in_process

OWN = """
import time
from rethink.types import Verdict

def returns(reply, gold): return {"score": Verdict(False, score=0.25), "0.7": 0.7, "1": 1, "str": "yes"}[reply]

def hangs(reply, gold):
    if "7" in reply:
        while True: pass
    return reply == gold

def slow(reply, gold): time.sleep(1.0); return True
def right(reply, gold): return reply.split()[0] == gold
def formatted(reply): return "[" in reply
def brevity(reply, n_tokens, *, right, stop, phase, question, gold, row):
    assert (stop, phase, question, gold, right) == ("stop", "solve", "0 + 0", "0", reply.split()[0] == "0")
    assert row == {"n": 5}
    return n_tokens / 8
def greedy(reply, gold, tokens): return 1
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own", None)  # another test file's
    yield
    sys.modules.pop("own", None)


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


def make_group(*replies: str, verify: Any) -> Group:
    """Return samples of two tokens with these replies to "0 + 0"."""
    prompt = Prompt(Problem("p0", "0 + 0", "0", verify, row={"n": 5}), "solve", (Message("user", "0 + 0"),), 3)
    mask, log_probs = (True, True), (-1.0, -1.0)
    return tuple(
        Sample(prompt, index, (1,), (0, 1), mask, log_probs, reply, "stop", Sampling(), 0)
        for index, reply in enumerate(replies)
    )


def test_training_and_grade_agree() -> None:
    """Guards against a return that training and `rethink grade` read differently, or refuse without its place."""
    own = find_answer_format("own:returns", ProblemSource(verifier_in_process=True, right_threshold=0.7))
    replies = {"score": (False, 0.25), "0.7": (True, 0.7), "1": (True, 1.0), "raises": (None, None)}
    (group,) = grade([make_group(*replies, verify=own.verify)])
    assert {s.text: (s.right, s.reward) for s in group} == replies
    rows = [Row(f"row {n}", {"answer": "0", "response": name}, n) for n, name in enumerate([*replies, "str"])]
    records = grade_rows(rows[:-1], GradeSettings(own, "answer", "response"))
    for sample, record in zip(group, records, strict=True):
        assert sample.verdict is not None
        assert (record["verdict"], record["reason"]) == (str(sample.verdict), sample.verdict.reason)
        assert record.get("score") == sample.verdict.score
    assert describe_groups([group])["accuracy"] == 2 / 3  # rewards do not count
    with pytest.raises(UserError, match=r"^row 4: own:returns returned 'yes'"):
        list(grade_rows(rows, GradeSettings(own, "answer", "response")))
    with pytest.raises(UserError, match=r"^problem p0: own:returns returned 'yes'"):
        grade([make_group("str", verify=own.verify)])


QUOTES = "The earlier answer \\boxed{3} is wrong, so it is \\boxed{4}."


@pytest.mark.parametrize("marks", [(), ("[[", "]]")])
def test_replies_with_earlier_answers_in_view_may_quote_them(marks: tuple[str, ...]) -> None:
    """Guards against refinements of one phase that are graded as first answers, and against first answers that hedge."""
    (problem,) = read_after([FORMAT.problem("p", "2 + 2?", "4", "", "strict")], marks)
    thoughts = " ".join(f"\\boxed{{{n}}}" for n in range(9))  # too many, if they were not thoughts
    (sample, *_) = make_group(f"[[{thoughts}]] {QUOTES}" if marks else QUOTES, verify=problem.verify)
    found: dict[str, bool | None] = {}
    for phase in ("solve", "fresh", "refine", "retry", "improve", "merge", "socratic"):
        asked = replace(sample, prompt=replace(sample.prompt, problem=problem, phase=phase))
        ((graded,),) = grade([(asked,)])
        found[phase] = graded.right
        assert problem.extract_answer is not None
        assert problem.extract_answer(asked.final_text) == ("4" if graded.right else "3, 4")
    assert {phase for phase, right in found.items() if right} == {"refine", "retry", "improve", "merge"}
    guided = replace(sample, prompt=replace(sample.prompt, problem=problem), forced=(False, True))
    assert grade([(guided,)])[0][0].right  # a teacher's feedback answers the student's reply


def test_a_verifier_of_your_own_gets_whole_refinements() -> None:
    """Guards against refinements that are cut before a user's function sees them."""
    own = find_answer_format("own:right", ProblemSource(verifier_in_process=True))
    problem = own.problem("p", "2 + 2?", "The", "", "strict")
    (sample,) = make_group(QUOTES, verify=own.verify)
    refinement = replace(sample, prompt=replace(sample.prompt, problem=problem, phase="refine"))
    assert refinement.graded_texts == [QUOTES]
    assert grade([(refinement,)])[0][0].right


def test_functions_of_problems_made_in_python() -> None:
    """Guards against functions that are not checked when a `Problem` is made in Python."""
    (group,) = grade([make_group("a", verify=lambda reply, gold: 0.25)])
    assert (group[0].right, group[0].reward) == (False, 0.25)
    with pytest.raises(UserError, match="problem p0: the verifier returned 'right'"):
        grade([make_group("a", verify=lambda reply, gold: "right")])


def problem_file(tmp_path: Path, golds: list[str]) -> Path:
    rows = [{"question": f"{n} 7 5 -> 26", "answer": gold} for n, gold in enumerate(golds)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "p.jsonl"


@pytest.mark.slow
def test_commands_refuse_before_they_make_a_folder(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a run folder that is in the way of the corrected command."""
    file = problem_file(tmp_path, ["str"] * 3)
    (tmp_path / "r.toml").write_text("")
    train = ["train", "r.toml", f"problems.source={file}", "out=run", "problems_per_batch=3"]
    evaluation = ["eval", "tiny", "--on", str(file), "--out", "there", "evaluation.problems.verifier=own:returns"]
    for command in ([*train, "problems.verifier=own:returns"], [*train, "rewards.0.function=own:returns"], evaluation):
        found = rethink(*command)
        assert found.code == 2
        assert "own:returns returned 'yes' (str)" in found.err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "there").exists()


def test_a_verifier_that_raises_in_the_probe_is_accepted(tmp_path: Path) -> None:
    """Guards against refusing a verifier because it cannot read a bare gold answer."""
    file = problem_file(tmp_path, ["raises"])
    assert load_problems(ProblemSource(str(file), verifier="own:returns", verifier_in_process=True))


def test_what_compares_formulas_is_graded_at_once() -> None:
    """Guards against formats whose formulas wait for each other, and threads for comparisons of letters."""
    for name in ANSWER_FORMATS:
        assert runs_in_workers(ANSWER_FORMATS[name].verify) is (name in ("boxed", "mixed")), name


@pytest.mark.slow
def test_workers_grade_concurrently() -> None:
    """Guards against replies that wait for each other; sleeping takes no core."""
    if user_pool(60, int(4.0 * 2**30)).size < 2:
        pytest.skip("one core has one worker")
    verify = find_function("own:slow", timeout_s=60)
    grade([make_group("warm", "warm", verify=verify)])
    start = time.perf_counter()
    grade([make_group("a", "b", verify=verify)])
    assert time.perf_counter() - start < 1.9


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([Reward("bonus")], "rewards: a function is 'verdict' or module:function, not 'bonus'"),
        ([Reward("own:right"), Reward("own:right")], "rewards: two terms are called 'right'"),
        ([Reward("own:greedy")], "rewards: own:greedy has an unknown parameter 'tokens'"),
    ],
)
def test_build_grader_refuses(rewards: list[Reward], message: str) -> None:
    """Guards against errors in a recipe's rewards that appear only after the first batch."""
    with pytest.raises(UserError, match=message):
        build_grader(rewards)


def grader_for(*rewards: Reward) -> Grader:
    return build_grader([replace(reward, in_process=True) for reward in rewards])


def graded(grader: Grader, *replies: str) -> Group:
    (group,) = grader([make_group(*replies, verify=find_function("own:right", in_process=True))])
    return group


FORMATTED = Reward("own:formatted", 0.2)
ALWAYS = Reward("own:formatted", 0.5, only_if_right=False)


@pytest.mark.parametrize(
    ("terms", "rewards", "means"),
    [
        ((FORMATTED,), (1.2, 1.0, 0.0, 0.0), {"verdict": 0.5, "formatted": 0.25}),
        ((Reward("own:brevity", -0.5, name="length"),), (0.875, 0.875, 0.0, 0.0), {"verdict": 0.5, "length": 0.125}),
        ((Reward("verdict", 2.0), ALWAYS), (2.5, 2.0, 0.5, 0.0), {"verdict": 0.5, "formatted": 0.5}),
        ((Reward("verdict", 0.0), FORMATTED), (0.2, 0.0, 0.0, 0.0), {"verdict": 0.5, "formatted": 0.25}),
    ],
)
def test_terms_add_up(terms: tuple[Reward, ...], rewards: tuple[float, ...], means: dict[str, float]) -> None:
    """Guards against weights that are lost, and metrics whose weighted terms are not the mean reward. Numbers by hand."""
    group = graded(grader_for(*terms), "0 [x]", "0 x", "1 [x]", "1 x")
    assert [s.reward for s in group] == pytest.approx(rewards)
    assert [s.right for s in group] == [True, True, False, False]
    numbers = describe_groups([group])
    assert {n.removeprefix("reward/"): v for n, v in numbers.items() if n.startswith("reward/")} == pytest.approx(means)
    assert (numbers["reward"], numbers["accuracy"]) == pytest.approx((sum(rewards) / 4, 0.5))


def test_a_format_bonus_gives_wrong_replies_no_advantage() -> None:
    """Guards against a bonus that counts like a right reply after normalization (allenai/open-instruct#659)."""
    for term, advantages in ((FORMATTED, [0.0] * 3), (ALWAYS, [1.1547, -0.5774, -0.5774])):
        group = graded(grader_for(term), "1 [x]", "2 x", "3 x")
        found = [w for _, w in Objective("standardize").pairs([group])]
        assert found == pytest.approx(advantages, abs=1e-3)


def test_a_term_that_fails_gives_no_reward() -> None:
    """Guards against 0 when the function fails, which would punish the reply; and against silence."""
    found = graded(grader_for(Reward("own:returns", 0.5)), "0 true", "0 raises", "1 raises")
    # The function raises KeyError. It is not called for the wrong reply.
    assert [(s.right, s.reward) for s in found] == [(True, None), (True, None), (False, 0.0)]
    assert found[0].terms == (
        RewardTerm("verdict", 1.0),
        RewardTerm("returns", None, "own:returns failed: KeyError: '0 true'"),
    )
    numbers = describe_groups([found])
    assert (numbers["n_not_graded"], numbers["reward"]) == (2, 0.0)
    first = "first reason: returns: own:returns failed: KeyError: '0 true'"
    (alarm,) = find_alarms(Update("solve", (), groups=(found,)), {"lr": 0.1, "grad_norm": 1.0})
    assert alarm.startswith(f"over 10% of the replies were not graded: 2 of 3 (2 error; {first}). ")


@pytest.mark.slow
def test_a_verifier_that_hangs_does_not_stop_a_run(tmp_path: Path) -> None:
    """Guards against a run that waits for an endless loop in a user's function; it is counted and reported."""
    settings = ["method.name=grpo", "method.n_solve=4", "problems_per_batch=4", "updates=1", "model.path=tiny"]
    settings += ["model.device=cpu", "sampling.max_tokens=12", "seed=3", f"out={tmp_path / 'run'}"]
    settings += [f"problems.source={problem_file(tmp_path, ['26'] * 4)}", "problems.verifier=own:hangs"]
    (record,) = train(open_run(load_recipe(None, [*settings, "problems.verifier_timeout_s=0.7"])))
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert 0 < record["n_not_graded"] < 16
    assert record["n_not_graded"] == logged["n_not_graded"]
    assert "of 16" in record["alarms"][0]
    assert "(first reason: own:hangs: no verdict" in record["alarms"][0]


@pytest.mark.slow
def test_example_of_the_docs(tmp_path: Path) -> None:
    """Guards against docs that do not run, terms that do not reach the records, and a module that workers do not find."""
    text = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    (code,), (table, *_) = re.findall(r"```python\n(.*?)```", text, re.S), re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "own.py").write_text(code)
    (tmp_path / "r.toml").write_text(table)
    given = ["r.toml", "method.name=grpo", "updates=1", "problems_per_batch=16", "sampling.max_tokens=24", "out=run"]
    given += ["prompts.solve={question}", "model.device=cpu", "seed=1"]
    command = [sys.executable, "-m", "rethink", "train", *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert record["n_not_graded"] == 0
    assert 0 < record["reward/brevity"] < record["reward/verdict"] == record["accuracy"] < 1
    assert record["reward"] == pytest.approx(record["reward/verdict"] + 0.2 * record["reward/brevity"])
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert all(s["reward"] == s["terms"]["verdict"] + 0.2 * s["terms"]["brevity"] for s in samples)
