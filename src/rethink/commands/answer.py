"""`rethink answer`: a question, or a file of them, answered by a strategy, and what the further looks changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from rethink.commands.console import print_note, print_part, progress, resume_hint_on_error, toml_string, warn
from rethink.commands.evaluate import open_policy, open_setup
from rethink.errors import UserError
from rethink.evaluation.evaluate import reusing_prefixes
from rethink.jsonl import Record, Resumable, make_folder
from rethink.policies.base import PolicyWrapper
from rethink.problems.question import QuestionColumns, as_problem, read_questions
from rethink.problems.rewards import grade
from rethink.recipe import Recipe, load_recipe, to_toml
from rethink.seeds import stable_hash
from rethink.settings import AnswerSettings, Endpoint, ProblemSource, Sampler
from rethink.strategies import Attempt, Strategy, check_needs, parse
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


@runtime_checkable
class Streams(Protocol):
    """A policy that can be listened to."""

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None: ...


def answer_question(model: str, question: str, gold: str, recipe: str, settings: Sequence[str]) -> None:
    """Answer a question aloud: every single reply as it is written, then what changed."""
    if not question.strip() or any("\ud800" <= letter <= "\udfff" for letter in question):
        raise UserError("the question is empty, or not text in UTF-8")
    resolved, strategy = resolve(model, recipe, settings)
    if "verifier" in strategy.needs and not gold:
        raise UserError(f"{strategy.name} sees which answers are wrong: give the right one with --gold")
    problem = as_problem(question, _source(resolved), gold)
    _check(resolved, strategy, [problem])
    policy = open_policy(resolved)
    setup = open_setup(resolved, policy)
    with reusing_prefixes(policy):
        (attempt,) = strategy.run(replace(setup, policy=StreamingPolicy(policy)), [problem])
    if not attempt.answers:
        raise UserError("the question is too long for the model: nothing was answered; see sampler.max_prompt_tokens")
    _tell(f"\n\n{changed(attempt, first(attempt))}\n")
    if "verifier" in strategy.needs:
        ((sample,),) = grade([attempt.samples[:1]])
        if sample.verdict and sample.verdict.right is None:
            warn(f"replies cannot be graded by the --gold given, so none was tried again: {sample.verdict.reason}")
    print_note(costs(attempt))


def answer_file(
    model: str, file: Path, out: Path, columns: QuestionColumns, resume: bool, recipe: str, settings: Sequence[str]
) -> None:
    """Answer each question of a file: a line of `out` per question, in order, written batch by batch."""
    resolved, strategy = resolve(model, recipe, settings)
    if "verifier" in strategy.needs and not columns.answer:
        raise UserError(f"{strategy.name} sees which answers are wrong: name the column of the right one with --answer")
    problems = read_questions(file, _source(resolved), columns)
    _check(resolved, strategy, problems)
    if out.exists() and not resume:
        raise UserError(f"{out} is there already; go on with it by --resume, or choose another --out")
    make_folder(out.parent)
    header = {"strategy": strategy.name, "settings": settings_key(resolved)}
    answers = Resumable(out, header, lambda record: {"id": record["id"], "question": record["question"]})
    size = max(1, resolved.evaluation.batch_size // max(1, strategy.n_solve))
    records: list[Record] = []
    for start in range(0, len(problems), size):
        found = answers.read_batch([{"id": p.id, "question": p.question} for p in problems[start : start + size]])
        if found is None:
            break
        records += found
    if len(records) == len(problems):
        answers.close()
    setup = open_setup(resolved, open_policy(resolved))
    with resume_hint_on_error(out, "--resume"), progress() as bar:
        task = bar.add_task("answer", total=len(problems), completed=len(records), note="")
        for start in range(len(records), len(problems), size):
            with reusing_prefixes(setup.policy):
                attempts = strategy.run(setup, problems[start : start + size])
            new = list(map(to_record, attempts))
            answers.append(new)
            records += new
            bar.update(task, completed=len(records))
    n_changed = sum(record["changed"] is True for record in records)
    print_note(f"{len(problems)} answers, {n_changed} other than the first answer given: {out}")


def resolve(model: str, recipe: str, settings: Sequence[str]) -> tuple[Recipe, Strategy]:
    """The recipe, and its one strategy."""
    resolved = load_recipe(recipe if recipe else None, [f"model.path={toml_string(model)}", *settings])
    if "," in resolved.evaluation.strategy:
        raise UserError("an answer comes from one strategy; `rethink eval` compares several")
    return resolved, parse(resolved.evaluation.strategy)


def _source(recipe: Recipe) -> ProblemSource:
    return recipe.evaluation.problems or ProblemSource(source="questions")


def _check(recipe: Recipe, strategy: Strategy, problems: Sequence[Problem]) -> None:
    check_needs([strategy], problems, bool(recipe.judge.path or recipe.judge.endpoint.url))


def first(attempt: Attempt) -> Sample | None:
    """The first answer of an attempt; None where it has none of its own, as a search may not."""
    return next((s for s in attempt.samples if s.prompt.phase == "solve"), None)


def changed(attempt: Attempt, draft: Sample | None) -> str:
    """What became of the first answer, in words."""
    final = attempt.answers[0]
    if final.prompt.phase == "solve" and sum(s.prompt.phase == "solve" for s in attempt.samples) > 1:
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
    if problem.extract_answer is None or problem.equal_answers is None:
        return draft.text.strip() != final.text.strip()
    before, after = problem.extract_answer(draft.text), problem.extract_answer(final.text)
    if before is None or after is None:
        return before is not after
    return before != after and not problem.equal_answers(before, after)


def stated(sample: Sample) -> str:
    """The answer in a reply; all of it where that is not known."""
    if sample.problem.extract_answer is None:
        return sample.text.strip()
    found = sample.problem.extract_answer(sample.text)
    return "none in the form that was asked for" if found is None else found


def costs(attempt: Attempt) -> str:
    """Samples, tokens, calls and notes, in one line."""
    shown, sampled = ("unknown" if n is None else n for n in (attempt.n_prompt_tokens, attempt.n_tokens))
    notes = "".join(f"; {name}: {n}" for name, n in attempt.notes.items())
    calls = f"replies: {len(attempt.samples)}, calls in sequence: {attempt.depth}"
    return f"{calls}, tokens shown: {shown}, sampled: {sampled}{notes}"


def to_record(attempt: Attempt) -> Record:
    """A line of the file of answers; `reply` is None where the question was over-long."""
    draft = first(attempt)
    final = attempt.answers[0] if attempt.answers else None
    return {
        "id": attempt.problem.id,
        "question": attempt.problem.question,
        "answer": _answer(final),
        "reply": final.text if final else None,
        "draft": draft.text if draft else None,
        "draft_answer": _answer(draft),
        "changed": is_changed(draft, final) if draft and final else None,
        "n_prompt_tokens": attempt.n_prompt_tokens,
        "n_tokens": attempt.n_tokens,
        "calls": attempt.depth,
        "notes": dict(attempt.notes),
    }


def _answer(sample: Sample | None) -> str | None:
    """The final answer in a reply, where it is known."""
    if sample is None or sample.problem.extract_answer is None:
        return None
    return sample.problem.extract_answer(sample.text)


def settings_key(recipe: Recipe) -> str:
    """What tells answers of other models, texts or ways of sampling apart: a hash of all settings but places and sizes."""
    evaluation = replace(recipe.evaluation, batch_size=AnswerSettings().batch_size)
    plain = replace(recipe, out="", endpoint=Endpoint(), sampler=Sampler(), evaluation=evaluation)
    return f"{stable_hash(to_toml(plain)):016x}"


class StreamingPolicy(PolicyWrapper):
    """A policy that writes to stdout what it samples: a single reply as it comes, of several the answers."""

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        if len(prompts) * n == 1 and isinstance(self.policy, Streams):
            yield 0, self._stream(self.policy, prompts[0], sampling)
            return
        groups = self.policy.sample(prompts, n, sampling)  # in order, whichever is finished first
        number = 0
        for i, group in enumerate(groups):
            for sample in group:
                number += 1
                _head(f"{_heading(sample.prompt)} {number}")
                _tell(stated(sample) if sample.prompt.phase in ("solve", "refine") else sample.text)
            yield i, group

    def _stream(self, policy: Streams, prompt: Prompt, sampling: Sampling | None) -> Group:
        _head(_heading(prompt))
        sample = policy.stream(prompt, sampling, _tell)
        if sample is None:
            warn(f"the {_heading(prompt)} was left out: its prompt is over-long")
            return ()
        return (sample,)


def _tell(text: str) -> None:
    print_part(text.translate(VISIBLE))


def _head(text: str) -> None:
    print_part(f"\n\n-- {text} --\n")


def _heading(prompt: Prompt) -> str:
    return HEADINGS.get(prompt.phase, prompt.phase)
