"""Splicing text onto sampled replies: sampled ids do not change, added ids are forced."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.types import Group, Message, Problem, Sampling, Verdict

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


def test_extend_keeps_ids_forces_the_text_and_samples_on(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against retokenized ids, log-probs of another context, and a cap that counts only the new tokens."""
    policy, group = replies
    added = tuple(policy.model.chat.tokenizer.encode("? 3"))
    found = policy.extend(group, [" ? 3"] * len(group))
    lengths = set()
    for old, new in zip(group, found, strict=True):
        kept = len(old.ids) - (old.stop == "stop")
        if kept + len(added) >= 17:
            assert new is None
            continue
        assert new is not None
        start = kept + len(added)
        assert new.ids[:start] == old.ids[:kept] + added
        assert new.log_probs[:kept] == old.log_probs[:kept]
        assert all(map(math.isnan, new.log_probs[kept:start]))
        assert new.forced == (False,) * kept + (True,) * len(added) + (False,) * (len(new.ids) - start)
        assert new.mask == (True,) * len(new.ids)
        assert start < len(new.ids) <= 17
        assert (new.stop == "stop") == (new.ids[-1] in policy.model.chat.stop_ids)
        assert new.stop == "stop" or len(new.ids) == 17
        assert new.text == policy.model.chat.decode(new.ids)
        assert (new.verdict, new.reward, new.prompt, new.index) == (None, None, old.prompt, old.index)
        scored = policy.score([new])[0]
        assert new.log_probs[start:] == pytest.approx(scored[start:], abs=1e-4)
        lengths.add(len(new.ids))
    assert len(lengths) > 3
    assert {s.stop for s in found if s} == {"stop", "length"}


def test_extensions_do_not_depend_on_their_batch_and_differ(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against randomness by position in the batch, the first reply's random numbers again, and equal members."""
    policy, (sample, *_) = replies
    sample = replace(sample, ids=(7,), mask=(True,), log_probs=(-1.0,), stop="length")
    twins = [replace(sample, index=n) for n in range(23)]
    found = policy.extend(twins, [" 3"] * 23)
    (alone,) = policy.extend(twins[5:6], [" 3"])
    assert alone is not None
    assert found[5] is not None
    assert alone.ids == found[5].ids
    assert len({s.ids for s in found if s}) > 15
    other = policy.extend(twins, [" 5"] * 23)
    assert sum(a.ids[2:] == b.ids[2:] for a, b in zip(found, other, strict=True) if a and b) < 5
    longer = policy.extend(twins[:1], [""], Sampling(max_tokens=3))[0]
    assert longer is not None
    assert (len(longer.ids) <= 3, longer.sampling.max_tokens, any(longer.forced)) == (True, 3, False)


def test_each_extended_sample_keeps_its_own_cap(replies: tuple[LocalPolicy, Group]) -> None:
    """Regression: all samples got the cap of the first one, so that ranks with other shares had other caps."""
    policy, group = replies
    start = replace(group[0], ids=(7,), mask=(True,), log_probs=(-1.0,), stop="length")
    caps = [3, 17, 2, 11]
    for one in (policy, FakePolicy(lambda *_: "5 " * 20)):
        given = [replace(start, index=n, sampling=Sampling(max_tokens=cap)) for n, cap in enumerate(caps)]
        found = one.extend(given, [" 3"] * 4)
        assert [s and s.sampling.max_tokens for s in found] == [3, 17, None, 11]
        assert all(len(s.ids) <= s.sampling.max_tokens for s in found if s)


def test_extend_refuses_another_distribution(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against a sample whose log-probs belong to two temperatures."""
    policy, group = replies
    for one in (policy, FakePolicy(lambda *_: "")):
        with pytest.raises(ValueError, match="only max_tokens may differ"):
            one.extend(group[:1], [" 3"], Sampling(temperature=0.7, max_tokens=17))
        assert one.extend([], []) == []


def test_an_extended_sample_has_the_older_version(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against samples of two versions that pass for samples of the newest."""
    policy, group = replies
    policy.publish(5)
    short = next(s for s in group if len(s.ids) < 9)
    (new,) = policy.extend([short], [" 3"])
    assert new is not None
    assert new.version == short.version == 0
    (same,) = policy.extend([replace(short, version=5)], [" 3"])
    assert same is not None
    assert same.version == 5


def test_cut_keeps_the_ids_within_the_characters(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against half a word, the end token, and verdicts that survive. Compared with a search over all lengths."""
    policy, group = replies
    decode = policy.model.chat.decode
    for sample in group[:31]:
        graded = sample.with_verdict(Verdict(True))
        body = sample.ids[:-1] if sample.stop == "stop" else sample.ids
        for n_chars in (0, 1, 4, 7, len(sample.text), 999):
            fits = [n for n in range(len(body) + 1) if sample.text[:n_chars].startswith(decode(body[:n]))]
            new = policy.cut(graded, n_chars)
            assert new.ids == body[: max(fits)]
            assert new.text == decode(new.ids)
            assert new.log_probs == sample.log_probs[: len(new.ids)]
            assert (len(new.mask), new.stop, new.verdict, new.reward) == (len(new.ids), "length", None, None)


def test_reprompt_puts_the_ids_after_another_prompt(replies: tuple[LocalPolicy, Group]) -> None:
    """Guards against log-probs and ids of the first prompt, lost verdicts, and a sequence that the model cannot hold."""
    policy, group = replies
    sample = group[0].with_verdict(Verdict(True))
    (refine,) = TEXTS.ask_to_refine([sample])
    policy.publish(3)
    new = policy.reprompt(sample, refine)
    assert new.prompt_ids == policy.model.chat.encode(refine.messages)
    assert (new.ids, new.text, new.verdict, new.reward) == (sample.ids, sample.text, sample.verdict, 1.0)
    assert (new.prompt, new.index, new.mask, new.version) == (refine, sample.index, sample.mask, 3)
    assert new.forced == (True,) * len(new.ids)
    assert all(map(math.isnan, new.log_probs))
    assert policy.score([new]) == policy.score([sample], [refine])
    too_long = replace(refine, messages=(Message("user", "7 " * 5000),))
    with pytest.raises(
        UserError, match=r"the refine prompt of problem p has .* with the reply that it gets, more than"
    ):
        policy.reprompt(sample, too_long)
