"""Hashes and generators from ids."""

from __future__ import annotations

from hashlib import blake2b

from rethink.seeds import rng, stable_hash


def test_the_hash_is_the_same_everywhere() -> None:
    """Guards against runs that cannot be repeated: the value is fixed, by an equal formula."""
    assert stable_hash("a", 1) == int(blake2b(b"str:a\x1fint:1", digest_size=8).hexdigest(), 16)


def test_types_and_borders_of_parts_count() -> None:
    """Guards against ids that share a seed."""
    parts: list[tuple[str | int, ...]] = [("1",), (1,), ("a", "b"), ("ab",), ("a", ""), ("b", "a"), ()]
    assert len({stable_hash(*some) for some in parts}) == len(parts)
    assert len({rng(*some).random() for some in parts}) == len(parts)
    assert rng("a", 1).random() == rng("a", 1).random()
