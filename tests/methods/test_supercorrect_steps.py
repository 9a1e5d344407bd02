"""Solutions in steps: where they are wrong, and what a correction must look like."""

from __future__ import annotations

import pytest

from rethink.methods.supercorrect_steps import Correction, StepForm

FORM = StepForm()
ONE, TWO, THREE = "<Step1>2 * 3 = 6</Step1>\n", "<Step2>6 + 1 = 8</Step2>\n", "<Step3>So 8.\nDone.</Step3>"
SOLUTION = ONE + TWO + THREE
TRACE = "<Cause>6 + 1 is 7</Cause>\n<Correction><Step2>6 + 1 = 7</Step2> So 7.</Correction>"
FROM_ONE = "<Cause>2 * 3 is 6</Cause><Correction>7</Correction>"

READ = {
    "the first wrong step": (ONE + TRACE, Correction(2, ONE, TRACE)),
    "white space that differs": ("<Step1>2 *  3 =\n6</Step1>" + TRACE, Correction(2, ONE, TRACE)),
    "line breaks between steps": ("\n" + ONE.strip() + "\n\n" + TRACE + "\n", Correction(2, ONE, TRACE + "\n")),
    "the first step": (FROM_ONE, Correction(1, "", FROM_ONE)),
    "the last step": (ONE + TWO + TRACE, Correction(3, ONE + TWO, TRACE)),
    "all steps right": (SOLUTION, None),
    "a correction after all steps": (SOLUTION + TRACE, None),
    "no correction": (ONE, None),
    "a cause alone": (ONE + "<Cause>6 + 1 is 7</Cause>", None),
    "a correction without a cause": (ONE + "<Correction>7</Correction>", None),
    "wrong order": (ONE + "<Correction>7</Correction><Cause>no</Cause>", None),
    "an empty correction": (ONE + "<Cause>no</Cause><Correction></Correction>", None),
    "a step that the solution does not have": ("<Step1>2 + 3 = 5</Step1>" + TRACE, None),
    "a step out of place": (TWO + TRACE, None),
    "text after the correction": (ONE + TRACE + "That is all.", None),
    "text before the steps": ("Well. " + ONE + TRACE, None),
}


@pytest.mark.parametrize(("reply", "expected"), READ.values(), ids=READ)
def test_corrections(reply: str, expected: Correction | None) -> None:
    """Guards against right steps that are trained, wrong ones that are not, and a correction of another solution."""
    assert FORM.read_correction(SOLUTION, reply) == expected


def test_a_repeated_step_inside_the_correction_is_no_right_step() -> None:
    """Guards against a step of the correction that passes for a repeated one, because it has the same text."""
    trace = f"<Cause>no</Cause><Correction>{TWO}7</Correction>"
    assert FORM.read_correction(SOLUTION, ONE + trace) == Correction(2, ONE, trace)


def test_solutions_without_steps_have_no_correction() -> None:
    """Guards against a correction whose place nobody knows."""
    assert FORM.read_correction("It is 8.", FROM_ONE) is None
    assert FORM.steps("It is 8. " + ONE) == []


def test_steps_of_other_forms() -> None:
    """Guards against tags that cannot be changed: rows of a grid, separated by slashes."""
    rows = StepForm(step=r"\d \d(?: /)?", correction=".+")
    assert rows.steps("1 2 / 3 4 / 5 6") == ["1 2 /", " 3 4 /", " 5 6"]
    assert rows.read_correction("1 2 / 3 4", "1 2 / 4 3") == Correction(2, "1 2 /", " 4 3")
    assert rows.read_correction("1 2 / 3 4", "1 2 / 3 4 ? 1 2 / 4 3") is None


TEMPLATES = {
    ONE + "<Generalized>Add last.</Generalized>\n<Answer>\\boxed{7}</Answer>": True,
    ONE + TWO + "<Generalized>Add\nlast.</Generalized><Answer>7</Answer> ": True,
    "<Step1><Key>2 * 3</Key> = 6</Step1><Generalized>x</Generalized><Answer>7</Answer>": True,
    ONE + "<Generalized>Add last.</Generalized>": False,
    ONE + "<Answer>7</Answer>": False,
    "<Generalized>Add last.</Generalized><Answer>7</Answer>": False,
    "<Step1>2 <Step2>3</Step2></Step1><Generalized>x</Generalized><Answer>7</Answer>": False,
    "Well. " + ONE + "<Generalized>x</Generalized><Answer>7</Answer>": False,
}


@pytest.mark.parametrize(("text", "expected"), TEMPLATES.items())
def test_templates(text: str, expected: bool) -> None:
    """Guards against solutions with a missing or nested part."""
    assert FORM.is_template(text) is expected


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "is no regular expression"), (".*", "must not match an empty text")]
)
@pytest.mark.parametrize("name", ["step", "template", "correction"])
def test_patterns_that_cannot_be_used_are_refused(name: str, pattern: str, message: str) -> None:
    """Guards against a loop over steps without end, and a traceback in the middle of `rethink prepare`."""
    with pytest.raises(ValueError, match=f"form.{name} {message}"):
        StepForm(**{name: pattern})
