"""Verdicts and rewards for groups of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from rethink.errors import UserError
from rethink.grading.pool import SIZE
from rethink.grading.user_code import call_user_function
from rethink.grading.user_function import UserFunction, find_function
from rethink.settings import Reward
from rethink.types import Group, Problem, RewardTerm, Sample, Verdict

VERDICT = "verdict"
"""The name of the term that is the verdict itself."""
ARGUMENTS = ("reply", "gold", "question", "right", "n_tokens", "stop", "phase")
"""What a reward's function may ask for by name."""

IN_WORKERS = ("rethink.problems.mathematics", "rethink.problems.gym")
"""Modules whose verifiers leave the work to workers (`grading.pool`)."""

T = TypeVar("T")
R = TypeVar("R")


def grade(groups: Sequence[Group]) -> list[Group]:
    """Return the same groups with each sample graded by its problem's verifier, and rewarded by that verdict alone.

    Not graded where the verifier raises, hangs or crashes, and where the policy has said that it cannot be. Raises
    UserError where it returns what is no verdict.
    """
    concurrent = all(is_concurrent(s.problem.verify) for group in groups for s in group[:1])
    return _map_groups(_graded, groups, concurrent)


def verdict_of(verify: Callable[[str, str], object], reply: str, gold: str, where: str) -> Verdict:
    """Return a verifier's verdict; not graded where it raises. Raise UserError, which says where, for what is none."""
    try:
        if isinstance(verify, UserFunction):
            return verify(reply, gold)
        return call_user_function("the verifier", verify, [reply, gold], {})
    except UserError as err:
        raise UserError(f"{where}: {err}") from err


def is_concurrent(verify: Callable[..., object]) -> bool:
    """Return whether several calls of a verifier should go on at once: where workers do the work. Our other verifiers take
    less time than a thread, and any other function may count on the main thread, with its signals."""
    if isinstance(verify, UserFunction):
        return not verify.in_process
    inner = verify.func if isinstance(verify, partial) else verify
    return getattr(inner, "__module__", "") in IN_WORKERS


def map_all(act: Callable[[T], R], items: Sequence[T], concurrent: bool) -> list[R]:
    """Return act(item) for all items in order; concurrently, as many at once as there are workers."""
    if not concurrent or len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(SIZE, len(items))) as threads:
        return list(threads.map(act, items))


def _map_groups(act: Callable[[Sample], Sample], groups: Sequence[Group], concurrent: bool) -> list[Group]:
    done = map_all(act, [s for group in groups for s in group], concurrent)
    found: list[Group] = []
    for group in groups:
        found.append(tuple(done[: len(group)]))
        done = done[len(group) :]
    return found


def _graded(sample: Sample) -> Sample:
    if sample.verdict is not None and sample.verdict.right is None:
        return sample.with_verdict(sample.verdict)
    problem = sample.problem
    return sample.with_verdict(verdict_of(problem.verify, sample.text, problem.gold, f"problem {problem.id}"))


@dataclass(frozen=True)
class Term:
    """A term of the reward: a user's function, or None for the verdict itself."""

    name: str
    weight: float
    only_if_right: bool
    function: UserFunction | None

    def of(self, sample: Sample) -> RewardTerm:
        """Return the term for a sample with a verdict of right or wrong."""
        if self.function is None:
            return RewardTerm(self.name, sample.reward)
        if self.only_if_right and not sample.right:
            return RewardTerm(self.name, 0.0)
        try:
            verdict = self.function(
                sample.text,
                sample.problem.gold,
                question=sample.problem.question,
                right=sample.right,
                n_tokens=sample.n_tokens,
                stop=sample.stop,
                phase=sample.prompt.phase,
            )
        except UserError as err:
            raise UserError(f"problem {sample.problem.id}: {err}") from err
        if verdict.right is None:
            return RewardTerm(self.name, None, verdict.reason)
        return RewardTerm(self.name, float(verdict.right) if verdict.score is None else verdict.score)


@dataclass(frozen=True)
class Grader:
    """`grade`, and then a reward that is the weighted sum of these terms; without terms, the verdict's."""

    terms: tuple[Term, ...] = ()

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        graded = grade(groups)
        if not self.terms:
            return graded
        concurrent = all(term.function is None or is_concurrent(term.function) for term in self.terms)
        return _map_groups(self._rewarded, graded, concurrent)

    def _rewarded(self, sample: Sample) -> Sample:
        if sample.right is None:
            return sample
        terms = tuple(term.of(sample) for term in self.terms)
        total = 0.0
        for term, found in zip(self.terms, terms, strict=True):
            if found.value is None:  # never 0: that would punish the reply for a failure of the function's
                return replace(sample, reward=None, terms=terms)
            total += term.weight * found.value
        return replace(sample, reward=total, terms=terms)


VERDICT_ONLY = Grader()


def open_grader(rewards: Sequence[Reward], problems: Sequence[Problem] = ()) -> Grader:
    """Return the grade that a recipe's rewards name. The verdict counts 1 unless "verdict" is among them.

    Each function is called once, with the gold answer of the first problem for a reply, so that one that returns what is
    no reward is refused before a run begins. Raises UserError for that, for functions that cannot be imported, and for
    two terms of one name.
    """
    if not rewards:
        return VERDICT_ONLY
    terms = [_term(reward) for reward in rewards]
    if all(term.name != VERDICT for term in terms):
        terms.insert(0, Term(VERDICT, 1.0, False, None))
    names: set[str] = set()
    for term in terms:
        if term.name in names:
            raise UserError(f"rewards: two terms are called {term.name!r}; give one of them another `name`")
        names.add(term.name)
        if term.function is not None and problems:
            probe(term.function, problems[0], right=True, n_tokens=1, stop="stop", phase="solve")
    return Grader(tuple(terms))


def probe(function: Callable[..., Any], problem: Problem, **more: Any) -> None:
    """Call a user's function once, with the problem's gold answer as the reply. Raise UserError where it returns what is
    no verdict; one that fails is not refused, as it may expect another form of reply."""
    extra = {"question": problem.question, **more} if more else {}
    try:
        function(problem.gold, problem.gold, **extra)
    except UserError as err:
        raise UserError(f"problem {problem.id}: {err}") from err


def _term(reward: Reward) -> Term:
    if reward.function == VERDICT:
        return Term(VERDICT, reward.weight, False, None)
    module, _, function = reward.function.partition(":")
    if not module or not function:
        raise UserError(f"rewards: a function is {VERDICT!r} or module:function, not {reward.function!r}")
    try:
        found = find_function(reward.function, ARGUMENTS, reward.timeout_s, reward.memory_gib, reward.in_process)
    except UserError as err:
        raise UserError(f"rewards: {err}") from err
    return Term(reward.name or function.rpartition(".")[2], reward.weight, reward.only_if_right, found)
