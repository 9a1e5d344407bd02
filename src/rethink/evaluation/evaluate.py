"""Problems answered by strategies, from the same first answers; every answer is kept, and a killed evaluation resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, answer_from_attempt, answer_from_record
from rethink.jsonl import Record, Resumable, write_lines
from rethink.policies.base import Policy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.settings import AnswerSettings
from rethink.strategies import Attempt, CachedPolicy, Setup, Strategy, parse_all
from rethink.strategies.attempt import start_attempt
from rethink.types import Problem, Sample

Drafts = Mapping[str, Sequence[str]]
"""Problem id -> given drafts, in place of sampled ones."""


@dataclass(frozen=True)
class EvaluationSpec:
    """What is evaluated: the problems, the strategies, and how.

    `repeats` is the number of attempts at each problem, and some `batch` first answers are drawn between two writes to the
    file. With `drafts` strategies begin with these, and a problem has as many repeats as they are enough for.
    """

    problems: Sequence[Problem]
    strategies: Sequence[Strategy]
    repeats: int = 1
    batch: int = 256
    drafts: Drafts | None = None

    @property
    def n_solve(self) -> int:
        """How many first answers an attempt begins with, at most."""
        return max(1, max(s.n_solve for s in self.strategies))

    def repeats_of(self, problem: Problem) -> int:
        return self.repeats if self.drafts is None else len(self.drafts[problem.id]) // self.n_solve

    def batches(self) -> list[list[Problem]]:
        """Runs of problems with at most `batch` first answers in all, but at least one problem."""
        batches: list[list[Problem]] = []
        room = 0
        for problem in self.problems:
            n = self.repeats_of(problem) * self.n_solve
            if n > room:
                batches.append([])
                room = self.batch
            batches[-1].append(problem)
            room -= n
        return batches

    def firsts_given(self, problem: Problem, repeat: int, strategy: Strategy) -> list[str]:
        """The given drafts that an attempt begins with; none where drafts are sampled. The order is that of `solve`."""
        if self.drafts is None:
            return []
        return list(self.drafts[problem.id][repeat :: self.repeats_of(problem)][: strategy.n_solve])

    def check(self) -> None:
        """Raise UserError where the given drafts do not go with the strategies."""
        if self.drafts is None:
            return
        for strategy in self.strategies:
            if not strategy.n_solve:
                raise UserError(f"{strategy.name} begins without drafts, so that none can be given")
        for problem in self.problems:
            if not self.repeats_of(problem):
                n = len(self.drafts[problem.id])
                raise UserError(f"these strategies begin with {self.n_solve} drafts, and {problem.id} has {n}")


@runtime_checkable
class ReusesPrefixes(Protocol):
    """A policy that can reuse what prompts of one batch have in common."""

    def reuse_prefixes(self) -> AbstractContextManager[None]: ...


def reusing_prefixes(policy: Policy) -> AbstractContextManager[None]:
    """Within, a policy that can do so reuses what prompts have in common."""
    return policy.reuse_prefixes() if isinstance(policy, ReusesPrefixes) else nullcontext()


def make_setup(policy: Policy, prompts: Prompts, plan: AnswerSettings, judge: Policy | None = None) -> Setup:
    """What strategies work with, as a plan says."""
    return Setup(policy, prompts, plan.sampling, plan.refine_sampling, judge, plan.n_refine)


def evaluate(
    policy: Policy,
    problems: Sequence[Problem],
    settings: AnswerSettings = AnswerSettings(),
    *,
    prompts: Prompts = Prompts(),
    file: str | Path | None = None,
) -> list[Answer]:
    """Return the answers of the settings' strategies to all problems, graded; write them to a new `file`, if one is named.

    The default strategy answers each problem once, greedily, and then refines the answer. `summarize` turns answers into
    accuracies with intervals. Raises UserError for an unknown strategy.

    >>> from rethink import AnswerSettings, Problem, evaluate, summarize
    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.mathematics import verify
    >>> problem = Problem("p", "What is 1/2 + 1/3?", "5/6", verify, solve="{question}")
    >>> policy = FakePolicy(lambda prompt, index, version: "2/5" if prompt.phase == "solve" else "It is \\boxed{5/6}.")
    >>> (answer,) = evaluate(policy, [problem], AnswerSettings(strategy="refine"))
    >>> [step.right for step in answer.steps]
    [False, True]
    """
    path = None if file is None else Path(file)
    if path is not None:
        write_lines(path, [])
    trial = EvaluationSpec(problems, parse_all(settings.strategy), settings.n, settings.batch_size)
    return run_evaluation(make_setup(policy, prompts, settings), trial, resumable_answers(path))


def resumable_answers(file: Path | None) -> Resumable:
    """A file of answers to go on with."""
    return Resumable(file, {}, _key)


def run_evaluation(
    setup: Setup, trial: EvaluationSpec, file: Resumable, progress: Callable[[int], None] = lambda _: None
) -> list[Answer]:
    """Return all answers, also written to `file`, batch by batch; those that it has already are kept.

    `progress` is told the number of problems done. Raises RecordMismatchError for a file with answers to something else."""
    trial.check()
    found: list[Answer] = []
    done = 0
    for batch in trial.batches():
        records = file.read_batch(list(_keys(trial, batch)))
        if records is not None:
            answers = [answer_from_record(record) for record in records]
        else:
            answers = answer_problems(setup, trial, batch)
            file.append([asdict(one) for one in answers])
        found += answers
        done += len(batch)
        progress(done)
    return found


def answer_problems(setup: Setup, trial: EvaluationSpec, problems: Sequence[Problem]) -> list[Answer]:
    """Return the answers to some problems, by problem, then repeat, then strategy."""
    shared = replace(setup, policy=CachedPolicy(setup.policy, trial.n_solve * trial.repeats))
    with reusing_prefixes(setup.policy):
        attempts = [_attempts(shared, trial, strategy, problems) for strategy in trial.strategies]
    graded = _graded([one for some in attempts for one in some])
    found: list[Answer] = []
    for of_all_strategies in zip(*attempts, strict=True):
        for strategy, attempt in zip(trial.strategies, of_all_strategies, strict=True):
            found.append(answer_from_attempt(strategy.name, attempt, graded, given=trial.drafts is not None))
    return found


def _attempts(setup: Setup, trial: EvaluationSpec, strategy: Strategy, problems: Sequence[Problem]) -> list[Attempt]:
    """A strategy's attempts, by problem, then repeat."""
    if trial.drafts is None:
        return strategy.run(setup, problems, trial.repeats)
    found: list[Attempt] = []
    for problem, ask in zip(problems, setup.prompts.ask(problems), strict=True):
        repeats = trial.repeats_of(problem)
        for repeat in range(repeats):
            drafts: list[Sample] = []
            for n, text in enumerate(trial.firsts_given(problem, repeat, strategy)):
                drafts.append(replace(setup.policy.transcribe(ask, text), index=n * repeats + repeat))
            found.append(start_attempt(problem, tuple(drafts), repeat))
    return strategy.continue_from(setup, found)


def _graded(attempts: Sequence[Attempt]) -> dict[tuple[str, int], Sample]:
    """First and final answers with their verdicts, by their keys; each is graded once."""
    samples: dict[tuple[str, int], Sample] = {}
    for attempt in attempts:
        for sample in attempt.samples:
            if sample.prompt.phase == "solve":
                samples[sample.key] = sample
        for sample in attempt.finals:
            samples[sample.key] = sample
    groups = grade([(sample,) for sample in samples.values()])
    return {key: group[0] for key, group in zip(samples, groups, strict=True)}


def _keys(trial: EvaluationSpec, problems: Sequence[Problem]) -> Iterator[Record]:
    """What the records of some problems are about, in order."""
    for problem in problems:
        for repeat in range(trial.repeats_of(problem)):
            for strategy in trial.strategies:
                yield {
                    "problem": problem.id,
                    "question": problem.question,
                    "gold answer": problem.gold,
                    "repeat": repeat,
                    "strategy": strategy.name,
                    "given drafts": trial.firsts_given(problem, repeat, strategy),
                }


def _key(record: Mapping[str, Any]) -> Record:
    given: list[str] = []
    for step in record["steps"]:
        if step["phase"] == "solve" and step["seed"] == "":
            given.append(step["text"])
    return {
        "problem": record["problem"],
        "question": record["question"],
        "gold answer": record["gold"],
        "repeat": record["repeat"],
        "strategy": record["strategy"],
        "given drafts": given,
    }
