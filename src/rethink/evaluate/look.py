"""Solve each problem, refine each draft, keep every answer; a killed evaluation goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rethink.errors import UserError
from rethink.evaluate.answers import Answer, answer, answer_lines, reply, to_record
from rethink.jsonl import append, replace_lines
from rethink.policies.base import Policy
from rethink.problems.judging import judge
from rethink.prompts import Prompts
from rethink.settings import Plan
from rethink.types import Group, Problem, Prompt, Sample

TWO_LOOKS = ("solve", "refine")
"""The strategies of a plan."""


class OtherAnswersError(UserError):
    """A file to resume from has answers to other problems or drafts; it is left as it is."""


Drafts = Mapping[str, Sequence[str]]
"""Problem id -> given drafts, in place of sampled ones."""


def evaluate(
    policy: Policy,
    prompts: Prompts,
    problems: Sequence[Problem],
    plan: Plan,
    file: Path | None,
    *,
    given: Drafts | None = None,
    resume: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """All answers, also written to `file` (None: to none), batch by batch. With `resume` the whole batches in it are kept,
    else it is begun anew. `progress` is told the number of problems done. Raises OtherAnswersError."""
    if plan.strategy not in TWO_LOOKS:
        raise UserError(f"this evaluation goes with the strategies {' and '.join(TWO_LOOKS)}, not {plan.strategy!r}")
    batches = _batches(problems, plan, given)
    if file is not None and not resume:
        replace_lines(file, [])
    found = finished(file, batches, plan, given) if file is not None else []
    done = sum(len(batch) for batch in batches[: len(found)])
    if done:
        progress(done)
    for batch in batches[len(found) :]:
        answers = answer_all(policy, prompts, batch, plan, given)
        if file is not None:
            append(file, [to_record(a) for a in answers])
        found.append(answers)
        done += len(batch)
        progress(done)
    return [a for answers in found for a in answers]


def answer_all(
    policy: Policy, prompts: Prompts, problems: Sequence[Problem], plan: Plan, given: Drafts | None = None
) -> list[Answer]:
    """The answers to some problems, in order."""
    asks = prompts.ask(problems)
    if given is None:
        groups = judge(policy.sample(asks, plan.n, plan.sampling))
    else:
        groups = judge([_transcribed(policy, ask, given[ask.problem.id]) for ask in asks])
    refined = iter(_refine(policy, prompts, [s for group in groups for s in group], plan))
    found: list[Answer] = []
    for problem, group in zip(problems, groups, strict=True):
        found += [answer(problem, s.index, reply(s, given is not None), next(refined)) for s in group]
        if not group:
            found.append(answer(problem, 0, None, None))
    return found


def finished(file: Path, batches: Sequence[Sequence[Problem]], plan: Plan, given: Drafts | None) -> list[list[Answer]]:
    """The answers of the whole batches that a file begins with; what follows them is cut off the file."""
    lines = list(answer_lines(file))
    left = [one for _, one in lines]
    _refuse_others(file, left, {p.id: p for batch in batches for p in batch}, given)
    found: list[list[Answer]] = []
    for batch in batches:
        answers = [a for problem in batch for a in _taken(left, problem.id, _n_drafts(problem, plan, given))]
        if len({a.problem for a in answers}) < len(batch):
            break
        found.append(answers)
    replace_lines(file, (line for line, _ in lines[: sum(map(len, found))]))
    return found


def _refuse_others(
    file: Path, answers: Sequence[Answer], problems: Mapping[str, Problem], given: Drafts | None
) -> None:
    """Settings do not tell all: a file of problems or of drafts may have changed since."""
    for one in answers:
        problem = problems.get(one.problem)
        if problem is None or (problem.question, problem.gold) != (one.question, one.gold):
            raise OtherAnswersError(f"{file} has answers to other problems than are asked now, {one.problem} for one")
        if one.draft is not None and (given is None) != (one.draft.seed != ""):
            raise OtherAnswersError(f"{file} was begun {'with' if given is None else 'without'} given drafts")
        if given is not None and one.draft is not None and one.draft.text not in given[one.problem][one.index :][:1]:
            raise OtherAnswersError(f"{file} was begun with other drafts; that to {one.problem} differs for one")


def _taken(left: list[Answer], problem: str, n: int) -> list[Answer]:
    """The answers to a problem from the front of what is left, if all are there."""
    if left and left[0].problem == problem and left[0].draft is None:
        return [left.pop(0)]
    if len(left) < n or any(a.problem != problem for a in left[:n]):
        return []
    taken = left[:n]
    del left[:n]
    return taken


def _batches(problems: Sequence[Problem], plan: Plan, given: Drafts | None) -> list[list[Problem]]:
    """Runs of problems with at most `plan.batch` drafts in all, but at least one problem."""
    batches: list[list[Problem]] = []
    room = 0
    for problem in problems:
        n = _n_drafts(problem, plan, given)
        if n > room:
            batches.append([])
            room = plan.batch
        batches[-1].append(problem)
        room -= n
    return batches


def _n_drafts(problem: Problem, plan: Plan, given: Drafts | None) -> int:
    return plan.n if given is None else len(given[problem.id])


def _transcribed(policy: Policy, ask: Prompt, drafts: Sequence[str]) -> Group:
    return tuple(replace(policy.transcribe(ask, text), index=n) for n, text in enumerate(drafts))


def _refine(policy: Policy, prompts: Prompts, drafts: Sequence[Sample], plan: Plan) -> list[Group | None]:
    if plan.strategy == "solve":
        return [None] * len(drafts)
    sampling = plan.refine_sampling or plan.sampling
    return [*judge(policy.sample(prompts.ask_to_refine(drafts), plan.n_refine, sampling))]
