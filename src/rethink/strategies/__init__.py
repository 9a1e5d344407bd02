"""Strategies at test time: plain functions that take attempts and return attempts, one file each."""

from rethink.strategies.aggregate import aggregate, pick
from rethink.strategies.attempt import Attempt, Setup
from rethink.strategies.best_of_n import best_of_n
from rethink.strategies.cached_policy import CachedPolicy
from rethink.strategies.fresh_retry import fresh_retry
from rethink.strategies.merge import merge
from rethink.strategies.parse import Strategy, check_needs, parse, parse_all
from rethink.strategies.refine import refine
from rethink.strategies.reflect import blind_retry, reflect
from rethink.strategies.reflexion import reflexion
from rethink.strategies.self_refine import self_refine
from rethink.strategies.socratic import socratic
from rethink.strategies.solve import solve
from rethink.strategies.vote import vote

__all__ = [
    "Attempt",
    "CachedPolicy",
    "Setup",
    "Strategy",
    "aggregate",
    "best_of_n",
    "blind_retry",
    "check_needs",
    "fresh_retry",
    "merge",
    "parse",
    "parse_all",
    "pick",
    "refine",
    "reflect",
    "reflexion",
    "self_refine",
    "socratic",
    "solve",
    "vote",
]
