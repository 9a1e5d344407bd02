"""Grade one reply against a gold answer, by the verifier of an answer format."""

from __future__ import annotations

from rethink.errors import UserError
from rethink.problems.source import find_answer_format
from rethink.types import Verdict


def grade(reply: str, gold: str, verifier: str = "boxed", *, lenient: bool = False) -> Verdict:
    r"""Return the verdict on a reply: right, wrong, or not graded, with the extracted answer and a reason.

    `verifier` names an answer format: "boxed", "choice", "calls", "bfcl", "equation", "countdown", or "module:function" for
    your own. With `lenient`, an answer outside the requested format counts as well. Algebra runs in worker processes with
    time and memory limits, so no reply can hang the caller. Raise UserError for an unknown verifier.

    >>> import rethink
    >>> verdict = rethink.grade(r"Adding both gives \boxed{\frac{5}{6}}.", gold="5/6")
    >>> verdict.right, verdict.extracted
    (True, '\\frac{5}{6}')
    >>> rethink.grade("The answer is 5/6.", gold="5/6").right
    False
    >>> rethink.grade("The answer is 5/6.", gold="5/6", lenient=True).right
    True
    """
    for name, text in (("reply", reply), ("gold", gold), ("verifier", verifier)):
        if not isinstance(text, str):
            raise UserError(f"{name} must be text, not {text!r}")
    answer_format = find_answer_format(verifier)
    verify = answer_format.verify_lenient if lenient else answer_format.verify
    return verify(reply, gold)
