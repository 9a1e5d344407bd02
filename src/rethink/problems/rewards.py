"""Grade groups of samples and add reward terms.

A recipe names terms under `[[rewards]]`; a term is a user's function (docs/rewards.md) or the verdict. To add a kind of
term to the package itself, extend `WeightedTerm.compute` and `_build_term`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from rethink.errors import UserError
from rethink.grading.denied import DENIED
from rethink.grading.pool import SIZE
from rethink.grading.user_code import call_user_function
from rethink.grading.user_function import UserFunction, find_function
from rethink.problems.answer_format import AfterThinking
from rethink.settings import Reward
from rethink.types import Group, Problem, RewardTerm, Sample, Verdict

VERDICT = "verdict"
"""The name of the term that is 1 for a right reply and 0 for a wrong one, or the verdict's score."""
ARGUMENTS = ("reply", "gold", "question", "right", "n_tokens", "stop", "phase", "row")
"""The parameters that a user's reward function may have."""

IN_WORKERS = ("rethink.problems.mathematics", "rethink.problems.mixed", "rethink.problems.gym")
"""Modules whose verifiers do the work in worker processes (`grading.pool`)."""

T = TypeVar("T")
R = TypeVar("R")


def grade(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with each sample graded by its problem's verifier. The verdict alone is the reward.

    A sample is not graded if the verifier raises, hangs or crashes, or if the policy has marked it as not graded. Raise
    UserError if the verifier returns anything but a verdict.
    """
    concurrent = all(runs_in_workers(s.problem.verify) for group in groups for s in group[:1])
    return _map_groups(_grade_sample, groups, concurrent)


def run_verifier(verify: Callable[[str, str], object], reply: str, gold: str, where: str) -> Verdict:
    """Return a verifier's verdict, or "not graded" if it raises.

    Raise UserError if it returns anything but a verdict; the message begins with `where`, the problem or row.
    """
    try:
        if isinstance(verify, UserFunction):
            return verify(reply, gold)
        return call_user_function("the verifier", verify, [reply, gold], {})
    except UserError as err:
        raise UserError(f"{where}: {err}") from err


def first_right(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the first verdict that is right, else the last one."""
    for verdict in verdicts:
        if verdict.right:
            break
    return verdict


def runs_in_workers(verify: Callable[..., object]) -> bool:
    """Return whether worker processes do a verifier's work. Several calls should then run at once.

    Our other verifiers take less time than starting a thread. A function that runs in this process may
    not be ready for several threads at once.
    """
    if isinstance(verify, UserFunction):
        return not verify.in_process
    if isinstance(verify, AfterThinking):
        return runs_in_workers(verify.verify)
    inner = verify.func if isinstance(verify, partial) else verify
    return getattr(inner, "__module__", "") in IN_WORKERS


def map_all(function: Callable[[T], R], items: Sequence[T], concurrent: bool) -> list[R]:
    """Return function(item) for all items in order. If concurrent, run as many at once as there are workers."""
    if not concurrent or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(SIZE, len(items))) as threads:
        return list(threads.map(function, items))


def _map_groups(function: Callable[[Sample], Sample], groups: Sequence[Group], concurrent: bool) -> list[Group]:
    done = map_all(function, [s for group in groups for s in group], concurrent)
    found: list[Group] = []
    for group in groups:
        found.append(tuple(done[: len(group)]))
        done = done[len(group) :]
    return found


def _grade_sample(sample: Sample) -> Sample:
    if sample.verdict is not None and sample.verdict.right is None:
        return sample.with_verdict(sample.verdict)
    problem = sample.problem
    where = f"problem {problem.id}"
    verdicts = (run_verifier(problem.verify, text, problem.gold, where) for text in sample.graded_texts)
    return sample.with_verdict(first_right(verdicts))


@dataclass(frozen=True)
class WeightedTerm:
    """One term of the reward with its weight. `function` is a user's function, or None for the verdict."""

    name: str
    weight: float
    only_if_right: bool
    function: UserFunction | None

    def compute(self, sample: Sample) -> RewardTerm:
        """Return the term, before its weight, for a sample that was graded right or wrong."""
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
                row=sample.problem.row,
            )
        except UserError as err:
            raise UserError(f"problem {sample.problem.id}: {err}") from err
        if verdict.right is None:
            return RewardTerm(self.name, None, verdict.reason)
        return RewardTerm(self.name, float(verdict.right) if verdict.score is None else verdict.score)


@dataclass(frozen=True)
class Grader:
    """Grade groups as `grade` does, then set each reward to the weighted sum of the terms, if there are any."""

    terms: tuple[WeightedTerm, ...] = ()

    @property
    def reads_rows(self) -> bool:
        """Whether a reward function gets the rows of the problems."""
        return any(term.function is not None and term.function.reads_row for term in self.terms)

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        graded = grade(groups)
        if not self.terms:
            return graded
        concurrent = all(term.function is None or runs_in_workers(term.function) for term in self.terms)
        return _map_groups(self._add_reward, graded, concurrent)

    def _add_reward(self, sample: Sample) -> Sample:
        if sample.right is None:
            return sample
        terms = tuple(term.compute(sample) for term in self.terms)
        total = 0.0
        for term, found in zip(self.terms, terms, strict=True):
            if found.value is None:  # not 0, which would punish the reply because the function failed
                return replace(sample, reward=None, terms=terms)
            total += term.weight * found.value
        return replace(sample, reward=total, terms=terms)


VERDICT_ONLY = Grader()


def build_grader(rewards: Sequence[Reward], problems: Sequence[Problem] = ()) -> Grader:
    """Return the grader for a recipe's rewards. The verdict has the weight 1 unless "verdict" is among them.

    Each function is called with the first problem's gold answer, and with an empty reply, to refuse a wrong return type
    before the run begins. Raise UserError for that, for functions that cannot be imported, and for two terms with one name.
    """
    if not rewards:
        return VERDICT_ONLY
    terms = [_build_term(reward) for reward in rewards]
    if all(term.name != VERDICT for term in terms):
        terms.insert(0, WeightedTerm(VERDICT, 1.0, False, None))
    names: set[str] = set()
    for term in terms:
        if term.name in names:
            raise UserError(f"rewards: two terms are called {term.name!r}; give one of them another `name`")
        names.add(term.name)
        if term.function is not None and problems:
            probe(term.function, problems[0], right=True, n_tokens=1, stop="stop", phase="solve")
    return Grader(tuple(terms))


def probe(function: Callable[..., Any], problem: Problem, **more: Any) -> None:
    """Call a user's function with the gold answer as the reply, and with an empty reply, to check what it returns.

    Raise UserError if that is not a verdict, or if the sandbox denied something. A function that raises otherwise is
    accepted: it may expect a whole reply.
    """
    extra = {"question": problem.question, "row": problem.row, **more} if more else {}
    for reply in (problem.gold, ""):
        try:
            found = function(reply, problem.gold, **extra)
            if isinstance(found, Verdict) and found.right is None and DENIED in found.reason:
                raise UserError(found.reason)
        except UserError as err:
            what = "an empty reply" if not reply else "its gold answer"
            raise UserError(f"problem {problem.id}, {what}: {err}") from err


def _build_term(reward: Reward) -> WeightedTerm:
    if reward.function == VERDICT:
        return WeightedTerm(VERDICT, reward.weight, False, None)
    module, _, function = reward.function.partition(":")
    if not module or not function:
        raise UserError(f"rewards: a function is {VERDICT!r} or module:function, not {reward.function!r}")
    try:
        found = find_function(
            reward.function,
            ARGUMENTS,
            reward.timeout_s,
            reward.memory_gib,
            reward.in_process,
            sandbox=reward.sandbox,
            sandbox_off="sandbox=false in its term",
        )
    except UserError as err:
        raise UserError(f"rewards: {err}") from err
    return WeightedTerm(reward.name or function.rpartition(".")[2], reward.weight, reward.only_if_right, found)
