"""`rethink prepare`: the data that a method trains on, also after the command was killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from rethink.commands import prepare as command
from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.gsr import GSR
from rethink.problems.source import load_problems
from rethink.recipe import load_recipe
from rethink.training import loop
from rethink.training import run as runs
from rethink.types import Problem
from support.coins import coin
from support.processes import exit_code, start

TEXTS = ["prompts.solve={question}", "prompts.refine=again", "prompts.reflect=again ?", "prompts.retry=again"]
MERGE = ["prompts.merge={question} {candidates} again", "prompts.candidate=? {candidate}", 'prompts.between=" "']


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [{"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26"} for n in range(11)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *(f"model.path={model_folders['qwen3']}", "model.device=cpu", "problems_per_batch=2", "sampling.max_tokens=5"),
        *("problems.id=key", "problems.verifier=support.coins:coin", f"problems.source={file}", "seed=3"),
        *(*TEXTS, *MERGE),
    ]


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    (tmp_path / "recipe.toml").write_text("")
    return str(tmp_path / "recipe.toml")


def prepare(file: str, settings: list[str], out: Path) -> list[dict[str, Any]]:
    command.prepare(file, settings, out)
    rows: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return rows


# The model in the package ends its replies: after 24 tokens to a bare problem, most often, and after 6 to candidates.
GSR_K3 = ["method.name=gsr", "method.k=3", "model.path=tiny", "sampling.max_tokens=24"]
FAILURES = ["method.name=reflect_retry_reward", "method.n_tries=4", "method.max_failures=2"]


def test_an_error_says_where_the_finished_batches_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a user who does not know that the batches before a teacher's failure are kept."""
    partial = tmp_path / "a.parquet.partial"
    for exists in (False, True):
        with pytest.raises(UserError, match="gone"), command._hint_on_stop(partial):
            raise UserError("the teacher is gone")
        assert ("the finished batches are in" in capsys.readouterr().err) == exists
        partial.touch()


@pytest.mark.slow
def test_gsr_data_and_its_card(recipe_file: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against a card that says other numbers than the table holds."""
    rows = prepare(recipe_file, [*settings, *GSR_K3], tmp_path / "sets" / "gsr.parquet")
    assert 5 < len(rows) <= 11
    for row in rows:
        assert row["n_right"] == sum(bool(coin(c, "").right) for c in row["candidates"])
        assert len(row["candidates"]) == 3
        assert all(coin(row[name], "").right for name in ("direct", "refined") if row[name] is not None)
    card = (tmp_path / "sets" / "gsr.md").read_text()
    kept = {name: sum(row[name] is not None for row in rows) for name in ("direct", "refined")}
    assert f"{len(rows)} rows. {kept['direct']} of them have `direct`. {kept['refined']} of them have" in card
    assert "teacher the start weights" in card
    counts = [sum(row["n_right"] == k and row["refined"] is not None for row in rows) for k in range(4)]
    assert ", ".join(f"{k}: {n}" for k, n in enumerate(counts) if n) in card
    assert "Left out" not in card


@pytest.mark.slow
def test_replies_that_were_cut_are_counted(recipe_file: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against targets lost in silence: a cap one token short cuts nearly all direct answers."""
    given = [*settings, *GSR_K3, "method.gold_filter=false"]
    whole = prepare(recipe_file, given, tmp_path / "whole.parquet")
    rows = prepare(recipe_file, [*given, "sampling.max_tokens=23"], tmp_path / "cut.parquet")
    assert all(row["direct"] is not None and row["refined"] is not None for row in whole)
    missing = sum(row[name] is None for row in rows for name in ("direct", "refined")) + 2 * (len(whole) - len(rows))
    assert missing > 8
    card = (tmp_path / "cut.md").read_text()
    assert f"Left out: {missing} of the teacher's replies, cut at sampling.max_tokens." in card
    with pytest.raises(UserError, match=r"nothing to write\. Left out: 22 of the teacher's replies, cut"):
        prepare(recipe_file, [*given, "sampling.max_tokens=2"], tmp_path / "none.parquet")


@pytest.mark.slow
def test_what_was_prepared_can_be_trained_on(recipe_file: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against columns that the source cannot read back, and targets of other prompts."""
    rows = prepare(recipe_file, [*settings, *GSR_K3], tmp_path / "gsr.parquet")
    columns = ["question=question", "answer=gold", "id=problem", "reply=direct", "merged=refined"]
    given = [*settings, *GSR_K3, f"problems.source={tmp_path / 'gsr.parquet'}"]
    given += [*(f"problems.{column}" for column in columns), "problems.candidates=candidates"]
    recipe = load_recipe(None, [*given, f"out={tmp_path / 'run'}", "updates=3"])
    for row, problem in zip(rows, load_problems(recipe.problems, 3), strict=True):
        shown = problem.demonstrate(7) if problem.demonstrate else ()
        found = {d.phase: (d.reply, d.shown) for d in shown}
        wanted = {"solve": (row["direct"], ()), "merge": (row["refined"], tuple(row["candidates"]))}
        assert found == {phase: w for phase, w in wanted.items() if w[0] is not None}
        assert (problem.id, problem.question, problem.gold) == (row["problem"], row["question"], row["gold"])
    records = list(loop.train(runs.open_run(recipe)))
    assert [r["phase"] for r in records] == ["imitate"] * 3


@pytest.mark.slow
def test_failures_are_prepared_and_used(recipe_file: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against failures that are sampled again, or used for another problem."""
    rows = prepare(recipe_file, [*settings, *FAILURES], tmp_path / "failures.parquet")
    assert len({row["id"] for row in rows}) == len(rows) > 11
    assert not any(coin(row["failure"], "").right for row in rows)
    columns = [f"problems.{c}" for c in ("question=question", "answer=gold", "id=id", "failure=failure")]
    given = [*settings, *FAILURES, f"problems.source={tmp_path / 'failures.parquet'}", *columns, "method.n_reflect=3"]
    run = runs.open_run(load_recipe(None, [*given, f"out={tmp_path / 'run'}", "updates=2"]))
    assert [(p.id, p.failure) for p in run.problems] == [(row["id"], row["failure"]) for row in rows]
    assert [r["phase"] for r in loop.train(run)] == ["reflect"] * 2
    failed = {row["failure"] for row in rows}
    logged = [json.loads(line) for line in run.folder.samples.read_text().splitlines()]
    assert logged
    assert {line["prompt"][1][1] for line in logged} <= failed
    assert f"{len(rows)} rows.\n" in (tmp_path / "failures.md").read_text()


# Killed


def die_in_batch(file: str, settings: list[str], out: Path, n: int) -> None:
    """SIGKILL in the middle of the n-th call of the method, from 1."""
    made = GSR.prepare
    calls: list[int] = []

    def counted(self: GSR, *args: Any) -> Any:
        calls.append(1)
        rows = made(self, *args)
        if len(calls) == n:
            next(rows, None)
            os.kill(os.getpid(), signal.SIGKILL)
        return rows

    GSR.prepare = counted  # type: ignore[method-assign,assignment]
    command.prepare(file, settings, out)


@pytest.mark.slow
def test_resume_after_a_kill_gives_the_same_bytes(
    recipe_file: str, settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against batches that are lost, repeated or sampled again, a partial line, and a table of two recipes."""
    given = [*settings, *GSR_K3]
    prepare(recipe_file, given, tmp_path / "whole.parquet")
    out, partial = tmp_path / "killed.parquet", tmp_path / "killed.parquet.partial"
    assert exit_code(start(die_in_batch, recipe_file, given, out, 4)) == -signal.SIGKILL
    assert not out.exists()
    before = partial.read_bytes()
    with pytest.raises(UserError, match=r"killed\.parquet\.partial was written for something else: settings was"):
        prepare(recipe_file, [*given, "seed=4"], out)
    assert partial.read_bytes() == before
    with partial.open("a") as torn:
        torn.write('{"done": 11, "rows": [{"pro')
    seen: list[int] = []
    made = GSR.prepare

    def counted(self: GSR, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        seen.append(len(problems))
        return made(self, actors, problems)

    monkeypatch.setattr(GSR, "prepare", counted)
    prepare(recipe_file, given, out)
    assert sum(seen) == 11 - 2 * 3, "only what was not done yet"
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    ours, whole = ((tmp_path / f"{name}.md").read_text().partition("\n")[2] for name in ("killed", "whole"))
    assert ours == whole
    assert not partial.exists()
    # Killed at the very end, or repeated.
    partial.write_bytes(before)
    prepare(recipe_file, given, out)
    prepare(recipe_file, given, out)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not partial.exists()
    assert sum(seen) == 11 - 2 * 3
    with pytest.raises(UserError, match=r"--out must be a new \.parquet file"):
        prepare(recipe_file, [*given, "seed=4"], out)


@pytest.mark.slow
def test_other_problems_are_not_mixed_in(recipe_file: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against a resumed table of the problems of two files of one name."""
    file = tmp_path / "problems.jsonl"
    rows = [json.dumps({"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26"}) + "\n" for n in range(5)]
    file.write_text("".join(rows))
    given, out = [*settings, *GSR_K3, f"problems.source={file}"], tmp_path / "killed.parquet"
    assert exit_code(start(die_in_batch, recipe_file, given, out, 2)) == -signal.SIGKILL
    file.write_text("".join(reversed(rows)))
    with pytest.raises(UserError, match=r"partial was written for something else: problems was"):
        prepare(recipe_file, given, out)


@pytest.mark.slow
def test_a_recipe_of_the_same_name_survives(settings: list[str], tmp_path: Path) -> None:
    """A recipe gsr.toml next to --out gsr.parquet was once overwritten, then deleted."""
    file = tmp_path / "gsr.toml"
    file.write_text('[method]\nname = "gsr"\nk = 3\n')
    prepare(str(file), [*settings, *GSR_K3[2:]], tmp_path / "gsr.parquet")
    assert file.read_text() == '[method]\nname = "gsr"\nk = 3\n'


def test_what_cannot_be_prepared(recipe_file: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against tables that are overwritten, methods that need none, and an empty file."""
    for name in ("is.parquet", "card.md"):
        (tmp_path / name).write_text("mine")
    for name in ("is.parquet", "card.parquet", "no.csv"):
        with pytest.raises(UserError, match=r"--out must be a new \.parquet file"):
            prepare(recipe_file, [*settings, *GSR_K3], tmp_path / name)
    assert (tmp_path / "is.parquet").read_text() == (tmp_path / "card.md").read_text() == "mine"
    with pytest.raises(UserError, match="out=x has no effect here: write --out=x"):
        command.prepare("demo-grpo", ["out=x"], Path("x.parquet"))
    with pytest.raises(UserError, match="the method grpo does not need prepared data"):
        prepare(recipe_file, [*settings, "method.name=grpo"], tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no problem gave a row"):
        prepare(recipe_file, [*settings, *GSR_K3, "problems.verifier=support.coins:tails"], tmp_path / "none.parquet")
