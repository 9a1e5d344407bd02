"""Data for learning from a teacher: solutions that it has rewritten in steps, and pairs of corrections, its own and the
student's. What is left out is counted in `actors.state`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rethink.methods.actors import Actors
from rethink.methods.imitate import known_answer
from rethink.methods.supercorrect_inspection import Inspection
from rethink.methods.supercorrect_steps import Correction, StepForm
from rethink.problems.conversation import problem_cells
from rethink.types import Group, Problem, Sample

FAULTY = "replies of the teacher that still had faults after the last round"


def rewritten_solutions(
    actors: Actors, problems: Sequence[Problem], form: StepForm, text: str, inspection: Inspection
) -> Iterator[dict[str, Any]]:
    """Yield one row per problem whose known solution the teacher has rewritten in steps."""

    def check(i: int, reply: Sample) -> str:
        if reply.stop == "stop" and not form.is_template(reply.text):
            return "It does not have the form that was asked for."
        return _common_fault(reply)

    asks = []
    for problem in problems:
        asks.append(actors.prompts.compose(problem, "rewrite", text, solution=known_answer(problem)))
    for problem, reply in zip(problems, inspection.replies(actors, asks, check), strict=True):
        if reply is None:
            actors.leave_out(FAULTY)
            continue
        yield {**problem_cells(problem), "reply": reply.text}


def correction_pairs(
    actors: Actors, errors: Sequence[Sample], form: StepForm, text: str, inspection: Inspection
) -> Iterator[dict[str, Any]]:
    """Yield one row per wrong solution: the teacher's correction, and the student's of the same step.

    Both follow the refine prompt and begin with the right steps. The student's is sampled from there on; it is left out
    if it is right, was cut, or could not be graded."""

    def check(i: int, reply: Sample) -> str:
        if reply.stop == "stop" and form.read_correction(errors[i].text, reply.text) is None:
            return (
                "It does not repeat the right steps word for word and then give the cause and the correction of the first "
                "wrong step in the form that was asked for."
            )
        return _common_fault(reply)

    asks = []
    for error in errors:
        values = {"solution": known_answer(error.problem), "reply": error.text}
        asks.append(actors.prompts.compose(error.problem, "refine", text, draft=error, **values))
    corrected: list[Sample] = []
    corrections: list[Correction] = []
    for error, reply in zip(errors, inspection.replies(actors, asks, check), strict=True):
        correction = None if reply is None else form.read_correction(error.text, reply.text)
        if correction is None:
            actors.leave_out(FAULTY)
        else:
            corrected.append(error)
            corrections.append(correction)
    for error, correction, own in zip(corrected, corrections, _own(actors, corrected, corrections), strict=True):
        if own is None:
            actors.leave_out("corrections of the student's that were right, cut, or not graded")
            continue
        yield {
            "id": f"{error.problem.id}#{error.index}",
            **problem_cells(error.problem),
            "draft": error.text,
            "step": correction.k,
            "chosen": correction.right_steps + correction.trace,
            "rejected": own.text,
        }


def _own(actors: Actors, errors: Sequence[Sample], corrections: Sequence[Correction]) -> list[Sample | None]:
    """Return the student's own corrections, sampled after the right steps; None for one that is
    not wrong, or was cut."""
    if not errors:
        return []
    sampling = errors[0].sampling
    starts: list[Sample] = []
    for ask in actors.prompts.ask_to_refine(errors):
        start = actors.policy.transcribe(ask, "")
        starts.append(replace(start, sampling=sampling))  # an empty reply has any distribution
    right_steps = [correction.right_steps for correction in corrections]
    groups: list[Group] = []
    for own in actors.policy.extend(starts, right_steps):
        groups.append(() if own is None else (own,))
    wrong: list[Sample | None] = []
    for group in actors.grade(groups):
        is_wrong = bool(group) and group[0].right is False and group[0].stop == "stop"
        wrong.append(group[0] if is_wrong else None)
    return wrong


def _common_fault(reply: Sample) -> str:
    if reply.stop != "stop":
        return "It is too long."
    return "" if reply.right else "Its final answer is not right."
