"""SuperCorrect (Yang et al., arXiv 2410.09008): imitate a teacher's solutions in steps, then prefer its correction of the
first wrong step to the student's own correction of it (cross-model DPO).

    L = -log sigmoid(beta [log p/p0 (a+, c+ | x, s_<k) - log p/p0 (a-, c- | x, s_<k)])

s_<k are the right steps of a wrong solution, a is the cause of the mistake in step k, and c the correction: + the
teacher's, which has seen a right solution, - the student's. p0 is the student after the first stage, which is a run
before the second one. Tokens with which both replies begin, s_<k among them, cancel out and are not trained. There is no
released code. We chose: the prompt also shows the whole wrong solution, as at test time; a correction ends with the
final answer, which is right in the teacher's and wrong in the student's. docs/methods/supercorrect.md lists all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.imitate import demonstrations, transcribed
from rethink.methods.supercorrect_corrections import correction_pairs, rewritten_solutions
from rethink.methods.supercorrect_inspection import Inspection
from rethink.methods.supercorrect_steps import CORRECT, REWRITE, StepForm
from rethink.objectives import Imitate, Prefer, Update
from rethink.types import Problem, Sample


@dataclass(frozen=True)
class SuperCorrect:
    """Imitate solutions in steps, or learn from pairs of corrections: one update per problem batch.

    - `stage`: "templates" prepares and imitates the teacher's solutions; "corrections" prepares and prefers its
      corrections.
    - `beta`: how strongly the second stage holds the policy to its start weights (DPO).
    - `n_tries`: how often `prepare` samples each problem to find wrong solutions.
    - `max_errors`: the largest number of wrong solutions per problem that are corrected.
    - `form`: the form of solutions and corrections.
    - `rewrite`: asks the teacher for a solution in steps; {solution} is the known answer.
    - `correct`: asks the teacher for a correction; {solution} is the known answer, {reply} the wrong solution.
    - `inspection`: how the teacher's replies are inspected.
    - `n_steps`: the number of optimizer steps per update.
    """

    samples: ClassVar[bool] = False
    asks_teacher: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True

    stage: Literal["templates", "corrections"] = "templates"
    beta: PositiveFloat = 0.1
    n_tries: PositiveInt = 4
    max_errors: PositiveInt = 2
    form: StepForm = StepForm()
    rewrite: str = REWRITE
    correct: str = CORRECT
    inspection: Inspection = Inspection()
    n_steps: PositiveInt = 1

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        if self.stage == "templates":
            samples = tuple(sample for problem in problems for sample in demonstrations(actors, problem))
            yield Update("templates", (Imitate(samples, (1.0,) * len(samples)),), self.n_steps)
            return
        chosen: list[Sample] = []
        rejected: list[Sample] = []
        for problem in problems:
            better, worse = self.pair(actors, problem)
            chosen.append(better)
            rejected.append(worse)
        yield Update("corrections", (Prefer(tuple(chosen), tuple(rejected), self.beta),), self.n_steps)

    def pair(self, actors: Actors, problem: Problem) -> tuple[Sample, Sample]:
        """Return the problem's chosen and rejected reply. The tokens with which both begin are not trained."""
        if problem.preference is None:
            raise UserError(
                f"problem {problem.id} has no pair of corrections; name the columns that `rethink prepare` makes "
                "(problems.chosen, problems.rejected and problems.draft)"
            )
        better, worse = problem.preference
        chosen, rejected = transcribed(actors, problem, better, 0), transcribed(actors, problem, worse, 1)
        n_shared = 0
        for a, b in zip(chosen.ids, rejected.ids, strict=False):
            if a != b:
                break
            n_shared += 1
        return _from_token(chosen, n_shared), _from_token(rejected, n_shared)

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """Yield one row per solution that the teacher has rewritten, or per wrong solution that it has corrected."""
        if self.stage == "templates":
            return rewritten_solutions(actors, problems, self.form, self.rewrite, self.inspection)
        errors = self.errors(actors, problems)
        return correction_pairs(actors, errors, self.form, self.correct, self.inspection)

    def errors(self, actors: Actors, problems: Sequence[Problem]) -> list[Sample]:
        """Return wrong solutions of the policy that have steps and were not cut, at most `max_errors` per problem."""
        errors: list[Sample] = []
        for group in actors.rollout(actors.prompts.ask(problems), self.n_tries):
            wrong = [s for s in group if s.right is False and s.stop == "stop" and self.form.steps(s.text)]
            errors += wrong[: self.max_errors]
        return errors


def _from_token(sample: Sample, n: int) -> Sample:
    """Return the sample with the first n tokens left out of the loss."""
    return replace(sample, mask=tuple(i >= n for i in range(len(sample.ids))))
