"""Strategies at test time: plain functions over a policy that take attempts and return attempts."""

from rethink.answer.ask import merge, refine, solve
from rethink.answer.attempt import Attempt, Setup
from rethink.answer.choose import best, vote
from rethink.answer.retry import blind_retry, reflect, reflexion, self_refine
from rethink.answer.shared import Shared
from rethink.answer.socratic import socratic
from rethink.answer.strategy import Strategy, parse, parse_all

__all__ = [
    "Attempt",
    "Setup",
    "Shared",
    "Strategy",
    "best",
    "blind_retry",
    "merge",
    "parse",
    "parse_all",
    "refine",
    "reflect",
    "reflexion",
    "self_refine",
    "socratic",
    "solve",
    "vote",
]
