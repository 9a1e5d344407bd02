"""What a reply states without the format that was asked for: statements, last lines, hedges."""

from __future__ import annotations

import pytest

from rethink.grading.stated import final_answer, final_number, last_formula, stated_answer

ANSWERS = {
    # statements
    "The answer is 42!": "42", "**Answer:** 42 🎉": "42", "The answer is 42. I hope it is correct.": "42",
    "The answer is 1.5 hours (90 minutes).": "1.5 hours", "The answer is 12, which is 3 times 4.": "12",
    "The answer is not $3$ but $14$.": "14", "The answer is not 3, but rather \\frac{1}{3}.": "\\frac{1}{3}",
    "The answer is 5, but not 6 or 7.": "5",
    "#### 12 (3 × 4)": "12", "#### 5 (2:30)": "5", "The answer is 25 minutes, until 10:30.": "25",
    "The answer is 8 boxes of 2×3.": "8", "The answer is 50 boxes, each 3 × 4.": "50", "Answer: 5 dozen × 12": "5",
    "The answer is 5 because 2 + 3 = 5": "5", "The answer is 12 apples for the 3 children.": "12",
    "The answer is (3, 4).": "(3, 4)", "The answer is \\frac{9}{2}.": "\\frac{9}{2}", "Answer: $10": "$10",
    "The answer is 90°.": "90°", "The answer is 50%": "50%", "The answer is Monday.": "Monday",
    "The answer is 1, 2, and 3.": "1, 2, and 3", "The answer is 5. Either way it works.": "5",
    "The answer is $-4$": "-4", "**Answer**\n6": "6",
    # last lines
    "So the profit is:\n\n$200,000 - $130,000 = $70,000.": "70,000", "She makes $18 per day.": "18",
    "x = \\frac{63}{400}": "\\frac{63}{400}", "The length is \\sqrt{3}.": "\\sqrt{3}", "Hence f(x) = 3x+1.": "3x+1",
    "The probability is 1/6.": "1/6", "The recipe needs 1 1/2 cups.": "1 1/2", "So x = 5!": "5", "y = -7": "-7",
    "The total is 5 + 6 = 11 apples.": "11", "It is 3.14 meters (10.3 feet).": "3.14", "It is 5, not 6.": "5",
    "Thus $x^2$ it is": "x^2", "#### \\frac{1}{2}": "\\frac{1}{2}", "#### 1,000": "1,000",
    "\\[\nx = \\frac{63}{400}\n\\]": "x = \\frac{63}{400}", "It is \\frac{1}{2} here.": "\\frac{1}{2}",
    "Answer: `42`": "42", "The length is 2√3.": "2√3", "So it is 5π": "5π", "area = 5²": "5²", "It is 3 × 4": "3 × 4",
    "The area is 25 cm^2.": "25", "They need 3 × 4 = 12.": "12", "The ratio is 3:4.": "3:4", "20 × 3 is 60.": "60",
    "🎉 The answer is 42 🎉!": "42", "So it is **42**.\n\n---": "42",
    # hedges
    "x = 5 or x = 6": "5, 6", "It could be 5, or 6.": "5, 6", "Possible answers: 5 and 6": "5 and 6",
    "It is 5 or 6.": "5, 6", "It is 6 or maybe 7": "6, 7", "It costs between $8 and $10.": "8, 10",
    "The answer is 5 or 6.": "5 or 6", "So $x = 5$ or $x = 6$.": "x = 5, x = 6", "I do not know.": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), ANSWERS.items(), ids=lambda text: repr(text)[:40])
def test_the_answer_that_people_would_read(text: str, answer: str | None) -> None:
    """Guards against an exclamation mark read as a factorial, remarks taken for answers, and one of two answers picked."""
    assert final_answer(text) == answer


def test_money_is_not_a_formula() -> None:
    """Guards against dollars that are read as the marks of a formula."""
    assert last_formula("from $5 to $6") is None
    assert last_formula("$ x + 1 $ and \\$5") == "x + 1"
    assert last_formula("$\\$70$") == "\\$70"


def test_parts_of_a_statement() -> None:
    """Guards against statements without content, and against marks at their end."""
    assert stated_answer("The answer is **17** ✅") == "17"
    assert stated_answer("No statement.") is None
    assert final_number("#### 1,234 apples") == "1,234"
