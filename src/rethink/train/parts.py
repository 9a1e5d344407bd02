"""The closed set of parts: how each is split over optimizer steps, what its rows and denominators are."""

from __future__ import annotations

from dataclasses import replace

from rethink.objectives import Advantage, Imitate, Part, PolicyGradient, Prefer
from rethink.train.micro_batch import Row, by_group, shares
from rethink.types import Sample


def split(part: Part, n_steps: int) -> list[Part]:
    """The part as n_steps parts over equal shares of whole groups (of pairs: by the group of the chosen)."""
    if isinstance(part, Prefer):
        return [
            replace(part, chosen=tuple(part.chosen[i] for i in p), rejected=tuple(part.rejected[i] for i in p))
            for p in shares(by_group(part.chosen), n_steps)
        ]
    found: list[Part] = []
    for share in shares(by_group(part.samples), n_steps):
        samples = tuple(part.samples[i] for i in share)
        if isinstance(part, PolicyGradient):
            found.append(replace(part, samples=samples, advantages=tuple(part.advantages[i] for i in share)))
        else:
            found.append(replace(part, samples=samples, weights=tuple(part.weights[i] for i in share)))
    return found


def factors(part: PolicyGradient | Imitate) -> tuple[Advantage, ...]:
    """What the loss of each sample's tokens is multiplied with: their advantages or weights."""
    return part.advantages if isinstance(part, PolicyGradient) else part.weights


def rows_of(part: PolicyGradient | Imitate, old: dict[int, tuple[float, ...]]) -> list[Row]:
    """The rows that have a gradient. The denominator counts all samples of the part, also those with weight 0."""
    n_tokens = sum(s.n_trained for s in part.samples)
    n_samples = sum(s.n_trained > 0 for s in part.samples)
    return [
        Row(s, w, _scale(part, s, n_tokens, n_samples), old.get(id(s)))
        for s, w in zip(part.samples, factors(part), strict=True)
        if s.n_trained and needs_gradient(part, w)
    ]


def needs_gradient(part: PolicyGradient | Imitate, factor: Advantage) -> bool:
    """A sample with nothing but 0 costs nothing, unless a KL term acts on it."""
    some = any(factor) if isinstance(factor, tuple) else factor != 0
    return some or (isinstance(part, PolicyGradient) and part.kl != 0)


def _scale(part: PolicyGradient | Imitate, sample: Sample, n_tokens: int, n_samples: int) -> float:
    mean = part.mean if isinstance(part, PolicyGradient) else "token"
    if mean == "token":
        return part.coefficient / n_tokens
    if mean == "sequence":
        return part.coefficient / (n_samples * sample.n_trained)
    assert isinstance(part, PolicyGradient)
    return part.coefficient / (n_samples * part.length)


def pair_rows(part: Prefer) -> list[tuple[Row, Row]]:
    """Chosen and rejected rows of each pair; pairs without any trained token are left out, of the mean as well."""
    pairs = [(c, r) for c, r in zip(part.chosen, part.rejected, strict=True) if c.n_trained or r.n_trained]
    scale = part.coefficient / max(1, len(pairs))
    return [(Row(c, scale=scale), Row(r, scale=scale)) for c, r in pairs]
