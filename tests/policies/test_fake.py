"""The policy without a model behaves like one with a model."""

from __future__ import annotations

import math

import pytest

from rethink.policies.fake import FakePolicy, seeded_script
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Message, Sampling
from support.local_sampling import PROMPTS
from support.method_runs import PROBLEMS, make_problem

TEXTS = Prompts("{question}", seed=13)


@pytest.mark.parametrize(("cap", "n_tokens", "stop"), [(3, 3, "length"), (5, 5, "length"), (6, 6, "stop")])
def test_replies_are_cut_at_max_tokens(cap: int, n_tokens: int, stop: str) -> None:
    """Guards against a fake that never cuts: five words and the end token are six tokens."""
    policy = FakePolicy(lambda prompt, index, version: "2 3 5 7 11", Sampling(max_tokens=cap))
    ((sample,),) = policy.sample(TEXTS.ask(PROBLEMS[:1]), 1)
    assert (len(sample.ids), sample.stop, len(sample.text.split())) == (n_tokens, stop, min(n_tokens, 5))


def test_seeded_replies_are_right_with_the_given_probability() -> None:
    """Guards against another probability, and replies that change between calls."""
    prompts = TEXTS.ask([make_problem(n) for n in range(211)])
    script = seeded_script(0.3, lambda problem: problem.gold)
    first, second = FakePolicy(script).sample(prompts, 11), FakePolicy(script).sample(prompts, 11)
    assert first == second
    # Of 2,321 replies 696 +- 22 are right; 4 standard deviations.
    assert abs(sum(bool(sample.right) for group in grade(first) for sample in group) - 696) < 89


@pytest.mark.parametrize(
    ("reply", "cap", "pieces"),
    [
        ("2 + 3", 23, ["2", " +", " 3"]),
        ("  2\n+ ", 23, ["  2", "\n+", " "]),
        ("2 + 3", 2, ["2", " +"]),
        (" ", 23, [" "]),
        ("", 23, []),
    ],
)
def test_stream_passes_on_words(reply: str, cap: int, pieces: list[str]) -> None:
    """Guards against lost whitespace, and words past max_tokens."""
    policy = FakePolicy(lambda prompt, index, version: reply)
    seen: list[str] = []
    sample = policy.stream(PROMPTS[0], Sampling(max_tokens=cap), seen.append)
    assert seen == pieces
    assert sample == policy.sample(PROMPTS[:1], 1, Sampling(max_tokens=cap))[0][0]
    assert policy.shown == [PROMPTS[0]] * 2


def test_extend_cut_and_reprompt() -> None:
    """Guards against a fake that continues differently from a model: words, caps, marks and log-probs by hand."""
    policy = FakePolicy(lambda p, i, v: f"so {i}" if p.phase == "extend" else "2 + 3", Sampling(max_tokens=7))
    ((sample,),) = policy.sample(TEXTS.ask(PROBLEMS[:1]), 1)
    (graded,) = grade([(sample,)])[0]
    new, none = policy.extend([graded, sample], [" wait", " one two three four"])
    assert new is not None
    assert none is None  # three words and four of the text fill all seven
    assert new.text == "2 + 3 wait so 0"
    assert new.ids[:3] == sample.ids[:3]
    assert new.forced == (False, False, False, True, False, False, False)
    assert (math.isnan(new.log_probs[3]), new.stop, new.verdict, len(new.ids)) == (True, "stop", None, 7)
    shown = policy.shown[-1]
    assert (shown.draft, shown.messages[-1]) == (graded, Message("assistant", "2 + 3 wait"))
    (cut,) = policy.extend([graded], [" wait"], Sampling(max_tokens=5))
    assert cut is not None
    assert (cut.text, cut.stop, cut.sampling.max_tokens) == ("2 + 3 wait so", "length", 5)
    first = policy.cut(graded, 4)
    assert (first.text, first.ids, first.stop, first.verdict) == ("2 +", sample.ids[:2], "length", None)
    (refine,) = TEXTS.ask_to_refine([sample])
    again = policy.reprompt(graded, refine)
    assert (again.ids, again.prompt, again.verdict, again.forced) == (sample.ids, refine, graded.verdict, (True,) * 4)
    assert len(again.prompt_ids) == len(" ".join(m.content for m in refine.messages).split())


def test_transcribed_replies_are_forced() -> None:
    """Regression: the tokens of a given reply looked sampled, at the script's log-prob of -1 and the policy's temperature,
    which hid errors of methods that continue such a reply."""
    (prompt,) = TEXTS.ask(PROBLEMS[:1])
    shown = FakePolicy(lambda p, i, v: "7", Sampling(temperature=0.5, max_tokens=9)).transcribe(prompt, "2 + 3")
    assert shown.sampling == Sampling(temperature=1.0, max_tokens=9)
    assert shown.forced == (True,) * 4  # three words and the end token
    assert all(math.isnan(log_prob) for log_prob in shown.log_probs)
