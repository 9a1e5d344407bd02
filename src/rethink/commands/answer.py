"""`rethink answer`: answer a question or a file of questions by a strategy, and report what refinement changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from rethink.commands.console import print_note, print_part, progress, resume_hint_on_error, toml_string, warn
from rethink.commands.evaluate import check_strategies, open_keeping_setup, open_policy, open_setup
from rethink.commands.typed_settings import refuse_contradictions, refuse_without_effect
from rethink.errors import UserError
from rethink.evaluation.evaluate import reusing_prefixes
from rethink.images import mark_places, read_image
from rethink.jsonl import Record, Resumable, make_folder
from rethink.lock import Lock
from rethink.policies.base import PolicyWrapper
from rethink.problems.answer_format import read_after
from rethink.problems.free_text import same_reply, short_answer
from rethink.problems.question import QuestionColumns, as_problem, read_questions, source_of_answers
from rethink.problems.rewards import grade
from rethink.recipe import Recipe, load_recipe, name_checkpoints, to_toml
from rethink.seeds import stable_hash
from rethink.settings import AnswerSettings, Endpoint, ProblemSource, Sampler
from rethink.strategies import Attempt, Setup, Strategy, parse_all
from rethink.strategies.attempt import PHASE_TITLES
from rethink.types import Group, Problem, Prompt, Sample, Sampling

MAX_REPEATED = 200
"""Longer replies (in characters) are not printed again as the answer."""


@runtime_checkable
class Streams(Protocol):
    """A policy that can stream a reply."""

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None: ...


def answer_question(
    model: str, question: str, gold: str, recipe: str, settings: Sequence[str], images: Sequence[Path] = ()
) -> None:
    """Answer a question, print each reply as it is sampled, then the answer and whether it changed."""
    if not question.strip():
        raise UserError("the question is empty")
    resolved, strategy = resolve(model, recipe, settings)
    if "verifier" in strategy.needs and not gold:
        raise UserError(f"{strategy.name} needs to know which answers are wrong: give the right one with --gold")
    problem = as_problem(question, _source(resolved, strategy, bool(gold)), gold)
    if images:
        found = tuple(read_image(file, f"--image {file}") for file in images)
        problem = replace(problem, question=mark_places(question, len(found), "the question"), images=found)
    (problem,) = read_after([problem], resolved.model.thinking)
    check_strategies(resolved, [strategy], [problem])
    policy = open_policy(resolved)
    setup = open_setup(resolved, policy)
    with reusing_prefixes(policy):
        (attempt,) = strategy.run(replace(setup, policy=StreamingPolicy(policy)), [problem])
    if not attempt.answers:
        raise UserError("the question is too long and was not answered; the limit is sampler.max_prompt_tokens")
    print_part(f"\n\n{describe_change(attempt)}\n")
    if "verifier" in strategy.needs:
        ((sample,),) = grade([attempt.samples[:1]])
        if sample.verdict and sample.verdict.right is None:
            warn(f"the reply cannot be graded against --gold, so nothing was retried: {sample.verdict.reason}")
    print_note(describe_cost(attempt))


def answer_file(
    model: str, file: Path, out: Path, columns: QuestionColumns, resume: bool, recipe: str, settings: Sequence[str]
) -> None:
    """Answer each question of a file. Write a line per question to `out`, in order, batch by batch.

    Replies of an endpoint that are not in it yet are kept in NAME.partial until the end."""
    resolved, strategy = resolve(model, recipe, settings)
    if "verifier" in strategy.needs and not columns.answer:
        raise UserError(
            f"{strategy.name} needs to know which answers are wrong: name the column of right answers with --answer"
        )
    problems = read_questions(file, _source(resolved, strategy, bool(columns.answer)), columns)
    problems = read_after(problems, resolved.model.thinking)
    check_strategies(resolved, [strategy], problems)
    make_folder(out.parent)
    with Lock(out, warn):
        for existing in (out, _kept_file(out)):
            if existing.exists() and not resume:
                raise UserError(f"{existing} already exists; resume it with --resume, or choose another --out")
        records = _answer_all(problems, resolved, strategy, out)
    n_changed = sum(record["changed"] is True for record in records)
    print_note(f"{len(problems)} answers, {n_changed} of them changed from the first answer: {out}")


def _kept_file(out: Path) -> Path:
    """Return the file that holds an endpoint's replies until the file of answers is complete."""
    return out.with_name(f"{out.name}.partial")


def _answer_all(problems: Sequence[Problem], resolved: Recipe, strategy: Strategy, out: Path) -> list[Record]:
    """Return a record per problem; those that the file `out` lacks are computed and appended to it."""
    header = {"strategy": strategy.name, "settings": settings_key(resolved)}
    answers = Resumable(out, header, lambda record: {name: record[name] for name in ("id", "question", "images")})
    kept = _kept_file(out)
    records: list[Record] = []
    for problem in problems:  # one by one: the batches may have had another size
        found = answers.read_batch([{"id": problem.id, "question": problem.question, "images": problem.image_names}])
        if found is None:
            break
        records += found
    if len(records) == len(problems):
        answers.close()
    else:
        setup = open_keeping_setup(resolved, open_policy(resolved), kept, header["settings"])
        with resume_hint_on_error((out, kept), "--resume"):
            _answer_rest(problems, strategy, setup, resolved.evaluation.batch_size, answers, records)
    kept.unlink(missing_ok=True)
    return records


def _answer_rest(
    problems: Sequence[Problem],
    strategy: Strategy,
    setup: Setup,
    batch_size: int,
    answers: Resumable,
    records: list[Record],
) -> None:
    """Answer the problems that have no record yet, and append the new records to `records` and to the file."""
    size = max(1, batch_size // max(1, strategy.n_solve))
    with progress() as bar:
        task = bar.add_task("answer", total=len(problems), completed=len(records), note="")
        for start in range(len(records), len(problems), size):
            with reusing_prefixes(setup.policy):
                attempts = strategy.run(setup, problems[start : start + size])
            new = list(map(to_record, attempts))
            answers.append(new)
            records += new
            bar.update(task, completed=len(records))


def resolve(
    model: str, recipe: str, settings: Sequence[str], unused: Sequence[str] = ("n", "k")
) -> tuple[Recipe, Strategy]:
    """Return the recipe and its strategy. Raise UserError if it names several, and for settings that are for others than
    this command, with the `unused` keys of `evaluation`."""
    refuse_contradictions({"model.path": model}, settings)
    resolved = load_recipe(recipe if recipe else None, [f"model.path={toml_string(model)}", *settings])
    strategies = parse_all(resolved.evaluation.strategy)
    if len(strategies) > 1:
        raise UserError("this command takes one strategy; `rethink eval` compares several")
    refuse_without_effect(settings, resolved, unused)
    return name_checkpoints(resolved, print_note), strategies[0]


def _source(recipe: Recipe, strategy: Strategy, has_gold: bool) -> ProblemSource | None:
    """Return where the form of the answer is from; None for free text, if nothing says or needs a form."""
    return source_of_answers(recipe.evaluation.problems, has_gold or "comparable answers" in strategy.needs)


def first_answer(attempt: Attempt) -> Sample | None:
    """Return the first answer of an attempt; None if it has none, as in a search."""
    return next((s for s in attempt.samples if s.prompt.phase == "solve"), None)


def describe_change(attempt: Attempt) -> str:
    """Return the final answer and whether it differs from the first, in words."""
    draft, final = first_answer(attempt), attempt.answers[0]
    if _is_long(final):
        return _describe_long(draft, final)
    if final.prompt.phase == "solve" and sum(s.prompt.phase == "solve" for s in attempt.samples) > 1:
        return f"answer: {answer_text(final)} (draft {final.index + 1})"
    if draft is None or draft is final:
        return f"answer: {answer_text(final)}"
    before, after = answer_text(draft), answer_text(final)
    if is_changed(draft, final):
        return f"answer: {after}\nchanged from: {before}"
    return f"answer: {after}\nunchanged"


def _is_long(sample: Sample) -> bool:
    """Return whether a reply, which was printed already, is too long to be repeated as the answer."""
    text = answer_text(sample)
    return sample.problem.extract_answer is None and ("\n" in text or len(text) > MAX_REPEATED)


def _describe_long(draft: Sample | None, final: Sample) -> str:
    name = f"the {_title(final.prompt)} above"
    if draft is None or draft is final or final.prompt.phase == "solve":
        return f"answer: {name}" + (f" (draft {final.index + 1})" if final.index else "")
    return f"answer: {name}\n" + ("changed from the draft" if is_changed(draft, final) else "unchanged")


def is_changed(draft: Sample, final: Sample) -> bool:
    """Return whether two replies give different answers, as the grader compares them; if it cannot, as people would."""
    problem = draft.problem
    if problem.extract_answer is None or problem.equal_answers is None:
        return not same_reply(draft.final_text, final.final_text)
    before, after = _extract(draft), _extract(final)
    if before is None or after is None:
        return before is not after
    return before != after and not problem.equal_answers(before, after)


def answer_text(sample: Sample) -> str:
    """Return the answer in a reply for people to read, also if it is not in the form that was asked for. If none was asked
    for, it is what the reply states, or the whole reply.
    """
    if sample.problem.extract_answer is None:
        return short_answer(sample.final_text) or sample.text.strip()
    found = sample.problem.extract_answer(sample.final_text)
    if found is not None:
        return found
    lenient = _extract(sample)
    return "none in the required form" if lenient is None else f"{lenient.rstrip('.')} (not in the required form)"


def _extract(sample: Sample) -> str | None:
    """Return the answer in a reply, by lenient extraction if need be."""
    extract = sample.problem.extract_answer
    found = None if extract is None else extract(sample.final_text)
    if found is None and isinstance(extract, partial):
        return cast("str | None", extract(sample.final_text, lenient=True))
    return found


def describe_cost(attempt: Attempt) -> str:
    """Return replies, calls, tokens and notes in one line."""
    prompt, sampled = ("unknown" if n is None else n for n in (attempt.n_prompt_tokens, attempt.n_tokens))
    notes = "".join(f"; {name}: {n}" for name, n in attempt.notes.items())
    calls = f"replies: {len(attempt.samples)}, sequential calls: {attempt.depth}"
    return f"{calls}, prompt tokens: {prompt}, sampled tokens: {sampled}{notes}"


def to_record(attempt: Attempt) -> Record:
    """Return the line for the file of answers; `reply` is None if the question was too long."""
    draft = first_answer(attempt)
    final = attempt.answers[0] if attempt.answers else None
    return {
        "id": attempt.problem.id,
        "question": attempt.problem.question,
        "images": attempt.problem.image_names,
        "answer": _extract_answer(final),
        "reply": final.text if final else None,
        "stop": final.stop if final else None,
        "draft": draft.text if draft else None,
        "draft_answer": _extract_answer(draft),
        "changed": is_changed(draft, final) if draft and final else None,
        "n_prompt_tokens": attempt.n_prompt_tokens,
        "n_tokens": attempt.n_tokens,
        "calls": attempt.depth,
        "notes": dict(attempt.notes),
    }


def _extract_answer(sample: Sample | None) -> str | None:
    """Return the answer in a reply as votes see it, or without a form of answers as people would; None if there is none."""
    if sample is None:
        return None
    extract = sample.problem.extract_answer
    return short_answer(sample.final_text) if extract is None else extract(sample.final_text)


def settings_key(recipe: Recipe) -> str:
    """Return a hash of all settings that affect the answers: not the file of answers, servers, memory or batch sizes."""
    evaluation = replace(recipe.evaluation, batch_size=AnswerSettings().batch_size)
    read = recipe.sampler
    sampler = Sampler(
        max_prompt_tokens=read.max_prompt_tokens, overlong_prompts=read.overlong_prompts, dtype=read.dtype
    )
    judge = replace(recipe.judge, endpoint=Endpoint())
    relevant = replace(recipe, out="", endpoint=Endpoint(), judge=judge, sampler=sampler, evaluation=evaluation)
    return f"{stable_hash(to_toml(relevant)):016x}"


class StreamingPolicy(PolicyWrapper):
    """A policy that prints what it samples: a single reply as it comes; of several replies, the answers."""

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        if len(prompts) * n == 1 and isinstance(self.policy, Streams):
            yield 0, self._stream(self.policy, prompts[0], sampling)
            return
        groups = self.policy.sample(prompts, n, sampling)  # `sample` keeps the order; `groups` does not
        number = 0
        for i, group in enumerate(groups):
            for sample in group:
                number += 1
                _print_heading(f"{_title(sample.prompt)} {number}")
                print_part(answer_text(sample) if sample.prompt.phase in ("solve", "fresh", "refine") else sample.text)
            yield i, group

    def _stream(self, policy: Streams, prompt: Prompt, sampling: Sampling | None) -> Group:
        _print_heading(_title(prompt))
        sample = policy.stream(prompt, sampling, print_part)
        if sample is None:
            warn(f"the {_title(prompt)} was skipped: its prompt is too long")
            return ()
        return (sample,)


def _print_heading(text: str) -> None:
    print_part(f"\n\n-- {text} --\n")


def _title(prompt: Prompt) -> str:
    return PHASE_TITLES.get(prompt.phase, prompt.phase)
