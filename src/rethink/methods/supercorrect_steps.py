"""Solutions in numbered steps, and corrections of their first wrong step: the tags, and the texts that ask for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

REWRITE = (
    "{task}\n\nThis is a right solution:\n\n{solution}\n\nRewrite it for a student in the form below, with nothing outside "
    "the tags.\n<Step1>the first step</Step1>, <Step2>the second one</Step2> and so on; in a hard step, explain what "
    "matters between <Key> and </Key>.\n<Generalized>what carries over to other problems of this kind</Generalized>\n"
    "<Answer>the final answer</Answer>"
)
"""Asks the teacher for a solution with hierarchical thoughts, with the tags of SuperCorrect (arXiv 2410.09008)."""

CORRECT = (
    "{task}\n\nThis is a right solution:\n\n{solution}\n\nThis is what a student wrote:\n\n{reply}\n\nFind the student's "
    "first wrong step. Repeat the steps before it word for word, with their tags. In place of the wrong step and all that "
    "follow, write:\n<Cause>why this step is wrong</Cause>\n<Correction>the right step and those that follow, up to the "
    "final answer</Correction>\nWrite as if you had not seen the right solution."
)
"""Asks the teacher for the correction of a student's solution; all texts are in our own words."""

STEP = r"<Step\d+>(?:(?!</?Step).)*</Step\d+>\s*"
TEMPLATE = rf"(?:{STEP})+<Generalized>.+?</Generalized>\s*<Answer>.+</Answer>\s*"
CORRECTION = r"<Cause>.+?</Cause>\s*<Correction>.+</Correction>\s*"


@dataclass(frozen=True)
class Correction:
    """A correction of step k (from 1) of a solution: the right steps before it as the solution has them, and the rest."""

    k: int
    right_steps: str
    trace: str


@dataclass(frozen=True)
class StepForm:
    """The form of solutions in steps, as regular expressions in which a dot also matches a line break.

    - `step`: one step of a solution.
    - `template`: a whole solution of the teacher.
    - `correction`: what follows the right steps in a correction: the cause of the mistake and the corrected steps.

    >>> form = StepForm(step=r"\\d;")
    >>> form.steps("1;2;x3;")
    ['1;', '2;']
    """

    step: str = STEP
    template: str = TEMPLATE
    correction: str = CORRECTION

    def __post_init__(self) -> None:
        for name in ("step", "template", "correction"):
            try:
                pattern = re.compile(getattr(self, name), re.DOTALL)
            except re.error as err:
                raise ValueError(f"form.{name} is no regular expression: {err}") from err
            if pattern.match(""):
                raise ValueError(f"form.{name} must not match an empty text")

    def steps(self, text: str) -> list[str]:
        """Return the steps with which a text begins, without gaps between them."""
        pattern = re.compile(rf"\s*(?:{self.step})", re.DOTALL)
        found: list[str] = []
        end = 0
        while match := pattern.match(text, end):
            found.append(match[0])
            end = match.end()
        return found

    def is_template(self, text: str) -> bool:
        """Return whether a whole text has the form of the teacher's solutions."""
        return re.fullmatch(rf"\s*(?:{self.template})", text, re.DOTALL) is not None

    def read_correction(self, solution: str, reply: str) -> Correction | None:
        """Return the correction in a reply that repeats the right steps of a solution. White space does not matter.

        Return None if the reply repeats all steps, as if none was wrong, or if what follows them is no correction."""
        given, repeated = self.steps(solution), self.steps(reply)
        n = 0
        while n < min(len(given), len(repeated)) and given[n].split() == repeated[n].split():
            n += 1
        trace = reply[len("".join(repeated[:n])) :]
        if n == len(given) or re.fullmatch(rf"\s*(?:{self.correction})", trace, re.DOTALL) is None:
            return None
        return Correction(n + 1, "".join(given[:n]), trace)
