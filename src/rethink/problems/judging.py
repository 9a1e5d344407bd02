"""Verdicts for groups of samples."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.types import Group, Sample, Verdict


def judge(groups: Sequence[Group]) -> list[Group]:
    """The same groups with each sample judged by its problem's verifier; not judged where that fails, or where the policy
    has said already that it cannot be."""
    return [tuple(s.judged(_verdict(s)) for s in group) for group in groups]


def _verdict(sample: Sample) -> Verdict:
    if sample.verdict is not None and sample.verdict.right is None:
        return sample.verdict
    try:
        return sample.problem.judge(sample.text)
    except Exception as err:  # a verifier's failure says nothing about the answer, and must not end a run
        return Verdict(None, f"the verifier failed: {type(err).__name__}: {err}")
