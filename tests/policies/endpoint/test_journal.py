"""Replies that are kept in a file until they are needed again."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.jsonl import RecordMismatchError
from rethink.policies.endpoint.journal import Journal
from rethink.types import Sampling
from support.fake_endpoint import FakeEndpoint, completion, echo, make_policy, make_prompt, make_prompts


def test_kept_replies_are_the_same_samples(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    """Guards against samples that differ after a stop, and against replies to another prompt, number or sampling."""
    file, prompts = tmp_path / "kept.jsonl", make_prompts(3)
    first = Journal(make_policy(endpoint), file).sample(prompts, 2)
    again = Journal(make_policy(endpoint), file)
    assert again.sample(prompts, 2) == first
    assert len(endpoint.asked) == 6
    again.sample(prompts, 1)
    again.sample(prompts, 2, Sampling(0.5))
    again.sample([make_prompt("q0", seed=7)], 2)
    assert len(endpoint.asked) == 6 + 3 + 6 + 2
    Journal(make_policy(endpoint), file, source="judge").sample(prompts, 2)
    assert len(endpoint.asked) == 6 + 3 + 6 + 2 + 6
    with pytest.raises(RecordMismatchError, match=r"kept\.jsonl has replies to other settings"):
        Journal(make_policy(endpoint), file, "of another model").sample(prompts, 2)


def test_failed_replies_are_requested_again(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    """Guards against the last failures of a dying server that are kept as results."""
    file, prompts = tmp_path / "kept.jsonl", make_prompts(2)
    filtered = completion("half", finish_reason="content_filter")
    endpoint.script = lambda asked: filtered if asked.content == "q1" else echo(asked)
    policy = make_policy(endpoint, warn=lambda text: None)
    assert [g[0].stop for g in Journal(policy, file).sample(prompts, 1)] == ["stop", "failed"]
    endpoint.script = echo
    assert [g[0].stop for g in Journal(policy, file).sample(prompts, 1)] == ["stop", "stop"]
    assert [asked.content for asked in endpoint.asked[2:]] == ["q1"]
