"""Users' functions: find one by name, call it, and turn what it returns into a verdict."""

from __future__ import annotations

import importlib
import inspect
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from operator import attrgetter
from typing import Any

from rethink.errors import UserError
from rethink.printable import printable
from rethink.types import Verdict

ALLOWED = (
    'True or False, a number from 0 to 1, a pair (verdict, reason), a dictionary with a "score", or a rethink.Verdict'
)
MAX_REASON = 1000
"""Longer reasons (in characters) are cut: they are logged with every sample."""


def import_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names. Raise UserError if it cannot be imported or is not a function."""
    module, _, attribute = name.partition(":")
    try:
        function = attrgetter(attribute)(importlib.import_module(module))
    except (Exception, SystemExit) as err:  # a user's module may raise anything, or exit
        raise UserError(f"{name} cannot be imported: {type(err).__name__}: {_reason(_text(err))}") from err
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
    except KeyboardInterrupt:
        raise
    except BaseException as err:  # a failure or an exit says nothing about the answer and must not end a run
        more = explain(err) if explain else ""
        return Verdict(None, _reason(f"{name} failed: {type(err).__name__}: {_text(err)}") + more)
    try:
        return as_verdict(value, right_threshold)
    except UserError as err:
        raise UserError(f"{name} {err}") from err


def as_verdict(value: object, right_threshold: float = 1.0) -> Verdict:
    """Return the verdict that a value returned by a verifier or a reward function stands for.

    A bool, 0 or 1 means wrong or right. A number in between is a reward, and right from `right_threshold` on. Scalars and
    arrays of one element (numpy, torch, ...) count as the number that they hold. A pair is a verdict and its reason. A
    dictionary has a "score", and may have an "acc" (the verdict) and a "pred" (the extracted answer), as verl's functions
    return it; its other keys are ignored. Raise UserError for anything else: text, lists, None, NaN or another number.
    """
    if isinstance(value, Verdict):
        return _clean(value, right_threshold)
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str | bytes | None):
        return _clean(Verdict(*value), right_threshold)  # the first may be None, with a reason
    if isinstance(value, Mapping) and value.get("score") is not None:
        score, right = value["score"], value.get("acc")
        extracted = value["pred"] if isinstance(value.get("pred"), str) else ""
        verdict = Verdict(score, "", extracted) if right is None else Verdict(right, "", extracted, score=score)
        return _clean(verdict, right_threshold)
    return _verdict_of_number(value, right_threshold)


def _clean(verdict: Verdict, right_threshold: float) -> Verdict:
    """Return the verdict with a bool, a score from 0 to 1 and texts that can be logged. Its `right` may be a number."""
    reason = _reason(_text(verdict.reason))
    extracted = None if verdict.extracted is None else _text(verdict.extracted)
    if verdict.right is None:
        return Verdict(None, reason or "the function gave no verdict", extracted, bool(verdict.lenient))
    graded = _verdict_of_number(verdict.right, right_threshold)
    score = graded.score if verdict.score is None else _number(verdict.score)
    return Verdict(graded.right, reason or graded.reason, extracted, bool(verdict.lenient), score)


def _verdict_of_number(value: object, right_threshold: float) -> Verdict:
    number = _number(value)
    if number in (0.0, 1.0):
        return Verdict(number == 1.0)
    return Verdict(number >= right_threshold, f"{number:.3g}, right from {right_threshold:g} on", score=number)


def _number(value: object) -> float:
    """Return a bool or number from 0 to 1 as a float. Raise UserError for anything else."""
    scalar = _scalar(value)
    if not isinstance(scalar, bool | Real | Decimal):
        raise UserError(f"returned {_describe(value)}{_hint(value)}; it must return {ALLOWED}")
    try:
        number = float(scalar)
    except (OverflowError, ValueError):
        number = math.inf
    if not 0 <= number <= 1:
        hint = " (give a penalty as a positive number, and its term a negative weight)" if number < 0 else ""
        raise UserError(f"returned {_describe(value)}, which is not between 0 and 1{hint}; it must return {ALLOWED}")
    return number


def _scalar(value: Any) -> Any:
    """Return what an array of one element holds, and sympy's truth values as bools; anything else unchanged."""
    if type(value).__name__ in ("BooleanTrue", "BooleanFalse"):
        return bool(value)
    shape = getattr(value, "shape", None)
    if isinstance(shape, Sequence) and math.prod(shape) == 1 and hasattr(value, "item"):
        return value.item()
    return value


def _hint(value: object) -> str:
    """Return the likely slip behind a wrong value."""
    if value is None:
        return " (does it end without a return?)"
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        return " (it is async: call it with asyncio.run in a function of your own)"
    if inspect.isgenerator(value):
        return " (it yields: use return)"
    if isinstance(value, list):
        return " (it gets one reply, not a list of replies: return one value)"
    if isinstance(value, Mapping):
        return ' (without a "score")'
    return ""


def _reason(text: str) -> str:
    """Return a text without characters that control a terminal, cut at `MAX_REASON` characters."""
    shown = printable(text[:MAX_REASON])
    return shown if len(text) <= MAX_REASON else f"{shown} [... {len(text)} characters]"


def _text(value: object) -> str:
    """Return text that can be written as UTF-8; "" for None."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return str(value).encode("utf-8", "replace").decode("utf-8")
    except Exception as err:  # an exception of a user's module may fail to describe itself
        return f"({type(value).__name__}, which cannot be shown: {type(err).__name__})"


def _describe(value: object) -> str:
    return "None" if value is None else f"{_reason(reprlib.repr(value))} ({type(value).__name__})"
