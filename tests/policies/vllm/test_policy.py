"""The policy over vLLM with fake servers: requests, samples and scores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.vllm import sample_job
from rethink.types import Sampling
from support.fake_endpoint import make_prompt
from support.fake_vllm import GENERATE, Answer, FakeVllm
from support.vllm_policy import PROMPTS, PUBLISH, QUESTIONS, ids_of, make_policy, three_servers, without_delays

_no_delays = pytest.fixture(autouse=True)(without_delays)
fakes = pytest.fixture(three_servers)


def test_samples_are_what_the_server_drew(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against ids that are decoded and encoded again, a wrong version, and members with the same seed."""
    policy = make_policy(qwen, fakes[0])
    policy.publish(5)
    groups = policy.sample(PROMPTS, 3)
    assert [len(group) for group in groups] == [3] * 5
    for prompt, group in zip(PROMPTS, groups, strict=True):
        prompt_ids = qwen.chat.encode(prompt.messages)
        assert [s.index for s in group] == [0, 1, 2]
        assert {(s.prompt, s.prompt_ids, s.version, s.stop) for s in group} == {(prompt, prompt_ids, 5, "stop")}
        assert {s.ids[0] for s in group} == {2 + len(prompt_ids)}
        assert {s.ids[2] for s in group} == qwen.chat.stop_ids
        assert all(s.mask == (True,) * 3 and s.log_probs == (-0.5,) * 3 for s in group)
        assert all(s.text == qwen.chat.decode(s.ids) for s in group)
    seeds = [body["sampling_params"]["seed"] for body in fakes[0].requests]
    assert len(set(seeds)) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert ids_of(policy.sample(PROMPTS, 3)) == ids_of(groups)
    assert ids_of(policy.sample(PROMPTS[1:2], 2)) == [[s.ids for s in groups[1][:2]]]


def test_requests_ask_for_the_distribution_that_is_trained(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against stop ids that vLLM adds or lacks, its default limit of 16 tokens, and text instead of ids."""
    qwen.chat.stop_ids = frozenset({1, 9, 4})
    make_policy(qwen, fakes[0], sampling=Sampling(0.7, max_tokens=13)).sample(PROMPTS[:1], 1)
    (body,) = fakes[0].requests
    params = body["sampling_params"]
    assert params.pop("seed") > 0
    assert params == {
        **{"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 13, "stop_token_ids": [1, 4, 9]},
        **{"ignore_eos": True, "logprobs": 0, "detokenize": False},
    }
    assert body["token_ids"] == list(qwen.chat.encode(PROMPTS[0].messages))


def test_the_first_sample_is_of_published_weights(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples of the weights that the server was started with, and a crash without any."""
    policy = make_policy(qwen, fakes[0])
    assert policy.sample([], 3) == []
    assert policy.sample(PROMPTS[:2], 0) == [(), ()]
    policy.sample(PROMPTS[:1], 1)
    assert fakes[0].events == PUBLISH


def test_greedy_and_cut_replies(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against log-probs at temperature 1, which vLLM returns for greedy replies, and cut replies as ended ones."""
    ((sample,),) = make_policy(qwen, fakes[0]).sample(PROMPTS[:1], 1, Sampling(0.0, max_tokens=3))
    assert sample.log_probs == (0.0,) * 3
    fakes[0].script = lambda body: [5] * body["sampling_params"]["max_tokens"]
    ((sample,),) = make_policy(qwen, fakes[0]).sample(PROMPTS[:1], 1)
    assert (sample.stop, len(sample.ids)) == ("length", 11)


def test_scores_belong_to_the_reply(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against log-probs of the prompt, of the token that vLLM generates, or of another prompt than was given."""

    def log_probs(prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
        """Numbers that differ by token, position and first token of the prompt."""
        return [-token - place / 16 - prompt[0] / 1024 for place, token in enumerate(ids, start=len(prompt))]

    for fake in fakes[:2]:
        fake.log_probs = log_probs
    policy = make_policy(qwen, *fakes[:2], concurrency=2)
    samples = [policy.transcribe(prompt, "3 * 7 = 21") for prompt in PROMPTS]
    hint = make_prompt("7 7 7 -> 49")
    for given in (None, [hint] * len(samples)):
        for sample, found in zip(samples, policy.score(samples, given), strict=True):
            prompt_ids = qwen.chat.encode((hint if given else sample.prompt).messages)
            assert found == tuple(log_probs(prompt_ids, sample.ids))
    requests = fakes[0].requests + fakes[1].requests
    assert len(requests) == 2 * len(samples)
    assert {body["sampling_params"]["max_tokens"] for body in requests} == {1}
    assert policy.score([]) == []


def test_samples_that_vllm_cannot_score_are_refused(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against log-probs at temperature 1 for other samples, and sequences that are too long for vLLM."""
    policy = make_policy(qwen, fakes[0])
    sample = policy.transcribe(PROMPTS[0], "3 * 7 = 21")
    with pytest.raises(UserError, match=r"temperature 1, but these samples have temperature 0\.6"):
        policy.score([replace(sample, sampling=Sampling(0.6))])
    fakes[0].model["max_model_len"] = len(sample.prompt_ids) + len(sample.ids)
    with pytest.raises(UserError, match="start it with a larger --max-model-len"):
        make_policy(qwen, fakes[0]).score([sample])
    assert fakes[0].requests == []


def test_every_sample_can_be_scored(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a run that ends after hours, when a reply first fills vLLM's --max-model-len: to score it, vLLM has to
    generate one token more."""
    length = len(qwen.chat.encode(PROMPTS[0].messages))
    for fake in fakes[:2]:
        fake.script = lambda body: [5] * body["sampling_params"]["max_tokens"]
        fake.model["max_model_len"] = length + 20
    policy = make_policy(qwen, *fakes[:2])
    assert policy.max_positions == length + 19
    assert policy.sample(PROMPTS[:1], 1, Sampling(max_tokens=20)) == [()]
    [[sample]] = policy.sample(PROMPTS[:1], 1, Sampling(max_tokens=19))
    assert len(sample.ids) == 19
    assert len(policy.score([sample])[0]) == 19


def broken(fake: FakeVllm, **more: object) -> Answer:
    body = {"token_ids": [3], "sampling_params": {"seed": 1, "max_tokens": 11}}
    return 200, fake.reply(body, **more)


def test_continued_samples_are_requested_on_their_ids(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against text instead of ids, an end token before the added text, the first reply's seeds, and a cap that
    vLLM applies to the new tokens alone. The last reply has no room for the text."""
    policy = make_policy(qwen, *fakes[:2], sampling=Sampling(max_tokens=9))
    policy.publish(2)
    ((one, two), (three, *_)) = policy.sample(PROMPTS[:2], 2)
    given = [replace(one, version=1), two, policy.cut(three, len(qwen.chat.decode(three.ids[:1]))), two]
    texts = [" 7", " 7", " 3 3", " 3" * 7]
    seeds = {seed_of(body) for fake in fakes for body in fake.requests}
    for fake in fakes:
        fake.requests.clear()
    found = policy.extend(given, texts)
    requests = {tuple(body["token_ids"]): body for fake in fakes for body in fake.requests}
    assert len(requests) == 3
    assert len(seeds | {seed_of(body) for body in requests.values()}) == 7
    for old, text, new in zip(given[:3], texts, found, strict=False):
        assert new is not None
        start = old.ids[: 1 if old is given[2] else 2] + qwen.chat.encode_reply(text)[:-1]
        body = requests[old.prompt_ids + start]
        assert body["sampling_params"]["max_tokens"] == 9 - len(start)
        assert new.ids == (*start, *fakes[0].script(body))
        n_text = len(start) - len(old.ids) + (old.stop == "stop")
        assert new.forced == (False,) * (len(start) - n_text) + (True,) * n_text + (False,) * 3
        assert new.text == qwen.chat.decode(new.ids)
        assert (new.stop, new.version, new.prompt, new.index) == ("stop", old.version, old.prompt, old.index)
    assert found[3] is None


def seed_of(body: dict[str, Any]) -> int:
    return int(body["sampling_params"]["seed"])


FAULTS: dict[str, Callable[[FakeVllm], Answer]] = {
    "cut connection": lambda fake: (0, None),
    "busy": lambda fake: (503, {"error": {"message": "busy"}}),
    "no reply": lambda fake: (200, {"choices": []}),
    "aborted": lambda fake: broken(fake, finish_reason="abort"),
    "an end that is not a stop id": lambda fake: broken(fake, token_ids=[7, 8, 9]),
    "a log-prob too few": lambda fake: broken(fake, logprobs={"content": [{"logprob": -0.5}] * 2}),
    "vLLM's value for no log-prob": lambda fake: broken(fake, logprobs={"content": [{"logprob": -9999.0}] * 3}),
    "no log-probs": lambda fake: broken(fake, logprobs=None),
}


def test_incomplete_replies_are_requested_again(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against incomplete replies among the samples, and a server that is given up for one of them."""
    warnings: list[str] = []
    policy = make_policy(qwen, fakes[0], warn=warnings.append)
    policy.publish(1)
    expected = ids_of(policy.sample(PROMPTS[:1], 1))
    for fault, answer in FAULTS.items():
        fakes[0].answers[GENERATE] = [answer(fakes[0])] * sample_job.RETRIES
        assert ids_of(policy.sample(PROMPTS[:1], 1)) == expected, fault
        assert warnings == [], fault
        fakes[0].answers[GENERATE] = [answer(fakes[0])] * (sample_job.RETRIES + 1)
        with pytest.raises(UserError, match="no vLLM server is left"):
            policy.sample(PROMPTS[:1], 1)
        assert len(warnings) == 1, fault
        warnings.clear()
        policy.fleet.servers[0].reconnect()


def test_a_refused_request_is_an_error_at_once(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against servers that are lost one after the other because of a request that none accepts."""
    policy = make_policy(qwen, *fakes[:2])
    for fake in fakes[:2]:
        fake.answers[GENERATE] = [(403, {"error": {"message": "Scale-out endpoints are disabled."}})]
    with pytest.raises(UserError, match="HTTP 403: Scale-out endpoints are disabled"):
        policy.sample(PROMPTS[:1], 1)
    assert [s.lost_reason for s in policy.fleet.servers] == ["", ""]


def test_the_servers_limit_makes_prompts_overlong(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against replies that vLLM silently cuts at its own limit, below the recipe's."""
    lengths = [len(qwen.chat.encode(p.messages)) for p in PROMPTS]
    fakes[1].model["max_model_len"] = min(lengths) + 11 + 1  # to score a reply, vLLM needs one more
    policy = make_policy(qwen, *fakes[:2])
    groups = policy.sample(PROMPTS, 2)
    assert [len(group) for group in groups] == [2 if n == min(lengths) else 0 for n in lengths]
    assert policy.n_overlong == sum(n > min(lengths) for n in lengths)
    with pytest.raises(UserError, match="leaves no room"):
        policy.sample(PROMPTS, 1, Sampling(max_tokens=100))


def test_groups_arrive_while_others_are_sampled(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against groups that are held back until the last reply, and so cannot be graded meanwhile."""
    first_arrived = threading.Event()
    policy = make_policy(qwen, fakes[0], concurrency=2)
    policy.publish(1)
    arrived: list[tuple[str, int]] = []

    def wait_for_first(n: int) -> None:
        if n >= 9:
            first_arrived.wait(20)

    fakes[0].on_generate = wait_for_first
    for _, group in policy.groups(PROMPTS, 2):
        arrived.append((group[0].prompt.problem.id, len(fakes[0].requests)))
        first_arrived.set()
    assert {name for name, _ in arrived} == set(QUESTIONS)
    assert arrived[0][1] < 10


def test_an_evaluation_has_separate_counts(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against evaluations whose over-long prompts count for training, or that publish again."""
    policy = make_policy(qwen, fakes[0])
    policy.publish(3)
    other = policy.with_sampling(Sampling(0.0, max_tokens=120))
    assert other.sample(PROMPTS[:1], 1)[0] == () or other.n_overlong == 0
    (group,) = other.sample([make_prompt("2")], 1, Sampling(0.0, max_tokens=7))
    assert group[0].version == 3
    assert policy.n_overlong == 0
    assert fakes[0].events == PUBLISH
