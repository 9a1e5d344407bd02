"""Seeds and random generators derived from ids, never from a global generator or a clock."""

from __future__ import annotations

import hashlib
import random


def stable_hash(*parts: str | int) -> int:
    """Return a 64-bit hash that is the same in every process, unlike Python's salted `hash`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def rng(*parts: str | int) -> random.Random:
    """Return a random generator seeded by these parts alone."""
    return random.Random(stable_hash(*parts))
