"""Evaluation before and after refinement: strategies answer problems, verifiers grade the answers, and a killed run
resumes.

All strategies start from the same first answers. `evaluate` is the usual entry point; `run_evaluation` is the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, ReplyKey, answer_from_attempt, answer_from_record, reply_key
from rethink.jsonl import SCHEMA, Record, RecordMismatchError, Resumable, write_lines
from rethink.policies.base import Policy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.run_folder import image_folder, store_images
from rethink.settings import AnswerSettings
from rethink.strategies import Attempt, CachedPolicy, Setup, Strategy, parse_all
from rethink.strategies.attempt import start_attempt
from rethink.types import Problem, Sample

Drafts = Mapping[str, Sequence[str]]
"""Given drafts by problem id; they replace sampled ones."""


@dataclass(frozen=True)
class EvaluationSpec:
    """What to evaluate: problems, strategies, and how often.

    `repeats` is the number of attempts at each problem. About `batch` first answers are sampled between two writes to the
    file. With `drafts`, strategies start from these instead, and each problem gets as many repeats as it has drafts for.
    """

    problems: Sequence[Problem]
    strategies: Sequence[Strategy]
    repeats: int = 1
    batch: int = 256
    drafts: Drafts | None = None

    @property
    def n_solve(self) -> int:
        """The most first answers that one attempt needs, over all strategies."""
        return max(1, max(s.n_solve for s in self.strategies))

    def repeats_of(self, problem: Problem) -> int:
        return self.repeats if self.drafts is None else len(self.drafts[problem.id]) // self.n_solve

    def batches(self) -> list[list[Problem]]:
        """Return the problems in batches of at most `batch` first answers, but at least one problem each."""
        batches: list[list[Problem]] = []
        n_free = 0
        for problem in self.problems:
            n = self.repeats_of(problem) * self.n_solve
            if n > n_free:
                batches.append([])
                n_free = self.batch
            batches[-1].append(problem)
            n_free -= n
        return batches

    def given_drafts(self, problem: Problem, repeat: int, strategy: Strategy) -> list[str]:
        """Return the given drafts of one attempt, in the order in which `solve` would sample them; [] without given
        drafts.
        """
        if self.drafts is None:
            return []
        return list(self.drafts[problem.id][repeat :: self.repeats_of(problem)][: strategy.n_solve])

    def check(self) -> None:
        """Raise UserError if the given drafts do not fit the strategies."""
        if self.drafts is None:
            return
        for strategy in self.strategies:
            if not strategy.n_solve:
                raise UserError(f"{strategy.name} starts without drafts, so none can be given")
        for problem in self.problems:
            if problem.id not in self.drafts:
                raise UserError(f"{problem.id} has no drafts; evaluate the problems that load_drafts returns")
            if not self.repeats_of(problem):
                n = len(self.drafts[problem.id])
                raise UserError(f"these strategies need {self.n_solve} drafts per problem, but {problem.id} has {n}")


@runtime_checkable
class ReusesPrefixes(Protocol):
    """A policy that can reuse the common prefixes of the prompts in a batch."""

    def reuse_prefixes(self) -> AbstractContextManager[None]: ...


def reusing_prefixes(policy: Policy) -> AbstractContextManager[None]:
    """Return a context in which the policy reuses common prefixes of prompts, if it can."""
    return policy.reuse_prefixes() if isinstance(policy, ReusesPrefixes) else nullcontext()


def make_setup(policy: Policy, prompts: Prompts, settings: AnswerSettings, judge: Policy | None = None) -> Setup:
    """Return what strategies need to run, from the evaluation settings."""
    return Setup(policy, prompts, settings.sampling, settings.refine_sampling, judge, settings.n_refine)


def evaluate(
    policy: Policy,
    problems: Sequence[Problem],
    settings: AnswerSettings | None = None,
    *,
    prompts: Prompts | None = None,
    drafts: Drafts | None = None,
    file: str | Path | None = None,
) -> list[Answer]:
    r"""Return the strategies' graded answers to all problems; with `file`, also write them there, replacing its contents.

    The default strategy answers each problem once, greedily, and then refines the answer. `drafts` by problem id, as
    `load_drafts` returns them, replace the answers that strategies start from: a problem gets as many attempts as it has
    drafts. Answers are ordered by problem, then attempt, then strategy. `summarize` turns those
    of one strategy into accuracies with intervals. Raise UserError for an unknown strategy, for a problem without drafts
    if there are any, and then for `settings.n` above 1.

    >>> from rethink import AnswerSettings, Problem, evaluate, summarize
    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.mathematics import verify
    >>> problem = Problem("p", "What is 1/2 + 1/3?", "5/6", verify, solve="{question}")
    >>> replies = {"solve": "\\boxed{2/5}", "refine": "\\boxed{5/6}"}
    >>> policy = FakePolicy(lambda prompt, index, version: replies[prompt.phase])
    >>> (answer,) = evaluate(policy, [problem], AnswerSettings(strategy="refine"))
    >>> [step.right for step in answer.steps]
    [False, True]
    >>> summarize([answer]).fix.value
    1.0
    """
    settings, prompts = settings or AnswerSettings(), prompts or Prompts()
    if isinstance(policy, str):
        raise UserError(f"evaluate needs a policy, such as rethink.load_policy({policy!r})")
    if not all(isinstance(problem, Problem) for problem in problems):
        raise UserError(
            "evaluate needs problems; make them from a data set with rethink.load_problems(SOURCE, rows=...)"
        )
    if drafts is not None and settings.n > 1:
        raise UserError(
            f"settings.n = {settings.n} has no effect with drafts: a problem gets as many attempts as it has drafts; pass "
            "settings with n = 1 (n_refine refines each draft several times)"
        )
    spec = EvaluationSpec(problems, parse_all(settings.strategy), settings.n, settings.batch_size, drafts)
    spec.check()
    path = None if file is None else Path(file)
    if path is not None:
        write_lines(path, [])
    return run_evaluation(make_setup(policy, prompts, settings), spec, resumable_answers(path))


def resumable_answers(file: Path | None) -> Resumable:
    """Return an answers file that an evaluation can resume; None keeps nothing on disk."""
    return Resumable(file, {"schema": SCHEMA}, _record_key)


def run_evaluation(
    setup: Setup, spec: EvaluationSpec, file: Resumable, progress: Callable[[int], None] = lambda _: None
) -> list[Answer]:
    """Return all answers, and append them to `file` batch by batch; answers that the file already has are reused.

    `progress` receives the number of problems done so far. Raise RecordMismatchError if the file has answers to other
    problems, strategies or drafts.
    """
    spec.check()
    found: list[Answer] = []
    done = 0
    for batch in spec.batches():
        records = file.read_batch(list(_expected_keys(spec, batch)))
        if records is not None:
            answers = [_stored_answer(record, file) for record in records]
        else:
            answers = answer_problems(setup, spec, batch)
            if file.file is not None:
                store_images(image_folder(file.file), batch)
            file.append([asdict(answer) for answer in answers])
        found += answers
        done += len(batch)
        progress(done)
    return found


def _stored_answer(record: Record, file: Resumable) -> Answer:
    try:
        return answer_from_record(record)
    except ValueError as err:
        raise RecordMismatchError(
            f"{file.file} has a damaged record, of the problem {record['problem']}; restore the file, or move it away"
        ) from err


def answer_problems(setup: Setup, spec: EvaluationSpec, problems: Sequence[Problem]) -> list[Answer]:
    """Return the answers to some problems, ordered by problem, then repeat, then strategy."""
    shared = replace(setup, policy=CachedPolicy(setup.policy, spec.n_solve * spec.repeats))
    with reusing_prefixes(setup.policy):
        attempts = [_run_strategy(shared, spec, strategy, problems) for strategy in spec.strategies]
    graded = _grade(list(chain.from_iterable(attempts)))
    found: list[Answer] = []
    for attempts_of_repeat in zip(*attempts, strict=True):
        for strategy, attempt in zip(spec.strategies, attempts_of_repeat, strict=True):
            found.append(answer_from_attempt(strategy.name, attempt, graded, given=spec.drafts is not None))
    return found


def _run_strategy(setup: Setup, spec: EvaluationSpec, strategy: Strategy, problems: Sequence[Problem]) -> list[Attempt]:
    """Return a strategy's attempts, ordered by problem, then repeat."""
    if spec.drafts is None:
        return strategy.run(setup, problems, spec.repeats)
    found: list[Attempt] = []
    for problem, ask in zip(problems, setup.prompts.ask(problems), strict=True):
        repeats = spec.repeats_of(problem)
        for repeat in range(repeats):
            drafts: list[Sample] = []
            for n, text in enumerate(spec.given_drafts(problem, repeat, strategy)):
                drafts.append(replace(setup.policy.transcribe(ask, text), index=n * repeats + repeat))
            found.append(start_attempt(problem, tuple(drafts), repeat))
    return strategy.continue_from(setup, found)


def _grade(attempts: Sequence[Attempt]) -> dict[ReplyKey, Sample]:
    """Return graded copies of first, fresh and final answers; each reply is graded once."""
    samples: dict[ReplyKey, Sample] = {}
    for attempt in attempts:
        for sample in attempt.samples:
            if sample.prompt.phase in ("solve", "fresh"):
                samples[reply_key(sample)] = sample
        for sample in attempt.finals:
            samples[reply_key(sample)] = sample
    groups = grade([(sample,) for sample in samples.values()])
    return {key: group[0] for key, group in zip(samples, groups, strict=True)}


def _expected_keys(spec: EvaluationSpec, problems: Sequence[Problem]) -> Iterator[Record]:
    """Yield what identifies each record of these problems, in order."""
    for problem in problems:
        for repeat in range(spec.repeats_of(problem)):
            for strategy in spec.strategies:
                yield {
                    "problem": problem.id,
                    "question": problem.question,
                    "gold answer": problem.gold,
                    "images": problem.image_names,
                    "repeat": repeat,
                    "strategy": strategy.name,
                    "given drafts": spec.given_drafts(problem, repeat, strategy),
                }


def _record_key(record: Mapping[str, Any]) -> Record:
    given: list[str] = []
    for step in record["steps"]:
        if step["phase"] == "solve" and step["seed"] == "":
            given.append(step["text"])
    return {
        "problem": record["problem"],
        "question": record["question"],
        "gold answer": record["gold"],
        "images": list(record.get("images", ())),
        "repeat": record["repeat"],
        "strategy": record["strategy"],
        "given drafts": given,
    }
