"""Rewards and user-defined verifiers: what they may return, where they run, and how terms add up."""

from __future__ import annotations

import json
import math
import os
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
from rethink.methods.groups import Objective
from rethink.problems.rewards import ARGUMENTS, Grader, build_grader, grade
from rethink.problems.rows import Row
from rethink.problems.source import find_answer_format, load_problems
from rethink.recipe import load_recipe
from rethink.settings import ProblemSource, Reward
from rethink.training.loop import train
from rethink.training.metrics import describe_groups, ungraded
from rethink.training.run import open_run
from rethink.types import Group, Message, Problem, Prompt, RewardTerm, Sample, Sampling
from support.command_line import Rethink, in_process

OWN = """
import os, time
from rethink.types import Verdict

RETURNED = {
    "true": lambda: True, "false": lambda: False, "1.0": lambda: 1.0,
    "0.7": lambda: 0.7, "verdict": lambda: Verdict(True, "mine", "x"),
    "ungraded": lambda: Verdict(None, "no idea"), "Verdict(0.7)": lambda: Verdict(0.7),
    "no reason": lambda: Verdict(True, None), "bytes": lambda: Verdict(False, b"\\xff bytes"),
    "surrogate": lambda: Verdict(False, "half \\ud800", "\\ud800"), "score": lambda: Verdict(False, score=0.25),
    "np.bool": lambda: np().bool_(True), "np.float32": lambda: np().float32(0.5), "np.int64": lambda: np().int64(1),
    "np 0-d": lambda: np().array(0.25), "tensor": lambda: torch().tensor(0.5),
    "raises": lambda: 1 / 0, "exits": lambda: exit(1),
    "str": lambda: "yes", "dict": lambda: {"score": 1}, "nan": lambda: float("nan"),
    "1.5": lambda: 1.5, "2": lambda: 2, "None": lambda: None,
    "list": lambda: [1.0], "np 1-d": lambda: np().array([1.0]),
    "tensor 1-d": lambda: torch().tensor([0.5]), "tensor nan": lambda: torch().tensor(float("nan")),
    "Verdict(nan)": lambda: Verdict(float("nan")),
    "Verdict score": lambda: Verdict(True, score=7),
}

def np():
    import numpy
    return numpy

def torch():
    import torch
    return torch

def returns(reply, gold):
    return RETURNED[reply]()

def tricky(reply, gold):  # passes the probe with the gold answer, fails in the run
    return True if reply == gold else "no"

def hangs(reply, gold):
    if "7" in reply:
        while True: pass
    return reply == gold

def always_hangs(reply, gold): time.sleep(600)
def dies(reply, gold): os._exit(3)
def crashes(reply, gold): os.kill(os.getpid(), 11)
def eats(reply, gold): return len(bytearray(2**33)) > 0
def slow(reply, gold): time.sleep(1.0); return True
def pid(reply, gold): return Verdict(True, str(os.getpid()))
def stays(reply, gold): return Verdict(True, str(os.getpid()))
stays.in_process = True

def spawns(reply, gold):
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(gold, "w").write(str(child.pid))
    time.sleep(600)

def reads_and_prints(reply, gold):
    print("[true, 1]"); import sys
    return sys.stdin.read() == ""

def right(reply, gold): return reply.split()[0] == gold
def formatted(reply): return "[" in reply
def brevity(reply, n_tokens, *, right, stop, phase, question, gold):
    assert (stop, phase, question, gold, right) == ("stop", "solve", "0 + 0", "0", reply.split()[0] == "0")
    return n_tokens / 8
def other_names(response, solution): return response == solution
def by_place(reply, gold, /): return reply == gold
def only_names(*, gold, reply): return reply == gold
def anything(*args, **kwargs): return args == ("a", "a") and not kwargs
def greedy(reply, gold, tokens): return 1
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own", None)


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


def make_group(*replies: str, verify: Any, gold: str = "0", n_tokens: int = 1) -> Group:
    """Return samples with these replies to "0 + 0"."""
    prompt = Prompt(Problem("p0", "0 + 0", gold, verify), "solve", (Message("user", "0 + 0"),), 3)
    ids, members = tuple(range(n_tokens)), []
    for index, reply in enumerate(replies):
        mask, log_probs = (True,) * n_tokens, (-1.0,) * n_tokens
        members.append(Sample(prompt, index, (1,), ids, mask, log_probs, reply, "stop", Sampling(), 0))
    return tuple(members)


# What a function returns -> right, reward, part of the reason.
ACCEPTED: dict[str, tuple[bool | None, float | None, str]] = {
    "true": (True, 1.0, ""), "false": (False, 0.0, ""), "1.0": (True, 1.0, ""), "0.7": (False, 0.7, "0.7"),
    "verdict": (True, 1.0, "mine"), "ungraded": (None, None, "no idea"), "Verdict(0.7)": (False, 0.7, "0.7"),
    "no reason": (True, 1.0, ""), "bytes": (False, 0.0, "\ufffd bytes"), "surrogate": (False, 0.0, "half ?"),
    "score": (False, 0.25, ""), "np.bool": (True, 1.0, ""), "np.float32": (False, 0.5, "0.5"),
    "np.int64": (True, 1.0, ""), "np 0-d": (False, 0.25, "0.25"), "tensor": (False, 0.5, "0.5"),
    "raises": (None, None, "own:returns failed: ZeroDivisionError"),
    "exits": (None, None, "own:returns failed: SystemExit"),
}  # fmt: skip

REFUSED = {
    "str": "returned 'yes' (str)", "dict": "returned {'score': 1} (dict)",
    "nan": "returned nan (float), which is not between 0 and 1",
    "1.5": "returned 1.5 (float), which is not between 0 and 1", "2": "returned 2 (int), which",
    "None": "returned None", "list": "returned [1.0] (list)", "np 1-d": "(ndarray)", "tensor 1-d": "(Tensor)",
    "tensor nan": "which is not between 0 and 1", "Verdict(nan)": "returned nan (float)",
    "Verdict score": "returned 7 (int)",
}  # fmt: skip


IN_PROCESS = pytest.mark.parametrize("in_process", [pytest.param(False, marks=pytest.mark.slow, id="worker"), True])


@IN_PROCESS
def test_accepted_returns(in_process: bool) -> None:
    """Guards against a return that training and `rethink grade` read differently, and numbers that are lost."""
    own = find_answer_format("own:returns", ProblemSource(verifier_in_process=in_process, verifier_timeout_s=60))
    (group,) = grade([make_group(*ACCEPTED, verify=own.verify)])
    rows = [Row(f"row {n}", {"answer": "0", "response": name}, n) for n, name in enumerate(ACCEPTED)]
    for sample, record in zip(group, grade_rows(rows, GradeSettings(own, "answer", "response")), strict=True):
        right, reward, reason = ACCEPTED[sample.text]
        assert (sample.right, sample.reward) == (right, reward), sample.text
        assert sample.verdict is not None
        assert reason in sample.verdict.reason
        assert (record["verdict"], record["reason"]) == (str(sample.verdict), sample.verdict.reason)
        assert record.get("score") == (reward if reward not in (None, 0.0, 1.0) else None)
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    numbers = describe_groups([group])  # rewards do not count in the accuracy
    assert numbers["accuracy"] == sum(right for right, _, _ in ACCEPTED.values() if right) / (len(ACCEPTED) - 3)


@IN_PROCESS
def test_refused_returns(in_process: bool) -> None:
    """Guards against a text that counts as right, and NaN as a reward. The error names function, problem and row."""
    own = find_answer_format("own:returns", ProblemSource(verifier_in_process=in_process, verifier_timeout_s=60))
    for name in REFUSED if in_process else ("str", "nan", "np 1-d"):
        with pytest.raises(
            UserError, match=r"^problem p0: own:returns returned .* or a rethink.types.Verdict$"
        ) as training:
            grade([make_group("true", name, verify=own.verify)])
        assert REFUSED[name] in str(training.value)
        row = Row("row 3", {"answer": "0", "response": name}, 3)
        with pytest.raises(UserError, match=r"^row 3: own:returns returned "):
            list(grade_rows([row], GradeSettings(own, "answer", "response")))


def test_right_threshold() -> None:
    """Guards against a threshold that is not used, or that changes the reward."""
    own = find_answer_format("own:returns", ProblemSource(right_threshold=0.7, verifier_in_process=True))
    (group,) = grade([make_group("0.7", "np.float32", verify=own.verify)])
    assert [(s.right, s.reward) for s in group] == [(True, 0.7), (False, 0.5)]


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


@pytest.mark.slow
def test_a_verifier_that_raises_in_the_probe_is_accepted(tmp_path: Path) -> None:
    """Guards against refusing a verifier because it cannot read a bare gold answer."""
    source = ProblemSource(str(problem_file(tmp_path, ["raises"])), verifier="own:returns")
    assert [p.gold for p in load_problems(source)] == ["raises"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "timeout_s", "reason"),
    [
        ("always_hangs", 0.5, "own:always_hangs: no verdict within 0.5 s"),
        ("dies", 60, "own:dies: its process ended"),
        ("crashes", 60, "own:crashes: its process ended"),
        ("eats", 60, "own:eats failed: MemoryError"),
    ],
)
def test_a_function_that_hangs_or_crashes_grades_nothing(function: str, timeout_s: float, reason: str) -> None:
    """Guards against a run that waits forever or ends with a user's function, and against a reward of 0."""
    verify = find_function(f"own:{function}", timeout_s=timeout_s, memory_gib=1.0)
    (group,) = grade([make_group("a", "b", verify=verify)])
    assert [(s.right, s.reward) for s in group] == [(None, None)] * 2
    assert all(reason in s.why_no_reward() for s in group)


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


@pytest.mark.slow
def test_in_process() -> None:
    """Guards against a function that asked for this process and runs elsewhere, and the reverse."""

    def pid_of(name: str, **settings: Any) -> str:
        (group,) = grade([make_group("a", verify=find_function(name, timeout_s=60, **settings))])
        assert group[0].verdict is not None
        return group[0].verdict.reason

    assert pid_of("own:pid") != str(os.getpid())
    assert pid_of("own:pid", in_process=True) == pid_of("own:stays") == str(os.getpid())


@pytest.mark.slow
def test_processes_that_a_function_starts_end_with_its_worker(tmp_path: Path) -> None:
    """Guards against processes that a killed worker leaves running."""
    verify = find_function("own:spawns", timeout_s=3)
    grade([make_group("a", verify=verify, gold=str(tmp_path / "pid"))])
    child = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 20
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_functions_may_read_and_print() -> None:
    """Guards against a function that reads the worker's requests, or whose output counts as an answer."""
    (group,) = grade([make_group("a", "b", "c", verify=find_function("own:reads_and_prints", timeout_s=60))])
    assert [s.right for s in group] == [True] * 3


def test_arguments_are_passed_by_name_else_by_position() -> None:
    """Guards against a gold answer that is passed as the reply, whatever the names of the parameters."""
    for name in ("other_names", "by_place", "only_names", "anything"):
        function = find_function(f"own:{name}", ARGUMENTS, in_process=True)
        assert function("a", "a").right is True, name
        assert function("a", "b").right is False, name


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([Reward("nowhere:f")], "rewards: nowhere:f cannot be imported: ModuleNotFoundError"),
        ([Reward("own:missing")], "rewards: own:missing cannot be imported: AttributeError"),
        ([Reward("bonus")], "rewards: a function is 'verdict' or module:function, not 'bonus'"),
        ([Reward("own:right"), Reward("own:right")], "rewards: two terms are called 'right'"),
        ([Reward("own:greedy")], "rewards: own:greedy has an unknown parameter 'tokens'"),
    ],
)
def test_build_grader_refuses(rewards: list[Reward], message: str) -> None:
    """Guards against errors in a recipe's rewards that appear only after the first batch."""
    with pytest.raises(UserError) as refused:
        build_grader(rewards)
    assert message in str(refused.value)


def test_a_module_that_exits_on_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a script whose import ends the command silently."""
    (tmp_path / "a_script.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="a_script:reward cannot be imported: SystemExit: 0"):
        find_function("a_script:reward")


REPLIES = ("0 [x]", "0 x", "1 [x]", "1 x")
"""Right and formatted, right, formatted, neither."""


def grader_for(*rewards: Reward) -> Grader:
    return build_grader([replace(reward, in_process=True) for reward in rewards])


def graded(grader: Grader) -> Group:
    (group,) = grader([make_group(*REPLIES, verify=find_function("own:right", in_process=True), n_tokens=2)])
    return group


@pytest.mark.parametrize(
    ("terms", "rewards", "means"),
    [
        ((Reward("own:formatted", 0.2),), (1.2, 1.0, 0.0, 0.0), {"verdict": 0.5, "formatted": 0.25}),
        (
            (Reward("own:formatted", 0.2, only_if_right=False),),
            (1.2, 1.0, 0.2, 0.0),
            {"verdict": 0.5, "formatted": 0.5},
        ),
        ((Reward("own:brevity", -0.5, name="length"),), (0.875, 0.875, 0.0, 0.0), {"verdict": 0.5, "length": 0.125}),
        (
            (Reward("verdict", 2.0), Reward("own:formatted", 0.5, only_if_right=False)),
            (2.5, 2.0, 0.5, 0.0),
            {"verdict": 0.5, "formatted": 0.5},
        ),
        (
            (Reward("verdict", 0.0), Reward("own:formatted", 1.0)),
            (1.0, 0.0, 0.0, 0.0),
            {"verdict": 0.5, "formatted": 0.25},
        ),
    ],
)
def test_terms_add_up(terms: tuple[Reward, ...], rewards: tuple[float, ...], means: dict[str, float]) -> None:
    """Guards against weights that are lost, and metrics whose weighted terms are not the mean reward. Numbers by hand."""
    group = graded(grader_for(*terms))
    assert [s.reward for s in group] == pytest.approx(rewards)
    assert [s.right for s in group] == [True, True, False, False]
    numbers = describe_groups([group])
    assert {n.removeprefix("reward/"): v for n, v in numbers.items() if n.startswith("reward/")} == pytest.approx(means)
    assert (numbers["reward"], numbers["accuracy"]) == pytest.approx((sum(rewards) / 4, 0.5))
    weights = {(reward.name or reward.function.split(":")[-1]): reward.weight for reward in terms}
    assert sum(weights.get(name, 1.0) * mean for name, mean in means.items()) == pytest.approx(numbers["reward"])


def test_a_format_bonus_gives_wrong_replies_no_advantage() -> None:
    """Guards against a bonus that counts like a right reply after normalization (allenai/open-instruct#659)."""
    verify = find_function("own:right", in_process=True)
    (group,) = grader_for(Reward("own:formatted", 0.2))([make_group("1 [x]", "2 x", "3 x", verify=verify)])
    assert [w for _, w in Objective("standardize").with_advantages(group)] == [0.0] * 3
    (group,) = grader_for(Reward("own:formatted", 0.2, only_if_right=False))(
        [make_group("1 [x]", "2 x", "3 x", verify=verify)]
    )
    assert [w for _, w in Objective("standardize").with_advantages(group)] == pytest.approx(
        [1.1547, -0.5774, -0.5774], abs=1e-3
    )


def test_a_term_that_fails_gives_no_reward() -> None:
    """Guards against 0 when the function fails, which would punish the reply; and against silence."""
    verify = find_function("own:right", in_process=True)
    group = make_group("0 true", "0 raises", "1 raises", verify=verify)
    (found,) = grader_for(Reward("own:returns", 0.5))([group])
    # "0 true" is not in RETURNED: KeyError. The function is not called for the wrong reply.
    assert [(s.right, s.reward) for s in found] == [(True, None), (True, None), (False, 0.0)]
    assert found[0].terms == (
        RewardTerm("verdict", 1.0),
        RewardTerm("returns", None, "own:returns failed: KeyError: '0 true'"),
    )
    numbers = describe_groups([found])
    assert (numbers["n_not_graded"], numbers["reward"]) == (2, 0.0)
    first = "first reason: returns: own:returns failed: KeyError: '0 true'"
    assert ungraded([found]) == [f"2 of 3 replies were not graded ({first})"]
    assert ungraded([found[:2]]) == [f"nothing was trained: none of the 2 replies was graded ({first})"]
    assert ungraded([found[2:]]) == []


def run_of(tmp_path: Path, *settings: str) -> list[dict[str, Any]]:
    file = problem_file(tmp_path, ["26"] * 4)
    fixed = [
        "method.name=grpo",
        "method.n_solve=4",
        "problems_per_batch=4",
        "updates=1",
        "model.path=tiny",
        "model.device=cpu",
    ]
    fixed += ["sampling.max_tokens=12", "seed=3", f"out={tmp_path / 'run'}", f"problems.source={file}"]
    return list(train(open_run(load_recipe(None, [*fixed, *settings]))))


@pytest.mark.slow
def test_a_verifier_that_hangs_does_not_stop_a_run(tmp_path: Path) -> None:
    """Guards against a run that waits for an endless loop in a user's function; it is counted and reported."""
    (record,) = run_of(tmp_path, "problems.verifier=own:hangs", "problems.verifier_timeout_s=0.7")
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < record["n_not_graded"] < 16
    assert record["n_not_graded"] == logged[0]["n_not_graded"]
    assert f"{record['n_not_graded']} of 16 replies were not graded (first reason: own:hangs: no" in record["alarms"][0]


@pytest.mark.slow
def test_an_update_that_trains_nothing_says_why(tmp_path: Path) -> None:
    """Guards against a run that ends normally though no reply was graded."""
    (record,) = run_of(tmp_path, "problems.verifier=own:returns")
    assert record["n_not_graded"] == 16
    assert math.isnan(record["reward"])
    assert record["alarms"][0].startswith(
        "nothing was trained: none of the 16 replies was graded (first reason: own:retu"
    )


@pytest.mark.slow
def test_terms_in_a_run(tmp_path: Path) -> None:
    """Guards against a recipe's rewards that do not reach the records. Every reply is right, so the bonus is 0.25."""
    given = [
        "problems.verifier=own:stays",
        "rewards.0.function=own:stays",
        "rewards.0.name=bonus",
        "rewards.0.weight=0.25",
    ]
    (record,) = run_of(tmp_path, *given)
    assert (record["reward"], record["reward/verdict"], record["reward/bonus"], record["accuracy"]) == (1.25, 1, 1, 1)
    sample = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])
    assert (sample["reward"], sample["terms"]) == (1.25, {"verdict": 1.0, "bonus": 1.0})


@pytest.mark.slow
def test_a_bad_return_during_a_run(tmp_path: Path) -> None:
    """Guards against a function that passes the probe and returns a text later."""
    with pytest.raises(UserError, match=r"problem p.jsonl/\d: own:tricky returned 'no' \(str\)"):
        run_of(tmp_path, "problems.verifier=own:tricky")


@pytest.mark.slow
def test_example_of_the_docs(tmp_path: Path) -> None:
    """Guards against docs that do not run, and workers that do not find a module in the current folder."""
    text = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    (code,), (table,) = re.findall(r"```python\n(.*?)```", text, re.S), re.findall(r"```toml\n(.*?)```", text, re.S)
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
