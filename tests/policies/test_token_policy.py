"""Splicing text onto sampled replies: sampled ids do not change, added ids are forced."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rethink.models.language_model import LanguageModel
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.types import Group, Problem, Sampling, Verdict

PROBLEM = Problem("p", "3 7 5 -> 26", "26", lambda reply, gold: Verdict(reply.endswith(gold)))
TEXTS = Prompts("{question}", "again", seed=3)


@pytest.fixture
def replies(qwen: LanguageModel) -> tuple[LocalPolicy, Group]:
    """A random model with three stop ids, and 331 of its replies; some do not survive retokenization."""
    qwen.chat.stop_ids = frozenset({1, 5, 11})
    policy = LocalPolicy(qwen, Sampling(max_tokens=17))
    (group,) = policy.sample(TEXTS.ask([PROBLEM]), 331)
    assert {s.stop for s in group} == {"stop", "length"}
    words = qwen.chat.tokenizer
    assert any(tuple(words.encode(s.text)) != s.ids[:-1] for s in group if s.stop == "stop")
    return policy, group


def test_splice_keeps_sampled_ids(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against retokenized ids, an end token in the middle, and sampled tokens marked as forced."""
    policy, group = replies
    added = (*policy.model.chat.tokenizer.encode("? 3 * 7 = 21"), policy.model.chat.end_id)
    finished = [s for s in group if s.stop == "stop" and len(s.ids) - 1 + len(added) <= 17]
    assert len(finished) > 5
    for sample in finished:
        new = policy.splice(sample, " ? 3 * 7 = 21")
        assert new is not None
        kept = len(sample.ids) - 1
        assert new.ids == sample.ids[:-1] + added
        assert new.log_probs[:kept] == sample.log_probs[:-1]
        assert all(map(math.isnan, new.log_probs[kept:]))
        assert new.forced == (False,) * kept + (True,) * len(added)
        assert new.mask == (True,) * len(new.ids)
        assert sum(i in policy.model.chat.stop_ids for i in new.ids) == 1
        assert new.text.endswith("? 3 * 7 = 21")
        assert new.text == policy.model.chat.decode(new.ids)
        assert (new.stop, new.verdict) == ("stop", None)
        same = ("prompt", "index", "prompt_ids", "sampling", "version")
        assert [getattr(new, name) for name in same] == [getattr(sample, name) for name in same]


def test_splice_over_max_tokens_is_refused(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against cutting the text: exactly max_tokens fits, one more does not."""
    policy, group = replies
    sample = next(s for s in group if s.stop == "stop" and len(s.ids) < 12)
    before = replace(sample)
    room = 17 - len(sample.ids)  # the old end token's place goes to the new one
    fits = policy.splice(sample, " 7" * room)
    assert fits is not None
    assert len(fits.ids) == 17
    assert policy.splice(sample, " 7" * (room + 1)) is None
    assert sample == before


def test_splice_keeps_all_ids_of_a_cut_reply(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against dropping the last id of a reply that has no end token."""
    policy, group = replies
    cut = next(s for s in group if s.stop == "length")
    cut = replace(cut, sampling=Sampling(max_tokens=20))
    new = policy.splice(cut, " 7")
    assert new is not None
    assert new.ids[:-2] == cut.ids


def test_splicing_twice_keeps_forced_and_mask(replies: tuple[LocalPolicy, Group]) -> None:
    """Regression: the second splice declared the first one's tokens the policy's own."""
    policy, group = replies
    sample = next(s for s in group if s.stop == "stop" and len(s.ids) < 10)
    sample = replace(sample, mask=(False, *sample.mask[1:]))
    for one in (policy, FakePolicy(lambda p, i, v: "")):
        new = one.splice(sample, "7 7")
        twice = one.splice(new, "5") if new else None
        assert twice is not None
        kept = len(sample.ids) - 1
        assert twice.forced == (False,) * kept + (True,) * 4
        assert twice.mask == (False,) + (True,) * (kept + 3)
