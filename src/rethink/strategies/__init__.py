"""Strategies at test time: plain functions over a policy that take attempts and return attempts."""

from rethink.strategies.ask import merge, refine, solve
from rethink.strategies.attempt import Attempt, Setup
from rethink.strategies.cached_policy import CachedPolicy
from rethink.strategies.parse import Strategy, check_needs, parse, parse_all
from rethink.strategies.retry import blind_retry, reflect, reflexion, self_refine
from rethink.strategies.select import best, vote
from rethink.strategies.socratic import socratic

__all__ = [
    "Attempt",
    "CachedPolicy",
    "Setup",
    "Strategy",
    "best",
    "blind_retry",
    "check_needs",
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
