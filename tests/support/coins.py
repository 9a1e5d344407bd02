"""A verifier that workers import in no time, as this module needs nothing that is slow to load."""

from __future__ import annotations

from rethink.seeds import stable_hash
from rethink.types import Verdict


def coin(reply: str, _gold: str) -> Verdict:
    """Right or wrong by a hash of the reply: even a random model is right half of the time, so that it learns."""
    return Verdict(stable_hash(reply) % 2 == 1)


def heads(_reply: str, _gold: str) -> Verdict:
    return Verdict(True)


def tails(_reply: str, _gold: str) -> Verdict:
    return Verdict(False)


def never(reply: str, gold: str) -> Verdict:
    return Verdict(False, f"{reply} is not {gold}")
