"""Every recipe of real size runs for two updates, on a random model of its architecture with its chat template.

Replaced are the model's folder, where the data are, sizes and precisions. A coin decides verdicts, so a random model is
right half of the time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from rethink.commands import prepare as prepare_command
from rethink.models.load import load_model
from rethink.objectives import Clip, Imitate
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.problems import calls, equation, source
from rethink.problems.mathematics import SOLVE_BOXED
from rethink.problems.suites import find_suite
from rethink.prompts import MERGE, REFINE_REVIEW, REFLECT
from rethink.recipe import load_recipe
from rethink.training.run import Run
from rethink.types import Group, Prompt, Sample, Sampling
from support.coins import coin
from support.families import FAMILIES
from support.processes import light
from support.recipe_runs import SIZES, Ran, check_run, run_recipe
from support.samples import exact, reference_log_probs
from support.shipped_recipes import FAMILY, MATH_RECIPES, RRR_RECIPES

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

NOTE = "<opinion>incorrect</opinion><reason>Wait.</reason><phrase>So it is \\boxed{4}</phrase>"


def write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all suites that the recipes name, with the columns that they have on the hub."""
    folder = tmp_path_factory.mktemp("data")
    sums = [(n, n + 2) for n in range(2, 13)]
    for number, suite in enumerate(("math500", "aime24", "aime25", "amc", "olympiad")):
        tests = [{"problem": f"What is {100 * number} + {a}?", "answer": str(100 * number + a)} for a, _ in sums]
        write(folder / suite / "test.jsonl", tests)
    write(folder / "math/train.jsonl", [{"problem": f"{a} + {b}?", "solution": f"\\boxed{{{a + b}}}"} for a, b in sums])
    for split, factor in (("train", 3), ("test", 5)):
        rows = [{"question": f"{factor} * {a}?", "answer": f"so #### {factor * a}"} for a, _ in sums]
        write(folder / f"gsm8k/{split}.jsonl", rows)
    write(folder / "countdown/train.jsonl", [{"nums": [n, n + 2, 60 + n], "target": 60} for n in range(40)])
    write(folder / "xlam/train.jsonl", map(xlam_row, range(40)))
    write(folder / "open.jsonl", [{"problem": f"{a} - {b}?", "expected_answer": str(a - b)} for a, b in sums])
    return folder


def xlam_row(n: int) -> dict[str, Any]:
    tool = {"name": f"f{n}", "description": "d", "parameters": {"x": {"type": "int"}}}
    answers = [{"name": f"f{n}", "arguments": {"x": n}}]
    return {"id": n, "query": f"Call it with {n}.", "answers": json.dumps(answers), "tools": json.dumps([tool])}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: family.save(tmp_path_factory.mktemp(name)) for name, family in FAMILIES.items()}


@pytest.fixture(autouse=True)
def _coins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("boxed", "equation", "calls"):
        monkeypatch.setitem(source.ANSWER_FORMATS, name, dataclasses.replace(source.ANSWER_FORMATS[name], verify=coin))


def folders(recipe: str, models: dict[str, Path], data: Path, out: Path) -> list[str]:
    """Return the settings for the folders of model, data and run."""
    named = load_recipe(recipe).problems.source
    own = [f"problems.data={data}"] if find_suite(named) else []
    return [f"model.path={models[FAMILY[recipe]]}", f"out={out}", f"evaluation.problems.data={data}", *own]


def check_against_transformers(ran: Ran, folder: Path) -> None:
    """Check log-probs against transformers in float64: sampler and trainer may be wrong in the same way."""
    module = exact(load_model(str(folder)))
    some = [s for s in ran.updates[0].groups[0] if s.ids and not any(s.forced)][:2]
    for s in some:
        with torch.no_grad():
            wanted = reference_log_probs(module, s)
        torch.testing.assert_close(torch.tensor(s.log_probs, dtype=torch.float64), wanted, rtol=0, atol=2e-4)
    assert some


def text_of(ran: Ran, sample: Sample) -> str:
    return str(ran.run.trainer.model.chat.tokenizer.decode(list(sample.prompt_ids)))


def chatml(*turns: str, system: str = "") -> str:
    """Return alternating turns of user and assistant, and the start of the assistant's next turn."""
    roles = ("user", "assistant") * len(turns)
    said = "".join(f"<|im_start|>{role}\n{turn}<|im_end|>\n" for role, turn in zip(roles, turns, strict=False))
    first = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{first}{said}<|im_start|>assistant\n"


def qwen2(*turns: str) -> str:
    return chatml(*turns, system="You are the assistant of these tests.")


def llama(*turns: str) -> str:
    roles = ("user", "assistant") * len(turns)
    said = "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{turn.strip()}<|eot_id|>"
        for role, turn in zip(roles, turns, strict=False)
    )
    return (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        f"Today Date: 26 Jul 2024\n\n<|eot_id|>{said}<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


# Family, settings of the chat, and the function that writes its conversations.


def boxed(question: str) -> str:
    return SOLVE_BOXED.replace("{question}", question)


def refining(draft: str) -> list[str]:
    """Return the second and third turn. Thinking (models may write the marks) moves from the draft to the instruction."""
    if "<think>" not in draft and "</think>" not in draft:
        return [draft, REFINE_REVIEW]
    thought, _, answer = draft.partition("</think>")
    thought, answer = thought.replace("<think>", "").strip(), answer.strip()
    earlier = f"Your earlier reasoning was:\n\n{thought}\n\nYour earlier answer was:\n\n{answer}\n\n"
    return [answer, earlier + REFINE_REVIEW]


@pytest.mark.parametrize("recipe", MATH_RECIPES)
def test_think_twice_and_its_controls(recipe: str, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Guards against prompts with a system message, two end tokens or another draft, and a control that is none."""
    some = ["method.max_groups=2"] if "dapo" in recipe else []
    ran = run_recipe(recipe, *folders(recipe, models, data, tmp_path / "run"), "sampling.max_tokens=61", *some)
    check_run(ran)
    check_against_transformers(ran, models[FAMILY[recipe]])
    stops = {s.ids[-1] for s in ran.samples if s.stop == "stop"}
    assert len(stops) > 1, "only one of the family's stop ids was sampled"
    for sample in ran.samples:
        asked, draft = boxed(sample.problem.question), sample.prompt.draft
        turns = [asked] if draft is None else [asked, *refining(draft.text)]
        assert sample.prompt_ids == tuple(ran.run.trainer.model.chat.tokenizer.encode(chatml(*turns)))
    drafts = [s.prompt.draft.text for s in ran.samples if s.prompt.draft is not None]
    assert {"think>" in draft for draft in drafts} <= ({True, False} if "qwen3" in recipe else {False})
    phases = {"thinktwice": ["solve", "refine"]}.get(recipe.partition("-")[0], ["solve", "solve"])
    assert [u.name for u in ran.updates] == phases
    check_objective(recipe, ran)


def check_objective(recipe: str, ran: Ran) -> None:
    """Check the loss of the recipe's arm, and which samples it trains."""
    arm = recipe.partition("-")[0]
    part, groups = ran.part(), ran.updates[0].groups
    assert (part.loss_aggregation, part.constant_length) == (("constant", 3000) if arm == "drgrpo" else ("token", 1))
    symmetric = arm in ("grpo", "drgrpo")
    assert part.surrogate == Clip(0.2, 0.2 if symmetric else 0.28, 3)
    assert (part.kl_coef, ran.updates[0].n_steps) == (0, 8 if symmetric else 4)
    if arm == "dapo":
        unequal = [group for group in groups if len({s.reward for s in group}) > 1]
        assert len(unequal) > 2, "max_groups is not reached"
        groups = tuple(unequal[:2])
    found = [(s.prompt.group, s.index) for s in part.samples]
    assert found == [(s.prompt.group, s.index) for group in groups for s in group]


def test_think_tuning(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Guards against a date that changes daily, feedback after an end token or untrained, and turns that are not closed."""
    recipe = "thinktuning-llama3.2-3b"
    asked: list[Prompt] = []

    class Teacher(PolicyWrapper):
        """The recipe's teacher with other replies, because a random model does not write tags."""

        def __init__(self, run: Run) -> None:
            super().__init__(run.role("teacher"))

        def groups(
            self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
        ) -> Iterator[tuple[int, Group]]:
            asked.extend(prompts)
            assert all(len(group) == 1 for group in self.policy.sample(prompts[:1], n, Sampling(max_tokens=2)))
            return FakePolicy(lambda prompt, index, version: NOTE).groups(prompts, n, sampling)

    settings = folders(recipe, models, data, tmp_path / "run")
    ran = run_recipe(recipe, *settings, "method.n_solve=5", "sampling.max_tokens=211", teacher=Teacher)
    check_run(ran)
    check_against_transformers(ran, models["llama3"])
    assert len({s.ids[-1] for s in ran.samples if s.stop == "stop"}) == 3
    chat = ran.run.trainer.model.chat
    for sample in ran.samples:
        assert text_of(ran, sample) == llama(boxed(sample.problem.question))
    spliced = [s for s in ran.samples if any(s.forced)]
    comment = tuple(chat.tokenizer.encode("\n\nWait.\n\nSo it is \\boxed{4}<|eot_id|>", add_special_tokens=False))
    assert spliced
    for sample in spliced:
        assert sample.ids[-len(comment) :] == comment
        assert sample.forced == (False,) * (len(sample.ids) - len(comment)) + (True,) * len(comment)
        assert all(sample.mask)
        assert not chat.stop_ids & set(sample.ids[:-1])
    system, *turns = asked[0].messages
    assert (system.role, len(turns)) == ("system", 9)
    rendered = chat.tokenizer.decode(list(chat.encode(asked[0].messages)))
    assert f"Today Date: 26 Jul 2024\n\n{system.content}<|eot_id|><|start_header_id|>user" in rendered
    assert rendered.count("<|eot_id|>") == 10


@pytest.mark.parametrize("recipe", RRR_RECIPES)
def test_reflect_retry_reward(recipe: str, models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Guards against a failure that `rethink prepare` changes in the file, and turns in another order."""
    shown, family = RRR_RECIPES[recipe]
    failures = tmp_path / "failures.parquet"
    common = [f"model.path={models[family]}", f"problems.data={data}", *SIZES[:1], *SIZES[-3:]]
    few = ["problems_per_batch=5", "problems.limit=11", "method.n_tries=3", "sampling.max_tokens=13"]
    few.append("problems.held_out=0.4")
    prepare_command.prepare(shown, [*common, *few], failures)
    rows = parquet.read_table(failures).to_pylist()
    assert 4 <= len(rows) <= 11
    settings = folders(recipe, models, data, tmp_path / "run")
    retrying = ["sampling.max_tokens=31", "method.n_reflect=5", "evaluation.problems.held_out=0.4"]
    ran = run_recipe(recipe, *settings, f"problems.source={failures}", *retrying)
    check_run(ran)
    check_against_transformers(ran, models[family])
    assert ran.part().kl_coef == 0.001
    assert ran.numbers[0]["lr"] == pytest.approx(5e-7 / 53)
    solve = calls.SOLVE if "calls" in recipe else equation.SOLVE
    known = {row["id"]: row for row in rows}
    for sample in ran.samples:
        row = known[sample.problem.id]
        assert sample.problem.question == row["question"]
        asked = solve.replace("{question}", row["question"])
        assert text_of(ran, sample) == qwen2(asked, row["failure"], REFLECT)


def test_generative_self_refinement(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Guards against targets that `rethink prepare` changes in the file, and prompts that differ from the teacher's."""
    prepared = tmp_path / "pairs.parquet"
    few = ["problems_per_batch=6", "method.k=2", "sampling.max_tokens=101", f"problems.source={data / 'open.jsonl'}"]
    own = [f"model.path={models['qwen2-7b']}", "model.dtype=float32"]
    teacher = [f"teacher.path={models['qwen3']}", "teacher.endpoint.url=", "teacher.device=cpu"]
    prepare_command.prepare("gsr-qwen2.5-7b-data", [*own, *teacher, SIZES[0], *SIZES[-3:], *few], prepared)
    rows = {row["problem"]: row for row in parquet.read_table(prepared).to_pylist()}
    settings = folders("gsr-qwen2.5-7b", models, data, tmp_path / "run")
    ran = run_recipe("gsr-qwen2.5-7b", *settings, f"problems.source={prepared}", "evaluation.n=1")
    check_run(ran)
    assert ran.numbers[0]["lr"] == pytest.approx(1e-5 / 173)
    chat = ran.run.trainer.model.chat
    phases = set()
    for sample in (s for update in ran.updates for part in update.parts for s in part.samples):
        row, phase = rows[sample.problem.id], sample.prompt.phase
        target = row["direct"] if phase == "solve" else row["refined"]
        assert sample.ids == (*chat.tokenizer.encode(target, add_special_tokens=False), chat.end_id)
        assert all(sample.mask)
        assert text_of(ran, sample) == qwen2(boxed(row["question"]) if phase == "solve" else merging(row))
        phases.add(phase)
    assert phases == {"solve", "merge"}
    assert all(isinstance(p, Imitate) and p.coefficient == 0.5 for update in ran.updates for p in update.parts)


def merging(row: dict[str, Any]) -> str:
    first, second = (candidate.strip() for candidate in row["candidates"])
    listed = f"Candidate 1:\n{first}\n\nCandidate 2:\n{second}"
    before, after = MERGE.split("{candidates}")
    return f"{before.replace('{question}', row['question'])}{listed}{after}"
