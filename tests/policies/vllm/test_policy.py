"""The policy over vLLM against a fake of its server: what goes over the wire, what counts as a reply, and lost servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.event_loop import iterate_in_thread
from rethink.policies.vllm import dispatch, server
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.server import Server
from rethink.policies.vllm.transfer import module_weights
from rethink.settings import Sampler
from rethink.types import Group, Sampling
from support.fake_endpoint import make_prompt
from support.fake_vllm import GENERATE, Answer, FakeVllm, running

QUESTIONS = ["3 7 5 -> 26", "2 -> 2", "1 1 -> 1", "3 7 -> 1", "4 -> 4"]
PROMPTS = [make_prompt(question) for question in QUESTIONS]
PUBLISH = [
    *("/pause", "/init_weight_transfer_engine", "/start_weight_update", "/update_weights"),
    *("/finish_weight_update", "/reset_prefix_cache", "/resume"),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "DELAY_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def fakes(qwen: LanguageModel) -> Iterator[list[FakeVllm]]:
    """Three servers; a reply has the prompt's length, the seed's last digits and an end."""
    (stop_id,) = qwen.chat.stop_ids
    with ExitStack() as stack:
        made = [stack.enter_context(running(FakeVllm(stop_id))) for _ in range(3)]
        for fake in made:
            fake.script = lambda body: [
                2 + len(body["token_ids"]),
                2 + body["sampling_params"]["seed"] % 97,
                stop_id,
            ]
        yield made


def make_policy(
    model: LanguageModel, *fakes: FakeVllm, warn: Callable[[str], None] | None = None, **more: Any
) -> VllmPolicy:
    """A policy over these servers; unless given otherwise, a warning fails the test."""
    servers = [Server(fake.url, timeout_s=20) for fake in fakes]
    made = Fleet(servers, module_weights(model), warn=warn or pytest.fail)
    sampling = more.pop("sampling", Sampling(max_tokens=11))
    return VllmPolicy(model, sampling, made, Sampler(**{"concurrency": 7, **more}))


def drawn(groups: list[Group]) -> list[list[tuple[int, ...]]]:
    return [[s.ids for s in group] for group in groups]


def test_samples_are_what_was_drawn(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against ids that are decoded and encoded again, samples without their version, and members with one seed."""
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
    seeds = [body["sampling_params"]["seed"] for body in fakes[0].asked]
    assert len(set(seeds)) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert drawn(policy.sample(PROMPTS, 3)) == drawn(groups)
    assert drawn(policy.sample(PROMPTS[1:2], 2)) == [[s.ids for s in groups[1][:2]]]


def test_a_request_asks_for_the_distribution_that_is_trained(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against stop ids that vLLM adds or lacks, its default cap of 16 tokens, and text in place of ids."""
    qwen.chat.stop_ids = frozenset({1, 9, 4})
    policy = make_policy(qwen, fakes[0], sampling=Sampling(0.7, max_tokens=13))
    policy.sample(PROMPTS[:1], 1)
    (body,) = fakes[0].asked
    asked = body["sampling_params"]
    assert asked.pop("seed") > 0
    assert asked == {
        **{"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_tokens": 13, "stop_token_ids": [1, 4, 9]},
        **{"ignore_eos": True, "logprobs": 0, "detokenize": False},
    }
    assert body["token_ids"] == list(qwen.chat.encode(PROMPTS[0].messages))


def test_publishing_pauses_sends_clears_and_goes_on(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a prefix cache that outlives the weights, samples drawn half way, and weights that are not the
    trainer's; the engine is not set up anew each time."""
    policy = make_policy(qwen, *fakes[:2])
    policy.publish(1)
    for fake in fakes[:2]:
        assert fake.events == PUBLISH
        assert not fake.paused
        assert fake.weights.keys() == dict(qwen.module.named_parameters()).keys()
        assert all(torch.equal(fake.weights[name], p) for name, p in qwen.module.named_parameters())
    with torch.no_grad():
        for weight in qwen.module.parameters():
            weight.mul_(0.5)
    policy.publish(2)
    for fake in fakes[:2]:
        assert fake.events == [*PUBLISH, *(path for path in PUBLISH if path != "/init_weight_transfer_engine")]
        assert all(torch.equal(fake.weights[name], p) for name, p in qwen.module.named_parameters())
    assert fakes[0].label == fakes[1].label
    assert {s.version for group in policy.sample(PROMPTS, 2) for s in group} == {2}


def test_the_first_sample_is_of_published_weights(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples of whatever weights the server was started with."""
    make_policy(qwen, fakes[0]).sample(PROMPTS[:1], 1)
    assert fakes[0].events == PUBLISH


def test_weights_go_over_in_the_dtype_of_the_server(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against twice the bytes for a server in bfloat16."""
    fakes[0].model["dtype"] = "torch.bfloat16"
    make_policy(qwen, fakes[0]).publish(1)
    assert {weight.dtype for weight in fakes[0].weights.values()} == {torch.bfloat16}


def test_greedy_replies_are_certain(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against the log-probs at temperature 1 that vLLM gives for greedy replies."""
    ((sample,),) = make_policy(qwen, fakes[0]).sample(PROMPTS[:1], 1, Sampling(0.0, max_tokens=3))
    assert sample.log_probs == (0.0,) * 3


def told_apart(prompt: list[int], ids: list[int]) -> list[float]:
    """Log-probs that tell tokens, places and first tokens of prompts apart."""
    return [-token - place / 16 - prompt[0] / 1024 for place, token in enumerate(ids, start=len(prompt))]


def test_given_ids_are_scored_where_they_stand(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against log-probs of the prompt, of the one token that vLLM draws, or of another prompt than was given; two
    servers share the work."""
    for fake in fakes[:2]:
        fake.log_probs = told_apart
    policy = make_policy(qwen, *fakes[:2], concurrency=2)
    samples = [policy.transcribe(prompt, "3 * 7 = 21") for prompt in PROMPTS]
    hint = make_prompt("7 7 7 -> 49")
    for given in (None, [hint] * len(samples)):
        found = policy.score(samples, given)
        for sample, log_probs in zip(samples, found, strict=True):
            prompt_ids = qwen.chat.encode((hint if given else sample.prompt).messages)
            # The fake scores all but the first id, so that the reply begins at the prompt's length.
            wanted = [-t - p / 16 - prompt_ids[0] / 1024 for p, t in enumerate(sample.ids, start=len(prompt_ids))]
            assert log_probs == tuple(wanted)
    asked = fakes[0].asked + fakes[1].asked
    assert len(asked) == 2 * len(samples)
    assert {body["sampling_params"]["max_tokens"] for body in asked} == {1}
    assert "seed" not in asked[0]["sampling_params"]
    assert policy.score([]) == []


def test_what_vllm_cannot_score_is_refused(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against log-probs at temperature 1 for samples of another one, and against more ids than vLLM has room for."""
    policy = make_policy(qwen, fakes[0])
    sample = policy.transcribe(PROMPTS[0], "3 * 7 = 21")
    with pytest.raises(UserError, match=r"temperature 1, but these samples have temperature 0\.6"):
        policy.score([replace(sample, sampling=Sampling(0.6))])
    fakes[0].model["max_model_len"] = len(sample.prompt_ids) + len(sample.ids)
    with pytest.raises(UserError, match="start it with a larger --max-model-len"):
        make_policy(qwen, fakes[0]).score([sample])
    assert fakes[0].asked == []


def test_scores_of_other_weights_are_not_used(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against scores under the weights of another run."""
    policy = make_policy(qwen, fakes[0], warn=lambda _: None)
    policy.publish(1)
    fakes[0].label = "somebody else's"
    with pytest.raises(UserError, match="wrong weights"):
        policy.score([policy.transcribe(PROMPTS[0], "3 * 7 = 21")])


def test_a_reply_that_is_cut_says_so(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against cut replies that count as ended."""
    fakes[0].script = lambda body: [5] * body["sampling_params"]["max_tokens"]
    ((sample,),) = make_policy(qwen, fakes[0]).sample(PROMPTS[:1], 1)
    assert (sample.stop, len(sample.ids)) == ("length", 11)


def broken(fake: FakeVllm, **more: Any) -> Answer:
    body = {"token_ids": [3], "sampling_params": {"seed": 1, "max_tokens": 11}}
    return 200, fake.reply(body, **more)


FAULTS: dict[str, Callable[[FakeVllm], Answer]] = {
    "cut": lambda fake: (0, None),
    "busy": lambda fake: (503, {"error": {"message": "busy"}}),
    "no JSON of a reply": lambda fake: (200, {"choices": []}),
    "aborted": lambda fake: broken(fake, finish_reason="abort"),
    "an end that is none of ours": lambda fake: broken(fake, token_ids=[7, 8, 9]),
    "a log-prob too few": lambda fake: broken(fake, logprobs={"content": [{"logprob": -0.5}] * 2}),
    "a log-prob that vLLM lacks": lambda fake: broken(fake, logprobs={"content": [{"logprob": -9999.0}] * 3}),
    "no log-probs": lambda fake: broken(fake, logprobs=None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_reply_is_asked_for_again(fault: str, qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against such replies among the samples, and against a server that is given up for one of them."""
    policy = make_policy(qwen, fakes[0])
    policy.publish(1)
    expected = drawn(policy.sample(PROMPTS[:1], 1))
    fakes[0].answers[GENERATE] = [FAULTS[fault](fakes[0])] * dispatch.RETRIES
    assert drawn(policy.sample(PROMPTS[:1], 1)) == expected
    warnings: list[str] = []
    policy.fleet.warn = warnings.append
    fakes[0].answers[GENERATE] = [FAULTS[fault](fakes[0])] * (dispatch.RETRIES + 1)
    with pytest.raises(UserError, match="no vLLM server is left"):
        policy.sample(PROMPTS[:1], 1)
    assert len(warnings) == 1


def test_a_refused_request_is_an_error_at_once(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a server that counts as lost, one after the other, for what none of them can do."""
    policy = make_policy(qwen, *fakes[:2])
    for fake in fakes[:2]:
        fake.answers[GENERATE] = [(403, {"error": {"message": "Scale-out endpoints are disabled."}})]
    with pytest.raises(UserError, match="HTTP 403: Scale-out endpoints are disabled"):
        policy.sample(PROMPTS[:1], 1)
    assert [s.lost_reason for s in policy.fleet.servers] == ["", ""]


def test_prompts_of_a_lost_server_go_to_another(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against lost, doubled or swapped samples when a server dies at work; and the end of the last one."""
    expected = drawn(make_policy(qwen, fakes[2]).sample(PROMPTS, 3))
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    policy.publish(1)
    fakes[0].on_generate = lambda n: fakes[0].kill() if n == 4 else None
    assert drawn(policy.sample(PROMPTS, 3)) == expected
    assert [fakes[0].url in line for line in warnings] == [True]
    assert len(fakes[0].asked) >= 4
    fakes[1].kill()
    with pytest.raises(UserError) as caught:
        policy.sample(PROMPTS, 3)
    assert all(text in str(caught.value) for text in (fakes[0].url, fakes[1].url, "--resume", "untouched"))


def test_servers_share_the_work(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a first server that takes all that there is, since it has room for it; a prompt's samples are all on
    one server, where its keys and values are."""
    policy = make_policy(qwen, *fakes, concurrency=256)
    policy.sample([*PROMPTS, make_prompt("7 -> 7")], 4)
    assert [len(fake.asked) for fake in fakes] == [8, 8, 8]
    assert all(len({tuple(body["token_ids"]) for body in fake.asked}) == 2 for fake in fakes)


def test_a_server_that_comes_back_gets_the_weights_first(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples of the weights that a server was started with, under the version of the present ones."""
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    policy.publish(1)
    fakes[0].kill()
    fakes[0].start()
    fakes[0].events.clear()
    n_before = len(fakes[0].asked)
    assert {s.version for group in policy.sample(PROMPTS, 3) for s in group} == {1}
    assert "wrong weights" in warnings[0]
    assert len(fakes[0].asked) <= n_before + 7  # what was asked before its first answer came
    assert "default" not in {fakes[1].label}
    n_before = len(fakes[0].asked)
    policy.sample(PROMPTS, 3)
    assert len(fakes[0].asked) == n_before
    policy.publish(2)
    assert fakes[0].events == PUBLISH
    policy.sample(PROMPTS, 3)
    assert len(fakes[0].asked) > n_before


def test_another_run_on_the_same_server_is_noticed(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples of another run's weights, whose version has the same number."""
    policy = make_policy(qwen, fakes[0], warn=lambda _: None)
    policy.publish(1)
    make_policy(qwen, fakes[0]).publish(1)
    with pytest.raises(UserError, match="wrong weights"):
        policy.sample(PROMPTS, 1)


def test_a_server_that_fails_while_publishing_is_left_out(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a server that goes on with old weights because their transfer failed, and a run that ends for it."""
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    fakes[0].answers["/update_weights"] = [(500, {"error": {"message": "out of memory"}})]
    policy.publish(1)
    policy.sample(PROMPTS, 2)
    assert fakes[0].asked == []
    assert "out of memory" in warnings[0]
    fakes[1].answers["/pause"] = [(500, {"error": {"message": "dead"}})]
    fakes[0].answers["/health"] = [(503, None)]
    with pytest.raises(UserError, match="no vLLM server is left"):
        policy.publish(2)


def test_an_update_that_somebody_left_open_is_closed(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a server that no later run can use, because a trainer was killed in the middle of an update."""
    fakes[0].answers["/start_weight_update"] = [(500, {"error": {"message": "already active"}})]
    fakes[0].answers["/finish_weight_update"] = [(200, {})]
    policy = make_policy(qwen, fakes[0])
    policy.publish(1)
    begin = fakes[0].events.index("/start_weight_update")
    assert fakes[0].events[begin : begin + 3] == [
        "/start_weight_update",
        "/finish_weight_update",
        "/start_weight_update",
    ]
    assert len(policy.sample(PROMPTS, 1)) == 5


def test_a_cache_that_cannot_be_cleared_yet_is_cleared_later(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against taking "success": false for success."""
    fakes[0].answers["/reset_prefix_cache"] = [(200, {"success": False})] * 3
    policy = make_policy(qwen, fakes[0])
    policy.publish(1)
    assert fakes[0].events.count("/reset_prefix_cache") == 4
    fakes[0].answers["/reset_prefix_cache"] = [(200, {"success": False})] * server.RESET_ATTEMPTS
    policy.fleet.warn = lambda _: None
    with pytest.raises(UserError, match="cache cannot be reset"):
        policy.publish(2)
    assert fakes[0].paused


def test_weights_that_did_not_arrive_are_noticed(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against going on after a transfer that the server took without using it."""
    fakes[0].answers["/finish_weight_update"] = [(200, {})]
    with pytest.raises(UserError, match="it has the weights 'default'"):
        make_policy(qwen, fakes[0], warn=lambda _: None).publish(1)


def test_colocated_servers_sleep_between_phases(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against memory that the trainer never gets, and samples asked of a sleeping server; servers of their own,
    and those that cannot sleep, stay awake."""
    for n, (colocated, sleeps) in enumerate([(True, True), (False, True), (True, False)]):
        fakes[n].model["enable_sleep_mode"] = sleeps
        policy = make_policy(qwen, fakes[n])
        policy.fleet.servers[0].colocated = colocated
        policy.publish(1)
        policy.sample(PROMPTS, 1)
        fakes[n].events.clear()
        policy.release_memory()
        policy.release_memory()
        policy.sample(PROMPTS, 1)
        policy.release_memory()
        policy.publish(2)
        wanted = ["/sleep", "/wake_up", "/sleep", "/wake_up"] if n == 0 else []
        assert [path for path in fakes[n].events if path in ("/sleep", "/wake_up")] == wanted
        assert n > 0 or fakes[n].events.index("/pause") > fakes[n].events.index("/wake_up")


def test_what_does_not_fit_into_the_server_is_overlong(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against replies that vLLM cuts at its own limit, without a word, before the recipe's cap."""
    lengths = [len(qwen.chat.encode(p.messages)) for p in PROMPTS]
    fakes[1].model["max_model_len"] = 11 + min(lengths)
    policy = make_policy(qwen, *fakes[:2])
    groups = policy.sample(PROMPTS, 2)
    assert [len(group) for group in groups] == [2 if n == min(lengths) else 0 for n in lengths]
    assert policy.n_overlong == sum(n > min(lengths) for n in lengths)
    with pytest.raises(UserError, match="leaves no room"):
        policy.sample(PROMPTS, 1, Sampling(max_tokens=100))


def test_groups_arrive_while_others_are_sampled(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against groups that are held back until the last reply is there, when none can be graded meanwhile."""
    hold = threading.Event()
    policy = make_policy(qwen, fakes[0], concurrency=2)
    policy.publish(1)
    arrived: list[tuple[str, int]] = []

    fakes[0].on_generate = lambda n: None if n < 9 else void(hold.wait(20))
    for _, group in policy.groups(PROMPTS, 2):
        arrived.append((group[0].prompt.problem.id, len(fakes[0].asked)))
        hold.set()
    assert {name for name, _ in arrived} == set(QUESTIONS)
    assert arrived[0][1] < 10


def void(_: object) -> None:
    """For a lambda that must return nothing."""


def test_an_evaluation_has_counts_of_its_own(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against evaluations that count over-long prompts for the training under way."""
    policy = make_policy(qwen, fakes[0])
    policy.publish(3)
    other = policy.with_sampling(Sampling(0.0, max_tokens=120))
    assert other.sample(PROMPTS[:1], 1)[0] == () or other.n_overlong == 0
    (group,) = other.sample([make_prompt("2")], 1, Sampling(0.0, max_tokens=7))
    assert group[0].version == 3
    assert policy.n_overlong == 0
    assert fakes[0].events == PUBLISH


def test_no_prompts_are_legal(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a crash when every draft was over-long."""
    policy = make_policy(qwen, fakes[0])
    assert policy.sample([], 3) == []
    assert policy.sample(PROMPTS[:2], 0) == [(), ()]


def test_servers_must_agree_on_how_they_take_weights(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against weights that reach only half of the servers; and ways that nobody here can send."""
    fakes[1].backend = "nccl"
    with pytest.raises(UserError, match="use different weight transfer backends: nccl, rethink-files"):
        make_policy(qwen, *fakes[:2]).fleet.check_servers()
    fakes[0].backend = "sparse_nccl"
    with pytest.raises(UserError, match="'sparse_nccl' is not supported"):
        make_policy(qwen, fakes[0]).publish(1)


def test_workers_of_all_servers_have_ranks_of_their_own(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against two servers that take the same places in one NCCL group; each has two workers."""
    policy = make_policy(qwen, *fakes)
    policy.fleet.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert [fake.init_info for fake in fakes] == [{"rank_offset": n, "world_size": 7} for n in (1, 3, 5)]


def test_leaving_early_ends_the_work() -> None:
    """Guards against requests that go on after an error in the grader; and errors of the work that nobody hears of."""
    ended = threading.Event()

    async def forever(tell: Callable[[int], None]) -> None:
        try:
            tell(1)
            await asyncio.sleep(600)
        finally:
            ended.set()

    for item in iterate_in_thread(forever):
        assert item == 1
        break
    assert ended.wait(20)

    async def failing(tell: Callable[[int], None]) -> None:
        tell(2)
        raise UserError("no more")

    heard: list[int] = []
    with pytest.raises(UserError, match="no more"):
        heard.extend(iterate_in_thread(failing))
