"""`rethink answer`: a question, or a file of them, answered by a strategy, and what the further looks changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rethink import recipes
from rethink.commands.console import progress, quoted, say, warn, write
from rethink.commands.evaluate import open_policy
from rethink.commands.strategies import open_setup
from rethink.errors import UserError
from rethink.evaluate.strategies import keeping_prefixes
from rethink.jsonl import Record, append, make_folder, read_lines, replace_lines
from rethink.policies.base import Policy
from rethink.problems.judging import judge
from rethink.problems.question import QuestionColumns, as_problem, read_questions
from rethink.recipe import Recipe, load_recipe, to_toml
from rethink.seeds import stable_hash
from rethink.settings import Endpoint, Limits, Plan, ProblemSource
from rethink.strategies import Attempt, Setup, Strategy, parse
from rethink.types import Group, Problem, Prompt, Sample, Sampling

HEADINGS = {
    "solve": "draft",
    "refine": "refinement",
    "reflect": "reflection",
    "merge": "merged answer",
    "critique": "feedback",
    "improve": "improved answer",
}
VISIBLE = {n: f"\\x{n:02x}" for n in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}
"""Control characters, with which a reply could rewrite the screen, as Python writes them."""
RECORD = b'{"id": "'
KEYS = {"id", "question", "strategy", "settings", "changed"}
"""How each line of a file of answers begins, and what of it counts when it goes on."""


@runtime_checkable
class Streams(Policy, Protocol):
    """A policy that can be listened to."""

    def stream(self, prompt: Prompt, sampling: Sampling | None, listen: Callable[[str], None]) -> Sample | None: ...


def answer_one(model: str, question: str, gold: str, recipe: str, settings: Sequence[str]) -> None:
    """Answer a question aloud: every single reply as it is written, then what changed."""
    if not question.strip() or any("\ud800" <= letter <= "\udfff" for letter in question):
        raise UserError("the question is empty, or not text in UTF-8")
    resolved, strategy = resolve(model, recipe, settings)
    if "verifier" in strategy.needs and not gold:
        raise UserError(f"{strategy.name} is told which answers are wrong: give the right one with --gold")
    problem = as_problem(question, _source(resolved), gold)
    _check(strategy, [problem])
    policy = open_policy(resolved)
    setup = open_setup(resolved, policy)
    aloud = Aloud(policy)
    with keeping_prefixes(policy):
        (attempt,) = strategy.run(replace(setup, policy=aloud), [problem])
    if not attempt.answers:
        raise UserError("the question is too long for the model: nothing was answered; see limits.max_prompt_tokens")
    _tell(f"\n\n{changed(attempt, first(attempt))}\n")
    if "verifier" in strategy.needs:
        _warn_of_gold(attempt)
    say(costs(attempt))


def answer_file(
    model: str, file: Path, out: Path, columns: QuestionColumns, resume: bool, recipe: str, settings: Sequence[str]
) -> None:
    """Answer each question of a file: a line of `out` per question, in order, written batch by batch."""
    resolved, strategy = resolve(model, recipe, settings)
    if "verifier" in strategy.needs and not columns.answer:
        raise UserError(
            f"{strategy.name} is told which answers are wrong: name the column of the right one with --answer"
        )
    problems = read_questions(file, _source(resolved), columns)
    _check(strategy, problems)
    if out.exists() and not resume:
        raise UserError(f"{out} is there already; go on with it by --resume, or choose another --out")
    make_folder(out.parent)
    key = settings_key(resolved)
    done, n_changed = _done(out, problems, strategy, key)
    setup = open_setup(resolved, open_policy(resolved))
    size = max(1, resolved.evaluation.batch // max(1, strategy.n_solve))
    try:
        with progress() as bar:
            task = bar.add_task("answer", total=len(problems), completed=done, note="")
            for start in range(done, len(problems), size):
                records = _records(setup, strategy, key, problems[start : start + size])
                append(out, records)
                n_changed += sum(record["changed"] is True for record in records)
                bar.update(task, advance=len(records))
    except (UserError, KeyboardInterrupt):
        say(f"stopped; what is done is in {out}, and the same command with --resume goes on")
        raise
    say(f"{len(problems)} answers, {n_changed} other than the first answer given: {out}")


def _records(setup: Setup, strategy: Strategy, settings: str, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    with keeping_prefixes(setup.policy):
        attempts = strategy.run(setup, problems)
    return [to_record(strategy, attempt, settings) for attempt in attempts]


def resolve(model: str, recipe: str, settings: Sequence[str]) -> tuple[Recipe, Strategy]:
    """The recipe, and its one strategy."""
    resolved = load_recipe(recipes.find(recipe) if recipe else None, [f"model.path={quoted(model)}", *settings])
    if "," in resolved.evaluation.strategy:
        raise UserError("an answer comes from one strategy; `rethink eval` compares several")
    return resolved, parse(resolved.evaluation.strategy)


def _source(recipe: Recipe) -> ProblemSource:
    return recipe.evaluation.problems or ProblemSource(source="questions")


def _check(strategy: Strategy, problems: Sequence[Problem]) -> None:
    if "comparable answers" in strategy.needs and any(p.answer is None for p in problems):
        raise UserError(
            f"{strategy.name} compares answers with one another, and this verifier does not say what an answer is"
        )


def first(attempt: Attempt) -> Sample | None:
    """The first answer of an attempt; None where it has none of its own, as a search may not."""
    return next((s for s in attempt.used if s.prompt.phase == "solve"), None)


def changed(attempt: Attempt, draft: Sample | None) -> str:
    """What became of the first answer, in words."""
    final = attempt.answers[0]
    if final.prompt.phase == "solve" and sum(s.prompt.phase == "solve" for s in attempt.used) > 1:
        return f"answer: {stated(final)} (draft {final.index + 1})"
    if draft is None or draft is final:
        return f"answer: {stated(final)}"
    before, after = stated(draft), stated(final)
    if is_changed(draft, final):
        return f"answer: {after}\nchanged from: {before}"
    return f"answer: {after}\nas in the first answer"


def is_changed(draft: Sample, final: Sample) -> bool:
    """Whether two replies give different answers, as the grader compares them; by their texts where it cannot."""
    problem = draft.problem
    if problem.answer is None or problem.same is None:
        return draft.text.strip() != final.text.strip()
    before, after = problem.answer(draft.text), problem.answer(final.text)
    if before is None or after is None:
        return before is not after
    return before != after and not problem.same(before, after)


def stated(sample: Sample) -> str:
    """The answer in a reply; all of it where that is not known."""
    if sample.problem.answer is None:
        return sample.text.strip()
    found = sample.problem.answer(sample.text)
    return "none in the form that was asked for" if found is None else found


def costs(attempt: Attempt) -> str:
    """Samples, tokens, calls and notes, in one line."""
    tokens = [n if n is not None else "unknown" for n in (attempt.n_prompt_tokens, attempt.n_tokens)]
    notes = "".join(f"; {name}: {n}" for name, n in attempt.notes.items())
    calls = f"replies: {len(attempt.used)}, calls in sequence: {attempt.depth}"
    return f"{calls}, tokens shown: {tokens[0]}, sampled: {tokens[1]}{notes}"


def to_record(strategy: Strategy, attempt: Attempt, settings: str) -> dict[str, Any]:
    """A line of the file of answers; `reply` is None where the question was over-long."""
    draft, problem = first(attempt), attempt.problem
    final = attempt.answers[0] if attempt.answers else None
    known = problem.answer is not None
    return {
        "id": problem.id,
        "question": problem.question,
        "strategy": strategy.name,
        "settings": settings,
        "answer": problem.answer(final.text) if final and problem.answer is not None else None,
        "reply": final.text if final else None,
        "draft": draft.text if draft else None,
        "draft_answer": problem.answer(draft.text) if draft and known and problem.answer is not None else None,
        "changed": is_changed(draft, final) if draft and final else None,
        "n_prompt_tokens": attempt.n_prompt_tokens,
        "n_tokens": attempt.n_tokens,
        "calls": attempt.depth,
        "notes": dict(attempt.notes),
    }


def settings_key(recipe: Recipe) -> str:
    """What tells answers of other models, texts or ways of sampling apart: a hash of all settings but places and sizes."""
    evaluation = replace(recipe.evaluation, batch=Plan().batch)
    plain = replace(recipe, out="", endpoint=Endpoint(), limits=Limits(), evaluation=evaluation)
    return f"{stable_hash(to_toml(plain)):016x}"


def _done(out: Path, problems: Sequence[Problem], strategy: Strategy, settings: str) -> tuple[int, int]:
    """How many questions a file of answers has, and how many answers changed; a torn last line is cut off. Raises UserError
    where it is no such file, answers other questions, or by another strategy."""
    if not out.exists():
        return 0, 0
    lines = _answers(out)
    for (_, record), problem in zip(lines, problems, strict=False):
        if (record["id"], record["question"], record["strategy"]) != (problem.id, problem.question, strategy.name):
            raise UserError(f"{out} answers other questions, or by another strategy, at {record['id']!r}")
        if record["settings"] != settings:
            raise UserError(
                f"{out} was begun with another model or other settings; give the same, or choose another --out"
            )
    if len(lines) > len(problems):
        raise UserError(f"{out} has more answers than there are questions")
    replace_lines(out, (line for line, _ in lines))
    return len(lines), sum(record["changed"] is True for _, record in lines)


def _answers(out: Path) -> list[tuple[str, Record]]:
    """The whole lines of a file of answers. Raises UserError where anything but such a line, or its beginning at the very
    end, is in it: what follows the whole lines is going to be cut off."""
    lines = list(read_lines(out))
    rest = out.read_bytes()[sum(len(line.encode()) + 1 for line, _ in lines) :] if out.is_file() else b"\n"
    cut = b"\n" not in rest and (rest.startswith(RECORD) or RECORD.startswith(rest))
    if not cut or not all(isinstance(r, dict) and r.keys() >= KEYS for _, r in lines):
        raise UserError(f"{out} is no file of answers to go on with; choose another --out")
    return lines


class Aloud:
    """A policy that writes to stdout what it samples: a single reply as it comes, of several the answers."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def version(self) -> int:
        return self.policy.version

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        if len(prompts) * n == 1 and isinstance(self.policy, Streams):
            return [self._stream(self.policy, prompts[0], sampling)]
        groups = self.policy.sample(prompts, n, sampling)
        for number, sample in enumerate((s for group in groups for s in group), start=1):
            _head(f"{_heading(sample.prompt)} {number}")
            _tell(stated(sample) if sample.prompt.phase in ("solve", "refine") else sample.text)
        return groups

    def _stream(self, policy: Streams, prompt: Prompt, sampling: Sampling | None) -> Group:
        _head(_heading(prompt))
        sample = policy.stream(prompt, sampling, _tell)
        if sample is None:
            warn(f"the {_heading(prompt)} was left out: its prompt is over-long")
            return ()
        return (sample,)

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return self.policy.transcribe(prompt, reply)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return self.policy.splice(sample, text)


def _warn_of_gold(attempt: Attempt) -> None:
    """Say that the replies could not be judged, where that is why none was tried again."""
    for (sample,) in judge([(s,) for s in attempt.used[:1]]):
        if sample.verdict and sample.verdict.right is None:
            warn(f"replies cannot be judged by the --gold given, so none was tried again: {sample.verdict.reason}")


def _tell(text: str) -> None:
    write(text.translate(VISIBLE))


def _head(text: str) -> None:
    write(f"\n\n-- {text} --\n")


def _heading(prompt: Prompt) -> str:
    return HEADINGS.get(prompt.phase, prompt.phase)
