"""Grade one reply against a gold answer, by the verifier of an answer format."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.errors import UserError
from rethink.problems.answer_format import after_marks
from rethink.problems.gold import DamageError, join
from rethink.problems.rewards import first_right
from rethink.problems.source import find_answer_format
from rethink.thinking import check_marks
from rethink.types import Verdict


def grade(
    reply: str,
    gold: str | Sequence[str],
    verifier: str = "boxed",
    *,
    lenient: bool = False,
    refinement: bool = False,
    thinking: Sequence[str] = (),
) -> Verdict:
    r"""Return the verdict on a reply: right, wrong, or not graded, with the extracted answer and a reason.

    A list of gold answers accepts each of them. `verifier` names an answer format ("boxed", "choice", "mixed", "calls",
    "bfcl", "equation", "countdown", "signs", "shapes"), or is "module:function" for your own. With `lenient`, an answer
    outside the requested format counts as well. With `refinement`, the reply may quote earlier answers, which do not count.
    `thinking` holds an opening and a closing mark, if those of the common model families are not enough (docs/grading.md).
    Algebra runs in worker processes with time and memory limits, so no reply can hang the caller. Raise UserError for an
    unknown verifier, and for a gold answer that it cannot read. With a gold answer that lost a backslash, the verdict is
    "not graded".

    >>> import rethink
    >>> verdict = rethink.grade(r"Adding both gives \boxed{\frac{5}{6}}.", gold="5/6")
    >>> verdict.right, verdict.extracted
    (True, '\\frac{5}{6}')
    >>> rethink.grade("x is \\boxed{-2}.", gold=["2", "-2"]).right
    True
    >>> rethink.grade("The answer is 5/6.", gold="5/6").right
    False
    >>> rethink.grade("The answer is 5/6.", gold="5/6", lenient=True).right
    True
    >>> rethink.grade("Not \\boxed{2/5}, but \\boxed{5/6}.", gold="5/6", refinement=True).right
    True
    """
    if isinstance(gold, list | tuple) and gold and all(isinstance(one, str) for one in gold):
        gold = join(gold)
    for name, text in (("reply", reply), ("gold", gold), ("verifier", verifier)):
        if not isinstance(text, str):
            raise UserError(f"{name} must be text, not {text!r}")
    answer_format = find_answer_format(verifier)
    verify = after_marks(
        answer_format.verify_lenient if lenient else answer_format.verify, check_marks(tuple(thinking))
    )
    try:
        parsed = answer_format.parse_gold(str(gold))
    except DamageError as err:
        return Verdict(None, f"the gold answer {err}", None)
    except ValueError as err:
        raise UserError(f"the gold answer {err}") from err
    texts = answer_format.texts_to_grade(reply, refinement, thinking)
    return first_right(verify(text, parsed) for text in texts)
