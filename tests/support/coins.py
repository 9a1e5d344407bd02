"""Verifiers in a module that worker processes import quickly."""

from __future__ import annotations

from rethink.seeds import stable_hash
from rethink.types import Verdict


def coin(reply: str, _gold: str) -> Verdict:
    """Grade by a hash of the reply: even a random model is right half of the time, so it learns."""
    return Verdict(stable_hash(reply) % 2 == 1)


def heads(_reply: str, _gold: str) -> Verdict:
    return Verdict(True)


def tails(_reply: str, _gold: str) -> Verdict:
    return Verdict(False)


def never(reply: str, gold: str) -> Verdict:
    return Verdict(False, f"{reply} is not {gold}")
