"""The verifier of `vs_trl.py`, in a module that imports no torch: graders load it when they start."""

from __future__ import annotations

from rethink.types import Verdict


def odd(reply: str, gold: str) -> Verdict:
    """Return the verdict of a verifier for which about every second reply is right."""
    return Verdict(len(reply) % 2 == 1)
