"""Users' functions: find one by name, call it, and turn what it returns into a verdict."""

from __future__ import annotations

import importlib
import math
import reprlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from rethink.errors import UserError
from rethink.types import Verdict

ALLOWED = "True or False, a number from 0 to 1, or a rethink.Verdict"


def import_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names. Raise UserError if it cannot be imported or is not a function."""
    module, _, attribute = name.partition(":")
    try:
        function = attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as err:  # a user's module may raise anything, or exit
        raise UserError(f"{name} cannot be imported: {type(err).__name__}: {err}") from err
    if not callable(function):
        raise UserError(f"{name} is not a function")
    return function


def call_user_function(
    name: str,
    function: Callable[..., Any],
    args: list[Any],
    kwargs: dict[str, Any],
    right_threshold: float = 1.0,
    explain: Callable[[BaseException], str] | None = None,
) -> Verdict:
    """Return the function's verdict; not graded if it raises. Raise UserError if it returns something other than a
    verdict. `explain` adds to the reason what it knows about an exception.
    """
    try:
        value = function(*args, **kwargs)
    except (Exception, SystemExit) as err:  # a failure says nothing about the answer and must not end a run
        more = explain(err) if explain else ""
        return Verdict(None, f"{name} failed: {type(err).__name__}: {_to_utf8_text(str(err))}{more}")
    try:
        return as_verdict(value, right_threshold)
    except UserError as err:
        raise UserError(f"{name} {err}") from err


def as_verdict(value: object, right_threshold: float = 1.0) -> Verdict:
    """Return the verdict that a value returned by a verifier or a reward function stands for.

    A bool, 0 or 1 means wrong or right. A number in between is a reward, and right from `right_threshold` on. Scalars of
    numpy and torch count as Python numbers. Raise UserError for anything else: text, lists, None, NaN or another number.
    """
    if not isinstance(value, Verdict):
        return _verdict_of_number(value, right_threshold)
    reason, extracted = _to_utf8_text(value.reason) or "", _to_utf8_text(value.extracted)
    if value.right is None:
        return Verdict(None, reason or "the function gave no verdict", extracted, bool(value.lenient))
    graded = _verdict_of_number(value.right, right_threshold)
    score = graded.score if value.score is None else _number(value.score)
    return Verdict(graded.right, reason or graded.reason, extracted, bool(value.lenient), score)


def _verdict_of_number(value: object, right_threshold: float) -> Verdict:
    number = _number(value)
    if number in (0.0, 1.0):
        return Verdict(number == 1.0)
    return Verdict(number >= right_threshold, f"{number:.3g}, right from {right_threshold:g} on", score=number)


def _number(value: object) -> float:
    """Return a Python, numpy or torch bool or number from 0 to 1 as a float. Raise UserError for anything else."""
    scalar: Any = value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a numpy or torch scalar
        scalar = scalar.item()
    if not isinstance(scalar, bool | int | float):
        raise UserError(f"returned {_describe(value)}; it must return {ALLOWED}")
    if math.isnan(scalar) or not 0 <= scalar <= 1:
        raise UserError(f"returned {_describe(value)}, which is not between 0 and 1; it must return {ALLOWED}")
    return float(scalar)


def _to_utf8_text(value: object) -> str | None:
    """Return text that can be written as UTF-8; None for None."""
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _describe(value: object) -> str:
    return "None" if value is None else f"{reprlib.repr(value)} ({type(value).__name__})"
