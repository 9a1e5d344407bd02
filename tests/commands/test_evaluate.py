"""`rethink eval`: what it prints and writes, how it resumes, and what it refuses."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from rethink.commands.evaluate import resolve
from rethink.errors import UserError
from rethink.evaluation.answers import read_answers
from rethink.problems.source import load_problems
from rethink.problems.suites import GROUPS
from rethink.recipe import load_recipe, to_toml
from rethink.run_folder import RunFolder
from rethink.settings import ProblemSource
from rethink.training import problem_hash
from rethink.types import Sampling
from support.command_line import PLAIN, Rethink, assert_one_message, command_line
from support.processes import exit_code, kill_while_appending, start, wait_for
from support.random_models import save_random_model

WARM = ["evaluation.sampling={temperature = 1.0, max_tokens = 24}"]
EVAL = ["eval", "tiny", "--on", "countdown", *PLAIN, *WARM, "evaluation.problems.limit=11", "evaluation.n=3"]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def test_numbers_follow_from_the_answers(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against numbers that do not follow from the answers: they are all computed again from answers.jsonl."""
    shown = rethink(*EVAL, "--out", "e")
    assert shown.code == 0
    records = [json.loads(line) for line in (tmp_path / "e" / "answers.jsonl").read_text().splitlines()]
    assert len(records) == 33
    before = [r["steps"][0]["verdict"] == "right" for r in records]
    after = [r["steps"][1]["verdict"] == "right" for r in records]
    found = summary(tmp_path / "e")
    numbers = found["suites"]["countdown"]["strategies"]["refine"]
    assert (found["mean"], found["model"]) == (None, "tiny")
    assert numbers["solve"]["accuracy"]["value"] == pytest.approx(sum(before) / 33)
    assert numbers["refined"]["accuracy"]["value"] == pytest.approx(sum(after) / 33)
    assert numbers["gain"]["value"] == pytest.approx((sum(after) - sum(before)) / 33)
    wrong, right = before.count(False), before.count(True)
    assert wrong > 3
    assert right > 3
    assert numbers["fix"]["value"] == pytest.approx(sum(b > a for a, b in zip(before, after, strict=True)) / wrong)
    assert numbers["damage"]["value"] == pytest.approx(sum(a > b for a, b in zip(before, after, strict=True)) / right)
    # pass@2 of 0, 1, 2 and 3 right among 3: 1 - C(wrong, 2) / C(3, 2)
    two_of_three = [1 - [1, 1 / 3, 0, 0][sum(before[i : i + 3])] for i in range(0, 33, 3)]
    assert numbers["solve"]["pass_at_k"]["2"]["value"] == pytest.approx(sum(two_of_three) / 11)
    lengths = [r["steps"][0]["n_tokens"] for r in records]
    assert numbers["solve"]["tokens"]["value"] == pytest.approx(sum(lengths) / 33)
    assert f"{100 * sum(before) / 33:.1f} [" in shown.out
    assert found["graded_by"]["extraction"] == "strict"
    hints = ["answers: e/answers.jsonl", "numbers: e/summary.json", "to read the answers: rethink view e"]
    assert shown.err.splitlines()[-3:] == hints


def test_lenient_extraction_is_asked_for_and_counted(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against lenient verdicts by default, and against a --lenient that changes nothing."""
    (tmp_path / "d.jsonl").write_text('{"question": "1 1", "answer": "2", "response": "The answer is 2."}\n')
    settings = ["eval", "tiny", "--drafts", "d.jsonl", "--strategy", "solve", *PLAIN]
    assert rethink(*settings, "--out", "strict").code == 0
    assert summary(tmp_path / "strict")["suites"]["d.jsonl"]["strategies"]["solve"]["accuracy"]["value"] == 0
    shown = rethink(*settings, "--out", "lenient", "--lenient")
    found = summary(tmp_path / "lenient")
    numbers = found["suites"]["d.jsonl"]["strategies"]["solve"]
    assert (numbers["accuracy"]["value"], numbers["n_lenient"]) == (1, 1)
    assert found["graded_by"]["extraction"] == "lenient"
    assert "right only if lenient" in shown.out


def test_the_protocol_of_the_paper() -> None:
    """Guards against a preset that drifts from the released evaluation code of arXiv 2604.01591."""
    found = resolve("m", [], [], "thinktwice-protocol")
    plan = found.evaluation
    assert (plan.strategy, plan.n, plan.n_refine, found.seed, plan.k) == ("refine", 64, 1, 42, (1, 2, 4, 8, 16, 32))
    assert plan.sampling == Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=3000)
    assert plan.refine_sampling is not None
    assert (plan.refine_sampling.temperature, plan.refine_sampling.max_tokens) == (0.0, 3000)
    assert plan.problems is not None
    assert plan.problems.source == "math5"
    assert GROUPS["math5"] == ("aime", "amc", "math500", "minerva", "olympiad")
    cross = resolve("m", [], [], "thinktwice-cross").evaluation
    assert (cross.n, cross.n_refine, cross.sampling) == (1, 4, Sampling(temperature=0.0, max_tokens=3000))
    assert cross.refine_sampling == Sampling(temperature=0.7, top_p=0.9, max_tokens=3000)


def test_the_protocol_end_to_end_but_small(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a preset that parses and does not run: five sets of 2, 5 drafts, one greedy refinement each."""
    for name in GROUPS["math5"]:
        (tmp_path / "data" / name).mkdir(parents=True)
        rows = (f'{{"question": "{name} {i} 3 7", "answer": "{i + 10}"}}\n' for i in range(2))
        (tmp_path / "data" / name / "test.jsonl").write_text("".join(rows))
    small = [*PLAIN, "evaluation.n=5", "evaluation.k=[1,4]"]
    small += ["evaluation.sampling.max_tokens=5", "evaluation.refine_sampling.max_tokens=7"]
    given = ["eval", "tiny", "--recipe", "thinktwice-protocol", "--data", "data", *small]
    shown = rethink(*given, "--out", "e")
    assert shown.code == 0
    assert shown.err.count("warning") == 0
    found = summary(tmp_path / "e")
    assert list(found["suites"]) == [*GROUPS["math5"]]
    assert found["seed"] == 42
    answers = read_answers(tmp_path / "e" / "answers.jsonl")
    assert len(answers) == 5 * 2 * 5
    assert {len(a.finals) for a in answers} == {1}
    assert len({a.firsts[0].text for a in answers[:5]}) > 1
    greedy = {a.firsts[0].text: a.final_steps[0].text for a in answers[:5]}
    assert all(greedy[a.firsts[0].text] == a.final_steps[0].text for a in answers[:5])
    assert load_recipe(tmp_path / "e" / "config.toml").evaluation.sampling == Sampling(0.7, 5, 0.8, 20)


def die_in_batch(n: int, n_bytes: int, *arguments: object) -> None:
    """The real command, killed while its batch n is written."""
    kill_while_appending(n, n_bytes)
    command_line(*arguments)


SMALL = [*EVAL, "evaluation.batch_size=6"]
WITHOUT_N = [word for word in SMALL if not str(word).startswith("evaluation.n=")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "e"
    assert exit_code(start(command_line, *SMALL, "--out", folder, output=folder.parent / "output")) == 0
    return folder


def assert_same(ours: Path, theirs: Path) -> None:
    """The same answers, byte by byte, and the same numbers but for the seconds."""
    assert (ours / "answers.jsonl").read_bytes() == (theirs / "answers.jsonl").read_bytes()
    assert {**summary(ours), "seconds": 0} == {**summary(theirs), "seconds": 0}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_bytes"), [(0, 0), (2, 700)])
def test_resume_after_a_kill_gives_the_same_files(
    rethink: Rethink, tmp_path: Path, uninterrupted: Path, n: int, n_bytes: int
) -> None:
    """Guards against answers that a crash loses or changes: SIGKILL before and within a write."""
    out = tmp_path / "e"
    assert exit_code(start(die_in_batch, n, n_bytes, *SMALL, "--out", out)) == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    assert rethink(*SMALL, "--out", out, "--resume").code == 0
    assert_same(out, uninterrupted)


@pytest.mark.slow
def test_resume_after_a_kill_at_any_time(rethink: Rethink, tmp_path: Path, uninterrupted: Path) -> None:
    """Guards against a bad moment to be killed that the other test does not know."""
    file = tmp_path / "e" / "answers.jsonl"
    process = start(command_line, *SMALL, "--out", tmp_path / "e")
    wait_for(lambda: file.is_file() and file.stat().st_size > 0)
    process.kill()
    assert exit_code(process) in (-signal.SIGKILL, 0)
    assert rethink(*SMALL, "--out", tmp_path / "e", "--resume").code == 0
    assert_same(tmp_path / "e", uninterrupted)


@pytest.mark.slow
def test_resuming_a_finished_evaluation_changes_nothing(rethink: Rethink, tmp_path: Path, uninterrupted: Path) -> None:
    """Guards against a second evaluation on top of the first; tables are printed again."""
    first = (uninterrupted.parent / "output").read_text()
    again = rethink(*SMALL, "--out", uninterrupted, "--resume")
    assert again.code == 0
    assert again.out.strip() in first
    assert "11 of 11" in again.err
    assert len(read_answers(uninterrupted / "answers.jsonl")) == 33


def everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_nothing_is_overwritten_or_mixed(rethink: Rethink, tmp_path: Path, uninterrupted: Path) -> None:
    """Guards against a folder that loses its answers; each refusal names its remedy, before a model is loaded."""
    before = everything(uninterrupted)
    again = rethink("eval", "no-such-model", "--on", "countdown", "--out", uninterrupted)
    assert_one_message(again, "--resume", "choose another folder")
    changed = rethink(*SMALL, "--out", uninterrupted, "--resume", "seed=5", "evaluation.n=4")
    assert_one_message(changed, "evaluation.n was 3, now 4; seed was 0, now 5")
    fewer = [*WITHOUT_N, "evaluation.problems.limit=2", "--out", "one"]
    assert rethink(*fewer).code == 0
    drafts = rethink(*fewer, "--resume", "--drafts", "one")
    assert (drafts.code, drafts.out) == (2, ""), drafts
    assert "given drafts was []" in drafts.err
    assert "to resume" not in drafts.err
    assert_one_message(rethink(*SMALL, "--out", tmp_path / "no", "--resume"), "holds no run to resume")
    assert_one_message(rethink(*SMALL, "--resume"), "--resume needs the folder of the evaluation: --out DIR")
    assert everything(uninterrupted) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "answers.jsonl").write_text("precious\n")
    unreadable = rethink(*WITHOUT_N, "--out", "new", "--drafts", "mine")
    assert_one_message(unreadable, "mine holds no answers that this version can read")
    assert_one_message(rethink(*SMALL, "--out", "mine"), "mine holds answers.jsonl, but no config.toml")
    assert everything(tmp_path / "mine") == {tmp_path / "mine" / "answers.jsonl": b"precious\n"}
    (tmp_path / "mine" / "answers.jsonl").rename(tmp_path / "mine" / "problems.json")
    assert_one_message(rethink(*SMALL, "--out", "mine"), "mine holds problems.json, but no config.toml")
    assert everything(tmp_path / "mine") == {tmp_path / "mine" / "problems.json": b"precious\n"}


def test_a_refused_resume_loads_no_model(rethink: Rethink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against minutes of loading before a message about settings, problems or answers; `cross` resumes as well."""

    def load(*_: object) -> None:
        raise UserError("loaded")

    monkeypatch.setattr("rethink.build.open_model", load)
    (tmp_path / "p.jsonl").write_text('{"question": "1 1", "answer": "2"}\n')
    words = [*PLAIN, "evaluation.strategy=solve"]
    recipe = resolve("tiny", ["p.jsonl"], words, "")
    problems = load_problems(ProblemSource("p.jsonl"), recipe.seed, "test")
    for out in ("e", "c/tiny-solves"):
        folder = RunFolder(tmp_path / out)
        folder.create(to_toml(recipe))
        problem_hash.write(folder, {"evaluation": problems})
    cross = ["cross", "tiny", "tiny-signs", *PLAIN, "--on", "p.jsonl", "--out", "c"]
    evaluate = ["eval", "tiny", *words, "--on", "p.jsonl", "--out"]
    for same in ([*evaluate, "e", "--resume"], cross):
        assert "rethink: loaded" in rethink(*same).err
    for other in ([*evaluate, "e", "--resume", "seed=5"], [*cross, "seed=5"]):
        assert "was started with other settings: seed was 0, now 5" in rethink(*other).err
    assert "holds no run to resume" in rethink(*evaluate, "no", "--resume").err
    finished = {"answers": {"lines": 0, "sha256": ""}}
    (tmp_path / "e" / "summary.json").write_text(json.dumps(finished))
    (tmp_path / "e" / "answers.jsonl").touch()
    assert "has changed since its evaluation ended" in rethink(*evaluate, "e", "--resume").err
    (tmp_path / "p.jsonl").write_text('{"question": "1 2", "answer": "3"}\n')
    assert "problems have changed since e was started" in rethink(*evaluate, "e", "--resume").err


def test_eval_of_names_with_special_letters(rethink: Rethink, tmp_path: Path) -> None:
    """Regression: brackets in a path were taken for markup. Without --out each evaluation gets a new folder."""
    odd = save_random_model(tmp_path / 'm [bold] 😀 "q"', "gpt2")
    file = tmp_path / "p [b] 😀.jsonl"
    file.write_text('{"question": "1 2 3", "answer": "6"}\n')
    for _ in range(2):
        found = rethink("eval", odd.name, "--on", file.name, *PLAIN, "evaluation.sampling.max_tokens=3")
        assert found.code == 0
        assert 'm [bold] 😀 "q"' in found.out
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"eval", "eval-2"}
