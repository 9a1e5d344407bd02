"""Texts appended to samples: the ids that were sampled stay bit for bit, and the appended ones are forced."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rethink.models.language_model import LanguageModel
from rethink.policies.fake import END_ID, FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.types import Group, Problem, Sampling, Verdict

PROBLEM = Problem("p", "3 7 5 -> 26", "26", lambda reply, gold: Verdict(reply.endswith(gold)))
TEXTS = Prompts("{question}", "again", seed=3)


@pytest.fixture
def replies(qwen: LanguageModel) -> tuple[LocalPolicy, Group]:
    """A random model with three stop ids, and 331 of its replies: finished ones and cut ones, among them such as do not
    survive their text."""
    qwen.chat.stop_ids = frozenset({1, 5, 11})
    policy = LocalPolicy(qwen, Sampling(max_tokens=17))
    (group,) = policy.sample(TEXTS.ask([PROBLEM]), 331)
    assert {s.stop for s in group} == {"stop", "length"}
    words = qwen.chat.tokenizer
    assert any(tuple(words.encode(s.text)) != s.ids[:-1] for s in group if s.stop == "stop")
    return policy, group


def test_sampled_ids_stay_bit_for_bit(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against ids that come back from the reply's text, an end token in the middle, and marks on tokens
    that the policy chose itself."""
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


def test_a_splice_over_the_cap_is_refused_not_cut(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against a text that loses its answer and its end: exactly the cap still fits, one more does not."""
    policy, group = replies
    sample = next(s for s in group if s.stop == "stop" and len(s.ids) < 12)
    before = replace(sample)
    room = 17 - len(sample.ids)  # the old end token's place goes to the new one
    fits = policy.splice(sample, " 7" * room)
    assert fits is not None
    assert len(fits.ids) == 17
    assert policy.splice(sample, " 7" * (room + 1)) is None
    assert sample == before


def test_a_cut_reply_keeps_all_its_ids(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against the last sampled id of a reply without an end token being taken for one."""
    policy, group = replies
    cut = next(s for s in group if s.stop == "length")
    cut = replace(cut, sampling=Sampling(max_tokens=20))
    new = policy.splice(cut, " 7")
    assert new is not None
    assert new.ids[:-2] == cut.ids


def test_splicing_twice_remembers_what_was_forced(replies: tuple[LocalPolicy, Group]) -> None:
    """The second splice once declared the first one's tokens the policy's own; masks are kept as well."""
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


def test_the_fake_splices_as_the_real_one() -> None:
    """Guards against a fake that hides what a real policy does: end token, marks, cap."""
    policy = FakePolicy(lambda prompt, index, version: "2 3 5", Sampling(max_tokens=6))
    ((sample,),) = policy.sample(TEXTS.ask([PROBLEM]), 1)
    new = policy.splice(sample, " 7 11")
    assert new is not None
    assert (len(new.ids), new.ids[:3], new.ids[-1]) == (6, sample.ids[:3], END_ID)
    assert new.ids.count(END_ID) == 1
    assert new.forced == (False, False, False, True, True, True)
    assert new.text == "2 3 5 7 11"
    assert policy.splice(sample, " 7 11 13") is None


def test_the_trainer_takes_what_was_spliced(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against an endless chain of stand-ins: ids, mask and forced are of one length, whatever was sampled."""
    policy, group = replies
    for sample in group:
        new = policy.splice(sample, " 7")
        if new is not None:
            assert len(new.ids) == len(new.mask) == len(new.forced) == len(new.log_probs)
            assert new.n_trained == len(new.ids)
