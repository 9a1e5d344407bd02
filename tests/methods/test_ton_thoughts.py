"""Replies with a thought: their form, skipped thoughts, and what skipping saves."""

from __future__ import annotations

import math

import pytest

from rethink.methods.ton_thoughts import ThoughtForm, describe_thoughts
from rethink.seeds import rng
from support.method_runs import reply_group

FORM = ThoughtForm()
BARE = ThoughtForm(("<think> ", " </think> "), ("", ""), " ")

FITS = [
    (FORM, "<think>2 and 2</think><answer>4</answer>", True, False),
    (FORM, "<think>\n\n</think><answer>4</answer>", True, True),
    (FORM, "<think></think><answer>4</answer>", True, True),
    (FORM, " <think> \t</think>\n\n<answer> 4\n</answer>\n", True, True),
    (FORM, "<think>.</think><answer>4</answer>", True, False),
    (FORM, "<think>two\nlines</think>\n<answer>4</answer>", True, False),
    (FORM, "so <think>2 and 2</think><answer>4</answer>", False, False),
    (FORM, "<think>2 and 2</think><answer>4</answer> so", False, False),
    (FORM, "<think>2 and 2</think>so<answer>4</answer>", False, False),
    (FORM, "<think>2</think><answer>4</answer><answer>5</answer>", False, False),
    (FORM, "<think>2</think><think>3</think><answer>4</answer>", False, False),
    (FORM, "<think>2 <think>3</think><answer>4</answer>", False, False),
    (FORM, "<think>2 <answer>5</answer></think><answer>4</answer>", False, False),
    (FORM, "<think>2</think><answer> \n </answer>", False, False),
    (FORM, "<think></think>4", False, True),
    (FORM, "<think>2 and 2<answer>4</answer>", False, False),
    (FORM, "<answer>4</answer>", False, False),
    (FORM, "", False, False),
    (BARE, "<think> 2 3 </think> 4", True, False),
    (BARE, "<think> </think> 4", True, True),
    (BARE, "<think> 2 3 </think>", False, False),
    (BARE, "<think> 2 </think> 3 </think> 4", False, False),
    (BARE, "4", False, False),
]


@pytest.mark.parametrize(("form", "reply", "fits", "is_skipped"), FITS)
def test_the_form_of_replies(form: ThoughtForm, reply: str, fits: bool, is_skipped: bool) -> None:
    """Guards against a second thought or answer that hides between the marks, and text outside of them."""
    assert (form.fits(reply), form.is_skipped(reply)) == (fits, is_skipped)


SKIPPED = {
    "<think>2 and 2</think>\n<answer> 4</answer>": "<think>\n\n</think>\n<answer> 4</answer>",
    "<think>\n\n</think><answer>4</answer>": "<think>\n\n</think><answer>4</answer>",
    "4": None,
}


@pytest.mark.parametrize(("reply", "skipped"), SKIPPED.items())
def test_skipping_changes_nothing_but_the_thought(reply: str, skipped: str | None) -> None:
    """Guards against a lost answer, and marks that are written anew."""
    assert FORM.skip(reply) == skipped
    if skipped is not None:
        assert FORM.fits(skipped)
        assert FORM.is_skipped(skipped)


def test_written_replies_fit() -> None:
    """Guards against a reply that is written in another form than it is read."""
    assert FORM.write("why", "4") == "<think>why</think><answer>4</answer>"
    assert BARE.write("2 3", "4") == "<think> 2 3 </think> 4"
    assert BARE.skip("<think> 2 3 </think> 4") == "<think> </think> 4"
    for form in (FORM, BARE):
        for thought in ("why", " ", ""):
            assert form.fits(form.write(thought, "4"))


def test_the_form_does_not_depend_on_the_length_of_a_thought() -> None:
    """Guards against a reward for short, or long, thoughts."""
    generator = rng("thoughts")
    for _ in range(101):
        thought = "".join(generator.choices("ab \n.<>/", k=generator.randrange(211)))
        assert FORM.fits(FORM.write(thought, "4"))


@pytest.mark.parametrize(
    ("settings", "message"), [({"thought": ("<t>", " ")}, "two marks"), ({"empty": "."}, "white space")]
)
def test_forms_that_cannot_be_read_are_refused(settings: dict[str, object], message: str) -> None:
    """Guards against a form in which every reply, or none, skips its thought."""
    with pytest.raises(ValueError, match=message):
        ThoughtForm(**settings)  # type: ignore[arg-type]


SHORT, LONG, LONGER = "<think></think> {}", "<think> a b c </think> {}", "<think> a b c d e </think> {}"
WORDS = ThoughtForm(answer=("", ""))
"""Of 3, 7 and 9 tokens, with the end token: FakePolicy takes words as tokens, and "<think></think>" is one word."""


def test_thoughts_are_described() -> None:
    """Guards against a mean over problems in the place of one over replies, and tokens saved by wrong answers.

    Right are the replies that end with their problem's gold answer, here 0, 1 and 2."""
    groups = [
        reply_group(0, [SHORT.format(0), SHORT.format(0), LONG.format(0), LONGER.format(0), LONGER.format(5)]),
        reply_group(1, [SHORT.format(5), LONG.format(1)]),
        reply_group(2, [SHORT.format(2), LONGER.format(5), "?"]),
        (),
    ]
    assert describe_thoughts(groups, WORDS) == {
        "skipped_frac": pytest.approx(4 / 10),
        "accuracy_skipped": pytest.approx(3 / 4),
        "accuracy_thought": pytest.approx(3 / 5),  # the reply "?" is not graded
        "tokens_skipped": pytest.approx(3),
        "tokens_thought": pytest.approx((7 + 9 + 9 + 7 + 9 + 2) / 6),
        "tokens_saved": pytest.approx((7 + 9) / 2 - 3),  # only p0 has right replies of both kinds
    }


def test_without_replies_nothing_is_defined() -> None:
    """Guards against a share of 0 where there is none."""
    assert all(math.isnan(value) for value in describe_thoughts([()], FORM).values())
    one = describe_thoughts([reply_group(1, [LONG.format(1)])], WORDS)
    assert (one["skipped_frac"], one["accuracy_thought"]) == (0, 1)
    assert math.isnan(one["tokens_saved"])
    assert math.isnan(one["accuracy_skipped"])
